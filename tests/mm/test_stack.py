"""Stacks that grow when somebody touches what lies below them."""

from __future__ import annotations

import errno

import anyio
import pytest
from mm.test_address_space import ANON, FIXED, LOCKINGS, PAGE, RW, Gate, R, settle_down
from mm.test_plan import layout

from aspf import mm
from aspf.mm import AddressSpace, Limits, SegmentationFault
from aspf.mm._plan_stack import plan_growth
from aspf.race import explore
from aspf.ranges import Region, RegionIndex

pytestmark = pytest.mark.anyio

TOP = 0x10000000
STACK = FIXED | mm.MAP_GROWSDOWN


@pytest.fixture(params=LOCKINGS)
def locking(request):
    return request.param


def below(pages: int) -> int:
    return TOP - pages * PAGE


async def stack_of(space: AddressSpace, pages: int, prot: int = RW) -> None:
    await space.mmap(below(pages), pages * PAGE, prot, STACK)


def spans(space: AddressSpace) -> list[tuple[int, int]]:
    return [((r.start - TOP) // PAGE, (r.end - TOP) // PAGE) for r in space._map.index]


async def test_a_write_below_a_stack_lets_it_grow(locking):
    """A program that calls deeper than its stack is long would be killed."""
    async with AddressSpace(locking=locking) as space:
        await stack_of(space, 2)
        await space.write(TOP - 8, b"top")
        await space.write(below(5) - 2, b"deep")
        assert spans(space) == [(-6, 0)]
        assert await space.read(below(5) - 2, 4) == b"deep"
        assert await space.read(TOP - 8, 3) == b"top"
        # Only the pages that were touched are there.
        assert space.statistics().pages == 3


async def test_a_stack_grows_no_longer_than_its_limit(locking):
    """Runaway recursion would eat all memory, or stop a page too early."""
    async with AddressSpace(locking=locking, limits=Limits(stack=8 * PAGE + 100)) as space:
        await stack_of(space, 2)
        await space.read(below(8), 1)
        with pytest.raises(SegmentationFault, match="MAPERR"):
            await space.read(below(8) - 1, 1)
        assert spans(space) == [(-8, 0)]


async def test_a_stack_does_not_grow_into_what_is_mapped_below(locking):
    """A stack would run into the heap: the guard gap is there to prevent it."""
    async with AddressSpace(locking=locking) as space:
        await stack_of(space, 1)
        await space.mmap(below(300), PAGE, RW, FIXED)
        await space.read(below(43), 1)
        with pytest.raises(SegmentationFault):
            await space.read(below(44), 1)
        # Inaccessible memory is a gap itself, whatever lies below it.
        await space.mmap(below(299), PAGE, mm.PROT_NONE, FIXED)
        await space.read(below(298), 1)
        assert spans(space) == [(-300, -299), (-299, -298), (-298, 0)]


async def test_a_stack_may_grow_towards_another(locking):
    """A pair of stacks would keep a gap that Linux doesn't."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(below(10), PAGE, RW, STACK)
        await stack_of(space, 1)
        await space.read(below(9), 1)
        # They don't merge, though nothing tells them apart.
        assert spans(space) == [(-10, -9), (-9, 0)]


async def test_only_a_stack_grows(locking):
    """A wild pointer would not be noticed."""
    async with AddressSpace(locking=locking, min_address=below(40)) as space:
        await space.mmap(TOP, PAGE, RW, FIXED)
        with pytest.raises(SegmentationFault):
            await space.read(TOP - 1, 1)
        await stack_of(space, 1)
        with pytest.raises(SegmentationFault):
            await space.read(below(41), 1)
        with pytest.raises(SegmentationFault):
            await space.read(TOP + PAGE, 1)


async def test_a_stack_keeps_its_protection(locking):
    """Growing would make memory writable, or the error would say that nothing is mapped."""
    async with AddressSpace(locking=locking) as space:
        await stack_of(space, 1, R)
        with pytest.raises(SegmentationFault, match="ACCERR"):
            await space.write(below(3), b"x")
        assert spans(space) == [(-3, 0)]


async def test_a_stack_waits_for_a_range_that_is_vacated_below_it(locking):
    """A page of the stack would be zapped by the munmap of what was there before."""
    async with AddressSpace(locking=locking) as space, anyio.create_task_group() as tasks:
        await space.mmap(below(3), PAGE, RW, FIXED)
        await stack_of(space, 1)
        held = space.find_vma_speculative_nowait(below(3))
        tasks.start_soon(space.munmap, below(3), PAGE)
        await settle_down()
        tasks.start_soon(space.write, below(3), b"stack")
        tasks.start_soon(space.write, below(2), b"stack")
        await settle_down()
        # Its guard gap is not free either.
        assert spans(space) == [(-1, 0)]
        await space.vma_put(held)
        await settle_down()
        assert await space.read(below(3), 5) == await space.read(below(2), 5) == b"stack"
        assert spans(space) == [(-3, 0)]


async def test_a_stack_that_goes_while_its_growth_waits_does_not_come_back(locking):
    """A fault would map again what was unmapped."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(below(3), PAGE, RW, FIXED)
        await stack_of(space, 1)
        held = space.find_vma_speculative_nowait(below(3))
        seen = []

        async def fault() -> None:
            try:
                await space.fault(below(3))
            except SegmentationFault as error:
                seen.append(error.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.munmap, below(3), PAGE)
            await settle_down()
            tasks.start_soon(fault)
            await settle_down()
            tasks.start_soon(space.munmap, below(1), PAGE)
            await settle_down()
            await space.vma_put(held)
        assert (seen, spans(space)) == (["MAPERR"], [])


async def test_a_stack_that_another_fault_has_grown_is_used():
    """Two faults below one stack would fail, or make it grow twice."""
    async with AddressSpace(locking="mmap_lock_retry", pager=Gate()) as space:
        await stack_of(space, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.read, below(3), 1)
            tasks.start_soon(space.read, below(3), 1)
            await settle_down()
            space.pager.go.set()
        assert spans(space) == [(-3, 0)]


@pytest.mark.parametrize("chosen", LOCKINGS)
def test_two_faults_below_a_stack_grow_it_once(chosen):
    """The second one would be refused, or grow what has grown already."""

    async def program() -> list[tuple[int, int]]:
        async with AddressSpace(locking=chosen) as space:
            await stack_of(space, 2)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(space.write, below(4), b"one")
                tasks.start_soon(space.write, below(4) + 8, b"two")
            assert await space.read(below(4), 11) == b"one\0\0\0\0\0two"
            return spans(space)

    found = explore(program, search="exhaustive", schedules=5_000)
    assert (set(found.outcomes), found.exhausted) == ({"[(-4, 0)]"}, True), str(found)


async def test_faults_after_closing_say_so(locking):
    """A closed space would say that nothing is mapped."""
    async with AddressSpace(locking=locking) as space:
        await stack_of(space, 1)
    with pytest.raises(anyio.ClosedResourceError):
        await space.read(below(2), 1)


async def test_the_stack_of_a_live_process_grows():
    """[stack] would be a mapping like any other."""
    text = "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 " + " " * 20 + "[stack]\n"
    space = AddressSpace.from_maps(text)
    async with space:
        await space.write(0x7FFC00000000 - 5 * PAGE, b"deep")
        assert space.maps().startswith("7ffbffffb000-7ffc00021000 rw-p")
        assert "[stack]" in space.maps()


async def test_protecting_a_stack_reaches_down_to_its_start(locking):
    """PROT_GROWSDOWN would leave the deep end of a stack as it was."""
    async with AddressSpace(locking=locking) as space:
        await stack_of(space, 8)
        await space.write(below(8), b"x")
        await space.mprotect(below(2), PAGE, R | mm.PROT_GROWSDOWN)
        assert spans(space) == [(-8, -1), (-1, 0)]
        with pytest.raises(SegmentationFault):
            await space.write(below(8), b"x")
        # A range that begins in the hole below reaches up to it.
        await space.mprotect(below(9), 2 * PAGE, RW | mm.PROT_GROWSDOWN)
        assert spans(space) == [(-8, -7), (-7, -1), (-1, 0)]


async def test_protecting_a_stack_waits_for_faults_down_to_its_start():
    """The call would return while a fault at the deep end can still make a page writable."""
    async with AddressSpace(pager=Gate()) as space, anyio.create_task_group() as tasks:
        await space.mmap(below(8), 4 * PAGE, RW, STACK)
        await space.mmap(below(4), 4 * PAGE, R, STACK)
        tasks.start_soon(space.fault, below(8), mm.PROT_WRITE)
        await settle_down()
        returned = []

        async def protect() -> None:
            await space.mprotect(below(5), PAGE, R | mm.PROT_GROWSDOWN)
            returned.append(space.page_table.get(below(8)).rights)

        tasks.start_soon(protect)
        await settle_down()
        assert not returned
        space.pager.go.set()
        await settle_down()
        assert returned == [R]


@pytest.mark.parametrize(
    ("address", "prot", "code"),
    [
        (below(4), RW | mm.PROT_GROWSDOWN | mm.PROT_GROWSUP, errno.EINVAL),
        (below(3), RW | mm.PROT_GROWSUP, errno.EINVAL),
        (below(5), RW | mm.PROT_GROWSUP, errno.ENOMEM),
        (below(9), RW | mm.PROT_GROWSDOWN, errno.ENOMEM),
        (TOP, RW | mm.PROT_GROWSDOWN, errno.EINVAL),
    ],
)
async def test_what_does_not_grow_that_way_is_refused(address, prot, code):
    """As Linux 6.18 answered; a program would think that it had protected its stack."""
    async with AddressSpace() as space:
        await stack_of(space, 4)
        await space.mmap(TOP, PAGE, R, FIXED)
        with pytest.raises(OSError, match=r"mprotect\(") as caught:
            await space.mprotect(address, 2 * PAGE, prot)
        assert caught.value.errno == code
        assert spans(space) == [(-4, 0), (0, 1)]


async def test_a_growing_stack_gets_its_anonymous_identity():
    """A read that lets it grow does it too, in Linux: so what it was split from merges or not."""
    async with AddressSpace() as space:
        await stack_of(space, 1)
        await space.read(below(1), 1)
        assert space.vma_lookup(below(1)).payload.anon.identity is None
        await space.read(below(2), 1)
        assert space.vma_lookup(below(1)).payload.anon.identity is not None


@pytest.mark.parametrize(
    "limits",
    [Limits(address_space=4 * PAGE), Limits(stack=4 * PAGE)],
    ids=["address space", "stack"],
)
async def test_a_stack_that_may_not_grow_gets_its_anonymous_identity(limits):
    """Linux makes it before it asks the limits, and mprotect then keeps what is accounted."""
    async with AddressSpace(limits=limits) as space:
        await stack_of(space, 4)
        with pytest.raises(SegmentationFault):
            await space.read(below(5), 1)
        await space.mprotect(below(4), PAGE, R)
        low, high = space._map.index
        assert low.payload.flags & high.payload.flags & mm.VM_ACCOUNT


def test_a_moved_stack_ends_at_page_0_of_its_numbers():
    """Pages of a stack that mremap has moved up would get numbers below 0."""
    high = mm.VMA(R | mm.VM_GROWSDOWN, origin=below(3))
    index = RegionIndex([Region(below(1), TOP, high)])
    assert plan_growth(layout(index), below(3)).edit is not None
    with pytest.raises(OSError, match="numbered"):
        plan_growth(layout(index), below(4))


async def test_a_large_stack_keeps_its_room_free():
    """Mappings would be placed where the stack may grow."""
    for limit in (8 << 20, 1 << 30):
        async with AddressSpace(limits=Limits(stack=limit)) as space:
            address = await space.mmap(0, PAGE, RW, ANON)
            assert mm.TASK_SIZE - address == max(limit, 1 << 27) + PAGE
    # Without a limit it may have most of the space.
    async with AddressSpace(limits=Limits(stack=None)) as space:
        assert await space.mmap(0, PAGE, RW, ANON) < mm.TASK_SIZE // 6
        await stack_of(space, 1)
        await space.read(below(9000), 1)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(address_space=4 * PAGE),
        Limits(locked=4 * PAGE),
        Limits(total_memory=2 * PAGE),
    ],
    ids=["address space", "locked memory", "overcommit"],
)
async def test_a_stack_asks_the_limits_before_it_grows(limits):
    """Touching memory would give what mmap refuses."""
    async with AddressSpace(limits=limits) as space:
        flags = mm.MAP_LOCKED if limits.locked == 4 * PAGE else 0
        await space.mmap(below(2), 2 * PAGE, RW, FIXED | mm.MAP_GROWSDOWN | flags)
        await space.read(below(3), 1)
        with pytest.raises(SegmentationFault, match="MAPERR") as caught:
            await space.read(below(6), 1)
        assert "a stack that grows to" in str(caught.value.__cause__)


async def test_a_stack_waits_for_memory_that_is_being_given_back():
    """A fault would be SIGSEGV for want of memory that munmap is just freeing."""
    gate = Gate()
    async with AddressSpace(limits=Limits(address_space=4 * PAGE), pager=gate) as space:
        await stack_of(space, 1)
        await space.mmap(below(1000), 3 * PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.fault, below(1000))
            await settle_down()
            tasks.start_soon(space.munmap, below(1000), 3 * PAGE)
            await settle_down()
            tasks.start_soon(space.fault, below(2))
            await settle_down()
            assert spans(space) == [(-1, 0)]
            gate.go.set()
        assert spans(space) == [(-2, 0)]


async def test_linux_promises_the_growth_of_any_stack():
    """The count would differ from Linux's where a stack may not be written to."""
    async with AddressSpace() as space:
        await space.mmap(below(1), PAGE, R, FIXED | mm.MAP_GROWSDOWN)
        await space.read(below(3), 1)
        assert space.statistics().committed == 2
