"""The author's first answer, as it was meant: subtract a bias, and wait for exactly that bias.

The unlinker subtracts 65536 and waits until only that and the tree's one are left; the last put
wakes at the same value. find is as posted.

What it gets wrong: ``inc_not_zero`` refuses zero only. A count that the bias has made negative is
not zero, so a late fault still gets its hold, after the unlinker has seen the final value: a
**stale page of a removed VMA**, or a touch of the freed VMA. **K2** and **K3** as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aspf.lab.machine import wait_event
from aspf.lab.protocols._hooks import Hold, Protocol
from aspf.race import note

if TYPE_CHECKING:
    from aspf.lab.mm import Edit, Vma

__all__ = ("Rfc2009Bias",)


_BIAS: Final = 65536
_UNUSED: Final = 1 - _BIAS


class Rfc2009Bias(Protocol):
    """find: ``inc_not_zero``; put: wake at the bias; unlink: subtract it, and wait for it."""

    name = "rfc2009_bias"
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
        """Give the count back, and wake the unlinker if it was the last."""
        vma = hold.vma
        if await vma.refcnt.dec_return() == _UNUSED and await vma.wait_queue.waitqueue_active():
            await vma.wait_queue.wake_up()
        else:
            note("skip wake-up")

    async def settle(self, edit: Edit) -> None:
        """Wait for all racy access to the VMAs that were unlinked."""
        for vma in edit.gone:
            await self.invalidate_vma_before_free(vma)

    async def invalidate_vma_before_free(self, vma: Vma) -> None:
        """Mark the VMA as going, and wait until nobody but the tree has a count."""

        async def nobody_left() -> bool:
            return await vma.refcnt.get() == _UNUSED

        await vma.refcnt.sub_return(_BIAS)
        await wait_event(vma.wait_queue, nobody_left)
