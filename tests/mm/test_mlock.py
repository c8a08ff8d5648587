"""Locked memory: the pages are there, and stay."""

from __future__ import annotations

import errno

import anyio
import pytest
from mm._arena import numbered_file
from mm.test_address_space import ANON, BASE, FIXED, LOCKINGS, PAGE, RW, Gate, R, at, settle_down

from aspf import mm
from aspf.mm import AddressSpace

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOCKINGS)
def locking(request):
    return request.param


async def test_locked_pages_are_there_and_stay(locking):
    """A program that may not wait for a page would wait for one."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED)
        await space.mlock(at(1) + 5, PAGE)
        assert [a for a, _ in space.page_table.items(BASE, at(4))] == [at(1), at(2)]
        assert all(e.rights & mm.PROT_WRITE for _, e in space.page_table.items(BASE, at(4)))
        for advice in (mm.MADV_DONTNEED, mm.MADV_FREE):
            with pytest.raises(OSError, match="unlock it first"):
                await space.madvise(BASE, 4 * PAGE, advice)
        await space.munlock(BASE, 4 * PAGE)
        await space.madvise(BASE, 4 * PAGE, mm.MADV_DONTNEED)
        assert space.statistics().pages == 0
        assert space.statistics().vmas == 1


async def test_mapping_locked_memory_brings_its_pages(locking):
    """MAP_LOCKED would promise what it does not do."""
    async with AddressSpace(locking=locking) as space:
        address = await space.mmap(0, 3 * PAGE, R, ANON | mm.MAP_LOCKED)
        assert space.statistics().pages == 3
        await space.mprotect(address, 2 * PAGE, RW)
        rights = [e.rights & mm.PROT_WRITE for _, e in space.page_table.items(0, mm.TASK_SIZE)]
        assert rights == [mm.PROT_WRITE, mm.PROT_WRITE, 0]


async def test_locked_memory_is_written_to_as_it_becomes_writable():
    """Neighbours would merge that the kernel leaves apart, for it copies pages in between."""
    async with AddressSpace() as space:
        none, execute = mm.PROT_NONE, mm.PROT_EXEC
        await space.mmap(BASE, 4 * PAGE, none, FIXED)
        await space.mprotect(BASE, 2 * PAGE, execute)
        await space.mlock(at(1), PAGE)
        with pytest.raises(OSError, match="can't be had"):
            await space.mlock(at(2), 2 * PAGE)
        await space.mprotect(at(3), PAGE, RW)
        await space.mprotect(BASE, 3 * PAGE, RW)
        # Pages 1 and 3 got an identity each, before page 2 was looked at.
        assert [r.start for r in space._map.index] == [BASE, at(1), at(3)]
        # Beside one that has an identity already, and differs in nothing but protection, it is shared.
        await space.mmap(at(8), 3 * PAGE, R, FIXED | mm.MAP_LOCKED)
        await space.mprotect(at(9), PAGE, RW)
        await space.mprotect(at(8), PAGE, RW)
        await space.mprotect(at(10), PAGE, RW)
        assert [r.start for r in space._map.index][3:] == [at(8)]
        # A file's page beyond its end is not copied, but gives an identity: Linux gets ready first.
        file = numbered_file("f", pages=1)
        await space.mmap(at(20), PAGE, R, mm.MAP_PRIVATE | mm.MAP_FIXED, file, PAGE)
        with pytest.raises(OSError, match="can't be had"):
            await space.mlock(at(20), PAGE)
        await space.mprotect(at(20), PAGE, RW)
        assert space.vma_lookup(at(20)).payload.anon.identity is not None


async def test_a_copy_that_can_not_be_made_keeps_mappings_apart():
    """Neighbours would merge that Linux leaves apart: a page was locked beyond the file's end."""
    async with AddressSpace() as space:
        file = numbered_file("f", pages=4)
        await space.mmap(BASE, 5 * PAGE, RW, mm.MAP_PRIVATE | mm.MAP_FIXED, file)
        with pytest.raises(OSError, match="can't be had"):
            await space.mlock(at(4), PAGE)
        await space.mlock(BASE, PAGE)
        await space.mlock(BASE, 4 * PAGE)
        assert [(r.start, r.end) for r in space._map.index] == [(BASE, at(4)), (at(4), at(5))]


async def test_a_page_that_can_not_be_had():
    """Mlock would report success for a page that is not there, or MAP_LOCKED fail for one."""
    async with AddressSpace() as space:
        file = numbered_file("f", pages=1)
        await space.mmap(BASE, 2 * PAGE, R, mm.MAP_PRIVATE | mm.MAP_FIXED, file)
        await space.mmap(at(2), PAGE, R, FIXED)
        with pytest.raises(OSError, match="can't be had") as caught:
            await space.mlock(BASE, 3 * PAGE)
        assert caught.value.errno == errno.ENOMEM
        assert space.statistics().pages == 1
        assert all(r.payload.flags & mm.VM_LOCKED for r in space._map.index)
        await space.mmap(BASE, 3 * PAGE, mm.PROT_NONE, FIXED | mm.MAP_LOCKED)
        assert space.statistics().pages == 0


async def test_a_hole_brings_no_page():
    """The part below a hole would be locked as well as brought, which the kernel's is not."""
    async with AddressSpace() as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        for call in (space.mlock, space.munlock):
            with pytest.raises(OSError, match="below the hole"):
                await call(at(1), 2 * PAGE)
        assert space.statistics().pages == 0


@pytest.mark.parametrize(("gone", "left"), [((1, 2), [0, 3]), ((2, 2), [0, 1])])
async def test_pages_of_what_was_unmapped_meanwhile_are_left_out(gone, left):
    """Mlock would hang, or fail, for another task's munmap."""
    pager = Gate()
    async with AddressSpace(pager=pager) as space, anyio.create_task_group() as tasks:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED)
        tasks.start_soon(space.mlock, BASE, 4 * PAGE)
        await settle_down()
        tasks.start_soon(space.munmap, at(gone[0]), gone[1] * PAGE)
        await settle_down()
        pager.go.set()
        await settle_down()
        there = [address for address, _ in space.page_table.items(BASE, at(4))]
        assert there == [at(page) for page in left]
