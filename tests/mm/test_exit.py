"""Exit: everything drains, is stored, and is counted back to nothing."""

from __future__ import annotations

import anyio
import pytest
from mm._arena import numbered_file
from mm.test_address_space import BASE, FIXED, LOCKINGS, PAGE, RW, Gate, R, at, settle_down

from aspf import mm
from aspf.mm import AddressSpace, MappedFile

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOCKINGS)
def locking(request):
    return request.param


class Disk:
    """What was stored."""

    def __init__(self) -> None:
        self.stored: dict[int, bytes] = {}

    async def fetch(self, index: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return b""

    async def store(self, index: int, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.stored[index] = data


async def test_everything_is_counted_back_to_nothing(locking):
    """A process that is gone would still be charged for what it had."""
    async with AddressSpace(locking=locking, start_brk=at(100)) as space:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED)
        await space.mmap(at(8), PAGE, RW, mm.MAP_FIXED | mm.MAP_SHARED | mm.MAP_ANONYMOUS)
        await space.mmap(at(1000), PAGE, R, FIXED | mm.MAP_GROWSDOWN)
        await space.mlock(BASE, PAGE)
        await space.write(at(8), b"x")
        await space.brk(at(102))
        # What Linux goes on counting, because of how it counts.
        await space.read(at(999), 1)
        move = mm.MREMAP_MAYMOVE | mm.MREMAP_FIXED
        await space.mremap(at(1), 3 * PAGE, PAGE, move, at(30))
        before = space.statistics()
        assert min(before.committed, before.data_vm, before.locked_vm) > 0
    after = space.statistics()
    assert (after.vmas, after.pages, after.unsettled) == (0, 0, 0)
    assert (after.total_vm, after.data_vm, after.locked_vm, after.committed) == (0, 0, 0, 0)
    # It is one more change of the layout, and what happened before is still told.
    assert after.edits == before.edits + 1
    assert after.minor_faults == before.minor_faults


async def test_what_is_shared_is_stored_and_let_go(locking):
    """A write would be lost with the process, or its page be kept for ever."""
    disk = Disk()
    file = MappedFile(disk, size=2 * PAGE, is_writable=True)
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, 2 * PAGE, RW, mm.MAP_FIXED | mm.MAP_SHARED, file)
        await space.write(at(1), b"x")
        page = space.page_table.get(at(1)).page
        assert page.share_count == 2
    assert disk.stored[1][:1] == b"x"
    assert page.share_count == 1


async def test_an_exit_waits_for_who_holds_a_vma(locking):
    """Memory would be freed under a task that uses it."""
    async with anyio.create_task_group() as tasks:
        space = AddressSpace(locking=locking)
        await space.mmap(BASE, PAGE, RW, FIXED)
        await space.write(BASE, b"x")
        held = space.find_vma_speculative_nowait(BASE)
        done = []

        async def close() -> None:
            await space.aclose()
            done.append(True)

        tasks.start_soon(close)
        await settle_down()
        left = space.statistics()
        assert (done, left.vmas, left.pages, left.unsettled) == ([], 0, 1, 1)
        with pytest.raises(anyio.ClosedResourceError):
            await space.fault(BASE)
        await space.vma_put(held)
        await settle_down()
        assert (done, space.statistics().unsettled) == ([True], 0)


async def test_a_fault_in_flight_leaves_no_page_behind(locking):
    """A page would be installed in an address space that nobody will ever close again."""
    space = AddressSpace(locking=locking, pager=Gate())
    await space.mmap(BASE, PAGE, RW, FIXED)
    outcome = []

    async def fault() -> None:
        try:
            await space.fault(BASE)
            outcome.append("ok")
        except anyio.ClosedResourceError:
            outcome.append("closed")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fault)
        await settle_down()
        tasks.start_soon(space.aclose)
        await settle_down()
        space.pager.go.set()
    assert outcome == ["ok" if locking == "speculative" else "closed"]
    assert space.statistics().pages == 0


async def test_an_exit_comes_after_what_still_moves():
    """Pages on their way would arrive after everything was unmapped."""
    async with numbered_file("f") as file:
        space = AddressSpace()
        await space.mmap(BASE, PAGE, RW, mm.MAP_FIXED | mm.MAP_PRIVATE, file)
        await space.write(BASE, b"x")
        held = space.find_vma_speculative_nowait(BASE)
        move = mm.MREMAP_MAYMOVE | mm.MREMAP_FIXED
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.mremap, BASE, PAGE, PAGE, move, at(4))
            await settle_down()
            tasks.start_soon(space.aclose)
            await settle_down()
            assert space.statistics().unsettled == 2
            space.vma_put_nowait(held)
        assert space.statistics().pages == 0
