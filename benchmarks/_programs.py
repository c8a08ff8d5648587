"""The programs of SCTBench and some others, on cells, at the granularity of await points.

Every access to shared memory and every operation on a lock is a step of its own, preceded by a
point at which another task may run; data that only its lock's holder touches is plain data. The
main task starts all others in one step, and then joins them one by one, in the order of their
creation, each a step. What an oracle sees is kept, and raised at the very end: so a bug doesn't
cut a run short, and all interleavings can be counted.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from aspf.race import Cell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("PROGRAMS", "Program")

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


async def lost_update(tasks: int) -> None:
    counter = Cell(0, "counter")

    async def increment() -> None:
        await counter.set(await counter.get() + 1)

    await run(*[increment] * tasks)
    if counter.peek() != tasks:
        raise Bug


async def account() -> None:
    lock, oracle = Mutex(), Oracle()
    balance, booked = 1, 0

    async def book(amount: int) -> None:
        nonlocal balance, booked
        async with lock:
            balance += amount
            booked += 1

    async def check() -> None:
        async with lock:
            # The original's wrong oracle: what it expects is not what the two add up to.
            oracle.expect(booked < 2)

    await run(check, partial(book, 2), partial(book, -4))
    oracle.judge()


async def bluetooth_driver() -> None:
    stopping, stopped = Cell(False, "stopping"), Cell(False, "stopped")
    pending, event = Cell(1, "pending"), Cell(False, "event")
    oracle = Oracle()

    async def decrement() -> None:
        if await pending.update(lambda n: n - 1) == 0:
            await event.set(True)

    async def stop() -> None:
        await stopping.set(True)
        await decrement()
        if await event.get():
            await stopped.set(True)

    async def add() -> None:
        if not await stopping.get():
            await pending.update(lambda n: n + 1)
            oracle.expect(not await stopped.get())
        await decrement()

    await run(stop, main=add)
    oracle.judge()


async def carter01() -> None:
    mutex, group = Mutex("m"), Mutex("l")

    async def member() -> None:
        users = 0
        async with mutex:
            users += 1
            if users == 1:
                await group.lock()
        async with mutex:
            users -= 1
            if users == 0:
                await group.unlock()

    await run(member, member)


async def circular_buffer(rounds: int = 7) -> None:
    lock, oracle = Mutex(), Oracle()
    buffer: list[int] = []
    may_send = True

    async def send() -> None:
        nonlocal may_send
        for i in range(rounds):
            async with lock:
                if may_send:
                    buffer.append(i)
                    may_send = False

    async def receive() -> None:
        nonlocal may_send
        for i in range(rounds):
            async with lock:
                if not may_send:
                    oracle.expect(buffer.pop(0) == i)
                    may_send = True

    await run(send, receive)
    oracle.judge()


async def philosophers(n: int) -> None:
    forks = [Mutex(f"fork {i}") for i in range(n)]

    async def dine(i: int) -> None:
        async with forks[i], forks[(i + 1) % n]:
            pass

    await run(*[partial(dine, i) for i in range(n)])


async def lazy01() -> None:
    lock, oracle = Mutex(), Oracle()
    data = 0

    async def add(n: int) -> None:
        nonlocal data
        async with lock:
            data += n

    async def look() -> None:
        await lock.lock()
        oracle.expect(data < 3)
        # The original aborts, so that nobody unlocks.
        if data < 3:
            await lock.unlock()

    await run(partial(add, 1), partial(add, 2), look)
    oracle.judge()


async def reorder(setters: int, checkers: int) -> None:
    a, b, oracle = Cell(0, "a"), Cell(0, "b"), Oracle()

    async def put() -> None:
        await a.set(1)
        await b.set(-1)

    async def check() -> None:
        neither = await a.get() == 0 and await b.get() == 0
        oracle.expect(neither or (await a.get() == 1 and await b.get() == -1))

    await run(*[put] * setters, *[check] * checkers)
    oracle.judge()


async def stack(rounds: int = 10) -> None:
    lock, oracle = Mutex(), Oracle()
    depth, filled = 0, False

    async def push() -> None:
        nonlocal depth, filled
        for _ in range(rounds):
            async with lock:
                depth += 1
                filled = True

    async def pop() -> None:
        nonlocal depth
        for _ in range(rounds):
            async with lock:
                if filled:
                    oracle.expect(depth > 0)
                    depth -= 1

    await run(push, pop)
    oracle.judge()


async def stringbuffer() -> None:
    lock, oracle = Mutex(), Oracle()
    length = 3

    async def erase_and_append() -> None:
        nonlocal length
        async with lock:
            length = 0
        async with lock:
            length = 3

    async def append() -> None:
        async with lock:
            size = length
        async with lock:
            oracle.expect(length >= size)

    await run(erase_and_append, main=append)
    oracle.judge()


async def token_ring() -> None:
    ring: Cell[tuple[tuple[int, int, int], int]] = Cell(((1, 2, 1), 0), "ring")
    oracle = Oracle()

    async def move(change: Callable[[int, int, int], tuple[int, int, int]]) -> None:
        await ring.update(lambda old: (change(*old[0]), old[1] + 1))

    async def check() -> None:
        x, moved = await ring.get()
        oracle.expect(moved < 3 or len(set(x)) == 1)

    await run(
        partial(move, lambda _, x2, x3: ((x3 + 1) % 4, x2, x3)),
        partial(move, lambda x1, _, x3: (x1, x1, x3)),
        partial(move, lambda x1, x2, _: (x1, x2, x2)),
        check,
    )
    oracle.judge()


async def twostage(writers: int, readers: int) -> None:
    first, second, oracle = Mutex("first"), Mutex("second"), Oracle()
    data1 = data2 = 0

    async def write() -> None:
        nonlocal data1, data2
        async with first:
            data1 = 1
        async with second:
            data2 = data1 + 1

    async def read() -> None:
        async with first:
            seen = data1
        if seen:
            async with second:
                oracle.expect(data2 == seen + 1)

    await run(*[write] * writers, *[read] * readers)
    oracle.judge()


async def wronglock(others: int) -> None:
    right, wrong, oracle = Mutex("right"), Mutex("wrong"), Oracle()
    data = Cell(0, "data")

    async def careful() -> None:
        async with right:
            seen = await data.get()
            await data.set(await data.get() + 1)
            oracle.expect(await data.get() == seen + 1)

    async def careless() -> None:
        async with wrong:
            await data.set(await data.get() + 1)

    await run(careful, *[careless] * others)
    oracle.judge()


def _named(name: str, program: Callable[..., Awaitable[object]], *args: int) -> Program:
    async def named() -> Any:
        return await program(*args)

    named.__name__ = name
    return named


#: By the name that the literature, or the reference table, has for them.
PROGRAMS: dict[str, Program] = {
    name: _named(name, program, *args)
    for name, program, *args in (
        *((f"lost_update_{n}", lost_update, n) for n in (2, 3, 4)),
        ("account", account),
        ("bluetooth_driver", bluetooth_driver),
        ("carter01", carter01),
        ("circular_buffer", circular_buffer),
        ("deadlock01", philosophers, 2),
        ("lazy01", lazy01),
        *((f"philosophers_{n}", philosophers, n) for n in (2, 3, 4, 5, 7)),
        *((f"reorder_{n}", reorder, n - 1, 1) for n in (3, 4, 5, 10)),
        ("reorder_20", reorder, 10, 10),
        ("stack", stack),
        ("stringbuffer", stringbuffer),
        ("token_ring", token_ring),
        ("twostage", twostage, 1, 1),
        *((f"twostage_{n}", twostage, n - 1, 1) for n in (20, 50, 100)),
        ("wronglock_3", wronglock, 3),
        ("wronglock", wronglock, 7),
    )
}
