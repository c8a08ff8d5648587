"""What each memory call does to the layout: pure functions of an index and a call.

Nothing here waits or changes anything. A call is planned as the kernel does it (merge rules, order
of the checks, errno, partial effects) and comes back as a `Plan`: one `aspf.ranges.Edit`, and what
is left to do with the page table once that edit has settled. The tests compare every plan with
what a real kernel answered.

All merging is in two places: `VMA.merged` says which two neighbours are one, and `_coalesce`
applies it at the edges that a call has touched, and only there, because the kernel too leaves
compatible neighbours apart that no call has brought together.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeAlias, final

from aspf.ranges import Edit, Region

from ._constants import (
    MADV_DONTNEED,
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    PAGE_SIZE,
    TASK_SIZE,
)
from ._vma import (
    VM_ACCESS,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
    VMA,
    rights_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aspf.ranges import RegionIndex

    from ._file import MappedFile

__all__ = (
    "Layout",
    "MmapCall",
    "Plan",
    "plan_madvise",
    "plan_mmap",
    "plan_mprotect",
    "plan_munmap",
)

Span: TypeAlias = tuple[int, int]

STACK_GUARD_GAP: Final = 256 * PAGE_SIZE
THP_SIZE: Final = 512 * PAGE_SIZE
# MAP_32BIT takes the second GiB, for the reasons that x86's sys_mmap had in 2002.
LOW_SPAN: Final = (0x40000000, 0x80000000)
KNOWN_FLAGS: Final = (
    MAP_SHARED_VALIDATE
    | MAP_FIXED
    | MAP_ANONYMOUS
    | MAP_32BIT
    | MAP_GROWSDOWN
    | MAP_LOCKED
    | MAP_NORESERVE
    | MAP_FIXED_NOREPLACE
)


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
    """

    index: RegionIndex[VMA]
    vacated: tuple[Span, ...] = ()
    task_size: int = TASK_SIZE
    min_address: int = 1 << 16
    max_map_count: int = 65530

    @property
    def mmap_base(self) -> int:
        """Where the top-down search begins: below the room that is left for the stack."""
        return (self.task_size - min(1 << 27, self.task_size // 6)) & -PAGE_SIZE


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What a call will do.

    Attributes:
        edit: The change of the layout; None if nothing changes.
        zap: Ranges whose page-table entries go when the edit has settled.
        restrict: Ranges whose entries lose rights then.
        rights: The rights that they keep.
        address: What the call returns, where it returns an address.
        error: Raised after the edit, which is the part of the call that took effect.
    """

    edit: Edit[VMA] | None = None
    zap: tuple[Span, ...] = ()
    restrict: tuple[Span, ...] = ()
    rights: int = 0
    address: int = 0
    error: OSError | None = None


class _Piece(NamedTuple):
    """A region to be, and whether the call made it what it is."""

    start: int
    end: int
    vma: VMA
    changed: bool = False


def _fail(code: int, call: str, what: str, cure: str) -> NoReturn:
    raise _error(code, call, what, cure)


def _error(code: int, call: str, what: str, cure: str) -> OSError:
    return OSError(code, f"{os.strerror(code)}: {call}: {what}; {cure}")


def page_align(length: int) -> int:
    """Round up to whole pages."""
    return (length + PAGE_SIZE - 1) & -PAGE_SIZE


def _check_aligned(call: str, name: str, value: int) -> None:
    if value % PAGE_SIZE:
        cure = f"pass a multiple of {PAGE_SIZE}"
        _fail(errno.EINVAL, call, f"{name} {value:#x} is not on a page boundary", cure)


def _check_prot(call: str, prot: int) -> None:
    if prot & ~VM_ACCESS:
        cure = "use PROT_READ, PROT_WRITE and PROT_EXEC"
        _fail(errno.EINVAL, call, f"{prot:#x} is no protection", cure)


def _check_map_count(layout: Layout, call: str, growth: int) -> None:
    if growth > 0 and len(layout.index) + growth > layout.max_map_count:
        cure = "unmap some, or raise max_map_count"
        _fail(errno.ENOMEM, call, f"more than {layout.max_map_count} VMAs", cure)


# Pieces and edits ------------------------------------------------------------------------------


def _outside(old: Sequence[Region[VMA]], start: int, end: int) -> tuple[list[_Piece], list[_Piece]]:
    """Return what sticks out of ``[start, end)`` on the left and on the right."""
    left = [_Piece(r.start, start, r.payload.cut()) for r in old[:1] if r.start < start]
    right = [_Piece(end, r.end, r.payload.cut()) for r in old[-1:] if end < r.end]
    return left, right


def _inside(old: Sequence[Region[VMA]], start: int, end: int) -> tuple[Span, ...]:
    return tuple((max(r.start, start), min(r.end, end)) for r in old)


def _coalesce(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Merge neighbours where one of the two was changed by the call: the eight classic cases."""
    merged: list[_Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last is not None and last.end == piece.start and (last.changed or piece.changed):
            vma = last.vma.merged(piece.vma)
            if vma is not None:
                merged[-1] = _Piece(last.start, piece.end, vma, piece.changed)
                continue
        merged.append(piece)
    return merged


def _edit(layout: Layout, old: Sequence[Region[VMA]], new: Sequence[_Piece]) -> Edit[VMA]:
    """Make the edit, without the regions at its two ends that stay what they are."""
    first, last_old, last_new = 0, len(old), len(new)
    while first < min(last_old, last_new) and _is_same(old[first], new[first]):
        first += 1
    while min(last_old, last_new) > first and _is_same(old[last_old - 1], new[last_new - 1]):
        last_old, last_new = last_old - 1, last_new - 1
    regions = tuple(Region(p.start, p.end, p.vma) for p in new[first:last_new])
    return Edit(tuple(old[first:last_old]), regions, layout.index.version)


def _is_same(region: Region[VMA], piece: _Piece) -> bool:
    return region.payload is piece.vma and (region.start, region.end) == (piece.start, piece.end)


def _merge_into(layout: Layout, old: Sequence[Region[VMA]], pieces: Sequence[_Piece]) -> Edit[VMA]:
    """Merge the pieces that replace *old* with each other and with the neighbours on both sides."""
    index = layout.index
    previous = index.find(pieces[0].start - 1)
    following = index.find(pieces[-1].end)
    before = () if previous is None else (previous,)
    after = () if following is None else (following,)
    merged = _coalesce([*map(_unchanged, before), *pieces, *map(_unchanged, after)])
    return _edit(layout, (*before, *old, *after), merged)


def _unchanged(region: Region[VMA]) -> _Piece:
    return _Piece(region.start, region.end, region.payload)


# munmap ----------------------------------------------------------------------------------------


def plan_munmap(layout: Layout, address: int, length: int) -> Plan:
    """Plan ``munmap(address, length)``; holes in the range are no error.

    Raises:
        OSError: EINVAL for an unaligned address, no length, or a range outside the address space;
            ENOMEM if it would make more than `Layout.max_map_count` VMAs.
    """
    call = f"munmap({address:#x}, {length:#x})"
    _check_aligned(call, "the address", address)
    end = address + page_align(length)
    if length <= 0 or address < 0 or end > layout.task_size:
        cure = f"unmap at least one byte below {layout.task_size:#x}"
        _fail(errno.EINVAL, call, "the range is empty or outside the address space", cure)
    old = layout.index.overlapping(address, end)
    if not old:
        return Plan()
    left, right = _outside(old, address, end)
    _check_map_count(layout, call, len(left) + len(right) - len(old))
    return Plan(_edit(layout, old, left + right), zap=_inside(old, address, end))


# mmap ------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class MmapCall:
    """The arguments of ``mmap``; shared anonymous memory comes with the file that is behind it."""

    address: int
    length: int
    prot: int
    flags: int
    file: MappedFile | None = None
    offset: int = 0

    def __str__(self) -> str:
        return (
            f"mmap({self.address:#x}, {self.length:#x}, prot={self.prot:#x}, "
            f"flags={self.flags:#x}, offset={self.offset:#x})"
        )

    @property
    def size(self) -> int:
        """The length in whole pages."""
        return page_align(self.length)


def plan_mmap(layout: Layout, call: MmapCall) -> Plan:
    """Plan ``mmap(address, length, prot, flags, file, offset)``.

    Raises:
        OSError: With the kernel's errno; `AddressSpace.mmap` lists them.
    """
    _check_mmap(layout, call)
    start = _place(layout, call)
    end = start + call.size
    flags = _vm_flags(call)
    offset = 0 if call.flags & MAP_ANONYMOUS else call.offset
    origin = 0 if call.file is None else start - offset
    new = _Piece(start, end, VMA(flags, origin, call.file), changed=True)
    old = layout.index.overlapping(start, end)
    left, right = _outside(old, start, end)
    _check_map_count(layout, str(call), len(left) + len(right) - len(old))
    edit = _merge_into(layout, old, [*left, new, *right])
    return Plan(edit, zap=_inside(old, start, end), address=start)


def _check_mmap(layout: Layout, call: MmapCall) -> None:
    text = str(call)
    _check_aligned(text, "the offset", call.offset)
    _check_prot(text, call.prot)
    if call.file is None and not call.flags & MAP_ANONYMOUS:
        _fail(errno.EBADF, text, "there is no file to map", "pass file= or MAP_ANONYMOUS")
    if call.length <= 0 or call.offset < 0:
        cure = "map at least one byte, from an offset of 0 or more"
        _fail(errno.EINVAL, text, "there is nothing to map", cure)
    if call.offset + call.size > 1 << 63:
        cure = "map an earlier part of the file"
        _fail(errno.EOVERFLOW, text, "the mapping ends beyond the largest file", cure)
    # The kernel's mmap lets one VMA more than max_map_count be; its splits do not.
    if len(layout.index) > layout.max_map_count:
        _check_map_count(layout, text, 1)


def _vm_flags(call: MmapCall) -> int:
    flags, text = call.flags, str(call)
    kind = flags & MAP_SHARED_VALIDATE
    if kind not in (MAP_SHARED, MAP_PRIVATE) and (kind == 0 or flags & MAP_ANONYMOUS):
        _fail(errno.EINVAL, text, "neither shared nor private", "pass MAP_SHARED or MAP_PRIVATE")
    if flags & ~KNOWN_FLAGS:
        cure = "leave them out"
        _fail(errno.EOPNOTSUPP, text, f"unknown flags {flags & ~KNOWN_FLAGS:#x}", cure)
    vm_flags = call.prot | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    vm_flags |= VM_GROWSDOWN if flags & MAP_GROWSDOWN else 0
    vm_flags |= VM_LOCKED if flags & MAP_LOCKED else 0
    vm_flags |= VM_NORESERVE if flags & MAP_NORESERVE else 0
    if call.file is not None:
        vm_flags = _file_flags(text, vm_flags, call.file, is_shared=kind != MAP_PRIVATE)
    if vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE:
        vm_flags |= VM_ACCOUNT
    return vm_flags


def _file_flags(text: str, vm_flags: int, file: MappedFile, *, is_shared: bool) -> int:
    if vm_flags & VM_GROWSDOWN:
        cure = "use MAP_PRIVATE | MAP_ANONYMOUS"
        _fail(errno.EINVAL, text, "a mapping of a file can't grow down", cure)
    if not file.is_readable:
        _fail(errno.EACCES, text, f"{file.name} is not open for reading", "open it for reading")
    if not is_shared:
        return vm_flags
    if file.is_writable:
        return vm_flags | VM_SHARED | VM_MAYSHARE
    if vm_flags & VM_WRITE:
        cure = "open it for writing, or use MAP_PRIVATE"
        _fail(errno.EACCES, text, f"{file.name} is not open for writing", cure)
    return (vm_flags | VM_MAYSHARE) & ~VM_MAYWRITE


def _place(layout: Layout, call: MmapCall) -> int:
    """Return where the mapping goes: the fixed address, the hint if it is free, or a gap."""
    if call.size > layout.task_size:
        cure = f"map at most {layout.task_size:#x} bytes"
        _fail(errno.ENOMEM, str(call), "longer than the address space", cure)
    if call.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        return _fixed(layout, call)
    hint = call.address & -PAGE_SIZE
    if hint:
        hint = max(hint, page_align(layout.min_address))
        if _is_free(layout, hint, hint + call.size):
            return hint
    is_huge = call.file is None and not hint and call.size % THP_SIZE == 0
    found = _huge_gap(layout, call.size, call.flags) if is_huge else None
    if found is None:
        found = _gap(layout, call.size, call.flags)
    if found is None:
        cure = "map less, or unmap something first"
        _fail(errno.ENOMEM, str(call), "no gap is large enough", cure)
    return found


def _fixed(layout: Layout, call: MmapCall) -> int:
    text, address, end = str(call), call.address, call.address + call.size
    if address < 0 or end > layout.task_size:
        cure = f"stay below {layout.task_size:#x}"
        _fail(errno.ENOMEM, text, "the range is outside the address space", cure)
    _check_aligned(text, "the address", address)
    if address < layout.min_address:
        cure = f"map at {layout.min_address:#x} or above"
        _fail(errno.EPERM, text, "the address is below min_address", cure)
    if call.flags & MAP_FIXED_NOREPLACE and layout.index.overlapping(address, end):
        cure = "unmap it first, or use MAP_FIXED to replace it"
        _fail(errno.EEXIST, text, "something is mapped there", cure)
    return address


def _is_free(layout: Layout, start: int, end: int) -> bool:
    above = layout.index.find_next(start)
    return (
        end <= layout.task_size
        and (above is None or end <= _floor(above))
        and not any(first < end and start < last for first, last in layout.vacated)
    )


def _floor(region: Region[VMA]) -> int:
    """Return how far up the space below the region is free: a stack keeps its guard gap."""
    gap = STACK_GUARD_GAP if region.payload.flags & VM_GROWSDOWN else 0
    return int(region.start) - gap


def _gap(layout: Layout, length: int, flags: int) -> int | None:
    """Search as x86-64 does: from `Layout.mmap_base` down, else from a third of the way up.

    Complexity: O(VMAs).
    """
    if flags & MAP_32BIT:
        return _lowest(layout, length, *LOW_SPAN)
    for start, end in reversed(list(_free(layout, layout.min_address, layout.mmap_base))):
        if end - start >= length:
            return end - length
    third = page_align(layout.task_size // 3)
    return _lowest(layout, length, max(third, layout.min_address), layout.task_size)


def _lowest(layout: Layout, length: int, low: int, high: int) -> int | None:
    spans = _free(layout, low, min(high, layout.task_size))
    return next((start for start, end in spans if end - start >= length), None)


def _huge_gap(layout: Layout, length: int, flags: int) -> int | None:
    """Search for room with 2 MiB to spare and align in it, so that huge pages could be used."""
    found = _gap(layout, length + THP_SIZE, flags)
    if found is None:
        return None
    aligned = found + (-found & (THP_SIZE - 1))
    return aligned + THP_SIZE if aligned == found and not flags & MAP_32BIT else aligned


def _free(layout: Layout, low: int, high: int) -> Iterator[Span]:
    """Yield the spans of ``[low, high)`` where something may be placed, ascending."""
    for start, end in layout.index.gaps(low, high) if low < high else ():
        above = layout.index.find_next(end)
        top = end if above is None else min(end, _floor(above))
        position = start
        for first, last in sorted(layout.vacated):
            if position < last and first < top:
                yield position, first
                position = last
        yield position, top


# mprotect --------------------------------------------------------------------------------------


def plan_mprotect(layout: Layout, address: int, length: int, prot: int) -> Plan:
    """Plan ``mprotect(address, length, prot)``.

    As in the kernel, everything below the first hole or refusal takes effect: `Plan.error` comes
    beside an edit.

    Raises:
        OSError: EINVAL for an unaligned address or an unknown protection; ENOMEM for a range that
            ends outside the address space or would make too many VMAs.
    """
    call = f"mprotect({address:#x}, {length:#x}, {prot:#x})"
    _check_aligned(call, "the address", address)
    _check_prot(call, prot)
    if not length:
        return Plan()
    end = address + page_align(length)
    if length < 0 or address < 0 or end > 1 << 64:
        _fail(errno.ENOMEM, call, "the range is outside the address space", "pass a mapped range")
    old, error = _protectable(layout, call, address, end, prot)
    if not old:
        return Plan(error=error)
    end = min(end, old[-1].end)
    pieces = [piece for region in old for piece in _protect(region, address, end, prot)]
    rights = rights_of(prot)
    return Plan(
        edit=_changing(layout, call, old, pieces),
        restrict=_inside([r for r in old if r.payload.rights & ~rights], address, end),
        rights=rights,
        error=error,
    )


def _changing(
    layout: Layout, call: str, old: Sequence[Region[VMA]], pieces: Sequence[_Piece]
) -> Edit[VMA] | None:
    edit = _merge_into(layout, old, pieces)
    _check_map_count(layout, call, len(edit.new) - len(edit.old))
    return edit or None


def _protectable(
    layout: Layout, call: str, address: int, end: int, prot: int
) -> tuple[list[Region[VMA]], OSError | None]:
    """Return the regions that mprotect changes, and what stops it behind them."""
    regions: list[Region[VMA]] = []
    position = address
    for region in layout.index.overlapping(address, end):
        if region.start > position:
            break
        if prot & ~(region.payload.flags >> 4):
            cure = "open the file for writing"
            what = f"the mapping at {region.start:#x} may never be written to"
            return regions, _error(errno.EACCES, call, what, cure)
        regions.append(region)
        position = region.end
    if position < end:
        cure = "protect what is mapped; everything below the hole has been changed"
        what = f"nothing is mapped at {position:#x}"
        return regions, _error(errno.ENOMEM, call, what, cure)
    return regions, None


def _protect(region: Region[VMA], start: int, end: int, prot: int) -> list[_Piece]:
    """Return the up to three pieces of a region of which ``[start, end)`` gets *prot*."""
    vma = region.payload
    if vma.prot == prot:
        return [_unchanged(region)]
    left, right = _outside([region], start, end)
    inside = vma.cut() if left or right else vma
    ((first, last),) = _inside([region], start, end)
    changed = replace(inside, flags=_protected_flags(vma, prot))
    return [*left, _Piece(first, last, changed, changed=True), *right]


def _protected_flags(vma: VMA, prot: int) -> int:
    """Return the flags under a new protection.

    A private mapping that becomes writable is charged (VM_ACCOUNT). The charge is given back only
    by anonymous memory that was never written to.
    """
    flags = vma.flags & ~VM_ACCESS | prot
    if prot & VM_WRITE:
        uncharged = VM_ACCOUNT | VM_WRITE | VM_SHARED | VM_NORESERVE
        return flags if vma.flags & uncharged else flags | VM_ACCOUNT
    is_untouched = vma.file is None and vma.anon.identity is None
    return flags & ~VM_ACCOUNT if is_untouched else flags


# madvise ---------------------------------------------------------------------------------------


def plan_madvise(layout: Layout, address: int, length: int, advice: int) -> Plan:
    """Plan ``madvise(address, length, MADV_DONTNEED)``.

    The layout stays; `Plan.zap` goes at once. Holes are passed over and reported at the end.

    Raises:
        OSError: EINVAL for an unaligned address, a negative length, or another advice.
    """
    call = f"madvise({address:#x}, {length:#x}, {advice})"
    if advice != MADV_DONTNEED:
        _fail(errno.EINVAL, call, f"advice {advice} is not supported", "use MADV_DONTNEED")
    _check_aligned(call, "the address", address)
    if length < 0 or address < 0:
        _fail(errno.EINVAL, call, "the range is no range", "pass a length of 0 or more")
    if not length:
        return Plan()
    end = address + page_align(length)
    old = layout.index.overlapping(address, end)
    for number, region in enumerate(old):
        if region.payload.flags & VM_LOCKED:
            what = f"the mapping at {region.start:#x} is locked"
            error = _error(errno.EINVAL, call, what, "unlock it first")
            return Plan(zap=_inside(old[:number], address, end), error=error)
    spans = _inside(old, address, end)
    if sum(last - first for first, last in spans) == end - address:
        return Plan(zap=spans)
    cure = "what was mapped has been dropped"
    return Plan(zap=spans, error=_error(errno.ENOMEM, call, "there are holes in the range", cure))
