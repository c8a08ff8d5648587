"""The plan of brk; see `aspf.mm._plan`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aspf.ranges import Edit, Region

from ._constants import PAGE_SIZE, PROT_READ
from ._pieces import Plan, page_align
from ._plan import floor_of, plan_munmap
from ._vma import VM_ACCOUNT, VM_MAYEXEC, VM_MAYREAD, VM_MAYWRITE, VM_WRITE, VMA

if TYPE_CHECKING:
    from ._pieces import Layout

__all__ = ("plan_brk",)

HEAP_FLAGS: Final = PROT_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT


def plan_brk(layout: Layout, start: int, current: int, wanted: int) -> Plan:
    """Plan ``brk(wanted)`` of a heap that begins at *start* and ends at *current*.

    `Plan.address` is the break afterwards: as in Linux, a call that fails changes nothing and
    answers with the break that there is.
    """
    failed = Plan(address=current)
    if wanted < start:
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
    if len(layout.index) > layout.max_map_count:
        return failed
    return Plan(_grown(layout, old, new), placed=((old, new),), address=wanted)


def _grown(layout: Layout, start: int, end: int) -> Edit[VMA]:
    """Lengthen the heap; it does not merge with what lies above it."""
    heap = VMA(HEAP_FLAGS, name="[heap]")
    below = layout.index.find(start - 1)
    merged = None if below is None else below.payload.merged(heap)
    if below is None or merged is None:
        return Edit((), (Region(start, end, heap),), layout.index.version)
    return Edit((below,), (Region(below.start, end, merged),), layout.index.version)
