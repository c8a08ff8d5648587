"""The two halves of the repair of K3, each of which fails alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aspf.lab import Hold, Rfc2009Repaired

if TYPE_CHECKING:
    from aspf.lab import Edit


class RecheckOnly(Rfc2009Repaired):
    """Looks at the range after the hold, and does not wait for VMAs that shrink."""

    name = "recheck_only"

    async def settle(self, edit: Edit) -> None:
        for vma in edit.gone:
            await self.invalidate_vma_before_free(vma)


class WaitOnly(Rfc2009Repaired):
    """Waits for VMAs that shrink, and looks at the range before the hold only."""

    name = "wait_only"

    async def find_vma_speculative(self, address: int) -> Hold | None:
        await self.cpu.rcu_read_lock()
        vma = await self.mm.tree.find_vma(address)
        if vma is not None:
            if not await vma.vm_start.get() <= address < await vma.vm_end.get():
                vma = None
            elif await vma.refcnt.inc_return() < 0:
                await self.vma_put(Hold(vma))
                vma = None
        await self.cpu.rcu_read_unlock()
        return Hold(vma) if vma is not None else None
