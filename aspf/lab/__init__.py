"""The kernel's own protocols for finding a VMA without a lock, on modelled memory, races included.

The machine (`aspf.lab.machine`) has wait queues, RCU and locks; the model address space
(`aspf.lab.mm`) a red-black tree, a page table, a fault and a munmap; `aspf.lab.protocols` one
file a protocol. Every access to shared memory is an await on a cell of `aspf.race`, so that the
explorer can run every interleaving.
"""

from __future__ import annotations

from aspf._errors import StalePage
from aspf._exports import publish as _publish
from aspf.lab._lost_wakeup import (
    PROTOCOLS,
    Kind,
    Row,
    classify,
    format_table,
    lost_wakeup,
    program,
    program_named,
    survey,
)
from aspf.lab.machine import Cpu, Rcu, RwSemaphore, SpinLock, Waiter, WaitQueue, wait_event
from aspf.lab.mm import Edit, Mm, RbTree, Vma, do_munmap, do_page_fault
from aspf.lab.protocols import (
    Hold,
    Jan2010,
    MmapSem,
    Protocol,
    Rfc2009,
    Rfc2009Bias,
    Rfc2009BiasReply,
    Rfc2009Repaired,
    Rfc2009Wake0,
)

__all__ = (
    "PROTOCOLS",
    "Cpu",
    "Edit",
    "Hold",
    "Jan2010",
    "Kind",
    "Mm",
    "MmapSem",
    "Protocol",
    "RbTree",
    "Rcu",
    "Rfc2009",
    "Rfc2009Bias",
    "Rfc2009BiasReply",
    "Rfc2009Repaired",
    "Rfc2009Wake0",
    "Row",
    "RwSemaphore",
    "SpinLock",
    "StalePage",
    "Vma",
    "WaitQueue",
    "Waiter",
    "classify",
    "do_munmap",
    "do_page_fault",
    "format_table",
    "lost_wakeup",
    "program",
    "program_named",
    "survey",
    "wait_event",
)

_publish(__name__, globals())
