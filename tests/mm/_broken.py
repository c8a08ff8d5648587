"""Address spaces that each leave one rule out. The explorer must find every one of them.

Each function takes the rule out of one space.
"""

from __future__ import annotations

from dataclasses import replace

from anyio.lowlevel import checkpoint

from aspf.mm import AddressSpace, Entry, Page, SegmentationFault, _address_space
from aspf.mm._fault import handle_mm_fault
from aspf.mm._plan import plan_mmap


def fault_without_holding(space: AddressSpace) -> None:
    """Look the VMA up, but don't hold it: nobody waits for the fault."""

    async def fault(address, access):
        await checkpoint()
        region = await space._locked_lookup(address)
        if region is None:
            raise SegmentationFault(address, access, "MAPERR")
        await space._handle(region, address, access)

    space._fault_speculative = fault


def clean_up_at_once(space: AddressSpace) -> None:
    """Zap and protect when an edit is published, not when it has settled."""
    publish = space._publish

    def publish_and_clean_up(plan, waiting):
        for start, end in plan.zap:
            space.page_table.zap(start, end)
        for start, end in plan.restrict:
            space.page_table.restrict(start, end, plan.rights)
        publish(replace(plan, zap=(), restrict=()), waiting)

    space._publish = publish_and_clean_up


def ignore_successors(space: AddressSpace) -> None:
    """Fault at once on what MAP_FIXED has mapped anew, while the old pages are still to go."""

    async def successor(start, end):
        return

    space._successor = successor


def reuse_what_is_vacated(space: AddressSpace) -> None:
    """Map over a range whose old pages are still to go."""

    def attempt(call):
        plan = plan_mmap(space._current_layout(), call)
        return plan, space._publish(plan, space._reserved)

    space._try_mmap = attempt


def replace_in_two_steps(space: AddressSpace) -> None:
    """Make MAP_FIXED a munmap and an mmap: in between a miss is taken for no mapping."""
    mmap = space.mmap

    async def unmap_and_map(address, length, prot, flags):
        await space.munmap(address, length)
        return await mmap(address, length, prot, flags)

    space.mmap = unmap_and_map


def install_without_recheck(space: AddressSpace) -> None:
    """Install what was fetched without looking at the entry again."""

    async def handle(region, address, access):
        fetch = handle_mm_fault(space, region, address, access)
        if fetch is not None:
            page = Page(await _address_space._fetched(fetch, address, access))
            space.page_table.set(address, Entry(page, region.payload.rights))

    space._handle = handle


def decide_before_the_fetch(space: AddressSpace) -> None:
    """Hold the VMA, but look at its rights before: what the kernel repaired in 657b5146955e."""

    async def fault(address, access):
        region = space.vma_lookup(address)
        if region is None:
            raise SegmentationFault(address, access, "MAPERR")
        if not region.payload.allows(access):
            raise SegmentationFault(address, access, "ACCERR")
        rights = region.payload.rights
        await checkpoint()
        held = space.find_vma_speculative_nowait(address)
        if held is None:
            raise SegmentationFault(address, access, "MAPERR")
        space.page_table.set(address, Entry(Page(), rights))
        held.guard.release()

    space._fault_speculative = fault


def settle_out_of_order(space: AddressSpace) -> None:
    """Forget rule S: an edit waits for its own holders only."""
    space._map.unsettled = lambda start, end: ()


def move_at_once(space: AddressSpace) -> None:
    """Move pages when an mremap is published, not when it has settled."""
    publish = space._publish

    def move_and_publish(plan, waiting):
        for move in plan.moves:
            space.page_table.zap(move.to, move.to_end)
            space.page_table.move(move.start, move.end, move.to)
        return publish(replace(plan, moves=()), waiting)

    space._publish = move_and_publish


def move_in_two_steps(space: AddressSpace) -> None:
    """Unmap the destination of an mremap before the step that maps it."""
    mremap = space.mremap

    async def unmap_and_move(address, old, new, flags, to):
        await space.munmap(to, new)
        return await mremap(address, old, new, flags, to)

    space.mremap = unmap_and_move


def drop_before_arrival(space: AddressSpace) -> None:
    """Let madvise drop the pages of an mremap's destination before they have come."""

    async def madvise(address, length, advice):
        await checkpoint()
        space._advise(address, length, advice)

    space.madvise = madvise
