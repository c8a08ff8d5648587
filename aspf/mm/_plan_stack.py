"""The plan of a stack that grows; see `aspf.mm._plan`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from aspf.ranges import Edit, Region

from ._constants import PAGE_SHIFT, PAGE_SIZE
from ._limits import (
    Usage,
    has_memory,
    may_expand,
    may_lock,
    too_little_memory,
    too_much,
    too_much_locked,
)
from ._pieces import Plan, fail, refuse
from ._plan import STACK_GUARD_GAP
from ._vma import VM_ACCESS, VM_ACCOUNT, VM_GROWSDOWN

if TYPE_CHECKING:
    from ._pieces import Layout
    from ._vma import VMA

__all__ = ("plan_growth",)


def plan_growth(layout: Layout, address: int) -> Plan:
    """Plan to let the stack above *address*, where nothing is mapped, grow down to it.

    The stack is the first VMA that ends above the address. It keeps its payload and does not merge
    with what it meets. Only the mapping next below counts for its guard gap of 256 pages, and not
    if it is inaccessible or a stack too.

    Returns:
        A plan without edit if it may not: it is no stack, its guard gap would reach what is mapped
        below, or it would begin below `Layout.min_address`.

    Raises:
        OSError: If it may, but `Limits` don't allow it, or its pages can't be numbered so far down.
    """
    stack = layout.index.find_next(address)
    if stack is None or not stack.payload.flags & VM_GROWSDOWN:
        return Plan()
    start = address & -PAGE_SIZE
    if start < layout.min_address:
        return Plan()
    low = start - STACK_GUARD_GAP
    for below in layout.index.overlapping(low, start)[-1:]:
        if below.payload.flags & VM_ACCESS and not below.payload.flags & VM_GROWSDOWN:
            return Plan()
    _check_room(layout, stack, start)
    pages = (stack.start - start) >> PAGE_SHIFT
    edit = Edit((stack,), (Region(start, stack.end, stack.payload),), layout.index.version)
    # With its guard gap: what is vacated counts as mapped until it has settled.
    placed = ((low, stack.start),)
    if stack.payload.flags & VM_ACCOUNT:
        return Plan(edit, placed=placed, address=start)
    # Linux promises the growth of any stack, and takes back only what is accounted.
    return Plan(edit, placed=placed, address=start, miscounted=Usage(committed=pages))


def _check_room(layout: Layout, stack: Region[VMA], start: int) -> None:
    """Refuse what ``expand_downwards`` does once the stack has its anonymous identity."""
    limits, used, flags = layout.limits, layout.used, stack.payload.flags
    call = f"a stack that grows to {start:#x}"
    pages = (stack.start - start) >> PAGE_SHIFT
    if start < stack.payload.origin:
        what = f"mremap has moved it up, and its pages are numbered from {stack.payload.origin:#x}"
        fail(errno.ENOMEM, call, what, "map a new stack there")
    if limits.stack is not None and stack.end - start > limits.stack:
        fail(errno.ENOMEM, call, f"longer than {limits.stack:#x}", "raise Limits.stack")
    if not may_expand(limits, used, flags, pages):
        refuse(errno.ENOMEM, call, *too_much(limits))
    if not may_lock(limits, used, flags, pages):
        refuse(errno.ENOMEM, call, *too_much_locked(limits))
    if not has_memory(limits, used, pages):
        refuse(errno.ENOMEM, call, *too_little_memory(limits))
