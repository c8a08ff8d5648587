"""P11: a refresh makes new objects for what is still the same, and both are in use."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class Node:
    """A server, which takes one request at a time."""

    def __init__(self) -> None:
        self.lock = trio.Lock()


class MakesThemNew:
    """The servers of a cluster, by address."""

    def __init__(self) -> None:
        self.nodes = {"10.0.0.1": Node()}

    def refresh(self, addresses: list[str]) -> None:
        # Bug: who uses the old object doesn't know of who uses the new one.
        self.nodes = {address: Node() for address in addresses}


class KeepsTheKnown(MakesThemNew):
    """What is known keeps its object."""

    def refresh(self, addresses: list[str]) -> None:
        self.nodes = {address: self.nodes.get(address) or Node() for address in addresses}


async def program(make: type[MakesThemNew]) -> None:
    """Two requests for one server, and a refresh in which it is what it was."""
    cluster = make()
    served: list[str] = []

    async def request(name: str) -> None:
        async with cluster.nodes["10.0.0.1"].lock:
            served.append(name)
            note("sends")
            assert len(served) == 1, f"one server has to do with {' and '.join(served)}"
            await trio.lowlevel.checkpoint()
            served.remove(name)

    async def refresh() -> None:
        note("refreshes")
        cluster.refresh(["10.0.0.1", "10.0.0.2"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, "A", name="request A")
        nursery.start_soon(refresh, name="refresh")
        nursery.start_soon(request, "B", name="request B")


if __name__ == "__main__":
    for make in (MakesThemNew, KeepsTheKnown):
        print(explore(partial(program, make), name=make.__name__, search="exhaustive"))
