"""The page fault.

`handle_mm_fault` is what the kernel has under that name: given a VMA that is held, make the page
table allow the access. It is one sync step. If the page has to be read first, it changes nothing
and answers with what to await; afterwards the caller asks it again, and it looks at everything
again: the protection, the entry, the share count of the page. So nothing is carried over an await
but the bytes that were read, and installing a page is never based on a look from before. If
another task has installed the page meanwhile, that entry is found and used, and ours is dropped.

What the second look can rely on is the VMA, for it is held: an edit that takes it away waits for
us before it zaps, so what we install under an outdated VMA is zapped too.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from aspf._errors import BusError, SegmentationFault

from ._constants import PROT_WRITE
from ._page import ZERO_PAGE, Page
from ._page_table import Entry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aspf.ranges import Region

    from ._address_space import AddressSpace
    from ._vma import VMA

    Fetch: TypeAlias = Callable[[], Awaitable[bytes | None]]

__all__ = ("handle_mm_fault",)


def handle_mm_fault(
    space: AddressSpace,
    region: Region[VMA],
    address: int,
    access: int,
    fetched: bytes | None = None,
) -> Fetch | None:
    """Make the page table allow the access, or say what has to be fetched first.

    Args:
        space: Whose page table.
        region: The VMA, held by the caller or under its lock.
        address: The byte that is touched.
        access: PROT_READ, PROT_WRITE or PROT_EXEC.
        fetched: What the fetch that an earlier call asked for has returned.

    Returns:
        None when the entry allows the access.

    Raises:
        SegmentationFault: ACCERR if the VMA forbids the access.
        BusError: If the page lies beyond the end of the mapped file.
    """
    vma = region.payload
    if not vma.allows(access):
        raise SegmentationFault(address, access, "ACCERR")
    entry = space.page_table.get(address)
    if entry is not None:
        if not entry.rights & access:
            space.page_table.set(address, _upgraded(space, region, address, access, entry))
        return None
    page = _source(space, region, address, access, fetched)
    if not isinstance(page, Page):
        return page
    if vma.is_private and access == PROT_WRITE:
        space.prepare_anon(region, address)
        page = Page(page.data) if page.share_count else page
    space.page_table.set(address, _entry(vma, page, access))
    return None


def _source(
    space: AddressSpace,
    region: Region[VMA],
    address: int,
    access: int,
    fetched: bytes | None,
) -> Page | Fetch:
    """Return the page of the mapped object, or how to get it."""
    vma = region.payload
    if vma.file is None:
        if space.pager is None:
            return ZERO_PAGE
        return partial(space.fetch_anonymous, vma, address) if fetched is None else Page(fetched)
    index = vma.page_index(address)
    if not vma.file.holds(index):
        if vma.is_private and access == PROT_WRITE:
            # Linux is ready for the copy before it finds that there is no page, and it decides
            # what the mapping merges with.
            space.prepare_anon(region, address)
        raise BusError(address, access, f"beyond the end of {vma.file.name or 'the file'}")
    return vma.file.cached(index) or partial(vma.file.fetch, index)


def _upgraded(
    space: AddressSpace, region: Region[VMA], address: int, access: int, entry: Entry
) -> Entry:
    """Return the entry that allows more than the one there is: the page is there already."""
    page = entry.page
    if region.payload.is_private and access == PROT_WRITE:
        space.prepare_anon(region, address)
        # The count is read here, in the step that installs: another one may have let go since.
        page = page if page.share_count == 1 else Page(page.data)
    return _entry(region.payload, page, access)


def _entry(vma: VMA, page: Page, access: int) -> Entry:
    """Return what the table shall say: a private page that others may see is not writable."""
    if access == PROT_WRITE:
        page.is_dirty = True
    elif vma.is_private:
        return Entry(page, vma.rights & ~PROT_WRITE)
    return Entry(page, vma.rights)
