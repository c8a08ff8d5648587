"""Programs that other processes can import."""

from __future__ import annotations

import os

import trio
from race import _programs

from aspf.race import Cell

twostage = _programs.twostage
account = _programs.account


async def lost() -> None:
    await _programs.lost_update(3)()


async def many() -> int:
    """More traces than a part has runs, in some of which a task comes too early."""
    first, second = Cell(0, "first"), Cell(0, "second")
    early = 0

    async def put() -> None:
        await first.set(1)
        await second.set(-1)

    async def check() -> None:
        nonlocal early
        neither = await first.get() == 0 and await second.get() == 0
        early += not (neither or (await first.get() == 1 and await second.get() == -1))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(put)
        nursery.start_soon(check)
    if early:
        raise AssertionError("too early")
    return first.peek()


async def dies() -> None:
    """Ends its process in some schedules."""
    order: list[int] = []

    async def task(number: int) -> None:
        await trio.lowlevel.checkpoint()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(task, number)
    if order == [2, 1, 0]:
        os._exit(7)


async def threads() -> None:
    """Can't be explored."""
    await trio.to_thread.run_sync(lambda: None)
