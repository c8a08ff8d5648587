"""Two shops sell the last item of a stock: does every answer fit some order of the calls?

The model says what one call after the other would answer. `linearizable` records the calls of the
real thing, and looks for an order in which the model explains what they returned.
"""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, linearizable


class Stock:
    """What a stock of one item is, if nobody else is there."""

    left = 1

    def take(self) -> bool:
        """Take an item, if there is one."""
        if not self.left:
            return False
        self.left -= 1
        return True


class SlowStock:
    """A stock that asks somebody between its look and its deed."""

    def __init__(self) -> None:
        self.left = 1

    async def take(self) -> bool:
        """Take an item, if there is one."""
        if not self.left:
            return False
        await trio.lowlevel.checkpoint()
        self.left -= 1
        return True


class LockedStock(SlowStock):
    """A stock in which only one call at a time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = trio.Lock()

    async def take(self) -> bool:
        """Take an item, if there is one."""
        async with self.lock:
            return await super().take()


async def two_shops(make: type[SlowStock]) -> None:
    """Sell the item in both."""
    with linearizable(Stock) as history:
        stock = history.watch(make())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stock.take, name="shop A")
            nursery.start_soon(stock.take, name="shop B")


if __name__ == "__main__":
    for make in (SlowStock, LockedStock):
        print(explore(partial(two_shops, make), name=make.__name__, search="exhaustive"))
