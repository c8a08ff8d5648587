"""The plan of mremap; see `aspf.mm._plan`.

It is the one call that is several edits: unmap what is at the destination, unmap what is cut off,
make the copy (which may merge with its new neighbours, the source among them), unmap the source.
Each is planned on the layout that the one before leaves, as the kernel does them one after another
under its lock, and all are composed to one edit, for nobody may see the memory at both places or at
none. The order of the checks is that of Linux 6.18.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from aspf.ranges import Edit, Region

from ._constants import (
    MAP_FIXED,
    MAP_PRIVATE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SHIFT,
)
from ._limits import (
    NOTHING,
    Usage,
    has_memory,
    may_expand,
    may_lock,
    too_little_memory,
    too_much,
    too_much_locked,
    usage_of_regions,
)
from ._pieces import Layout, Move, Piece, Plan, check_aligned, fail, merge_into, page_align, refuse
from ._plan import MmapCall, place, plan_munmap
from ._vma import VM_ACCOUNT, VM_LOCKED, VM_LOCKED_MASK, VM_MAYSHARE, Anon

if TYPE_CHECKING:
    from ._pieces import Span
    from ._vma import VMA

__all__ = ("MremapCall", "plan_mremap")


@final
@dataclass(frozen=True, slots=True)
class MremapCall:
    """The arguments of ``mremap``."""

    address: int
    old_length: int
    new_length: int
    flags: int = 0
    new_address: int = 0

    def __str__(self) -> str:
        return (
            f"mremap({self.address:#x}, {self.old_length:#x}, {self.new_length:#x}, "
            f"{self.flags:#x}, {self.new_address:#x})"
        )

    @property
    def old(self) -> int:
        """The old length in whole pages."""
        return page_align(self.old_length)

    @property
    def new(self) -> int:
        """The new length in whole pages."""
        return page_align(self.new_length)

    @property
    def has_destination(self) -> bool:
        """Whether the caller says where it shall go."""
        return bool(self.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))


def plan_mremap(layout: Layout, call: MremapCall) -> Plan:
    """Plan ``mremap(address, old_length, new_length, flags, new_address)``.

    Raises:
        OSError: With the kernel's errno; `AddressSpace.mremap` lists them.
    """
    _check_arguments(layout, call)
    if call.flags & MREMAP_FIXED and call.old == call.new:
        return _move_all(layout, call)
    region = _source(layout, call)
    if call.has_destination:
        return _move_to(layout, call)
    if call.new == call.old:
        return Plan(address=call.address)
    if call.new < call.old:
        tail = plan_munmap(layout, call.address + call.new, call.old - call.new)
        return replace(tail, address=call.address)
    return _expand(layout, call, region)


# Checks ----------------------------------------------------------------------------------------


def _check_arguments(layout: Layout, call: MremapCall) -> None:
    text = str(call)
    if call.flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP):
        fail(errno.EINVAL, text, "unknown flags", "use MREMAP_MAYMOVE, _FIXED and _DONTUNMAP")
    check_aligned(text, "the address", call.address)
    if not 0 < call.new <= layout.task_size or call.old_length < 0:
        cure = f"pass lengths up to {layout.task_size:#x}, and a new one of at least one byte"
        fail(errno.EINVAL, text, "the length is none", cure)
    if call.has_destination:
        _check_destination(layout, call, text)


def _check_destination(layout: Layout, call: MremapCall, text: str) -> None:
    start, end = call.new_address, call.new_address + call.new
    if start < 0 or end > layout.task_size:
        cure = f"stay below {layout.task_size:#x}"
        fail(errno.EINVAL, text, "the new range is outside the address space", cure)
    if not call.flags & MREMAP_MAYMOVE:
        fail(errno.EINVAL, text, "the range may not move", "add MREMAP_MAYMOVE")
    if call.flags & MREMAP_DONTUNMAP and call.old != call.new:
        cure = "pass the same length twice"
        fail(errno.EINVAL, text, "MREMAP_DONTUNMAP can't change the length", cure)
    check_aligned(text, "the new address", start)
    if call.address < end and start < call.address + call.old:
        fail(errno.EINVAL, text, "the old range and the new one overlap", "choose another place")
    # A move may need four more VMAs on its way, the kernel reckons.
    _check_room(layout, text, len(layout.index) + 2)


def _check_room(layout: Layout, text: str, vmas: int) -> None:
    most = layout.limits.max_map_count
    if vmas >= most - 3:
        cure = "unmap some, or raise Limits.max_map_count"
        refuse(errno.ENOMEM, text, f"too near to {most} VMAs", cure)


def _source(layout: Layout, call: MremapCall) -> Region[VMA]:
    """Return the VMA that holds the start of the range."""
    region = layout.index.find(call.address)
    text = str(call)
    if region is None:
        fail(errno.EFAULT, text, "nothing is mapped at the address", "pass a mapped range")
    if not call.has_destination and call.new <= call.old:
        return region
    if not call.old and not region.payload.flags & VM_MAYSHARE:
        cure = "pass the length that it has"
        fail(errno.EINVAL, text, "a private mapping can't be duplicated", cure)
    if min(call.old, call.new) > region.end - call.address:
        cure = "remap one mapping at a time, or keep the length and use MREMAP_FIXED"
        fail(errno.EFAULT, text, f"the mapping ends at {region.end:#x}", cure)
    if call.new > call.old:
        _check_growth(layout, text, region.payload.flags, (call.new - call.old) >> PAGE_SHIFT)
    return region


def _check_growth(layout: Layout, text: str, flags: int, pages: int) -> None:
    if not may_lock(layout.limits, layout.used, flags, pages):
        refuse(errno.EAGAIN, text, *too_much_locked(layout.limits))
    if not may_expand(layout.limits, layout.used, flags, pages):
        refuse(errno.ENOMEM, text, *too_much(layout.limits))


def _check_memory(layout: Layout, text: str, flags: int, pages: int) -> None:
    if flags & VM_ACCOUNT and not has_memory(layout.limits, layout.used, pages):
        refuse(errno.ENOMEM, text, *too_little_memory(layout.limits))


# Moves -----------------------------------------------------------------------------------------


@final
class _Remap:
    """The edits of a call, each planned on the layout that the one before leaves."""

    def __init__(self, layout: Layout, call: MremapCall) -> None:
        self.layout = layout
        self.call = call
        self.edit: Edit[VMA] | None = None
        self.zap: tuple[Span, ...] = ()
        self.moves: tuple[Move, ...] = ()
        self.miscounted = NOTHING

    def apply(self, edit: Edit[VMA] | None) -> None:
        if not edit:
            return
        self.edit = edit if self.edit is None else self.edit.then(edit)
        changed = usage_of_regions(edit.new).minus(usage_of_regions(edit.old))
        self.layout = replace(
            self.layout,
            index=self.layout.index.edited(edit),
            usage=self.layout.used.plus(changed),
        )

    def unmap(self, start: int, end: int) -> tuple[Span, ...]:
        plan = plan_munmap(self.layout, start, end - start)
        self.apply(plan.edit)
        return plan.zap

    def check_stay(self, vma: VMA, size: int) -> None:
        """Refuse to leave a source behind for which there is no room."""
        limits, pages = self.layout.limits, size >> PAGE_SHIFT
        if self.call.flags & MREMAP_DONTUNMAP and not may_expand(
            limits, self.layout.used, vma.flags, pages
        ):
            refuse(errno.ENOMEM, str(self.call), *too_much(limits))

    def move(self, start: int, old: int, to: int, new: int) -> None:
        """Copy the mapping of *old* bytes at *start* to *new* bytes, and take the source away."""
        text, stays = str(self.call), bool(self.call.flags & MREMAP_DONTUNMAP)
        _check_room(self.layout, text, len(self.layout.index))
        source = self.layout.index.find(start)
        assert source is not None
        flags = source.payload.flags
        # A mapping that is made shorter on its way is charged for what it loses: Linux never gives
        # that back.
        charged = new if stays else abs(self.call.new - self.call.old)
        _check_memory(self.layout, text, flags, charged >> PAGE_SHIFT)
        if self.call.new < self.call.old and flags & VM_ACCOUNT:
            self.miscounted = Usage(committed=charged >> PAGE_SHIFT)
        copy = Piece(to, to + new, _moved(source.payload, to - start), changed=True)
        self.apply(merge_into(self.layout, (), [copy]))
        if stays:
            self._leave(start, start + old, to)
        elif old:
            self.unmap(start, start + old)
        self.moves += (Move(start, start + old, to, to + new, source.payload, stays),)

    def _leave(self, start: int, end: int, to: int) -> None:
        """Leave the source behind, empty: it is not locked, and whole it was never written to."""
        source = self.layout.index.find(start)
        assert source is not None
        if source.payload.flags & VM_LOCKED:
            # Linux goes on counting them as locked.
            still = (source.end - source.start) >> PAGE_SHIFT
            self.miscounted = self.miscounted.plus(Usage(locked_vm=still))
        vma = replace(source.payload, flags=source.payload.flags & ~VM_LOCKED_MASK)
        if (source.start, source.end) == (start, end) and self.layout.index.find(to) is not source:
            vma = replace(vma, anon=Anon())
        region = Region(source.start, source.end, vma)
        self.apply(Edit((source,), (region,), self.layout.index.version))

    def plan(self, address: int = 0, populate: Span | None = None) -> Plan:
        return Plan(
            edit=self.edit,
            index=self.layout.index,
            zap=self.zap,
            moves=self.moves,
            placed=tuple((move.to, move.to_end) for move in self.moves),
            populate=() if populate is None else (populate,),
            address=address,
            miscounted=self.miscounted,
        )


def _moved(vma: VMA, distance: int) -> VMA:
    """Return the payload of a copy that lies *distance* higher.

    Pages of the object move along. Anonymous memory that was never written to has none yet, so it
    is as if it had been mapped there, and merges as that does.
    """
    name = "" if vma.name == "[stack]" else vma.name
    if vma.file is None and vma.anon.identity is None:
        return replace(vma, origin=0, anon=Anon(), name=name)
    return replace(vma.cut(), origin=vma.origin + distance, name=name)


def _move_all(layout: Layout, call: MremapCall) -> Plan:
    """Move every VMA of the range, holes too: what Linux allows since 6.17."""
    end = call.address + call.old
    regions = layout.index.overlapping(call.address, end)
    if not regions or regions[0].start > call.address:
        text = str(call)
        fail(errno.EFAULT, text, "nothing is mapped at the address", "pass a mapped range")
    remap = _Remap(layout, call)
    for region in regions:
        start = max(region.start, call.address)
        size = min(region.end, end) - start
        to = call.new_address + start - call.address
        gone: tuple[Span, ...] = ()
        try:
            gone = remap.unmap(to, to + size)
            remap.check_stay(region.payload, size)
            place(remap.layout, _destination(region.payload, to, size, MAP_FIXED))
            remap.move(start, size, to, size)
        except OSError as error:
            # What has been moved has been moved, and what was in the way of the next has gone; a move
            # would have taken its pages away.
            remap.zap += gone
            return replace(remap.plan(), error=error)
    return remap.plan(call.new_address)


def _move_to(layout: Layout, call: MremapCall) -> Plan:
    """Move one mapping where the caller wants it, and make it longer or shorter."""
    remap, old, to = _Remap(layout, call), call.old, call.new_address
    is_fixed = call.flags & MREMAP_FIXED
    if is_fixed:
        remap.zap += remap.unmap(to, to + call.new)
    if call.new < old:
        remap.zap += remap.unmap(call.address + call.new, call.address + old)
        old = call.new
    try:
        source = _source(remap.layout, call)
        remap.check_stay(source.payload, old)
        hint = _destination(source.payload, to, call.new, MAP_FIXED if is_fixed else 0)
        to = place(remap.layout, hint)
        remap.move(call.address, old, to, call.new)
    except OSError as error:
        # What was in the way has gone all the same.
        return replace(remap.plan(), error=error)
    return remap.plan(to, _growth(source.payload, to + old, to + call.new))


def _destination(vma: VMA, address: int, length: int, flags: int) -> MmapCall:
    return MmapCall(address, length, 0, flags | MAP_PRIVATE, vma.file)


def _growth(vma: VMA, start: int, end: int) -> Span | None:
    """Return what has to be faulted in: the growth of a locked mapping."""
    return (start, end) if vma.flags & VM_LOCKED and start < end else None


def _expand(layout: Layout, call: MremapCall, region: Region[VMA]) -> Plan:
    """Grow in place if there is room behind the mapping, else move."""
    end, wanted = call.address + call.old, call.address + call.new
    remap = _Remap(layout, call)
    is_free = wanted <= layout.task_size and not layout.index.overlapping(end, wanted)
    if region.end == end and is_free:
        pages = (wanted - end) >> PAGE_SHIFT
        _check_memory(layout, str(call), region.payload.flags, pages)
        grown = Piece(end, wanted, region.payload, changed=True)
        remap.apply(merge_into(layout, (), [grown]))
        plan = remap.plan(call.address, _growth(region.payload, end, wanted))
        return replace(plan, placed=((end, wanted),))
    if not call.flags & MREMAP_MAYMOVE:
        cure = "unmap what is there, or add MREMAP_MAYMOVE"
        fail(errno.ENOMEM, str(call), "there is no room to grow in place", cure)
    to = place(layout, _destination(region.payload, 0, call.new, 0))
    remap.move(call.address, call.old, to, call.new)
    return remap.plan(to, _growth(region.payload, to + call.old, to + call.new))
