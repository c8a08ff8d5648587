"""The model address space and its two drivers, apart from any race."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from aspf.lab import (
    Hold,
    Mm,
    MmapSem,
    Rfc2009,
    Rfc2009Repaired,
    StalePage,
    Vma,
    do_munmap,
    do_page_fault,
)
from aspf.race import explore

if TYPE_CHECKING:
    from aspf.lab import Protocol

LAYOUT = [(0, 2), (2, 4), (5, 7), (8, 9)]


def pages(mm: Mm) -> list[int]:
    """Return what is in the page table."""
    return [page for page, entry in enumerate(mm.pte) if entry.peek() is not None]


def ranges(mm: Mm) -> list[tuple[int, int]]:
    """Return what is mapped."""
    return [(vma.vm_start.peek(), vma.vm_end.peek()) for vma in mm.tree.vmas()]


@pytest.mark.parametrize("protocol", [MmapSem, Rfc2009, Rfc2009Repaired])
def test_munmap_takes_tails_and_whole_vmas(protocol: type[Protocol]) -> None:
    """A munmap that leaves a VMA or a page of its range, or takes one beside it, is found."""
    mm = Mm(LAYOUT, cpus=1, refcnt=protocol.linked_refcnt)
    cpu = protocol(mm, mm.rcu.cpus[0])

    async def main() -> None:
        for page in (0, 1, 2, 3, 5, 6, 8):
            assert await do_page_fault(cpu, page) != "SIGSEGV"
        await do_munmap(cpu, 1, 7)
        for page in (1, 2, 3, 4, 5, 6, 7):
            assert await do_page_fault(cpu, page) == "SIGSEGV"

    trio.run(main)
    mm.check()
    assert pages(mm) == [0, 8]
    assert ranges(mm) == [(0, 1), (8, 9)]
    assert repr(mm) == "<Mm <RbTree of 2 VMAs> <RwSemaphore 'mmap_sem' holders=0>>"


def test_munmap_of_a_hole_changes_nothing() -> None:
    """A munmap that takes the next VMA when it finds none in its range is found."""
    mm = Mm(LAYOUT, cpus=1)
    trio.run(do_munmap, MmapSem(mm, mm.rcu.cpus[0]), 4, 5)
    trio.run(do_munmap, MmapSem(mm, mm.rcu.cpus[0]), 7, 8)
    assert ranges(mm) == LAYOUT


def test_munmap_of_a_head_is_refused() -> None:
    """A model that silently cuts what it has no code for is found."""
    mm = Mm(LAYOUT, cpus=1)
    with pytest.raises(ValueError, match=r"vma1 \[2, 4\).*unmap up to the VMA's end"):
        trio.run(do_munmap, MmapSem(mm, mm.rcu.cpus[0]), 2, 3)


def test_a_fault_that_is_refused_at_the_page_table_looks_again_under_the_lock() -> None:
    """A fault that installs its page though its hold is no longer valid is found."""

    class Refused(Rfc2009):
        name = "refused"
        times = 2

        async def validate(self, hold: Hold, address: int) -> bool:
            self.times -= 1
            return self.times < 0

    mm = Mm(LAYOUT, cpus=1)
    assert trio.run(do_page_fault, Refused(mm, mm.rcu.cpus[0]), 1) == "mmap_sem"
    mm.check()
    assert pages(mm) == [1]


def test_a_hold_without_a_protocol_is_refused() -> None:
    """A protocol that finds without the lock and forgets its put leaks the hold in silence."""
    mm = Mm(LAYOUT, cpus=1)
    with pytest.raises(NotImplementedError, match="MmapSem holds nothing"):
        trio.run(MmapSem(mm, mm.rcu.cpus[0]).vma_put, Hold(next(mm.tree.vmas())))


def test_oracle_finds_stale_pages_leaked_holds_and_held_locks() -> None:
    """An oracle that passes whatever it is shown is found."""
    mm = Mm([(0, 2)], cpus=1)
    vma = next(mm.tree.vmas())
    mm.pte[1].poke("page of CPU 0")
    mm.check()
    vma.vm_end.poke(1)
    with pytest.raises(StalePage, match=r"beyond the end of a shrunk VMA \(vma\)") as shrunk:
        mm.check()
    assert shrunk.value.shrunk
    mm.tree.root.poke(None)
    with pytest.raises(StalePage, match="of a removed VMA is in") as removed:
        mm.check()
    assert not removed.value.shrunk
    mm = Mm([(0, 2)], cpus=1)
    trio.run(next(mm.tree.vmas()).refcnt.inc_return)
    with pytest.raises(AssertionError, match="refcnt 2, unused it is 1"):
        mm.check()
    trio.run(mm.page_table_lock.spin_lock)
    with pytest.raises(AssertionError, match=r"page_table_lock.* is held"):
        mm.check()
    trio.run(mm.mmap_sem.down_read)
    with pytest.raises(AssertionError, match=r"mmap_sem.* is held"):
        mm.check()


@pytest.mark.parametrize("bounds", [(2, 2), (3, 1), (-1, 4)])
def test_a_vma_has_pages(bounds: tuple[int, int]) -> None:
    """An empty VMA, which no walk ever finds, is found here."""
    with pytest.raises(ValueError, match="0 <= start < end"):
        Vma(*bounds)


def test_a_miss_is_never_taken_for_no_mapping() -> None:
    """A fault that dies because the tree was being rotated under its walk is found (K7).

    VMA 4 goes, its successor takes its place, and a walk to the VMAs on either side may miss
    what is mapped throughout; the fault then looks again under ``mmap_sem``.
    """

    async def program() -> str:
        mm = Mm([(2 * key, 2 * key + 1) for key in range(6)], cpus=2, refcnt=0)
        found = []

        async def touch() -> None:
            found.append(await do_page_fault(Rfc2009Repaired(mm, mm.rcu.cpus[0]), 8))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(touch, name="CPU 0")
            nursery.start_soon(do_munmap, Rfc2009Repaired(mm, mm.rcu.cpus[1]), 6, 7, name="CPU 1")
        mm.check()
        return found[0]

    report = explore(program, name="miss", shared="cells", search="exhaustive")
    assert report.exhausted
    assert report.failures == ()
    assert set(report.outcomes) == {"'speculative'", "'mmap_sem'"}
