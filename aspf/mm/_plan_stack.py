"""The plan of a stack that grows; see `aspf.mm._plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aspf.ranges import Edit, Region

from ._constants import PAGE_SIZE
from ._pieces import Plan
from ._plan import STACK_GUARD_GAP
from ._vma import VM_ACCESS, VM_GROWSDOWN

if TYPE_CHECKING:
    from ._pieces import Layout

__all__ = ("plan_growth",)


def plan_growth(layout: Layout, address: int) -> Plan | None:
    """Plan to let the stack above *address*, where nothing is mapped, grow down to it.

    The stack is the first VMA that ends above the address. It keeps its payload and does not merge
    with what it meets. Only the mapping next below counts for its guard gap of 256 pages, and not
    if it is inaccessible or a stack too.

    Returns:
        None if it may not: it is no stack, its guard gap would reach what is mapped below, it would
        be longer than `Layout.rlimit_stack`, or it would begin below `Layout.min_address`.
    """
    stack = layout.index.find_next(address)
    if stack is None or not stack.payload.flags & VM_GROWSDOWN:
        return None
    start = address & -PAGE_SIZE
    # An origin above the start: a stack that mremap has moved up, and whose pages are numbered on.
    if start < max(layout.min_address, stack.payload.origin):
        return None
    low = start - STACK_GUARD_GAP
    for below in layout.index.overlapping(low, start)[-1:]:
        if below.payload.flags & VM_ACCESS and not below.payload.flags & VM_GROWSDOWN:
            return None
    if stack.end - start > layout.rlimit_stack:
        return None
    edit = Edit((stack,), (Region(start, stack.end, stack.payload),), layout.index.version)
    # With its guard gap: what is vacated counts as mapped until it has settled.
    return Plan(edit, placed=((low, stack.start),), address=start)
