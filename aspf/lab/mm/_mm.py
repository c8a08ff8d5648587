"""A model address space, small enough that every interleaving of its users can be run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from aspf._errors import StalePage
from aspf.lab.machine import Rcu, RwSemaphore, SpinLock
from aspf.lab.mm._rbtree import RbTree
from aspf.lab.mm._vma import Vma
from aspf.race import Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("Mm",)


@final
class Mm:
    """The tree of VMAs, the page table, and the locks of both. One address is one page.

    Source: ``struct mm_struct`` of Linux 2.6.33, cut down to what a fault and a munmap share.

    Args:
        layout: The VMAs as (first page, page after the last), in order of address.
        cpus: How many CPUs run on it.
        refcnt: The count of a VMA that is linked and that nobody uses.
    """

    __slots__ = (
        "_layout",
        "_refcnt",
        "mmap_sem",
        "page_table_lock",
        "pte",
        "rcu",
        "tree",
    )

    def __init__(self, layout: Sequence[tuple[int, int]], *, cpus: int, refcnt: int = 1) -> None:
        self.tree: Final = RbTree()
        self.mmap_sem: Final = RwSemaphore("mmap_sem")
        self.page_table_lock: Final = SpinLock("page_table_lock")
        # Invariant: an entry is None or the page there; it changes only under page_table_lock.
        self.pte: Final[tuple[Cell[str | None], ...]] = tuple(
            Cell(None, f"pte[{page}]") for page in range(max(end for _, end in layout))
        )
        self.rcu: Final = Rcu(cpus)
        self._refcnt: Final = refcnt
        names = ["vma"] if len(layout) == 1 else [f"vma{index}" for index in range(len(layout))]
        self._layout: Final = tuple(
            Vma(start, end, refcnt=refcnt, name=name)
            for (start, end), name in zip(layout, names, strict=True)
        )
        self.tree.populate(self._layout)

    def check(self) -> None:
        """Check what must hold when every CPU is done. It makes no access.

        Raises:
            StalePage: A page is in the page table, and no VMA contains it.
            AssertionError: A lock is held, or a VMA still counts somebody who uses it.
        """
        linked = list(self.tree.vmas())
        for page, entry in enumerate(self.pte):
            inside = any(vma.vm_start.peek() <= page < vma.vm_end.peek() for vma in linked)
            if entry.peek() is not None and not inside:
                raise StalePage(self._describe_stale(page), shrunk=bool(self._shrunk_from(page)))
        assert not self.mmap_sem.locked, f"{self.mmap_sem!r} is held at the end"
        assert not self.page_table_lock.locked, f"{self.page_table_lock!r} is held at the end"
        for vma in linked:
            count = vma.refcnt.peek()
            assert count == self._refcnt, f"{vma!r} has refcnt {count}, unused it is {self._refcnt}"

    def _shrunk_from(self, page: int) -> list[Vma]:
        """Return the VMAs that contained *page* at first and have shrunk away from it."""
        return [
            vma
            for vma in self._layout
            if not vma.lifetime.freed and vma.vm_end.peek() <= page and vma in self.tree.vmas()
        ]

    def _describe_stale(self, page: int) -> str:
        shrunk = self._shrunk_from(page)
        owner = self.pte[page].peek()
        where = f"beyond the end of a shrunk VMA ({shrunk[-1]!r})" if shrunk else "of a removed VMA"
        return f"page {page} {where} is in the page table: {owner}"

    def __repr__(self) -> str:
        return f"<Mm {self.tree!r} {self.mmap_sem!r}>"
