"""Replay what a real program did to its memory, and compare the map at the end with the kernel's.

Calls are made in their order, each when the one before has returned, as the kernel's lock has it.
Faults are dealt to tasks, which take their time while calls go on. Only a call that a fault must
precede waits for it: one that changes the pages of the fault, for in the program too no thread
touches what another one is unmapping.

Where the kernel chose an address, the address space chooses one by its own search, and is corrected
if it chose another one. So the replay says how well the search is modelled, and one wrong choice
does not spoil what follows.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, final

import anyio

from aspf._errors import BusError, SegmentationFault
from aspf.mm import _constants as constants
from aspf.mm._address_space import AddressSpace
from aspf.mm._constants import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    TASK_SIZE,
)
from aspf.mm._file import MappedFile, ZeroPager
from aspf.mm._map_diff import MapsChange, cuts_apart, diff_maps
from aspf.mm._multi_fault import LOCKINGS, FaultRow, Slow, percentile
from aspf.mm._pieces import page_align
from aspf.mm._plan import MmapCall, place
from aspf.mm._proc_maps import format_maps, parse_maps

from ._perf import RecordedFault
from ._strace import RecordedCall

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aspf.mm._address_space import Locking
    from aspf.mm._proc_maps import MapsLine

    from ._recording import Event, Recording

__all__ = ("Difference", "Replay", "Replayed")

#: Flags of mmap that change no map: the kernel ignores them, or takes them for a hint.
WITHOUT_EFFECT: Final = {
    "MAP_DENYWRITE",
    "MAP_EXECUTABLE",
    "MAP_FILE",
    "MAP_NONBLOCK",
    "MAP_POPULATE",
    "MAP_STACK",
}
#: What a file, not a map, is the reason of.
OF_THE_FILE: Final = {"EACCES", "EBADF", "ENODEV", "EPERM", "ETXTBSY"}
ROUNDS: Final = 3
DELETED: Final = " (deleted)"
# Where the kernel keeps System V segments.
SHM_DEVICE: Final = (0, 1)
SHARED_MEMORY: Final = "/dev/zero (deleted)"


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the address space answered otherwise than the kernel.

    Attributes:
        event: The call or the fault, as recorded.
        answer: What the address space answered.
    """

    event: str
    answer: str

    def __str__(self) -> str:
        return f"{self.event}: here {self.answer}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay under one locking came to.

    Attributes:
        row: Faults, times and waits, as `aspf faults` has them.
        calls: Calls that were made.
        chosen: Addresses that the kernel had chosen.
        predicted: How many of them the address space chose too.
        faults: Faults that were handled.
        refused: Faults that the kernel refused, and so did the address space.
        differences: Answers that were not the kernel's; wrong addresses are not among them.
        misplaced: Addresses that it chose otherwise.
        unknown: Calls that were left out: how many of each name.
        changes: Pages at which the map at the end is not the kernel's.
        cuts: Where only one of the two maps has equal neighbours apart.
        maps: The map at the end.
        final: The kernel's, made comparable: without what is no difference of layout.
    """

    row: FaultRow
    calls: int
    chosen: int
    predicted: int
    faults: int
    refused: int
    differences: tuple[Difference, ...]
    misplaced: tuple[Difference, ...]
    unknown: Mapping[str, int]
    changes: tuple[MapsChange, ...]
    cuts: tuple[int, ...]
    maps: tuple[MapsLine, ...]
    final: tuple[MapsLine, ...]

    @property
    def agrees(self) -> bool:
        """Whether every answer and every page was the kernel's."""
        return not (self.differences or self.changes)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Replay a recording under each locking in turn.

    Attributes:
        recording: What to replay.
        tasks: How many tasks fault.
        io: Seconds that the pager takes for a page; 0 for none.
        slow: How many times longer one page in a hundred takes.
        rounds: How often each locking is run; the median counts.
        lockings: Which, in the order of the rows; ratios are to the first.
    """

    recording: Recording
    tasks: int = 8
    io: float = 0.0
    slow: float = 50.0
    rounds: int = ROUNDS
    lockings: tuple[Locking, ...] = LOCKINGS

    async def run(
        self,
        progress: Callable[[float], None] = lambda _: None,
        *,
        clock: Callable[[], float] = perf_counter,
    ) -> list[Replayed]:
        """Replay, and compare.

        A cancelled call has closed its address spaces.

        Args:
            progress: Called with the finished part, from 0 to 1.
            clock: What the time is, in seconds.
        """
        runs: dict[Locking, list[_Run]] = {locking: [] for locking in self.lockings}
        for number in range(self.rounds):
            for step, locking in enumerate(self.lockings):
                run = _Run(self, locking, clock)
                await run.run()
                runs[locking].append(run)
                progress((number * len(runs) + step + 1) / (self.rounds * len(runs)))
        first = [run.rate for run in runs[self.lockings[0]]]
        return [_outcome(runs[locking], first) for locking in self.lockings]


def _outcome(runs: Sequence[_Run], baseline: Sequence[float]) -> Replayed:
    last = runs[-1]
    statistics = last.space.statistics()
    seconds = [second for run in runs for second in run.seconds]
    writes = [second for run in runs for second in run.writes]
    row = FaultRow(
        locking=last.space.locking,
        faults=statistics.minor_faults + statistics.major_faults,
        faults_per_second=median(run.rate for run in runs),
        speculative_hits=statistics.speculative_hits,
        retries=statistics.retries,
        waits=statistics.waits,
        p50=percentile(seconds, 50),
        p99=percentile(seconds, 99),
        writes=len(last.writes),
        write_p99=percentile(writes, 99),
        ratio=median(
            run.rate / other if other else math.nan
            for run, other in zip(runs, baseline, strict=True)
        ),
    )
    maps, final = _comparable(last.maps, last.recording.final)
    return Replayed(
        row=row,
        calls=last.calls,
        chosen=last.chosen,
        predicted=last.chosen - len(last.misplaced),
        faults=last.faults,
        refused=last.refused,
        differences=tuple(last.differences),
        misplaced=tuple(last.misplaced),
        unknown=last.unknown,
        changes=tuple(diff_maps(maps, final)) if final else (),
        cuts=tuple(cuts_apart(maps, final)) if final else (),
        maps=tuple(maps),
        final=tuple(final),
    )


@final
@dataclass(slots=True, eq=False)
class _Pending:
    """A fault that a task has, or will have."""

    fault: RecordedFault
    done: anyio.Event = field(default_factory=anyio.Event)


@final
class _Run:
    """One replay under one locking."""

    def __init__(self, replay: Replay, locking: Locking, clock: Callable[[], float]) -> None:
        self.recording = recording = replay.recording
        self._tasks = replay.tasks
        self._clock = clock
        self._slow = (replay.io, replay.slow) if replay.io else None
        self._files: dict[str, MappedFile] = {}
        for line in (*recording.final, *recording.maps):
            if line.inode:
                file = self._file(line.name, line.device, line.inode)
                self._files.setdefault(line.name, file)
                self._files.setdefault(line.name.removesuffix(DELETED), file)
        pager = None if self._slow is None else Slow(*self._slow)
        self.space = AddressSpace.from_maps(
            format_maps(recording.maps),
            files=self._files,
            locking=locking,
            pager=pager,
            start_brk=recording.start_brk,
            mmap_base=recording.mmap_base,
            limits=recording.limits,
        )
        # By number; the attached pieces of one are mappings of its file.
        self._segments = {
            number: MappedFile(
                ZeroPager(),
                name=f"/SYSV{segment.key:08x}{DELETED}",
                is_writable=True,
                device=SHM_DEVICE,
                inode=number,
            )
            for number, segment in recording.segments.items()
        }
        # Invariant: by page number; faults that were dealt and are not done.
        self._pending: dict[int, _Pending] = {}
        self._refusals = {(s.address >> 12, s.code) for s in recording.signals}
        self.calls = self.chosen = self.faults = self.refused = 0
        self.differences: list[Difference] = []
        self.misplaced: list[Difference] = []
        self.unknown: dict[str, int] = {}
        self.seconds: list[float] = []
        self.writes: list[float] = []
        self.rate = 0.0
        self.maps: list[MapsLine] = []

    # A file system without a device of its own, such as tmpfs, has major number 0.
    def _file(self, name: str, device: tuple[int, int] = (0, 0), inode: int = 0) -> MappedFile:
        pager = ZeroPager() if self._slow is None else Slow(*self._slow)
        return MappedFile(
            pager,
            name=name,
            is_writable=True,
            device=device,
            inode=inode,
            is_huge_aligned=bool(device[0]),
        )

    async def run(self) -> None:
        started = self._clock()
        async with self.space:
            send, receive = anyio.create_memory_object_stream[_Pending](self._tasks)
            async with anyio.create_task_group() as group, receive:
                for _ in range(self._tasks):
                    group.start_soon(self._take_faults, receive.clone())
                async with send:
                    events = list(self.recording.events)
                    for number in range(len(events)):
                        event = self._next(events, number)
                        if isinstance(event, RecordedFault):
                            await self._deal(send, event)
                        else:
                            await self._call(event)
            self.rate = self.faults / max(self._clock() - started, 1e-9)
            self.maps = parse_maps(self.space.maps())

    def _next(self, events: list[Event], number: int) -> Event:
        """Return the event of that number; of calls that overlap, the one that the kernel took first.

        strace can't tell, but the addresses can: if another mmap that was under way fits the search
        for room now, and this one does not, it was first. It is moved to the front.
        """
        event = events[number]
        if not isinstance(event, RecordedCall) or event.end == event.time or self._fits(event):
            return event
        end, passed = event.end, {event.tid}
        for later in range(number + 1, len(events)):
            other = events[later]
            # It must have begun before any call that it overtakes came back.
            if other.time >= end:
                break
            if isinstance(other, RecordedCall):
                if other.tid not in passed and self._fits(other):
                    events.insert(number, events.pop(later))
                    return other
                end = min(end, other.end)
            passed.add(other.tid)
        return event

    def _fits(self, call: RecordedCall) -> bool:
        """Tell whether a call is an mmap that would be placed now where the kernel has placed it."""
        if call.name != "mmap":
            return False
        try:
            wanted = self._wanted(call)
            return (
                not wanted.flags & MAP_FIXED
                and place(self.space._current_layout(), wanted) == call.result
            )
        except (OSError, _Unknown):
            return False

    # Faults ----------------------------------------------------------------------------------

    async def _deal(self, send: Any, fault: RecordedFault) -> None:
        if fault.address >= TASK_SIZE:
            return  # the kernel's own memory
        page = fault.address // PAGE_SIZE
        if (before := self._pending.get(page)) is not None:
            await before.done.wait()
        self._pending[page] = pending = _Pending(fault)
        await send.send(pending)

    async def _take_faults(self, receive: Any) -> None:
        async with receive:
            async for pending in receive:
                await self._fault(pending.fault)
                del self._pending[pending.fault.address // PAGE_SIZE]
                pending.done.set()

    async def _fault(self, fault: RecordedFault) -> None:
        access = fault.access or self._likely(fault.address)
        started = self._clock()
        try:
            await self.space.fault(fault.address, access)
        except (SegmentationFault, BusError) as error:
            code = error.code if isinstance(error, SegmentationFault) else "ADRERR"
            if (fault.address // PAGE_SIZE, code) in self._refusals:
                self.refused += 1
            else:
                what = f"a fault at {fault.address:#x} of thread {fault.tid}"
                self.differences.append(Difference(what, str(error)))
        else:
            self.faults += 1
            self.seconds.append(self._clock() - started)

    def _likely(self, address: int) -> int:
        """Guess what a fault was that is known by its address only."""
        region = self.space.vma_lookup(address)
        return PROT_WRITE if region is not None and region.payload.allows(PROT_WRITE) else PROT_READ

    async def _settle(self, start: int, end: int) -> None:
        """Wait for the faults on pages of a range."""
        first, last = start // PAGE_SIZE, -(-end // PAGE_SIZE)
        for page in [page for page in self._pending if first <= page < last]:
            if (pending := self._pending.get(page)) is not None:
                await pending.done.wait()

    # Calls -----------------------------------------------------------------------------------

    async def _call(self, call: RecordedCall) -> None:
        make = getattr(self, f"_{call.name}", None)
        if make is None or (call.error in OF_THE_FILE and call.name in {"mmap", "shmat"}):
            name = f"{call.name} {call.arguments[0]}" if call.name == "prctl" else call.name
            self.unknown[name] = self.unknown.get(name, 0) + 1
            return
        self.calls += 1
        started = self._clock()
        try:
            answer = await make(call)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, str(error))
            if name != call.error:
                self.differences.append(Difference(str(call), str(error)))
        except _Unknown as unknown:
            self.calls -= 1
            self.unknown[str(unknown)] = self.unknown.get(str(unknown), 0) + 1
        else:
            if call.error:
                self.differences.append(Difference(str(call), "success"))
            elif answer is not None and answer != call.result:
                self.differences.append(Difference(str(call), f"{answer:#x}"))
        self.writes.append(self._clock() - started)

    async def _mmap(self, call: RecordedCall) -> int:
        return await self._map(call, self._wanted(call))

    async def _map(self, call: RecordedCall, wanted: MmapCall) -> int:
        start, size, bits = wanted.address, wanted.length, wanted.flags

        async def mmap(at: int, more: int = 0) -> int:
            return await self.space.mmap(
                at, size, wanted.prot, bits | more, wanted.file, wanted.offset
            )

        if bits & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            await self._settle(start, start + size)
            return await mmap(start)
        if call.error:
            return await mmap(start)
        address = await mmap(start)
        self.chosen += 1
        if address != call.result:
            self.misplaced.append(Difference(str(call), f"{address:#x}"))
            await self.space.munmap(address, size)
            address = await mmap(call.result, MAP_FIXED)
        return address

    def _wanted(self, call: RecordedCall) -> MmapCall:
        hint, length, prot, flags, descriptor, offset = call.arguments
        bits = _bits(flags)
        file = None if bits & MAP_ANONYMOUS else self._named(descriptor)
        return MmapCall(_number(hint), int(length, 0), _bits(prot), bits, file, int(offset, 0))

    def _named(self, descriptor: str) -> MappedFile:
        """Return the file of a descriptor, such as ``3</lib/libc.so>``."""
        name = descriptor.partition("<")[2].removesuffix(">")
        if not name:
            raise _Unknown("mmap without a path (run strace -y)")
        if name not in self._files:
            self._files[name] = self._file(name)
        return self._files[name]

    async def _shmat(self, call: RecordedCall) -> int:
        """Map a segment, as shmat does: shared, all of it, and over nothing without SHM_REMAP."""
        number, start = int(call.arguments[0], 0), _number(call.arguments[1])
        if number not in self._segments:
            raise _Unknown("shmat of a segment of unknown size")
        flags = set(call.arguments[2].split("|"))
        if start % PAGE_SIZE:
            if "SHM_RND" not in flags:
                raise OSError(errno.EINVAL, f"no page begins at {start:#x}")
            start -= start % PAGE_SIZE
        prot = PROT_READ if "SHM_RDONLY" in flags else PROT_READ | PROT_WRITE
        prot |= PROT_EXEC if "SHM_EXEC" in flags else 0
        bits = MAP_SHARED
        size = self.recording.segments[number].size
        if start:
            there = self.space.find_vma(start)
            if "SHM_REMAP" not in flags and there is not None and there.start < start + size:
                raise OSError(errno.EINVAL, f"something is mapped at {start:#x}")
            bits |= MAP_FIXED
        return await self._map(call, MmapCall(start, size, prot, bits, self._segments[number], 0))

    async def _shmdt(self, call: RecordedCall) -> None:
        """Unmap what is left of a segment that was attached at an address, pieces of others not."""
        start = _number(call.arguments[0])
        pieces = [
            region
            for region in self.space._map.index.overlapping(start, TASK_SIZE)
            if region.payload.file in self._segments.values()
            and region.payload.page_index(region.start) << PAGE_SHIFT == region.start - start
        ]
        if not pieces:
            raise OSError(errno.EINVAL, f"no segment is attached at {start:#x}")
        file = pieces[0].payload.file
        for piece in pieces:
            if piece.payload.file is file:
                await self._settle(piece.start, piece.end)
                await self.space.munmap(piece.start, piece.end - piece.start)

    async def _munmap(self, call: RecordedCall) -> None:
        start, length = map(_number, call.arguments)
        await self._settle(start, start + length)
        await self.space.munmap(start, length)

    async def _mprotect(self, call: RecordedCall) -> None:
        start, length = map(_number, call.arguments[:2])
        await self._settle(start, start + length)
        await self.space.mprotect(start, length, _bits(call.arguments[2]))

    async def _pkey_mprotect(self, call: RecordedCall) -> None:
        if _number(call.arguments[3]) not in {-1, 0}:
            raise _Unknown("pkey_mprotect with a key")
        await self._mprotect(call)

    async def _mremap(self, call: RecordedCall) -> int:
        start, old, new = map(_number, call.arguments[:3])
        flags = _bits(call.arguments[3])
        to = _number(call.arguments[4]) if len(call.arguments) > 4 else 0
        await self._settle(start, start + max(old, new))
        if flags & MREMAP_FIXED:
            await self._settle(to, to + new)
        address = await self.space.mremap(start, old, new, flags, to)
        if flags & MREMAP_MAYMOVE and not flags & MREMAP_FIXED and call.result != start:
            self.chosen += 1
        if call.error or address == call.result:
            return address
        self.misplaced.append(Difference(str(call), f"{address:#x}"))
        both = MREMAP_MAYMOVE | MREMAP_FIXED
        return await self.space.mremap(address, new, new, both, call.result)

    async def _brk(self, call: RecordedCall) -> int:
        wanted = _number(call.arguments[0])
        if wanted:
            await self._settle(wanted, page_align(await self.space.brk(0)))
        return await self.space.brk(wanted)

    async def _madvise(self, call: RecordedCall) -> None:
        start, length = map(_number, call.arguments[:2])
        advice = getattr(constants, call.arguments[2], None)
        if advice is None:
            raise _Unknown(f"madvise {call.arguments[2]}")
        await self._settle(start, start + length)
        await self.space.madvise(start, length, advice)

    async def _mlock(self, call: RecordedCall) -> None:
        await self.space.mlock(*map(_number, call.arguments))

    async def _mlock2(self, call: RecordedCall) -> None:
        start, length = map(_number, call.arguments[:2])
        await self.space.mlock(start, length, _bits(call.arguments[2]))

    async def _munlock(self, call: RecordedCall) -> None:
        await self.space.munlock(*map(_number, call.arguments))

    async def _mlockall(self, call: RecordedCall) -> None:
        await self.space.mlockall(_bits(call.arguments[0]))

    async def _munlockall(self, _: RecordedCall) -> None:
        await self.space.munlockall()

    async def _msync(self, call: RecordedCall) -> None:
        start, length = map(_number, call.arguments[:2])
        await self.space.msync(start, length, _bits(call.arguments[2]))

    async def _mincore(self, call: RecordedCall) -> None:
        await self.space.mincore(*map(_number, call.arguments[:2]))


class _Unknown(Exception):
    """A call that the address space does not know."""


def _number(text: str) -> int:
    return 0 if text == "NULL" else int(text, 0)


def _bits(text: str) -> int:
    """Read flags, as names or numbers that are joined by ``|``."""
    bits = 0
    for name in text.split("|"):
        value = getattr(constants, name, None)
        if value is not None:
            bits |= value
        elif name not in WITHOUT_EFFECT:
            try:
                bits |= int(name, 0)
            except ValueError:
                raise _Unknown(name) from None
    return bits


def _comparable(
    ours: Sequence[MapsLine], theirs: Sequence[MapsLine]
) -> tuple[list[MapsLine], list[MapsLine]]:
    """Take from two maps what is no difference of layout.

    The kernel's vsyscall page lies above every mapping. A file that was deleted after it was mapped
    is named so from then on. Shared anonymous memory has inode numbers that nobody could foresee.
    """
    theirs = [line for line in theirs if line.end <= TASK_SIZE]
    names = {line.name for line in theirs}
    renamed = {name.removesuffix(DELETED): name for name in names if name.endswith(DELETED)}
    ours = [
        replace(line, name=renamed[line.name])
        if line.name in renamed and line.name not in names
        else line
        for line in ours
    ]
    return _without_inodes(ours), _without_inodes(theirs)


def _without_inodes(lines: Sequence[MapsLine]) -> list[MapsLine]:
    return [
        replace(line, device=(0, 1), inode=1) if line.name == SHARED_MEMORY else line
        for line in lines
    ]
