"""What can be mapped: a page cache over a pager, such as a real file's.

A `MappedFile` is what the kernel has as an inode with its page cache. Shared mappings of it, in
one address space or several, show the same pages; private ones read them until they write. Its
pages are read through a `Pager`, each once however many tasks want it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, Protocol, final, runtime_checkable
from weakref import WeakSet

import anyio
import anyio.lowlevel
import anyio.to_thread
from sortedcontainers import SortedDict

from ._constants import PAGE_SHIFT, PAGE_SIZE
from ._flight import SingleFlight
from ._page import Page

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ._address_space import AddressSpace

__all__ = ("MappedFile", "Pager", "WritablePager")


class Pager(Protocol):
    """Where the bytes of pages come from."""

    async def fetch(self, index: int, /) -> bytes:
        """Return the bytes of page *index*; what is missing to a whole page reads as zeros.

        It must be a checkpoint. What it raises as OSError, the faulting task gets as a
        `BusError`.
        """
        ...


@runtime_checkable
class WritablePager(Pager, Protocol):
    """A pager that takes changed pages back."""

    async def store(self, index: int, data: bytes, /) -> None:
        """Write the bytes of page *index*; the last page comes without what lies beyond EOF."""
        ...


@final
class _FilePager:
    """Read and write a file descriptor, in worker threads, so that nobody waits for the disk."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def fetch(self, index: int) -> bytes:
        offset = index << PAGE_SHIFT
        return await anyio.to_thread.run_sync(os.pread, self._descriptor, PAGE_SIZE, offset)

    async def store(self, index: int, data: bytes) -> None:
        offset = index << PAGE_SHIFT
        await anyio.to_thread.run_sync(os.pwrite, self._descriptor, data, offset)

    async def truncate(self, size: int) -> None:
        await anyio.to_thread.run_sync(os.ftruncate, self._descriptor, size)

    def close(self) -> None:
        os.close(self._descriptor)


@final
class ZeroPager:
    """Make zeros: shared anonymous memory, and files of which only the name is known."""

    async def fetch(self, index: int) -> bytes:
        """Return no bytes, which read as zeros."""
        del index
        await anyio.lowlevel.checkpoint()
        return b""


@final
class MappedFile:
    """A file that `AddressSpace.mmap` can map.

    Open a real one with ``async with await MappedFile.open(path) as file:``. Its size is taken
    then; `truncate` is the only change of it that mappings notice.

    Args:
        pager: Where its pages come from, and go to if it is a `WritablePager`.
        size: Its length in bytes; touching a page beyond it is a `BusError`. None for no end.
        name: What ``maps`` prints.
        is_readable: False makes every mmap of it fail with EACCES, as for a file open to write.
        is_writable: False makes writable shared mappings fail with EACCES.
        device: Major and minor number for ``maps``.
        inode: Inode number for ``maps``.
        is_huge_aligned: Place mappings of 2 MiB and more so that huge pages could be used, as Linux
            does for files of ext4, xfs and btrfs, but not of tmpfs.
    """

    def __init__(
        self,
        pager: Pager,
        *,
        size: int | None = None,
        name: str = "",
        is_readable: bool = True,
        is_writable: bool = False,
        device: tuple[int, int] = (0, 0),
        inode: int = 0,
        is_huge_aligned: bool = False,
    ) -> None:
        self._pager: Final = pager
        self._size = size
        self.name = name
        self.is_readable = is_readable
        self.is_writable = is_writable
        self.device = device
        self.inode = inode
        self.is_huge_aligned = is_huge_aligned
        # Invariant: ordered by page index; every page counts this cache in its share_count, and
        # none lies wholly beyond the end of the file. Ordered, for flush and truncate take ranges.
        self._cache: SortedDict[int, Page] = SortedDict()
        self._flights: SingleFlight[None] = SingleFlight()
        # Who may have entries for its pages, for truncate.
        self._mapped_by: WeakSet[AddressSpace] = WeakSet()
        self._storing: Final = anyio.Lock()
        self._closed = False
        # Invariant: pages that read as zeros, whatever the pager has; none is in the cache. What
        # the pager has goes at the next flush.
        self._holes: set[int] = set()
        # How many bytes of the pager's are the file's: what was cut off does not come back.
        self._kept = size
        # What it counts for in an address space that maps it, in pages: for shared anonymous memory.
        self.promised = 0

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, writable: bool = False) -> MappedFile:
        """Open a real file; `aclose` closes it.

        A cancelled call may have opened the file, and has closed it again.

        Args:
            path: The file.
            writable: Open it for writing too, for shared writable mappings.

        Raises:
            OSError: What `os.open` raises.
        """
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        real = await anyio.to_thread.run_sync(os.path.realpath, path)
        with anyio.CancelScope(shield=True):
            descriptor = await anyio.to_thread.run_sync(os.open, path, flags)
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            os.close(descriptor)
            raise
        status = os.fstat(descriptor)
        return cls(
            _FilePager(descriptor),
            size=status.st_size,
            name=real,
            is_writable=writable,
            device=(os.major(status.st_dev), os.minor(status.st_dev)),
            inode=status.st_ino,
        )

    @property
    def size(self) -> int | None:
        """Length in bytes; None for a file without end."""
        return self._size

    def holds(self, index: int) -> bool:
        """Tell whether a byte of page *index* lies in the file."""
        return self._size is None or index << PAGE_SHIFT < self._size

    def cached(self, index: int) -> Page | None:
        """Return page *index* if it is in the cache."""
        page: Page | None = self._cache.get(index)
        return page

    async def fetch(self, index: int) -> None:
        """Have page *index* in the cache, unless the file is cut shorter meanwhile.

        It is read once for all tasks that want it. A cancelled call leaves the reading to the
        others, if there are any.

        Raises:
            ClosedResourceError: After `aclose`.
        """
        if self._closed:
            msg = f"{self.name or 'this file'} was closed; close it after the spaces that map it"
            raise anyio.ClosedResourceError(msg)
        await self._flights.get(index, lambda: self._read(index))

    def needs_reading(self, index: int) -> bool:
        """Tell whether the page has to come from the pager: it has it, and the cache does not."""
        is_made = isinstance(self._pager, ZeroPager) or self._is_cut(index)
        return index not in self._cache and not is_made

    def _is_cut(self, index: int) -> bool:
        is_beyond = self._kept is not None and index << PAGE_SHIFT >= self._kept
        return is_beyond or index in self._holes

    async def _read(self, index: int) -> None:
        if self._is_cut(index):
            await anyio.lowlevel.checkpoint()
            data = b""
        else:
            data = await self._pager.fetch(index)
        if not self.holds(index) or self._closed:
            return
        # Not what a truncation or a hole has cut off, before it was read or meanwhile.
        is_hole = index in self._holes
        kept = len(data) if self._kept is None else max(0, self._kept - (index << PAGE_SHIFT))
        self._cache[index] = page = Page(b"" if is_hole else data[:kept])
        page.is_dirty = is_hole
        page.share_count += 1
        self._holes.discard(index)

    def _within(self, index: int, data: bytes) -> bytes:
        return data if self._size is None else data[: max(0, self._size - (index << PAGE_SHIFT))]

    async def flush(self, first: int = 0, last: int | None = None) -> None:
        """Write changed pages back; always a checkpoint.

        Does nothing for a pager that can't store. A cancelled call has written some of them; the
        others stay marked.

        Args:
            first: Number of the first page to write.
            last: Number of the first page that is left out; None to write all that follow.

        Raises:
            OSError: What the pager raises; that page stays marked as changed.
        """
        if not isinstance(self._pager, WritablePager):
            await anyio.lowlevel.checkpoint()
            return
        # One after the other: a page that another call is just storing is no longer marked, but
        # who returns has promised that it is stored.
        async with self._storing:
            await self._store_marked(self._pager, first, last)

    async def _store_marked(self, pager: WritablePager, first: int, last: int | None) -> None:
        end = None if last is None else last - 1
        cached = self._cache.irange(first, end)
        for index in [index for index in cached if self._cache[index].is_dirty]:
            page = self._cache.get(index)
            if page is None:
                continue  # truncated while another page was written
            # Before the write: a change that comes during it must be written again.
            page.is_dirty = False
            try:
                await pager.store(index, self._within(index, bytes(page.data)))
            except BaseException:
                page.is_dirty = True
                raise
        for index in sorted(self._holes):
            if first <= index and (last is None or index < last):
                await pager.store(index, self._within(index, bytes(PAGE_SIZE)))
                self._holes.discard(index)

    async def truncate(self, size: int) -> None:
        """Change the file's length; pages beyond it leave every mapping, private copies too.

        Touching them is a `BusError` from then on. A cancelled call has changed the length that
        mappings see; the file itself may have kept its own.

        Raises:
            OSError: EINVAL for a negative size or a file that is not open for writing.
        """
        if size < 0 or not self.is_writable:
            msg = f"{os.strerror(errno.EINVAL)}: truncate({size}) of {self.name or 'a file'}: "
            msg += "pass a size of 0 or more, and open the file for writing"
            raise OSError(errno.EINVAL, msg)
        self._cut(size)
        await anyio.lowlevel.checkpoint()
        if isinstance(self._pager, _FilePager):
            await self._pager.truncate(size)

    def _cut(self, size: int) -> None:
        self._size = size
        self._kept = size if self._kept is None else min(size, self._kept)
        first = -(-size // PAGE_SIZE)
        for space in self._mapped_by:
            space.unmap_mapping_range(self, first)
        self._drop(first, None)
        self._holes = {index for index in self._holes if index < first}
        last = self._cache.get(size >> PAGE_SHIFT)
        if last is not None:
            within = size % PAGE_SIZE
            last.data[within:] = bytes(PAGE_SIZE - within)

    def _drop(self, first: int, last: int | None) -> None:
        for index in list(self._cache.irange(first, last, inclusive=(True, False))):
            self._cache.pop(index).share_count -= 1

    def punch(self, first: int, last: int) -> None:
        """Make pages *first* up to *last* read as zeros, in every mapping; private copies stay.

        The pager gets the zeros at the next `flush`.

        Complexity: O(pages in the range).
        """
        for space in self._mapped_by:
            space.unmap_mapping_range(self, first, last, even_cows=False)
        self._drop(first, last)
        if not isinstance(self._pager, ZeroPager):
            self._holes.update(index for index in range(first, last) if self.holds(index))

    def mapped_by(self, space: AddressSpace) -> None:
        """Take note that an address space may have entries for this file's pages."""
        self._mapped_by.add(space)

    async def aclose(self) -> None:
        """Write changed pages back and close the file; always a checkpoint.

        Close the address spaces that map it first: a page that is not in its cache can't be read
        afterwards. If the call is cancelled the file is closed and changed pages may be lost.
        """
        try:
            await self.flush()
        finally:
            if not self._closed and isinstance(self._pager, _FilePager):
                self._pager.close()
            self._closed = True

    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        size = "without end" if self._size is None else f"{self._size} bytes"
        closed = ", closed" if self._closed else ""
        return f"<MappedFile {self.name or id(self)}, {size}, {len(self._cache)} cached{closed}>"
