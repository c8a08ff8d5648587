"""KAMEZAWA Hiroyuki's own repair of 5 January 2010: the "big number".

The count is zero while nobody uses the VMA. The unlinker subtracts 10,000,000 and waits for
exactly that; a fault that finds the count negative takes its own back and gives up; the put that
leaves exactly the big number wakes. Linux has it again since 2025, as the bit 30 of ``vm_refcnt``.

What it gets wrong: K1 and the late hold are gone. **K2** is not: `vma_put` still looks at the wait
queue of a VMA whose last count it has given back. Nor is **K3**: range checked before the hold,
shrunk VMAs not waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aspf.lab.machine import wait_event
from aspf.lab.protocols._hooks import Hold, Protocol
from aspf.race import note

if TYPE_CHECKING:
    from aspf.lab.mm import Edit, Vma

__all__ = ("Jan2010",)


_BIG_NUMBER: Final = 10_000_000


class Jan2010(Protocol):
    """find: give up below zero; put: wake at the big number; unlink: subtract it, and wait for it."""

    name = "jan2010"
    linked_refcnt = 0

    async def find_vma_speculative(self, address: int) -> Hold | None:
        """Return the VMA that contains *address*, held; None in racy cases as well."""
        await self.cpu.rcu_read_lock()
        vma = await self.mm.tree.find_vma(address)
        if vma is not None:
            if await vma.vm_start.get() <= address < await vma.vm_end.get():
                if await vma.refcnt.inc_return() < 0:
                    await self.vma_put(Hold(vma))
                    vma = None
            else:
                vma = None
        await self.cpu.rcu_read_unlock()
        return Hold(vma) if vma is not None else None

    async def vma_put(self, hold: Hold) -> None:
        """Give the count back, and wake the unlinker if it was the last."""
        vma = hold.vma
        if (
            await vma.refcnt.dec_return() == -_BIG_NUMBER
            and await vma.wait_queue.waitqueue_active()
        ):
            await vma.wait_queue.wake_up()
        else:
            note("skip wake-up")

    async def settle(self, edit: Edit) -> None:
        """Wait for all racy access to the VMAs that were unlinked."""
        for vma in edit.gone:
            await self.invalidate_vma_before_free(vma)

    async def invalidate_vma_before_free(self, vma: Vma) -> None:
        """Keep new holds out, and wait until the old ones are gone."""

        async def nobody_left() -> bool:
            return await vma.refcnt.get() == -_BIG_NUMBER

        await vma.refcnt.sub_return(_BIG_NUMBER)
        await wait_event(vma.wait_queue, nobody_left)
