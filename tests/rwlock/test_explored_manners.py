"""What the lock says of itself and what it refuses, at the moments that matter, in every order.

The programs fix the order in which tasks reach the lock (each sets an event in the step in which it
asks), and record all that can be seen from outside. The record must be the same in every schedule.
"""

from __future__ import annotations

import ast
import re
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
import trio
from _golden import check_golden
from anyio.lowlevel import checkpoint

from aspf import ReadWriteLock
from aspf.race import check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GOLDEN = Path(__file__).parent / "golden"


def _last(name: str | None) -> str | None:
    """Leave out where a function is from: that depends on how pytest was called."""
    return name and name.rpartition(".")[2]


class Record:
    """A lock, what was seen of it, and the tasks at it."""

    def __init__(self, make: Callable[[], ReadWriteLock] = ReadWriteLock) -> None:
        self.lock = make()
        self.seen: list[str] = []

    def look(self) -> None:
        """Note the statistics and the repr, without the address and the names' numbers."""
        now = self.lock.statistics()
        writer = now.writer and now.writer.name
        waiting = (now.readers_waiting, now.writers_waiting)
        self.seen.append(
            f"{now.readers} read, {_last(writer)} writes, {waiting} wait; "
            f"peaks {now.peak_readers} and {now.peak_waiting}"
        )
        text = re.sub(r"at 0x[0-9a-f]+", "at ...", repr(self.lock))
        self.seen.append(re.sub(r"'([\w.]+)'", lambda name: repr(_last(name[1])), text))

    def refused(self, call: Callable[[], None]) -> None:
        """Note how a sync call is refused, and that it changed nothing."""
        before = self.lock.statistics()
        try:
            call()
        except (RuntimeError, anyio.WouldBlock) as error:
            self.seen.append(f"{type(error).__name__} {error}"[:70])
        else:
            self.seen.append("not refused")
        assert self.lock.statistics() == before

    async def refused_later(self, call: Callable[[], Awaitable[None]]) -> None:
        """Note how an async call is refused."""
        try:
            await call()
        except RuntimeError as error:
            self.seen.append(str(error)[:60])

    async def queue(
        self, nursery: trio.Nursery, name: str, *, writing: bool, leave: trio.Event | None = None
    ) -> None:
        """Start a task that asks for the lock, and return when it has it or stands in line."""
        asked = trio.Event()

        async def ask() -> None:
            asked.set()
            async with self.lock.write() if writing else self.lock.read():
                self.seen.append(f"{name} in")
                if leave is not None:
                    await leave.wait()
            self.seen.append(f"{name} out")

        nursery.start_soon(ask, name=name)
        await asked.wait()


async def tell_and_refuse() -> list[str]:
    """Hold the lock in both ways, and try everything that must not be."""
    record = Record()
    lock = record.lock
    record.look()
    record.refused(lock.release_read)
    record.refused(lock.release_write)
    record.refused(lock.downgrade)
    lock.acquire_read_nowait()
    record.look()
    record.refused(lock.acquire_read_nowait)
    record.refused(lock.acquire_write_nowait)
    record.refused(lock.release_write)
    await record.refused_later(lock.acquire_read)
    await record.refused_later(lock.acquire_write)
    lock.release_read()
    lock.acquire_write_nowait()
    record.look()
    record.refused(lock.acquire_read_nowait)
    record.refused(lock.acquire_write_nowait)
    record.refused(lock.release_read)
    await record.refused_later(lock.acquire_read)
    await record.refused_later(lock.acquire_write)

    async def other() -> None:
        record.refused(lock.acquire_read_nowait)
        record.refused(lock.acquire_write_nowait)
        record.refused(lock.release_read)
        record.refused(lock.release_write)
        record.refused(lock.downgrade)

    async def read() -> None:
        record.refused(lock.acquire_write_nowait)
        lock.acquire_read_nowait()
        record.look()
        lock.release_read()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
    lock.downgrade()
    record.look()
    record.refused(lock.downgrade)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
    lock.release_read()
    lock.acquire_write_nowait()
    lock.release_write()
    record.look()
    with pytest.raises(FrozenInstanceError):
        lock.statistics().readers = 1  # type: ignore[misc]
    assert not hasattr(lock.statistics(), "__dict__")
    return record.seen


async def take_turns(
    make: Callable[[], ReadWriteLock] = ReadWriteLock, *, give_up: bool = False
) -> list[str]:
    """Queue reader, writer, reader, writer behind a writer; with *give_up*, some leave the line."""
    record = Record(make)
    lock = record.lock
    await lock.acquire_write()
    stay = trio.Event()
    async with trio.open_nursery() as nursery:
        await record.queue(nursery, "r1", writing=False, leave=stay)
        await record.queue(nursery, "w2", writing=True)
        async with trio.open_nursery() as leaving:
            if give_up:
                await record.queue(leaving, "gone reader", writing=False)
                await record.queue(leaving, "gone writer", writing=True)
            record.look()
            leaving.cancel_scope.cancel()
        await record.queue(nursery, "r3", writing=False, leave=stay)
        record.look()
        lock.release_write()
        # Both are in at once, though they have not run.
        assert lock.statistics().readers == 2, "the readers wait for another writer"
        record.look()
        record.refused(lock.acquire_read_nowait)
        await record.queue(nursery, "w4", writing=True)
        record.look()
        stay.set()
    record.look()
    return record.seen


async def pass_the_writer() -> list[str]:
    """Wait behind a writer that waits for a reader, and go in when the writer gives up."""
    record = Record()
    lock = record.lock
    await lock.acquire_read()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as leaving:
            await record.queue(leaving, "w1", writing=True)
            await record.queue(nursery, "r2", writing=False, leave=(stay := trio.Event()))
            record.refused(lock.release_write)
            record.look()
            leaving.cancel_scope.cancel()
        record.look()
        async with trio.open_nursery() as leaving:
            await record.queue(leaving, "w3", writing=True)
            leaving.cancel_scope.cancel()
        record.look()
        stay.set()
    lock.release_read()
    record.look()
    return record.seen


async def always_a_checkpoint() -> list[str]:
    """Take a free lock while another task runs, and while the scope is cancelled."""
    seen: list[str] = []
    for name in ("read", "write"):
        lock = ReadWriteLock()

        async def step() -> None:
            seen.append("another step")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(step)
            await checkpoint()
            with trio.CancelScope() as scope:
                scope.cancel()
                async with getattr(lock, name)():
                    seen.append("held in a cancelled scope")
            assert scope.cancelled_caught
        seen.append(repr(lock.statistics()))
        async with getattr(lock, name)():
            with pytest.raises(RuntimeError):
                await lock.acquire_read()
            with trio.CancelScope() as scope:
                scope.cancel()
                # A cancelled call tells of the cancellation, not of the reentry.
                await lock.acquire_write()
            assert scope.cancelled_caught
    return seen


PROGRAMS: dict[str, Callable[[], Awaitable[list[str]]]] = {
    "tell_and_refuse": tell_and_refuse,
    "take_turns": take_turns,
    "take_turns_and_give_up": partial(take_turns, give_up=True),
    "pass_the_writer": pass_the_writer,
    "always_a_checkpoint": always_a_checkpoint,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_can_be_seen(name: str) -> None:
    """Broken if who holds, waits or comes next is told or decided otherwise in any order."""
    exploration = check(PROGRAMS[name], name=name, search="exhaustive")
    print(exploration.headline())  # noqa: T201 - the counts, for pytest -rP
    assert exploration.exhausted
    records = sorted("\n".join(ast.literal_eval(outcome)) for outcome in exploration.outcomes)
    check_golden(GOLDEN / f"{name}.txt", "\n\n".join(records) + "\n")
