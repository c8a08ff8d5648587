"""What all plans are made of: the layout, pieces of it, and the one place where they merge.

`VMA.merged` says which two neighbours are one. `coalesce` applies it at the edges that a call has
touched, and only there, because the kernel too leaves compatible neighbours apart that no call has
brought together.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias, final

from aspf.ranges import Edit, Region

from ._constants import PAGE_SIZE, TASK_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.ranges import RegionIndex

    from ._vma import VMA

__all__ = (
    "Layout",
    "Move",
    "Piece",
    "Plan",
    "Span",
    "changing",
    "check_aligned",
    "check_map_count",
    "edit_of",
    "error_of",
    "fail",
    "inside",
    "mapped_to_hole",
    "merge_into",
    "outside",
    "page_align",
    "reflagged",
    "unchanged",
)

Span: TypeAlias = tuple[int, int]


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """What a call is planned on.

    Attributes:
        index: The published VMAs.
        vacated: Ranges that were unmapped and are not settled: nothing is mapped there, and
            nothing may be placed there.
        task_size: End of the address space.
        min_address: Lowest address that may be mapped (``vm.mmap_min_addr``).
        max_map_count: How many VMAs there may be (``vm.max_map_count``).
        rlimit_stack: How long a stack may grow, in bytes (``RLIMIT_STACK``).
    """

    index: RegionIndex[VMA]
    vacated: tuple[Span, ...] = ()
    task_size: int = TASK_SIZE
    min_address: int = 1 << 16
    max_map_count: int = 65530
    rlimit_stack: int = 8 << 20

    @property
    def mmap_base(self) -> int:
        """Where the top-down search begins: below the room that is left for the stack."""
        room = min(max(1 << 27, self.rlimit_stack), self.task_size // 6)
        return (self.task_size - room) & -PAGE_SIZE


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What a call will do.

    Attributes:
        edit: The change of the layout; None if nothing changes.
        index: What the edit leads to, if it is several edits in one.
        zap: Ranges whose page-table entries go when the edit has settled.
        restrict: Ranges whose entries lose rights then.
        rights: The rights that they keep.
        moves: Whose entries go elsewhere then.
        placed: Ranges that were free, and are not.
        populate: Ranges to fault in at the end, because they are locked.
        address: What the call returns, where it returns an address.
        error: Raised after the edit, which is the part of the call that took effect.
    """

    edit: Edit[VMA] | None = None
    index: RegionIndex[VMA] | None = None
    zap: tuple[Span, ...] = ()
    restrict: tuple[Span, ...] = ()
    rights: int = 0
    moves: tuple[Move, ...] = ()
    placed: tuple[Span, ...] = ()
    populate: tuple[Span, ...] = ()
    address: int = 0
    error: OSError | None = None


class Move(NamedTuple):
    """Page-table entries that go with a mapping from one place to another."""

    start: int
    end: int
    to: int
    to_end: int
    """The end of the new mapping, which may be longer than what is moved there."""
    vma: VMA
    """What the source was mapped to."""
    stays: bool
    """Whether the source stays mapped."""


class Piece(NamedTuple):
    """A region to be, and whether the call made it what it is."""

    start: int
    end: int
    vma: VMA
    changed: bool = False


def fail(code: int, call: str, what: str, cure: str) -> NoReturn:
    raise error_of(code, call, what, cure)


def error_of(code: int, call: str, what: str, cure: str) -> OSError:
    return OSError(code, f"{os.strerror(code)}: {call}: {what}; {cure}")


def page_align(length: int) -> int:
    """Round up to whole pages."""
    return (length + PAGE_SIZE - 1) & -PAGE_SIZE


def check_aligned(call: str, name: str, value: int) -> None:
    if value % PAGE_SIZE:
        cure = f"pass a multiple of {PAGE_SIZE}"
        fail(errno.EINVAL, call, f"{name} {value:#x} is not on a page boundary", cure)


def check_map_count(layout: Layout, call: str, growth: int) -> None:
    if growth > 0 and len(layout.index) + growth > layout.max_map_count:
        cure = "unmap some, or raise max_map_count"
        fail(errno.ENOMEM, call, f"more than {layout.max_map_count} VMAs", cure)


# Pieces and edits ------------------------------------------------------------------------------


def outside(old: Sequence[Region[VMA]], start: int, end: int) -> tuple[list[Piece], list[Piece]]:
    """Return what sticks out of ``[start, end)`` on the left and on the right."""
    left = [Piece(r.start, start, r.payload.cut()) for r in old[:1] if r.start < start]
    right = [Piece(end, r.end, r.payload.cut()) for r in old[-1:] if end < r.end]
    return left, right


def inside(old: Sequence[Region[VMA]], start: int, end: int) -> tuple[Span, ...]:
    return tuple((max(r.start, start), min(r.end, end)) for r in old)


def coalesce(pieces: Sequence[Piece]) -> list[Piece]:
    """Merge neighbours where one of the two was changed by the call: the eight classic cases."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last is not None and last.end == piece.start and (last.changed or piece.changed):
            vma = last.vma.merged(piece.vma)
            if vma is not None:
                merged[-1] = Piece(last.start, piece.end, vma, piece.changed)
                continue
        merged.append(piece)
    return merged


def edit_of(layout: Layout, old: Sequence[Region[VMA]], new: Sequence[Piece]) -> Edit[VMA]:
    """Make the edit, without the regions at its two ends that stay what they are."""
    first, last_old, last_new = 0, len(old), len(new)
    while first < min(last_old, last_new) and _is_same(old[first], new[first]):
        first += 1
    while min(last_old, last_new) > first and _is_same(old[last_old - 1], new[last_new - 1]):
        last_old, last_new = last_old - 1, last_new - 1
    regions = tuple(Region(p.start, p.end, p.vma) for p in new[first:last_new])
    return Edit(tuple(old[first:last_old]), regions, layout.index.version)


def _is_same(region: Region[VMA], piece: Piece) -> bool:
    return region.payload is piece.vma and (region.start, region.end) == (piece.start, piece.end)


def merge_into(layout: Layout, old: Sequence[Region[VMA]], pieces: Sequence[Piece]) -> Edit[VMA]:
    """Merge the pieces that replace *old* with each other and with the neighbours on both sides."""
    index = layout.index
    previous = index.find(pieces[0].start - 1)
    following = index.find(pieces[-1].end)
    before = () if previous is None else (previous,)
    after = () if following is None else (following,)
    merged = coalesce([*map(unchanged, before), *pieces, *map(unchanged, after)])
    return edit_of(layout, (*before, *old, *after), merged)


def unchanged(region: Region[VMA]) -> Piece:
    return Piece(region.start, region.end, region.payload)


def changing(
    layout: Layout, call: str, old: Sequence[Region[VMA]], pieces: Sequence[Piece]
) -> Edit[VMA] | None:
    edit = merge_into(layout, old, pieces)
    check_map_count(layout, call, len(edit.new) - len(edit.old))
    return edit or None


def mapped_to_hole(layout: Layout, start: int, end: int) -> tuple[list[Region[VMA]], int]:
    """Return the regions from *start* to the first hole or *end*, and where that is."""
    regions: list[Region[VMA]] = []
    position = start
    for region in layout.index.overlapping(start, end):
        if region.start > position:
            break
        regions.append(region)
        position = region.end
    return regions, min(position, end)


def reflagged(region: Region[VMA], start: int, end: int, flags: int) -> list[Piece]:
    """Return the up to three pieces of a region of which ``[start, end)`` gets *flags*."""
    vma = region.payload
    if vma.flags == flags:
        return [unchanged(region)]
    left, right = outside([region], start, end)
    middle = vma.cut() if left or right else vma
    ((first, last),) = inside([region], start, end)
    return [*left, Piece(first, last, replace(middle, flags=flags), changed=True), *right]
