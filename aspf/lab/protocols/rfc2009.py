"""The mail: KAMEZAWA Hiroyuki, "[RFC PATCH] asynchronous page fault.", 25 December 2009.

As posted. A linked VMA counts one for the tree, and one for each fault that uses it. Whoever
unlinks it gives the tree's count back and sleeps until the rest is gone.

What it gets wrong:

- **K1, lost wake-up.** `vma_put` wakes at one, the sleeper waits for zero. Minchan Kim's case in
  the reply: find (2), the unlinker's decrement (1), its sleep, put (0): no wake-up, for ever.
- **K2, use after free.** `vma_put` looks at the VMA's wait queue after it has given its count
  back. The unlinker may see the final count before that, and have the VMA freed.
- **K3, stale page beyond a shrunk VMA.** The range is checked before the VMA is held, and a VMA
  that only shrinks is not waited for. A fault installs its page behind the new end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aspf.lab.machine import wait_event
from aspf.lab.protocols._hooks import Hold, Protocol
from aspf.race import note

if TYPE_CHECKING:
    from aspf.lab.mm import Edit, Vma

__all__ = ("Rfc2009",)


class Rfc2009(Protocol):
    """find: ``inc_not_zero``; put: wake at one; unlink: decrement, and wait for zero."""

    name = "rfc2009"
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
        """Give the count back, and wake the unlinker if one is left."""
        vma = hold.vma
        if await vma.refcnt.dec_return() == 1 and await vma.wait_queue.waitqueue_active():
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
