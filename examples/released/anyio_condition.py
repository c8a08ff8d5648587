"""anyio 4.12.1: a waiter that gives up takes a wake-up of its `Condition` with it.

`notify` takes one waiter from the queue and wakes it. If that one has just been cancelled, it leaves
with the notification, although another waits for it. Repaired in 4.13 (agronholm/anyio#1075).
"""

from __future__ import annotations

import anyio
import trio

from aspf.race import explore, may_cancel


async def somebody_takes_the_item() -> None:
    """Two consumers wait for the one item that comes, and one of them may give up."""
    condition = anyio.Condition()
    items: list[str] = []

    async with trio.open_nursery() as nursery:

        async def consume() -> None:
            async with condition:
                while not items:
                    await condition.wait()
            nursery.cancel_scope.cancel()

        async def gives_up() -> None:
            with may_cancel():
                await consume()

        async def produce() -> None:
            async with condition:
                items.append("item")
                condition.notify()

        nursery.start_soon(gives_up)
        nursery.start_soon(consume)
        nursery.start_soon(produce)


if __name__ == "__main__":
    print(explore(somebody_takes_the_item, minimise=True))
