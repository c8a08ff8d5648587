"""Two races with time: a time-out that meets the answer, and an entry that expires in use."""

from __future__ import annotations

import trio

from aspf.race import note


async def impatient_client() -> None:
    """A pool of one connection; whoever gives up waiting for it may just have been given it."""
    free, waiting = [True], list[trio.Event]()

    def release() -> None:
        if waiting:
            waiting.pop(0).set()  # the connection is the waiter's now
        else:
            free.append(True)

    async def request() -> None:
        if free:
            free.pop()
        else:
            turn = trio.Event()
            waiting.append(turn)
            with trio.move_on_after(5) as patience:
                await turn.wait()
            if patience.cancelled_caught:
                note("gives up")
                if turn in waiting:
                    waiting.remove(turn)
                return  # and the connection, if it was given to us meanwhile?
        await trio.lowlevel.checkpoint()
        release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, name="first")
        nursery.start_soon(request, name="second")
    if not free:
        raise AssertionError("nobody has the connection, and it isn't free")


async def cache_with_a_time_to_live() -> None:
    """An entry that is looked up while it is good, and used when it isn't there any more."""
    cache = {"key": "value"}

    async def expire() -> None:
        await trio.sleep(60)
        del cache["key"]

    async def read() -> None:
        if "key" in cache:
            note("a hit")
            await trio.lowlevel.checkpoint()
            note(f"is {cache['key']}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expire)
        nursery.start_soon(read)
