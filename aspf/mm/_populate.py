"""What calls do with the pages of a range: bring them, drop them, say whether they are there.

The layout has been looked at before; whatever awaits here looks at it again for each page.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from aspf._errors import BusError, SegmentationFault

from ._constants import (
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_REMOVE,
    MADV_WILLNEED,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
)
from ._vma import VM_LOCKONFAULT, VM_SHARED, VM_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._address_space import AddressSpace
    from ._pieces import Span
    from ._vma import VMA

__all__ = ("bring_pages", "drop_pages", "pages_there", "populate")


async def populate(
    space: AddressSpace, spans: Iterable[Span], access: int | None = None, *, go_on: bool = True
) -> Exception | None:
    """Fault in what is mapped there; not a checkpoint if that is nothing.

    Args:
        space: Whose pages.
        spans: Where.
        access: PROT_READ or PROT_WRITE; None for what makes a locked page stay: a write, where that
            makes a copy. Memory that is locked on fault is left out then.
        go_on: With the next VMA, when a page of one can't be had.

    Returns:
        The first error.
    """
    failed: Exception | None = None
    for start, end in spans:
        position = start
        while position < end:
            region = space.find_vma(position)
            if region is None or region.start >= end:
                break
            position = max(position, region.start)
            if access is None and region.payload.flags & VM_LOCKONFAULT:
                position = region.end
                continue
            try:
                await space.fault_in(position, access or _populating(region.payload))
                position += PAGE_SIZE
            except (SegmentationFault, BusError) as error:
                failed = failed or error
                if not go_on:
                    return failed
                position = region.end
    return failed


def _populating(vma: VMA) -> int:
    return PROT_WRITE if vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE else PROT_READ


def drop_pages(space: AddressSpace, spans: Iterable[Span], advice: int) -> None:
    """Do in one step what an advice wants to have dropped."""
    for start, end in spans:
        if advice in (MADV_DONTNEED, MADV_DONTNEED_LOCKED):
            space.page_table.zap(start, end)
        elif advice == MADV_REMOVE:
            region = space.vma_lookup(start)
            assert region is not None
            vma = region.payload
            assert vma.file is not None
            vma.file.punch(vma.page_index(start), vma.page_index(end))


async def bring_pages(space: AddressSpace, spans: Iterable[Span], advice: int) -> None:
    """Bring what an advice wants to have there; not a checkpoint for other advice.

    Raises:
        OSError: EFAULT if a page can't be had; ENOMEM or EINVAL if the range was unmapped or
            protected meanwhile.
    """
    if advice == MADV_WILLNEED:
        for start, end in spans:
            await _read_ahead(space, start, end)
    elif advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        access = PROT_READ if advice == MADV_POPULATE_READ else PROT_WRITE
        failed = await populate(space, spans, access, go_on=False)
        if failed is not None:
            code = errno.EFAULT
            if isinstance(failed, SegmentationFault):
                code = errno.ENOMEM if failed.code == "MAPERR" else errno.EINVAL
            what = f"{os.strerror(code)}: madvise({advice}): a page can't be had: {failed}"
            raise OSError(code, what) from failed


async def _read_ahead(space: AddressSpace, start: int, end: int) -> None:
    region = space.vma_lookup(start)
    if region is None or region.payload.file is None:
        return
    vma, file = region.payload, region.payload.file
    for index in range(vma.page_index(start), vma.page_index(min(end, region.end))):
        if file.needs_reading(index):
            await file.fetch(index)


def pages_there(space: AddressSpace, spans: Iterable[Span]) -> bytes:
    """Return 1 for each page that is in the table or in its file's cache, else 0."""
    there = bytearray()
    for start, end in spans:
        region = space.vma_lookup(start)
        assert region is not None
        vma, file = region.payload, region.payload.file
        for address in range(start, end, PAGE_SIZE):
            is_there = space.page_table.get(address) is not None
            if not is_there and file is not None:
                is_there = file.cached(vma.page_index(address)) is not None
            there.append(is_there)
    return bytes(there)
