"""Children: what they inherit, and that neither side sees what the other writes."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager

import anyio
import pytest
from mm._arena import Arena, load, numbered_file, told
from mm.test_address_space import BASE, FIXED, LOCKINGS, PAGE, RW, Gate, at, settle_down

from aspf import mm
from aspf.mm import AddressSpace, SegmentationFault

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOCKINGS)
def locking(request):
    return request.param


# Against the kernel --------------------------------------------------------------------------------

A, S = "FIXED|PRIVATE|ANON", "FIXED|SHARED|ANON"
# What the ten recorded programs did: before the fork, in the child, then in the parent.
RECORDED = {
    "private anon COW: child write invisible to parent": (
        [["mmap", 0, 2, "rw", A], ["w", 0, 5]],
        [["w", 0, 9], ["r", 0]],
        [["r", 0]],
    ),
    "shared anon: child write visible": (
        [["mmap", 0, 2, "rw", S], ["w", 0, 5]],
        [["w", 0, 9]],
        [["r", 0]],
    ),
    "DONTFORK region absent in child": (
        [["mmap", 0, 4, "rw", A], ["madvise", 1, 2, "DONTFORK"]],
        [["r", 1]],
        [["r", 1]],
    ),
    "WIPEONFORK zero in child, kept in parent": (
        [["mmap", 0, 2, "rw", A], ["w", 0, 5], ["madvise", 0, 2, "WIPEONFORK"]],
        [["r", 0]],
        [["r", 0]],
    ),
    "VM_LOCKED not inherited: child DONTNEED ok": (
        [["mmap", 0, 2, "rw", A], ["mlock", 0, 2]],
        [["madvise", 0, 2, "DONTNEED"]],
        [["madvise", 0, 2, "DONTNEED"]],
    ),
    "child: extend faulted inherited vma by adjacent mmap -> no merge (anon_vma chain not singular)": (
        [["mmap", 0, 2, "rw", A], ["w", 0, 5]],
        [["mmap", 2, 2, "rw", A]],
        [["mmap", 2, 2, "rw", A]],
    ),
    "child: unfaulted inherited vma, adjacent mmap merges": (
        [["mmap", 0, 2, "rw", A]],
        [["mmap", 2, 2, "rw", A]],
        [],
    ),
    "child: split inherited faulted vma, merge back": (
        [["mmap", 0, 6, "rw", A], ["w", 0, 5]],
        [["mprotect", 2, 2, "r"], ["mprotect", 2, 2, "rw"]],
        [],
    ),
    "parent after fork: extend faulted vma by adjacent mmap": (
        [["mmap", 0, 2, "rw", A], ["w", 0, 5]],
        [],
        [["mmap", 2, 2, "rw", A]],
    ),
    "locked DONTNEED EINVAL in parent": (
        [["mmap", 0, 2, "rw", A], ["mlock", 0, 2]],
        [],
        [["madvise", 0, 2, "DONTNEED"]],
    ),
}
EXTRA = {case["name"]: case["result"] for case in load("extra.json") if case["group"] == "fork"}


def test_every_recorded_fork_is_replayed():
    """Recorded answers would drop out of the comparison unseen."""
    assert set(RECORDED) == set(EXTRA)


@pytest.mark.parametrize("name", RECORDED)
async def test_a_fork_has_the_kernels_results_and_layouts(name, locking):
    """A child would not be what Linux makes it, or its parent not stay what it was."""
    before, in_child, in_parent = RECORDED[name]
    recorded = EXTRA[name]
    async with AddressSpace(locking=locking) as space:
        arena = Arena(space)
        for op in before:
            await arena.run(op)
        async with await space.fork() as child:
            forked = Arena(child)
            assert [await forked.run(op) for op in in_child] == recorded["child_ret"]
            assert told(forked.vmas(), recorded["child_maps"]) == recorded["child_maps"]
        assert [await arena.run(op) for op in in_parent] == recorded["parent_ret"]
        assert told(arena.vmas(), recorded["parent_maps"]) == recorded["parent_maps"]


SPLIT = [["mmap", 0, 6, "rw", A], ["w", 0], ["mprotect", 2, 2, "r"]]
BESIDE = [["mmap", 0, 2, "rw", A], ["w", 0], ["mmap", 2, 2, "r", A]]
# Measured by hand on Linux 6.18: what a child does, and its spans afterwards.
MERGES = {
    "pieces of one VMA in the parent are VMAs of their own in the child": (
        SPLIT,
        [["mprotect", 2, 2, "rw"]],
        [[0, 2], [2, 4], [4, 6]],
    ),
    "an inherited VMA does not take in an unfaulted neighbour": (
        BESIDE,
        [["mprotect", 2, 2, "rw"]],
        [[0, 2], [2, 4]],
    ),
    "a neighbour's first write does not take over an inherited identity": (
        BESIDE,
        [["mprotect", 2, 2, "rwx"], ["w", 2], ["mprotect", 2, 2, "rw"]],
        [[0, 2], [2, 4]],
    ),
    "an inherited VMA grows in place": (
        [["mmap", 0, 2, "rw", A], ["w", 0]],
        [["mremap", 0, 2, 4, "0"]],
        [[0, 4]],
    ),
    "unfaulted memory that is moved behind an inherited VMA stays apart": (
        [["mmap", 0, 2, "rw", A], ["w", 0]],
        [["mmap", 8, 2, "rw", A], ["mremap", 8, 2, 2, "MAYMOVE|FIXED", 2]],
        [[0, 2], [2, 4]],
    ),
    "an inherited VMA that is moved away and back stays apart": (
        [["mmap", 0, 2, "rw", A], ["w", 0]],
        [
            ["mmap", 2, 2, "rw", A],
            ["mremap", 0, 2, 2, "MAYMOVE|FIXED", 8],
            ["mremap", 8, 2, 2, "MAYMOVE|FIXED", 0],
        ],
        [[0, 2], [2, 4]],
    ),
}


@pytest.mark.parametrize("name", MERGES)
async def test_what_merges_in_a_child(name):
    """A child's layout would drift away from the kernel's."""
    before, in_child, spans = MERGES[name]
    async with AddressSpace() as space:
        for op in before:
            await Arena(space).run(op)
        async with await space.fork() as child:
            forked = Arena(child)
            for op in in_child:
                await forked.run(op)
            assert [vma[:2] for vma in forked.vmas()] == spans


async def test_the_heap_of_a_child_grows_beside_what_it_inherited():
    """The new part would be taken for the parent's; Linux shows two heaps too."""
    async with AddressSpace(start_brk=BASE) as space:
        await space.brk(at(2))
        await space.write(BASE, b"x")
        async with await space.fork() as child:
            assert await child.brk(0) == at(2)
            assert await child.brk(at(4)) == at(4)
            assert child.maps().count("[heap]") == 2
        assert await space.brk(0) == at(2)


# Copy on write ------------------------------------------------------------------------------------


@asynccontextmanager
async def forked(locking="speculative", **options):
    """Four pages, of which the parent has written to the first two, and a child."""
    async with AddressSpace(locking=locking, **options) as space:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED)
        await space.write(at(0), b"zero")
        await space.write(at(1), b"one")
        async with await space.fork() as child:
            yield space, child


def page(space: AddressSpace, number: int) -> mm.Page:
    return space.page_table.get(at(number)).page


async def test_neither_side_sees_what_the_other_writes(locking):
    """A process would change another one's memory."""
    async with forked(locking) as (space, child):
        assert page(space, 0) is page(child, 0)
        await space.write(at(0), b"mine")
        await child.write(at(1), b"his")
        assert await child.read(at(0), 4) == b"zero"
        assert await space.read(at(1), 3) == b"one"
        assert page(space, 0) is not page(child, 0)


async def test_who_is_left_with_a_page_does_not_copy_it(locking):
    """Every page would be copied once more than needed."""
    async with forked(locking) as (space, child):
        first = page(space, 0)
        await child.write(at(0), b"his")
        await space.write(at(0), b"mine")
        assert page(space, 0) is first
        assert first.share_count == 1
        second = page(space, 1)
        await child.munmap(at(0), 4 * PAGE)
        await space.write(at(1), b"mine")
        assert page(space, 1) is second


async def test_a_child_outlives_its_parent(locking):
    """Pages would go with the parent, or be counted as shared for ever."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, PAGE, RW, FIXED)
        await space.write(BASE, b"x")
        child = await space.fork()
    async with child:
        assert await child.read(BASE, 1) == b"x"
        assert page(child, 0).share_count == 1
        async with await child.fork() as grandchild:
            await grandchild.write(BASE, b"y")
        assert await child.read(BASE, 1) == b"x"


async def test_pages_that_were_only_read_are_shared_too():
    """A child would wait for the pager for what its parent has read already."""
    async with AddressSpace(pager=Gate()) as space:
        space.pager.go.set()
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.read(BASE, 1)
        async with await space.fork() as child:
            await child.read(BASE, 1)
            assert space.pager.asked == [BASE // PAGE]
            await child.read(at(1), 1)
            assert child.statistics().major_faults == 1


async def test_files_stay_the_same_for_both(locking):
    """A shared write would not reach the child, or a private one would reach the file."""
    async with numbered_file("f") as file, AddressSpace(locking=locking) as space:
        shared = await space.mmap(0, 2 * PAGE, RW, mm.MAP_SHARED, file)
        private = await space.mmap(0, 2 * PAGE, RW, mm.MAP_PRIVATE, file)
        await space.write(shared, b"s")
        await space.write(private + PAGE, b"p")
        async with await space.fork() as child:
            await child.write(shared, b"S")
            assert await space.read(shared, 1) == b"S"
            assert await child.read(private + PAGE, 1) == b"p"
            await child.write(private + PAGE, b"P")
            assert await space.read(private + PAGE, 1) == b"p"
            # The child's entries go too when the file is cut shorter.
            await file.truncate(0)
            for where in (shared, private + PAGE):
                with pytest.raises(mm.BusError):
                    await child.read(where, 1)


async def test_a_child_has_the_options_of_its_parent(locking):
    """A child would run under other limits."""
    options = {
        "pager": Gate(),
        "task_size": 1 << 40,
        "min_address": BASE,
        "limits": mm.Limits(max_map_count=3, stack=5 * PAGE),
    }
    async with AddressSpace(locking=locking, **options) as space, await space.fork() as child:
        assert (child.locking, child.pager) == (locking, options.pop("pager"))
        for name, value in options.items():
            assert getattr(child._current_layout(), name) == value
        assert child.statistics().speculative_hits == 0


# Waiting ------------------------------------------------------------------------------------------


async def test_a_fork_waits_for_a_mapping_that_is_replaced():
    """The child would have the old pages under the new mapping, and for good."""
    async with AddressSpace() as space, anyio.create_task_group() as tasks:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.write(BASE, b"old")
        held = space.find_vma_speculative_nowait(BASE)
        tasks.start_soon(space.mmap, BASE, PAGE, RW, FIXED)
        await settle_down()  # trio starts tasks in any order
        children = []

        async def fork() -> None:
            children.append(await space.fork())

        tasks.start_soon(fork)
        await settle_down()
        assert not children
        await space.vma_put(held)
        await settle_down()
        async with children[0] as child:
            assert await child.read(BASE, 3) == bytes(3)


async def test_a_fork_does_not_wait_for_what_is_unmapped():
    """One slow reader would hold up every fork; nor may the child get what is going."""
    async with AddressSpace() as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.write(BASE, b"old")
        held = space.find_vma_speculative_nowait(BASE)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await space.munmap(BASE, PAGE)
        async with await space.fork() as child:
            assert child.statistics().pages == 0
            with pytest.raises(SegmentationFault):
                await child.read(BASE, 1)
            await child.read(at(1), 1)
        space.vma_put_nowait(held)


async def test_a_child_gets_no_right_that_is_being_taken():
    """The child would keep a right that mprotect has taken from the parent."""
    async with AddressSpace() as space:
        await space.mmap(BASE, PAGE, RW, FIXED)
        await space.write(BASE, b"x")
        held = space.find_vma_speculative_nowait(BASE)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await space.mprotect(BASE, PAGE, mm.PROT_NONE)
        async with await space.fork() as child:
            assert child.page_table.get(BASE).rights == mm.PROT_NONE
            with pytest.raises(SegmentationFault):
                await child.read(BASE, 1)
        space.vma_put_nowait(held)


async def test_a_fault_that_began_before_the_fork_is_the_parents(locking):
    """The child would see a write of its parent that came after the fork."""
    if locking == "mmap_lock":
        return  # there the fork waits for the fault
    async with AddressSpace(locking=locking, pager=Gate()) as space:
        await space.mmap(BASE, PAGE, RW, FIXED)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.write, BASE, b"x")
            await settle_down()
            child = await space.fork()
            space.pager.go.set()
        async with child:
            assert await child.read(BASE, 1) == b"\0"
            assert await space.read(BASE, 1) == b"x"


async def test_a_cancelled_fork_has_made_nothing(locking):
    """Pages would be counted as shared with a child that nobody has."""
    async with AddressSpace(locking=locking) as space:
        await space.mmap(BASE, PAGE, RW, FIXED)
        await space.write(BASE, b"x")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await space.fork()
        assert page(space, 0).share_count == 1


async def test_a_fork_promises_its_memory_again(locking):
    """Where memory may not be overcommitted, a child would be promised what there is not."""
    limits = mm.Limits(overcommit_memory=2, commit_limit=9 * PAGE)
    async with AddressSpace(locking=locking, limits=limits) as space:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED)
        async with await space.fork() as child:
            assert child.statistics().committed == 4
        await space.mmap(at(8), PAGE, RW, FIXED)
        with pytest.raises(OSError, match=r"fork\(\): more than may be promised") as caught:
            await space.fork()
        assert caught.value.errno == errno.ENOMEM
        assert space.statistics().vmas == 2
        # What is vacated counts until it has settled, and is waited for.
        held = space.find_vma_speculative_nowait(at(8))
        children = []

        async def fork() -> None:
            children.append(await space.fork())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.munmap, at(8), PAGE)
            await settle_down()
            tasks.start_soon(fork)
            await settle_down()
            assert not children
            space.vma_put_nowait(held)
        await children[0].aclose()


async def test_a_child_is_not_locked_on_fault():
    """Its VMA would carry a flag that Linux's has not, and merge with none that was mapped later."""
    async with AddressSpace() as space:
        await space.mmap(at(0), PAGE, RW, FIXED)
        await space.mlock(at(0), PAGE, mm.MLOCK_ONFAULT)
        async with await space.fork() as child:
            assert not child.vma_lookup(at(0)).payload.flags & (mm.VM_LOCKED | mm.VM_LOCKONFAULT)


async def test_a_child_is_not_locked_in():
    """Everything that a child maps would be locked because its parent has said so."""
    async with AddressSpace() as space:
        await space.mlockall(mm.MCL_CURRENT | mm.MCL_FUTURE)
        await space.mmap(BASE, PAGE, RW, FIXED)
        async with await space.fork() as child:
            await child.mmap(at(1), PAGE, RW, FIXED)
            assert child.statistics().locked_vm == 0


async def test_a_closed_space_has_no_children():
    """A child would be empty instead of an error."""
    async with AddressSpace() as space:
        pass
    with pytest.raises(anyio.ClosedResourceError):
        await space.fork()


def test_the_handle_of_an_inherited_identity_says_so():
    """A debugger would not tell why two neighbours stay apart."""
    assert repr(mm.Anon()) == "<Anon unfaulted>"
    assert "inherited" not in repr(mm.Anon(object()))
    assert repr(mm.Anon(object(), is_inherited=True)).endswith(", inherited>")
