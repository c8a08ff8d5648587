"""What a program tells the explorer about itself. Outside an exploration it says it to nobody."""

from __future__ import annotations

import sys

import trio

from aspf.race import _hook
from aspf.race._frames import place_of

__all__ = ("may_cancel", "may_stay", "point", "sometimes")


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
        _hook.current.may_cancel(scope, place_of(sys._getframe(1)))
    return scope


def may_stay(name: str) -> None:
    """State that a system task may live until the run's end, where trio cancels it.

    Without that, a schedule in which one outlives the main task fails as a ``"task left"``: it may
    have been about to do something. Say it for a task that serves as long as there is anybody to
    serve, yours or that of a library. Tasks in nurseries are never left without an error.

    Args:
        name: What the report calls it: the name that ``trio.lowlevel.spawn_system_task`` was given,
            or that of its async function.

    Examples:
        >>> import trio
        >>> from aspf.race import explore, may_stay
        >>> async def serve(requests):
        ...     async for reply in requests:
        ...         reply.set()
        >>> async def program():
        ...     may_stay("serve")
        ...     send, receive = trio.open_memory_channel(0)
        ...     trio.lowlevel.spawn_system_task(serve, receive)
        ...     await send.send(reply := trio.Event())
        ...     await reply.wait()
        >>> explore(program).verdict
        'holds'
    """
    if _hook.current is not None:
        _hook.current.may_stay(name)


async def point(name: str) -> None:
    """Let an exploration switch tasks here; always a checkpoint, and nothing else without one.

    Put it between two statements that trio's documentation would let another task come between,
    or that a later version of the program will: where a call will become a remote one, say. While
    a task stands at a point, diagrams and errors about tokens say so.

    Args:
        name: What to call it.

    Raises:
        trio.Cancelled: As from any checkpoint.

    Examples:
        >>> import trio
        >>> from aspf.race import explore, point
        >>> async def transfer():
        ...     balance = 100
        ...     async def withdraw(amount):
        ...         nonlocal balance
        ...         rest = balance - amount
        ...         await point("the rest is known")
        ...         balance = rest
        ...     async with trio.open_nursery() as nursery:
        ...         nursery.start_soon(withdraw, 10)
        ...         nursery.start_soon(withdraw, 20)
        ...     return balance
        >>> sorted(explore(transfer).outcomes)
        ['70', '80', '90']
    """
    if _hook.current is None:
        await trio.lowlevel.checkpoint()
    else:
        await _hook.current.point(name)


def sometimes(label: str, condition: object = True) -> None:  # noqa: FBT002
    """State that some schedule of an exploration gets here with *condition* true.

    A test that never reaches the situation that it was written for passes for no reason. The label
    is registered by the first call that comes by; so that its absence is noticed where none does,
    give it to ``explore(..., sometimes=[label])`` as well. If every schedule was explored and none
    has reached it, the exploration has failed, and `check` raises; if not every one was, nobody
    knows.

    Args:
        label: What is to be reached, for reports.
        condition: Anything, taken for true or false; of what the task knows, not of cells that it
            has only peeked at.

    Examples:
        >>> import trio
        >>> from aspf.race import explore, sometimes
        >>> async def program():
        ...     seen = []
        ...     async def look():
        ...         sometimes("came second", seen)
        ...         sometimes("came third", len(seen) == 2)
        ...         seen.append(1)
        ...     async with trio.open_nursery() as nursery:
        ...         nursery.start_soon(look)
        ...         nursery.start_soon(look)
        >>> explored = explore(program, search="exhaustive")
        >>> explored.verdict, explored.unreached
        ('failed', ['came third'])
    """
    if _hook.current is not None:
        _hook.current.sometimes(label, bool(condition))
