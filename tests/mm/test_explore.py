"""Faults against changes of the layout, every interleaving; and the designs that fail.

The explorer is trio's, so these tests are too. Pagers here are in memory: one checkpoint.
"""

from __future__ import annotations

import contextlib
from functools import partial

import anyio
import pytest
import trio
from mm import _broken

from aspf import mm, race
from aspf.mm import AddressSpace, SegmentationFault

PAGE = mm.PAGE_SIZE
BASE = 0x10000
RW = mm.PROT_READ | mm.PROT_WRITE
FIXED = mm.MAP_PRIVATE | mm.MAP_ANONYMOUS | mm.MAP_FIXED


class Memory:
    """Pages that take one checkpoint to come."""

    async def fetch(self, index: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return b""


def at(page: int) -> int:
    return BASE + page * PAGE


def check(space: AddressSpace) -> None:
    """No stale page, no lost protection, no leaked pin, nothing unsettled."""
    for address, entry in space.page_table.items(0, mm.TASK_SIZE):
        region = space.vma_lookup(address)
        assert region is not None, f"stale page at {address:#x}"
        assert not entry.rights & ~region.payload.rights, f"lost protection at {address:#x}"
    state = space._map.statistics()
    assert state.pins == 0, "leaked pin"
    assert state.unsettled == len(space._vacated) == len(space._reserved) == 0
    assert len(space._anonymous) == len(space._moving) == 0


class World:
    """An address space of four pages, tasks that use it, and what became of them."""

    def __init__(self, broken=None) -> None:
        self.space = AddressSpace(pager=Memory())
        if broken is not None:
            broken(self.space)
        self.seen: dict[str, str] = {}
        # Bytes that a task wrote where they may not be lost.
        self.kept: dict[int, bytes] = {}
        # Pages that were written to while they were being moved.
        self.either: list[mm.Page] = []

    async def write(self, page: int, name: str) -> None:
        try:
            await self.space.write(at(page), b"x")
            self.seen[name] = "ok"
        except SegmentationFault as error:
            self.seen[name] = error.code

    async def munmap(self, first: int, pages: int) -> None:
        await self.space.munmap(at(first), pages * PAGE)
        for address, _ in self.space.page_table.items(at(first), at(first + pages)):
            # Unless another task has mapped it anew.
            assert self.space.vma_lookup(address) is not None, "stale page after munmap returned"

    async def protect(self, first: int, pages: int) -> None:
        await self.space.mprotect(at(first), pages * PAGE, mm.PROT_READ)
        for _, entry in self.space.page_table.items(at(first), at(first + pages)):
            assert not entry.rights & mm.PROT_WRITE, "writable after mprotect returned"

    async def protect_what_is_left(self, first: int, pages: int) -> None:
        with contextlib.suppress(OSError):  # ENOMEM: it is somewhere else already
            await self.protect(first, pages)

    async def replace(self, first: int, pages: int) -> None:
        assert await self.space.mmap(at(first), pages * PAGE, RW, FIXED) == at(first)

    async def remap(self, first: int, pages: int) -> None:
        """Unmap, don't wait for it, and map something there."""
        with anyio.CancelScope() as scope:
            scope.cancel()
            await self.space.munmap(at(first), pages * PAGE)
        await self.replace(first, pages)

    async def write_if_replaced(self, page: int) -> None:
        """Write through the new mapping, which is known to be there: that write stays."""
        if self.space.vma_lookup(at(page)) not in (self.old, None):
            await self.space.write(at(page), b"n")
            self.kept[at(page)] = b"n"

    async def prepare(self, page: int) -> None:
        """Write to a page; this is done before the other tasks begin."""
        await self.space.write(at(page), b"x")

    async def keep(self, page: int, offset: int) -> None:
        await self.space.write(at(page) + offset, b"k")
        self.kept[at(page) + offset] = b"k"

    async def move(self, first: int, to: int, extra: int = 0) -> None:
        """Move two pages; what is written there before must be found behind."""
        flags = mm.MREMAP_MAYMOVE | mm.MREMAP_FIXED | extra
        await self.space.mremap(at(first), 2 * PAGE, 2 * PAGE, flags, at(to))
        if not extra:
            for address, _ in self.space.page_table.items(at(first), at(first + 2)):
                assert self.space.vma_lookup(address) is not None, "stale page after mremap"

    async def follow(self, page: int, to: int, name: str) -> None:
        """Write to what is being moved: that write goes with it, or there is nothing to write to."""
        await self.write(page, name)
        if self.seen[name] == "ok":
            places = [self.space.page_table.get(at(where)) for where in (page, to)]
            self.either = [entry.page for entry in places if entry is not None]

    async def grow(self, pages: int) -> None:
        await self.space.mremap(BASE, 4 * PAGE, pages * PAGE, mm.MREMAP_MAYMOVE)

    async def drop_if_moved(self, page: int) -> None:
        """Drop a page that has been moved: it reads as zero then."""
        if self.space.vma_lookup(at(page)) is not None:
            await self.space.madvise(at(page), PAGE, mm.MADV_DONTNEED)
            self.kept[at(page)] = b"\0"

    async def lock(self, first: int, pages: int) -> None:
        await self.space.mlock(at(first), pages * PAGE)
        found = [a for a, _ in self.space.page_table.items(at(first), at(first + pages))]
        assert len(found) == pages, "locked page is missing"

    async def unlock(self, first: int, pages: int) -> None:
        await self.space.munlock(at(first), pages * PAGE)

    async def run(self, *tasks) -> str:
        await self.space.mmap(BASE, 4 * PAGE, RW, FIXED)
        self.old = self.space.vma_lookup(BASE)
        begun = [task for task in tasks if task.func is not World.prepare]
        for task in tasks:
            if task not in begun:
                await task.func(self, *task.args)
        try:
            async with trio.open_nursery() as nursery:
                for task in begun:
                    nursery.start_soon(partial(task.func, self, *task.args))
        finally:  # also when all of them were cancelled at once
            with trio.CancelScope(shield=True):
                await self.close()
        return " ".join(f"{name}:{code}" for name, code in sorted(self.seen.items()))

    async def close(self) -> None:
        # What a cancelled call has begun goes on by itself, in whoever holds what it waits for.
        check(self.space)
        if self.either:
            left = [entry.page for _, entry in self.space.page_table.items(0, mm.TASK_SIZE)]
            assert any(page.data[0] == ord("x") for page in left), "lost write in a moved page"
        for address, data in self.kept.items():
            assert await self.space.read(address, 1) == data, f"lost write at {address:#x}"
        await self.space.aclose()
        assert len(self.space.page_table) == 0


def program(*tasks, broken=None):
    async def run() -> str:
        return await World(broken).run(*tasks)

    return run


W, U, P, M = World.write, World.munmap, World.protect, World.replace
N, K = World.write_if_replaced, World.keep
V, F, L = World.move, World.follow, World.lock

PROGRAMS = {
    "fault against munmap of the whole": [partial(W, 3, "fault"), partial(U, 0, 4)],
    "fault against munmap of the tail": [partial(W, 3, "fault"), partial(U, 2, 2)],
    "fault beside munmap of the tail": [partial(W, 0, "beside"), partial(U, 2, 2)],
    "two faults against munmap": [partial(W, 3, "a"), partial(W, 3, "b"), partial(U, 2, 2)],
    "fault against munmap of the tail, then of the rest": [
        partial(W, 1, "fault"),
        partial(U, 2, 2),
        partial(U, 0, 2),
    ],
    "fault against mprotect": [partial(W, 3, "fault"), partial(P, 0, 4)],
    "two faults against mprotect of the tail": [
        partial(W, 3, "a"),
        partial(W, 3, "b"),
        partial(P, 3, 1),
    ],
    "fault beside mprotect": [partial(W, 0, "beside"), partial(P, 2, 2)],
    "fault against MAP_FIXED over": [partial(W, 0, "mapped"), partial(M, 0, 4)],
    "faults before and after MAP_FIXED over the head": [
        partial(W, 0, "mapped"),
        partial(M, 0, 2),
        partial(N, 1),
    ],
    "munmap against MAP_FIXED over it": [
        partial(W, 1, "fault"),
        partial(U, 0, 4),
        partial(M, 0, 4),
    ],
    "cancelled munmap, then MAP_FIXED over it": [
        partial(W, 0, "fault"),
        partial(World.remap, 0, 2),
        partial(N, 1),
    ],
    "two writes to one new page": [partial(K, 0, 0), partial(K, 0, 1)],
    "fault at the source of mremap": [partial(F, 1, 9, "fault"), partial(V, 0, 8)],
    "fault at a new destination of mremap": [partial(W, 9, "fault"), partial(V, 0, 8)],
    "fault at a mapped destination of mremap": [partial(W, 3, "mapped"), partial(V, 0, 2)],
    "fault beside mremap": [partial(W, 2, "beside"), partial(V, 0, 8)],
    "fault at the source of mremap with DONTUNMAP": [
        partial(F, 1, 9, "mapped"),
        partial(V, 0, 8, mm.MREMAP_DONTUNMAP),
    ],
    "fault against mremap and munmap of its destination": [
        partial(W, 1, "fault"),
        partial(V, 0, 8),
        partial(U, 8, 2),
    ],
    "fault against mprotect and mremap of the same": [
        partial(W, 1, "fault"),
        partial(World.protect_what_is_left, 0, 2),
        partial(V, 0, 8),
    ],
    "mremap of a written page against MADV_DONTNEED of its destination": [
        partial(World.prepare, 1),
        partial(W, 0, "fault"),
        partial(V, 0, 8),
        partial(World.drop_if_moved, 9),
    ],
    "fault against mremap that grows": [partial(W, 1, "beside"), partial(World.grow, 6)],
    "fault against mlock": [partial(W, 3, "beside"), partial(L, 2, 2)],
    "fault against munlock": [partial(W, 3, "beside"), partial(World.unlock, 2, 2)],
}


SCHEDULES = {
    "fault against munmap of the whole": 14,
    "fault against munmap of the tail": 14,
    "fault beside munmap of the tail": 15,
    "two faults against munmap": 1776,
    "fault against munmap of the tail, then of the rest": 501,
    "fault against mprotect": 14,
    "two faults against mprotect of the tail": 1776,
    "fault beside mprotect": 15,
    "fault against MAP_FIXED over": 35,
    "faults before and after MAP_FIXED over the head": 3720,
    "munmap against MAP_FIXED over it": 1267,
    "cancelled munmap, then MAP_FIXED over it": 806,
    "two writes to one new page": 50,
    "fault at the source of mremap": 37,
    "fault at a new destination of mremap": 26,
    "fault at a mapped destination of mremap": 51,
    "fault beside mremap": 35,
    "fault at the source of mremap with DONTUNMAP": 51,
    "fault against mremap and munmap of its destination": 1660,
    "fault against mprotect and mremap of the same": 1224,
    "mremap of a written page against MADV_DONTNEED of its destination": 715,
    "fault against mremap that grows": 35,
    "fault against mlock": 158,
    "fault against munlock": 15,
}

# With one cancellation more these have too many schedules for a test suite, which draws some at
# random; `pytest --exhaustive` runs them all.
LARGE = {
    "two faults against munmap",
    "fault against munmap of the tail, then of the rest",
    "two faults against mprotect of the tail",
    "munmap against MAP_FIXED over it",
    "cancelled munmap, then MAP_FIXED over it",
    "faults before and after MAP_FIXED over the head",
    "fault against mremap and munmap of its destination",
    "fault against mprotect and mremap of the same",
    "mremap of a written page against MADV_DONTNEED of its destination",
}

# What an access may come to. That of a page which stays mapped and writable: nothing else but ok.
LEGAL = {
    "mapped": {"ok"},
    "beside": {"ok"},
    "fault": {"ok", "ACCERR", "MAPERR"},
    "a": {"ok", "ACCERR", "MAPERR"},
    "b": {"ok", "ACCERR", "MAPERR"},
}


def illegal(found: race.Exploration) -> set[str]:
    words = {word for outcome in found.outcomes for word in outcome.strip("'").split()}
    legal = {f"{task}:{code}" for task, codes in LEGAL.items() for code in codes}
    return words - legal - ({"None"} if found.cancellations else set())


@pytest.mark.thorough
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_interleaving_goes_wrong(name):
    """A page would stay after munmap, a right after mprotect, or a mapped page would be SIGSEGV."""
    found = race.explore(program(*PROGRAMS[name]), name=name, search="exhaustive")
    print(found.headline())  # noqa: T201 - the counts are a result
    assert not found.failures, str(found)
    assert not illegal(found)
    assert found.exhausted
    assert found.schedules == SCHEDULES[name]


@pytest.mark.thorough
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_interleaving_with_a_cancelled_task_goes_wrong(name, pytestconfig):
    """A cancelled call would leave a pin, a range that is never free again, or a stale page."""
    explore = partial(
        race.explore, program(*PROGRAMS[name]), name=name, cancel="each", search="exhaustive"
    )
    if name in LARGE and not pytestconfig.getoption("exhaustive"):
        found = explore(search="random", schedules=500)
    else:
        found = explore(schedules=200_000)
        assert found.exhausted
    print(found.headline())  # noqa: T201 - the counts are a result
    assert not found.failures, str(found)
    assert not illegal(found)
    assert found.cancellations > 0


# What each rule is for: leave it out, and this comes of it.
BROKEN = {
    _broken.fault_without_holding: ("fault against munmap of the tail", "stale page"),
    _broken.clean_up_at_once: ("fault against mprotect", "lost protection"),
    _broken.ignore_successors: ("faults before and after MAP_FIXED over the head", "lost write"),
    _broken.reuse_what_is_vacated: ("cancelled munmap, then MAP_FIXED over it", "lost write"),
    _broken.replace_in_two_steps: ("fault against MAP_FIXED over", "mapped:MAPERR"),
    _broken.install_without_recheck: ("two writes to one new page", "lost write"),
    _broken.decide_before_the_fetch: ("fault against mprotect", "lost protection"),
    _broken.move_at_once: ("fault at the source of mremap", "stale page"),
    _broken.move_in_two_steps: ("fault at a mapped destination of mremap", "mapped:MAPERR"),
    _broken.drop_before_arrival: (
        "mremap of a written page against MADV_DONTNEED of its destination",
        "lost write",
    ),
    _broken.settle_out_of_order: (
        "fault against munmap of the tail, then of the rest",
        "stale page",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_rule_that_is_left_out_is_found(broken):
    """The explorations above would pass whatever the address space does."""
    name, consequence = BROKEN[broken]
    found = race.explore(
        program(*PROGRAMS[name], broken=broken),
        name=name,
        stop_on_failure=False,
        schedules=4000,
        search="exhaustive",
    )
    said = [failure.summary for failure in found.failures]
    assert any(consequence in text for text in [*said, *illegal(found)]), str(found)
