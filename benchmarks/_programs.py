"""The programs: those of SCTBench and some others, by the names that the literature has for them.

What they are made of, and at which granularity, is said in `_pthreads.py`. Here are those with
locks and plain memory; the lock-free ones are in `_lock_free.py`, those with condition variables in
`_condition_variables.py`. Where a docstring names no other source the program is SCTBench's "CS"
program of that name, from its C source or, where that wasn't to be had, from the description of
it in the literature.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aspf.race import Cell

from ._condition_variables import CONDITION_VARIABLES
from ._lock_free import LOCK_FREE
from ._pthreads import Bug, Mutex, Oracle, Program, named, run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("PROGRAMS",)


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


async def queue(size: int = 20) -> None:
    """The taker counts its attempts, not what it took, to find what it should get."""
    lock, oracle = Mutex(), Oracle()
    queued: list[int] = []
    stored = [0] * size
    may_put, may_take = True, False

    async def put() -> None:
        nonlocal may_put, may_take
        value = 0
        async with lock:
            queued.append(value)
        for i in range(1, size):
            async with lock:
                if may_put:
                    value += 1
                    queued.append(value)
                    stored[i] = value
                    may_put, may_take = False, True

    async def take() -> None:
        nonlocal may_put, may_take
        for i in range(size):
            async with lock:
                if may_take:
                    oracle.expect(queued.pop(0) == stored[i])
                    may_put, may_take = True, False

    await run(put, take)
    oracle.judge()


async def fsbench(tasks: int = 27, blocks: int = 26) -> None:
    """A file system's allocator of blocks, with one task more than it has locks: always fails."""
    inode_locks = [Mutex(f"inode lock {i}") for i in range(blocks)]
    block_locks = [Mutex(f"block lock {i}") for i in range(blocks)]
    inodes, busy = [0] * blocks, [False] * blocks
    oracle = Oracle()

    async def allocate(i: int) -> None:
        oracle.expect(i < blocks)
        # The original aborts here.
        if i >= blocks:
            return
        async with inode_locks[i]:
            block = 2 * i % blocks
            for _ in range(blocks // 2):
                async with block_locks[block]:
                    if not busy[block]:
                        busy[block] = True
                        inodes[i] = block + 1
                        break
                block = (block + 1) % blocks

    await run(*[partial(allocate, i) for i in range(tasks)])
    oracle.judge()


async def phase01() -> None:
    """The second lock of x is never given back, so one of the two never gets on: always fails."""
    x, y = Mutex("x"), Mutex("y")

    async def use() -> None:
        async with x:
            pass
        await x.lock()
        for _ in range(2):
            async with y:
                pass

    await run(use, use)


async def din_phil(n: int) -> None:
    """Philosophers take both forks in an atomic section; the last to have eaten always fails.

    SCTBench's `din_phil<n>_sat`. Who wants a deadlock takes `philosophers`.
    """
    forks, eaten = Cell("all on the table", "forks"), Cell(0, "eaten")
    oracle = Oracle()

    async def dine() -> None:
        # Takes two and puts them back in this one step, so nobody sees a fork missing.
        await forks.update(lambda table: table)
        oracle.expect(await eaten.update(lambda so_far: so_far + 1) < n)

    await run(*[dine] * n)
    oracle.judge()


async def ctrace_test(traces: int = 3, *, seeded: bool = True) -> None:
    """Two tasks trace through a library that counts the messages under a lock for readers.

    The test of the library ctrace, from Inspect: a task enters itself into the table, then traces.
    Of the table only the lock is left, which many may hold who only read it; and the number of
    messages, which they all increment.

    Args:
        traces: How many messages each task writes.
        seeded: With the bug; else the increment is one step.
    """
    # A semaphore with one token does what a mutex does here.
    table, counting = Mutex("table"), Mutex("reads")
    messages, reads = Cell(0, "messages"), 0

    async def trace() -> None:
        nonlocal reads
        async with counting:
            if not reads:
                await table.lock()
            reads += 1
        if seeded:
            await messages.set(await messages.get() + 1)
        else:
            await messages.update(lambda n: n + 1)
        async with counting:
            reads -= 1
            if not reads:
                await table.unlock()

    async def work() -> None:
        async with table:
            pass
        for _ in range(traces):
            await trace()

    await run(work, work)
    if messages.peek() != 2 * traces:
        raise Bug("a message was not counted")


#: By the name that the literature, or the reference table, has for them.
PROGRAMS: dict[str, Program] = {
    name: named(name, program, *args)
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
        *((f"reorder_{n}", reorder, n - 1, 1) for n in (50, 100)),
        ("stack", stack),
        ("stringbuffer", stringbuffer),
        ("token_ring", token_ring),
        ("twostage", twostage, 1, 1),
        *((f"twostage_{n}", twostage, n - 1, 1) for n in (20, 50, 100)),
        ("wronglock_3", wronglock, 3),
        ("wronglock", wronglock, 7),
        ("queue", queue),
        ("fsbench", fsbench),
        ("phase01", phase01),
        *((f"din_phil_{n}", din_phil, n) for n in range(2, 8)),
        ("ctrace_test", ctrace_test),
    )
}
PROGRAMS |= CONDITION_VARIABLES | LOCK_FREE
