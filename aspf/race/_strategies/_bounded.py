"""Bounded search: schedules with few preemptions first, or with few delays.

Most bugs need few. Of all schedules those are taken first that deviate nowhere from a simple
scheduler, then those that do so once, and so on, each schedule once; if the program is small
enough all are taken in the end, and the search is exhausted.

- *Preemptions* (Musuvathi and Qadeer, "Iterative Context Bounding for Systematic Testing of
  Multithreaded Programs", PLDI 2007): a task runs until it ends or has to wait; to switch from one
  that could go on counts one. Who runs next after it had to wait counts nothing.
- *Delays* (Emmi, Qadeer and Rakamaric, "Delay-Bounded Scheduling", POPL 2011): a task runs until
  it ends or has to wait, then the next in the order of creation, round and round. To pass over a
  task counts one, also where it had to wait: so there is one schedule without a delay.

Cancellations count nothing: the bound is on what the scheduler does, and there is but one in a
run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

from aspf.race._actions import is_cancellation, is_time
from aspf.race._search import _misbehaved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.race._engine import Schedule

__all__ = ("Bounded", "Branch", "Deviations")

Ways: TypeAlias = tuple[int, ...]
# A choice: what was taken, of which actions.
Choice: TypeAlias = tuple[int, Ways]
# The choices of a run, at which of them to turn off, and which way of that to take: ways are
# ordered from the cheapest. All branches of one run share its choices.
Branch: TypeAlias = "tuple[Sequence[Choice], int, int]"


@final
@dataclass(frozen=True, slots=True)
class Deviations:
    """Branches to be taken one after the other, each with all that it leads to within the bound."""

    bound: int
    branches: tuple[Branch, ...] = (((), 0, 0),)


@final
class Bounded:
    """Choose each schedule once that one of some branches leads to and that costs no more.

    Args:
        delays: Count delays; else preemptions.
        part: The branches, and the bound.
        runs: After how many runs to leave the rest.
    """

    follows_steps = True

    def __init__(self, *, delays: bool, part: Deviations, runs: int) -> None:
        #: The branches that cost more, by what they cost, in the order in which they were met.
        self.dearer: dict[int, list[Branch]] = {}
        self._delays = delays
        self._bound = part.bound
        self._runs_left = runs
        # Those of the part's bound, the next one last. Invariant: each way of each node is
        # entered once; the next one of a node is only put here when the one before it is taken,
        # which keeps this small.
        self._open = list(reversed(part.branches))
        # Many nodes offer the same actions: they share them.
        self._shared: dict[Ways, Ways] = {}
        # Of the schedule that is running: the branch, the choices so far, what was spent, and who
        # ran last.
        self._branch: Branch = ((), 0, 0)
        self._taken: list[Choice] = []
        self._spent = 0
        self._current = 0

    @property
    def left(self) -> list[Branch]:
        """The branches that were not taken, in their order."""
        return self._open[::-1]

    def begin(self) -> bool:
        """Take the next branch."""
        if not self._open or self._runs_left == 0:
            return False
        self._runs_left -= 1
        self._branch = self._open.pop()
        self._taken = []
        self._spent = self._current = 0
        return True

    def pick(self, actions: list[int], schedule: Schedule) -> int:
        """Repeat the choices up to the branch, and turn off; then take what costs nothing."""
        action = actions[0] if len(actions) == 1 else self._choose(actions, schedule)
        if action >= 0:
            self._current = action
        return action

    def finish(self, schedule: Schedule) -> None:
        """Nothing: what is open was noted on the way."""

    def _choose(self, actions: list[int], schedule: Schedule) -> int:
        known, turning, way = self._branch
        depth = len(self._taken)
        if depth < len(known) and depth <= turning and list(known[depth][1]) != actions:
            raise _misbehaved(len(schedule.actions), list(known[depth][1]), actions, schedule)
        ways = self._order(actions)
        if depth < turning:
            way = ways.index(known[depth][0])
        elif depth > turning:
            way = 0
        if depth >= turning and way + 1 < len(ways):
            cost = self._cost(ways, way + 1)
            branches = self._open if cost == self._bound else self.dearer.setdefault(cost, [])
            branches.append((self._taken, depth, way + 1))
        self._spent = self._cost(ways, way)
        self._taken.append((ways[way], self._share(tuple(actions))))
        return ways[way]

    def _order(self, actions: list[int]) -> Ways:
        steps = [action for action in actions if not is_cancellation(action)]
        cancellations = actions[len(steps) :]
        # Round and round: what goes on comes first if it can, then who was created later.
        # Time passes by itself only when nobody can run.
        steps.sort(key=lambda action: (is_time(action), action < self._current, action))
        return (steps[0], *cancellations, *steps[1:])

    def _cost(self, ways: Ways, way: int) -> int:
        """What a schedule has cost that takes this way, which never is less than the way before."""
        deviation = way - sum(map(is_cancellation, ways))
        if way == 0 or deviation <= 0:
            return self._spent
        return self._spent + (deviation if self._delays else int(ways[0] == self._current))

    def _share(self, ways: Ways) -> Ways:
        return self._shared.setdefault(ways, ways)
