"""POS: a priority for each pending operation, drawn anew when it meets a conflict.

Yuan, Yang and Gu, "Partial Order Aware Concurrency Sampling", CAV 2018. Of the pending operations
the one with the highest priority runs. Those that conflict with it are drawn anew, and so is the
next operation of its task. So an operation isn't late for long only because it was late once, and
each partial order has a chance that doesn't shrink with the number of its linear orders.

What a task will do is known if it has announced an access. A step that announced none conflicts
with nothing where the tasks share nothing but cells, and with everything where they may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aspf.race._strategies._drawn import Drawn

if TYPE_CHECKING:
    from aspf.race._engine import Schedule
    from aspf.race._footprint import Footprint
    from aspf.race._strategies._profile import Profile

__all__ = ("POS",)


@final
class POS(Drawn):
    """Run the operation with the highest priority.

    Args:
        seed: The same seed draws the same schedules.
        profile: What is known of the program's runs.
        only_cells: The tasks share nothing but cells.
    """

    def __init__(self, seed: int, profile: Profile, *, only_cells: bool) -> None:
        super().__init__(seed, profile)
        self._only_cells = only_cells
        self._priorities: dict[int, float] = {}

    def _start(self) -> None:
        self._priorities = {}

    def choose(self, steps: list[int], schedule: Schedule) -> int:
        """Choose one of *steps*."""
        priorities = self._priorities
        # Whoever has run since then has another operation now.
        for task in self._taken(schedule):
            priorities.pop(task, None)
        for task in steps:
            if task not in priorities:
                priorities[task] = self._draw()
        chosen = max(steps, key=priorities.__getitem__)
        operation = _announced(chosen, schedule)
        for task in steps:
            if task != chosen and self._conflict(operation, _announced(task, schedule)):
                priorities[task] = self._draw()
        return chosen

    def _conflict(self, a: Footprint | None, b: Footprint | None) -> bool:
        # Nobody knows what the clock will do.
        if a is None or b is None:
            return True
        return a.conflicts(b) or (not self._only_cells and (_is_unknown(a) or _is_unknown(b)))


def _announced(step: int, schedule: Schedule) -> Footprint | None:
    return schedule.announced(step) if step >= 0 else None


def _is_unknown(operation: Footprint) -> bool:
    return not (operation.reads or operation.writes)
