"""Linux's address space, on asyncio and trio: VMAs, a page table, and faults that tasks take."""

from __future__ import annotations

from aspf._errors import BusError, SegmentationFault
from aspf._exports import publish as _publish

from ._address_space import (
    AddressSpace,
    AddressSpaceStatistics,
    Locking,
)
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
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    TASK_SIZE,
)
from ._file import (
    MappedFile,
    Pager,
    WritablePager,
)
from ._multi_fault import (
    FaultRow,
    MultiFault,
    sample_maps,
)
from ._page import (
    Page,
)
from ._page_table import (
    Entry,
    PageTable,
)
from ._proc_maps import (
    MapsLine,
    format_maps,
    parse_maps,
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
    Anon,
)

__all__ = (
    "MADV_DONTNEED",
    "MAP_32BIT",
    "MAP_ANONYMOUS",
    "MAP_FIXED",
    "MAP_FIXED_NOREPLACE",
    "MAP_GROWSDOWN",
    "MAP_LOCKED",
    "MAP_NORESERVE",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "MAP_SHARED_VALIDATE",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_READ",
    "PROT_WRITE",
    "TASK_SIZE",
    "VMA",
    "VM_ACCESS",
    "VM_ACCOUNT",
    "VM_GROWSDOWN",
    "VM_LOCKED",
    "VM_MAYEXEC",
    "VM_MAYREAD",
    "VM_MAYSHARE",
    "VM_MAYWRITE",
    "VM_NORESERVE",
    "VM_SHARED",
    "VM_WRITE",
    "AddressSpace",
    "AddressSpaceStatistics",
    "Anon",
    "BusError",
    "Entry",
    "FaultRow",
    "Locking",
    "MappedFile",
    "MapsLine",
    "MultiFault",
    "Page",
    "PageTable",
    "Pager",
    "SegmentationFault",
    "WritablePager",
    "format_maps",
    "parse_maps",
    "sample_maps",
)

_publish(__name__, globals())
