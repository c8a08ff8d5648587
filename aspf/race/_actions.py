"""What may happen next in a schedule, as one int: an action.

- ``n``: task *n* runs from its scheduling point to its next.
- `TIME`, that is ``~0``: the clock jumps, or who waited for idleness wakes.
- ``~n``: task *n* is cancelled; as ``~0`` is taken, task 0 is by `MAIN`.
- ``~(n + k * SCOPE)``: the *k*-th scope that task *n* has marked with `may_cancel` is cancelled,
  counted from 1.
- ``~(TIMER + n + k * SCOPE)``: of several deadlines at the same moment, the *k*-th one that task
  *n* has set in this run comes first.

So an action says whose it is, and means the same in every run that begins with the same steps.
"""

from __future__ import annotations

from typing import Final

__all__ = (
    "SCOPE",
    "TIME",
    "cancellation",
    "is_cancellation",
    "is_time",
    "scope_of",
    "task_of",
    "timer",
)

TIME: Final = ~0
# More tasks than any run has.
SCOPE: Final = 1 << 20
TIMER: Final = 1 << 50
MAIN: Final = ~(TIMER >> 1)


def cancellation(task: int, scope: int = 0) -> int:
    """Make the action that cancels a task, or one of its marked scopes.

    Examples:
        >>> cancellation(3), task_of(cancellation(3, 2)), scope_of(cancellation(3, 2))
        (-4, 3, 2)
        >>> main = cancellation(0)
        >>> is_time(main), is_cancellation(main), task_of(main), scope_of(main)
        (False, True, 0, 0)
    """
    return ~(task + scope * SCOPE) if task or scope else MAIN


def is_cancellation(action: int) -> bool:
    """Tell whether an action cancels something."""
    return -TIMER <= action < TIME


def timer(task: int, number: int) -> int:
    """Make the action in which a deadline passes, before others of the same moment.

    Examples:
        >>> action = timer(3, 2)
        >>> is_time(action), is_cancellation(action), task_of(action), scope_of(action)
        (True, False, 3, 2)
    """
    return ~(TIMER + task + number * SCOPE)


def is_time(action: int) -> bool:
    """Tell whether an action is the clock's."""
    return action == TIME or action < -TIMER


def task_of(action: int) -> int:
    """Say whose action it is: who runs, is cancelled, or has set the deadline; not for `TIME`."""
    return action if action >= 0 else ~action % SCOPE


def scope_of(action: int) -> int:
    """Say which marked scope of its task a cancellation is of, or which deadline; 0: the task."""
    return ~action % (TIMER >> 1) // SCOPE
