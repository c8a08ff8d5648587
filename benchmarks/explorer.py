"""How many schedules a second the explorer runs; for information.

A schedule is a whole run of the program from its start. With sleep sets, those that would only
repeat others are given up on the way; they cost nearly as much, and are counted apart.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import trio

from aspf import ReadWriteLock
from aspf.race import Cell, explore

from ._measure import Row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


def rows(*, quick: bool) -> Iterator[Row]:
    three = partial(_lost_update, 3)
    limit = 1_000 if quick else 5_000
    yield _row("lost update, 3 tasks, anything shared", three, schedules=limit)
    yield _row("lost update, 3 tasks, sleep sets", three, shared="cells", schedules=limit)
    yield _row("lost update, 3 tasks, random", three, search="random", schedules=limit)
    yield _row("lost update, 2 tasks, cancelled", partial(_lost_update, 2), cancel=True)
    yield _row("ReadWriteLock, 2 readers, 1 writer", _two_readers_and_a_writer)
    if not quick:
        yield _row(
            "ReadWriteLock, the same, cancelled",
            _two_readers_and_a_writer,
            cancel=True,
        )


def _row(what: str, program: Callable[[], Awaitable[object]], **options: Any) -> Row:
    started = perf_counter()
    found = explore(program, name="benchmark", stop_on_failure=False, **options)
    seconds = perf_counter() - started
    runs = found.schedules + found.pruned
    extent = "exhausted" if found.exhausted else "not exhausted"
    note = f"{found.schedules:,} schedules, {found.pruned:,} pruned, {extent}, {seconds:.2f} s"
    return Row(what, f"{runs / seconds:,.0f}/s", note=note)


async def _lost_update(tasks: int) -> int:
    counter = Cell(0, "counter")

    async def increment() -> None:
        await counter.set(await counter.get() + 1)

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(increment)
    return counter.peek()


async def _two_readers_and_a_writer() -> None:
    lock = ReadWriteLock()

    async def read() -> None:
        async with lock.read():
            await trio.lowlevel.checkpoint()

    async def write() -> None:
        async with lock.write():
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for use in (read, read, write):
            nursery.start_soon(use)
