"""Calls that work on pages: mlockall, MAP_POPULATE, madvise, msync, mincore."""

from __future__ import annotations

import errno

import anyio
import pytest
from mm._arena import Numbered, Recording, numbered_file
from mm.test_address_space import ANON, BASE, FIXED, LOCKINGS, PAGE, RW, Gate, R, at, settle_down

from aspf import mm
from aspf.mm import AddressSpace, MappedFile

pytestmark = pytest.mark.anyio

SHARED = mm.MAP_SHARED | mm.MAP_FIXED


@pytest.fixture(params=LOCKINGS)
def locking(request):
    return request.param


class Stored(Numbered):
    """A pager that takes pages, and says so."""

    def __init__(self) -> None:
        self.stored: dict[int, int] = {}

    async def store(self, index: int, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.stored[index] = data[0]


def stored_file(pages: int = 16) -> tuple[MappedFile, dict[int, int]]:
    pager = Stored()
    return MappedFile(pager, size=pages * PAGE, name="s", is_writable=True), pager.stored


def pages_of(space: AddressSpace) -> list[int]:
    return [(address - BASE) // PAGE for address, _ in space.page_table.items(0, mm.TASK_SIZE)]


def errno_in(caught: pytest.ExceptionInfo[OSError]) -> int | None:
    return caught.value.errno


# mlockall ----------------------------------------------------------------------------------------


async def test_everything_is_locked_and_unlocked(locking):
    """A program in real time would wait for a page that it was promised."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.mmap(at(2), 2 * PAGE, R, FIXED)
        await space.mmap(at(4), PAGE, mm.PROT_NONE, FIXED)
        await space.mlockall(mm.MCL_CURRENT)
        assert pages_of(space) == [0, 1, 2, 3]
        assert space.statistics().locked_vm == 5
        await space.mmap(at(8), PAGE, RW, FIXED)
        await space.munlockall()
        assert (space.statistics().locked_vm, len(pages_of(space))) == (0, 4)


async def test_what_is_mapped_later_is_locked_too():
    """MCL_FUTURE would be forgotten, or last for ever."""
    async with AddressSpace() as space:
        await space.mmap(BASE, PAGE, RW, FIXED)
        await space.mlockall(mm.MCL_FUTURE)
        assert (pages_of(space), space.statistics().locked_vm) == ([], 0)
        await space.mmap(at(4), 2 * PAGE, RW, FIXED)
        await space.brk(await space.brk(0) + PAGE)
        assert space.statistics().locked_vm == space.statistics().pages == 3
        await space.mlockall(mm.MCL_CURRENT)
        await space.mmap(at(8), 2 * PAGE, RW, FIXED)
        assert space.statistics().locked_vm == 4
        await space.munlockall()
        assert space.statistics().locked_vm == 0


async def test_locking_on_fault_brings_nothing():
    """A sparse heap would be filled with pages that nobody touches."""
    async with AddressSpace() as space:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED)
        await space.mlock(BASE, 2 * PAGE, mm.MLOCK_ONFAULT)
        assert pages_of(space) == []
        await space.write(BASE, b"x")
        with pytest.raises(OSError, match="unlock it first"):
            await space.madvise(BASE, PAGE, mm.MADV_DONTNEED)
        await space.mlockall(mm.MCL_CURRENT | mm.MCL_FUTURE | mm.MCL_ONFAULT)
        await space.mmap(at(8), 4 * PAGE, RW, FIXED)
        assert pages_of(space) == [0]
        assert all(r.payload.flags & mm.VM_LOCKONFAULT for r in space._map.index)
        assert space.statistics().vmas == 2
        for flags in (0, 8, mm.MCL_ONFAULT):
            with pytest.raises(OSError, match="mlockall") as caught:
                await space.mlockall(flags)
            assert errno_in(caught) == errno.EINVAL
        with pytest.raises(OSError, match="use MLOCK_ONFAULT") as caught:
            await space.mlock(BASE, PAGE, 2)
        assert errno_in(caught) == errno.EINVAL
        await space.munlockall()
        await space.munmap(BASE, 12 * PAGE)
        # With nothing mapped there is nothing to do.
        await space.mlockall(mm.MCL_CURRENT)


async def test_mlockall_waits_for_what_is_being_replaced():
    """It would bring pages that the zap of the old mapping takes away."""
    gate = Gate()
    async with AddressSpace(pager=gate) as space, anyio.create_task_group() as tasks:
        await space.mmap(BASE, PAGE, RW, FIXED)
        tasks.start_soon(space.fault, BASE)
        await settle_down()
        tasks.start_soon(space.mmap, BASE, PAGE, R, FIXED)
        await settle_down()
        tasks.start_soon(space.mlockall, mm.MCL_CURRENT)
        await settle_down()
        assert space.statistics().locked_vm == 0
        gate.go.set()
        await settle_down()
        await settle_down()
        assert (space.statistics().locked_vm, pages_of(space)) == (1, [0])


# Bringing pages ------------------------------------------------------------------------------------


async def test_populate_brings_what_can_be_had(locking):
    """MAP_POPULATE would fail for a page that is beyond the end, or bring nothing."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED | mm.MAP_POPULATE)
        assert pages_of(space) == [0, 1]
        await space.mmap(at(2), PAGE, R, FIXED | mm.MAP_POPULATE | mm.MAP_NONBLOCK)
        assert pages_of(space) == [0, 1]
        file = numbered_file("f", pages=1)
        await space.mmap(at(4), 2 * PAGE, R, SHARED | mm.MAP_POPULATE, file)
        assert pages_of(space) == [0, 1, 4]


async def test_advice_that_faults_pages_in(locking):
    """A program that must not fault later would get no error now."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.madvise(BASE, PAGE, mm.MADV_POPULATE_READ)
        await space.madvise(at(1), PAGE, mm.MADV_POPULATE_WRITE)
        entries = [entry.rights for _, entry in space.page_table.items(BASE, at(2))]
        assert [bool(rights & mm.PROT_WRITE) for rights in entries] == [False, True]
        await space.mmap(at(2), PAGE, R, FIXED)
        for first, pages, advice, code in [
            (0, 3, mm.MADV_POPULATE_WRITE, errno.EINVAL),
            (0, 4, mm.MADV_POPULATE_READ, errno.ENOMEM),
        ]:
            await space.madvise(BASE, 3 * PAGE, mm.MADV_DONTNEED)
            with pytest.raises(OSError, match="madvise") as caught:
                await space.madvise(at(first), pages * PAGE, advice)
            assert errno_in(caught) == code
            assert pages_of(space) == [0, 1, 2][: 2 if code == errno.EINVAL else 3]
        await space.mmap(at(2), PAGE, mm.PROT_WRITE, FIXED)
        with pytest.raises(OSError, match="may not be read"):
            await space.madvise(at(2), PAGE, mm.MADV_POPULATE_READ)


async def test_populating_beyond_the_end_of_a_file_is_efault():
    """A program would take a page for present that is SIGBUS."""
    async with AddressSpace() as space:
        await space.mmap(BASE, 3 * PAGE, R, SHARED, numbered_file("f", pages=1))
        with pytest.raises(OSError, match="can't be had") as caught:
            await space.madvise(BASE, 3 * PAGE, mm.MADV_POPULATE_READ)
        assert (errno_in(caught), pages_of(space)) == (errno.EFAULT, [0])


async def test_willneed_fills_the_cache_and_not_the_page_table():
    """A program that says what it will read would wait for it all the same."""
    pager = Recording()
    file = MappedFile(pager, size=4 * PAGE, name="f", is_writable=True)
    async with AddressSpace() as space:
        await space.mmap(BASE, 8 * PAGE, RW, SHARED, file)
        await space.mmap(at(8), PAGE, RW, FIXED)
        await space.read(at(1), 1)
        await space.madvise(BASE, 9 * PAGE, mm.MADV_WILLNEED)
        assert (pager.asked, pages_of(space)) == ([1, 0, 2, 3], [1])
        await space.madvise(BASE, 2 * PAGE, mm.MADV_WILLNEED)
        assert len(pager.asked) == 4


async def test_reading_ahead_ends_with_the_mapping():
    """A cancelled reader would go on for a mapping that is gone."""
    gate = Gate()
    file = MappedFile(gate, size=4 * PAGE, name="f")
    async with AddressSpace() as space:
        await space.mmap(BASE, 2 * PAGE, R, mm.MAP_PRIVATE | mm.MAP_FIXED, file)
        await space.mmap(at(2), PAGE, mm.PROT_NONE, mm.MAP_PRIVATE | mm.MAP_FIXED, file)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.madvise, BASE, 3 * PAGE, mm.MADV_WILLNEED)
            await settle_down()
            await space.munmap(at(2), PAGE)
            gate.go.set()
        assert gate.asked == [0, 1]


# Dropping pages ------------------------------------------------------------------------------------


async def test_a_hole_in_a_file_reads_as_zeros_everywhere(locking):
    """What was freed would still be read, by one mapping or by the next that is made."""
    file, stored = stored_file()
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 4 * PAGE, RW, SHARED, file, 4 * PAGE)
        await space.mmap(at(8), 4 * PAGE, RW, mm.MAP_PRIVATE | mm.MAP_FIXED, file, 4 * PAGE)
        assert await space.read(at(1), 1) == b"\x05"
        assert await space.read(at(9), 1) == b"\x05"
        await space.write(at(10), b"own")
        await space.madvise(at(1), 2 * PAGE, mm.MADV_REMOVE)
        assert await space.mincore(BASE, 4 * PAGE) == b"\0\0\0\0"
        assert await space.read(at(1), 1) == b"\0"
        assert await space.read(at(2), 1) == b"\0"
        assert await space.read(at(3), 1) == b"\x07"
        assert await space.read(at(9), 1) == b"\0"
        assert await space.read(at(10), 3) == b"own"
        await file.flush()
        assert stored == {5: 0, 6: 0}
        with pytest.raises(OSError, match="leave it out") as caught:
            await space.madvise(at(8), PAGE, mm.MADV_REMOVE)
        assert errno_in(caught) == errno.EACCES
        await space.mmap(at(8), PAGE, RW, FIXED)
        with pytest.raises(OSError, match="use MADV_DONTNEED") as caught:
            await space.madvise(at(8), PAGE, mm.MADV_REMOVE)
        assert errno_in(caught) == errno.EINVAL


async def test_a_hole_reaches_the_file_untouched():
    """The bytes would come back with the next process that opens the file."""
    file, stored = stored_file(4)
    async with AddressSpace() as space:
        await space.mmap(BASE, 4 * PAGE, RW, SHARED, file)
        await space.madvise(BASE, 3 * PAGE, mm.MADV_REMOVE)
        await file.flush(1, 2)
        assert stored == {1: 0}
        await file.truncate(2 * PAGE)
        await file.flush()
        assert stored == {0: 0, 1: 0}
        # What was cut off does not come back.
        await file.truncate(4 * PAGE)
        assert await space.read(at(3), 1) == b"\0"
        await space.mmap(at(8), PAGE, RW, SHARED | mm.MAP_ANONYMOUS)
        await space.write(at(8), b"x")
        await space.madvise(at(8), PAGE, mm.MADV_REMOVE)
        assert await space.read(at(8), 1) == b"\0"


async def test_a_hole_that_is_cut_while_a_page_is_read():
    """The reader would bring back what was freed."""
    gate = Gate()
    file = MappedFile(gate, size=4 * PAGE, name="f", is_writable=True)
    async with AddressSpace() as space:
        await space.mmap(BASE, 4 * PAGE, RW, SHARED, file)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.read, at(1), 1)
            await settle_down()
            await space.madvise(BASE, 4 * PAGE, mm.MADV_REMOVE)
            gate.go.set()
        assert await space.read(at(1), 1) == b"\0"


async def test_locked_memory_is_dropped_only_on_purpose():
    """MADV_DONTNEED_LOCKED would be refused, or unlock."""
    async with AddressSpace() as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED | mm.MAP_LOCKED)
        for advice in (mm.MADV_COLD, mm.MADV_PAGEOUT, mm.MADV_REMOVE):
            with pytest.raises(OSError, match="unlock it first"):
                await space.madvise(BASE, PAGE, advice)
        await space.madvise(BASE, PAGE, mm.MADV_DONTNEED_LOCKED)
        assert pages_of(space) == [1]
        assert space.statistics().locked_vm == 2
        await space.munlock(BASE, 2 * PAGE)
        await space.madvise(BASE, 2 * PAGE, mm.MADV_COLD)
        assert pages_of(space) == [1]


# msync and mincore -----------------------------------------------------------------------------------


async def test_msync_stores_the_range(locking):
    """A database would believe that its journal is on the disk."""
    file, stored = stored_file()
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 4 * PAGE, RW, SHARED, file)
        await space.mmap(at(4), PAGE, RW, FIXED)
        await space.write(BASE, b"\x09" * 4 * PAGE)
        await space.msync(BASE, 5 * PAGE, mm.MS_ASYNC)
        assert stored == {}
        await space.msync(at(1), 2 * PAGE, mm.MS_SYNC)
        assert stored == {1: 9, 2: 9}
        await space.msync(BASE, 0, mm.MS_SYNC)
        for address, flags, code in [
            (BASE + 1, mm.MS_SYNC, errno.EINVAL),
            (BASE, 8, errno.EINVAL),
            (BASE, mm.MS_SYNC | mm.MS_ASYNC, errno.EINVAL),
            (-PAGE, mm.MS_SYNC, errno.ENOMEM),
        ]:
            with pytest.raises(OSError, match="msync") as caught:
                await space.msync(address, PAGE, flags)
            assert errno_in(caught) == code
        # The rest goes when the mapping goes.
        await space.munmap(BASE, 4 * PAGE)
        assert stored == {0: 9, 1: 9, 2: 9, 3: 9}


async def test_msync_passes_over_holes_and_stops_at_locked_memory():
    """What took effect before the error would not be the kernel's part."""
    file, stored = stored_file()
    async with AddressSpace() as space:
        await space.mmap(at(1), PAGE, RW, SHARED, file)
        await space.mmap(at(3), PAGE, RW, SHARED, file, PAGE)
        for page in (1, 3):
            await space.write(at(page), b"\x09")
        with pytest.raises(OSError, match="has been stored") as caught:
            await space.msync(BASE, 4 * PAGE, mm.MS_ASYNC)
        with pytest.raises(OSError, match="has been stored") as caught:
            await space.msync(BASE, 4 * PAGE, mm.MS_SYNC)
        assert (errno_in(caught), stored) == (errno.ENOMEM, {0: 9, 1: 9})
        with pytest.raises(OSError, match="has been stored"):
            await space.msync(at(3), 2 * PAGE, mm.MS_SYNC)
        await space.write(at(1), b"\x08")
        await space.mlock(at(3), PAGE)
        with pytest.raises(OSError, match="is locked") as caught:
            await space.msync(at(1), 3 * PAGE, mm.MS_SYNC | mm.MS_INVALIDATE)
        assert (errno_in(caught), stored[0]) == (errno.EBUSY, 8)
        await space.msync(at(3), PAGE, mm.MS_SYNC)


async def test_msync_of_what_is_unmapped_meanwhile():
    """It would store a file that is mapped nowhere, or fail."""
    one, stored = stored_file()
    gate = Stored()
    started, go = anyio.Event(), anyio.Event()

    async def store(index, data):
        started.set()
        await go.wait()

    gate.store = store
    slow = MappedFile(gate, size=4 * PAGE, name="slow", is_writable=True)
    async with AddressSpace() as space:
        await space.mmap(BASE, PAGE, RW, SHARED, slow)
        await space.mmap(at(1), PAGE, RW, SHARED, one)
        await space.write(BASE, b"\x09" * 2 * PAGE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.msync, BASE, 2 * PAGE, mm.MS_SYNC)
            await started.wait()
            await space.mmap(at(1), PAGE, RW, FIXED)
            go.set()
        assert stored == {}


async def test_mincore_tells_what_needs_no_reading():
    """A program would read what it has, or wait for what it thought it had."""
    async with AddressSpace() as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.write(at(1), b"x")
        file = numbered_file("f")
        await file.fetch(3)
        await space.mmap(at(2), 4 * PAGE, R, SHARED, file, 2 * PAGE)
        assert await space.mincore(BASE, 6 * PAGE - 1) == b"\0\1\0\1\0\0"
        assert await space.mincore(BASE, 0) == b""
        for address, length, code in [
            (BASE + 1, PAGE, errno.EINVAL),
            (BASE, 7 * PAGE, errno.ENOMEM),
            (BASE, mm.TASK_SIZE, errno.ENOMEM),
        ]:
            with pytest.raises(OSError, match="mincore") as caught:
                await space.mincore(address, length)
            assert errno_in(caught) == code
        assert await space.mmap(0, PAGE, R, ANON)
