"""Runs that are drawn, together with what is learned and counted on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from aspf.race._actions import is_cancellation
from aspf.race._strategies._coverage import Traces
from aspf.race._strategies._pct import PCT
from aspf.race._strategies._profile import Known, Profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from aspf.race._engine import Schedule
    from aspf.race._strategies._drawn import Drawn
    from aspf.race._strategies._portfolio import Rounds

__all__ = ("Draws", "Learned", "Observed")


@final
@dataclass(frozen=True, slots=True)
class Draws:
    """Some runs of a search that draws: their numbers, and what they are drawn with."""

    first: int
    end: int
    known: Known = field(default_factory=Known)


@final
@dataclass(slots=True)
class Learned:
    """What some runs have shown, and covered. Their order doesn't matter."""

    known: Known = field(default_factory=Known)
    #: How many there were, and of those how many showed each trace.
    runs: int = 0
    traces: Counter[int] = field(default_factory=Counter)
    #: How many PCT's theorem is about, by depth.
    pct_runs: Counter[int] = field(default_factory=Counter)
    #: Whether there ever was a choice.
    has_choices: bool = False

    def merge(self, other: Learned) -> None:
        """Add what other runs have shown."""
        self.known.merge(other.known)
        self.runs += other.runs
        self.traces.update(other.traces)
        self.pct_runs.update(other.pct_runs)
        self.has_choices |= other.has_choices


@final
class Observed:
    """A part of a search that draws.

    Args:
        part: Which runs.
        drawing: Makes the function that says who draws the run of a number.
        only_cells: The tasks share nothing but cells.
    """

    def __init__(
        self,
        part: Draws,
        drawing: Callable[[Profile], Callable[[int], Drawn | Rounds]],
        *,
        only_cells: bool,
    ) -> None:
        self._next = part.first
        self._end = part.end
        self._profile = Profile(part.known)
        self._only_cells = only_cells
        self._traces = Traces(only_cells=only_cells)
        self._pct_runs: Counter[int] = Counter()
        self._has_choices = False
        self._who = drawing(self._profile)
        #: Who draws the present run.
        self.member = self._who(part.first)

    @property
    def learned(self) -> Learned:
        """What the runs have shown so far."""
        return Learned(
            self._profile.learned,
            self._traces.runs,
            self._traces.counts,
            self._pct_runs,
            self._has_choices,
        )

    @property
    def follows_steps(self) -> bool:
        """Whether traces have to be told apart; strategies look back when they have a choice."""
        return self._only_cells

    def begin(self) -> bool:
        """Make ready for the next run; False if there is none left."""
        if self._next == self._end:
            return False
        self.member = self._who(self._next)
        self._profile.begin()
        if self._only_cells:
            self._traces.begin()
        self.member.begin(self._next)
        self._next += 1
        return True

    def pick(self, actions: list[int], schedule: Schedule) -> int:
        """Look at what has happened, and let the strategy choose."""
        if self._only_cells:
            self._traces.look_back(schedule)
            if len(actions) == 1:
                return actions[0]
        self._has_choices = True
        # The steps come first; where the last action is one, all are.
        if actions[-1] < 0 and is_cancellation(actions[-1]):
            return self._cancel_or_step(actions, schedule)
        action = self.member.choose(actions, schedule)
        self._profile.choices_so_far += 1
        return action

    def _cancel_or_step(self, actions: list[int], schedule: Schedule) -> int:
        profile = self._profile
        profile.offers_so_far += 1
        steps = [action for action in actions if not is_cancellation(action)]
        chosen = self.member.cancellation(actions[len(steps) :])
        if len(steps) == 1:
            return steps[0] if chosen is None else chosen
        if chosen is None:
            chosen = self.member.choose(steps, schedule)
        profile.choices_so_far += 1
        return chosen

    def finish(self, schedule: Schedule) -> None:
        """Learn from a schedule that has ended."""
        is_new = self._traces.finish(schedule)
        if isinstance(self.member, PCT):
            self._count_pct(self.member, schedule)
        if is_new or self._only_cells:  # the same schedule again has nothing to teach
            self._profile.finish(schedule)

    def _count_pct(self, member: PCT, schedule: Schedule) -> None:
        """Count the run that PCT made if the theorem is about such a run."""
        if (
            member.holds
            and member.choices >= self._profile.choices_so_far
            and not schedule.may_be_disturbed
            and not schedule.was_cancelled
        ):
            self._pct_runs[member.depth] += 1
