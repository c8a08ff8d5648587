"""The programs of SCTBench whose tasks wait on condition variables.

See `_programs.py` for the others and `_pthreads.py` for the granularity.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from aspf.race import Cell

from ._pthreads import Bug, Condition, Mutex, Program, named, run

__all__ = ("CONDITION_VARIABLES", "bounded_buffer", "qsort_mt")


async def arithmetic_prog(n: int = 3) -> None:
    """One produces, one adds up; the oracle objects to the right sum, so it always fails."""
    lock, empty, full = Mutex(), Condition("empty"), Condition("full")
    waiting = total = 0

    async def produce() -> None:
        nonlocal waiting
        for _ in range(n):
            async with lock:
                while waiting > 0:
                    await empty.wait(lock)
                waiting += 1
            await full.signal()

    async def consume() -> None:
        nonlocal waiting, total
        for i in range(n):
            async with lock:
                while waiting == 0:
                    await full.wait(lock)
                total += i
                waiting -= 1
            await empty.signal()
        total += n

    await run(produce, consume)
    if total == n * (n + 1) // 2:
        raise Bug("the sum is what the original says it must not be")


async def ping_pong(rounds: int, items: int, *, consumes: bool) -> None:
    """Put an item when there is none, take one when there is; too many to begin with, it hangs.

    SCTBench's sync01, in which nobody consumes, and sync02.
    """
    lock, empty, full = Mutex(), Condition("empty"), Condition("full")

    async def produce() -> None:
        nonlocal items
        for _ in range(rounds):
            async with lock:
                while items > 0:
                    await empty.wait(lock)
                items += 1
            await full.signal()

    async def consume() -> None:
        nonlocal items
        for _ in range(rounds):
            async with lock:
                while items == 0:
                    await full.wait(lock)
                items -= consumes
            await empty.signal()

    await run(produce, consume)


async def bounded_buffer(*, seeded: bool = True) -> None:
    """Two put and two take, and both sides wait on one condition: a signal wakes the wrong one.

    Inspect's boundedBuffer, of which the studies run PERIOD's copy. SCTBench's copy has a condition
    for each side, five tasks on each, and no bug that we see; PERIOD's we haven't read. So this is
    the classic defect of that name, with a buffer of one.

    Args:
        seeded: With the bug; else each side has a condition of its own.
    """
    lock, may_put = Mutex(), Condition("may put")
    may_take = may_put if seeded else Condition("may take")
    buffered = 0

    async def put() -> None:
        nonlocal buffered
        async with lock:
            while buffered == 1:
                await may_put.wait(lock)
            buffered += 1
            await may_take.signal()

    async def take() -> None:
        nonlocal buffered
        async with lock:
            while buffered == 0:
                await may_take.wait(lock)
            buffered -= 1
            await may_put.signal()

    await run(put, put, take, take)


IDLE, WORK, STOP = "idle", "work", "stop"


class Sorter:
    """A thread of the pool of `qsort_mt`, as the others see it."""

    def __init__(self, number: int) -> None:
        self.lock = Mutex(f"lock {number}")
        self.state = Cell(IDLE, f"state {number}")
        self.changed = Condition(f"state {number} changed")
        self.part = Cell((0, 0), f"part {number}")


async def qsort_mt(
    array: tuple[int, ...] = (3, 1, 2, 0), workers: int = 2, *, seeded: bool = True
) -> None:
    """Sort with a pool of workers; a worker may start on a part before it is told which.

    Diomidis Spinellis' multithreaded quicksort of 2007, from Inspect: what it does with threads,
    without the art that it puts into partitioning. Who gives work away marks the worker's state and
    only then takes the worker's lock to write down which part is meant. A worker that isn't waiting
    yet looks in between, sorts nothing, and is idle again; the part stays as it is.

    Args:
        array: What to sort, no two alike: then half of a part is below its median.
        workers: How many.
        seeded: With the bug; else the state changes under the worker's lock as well.
    """
    values = list(array)
    pool = [Sorter(i) for i in range(workers)]
    allocation = Mutex("allocation")
    # The main task gives the first one its work.
    idle = workers - 1

    async def allocate() -> Sorter | None:
        nonlocal idle
        async with allocation:
            for sorter in pool:
                if await sorter.state.get() == IDLE:
                    idle -= 1
                    if seeded:
                        await sorter.state.set(WORK)
                        await sorter.lock.lock()
                    else:
                        await sorter.lock.lock()
                        await sorter.state.set(WORK)
                    return sorter
        return None

    async def hand_out(sorter: Sorter, low: int, high: int) -> None:
        await sorter.part.set((low, high))
        await sorter.changed.signal()
        await sorter.lock.unlock()

    async def sort(low: int, high: int) -> None:
        while high - low > 1:
            middle = (low + high) // 2
            part = values[low:high]
            pivot = sorted(part)[middle - low]
            values[low:high] = sorted(part, key=lambda value: value >= pivot)
            sorter = await allocate() if middle - low > 1 and high - middle > 1 else None
            if sorter is None:
                await sort(low, middle)
            else:
                await hand_out(sorter, low, middle)
            low = middle

    async def work(me: Sorter) -> None:
        nonlocal idle
        while True:
            async with me.lock:
                while await me.state.get() == IDLE:
                    await me.changed.wait(me.lock)
            if await me.state.get() == STOP:
                return
            await sort(*await me.part.get())
            async with allocation:
                await me.state.set(IDLE)
                idle += 1
                if idle == workers:
                    for other in pool:
                        if other is not me:
                            async with other.lock:
                                await other.state.set(STOP)
                                await other.changed.signal()
                    return

    async def begin() -> None:
        await pool[0].lock.lock()
        await pool[0].state.set(WORK)
        await hand_out(pool[0], 0, len(values))

    await run(*[partial(work, sorter) for sorter in pool], main=begin)
    if any(a > b for a, b in pairwise(values)):
        raise Bug(f"not sorted: {values}")


#: By the name that the literature has for them.
CONDITION_VARIABLES: dict[str, Program] = {
    "arithmetic_prog": named("arithmetic_prog", arithmetic_prog),
    "sync01": named("sync01", partial(ping_pong, 1, 1, consumes=False)),
    "sync02": named("sync02", partial(ping_pong, 2, 2, consumes=True)),
    "boundedBuffer": named("boundedBuffer", bounded_buffer),
    "qsort_mt": named("qsort_mt", qsort_mt),
}
