"""Recordings: real ones, and small ones made up."""

from __future__ import annotations

import gzip
from pathlib import Path

from aspf.mm.trace import Recording, parse_recording

TRACES = Path(__file__).parents[1] / "data" / "traces"

MAPS = """\
00400000-00401000 r-xp 00000000 08:02 7                                  /bin/a
7f0000000000-7f0000002000 r--p 00000000 08:02 8                          /lib/ld.so
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
"""


def text_of(name: str) -> str:
    return gzip.decompress((TRACES / f"{name}.txt.gz").read_bytes()).decode()


def made_up(calls: str, faults: str = "", final: str = MAPS, header: str = "process 7\n") -> str:
    begin = '7 0.9 execve("/bin/a", [], 0x1) = 0\n7 1.0 brk(NULL) = 0x500000\n'
    return (
        f"aspf recording 1\ncommand a\nsystem Linux\n{header}[maps]\n{MAPS}"
        f"[calls]\n{begin}{calls}[faults]\n{faults}[final]\n{final}"
    )


def recording(calls: str, faults: str = "", final: str = MAPS) -> Recording:
    return parse_recording(made_up(calls, faults, final))
