"""A radix page table: four levels of 512, as x86-64 walks them.

Sparse address spaces make it a tree: zapping a terabyte that holds three pages must cost three
pages, so a level that holds nothing is not there, and a walk skips it whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, final

from ._constants import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._page import Page

__all__ = ("Entry", "PageTable")

LEVEL_BITS: Final = 9
TOP_SHIFT: Final = 3 * LEVEL_BITS


@final
class Entry(NamedTuple):
    """What a page-table entry says. It never changes; another replaces it."""

    page: Page
    rights: int
    """What goes without a fault: PROT_* bits. It may be 0 for a page that waits for mprotect."""


# Four levels deep; the lowest holds entries. A level is a dict of at most 512 slots: as a list it
# would be 512 slots to skip when three are used.
_Level: TypeAlias = dict[int, Any]


@final
class PageTable:
    """Map page numbers to entries.

    Each entry counts in its page's `share_count`. Addresses in, addresses out: every argument is
    an address, and ranges are page-aligned.

    >>> from aspf.mm._page import Page
    >>> table = PageTable()
    >>> table.set(0x7f0000001000, Entry(Page(b"hello"), 1))
    >>> bytes(table.get(0x7f0000001234).page.data[:5])
    b'hello'
    >>> table.zap(0, 1 << 47)
    1
    >>> table.get(0x7f0000001234) is None
    True
    """

    __slots__ = ("_size", "_top")

    def __init__(self) -> None:
        # Invariant: no level below the top is empty.
        self._top: _Level = {}
        self._size = 0

    def get(self, address: int) -> Entry | None:
        """Return the entry of the page that contains *address*."""
        number = address >> PAGE_SHIFT
        try:
            leaf = self._top[number >> 27][number >> 18 & 511][number >> 9 & 511]
        except KeyError:
            return None
        entry: Entry | None = leaf.get(number & 511)
        return entry

    def set(self, address: int, entry: Entry) -> None:
        """Install an entry, in place of the one that may be there."""
        number = address >> PAGE_SHIFT
        upper = self._top.setdefault(number >> 27, {}).setdefault(number >> 18 & 511, {})
        leaf = upper.setdefault(number >> 9 & 511, {})
        entry.page.share_count += 1
        old = leaf.get(number & 511)
        leaf[number & 511] = entry
        if old is None:
            self._size += 1
        else:
            old.page.share_count -= 1

    def zap(self, start: int, end: int) -> int:
        """Remove the entries of ``[start, end)``, and the levels that are empty then.

        Complexity: O(entries in the range + levels that cover it).

        Returns:
            How many entries there were.
        """
        removed = _zap(self._top, TOP_SHIFT, 0, start >> PAGE_SHIFT, end >> PAGE_SHIFT)
        self._size -= removed
        return removed

    def move(self, start: int, end: int, to: int) -> None:
        """Move the entries of ``[start, end)`` to *to*, where there must be none.

        Complexity: As for `zap`.
        """
        for address, entry in list(self.items(start, end)):
            self.set(address - start + to, entry)
        self.zap(start, end)

    def restrict(self, start: int, end: int, rights: int) -> None:
        """Take from the entries of ``[start, end)`` every right that is not in *rights*."""
        for _, leaf, slot in self._walk(start, end):
            leaf[slot] = Entry(leaf[slot].page, leaf[slot].rights & rights)

    def items(self, start: int, end: int) -> Iterator[tuple[int, Entry]]:
        """Yield address and entry of each page of ``[start, end)``, ascending."""
        for number, leaf, slot in self._walk(start, end):
            yield number << PAGE_SHIFT, leaf[slot]

    def _walk(self, start: int, end: int) -> Iterator[tuple[int, _Level, int]]:
        return _walk(self._top, TOP_SHIFT, 0, start >> PAGE_SHIFT, end >> PAGE_SHIFT)

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<PageTable of {self._size} pages>"


def _covered(level: _Level, shift: int, base: int, start: int, end: int) -> list[int]:
    """Return the used slots that touch ``[start, end)``; *base* is the level's first page."""
    first, last = (start - base) >> shift, (end - base - 1) >> shift
    return sorted(slot for slot in level if first <= slot <= last)


def _walk(
    level: _Level, shift: int, base: int, start: int, end: int
) -> Iterator[tuple[int, _Level, int]]:
    for slot in _covered(level, shift, base, start, end):
        number = base + (slot << shift)
        if shift:
            yield from _walk(level[slot], shift - LEVEL_BITS, number, start, end)
        else:
            yield number, level, slot


def _zap(level: _Level, shift: int, base: int, start: int, end: int) -> int:
    removed = 0
    for slot in _covered(level, shift, base, start, end):
        if not shift:
            level.pop(slot).page.share_count -= 1
            removed += 1
            continue
        removed += _zap(level[slot], shift - LEVEL_BITS, base + (slot << shift), start, end)
        if not level[slot]:
            del level[slot]
    return removed
