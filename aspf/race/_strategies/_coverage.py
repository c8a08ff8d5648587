"""What a search that draws schedules has covered, and what it may have missed.

Two bounds, each with a condition. PCT's holds for bugs of one depth and counts the runs that PCT
made for that depth. Good's and Turing's estimate (I. J. Good, "The Population Frequencies of
Species and the Estimation of Population Parameters", Biometrika 40, 1953) is of the probability
that the next run shows a trace that none has shown: the share of the traces that were seen once.
It says nothing about traces that this way of drawing never shows.

A trace is a class of schedules that only differ in the order of steps that don't conflict. Here it
is known by a number: each step has one, made of its task's step before, of the accesses that it
comes after, and of who woke its task; the trace's is their sum, which has no order. Where the
tasks may share anything, nothing commutes and every schedule is a trace of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from aspf.race._actions import is_time, task_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aspf.race._engine import Schedule
    from aspf.race._footprint import Footprint

__all__ = ("Coverage", "Traces", "good_turing", "pct_miss")

MASK = (1 << 64) - 1


def pct_miss(tasks: int, choices: int, depth: int, runs: int) -> float:
    """Bound the probability that PCT has missed a bug: (1 - 1/(n k^(d-1)))^N.

    Args:
        tasks: How many tasks there are at most (n).
        choices: How many choices there are in a run at most (k).
        depth: How many ordering constraints the bug needs (d), from 1.
        runs: How many runs PCT made for that depth or a greater one (N).

    Examples:
        >>> pct_miss(2, 10, 2, 0)
        1.0
        >>> round(pct_miss(2, 10, 2, 60), 3)
        0.046
    """
    return float((1 - 1 / (tasks * choices ** (depth - 1))) ** runs)


def good_turing(seen_once: int, runs: int) -> float:
    """Estimate the probability that the next run shows something new.

    Args:
        seen_once: How many things were seen in one run only.
        runs: How many runs there were.

    Examples:
        >>> good_turing(3, 60)
        0.05
        >>> good_turing(0, 0)
        1.0
    """
    return seen_once / runs if runs else 1.0


@final
@dataclass(frozen=True, slots=True)
class Coverage:
    """What runs that were drawn have covered."""

    #: How many runs were drawn; those of an exhaustive part are not among them.
    runs: int
    #: How many traces they showed: classes of schedules that differ in nothing that matters.
    traces: int
    #: How many of those were shown by one run only.
    seen_once: int
    #: The most tasks in a run, the main task included.
    tasks: int
    #: The most choices in a run: steps at which more than one task could run.
    choices: int
    #: How many runs PCT's theorem is about, by depth: without a cancellation, and not before PCT
    #: knew the number of choices.
    pct_runs: Mapping[int, int]

    @property
    def unseen(self) -> float:
        """Good's and Turing's estimate that the next run, drawn likewise, shows a new trace."""
        return good_turing(self.seen_once, self.runs)

    def miss(self, depth: int) -> float:
        """Bound the probability that a bug of this depth was missed, by PCT's theorem.

        It holds if no run of the program has more tasks or choices than those that were seen.
        It is 1 if PCT made no run for that depth.

        Args:
            depth: How many ordering constraints the bug needs; 2 for most, 1 for some.

        Raises:
            ValueError: *depth* is less than 1.
        """
        if depth < 1:
            raise ValueError(f"depth={depth!r}: expected at least 1")
        missed = 1.0
        # A search for a depth also finds what needs less, as seldom as what needs as much.
        for sought, runs in self.pct_runs.items():
            if sought >= depth:
                missed *= pct_miss(self.tasks, self.choices, sought, runs)
        return missed


@final
class Traces:
    """Tells the traces of the runs apart, and counts them.

    Args:
        only_cells: The tasks share nothing but cells; else every schedule is a trace.
    """

    def __init__(self, *, only_cells: bool) -> None:
        #: How many runs there were, and of those how many showed each trace.
        self.runs = 0
        self.counts: Counter[int] = Counter()
        self._only_cells = only_cells
        self._looked_at = 0
        self._sum = 0
        self._barrier = 0
        # By task: its last step, and what it comes after beside that; what its children that
        # have ended leave it, which it comes after as soon as the last of them has woken it.
        self._last: dict[int, int] = {}
        self._after: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        # By place: the last write, and the reads since, summed up.
        self._written: dict[int, int] = {}
        self._read: dict[int, int] = {}

    def begin(self) -> None:
        """A run begins; of no use where every schedule is a trace."""
        self._looked_at = self._sum = self._barrier = 0
        for of_run in (self._last, self._after, self._ended, self._written, self._read):
            of_run.clear()

    def look_back(self, schedule: Schedule) -> None:
        """Number the step that has just ended; only where the tasks share nothing but cells."""
        if self._looked_at == len(schedule.actions):
            return
        self._looked_at = len(schedule.actions)
        schedule.note_cancellations()
        action = schedule.actions[-1]
        if is_time(action):
            self._barrier = self._sum = hash((action, self._sum))
        else:
            self._enter(action, schedule)

    def finish(self, schedule: Schedule) -> bool:
        """Count the trace of a run that has ended, and say whether it is new."""
        if self._only_cells:
            self.look_back(schedule)
        if schedule.verdict == "pruned":
            return True
        trace = self._sum if self._only_cells else hash(tuple(schedule.actions))
        count = self.counts[trace] = self.counts[trace] + 1
        self.runs += 1
        return count == 1

    def _enter(self, action: int, schedule: Schedule) -> None:
        task = task_of(action)
        footprint = schedule.footprint()
        if footprint.unknown:
            self._barrier = self._sum = hash((action, self._sum))
            self._last.clear()
        before = self._last.get(task, self._barrier), self._after.get(task, 0)
        step = hash((action, before, self._access(footprint)))
        self._note_access(footprint, step)
        self._sum = (self._sum + step) & MASK
        self._last[task] = step
        parent = schedule.parent_of_ended(task)
        if parent is not None:
            self._add(self._ended, parent, step)
            if parent in footprint.touched:
                self._add(self._after, parent, self._ended.pop(parent))
        for other in (footprint.touched | footprint.started) - {parent}:
            self._add(self._after, other, step)

    def _access(self, footprint: Footprint) -> int:
        """Number all accesses that these ones come after."""
        written, read = self._written, self._read
        # What comes after nothing adds nothing: of tasks that end, only the last wakes its parent.
        before = sum(hash((written[place], 0)) for place in footprint.reads if place in written)
        before += sum(
            hash((written.get(place, 0), read.get(place, 0)))
            for place in footprint.writes
            if place in written or place in read
        )
        return before & MASK

    def _note_access(self, footprint: Footprint, step: int) -> None:
        for place in footprint.reads - footprint.writes:
            self._add(self._read, place, step)
        for place in footprint.writes:
            self._written[place] = step
            self._read.pop(place, None)

    def _add(self, sums: dict[int, int], key: int, step: int) -> None:
        sums[key] = (sums.get(key, 0) + step) & MASK
