"""The lock-free programs of SCTBench: the work-stealing queues of CHESS, and SafeStack.

The work-stealing queue is Cilk's THE protocol (Frigo, Leiserson and Randall, "The Implementation
of the Cilk-5 Multithreaded Language", PLDI 1998) as Daan Leijen wrote it for CHESS: its owner
pushes and pops at the tail without a lock, others steal at the head under one. How many tasks do
what follows the sources of SCTBench, with two thieves who try once or twice. SafeStack is Dmitry
Vyukov's: an array whose free slots are a stack, linked by index.

See `_programs.py` for the other programs and `_pthreads.py` for the granularity.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aspf.race import Cell

from ._pthreads import Bug, Mutex, Program, named, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("LOCK_FREE", "work_steal_queue")


class WorkStealQueue:
    """The queue; every access to head, tail and elements is a step.

    Args:
        interlocked: Decrement the tail and increment the head in one step each, as CHESS's
            interlocked variant does; else a read and a write.
        seeded: With the bug that CHESS calls BUG3: a push may take the slot that a steal has
            claimed and not read yet.
        size: For how many elements there is room at first, a power of two.
    """

    def __init__(self, *, interlocked: bool, seeded: bool, size: int = 2) -> None:
        self.head = Cell(0, "head")
        self.tail = Cell(0, "tail")
        self.elements = [Cell(-1, f"element {i}") for i in range(size)]
        self.lock = Mutex("queue lock")
        self._interlocked = interlocked
        self._kept_free = 0 if seeded else 1

    @property
    def mask(self) -> int:
        return len(self.elements) - 1

    async def steal(self) -> int:
        async with self.lock:
            head = await self._add(self.head, 1) - 1
            if head < await self.tail.get():
                return await self.elements[head & self.mask].get()
            await self.head.set(head)
            return -1

    async def pop(self) -> int:
        tail = await self._add(self.tail, -1)
        if await self.head.get() <= tail:
            return await self.elements[tail & self.mask].get()
        await self.tail.set(tail + 1)
        return await self._pop_locked()

    async def push(self, item: int) -> None:
        tail = await self.tail.get()
        if tail < await self.head.get() + len(self.elements) - self._kept_free:
            await self.elements[tail & self.mask].set(item)
            await self.tail.set(tail + 1)
        else:
            await self._push_locked(item)

    async def _pop_locked(self) -> int:
        async with self.lock:
            tail = await self._add(self.tail, -1)
            found = -1
            if await self.head.get() <= tail:
                found = await self.elements[tail & self.mask].get()
            else:
                await self.tail.set(tail + 1)
            if await self.head.get() > tail:
                await self.head.set(0)
                await self.tail.set(0)
                found = -1
            return found

    async def _push_locked(self, item: int) -> None:
        async with self.lock:
            head = await self.head.get()
            count = await self.tail.get() - head
            head &= self.mask
            await self.head.set(head)
            await self.tail.set(head + count)
            if count >= self.mask:
                old, mask = self.elements, self.mask
                self.elements = [Cell(-1, f"element {i}") for i in range(2 * len(old))]
                for i in range(count):
                    self.elements[i].poke(await old[(head + i) & mask].get())
                await self.head.set(0)
                await self.tail.set(count)
            tail = await self.tail.get()
            await self.elements[tail & self.mask].set(item)
            await self.tail.set(tail + 1)

    async def _add(self, cell: Cell[int], n: int) -> int:
        if self._interlocked:
            return await cell.update(lambda value: value + n)
        value = await cell.get() + n
        await cell.set(value)
        return value


async def work_steal_queue(
    stealers: int, attempts: int, *, interlocked: bool, pushes_first: bool, seeded: bool = True
) -> None:
    """Every item must be taken once; see `WorkStealQueue` for *interlocked* and *seeded*."""
    items = 4
    queue = WorkStealQueue(interlocked=interlocked, seeded=seeded)
    taken = [0] * items

    async def take(get: Callable[[], Awaitable[int]]) -> None:
        item = await get()
        if item != -1:
            taken[item] += 1

    async def steal() -> None:
        for _ in range(attempts):
            await take(queue.steal)

    async def own() -> None:
        if pushes_first:
            for item in range(items):
                await queue.push(item)
        else:
            for item in range(0, items, 2):
                await queue.push(item)
                await queue.push(item + 1)
                await take(queue.pop)
        for _ in range(items if pushes_first else items // 2):
            await take(queue.pop)

    await run(*[steal] * stealers, main=own)
    if taken != [1] * items:
        raise Bug(f"the items were taken {taken} times")


async def safe_stack(tasks: int = 3, rounds: int = 2) -> None:
    """A slot that was popped must be nobody else's until it is pushed back.

    The hardest small program that is known: the published studies find it after hundreds of
    thousands of schedules, if at all.
    """
    value = [Cell(0, f"value {i}") for i in range(tasks)]
    following = [Cell(i + 1 if i + 1 < tasks else -1, f"next {i}") for i in range(tasks)]
    head, count = Cell(0, "head"), Cell(tasks, "count")
    bugs: list[int] = []

    async def pop() -> int:
        # The original tries for ever.
        for _ in range(20):
            if await count.get() <= 1:
                break
            first = await head.get()
            second = await _exchange(following[first], -1)
            if second >= 0:
                if await _compare_exchange(head, first, second):
                    await count.update(lambda n: n - 1)
                    return first
                await _exchange(following[first], second)
        return -1

    async def push(index: int) -> None:
        first = await head.get()
        while True:
            await following[index].set(first)
            if await _compare_exchange(head, first, index):
                break
            first = await head.get()
        await count.update(lambda n: n + 1)

    async def work(me: int) -> None:
        for _ in range(rounds):
            index = await pop()
            if index < 0:
                continue
            await value[index].set(me)
            if await value[index].get() != me:
                bugs.append(me)
            await push(index)

    await run(*[partial(work, i) for i in range(tasks)])
    if bugs:
        raise Bug("two tasks had the same slot")


async def _exchange(cell: Cell[int], new: int) -> int:
    was = -2

    def change(old: int) -> int:
        nonlocal was
        was = old
        return new

    await cell.update(change)
    return was


async def _compare_exchange(cell: Cell[int], expected: int, new: int) -> bool:
    done = False

    def change(old: int) -> int:
        nonlocal done
        done = old == expected
        return new if done else old

    await cell.update(change)
    return done


def _queue(name: str, stealers: int, attempts: int, **variant: bool) -> tuple[str, Program]:
    return name, named(name, partial(work_steal_queue, stealers, attempts, **variant))


#: By the name that the literature has for them.
LOCK_FREE: dict[str, Program] = dict(
    (
        _queue("WorkStealQueue", 2, 1, interlocked=False, pushes_first=False),
        _queue("InterlockedWorkStealQueue", 2, 1, interlocked=True, pushes_first=False),
        _queue("StateWorkStealQueue", 2, 2, interlocked=False, pushes_first=True),
        _queue("InterlockedWorkStealQueueWithState", 1, 2, interlocked=True, pushes_first=False),
        ("SafeStack", named("SafeStack", safe_stack)),
    )
)
