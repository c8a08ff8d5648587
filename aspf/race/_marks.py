"""What a program tells the explorer about itself. Outside an exploration it says it to nobody."""

from __future__ import annotations

import sys

import trio

from aspf.race import _hook
from aspf.race._wait_for import where

__all__ = ("may_cancel",)


def may_cancel() -> trio.CancelScope:
    """Make a cancel scope that an exploration may cancel, at any checkpoint inside it.

    Of all the scopes that a program marks so, one is cancelled in a run, or none; that is one more
    choice of the search. Outside an exploration it is a cancel scope like any other.

    Returns:
        The scope, to be entered once: ``with may_cancel() as scope:``.

    Examples:
        >>> import trio
        >>> from aspf.race import explore, may_cancel
        >>> async def program():
        ...     with may_cancel() as scope:
        ...         await trio.sleep(1)
        ...     return scope.cancelled_caught
        >>> sorted(explore(program, search="exhaustive").outcomes)
        ['False', 'True']
    """
    scope = trio.CancelScope()
    if _hook.current is not None:
        _hook.current.may_cancel(scope, where(sys._getframe(1)))
    return scope
