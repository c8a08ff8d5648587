"""Random programs whose tasks share nothing but primitives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import trio
from hypothesis import strategies as st

from aspf import RangeInvalidated, RangeMap, ReadWriteLock
from aspf.race import Cell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Op = tuple[str, int, int]


class World:
    """Two of each primitive, one log for each task."""

    def __init__(self, tasks: int) -> None:
        self.logs: list[list[object]] = [[] for _ in range(tasks)]
        self.scopes = [trio.CancelScope() for _ in range(tasks)]
        self.locks = [trio.Lock(), anyio.Lock(fast_acquire=True)]
        self.semaphores = [trio.Semaphore(1), anyio.Semaphore(1)]
        self.events = [trio.Event(), anyio.Event()]
        self.conditions = [trio.Condition(), anyio.Condition()]
        self.limiters = [trio.CapacityLimiter(1), anyio.CapacityLimiter(1)]
        self.channels: list[Any] = [
            trio.open_memory_channel[int](0),
            anyio.create_memory_object_stream[int](1),
        ]
        self.lot = trio.lowlevel.ParkingLot()
        self.cells = [Cell(0, "cell 0"), Cell(0, "cell 1")]
        self.rwlock = ReadWriteLock()
        self.retired: list[str] = []
        self.ranges = RangeMap([(0, 4, "a"), (4, 8, "b")], on_retire=self.retired.append)
        # The nursery in which others start tasks; a cell, since whose it is changes.
        self.home: Cell[trio.Nursery | None] = Cell(None, "home")
        # Of the children that tasks start, by a name that doesn't depend on when it was.
        self.children: dict[str, list[object]] = {}
        self._born = [0] * tasks

    def child(self, me: int) -> tuple[str, Any]:
        """Name the next child of a task, and give it a log of its own."""
        self._born[me] += 1
        name = f"child {self._born[me]} of {me}"
        self.children[name] = []
        return name, self.children[name].append


async def act(world: World, me: int, op: Op) -> None:
    """Do one thing, and log what can be seen of it."""
    kind, which, n = op
    log = world.logs[me].append
    await OPS[kind](world, me, which, n, log)


async def _lock(world: World, me: int, which: int, n: int, log: Any) -> None:
    async with world.locks[which]:
        log("locked")
        if n:
            await trio.lowlevel.checkpoint()


async def _lock_nowait(world: World, me: int, which: int, n: int, log: Any) -> None:
    lock = world.locks[which]
    try:
        lock.acquire_nowait()
    except (trio.WouldBlock, anyio.WouldBlock):
        log("busy")
        return
    try:
        await trio.lowlevel.checkpoint()
    finally:
        lock.release()


async def _locked(world: World, me: int, which: int, n: int, log: Any) -> None:
    lock = world.locks[which]
    log(lock.locked() if n else lock.statistics().tasks_waiting)


async def _semaphore(world: World, me: int, which: int, n: int, log: Any) -> None:
    async with world.semaphores[which]:
        log(world.semaphores[1 - which].value)
        if n:
            await trio.lowlevel.checkpoint()


async def _limiter(world: World, me: int, which: int, n: int, log: Any) -> None:
    async with world.limiters[which]:
        log(world.limiters[1 - which].borrowed_tokens)
        if n:
            await trio.lowlevel.checkpoint()


async def _widen(world: World, me: int, which: int, n: int, log: Any) -> None:
    world.limiters[which].total_tokens = n + 1


async def _set(world: World, me: int, which: int, n: int, log: Any) -> None:
    world.events[which].set()


async def _wait(world: World, me: int, which: int, n: int, log: Any) -> None:
    await world.events[which].wait()
    log("woken")


async def _is_set(world: World, me: int, which: int, n: int, log: Any) -> None:
    event = world.events[which]
    log(event.is_set() if n else event.statistics().tasks_waiting)


async def _wait_for(world: World, me: int, which: int, n: int, log: Any) -> None:
    condition = world.conditions[which]
    async with condition:
        if n:
            with trio.move_on_after(n):
                await condition.wait()
                log("notified")
        else:
            await condition.wait()
            log("notified")


async def _notify(world: World, me: int, which: int, n: int, log: Any) -> None:
    condition = world.conditions[which]
    async with condition:
        condition.notify(n)


async def _send(world: World, me: int, which: int, n: int, log: Any) -> None:
    await world.channels[which][0].send(10 * me + n)
    log("sent")


async def _receive(world: World, me: int, which: int, n: int, log: Any) -> None:
    log(await world.channels[which][1].receive())


async def _send_nowait(world: World, me: int, which: int, n: int, log: Any) -> None:
    try:
        world.channels[which][0].send_nowait(10 * me + n)
    except (trio.WouldBlock, anyio.WouldBlock):
        log("full")


async def _receive_nowait(world: World, me: int, which: int, n: int, log: Any) -> None:
    try:
        log(world.channels[which][1].receive_nowait())
    except (trio.WouldBlock, anyio.WouldBlock):
        log("empty")


async def _count(world: World, me: int, which: int, n: int, log: Any) -> None:
    log(repr(world.channels[which][n % 2].statistics()))


async def _close(world: World, me: int, which: int, n: int, log: Any) -> None:
    world.channels[which][n % 2].close()


async def _clone(world: World, me: int, which: int, n: int, log: Any) -> None:
    with world.channels[which][0].clone() as sender:
        await sender.send(10 * me + n)


async def _cancel(world: World, me: int, which: int, n: int, log: Any) -> None:
    world.scopes[n % len(world.scopes)].cancel()


async def _ask(world: World, me: int, which: int, n: int, log: Any) -> None:
    scope = world.scopes[n % len(world.scopes)]
    log(scope.cancel_called if which else scope.cancelled_caught)


async def _hurry(world: World, me: int, which: int, n: int, log: Any) -> None:
    world.scopes[n % len(world.scopes)].deadline = trio.current_time() + which


async def _shielded(world: World, me: int, which: int, n: int, log: Any) -> None:
    with trio.CancelScope(shield=True) as scope:
        await trio.lowlevel.checkpoint()
        log(trio.current_effective_deadline())
        if n:
            scope.shield = False
            await trio.lowlevel.checkpoint_if_cancelled()
            log("not cancelled")
    await trio.lowlevel.checkpoint_if_cancelled()
    log("not cancelled yet")


async def _shield(world: World, me: int, which: int, n: int, log: Any) -> None:
    world.scopes[n % len(world.scopes)].shield = bool(which)


async def _timeout(world: World, me: int, which: int, n: int, log: Any) -> None:
    with trio.move_on_after(n) as scope:
        await world.events[which].wait()
    log(scope.cancelled_caught)


async def _sleep(world: World, me: int, which: int, n: int, log: Any) -> None:
    await trio.sleep(n)


async def _nest(world: World, me: int, which: int, n: int, log: Any) -> None:
    async with trio.open_nursery() as nursery:
        for do in (_wait, _lock):
            name, log = world.child(me)
            nursery.start_soon(do, world, me, which, n, log, name=name)


async def _spawn(world: World, me: int, which: int, n: int, log: Any) -> None:
    nursery = await world.home.get()
    assert nursery is not None
    name, child_log = world.child(me)
    try:
        nursery.start_soon(_semaphore, world, me, which, n, child_log, name=name)
    except RuntimeError:
        log("closed")


async def _start(world: World, me: int, which: int, n: int, log: Any) -> None:
    async def child(*, task_status: trio.TaskStatus[int]) -> None:
        await trio.lowlevel.checkpoint()
        task_status.started(n)
        await _lock(world, me, which, 0, child_log)

    nursery = await world.home.get()
    assert nursery is not None
    name, child_log = world.child(me)
    try:
        log(await nursery.start(child, name=name))
    except RuntimeError:
        log("closed")


async def _open(world: World, me: int, which: int, n: int, log: Any) -> None:
    async with trio.open_nursery() as nursery:
        await world.home.set(nursery)
        await trio.lowlevel.checkpoint()


async def _park(world: World, me: int, which: int, n: int, log: Any) -> None:
    await world.lot.park()
    log(len(world.lot))


async def _unpark(world: World, me: int, which: int, n: int, log: Any) -> None:
    if which:
        world.lot.unpark(count=n)
    else:
        other = trio.lowlevel.ParkingLot()
        world.lot.repark(other, count=n)
        await trio.lowlevel.checkpoint()
        other.unpark_all()


async def _read(world: World, me: int, which: int, n: int, log: Any) -> None:
    async with world.rwlock.read():
        log(world.rwlock.statistics().readers)
        if n:
            await trio.lowlevel.checkpoint()


async def _write(world: World, me: int, which: int, n: int, log: Any) -> None:
    async with world.rwlock.write():
        await trio.lowlevel.checkpoint()
        if n:
            world.rwlock.downgrade()
            world.rwlock.release_read()
            await world.rwlock.acquire_write()


async def _pin(world: World, me: int, which: int, n: int, log: Any) -> None:
    with world.ranges.pin(4 * which) as region:
        log(region.payload)
        await trio.lowlevel.checkpoint()
        log(region.is_current)


async def _assign(world: World, me: int, which: int, n: int, log: Any) -> None:
    drain = world.ranges.assign(4 * which, 8, f"{me}.{n}")
    if n:
        await drain.wait()
    log(drain.settled)


async def _hold(world: World, me: int, which: int, n: int, log: Any) -> None:
    try:
        async with world.ranges.hold(4 * which, cancel_on_invalidate=bool(n)) as region:
            log(region.payload)
            await trio.lowlevel.checkpoint()
    except RangeInvalidated:
        log("invalidated")


async def _look(world: World, me: int, which: int, n: int, log: Any) -> None:
    log(world.ranges.statistics().pins if n else world.ranges.get(4 * which))


async def _fetch(world: World, me: int, which: int, n: int, log: Any) -> None:
    async def factory() -> str:
        await trio.lowlevel.checkpoint()
        return f"{me}.{n}"

    log((await world.ranges.get_or_insert(8, 12, factory)).payload)


async def _update(world: World, me: int, which: int, n: int, log: Any) -> None:
    log(await world.cells[which].update(lambda value: 2 * value + n))


async def _yield(world: World, me: int, which: int, n: int, log: Any) -> None:
    await trio.lowlevel.checkpoint()


async def _raise(world: World, me: int, which: int, n: int, log: Any) -> None:
    raise KeyError(me)


OPS: dict[str, Callable[[World, int, int, int, Any], Awaitable[None]]] = {
    name[1:]: value
    for name, value in list(globals().items())
    if name.startswith("_") and not name.startswith("__") and callable(value)
}


def make(drawn: list[list[Op]]) -> Callable[[], Awaitable[object]]:
    """Make a program of a list of operations a task."""

    async def program() -> object:
        world = World(len(drawn))

        async def task(me: int, plan: list[Op]) -> None:
            with world.scopes[me]:
                for op in plan:
                    await act(world, me, op)
                world.logs[me].append("done")

        try:
            async with trio.open_nursery() as nursery:
                world.home.poke(nursery)
                for me, plan in enumerate(drawn):
                    nursery.start_soon(task, me, plan, name=f"task {me}")
        except* (
            KeyError,
            trio.EndOfChannel,
            trio.ClosedResourceError,
            trio.BrokenResourceError,
            anyio.EndOfStream,
            anyio.ClosedResourceError,
            anyio.BrokenResourceError,
        ) as errors:
            world.logs.append(sorted(map(repr, errors.exceptions)))
        finally:
            for sender, receiver in world.channels:
                sender.close()
                receiver.close()
        return world.logs, sorted(world.children.items()), world.retired

    return program


@st.composite
def plans(draw: Any, *, tasks: int, ops: int, kinds: int = 3) -> list[list[Op]]:
    """A few operations for each of some tasks, of a few kinds only, so that they meet."""
    names = draw(st.lists(st.sampled_from(sorted(OPS)), min_size=1, max_size=kinds, unique=True))
    op = st.tuples(st.sampled_from(names), st.integers(0, 1), st.integers(0, 2))
    return draw(st.lists(st.lists(op, min_size=1, max_size=ops), min_size=2, max_size=tasks))
