"""Address spaces that each leave one rule out. The explorer must find every one of them.

Each function takes the rule out of one space.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from anyio.lowlevel import checkpoint

from aspf.mm import (
    PAGE_SIZE,
    TASK_SIZE,
    AddressSpace,
    Entry,
    Page,
    SegmentationFault,
    _address_space,
)
from aspf.mm._fault import handle_mm_fault
from aspf.mm._pieces import Plan
from aspf.mm._plan import plan_mmap
from aspf.mm._plan_stack import plan_growth
from aspf.ranges import Edit, Region


def fault_without_holding(space: AddressSpace) -> None:
    """Look the VMA up, but don't hold it: nobody waits for the fault."""

    async def fault(address, access, may_grow):
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

    async def fault(address, access, may_grow):
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


def fork_what_is_vacated(space: AddressSpace) -> None:
    """Copy the whole page table, not only what is under published regions."""
    attempt = space._try_fork

    def try_fork():
        child = attempt()
        if isinstance(child, AddressSpace):
            for start, end in space._current_layout().vacated:
                for address, entry in space.page_table.items(start, end):
                    child.page_table.set(address, entry)
        return child

    space._try_fork = try_fork


def fork_without_waiting(space: AddressSpace) -> None:
    """Forget rule T: fork while a mapping is replaced, or its pages are elsewhere."""
    attempt = space._try_fork

    def try_fork():
        reserved, space._reserved = space._reserved, []
        try:
            return attempt()
        finally:
            space._reserved = reserved

    space._try_fork = try_fork


def fork_without_taking_rights(space: AddressSpace) -> None:
    """Leave the parent the right to write to what it shares with its child."""
    attempt = space._try_fork

    def try_fork():
        before = list(space.page_table.items(0, TASK_SIZE))
        child = attempt()
        for address, entry in before:
            space.page_table.set(address, entry)
        return child

    space._try_fork = try_fork


def fork_with_rights_that_go(space: AddressSpace) -> None:
    """Give the child the rights of the entries, not cut to those of its VMA."""
    attempt = space._try_fork

    def try_fork():
        child = attempt()
        if isinstance(child, AddressSpace):
            for address, entry in list(child.page_table.items(0, TASK_SIZE)):
                rights = space.page_table.get(address).rights
                child.page_table.set(address, Entry(entry.page, rights))
        return child

    space._try_fork = try_fork


def grow_over_what_is_vacated(space: AddressSpace) -> None:
    """Let a stack grow over a range whose old pages are still to go."""
    publish = space._publish_placed

    def publish_at_once(plan):
        return publish(replace(plan, placed=()))

    space._publish_placed = publish_at_once


def grow_without_looking_again(space: AddressSpace) -> None:
    """Wait for what is vacated, and then let the stack grow that was there before."""

    async def expand(address, access, may_grow):
        stack = space.find_vma(address)
        if stack is None or plan_growth(space._current_layout(), address).edit is None:
            raise SegmentationFault(address, access, "MAPERR")
        for going in list(space._vacated):
            await going.drain.wait()
        index = space._map.index
        grown = Region(address & -PAGE_SIZE, stack.end, stack.payload)
        old = index.overlapping(grown.start, grown.end)
        space._publish(Plan(Edit(old, (grown,), index.version)), space._reserved)

    space._expand_stack = expand


def exit_unnoticed(space: AddressSpace) -> None:
    """Let a fault under a lock go on after the space was closed: nobody has waited for it."""

    async def handle(region, address, access):
        fetch = handle_mm_fault(space, region, address, access)
        while fetch is not None:
            fetched = await _address_space._fetched(fetch, address, access)
            fetch = handle_mm_fault(space, region, address, access, fetched)

    space._handle = handle


def keep_what_is_replaced_alike(space: AddressSpace) -> None:
    """Retire nothing where MAP_FIXED maps what was there already: so nobody is waited for."""
    publish = space._publish

    def same(region):
        return region.start, region.end, region.payload

    def publish_what_changes(plan, waiting):
        edit = plan.edit
        if edit is not None and [*map(same, edit.old)] == [*map(same, edit.new)]:
            plan = replace(plan, edit=Edit((), (), edit.version))
        return publish(plan, waiting)

    space._publish = publish_what_changes


def populate_lets_stacks_grow(space: AddressSpace) -> None:
    """Take a page that mlock brings for one that the program has touched."""
    space.fault_in = partial(space.fault_in, may_grow=True)
