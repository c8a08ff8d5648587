"""The obvious repair of the mail's lost wake-up: wake at zero, which is what the sleeper waits for.

Nobody posted it alone; it is here because it is what one writes first. All else as in
`aspf.lab.protocols.rfc2009`.

What it gets wrong: K1 is gone. **K2** (the wait queue is touched after the last put) and **K3**
(a shrunk VMA is not waited for, and the range not checked again) are as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aspf.lab.machine import wait_event
from aspf.lab.protocols._hooks import Hold, Protocol
from aspf.race import note

if TYPE_CHECKING:
    from aspf.lab.mm import Edit, Vma

__all__ = ("Rfc2009Wake0",)


class Rfc2009Wake0(Protocol):
    """find: ``inc_not_zero``; put: wake at zero; unlink: decrement, and wait for zero."""

    name = "rfc2009_wake0"
    linked_refcnt = 1

    async def find_vma_speculative(self, address: int) -> Hold | None:
        """Return the VMA that contains *address*, held; None in racy cases as well."""
        await self.cpu.rcu_read_lock()
        vma = await self.mm.tree.find_vma(address)
        if vma is not None:
            if await vma.vm_start.get() <= address < await vma.vm_end.get():
                if not await vma.refcnt.inc_not_zero():
                    vma = None
            else:
                vma = None
        await self.cpu.rcu_read_unlock()
        return Hold(vma) if vma is not None else None

    async def vma_put(self, hold: Hold) -> None:
        """Give the count back, and wake the unlinker if none is left."""
        vma = hold.vma
        if await vma.refcnt.dec_return() == 0 and await vma.wait_queue.waitqueue_active():
            await vma.wait_queue.wake_up()
        else:
            note("skip wake-up")

    async def settle(self, edit: Edit) -> None:
        """Wait for all racy access to the VMAs that were unlinked."""
        for vma in edit.gone:
            await self.invalidate_vma_before_free(vma)

    async def invalidate_vma_before_free(self, vma: Vma) -> None:
        """Give the tree's count back, and wait until nobody else has one."""

        async def nobody_left() -> bool:
            return await vma.refcnt.get() == 0

        await vma.refcnt.dec_return()
        await wait_event(vma.wait_queue, nobody_left)
