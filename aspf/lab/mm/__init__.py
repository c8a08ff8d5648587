"""The model address space: its tree, its page table, a fault and a munmap."""

from __future__ import annotations

from aspf.lab.mm._drivers import Edit, do_munmap, do_page_fault
from aspf.lab.mm._mm import Mm
from aspf.lab.mm._rbtree import RbTree
from aspf.lab.mm._vma import Vma

__all__ = ("Edit", "Mm", "RbTree", "Vma", "do_munmap", "do_page_fault")
