"""Every order in which tasks can meet at the lock, and every moment at which one can be cancelled.

Mutants of the lock are judged by these programs: see the package `mutants` and test_broken.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from anyio.lowlevel import checkpoint

from aspf import ReadWriteLock
from aspf.race import Exploration, explore

if TYPE_CHECKING:
    from collections.abc import Callable


class Room:
    """What the lock guards: it knows who is in, and objects to bad company."""

    def __init__(self) -> None:
        self.readers = 0
        self.writers = 0
        self.order = ""

    async def read(self, lock: ReadWriteLock) -> None:
        """Stay in as a reader for one step."""
        async with lock.read():
            self.readers += 1
            self.order += "r"
            try:
                assert not self.writers, "a reader came in to a writer"
                await checkpoint()
                assert not self.writers, "a writer came in to a reader"
            finally:
                self.readers -= 1

    async def write(self, lock: ReadWriteLock, *, downgrade: bool = False) -> None:
        """Stay in as the writer for one step, and as a reader for another if asked to."""
        async with lock.write():
            self.writers += 1
            self.order += "w"
            try:
                assert not self.readers, "a writer came in to a reader"
                assert self.writers == 1, "a writer came in to a writer"
                await checkpoint()
                assert not self.readers, "a reader came in to a writer"
            finally:
                self.writers -= 1
            if downgrade:
                lock.downgrade()
                self.readers += 1
                try:
                    await checkpoint()
                    assert not self.writers, "a writer came in to a reader"
                finally:
                    self.readers -= 1


async def meet(make: Callable[[], ReadWriteLock], *, who: str, downgrade: bool = False) -> str:
    """Let a task in for each letter of *who*; at the end nobody may hold or wait."""
    lock, room = make(), Room()
    try:
        async with trio.open_nursery() as nursery:
            for number, kind in enumerate(who):
                if kind == "r":
                    nursery.start_soon(room.read, lock, name=f"reader {number}")
                else:
                    write = partial(room.write, lock, downgrade=downgrade)
                    nursery.start_soon(write, name=f"writer {number}")
    finally:  # also when all of them were cancelled at once
        now = lock.statistics()
        writer = now.writer and now.writer.name
        left = (now.readers, writer, now.readers_waiting, now.writers_waiting)
        assert left == (0, None, 0, 0), f"left behind: {left}"
        assert not lock._wakeups
    return room.order


def explored(
    make: Callable[[], ReadWriteLock] = ReadWriteLock,
    *,
    who: str = "rrw",
    cancel: bool = False,
    downgrade: bool = False,
) -> Exploration:
    """Explore `meet` to its end, or to its first failure."""
    return explore(
        partial(meet, make, who=who, downgrade=downgrade),
        cancel="each" if cancel else "never",
        schedules=200_000,
        search="exhaustive",
    )


@pytest.mark.parametrize(
    ("who", "downgrade", "cancel", "schedules"),
    [
        ("rrw", False, False, 210),
        ("rrw", False, True, 24644),
        ("rrw", True, False, 728),
        pytest.param("rrw", True, True, 56904, marks=pytest.mark.thorough),
        ("rww", False, False, 72),
        ("rww", False, True, 12580),
    ],
)
def test_no_order_and_no_cancellation_breaks_the_lock(
    who: str, downgrade: bool, cancel: bool, schedules: int
) -> None:
    """Broken if any order lets two in that exclude each other, loses a wake-up or leaks a hold."""
    exploration = explored(who=who, downgrade=downgrade, cancel=cancel)
    print(exploration.headline())  # noqa: T201 - the counts are part of the claim

    assert exploration.failures == ()
    assert exploration.exhausted
    assert exploration.schedules == schedules
    assert bool(exploration.cancellations) == cancel
    orders = {order.strip("'") for order in exploration.outcomes}
    if cancel:
        # The one cancellation may come before its task is in, and then leaves out one of a kind.
        assert {"rr", "rw"} & orders
        assert all(len(order) >= len(who) - 1 for order in orders)
    else:
        assert {order[0] for order in orders} == {"r", "w"}
        assert {"".join(sorted(order)) for order in orders} == {who}


async def meet_behind_a_cancelled_writer(make: Callable[[], ReadWriteLock]) -> None:
    """Hold a long read that ends only when another reader has come in past a writer that gives up."""
    lock, company, writer = make(), trio.Event(), trio.CancelScope()

    async def write() -> None:
        with writer:
            async with lock.write():
                pass

    async def read() -> None:
        async with lock.read():
            company.set()

    async def give_up() -> None:
        writer.cancel()

    async with trio.open_nursery() as nursery, lock.read():
        nursery.start_soon(write)
        nursery.start_soon(read)
        nursery.start_soon(give_up)
        await company.wait()


def test_a_cancelled_writer_holds_no_reader_up() -> None:
    """Broken if there is an order in which readers sleep on after the writer before them left."""
    exploration = explore(
        partial(meet_behind_a_cancelled_writer, ReadWriteLock), search="exhaustive"
    )
    print(exploration.headline())  # noqa: T201 - the counts are part of the claim

    assert exploration.failures == ()
    assert exploration.exhausted
    assert exploration.schedules == 51
