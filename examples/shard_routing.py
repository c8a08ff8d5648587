"""Swap the connection of a shard while requests are in the middle of using it.

A router maps ranges of slots to connections. Moving a shard must send new requests to the new
connection at once, must let the requests in flight finish on the old one, and must close the old
one when the last of them is done: neither under them, nor never.
"""

from __future__ import annotations

import anyio

from aspf import RangeMap


class Connection:
    """A connection that refuses to work once it is closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = True

    async def ask(self, question: str, answer_arrives: anyio.Event) -> None:
        """Send a question and wait for the answer."""
        print(f"{question}: asked on {self.name}")
        await answer_arrives.wait()
        assert self.open, f"{self.name} was closed in the middle of {question}"
        print(f"{question}: answered on {self.name}")

    async def close(self) -> None:
        """Say goodbye, which takes a round trip."""
        await anyio.lowlevel.checkpoint()
        self.open = False
        print(f"{self.name} is closed")


async def serve(router: RangeMap[Connection], slot: int, answer_arrives: anyio.Event) -> None:
    """Serve one request on whatever connection its slot has now."""
    with router.pin(slot) as region:
        await region.payload.ask(f"slot {slot}", answer_arrives)


async def main() -> None:
    """Move slots 0..8191 from one node to another, with a request in flight."""
    slow_answer, quick_answer = anyio.Event(), anyio.Event()
    quick_answer.set()
    async with RangeMap[Connection](on_retire=Connection.close) as router:
        router.insert(0, 8192, Connection("node A"))
        router.insert(8192, 16384, Connection("node B"))

        async with anyio.create_task_group() as requests:
            requests.start_soon(serve, router, 42, slow_answer)
            await anyio.wait_all_tasks_blocked()

            drain = router.assign(0, 8192, Connection("node C"))
            print(f"slots 0..8191 moved; node A drained: {drain.done}")
            await serve(router, 42, quick_answer)

            slow_answer.set()
            await drain.wait()
            print(f"node A drained: {drain.done}")
        print("shutting down")


if __name__ == "__main__":
    anyio.run(main)
