"""Mappings that move with their pages, in tasks."""

from __future__ import annotations

import errno

import anyio
import pytest
from mm._arena import numbered_file
from mm.test_address_space import ANON, BASE, FIXED, LOCKINGS, PAGE, RW, Gate, R, at, settle_down

from aspf import mm
from aspf.mm import AddressSpace, SegmentationFault

pytestmark = pytest.mark.anyio

TO = mm.MREMAP_MAYMOVE | mm.MREMAP_FIXED
SHARED = mm.MAP_SHARED | mm.MAP_ANONYMOUS


@pytest.fixture(params=LOCKINGS)
def locking(request):
    return request.param


async def test_pages_move_with_their_mapping(locking):
    """Moved memory would be empty, or still be found where it was."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.write(BASE, b"one")
        await space.mmap(at(8), PAGE, RW, FIXED)
        await space.write(at(8), b"in the way")
        assert await space.mremap(BASE, 2 * PAGE, 3 * PAGE, TO, at(8)) == at(8)
        assert await space.read(at(8), 10) == b"one" + bytes(7)
        assert await space.read(at(10), 1) == b"\0"
        with pytest.raises(SegmentationFault, match="MAPERR"):
            await space.read(BASE, 1)
        moved = await space.mremap(at(8), 3 * PAGE, 1 << 20, mm.MREMAP_MAYMOVE)
        assert await space.read(moved, 3) == b"one"


async def test_shrinking_drops_the_tail_and_growing_brings_zeros(locking):
    """Memory would show what was cut off from it before."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.write(at(1), b"cut off")
        assert await space.mremap(BASE, 2 * PAGE, PAGE) == BASE
        assert space.statistics().pages == 0
        assert await space.mremap(BASE, PAGE, PAGE) == BASE
        assert await space.mremap(BASE, PAGE, 2 * PAGE) == BASE
        assert await space.read(at(1), 7) == bytes(7)


async def test_dontunmap_leaves_an_empty_mapping(locking):
    """A collector that moves a heap away would find the old objects, or nothing mapped."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.write(BASE, b"one")
        await space.mremap(BASE, 2 * PAGE, 2 * PAGE, TO | mm.MREMAP_DONTUNMAP, at(8))
        assert await space.read(at(8), 3) == b"one"
        assert await space.read(BASE, 3) == bytes(3)


async def test_a_shared_mapping_is_duplicated(locking):
    """Two views of one memory would show different bytes."""
    async with AddressSpace(locking=locking) as space:
        address = await space.mmap(0, PAGE, RW, SHARED)
        second = await space.mremap(address, 0, PAGE, mm.MREMAP_MAYMOVE)
        await space.write(second, b"both")
        assert await space.read(address, 4) == b"both"
        await space.mremap(address, PAGE, PAGE, TO, BASE)
        await space.write(BASE, b"BOTH")
        assert await space.read(second, 4) == b"BOTH"


async def test_growing_locked_memory_brings_its_pages(locking):
    """The growth of locked memory would have to be waited for when it is touched."""
    async with AddressSpace(locking=locking) as space:
        address = await space.mmap(0, PAGE, RW, ANON | mm.MAP_LOCKED)
        await space.mremap(address, PAGE, 3 * PAGE, mm.MREMAP_MAYMOVE)
        assert space.statistics().pages == 3


async def test_what_fails_half_way_says_so():
    """A caller would not learn that what was in the way is gone."""
    async with AddressSpace(min_address=PAGE) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        with pytest.raises(OSError, match="below min_address") as caught:
            await space.mremap(BASE, 2 * PAGE, PAGE, TO, 0)
        assert caught.value.errno == errno.EPERM
        assert space._vacated == []
        with pytest.raises(OSError, match="pass a mapped range"):
            await space.mremap(at(20), PAGE, PAGE)


async def test_a_move_waits_for_what_leaves_its_place():
    """New pages would be dropped by the munmap of what was there before."""
    pager = Gate()
    async with AddressSpace(pager=pager, task_size=BASE + 8 * PAGE) as space:
        await space.mmap(BASE, 6 * PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.fault, at(3))
            await settle_down()
            tasks.start_soon(space.munmap, at(2), 4 * PAGE)
            await settle_down()
            tasks.start_soon(space.mremap, BASE, 2 * PAGE, 4 * PAGE)
            await settle_down()
            assert space.find_vma(BASE).end == at(2)
            pager.go.set()
        assert space.find_vma(BASE).end == at(4)


async def test_a_move_waits_for_room():
    """A call would fail for want of memory that is being given back."""
    pager = Gate()
    async with AddressSpace(pager=pager, task_size=BASE + 8 * PAGE, min_address=BASE) as space:
        await space.mmap(BASE, 8 * PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.fault, at(3))
            await settle_down()
            tasks.start_soon(space.munmap, at(2), 6 * PAGE)
            await settle_down()
            tasks.start_soon(space.mremap, BASE, PAGE, 3 * PAGE, mm.MREMAP_MAYMOVE)
            await settle_down()
            assert space.vma_lookup(BASE) is not None
            pager.go.set()
        assert space.vma_lookup(BASE) is None


async def test_what_is_being_moved_can_be_truncated():
    """A page beyond the end of the file would arrive with the others."""
    gate = Gate()
    async with AddressSpace(pager=gate) as space:
        file = numbered_file("f", pages=4)
        await space.mmap(BASE, 4 * PAGE, R, mm.MAP_SHARED | mm.MAP_FIXED, file)
        await space.read(at(3), 1)
        await space.mmap(at(8), PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            # A fault that holds the destination keeps the pages where they are.
            tasks.start_soon(space.fault, at(8))
            await settle_down()
            tasks.start_soon(space.mremap, BASE, 4 * PAGE, 4 * PAGE, TO, at(8))
            await settle_down()
            assert space.page_table.get(at(3)) is not None
            await file.truncate(2 * PAGE)
            gate.go.set()
        assert space.page_table.get(at(11)) is None


async def test_what_is_written_while_it_moves_has_an_identity():
    """A written mapping would pass for one that was never written to, and merge as that."""
    gate = Gate()
    async with AddressSpace(pager=gate) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.fault, BASE, mm.PROT_WRITE)
            await settle_down()
            tasks.start_soon(space.mremap, BASE, 2 * PAGE, 2 * PAGE, TO, at(8))
            await settle_down()
            gate.go.set()
        assert space.page_table.get(at(8)) is not None
        assert space.vma_lookup(at(8)).payload.anon.identity is not None
