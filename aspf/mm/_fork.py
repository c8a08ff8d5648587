"""What a child process gets: Linux's ``dup_mmap`` and ``copy_page_range``.

Private pages are copied on write. Each entry counts in its page's share count, so all that a fork
has to do is to take the right to write from both sides: whoever writes next faults, finds that the
page is not its own, and copies it; or finds that it is by now, because the other side has let go.

Only what is published is copied. A range that is vacated has entries still, and they belong to
nobody. A range whose protection has been lowered may have entries that allow too much until the
edit has settled; the child's are cut to what its VMA allows.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from aspf.ranges import Edit, Region

from ._constants import PROT_WRITE
from ._limits import Usage, has_memory, too_little_memory, usage_of_regions
from ._page_table import Entry
from ._pieces import Plan, refuse
from ._vma import VM_WIPEONFORK

if TYPE_CHECKING:
    from aspf.ranges import RegionIndex

    from ._page_table import PageTable
    from ._pieces import Layout
    from ._vma import VMA

__all__ = ("copy_page_table", "plan_fork")


def plan_fork(parent: Layout) -> Plan:
    """Plan the layout of a child, on an empty index: all but what MADV_DONTFORK has left out.

    Raises:
        NoRoom: If it is promised more memory than there may be, beside its parent.
    """
    inherited = ((region, region.payload.forked()) for region in parent.index)
    new = tuple(Region(r.start, r.end, vma) for r, vma in inherited if vma is not None)
    used = parent.used
    for region in new:
        more = usage_of_regions((region,)).committed
        # Linux asks in the parent's name: what the child maps is no part of what is mapped.
        if more and not has_memory(parent.limits, used, more):
            refuse(errno.ENOMEM, "fork()", *too_little_memory(parent.limits))
        used = used.plus(Usage(committed=more))
    return Plan(Edit((), new, 0))


def copy_page_table(child: RegionIndex[VMA], source: PageTable, target: PageTable) -> None:
    """Share the private pages of a parent with its child, and make both copy on write.

    Linux leaves out the pages of mappings that were only read, which cost it no I/O to map again.
    They are copied here, for a pager may have taken its time for them. Shared mappings find their
    pages in the file.
    """
    for region in child:
        vma, start, end = region.payload, region.start, region.end
        if vma.is_private and not vma.flags & VM_WIPEONFORK:
            source.restrict(start, end, ~PROT_WRITE)
            for address, entry in source.items(start, end):
                target.set(address, Entry(entry.page, entry.rights & vma.rights))
