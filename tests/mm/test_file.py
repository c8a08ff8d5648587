from __future__ import annotations

import errno
import os

import anyio
import anyio.from_thread
import pytest
from mm._arena import Numbered, Recording

from aspf import mm
from aspf.mm import AddressSpace, BusError, MappedFile

pytestmark = pytest.mark.anyio

PAGE = mm.PAGE_SIZE
R, RW = mm.PROT_READ, mm.PROT_READ | mm.PROT_WRITE


@pytest.fixture
def path(tmp_path):
    """A file of two and a half pages."""
    path = tmp_path / "data"
    path.write_bytes(b"a" * PAGE + b"b" * PAGE + b"c" * (PAGE // 2))
    return path


async def test_a_real_file_is_read_and_ends_in_zeros(path):
    """The last page would show what lies behind the file, or the next page would be readable."""
    async with await MappedFile.open(path) as file, AddressSpace() as space:
        address = await space.mmap(0, 4 * PAGE, R, mm.MAP_PRIVATE, file)
        assert await space.read(address + PAGE - 1, 2) == b"ab"
        assert await space.read(address + 2 * PAGE + PAGE // 2 - 1, 3) == b"c\0\0"
        with pytest.raises(BusError, match="beyond the end") as caught:
            await space.read(address + 3 * PAGE + 5, 1)
        assert (caught.value.address, caught.value.access) == (address + 3 * PAGE + 5, R)
        assert file.size == path.stat().st_size
        line = mm.parse_maps(space.maps())[0]
        assert (line.name, line.inode) == (str(path.resolve()), path.stat().st_ino)
    assert repr(file).endswith("3 cached, closed>")


async def test_shared_writes_reach_the_file_on_munmap(path):
    """What a program wrote to a shared mapping would be lost, or the file would grow to a page."""
    async with await MappedFile.open(path, writable=True) as file, AddressSpace() as space:
        address = await space.mmap(0, 3 * PAGE, RW, mm.MAP_SHARED, file)
        await space.write(address + PAGE - 2, b"1234")
        await space.write(address + 2 * PAGE + PAGE // 2 - 1, b"XY")
        await space.munmap(address, PAGE)
        data = path.read_bytes()
        assert data[PAGE - 2 : PAGE + 2] == b"1234"
        assert data[-1:] == b"X"
        assert len(data) == 2 * PAGE + PAGE // 2


async def test_shared_writes_reach_the_file_on_closing(path):
    """Only munmap would store them."""
    async with await MappedFile.open(path, writable=True) as file:
        async with AddressSpace() as space:
            address = await space.mmap(0, PAGE, RW, mm.MAP_SHARED, file)
            await space.write(address, b"closing")
        assert path.read_bytes().startswith(b"closing")


async def test_two_spaces_share_pages_and_private_ones_do_not(path):
    """A write would not be seen by another process, or be seen from a private mapping."""
    opened = await MappedFile.open(path, writable=True)
    async with opened as file, AddressSpace() as one, AddressSpace() as two:
        here = await one.mmap(0, PAGE, RW, mm.MAP_SHARED, file)
        there = await two.mmap(0, PAGE, RW, mm.MAP_SHARED, file)
        mine = await two.mmap(0, PAGE, RW, mm.MAP_PRIVATE, file)
        assert await two.read(mine, 1) == b"a"
        await one.write(here, b"shared")
        assert await two.read(there, 6) == b"shared"
        # Not copied yet, so it shows the file.
        assert await two.read(mine, 6) == b"shared"
        await two.write(mine, b"m")
        await one.write(here, b"SHARED")
        assert await two.read(mine, 6) == b"mhared"
        assert await two.read(there, 6) == b"SHARED"
        assert file.cached(0).share_count == 3


async def test_a_private_write_that_comes_first_does_not_reach_the_file():
    """The only reference to a cached page would be taken for a page of one's own."""
    file = MappedFile(Numbered(), size=PAGE)
    async with AddressSpace() as space:
        address = await space.mmap(0, PAGE, RW, mm.MAP_PRIVATE, file)
        await file.fetch(0)
        await space.write(address, b"x")
        assert file.cached(0).data == bytes(PAGE)


async def test_truncating_takes_pages_from_every_mapping(path):
    """A page beyond the end would go on being readable, and a page cut in two keep its bytes."""
    async with await MappedFile.open(path, writable=True) as file, AddressSpace() as space:
        address = await space.mmap(0, 3 * PAGE, RW, mm.MAP_PRIVATE, file)
        await space.mmap(0, PAGE, RW, mm.MAP_PRIVATE | mm.MAP_ANONYMOUS)
        await space.write(address + 2 * PAGE, b"copied")
        await space.read(address, 2 * PAGE)
        await file.truncate(PAGE + 1)
        assert path.stat().st_size == PAGE + 1
        with pytest.raises(BusError):
            await space.read(address + 2 * PAGE, 1)
        assert await space.read(address + PAGE, 2) == b"b\0"
        await file.truncate(3 * PAGE)
        assert await space.read(address + 2 * PAGE, 1) == b"\0"
        await file.truncate(0)
        with pytest.raises(BusError):
            await space.read(address, 1)


@pytest.mark.parametrize(("size", "writable"), [(-1, True), (0, False)])
async def test_truncating_refuses_with_einval(path, size, writable):
    """A file open for reading would be shown shorter than it is."""
    async with await MappedFile.open(path, writable=writable) as file:
        with pytest.raises(OSError, match="open the file for writing") as caught:
            await file.truncate(size)
        assert caught.value.errno == errno.EINVAL


class Stalling(Numbered):
    """Fetches wait until they are let go."""

    def __init__(self) -> None:
        self.started, self.go = anyio.Event(), anyio.Event()

    async def fetch(self, index: int) -> bytes:
        self.started.set()
        await self.go.wait()
        return await super().fetch(index)


async def test_a_page_that_is_cut_off_while_it_is_read_is_not_installed():
    """The reading of before the truncation would be mapped after it."""
    pager = Stalling()
    file = MappedFile(pager, size=2 * PAGE, is_writable=True)
    async with AddressSpace() as space:
        address = await space.mmap(0, 2 * PAGE, R, mm.MAP_SHARED, file)

        async def reader():
            with pytest.raises(BusError):
                await space.read(address + PAGE, 1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await pager.started.wait()
            await file.truncate(PAGE)
            pager.go.set()
        assert file.cached(1) is None


class Storing(Numbered):
    """Takes pages back, and may refuse."""

    def __init__(self) -> None:
        self.stored, self.refuses, self.during = {}, False, None

    async def store(self, index: int, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self.during:
            await self.during()
        if self.refuses:
            raise OSError(errno.ENOSPC, "full")
        self.stored[index] = data


async def test_a_page_that_could_not_be_stored_is_stored_later():
    """One full disk would lose what was written."""
    pager = Storing()
    file = MappedFile(pager, size=PAGE, is_writable=True)
    async with AddressSpace() as space:
        address = await space.mmap(0, PAGE, RW, mm.MAP_SHARED, file)
        await space.write(address, b"x")
        pager.refuses = True
        with pytest.raises(OSError, match="full"):
            await space.munmap(address, PAGE)
        pager.refuses = False
        await file.flush()
        assert pager.stored[0][:1] == b"x"
        pager.stored.clear()
        await file.flush()
        assert pager.stored == {}


async def test_what_is_truncated_while_others_are_stored_is_not_stored():
    """Storing a page that is cut off would make the file long again."""
    pager = Storing()
    file = MappedFile(pager, size=2 * PAGE, is_writable=True)
    async with AddressSpace() as space:
        address = await space.mmap(0, 2 * PAGE, RW, mm.MAP_SHARED, file)
        await space.write(address, bytes(2 * PAGE))
        pager.during = lambda: file.truncate(PAGE)
        await file.flush()
        assert list(pager.stored) == [0]


async def test_a_page_that_cannot_be_read_is_a_bus_error(path):
    """An I/O error would look like an error of the call, or be lost."""
    file = await MappedFile.open(path)
    os.close(file._pager._descriptor)
    async with AddressSpace() as space:
        address = await space.mmap(0, PAGE, R, mm.MAP_PRIVATE, file)
        with pytest.raises(BusError, match="can't be read") as caught:
            await space.read(address, 1)
        assert caught.value.__cause__.errno == errno.EBADF
    file._closed = True


async def test_a_closed_file_is_not_read():
    """A descriptor that is closed may be another file's by now."""
    file = MappedFile(Numbered(), name="closed")
    await file.aclose()
    with pytest.raises(anyio.ClosedResourceError, match="close it after"):
        await file.fetch(0)


async def test_opening_is_cancelled_without_leaving_a_descriptor(path, monkeypatch):
    """Each cancelled open would leak one."""
    scope, opened, real = anyio.CancelScope(), [], os.open

    def open_and_be_cancelled(*args):
        opened.append(real(*args))
        anyio.from_thread.run_sync(scope.cancel)
        return opened[0]

    monkeypatch.setattr(os, "open", open_and_be_cancelled)
    with scope:
        await MappedFile.open(path)
    assert scope.cancelled_caught
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        await MappedFile.open(path.parent / "missing")


async def test_a_page_is_read_once_for_all():
    """Eight tasks on one page would read it eight times."""
    pager = Recording()
    file = MappedFile(pager)
    assert repr(file).endswith("without end, 0 cached>")
    async with AddressSpace() as space, anyio.create_task_group() as tasks:
        address = await space.mmap(0, PAGE, R, mm.MAP_SHARED, file)
        for _ in range(8):
            tasks.start_soon(space.read, address, 1)
    assert pager.asked == [0]


async def test_who_stores_waits_for_who_is_storing():
    """A call would return, and what it promised to be stored would still be on its way."""

    class SlowDisk(Numbered):
        def __init__(self) -> None:
            self.go = anyio.Event()
            self.stored = 0

        async def store(self, index: int, data: bytes) -> None:
            await self.go.wait()
            self.stored += 1

    disk, returned = SlowDisk(), []
    file = MappedFile(disk, size=PAGE, is_writable=True)
    async with AddressSpace() as space:
        where = await space.mmap(0, PAGE, mm.PROT_READ | mm.PROT_WRITE, mm.MAP_SHARED, file)
        await space.write(where, b"x")

        async def flush() -> None:
            await file.flush()
            returned.append(disk.stored)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flush)
            tasks.start_soon(flush)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert not returned
            disk.go.set()
    assert returned == [1, 1]
