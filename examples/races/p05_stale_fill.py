"""P5: what was read before an invalidation is put into the cache after it, and stays for ever."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class FillsStale:
    """A cache in front of a source."""

    def __init__(self) -> None:
        self.source = "old"
        self.cached: str | None = None
        self.version = 0

    async def get(self) -> str:
        if self.cached is None:
            value = self.source
            await trio.lowlevel.checkpoint()  # on its way
            note(f"caches {value!r}")
            # Bug: the cache may have been invalidated since the value was read.
            self.cached = value
        return self.cached

    def write(self, value: str) -> None:
        note(f"writes {value!r} and invalidates")
        self.source = value
        self.cached = None
        self.version += 1


class ChecksTheVersion(FillsStale):
    """A value that was overtaken is thrown away and read again."""

    async def get(self) -> str:
        while self.cached is None:
            value, version = self.source, self.version
            await trio.lowlevel.checkpoint()
            if version == self.version:
                self.cached = value
        return self.cached


async def program(make: type[FillsStale]) -> None:
    """Write while somebody reads; then read."""
    cache = make()

    async def write() -> None:
        cache.write("new")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, name="reader")
        nursery.start_soon(write, name="writer")
    value = await cache.get()
    assert value == "new", f"the cache says {value!r} for ever"


if __name__ == "__main__":
    for make in (FillsStale, ChecksTheVersion):
        print(explore(partial(program, make), name=make.__name__, search="exhaustive"))
