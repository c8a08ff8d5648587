"""The nine hooks in which the protocols differ, and what they do while ``mmap_sem`` suffices.

A fault calls ``find_vma_speculative``, ``find_vma_locked``, ``validate`` and ``vma_put``; a writer
calls ``write_lock``, ``exclude``, ``publish``, ``settle`` and ``finish``, in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, final

if TYPE_CHECKING:
    from aspf.lab.machine import Cpu
    from aspf.lab.mm import Edit, Mm, Vma

__all__ = ("Hold", "Protocol")


@final
@dataclass(frozen=True, slots=True)
class Hold:
    """A VMA that was found for a fault.

    Attributes:
        vma: The live object.
        locked: Whether ``mmap_sem`` is held for reading; if not, `Protocol.vma_put` lets go.
        token: What `Protocol.validate` compares: a sequence, an index, a generation.
    """

    vma: Vma
    locked: bool = False
    token: object = None


class Protocol:
    """The calls that one CPU makes to look VMAs up and to take them away.

    An async hook is a checkpoint unless its body makes no access.

    Args:
        mm: The address space.
        cpu: The CPU that calls; each task has its own.
    """

    #: What programs and tables call the protocol.
    name: ClassVar[str]
    #: The count of a VMA that is linked and that nobody uses.
    linked_refcnt: ClassVar[int] = 1

    def __init__(self, mm: Mm, cpu: Cpu) -> None:
        self.mm: Final = mm
        self.cpu: Final = cpu

    # What a fault calls.

    async def find_vma_speculative(self, address: int) -> Hold | None:
        """Find and hold the VMA of *address* without ``mmap_sem``. None: don't know."""
        del address
        return None

    async def find_vma_locked(self, address: int) -> Hold | None:
        """Find the VMA of *address* and hold ``mmap_sem`` for reading. None: no mapping."""
        await self.mm.mmap_sem.down_read()
        vma = await self.mm.tree.find_vma(address)
        if vma is not None and await vma.vm_start.get() <= address:
            return Hold(vma, locked=True)
        await self.mm.mmap_sem.up_read()
        return None

    async def validate(self, hold: Hold, address: int) -> bool:
        """Say, under the page-table lock, whether *hold* is still good for *address*."""
        del hold, address
        return True

    async def vma_put(self, hold: Hold) -> None:
        """Let go of what `find_vma_speculative` found."""
        raise NotImplementedError(f"{type(self).__name__} holds nothing without mmap_sem: {hold}")

    # What a writer calls.

    async def write_lock(self) -> None:
        """Keep other writers out."""
        await self.mm.mmap_sem.down_write()

    async def exclude(self, edit: Edit) -> None:
        """Keep readers out of the VMAs of *edit*, before anything changes."""

    async def publish(self, edit: Edit) -> None:
        """Change the VMAs in place, and take those that go out of the tree."""
        for vma in edit.shrunk:
            await vma.vm_end.set(edit.start)
        for vma in edit.gone:
            await self.mm.tree.erase(vma)

    async def settle(self, edit: Edit) -> None:
        """Wait for the readers that still use what *edit* took away."""

    async def finish(self, edit: Edit) -> None:
        """Let other writers in, and free the VMAs that went."""
        await self.mm.mmap_sem.up_write()
        for vma in edit.gone:
            await self.free_vma_rcu(vma)

    async def free_vma_rcu(self, vma: Vma) -> None:
        """Free *vma* after a grace period.

        Linux hands it to ``call_rcu`` and goes on. The model's CPU has nothing else to do, so it
        waits for the grace period itself, after the last lock is released.
        """
        await self.cpu.synchronize_rcu()
        await vma.lifetime.free()
