"""Single flight: what several tasks want at once is fetched once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

__all__ = ("SingleFlight",)

R = TypeVar("R")


@final
class SingleFlight(Generic[R]):
    """Fetch each key at most once at a time, for all who want it.

    The first task to ask for a key leads: it fetches, in its own task, so that cancelling it
    cancels its I/O. The others wait. If the leader fails or is cancelled they get nothing from
    it: the first of them to run leads the next flight.
    """

    __slots__ = ("_flights",)

    def __init__(self) -> None:
        # Invariant: one flight for each key that some task is fetching now.
        self._flights: dict[Hashable, _Flight[R]] = {}

    async def get(self, key: Hashable, fetch: Callable[[], Awaitable[R]]) -> R:
        """Return what *fetch* returns, here or in the task that leads.

        A checkpoint if *fetch* is one. A cancelled call has handed the lead over, if it had it.
        """
        while (flight := self._flights.get(key)) is not None:
            await flight.landed.wait()
            if flight.results:
                return flight.results[0]
        flight = self._flights[key] = _Flight()
        try:
            result = await fetch()
            flight.results.append(result)
            return result
        finally:
            del self._flights[key]
            flight.landed.set()

    def __len__(self) -> int:
        return len(self._flights)


@final
class _Flight(Generic[R]):
    __slots__ = ("landed", "results")

    def __init__(self) -> None:
        self.landed = anyio.Event()
        # Empty until the fetch has succeeded; None may be a result.
        self.results: list[R] = []
