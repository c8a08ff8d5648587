"""Whether what tasks shared is at rest when all of them have ended: nobody waits, nothing is held."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol, TypeVar

import anyio
import trio

from aspf.race import _hook

__all__ = ("Watched", "unrest_of", "watch")


class HasStatistics(Protocol):
    """What can be asked how it is."""

    def statistics(self) -> object:
        """Say how it is."""


T = TypeVar("T", bound=HasStatistics)

# What the statistics of trio's, anyio's and our own objects call those who wait and what is held.
_OF_A_BUSY_ONE: Final = (
    "tasks_waiting",
    "tasks_waiting_send",
    "tasks_waiting_receive",
    "locked",
    "borrowed_tokens",
    "readers",
    "writer",
    "readers_waiting",
    "writers_waiting",
    "pins",
    "fills",
    "unsettled",
)


class Watched(NamedTuple):
    """An object that has to be at rest in the end, and how it was when that was said."""

    thing: HasStatistics
    name: str
    before: object


def watch(thing: T, name: str | None = None) -> T:
    """Let an exploration check that an object is at rest when the program has ended.

    If the program returns and the object is not, the schedule fails with the kind ``"leak"``. At
    rest is: of what the object's ``statistics()`` say, nobody waits (``tasks_waiting`` and the
    like), no lock is held, no token borrowed, nothing pinned; and a semaphore has the value that it
    had when it was given to this function. An object whose statistics have none of those fields has
    to have the same statistics as then. Outside an exploration nothing happens.

    Args:
        thing: A primitive of trio or anyio, a `ReadWriteLock`, a `RangeMap`, or anything with a
            ``statistics()`` that needs no await.
        name: What reports call it; the name of its class if left out.

    Returns:
        The same object.

    Examples:
        >>> import trio
        >>> from aspf.race import explore, watch
        >>> async def program():
        ...     lock = watch(trio.Lock(), "lock")
        ...     await lock.acquire()
        >>> explore(program).failures[0].summary
        'lock is not at rest in the end: locked=True'
    """
    if _hook.current is not None:
        _hook.current.watch(Watched(thing, name or type(thing).__name__, _state_of(thing)))
    return thing


def unrest_of(watched: Watched) -> str:
    """Say in which way an object is not at rest; nothing if it is."""
    state = _state_of(watched.thing)
    if not isinstance(state, dict):
        found = [] if state == watched.before else [f"{state}, and was {watched.before}"]
    else:
        found = [
            f"{field}={value!r}"
            for field, value in state.items()
            if (value != watched.before[field] if field == "value" else value)  # type: ignore[index]
        ]
    return f"{watched.name} is not at rest in the end: {', '.join(found)}" if found else ""


def _state_of(thing: HasStatistics) -> Any:
    """What has to be zero, by name; or all statistics, where nothing is known to have to."""
    statistics = thing.statistics()
    lock = getattr(statistics, "lock_statistics", None)
    state = {
        name: getattr(part, name)
        for part in (lock, statistics)
        for name in _OF_A_BUSY_ONE
        if hasattr(part, name)
    }
    if isinstance(thing, trio.Semaphore | anyio.Semaphore):
        state["value"] = thing.value
    return state or statistics
