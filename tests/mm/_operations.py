"""Programs of calls and accesses on one small world, and what they may come to.

The oracle is per access. A program is run in every order of its calls one after the other first,
and what an explored schedule has come to must be explained by one of these orders: by one that
keeps the order in time of calls that did not overlap, for each access by itself. So an access that
overlaps a change may see either side of it, and one that is permitted on both sides can't fail.

By itself means: each access has a byte of a page of its own, its *plane*. Looked at are what the
calls returned, what the access returned, and that byte in all pages of all spaces in the end. That
is weaker than one order for everything, and has to be: an access that hits an old entry while a
change settles has come before the change, also if somebody has seen the change elsewhere: another
access, or a call that has returned because of it. A processor whose TLB has not been flushed does
the same.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING

import anyio
import trio

from aspf import mm
from aspf.mm import AddressSpace, BusError, MappedFile, SegmentationFault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

PAGE = mm.PAGE_SIZE
BASE = 0x10000
R = mm.PROT_READ
RW = mm.PROT_READ | mm.PROT_WRITE
ANON = mm.MAP_PRIVATE | mm.MAP_ANONYMOUS
FIXED = ANON | mm.MAP_FIXED
MOVE = mm.MREMAP_MAYMOVE
PLANES = 6


def at(page: int) -> int:
    return BASE + page * PAGE


class Memory:
    """Pages that take one checkpoint to come."""

    async def fetch(self, index: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return b""


class Disk:
    """A file's bytes, in memory."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    async def fetch(self, index: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return self.pages.get(index, b"")

    async def store(self, index: int, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.pages[index] = data


# Calls ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """Something that a task does.

    Attributes:
        name: For messages.
        do: What, given the world and the number of the plane of this access.
        needs: Areas of the world.
        plane: Whether it is an access that has a plane.
        exact: Whether what it returns must be explained even beside another operation. mlock tells
            whether it could bring the pages, which it does after it has locked them.
    """

    name: str
    do: Callable[[World, int], Awaitable[object]]
    needs: frozenset[str] = frozenset()
    plane: bool = False
    exact: bool = True


async def _fill_memory(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(0), 3 * PAGE, RW, FIXED)
    await space.write(at(0), b"o")


async def _fill_file(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(8), 2 * PAGE, RW, mm.MAP_SHARED | mm.MAP_FIXED, file)
    await space.write(at(8), b"o")


async def _fill_copy(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(12), 2 * PAGE, RW, mm.MAP_PRIVATE | mm.MAP_FIXED, file, 2 * PAGE)
    await space.read(at(12), 1)


async def _fill_target(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(16), 2 * PAGE, RW, FIXED)
    await space.write(at(16), b"o")


async def _fill_readonly(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(20), 2 * PAGE, R, FIXED)


async def _fill_locked(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(24), 2 * PAGE, RW, FIXED)
    await space.mlock(at(24), PAGE)


async def _fill_stack(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(1000), PAGE, RW, FIXED | mm.MAP_GROWSDOWN)
    await space.write(at(1000), b"o")


async def _fill_ledge(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(999), PAGE, RW, FIXED)


async def _fill_away(space: AddressSpace, file: MappedFile) -> None:
    await space.mmap(at(4), 2 * PAGE, RW, FIXED)
    await space.write(at(4), b"o")
    await space.mremap(at(4), 2 * PAGE, 2 * PAGE, TO, at(32))


async def _fill_heap(space: AddressSpace, file: MappedFile) -> None:
    await space.brk(at(2002))
    await space.write(at(2000), b"o")


AREAS = {
    "memory": (_fill_memory, (0, 1, 2)),
    "file": (_fill_file, (8, 9)),
    "copy": (_fill_copy, (12, 13)),
    "target": (_fill_target, (16, 17)),
    "readonly": (_fill_readonly, (20, 21)),
    "locked": (_fill_locked, (24, 25)),
    "stack": (_fill_stack, (1000,)),
    # Below the stack, and in its way. A program that wants it says so.
    "ledge": (_fill_ledge, ()),
    # It has been moved there, and would merge at home, at 4.
    "away": (_fill_away, (32, 33)),
    "heap": (_fill_heap, (2000, 2001)),
}
AREA_OF = {page: area for area, (_, pages) in AREAS.items() for page in pages}


def read(page: int, *, child: bool = False) -> Call:
    async def do(world: World, plane: int) -> object:
        return await world.space_of(child).read(at(page), 1)

    return Call(f"read {page}{' in the child' * child}", do, _needs(page), plane=True)


def write(page: int, *, child: bool = False) -> Call:
    async def do(world: World, plane: int) -> object:
        await world.space_of(child).write(at(page) + plane, b"x")
        return "ok"

    return Call(f"write {page}{' in the child' * child}", do, _needs(page), plane=True)


async def _maps(world: World, plane: int) -> object:
    return world.space.maps()


MAPS = Call("maps", _maps)


def _needs(page: int) -> frozenset[str]:
    return frozenset({AREA_OF[page]}) if page in AREA_OF else frozenset()


# The world --------------------------------------------------------------------------------------


@dataclass
class Interval:
    """When a call began and ended; None if it was cancelled.

    Attributes:
        settled: Whether no change was unsettled when it returned. Else what it returned may rest on
            a change that an access after it need not have seen.
    """

    start: int
    end: int | None = None
    result: object = None
    settled: bool = True


class World:
    """A space with some areas, perhaps a child, and what was done to them."""

    def __init__(self, program: Program, broken: Callable[[AddressSpace], None] | None) -> None:
        self.program = program
        self.disk = Disk()
        self.file = MappedFile(self.disk, size=64 * PAGE, name="f", is_writable=True)
        self.space = AddressSpace(
            pager=Memory(), start_brk=at(2000), locking=program.locking, limits=LIMITS
        )
        self.children: list[AddressSpace] = []
        self.broken = broken
        self.clock = 0
        self.held: list = []
        self.intervals: dict[int, Interval] = {}

    def space_of(self, child: bool) -> AddressSpace:
        return self.children[0] if child else self.space

    async def build(self) -> None:
        for area, (fill, _) in AREAS.items():
            if area in self.program.needs:
                await fill(self.space, self.file)
        if self.program.forked:
            self.children.append(await self.space.fork())
        if self.broken is not None:
            self.broken(self.space)

    async def call(self, number: int) -> None:
        """Make one call of the program, and remember when it was and what it returned."""
        call = self.program.calls[number]
        interval = self.intervals[number] = Interval(self._tick())
        try:
            result = await call.do(self, self.program.plane_of(number))
        except SegmentationFault as error:
            result = error.code
        except BusError:
            result = "SIGBUS"
        except anyio.ClosedResourceError:
            result = "closed"
        except OSError as error:
            result = errno.errorcode[error.errno]
        interval.result = result
        # One that has failed promises nothing.
        if call.name in STORES and result in (None, "ok"):
            interval.result = result, self._stored()
        interval.end = self._tick()
        interval.settled = call.plane or not self.space._map.statistics().unsettled

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def _stored(self) -> bytes:
        return self.disk.pages.get(0, b"")[:PLANES]

    # What is left

    def layout(self) -> tuple:
        return tuple(
            (number, r.start, r.end, r.payload.flags, r.payload.file is not None)
            for number, space in enumerate(self.spaces())
            for r in space._map.index
        )

    def plane(self, number: int) -> tuple:
        """Return the byte of that number in every page where it is not zero."""
        return tuple(
            (owner, address, byte)
            for owner, space in enumerate(self.spaces())
            for region in space._map.index
            for address in range(region.start, region.end, PAGE)
            if (byte := self._peek(space, region, address)[number])
        )

    def _peek(self, space: AddressSpace, region: mm.Region, address: int) -> bytes:
        entry = space.page_table.get(address)
        if entry is not None:
            return entry.page.data
        if region.payload.file is None:
            return bytes(PLANES)
        index = region.payload.page_index(address)
        page = region.payload.file.cached(index)
        data = self.disk.pages.get(index, b"") if page is None else bytes(page.data)
        return data[:PLANES].ljust(PLANES, b"\0")

    def spaces(self) -> Iterable[AddressSpace]:
        return (self.space, *self.children)

    def check(self) -> None:
        """No stale page, no right too many, no page that two may write to, nothing unsettled."""
        counts: dict[int, int] = {}
        for space in self.spaces():
            who = "the space" if space is self.space else "the child"
            for address, entry in space.page_table.items(0, mm.TASK_SIZE):
                region = space.vma_lookup(address)
                page = (address - BASE) // PAGE
                assert region is not None, f"stale page {page} in {who}"
                vma = region.payload
                assert not entry.rights & ~vma.rights, f"lost protection of page {page} in {who}"
                if vma.is_private and entry.rights & mm.PROT_WRITE:
                    assert entry.page.share_count == 1, f"page {page} in {who} is not its own"
                if vma.is_private and entry.page.is_dirty and vma.file is None:
                    assert vma.anon.identity is not None, f"page {page} in {who} has no anon_vma"
                counts[id(entry.page)] = counts.get(id(entry.page), 0) + 1
                cached = vma.file is not None and entry.page in vma.file._cache.values()
                shares = entry.page.share_count - cached - (entry.page is mm._page.ZERO_PAGE)
                assert shares >= counts[id(entry.page)], f"page {page} in {who} is counted short"
            state = space._map.statistics()
            assert state.pins == 0, f"leaked pin in {who}"
            assert state.unsettled == len(space._vacated) == len(space._reserved) == 0
            assert len(space._anonymous) == len(space._moving) == len(space._unstored) == 0

    async def exit(self) -> None:
        """Close everything, and look that nothing is left."""
        pages = [e.page for s in self.spaces() for _, e in s.page_table.items(0, mm.TASK_SIZE)]
        for space in self.spaces():
            await space.aclose()
            left = space.statistics()
            assert (left.pages, left.vmas, left.total_vm, left.locked_vm) == (0, 0, 0, 0)
            assert left.committed == 0, "memory stays promised"
        cache = self.file._cache
        if any(interval.end is None for interval in self.intervals.values()):
            # A cancelled call has not stored what it should have: it says so.
            await self.file.flush()
        for page in pages:
            kept = (page in cache.values()) + (page is mm._page.ZERO_PAGE)
            assert page.share_count == kept, "a page is counted as shared after all have gone"
        for index, page in cache.items():
            assert not page.is_dirty, "a shared page was not stored"
            assert self.disk.pages.get(index, b"").rstrip(b"\0") == page.data.rstrip(b"\0")


LIMITS = mm.Limits(locked=None)
# A page of each area that a call may take away while somebody holds it.
HELD = (0, 8, 12, 16, 24, 32, 999, 1000, 2000)
# When these return, the disk has what was written before.
STORES = {"msync", "munmap file", "exit"}


# Programs ---------------------------------------------------------------------------------------


@dataclass
class Program:
    """Tasks that each make some calls, and what they may come to.

    Attributes:
        tasks: The calls of each.
        forked: Whether there is a child to begin with.
        draining: A call that has been made before and is cancelled: what it took away is held, and
            let go of by one more task.
        locking: As for the space.
        cancelled: Whether it will be explored with cancellations, so that calls may be left out.
    """

    tasks: tuple[tuple[Call, ...], ...]
    forked: bool = False
    draining: Call | None = None
    locking: mm.Locking = "speculative"
    cancelled: bool = False
    needs: frozenset[str] = frozenset()
    calls: tuple[Call, ...] = ()
    allowed: dict[tuple[int, ...], tuple] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = () if self.draining is None else (self.draining,)
        self.calls = (*first, *(call for task in self.tasks for call in task))
        self.needs = frozenset().union(*(call.needs for call in self.calls))

    @property
    def name(self) -> str:
        told = " against ".join(", ".join(call.name for call in task) for task in self.tasks)
        return told if self.draining is None else f"{told} while {self.draining.name} drains"

    def numbered(self) -> list[list[int]]:
        """Return the numbers of each task's calls."""
        number, tasks = 0, [] if self.draining is None else [[0]]
        number = len(tasks)
        for task in self.tasks:
            tasks.append(list(range(number, number + len(task))))
            number += len(task)
        return tasks

    def plane_of(self, number: int) -> int:
        """Return the plane of an access; 0 is what was there before."""
        return sum(call.plane for call in self.calls[: number + 1])

    # One after the other

    async def prepare(self) -> None:
        """Run every order of the calls, without those too that a cancellation may leave out."""
        for order in self._orders():
            world = World(self, None)
            await world.build()
            for number in order:
                await world.call(number)
            world.check()
            self.allowed[order] = self._observed(world)
            await world.exit()

    def _orders(self) -> Iterable[tuple[int, ...]]:
        tasks = self.numbered()
        least = 0 if self.cancelled else len(self.calls) - (self.draining is not None)
        for size in range(least, len(self.calls) + 1):
            for order in permutations(range(len(self.calls)), size):
                if all(_is_prefix([n for n in order if n in task], task) for task in tasks):
                    yield order

    def _observed(self, world: World) -> tuple:
        results = {number: i.result for number, i in world.intervals.items()}
        planes = tuple(world.plane(n) for n in range(1 + sum(call.plane for call in self.calls)))
        return results, world.layout(), planes

    # In an explored schedule

    def explain(self, world: World) -> None:
        """Fail unless each access, and the rest, is explained by some order.

        Raises:
            AssertionError: It says which is not.
        """
        results, layout, planes = self._observed(world)
        in_all = range(len(planes))
        # An access and one operation have to be explained by the same order; but a cancelled access
        # may have let a stack grow, and written nothing.
        is_joint = len(self.calls) <= 2 and all(
            i.end is not None for n, i in world.intervals.items() if self.calls[n].plane
        )
        finished = [n for n, i in world.intervals.items() if i.end is not None]

        def told(number: int, result: object, plane: int) -> object:
            if isinstance(result, tuple):  # what is stored, of this plane
                return result[0], result[1][plane : plane + 1].strip(b"\0")
            is_alone = sum(not call.plane for call in self.calls) == 1
            return result if self.calls[number].exact or is_alone else None

        def explains(order: tuple[int, ...], plane: int, numbers: list[int]) -> bool:
            theirs, its_layout, its_planes = self.allowed[order]
            return (
                all(told(n, theirs[n], plane) == told(n, results[n], plane) for n in numbers)
                and (its_layout == layout or not (is_joint or plane == 0))
                and all(its_planes[p] == planes[p] for p in (in_all if is_joint else (plane,)))
            )

        for plane in in_all:
            numbers = [
                n
                for n in finished
                if is_joint or not self.calls[n].plane or self.plane_of(n) == plane
            ]
            if not any(
                explains(order, plane, numbers)
                for order in self.allowed
                if self._keeps_time(order, world.intervals, plane)
            ):
                what = {self.calls[n].name: told(n, results[n], plane) for n in numbers}
                pages = [((a - BASE) // PAGE, b) for _, a, b in planes[plane]]
                kind = "lost" if plane else "layout of"
                msg = f"{kind} plane {plane}: no order of the calls explains {what}, {pages}"
                raise AssertionError(msg if plane else f"{msg}, {shown(layout)}")

    def _keeps_time(
        self, order: tuple[int, ...], intervals: dict[int, Interval], plane: int
    ) -> bool:
        for number, interval in intervals.items():
            if interval.end is not None and number not in order:
                return False
        if not set(order) <= set(intervals):
            return False
        changes = [number for number in order if not self.calls[number].plane]
        if self.draining is not None and not plane and changes[:1] != [0]:
            return False  # it was published first
        return not any(
            (ended := intervals[late].end) is not None
            and ended < intervals[early].start
            and (intervals[late].settled or not plane)
            for place, early in enumerate(order)
            for late in order[place + 1 :]
        )

    def runner(self, broken: Callable[[AddressSpace], None] | None = None) -> Callable:
        """Return what the explorer runs."""

        async def run() -> None:
            world = World(self, broken)
            with trio.CancelScope(shield=True) as around:
                await world.build()
                around.shield = False
                try:
                    await self._calls(world, broken)
                finally:  # also when all of them were cancelled at once
                    around.shield = True
                    world.check()
                    self.explain(world)
                    await world.exit()

        return run

    async def _calls(self, world: World, broken: Callable[[AddressSpace], None] | None) -> None:
        async with trio.open_nursery() as nursery:
            if self.draining is not None:
                held = [world.space.find_vma_speculative_nowait(at(page)) for page in HELD]
                try:
                    await _cancelled_once_published(world)
                    assert broken or world.space._map.statistics().unsettled, "nothing drains"
                finally:
                    nursery.start_soon(_let_go, world.space, [r for r in held if r is not None])
            for numbers in self.numbered()[self.draining is not None :]:
                nursery.start_soon(_task, world, numbers)


def _is_prefix(some: list[int], of: list[int]) -> bool:
    return some == of[: len(some)]


async def _task(world: World, numbers: list[int]) -> None:
    for number in numbers:
        await world.call(number)


async def _cancelled_once_published(world: World) -> None:
    """Make the first call, and cancel it as soon as it is visible."""
    space = world.space
    publish = space._publish
    with anyio.CancelScope() as scope:

        def publish_and_cancel(*args: object) -> object:
            scope.cancel()
            return publish(*args)

        space._publish = publish_and_cancel
        await world.call(0)
    space._publish = publish


async def _let_go(space: AddressSpace, held: list) -> None:
    try:
        await anyio.lowlevel.checkpoint()
    finally:
        for region in held:
            space.vma_put_nowait(region)


def shown(layout: tuple) -> str:
    return " ".join(
        f"{'child:' * child}{(start - BASE) // PAGE}-{(end - BASE) // PAGE}/{flags:x}"
        for child, start, end, flags, _ in layout
    )


def prepared(programs: list[Program]) -> list[Program]:
    """Let each program learn what it may come to."""

    async def main() -> None:
        for program in programs:
            await program.prepare()

    trio.run(main)
    return programs


# Operations -------------------------------------------------------------------------------------


def _operation(
    name: str,
    needs: str,
    do: Callable[[AddressSpace, MappedFile], Awaitable[object]],
    *,
    exact: bool = True,
) -> Call:
    async def run(world: World, plane: int) -> object:
        return await do(world.space, world.file)

    return Call(name, run, frozenset(needs.split()), exact=exact)


async def _fork(world: World, plane: int) -> object:
    world.children.append(await world.space.fork())
    return "ok"


async def _exit(world: World, plane: int) -> object:
    await world.space.aclose()
    return "ok"


FORK = Call("fork", _fork, frozenset({"memory", "file"}))
EXIT = Call("exit", _exit, frozenset({"memory", "file"}))


def _advice(name: str, first: int = 0, pages: int = 2, what: str = "") -> Call:
    advice = getattr(mm, f"MADV_{name}")
    return _operation(
        f"madvise {name}{what}",
        AREA_OF[first],
        lambda s, f: s.madvise(at(first), pages * PAGE, advice),
    )


def _mremap(name: str, needs: str, first: int, old: int, new: int, *how: int) -> Call:
    return _operation(
        f"mremap {name}",
        needs,
        lambda s, f: s.mremap(at(first), old * PAGE, new * PAGE, *how),
    )


SHARED_FIXED = mm.MAP_SHARED | mm.MAP_FIXED
TO = MOVE | mm.MREMAP_FIXED

MREMAPS = {
    _mremap("grows in place", "memory", 0, 3, 4): (0, 3),
    _mremap("shrinks", "memory", 0, 3, 1): (0, 1),
    _mremap("moves", "memory", 0, 2, 2, TO, at(30)): (0, 1, 31),
    _mremap("moves over another", "memory target", 0, 2, 2, TO, at(16)): (0, 1, 16, 17),
    _mremap("moves and shrinks", "memory", 0, 3, 1, TO, at(30)): (0, 1, 30),
    _mremap("moves and grows", "memory target", 0, 2, 3, TO, at(16)): (1, 18),
    _mremap("DONTUNMAP", "memory", 0, 3, 3, MOVE | mm.MREMAP_DONTUNMAP, at(30)): (0, 1, 31),
    _mremap("must move to grow", "target readonly", 16, 2, 5, MOVE): (16, 17),
    _mremap("duplicates", "file", 8, 0, 2, TO, at(30)): (8, 31),
    _mremap("moves several", "target readonly", 16, 6, 6, TO, at(40)): (16, 17, 41, 44),
    _mremap("moves home", "away", 32, 2, 2, TO, at(4)): (4, 33),
    _mremap("moves a copy", "copy", 12, 2, 2, TO, at(30)): (12, 13, 31),
}

# Each with the pages that it changes or leaves alone on purpose.
OPERATIONS = {
    _operation("munmap", "memory", lambda s, f: s.munmap(at(0), 3 * PAGE)): (0, 1),
    _operation("munmap middle", "memory", lambda s, f: s.munmap(at(1), PAGE)): (0, 1, 2),
    _operation("munmap file", "file", lambda s, f: s.munmap(at(8), 2 * PAGE)): (8, 9),
    _operation("mmap alike over", "memory", lambda s, f: s.mmap(at(0), 2 * PAGE, RW, FIXED)): (
        0,
        1,
        2,
    ),
    _operation("mmap read-only over", "memory", lambda s, f: s.mmap(at(1), PAGE, R, FIXED)): (0, 1),
    _operation(
        "mmap file over", "memory file", lambda s, f: s.mmap(at(0), PAGE, RW, SHARED_FIXED, f)
    ): (0, 1),
    _operation("mmap anywhere", "memory", lambda s, f: s.mmap(0, PAGE, RW, ANON)): (0,),
    _operation("mmap beside", "memory", lambda s, f: s.mmap(at(3), PAGE, RW, FIXED)): (2, 3),
    _operation(
        "mmap locked over", "memory", lambda s, f: s.mmap(at(1), PAGE, RW, FIXED | mm.MAP_LOCKED)
    ): (1, 2),
    _operation(
        "mmap populated", "memory", lambda s, f: s.mmap(at(3), PAGE, RW, FIXED | mm.MAP_POPULATE)
    ): (2, 3),
    _operation("mprotect read", "memory", lambda s, f: s.mprotect(at(0), 3 * PAGE, R)): (0, 1),
    _operation("mprotect none", "memory", lambda s, f: s.mprotect(at(1), PAGE, 0)): (0, 1),
    _operation("mprotect all none", "memory", lambda s, f: s.mprotect(at(0), 3 * PAGE, 0)): (0, 1),
    _operation("mprotect grants", "readonly", lambda s, f: s.mprotect(at(20), PAGE, RW)): (20, 21),
    _operation("mprotect file", "file", lambda s, f: s.mprotect(at(8), 2 * PAGE, R)): (8, 9),
    _operation(
        "mprotect stack", "stack", lambda s, f: s.mprotect(at(1000), PAGE, R | mm.PROT_GROWSDOWN)
    ): (999, 1000),
    _operation("munmap stack", "stack", lambda s, f: s.munmap(at(1000), PAGE)): (999, 1000),
    _operation("mmap below stack", "stack", lambda s, f: s.mmap(at(999), PAGE, R, FIXED)): (
        998,
        999,
        1000,
    ),
    _operation("munmap below stack", "stack ledge", lambda s, f: s.munmap(at(999), PAGE)): (
        998,
        999,
        1000,
    ),
    **MREMAPS,
    _operation("mmap at home", "away", lambda s, f: s.mmap(at(4), PAGE, RW, FIXED)): (4, 32),
    _operation("brk grows", "heap", lambda s, f: s.brk(at(2004))): (2000, 2003),
    _operation("brk shrinks", "heap", lambda s, f: s.brk(at(2001))): (2000, 2001),
    _advice("DONTNEED"): (0, 1),
    _advice("DONTNEED_LOCKED", 24): (24, 25),
    _advice("DONTNEED", 8, what=" of a file"): (8, 9),
    _advice("DONTNEED", 12, what=" of a copy"): (12, 13),
    _advice("REMOVE", 8): (8, 9),
    _advice("WILLNEED", 8): (8, 9),
    _advice("POPULATE_READ", 1, 1): (1,),
    _advice("POPULATE_WRITE", 1, 1): (1,),
    **{
        _advice(name): (1,)
        for name in [
            "FREE",
            "COLD",
            "PAGEOUT",
            "NORMAL",
            "RANDOM",
            "SEQUENTIAL",
            "DONTFORK",
            "DOFORK",
            "WIPEONFORK",
            "KEEPONFORK",
            "DONTDUMP",
            "DODUMP",
            "HUGEPAGE",
            "NOHUGEPAGE",
        ]
    },
    _operation("mlock", "memory", lambda s, f: s.mlock(at(1), PAGE), exact=False): (1, 2),
    _operation("mlock ONFAULT", "memory", lambda s, f: s.mlock(at(1), PAGE, mm.MLOCK_ONFAULT)): (
        1,
    ),
    _operation("munlock", "locked", lambda s, f: s.munlock(at(24), PAGE)): (24, 25),
    _operation("mlockall", "target", lambda s, f: s.mlockall(mm.MCL_CURRENT), exact=False): (
        16,
        17,
    ),
    _operation("mlockall FUTURE", "memory", lambda s, f: s.mlockall(mm.MCL_FUTURE)): (1,),
    _operation("munlockall", "locked", lambda s, f: s.munlockall()): (24, 25),
    _operation("msync", "file", lambda s, f: s.msync(at(8), 2 * PAGE, mm.MS_SYNC)): (8, 9),
    _operation("mincore", "memory", lambda s, f: s.mincore(at(0), 3 * PAGE)): (0, 1),
    FORK: (0, 1, 8),
    EXIT: (0, 1, 8),
}


def programs_of(operation: Call, **options: object) -> list[Program]:
    """Return the programs of two tasks, one of them the operation, the other one access."""
    accesses = [(MAPS,)]
    for page in OPERATIONS[operation]:
        accesses += [(write(page),), (read(page),)]
    if operation in (FORK, EXIT):
        accesses += [(write(999),)]
    return [Program((access, (operation,)), **options) for access in accesses]
