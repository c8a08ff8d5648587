"""anyio 4.16.0: `functools.lru_cache` holds too much, and loses what somebody waits for.

Each key has a lock of its own, and a miss makes room before its value is there. So misses of several
keys at once each find nothing to evict, or evict one another's unfilled entries, and the cache ends
with more than `maxsize` of them. And if an entry is evicted while it is filled, and that fails, the
next in line for its lock looks it up again and gets a KeyError, from a function that raises none.
"""

from __future__ import annotations

from contextlib import suppress

import anyio.functools
import trio

from aspf.race import explore


async def holds_at_most_maxsize() -> None:
    """Three misses at once, in a cache for two."""

    @anyio.functools.lru_cache(maxsize=2)
    async def fetch(key: str) -> str:
        await trio.lowlevel.checkpoint()
        return key.upper()

    async with trio.open_nursery() as nursery:
        for key in "abc":
            nursery.start_soon(fetch, key, name=f"fetch {key}")
    entries = anyio.functools.lru_cache_items.get()[fetch]
    assert len(entries) <= 2, f"maxsize=2, and there are {len(entries)} entries"


async def raises_what_its_source_raises() -> None:
    """The source is down for the first call; two tasks ask for one key, a third for another."""
    is_down = True

    @anyio.functools.lru_cache(maxsize=1)
    async def fetch(key: str) -> str:
        nonlocal is_down
        was_down, is_down = is_down, False
        await trio.lowlevel.checkpoint()
        if was_down:
            raise ConnectionError("the source is down")
        return key.upper()

    async def ask(key: str) -> None:
        with suppress(ConnectionError):
            await fetch(key)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "a", name="first for a")
        nursery.start_soon(ask, "a", name="second for a")
        nursery.start_soon(ask, "b", name="one for b")


if __name__ == "__main__":
    print(explore(holds_at_most_maxsize, minimise=True))
    print(explore(raises_what_its_source_raises, minimise=True))
