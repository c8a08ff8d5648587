"""Deadlines: which of them may pass next, and which nobody can tell from the rest.

trio keeps the deadlines of its cancel scopes in an object of the runner, and lets all of them pass
whose time has come. Here they pass one at a time, when a schedule says so; with ``_engine.py`` and
``_runner.py`` this is what touches trio's internals.

*Equal deadlines.* Two deadlines at the same moment of virtual time are two that come close to each
other in real time, in either order; so which one passes first is a choice. The second may pass only
after the first one's task has run, and then meets another program: say that task sets the event
that the second one's task waits for. It makes no difference where all that a deadline does is to
end a sleep. A task in `trio.sleep` can't be woken by anything else, so its deadline may as well pass at once,
together with the others; that it could run is not to be seen before it does. The same holds for a
task that waits for its children to end. Such deadlines are *quiet*, and no choice. Of a scope and
another one inside it the outer one passes first: it was set first.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple, final

import trio
from trio._core import _run

from aspf.race._actions import timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Deadlines", "Timer", "is_noticed", "is_quiet", "is_shielded", "members", "outermost")


class Timer(NamedTuple):
    """A deadline that has not passed."""

    deadline: float
    order: int  # of setting it
    scope: trio.CancelScope
    task: int  # who has set it
    number: int  # among those that this task has set in this run, from 1

    @property
    def action(self) -> int:
        """The action in which it passes before others of the same moment."""
        return timer(self.task, self.number)


@final
class Deadlines:
    """What trio takes for its container of deadlines; nothing in it passes by itself.

    Args:
        whose: Returns the number of the task that runs.
    """

    def __init__(self, whose: Callable[[], int]) -> None:
        self._whose = whose
        #: By scope.
        # Invariant: of the scopes whose `_registered_deadline` is finite, what was added last.
        self.pending: dict[trio.CancelScope, Timer] = {}
        self._count = 0
        self._set_by: dict[int, int] = {}
        # Stale entries stay until they come to the top.
        self._heap: list[Timer] = []

    def forget(self) -> None:
        """Another run of the program begins; there is no deadline."""
        if self._count:
            self._count = 0
            self._set_by.clear()
            self._heap.clear()

    def __len__(self) -> int:
        return len(self.pending)

    def add(self, deadline: float, scope: trio.CancelScope) -> None:
        """Take a deadline that was set."""
        task = self._whose()
        self._count += 1
        number = self._set_by[task] = self._set_by.get(task, 0) + 1
        entry = self.pending[scope] = Timer(deadline, self._count, scope, task, number)
        heappush(self._heap, entry)

    def remove(self, deadline: float, scope: trio.CancelScope) -> None:  # noqa: ARG002
        """Forget the scope's deadline."""
        del self.pending[scope]

    def next_deadline(self) -> float:
        """Return the earliest deadline, infinity if there is none."""
        heap = self._heap
        while heap and self.pending.get(heap[0].scope) is not heap[0]:
            heappop(heap)
        return heap[0].deadline if heap else math.inf

    def expire(self, now: float) -> bool:
        """Let those pass that were set to a moment in the past; no others."""
        if not self.pending:
            return False
        return self.passes([entry for entry in self.until(now) if entry.deadline < now])

    def passes(self, timers: list[Timer]) -> bool:
        """Let deadlines pass."""
        for entry in timers:
            entry.scope._cancel(_run.CancelReason(source="deadline"))
        return bool(timers)

    def until(self, moment: float) -> list[Timer]:
        """Return the deadlines up to a moment, in order; equal ones in the order of setting."""
        if self.next_deadline() > moment:
            return []
        return sorted(entry for entry in self.pending.values() if entry.deadline <= moment)

    def groups(self) -> Iterator[list[Timer]]:
        """Yield what passes at one moment, from the earliest moment on."""
        group: list[Timer] = []
        for entry in sorted(self.pending.values()):
            if group and entry.deadline > group[0].deadline:
                yield group
                group = []
            group.append(entry)
        if group:
            yield group


def _code_of(function: Callable[..., object]) -> set[object]:
    """The functions that a function defines: here, what trio calls to abort a wait."""
    return {const for const in function.__code__.co_consts if hasattr(const, "co_code")}


_ABORT_OF_CHILDREN = _code_of(_run.Nursery._nested_child_finished)
_ABORTS_UNSEEN = _ABORT_OF_CHILDREN | _code_of(trio.sleep_forever)


def members(scope: trio.CancelScope) -> Iterator[trio.lowlevel.Task]:
    """The tasks that stand inside a scope."""
    assert scope._cancel_status is not None  # it is asked about scopes that somebody is in
    statuses = [scope._cancel_status]
    while statuses:
        status = statuses.pop()
        yield from status._tasks
        statuses += status._children


def is_shielded(task: trio.lowlevel.Task, root: _run.CancelStatus) -> bool:
    """Tell whether there is a shield between a task and a scope around it."""
    status: _run.CancelStatus | None = task._cancel_status
    while status is not None and status is not root:
        if status._scope._shield:
            return True
        status = status.parent
    return False


def is_quiet(entry: Timer) -> bool:
    """Tell whether it makes no difference when exactly a deadline passes; see the head."""
    status = entry.scope._cancel_status
    return (
        status is None
        or status.effectively_cancelled
        or all(
            task._next_send_fn is None
            and getattr(task._abort_func, "__code__", None) in _ABORTS_UNSEEN
            and not is_shielded(task, status)
            for task in members(entry.scope)
        )
    )


def is_noticed(entry: Timer) -> bool:
    """Tell whether anybody notices that a deadline passes, now or when he resumes."""
    status = entry.scope._cancel_status
    if status is None or status.effectively_cancelled:
        return False
    return any(
        task._next_send_fn is not None
        or (
            getattr(task._abort_func, "__code__", None) not in _ABORT_OF_CHILDREN
            and not is_shielded(task, status)
        )
        for task in members(entry.scope)
    )


def outermost(timers: list[Timer]) -> list[Timer]:
    """Leave out the deadlines of scopes that are inside of others among them."""
    scopes = {entry.scope for entry in timers}
    return [entry for entry in timers if not any(s in scopes for s in _around(entry.scope))]


def _around(scope: trio.CancelScope) -> Iterator[trio.CancelScope]:
    status = scope._cancel_status
    while status is not None and status.parent is not None and not status._scope._shield:
        status = status.parent
        yield status._scope
