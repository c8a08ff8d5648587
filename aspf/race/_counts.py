"""How the schedules of an exploration ended: numbers, and how to repeat what matters."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from aspf.race._raised import in_one_line
from aspf.race._record import without_addresses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.race._engine import Schedule
    from aspf.race._minimise import Kind

__all__ = ("Counts", "Ending", "kind_of")


@final
@dataclass(slots=True)
class Ending:
    """One way in which schedules ended."""

    #: How many did.
    count: int
    #: The number of the first of them, and its actions.
    first: int
    actions: Sequence[int]
    #: The changes of task, the steps and the actions of the shortest.
    shortest: tuple[int, int, Sequence[int]]


@final
@dataclass(slots=True)
class Counts:
    """The runs of an exploration, or of a part of one."""

    #: Complete runs, runs that were given up, complete ones in which something was cancelled.
    complete: int = 0
    pruned: int = 0
    cancellations: int = 0
    #: By kind (``"passes"`` or how it failed) and text, in the order in which they were met.
    endings: dict[Kind, Ending] = field(default_factory=dict)
    #: In how many complete runs each label of `sometimes` was reached.
    reached: dict[str, int] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """All runs."""
        return self.complete + self.pruned

    @property
    def failures(self) -> list[Kind]:
        """The ways of failing, in the order in which they were met."""
        return [kind for kind in self.endings if kind[0] != "passes"]

    def add(self, kind: Kind, actions: Sequence[int], *, cancelled: bool) -> None:
        """Count one complete run."""
        self.complete += 1
        self.cancellations += cancelled
        known = self.endings.get(kind)
        seen = sum(map(operator.ne, actions, actions[1:])), len(actions), actions
        if known is None:
            self.endings[kind] = Ending(1, self.complete, actions, seen)
        else:
            known.count += 1
            if seen < known.shortest:  # noqa: PLR1730 - asked after each schedule, and quicker
                known.shortest = seen

    def merge(self, later: Counts) -> None:
        """Add the runs of the part that comes next."""
        for kind, ending in later.endings.items():
            known = self.endings.get(kind)
            if known is None:
                first = self.complete + ending.first
                self.endings[kind] = Ending(ending.count, first, ending.actions, ending.shortest)
            else:
                known.count += ending.count
                known.shortest = min(known.shortest, ending.shortest)
        for label, count in later.reached.items():
            self.reached[label] = self.reached.get(label, 0) + count
        self.complete += later.complete
        self.pruned += later.pruned
        self.cancellations += later.cancellations


def kind_of(schedule: Schedule) -> Kind:
    """Say how a schedule ended: two that agree in this are taken for the same."""
    if schedule.verdict is None:
        return "passes", without_addresses(repr(schedule.result))
    return schedule.verdict, _summary(schedule)


def _summary(schedule: Schedule) -> str:
    if schedule.verdict == "deadlock":
        stuck = [s for s in schedule.sleepers if not s.awaits_children] or schedule.sleepers
        what = "; ".join(f"{sleeper.name} waits for {sleeper.what}" for sleeper in stuck)
        return f"deadlock: {what}"
    if schedule.is_calling and schedule.verdict == "livelock?":
        return (
            "nobody can run, and the calls by TrioToken.run_sync_soon go on and on: "
            "perhaps a livelock"
        )
    if schedule.verdict == "livelock?":
        return f"no end within {len(schedule.actions)} steps: perhaps a livelock"
    if schedule.verdict == "leak":
        return "; ".join(schedule.unrest)
    if schedule.verdict == "task left":
        left = "; ".join(f"{task.name} {task.what}" for task in schedule.left)
        return f"task left when the main task has ended: {left}"
    if schedule.verdict == "pruned":
        return "the cancellation is delivered elsewhere"
    assert schedule.error is not None
    return in_one_line(schedule.error)
