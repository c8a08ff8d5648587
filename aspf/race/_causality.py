"""Which earlier choice might have gone otherwise: the races of the schedule that is running.

Sleep sets keep a search from taking what it has taken. They don't tell it that a branch is
hopeless: a run may go on for long before everything in it turns out to be asleep. Dynamic
partial-order reduction looks at it from the other side, here with the *source sets* of Abdulla,
Aronis, Jonsson and Sagonas ("Optimal Dynamic Partial Order Reduction", POPL 2014). A node begins
with one branch. Another is opened only when a later step of another task is seen to conflict with
the step that was taken there, with no chain of conflicts that orders the two anyway: they *race*,
and what if the later one had come first? To get there from the node, first comes what happened in
between without depending on the earlier step. Any task that could begin that will do; if no
branch of such a task is open, one is opened.

Four things go beyond the paper, whose tasks never block each other, and whose steps are one access
that is fixed before:

- A task that waits for a cell's value (a lock, say) is raced with every earlier step that it
  conflicts with, and not only with the last, which is often the one that let it go on: had it
  been there before the lock was first taken? What waits at a deadlock has never run, and is raced
  as if it had. No branch is opened where the task was waiting already and could not go: whoever
  else changes that cell first conflicts with the step himself.
- A step on primitives may touch other things if an earlier one is taken away: it takes the lock only
  if the scope wasn't cancelled. If all who could lead to it sleep at the node, because their branches
  are elsewhere, nobody would see there who else has to come first; so all branches are opened.
- A step that cancels other tasks (an exception that leaves a task does) has effects on steps far
  back: all branches are opened everywhere on the path.
- So they are at a step that may have touched anything; when a run is cut short, since then the
  races of its rest are unseen; and as soon as a cancellation may come, or a deadline pass while
  tasks can run.

"Ordered" is kept in vector clocks: for each step, the last step of each task that happened before
it or is it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aspf.race._actions import is_time, task_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.race._engine import Schedule
    from aspf.race._footprint import Footprint

__all__ = ("Causality", "Step", "open_all")

# Invariant: it doesn't change once it has been put anywhere; several may share it.
Clock = dict[int, int]


@final
class Step:
    """One node of the path, and the action that was taken there."""

    __slots__ = ("actions", "asleep", "chosen", "clock", "footprint", "opened", "slept")

    def __init__(
        self,
        actions: list[int],
        asleep: dict[int, Footprint],
        chosen: int,
        opened: set[int] | None,
    ) -> None:
        self.actions = actions
        # Invariant: holds what slept when the node was reached, and every action whose branch
        # has been explored, each with what it touched.
        self.asleep = asleep
        # What slept when the node was reached: its branch is elsewhere, and is never taken here.
        self.slept = frozenset(asleep)
        self.chosen = chosen
        # What `chosen` touched; None until it has been taken.
        self.footprint: Footprint | None = None
        self.clock: Clock = {}
        # The actions to take from here, in time; None means all of them.
        self.opened = opened

    @property
    def task(self) -> int:
        """The task that was run or cancelled."""
        return task_of(self.chosen)

    @property
    def is_announced(self) -> bool:
        """Whether all that the action accessed was fixed before it was taken."""
        return self.footprint is None or self.footprint.is_announced

    def unexplored(self) -> int | None:
        """An opened branch that was not taken yet and wouldn't repeat another."""
        for action in self.actions:
            if action not in self.asleep and (self.opened is None or action in self.opened):
                return action
        return None


@final
class Causality:
    """The happens-before order of one schedule, and the races found by it."""

    def __init__(self) -> None:
        self._clocks: dict[int, Clock] = {}
        self._ended_children: dict[int, Clock] = {}
        # Of each place: the clocks of those who wrote it, and who accessed it, joined.
        self._writes: dict[int, Clock] = {}
        self._accesses: dict[int, Clock] = {}
        # The steps that accessed a place.
        self._steps_at: dict[int, list[int]] = {}

    def advance(self, path: Sequence[Step], at: int, schedule: Schedule, *, is_new: bool) -> None:
        """Take note of the step that was taken at ``path[at]``; if it is new, of its races."""
        step = path[at]
        footprint = step.footprint
        assert footprint is not None
        if is_time(step.chosen):
            if is_new:
                self.race_the_waiting(path[:at], schedule)
            self._clocks = dict.fromkeys(self._clocks, _join(*self._clocks.values()))
            return
        if footprint.unknown:
            if is_new:
                open_all(path[: at + 1])
            everything = _join(*self._clocks.values())
            everything[step.task] = at
            self._clocks = dict.fromkeys(self._clocks, everything)
        before = self._clocks.get(step.task, {})
        if is_new:  # else it is as it was in the run before
            step.clock = self._clock_of(step.task, at, footprint)
            self._race(path[: at + 1], before, footprint)
            if footprint.cancelled:
                open_all(path)
        self._enter(at, step.clock, footprint)
        self._order_tasks(step.task, step.clock, footprint, schedule)

    def race_the_waiting(self, path: Sequence[Step], schedule: Schedule) -> None:
        """Race what waits when no step is possible, as if it had come to run."""
        for strand in schedule.strands:
            announced = schedule.announced(strand.number)
            if announced.waits:
                step = Step([], {}, strand.number, None)
                step.clock = self._clock_of(strand.number, len(path), announced)
                self._race([*path, step], self._clocks.get(strand.number, {}), announced)

    def _clock_of(self, task: int, at: int, footprint: Footprint) -> Clock:
        """All that is ordered before a step, and the step."""
        before = [self._clocks.get(task, {})]
        before += [self._writes[place] for place in footprint.reads if place in self._writes]
        before += [self._accesses[place] for place in footprint.writes if place in self._accesses]
        clock = _join(*before)
        clock[task] = at
        return clock

    def _enter(self, at: int, clock: Clock, footprint: Footprint) -> None:
        for place in footprint.writes:
            # It comes after all that there was.
            self._accesses[place] = self._writes[place] = clock
            self._steps_at.setdefault(place, []).append(at)
        for place in footprint.reads - footprint.writes:
            _join_into(self._accesses, place, clock)
            self._steps_at.setdefault(place, []).append(at)

    def _order_tasks(
        self, task: int, clock: Clock, footprint: Footprint, schedule: Schedule
    ) -> None:
        self._clocks[task] = clock
        for other in footprint.touched | footprint.started:
            _join_into(self._clocks, other, clock)
        parent = schedule.parent_of_ended(task)
        if parent is None:
            return
        # The parent goes on after all of its children, but only the last one wakes it.
        _join_into(self._ended_children, parent, clock)
        if parent in footprint.touched and not footprint.cancelled:
            _join_into(self._clocks, parent, self._ended_children.pop(parent))

    def _race(self, path: Sequence[Step], before: Clock, footprint: Footprint) -> None:
        """Find the steps that the last one of *path* races with.

        Args:
            path: The steps up to this one.
            before: The clock of the same task's step before.
            footprint: What this one touched.
        """
        task = path[-1].task
        steps = {at for place in footprint.places for at in self._steps_at.get(place, ())}
        between: Clock = {}
        for at in sorted(steps, reverse=True):
            step = path[at]
            assert step.footprint is not None
            if before.get(step.task, -1) >= at or not step.footprint.conflicts(footprint):
                continue
            if between.get(step.task, -1) >= at and not footprint.waits:
                continue
            between = _join(between, step.clock)
            had_to_wait = footprint.waits and before.get(task, -1) < at and task not in step.actions
            if not had_to_wait:
                _open_reverse(path, at)


def _open_reverse(path: Sequence[Step], at: int) -> None:
    """Open a branch at *at* that leads to the last step of *path* before the one at *at*."""
    step = path[at]
    if step.opened is None:
        return
    way = [
        (i, path[i]) for i in range(at + 1, len(path) - 1) if path[i].clock.get(step.task, -1) < at
    ]
    way.append((len(path) - 1, path[-1]))
    firsts = [
        first.task
        for n, (_, first) in enumerate(way)
        if all(first.clock.get(earlier.task, -1) < i for i, earlier in way[:n])
    ]
    if not all(first.is_announced for _, first in way):
        # What they touch may be other things without the step at *at*, so that somebody else has
        # to come before them there. Who is seen only in a branch that is taken here.
        firsts = [task for task in firsts if task not in step.slept]
        if not firsts:
            step.opened = None
            return
    if not step.opened.isdisjoint(firsts):
        return
    able = [task for task in firsts if task in step.actions]
    if able:
        step.opened.add(able[0])
    else:  # pragma: no cover - who begins the way could run; should that be wrong, all are opened
        step.opened = None


def open_all(path: Sequence[Step]) -> None:
    """Open every branch of every node."""
    for step in path:
        step.opened = None


def _join(*clocks: Clock) -> Clock:
    joined = clocks[0].copy() if clocks else {}
    for clock in clocks[1:]:
        for task, at in clock.items():
            if joined.get(task, -1) < at:
                joined[task] = at
    return joined


def _join_into(clocks: dict[int, Clock], key: int, clock: Clock) -> None:
    clocks[key] = _join(clocks[key], clock) if key in clocks else clock
