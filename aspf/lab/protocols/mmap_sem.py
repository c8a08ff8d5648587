"""``mmap_sem`` through the whole fault: Linux until 2.6.33, and what the mail wanted to avoid.

What it gets wrong: nothing, as far as these races go. Every fault holds the semaphore for reading
and every munmap for writing, so nothing changes under a fault. The price is the semaphore's cache
line, which every faulting CPU writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aspf.lab.protocols._hooks import Protocol

if TYPE_CHECKING:
    from aspf.lab.mm import Edit

__all__ = ("MmapSem",)


class MmapSem(Protocol):
    """The base hooks as they are; a VMA is freed at once, because nobody looks without the lock."""

    name = "mmap_sem"

    async def finish(self, edit: Edit) -> None:
        """Free the VMAs that went, and let others in."""
        for vma in edit.gone:
            await vma.lifetime.free()
        await self.mm.mmap_sem.up_write()
