"""P7: a connection is assigned to a request that is cancelled before it starts to use it."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class Orphans:
    """A pool with one connection."""

    def __init__(self) -> None:
        self.idle = trio.Semaphore(1)

    async def request(self) -> None:
        await self.idle.acquire()
        note("has the connection")
        # Bug: nobody gives the connection back if the log, or the tracer, is where it ends.
        await log("request starts")
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self.idle.release()


class LeavesNoGap(Orphans):
    """There is no checkpoint between the assignment and the ``try``."""

    async def request(self) -> None:
        await self.idle.acquire()
        try:
            await log("request starts")
            await trio.lowlevel.checkpoint()
        finally:
            self.idle.release()


async def log(_message: str) -> None:
    """Write to somewhere."""
    await trio.lowlevel.checkpoint()


async def program(make: type[Orphans]) -> None:
    """Two requests, one of which may be cancelled anywhere; then one more."""
    pool = make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.request, name="request A")
        nursery.start_soon(pool.request, name="request B")
    await pool.request()


if __name__ == "__main__":
    for make in (Orphans, LeavesNoGap):
        print(
            explore(partial(program, make), name=make.__name__, cancel="each", search="exhaustive")
        )
