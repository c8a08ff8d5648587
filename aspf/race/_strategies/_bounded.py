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

from typing import TYPE_CHECKING, final

from aspf.race._actions import is_cancellation, is_time
from aspf.race._search import _misbehaved

if TYPE_CHECKING:
    from aspf.race._engine import Schedule

__all__ = ("Bounded",)

Ways = tuple[int, ...]


@final
class _Node:
    """A choice, and what was taken there."""

    __slots__ = ("action", "actions", "parent", "price", "spent", "ways")

    def __init__(
        self, parent: _Node | None, actions: Ways, ways: Ways, spent: int, price: int
    ) -> None:
        self.parent = parent
        self.actions = actions
        # The actions from the cheapest to the dearest: what goes on, the cancellations, the rest.
        self.ways = ways
        # What the schedule had cost before this node, and what a deviation costs here.
        self.spent = spent
        self.price = price
        self.action = ways[0]

    def branch(self, at: int) -> _Node:
        """Make the node's twin in which the *at*-th way is taken."""
        twin = _Node(self.parent, self.actions, self.ways, self.spent, self.price)
        twin.action = self.ways[at]
        return twin


@final
class Bounded:
    """Choose every schedule once, those with the fewest deviations first.

    Args:
        delays: Count delays; else preemptions.
    """

    reduces = False

    def __init__(self, *, delays: bool) -> None:
        self.exhausted = False
        self.enumerated = 0
        self._delays = delays
        #: The bound of the schedules that are chosen now.
        self.bound = 0
        # By bound: nodes, and the number of the way to turn into. Invariant: each way of each
        # node is entered once; the next one of a node is only put here when the one before it
        # is taken out, which keeps this small.
        self._open: dict[int, list[tuple[_Node, int]]] = {}
        self._begun = False
        # Many nodes offer the same actions: they share them.
        self._shared: dict[Ways, Ways] = {}
        # Of the schedule that is running: the choices to repeat, how many were repeated, the
        # last choice, what was spent, and who ran last.
        self._path: list[_Node] = []
        self._depth = 0
        self._last: _Node | None = None
        self._spent = 0
        self._current = 0

    def begin(self) -> bool:
        """Take the next branch of the present bound, or of the next one that has any."""
        self._depth = self._spent = self._current = 0
        self._last = None
        if not self._begun:
            self._begun = True
            return True
        while self._open and not self._open.get(self.bound):
            self._open.pop(self.bound, None)
            self.bound += 1
        if not self._open:
            self.exhausted = True
            self._path = []
            return False
        node, way = self._open[self.bound].pop()
        self._defer(node, way + 1)
        self._path = []
        at: _Node | None = node.branch(way)
        while at is not None:
            self._path.append(at)
            at = at.parent
        self._path.reverse()
        return True

    def pick(self, actions: list[int], schedule: Schedule) -> int:
        """Repeat the path; after its end take what costs nothing."""
        if len(actions) == 1:
            action = actions[0]
        elif self._depth < len(self._path):
            action = self._repeat(actions, schedule)
        else:
            action = self._meet(actions)
        if action >= 0:
            self._current = action
        return action

    def finish(self, schedule: Schedule) -> None:
        """Count it; what is open was noted on the way."""
        self.enumerated += schedule.verdict != "pruned"

    def _repeat(self, actions: list[int], schedule: Schedule) -> int:
        node = self._path[self._depth]
        self._depth += 1
        if list(node.actions) != actions:
            raise _misbehaved(len(schedule.actions), list(node.actions), actions, schedule)
        self._spent = self._cost(node, node.ways.index(node.action))
        self._last = node
        return node.action

    def _meet(self, actions: list[int]) -> int:
        ways = self._order(actions)
        price = int(self._delays or ways[0] == self._current)
        shared = self._share(tuple(actions)), self._share(ways)
        node = self._last = _Node(self._last, *shared, self._spent, price)
        self._defer(node, 1)
        return ways[0]

    def _defer(self, node: _Node, way: int) -> None:
        if way < len(node.ways):
            self._open.setdefault(self._cost(node, way), []).append((node, way))

    def _order(self, actions: list[int]) -> Ways:
        steps = [action for action in actions if not is_cancellation(action)]
        cancellations = actions[len(steps) :]
        # Round and round: what goes on comes first if it can, then who was created later.
        # Time passes by itself only when nobody can run.
        steps.sort(key=lambda action: (is_time(action), action < self._current, action))
        return (steps[0], *cancellations, *steps[1:])

    def _cost(self, node: _Node, way: int) -> int:
        """What a schedule has cost that takes this way, which never is less than the way before."""
        deviation = way - sum(map(is_cancellation, node.actions))
        if way == 0 or deviation <= 0:
            return node.spent
        return node.spent + (deviation if self._delays else node.price)

    def _share(self, ways: Ways) -> Ways:
        return self._shared.setdefault(ways, ways)
