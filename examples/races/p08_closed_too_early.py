"""P8: something calls itself closed before its clean-up has ended."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class ClosedTooEarly:
    """A file that is flushed when it is closed."""

    def __init__(self) -> None:
        self.closed = False
        self.flushed = False

    async def aclose(self) -> None:
        if self.closed:
            return
        # Bug: who comes second is told that all is done.
        self.closed = True
        await self.flush()

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        note("flushed")
        self.flushed = True


class ClosedWhenDone(ClosedTooEarly):
    """Who comes second waits for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = trio.Lock()

    async def aclose(self) -> None:
        async with self.closing:
            if not self.closed:
                await self.flush()
                self.closed = True


async def program(make: type[ClosedTooEarly]) -> None:
    """Two tasks close a file, and each relies on it."""
    file = make()

    async def close() -> None:
        await file.aclose()
        note("takes it for closed")
        assert file.flushed, "aclose() has returned, and what was written isn't there"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close, name="user")
        nursery.start_soon(close, name="owner")


if __name__ == "__main__":
    for make in (ClosedTooEarly, ClosedWhenDone):
        print(explore(partial(program, make), name=make.__name__, search="exhaustive"))
