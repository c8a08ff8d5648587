"""The mail's benchmark, as tasks: how many page faults a second, under each locking.

``multi-fault-all-split`` of 2009 pinned a thread to each processor; each wrote every page of its
own 2 MiB, dropped them, and began again. Here tasks do that over an `AddressSpace`, or over the
layout of a live process, while writers may map, protect and unmap and a pager may take its time.

What the ratios mean. The mail's 2.06 came from a cache line: on eight processors, taking
``mmap_sem`` for reading was itself the bottleneck. One event loop has no such line. What a
read-write lock costs here is the convoy: a writer waits for the slowest fault that is in I/O, and
everybody else waits for the writer. Without I/O or without writers there is none, and the ratio
says what the lock itself costs.
"""

from __future__ import annotations

import math
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import resources
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Final, Literal, TypeVar, final

import anyio

from ._address_space import AddressSpace, Locking
from ._constants import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from ._file import MappedFile
from ._proc_maps import parse_maps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ("FaultRow", "MultiFault", "sample_maps")

R = TypeVar("R")

LOCKINGS: Final[tuple[Locking, ...]] = ("mmap_lock", "mmap_lock_retry", "speculative")
WINDOW: Final = 2 << 20
ROUNDS: Final = 5
ANONYMOUS: Final = MAP_PRIVATE | MAP_ANONYMOUS
READ_WRITE: Final = PROT_READ | PROT_WRITE


def sample_maps() -> str:
    """Return the ``/proc/<pid>/maps`` of a Python process, for machines without ``/proc``."""
    return resources.files("aspf.mm").joinpath("sample.maps").read_text(encoding="utf-8")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """What one locking achieved.

    Attributes:
        locking: Which.
        faults: Page faults in all.
        faults_per_second: Median over the rounds.
        speculative_hits: Lookups that found a VMA and held it.
        retries: Faults that looked their VMA up again after I/O.
        waits: How often a call or a fault waited for a change of the layout to settle.
        p50: Median time of an access that faults, in seconds, its waiting included.
        p99: The 99th percentile of it.
        writes: Calls of the writers.
        write_p99: 99th percentile of their time, in seconds; NaN without writers.
        ratio: Faults a second over those of ``mmap_lock``: the median of the rounds' ratios.
    """

    locking: Locking
    faults: int
    faults_per_second: float
    speculative_hits: int
    retries: int
    waits: int
    p50: float
    p99: float
    writes: int
    write_p99: float
    ratio: float


@final
class Slow:
    """A pager that takes its time, as a disk does: most pages alike, one in a hundred longer."""

    def __init__(self, seconds: float, slow: float, under: MappedFile | None = None) -> None:
        self._seconds = seconds
        self._slow = slow
        self._under = under
        self._random = random.Random(1)  # noqa: S311 - the same pages are slow in every round

    async def fetch(self, index: int) -> bytes:
        is_slow = self._random.random() < 0.01
        await anyio.sleep(self._seconds * (self._slow if is_slow else 1))
        if self._under is None:
            return b""
        await self._under.fetch(index)
        page = self._under.cached(index)
        return b"" if page is None else bytes(page.data)


@final
@dataclass(slots=True)
class _Tally:
    """What the tasks of one locking have counted."""

    clock: Callable[[], float]
    seconds: list[float]
    rates: list[float]
    writes: list[float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MultiFault:
    """Fault over an address space from several tasks, under each locking in turn.

    Attributes:
        tasks: How many tasks fault.
        layout: ``"split"``: a window of 2 MiB for each task, each its own VMA. ``"all"``: one VMA
            for all windows. ``"maps"``: the layout in *maps*, cut into windows, dealt in turn.
        maps: Text of a ``/proc/<pid>/maps``, for ``layout="maps"``.
        files: Whether real bytes are read for the files that *maps* names and that can be read.
        file: A file that is mapped and read in addition; its windows are dealt as well.
        writers: How many tasks map, protect and unmap 64 KiB of their own meanwhile.
        every: Seconds from one turn of a writer to its next; a late turn follows at once.
        io: Seconds that the pager takes for a page; 0 for none.
        slow: How many times longer one page in a hundred takes.
        seconds: How long each locking runs, over all rounds.
        lockings: Which, in the order of the rows; ratios are to ``mmap_lock``.
    """

    tasks: int = 8
    layout: Literal["maps", "split", "all"] = "maps"
    maps: str = ""
    files: bool = True
    file: str | None = None
    writers: int = 0
    every: float = 0.025
    io: float = 0.0
    slow: float = 50.0
    seconds: float = 2.0
    lockings: tuple[Locking, ...] = LOCKINGS

    async def run(
        self,
        progress: Callable[[float], None] = lambda _: None,
        *,
        clock: Callable[[], float] = perf_counter,
    ) -> list[FaultRow]:
        """Run the rounds; each round runs every locking, so that a slow machine slows them all.

        A cancelled call has closed the files and the address spaces.

        Args:
            progress: Called with the finished part, from 0 to 1.
            clock: What the time is, in seconds.

        Raises:
            ValueError: If *maps* can't be read, or has nothing that a task could touch.
            OSError: If *file* can't be opened.
        """
        tallies = {locking: _Tally(clock, [], [], []) for locking in self.lockings}
        steps = ROUNDS * len(self.lockings)
        async with AsyncExitStack() as stack:
            spaces = {x: await self._space(x, stack) for x in tallies}
            windows = {x: await self._windows(space, stack) for x, space in spaces.items()}
            for step in range(steps):
                locking = self.lockings[step % len(self.lockings)]
                await self._round(spaces[locking], windows[locking], tallies[locking])
                progress((step + 1) / steps)
            baseline = tallies[self.lockings[0]].rates
            return [self._row(spaces[x], tallies[x], baseline) for x in self.lockings]

    def _row(self, space: AddressSpace, tally: _Tally, baseline: list[float]) -> FaultRow:
        statistics = space.statistics()
        return FaultRow(
            locking=space.locking,
            faults=statistics.minor_faults + statistics.major_faults,
            faults_per_second=median(tally.rates),
            speculative_hits=statistics.speculative_hits,
            retries=statistics.retries,
            waits=statistics.waits,
            p50=percentile(tally.seconds, 50),
            p99=percentile(tally.seconds, 99),
            writes=len(tally.writes),
            write_p99=percentile(tally.writes, 99),
            ratio=median(x / y for x, y in zip(tally.rates, baseline, strict=True)),
        )

    # The space and its windows ---------------------------------------------------------------

    async def _space(self, locking: Locking, stack: AsyncExitStack) -> AddressSpace:
        pager = Slow(self.io, self.slow) if self.io else None
        if self.layout != "maps":
            space = AddressSpace(locking=locking, pager=pager)
        else:
            files = await self._files(stack) if self.files else {}
            space = AddressSpace.from_maps(self.maps, locking=locking, pager=pager, files=files)
        return await stack.enter_async_context(space)

    async def _files(self, stack: AsyncExitStack) -> dict[str, MappedFile]:
        """Open the files of the layout; what can't be opened reads as zeros."""
        opened = {}
        for path in {line.name: None for line in parse_maps(self.maps)}:
            if path.startswith("/") and await anyio.Path(path).is_file():
                try:
                    file = await stack.enter_async_context(await MappedFile.open(path))
                except OSError:
                    continue
                opened[path] = self._through(file)
        return opened

    def _through(self, file: MappedFile) -> MappedFile:
        """Put the pager's latency in front of a real file."""
        if not self.io:
            return file
        pager = Slow(self.io, self.slow, file)
        return MappedFile(pager, size=file.size, name=file.name)

    async def _windows(
        self, space: AddressSpace, stack: AsyncExitStack
    ) -> list[list[tuple[int, int, int]]]:
        """Return for each task its windows: start, end, and whether to read or to write."""
        windows: list[tuple[int, int, int]]
        if self.layout == "maps":
            windows = list(_windows_of(space))
        else:
            windows = await self._mapped_windows(space)
        if self.file is not None:
            file = await stack.enter_async_context(await MappedFile.open(self.file))
            size = -(-(file.size or 0) // PAGE_SIZE) * PAGE_SIZE
            if size:
                mapped = self._through(file)
                start = await space.mmap(0, size, PROT_READ, MAP_PRIVATE, mapped)
                windows += [(a, b, PROT_READ) for a, b in _pieces(start, start + size)]
        if not windows:
            msg = "the layout has nothing that may be read or written; give another with maps="
            raise ValueError(msg)
        # More tasks than windows share them.
        dealt = [windows[i % len(windows) :: self.tasks] for i in range(self.tasks)]
        return [mine or windows for mine in dealt]

    async def _mapped_windows(self, space: AddressSpace) -> list[tuple[int, int, int]]:
        """Map the mail's windows: 2 MiB for each task, in slots of 8 MiB as its program had."""
        slot = 4 * WINDOW
        start = await space.mmap(0, slot * self.tasks, READ_WRITE, ANONYMOUS)
        slots = range(start, start + slot * self.tasks, slot)
        if self.layout == "split":
            for base in slots:
                # A page that nobody may touch keeps the VMAs from merging.
                await space.mprotect(base + slot - PAGE_SIZE, PAGE_SIZE, PROT_NONE)
        return [(base, base + WINDOW, PROT_WRITE) for base in slots]

    # The tasks -------------------------------------------------------------------------------

    async def _round(
        self, space: AddressSpace, windows: list[list[tuple[int, int, int]]], tally: _Tally
    ) -> None:
        before = space.statistics()
        started = tally.clock()
        end = started + self.seconds / ROUNDS
        async with anyio.create_task_group() as tasks:
            for _ in range(self.writers):
                tasks.start_soon(self._writer, space, tally)
            async with anyio.create_task_group() as faulting:
                for mine in windows:
                    faulting.start_soon(_touch, space, mine, end, tally)
            elapsed = tally.clock() - started
            tasks.cancel_scope.cancel()
        after = space.statistics()
        faults = after.minor_faults + after.major_faults
        faults -= before.minor_faults + before.major_faults
        tally.rates.append(faults / elapsed)

    async def _writer(self, space: AddressSpace, tally: _Tally) -> None:
        size = 16 * PAGE_SIZE
        due = anyio.current_time()
        while True:
            # By the clock, not after the last turn: a lock that holds a writer up must not get
            # less work for it.
            due += self.every
            start = await _timed(tally, space.mmap(0, size, READ_WRITE, ANONYMOUS))
            with anyio.CancelScope(shield=True):
                await _timed(tally, space.mprotect(start, size // 2, PROT_READ))
                await _timed(tally, space.munmap(start, size))
            await anyio.sleep_until(due)


async def _touch(
    space: AddressSpace, windows: list[tuple[int, int, int]], end: float, tally: _Tally
) -> None:
    """Touch every page of the windows, drop them, and begin again, until the time is over."""
    seconds, clock = tally.seconds, tally.clock
    while True:
        for start, stop, access in windows:
            for address in range(start, stop, PAGE_SIZE):
                before = clock()
                if access == PROT_WRITE:
                    await space.write(address, b"\1")
                else:
                    await space.read(address, 1)
                now = clock()
                seconds.append(now - before)
                if now > end:
                    await space.madvise(start, stop - start, MADV_DONTNEED)
                    return
            await space.madvise(start, stop - start, MADV_DONTNEED)


async def _timed(tally: _Tally, call: Awaitable[R]) -> R:
    before = tally.clock()
    result = await call
    tally.writes.append(tally.clock() - before)
    return result


def _windows_of(space: AddressSpace) -> Iterator[tuple[int, int, int]]:
    """Cut what may be touched into windows; private pages that may be written are written."""
    for region in space._map.index:
        vma, end = region.payload, region.end
        if not vma.allows(PROT_READ):
            continue
        if vma.file is not None and vma.file.size is not None:
            end = min(end, vma.origin + -(-vma.file.size // PAGE_SIZE) * PAGE_SIZE)
        access = PROT_WRITE if vma.is_private and vma.allows(PROT_WRITE) else PROT_READ
        yield from ((low, high, access) for low, high in _pieces(region.start, end))


def _pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    for low in range(start, end, WINDOW):
        yield low, min(low + WINDOW, end)


def percentile(values: list[float], percent: int) -> float:
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
