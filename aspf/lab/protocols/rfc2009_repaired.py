"""The mail, repaired: `aspf.lab.protocols.jan2010` plus two repairs, each needed.

- Against **K2**: the put is one RCU read section, so the VMA can't be freed between the decrement
  and the look at the wait queue.
- Against **K3**: the range is looked at *after* the hold, and VMAs that shrink are waited for like
  those that go. Either half alone fails: without the wait, the VMA shrinks under a valid hold;
  without the look, a hold that comes late was granted for a range that is no more.

What it gets wrong: nothing that the explorer finds, whole or tail, with one fault or two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aspf.lab.machine import wait_event
from aspf.lab.protocols._hooks import Hold, Protocol
from aspf.race import note

if TYPE_CHECKING:
    from aspf.lab.mm import Edit, Vma

__all__ = ("Rfc2009Repaired",)


_BIG_NUMBER: Final = 10_000_000


class Rfc2009Repaired(Protocol):
    """find: hold, then look; put: inside a read section; writer: wait for all that it changes."""

    name = "rfc2009_repaired"
    linked_refcnt = 0

    async def find_vma_speculative(self, address: int) -> Hold | None:
        """Return the VMA that contains *address*, held; None in racy cases as well."""
        await self.cpu.rcu_read_lock()
        vma = await self.mm.tree.find_vma(address)
        if vma is not None and not (
            await vma.refcnt.inc_return() >= 0
            and await vma.vm_start.get() <= address < await vma.vm_end.get()
        ):
            await self.vma_put(Hold(vma))
            vma = None
        await self.cpu.rcu_read_unlock()
        return Hold(vma) if vma is not None else None

    async def vma_put(self, hold: Hold) -> None:
        """Give the count back, and wake the writer if it was the last."""
        vma = hold.vma
        await self.cpu.rcu_read_lock()
        if (
            await vma.refcnt.dec_return() == -_BIG_NUMBER
            and await vma.wait_queue.waitqueue_active()
        ):
            await vma.wait_queue.wake_up()
        else:
            note("skip wake-up")
        await self.cpu.rcu_read_unlock()

    async def settle(self, edit: Edit) -> None:
        """Wait for all racy access to the VMAs that were unlinked or cut; admit it to the cut."""
        for vma in (*edit.shrunk, *edit.gone):
            await self.invalidate_vma_before_free(vma)
        for vma in edit.shrunk:
            await vma.refcnt.add_return(_BIG_NUMBER)

    async def invalidate_vma_before_free(self, vma: Vma) -> None:
        """Keep new holds out, and wait until the old ones are gone."""

        async def nobody_left() -> bool:
            return await vma.refcnt.get() == -_BIG_NUMBER

        await vma.refcnt.sub_return(_BIG_NUMBER)
        await wait_event(vma.wait_queue, nobody_left)
