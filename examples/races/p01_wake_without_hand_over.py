"""P1: a waiter is woken, but what it waits for is left lying about until it runs."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class WakesWithoutHandOver:
    """A limiter with one token."""

    def __init__(self) -> None:
        self.free = 1
        self.waiting: list[trio.Event] = []

    async def acquire(self) -> None:
        if not self.free:
            self.waiting.append(trio.Event())
            await self.waiting[-1].wait()
        # Bug: somebody else may have come in between the waking and here.
        self.free -= 1

    def release(self) -> None:
        self.free += 1
        if self.waiting:
            self.waiting.pop(0).set()


class HandsOver(WakesWithoutHandOver):
    """The token goes to the waiter, and is never free in between."""

    async def acquire(self) -> None:
        if self.free:
            self.free -= 1
        else:
            self.waiting.append(trio.Event())
            await self.waiting[-1].wait()

    def release(self) -> None:
        if self.waiting:
            self.waiting.pop(0).set()
        else:
            self.free += 1


async def program(make: type[WakesWithoutHandOver]) -> None:
    """Three tasks, one token."""
    limiter = make()

    async def work() -> None:
        await limiter.acquire()
        note("has the token")
        assert limiter.free >= 0, "two tasks have the one token"
        await trio.lowlevel.checkpoint()
        note("gives it back")
        limiter.release()

    async with trio.open_nursery() as nursery:
        for name in "ABC":
            nursery.start_soon(work, name=f"task {name}")


if __name__ == "__main__":
    for make in (WakesWithoutHandOver, HandsOver):
        print(explore(partial(program, make), name=make.__name__, search="exhaustive"))
