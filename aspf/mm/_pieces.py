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
from ._limits import LINUX_LIMITS, NOTHING, Limits, Usage, usage_of, usage_of_regions
from ._vma import Anon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.ranges import RegionIndex

    from ._vma import VMA

__all__ = (
    "Changes",
    "Layout",
    "Move",
    "NoRoom",
    "Piece",
    "Plan",
    "Span",
    "check_aligned",
    "check_map_count",
    "cut_out",
    "edit_of",
    "error_of",
    "fail",
    "inside",
    "mapped_to_hole",
    "merge_into",
    "outside",
    "page_align",
    "reflagged",
    "refuse",
    "refuse_locking",
    "too_many",
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
        limits: What there may be.
        usage: What there is, vacated ranges among it; None to count it when it is wanted.
        def_flags: Flags that every new VMA gets (``mm->def_flags``): what mlockall has left.
        mmap_base: Where the top-down search begins in a process that has it at random; None for
            where it begins without that (`search_base`).
    """

    index: RegionIndex[VMA]
    vacated: tuple[Span, ...] = ()
    task_size: int = TASK_SIZE
    min_address: int = 1 << 16
    limits: Limits = LINUX_LIMITS
    usage: Usage | None = None
    def_flags: int = 0
    mmap_base: int | None = None

    @property
    def used(self) -> Usage:
        """What there is."""
        return usage_of_regions(self.index) if self.usage is None else self.usage

    @property
    def room(self) -> int:
        """How many VMAs more a split may make."""
        return max(0, self.limits.max_map_count - len(self.index))

    @property
    def search_base(self) -> int:
        """Where the top-down search begins: below the room that is left for the stack."""
        if self.mmap_base is not None:
            return self.mmap_base
        stack = self.limits.stack
        if stack is None:
            return self.task_size // 6 & -PAGE_SIZE
        room = min(max(1 << 27, stack), self.task_size // 6)
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
        spans: What is mapped of the range, for a call that works on its pages.
        address: What the call returns, where it returns an address.
        error: Raised after the edit, which is the part of the call that took effect.
        miscounted: What Linux counts from then on and nobody has any more.
    """

    edit: Edit[VMA] | None = None
    index: RegionIndex[VMA] | None = None
    zap: tuple[Span, ...] = ()
    restrict: tuple[Span, ...] = ()
    rights: int = 0
    moves: tuple[Move, ...] = ()
    placed: tuple[Span, ...] = ()
    populate: tuple[Span, ...] = ()
    spans: tuple[Span, ...] = ()
    address: int = 0
    error: OSError | None = None
    miscounted: Usage = NOTHING


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


class NoRoom(OSError):
    """A refusal for want of room: what is vacated may make some, once it has settled."""


def refuse(code: int, call: str, what: str, cure: str) -> NoReturn:
    """Refuse for want of room."""
    raise NoRoom(code, f"{os.strerror(code)}: {call}: {what}; {cure}")


def refuse_locking(code: int, call: str) -> NoReturn:
    """Refuse to lock anything at all."""
    cure = "raise Limits.locked, or set Limits.cap_ipc_lock"
    fail(code, call, "nothing may be locked", cure)


def page_align(length: int) -> int:
    """Round up to whole pages."""
    return (length + PAGE_SIZE - 1) & -PAGE_SIZE


def check_aligned(call: str, name: str, value: int) -> None:
    if value % PAGE_SIZE:
        cure = f"pass a multiple of {PAGE_SIZE}"
        fail(errno.EINVAL, call, f"{name} {value:#x} is not on a page boundary", cure)


def check_map_count(layout: Layout, call: str, growth: int) -> None:
    if growth > layout.room:
        refuse(errno.ENOMEM, call, *too_many(layout))


def too_many(layout: Layout) -> tuple[str, str]:
    """Return the words for a refusal: what, and the cure."""
    what = f"more than {layout.limits.max_map_count} VMAs"
    return what, "unmap some, or raise Limits.max_map_count"


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


def edit_of(
    layout: Layout, old: Sequence[Region[VMA]], new: Sequence[Piece], emptied: Span = (0, 0)
) -> Edit[VMA]:
    """Make the edit, without the regions at its two ends that stay what they are.

    A region that overlaps *emptied* does not: its pages go, so the edit has to wait for its holders
    and for every earlier edit of that range, also where it is then mapped as before.
    """

    def stays(region: Region[VMA], piece: Piece) -> bool:
        is_same = region.payload is piece.vma and region.start == piece.start
        is_emptied = region.start < emptied[1] and emptied[0] < region.end
        return is_same and region.end == piece.end and not is_emptied

    first, last_old, last_new = 0, len(old), len(new)
    while first < min(last_old, last_new) and stays(old[first], new[first]):
        first += 1
    while min(last_old, last_new) > first and stays(old[last_old - 1], new[last_new - 1]):
        last_old, last_new = last_old - 1, last_new - 1
    regions = tuple(Region(p.start, p.end, p.vma) for p in new[first:last_new])
    return Edit(tuple(old[first:last_old]), regions, layout.index.version)


def merge_into(
    layout: Layout, old: Sequence[Region[VMA]], pieces: Sequence[Piece], emptied: Span = (0, 0)
) -> Edit[VMA]:
    """Merge the pieces that replace *old* with each other and with the neighbours on both sides."""
    index = layout.index
    previous = index.find(pieces[0].start - 1)
    following = index.find(pieces[-1].end)
    before = () if previous is None else (previous,)
    after = () if following is None else (following,)
    merged = coalesce([*map(unchanged, before), *pieces, *map(unchanged, after)])
    return edit_of(layout, (*before, *old, *after), merged, emptied)


def unchanged(region: Region[VMA]) -> Piece:
    return Piece(region.start, region.end, region.payload)


def cut_out(layout: Layout, old: Sequence[Region[VMA]], start: int, end: int) -> Edit[VMA] | None:
    """Split at both ends of a range and change nothing else.

    What a call leaves behind that splits first and is refused then.
    """
    left, right = outside(old, start, end)
    within = [
        Piece(*span, region.payload if span == (region.start, region.end) else region.payload.cut())
        for region, span in zip(old, inside(old, start, end), strict=True)
    ]
    return edit_of(layout, old, [*left, *within, *right]) if left or right else None


@final
class Changes:
    """VMAs that get other flags one after another, as the kernel's ``vma_modify`` gives them.

    Each step either merges with a neighbour, which needs no room, or splits at most twice, and each
    split may be the one too many. So what a refused call has changed up to then stays changed.

    Attributes:
        used: What there is after the steps so far.
    """

    def __init__(
        self, layout: Layout, call: str, old: Sequence[Region[VMA]], start: int, end: int
    ) -> None:
        self.used = layout.used
        self._layout = layout
        self._call = call
        self._old = old
        self._span = (start, end)
        self._room = layout.limits.max_map_count - len(layout.index)
        before = layout.index.find(old[0].start - 1)
        self._before = () if before is None else (before,)
        after = layout.index.find(old[-1].end)
        self._after = () if after is None else (after,)
        # Invariant: what the VMAs before self._old[self._next] have become.
        self._pieces = [unchanged(region) for region in self._before]
        self._next = 0

    def step(self, flags: int) -> None:
        """Give the next VMA these flags, where it lies in the range.

        Raises:
            NoRoom: If it would make too many VMAs. It may have been split at the start of the range.
        """
        region = self._old[self._next]
        pieces = reflagged(region, *self._span, flags)
        if region.payload.flags == flags:
            self._take(pieces)
            return
        growth = self._growth(pieces)
        if growth > max(0, self._room):
            if growth == 2 and self._room == 1:
                first = pieces[0]
                self._take([first, Piece(first.end, region.end, region.payload.cut())])
            refuse(errno.ENOMEM, self._call, *too_many(self._layout))
        self._room -= growth
        self._take(pieces)
        ((start, end),) = inside([region], *self._span)
        gone = usage_of([(start, end, region.payload.flags)])
        self.used = self.used.minus(gone).plus(usage_of([(start, end, flags)]))

    def _growth(self, pieces: list[Piece]) -> int:
        """Return how many VMAs more there are when the pieces have merged with both neighbours."""
        following = (*self._old[self._next + 1 :][:1], *self._after)[:1]
        around = [*self._pieces[-1:], *pieces, *map(unchanged, following)]
        return len(coalesce(around)) - (len(around) - len(pieces) + 1)

    def _take(self, pieces: list[Piece]) -> None:
        self._pieces[-1:] = coalesce([*self._pieces[-1:], *pieces])
        self._next += 1

    def touch(self, address: int) -> None:
        """Give the VMA that the last step has changed its identity, as a write at *address* does.

        See `AddressSpace.prepare_anon`. What follows may merge with it only under that identity.
        """
        number = len(self._pieces) - 1
        while self._pieces[number].start > address:
            number -= 1
        piece = self._pieces[number]
        later = (*self._old[self._next :], *self._after)
        above = [*self._pieces[number + 1 :], *map(unchanged, later)][:1]
        below = self._pieces[:number][-1:]
        neighbours = [p.vma for p in above if p.start == piece.end]
        neighbours += [p.vma for p in below if p.end == piece.start]
        identity = next(
            (vma.anon.identity for vma in neighbours if piece.vma.may_share_anon(vma)), None
        )
        if piece.vma.anon.identity is None:
            anon = Anon(object() if identity is None else identity)
            self._pieces[number] = piece._replace(vma=replace(piece.vma, anon=anon))

    def edit(self) -> Edit[VMA] | None:
        """Return what the steps so far have changed; None for nothing."""
        rest = map(unchanged, (*self._old[self._next :], *self._after))
        # Only at the last edge: a piece that has grown to the right has not been touched on its left.
        new = [*self._pieces[:-1], *coalesce([*self._pieces[-1:], *rest])]
        return edit_of(self._layout, (*self._before, *self._old, *self._after), new) or None


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
