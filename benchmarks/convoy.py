"""What readers wait for when a range is held across I/O: behind a lock, and with pins.

200 readers hold a range for 5 ms of I/O each time, one time in a hundred for 100 ms; a writer comes
every 25 ms. A read-write lock makes a convoy of that: the writer waits for the slowest reader
that is in, and everybody else waits for the writer. With pins nobody waits but the drain.

Reader wait is from asking to being in, writer latency from asking to having published. What the
writer took away is free when its lock is granted, or with pins when the drain is done: that row
stands apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import anyio
import anyio.lowlevel

from aspf import RangeMap, ReadWriteLock

from ._measure import Row, percentile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

Sleep: TypeAlias = "Callable[[float], Awaitable[object]]"

READERS = 200
RANGES = 64
WIDTH = 16
IO = 0.005
SLOW_IO = 0.1
SLOW_SHARE = 0.01
WRITE_EVERY = 0.025


def rows(*, quick: bool) -> Iterator[Row]:
    seconds = 1.0 if quick else 4.0
    results: dict[tuple[str, str], Result] = {}
    for backend, name, contender in _contenders():
        result = Result()
        anyio.run(_run, contender, result, _sleep_of(backend), seconds, backend=backend)
        results[backend, name] = result
        yield from _report(f"{name}, {backend}", result, seconds)
    yield from _promises(results)


@dataclass(slots=True)
class Result:
    """Seconds waited, one entry an operation."""

    reader_waits: list[float] = field(default_factory=list)
    writer_waits: list[float] = field(default_factory=list)
    drains: list[float] = field(default_factory=list)


class Contender(Protocol):
    """One way to hold a range while a writer replaces it."""

    def read(
        self, key: int, io: Callable[[], Awaitable[object]], result: Result
    ) -> Awaitable[None]:
        """Wait until the range may be used, note for how long, use it for as long as *io* takes."""
        ...

    def write(self, key: int, result: Result, tasks: TaskGroup) -> Awaitable[None]:
        """Replace the range, note how long that took."""
        ...


class _LockedTable:
    """One read-write lock around a table, as most programs have it."""

    def __init__(
        self,
        read: Callable[[], AbstractAsyncContextManager[object]],
        write: Callable[[], AbstractAsyncContextManager[object]],
    ) -> None:
        self._read = read
        self._write = write
        self._table = dict.fromkeys(range(RANGES), 0)

    async def read(self, key: int, io: Callable[[], Awaitable[object]], result: Result) -> None:
        asked = perf_counter()
        async with self._read():
            result.reader_waits.append(perf_counter() - asked)
            assert key // WIDTH in self._table
            await io()

    async def write(self, key: int, result: Result, tasks: TaskGroup) -> None:
        del tasks
        asked = perf_counter()
        async with self._write():
            self._table[key // WIDTH] += 1
            result.writer_waits.append(perf_counter() - asked)


class _Pins:
    """A RangeMap: readers pin, the writer publishes and lets the drain run."""

    def __init__(self) -> None:
        self._ranges = RangeMap((i * WIDTH, i * WIDTH + WIDTH, 0) for i in range(RANGES))

    async def read(self, key: int, io: Callable[[], Awaitable[object]], result: Result) -> None:
        asked = perf_counter()
        with self._ranges.pin(key):
            result.reader_waits.append(perf_counter() - asked)
            await io()

    async def write(self, key: int, result: Result, tasks: TaskGroup) -> None:
        start = key - key % WIDTH
        asked = perf_counter()
        drain = self._ranges.assign(start, start + WIDTH, 0)
        result.writer_waits.append(perf_counter() - asked)

        async def drained() -> None:
            await drain.wait()
            result.drains.append(perf_counter() - asked)

        tasks.start_soon(drained)


def _contenders() -> Iterator[tuple[str, str, Callable[[], Contender]]]:
    try:
        import aiorwlock  # noqa: PLC0415 - a benchmark-only dependency
    except ImportError:
        print("  aiorwlock is not installed: its rows are left out")
    else:

        def theirs() -> Contender:
            lock = aiorwlock.RWLock()
            # Its __aexit__ is typed in a way of its own.
            reader = cast("AbstractAsyncContextManager[object]", lock.reader)
            writer = cast("AbstractAsyncContextManager[object]", lock.writer)
            return _LockedTable(lambda: reader, lambda: writer)

        yield "asyncio", "aiorwlock", theirs

    def ours() -> Contender:
        lock = ReadWriteLock()
        return _LockedTable(lock.read, lock.write)

    yield "asyncio", "ReadWriteLock", ours
    yield "asyncio", "RangeMap pins", _Pins
    yield "trio", "ReadWriteLock", ours
    yield "trio", "RangeMap pins", _Pins


def _sleep_of(backend: str) -> Sleep:
    """Return the backend's own sleep, so that anyio's share is in no row."""
    if backend == "asyncio":
        import asyncio  # noqa: PLC0415 - one of two

        return asyncio.sleep
    import trio  # noqa: PLC0415

    return trio.sleep


async def _run(make: Callable[[], Contender], result: Result, sleep: Sleep, seconds: float) -> None:
    contender = make()
    ends = perf_counter() + seconds
    async with anyio.create_task_group() as tasks:
        for number in range(READERS):
            tasks.start_soon(_reader, contender, Random(number), result, sleep, ends)
        tasks.start_soon(_writer, contender, Random(READERS), result, sleep, ends, tasks)


async def _reader(
    contender: Contender, random: Random, result: Result, sleep: Sleep, ends: float
) -> None:
    while perf_counter() < ends:
        io = partial(sleep, SLOW_IO if random.random() < SLOW_SHARE else IO)
        await contender.read(random.randrange(RANGES * WIDTH), io, result)


async def _writer(
    contender: Contender,
    random: Random,
    result: Result,
    sleep: Sleep,
    ends: float,
    tasks: TaskGroup,
) -> None:
    while perf_counter() < ends:
        await sleep(WRITE_EVERY)
        await contender.write(random.randrange(RANGES * WIDTH), result, tasks)


def _report(who: str, result: Result, seconds: float) -> Iterator[Row]:
    yield Row(
        f"{who}: reads",
        f"{len(result.reader_waits) / seconds:,.0f}/s",
        note=f"{len(result.reader_waits):,} reads, {len(result.writer_waits)} writes",
    )
    for what, waits in (
        ("reader wait p99", result.reader_waits),
        ("writer latency p99", result.writer_waits),
        ("drain p99", result.drains),
    ):
        if waits:
            median, worst = percentile(waits, 50), max(waits)
            yield Row(
                f"{who}: {what}",
                _ms(percentile(waits, 99)),
                note=f"median {_ms(median)}, worst {_ms(worst)}",
            )


def _promises(results: dict[tuple[str, str], Result]) -> Iterator[Row]:
    """Compare the pins with each lock on the same backend."""
    for (backend, name), lock in results.items():
        pins = results[backend, "RangeMap pins"]
        if lock is pins:
            wait = percentile(pins.reader_waits, 99)
            yield Row(f"pins, {backend}: reader wait p99", _ms(wait), "< 0.01 ms", wait < 0.00001)
            continue
        ratio = len(pins.reader_waits) / len(lock.reader_waits)
        # Elsewhere 60 to 63 thousand reads against 15.6 to 18.7 thousand: 3.2 at the least.
        yield Row(f"pins / {name}, {backend}: reads", f"{ratio:.2f}x", ">= 3.2x", ratio >= 3.2)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4f} ms" if seconds < 0.0001 else f"{seconds * 1e3:.1f} ms"
