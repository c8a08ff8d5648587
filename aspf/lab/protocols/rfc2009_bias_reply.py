"""The author's first answer, to the letter: "atomic_sub(&vma->refcnt, 65536), wait_event(...,
atomic_read(&vma->refcnt) != 65536), etc." (27 December 2009, "I still consider how to do this").

A sketch in a mail; find and put are taken as they were posted.

What it gets wrong: one minus 65536 *is* unequal to 65536, so the condition holds at once and
nobody is ever waited for: a fault may install a **stale page of a removed VMA**, or touch the
VMA after it was freed (**K2** and worse). **K3** as before. Nobody sleeps, so nobody is forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aspf.lab.machine import wait_event
from aspf.lab.protocols._hooks import Hold, Protocol
from aspf.race import note

if TYPE_CHECKING:
    from aspf.lab.mm import Edit, Vma

__all__ = ("Rfc2009BiasReply",)


_BIAS: Final = 65536


class Rfc2009BiasReply(Protocol):
    """find: ``inc_not_zero``; put: wake at one; unlink: subtract 65536, and wait for unequal."""

    name = "rfc2009_bias_reply"
    linked_refcnt = 1

    async def find_vma_speculative(self, address: int) -> Hold | None:
        """Return the VMA that contains *address*, held; None in racy cases as well."""
        await self.cpu.rcu_read_lock()
        vma = await self.mm.tree.find_vma(address)
        if vma is not None:
            if await vma.vm_start.get() <= address < await vma.vm_end.get():
                if not await vma.refcnt.inc_not_zero():
                    vma = None  # pragma: no cover - with the bias the count is never zero
            else:
                vma = None
        await self.cpu.rcu_read_unlock()
        return Hold(vma) if vma is not None else None

    async def vma_put(self, hold: Hold) -> None:
        """Give the count back, and wake the unlinker if one is left."""
        vma = hold.vma
        if await vma.refcnt.dec_return() == 1 and await vma.wait_queue.waitqueue_active():
            await vma.wait_queue.wake_up()  # pragma: no cover - nobody ever sleeps
        else:
            note("skip wake-up")

    async def settle(self, edit: Edit) -> None:
        """Wait for all racy access to the VMAs that were unlinked."""
        for vma in edit.gone:
            await self.invalidate_vma_before_free(vma)

    async def invalidate_vma_before_free(self, vma: Vma) -> None:
        """Mark the count as given up, and wait until it is not the bias (which it never is)."""

        async def not_the_bias() -> bool:
            return await vma.refcnt.get() != _BIAS

        await vma.refcnt.sub_return(_BIAS)
        await wait_event(vma.wait_queue, not_the_bias)
