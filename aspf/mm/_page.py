"""Pages: 4096 bytes and how many places refer to them."""

from __future__ import annotations

from typing import Final, final

from ._constants import PAGE_SIZE

__all__ = ("ZERO_PAGE", "Page")


@final
class Page:
    """A page frame.

    Attributes:
        data: Its bytes; always `PAGE_SIZE` of them.
        is_dirty: It was written to; for a page of a shared file: since it was last stored.
    """

    __slots__ = ("data", "is_dirty", "share_count")

    def __init__(self, data: bytes | bytearray = b"") -> None:
        self.data: bytearray = bytearray(data)
        self.data.extend(bytes(PAGE_SIZE - len(data)))
        # Invariant: page-table entries that refer to the page, plus one if a page cache does.
        self.share_count: int = 0
        self.is_dirty: bool = False

    def __repr__(self) -> str:
        return f"<Page shared {self.share_count} times{', dirty' if self.is_dirty else ''}>"


ZERO_PAGE: Final = Page()
"""What every untouched anonymous page reads as; a write always copies it."""
# The reference that nobody drops: so no entry can be its only one and write to it in place.
ZERO_PAGE.share_count = 1
