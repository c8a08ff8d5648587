"""P4: an entry is put into the cache before there is anything in it."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class PublishesBeforeItFills:
    """A cache of blocks."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytearray] = {}

    async def read(self, number: int) -> bytes:
        if number not in self.blocks:
            # Bug: from here on the block is found, and is empty.
            block = self.blocks[number] = bytearray()
            block += await fetch(number)
        return bytes(self.blocks[number])


class FillsThenPublishes(PublishesBeforeItFills):
    """Nobody sees the block until it is whole; two may fetch it."""

    async def read(self, number: int) -> bytes:
        if number not in self.blocks:
            block = bytearray(await fetch(number))
            self.blocks.setdefault(number, block)
        return bytes(self.blocks[number])


async def fetch(number: int) -> bytes:
    """Take a while."""
    await trio.lowlevel.checkpoint()
    return b"data of block %d" % number


async def program(make: type[PublishesBeforeItFills]) -> None:
    """Two tasks read one block."""
    cache = make()

    async def read() -> None:
        data = await cache.read(7)
        note(f"reads {data!r}")
        assert data == b"data of block 7", f"read {data!r}"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, name="reader A")
        nursery.start_soon(read, name="reader B")


if __name__ == "__main__":
    for make in (PublishesBeforeItFills, FillsThenPublishes):
        print(explore(partial(program, make), name=make.__name__, search="exhaustive"))
