"""Cache chunks of a remote object: each is fetched once, and none is freed under its reader.

Many tasks want byte ranges of one object. Two that want the same chunk must not fetch it twice, one
that is cancelled while it fetches must not take the others with it, and a chunk that is evicted
must stay usable for those who are reading it.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel

from aspf import RangeMap

CHUNK = 16
OBJECT = bytes(range(64))


class ChunkCache:
    """Read through a map from byte ranges to buffers."""

    def __init__(self) -> None:
        self.buffers: RangeMap[bytearray] = RangeMap(on_retire=bytearray.clear)
        self.fetches = 0
        self.online = anyio.Event()

    async def fetch(self, start: int) -> bytearray:
        """Fetch one chunk from the object store."""
        self.fetches += 1
        await self.online.wait()
        return bytearray(OBJECT[start : start + CHUNK])

    async def byte(self, position: int) -> int:
        """Read one byte, and take a while to do it."""
        start = position - position % CHUNK
        await self.buffers.get_or_insert(start, start + CHUNK, lambda: self.fetch(start))
        with self.buffers.pin(position) as chunk:
            await anyio.lowlevel.checkpoint()
            return chunk.payload[position - start]

    def evict(self, position: int) -> None:
        """Forget a chunk; its buffer is cleared when the last reader is done."""
        start = position - position % CHUNK
        self.buffers.remove(start, start + CHUNK)


async def main() -> None:
    """Read 4 chunks from 64 tasks, one of which is cancelled while all wait for its fetch."""
    cache = ChunkCache()
    read: dict[int, int] = {}

    async def reader(position: int) -> None:
        read[position] = await cache.byte(position)

    impatient = anyio.CancelScope()

    async def impatient_reader(position: int) -> None:
        with impatient:
            await reader(position)

    async with anyio.create_task_group() as readers:
        readers.start_soon(impatient_reader, 0)
        await anyio.wait_all_tasks_blocked()
        for position in range(64):
            readers.start_soon(reader, position)
        await anyio.wait_all_tasks_blocked()
        print(f"64 readers wait for 4 chunks: {cache.fetches} fetches")
        impatient.cancel()
        await anyio.wait_all_tasks_blocked()
        print(f"the reader that fetched the first is cancelled: {cache.fetches} fetches")
        cache.online.set()
    print(f"all bytes are right: {read == dict(enumerate(OBJECT))}")

    buffer = cache.buffers[20]
    with cache.buffers.pin(20):
        cache.evict(20)
        print(f"evicted in the middle of a read: {len(buffer)} bytes left")
    print(f"the read is over: {len(buffer)} bytes left")


if __name__ == "__main__":
    anyio.run(main)
