"""Which schedule comes next: at random, all of them, or one that a token names.

**Why sleep sets are sound here.** Exhaustive search walks the tree of all schedules depth first,
by running the program again from its start for each. Most branches only differ in the order of
steps that have nothing to do with each other. Sleep sets (Godefroid, *Partial-Order Methods for
the Verification of Concurrent Systems*, LNCS 1032, 1996) leave such repetitions out: after the
branch that begins with action *a* has been explored, *a* is asleep in its sister branches, and
sleeps on from node to node until something runs that conflicts with it. An action that is asleep
is not taken; a run in which all that may happen is asleep is given up (*pruned*). Whatever *a*
would lead to from there has been seen, with *a* taken earlier. All reachable states are still
visited, and no two complete runs are permutations of each other by exchanging neighbours that do
not conflict: one run per Mazurkiewicz trace. The tests count them.

Sleep sets alone still walk far into branches before all is asleep. `_causality.py` keeps the
hopeless ones shut; what it opens is a question of speed only as long as it opens enough, and the
tests compare both with the plain enumeration.

That stands or falls with knowing what an action touches.

- *A step may access a cell*, which it announces before, *and any number of primitives*, which is
  seen when it happens (`_primitives.py`); the rest of it is local code up to the next await. What
  it accesses depends on nothing but what it reads. So it does not change while the task waits for
  its turn, unless something runs that conflicts: an action that sleeps is the same action when it
  wakes.
- *Two steps conflict* if they access one place and one of them writes it, or if one frees the
  lifetime in which the other's cell lives. A wait for a cell's value reads it, and is enabled
  only while its condition holds: only a writer of that cell can enable or disable it.
- *What a step does through trio is seen when it happens.* Waking a task or cancelling it conflicts
  with everything that task does, and with whoever else wakes or cancels it. Hence an exception that leaves a task, and so cancels its
  siblings, conflicts with the siblings' steps.
- *The clock* jumps when no step is possible, so that every step, or cancellation, prevents it, and
  who reads it sees that it did. So it conflicts with everything. *Cancellations* exclude each other (there is one in a run). They touch
  all tasks in the cancelled scope, asleep, runnable or shielded. Whoever starts or wakes a task
  may change who that is: so they conflict with every step that touches another task.
- *The rest of a step* is local code, provided that the tasks share nothing but cells and
  primitives. That is what ``shared="cells"`` promises. Without the promise a step may touch any
  variable: then everything conflicts with everything, no action ever sleeps, and the search is the
  plain enumeration of all schedules. It is slower, and needs no promise.
- *Places and tasks are the same in all branches of a node.* A cell has its number when the node is
  reached. A primitive's number is made of who made it and how much he had made before; so it is
  the same wherever it is made, though somebody else may have come first. A task that a step starts
  is no part of what the step conflicts with, for its number may be another's in the next branch.

What an action touches is taken from what it did, when it was last taken at this node. Nothing
that has run since then conflicted with it, so it would touch the same again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, final

from aspf._errors import NotDeterministic, ReplayDiverged
from aspf.race._actions import TIME, is_cancellation, is_time, scope_of, task_of
from aspf.race._causality import Causality, Step, open_all
from aspf.race._footprint import NOTHING, Footprint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aspf.race._engine import Schedule

__all__ = ("Exhaustive", "Repeat", "Search", "Tree")


class Search(Protocol):
    """Chooses the schedules of one part of an exploration; see ``_strategies/_plans.py``."""

    @property
    def follows_steps(self) -> bool:
        """See `Chooser.follows_steps`."""

    def begin(self) -> bool:
        """Make ready for the next schedule; False if there is none left in the part."""

    def pick(self, actions: list[int], schedule: Schedule) -> int | None:
        """Choose one of *actions*; ``None`` gives the schedule up as redundant."""

    def finish(self, schedule: Schedule) -> None:
        """Take leave of a schedule that has ended, before it is torn down."""


@final
@dataclass(frozen=True, slots=True)
class Tree:
    """A node of the tree of all schedules, and all that is below it.

    Attributes:
        prefix: The actions that lead to it.
        asleep: What is not to be taken at the node, each with what it touches.
    """

    prefix: tuple[int, ...] = ()
    asleep: Mapping[int, Footprint] = field(default_factory=dict)


@final
class Exhaustive:
    """Choose every schedule once, depth first, lowest task number first.

    Args:
        reduce: Leave out what only repeats. Needs the promise that the tasks share nothing but
            cells and primitives.
        tree: Of which part of the tree.
        runs: After how many runs to stop, and to leave the rest as parts of their own, in the
            order in which they would have come. Of the nodes that it leaves all branches will be
            explored, for whoever explores the others can't open one. That is sound: what is open
            is a question of speed only.
    """

    follows_steps = True

    def __init__(self, *, reduce: bool, tree: Tree | None = None, runs: int | None = None) -> None:
        tree = Tree() if tree is None else tree
        #: Whether every schedule of the part has been chosen.
        self.exhausted = False
        #: The parts that it left.
        self.left: list[Tree] = []
        self._reduce = reduce
        self._tree = tree
        self._runs_left = runs
        # Invariant: the first steps follow the tree's prefix, and are never left for others.
        self._path: list[Step] = []
        self._begun = False
        # Of the schedule that is running: how much of the path it has followed, how much of that
        # it has looked back on, and from where on it is new.
        self._depth = 0
        self._looked_at = 0
        self._new_from = 0
        self._causality = Causality()

    def begin(self) -> bool:
        """Go back to the deepest node that has an unexplored branch, and turn into it."""
        self._depth = self._looked_at = 0
        self._causality = Causality()
        if not self._begun:
            self._begun = True
            return True
        root = len(self._tree.prefix)
        if self._runs_left is not None:
            self._runs_left -= 1
            if self._runs_left == 0:
                self._leave(root)
                return False
        while len(self._path) > root:
            step = self._path[-1]
            step.asleep[step.chosen] = step.footprint or NOTHING
            action = step.unexplored()
            if action is not None:
                step.chosen, step.footprint = action, None
                self._new_from = len(self._path) - 1
                return True
            self._path.pop()
        self.exhausted = True
        return False

    def _leave(self, root: int) -> None:
        open_all(self._path)
        for depth in range(len(self._path) - 1, root - 1, -1):
            step = self._path[depth]
            step.asleep[step.chosen] = step.footprint or NOTHING
            if step.unexplored() is not None:
                prefix = tuple(before.chosen for before in self._path[:depth])
                self.left.append(Tree(prefix, step.asleep))
        self.exhausted = not self.left

    def pick(self, actions: list[int], schedule: Schedule) -> int | None:
        """Follow the path; at its end take the first action that isn't asleep."""
        self._look_back(schedule)
        depth = self._depth
        if depth < len(self._path):
            step = self._path[depth]
            if step.actions != actions:
                raise _misbehaved(depth, step.actions, actions, schedule)
        elif depth < len(self._tree.prefix):
            given = self._tree.prefix[depth]
            if given not in actions:
                raise _misbehaved(depth, [given], actions, schedule)
            step = Step(actions, {}, given, None)
            self._path.append(step)
        else:
            asleep = self._asleep_at(depth)
            chosen = next((action for action in actions if action not in asleep), None)
            if chosen is None:
                return None
            opened: set[int] | None = {chosen}
            if not self._reduce or (self._tree.asleep and depth == len(self._tree.prefix)):
                opened = None
            elif schedule.may_be_disturbed:
                opened = None
                open_all(self._path)
            step = Step(actions, asleep, chosen, opened)
            self._path.append(step)
        self._depth = depth + 1
        return step.chosen

    def finish(self, schedule: Schedule) -> None:
        """Look back on the last step; if the run was cut short, nothing is known of its rest."""
        self._look_back(schedule)
        if not self._reduce:
            return
        if schedule.verdict == "deadlock":
            self._causality.race_the_waiting(self._path, schedule)
        elif schedule.was_cut_short:
            open_all(self._path)

    def _look_back(self, schedule: Schedule) -> None:
        at = self._looked_at
        if not self._reduce or at == self._depth:
            return
        self._looked_at = at + 1
        schedule.note_cancellations()
        step = self._path[at]
        if step.footprint is None:
            step.footprint = schedule.footprint()
        self._causality.advance(self._path, at, schedule, is_new=at >= self._new_from)

    def _asleep_at(self, depth: int) -> dict[int, Footprint]:
        """Say what sleeps at the node after the path."""
        if depth == len(self._tree.prefix):
            return dict(self._tree.asleep)
        if not self._reduce:
            return {}
        step = self._path[-1]
        footprint = step.footprint
        assert footprint is not None
        return {
            action: touched
            for action, touched in step.asleep.items()
            if not _conflict(step.chosen, footprint, action, touched)
        }


def _conflict(a: int, touched_by_a: Footprint, b: int, touched_by_b: Footprint) -> bool:
    """Tell whether the order of two actions matters; see the head of this file."""
    task_a, task_b = task_of(a), task_of(b)
    return (
        task_a == task_b
        or is_time(a)
        or is_time(b)
        or task_b in touched_by_a.touched
        or task_a in touched_by_b.touched
        or (is_cancellation(a) and (is_cancellation(b) or touched_by_b.touches_others))
        or (is_cancellation(b) and touched_by_a.touches_others)
        or touched_by_a.conflicts(touched_by_b)
    )


def _misbehaved(
    depth: int, before: list[int], now: list[int], schedule: Schedule
) -> NotDeterministic:
    def names(actions: list[int]) -> str:
        return ", ".join(describe(action, schedule) for action in actions)

    return NotDeterministic(
        f"the program did not repeat itself: at step {depth + 1} of the same schedule the choices "
        f"were first {names(before)}, then {names(now)}; look for state that outlives a run, real "
        "time, random numbers, or an iteration over a set"
    )


def describe(action: int, schedule: Schedule) -> str:
    """Say what an action is, in words."""
    if action == TIME:
        return "time passes"
    number = task_of(action)
    known = number < len(schedule.strands)
    name = f"task {number}"
    if known:
        strand = schedule.strands[number]
        name += f" ({strand.name}" + (f", {strand.point})" if strand.point else ")")
    if action >= 0:
        return name
    scope = scope_of(action)
    if is_time(action):
        return f"deadline {scope} of {name} passes first"
    if not scope:
        return f"cancel {name}"
    marks = schedule.strands[number].marks if known else []
    where = "".join(mark.where for mark in marks[scope : scope + 1] if mark is not None)
    return f"cancel marked scope {scope} of {name}" + (f", {where}" if where else "")


@final
class Repeat:
    """Choose one schedule: the one that was recorded.

    Args:
        actions: What to do, from the first step.
    """

    follows_steps = True

    def __init__(self, actions: Sequence[int]) -> None:
        self._actions = actions

    def pick(self, actions: list[int], schedule: Schedule) -> int:
        """Take the next recorded action.

        Raises:
            ReplayDiverged: The program can't do that, or goes on after the recording's end.
        """
        at = len(schedule.actions)
        possible = ", ".join(describe(action, schedule) for action in actions)
        if at >= len(self._actions):
            raise ReplayDiverged(
                f"the token ends after {at} steps and the program goes on; possible: {possible}"
            )
        action = self._actions[at]
        if action not in actions:
            raise ReplayDiverged(
                f"step {at + 1} of the token is {describe(action, schedule)}, which the program "
                f"can't do there; possible: {possible}"
            )
        return action

    def finish(self, schedule: Schedule) -> None:
        """Nothing: there is no next schedule."""
