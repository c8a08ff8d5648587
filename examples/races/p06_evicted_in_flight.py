"""P6: an entry is evicted while somebody waits for it to be filled."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class LooksAgain:
    """A cache with room for one entry; concurrent calls for a key are one fetch."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.filling: dict[str, trio.Event] = {}

    async def get(self, key: str) -> str:
        if key in self.filling:
            await self.filling[key].wait()
        elif key not in self.values:
            await self.fill(key)
        # Bug: another key's fill may have evicted the entry since.
        return self.values[key]

    async def fill(self, key: str) -> str:
        done = self.filling[key] = trio.Event()
        await trio.lowlevel.checkpoint()
        note(f"keeps {key!r} alone")
        self.values = {key: key.upper()}
        del self.filling[key]
        done.set()
        return self.values[key]


class KeepsWhatItFound(LooksAgain):
    """Who was woken looks whether there is anything, and starts over if not."""

    async def get(self, key: str) -> str:
        while key not in self.values:
            if key not in self.filling:
                return await self.fill(key)
            await self.filling[key].wait()
        return self.values[key]


async def program(make: type[LooksAgain]) -> None:
    """Two tasks want one key, a third another."""
    cache = make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, "a", name="first for a")
        nursery.start_soon(cache.get, "a", name="second for a")
        nursery.start_soon(cache.get, "b", name="one for b")


if __name__ == "__main__":
    for make in (LooksAgain, KeepsWhatItFound):
        print(explore(partial(program, make), name=make.__name__, search="exhaustive"))
