from __future__ import annotations

import doctest
import errno
import pickle

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mm._arena import Numbered, Recording, numbered_file

import aspf.mm
from aspf import mm
from aspf.mm import AddressSpace, BusError, MappedFile, SegmentationFault
from aspf.mm._page import ZERO_PAGE

pytestmark = pytest.mark.anyio

PAGE = mm.PAGE_SIZE
BASE = 0x100000
R, RW = mm.PROT_READ, mm.PROT_READ | mm.PROT_WRITE
ANON = mm.MAP_PRIVATE | mm.MAP_ANONYMOUS
FIXED = ANON | mm.MAP_FIXED
LOCKINGS = ["speculative", "mmap_lock", "mmap_lock_retry"]


@pytest.fixture(params=LOCKINGS)
def locking(request):
    return request.param


def at(page: int) -> int:
    return BASE + page * PAGE


class Gate(Recording):
    """A pager that stands still until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = anyio.Event()

    async def fetch(self, index: int) -> bytes:
        data = await super().fetch(index)
        await self.go.wait()
        return data


async def settle_down() -> None:
    """Let every other task run until it waits."""
    for _ in range(10):
        await checkpoint()


# Faults, in every locking ------------------------------------------------------------------------


async def test_memory_is_zero_until_it_is_written(locking):
    """Pages would show what somebody else wrote, or forget what was written over their edge."""
    async with AddressSpace(locking=locking) as space:
        address = await space.mmap(0, 3 * PAGE, RW, ANON)
        assert await space.read(address, 3 * PAGE) == bytes(3 * PAGE)
        await space.write(address + PAGE - 2, b"edge")
        assert await space.read(address + PAGE - 3, 6) == b"\0edge\0"
        assert await space.read(address, 0) == b""
        assert ZERO_PAGE.data == bytes(PAGE)


async def test_the_codes_of_sigsegv(locking):
    """A program would not learn whether it missed a mapping or broke its protection."""
    async with AddressSpace(locking=locking) as space:
        address = await space.mmap(0, PAGE, R, ANON)
        none = await space.mmap(0, PAGE, mm.PROT_NONE, ANON)
        for where, access, code in [
            (address + 7, mm.PROT_WRITE, "ACCERR"),
            (address, mm.PROT_EXEC, "ACCERR"),
            (none, mm.PROT_READ, "ACCERR"),
            (BASE, mm.PROT_READ, "MAPERR"),
            (-1, mm.PROT_READ, "MAPERR"),
        ]:
            with pytest.raises(SegmentationFault) as caught:
                await space.fault(where, access)
            error = caught.value
            assert (error.address, error.access, error.code) == (where, access, code)
            assert error.errno == errno.EFAULT


async def test_anonymous_pages_come_from_the_pager(locking):
    """Latency and bytes of a pager would be left out, or be asked for twice."""
    pager = Recording()
    async with AddressSpace(locking=locking, pager=pager) as space:
        await space.mmap(at(0), 2 * PAGE, RW, FIXED)
        assert await space.read(at(1), 2) == b"\x01\x01"
        assert pager.asked == [at(1) // PAGE]
        await space.write(at(1), b"mine")
        assert await space.read(at(1), 4) == b"mine"
        await space.madvise(at(0), 2 * PAGE, mm.MADV_DONTNEED)
        await space.read(at(1), 1)
        assert pager.asked == [at(1) // PAGE] * 2
        assert space.statistics().major_faults == 2


async def test_a_protection_can_be_taken_and_given_back(locking):
    """What was written would be lost under PROT_NONE, or stay readable."""
    async with AddressSpace(locking=locking) as space:
        address = await space.mmap(0, 2 * PAGE, RW, ANON)
        await space.write(address, b"kept")
        await space.mprotect(address, PAGE, mm.PROT_NONE)
        with pytest.raises(SegmentationFault):
            await space.read(address, 1)
        await space.mprotect(address, PAGE, R)
        assert await space.read(address, 4) == b"kept"
        with pytest.raises(SegmentationFault):
            await space.write(address, b"no")
        await space.mprotect(address, PAGE, RW)
        page = space.page_table.get(address).page
        await space.write(address, b"K")
        # It is nobody else's, so it is not copied.
        assert space.page_table.get(address).page is page
        assert space.statistics().vmas == 1


async def test_private_pages_of_a_file_are_copied_on_write(locking):
    """A private write would reach the file, or MADV_DONTNEED would not bring the file back."""
    file = numbered_file("f")
    async with AddressSpace(locking=locking) as space:
        address = await space.mmap(0, 2 * PAGE, RW, mm.MAP_PRIVATE, file, 5 * PAGE)
        assert await space.read(address, 1) == b"\x05"
        await space.write(address, b"x")
        assert file.cached(5).data[:1] == b"\x05"
        assert await space.read(address, 2) == b"x\x05"
        await space.madvise(address, PAGE, mm.MADV_DONTNEED)
        assert await space.read(address, 2) == b"\x05\x05"


async def test_shared_anonymous_memory_is_two_mappings_of_its_own(locking):
    """Two calls would share one file, or writes would be copied."""
    async with AddressSpace(locking=locking) as space:
        shared = mm.MAP_SHARED | mm.MAP_ANONYMOUS
        one = await space.mmap(0, PAGE, RW, shared)
        two = await space.mmap(0, PAGE, RW, shared)
        await space.write(one, b"x")
        await space.madvise(one, PAGE, mm.MADV_DONTNEED)
        assert (await space.read(one, 1), await space.read(two, 1)) == (b"x", b"\0")
        assert space.maps().count("/dev/zero (deleted)") == 2


async def test_munmap_takes_the_pages_away(locking):
    """A page would outlive its mapping, or a hole be an error."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(at(0), 4 * PAGE, RW, FIXED)
        await space.write(at(0), bytes(4 * PAGE))
        await space.munmap(at(1), PAGE)
        await space.munmap(at(0), 3 * PAGE)
        assert [address for address, _ in space.page_table.items(0, 1 << 47)] == [at(3)]
        with pytest.raises(SegmentationFault, match="MAPERR"):
            await space.read(at(1), 1)
        await space.munmap(at(0), 2 * PAGE)


async def test_a_cancelled_fault_holds_nothing(locking):
    """An unmap would wait for ever for a task that is gone."""
    pager = Gate()
    async with AddressSpace(locking=locking, pager=pager) as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.read, at(0), 1)
            await settle_down()
            assert pager.asked
            tasks.cancel_scope.cancel()
        await space.munmap(at(0), PAGE)
        assert space._map.statistics().pins == 0


async def test_one_flight_for_all_and_a_cancelled_leader_hands_over(locking):
    """Eight faults would be eight reads, or all would wait for a leader that is gone."""
    pager = Gate()
    async with AddressSpace(locking=locking, pager=pager) as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        done = []

        async def reader(scope):
            with scope:
                done.append(await space.read(at(0), 1))

        leader = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader, leader)
            await settle_down()
            for _ in range(7):
                tasks.start_soon(reader, anyio.CancelScope())
            await settle_down()
            assert len(pager.asked) == 1
            leader.cancel()
            await settle_down()
            assert len(pager.asked) == 2
            pager.go.set()
        assert len(done) == 7
        assert len(pager.asked) == 2
        assert len(space._anonymous) == 0


class Failing(Numbered):
    """Fails the first time."""

    failures = 1

    async def fetch(self, index: int) -> bytes:
        data = await super().fetch(index)
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "broken")
        return data


async def test_who_waited_for_a_read_that_failed_reads_itself(locking):
    """One I/O error would be everybody's, or nobody would try again."""
    async with AddressSpace(locking=locking, pager=Failing()) as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        outcomes = []

        async def reader():
            try:
                outcomes.append(await space.read(at(0), 1))
            except BusError as error:
                outcomes.append(error.__cause__.errno)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            tasks.start_soon(reader)
        assert outcomes == [errno.EIO, b"\0"]


async def test_after_closing_everything_is_refused(locking):
    """A task that is late would work on memory that is gone."""
    space = AddressSpace(locking=locking)
    async with space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        assert "1 VMAs (anonymous 4 KiB), 0 pages, 0 unsettled" in repr(space)
    for call in (
        lambda: space.mmap(at(0), PAGE, RW, FIXED),
        lambda: space.munmap(at(0), PAGE),
        lambda: space.mprotect(at(0), PAGE, R),
        lambda: space.madvise(at(0), PAGE, mm.MADV_DONTNEED),
        lambda: space.read(at(0), 1),
        lambda: space.write(at(0), b"x"),
    ):
        with pytest.raises(anyio.ClosedResourceError):
            await call()
    await space.aclose()
    assert repr(space).endswith(", closed>")


async def test_every_call_is_a_checkpoint(locking):
    """A loop of calls would starve the other tasks, and could not be cancelled."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(at(0), 2 * PAGE, RW, FIXED)
        await space.write(at(0), b"x")
        held = space.find_vma_speculative_nowait(at(0))
        for call in (
            lambda: space.mmap(at(4), PAGE, RW, FIXED),
            lambda: space.munmap(at(9), PAGE),
            lambda: space.mprotect(at(0), PAGE, RW),
            lambda: space.mprotect(at(0), 0, RW),
            lambda: space.madvise(at(0), 0, mm.MADV_DONTNEED),
            lambda: space.fault(at(0)),
            lambda: space.read(at(0), 1),
            lambda: space.read(at(0), 0),
            lambda: space.write(at(0), b""),
            lambda: space.find_vma_speculative(at(0)),
            lambda: space.vma_put(held),
            lambda: space.invalidate(at(0), at(1)),
            lambda: space.__aenter__(),
        ):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        assert space.vma_lookup(at(4)) is None
        assert held.guard.pins == 0


# Holding, vacating, succeeding -------------------------------------------------------------------


async def test_find_vma_finds_the_next_and_vma_lookup_the_containing_one():
    """The two would be mixed up: the next VMA does not contain the address."""
    async with AddressSpace() as space:
        await space.mmap(at(2), PAGE, RW, FIXED)
        found = space.find_vma(at(0))
        assert found is space.vma_lookup(at(2)) is space.find_vma(at(3) - 1)
        assert space.vma_lookup(at(0)) is space.find_vma(at(3)) is None
        assert await space.find_vma_speculative(at(0)) is None
        held = await space.find_vma_speculative(at(2))
        assert (held, held.guard.pins) == (found, 1)
        await space.vma_put(held)
        assert held.guard.pins == 0
        with pytest.raises(RuntimeError, match="more often"):
            space.vma_put_nowait(held)
        stats = space.statistics()
        assert (stats.speculative_hits, stats.speculative_misses) == (1, 1)


async def test_munmap_waits_for_the_holder_and_nobody_finds_the_range_meanwhile():
    """A page would be zapped under a fault, or a range be found that is gone."""
    async with AddressSpace() as space:
        await space.mmap(at(0), 2 * PAGE, RW, FIXED)
        await space.write(at(1), b"x")
        held = await space.find_vma_speculative(at(1))
        steps = []

        async def unmapper():
            await space.munmap(at(1), PAGE)
            steps.append("unmapped")

        async def again():
            await space.munmap(at(0), 2 * PAGE)
            steps.append("all unmapped")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(unmapper)
            await settle_down()
            assert space.vma_lookup(at(1)) is None
            with pytest.raises(SegmentationFault, match="MAPERR"):
                await space.fault(at(1))
            # Like a processor's TLB, until munmap returns.
            assert await space.read(at(1), 1) == b"x"
            tasks.start_soon(again)
            await settle_down()
            assert steps == []
            assert "unsettled" in repr(space)
            steps.append("put")
            await space.vma_put(held)
        assert steps[0] == "put"
        assert len(steps) == 3
        assert len(space.page_table) == 0
        stats = space.statistics()
        assert (stats.drains, stats.waits) == (2, 2)


async def test_a_cancelled_munmap_has_unmapped():
    """The range would come back, or its pages stay for ever."""
    async with AddressSpace() as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        await space.write(at(0), b"x")
        held = await space.find_vma_speculative(at(0))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await space.munmap(at(0), PAGE)
        assert scope.cancelled_caught
        assert space.vma_lookup(at(0)) is None
        assert len(space.page_table) == 1
        space.vma_put_nowait(held)
        assert len(space.page_table) == 0
        await space.invalidate(at(0), at(1))


@pytest.mark.parametrize("fixed", [mm.MAP_FIXED, mm.MAP_FIXED_NOREPLACE])
async def test_an_mmap_over_a_vacated_range_waits_for_it(fixed):
    """The zap of the old mapping would take the new one's pages."""
    async with AddressSpace(task_size=at(4), min_address=at(0)) as space:
        await space.mmap(at(0), 4 * PAGE, RW, FIXED)
        held = await space.find_vma_speculative(at(0))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await space.munmap(at(1), 3 * PAGE)
        placed = []

        async def mapper(address, flags):
            placed.append(await space.mmap(address, PAGE, R, ANON | flags))
            await space.read(placed[-1], 1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mapper, at(2), fixed)
            # A hint into it, and no hint: all the room there is will be there.
            tasks.start_soon(mapper, at(1), 0)
            await settle_down()
            assert placed == []
            space.vma_put_nowait(held)
        assert at(2) in placed
        assert len(placed) == len(set(placed)) == 2
        assert len(space.page_table) == 2


async def test_a_full_space_refuses_at_once():
    """An mmap without room would wait for something that never comes."""
    async with AddressSpace(task_size=at(4), min_address=at(0)) as space:
        await space.mmap(at(0), 4 * PAGE, RW, FIXED)
        with pytest.raises(OSError, match="no gap"):
            await space.mmap(0, PAGE, RW, ANON)


async def test_faults_on_what_map_fixed_replaces_wait_and_never_raise(locking):
    """A page that is mapped before and after would be SIGSEGV in between, or show old bytes."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(at(0), 2 * PAGE, RW, FIXED)
        await space.write(at(0), b"old")
        held = await space.find_vma_speculative(at(0))
        seen = []

        async def replacer():
            assert await space.mmap(at(0), 2 * PAGE, R, FIXED) == at(0)
            seen.append("mapped")
            assert await space.read(at(0), 3) == b"\0\0\0"

        async def reader():
            seen.append(await space.read(at(1), 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(replacer)
            await settle_down()
            assert space.vma_lookup(at(1)).payload.prot == R
            tasks.start_soon(reader)
            await settle_down()
            assert seen == []
            space.vma_put_nowait(held)
        assert sorted(seen, key=str) == [b"\0", "mapped"]


async def test_a_cancelled_map_fixed_has_mapped():
    """A cancelled caller would leave a hole where something was and something should be."""
    async with AddressSpace() as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        held = await space.find_vma_speculative(at(0))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.mmap, at(0), PAGE, R, FIXED)
            await settle_down()
            tasks.cancel_scope.cancel()
        space.vma_put_nowait(held)
        assert await space.read(at(0), 1) == b"\0"
        assert space.vma_lookup(at(0)).payload.prot == R


async def test_mprotect_returns_when_no_writer_is_left():
    """A fault that began as a writer would leave a writable page behind."""
    pager = Gate()
    async with AddressSpace(pager=pager) as space:
        await space.mmap(at(0), 2 * PAGE, RW, FIXED)
        steps = []

        async def writer():
            await space.fault(at(0), mm.PROT_WRITE)
            steps.append("faulted")

        async def protector():
            await space.mprotect(at(0), PAGE, R)
            steps.append("protected")
            assert space.page_table.get(at(0)).rights == R

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer)
            await settle_down()
            tasks.start_soon(protector)
            await settle_down()
            assert steps == []
            pager.go.set()
        assert steps == ["faulted", "protected"]
        # The writer's identity stands in the piece that is published now, not in the other one.
        head, tail = space.vma_lookup(at(0)), space.vma_lookup(at(1))
        assert head.payload.anon.identity is not None
        assert tail.payload.anon.identity is None


@pytest.mark.parametrize("replaced", [True, False])
async def test_a_late_fault_gives_nobody_else_an_identity(replaced):
    """A VMA that was never written to would count as written, and not merge."""
    pager = Gate()
    async with AddressSpace(pager=pager) as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.fault, at(0), mm.PROT_WRITE)
            await settle_down()
            if replaced:
                tasks.start_soon(space.mmap, at(0), PAGE, R, FIXED)
            else:
                tasks.start_soon(space.munmap, at(0), PAGE)
            await settle_down()
            pager.go.set()
        current = space.vma_lookup(at(0))
        assert (current is not None) == replaced
        assert current is None or current.payload.anon.identity is None
        assert len(space.page_table) == 0


async def test_mprotect_tells_what_stopped_it_after_the_part_before():
    """The part that was changed would not be, or the caller not be told."""
    async with AddressSpace() as space:
        await space.mmap(at(0), 2 * PAGE, RW, FIXED)
        with pytest.raises(OSError, match="nothing is mapped at 0x102000") as caught:
            await space.mprotect(at(1), 2 * PAGE, R)
        assert caught.value.errno == errno.ENOMEM
        assert space.vma_lookup(at(1)).payload.prot == R
        with pytest.raises(OSError, match="holes"):
            await space.madvise(at(1), 2 * PAGE, mm.MADV_DONTNEED)


async def test_what_was_read_without_the_lock_belongs_to_its_mapping():
    """mmap_lock_retry would install one mapping's bytes in another's page."""
    pager = Gate()
    async with AddressSpace(locking="mmap_lock_retry", pager=pager) as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.read, at(0), 1)
            await settle_down()
            await space.mmap(at(0), PAGE, R, FIXED)
            pager.go.set()
        assert len(pager.asked) == 2
        assert space.statistics().retries == 2


async def test_a_file_can_be_mapped_by_its_pager_alone():
    """Only real files could be mapped."""
    async with AddressSpace() as space:
        file = MappedFile(Numbered(), name="numbers")
        address = await space.mmap(0, 3 * PAGE, R, mm.MAP_SHARED, file, PAGE)
        assert await space.read(address + 2 * PAGE, 1) == b"\x03"
        assert repr(space.vma_lookup(address).payload) == "<VMA r--s numbers>"
        # Readable, never writable: the file is not open for it.
        with pytest.raises(OSError, match="never be written"):
            await space.mprotect(address, PAGE, RW)


async def test_growing_an_anonymous_mapping_keeps_its_pages():
    """A merge would lose what the neighbour holds."""
    async with AddressSpace() as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        await space.write(at(0), b"x")
        await space.mmap(at(1), PAGE, RW, FIXED)
        assert space.statistics().vmas == 1
        assert await space.read(at(0), 1) == b"x"
        assert "Anon 0x" in repr(space.vma_lookup(at(1)).payload.anon)
        assert repr(mm.Anon()) == "<Anon unfaulted>"


# What needs no event loop ------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_bad_options_are_named():
    """A misspelt locking would be another one."""
    with pytest.raises(ValueError, match="locking='mmap' is unknown; use one of speculative"):
        AddressSpace(locking="mmap")
    for size in (0, -PAGE, PAGE + 1):
        with pytest.raises(ValueError, match="multiple of 4096"):
            AddressSpace(task_size=size)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_faults_are_pickled_whole():
    """An error that crosses a process would lose its address."""
    for error in (SegmentationFault(5, 2, "ACCERR"), BusError(5, 8, "no bytes")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), vars(again), str(again)) == (type(error), vars(error), str(error))
    assert "SIGSEGV (ACCERR): write to 0x5" in str(SegmentationFault(5, 2, "ACCERR"))
    assert "SIGBUS: access 0x8 to 0x5: no bytes" in str(BusError(5, 8, "no bytes"))


def test_the_examples_in_the_docstrings_run():
    """They would tell what is not so."""
    for module in (aspf.mm, aspf.mm._vma):
        assert doctest.testmod(module).failed == 0
    names = [n for n in dir(aspf.mm) if getattr(getattr(aspf.mm, n), "__module__", "") == "aspf.mm"]
    assert set(names) <= set(aspf.mm.__all__)
    tests = doctest.DocTestFinder().find(aspf.mm)
    assert sum(len(test.examples) for test in tests) > 5
