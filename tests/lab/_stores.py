"""Steps the tree's coroutines from one store to the next, without an event loop."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


@types.coroutine
def _stored(cell: StoreCell) -> Iterator[StoreCell]:
    yield cell


class StoreCell:
    """A cell whose reads go on at once, and whose every store hands control to `stores`."""

    #: Reads until a walk counts as endless.
    reads_left = 0

    def __init__(self, value: Any, name: str, *, lifetime: object = None) -> None:
        self.value = value
        self.name = name

    async def get(self) -> Any:
        StoreCell.reads_left -= 1
        assert StoreCell.reads_left >= 0, f"the walk to {self.name} does not end"
        return self.value

    async def set(self, value: Any) -> None:
        self.value = value
        await _stored(self)

    async def update(self, change: Callable[[Any], Any]) -> Any:
        await self.set(change(self.value))
        return self.value

    def peek(self) -> Any:
        return self.value

    def poke(self, value: Any) -> None:
        self.value = value


def stores(writer: Coroutine[StoreCell, None, None]) -> Iterator[StoreCell]:
    """Run *writer*; yield the cell after each of its stores, while memory stands as it is then."""
    try:
        while True:
            StoreCell.reads_left = 10_000
            yield writer.send(None)
    except StopIteration:
        return
    finally:
        writer.close()


def run(coroutine: Coroutine[Any, None, Any]) -> Any:
    """Run a coroutine that only reads; return what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the coroutine stored something")
