"""Small programs whose every failure is known: SCTBench's, on cells, and some on trio's own."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from aspf.race import Atomic, Cell, Lifetime, note, watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Mutex:
    """A lock in one word of memory."""

    def __init__(self, name: str) -> None:
        self._held = Cell(False, name)

    async def __aenter__(self) -> None:
        await self._held.update_when(lambda held: not held, lambda _: True, note="lock")

    async def __aexit__(self, *_: object) -> None:
        await self._held.set(False, note="unlock")


def lost_update(tasks: int) -> Callable[[], Awaitable[None]]:
    """Each of *tasks* reads a counter and writes it back, one higher."""

    async def program() -> None:
        counter = Cell(0, "counter")

        async def increment() -> None:
            await counter.set(await counter.get() + 1)

        async with trio.open_nursery() as nursery:
            for i in range(tasks):
                nursery.start_soon(increment, name=f"CPU {i}")
        if counter.peek() != tasks:
            raise AssertionError(f"{tasks - counter.peek()} of {tasks} updates lost")

    program.__name__ = f"lost_update_{tasks}"
    return program


async def deadlock01() -> None:
    """AB, BA."""
    a, b = Mutex("a"), Mutex("b")

    async def forward() -> None:
        async with a, b:
            pass

    async def backward() -> None:
        async with b, a:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(forward, name="CPU 0")
        nursery.start_soon(backward, name="CPU 1")


async def account() -> None:
    """Who checks the balance, checks it before both payments are booked."""
    lock, balance, booked = Mutex("lock"), Cell(10, "balance"), Cell(0, "booked")

    async def book(amount: int) -> None:
        async with lock:
            await balance.set(await balance.get() + amount)
            await booked.set(await booked.get() + 1)

    async def check() -> None:
        async with lock:
            if await booked.get() == 2 and await balance.get() == 9:
                raise AssertionError("the check came last")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        nursery.start_soon(book, 4)
        nursery.start_soon(book, -5)


async def lazy01() -> None:
    """Two tasks add 1 and 2, a third objects to 3."""
    lock, data = Mutex("lock"), Cell(0, "data")

    async def add(n: int) -> None:
        async with lock:
            await data.set(await data.get() + n)

    async def look() -> None:
        async with lock:
            if await data.get() >= 3:
                raise AssertionError("data >= 3")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add, 1)
        nursery.start_soon(add, 2)
        nursery.start_soon(look)


async def stringbuffer() -> None:
    """Append a buffer to another, taking its length and its characters in two steps."""
    lock, length = Mutex("lock"), Cell(3, "length")

    async def erase_and_append() -> None:
        async with lock:
            await length.set(0)
        async with lock:
            await length.set(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(erase_and_append)
        async with lock:
            size = await length.get()
        async with lock:
            if await length.get() < size:
                raise AssertionError("copied beyond the end")


async def twostage() -> None:
    """Two words that belong together, each under a lock of its own."""
    first, second = Mutex("first"), Mutex("second")
    data1, data2 = Cell(0, "data1"), Cell(0, "data2")

    async def write() -> None:
        async with first:
            await data1.set(1)
        async with second:
            await data2.set(await data1.get() + 1)

    async def read() -> None:
        async with first:
            seen = await data1.get()
        if seen:
            async with second:
                if await data2.get() != seen + 1:
                    raise AssertionError("data2 is behind data1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, name="CPU 0")
        nursery.start_soon(read, name="CPU 1")


async def use_after_free() -> None:
    """A reference is taken in a moment at which nothing keeps the object."""
    vma = Lifetime("vma")
    refcnt = Atomic(1, "vma.refcnt", lifetime=vma)

    async def find_vma() -> None:
        note("found in the tree")
        await refcnt.inc_return(note="too late?")

    async def page_fault() -> None:
        await find_vma()

    async def do_munmap() -> None:
        if await refcnt.dec_return() == 0:
            await vma.free()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(page_fault, name="CPU 0 (fault)")
        nursery.start_soon(do_munmap, name="CPU 1 (munmap)")


async def lost_notification() -> None:
    """A consumer looks, yields, and only then waits; on trio's own Event."""
    items: list[int] = []
    arrived = trio.Event()

    async def consume() -> None:
        nonlocal arrived
        if not items:
            await trio.lowlevel.checkpoint()
            arrived = trio.Event()
            await arrived.wait()

    async def produce() -> None:
        items.append(1)
        arrived.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume, name="the consumer")
        nursery.start_soon(produce, name="the producer")


class BatonLock:
    """A lock whose releaser hands it to the first waiter, dead or alive."""

    def __init__(self, *, forgets_the_dead: bool) -> None:
        self.held = False
        self._forgets_the_dead = forgets_the_dead
        self._waiters: deque[trio.Event] = deque()

    async def acquire(self) -> None:
        """Take the lock or wait for the baton."""
        await trio.lowlevel.checkpoint()
        if not self.held:
            self.held = True
            return
        baton = trio.Event()
        self._waiters.append(baton)
        try:
            await baton.wait()
        except trio.Cancelled:
            if self._forgets_the_dead:
                if baton.is_set():
                    self.release()
                else:
                    self._waiters.remove(baton)
            raise

    def release(self) -> None:
        """Pass the baton on."""
        if self._waiters:
            self._waiters.popleft().set()
        else:
            self.held = False


def baton_lock(*, forgets_the_dead: bool) -> Callable[[], Awaitable[object]]:
    """Three tasks take a lock each."""

    async def program() -> object:
        lock = BatonLock(forgets_the_dead=forgets_the_dead)

        async def work() -> None:
            await lock.acquire()
            try:
                await trio.lowlevel.checkpoint()
            finally:
                lock.release()

        async with trio.open_nursery() as nursery:
            for i in range(3):
                nursery.start_soon(work, name=f"CPU {i}")
        return lock.held

    return program


async def twostage_on_trio() -> None:
    """Two words that belong together, each under a lock of its own; trio's locks."""
    first, second = trio.Lock(), trio.Lock()
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
                if data2 != seen + 1:
                    raise AssertionError("data2 is behind data1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, name="CPU 0")
        nursery.start_soon(read, name="CPU 1")


async def misses_a_change() -> None:
    """What trio-util 0.4.0 does in `compose_values`: values are taken before they are followed."""
    value, changed = 0, trio.Event()

    async def follow() -> None:
        seen = value

        async def transition() -> None:
            await changed.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(transition)
            while seen != 1:
                await trio.sleep_forever()

    async def change() -> None:
        nonlocal value
        await trio.lowlevel.checkpoint()
        value = 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        nursery.start_soon(change)


async def leaks() -> None:
    """Release a lock after a nursery, which is never reached if all is cancelled."""
    lock = watch(trio.Lock(), name="lock")
    await lock.acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 1)
    lock.release()
