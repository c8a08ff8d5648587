"""The lock as its users meet it, on both backends."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aspf._rwlock import ReadWriteLock

pytestmark = pytest.mark.anyio


class Guest:
    """A task that takes the lock, says so in the log and leaves when told."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name
        self.leave = anyio.Event()

    async def read(self, lock: ReadWriteLock) -> None:
        """Stay inside as a reader."""
        async with lock.read():
            await self._stay()

    async def write(self, lock: ReadWriteLock) -> None:
        """Stay inside as a writer."""
        async with lock.write():
            await self._stay()

    async def _stay(self) -> None:
        self.log.append(self.name)
        await self.leave.wait()


async def test_readers_share_and_writers_do_not() -> None:
    """Broken if a second reader waits, or a writer enters beside a reader or another writer."""
    lock, log = ReadWriteLock(), []
    r1, r2, w1, w2 = (Guest(log, name) for name in ("r1", "r2", "w1", "w2"))
    async with anyio.create_task_group() as tasks:
        for coroutine in (r1.read, r2.read, w1.write, w2.write):
            tasks.start_soon(coroutine, lock)
            await anyio.wait_all_tasks_blocked()
        assert log == ["r1", "r2"]
        r1.leave.set()
        await anyio.wait_all_tasks_blocked()
        assert log == ["r1", "r2"]
        r2.leave.set()
        await anyio.wait_all_tasks_blocked()
        assert log == ["r1", "r2", "w1"]
        w1.leave.set()
        await anyio.wait_all_tasks_blocked()
        assert log == ["r1", "r2", "w1", "w2"]
        w2.leave.set()

    assert lock.statistics().writer is None


async def test_phases_alternate() -> None:
    """Broken if a reader passes a waiting writer, or the next writer passes the waiting readers."""
    lock, log = ReadWriteLock(), []
    r1, w1, r2, w2, r3 = (Guest(log, name) for name in ("r1", "w1", "r2", "w2", "r3"))
    async with anyio.create_task_group() as tasks:
        for coroutine in (r1.read, w1.write, r2.read, w2.write, r3.read):
            tasks.start_soon(coroutine, lock)
            await anyio.wait_all_tasks_blocked()
        for guest in (r1, w1, r2, r3, w2):
            guest.leave.set()
            await anyio.wait_all_tasks_blocked()

    # r2 and r3 are one phase, which two tasks enter in the order of the backend's choice.
    assert [*log[:2], *sorted(log[2:4]), log[4]] == ["r1", "w1", "r2", "r3", "w2"]


async def test_downgrade_lets_waiting_readers_in_and_no_writer() -> None:
    """Broken if a writer enters between the write and the read hold, or readers stay outside."""
    lock, log = ReadWriteLock(), []
    reader, writer = Guest(log, "reader"), Guest(log, "writer")
    async with anyio.create_task_group() as tasks:
        async with lock.write():
            tasks.start_soon(writer.write, lock)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(reader.read, lock)
            await anyio.wait_all_tasks_blocked()
            lock.downgrade()
            await anyio.wait_all_tasks_blocked()
            assert log == ["reader"]
            assert lock.statistics().readers == 2
        await anyio.wait_all_tasks_blocked()
        assert log == ["reader"]
        reader.leave.set()
        await anyio.wait_all_tasks_blocked()
        assert log == ["reader", "writer"]
        writer.leave.set()


async def test_nowait_takes_or_would_block() -> None:
    """Broken if a nowait form queues, passes a waiting writer, or takes a lock that is held."""
    lock = ReadWriteLock()
    lock.acquire_read_nowait()
    async with anyio.create_task_group() as tasks:

        async def refuses_a_writer() -> None:
            with pytest.raises(anyio.WouldBlock):
                lock.acquire_write_nowait()
            lock.acquire_read_nowait()
            lock.release_read()

        tasks.start_soon(refuses_a_writer)
        await anyio.wait_all_tasks_blocked()
        writer = Guest([], "writer")
        tasks.start_soon(writer.write, lock)
        await anyio.wait_all_tasks_blocked()

        async def refuses_a_reader_behind_a_writer() -> None:
            with pytest.raises(anyio.WouldBlock):
                lock.acquire_read_nowait()

        tasks.start_soon(refuses_a_reader_behind_a_writer)
        await anyio.wait_all_tasks_blocked()
        assert lock.statistics().readers_waiting == 0
        lock.release_read()
        writer.leave.set()

    lock.acquire_write_nowait()
    lock.release_write()
    assert lock.statistics().writer is None


@pytest.mark.parametrize("hold", ["read", "write"])
@pytest.mark.parametrize("again", ["read", "write"])
async def test_reentry_is_refused_with_its_cure(hold: str, again: str) -> None:
    """Broken if a task can deadlock on itself, or is not told what to do instead."""
    lock = ReadWriteLock()
    cures = {
        ("read", "read"): "Acquire once",
        ("read", "write"): "downgrade",
        ("write", "read"): "downgrade",
        ("write", "write"): "acquire once",
    }
    async with getattr(lock, hold)():
        before = lock.statistics()
        with pytest.raises(RuntimeError, match=cures[hold, again]):
            await getattr(lock, f"acquire_{again}")()
        with pytest.raises(RuntimeError, match=cures[hold, again]):
            getattr(lock, f"acquire_{again}_nowait")()
        assert lock.statistics() == before


async def test_release_belongs_to_the_task_that_acquired() -> None:
    """Broken if a task can end another's hold, or release twice unnoticed."""
    lock = ReadWriteLock()
    async with lock.write():
        with pytest.raises(RuntimeError, match="for reading: it was released already"):
            lock.release_read()
        async with anyio.create_task_group() as tasks:

            async def stranger() -> None:
                with pytest.raises(RuntimeError, match="another task acquired it"):
                    lock.release_write()
                with pytest.raises(RuntimeError, match="another task acquired it"):
                    lock.downgrade()

            tasks.start_soon(stranger)
        assert lock.statistics().writer == anyio.get_current_task()

    with pytest.raises(RuntimeError, match="does not hold the lock for writing"):
        lock.release_write()


async def test_a_body_that_raises_releases() -> None:
    """Broken if an exception leaves the lock held."""
    lock = ReadWriteLock()
    for hold in (lock.read(), lock.write()):
        with pytest.raises(ZeroDivisionError):
            async with hold:
                raise ZeroDivisionError

    lock.acquire_write_nowait()
    lock.release_write()


async def test_one_manager_serves_many_tasks() -> None:
    """Broken if what read() returns keeps state of its own that a second use would meet."""
    lock = ReadWriteLock()
    reading = lock.read()
    peak = 0

    async def read() -> None:
        nonlocal peak
        async with reading:
            await checkpoint()
            peak = max(peak, lock.statistics().readers)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(read)

    assert (peak, lock.statistics().readers) == (3, 0)


async def test_every_acquire_is_a_checkpoint() -> None:
    """Broken if a loop over a free lock starves the other tasks."""
    lock = ReadWriteLock()
    turns: list[str] = []

    async def take(name: str, *, writing: bool) -> None:
        for _ in range(2):
            await (lock.acquire_write if writing else lock.acquire_read)()
            turns.append(name)
            (lock.release_write if writing else lock.release_read)()

    for writing in (False, True):
        turns.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda writing=writing: take("a", writing=writing))
            tasks.start_soon(lambda writing=writing: take("b", writing=writing))
        assert sorted(turns[:2]) == ["a", "b"]


async def test_statistics_and_repr_show_the_moment() -> None:
    """Broken if what a debugger prints does not say who holds and who waits."""
    lock, log = ReadWriteLock(), []
    assert re.fullmatch(
        r"<aspf.ReadWriteLock at 0x[0-9a-f]+, free, 0 readers and 0 writers waiting>", repr(lock)
    )
    w1, w2, reader = (Guest(log, name) for name in ("w1", "w2", "reader"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(w1.write, lock, name="the builder")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(w2.write, lock)
        tasks.start_soon(reader.read, lock)
        await anyio.wait_all_tasks_blocked()
        assert "written by 'the builder', 1 readers and 1 writers waiting" in repr(lock)
        statistics = lock.statistics()
        assert statistics.writer is not None
        assert statistics.writer.name == "the builder"
        assert (statistics.readers, statistics.peak_readers) == (0, 0)
        assert (statistics.readers_waiting, statistics.writers_waiting) == (1, 1)
        w1.leave.set()
        await anyio.wait_all_tasks_blocked()
        assert "1 reading, 0 readers and 1 writers waiting" in repr(lock)
        reader.leave.set()
        w2.leave.set()

    assert (lock.statistics().peak_readers, lock.statistics().peak_waiting) == (1, 2)
    with pytest.raises(FrozenInstanceError):
        statistics.readers = 7
