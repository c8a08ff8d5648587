"""What the benchmark programs are made of: pthreads at the granularity of await points.

Every access to shared memory and every operation on a lock is a step of its own, preceded by a
point at which another task may run; data that only its lock's holder touches is plain data. The
main task starts all others in one step, and then joins them one by one, in the order of their
creation, each a step. What an oracle sees is kept, and raised at the very end: so a bug doesn't
cut a run short, and all interleavings can be counted.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from aspf.race import Cell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("Bug", "Condition", "Mutex", "Oracle", "Program", "named", "run")

Program: TypeAlias = "Callable[[], Awaitable[object]]"


class Bug(AssertionError):
    """An oracle has seen what it should not."""


class Mutex:
    """A lock in one word of memory: each operation is one step."""

    def __init__(self, name: str = "mutex") -> None:
        self._held = Cell(False, name)

    async def lock(self) -> None:
        await self._held.update_when(lambda held: not held, lambda _: True)

    async def unlock(self) -> None:
        await self._held.set(False)

    async def __aenter__(self) -> None:
        await self.lock()

    async def __aexit__(self, *_: object) -> None:
        await self.unlock()


class Condition:
    """A condition variable: a signal wakes who has waited longest, and is lost if nobody does."""

    def __init__(self, name: str = "condition") -> None:
        # Who waits, in order, and who has been woken.
        self._queue: Cell[tuple[tuple[int, ...], frozenset[int]]] = Cell(((), frozenset()), name)
        self._waits = 0

    async def wait(self, mutex: Mutex) -> None:
        me = self._waits = self._waits + 1
        await self._queue.update(lambda state: ((*state[0], me), state[1]))
        await mutex.unlock()
        await self._queue.wait_until(lambda state: me in state[1])
        await mutex.lock()

    async def signal(self) -> None:
        await self._queue.update(lambda state: (state[0][1:], state[1] | {*state[0][:1]}))


async def run(
    *tasks: Callable[[], Awaitable[object]], main: Callable[[], Awaitable[object]] | None = None
) -> None:
    """Start the tasks in one step, do what the main task does besides, and join them in order."""
    async with AsyncExitStack() as joins:
        # The innermost nursery is left first.
        nurseries = [await joins.enter_async_context(trio.open_nursery()) for _ in tasks]
        for nursery, task in zip(reversed(nurseries), tasks, strict=True):
            nursery.start_soon(task)
        if main is not None:
            await main()


class Oracle:
    """Keeps what went wrong until the end of the run."""

    def __init__(self) -> None:
        self.wrong = False

    def expect(self, condition: object) -> None:
        self.wrong |= not condition

    def judge(self) -> None:
        if self.wrong:
            raise Bug


def named(name: str, program: Callable[..., Awaitable[object]], *args: Any) -> Program:
    """Fix the arguments of a program and give it the name that reports shall have for it."""

    async def under_its_name() -> Any:
        return await program(*args)

    under_its_name.__name__ = name
    return under_its_name
