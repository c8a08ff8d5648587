"""The plans of mlock, munlock and madvise, which set flags or drop pages; see `aspf.mm._plan`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NoReturn

from ._constants import (
    MADV_DOFORK,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_KEEPONFORK,
    MADV_NORMAL,
    MADV_RANDOM,
    MADV_SEQUENTIAL,
    MADV_WIPEONFORK,
    PAGE_SIZE,
)
from ._pieces import (
    Plan,
    changing,
    check_aligned,
    error_of,
    fail,
    inside,
    mapped_to_hole,
    page_align,
    reflagged,
)
from ._vma import VM_DONTCOPY, VM_LOCKED, VM_RAND_READ, VM_SEQ_READ, VM_WIPEONFORK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.ranges import Edit, Region

    from ._pieces import Layout, Piece, Span
    from ._vma import VMA

__all__ = ("plan_madvise", "plan_mlock")

# What an advice clears and sets.
FLAGS_OF: Final = {
    MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV_DONTFORK: (0, VM_DONTCOPY),
    MADV_DOFORK: (VM_DONTCOPY, 0),
    MADV_WIPEONFORK: (0, VM_WIPEONFORK),
    MADV_KEEPONFORK: (VM_WIPEONFORK, 0),
}


def plan_mlock(layout: Layout, address: int, length: int, *, lock: bool) -> Plan:
    """Plan ``mlock`` or ``munlock``: every page that the range touches, up to the first hole.

    Raises:
        OSError: EINVAL for a range outside the address space; ENOMEM if it would make too many
            VMAs.
    """
    call = f"{'mlock' if lock else 'munlock'}({address:#x}, {length:#x})"
    start, end = address & -PAGE_SIZE, page_align(address + length)
    if length < 0 or address < 0 or end > 1 << 64:
        _refuse_range(call)
    if start == end:
        return Plan()
    old, position = mapped_to_hole(layout, start, end)
    pieces: list[Piece] = []
    for region in old:
        kept = region.payload.flags & ~VM_LOCKED
        pieces += reflagged(region, start, end, kept | VM_LOCKED if lock else kept)
    edit = changing(layout, call, old, pieces) if old else None
    if position == end:
        return Plan(edit, populate=((start, end),) if lock else ())
    cure = "pass a mapped range; everything below the hole has been changed"
    error = error_of(errno.ENOMEM, call, f"nothing is mapped at {position:#x}", cure)
    return Plan(edit, error=error)


def plan_madvise(layout: Layout, address: int, length: int, advice: int) -> Plan:
    """Plan ``madvise(address, length, advice)``; holes are passed over and reported at the end.

    For MADV_DONTNEED the layout stays, and `Plan.zap` goes at once.

    Raises:
        OSError: EINVAL for an unaligned address, a negative length, or an advice that is not
            known; EAGAIN if it would make too many VMAs.
    """
    call = f"madvise({address:#x}, {length:#x}, {advice})"
    if advice not in FLAGS_OF and advice not in (MADV_DONTNEED, MADV_FREE):
        cure = "use one of the MADV_ constants of aspf.mm"
        fail(errno.EINVAL, call, f"advice {advice} is not supported", cure)
    check_aligned(call, "the address", address)
    if length < 0 or address < 0:
        _refuse_range(call)
    if not length:
        return Plan()
    end = address + page_align(length)
    old = layout.index.overlapping(address, end)
    spans = inside(old, address, end)
    error = None
    if sum(last - first for first, last in spans) < end - address:
        cure = "what is mapped has taken the advice"
        error = error_of(errno.ENOMEM, call, "there are holes in the range", cure)
    for number, region in enumerate(old):
        if (refusal := _refusal(region.payload, advice)) is not None:
            what, cure = refusal
            what = f"the mapping at {region.start:#x} {what}"
            old, error = old[:number], error_of(errno.EINVAL, call, what, cure)
            break
    if advice in FLAGS_OF:
        return Plan(_flagged(layout, call, old, (address, end), advice), error=error)
    # Nothing here is ever short of memory, so what MADV_FREE allows to be dropped stays.
    return Plan(zap=spans[: len(old)] if advice == MADV_DONTNEED else (), error=error)


def _refuse_range(call: str) -> NoReturn:
    fail(errno.EINVAL, call, "the range is no range", "pass a length of 0 or more")


def _refusal(vma: VMA, advice: int) -> tuple[str, str] | None:
    """Return why a mapping does not take an advice, and the cure."""
    if advice in (MADV_DONTNEED, MADV_FREE) and vma.flags & VM_LOCKED:
        return "is locked", "unlock it first"
    if advice in (MADV_FREE, MADV_WIPEONFORK) and vma.file is not None:
        return "is not private anonymous memory", "leave it out"
    return None


def _flagged(
    layout: Layout, call: str, old: Sequence[Region[VMA]], span: Span, advice: int
) -> Edit[VMA] | None:
    if not old:
        return None
    clear, put = FLAGS_OF[advice]
    pieces: list[Piece] = []
    for region in old:
        pieces += reflagged(region, *span, region.payload.flags & ~clear | put)
    try:
        return changing(layout, call, old, pieces)
    except OSError as many:
        raise OSError(errno.EAGAIN, many.strerror) from many
