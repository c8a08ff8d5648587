"""AddressSpace: Linux's address space without its lock.

How it differs from the kernel's
================================

Calls that change the layout plan and publish in one sync step: the new layout is visible at
once, and no lock is needed for it. What can't be done at once is the page table, because faults
that began earlier hold the VMAs that were taken away and may still install pages under them. So
the second half of a call, its *cleanup* (zap, or take rights away), runs when the edit settles:
nobody holds what it took away, and every earlier edit that overlaps it has settled (rule S, see
`aspf.ranges.RangeMap`). The call returns after that. A cancelled call has been published all the
same, and settles by itself.

Between publishing and settling the old entries are still there, and an access that hits one needs
no fault: it reads the old page. That is an access before the call returned, like one through a
processor's TLB that has not been flushed. What must not happen is that a *fault* in that time puts
anything into the table that the cleanup then takes for old:

* A **vacated** range, one that was unmapped, can't be found and can't be reused until its edit
  has settled. It counts as occupied for gaps and hints. An `mmap` at a fixed address over it waits
  for it, then plans again. A fault on it is a `SegmentationFault`: it comes after the `munmap`.
* A **reserved** range, one that MAP_FIXED has mapped anew, is mapped before and after, so nobody
  may be told that nothing is there. Its new VMA is published at once, and faults on it wait until
  the old entries are gone (rule T: it has a successor).

`mremap` makes both: its destination is reserved and its source vacated (or reserved too, if
MREMAP_DONTUNMAP leaves it mapped). The pages move when the edit settles, so that what a fault in
flight has still put at the source moves along, and before anybody may fault at the destination.

With both, "not found" means "not mapped": a lookup can't meet a layout that is half changed, and
MAPERR is raised only for a hole, in which no stack can grow either.

`fork` copies the entries under what is published, in one step. It waits while anything is
reserved, for then some of those entries are the old ones, or still elsewhere (rule T again).

Who may change what
===================

The layout: only `_publish`. The page table: `handle_mm_fault` under a VMA that is held, cleanups,
`madvise`, and `unmap_mapping_range` when a file is cut shorter. `Anon.identity`: only
`prepare_anon`. Each of these is sync.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, final, get_args

import anyio
from anyio.lowlevel import checkpoint

from aspf._errors import BusError, SegmentationFault
from aspf._rwlock import ReadWriteLock
from aspf.ranges import Edit, RangeMap

from ._constants import (
    MAP_ANONYMOUS,
    MAP_SHARED,
    MAP_TYPE,
    MLOCK_ONFAULT,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    TASK_SIZE,
)
from ._fault import handle_mm_fault
from ._file import MappedFile, ZeroPager
from ._flight import SingleFlight
from ._fork import copy_page_table, plan_fork
from ._limits import LINUX_LIMITS, NOTHING, Limits, Usage, usage_of, usage_of_regions
from ._map_picture import MapPicture, size_text
from ._page import ZERO_PAGE
from ._page_table import PageTable
from ._pieces import Layout, Move, NoRoom, Plan, page_align
from ._plan import MmapCall, is_unreserved, plan_mmap, plan_mprotect, plan_munmap
from ._plan_brk import plan_brk
from ._plan_flags import (
    DROPPING,
    def_flags_of,
    plan_madvise,
    plan_mlock,
    plan_mlockall,
    plan_munlock,
)
from ._plan_mremap import MremapCall, plan_mremap
from ._plan_reads import plan_mincore, plan_msync
from ._plan_stack import plan_growth
from ._populate import bring_pages, drop_pages, pages_there, populate
from ._proc_maps import HEAP, files_of, format_maps, line_of, parse_maps, region_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from aspf.ranges import Drain, Region

    from ._file import Pager
    from ._page import Page
    from ._pieces import Span
    from ._proc_maps import MapsLine
    from ._vma import VMA

    _Outcome: TypeAlias = tuple[Plan, Drain[VMA] | None] | Drain[VMA]

__all__ = ("AddressSpace", "AddressSpaceStatistics", "Locking")

R = TypeVar("R")

Locking: TypeAlias = Literal["speculative", "mmap_lock", "mmap_lock_retry"]
"""How faults and layout changes keep out of each other's way; see `AddressSpace`."""


@final
@dataclass(frozen=True, slots=True)
class AddressSpaceStatistics:
    """What an address space has done so far.

    Attributes:
        minor_faults: Faults that needed no I/O.
        major_faults: Faults that waited for a pager.
        speculative_hits: Lookups that found a VMA and held it.
        speculative_misses: Lookups that found none.
        edits: Changes of the layout.
        drains: Changes that could not settle at once, because somebody held what they took away.
        unsettled: Of these, how many have not settled yet.
        waits: How often a call or a fault waited for a change to settle.
        retries: Faults that looked their VMA up again after I/O (``mmap_lock_retry``).
        vmas: VMAs that there are.
        pages: Pages in the page table.
        total_vm: Pages that are mapped; of these and of the next three a call that waits counts
            what it has unmapped until it has settled.
        data_vm: Of these, private and writable, and no stack.
        locked_vm: Of these, locked.
        committed: Pages that were promised: they count against `Limits.commit_limit`.
    """

    minor_faults: int
    major_faults: int
    speculative_hits: int
    speculative_misses: int
    edits: int
    drains: int
    unsettled: int
    waits: int
    retries: int
    vmas: int
    pages: int
    total_vm: int
    data_vm: int
    locked_vm: int
    committed: int


@final
class _Unsettled:
    """The ranges that one edit has vacated, or those that it has reserved."""

    __slots__ = ("drain", "ends", "spans")

    # Invariant: set in the step that makes it.
    drain: Drain[VMA]

    def __init__(self, spans: Iterable[Span]) -> None:
        # Invariant: ascending and disjoint.
        self.spans = sorted(spans)
        self.ends = [end for _, end in self.spans]

    def touches(self, start: int, end: int) -> bool:
        first = bisect_right(self.ends, start)
        return first < len(self.spans) and self.spans[first][0] < end


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Unstored:
    """A range that is unmapped, and the files that are written back before its call returns."""

    start: int
    end: int
    files: tuple[MappedFile, ...]


def _covering(standing: list[_Unsettled], start: int, end: int) -> _Unsettled | None:
    return next((unsettled for unsettled in standing if unsettled.touches(start, end)), None)


@final
class AddressSpace:
    """A process's memory: VMAs, a page table, and page faults that tasks take.

    Use it as ``async with AddressSpace() as space:``. It belongs to one event loop.

    Args:
        locking: ``"speculative"``: a fault holds its VMA and nothing else. For comparison,
            ``"mmap_lock"``: one read-write lock, held through the whole fault, I/O included;
            ``"mmap_lock_retry"``: it is dropped for I/O, and the VMA looked up again.
        pager: Where anonymous pages come from; None for zeros without I/O. It is asked for the
            number of the page in the address space.
        task_size: End of the address space, in bytes.
        min_address: Lowest address that may be mapped.
        limits: What there may be: address space, locked memory, stacks, VMAs, promised memory.
        start_brk: Where the heap begins that `brk` makes; None for two thirds of the way up, where
            Linux puts the programs that it may put anywhere.
        mmap_base: Where the search for room begins, from above; None for below the room that is
            left for the stack. Linux has it at a random place.

    Raises:
        ValueError: For an unknown *locking*, or a *task_size* that is not whole pages.

    >>> import anyio
    >>> from aspf.mm import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
    >>> async def main():
    ...     async with AddressSpace() as space:
    ...         address = await space.mmap(
    ...             0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    ...         )
    ...         await space.write(address + 4090, b"over the edge")
    ...         return await space.read(address + 4095, 8), space.statistics().minor_faults
    >>> anyio.run(main)
    (b'the edge', 2)
    """

    def __init__(
        self,
        *,
        locking: Locking = "speculative",
        pager: Pager | None = None,
        task_size: int = TASK_SIZE,
        min_address: int = 1 << 16,
        limits: Limits = LINUX_LIMITS,
        start_brk: int | None = None,
        mmap_base: int | None = None,
    ) -> None:
        if locking not in get_args(Locking):
            msg = f"locking={locking!r} is unknown; use one of {', '.join(get_args(Locking))}"
            raise ValueError(msg)
        if task_size <= 0 or task_size % PAGE_SIZE:
            msg = f"task_size={task_size:#x} is not whole pages; use a multiple of {PAGE_SIZE}"
            raise ValueError(msg)
        self.locking = locking
        self.pager = pager
        self.page_table: PageTable = PageTable()
        self.limits = limits
        self._layout = partial(
            Layout,
            task_size=task_size,
            min_address=min_address,
            limits=limits,
            mmap_base=mmap_base,
        )
        # Invariant: what the published VMAs count for, the vacated ranges, `_shared`, and
        # `_miscounted`.
        self._usage = NOTHING
        # What Linux goes on counting of a process, though it has it no more.
        self._miscounted = NOTHING
        # Invariant: how many published VMAs map which shared anonymous memory. It is promised
        # whole, as long as any of it is mapped.
        self._shared: Counter[MappedFile] = Counter()
        # Invariant: the published VMAs of each file that has any, by where they start.
        self._mappings: dict[MappedFile, dict[int, Region[VMA]]] = {}
        # Flags that every new VMA gets, since mlockall.
        self._def_flags = 0
        self._start_brk = page_align(task_size // 3 * 2) if start_brk is None else start_brk
        self._brk = self._start_brk
        self._map: RangeMap[VMA] = RangeMap()
        # Invariant: unmapped by an edit that has not settled. Nothing is mapped there.
        self._vacated: list[_Unsettled] = []
        # Invariant: mapped anew by an edit that has not settled. No fault installs a page there.
        self._reserved: list[_Unsettled] = []
        # Invariant: published as moved by an edit that has not settled; the pages are where they were.
        self._moving: list[Move] = []
        # Invariant: one for each munmap and aclose that is under way.
        self._unstored: list[_Unstored] = []
        self._lock = None if locking == "speculative" else ReadWriteLock()
        self._anonymous: SingleFlight[bytes] = SingleFlight()
        self._closed = False
        self._minor = self._major = self._hits = self._misses = 0
        self._edits = self._drains = self._waits = self._retries = 0

    @classmethod
    def from_maps(
        cls,
        maps: str | Iterable[str],
        *,
        files: Mapping[str, MappedFile] | None = None,
        locking: Locking = "speculative",
        pager: Pager | None = None,
        task_size: int = TASK_SIZE,
        limits: Limits = LINUX_LIMITS,
        start_brk: int | None = None,
        mmap_base: int | None = None,
    ) -> Self:
        """Build the layout of a live process from its ``/proc/<pid>/maps``.

        Only the layout is known, not the bytes: files that *files* does not have read as zeros,
        however long they are, and so does anonymous memory, if *pager* does not say otherwise.
        What lies above *task_size* (``[vsyscall]``) is left out.

        Args:
            maps: The text, or its lines.
            files: Files to map for paths that occur in it.
            locking: As for the class.
            pager: As for the class.
            task_size: As for the class.
            limits: As for the class.
            start_brk: As for the class, if the map shows no heap.
            mmap_base: As for the class.

        Raises:
            ValueError: If a line is not of that form, or two of them overlap.
        """
        space = cls(
            locking=locking,
            pager=pager,
            task_size=task_size,
            limits=limits,
            start_brk=start_brk,
            mmap_base=mmap_base,
        )
        lines = [line for line in parse_maps(maps) if line.end <= task_size]
        known = files_of(lines)
        for identity, file in known.items():
            known[identity] = (files or {}).get(file.name, file)
            known[identity].mapped_by(space)
        regions = tuple(region_of(line, known) for line in lines)
        heap = [line for line in lines if line.name == HEAP]
        if heap:
            space._start_brk, space._brk = heap[0].start, heap[-1].end
        index = space._map.index
        space._publish(Plan(Edit((), regions, index.version)), space._reserved)
        return space

    # Looking up ------------------------------------------------------------------------------

    def find_vma(self, address: int) -> Region[VMA] | None:
        """Return the first VMA that ends above *address*, as Linux's ``find_vma`` does.

        It need not contain the address. It is not held: don't use it after the next await.

        Complexity: O(log VMAs).
        """
        return self._map.index.find_next(address)

    def vma_lookup(self, address: int) -> Region[VMA] | None:
        """Return the VMA that contains *address*; not held, see `find_vma`."""
        return self._map.index.find(address)

    def find_vma_speculative_nowait(self, address: int) -> Region[VMA] | None:
        """Return the VMA that contains *address* and hold it, or None if nothing is mapped.

        Until `vma_put_nowait` no page of it is taken away for good: whoever unmaps it waits.
        """
        region = self._map.index.find(address)
        if region is None:
            self._misses += 1
            return None
        region.guard.n += 1
        self._hits += 1
        return region

    def vma_put_nowait(self, vma: Region[VMA]) -> None:
        """Let go of a VMA that `find_vma_speculative` has returned; wakes who waits for that.

        Raises:
            RuntimeError: If nobody holds it.
        """
        vma.guard.release()

    async def find_vma_speculative(self, address: int) -> Region[VMA] | None:
        """Return the VMA that contains *address* and hold it; a checkpoint comes first.

        A cancelled call holds nothing.
        """
        await checkpoint()
        return self.find_vma_speculative_nowait(address)

    async def vma_put(self, vma: Region[VMA]) -> None:
        """Let go of a VMA; a checkpoint comes afterwards, so a cancelled call has let go.

        Raises:
            RuntimeError: If nobody holds it.
        """
        self.vma_put_nowait(vma)
        await checkpoint()

    async def invalidate(self, start: int, end: int) -> None:
        """Wait until nobody holds what changes so far have taken away from ``[start, end)``.

        Always a checkpoint. A cancelled call has changed nothing; settling goes on without it.
        """
        drains = self._map.unsettled(start, end)
        for drain in drains:
            await self._wait_for(drain)
        if not drains:
            await checkpoint()

    async def _wait_for(self, drain: Drain[VMA]) -> None:
        self._waits += not drain.done
        await drain.wait()

    # Changing the layout ---------------------------------------------------------------------

    async def mmap(  # noqa: PLR0917 - Linux's own signature
        self,
        address: int,
        length: int,
        prot: int,
        flags: int,
        file: MappedFile | None = None,
        offset: int = 0,
    ) -> int:
        """Map a file or anonymous memory, and return where.

        Always a checkpoint. If it is cancelled before the mapping is made, nothing has changed.
        With MAP_FIXED over another mapping it waits, after the mapping is made, until the other
        one's pages are gone; if it is cancelled then, the new mapping stands and faults on it
        wait in its place.

        With MAP_LOCKED or MAP_POPULATE all pages that can be had are there when it returns. A
        MAP_GROWSDOWN mapping is a stack: see `fault`.

        Args:
            address: A hint, or the place itself with MAP_FIXED and MAP_FIXED_NOREPLACE.
            length: In bytes; rounded up to pages.
            prot: PROT_* bits.
            flags: MAP_* bits. Unknown ones are ignored, except with MAP_SHARED_VALIDATE.
            file: What to map; ignored with MAP_ANONYMOUS.
            offset: Where in the file, in bytes.

        Raises:
            OSError: EINVAL for an unaligned address or offset, no length, neither MAP_SHARED nor
                MAP_PRIVATE; EBADF for no file; EACCES for a file that is not open for that;
                EEXIST where MAP_FIXED_NOREPLACE finds something; ENOMEM for no room, too many
                VMAs, or more than the limits allow (MAP_FIXED has split what is in its way then);
                EAGAIN for more locked memory than the limits allow, EPERM if they allow none, or
                below *min_address*; EOVERFLOW beyond the largest file; EOPNOTSUPP for unknown
                flags.
            ClosedResourceError: After `aclose`.
        """
        if flags & MAP_ANONYMOUS:
            is_private = flags & MAP_TYPE != MAP_SHARED
            file = None if is_private else self._shared_memory(page_align(length), flags)
        await checkpoint()
        call = MmapCall(address, length, prot, flags, file, offset)
        plan, _ = await self._placed(partial(self._try_mmap, call))
        end = plan.address + call.size
        replaced = _covering(self._reserved, plan.address, end)
        if replaced is not None:
            await self._wait_for(replaced.drain)
        await populate(self, plan.populate)
        return plan.address

    async def _placed(self, attempt: Callable[[], _Outcome]) -> tuple[Plan, Drain[VMA] | None]:
        """Try until nothing that is vacated is in the way; raise what the plan says.

        Not a checkpoint if nothing has to be waited for.
        """
        outcome = await self._step(attempt)
        while not isinstance(outcome, tuple):
            await self._wait_for(outcome)
            outcome = await self._step(attempt)
        plan, drain = outcome
        if plan.error is not None:
            if drain is not None:
                await self._wait_for(drain)
            raise plan.error
        return outcome

    def _shared_memory(self, size: int, flags: int) -> MappedFile:
        """Make the file behind a shared anonymous mapping; each has its own."""
        file = MappedFile(ZeroPager(), size=size, name="/dev/zero (deleted)", is_writable=True)
        is_free = is_unreserved(self._layout.keywords["limits"], flags)
        file.promised = 0 if is_free else size >> PAGE_SHIFT
        return file

    def _planned(self, plan: Callable[[Layout], Plan]) -> Plan | Drain[VMA]:
        """Plan, or return what has to settle first, because it may make room."""
        layout = self._current_layout()
        try:
            planned = plan(layout)
        except NoRoom:
            if self._vacated:
                return self._vacated[0].drain
            raise
        if isinstance(planned.error, NoRoom) and self._vacated:
            return self._vacated[0].drain
        return planned

    def _try_mmap(self, call: MmapCall) -> _Outcome:
        plan = self._planned(partial(plan_mmap, call=call))
        if not isinstance(plan, Plan):
            return plan
        if plan.error is not None:
            drain = self._publish(plan, self._vacated)
            # Nobody waits for a mapping that was only split.
            return plan, drain if plan.zap else None
        vacated = _covering(self._vacated, plan.address, plan.address + call.size)
        if vacated is not None:
            return vacated.drain
        if call.file is not None:
            call.file.mapped_by(self)
        return plan, self._publish(plan, self._reserved)

    async def mremap(
        self,
        address: int,
        old_length: int,
        new_length: int,
        flags: int = 0,
        new_address: int = 0,
    ) -> int:
        """Change the length of a mapping or move it with its pages, and return where it is.

        Both places change in one step: nobody finds the mapping at both, or at none. Returns when
        nobody holds what was at either place and the pages are at the new one. Until then faults
        at the new place wait, and faults at the old one that began earlier end; what they write is
        moved too. Always a checkpoint. If it is cancelled while it waits, the mapping has moved,
        and its pages follow.

        Without flags a mapping grows into the gap behind it or not at all. MREMAP_MAYMOVE lets it
        go elsewhere, MREMAP_FIXED says where, and replaces what is there; with an equal length it
        moves every mapping of the range, as Linux does since 6.17. MREMAP_DONTUNMAP leaves the old
        mapping behind, empty. An *old_length* of 0 maps shared memory once more.

        Args:
            address: Where it is.
            old_length: In bytes; rounded up to pages.
            new_length: In bytes; rounded up to pages.
            flags: MREMAP_* bits.
            new_address: With MREMAP_FIXED where to; with MREMAP_DONTUNMAP a hint.

        Raises:
            OSError: EINVAL for unaligned addresses, unknown flags or flags that don't go together,
                no new length, no old one of private memory, or ranges that overlap; EFAULT if
                nothing is mapped at the address, or the mapping ends before the old range does;
                ENOMEM for no room or too many VMAs; EPERM below *min_address*.
            ClosedResourceError: After `aclose`.
        """
        call = MremapCall(address, old_length, new_length, flags, new_address)
        await checkpoint()
        plan, drain = await self._placed(partial(self._try_mremap, call))
        if drain is not None:
            await self._wait_for(drain)
        await populate(self, plan.populate)
        return plan.address

    def _try_mremap(self, call: MremapCall) -> _Outcome:
        plan = self._planned(partial(plan_mremap, call=call))
        return self._publish_placed(plan) if isinstance(plan, Plan) else plan

    def _publish_placed(self, plan: Plan) -> _Outcome:
        """Publish, or return what has to settle where the plan places something."""
        for start, end in plan.placed:
            vacated = _covering(self._vacated, start, end)
            if vacated is not None:
                return vacated.drain
        return plan, self._publish(plan, self._vacated)

    async def brk(self, address: int) -> int:
        """Move the end of the heap, and return where it is then.

        As Linux's system call, it raises for nothing: if the heap can't end there, because
        something is in the way or one page above it, or because of the limits, it stays. So ``await space.brk(0)`` asks. The
        heap is ordinary memory and `munmap` may take it. Always a checkpoint. If it is cancelled
        while it waits for the pages of a heap that shrinks, the heap has shrunk.

        Args:
            address: Where it shall end; it need not be the end of a page.

        Raises:
            ClosedResourceError: After `aclose`.
        """
        await checkpoint()
        plan, drain = await self._placed(partial(self._try_brk, address))
        if drain is not None:
            await self._wait_for(drain)
        await populate(self, plan.populate)
        return plan.address

    def _try_brk(self, address: int) -> _Outcome:
        plan = self._planned(
            partial(plan_brk, start=self._start_brk, current=self._brk, wanted=address)
        )
        if not isinstance(plan, Plan):
            return plan
        # A heap that stays is no error.
        outcome = self._publish_placed(replace(plan, error=None))
        if isinstance(outcome, tuple):
            self._brk = plan.address
        return outcome

    async def fork(self) -> AddressSpace:
        """Return a copy of the address space, as a child process gets it.

        Use it as ``async with await space.fork() as child:``. It has the options of this one, the
        same heap and limits, and its own statistics. Both read the same private pages until one of them
        writes to a page, and gets its own then; shared mappings stay shared. What was given
        MADV_DONTFORK is not there, what was given MADV_WIPEONFORK is empty, and nothing is locked
        or will be (`mlockall`).

        It takes everything in one step. A mapping that is replaced or moved just now is waited
        for: else its pages would be at the old place, or be the old ones. Always a checkpoint. A
        cancelled call has made nothing.

        Raises:
            OSError: ENOMEM if `Limits` don't allow to promise so much memory to both.
            ClosedResourceError: After `aclose`.

        Complexity: O(VMAs + pages of private mappings).
        """
        await checkpoint()
        outcome = await self._step(self._try_fork)
        while not isinstance(outcome, AddressSpace):
            await self._wait_for(outcome)
            outcome = await self._step(self._try_fork)
        return outcome

    def _try_fork(self) -> AddressSpace | Drain[VMA]:
        """Fork, or return what has to settle before it can be tried again."""
        plan = self._planned(plan_fork)
        if not isinstance(plan, Plan):
            return plan
        if self._reserved:
            return self._reserved[0].drain
        child = AddressSpace(
            locking=self.locking,
            pager=self.pager,
            start_brk=self._start_brk,
            **self._layout.keywords,
        )
        child._brk = self._brk
        child._publish(plan, child._reserved)
        for region in child._map.index:
            if region.payload.file is not None:
                region.payload.file.mapped_by(child)
        copy_page_table(child._map.index, self.page_table, child.page_table)
        return child

    async def munmap(self, address: int, length: int) -> None:
        """Unmap a range; holes in it are no error.

        Nothing is found there from the first step on. Returns when nobody holds what was there
        and its pages are gone, and what was written to shared files is stored. Always a
        checkpoint. If it is cancelled while it waits, the unmapping stands and settles by
        itself; changed pages stay with their file until its `MappedFile.flush`.

        Raises:
            OSError: EINVAL for an unaligned address, no length, or a range outside the address
                space; ENOMEM if it would make too many VMAs; what a file's pager raises.
            ClosedResourceError: After `aclose`.
        """
        plan = await self._change(partial(plan_munmap, address=address, length=length))
        end = address + page_align(length)
        old = () if plan.edit is None else plan.edit.old
        await self._gone(address, end, old, partial(self.invalidate, address, end))

    async def _gone(
        self,
        start: int,
        end: int,
        old: Iterable[Region[VMA]],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        """Store what was written to shared files in a range, once what was there has settled.

        Also what another call is about to store there: who finds nothing mapped must find it stored.
        """
        shared = (region.payload.file for region in old if not region.payload.is_private)
        unstored = _Unstored(start, end, tuple(dict.fromkeys(filter(None, shared))))
        self._unstored.append(unstored)
        try:
            await settle()
            there = (x.files for x in self._unstored if x.start < end and start < x.end)
            for file in dict.fromkeys(chain.from_iterable(there)):
                await file.flush()
        finally:
            self._unstored.remove(unstored)

    async def mprotect(self, address: int, length: int, prot: int) -> None:
        """Set the protection of a range.

        The new protection is visible from the first step on. Returns when no fault under the old
        one can come any more and the page table allows no more than the new one. Always a
        checkpoint. If it is cancelled while it waits, the new protection stands.

        With PROT_GROWSDOWN the range begins where the stack does that its first mapping is.

        Raises:
            OSError: EINVAL for an unaligned address or an unknown protection, or for
                PROT_GROWSDOWN where there is no stack. ENOMEM for a hole, too many VMAs, or more
                than the limits allow, EACCES for writing to a shared file that is not open for it:
                everything below has been changed.
            ClosedResourceError: After `aclose`.
        """
        plan = await self._change(partial(plan_mprotect, address=address, length=length, prot=prot))
        start = min((address, *(start for start, _ in plan.restrict)))
        await self.invalidate(start, address + page_align(length))
        await populate(self, plan.populate)
        if plan.error is not None:
            raise plan.error

    async def madvise(self, address: int, length: int, advice: int) -> None:
        """Drop or bring the pages of a range, or set flags that say how it will be used.

        What drops pages: MADV_DONTNEED: anonymous memory reads as zeros then, private copies of a
        file's pages are gone, shared pages stay with their file. MADV_DONTNEED_LOCKED does so with
        locked memory too. MADV_REMOVE cuts a hole into the file that is mapped: it reads as zeros,
        in every mapping. MADV_FREE, MADV_COLD and MADV_PAGEOUT allow pages to be dropped if memory
        is short, which it never is here.

        What brings pages: MADV_POPULATE_READ and MADV_POPULATE_WRITE fault them in.
        MADV_WILLNEED reads a file's pages into its cache; Linux does not wait for that, and this
        call does.

        MADV_SEQUENTIAL, MADV_RANDOM, MADV_NORMAL, MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK,
        MADV_KEEPONFORK, MADV_DONTDUMP, MADV_DODUMP, MADV_HUGEPAGE and MADV_NOHUGEPAGE set and clear
        flags, which decide what may merge and what `fork` leaves out.

        A checkpoint comes first: a call that is cancelled there has done nothing. One that is
        cancelled while it brings pages has brought some.

        Raises:
            OSError: EINVAL for an unaligned address or other advice, and for a mapping that does
                not take it (what is locked does not drop its pages; MADV_FREE and MADV_WIPEONFORK
                want private anonymous memory, MADV_REMOVE a file, MADV_POPULATE_* the permission):
                what lies below has taken it. EACCES if MADV_REMOVE meets a file that is not shared
                or not writable. ENOMEM for holes: what is mapped has taken it, for MADV_POPULATE_*
                only what lies below. EFAULT if a page can't be had. EAGAIN if it would make too
                many VMAs: what lies below has taken it.
            ClosedResourceError: After `aclose`.
        """
        await checkpoint()
        await self._successor(address, address + page_align(max(length, 0)))
        step = partial(self._advise, address, length, advice)
        if self._lock is not None and advice in DROPPING:
            async with self._lock.read():
                plan = step()
        else:
            plan = await self._step(step)
        await bring_pages(self, plan.spans, advice)
        if plan.error is not None:
            raise plan.error

    def _advise(self, address: int, length: int, advice: int) -> Plan:
        plan = plan_madvise(self._current_layout(), address, length, advice)
        drop_pages(self, plan.spans, advice)
        self._publish(plan, self._vacated)
        return plan

    async def mlock(self, address: int, length: int, flags: int = 0) -> None:
        """Lock every page that the range touches, and have all of them in the page table.

        A checkpoint comes first. A cancelled call has locked nothing, or everything with some of
        the pages not there yet.

        Args:
            address: Where, not necessarily the start of a page.
            length: In bytes.
            flags: MLOCK_ONFAULT: bring no page, but keep those that come.

        Raises:
            OSError: EINVAL for a range outside the address space or other flags; EPERM if the
                limits allow no locked memory; ENOMEM if it would be more than they allow: nothing
                is locked then. ENOMEM for a hole: everything below it is locked, and no page has
                been brought. ENOMEM too if a page can't be had (PROT_NONE, beyond the end of a
                file): everything is locked. ENOMEM if it would make too many VMAs: what lies below
                is locked.
            ClosedResourceError: After `aclose`.
        """
        await checkpoint()
        if flags & ~MLOCK_ONFAULT:
            what = f"mlock({address:#x}, {length:#x}, {flags:#x}): unknown flags; use MLOCK_ONFAULT"
            raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: {what}")
        on_fault = bool(flags & MLOCK_ONFAULT)
        plan = await self._change(
            partial(plan_mlock, address=address, length=length, on_fault=on_fault)
        )
        if plan.error is not None:
            raise plan.error
        failed = await populate(self, plan.populate, go_on=False)
        if failed is not None:
            what = f"mlock({address:#x}, {length:#x}): a page can't be had; the range stays locked"
            raise OSError(errno.ENOMEM, what) from failed

    async def munlock(self, address: int, length: int) -> None:
        """Unlock every page that the range touches; they stay in the page table.

        A checkpoint comes first: a cancelled call has done nothing.

        Raises:
            OSError: EINVAL for a range outside the address space; ENOMEM for a hole, or if it would
                make too many VMAs: what lies below is unlocked.
            ClosedResourceError: After `aclose`.
        """
        await checkpoint()
        plan = await self._change(partial(plan_munlock, address=address, length=length))
        if plan.error is not None:
            raise plan.error

    async def mlockall(self, flags: int) -> None:
        """Lock everything: what is mapped (MCL_CURRENT), what will be (MCL_FUTURE), or both.

        With MCL_CURRENT all pages that can be had are there when it returns; with MCL_ONFAULT too
        they are not brought, but those that come are kept. A call without MCL_FUTURE ends an
        earlier one's. It waits for what MAP_FIXED or `mremap` is replacing.

        A checkpoint comes first. A cancelled call has locked nothing, or everything with some of
        the pages not there yet.

        Args:
            flags: MCL_* bits.

        Raises:
            OSError: EINVAL for flags that don't go together; EPERM if the limits allow no locked
                memory; ENOMEM if they allow less than what is mapped. Nothing is changed then.
            ClosedResourceError: After `aclose`.
        """
        if not flags:
            what = "mlockall(0): pass MCL_CURRENT, MCL_FUTURE or both"
            raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: {what}")
        plan = await self._lock_all(flags)
        await populate(self, plan.populate)

    async def munlockall(self) -> None:
        """Unlock everything, and what will be mapped.

        A checkpoint comes first: a cancelled call has done nothing.

        Raises:
            ClosedResourceError: After `aclose`.
        """
        await self._lock_all(0)

    async def _lock_all(self, flags: int) -> Plan:
        await checkpoint()
        while self._reserved:
            await self._wait_for(self._reserved[0].drain)

        def plan(layout: Layout) -> Plan:
            planned = plan_mlockall(layout, flags)
            self._def_flags = def_flags_of(flags)
            return planned

        return await self._change(plan)

    async def msync(self, address: int, length: int, flags: int) -> None:
        """Store what was written to shared files in a range.

        With MS_SYNC it is stored when the call returns. MS_ASYNC stores nothing, as in Linux: the
        pages stay marked, for whoever stores them. MS_INVALIDATE has nothing to do where all
        mappings of a file share its pages; it only refuses locked memory.

        A checkpoint comes first. A cancelled call has stored a part; the rest stays marked.

        Raises:
            OSError: EINVAL for an unaligned address, unknown flags, or MS_SYNC with MS_ASYNC; EBUSY
                for locked memory and MS_INVALIDATE: what lies below is stored. ENOMEM for holes:
                what is mapped is stored. What a file's pager raises.
            ClosedResourceError: After `aclose`.
        """
        await checkpoint()
        await self._successor(address, address + page_align(max(length, 0)))
        plan = plan_msync(self._current_layout(), address, length, flags)
        for start, end in plan.spans:
            await self._sync(start, end)
        if plan.error is not None:
            raise plan.error

    async def _sync(self, start: int, end: int) -> None:
        region = self.vma_lookup(start)
        if region is not None and region.payload.file is not None:
            vma = region.payload
            first, last = vma.page_index(start), vma.page_index(min(end, region.end))
            await region.payload.file.flush(first, last)

    async def mincore(self, address: int, length: int) -> bytes:
        """Tell which pages of a range are there: one byte for each, 1 or 0.

        A page is there if it is in the page table or in the cache of the file that is mapped: to
        touch it needs no I/O. A checkpoint comes first.

        Raises:
            OSError: EINVAL for an unaligned address; ENOMEM for a hole, or a range outside the
                address space.
            ClosedResourceError: After `aclose`.
        """
        await checkpoint()
        await self._successor(address, address + page_align(max(length, 0)))
        plan = plan_mincore(self._current_layout(), address, length)
        return pages_there(self, plan.spans)

    def _current_layout(self) -> Layout:
        if self._closed:
            raise _closed_error()
        vacated = tuple(chain.from_iterable(ranges.spans for ranges in self._vacated))
        return self._layout(self._map.index, vacated, usage=self._usage, def_flags=self._def_flags)

    async def _step(self, step: Callable[[], R]) -> R:
        """Run a sync step, under the lock if there is one."""
        if self._lock is None:
            return step()
        async with self._lock.write():
            return step()

    async def _change(self, plan: Callable[[Layout], Plan]) -> Plan:
        """Plan and publish; not a checkpoint, unless what is vacated has to make room first."""

        def attempt() -> _Outcome:
            planned = self._planned(plan)
            if not isinstance(planned, Plan):
                return planned
            return planned, self._publish(planned, self._vacated)

        outcome = await self._step(attempt)
        while not isinstance(outcome, tuple):
            await self._wait_for(outcome)
            outcome = await self._step(attempt)
        return outcome[0]

    def _publish(self, plan: Plan, waiting: list[_Unsettled]) -> Drain[VMA] | None:
        """Make a plan visible, and finish it when it settles.

        Args:
            plan: What to do.
            waiting: Where its zapped ranges stand until then.

        Returns:
            The drain that tells when it has settled; None if nothing changes.
        """
        if plan.edit is None:
            return None
        unsettled = self._stand(plan, waiting)
        self._moving.extend(plan.moves)
        leaving = self._usage_within(plan.zap) if waiting is self._vacated else NOTHING
        self._account(plan)
        self._usage = self._usage.plus(leaving)

        def settle() -> None:
            for start, end in plan.zap:
                self.page_table.zap(start, end)
            for move in plan.moves:
                self._move_pages(move)
            for standing, ranges in unsettled:
                standing.remove(ranges)
            for start, end in plan.restrict:
                self.page_table.restrict(start, end, plan.rights)
            self._usage = self._usage.minus(leaving)

        drain = self._map.publish(plan.edit, index=plan.index, cleanup=settle)
        for _, ranges in unsettled:
            ranges.drain = drain
        self._edits += 1
        self._drains += not drain.done
        return drain

    def _stand(
        self, plan: Plan, waiting: list[_Unsettled]
    ) -> list[tuple[list[_Unsettled], _Unsettled]]:
        """Let the ranges of a plan be vacated or reserved; return what is where."""
        vacated: list[Span] = []
        reserved: list[Span] = []
        (vacated if waiting is self._vacated else reserved).extend(plan.zap)
        for move in plan.moves:
            (reserved if move.stays else vacated).append((move.start, move.end))
            reserved.append((move.to, move.to_end))
        pairs = ((self._vacated, vacated), (self._reserved, reserved))
        unsettled = [(standing, _Unsettled(spans)) for standing, spans in pairs if spans]
        for standing, ranges in unsettled:
            standing.append(ranges)
        return unsettled

    def _usage_within(self, spans: Iterable[tuple[int, int]]) -> Usage:
        """Return what is mapped there counts for."""
        index = self._map.index
        return usage_of(
            (max(r.start, start), min(r.end, end), r.payload.flags)
            for start, end in spans
            for r in index.overlapping(start, end)
        )

    def _account(self, plan: Plan) -> None:
        """Count what a plan maps and unmaps."""
        assert plan.edit is not None
        new, old = plan.edit.new, plan.edit.old
        there = usage_of_regions(new).minus(usage_of_regions(old)).plus(plan.miscounted)
        self._miscounted = self._miscounted.plus(plan.miscounted)
        promised = 0
        mapped = Counter(r.payload.file for r in new)
        mapped.subtract(r.payload.file for r in old)
        for file, more in mapped.items():
            if file is not None and file.promised:
                before = self._shared[file]
                self._shared[file] = after = before + more
                promised += file.promised * ((after > 0) - (before > 0))
                if not after:
                    del self._shared[file]
        self._note_mappings(old, new)
        self._usage = self._usage.plus(there).plus(Usage(committed=promised))

    def _note_mappings(self, old: Iterable[Region[VMA]], new: Iterable[Region[VMA]]) -> None:
        for region in old:
            if (file := region.payload.file) is not None:
                del self._mappings[file][region.start]
                if not self._mappings[file]:
                    del self._mappings[file]
        for region in new:
            if (file := region.payload.file) is not None:
                self._mappings.setdefault(file, {})[region.start] = region

    def _move_pages(self, move: Move) -> None:
        self._moving.remove(move)
        self.page_table.zap(move.to, move.to_end)
        self.page_table.move(move.start, move.end, move.to)
        if not move.vma.is_private:
            return
        # A fault that held the source may have written there first after it was published as moved.
        for address, entry in self.page_table.items(move.to, move.to_end):
            region = self.vma_lookup(address)
            if entry.rights & PROT_WRITE and region and region.payload.file is move.vma.file:
                self.prepare_anon(region, address)

    # Faulting --------------------------------------------------------------------------------

    async def fault(self, address: int, access: int = PROT_READ) -> None:
        """Handle a page fault: have the page in the page table, with the right to *access* it.

        If nothing is mapped there, but the first mapping above is a stack (MAP_GROWSDOWN), it grows
        down to the address, unless the limits forbid it or it would come within 256 pages of
        what is mapped below it. Always a checkpoint. A cancelled fault holds nothing; a page that
        it was reading is read by the next task that waits for it. The page may be gone again when the caller looks;
        `read` and `write` then fault again, as a processor would.

        Args:
            address: The byte that is touched.
            access: PROT_READ, PROT_WRITE or PROT_EXEC.

        Raises:
            SegmentationFault: MAPERR if nothing is mapped there and no stack can grow there,
                ACCERR if the mapping forbids the access.
            BusError: Beyond the end of the file, or if the page can't be read.
            ClosedResourceError: After `aclose`.
        """
        await self.fault_in(address, access, may_grow=True)

    async def fault_in(self, address: int, access: int, *, may_grow: bool = False) -> None:
        """Handle a fault on behalf of a call, as Linux's ``get_user_pages``: no stack grows.

        Everything else is as for `fault`.
        """
        if self._lock is None:
            await self._fault_speculative(address, access, may_grow)
        elif self.locking == "mmap_lock":
            await self._fault_locked(self._lock, address, access, may_grow)
        else:
            await self._fault_retrying(self._lock, address, access, may_grow)

    async def _fault_speculative(self, address: int, access: int, may_grow: bool) -> None:  # noqa: FBT001
        await checkpoint()
        while True:
            if self._reserved:
                await self._successor(address, address + 1)
            region = self.find_vma_speculative_nowait(address)
            if region is not None:
                break
            await self._expand_stack(address, access, may_grow)
        try:
            await self._handle(region, address, access)
        finally:
            region.guard.release()

    async def _fault_locked(
        self,
        lock: ReadWriteLock,
        address: int,
        access: int,
        may_grow: bool,  # noqa: FBT001
    ) -> None:
        while True:
            async with lock.read():
                region = await self._locked_lookup(address)
                if region is not None:
                    await self._handle(region, address, access)
                    return
            await self._expand_stack(address, access, may_grow)

    async def _fault_retrying(
        self,
        lock: ReadWriteLock,
        address: int,
        access: int,
        may_grow: bool,  # noqa: FBT001
    ) -> None:
        vma, fetched, is_major = None, None, False
        while True:
            async with lock.read():
                region = await self._locked_lookup(address)
                payload = None if region is None else region.payload
                # What was read without the lock belongs to the VMA of then, if it is still there.
                if payload is not vma:
                    vma, fetched = payload, None
                fetch = (
                    None
                    if region is None
                    else handle_mm_fault(self, region, address, access, fetched)
                )
            if region is None:
                await self._expand_stack(address, access, may_grow)
            elif fetch is None:
                self._count(is_major=is_major)
                return
            else:
                is_major = True
                fetched = await _fetched(fetch, address, access)
                self._retries += 1

    async def _locked_lookup(self, address: int) -> Region[VMA] | None:
        if self._reserved:
            await self._successor(address, address + 1)
        return self.vma_lookup(address)

    async def _expand_stack(self, address: int, access: int, may_grow: bool) -> None:  # noqa: FBT001
        """Let the stack above grow down to where nothing was mapped; then the caller looks again.

        Not a checkpoint without a lock, if there is nothing to wait for.
        """
        attempt = partial(self._try_expand, address, access, may_grow)
        while (vacated := await self._step(attempt)) is not None:
            await self._wait_for(vacated)

    def _try_expand(self, address: int, access: int, may_grow: bool) -> Drain[VMA] | None:  # noqa: FBT001
        """Grow the stack, or return what has to settle before it can be tried again."""
        layout = self._current_layout()
        if layout.index.find(address) is not None:
            return None
        if not may_grow:
            raise SegmentationFault(address, access, "MAPERR")
        try:
            plan = self._planned(partial(plan_growth, address=address))
        except OSError as refusal:
            stack = layout.index.find_next(address)
            assert stack is not None
            # As Linux does, also for a read: `expand_downwards` looks at the limits afterwards.
            self.prepare_anon(stack, stack.start)
            raise SegmentationFault(address, access, "MAPERR") from refusal
        if not isinstance(plan, Plan):
            return plan
        if plan.edit is None:
            raise SegmentationFault(address, access, "MAPERR")
        (stack,) = plan.edit.old
        self.prepare_anon(stack, stack.start)
        outcome = self._publish_placed(plan)
        # The drain of the growth itself is not waited for: a stack that grows takes nothing away.
        return None if isinstance(outcome, tuple) else outcome

    async def _handle(self, region: Region[VMA], address: int, access: int) -> None:
        """Handle a fault on a VMA that stays; not a checkpoint if no I/O is needed."""
        fetch = handle_mm_fault(self, region, address, access)
        self._count(is_major=fetch is not None)
        while fetch is not None:
            fetched = await _fetched(fetch, address, access)
            if self._closed and self._lock is not None:
                # Under a lock nobody holds the VMA, so `aclose` has not waited for this fault.
                raise _closed_error()
            fetch = handle_mm_fault(self, region, address, access, fetched)

    def _count(self, *, is_major: bool) -> None:
        if is_major:
            self._major += 1
        else:
            self._minor += 1

    async def _successor(self, start: int, end: int) -> None:
        """Wait while some of the range is reserved; not a checkpoint if nothing is."""
        while (range_ := _covering(self._reserved, start, end)) is not None:
            await self._wait_for(range_.drain)

    async def fetch_anonymous(self, vma: VMA, address: int) -> bytes:
        """Ask the pager for an anonymous page, once for all tasks that fault on it."""
        assert self.pager is not None
        index = vma.page_index(address)
        return await self._anonymous.get((vma.anon, index), partial(self.pager.fetch, index))

    def prepare_anon(self, region: Region[VMA], address: int) -> None:
        """Give the VMA its anonymous identity, at its first private write.

        That is the VMA which is published at the address: an edit may have cut the held one.
        Under a neighbour that differs in nothing but protection it becomes the neighbour's
        identity, so that the two can merge later; the upper neighbour is asked first.
        """
        if not region.is_current:
            if _covering(self._reserved, address, address + 1) is not None:
                return
            current = self.vma_lookup(address)
            if current is None:
                return
            region = current
        vma = region.payload
        if vma.anon.identity is not None:
            return
        for neighbour in (self.vma_lookup(region.end), self.vma_lookup(region.start - 1)):
            if neighbour is not None and vma.may_share_anon(neighbour.payload):
                vma.anon.identity = neighbour.payload.anon.identity
                return
        vma.anon.identity = object()

    def unmap_mapping_range(
        self, file: MappedFile, first: int, last: int | None = None, *, even_cows: bool = True
    ) -> None:
        """Drop the entries for pages of a file.

        Args:
            file: Which.
            first: Its first page.
            last: The first page after them; None for all that follow.
            even_cows: Private copies too.
        """
        mapped = [(r.start, r.end, r.payload) for r in self._mappings.get(file, {}).values()]
        # Pages on their way to another place would arrive there afterwards.
        mapped += [(m.start, m.end, m.vma) for m in self._moving if m.vma.file is file]
        for begin, end, vma in mapped:
            start = max(begin, vma.origin + (first << PAGE_SHIFT))
            if last is not None:
                end = min(end, vma.origin + (last << PAGE_SHIFT))  # noqa: PLW2901
            self._zap_mapping(vma, start, max(start, end), even_cows=even_cows)

    def _zap_mapping(self, vma: VMA, start: int, end: int, *, even_cows: bool) -> None:
        if even_cows or not vma.is_private:
            self.page_table.zap(start, end)
            return
        assert vma.file is not None
        for address, entry in list(self.page_table.items(start, end)):
            if entry.page is vma.file.cached(vma.page_index(address)):
                self.page_table.zap(address, address + PAGE_SIZE)

    # Accessing memory ------------------------------------------------------------------------

    async def read(self, address: int, n: int) -> bytes:
        """Read *n* bytes, faulting pages in as a processor would.

        A checkpoint comes first. Bytes of one page are read in one step, those of several pages
        are not.

        Raises:
            SegmentationFault: See `fault`.
            BusError: See `fault`.
            ClosedResourceError: After `aclose`.
        """
        await checkpoint()
        data = bytearray()
        for start, end in _by_page(address, n):
            page = await self._page(start, PROT_READ)
            data += page.data[start % PAGE_SIZE :][: end - start]
        return bytes(data)

    async def write(self, address: int, data: bytes) -> None:
        """Write bytes, faulting pages in as a processor would.

        A checkpoint comes first. Bytes of one page are written in one step. A call that is
        cancelled or fails has written a part of the pages, from the first on.

        Raises:
            SegmentationFault: See `fault`.
            BusError: See `fault`.
            ClosedResourceError: After `aclose`.
        """
        await checkpoint()
        for start, end in _by_page(address, len(data)):
            page = await self._page(start, PROT_WRITE)
            within = start % PAGE_SIZE
            page.data[within : within + end - start] = data[start - address : end - address]
            page.is_dirty = True

    async def _page(self, address: int, access: int) -> Page:
        """Return a page that may be accessed, until the next await."""
        while (entry := self.page_table.get(address)) is None or not entry.rights & access:
            await self.fault(address, access)
        return entry.page

    # Showing and closing ---------------------------------------------------------------------

    def maps(self) -> str:
        """Return the layout as ``/proc/<pid>/maps`` would show it."""
        return format_maps(map(self._line_of, self._map.index))

    def _line_of(self, region: Region[VMA]) -> MapsLine:
        line = line_of(region)
        is_heap = region.start < self._brk and region.end > self._start_brk
        return replace(line, name=HEAP) if is_heap and not line.name else line

    def statistics(self) -> AddressSpaceStatistics:
        """Return what has happened so far."""
        return AddressSpaceStatistics(
            minor_faults=self._minor,
            major_faults=self._major,
            speculative_hits=self._hits,
            speculative_misses=self._misses,
            edits=self._edits,
            drains=self._drains,
            unsettled=self._map.statistics().unsettled,
            waits=self._waits,
            retries=self._retries,
            vmas=len(self._map.index),
            pages=len(self.page_table),
            total_vm=self._usage.total_vm,
            data_vm=self._usage.data_vm,
            locked_vm=self._usage.locked_vm,
            committed=self._usage.committed,
        )

    async def aclose(self) -> None:
        """Exit: unmap everything, wait until nobody holds any of it, and store changed pages.

        That is Linux's ``exit_mmap``, and as there it waits for no lock. From the first step on
        nothing is found, and every call and access raises. Faults that hold a VMA end as they would
        have; those that hold only a lock raise when they have their page. Earlier changes settle
        first. When it returns, `statistics` has no VMAs, no pages, nothing unsettled and nothing
        accounted, and pages that a child shares count one less.

        Always a checkpoint; closing twice is no error. If it is cancelled the space stays closed
        and settles by itself; changed pages stay with their files until `MappedFile.flush`.

        Raises:
            OSError: What a file's pager raises.
        """
        everything = tuple(self._map.index)
        if everything:
            spans = tuple((r.start, r.end) for r in everything)
            edit = Edit(everything, (), self._map.index.version)
            self._publish(Plan(edit, zap=spans), self._vacated)
        self._closed = True
        self._usage = self._usage.minus(self._miscounted)
        self._miscounted = NOTHING
        await self._gone(0, TASK_SIZE, everything, self._map.aclose)

    async def __aenter__(self) -> Self:
        await checkpoint()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        if self._closed:
            return f"<AddressSpace at {id(self):#x}, closed>"
        kinds = ", ".join(f"{t.kind} {size_text(t.size)}" for t in self._pictured().totals())
        return (
            f"<AddressSpace at {id(self):#x}, {self.locking}: {len(self._map.index)} VMAs"
            f"{f' ({kinds})' if kinds else ''}, {len(self.page_table)} pages, "
            f"{sum(len(x.spans) for x in (*self._vacated, *self._reserved))} unsettled>"
        )

    def picture(self, *, rows: int | None = None) -> MapPicture:
        """Return the layout as a picture, with what is in the page table as resident.

        ``print(space)`` prints it, and `rich` prints a space as it, in colour.

        Args:
            rows: Fold the smallest mappings until there are no more lines than this.
        """
        resident = {
            region.start: PAGE_SIZE
            * sum(
                entry.page is not ZERO_PAGE
                for _, entry in self.page_table.items(region.start, region.end)
            )
            for region in self._map.index
        }
        return self._pictured(resident, rows)

    def _pictured(
        self, resident: Mapping[int, int] | None = None, rows: int | None = None
    ) -> MapPicture:
        lines = list(map(self._line_of, self._map.index))
        title = f"address space, {'closed' if self._closed else self.locking}"
        return MapPicture(lines=lines, resident=resident or {}, title=title, rows=rows)

    def __str__(self) -> str:
        return self.picture().text().rstrip("\n")

    def __rich__(self) -> MapPicture:
        return self.picture()


async def _fetched(
    fetch: Callable[[], Awaitable[bytes | None]], address: int, access: int
) -> bytes | None:
    try:
        return await fetch()
    except OSError as error:
        raise BusError(address, access, "its page can't be read") from error


def _by_page(address: int, n: int) -> Iterator[tuple[int, int]]:
    end = address + n
    while address < end:
        following = min(end, (address // PAGE_SIZE + 1) * PAGE_SIZE)
        yield address, following
        address = following


def _closed_error() -> anyio.ClosedResourceError:
    return anyio.ClosedResourceError("this AddressSpace was closed by aclose()")
