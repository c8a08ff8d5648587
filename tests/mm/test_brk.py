"""The heap that brk makes."""

from __future__ import annotations

import anyio
import pytest
from mm.test_address_space import FIXED, LOCKINGS, PAGE, RW, Gate, R, settle_down
from mm.test_plan import layout

from aspf import mm
from aspf.mm import AddressSpace, Limits
from aspf.mm._plan_brk import plan_brk
from aspf.ranges import Region, RegionIndex

pytestmark = pytest.mark.anyio

HEAP = 0x100000


@pytest.fixture(params=LOCKINGS)
def locking(request):
    return request.param


async def test_a_heap_stops_a_page_below_what_is_above(locking):
    """A heap would touch another mapping; and its name would not be where the break says."""
    async with AddressSpace(locking=locking, start_brk=HEAP) as space:
        await space.mmap(HEAP + 4 * PAGE, PAGE, RW, FIXED)
        for wanted in (3, 4, 5):
            assert await space.brk(HEAP + wanted * PAGE) == HEAP + 3 * PAGE
        heap, above = space.maps().splitlines()
        assert heap.endswith("[heap]")
        assert heap.startswith(f"{HEAP:08x}-{HEAP + 3 * PAGE:08x}")
        assert not above.endswith("[heap]")


async def test_the_heap_merges_as_the_kernels_does():
    """A heap would be one mapping with what was there before it, or be cut where it is one."""
    async with AddressSpace(start_brk=HEAP) as space:
        await space.mmap(HEAP - PAGE, PAGE, RW, FIXED)
        await space.brk(HEAP + PAGE)
        await space.brk(HEAP + 2 * PAGE)
        assert [r.start for r in space._map.index] == [HEAP - PAGE, HEAP]
        # A later mapping merges with it like any other.
        await space.mmap(HEAP + 2 * PAGE, PAGE, RW, FIXED)
        assert [r.end for r in space._map.index] == [HEAP, HEAP + 3 * PAGE]


async def test_a_heap_that_grows_again_reads_as_zeros(locking):
    """An allocator would find old bytes in what it takes for fresh memory."""
    async with AddressSpace(locking=locking) as space:
        start = await space.brk(0)
        await space.brk(start + 2 * PAGE)
        await space.write(start + PAGE, b"old")
        await space.brk(start + PAGE)
        await space.brk(start + 2 * PAGE + 1)
        assert await space.brk(start + 2 * PAGE + 9) == start + 2 * PAGE + 9
        assert await space.read(start + PAGE, 3) == bytes(3)
        assert space.statistics().vmas == 1


async def test_the_heap_of_a_process_goes_on():
    """A process that was read from its maps would get a second heap."""
    maps = "00200000-00203000 rw-p 00000000 00:00 0                                  [heap]\n"
    async with AddressSpace.from_maps(maps) as space:
        assert await space.brk(0) == 0x203000
        assert await space.brk(0x205000) == 0x205000
        assert space.statistics().vmas == 1


async def test_a_heap_waits_for_what_leaves_its_place():
    """Its new pages would be dropped with the old ones."""
    pager = Gate()
    async with AddressSpace(start_brk=HEAP, pager=pager) as space:
        await space.brk(HEAP + 4 * PAGE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.fault, HEAP + 3 * PAGE)
            await settle_down()
            tasks.start_soon(space.brk, HEAP + 2 * PAGE)
            await settle_down()
            tasks.start_soon(space.brk, HEAP + 4 * PAGE)
            await settle_down()
            assert await space.brk(0) == HEAP + 2 * PAGE
            pager.go.set()
        assert await space.brk(0) == HEAP + 4 * PAGE
        assert space.statistics().pages == 0


def test_when_the_heap_stays():
    """The break would lie where nothing can be, or where something else is."""
    index = RegionIndex([Region(8 * PAGE, 10 * PAGE, mm.VMA(R))])
    # Somebody has unmapped the heap.
    assert plan_brk(layout(index), 0, 4 * PAGE, 2 * PAGE).address == 4 * PAGE
    full = layout(index, limits=Limits(max_map_count=0))
    assert plan_brk(full, 0, 0, PAGE).address == 0
    # What lies below and differs stays apart.
    plan = plan_brk(layout(index), 10 * PAGE, 10 * PAGE, 12 * PAGE)
    assert (len(plan.edit.old), plan.address) == (0, 12 * PAGE)
    stack = mm.VMA(R | mm.VM_GROWSDOWN)
    above = layout(RegionIndex([Region(270 * PAGE, 271 * PAGE, stack)]), task_size=300 * PAGE)
    assert plan_brk(above, 0, 0, 13 * PAGE).edit
    assert not plan_brk(above, 0, 0, 14 * PAGE).edit
