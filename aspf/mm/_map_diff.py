"""What two maps of a process differ in: page for page, wherever their lines are cut.

Two lines of ``/proc/<pid>/maps`` may show what one line shows in another: neighbours that differ
in nothing are one VMA or two, as merging went. So maps are compared by address, not by line. What
is the same at every page and cut at another place is no change; `cuts_apart` counts such places.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._proc_maps import MapsLine

__all__ = ("MapsChange", "cuts_apart", "diff_maps")

How: TypeAlias = Literal["added", "removed", "changed"]


@final
@dataclass(frozen=True, slots=True)
class MapsChange:
    """A range of addresses that two maps show differently.

    Attributes:
        before: What the first map shows there, cut to the range; None for nothing.
        after: What the second one shows; None for nothing.
    """

    before: MapsLine | None
    after: MapsLine | None

    @property
    def how(self) -> How:
        """``"added"``, ``"removed"`` or ``"changed"``."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def line(self) -> MapsLine:
        """What is there now, or was there if nothing is now."""
        line = self.after or self.before
        assert line is not None
        return line


def diff_maps(before: Iterable[MapsLine], after: Iterable[MapsLine]) -> list[MapsChange]:
    """Compare two maps page for page: permissions, file and offset, name.

    Complexity: O(lines).

    >>> from aspf.mm import diff_maps, parse_maps
    >>> old = parse_maps("00001000-00009000 rw-p 00000000 00:00 0 ")
    >>> new = parse_maps("00001000-00003000 r--p 00000000 00:00 0 ")
    >>> [(c.how, hex(c.line.start), hex(c.line.end)) for c in diff_maps(old, new)]
    [('changed', '0x1000', '0x3000'), ('removed', '0x3000', '0x9000')]
    """
    changes: list[MapsChange] = []
    for old, new in _side_by_side(_ordered(before), _ordered(after)):
        if old is not None and new is not None and _shows(old) == _shows(new):
            continue
        last = changes[-1] if changes else None
        if last is not None and _goes_on(last.before, old) and _goes_on(last.after, new):
            end = (old or new or last.line).end
            changes[-1] = MapsChange(_until(last.before, end), _until(last.after, end))
        else:
            changes.append(MapsChange(old, new))
    return changes


def cuts_apart(before: Iterable[MapsLine], after: Iterable[MapsLine]) -> list[int]:
    """Return where one map has equal neighbours apart that the other has as one line."""
    ours, theirs = _cuts(_ordered(before)), _cuts(_ordered(after))
    return sorted(ours ^ theirs)


def _cuts(lines: Sequence[MapsLine]) -> set[int]:
    pairs = itertools.pairwise(lines)
    return {right.start for left, right in pairs if _goes_on(left, right)}


def _ordered(lines: Iterable[MapsLine]) -> list[MapsLine]:
    return sorted(lines, key=lambda line: line.start)


def _shows(line: MapsLine) -> tuple[object, ...]:
    """Return what a line says of each of its pages; the offset as where byte 0 would lie."""
    has_offset = line.inode or line.offset
    origin = line.start - line.offset if has_offset else None
    return line.permissions, line.device, line.inode, line.name, origin


def _goes_on(left: MapsLine | None, right: MapsLine | None) -> bool:
    """Tell whether the right line only continues the left one."""
    if left is None or right is None:
        return left is right
    return left.end == right.start and _shows(left) == _shows(right)


def _until(line: MapsLine | None, end: int) -> MapsLine | None:
    return None if line is None else replace(line, end=end)


def _cut(line: MapsLine | None, start: int, end: int) -> MapsLine | None:
    """Return what a line says of a part of it; None where it says nothing."""
    if line is None or line.end <= start or end <= line.start:
        return None
    offset = line.offset + start - line.start if line.inode or line.offset else 0
    return replace(line, start=start, end=end, offset=offset)


def _side_by_side(
    before: Sequence[MapsLine], after: Sequence[MapsLine]
) -> Iterator[tuple[MapsLine | None, MapsLine | None]]:
    """Yield what both maps say of each stretch between two ends of lines, but for common holes."""
    ours, theirs = iter(before), iter(after)
    old, new = next(ours, None), next(theirs, None)
    position = 0
    while old is not None or new is not None:
        here = [line for line in (old, new) if line is not None]
        position = max(position, min(line.start for line in here))
        ends = [line.start if position < line.start else line.end for line in here]
        end = min(ends)
        yield _cut(old, position, end), _cut(new, position, end)
        position = end
        if old is not None and old.end <= position:
            old = next(ours, None)
        if new is not None and new.end <= position:
            new = next(theirs, None)
