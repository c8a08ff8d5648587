"""The plan of brk; see `aspf.mm._plan`."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aspf.ranges import Edit, Region

from ._constants import PAGE_SHIFT, PAGE_SIZE, PROT_READ
from ._limits import (
    has_memory,
    may_expand,
    may_lock,
    too_little_memory,
    too_much,
    too_much_locked,
)
from ._pieces import NoRoom, Plan, page_align, refuse, too_many
from ._plan import floor_of, plan_munmap
from ._vma import VM_ACCOUNT, VM_LOCKED, VM_MAYEXEC, VM_MAYREAD, VM_MAYWRITE, VM_WRITE, VMA

if TYPE_CHECKING:
    from ._pieces import Layout

__all__ = ("plan_brk",)

HEAP_FLAGS: Final = PROT_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT


def plan_brk(layout: Layout, start: int, current: int, wanted: int) -> Plan:
    """Plan ``brk(wanted)`` of a heap that begins at *start* and ends at *current*.

    `Plan.address` is the break afterwards: as in Linux, a call that fails changes nothing and
    answers with the break that there is. `Plan.error` says why it was refused for want of room.
    """
    failed = Plan(address=current)
    data = layout.limits.data
    if wanted < start or (data is not None and wanted - start > data):
        return failed
    old, new = page_align(current), page_align(wanted)
    if old == new:
        return Plan(address=wanted)
    if new < old:
        if not layout.index.overlapping(new, old):
            return failed
        return replace(plan_munmap(layout, new, old - new), address=wanted)
    above = layout.index.find_next(old)
    if new > layout.task_size or (above is not None and new + PAGE_SIZE > floor_of(above)):
        return failed
    flags = HEAP_FLAGS | layout.def_flags
    try:
        _check_room(layout, f"brk({wanted:#x})", flags, (new - old) >> PAGE_SHIFT)
    except NoRoom as refusal:
        return replace(failed, error=refusal)
    populate = ((old, new),) if flags & VM_LOCKED else ()
    edit = _grown(layout, start, old, new, flags)
    return Plan(edit, placed=((old, new),), populate=populate, address=wanted)


def _check_room(layout: Layout, call: str, flags: int, pages: int) -> None:
    limits, used = layout.limits, layout.used
    if not may_lock(limits, used, flags, pages):
        refuse(errno.EAGAIN, call, *too_much_locked(limits))
    if not may_expand(limits, used, flags, pages):
        refuse(errno.ENOMEM, call, *too_much(limits))
    if len(layout.index) > limits.max_map_count:
        refuse(errno.ENOMEM, call, *too_many(layout))
    if not has_memory(limits, used, pages):
        refuse(errno.ENOMEM, call, *too_little_memory(limits))


def _grown(layout: Layout, heap_start: int, start: int, end: int, flags: int) -> Edit[VMA]:
    """Lengthen the heap that there is, if it is alike; it does not merge with what lies above it."""
    heap = VMA(flags)
    below = layout.index.find(start - 1) if heap_start < start else None
    merged = None if below is None else below.payload.merged(heap)
    if below is None or merged is None:
        return Edit((), (Region(start, end, heap),), layout.index.version)
    return Edit((below,), (Region(below.start, end, merged),), layout.index.version)
