"""``/proc/<pid>/maps``: the kernel's text, read and written byte for byte."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from aspf.ranges import Region

from ._constants import PROT_EXEC, PROT_READ, PROT_WRITE
from ._file import MappedFile, ZeroPager
from ._vma import (
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_SHARED,
    VMA,
    Anon,
    permissions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "HEAP",
    "MapsLine",
    "files_of",
    "format_maps",
    "line_of",
    "parse_maps",
    "parse_smaps",
    "region_of",
)

LINE: Final = re.compile(
    r"([0-9a-f]{8,})-([0-9a-f]{8,}) ([r-][w-][x-][ps]) ([0-9a-f]{8,})"
    r" ([0-9a-f]{2,}):([0-9a-f]{2,}) ([0-9]+) (?: *(.*))?"
)
NAME_COLUMN: Final = 73
# A line of /proc/<pid>/smaps that belongs to the mapping above it, such as "Rss:    4 kB".
DETAIL: Final = re.compile(r"(?!Rss:)[A-Za-z_]+: .*|Rss: +([0-9]+) kB")
HEAP: Final = "[heap]"


@final
@dataclass(frozen=True, slots=True)
class MapsLine:
    """One line: a mapping.

    Attributes:
        start: First address.
        end: First address after it.
        permissions: Four letters, such as ``rw-p``.
        offset: Offset in the file, in bytes.
        device: Major and minor number of the file's device.
        inode: The file's inode number; 0 for no file.
        name: The file's path, or a name such as ``[heap]``; may be empty.
    """

    start: int
    end: int
    permissions: str
    offset: int
    device: tuple[int, int]
    inode: int
    name: str

    def __str__(self) -> str:
        major, minor = self.device
        line = (
            f"{self.start:08x}-{self.end:08x} {self.permissions} {self.offset:08x}"
            f" {major:02x}:{minor:02x} {self.inode} "
        )
        return f"{line:<{NAME_COLUMN - 1}} {self.name}" if self.name else line


def parse_maps(text: str | Iterable[str]) -> list[MapsLine]:
    """Parse what ``/proc/<pid>/maps`` says.

    Args:
        text: The whole text, or its lines.

    Raises:
        ValueError: If a line is not of that form; it names the line.

    >>> line = "00400000-00452000 r-xp 00000000 08:02 173521 "
    >>> parse_maps(line)[0].end == 0x452000
    True
    """
    # Not splitlines(): the kernel escapes only newlines, and a name may have any other character.
    lines = text.split("\n") if isinstance(text, str) else text
    bare = (line.removesuffix("\n") for line in lines)
    return [_parse_line(number, line) for number, line in enumerate(bare, 1) if line]


def parse_smaps(text: str | Iterable[str]) -> tuple[list[MapsLine], dict[int, int]]:
    """Parse what ``/proc/<pid>/smaps`` says of mappings and of what is in memory.

    The text of ``/proc/<pid>/maps`` is taken too; nothing is known then of what is in memory.

    Args:
        text: The whole text, or its lines.

    Returns:
        The mappings, and how many bytes of the one that starts there are in memory.

    Raises:
        ValueError: If a line is of neither form; it names the line.
    """
    mappings: list[MapsLine] = []
    resident: dict[int, int] = {}
    lines = text.split("\n") if isinstance(text, str) else text
    for number, line in enumerate((line.removesuffix("\n") for line in lines), 1):
        detail = DETAIL.fullmatch(line) if mappings else None
        if detail is None:
            mappings += [_parse_line(number, line)] if line else ()
        elif detail[1] is not None:
            resident[mappings[-1].start] = int(detail[1]) * 1024
    return mappings, resident


def _parse_line(number: int, line: str) -> MapsLine:
    match = LINE.fullmatch(line)
    if match is None:
        msg = f"line {number} is not a line of /proc/<pid>/maps: {line!r}"
        raise ValueError(msg)
    start, end, letters, offset, major, minor, inode, name = match.groups()
    return MapsLine(
        int(start, 16),
        int(end, 16),
        letters,
        int(offset, 16),
        (int(major, 16), int(minor, 16)),
        int(inode),
        name or "",
    )


def format_maps(lines: Iterable[MapsLine]) -> str:
    """Return the text of ``/proc/<pid>/maps`` for these lines."""
    return "".join(f"{line}\n" for line in lines)


def line_of(region: Region[VMA]) -> MapsLine:
    """Return the line that shows a region."""
    vma = region.payload
    start, end, letters = region.start, region.end, permissions(vma.flags)
    if vma.file is None:
        return MapsLine(start, end, letters, 0, (0, 0), 0, vma.name)
    file = vma.file
    offset = start - vma.origin
    return MapsLine(start, end, letters, offset, file.device, file.inode, vma.name or file.name)


def files_of(lines: Iterable[MapsLine]) -> dict[tuple[object, ...], MappedFile]:
    """Return a file that reads as zeros for each file that the lines name."""
    return {
        _identity(line): MappedFile(
            ZeroPager(),
            name=line.name,
            is_writable=True,
            device=line.device,
            inode=line.inode,
        )
        for line in lines
        if line.inode or line.permissions.endswith("s")
    }


def _identity(line: MapsLine) -> tuple[object, ...]:
    return line.device, line.inode, line.name


def region_of(line: MapsLine, files: dict[tuple[object, ...], MappedFile]) -> Region[VMA]:
    """Return the region that a line shows; the inverse of `line_of`."""
    bits = zip("rwx", (PROT_READ, PROT_WRITE, PROT_EXEC), strict=True)
    flags = sum(bit for letter, bit in bits if letter in line.permissions)
    is_shared = line.permissions.endswith("s")
    if is_shared:
        flags |= VM_SHARED | VM_MAYSHARE
    elif flags & PROT_WRITE:
        flags |= VM_ACCOUNT
    if line.name == "[stack]":
        flags |= VM_GROWSDOWN
    flags |= VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    file = files.get(_identity(line))
    # An identity each: neighbours that the process has apart stay apart.
    vma = VMA(
        flags,
        origin=0 if file is None else line.start - line.offset,
        file=file,
        anon=Anon(None if is_shared else object()),
        # The heap is anonymous memory like other; where it lies makes it the heap.
        name=line.name if file is None and line.name != HEAP else "",
    )
    return Region(line.start, line.end, vma)
