"""A region of a map, the guard that counts who holds it, and the lease of its payload.

A `Region` is immutable: an edit never changes one, it retires it and publishes others. What
changes is the count in its `Guard`, and that count is all that a reader touches.

The guard is the mail's repaired reference count. A live region counts up from 0. Retiring it
subtracts `BIAS`, the "big number" of January 2010 and Linux's ``VMA_LOCK_OFFSET`` since 6.15, so
a release can tell everything from the one number it has just written: below zero means retired or
released too often, exactly ``-BIAS`` means that this was the last holder of a retired region.
Nobody is asked to wake anybody at a count that another step can pass by: that was the lost
wake-up of December 2009.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, final

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from ._range_map import Drain, Watcher

__all__ = ("BIAS", "Guard", "Key", "Lease", "OwnedGuard", "Region")

T = TypeVar("T")

Key: TypeAlias = Any
"""A key: any type with a total order (int, str, bytes, tuples of them). One map, one type."""

BIAS: Final = 2**30


class Guard(Generic[T]):
    """Count the holders of one region, and release one of them on leaving a ``with`` block.

    One guard serves all holders of its region, one after the other and nested, so pinning makes
    no object. It is the context manager that `RangeMap.pin` returns.
    """

    __slots__ = ("drain", "n", "region")

    def __init__(self, region: Region[T]) -> None:
        # Invariant: holders while the region is published, holders - BIAS once it is retired.
        self.n: int = 0
        # Invariant: there until the region is retired and nobody holds it.
        self.region: Region[T] = region
        # Invariant: set in the step that subtracts BIAS, and never changed.
        self.drain: Drain[T] | None = None

    def __enter__(self) -> Region[T]:
        return self.region

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.n = n = self.n - 1
        if n < 0:
            self._below_zero(n)

    def release(self) -> None:
        """Let go of one hold that was taken by adding one to `n`.

        Raises:
            RuntimeError: If nobody held the region; the count is left as it was.
        """
        self.__exit__(None, None, None)

    def forget(self) -> None:
        """Drop the way back to the region, which nobody holds and nobody can find any more.

        Else every retired region would be a cycle, and wait for the garbage collector.
        """
        del self.region

    @property
    def pins(self) -> int:
        """How many hold the region now, published or retired."""
        return self.n if self.drain is None else self.n + BIAS

    def owners(self) -> Iterator[tuple[int | None, str]]:
        """Yield number and name of the tasks that are known to hold the region: of none."""
        return iter(())

    def _below_zero(self, n: int) -> None:
        if self.drain is not None and n >= -BIAS:
            if n == -BIAS:
                self.drain.last_put(self.region)
            return
        self.n += 1
        msg = (
            f"{self._name()} was released more often than it was pinned; "
            "release each pin once, by leaving its `with` block"
        )
        raise RuntimeError(msg)

    def __repr__(self) -> str:
        state = "published" if self.drain is None else "retired"
        return f"<{type(self).__name__} of {self._name()}, {state}, held by {self.pins}>"

    def _name(self) -> str:
        return repr(self.region) if hasattr(self, "region") else "a region that is gone"


def _task() -> tuple[int | None, str]:
    try:
        task = anyio.get_current_task()
    except Exception:  # noqa: BLE001 - anyio's error for "no event loop" differs by version
        return None, "code outside an event loop"
    return task.id, task.name or f"task {task.id}"


@final
class OwnedGuard(Guard[T]):
    """Know which tasks hold the region: the guard of ``RangeMap(debug=True)``.

    `n` stays the only interface of the hot path: adding one to it notes the running task.
    """

    __slots__ = ("_n", "_owners")

    if not TYPE_CHECKING:  # pragma: no branch - checkers see the attribute of Guard

        @property
        def n(self) -> int:
            """The same count as in `Guard`."""
            return self._n

        @n.setter
        def n(self, value: int) -> None:
            change = value - self._n
            holders = self._n if self.drain is None else self._n + BIAS
            self._n = value
            # The repair of a release too many takes nobody in and lets nobody go.
            if change == 1 and holders >= 0:
                self._owners.append(_task())
            elif change == -1 and holders > 0:
                self._forget(_task())

    def __init__(self, region: Region[T]) -> None:
        self._n: int = 0
        self._owners: list[tuple[int | None, str]] = []
        self.drain = None
        super().__init__(region)

    def _forget(self, owner: tuple[int | None, str]) -> None:
        # A pin may be released by another task than took it; then the oldest entry goes.
        self._owners.remove(owner if owner in self._owners else self._owners[0])

    def owners(self) -> Iterator[tuple[int | None, str]]:
        """Yield number and name of the tasks that hold the region, oldest first."""
        return iter(self._owners)


@final
class Lease(Generic[T]):
    """One payload's stay in a map, over all regions that carry it.

    Pieces of a split share the payload and therefore the lease; so do regions that were given the
    same object. It ends when the last of them has left the map and nobody holds any of them.
    """

    __slots__ = ("payload", "regions")

    def __init__(self, payload: T) -> None:
        self.payload = payload
        # Invariant: regions with this payload that are published, or retired and still held.
        self.regions: int = 0


@final
class Region(Generic[T]):
    """A half-open range ``[start, end)`` of a map and what it is mapped to.

    Attributes:
        start: First key of the range.
        end: First key after the range; ``start < end``.
        payload: What the map was given for it.
        guard: Counts who holds the region.
    """

    __slots__ = ("_lease", "_watchers", "end", "guard", "payload", "start")

    def __init__(self, start: Key, end: Key, payload: T) -> None:
        self.start: Key = start
        self.end: Key = end
        self.payload: T = payload
        self.guard: Guard[T] = Guard(self)
        self._lease: Lease[T] | None = None
        # Invariant: who wants to hear when a key in here loses its payload; moves to the pieces
        # that keep the payload when the region is retired. A dict for its order.
        self._watchers: dict[Watcher[T], None] | None = None

    @property
    def is_current(self) -> bool:
        """Whether the region has not been retired by an edit."""
        return self.guard.drain is None

    @property
    def invalidated(self) -> anyio.Event:
        """An event that is set when a key of this range loses the region's payload.

        Splitting or merging the region does not set it, for the payload stays. It is made on
        first use, so regions that nobody watches cost nothing. It must be asked for inside an
        event loop, while the region is pinned or current.

        >>> import anyio
        >>> async def main():
        ...     ranges = RangeMap([(0, 10, "old")])
        ...     with ranges.pin(3) as region:
        ...         ranges[5:7] = "new"
        ...         return region.is_current, region.invalidated.is_set()
        >>> from aspf import RangeMap
        >>> anyio.run(main)
        (False, True)
        """
        from ._range_map import Watcher  # noqa: PLC0415 - a region is made without its map

        return Watcher.of_region(self).event

    def __contains__(self, key: Key) -> bool:
        return bool(self.start <= key < self.end)

    def __repr__(self) -> str:
        gone = "" if self.is_current else ", retired"
        return f"<Region [{self.start!r}, {self.end!r}) -> {self.payload!r}{gone}>"
