"""tricycle 0.4.1: a writer that gives up leaves the readers behind it asleep.

A reader that comes while a writer waits queues behind it. If that writer is cancelled, its abort
function takes it out of the queue and wakes nobody, although only the writer stood in the way. The
readers sleep on until all who hold the lock have let go, and readers that come later pass them. The
class promises otherwise: "if task A tried to acquire the lock before task B did, task B won't get
it first".
"""

from __future__ import annotations

import trio
from tricycle import RWLock

from aspf.race import explore, may_cancel


async def nobody_is_passed() -> None:
    """A reader holds the lock, a writer waits and may give up, a reader waits, another comes."""
    lock = RWLock()

    async def read() -> None:
        async with lock.read_locked():
            await trio.lowlevel.checkpoint()

    async def write() -> None:
        with may_cancel():
            async with lock.write_locked():
                await trio.lowlevel.checkpoint()

    async def glance() -> None:
        try:
            lock.acquire_read_nowait()
        except trio.WouldBlock:
            return
        asleep = lock.statistics().readers_waiting
        lock.release()
        assert not asleep, "a reader gets in while one that came earlier is asleep"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, name="reader")
        nursery.start_soon(write)
        nursery.start_soon(read, name="second reader")
        nursery.start_soon(glance)


if __name__ == "__main__":
    print(explore(nobody_is_passed, minimise=True))
