"""trio-util 0.4.0: `compose_values` misses a change, and a waiter sleeps for ever.

It takes the values first and then starts the tasks that follow them. A change that comes before
such a task has run is never seen (groove-x/trio-util#13). It takes no cancellation, and no luck.
"""

from __future__ import annotations

import trio
from trio_util import AsyncValue, compose_values

from aspf.race import explore


async def sees_every_change() -> None:
    """One task sets a value while another waits for it in a composite."""
    x, y = AsyncValue(0), AsyncValue(0)

    async def follow() -> None:
        async with compose_values(x=x, y=y) as both:
            await both.wait_value(lambda value: value.x == 1)

    async def change() -> None:
        await trio.lowlevel.checkpoint()
        x.value = 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        nursery.start_soon(change)


if __name__ == "__main__":
    print(explore(sees_every_change, minimise=True))
