"""What may happen next in a schedule, as one int: an action.

- ``n``: task *n* runs from its scheduling point to its next.
- `TIME`, that is ``~0``: the clock jumps, or who waited for idleness wakes.
- ``~n``: task *n* is cancelled, never task 0.
- ``~(n + k * SCOPE)``: the *k*-th scope that task *n* has marked with `may_cancel` is cancelled,
  counted from 1.

So an action says whose it is, and means the same in every run that begins with the same steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("SCOPE", "TIME", "cancellation", "cancels", "is_cancellation", "scope_of", "task_of")

TIME: Final = ~0
# More tasks than any run has.
SCOPE: Final = 1 << 20


def cancellation(task: int, scope: int = 0) -> int:
    """Make the action that cancels a task, or one of its marked scopes.

    Examples:
        >>> cancellation(3), task_of(cancellation(3, 2)), scope_of(cancellation(3, 2))
        (-4, 3, 2)
    """
    return ~(task + scope * SCOPE)


def is_cancellation(action: int) -> bool:
    """Tell whether an action cancels something."""
    return action < TIME


def cancels(actions: Iterable[int]) -> bool:
    """Tell whether there is a cancellation among actions."""
    return any(map(is_cancellation, actions))


def task_of(action: int) -> int:
    """Say whose action it is: who runs, or is cancelled; not for `TIME`."""
    return action if action >= 0 else ~action % SCOPE


def scope_of(action: int) -> int:
    """Say which marked scope of its task a cancellation is of; 0 is the task itself."""
    return ~action // SCOPE
