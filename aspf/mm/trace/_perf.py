"""What ``perf script`` writes of page faults, read.

Two events tell of them. The tracepoints ``exceptions:page_fault_user`` and ``_kernel`` have the
processor's error code, so they know a read from a write. The software event ``page-faults``, which
needs no root, has the address only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, final

from aspf.mm._constants import PROT_EXEC, PROT_READ, PROT_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("RecordedFault", "parse_perf")

LINE: Final = re.compile(
    r"(?:.*?\s)?(?:[0-9]+/)?([0-9]+)(?:\s+\[[0-9]+\])?\s+([0-9]+)\.([0-9]+):\s+(?:[0-9]+\s+)?"
    r"([a-z_:-]+):[a-zA-Z]*:?\s+(.*)"
)
CODE: Final = re.compile(r"address=(?:0x)?([0-9a-f]+) .*error_code=(?:0x)?([0-9a-f]+)")
ADDRESS: Final = re.compile(r"([0-9a-f]+)(?:\s+([0-9a-f]+).*)?")
WRITE: Final = 0x2
FETCH: Final = 0x10


@final
class RecordedFault(NamedTuple):
    """A page fault of a recorded program.

    ``time`` is in nanoseconds; ``access`` is PROT_READ, PROT_WRITE, PROT_EXEC, or 0 if unknown.
    """

    time: int
    tid: int
    address: int
    access: int


def parse_perf(text: Iterable[str]) -> list[RecordedFault]:
    """Parse the lines of ``perf script``, as they come.

    Raises:
        ValueError: If a line is not of that form; it names the line.
    """
    return [_fault(number, line) for number, line in enumerate(text, 1) if line.strip()]


def _fault(number: int, line: str) -> RecordedFault:
    match = LINE.fullmatch(line.rstrip("\n"))
    code = match and CODE.fullmatch(match[5].strip())
    plain = match and ADDRESS.fullmatch(match[5].strip())
    if match is None or not (code or plain):
        cure = "run perf script --ns --fields=tid,time,event,trace (or addr,ip for page-faults)"
        msg = f"line {number} of perf is no page fault; {cure}: {line!r}"
        raise ValueError(msg)
    time = int(match[2]) * 10**9 + int(f"{match[3]:0<9}")
    if code:
        bits = int(code[2], 16)
        access = PROT_EXEC if bits & FETCH else PROT_WRITE if bits & WRITE else PROT_READ
        return RecordedFault(time, int(match[1]), int(code[1], 16), access)
    assert plain is not None
    address = int(plain[1], 16)
    # What is executed is at the instruction pointer.
    is_fetch = plain[2] is not None and int(plain[2], 16) == address
    return RecordedFault(time, int(match[1]), address, PROT_EXEC if is_fetch else 0)
