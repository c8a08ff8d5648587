"""What strace writes of memory calls, read.

The lines are those of ``strace -f -y -ttt`` (see `aspf.mm.trace.record` for the whole command): who,
when, and the call with its result, which may come in two halves if another thread came between.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("RecordedCall", "RecordedSignal", "parse_strace")

HEAD: Final = re.compile(r"(?:\[pid +)?([0-9]+)\]? +([0-9]+)\.([0-9]+) (.*)")
CALL: Final = re.compile(r"([a-z0-9_]+)\((.*)\) += (\S+)(?: ([A-Z]+) .*| .*)?")
BEGUN: Final = re.compile(r"([a-z0-9_]+)\((.*?),? *<unfinished \.\.\.>")
RESUMED: Final = re.compile(r"<\.\.\. ([a-z0-9_]+) resumed>,? ?(.*)")
FATAL: Final = re.compile(
    r"--- (SIGSEGV|SIGBUS) \{.*si_code=(\w+), si_addr=(NULL|0x[0-9a-f]+).*\} ---"
)
# What strace says of the tracee itself, and a call that never came back.
NOTE: Final = re.compile(r"---.*---|\+\+\+.*\+\+\+|[a-z0-9_]+\(.*\) += \?.*|[a-z0-9_]+\(.*")
FIRST: Final = "brk"


@final
class RecordedCall(NamedTuple):
    """A call of a recorded program.

    ``time`` is when it began, in nanoseconds, and ``end`` when it came back; the same if nothing of
    another thread came between.
    """

    time: int
    tid: int
    name: str
    arguments: tuple[str, ...]
    result: int
    error: str
    """The name of its errno; empty if it succeeded."""
    end: int

    def __str__(self) -> str:
        result = f"-1 {self.error}" if self.error else f"{self.result:#x}"
        return f"{self.name}({', '.join(self.arguments)}) = {result}"


@final
class RecordedSignal(NamedTuple):
    """A SIGSEGV or SIGBUS that a fault brought: an access that the kernel refused."""

    time: int
    tid: int
    address: int
    code: str
    """``MAPERR``, ``ACCERR`` or ``ADRERR``."""


def parse_strace(text: Iterable[str]) -> tuple[list[RecordedCall], list[RecordedSignal]]:
    """Parse the lines of strace.

    Returns:
        The calls that came back, in the order in which they began, and the signals.

    Raises:
        ValueError: If a line is not of that form; it names the line and the option.
    """
    calls: list[RecordedCall] = []
    signals: list[RecordedSignal] = []
    begun: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        head = HEAD.fullmatch(line.rstrip("\n"))
        if head is None:
            msg = f"line {number} of strace has no thread or no time; run strace -f -ttt: {line!r}"
            raise ValueError(msg)
        tid, body = int(head[1]), head[4]
        time = end = int(head[2]) * 10**9 + int(f"{head[3]:0<9}")
        if (half := BEGUN.fullmatch(body)) is not None:
            begun[tid] = time, f"{half[1]}({half[2]}"
            continue
        if (half := RESUMED.fullmatch(body)) is not None and tid in begun:
            end = time
            time, first = begun.pop(tid)
            between = ", " if not first.endswith("(") and not half[2].startswith(")") else ""
            body = f"{first}{between}{half[2]}"
        if (call := CALL.fullmatch(body)) is not None and call[3] != "?":
            arguments = tuple(_arguments(call[2]))
            result, error = _number(call[3]), call[4] or ""
            calls.append(RecordedCall(time, tid, call[1], arguments, result, error, end))
        elif (fatal := FATAL.fullmatch(body)) is not None:
            address = 0 if fatal[3] == "NULL" else int(fatal[3], 16)
            signals.append(RecordedSignal(time, tid, address, fatal[2].rpartition("_")[2]))
        elif NOTE.fullmatch(body) is None and half is None:
            msg = f"line {number} of strace is no call, no signal and no end: {line!r}"
            raise ValueError(msg)
    return sorted(calls, key=lambda call: call.time), signals


def _number(text: str) -> int:
    """Read a result; strace adds the path to one that is a file descriptor."""
    return int(text.partition("<")[0], 0)


def _arguments(text: str) -> list[str]:
    """Split at the commas that stand in no bracket, no quotes and no path of a descriptor."""
    found: list[str] = []
    depth, start, is_quoted, position = 0, 0, False, 0
    while position < len(text):
        letter = text[position]
        if is_quoted:
            if letter == "\\":
                position += 1
            is_quoted = letter != '"'
        elif letter == '"':
            is_quoted = True
        elif letter == "<" and position and text[position - 1].isdigit():
            # A path ends with ">"; strace writes one inside it as \76.
            position = text.find(">", position)
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and not depth:
            found.append(text[start:position].strip())
            start = position + 1
        position += 1
    last = text[start:].strip()
    return [*found, last] if last else found
