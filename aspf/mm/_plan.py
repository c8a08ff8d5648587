"""What each memory call does to the layout: pure functions of an index and a call.

Nothing here waits or changes anything. A call is planned as the kernel does it (merge rules, order
of the checks, errno, partial effects) and comes back as a `Plan`: one `aspf.ranges.Edit`, and what
is left to do with the page table once that edit has settled. The tests compare every plan with
what a real kernel answered.

Here are mmap, munmap and mprotect. What all plans share, the rules of merging among it, is in
`aspf.mm._pieces`; mlock and madvise are in `aspf.mm._plan_flags`.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from ._constants import (
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    MAP_TYPE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_SEM,
)
from ._limits import (
    Limits,
    can_do_mlock,
    has_memory,
    may_expand,
    may_lock,
    too_little_memory,
    too_much,
    too_much_locked,
    usage_of,
)
from ._pieces import (
    Changes,
    Layout,
    NoRoom,
    Piece,
    Plan,
    Span,
    check_aligned,
    check_map_count,
    cut_out,
    edit_of,
    error_of,
    fail,
    inside,
    mapped_to_hole,
    merge_into,
    outside,
    page_align,
    refuse,
    refuse_locking,
)
from ._vma import (
    VM_ACCESS,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
    VMA,
    rights_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aspf.ranges import Region

    from ._file import MappedFile
    from ._limits import Usage

__all__ = (
    "MmapCall",
    "floor_of",
    "is_unreserved",
    "place",
    "plan_mmap",
    "plan_mprotect",
    "plan_munmap",
)

OVERCOMMIT_NEVER: Final = 2
STACK_GUARD_GAP: Final = 256 * PAGE_SIZE
THP_SIZE: Final = 512 * PAGE_SIZE
# MAP_32BIT takes the second GiB, for the reasons that x86's sys_mmap had in 2002.
LOW_SPAN: Final = (0x40000000, 0x80000000)
# What mmap has always taken, asked for or not; MAP_SHARED_VALIDATE takes nothing else.
LEGACY_FLAGS: Final = (
    MAP_SHARED_VALIDATE
    | MAP_FIXED
    | MAP_ANONYMOUS
    | MAP_32BIT
    | MAP_GROWSDOWN
    | MAP_LOCKED
    | MAP_NORESERVE
    | MAP_POPULATE
    | MAP_NONBLOCK
    | MAP_STACK
    # MAP_ABOVE4G, MAP_DENYWRITE, MAP_EXECUTABLE, MAP_UNINITIALIZED: without effect.
    | 0x4001880
)


# munmap ----------------------------------------------------------------------------------------


def plan_munmap(layout: Layout, address: int, length: int) -> Plan:
    """Plan ``munmap(address, length)``; holes in the range are no error.

    Raises:
        OSError: EINVAL for an unaligned address, no length, or a range outside the address space;
            ENOMEM if it would make more than `Layout.max_map_count` VMAs.
    """
    call = f"munmap({address:#x}, {length:#x})"
    check_aligned(call, "the address", address)
    end = address + page_align(length)
    if length <= 0 or address < 0 or end > layout.task_size:
        cure = f"unmap at least one byte below {layout.task_size:#x}"
        fail(errno.EINVAL, call, "the range is empty or outside the address space", cure)
    old = layout.index.overlapping(address, end)
    if not old:
        return Plan()
    left, right = outside(old, address, end)
    check_map_count(layout, call, len(left) + len(right) - len(old))
    return Plan(edit_of(layout, old, left + right), zap=inside(old, address, end))


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

    @property
    def is_shared_anonymous(self) -> bool:
        """Whether the file was made for this call."""
        return bool(self.flags & MAP_ANONYMOUS) and self.file is not None


def plan_mmap(layout: Layout, call: MmapCall) -> Plan:
    """Plan ``mmap(address, length, prot, flags, file, offset)``.

    A refusal for want of memory comes after MAP_FIXED has split what is in its way, and for shared
    anonymous memory after it has unmapped it: `Plan.error` comes beside an edit.

    Raises:
        OSError: With the kernel's errno; `AddressSpace.mmap` lists them.
    """
    _check_mmap(layout, call)
    start = place(layout, call)
    end = start + call.size
    flags = _vm_flags(layout, call)
    offset = 0 if call.flags & MAP_ANONYMOUS else call.offset
    origin = 0 if call.file is None else start - offset
    new = Piece(start, end, VMA(flags, origin, call.file), changed=True)
    old = layout.index.overlapping(start, end)
    left, right = outside(old, start, end)
    zap = inside(old, start, end)
    check_map_count(layout, str(call), len(left) + len(right) - len(old))
    spans = zip(zap, old, strict=True)
    there = usage_of((first, last, region.payload.flags) for (first, last), region in spans)
    try:
        _check_room(layout, call, there, flags)
    except NoRoom as refusal:
        return Plan(cut_out(layout, old, start, end), error=refusal)
    if call.is_shared_anonymous and not is_unreserved(layout.limits, call.flags):
        try:
            _check_memory(layout, call, _pages(call.size))
        except NoRoom as refusal:
            edit = edit_of(layout, old, [*left, *right])
            return Plan(edit or None, zap=zap, error=refusal)
    edit = merge_into(layout, old, [*left, new, *right], (start, end))
    is_wanted = flags & VM_LOCKED or call.flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE
    return Plan(edit, zap=zap, populate=((start, end),) if is_wanted else (), address=start)


def _check_mmap(layout: Layout, call: MmapCall) -> None:
    text = str(call)
    check_aligned(text, "the offset", call.offset)
    if call.file is None and not call.flags & MAP_ANONYMOUS:
        fail(errno.EBADF, text, "there is no file to map", "pass file= or MAP_ANONYMOUS")
    if call.flags & MAP_HUGETLB:
        cure = "leave MAP_HUGETLB out; madvise(MADV_HUGEPAGE) needs none"
        fail(errno.ENOMEM, text, "no huge pages have been set aside", cure)
    if call.length <= 0 or call.offset < 0:
        cure = "map at least one byte, from an offset of 0 or more"
        fail(errno.EINVAL, text, "there is nothing to map", cure)
    if call.offset + call.size > 1 << 63 and call.file is not None:
        cure = "map an earlier part of the file"
        fail(errno.EOVERFLOW, text, "the mapping ends beyond the largest file", cure)
    # The kernel's mmap lets one VMA more than max_map_count be; its splits do not.
    if len(layout.index) > layout.limits.max_map_count:
        check_map_count(layout, text, 1)


def _check_room(layout: Layout, call: MmapCall, there: Usage, flags: int) -> None:
    """Refuse what the limits don't allow, if what is *there* has gone."""
    text = str(call)
    if not may_expand(layout.limits, layout.used, flags, _pages(call.size) - there.total_vm):
        refuse(errno.ENOMEM, text, *too_much(layout.limits))
    pages = _pages(call.size) - there.committed
    if flags & VM_ACCOUNT and pages:
        _check_memory(layout, call, pages)


def _check_memory(layout: Layout, call: MmapCall, pages: int) -> None:
    if not has_memory(layout.limits, layout.used, pages):
        refuse(errno.ENOMEM, str(call), *too_little_memory(layout.limits))


def is_unreserved(limits: Limits, flags: int) -> bool:
    """Tell whether a mapping with these MAP_* flags is not counted as promised.

    Who must not promise too much (mode 2) can't be told not to count.
    """
    return bool(flags & MAP_NORESERVE) and limits.overcommit_memory != OVERCOMMIT_NEVER


def _pages(size: int) -> int:
    return size >> PAGE_SHIFT


def _vm_flags(layout: Layout, call: MmapCall) -> int:
    flags, text = call.flags, str(call)
    vm_flags = call.prot & VM_ACCESS | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | layout.def_flags
    vm_flags |= VM_GROWSDOWN if flags & MAP_GROWSDOWN else 0
    vm_flags |= VM_LOCKED if flags & MAP_LOCKED else 0
    # Since Linux 6.7: a stack of 2 MiB should not be brought whole.
    vm_flags |= VM_NOHUGEPAGE if flags & MAP_STACK else 0
    if flags & MAP_LOCKED and not can_do_mlock(layout.limits):
        refuse_locking(errno.EPERM, text)
    if not may_lock(layout.limits, layout.used, vm_flags, _pages(call.size)):
        refuse(errno.EAGAIN, text, *too_much_locked(layout.limits))
    kind = flags & MAP_TYPE
    if kind not in (MAP_SHARED, MAP_PRIVATE) and (
        kind != MAP_SHARED_VALIDATE or flags & MAP_ANONYMOUS
    ):
        fail(errno.EINVAL, text, "neither shared nor private", "pass MAP_SHARED or MAP_PRIVATE")
    unknown = flags & ~LEGACY_FLAGS
    if kind == MAP_SHARED_VALIDATE and unknown:
        fail(errno.EOPNOTSUPP, text, f"a file without {unknown:#x}", "use MAP_SHARED")
    if call.file is not None:
        vm_flags = _file_flags(text, vm_flags, call.file, is_shared=kind != MAP_PRIVATE)
    if is_unreserved(layout.limits, flags):
        vm_flags |= VM_NORESERVE
    if vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE:
        vm_flags |= VM_ACCOUNT
    return vm_flags


def _file_flags(text: str, vm_flags: int, file: MappedFile, *, is_shared: bool) -> int:
    if is_shared and vm_flags & VM_WRITE and not file.is_writable:
        cure = "open it for writing, or use MAP_PRIVATE"
        fail(errno.EACCES, text, f"{file.name} is not open for writing", cure)
    if not file.is_readable:
        fail(errno.EACCES, text, f"{file.name} is not open for reading", "open it for reading")
    if vm_flags & VM_GROWSDOWN:
        cure = "use MAP_PRIVATE | MAP_ANONYMOUS"
        fail(errno.EINVAL, text, "a mapping of a file can't grow down", cure)
    if not is_shared:
        return vm_flags
    if file.is_writable:
        return vm_flags | VM_SHARED | VM_MAYSHARE
    return (vm_flags | VM_MAYSHARE) & ~VM_MAYWRITE


def place(layout: Layout, call: MmapCall) -> int:
    """Return where the mapping goes: the fixed address, the hint if it is free, or a gap."""
    if call.size > layout.task_size:
        cure = f"map at most {layout.task_size:#x} bytes"
        fail(errno.ENOMEM, str(call), "longer than the address space", cure)
    if call.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        return _fixed(layout, call)
    found = _huge_gap(layout, call) if _may_be_huge(call) else None
    if found is None:
        found = _hint_or_gap(layout, call, call.size)
    if found is None:
        cure = "map less, or unmap something first"
        refuse(errno.ENOMEM, str(call), "no gap is large enough", cure)
    return found


def _fixed(layout: Layout, call: MmapCall) -> int:
    text, address, end = str(call), call.address, call.address + call.size
    if address < 0 or end > layout.task_size:
        cure = f"stay below {layout.task_size:#x}"
        fail(errno.ENOMEM, text, "the range is outside the address space", cure)
    check_aligned(text, "the address", address)
    if address < layout.min_address:
        cure = f"map at {layout.min_address:#x} or above"
        fail(errno.EPERM, text, "the address is below min_address", cure)
    if call.flags & MAP_FIXED_NOREPLACE and layout.index.overlapping(address, end):
        cure = "unmap it first, or use MAP_FIXED to replace it"
        fail(errno.EEXIST, text, "something is mapped there", cure)
    return address


def _is_free(layout: Layout, start: int, end: int) -> bool:
    above = layout.index.find_next(start)
    return (
        end <= layout.task_size
        and (above is None or end <= floor_of(above))
        and not any(first < end and start < last for first, last in layout.vacated)
    )


def floor_of(region: Region[VMA]) -> int:
    """Return how far up the space below the region is free: a stack keeps its guard gap."""
    gap = STACK_GUARD_GAP if region.payload.flags & VM_GROWSDOWN else 0
    return int(region.start) - gap


def _hint_or_gap(layout: Layout, call: MmapCall, length: int) -> int | None:
    hint = call.address & -PAGE_SIZE
    if hint:
        hint = max(hint, page_align(layout.min_address))
        end = hint + length
        is_low = not call.flags & MAP_32BIT or end <= LOW_SPAN[1]
        if is_low and _is_free(layout, hint, end):
            return hint
    return _gap(layout, length, call.flags)


def _gap(layout: Layout, length: int, flags: int) -> int | None:
    """Search as x86-64 does: from `Layout.search_base` down, else from a third of the way up.

    Complexity: That of `RegionIndex.wide_gaps`; gaps that would do but for a stack's guard gap, or
    for what is vacated in them, are passed over one by one.
    """
    if flags & MAP_32BIT:
        return _lowest(layout, length, *LOW_SPAN)
    low, high = layout.min_address, layout.search_base
    for start, end in _free(layout, length, low, high, descending=True):
        if end - start >= length:
            return end - length
    third = page_align(layout.task_size // 3)
    return _lowest(layout, length, max(third, layout.min_address), layout.task_size)


def _lowest(layout: Layout, length: int, low: int, high: int) -> int | None:
    spans = _free(layout, length, low, min(high, layout.task_size))
    return next((start for start, end in spans if end - start >= length), None)


def _may_be_huge(call: MmapCall) -> bool:
    """Tell whether the mapping is to be placed so that huge pages could be used."""
    if call.file is None:
        return not call.address & -PAGE_SIZE and call.size % THP_SIZE == 0
    first = call.offset + (-call.offset & (THP_SIZE - 1))
    return call.file.is_huge_aligned and call.offset + call.size - first >= THP_SIZE


def _huge_gap(layout: Layout, call: MmapCall) -> int | None:
    """Search for room with 2 MiB to spare and align in it; a hint with as much room is taken."""
    found = _hint_or_gap(layout, call, call.size + THP_SIZE)
    if found is None or (found and found == call.address & -PAGE_SIZE):
        return found
    offset = 0 if call.file is None else call.offset
    beyond = (offset - found) & (THP_SIZE - 1)
    # The kernel takes the upper end, also where it has searched from below.
    return found + (beyond or THP_SIZE)


def _free(
    layout: Layout, length: int, low: int, high: int, *, descending: bool = False
) -> Iterator[Span]:
    """Yield the spans of ``[low, high)`` where something so long may have room, in order."""
    vacated = sorted(layout.vacated)
    for start, stop in layout.index.wide_gaps(length, low, high, descending=descending):
        above, end = layout.index.find_next(stop), min(stop, high)
        top = end if above is None else min(end, floor_of(above))
        if descending and end - start >= length:
            # Who comes upon a stack from above goes on below its guard gap, as Linux does: also
            # past room between mappings that lie inside the guard gap.
            high = top
        spans, position = [], start
        for first, last in vacated:
            if position < last and first < top:
                spans.append((position, first))
                position = last
        spans.append((position, top))
        yield from reversed(spans) if descending else spans


# mprotect --------------------------------------------------------------------------------------


def plan_mprotect(layout: Layout, address: int, length: int, prot: int) -> Plan:
    """Plan ``mprotect(address, length, prot)``.

    As in the kernel, everything below the first hole or refusal takes effect: `Plan.error` comes
    beside an edit. With PROT_GROWSDOWN the range begins where its first mapping, a stack, does.

    Raises:
        OSError: EINVAL for an unaligned address, an unknown protection, or one that grows what
            does not; ENOMEM for a range that ends outside the address space.
    """
    call = f"mprotect({address:#x}, {length:#x}, {prot:#x})"
    grows, prot = prot & (PROT_GROWSDOWN | PROT_GROWSUP), prot & ~(PROT_GROWSDOWN | PROT_GROWSUP)
    if grows == PROT_GROWSDOWN | PROT_GROWSUP:
        fail(errno.EINVAL, call, "both PROT_GROWSDOWN and PROT_GROWSUP", "pass one of them")
    check_aligned(call, "the address", address)
    if not length:
        return Plan()
    end = address + page_align(length)
    if length < 0 or address < 0 or end > 1 << 64:
        fail(errno.ENOMEM, call, "the range is outside the address space", "pass a mapped range")
    if prot & ~(VM_ACCESS | PROT_SEM):
        cure = "use PROT_READ, PROT_WRITE and PROT_EXEC"
        fail(errno.EINVAL, call, f"{prot:#x} is no protection", cure)
    prot &= VM_ACCESS
    if grows:
        address = _grown_start(layout, call, address, end, grows)
    old, error = _protectable(layout, call, address, end, prot)
    if not old:
        return Plan(error=error)
    changes = Changes(layout, call, old, address, end)
    done = 0
    try:
        for region in old:
            pages = _pages(min(region.end, end) - max(region.start, address))
            changes.step(
                _protected(layout, call, changes.used, region.payload, pages=pages, prot=prot)
            )
            done += 1
            start = max(region.start, address)
            if _wants_pages(region.payload, prot) and _has_page(region.payload, start):
                changes.touch(start)
    except NoRoom as refusal:
        error = refusal
    rights = rights_of(prot)
    old = old[:done]
    return Plan(
        edit=changes.edit(),
        restrict=inside([r for r in old if r.payload.rights & ~rights], address, end),
        rights=rights,
        populate=inside([r for r in old if _wants_pages(r.payload, prot)], address, end),
        error=error,
    )


def _grown_start(layout: Layout, call: str, address: int, end: int, grows: int) -> int:
    """Return where mprotect of a stack begins: at the start of the stack."""
    found = layout.index.overlapping(address, end)
    # What would grow up keeps its start, so a hole is an error there; but here nothing does.
    if not found or (grows == PROT_GROWSUP and found[0].start > address):
        what = f"nothing is mapped at {address:#x}"
        fail(errno.ENOMEM, call, what, "protect what is mapped")
    if grows == PROT_GROWSUP or not found[0].payload.flags & VM_GROWSDOWN:
        what = f"the mapping at {found[0].start:#x} does not grow that way"
        fail(errno.EINVAL, call, what, "pass a stack and PROT_GROWSDOWN, or leave it out")
    return int(found[0].start)


def _protectable(
    layout: Layout, call: str, address: int, end: int, prot: int
) -> tuple[list[Region[VMA]], OSError | None]:
    """Return the regions that mprotect changes, and what stops it behind them."""
    mapped, position = mapped_to_hole(layout, address, end)
    for number, region in enumerate(mapped):
        if prot & ~(region.payload.flags >> 4):
            cure = "open the file for writing"
            what = f"the mapping at {region.start:#x} may never be written to"
            return mapped[:number], error_of(errno.EACCES, call, what, cure)
    if position < end:
        cure = "protect what is mapped; everything below the hole has been changed"
        what = f"nothing is mapped at {position:#x}"
        return mapped, error_of(errno.ENOMEM, call, what, cure)
    return mapped, None


def _protected(layout: Layout, call: str, used: Usage, vma: VMA, *, pages: int, prot: int) -> int:
    """Return the flags of so many pages under a new protection, if the limits allow it."""
    limits = layout.limits
    if vma.prot == prot:
        return vma.flags
    flags = _protected_flags(vma, prot)
    if prot & VM_WRITE:
        # Who is over the limit already gets no further over it.
        if not may_expand(limits, used, flags, pages) and may_expand(
            limits, used, vma.flags, pages
        ):
            refuse(errno.ENOMEM, call, *too_much(limits))
        if flags & ~vma.flags & VM_ACCOUNT and not has_memory(limits, used, pages):
            refuse(errno.ENOMEM, call, *too_little_memory(limits))
    return flags


def _wants_pages(vma: VMA, prot: int) -> bool:
    """Tell whether locked pages that were shared so far need copies to be written to."""
    return vma.flags & (VM_LOCKED | VM_SHARED | VM_WRITE) == VM_LOCKED and bool(prot & VM_WRITE)


def _has_page(vma: VMA, address: int) -> bool:
    """Tell whether locked memory that has become writable has a page to be copied at once."""
    is_there = vma.file is None or vma.file.holds(vma.page_index(address))
    return is_there and not vma.flags & VM_LOCKONFAULT


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
