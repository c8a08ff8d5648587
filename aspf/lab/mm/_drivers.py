"""The two drivers: what a fault does and what a munmap does, whatever the protocol between them.

The page fault is that of the mail: look the VMA up without the lock; if that gives nothing, look
it up again under ``mmap_sem``; make the page, and install it under the page-table lock; let go of
the VMA. The munmap calls `Protocol.exclude` before it changes the tree and `Protocol.settle`
after, because the generations differ in where they wait: 2009 unlinks, waits, and clears the page
table; Linux 6.4 and later waits, unlinks, and clears it.

A munmap of a VMA's tail shortens the VMA in place. Linux makes the tail a VMA of its own first,
links it, and unlinks it again under the same ``mmap_sem``; the model leaves that pair out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from aspf.lab.mm._mm import Mm
    from aspf.lab.mm._vma import Vma
    from aspf.lab.protocols._hooks import Hold, Protocol

__all__ = ("Edit", "do_munmap", "do_page_fault")


@final
@dataclass(frozen=True, slots=True)
class Edit:
    """What a munmap of the pages [start, end) takes away, planned under ``mmap_sem``.

    Attributes:
        start: First page to unmap.
        end: The page after the last one.
        shrunk: VMAs that lose their tail, and stay.
        gone: VMAs that go whole.
    """

    start: int
    end: int
    shrunk: tuple[Vma, ...]
    gone: tuple[Vma, ...]


async def do_page_fault(protocol: Protocol, address: int) -> str:
    """Fault the page at *address* in, as the CPU of *protocol*.

    Returns:
        ``"speculative"`` or ``"mmap_sem"``, by how the VMA was found that the page was
        installed under, or ``"SIGSEGV"``: no VMA contains the address.
    """
    hold = await protocol.find_vma_speculative(address)
    if hold is not None and await handle_mm_fault(protocol, hold, address):
        return "speculative"
    while (hold := await protocol.find_vma_locked(address)) is not None:
        if await handle_mm_fault(protocol, hold, address):
            return "mmap_sem"
    return "SIGSEGV"


async def handle_mm_fault(protocol: Protocol, hold: Hold, address: int) -> bool:
    """Install a page under the held VMA and let go; false if the hold has become invalid."""
    # The predicates of a fault are read while the VMA is held, never before.
    writable = "w" in await hold.vma.vm_flags.get()
    assert writable, "the model's VMAs can all be written"
    valid = await do_anonymous_page(protocol, hold, address)
    if hold.locked:
        await protocol.mm.mmap_sem.up_read()
    else:
        await protocol.vma_put(hold)
    return valid


async def do_anonymous_page(protocol: Protocol, hold: Hold, address: int) -> bool:
    mm = protocol.mm
    await mm.page_table_lock.spin_lock()
    valid = await protocol.validate(hold, address)
    if valid and await mm.pte[address].get() is None:
        await mm.pte[address].set(f"page of CPU {protocol.cpu.number}")
    await mm.page_table_lock.spin_unlock()
    return valid


async def do_munmap(protocol: Protocol, start: int, end: int) -> None:
    """Unmap the pages [start, end), as the CPU of *protocol*.

    Raises:
        ValueError: The range cuts a VMA's head off, or a piece out of its middle.
    """
    await protocol.write_lock()
    edit = await plan_munmap(protocol.mm, start, end)
    await protocol.exclude(edit)
    await protocol.publish(edit)
    await protocol.settle(edit)
    await zap_pte_range(protocol.mm, edit)
    await protocol.finish(edit)


async def plan_munmap(mm: Mm, start: int, end: int) -> Edit:
    shrunk: list[Vma] = []
    gone: list[Vma] = []
    address = start
    while address < end and (vma := await mm.tree.find_vma(address)) is not None:
        vm_start, vm_end = await vma.vm_start.get(), await vma.vm_end.get()
        if vm_start >= end:
            break
        if vm_end > end:
            raise ValueError(
                f"munmap [{start}, {end}) would leave the end of {vma!r} [{vm_start}, {vm_end}): "
                "the model cuts tails only; unmap up to the VMA's end"
            )
        (shrunk if vm_start < start else gone).append(vma)
        address = vm_end
    return Edit(start, end, tuple(shrunk), tuple(gone))


async def zap_pte_range(mm: Mm, edit: Edit) -> None:
    await mm.page_table_lock.spin_lock()
    for page in range(edit.start, edit.end):
        await mm.pte[page].set(None)
    await mm.page_table_lock.spin_unlock()
