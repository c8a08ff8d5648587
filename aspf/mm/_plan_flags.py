"""The plans of mlock, mlockall and madvise, which set flags or drop pages; see `aspf.mm._plan`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NoReturn

from ._constants import (
    MADV_COLD,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
)
from ._limits import can_do_mlock, too_much_locked
from ._pieces import (
    Changes,
    NoRoom,
    Plan,
    check_aligned,
    error_of,
    fail,
    inside,
    mapped_to_hole,
    page_align,
    refuse,
    refuse_locking,
)
from ._vma import (
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_LOCKONFAULT,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aspf.ranges import Region

    from ._pieces import Layout, Span
    from ._vma import VMA

__all__ = ("def_flags_of", "plan_madvise", "plan_mlock", "plan_mlockall", "plan_munlock")

# What an advice clears and sets.
FLAGS_OF: Final = {
    MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV_DONTFORK: (0, VM_DONTCOPY),
    MADV_DOFORK: (VM_DONTCOPY, 0),
    MADV_WIPEONFORK: (0, VM_WIPEONFORK),
    MADV_KEEPONFORK: (VM_WIPEONFORK, 0),
    MADV_DONTDUMP: (0, VM_DONTDUMP),
    MADV_DODUMP: (VM_DONTDUMP, 0),
    MADV_HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV_NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
}
# What drops pages, and what says that they won't be missed: not for locked memory.
DROPPING: Final = (MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_COLD, MADV_PAGEOUT)
# What gives the range's pages back or brings them; see `AddressSpace.madvise` for each.
ON_PAGES: Final = (
    *DROPPING,
    MADV_DONTNEED_LOCKED,
    MADV_WILLNEED,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
)


def plan_mlock(layout: Layout, address: int, length: int, *, on_fault: bool = False) -> Plan:
    """Plan ``mlock``: every page that the range touches, up to the first hole.

    Raises:
        OSError: EPERM if nothing may be locked; EINVAL for a range outside the address space;
            ENOMEM if it would be more locked memory than `Limits.locked`.
    """
    call = f"mlock({address:#x}, {length:#x})"
    limits = layout.limits
    if not can_do_mlock(limits):
        refuse_locking(errno.EPERM, call)
    start, end = _touched(call, address, length)
    locked = layout.used.locked_vm + (end - start >> PAGE_SHIFT)
    if limits.locked is not None and not limits.cap_ipc_lock:
        limit = limits.locked >> PAGE_SHIFT
        if locked > limit:
            # What is locked already is not counted twice.
            spans = inside([*_locked(layout, start, end)], start, end)
            locked -= sum(last - first for first, last in spans) >> PAGE_SHIFT
        if locked > limit:
            refuse(errno.ENOMEM, call, *too_much_locked(limits))
    put = VM_LOCKED | (VM_LOCKONFAULT if on_fault else 0)
    return _plan_locked(layout, call, start, end, put)


def _locked(layout: Layout, start: int, end: int) -> Iterator[Region[VMA]]:
    return (r for r in layout.index.overlapping(start, end) if r.payload.flags & VM_LOCKED)


def plan_munlock(layout: Layout, address: int, length: int) -> Plan:
    """Plan ``munlock``: every page that the range touches, up to the first hole.

    Raises:
        OSError: EINVAL for a range outside the address space.
    """
    call = f"munlock({address:#x}, {length:#x})"
    return _plan_locked(layout, call, *_touched(call, address, length), 0)


def _touched(call: str, address: int, length: int) -> Span:
    start, end = address & -PAGE_SIZE, page_align(address + length)
    if length < 0 or address < 0 or end > 1 << 64:
        _refuse_range(call)
    return start, end


def _plan_locked(layout: Layout, call: str, start: int, end: int, put: int) -> Plan:
    if start == end:
        return Plan()
    old, position = mapped_to_hole(layout, start, end)
    error: OSError | None = None
    if position < end:
        cure = "pass a mapped range; everything below the hole has been changed"
        error = error_of(errno.ENOMEM, call, f"nothing is mapped at {position:#x}", cure)
    if not old:
        return Plan(error=error)
    changes = Changes(layout, call, old, start, end)
    try:
        for region in old:
            changes.step(region.payload.flags & ~VM_LOCKED_MASK | put)
    except NoRoom as refusal:
        error = refusal
    populate = ((start, end),) if put and error is None else ()
    return Plan(changes.edit(), populate=populate, error=error)


def plan_mlockall(layout: Layout, flags: int) -> Plan:
    """Plan ``mlockall(flags)``; 0 is ``munlockall()``.

    `def_flags_of` says what new mappings get.

    Raises:
        OSError: EINVAL for flags that don't go together; EPERM if nothing may be locked; ENOMEM if
            all that is mapped is more than `Limits.locked`.
    """
    put = _check_mlockall(layout, flags)
    if put is None:
        return Plan()
    old = tuple(layout.index)
    if not old:
        return Plan()
    # Nothing is split, so nothing is refused.
    changes = Changes(layout, "mlockall", old, old[0].start, old[-1].end)
    for region in old:
        changes.step(region.payload.flags & ~VM_LOCKED_MASK | put)
    return Plan(changes.edit(), populate=((old[0].start, old[-1].end),) if put else ())


def _check_mlockall(layout: Layout, flags: int) -> int | None:
    """Return the flags that everything gets; None if nothing changes."""
    if not flags:
        return 0
    call, limits = f"mlockall({flags:#x})", layout.limits
    if flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        cure = "pass MCL_CURRENT, MCL_FUTURE or both, with or without MCL_ONFAULT"
        fail(errno.EINVAL, call, "nothing to lock, or unknown flags", cure)
    if not can_do_mlock(limits):
        refuse_locking(errno.EPERM, call)
    if not flags & MCL_CURRENT:
        return None
    if (
        limits.locked is not None
        and layout.used.total_vm > limits.locked >> PAGE_SHIFT
        and not limits.cap_ipc_lock
    ):
        refuse(errno.ENOMEM, call, *too_much_locked(limits))
    return VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)


def def_flags_of(flags: int) -> int:
    """Return what ``mlockall(flags)`` gives to every VMA that comes later."""
    if not flags & MCL_FUTURE:
        return 0
    return VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)


def plan_madvise(layout: Layout, address: int, length: int, advice: int) -> Plan:
    """Plan ``madvise(address, length, advice)``; holes are passed over and reported at the end.

    For advice that drops or brings pages the layout stays, and `Plan.spans` says whose.

    Raises:
        OSError: EINVAL for an unaligned address, a negative length, or an advice that is not
            known.
    """
    call = f"madvise({address:#x}, {length:#x}, {advice})"
    if advice not in FLAGS_OF and advice not in ON_PAGES:
        cure = "use one of the MADV_ constants of aspf.mm"
        fail(errno.EINVAL, call, f"advice {advice} is not supported", cure)
    check_aligned(call, "the address", address)
    end = address + page_align(length)
    if length < 0 or address < 0 or end > 1 << 64:
        _refuse_range(call)
    if not length:
        return Plan()
    old = list(layout.index.overlapping(address, end))
    if advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        old, _ = mapped_to_hole(layout, address, end)
    spans = inside(old, address, end)
    error: OSError | None = None
    if sum(last - first for first, last in spans) < end - address:
        cure = "what is mapped has taken the advice"
        error = error_of(errno.ENOMEM, call, "there are holes in the range", cure)
    for number, region in enumerate(old):
        if (refusal := _refusal(region.payload, advice)) is not None:
            code, what, cure = refusal
            what = f"the mapping at {region.start:#x} {what}"
            old, error = old[:number], error_of(code, call, what, cure)
            break
    if advice in ON_PAGES:
        return Plan(spans=spans[: len(old)], error=error)
    if not old:
        return Plan(error=error)
    clear, put = FLAGS_OF[advice]
    changes = Changes(layout, call, old, address, end)
    try:
        for region in old:
            changes.step(region.payload.flags & ~clear | put)
    except NoRoom as many:
        error = NoRoom(errno.EAGAIN, many.strerror)
    return Plan(changes.edit(), error=error)


def _refuse_range(call: str) -> NoReturn:
    fail(errno.EINVAL, call, "the range is no range", "pass a length of 0 or more")


def _refusal(vma: VMA, advice: int) -> tuple[int, str, str] | None:
    """Return why a mapping does not take an advice: errno, words, and the cure."""
    if advice in DROPPING and vma.flags & VM_LOCKED:
        return errno.EINVAL, "is locked", "unlock it first"
    if advice in (MADV_FREE, MADV_WIPEONFORK) and (vma.file is not None or not vma.is_private):
        return errno.EINVAL, "is not private anonymous memory", "leave it out"
    if advice == MADV_REMOVE:
        if vma.file is None:
            return errno.EINVAL, "has no file to cut a hole in", "use MADV_DONTNEED"
        if vma.flags & (VM_SHARED | VM_MAYWRITE) != VM_SHARED | VM_MAYWRITE:
            return errno.EACCES, "does not share a file that may be written to", "leave it out"
    if advice == MADV_POPULATE_WRITE and not vma.flags & PROT_WRITE:
        return errno.EINVAL, "may not be written to", "leave it out"
    if advice == MADV_POPULATE_READ and not vma.flags & PROT_READ:
        return errno.EINVAL, "may not be read", "leave it out"
    return None
