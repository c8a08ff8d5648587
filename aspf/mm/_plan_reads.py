"""The plans of msync and mincore, which change nothing; see `aspf.mm._plan`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ._constants import MS_ASYNC, MS_INVALIDATE, MS_SYNC
from ._pieces import Plan, check_aligned, error_of, fail, inside, mapped_to_hole, page_align
from ._vma import VM_LOCKED, VM_SHARED

if TYPE_CHECKING:
    from ._pieces import Layout, Span

__all__ = ("plan_mincore", "plan_msync")


def plan_msync(layout: Layout, address: int, length: int, flags: int) -> Plan:
    """Plan ``msync(address, length, flags)``: `Plan.spans` is what has to be stored.

    Raises:
        OSError: EINVAL for an unaligned address, unknown flags, or MS_SYNC with MS_ASYNC; ENOMEM
            for a range that ends outside the address space.
    """
    call = f"msync({address:#x}, {length:#x}, {flags:#x})"
    check_aligned(call, "the address", address)
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or (flags & MS_ASYNC and flags & MS_SYNC):
        cure = "use MS_SYNC or MS_ASYNC, with or without MS_INVALIDATE"
        fail(errno.EINVAL, call, "unknown flags, or two that exclude each other", cure)
    end = address + page_align(length)
    if length < 0 or address < 0 or end > 1 << 64:
        fail(errno.ENOMEM, call, "the range is outside the address space", "pass a mapped range")
    spans: list[Span] = []
    position, error = address, None
    if not length:
        return Plan()
    for region in layout.index.overlapping(address, end):
        if position < region.start:
            error = _hole(call, position)
            # With nothing to store, the kernel looks no further.
            if flags == MS_ASYNC:
                return Plan(error=error)
        if flags & MS_INVALIDATE and region.payload.flags & VM_LOCKED:
            what = f"the mapping at {region.start:#x} is locked"
            busy = error_of(errno.EBUSY, call, what, "unlock it first")
            return Plan(spans=tuple(spans), error=busy)
        if flags & MS_SYNC and region.payload.flags & VM_SHARED:
            spans += inside([region], address, end)
        position = region.end
    if position < end:
        error = _hole(call, position)
    return Plan(spans=tuple(spans), error=error)


def _hole(call: str, position: int) -> OSError:
    cure = "pass a mapped range; what is mapped of this one has been stored"
    return error_of(errno.ENOMEM, call, f"nothing is mapped at {position:#x}", cure)


def plan_mincore(layout: Layout, address: int, length: int) -> Plan:
    """Plan ``mincore(address, length)``: `Plan.spans` is the range, by VMA.

    Raises:
        OSError: EINVAL for an unaligned address; ENOMEM for a hole, or a range outside the address
            space.
    """
    call = f"mincore({address:#x}, {length:#x})"
    check_aligned(call, "the address", address)
    end = address + page_align(length)
    cure = "pass a mapped range"
    if length < 0 or address < 0 or end > layout.task_size:
        fail(errno.ENOMEM, call, "the range is outside the address space", cure)
    old, position = mapped_to_hole(layout, address, end)
    if position < end:
        fail(errno.ENOMEM, call, f"nothing is mapped at {position:#x}", cure)
    return Plan(spans=inside(old, address, end))
