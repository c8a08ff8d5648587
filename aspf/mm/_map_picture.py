"""A process's map as a picture in the terminal.

A map has pages of 4 KiB beside reservations of 100 GiB, so its bars are on a logarithmic scale: a
cell for the first 4 KiB and one more for each doubling (or for every second, third ... doubling in
a narrow terminal; the picture says which). Gaps are folded to one line that says how large they
are. A picture is made of plain text and the names of styles; only `rich`, if it draws one, turns
them to colours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, final

from ._constants import PAGE_SIZE, TASK_SIZE
from ._map_diff import MapsChange, cuts_apart, diff_maps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ._proc_maps import MapsLine

__all__ = ("DiffPicture", "KindTotal", "MapPicture", "kind_of", "size_text")

# (text, style of rich); a row is a line of the picture.
_Row: TypeAlias = "list[tuple[str, str]]"

#: Every kind, in the order of the totals.
KINDS: Final = {
    "code": "executable, from a file or made at run time",
    "file": "files mapped privately, not executable",
    "shared": "shared with other processes",
    "heap": "what brk has made",
    "stack": "the main thread's",
    "anonymous": "private memory without a file",
    "reserved": "private memory that nobody may touch",
    "kernel": "made by the kernel: vdso, vvar ...",
}
_MADE_BY_THE_KERNEL: Final = (
    "[vdso]",
    "[vvar",
    "[vsyscall]",
    "[uprobes]",
    "[vectors]",
    "[sigpage]",
)
_MARKS: Final = {
    "added": ("+", "bold green"),
    "removed": ("-", "bold red"),
    "changed": ("~", "bold yellow"),
}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
# A narrower terminal gets the start of a mapping only, and shorter bars ...
_WIDE: Final = 100
# ... and one that is narrower still no numbers of what is in memory.
_NARROW: Final = 64


def kind_of(line: MapsLine) -> str:
    """Return what a mapping is: code, file, shared, heap, stack, anonymous, reserved or kernel.

    >>> from aspf.mm import kind_of, parse_maps
    >>> kind_of(*parse_maps("00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/dbus-daemon"))
    'code'
    """
    if line.name.startswith(_MADE_BY_THE_KERNEL):
        return "kernel"
    if line.name in {"[heap]", "[stack]"}:
        return line.name.strip("[]")
    if line.permissions[3] == "s":
        return "shared"
    if "x" in line.permissions:
        return "code"
    if line.inode:
        return "file"
    return "reserved" if line.permissions.startswith("---") else "anonymous"


def size_text(size: int) -> str:
    """Return a number of bytes in the unit that suits it, with three digits.

    >>> size_text(4096), size_text(1536 << 10), size_text(127 << 40)
    ('4 KiB', '1.5 MiB', '127 TiB')
    """
    number, unit = float(size), 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    shown = f"{number:.{digits}f}"
    return f"{shown.rstrip('0').rstrip('.') if '.' in shown else shown} {_UNITS[unit]}"


@final
class KindTotal(NamedTuple):
    """What the mappings of one kind add up to; `kind_of` says which kinds there are."""

    kind: str
    mappings: int
    size: int
    resident: int | None
    """Bytes that are in memory; None if that is not known."""


class _Picture(Protocol):
    """What both pictures are: rows of text with styles."""

    def _rows(self, width: int | None, *, ascii_only: bool) -> Iterator[_Row]: ...

    def text(self, width: int | None = None, *, ascii_only: bool = False) -> str:
        """Return the picture without colours.

        Args:
            width: Columns that there are; None for as many as it takes.
            ascii_only: Draw with ``#`` and ``:`` where blocks can't be printed.
        """
        rows = self._rows(width, ascii_only=ascii_only)
        return "".join("".join(text for text, _ in row).rstrip() + "\n" for row in rows)

    def __str__(self) -> str:
        return self.text()

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text  # noqa: PLC0415 - an extra; whoever calls this has it

        # A file has no width.
        width = options.max_width if console.is_terminal else None
        for row in self._rows(width, ascii_only=options.ascii_only):
            line = Text.assemble(*row, no_wrap=True, overflow="ignore", end="\n")
            line.rstrip()
            yield line


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MapPicture(_Picture):
    """A map as a picture: ``print`` it, or let `rich` print it in colour.

    Attributes:
        lines: The map, ascending.
        resident: How many bytes of the mapping that starts there are in memory; empty if that is
            not known.
        title: What the first line begins with, such as ``process 4711``.
        since: An earlier map; what differs from it is marked with ``+``, ``-`` and ``~``.
        rows: Fold the smallest mappings until there are no more lines than this for mappings and
            gaps; None for every mapping.
        totals_first: Put the totals by kind above the mappings, where a watched picture has them.

    >>> from aspf.mm import MapPicture, parse_maps
    >>> maps = '''00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/dbus-daemon
    ... 00651000-00652000 r--p 00051000 08:02 173521 /usr/bin/dbus-daemon'''
    >>> print(MapPicture(lines=parse_maps(maps)).text().splitlines()[3])
      00400000-00452000         r-xp   328 KiB  ████████  /usr/bin/dbus-daemon
    """

    lines: Sequence[MapsLine]
    resident: Mapping[int, int] = field(default_factory=dict)
    title: str = ""
    since: Sequence[MapsLine] | None = None
    rows: int | None = None
    totals_first: bool = False

    def totals(self) -> list[KindTotal]:
        """Add up the mappings of each kind that there is."""
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        resident: Counter[str] = Counter()
        for line in self.lines:
            kind = kind_of(line)
            counts[kind] += 1
            sizes[kind] += line.end - line.start
            resident[kind] += self.resident.get(line.start, 0)
        return [
            KindTotal(kind, counts[kind], sizes[kind], resident[kind] if self.resident else None)
            for kind in KINDS
            if counts[kind]
        ]

    def _rows(self, width: int | None, *, ascii_only: bool) -> Iterator[_Row]:
        pen = _Pen(width, ascii_only=ascii_only, lines=self.lines, has_resident=bool(self.resident))
        yield from pen.broken(
            [self.title, self._summary()] if self.title else [self._summary()], ": ", "bold"
        )
        yield from pen.scale()
        yield []
        if self.totals_first:
            yield from self._total_rows(pen)
            yield []
        yield from self._mapping_rows(pen)
        if not self.totals_first:
            yield []
            yield from self._total_rows(pen)

    def _summary(self) -> str:
        size = sum(line.end - line.start for line in self.lines if kind_of(line) != "kernel")
        parts = [_mappings(len(self.lines)), f"{size_text(size)} mapped"]
        if self.resident:
            parts.append(f"{size_text(sum(self.resident.values()))} resident")
        return ", ".join(parts)

    def _total_rows(self, pen: _Pen) -> Iterator[_Row]:
        for total in self.totals():
            yield pen.total(total)

    def _mapping_rows(self, pen: _Pen) -> Iterator[_Row]:
        changes = () if self.since is None else diff_maps(self.since, self.lines)
        gone = [change for change in changes if change.how == "removed"]
        marked = _marks(self.lines, changes)
        shown = self._shown(marked, len(gone))
        folded: list[MapsLine] = []
        end: int | None = None
        for line in self.lines:
            while gone and gone[0].line.start < line.start:
                yield from pen.fold(folded)
                yield pen.mapping(gone.pop(0).line, mark="removed")
                folded = []
            if line.start not in shown:
                folded.append(line)
                end = line.end
                continue
            yield from pen.fold(folded)
            if end is not None and end < line.start:
                yield pen.gap(end, line.start)
            folded, end = [], line.end
            yield pen.mapping(line, self.resident.get(line.start), mark=marked.get(line.start, ""))
        yield from pen.fold(folded)
        yield from (pen.mapping(change.line, mark="removed") for change in gone)

    def _shown(self, marked: Mapping[int, str], gone: int) -> set[int]:
        """Return the starts of the mappings that get a line of their own."""
        ranked = sorted(self.lines, key=lambda x: (x.start not in marked, x.start - x.end))
        starts = [line.start for line in ranked]
        if self.rows is None:
            return set(starts)
        # What one more line costs is at most two: itself, and the fold that it cuts in two.
        low, high = 0, len(starts)
        while low < high:
            middle = (low + high + 1) // 2
            if self._count(set(starts[:middle])) + gone <= self.rows:
                low = middle
            else:
                high = middle - 1
        return set(starts[:low])

    def _count(self, shown: set[int]) -> int:
        """Count the lines that mappings, gaps and folds take."""
        count, end, is_folded = 0, None, False
        for line in self.lines:
            if line.start not in shown:
                count += not is_folded
                is_folded = True
            else:
                count += 1 + (end is not None and end < line.start)
                is_folded = False
            end = line.end
        return count


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DiffPicture(_Picture):
    """What two maps differ in, as a picture.

    Attributes:
        before: The first map.
        after: The second one.
        names: What they are called.
    """

    before: Sequence[MapsLine]
    after: Sequence[MapsLine]
    names: tuple[str, str] = ("before", "after")

    def _rows(self, width: int | None, *, ascii_only: bool) -> Iterator[_Row]:
        changes = diff_maps(self.before, self.after)
        lines = [change.line for change in changes]
        pen = _Pen(width, ascii_only=ascii_only, lines=lines, has_resident=False)
        arrow = "->" if ascii_only else "→"
        yield [(f"{self.names[0]} {arrow} {self.names[1]}", "bold")]
        if changes:
            yield from pen.scale()
            yield []
        for change in changes:
            yield pen.mapping(change.line, mark=change.how, note=_note(change, arrow))
        if changes:
            yield []
        yield from _folded(self._summary(changes), "", width)
        if self._have_nothing_in_common(changes):
            yield from _folded(_STRANGERS, "dim", width)

    def _summary(self, changes: Sequence[MapsChange]) -> str:
        parts = []
        for how in _MARKS:
            sizes = [c.line.end - c.line.start for c in changes if c.how == how]
            if sizes:
                parts.append(f"{len(sizes):,} {how} ({size_text(sum(sizes))})")
        said = ", ".join(parts) or "no page differs"
        cuts = len(cuts_apart(self.before, self.after))
        if cuts:
            places = "place" if cuts == 1 else "places"
            said += f"; at {cuts:,} {places} only one of them has equal neighbours apart"
        return said

    def _have_nothing_in_common(self, changes: Sequence[MapsChange]) -> bool:
        fixed = {line.start for line in self.after if line.name == "[vsyscall]"}
        kept = sum(line.end - line.start for line in self.after if line.start not in fixed)
        changed = sum(c.line.end - c.line.start for c in changes if c.after is not None)
        return bool(kept) and kept == changed


_STRANGERS: Final = (
    "Nothing is at the same address in both. Linux places each process at random addresses;\n"
    "two maps of one process can be compared."
)


def _folded(text: str, style: str, width: int | None) -> Iterator[_Row]:
    """Fold sentences at spaces; a file has no width."""
    for line in text.splitlines():
        for part in [line] if width is None else wrap(line, max(width, 1)):
            yield [(part, style)]


def _note(change: MapsChange, arrow: str) -> str:
    """Say what has changed, where the line itself can't."""
    old, new = change.before, change.after
    if old is None or new is None:
        return ""
    said = []
    if old.permissions != new.permissions:
        said.append(f"was {old.permissions}")
    if (old.device, old.inode, old.name) != (new.device, new.inode, new.name):
        was = f"was {_printable(old.name) or 'anonymous'}"
        said.append("another file of that name" if old.name == new.name else was)
    elif old.offset != new.offset:
        said.append(f"offset {old.offset:#x} {arrow} {new.offset:#x}")
    return ", ".join(said)


def _marks(lines: Sequence[MapsLine], changes: Iterable[MapsChange]) -> dict[int, str]:
    """Return for the start of each mapping how it differs from what was there."""
    starts = [line.start for line in lines]
    marks: dict[int, str] = {}
    for change in changes:
        if change.after is None:
            continue
        number = bisect_right(starts, change.after.start) - 1
        while number < len(lines) and starts[number] < change.after.end:
            line = lines[number]
            is_all = change.after.start <= line.start and line.end <= change.after.end
            marks[line.start] = "added" if is_all and change.how == "added" else "changed"
            number += 1
    return marks


def _printable(name: str) -> str:
    """Escape what would not be text in a terminal; a file may have any name."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _style(permissions: str) -> str:
    if "w" in permissions and "x" in permissions:
        return "bold red"
    for letter, style in (("x", "green"), ("w", "yellow"), ("r", "cyan")):
        if letter in permissions:
            return style
    return "dim"


@final
class _Pen:
    """Draws the rows of one picture: it knows the columns."""

    def __init__(
        self,
        width: int | None,
        *,
        ascii_only: bool,
        lines: Sequence[MapsLine],
        has_resident: bool,
    ) -> None:
        self._width = width
        self._full, self._light = ("#", ":") if ascii_only else ("█", "░")
        self._dots, self._cut = (":", "...") if ascii_only else ("⋮", "…")
        self._has_resident = has_resident
        self._has_ends = width is None or width >= _WIDE
        self._has_column = has_resident and (width is None or width >= _NARROW)
        self._address = 25 if self._has_ends else 12
        doublings = max((_doublings(line.end - line.start) for line in lines), default=1)
        cells = 30 if self._has_ends else 14 if width is not None and width >= _NARROW else 6
        self._per_cell = -(-doublings // cells)
        self._cells = -(-doublings // self._per_cell)

    def broken(self, parts: Sequence[str], between: str, style: str) -> Iterator[_Row]:
        """Draw the parts in one line if they fit, else in a line each."""
        whole = between.join(parts)
        if self._width is None or len(whole) <= self._width:
            yield [(whole, style)]
        else:
            yield from ([(part, style)] for part in parts)

    def scale(self) -> Iterator[_Row]:
        """Say what a bar means."""
        each = f"{self._per_cell} doublings" if self._per_cell > 1 else "doubling"
        said = [f"bars: one cell per {each}, from 4 KiB"]
        if self._has_resident:
            said.append(f"{self._full} resident, {self._light} not")
        return self.broken(said, "; ", "dim")

    def mapping(
        self, line: MapsLine, resident: int | None = None, *, mark: str = "", note: str = ""
    ) -> _Row:
        sign, marked = _MARKS.get(mark, (" ", ""))
        style = _style(line.permissions)
        size = line.end - line.start
        row = [
            (f"{sign} ", marked),
            (f"{self._range(line):<{self._address}} ", "" if mark else "dim"),
            (f"{line.permissions} ", style),
            (f"{size_text(size):>9}  ", ""),
        ]
        filled = size
        if self._has_resident:
            filled = resident or 0
        if self._has_column:
            row.append((f"{size_text(filled):>9}  ", ""))
        row += self._bar(size, filled, style)
        name = _printable(line.name)
        row.append((self._fit(f"{name}  ({note})" if note else name), ""))
        return row

    def total(self, total: KindTotal) -> _Row:
        count = f"{total.kind:<10}{total.mappings:>6,}"
        label = f"  {count:<{self._address + 5}} "
        row = [(label, "bold"), (f"{size_text(total.size):>9}  ", "")]
        if self._has_column:
            assert total.resident is not None
            row.append((f"{size_text(total.resident):>9}  ", ""))
        meaning = KINDS[total.kind]
        fits = self._width is None or sum(len(t) for t, _ in row) + len(meaning) <= self._width
        return [*row, (meaning, "dim")] if fits else row

    def gap(self, start: int, end: int) -> _Row:
        is_free = end <= TASK_SIZE
        said = f"{size_text(end - start)} free" if is_free else "where no process can map"
        return [(f"  {self._dots} {said}", "dim")]

    def fold(self, lines: Sequence[MapsLine]) -> Iterator[_Row]:
        """Draw mappings that are folded to one line; nothing for none."""
        if lines:
            size = size_text(sum(line.end - line.start for line in lines))
            yield [(f"  {self._dots} {_mappings(len(lines), 'smaller ')}, {size}", "dim")]

    def _range(self, line: MapsLine) -> str:
        # [vsyscall] lies at the top, where an address takes 16 digits.
        if not self._has_ends or line.start >= 1 << 48:
            return f"{line.start:012x}" if self._has_ends else f"{line.start:012x}"[-12:]
        return f"{line.start:08x}-{line.end:08x}"

    def _bar(self, size: int, filled: int, style: str) -> _Row:
        length = -(-_doublings(size) // self._per_cell)
        full = min(length, -(-_doublings(filled) // self._per_cell))
        bar = self._full * full + self._light * (length - full)
        return [(bar, style), (" " * (self._cells - length + 2), "")]

    def _fit(self, name: str) -> str:
        """Cut a name where it begins, for its end tells more."""
        if self._width is None:
            return name
        used = 2 + self._address + 1 + 5 + 11 + (11 if self._has_column else 0)
        room = max(8, self._width - used - self._cells - 2)
        return name if len(name) <= room else self._cut + name[len(self._cut) - room :]


def _mappings(number: int, which: str = "") -> str:
    return f"{number:,} {which}mapping{'' if number == 1 else 's'}"


def _doublings(size: int) -> int:
    """Return how many cells a size takes: 1 for a page, 2 for two, 3 for four; 0 for none."""
    return (-(-size // PAGE_SIZE) - 1).bit_length() + 1 if size else 0
