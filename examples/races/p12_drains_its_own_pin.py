"""P12: a task waits until nobody uses something that it uses itself."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from aspf.race import explore, note

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


class Shard:
    """Something that is used by many, and replaced when the last one has let go."""

    def __init__(self) -> None:
        self.users = 0
        self.unused = trio.Event()

    @contextmanager
    def pinned(self) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()


async def drains_its_own_pin(shard: Shard) -> None:
    """Replace the shard in the middle of a request."""
    with shard.pinned():
        await trio.lowlevel.checkpoint()
        note("drains")
        # Bug: it waits for itself.
        await shard.unused.wait()


async def lets_go_first(shard: Shard) -> None:
    """Replace it after the request."""
    with shard.pinned():
        await trio.lowlevel.checkpoint()
    await shard.unused.wait()


async def program(request: Callable[[Shard], Awaitable[None]]) -> None:
    """Two requests, one of which replaces the shard."""
    shard = Shard()

    async def reader() -> None:
        with shard.pinned():
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, shard, name="request")
        nursery.start_soon(reader, name="reader")


if __name__ == "__main__":
    for request in (drains_its_own_pin, lets_go_first):
        print(explore(partial(program, request), name=request.__name__, search="exhaustive"))
