"""A recording: one text with everything that a replay needs.

It has a few lines of header (``aspf recording 1``, ``command``, ``system``, ``process``, ``clock``,
``limits``) and four sections: ``[maps]``, the map just after exec; ``[calls]``, what strace wrote; ``[faults]``,
what perf script wrote, which may be empty; ``[final]``, the map before the end. The sections are the
tools' own words, so that a recording can be put together by hand.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, final

from aspf.mm._limits import Limits
from aspf.mm._proc_maps import MapsLine, parse_maps

from ._perf import RecordedFault, parse_perf
from ._strace import RecordedCall, RecordedSignal, parse_strace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ("Event", "Recording", "Segment", "parse_recording")

Event: TypeAlias = RecordedCall | RecordedFault

UNLIMITED: Final = Limits(locked=None)
MAGIC: Final = "aspf recording 1"
SECTIONS: Final = ("maps", "calls", "faults", "final")
MAKES_TASKS: Final = frozenset({"clone", "clone3", "fork", "vfork"})
# Calls that are recorded for what they tell: who shares the memory, and how large a segment is.
# Every other call is replayed, or counted as left out: so one that is new to strace is seen too.
TOLD: Final = MAKES_TASKS | {"execve", "execveat", "exit_group", "shmget"}
# Of prctl, what is about memory.
PRCTL: Final = ("PR_SET_VMA", "PR_SET_MM", "PR_SET_MEMORY_MERGE")
SEGMENT: Final = re.compile(r"/SYSV([0-9a-f]{8}) \(deleted\)")


@final
@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of System V shared memory.

    Attributes:
        key: By which programs find it; 0 for a private one.
        size: In bytes.
    """

    key: int
    size: int


@final
@dataclass(frozen=True, slots=True)
class Recording:
    """What a program did to its memory, from exec to its end.

    Attributes:
        command: What was run.
        system: On which kernel.
        maps: Its map just after exec.
        final: Its map before the end; empty if that is not known.
        events: Calls and faults of its threads, in order.
        signals: Accesses that the kernel refused.
        threads: How many threads made calls or faults.
        start_brk: Where its heap begins; None if it has none.
        segments: By number, those of System V shared memory whose size is known.
        limits: What it was allowed to have; nothing is limited if that is not known.
    """

    command: str
    system: str
    maps: tuple[MapsLine, ...]
    final: tuple[MapsLine, ...]
    events: tuple[Event, ...]
    signals: tuple[RecordedSignal, ...]
    threads: int
    start_brk: int | None
    segments: Mapping[int, Segment] = field(default_factory=dict)
    limits: Limits = UNLIMITED

    @property
    def calls(self) -> list[RecordedCall]:
        """The calls."""
        return [event for event in self.events if isinstance(event, RecordedCall)]

    @property
    def faults(self) -> list[RecordedFault]:
        """The faults."""
        return [event for event in self.events if isinstance(event, RecordedFault)]

    @property
    def mmap_base(self) -> int | None:
        """Where the kernel's search for room began: at the end of what exec mapped below the stack.

        None if the map has no stack to tell it by.
        """
        stack = [line.start for line in self.maps if line.name == "[stack]"]
        below = [line.end for line in self.maps if stack and line.end <= stack[0]]
        return max(below, default=None)


def parse_recording(text: str) -> Recording:
    """Read a recording.

    Only what belongs to the first process is kept: its threads' calls after the map was taken, not
    those of programs that it has started.

    Raises:
        ValueError: If it is no recording, a line of it is damaged, or the program replaced itself
            by another one (exec).
    """
    first, _, rest = text.partition("\n")
    if first != MAGIC:
        msg = f"not a recording of aspf trace record: it begins with {first[:60]!r}"
        raise ValueError(msg)
    header, *parts = re.split(r"^\[(maps|calls|faults|final)\]\n", rest, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    missing = [name for name in SECTIONS if name not in sections]
    if missing:
        msg = f"the recording lacks its section [{missing[0]}]; it was cut off, record again"
        raise ValueError(msg)
    values = dict(line.split(" ", 1) for line in header.splitlines() if " " in line)
    process = int(values.get("process", "0"))
    calls, signals = parse_strace(sections["calls"].split("\n"))
    process = process or (calls[0].tid if calls else 0)
    threads, start = _threads(calls, process)
    clock = int(values.get("clock", "0"))
    faults = [f._replace(time=f.time + clock) for f in parse_perf(sections["faults"].split("\n"))]
    events: list[Event] = [call for call in calls if _is_of_memory(call)]
    events += faults
    mine = [event for event in events if start < event.time < threads.get(event.tid, 0)]
    mine.sort(key=lambda event: event.time)
    heap = next((c.result for c in calls if c.tid == process and c.name == "brk"), None)
    final_maps = parse_maps(sections["final"])
    return Recording(
        command=values.get("command", ""),
        system=values.get("system", ""),
        maps=tuple(parse_maps(sections["maps"])),
        final=tuple(final_maps),
        events=tuple(mine),
        signals=tuple(s for s in signals if s.tid in threads),
        threads=len({event.tid for event in mine}),
        start_brk=heap,
        segments=_segments(calls, final_maps),
        limits=_limits(values["limits"]) if "limits" in values else UNLIMITED,
    )


def _is_of_memory(call: RecordedCall) -> bool:
    if call.name == "prctl":
        return call.arguments[0].startswith(PRCTL)
    return call.name not in TOLD


def _segments(calls: Iterable[RecordedCall], final_maps: Iterable[MapsLine]) -> dict[int, Segment]:
    """Return the segments that were made, or were still attached at the end."""
    found: dict[int, Segment] = {}
    for line in final_maps:
        if (name := SEGMENT.fullmatch(line.name)) is not None:
            # Its number stands for the inode. Of one in pieces, the last page tells the size.
            size = line.offset + line.end - line.start
            known = found.get(line.inode, Segment(0, 0))
            found[line.inode] = Segment(int(name[1], 16), max(size, known.size))
    for call in calls:
        # Size 0 asks for one that is there already.
        if call.name == "shmget" and not call.error and (size := int(call.arguments[1], 0)):
            key = call.arguments[0]
            found[call.result] = Segment(0 if key == "IPC_PRIVATE" else int(key, 0), size)
    return found


def _limits(text: str) -> Limits:
    """Read what ``limits`` says: address space, data, locked memory and stack."""
    words = text.split()
    if len(words) != 4 or not all(word == "unlimited" or word.isdecimal() for word in words):
        msg = f"its limits are not four sizes (AS DATA MEMLOCK STACK): {text!r}"
        raise ValueError(msg)
    address_space, data, locked, stack = (
        None if word == "unlimited" else int(word) for word in words
    )
    return Limits(address_space=address_space, data=data, locked=locked, stack=stack)


def _threads(calls: Sequence[RecordedCall], process: int) -> tuple[dict[int, float], int]:
    """Return until when each thread shared the process's memory, and when its map was taken."""
    threads, start = {process: math.inf}, 0
    for call in calls:
        if call.time > threads.get(call.tid, 0):
            continue
        if call.name.startswith("execve") and not call.error:
            if call.tid != process:
                threads[call.tid] = call.time  # a vfork's child: it has its own memory now
            elif start:
                msg = f"the program has replaced itself: {call}; record what it runs instead"
                raise ValueError(msg)
        elif call.name in MAKES_TASKS and call.result > 0:
            if call.name == "vfork" or any("CLONE_VM" in part for part in call.arguments):
                threads[call.result] = math.inf
        elif call.tid == process and call.name == "brk" and not start:
            start = call.time
    return threads, start
