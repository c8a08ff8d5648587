"""How the cost of each memory call and fault grows with the VMAs and pages that are there.

The claim is about growth, not about time: what a call costs is at most the size of what it changes,
plus the square root of the number of VMAs. So each call is timed in address spaces of several
sizes, which take turns, and a power of the size is fitted to the medians. A call that changes one
VMA must grow no faster than the square root; one that changes many, no faster than their number.

Times are of the processor, not of the wall: nothing here waits, and a busy machine has no part in
them.
"""

from __future__ import annotations

from math import log
from random import Random
from statistics import linear_regression, median
from time import thread_time
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from aspf.mm import (
    MADV_DONTNEED,
    MADV_NORMAL,
    MADV_SEQUENTIAL,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    AddressSpace,
    Entry,
    Limits,
    MappedFile,
)
from aspf.mm._page import ZERO_PAGE

from ._measure import Row, without_gc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Operation = Callable[["Filled", int], Awaitable[object]]

SIZES = (625, 2_500, 10_000, 40_000)
PAGES = (15_625, 62_500, 250_000, 1_000_000)
BASE = 0x7000_0000_0000
ABOVE = 0x7800_0000_0000
RW = PROT_READ | PROT_WRITE
ANON = MAP_PRIVATE | MAP_ANONYMOUS
# What the fit may exceed the claim by: a few calls of microseconds are measured, not counted.
SLACK = 0.1


class Filled:
    """An address space of many VMAs of two pages each, which can't merge; every tenth has a gap."""

    def __init__(self, vmas: int) -> None:
        self.vmas = vmas
        position, lines = BASE, []
        for number in range(vmas):
            prot = "rw-p" if number % 2 else "r--p"
            lines.append(f"{position:08x}-{position + 2 * PAGE_SIZE:08x} {prot} 00000000 00:00 0 ")
            position += 2 * PAGE_SIZE if number % 10 else 3 * PAGE_SIZE
        # Above it no room: the search for a gap has to pass by every gap that is too small.
        lines.append(f"{position + PAGE_SIZE:08x}-{ABOVE:08x} r--s 00000000 00:01 9 /dev/shm/wall")
        self.space = AddressSpace.from_maps(
            lines, limits=Limits(max_map_count=10**9), mmap_base=ABOVE
        )
        self.file = MappedFile(_Zeros(), size=PAGE_SIZE, is_writable=True, name="f")
        random = Random(vmas)
        self.starts = [line.split("-")[0] for line in lines[1:-1:2]]
        random.shuffle(self.starts)

    def at(self, number: int) -> int:
        """Return where some writable VMA starts, another one for each number."""
        return int(self.starts[number % len(self.starts)], 16)


class _Zeros:
    async def fetch(self, index: int) -> bytes:
        del index
        return b""


async def map_and_unmap(filled: Filled, number: int) -> None:
    # Two pages: wider than the gaps, so that the search has to look for one that fits.
    del number
    address = await filled.space.mmap(0, 2 * PAGE_SIZE, RW, ANON)
    await filled.space.munmap(address, 2 * PAGE_SIZE)


async def map_over(filled: Filled, number: int) -> None:
    await filled.space.mmap(filled.at(number), PAGE_SIZE, RW, ANON | MAP_FIXED)


async def protect(filled: Filled, number: int) -> None:
    at = filled.at(number)
    await filled.space.mprotect(at, PAGE_SIZE, PROT_READ)
    await filled.space.mprotect(at, PAGE_SIZE, RW)


async def move(filled: Filled, number: int) -> None:
    at, flags = filled.at(number), MREMAP_MAYMOVE | MREMAP_FIXED
    await filled.space.mremap(at, PAGE_SIZE, PAGE_SIZE, flags, 1 << 20)
    await filled.space.mremap(1 << 20, PAGE_SIZE, PAGE_SIZE, flags, at)


async def lock(filled: Filled, number: int) -> None:
    await filled.space.mlock(filled.at(number), PAGE_SIZE)
    await filled.space.munlock(filled.at(number), PAGE_SIZE)


async def advise(filled: Filled, number: int) -> None:
    await filled.space.madvise(filled.at(number), PAGE_SIZE, MADV_SEQUENTIAL)
    await filled.space.madvise(filled.at(number), PAGE_SIZE, MADV_NORMAL)


async def grow_heap(filled: Filled, number: int) -> None:
    del number
    end = await filled.space.brk(0)
    await filled.space.brk(end + PAGE_SIZE)
    await filled.space.brk(end)


async def cut_file(filled: Filled, number: int) -> None:
    del number
    address = await filled.space.mmap(0, 2 * PAGE_SIZE, PROT_READ, MAP_SHARED, filled.file)
    await filled.file.truncate(0)
    await filled.file.truncate(PAGE_SIZE)
    await filled.space.munmap(address, 2 * PAGE_SIZE)


async def fault_and_drop(filled: Filled, number: int) -> None:
    await filled.space.fault(filled.at(number), PROT_WRITE)
    await filled.space.madvise(filled.at(number), PAGE_SIZE, MADV_DONTNEED)


async def unmap_while_held(filled: Filled, number: int) -> None:
    """Unmap under somebody who holds another VMA of which a part was unmapped before."""
    space, at = filled.space, filled.at(number)
    held = space.find_vma_speculative_nowait(at)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(space.munmap, at, PAGE_SIZE)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        address = await space.mmap(0, 2 * PAGE_SIZE, RW, ANON)
        space.vma_put_nowait(held)
    await space.munmap(address, 2 * PAGE_SIZE)
    await space.mmap(at, PAGE_SIZE, RW, ANON | MAP_FIXED)


ONE: dict[str, Operation] = {
    "mmap + munmap": map_and_unmap,
    "mmap, MAP_FIXED over": map_over,
    "mprotect, there and back": protect,
    "mremap, there and back": move,
    "mlock + munlock": lock,
    "madvise, flag set and cleared": advise,
    "brk, up and down": grow_heap,
    "truncate of a mapped file": cut_file,
    "fault + MADV_DONTNEED": fault_and_drop,
    "munmap + mmap while somebody holds": unmap_while_held,
}


async def fork_all(filled: Filled, number: int) -> None:
    del number
    child = await filled.space.fork()
    await child.aclose()


async def show_all(filled: Filled, number: int) -> None:
    del number
    filled.space.maps()


ALL: dict[str, Operation] = {"maps": show_all, "fork + close of the child": fork_all}


def rows(*, quick: bool) -> Iterator[Row]:
    sizes = SIZES[:2] if quick else SIZES
    turns, operations = (3, 20) if quick else (9, 200)
    for what, operation in ONE.items():
        seconds = anyio.run(_timed, operation, sizes, turns, operations)
        yield _row(f"{what}, {sizes[-1]:,} VMAs", sizes, seconds, 0.5)
    for what, operation in ALL.items():
        seconds = anyio.run(_timed, operation, sizes, turns, 1)
        yield _row(f"{what}, {sizes[-1]:,} VMAs", sizes, seconds, 1.0)
    pages = PAGES[:2] if quick else PAGES
    seconds = anyio.run(_timed_faults, pages, turns, operations)
    yield _row(f"fault + MADV_DONTNEED, {pages[-1]:,} pages", pages, seconds, 0.5)


async def _timed(
    operation: Operation, sizes: tuple[int, ...], turns: int, operations: int
) -> list[float]:
    return await _take_turns([Filled(size) for size in sizes], operation, turns, operations)


async def _timed_faults(pages: tuple[int, ...], turns: int, operations: int) -> list[float]:
    spaces = []
    for count in pages:
        filled = Filled(SIZES[0])
        entry = Entry(ZERO_PAGE, PROT_READ)
        # The wall above has room for them.
        for number in range(count):
            filled.space.page_table.set(ABOVE - (number + 1) * PAGE_SIZE, entry)
        spaces.append(filled)
    return await _take_turns(spaces, fault_and_drop, turns, operations)


async def _take_turns(
    spaces: list[Filled], operation: Operation, turns: int, operations: int
) -> list[float]:
    """Return the median seconds of an operation for each space."""
    seconds: list[list[float]] = [[] for _ in spaces]
    number = 0
    for turn in range(turns + 1):
        for filled, into in zip(spaces, seconds, strict=True):
            with without_gc():
                started = thread_time()
                for i in range(number, number + operations):
                    await operation(filled, i)
                elapsed = thread_time() - started
            if turn:
                into.append(elapsed / operations)
        number += operations
    return [median(times) for times in seconds]


def _row(what: str, sizes: tuple[int, ...], seconds: list[float], at_most: float) -> Row:
    slope = linear_regression([log(size) for size in sizes], [log(s) for s in seconds]).slope
    times = ", ".join(f"{s * 1e6:.0f} us at {n:,}" for n, s in zip(sizes, seconds, strict=True))
    return Row(what, f"n^{slope:.2f}", f"<= n^{at_most:g}", slope <= at_most + SLACK, times)
