"""A cancelled task holds nothing, owes nothing, and strands nobody."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aspf._rwlock import ReadWriteLock

pytestmark = pytest.mark.anyio

only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def assert_free(lock: ReadWriteLock) -> None:
    """Check that nobody holds, nobody waits and no event is left behind."""
    now = lock.statistics()
    assert (now.readers, now.writer, now.readers_waiting, now.writers_waiting) == (0, None, 0, 0)
    assert not lock._wakeups


async def test_readers_wake_when_the_writer_before_them_is_cancelled() -> None:
    """Readers behind a cancelled writer go in at once, not when the long reader ends.

    Broken in aiorwlock 1.5.1: its cancelled writer wakes others only if nobody holds the lock. A
    reader that comes later finds no waiting writer and walks in, while the three that queued stay
    asleep until the long reader has finished (1.01 s against 0.08 s, in that experiment).
    """
    lock = ReadWriteLock()
    inside: list[int] = []
    give_up = anyio.CancelScope()

    async def write() -> None:
        with give_up:
            await lock.acquire_write()

    async def read(number: int) -> None:
        async with lock.read():
            inside.append(number)

    async with anyio.create_task_group() as tasks, lock.read():
        tasks.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        for number in range(3):
            tasks.start_soon(read, number)
        await anyio.wait_all_tasks_blocked()
        assert inside == []
        give_up.cancel()
        await anyio.wait_all_tasks_blocked()
        assert sorted(inside) == [0, 1, 2]

    assert_free(lock)


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_call_in_a_cancelled_scope_changes_nothing(kind: str) -> None:
    """Broken if a cancelled acquire of a free lock takes it, however briefly."""
    lock = ReadWriteLock()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await getattr(lock, f"acquire_{kind}")()
        pytest.fail("acquired in a cancelled scope")

    assert scope.cancelled_caught
    assert lock.statistics().peak_readers == 0
    assert_free(lock)


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_an_acquire_that_returns_is_held(kind: str) -> None:
    """Broken if a cancellation that arrives in the closing checkpoint undoes half of the acquire."""
    lock = ReadWriteLock()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: _cancel(scope))
            async with getattr(lock, kind)():
                now = lock.statistics()
                assert (now.readers, now.writer is not None) == ((kind == "read"), kind == "write")
                await checkpoint()

    assert_free(lock)


async def _cancel(scope: anyio.CancelScope) -> None:
    scope.cancel()


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_cancelled_waiter_leaves_the_queue(kind: str) -> None:
    """Broken if a task that gave up is let in later and holds the lock for ever."""
    lock = ReadWriteLock()
    scope = anyio.CancelScope()

    async def wait() -> None:
        with scope:
            await getattr(lock, f"acquire_{kind}")()

    async with anyio.create_task_group() as tasks, lock.write():
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        now = lock.statistics()
        assert (now.readers_waiting, now.writers_waiting) == (0, 0)

    assert_free(lock)


@only_asyncio
@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_waiter_cancelled_after_its_wakeup_passes_the_lock_on(kind: str) -> None:
    """Broken if the lock was handed to a task that is cancelled before it runs, and stays its.

    asyncio can do that (`Task.cancel` between `Future.set_result` and the task's next step); trio
    never throws into a task that has been rescheduled.
    """
    lock = ReadWriteLock()
    await lock.acquire_write()
    woken = asyncio.create_task(getattr(lock, f"acquire_{kind}")())
    await anyio.wait_all_tasks_blocked()
    heir = asyncio.create_task(_visit(lock))
    await anyio.wait_all_tasks_blocked()
    lock.release_write()
    assert (lock.statistics().readers, lock.statistics().writer is None) == (kind == "read",) * 2
    woken.cancel()
    await heir

    assert woken.cancelled()
    assert_free(lock)


async def _visit(lock: ReadWriteLock) -> None:
    async with lock.write():
        await checkpoint()


@only_asyncio
@pytest.mark.parametrize("kind", ["read", "write"])
async def test_native_cancellation_in_the_closing_checkpoint_releases(kind: str) -> None:
    """Broken if asyncio's own cancel, which no anyio shield stops, leaks the hold."""
    lock = ReadWriteLock()
    holder = asyncio.create_task(getattr(lock, f"acquire_{kind}")())
    await asyncio.sleep(0)
    assert not holder.done()
    assert (lock.statistics().readers, lock.statistics().writer is None) == (kind == "read",) * 2
    heir = asyncio.create_task(_visit(lock))
    holder.cancel()
    await heir

    assert holder.cancelled()
    assert_free(lock)


@only_asyncio
@pytest.mark.parametrize("victim", range(5))
async def test_native_cancellation_at_every_step_of_every_task(victim: int) -> None:
    """Broken if there is a moment at which a cancelled task keeps the lock or strands another."""
    for step in range(40):
        lock = ReadWriteLock()
        tasks = [
            asyncio.create_task(_use(lock, kind))
            for kind in ("read", "write", "read", "write", "read")
        ]
        for _ in range(step):
            await asyncio.sleep(0)
        tasks[victim].cancel()
        with anyio.fail_after(5):
            await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks].count(True) <= 1
        assert_free(lock)


async def _use(lock: ReadWriteLock, kind: str) -> None:
    for _ in range(2):
        async with getattr(lock, kind)():
            await asyncio.sleep(0)
