"""P9: two kinds of events come by two ways, and the later one overtakes the earlier."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class TwoWays:
    """A handler of page faults: it fills a page from the snapshot until that page is removed."""

    def __init__(self) -> None:
        self.removals, self.removed_pages = trio.open_memory_channel[int](9)
        self.faults, self.touched_pages = trio.open_memory_channel[int](9)
        self.page = "unmapped"
        self.snapshot = "old data"

    async def serve(self, nursery: trio.Nursery) -> None:
        # Bug: a fault may be served before the removal that came before it.
        nursery.start_soon(self.serve_removals, name="removals")
        nursery.start_soon(self.serve_faults, name="faults")

    async def serve_removals(self) -> None:
        await self.removed_pages.receive()
        note("the page is empty now")
        self.snapshot = "zeroes"

    async def serve_faults(self) -> None:
        await self.touched_pages.receive()
        note(f"the page is filled with {self.snapshot}")
        self.page = self.snapshot


class OneWay(TwoWays):
    """All events are served by one task, each in its turn."""

    async def serve(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.serve_in_turn)

    async def serve_in_turn(self) -> None:
        await self.serve_removals()
        await self.serve_faults()


async def program(make: type[TwoWays]) -> None:
    """A guest removes a page, then touches it."""
    handler = make()
    async with trio.open_nursery() as nursery:
        await handler.serve(nursery)
        await handler.removals.send(7)
        await handler.faults.send(7)
    assert handler.page == "zeroes", f"a page was removed, and then read as {handler.page}"


if __name__ == "__main__":
    for make in (TwoWays, OneWay):
        print(explore(partial(program, make), name=make.__name__, search="exhaustive"))
