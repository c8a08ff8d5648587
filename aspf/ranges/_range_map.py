"""RangeMap: pin what you find without waiting; publish, then drain.

Why it is correct
=================

**One step.** A map belongs to one event loop, and whatever changes it is one sync step with no
await inside. So a lookup and its pin are atomic, and so are an edit's five parts: the new index,
the retirement of the old regions, the leases, the watchers, the line that the edit waits in. No
lock guards what one step does. Everything below is about the time between steps.

**Pin.** A reader bisects the published index and adds one to the guard of the region it finds.
From that step to its release the region is *held*: an edit may take the region out of the index
at any time, and the next reader will not find it, but whatever belongs to it (a connection, a
file, a page) is left alone until the hold ends. The 2009 mail did this with ``refcnt`` and a
lookup under RCU; here the index is persistent, so a lookup can't meet it half changed.

**Publish.** An edit replaces the index and returns a `Drain`. Readers never queue behind another
reader: a read-write lock held across I/O makes them (a writer waits for the slowest reader,
everybody else waits for the writer), and that convoy is what this design is for.

**Settle.** What an edit took away may be cleaned up when nobody holds it. Two rules make that
safe; without either, small exhaustive models reach freed payloads:

*Rule S: settle in publish order.* Somebody may hold a region R, of which edit 1 cuts the tail off
and edit 2 removes the rest. Edit 2 retires a piece that nobody holds, yet the holder of R still
uses that range. So an edit settles, and runs its cleanup, only after every earlier unsettled edit
that overlaps its full span. Growing a region is an edit too: its caller needn't wait for it, but
its successors must.

*One payload, one lease.* The pieces of a split share their payload, so "the last pin of a region
is gone" does not mean that the payload is free. A lease counts the regions, published or held,
that carry the payload, and ``on_retire`` runs when that count ends, exactly once.

**No lost wake-up.** The count that a release writes says by itself whether it was the last one
(see `Guard`). A drain is not woken at some value on the way: it is done or it is not, and its
event is set in the step that makes it done.

**User code last.** ``on_retire`` and cleanups run after the state change, when the map is whole
again; they may pin, edit and publish. What they raise goes to the drain's waiters, never out of a
reader's ``with`` block, which has done nothing wrong.

Who may change what
===================

``_index`` only `_publish`; ``Guard.n`` the pins and `_publish`; a drain's counts only this file.
WARNING: an await anywhere in the sync part of this file is a race. ``tests/ranges/broken/`` keeps
the variants that break rule S, growth and the lease, and the explorer finds each of them.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast, final

import anyio
import anyio.lowlevel
from anyio import AsyncContextManagerMixin, ClosedResourceError

from aspf._errors import DrainDeadlock, RangeInvalidated, RangeNotFound, RangeOverlap, StaleEdit

from ._edit import (
    Edit,
    check_range,
    plan_assign,
    plan_insert,
    plan_merge,
    plan_remove,
    plan_split,
)
from ._index import RegionIndex
from ._region import BIAS, Guard, Key, Lease, OwnedGuard, Region

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from anyio.abc import TaskGroup

__all__ = ("Drain", "EditBlock", "RangeMap", "RangeMapStatistics", "UnsettledEdit", "Watcher")

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")


@final
@dataclass(frozen=True, slots=True)
class UnsettledEdit:
    """An edit that waits, for `RangeMapStatistics`.

    Attributes:
        start: First key of the edit's span.
        end: End of the span.
        holders: Who still holds what it took away: names of tasks where they are known.
        waits_for: How many earlier edits have to settle first.
    """

    start: Key
    end: Key
    holders: tuple[str, ...]
    waits_for: int


@final
@dataclass(frozen=True, slots=True)
class RangeMapStatistics:
    """What a map is doing now.

    Attributes:
        regions: Published regions.
        pins: Pins and holds on regions, published and retired.
        holds: How many of the pins were taken by `RangeMap.hold`.
        fills: Factories that `RangeMap.get_or_insert` is awaiting.
        edits: Edits published so far.
        unsettled: Edits that wait for holders or for earlier edits.
        oldest_unsettled: The first of them, with its holders.
        retired: Payloads whose lease has ended so far; 0 without ``on_retire``.
        closed: Whether `RangeMap.aclose` was called.
    """

    regions: int
    pins: int
    holds: int
    fills: int
    edits: int
    unsettled: int
    oldest_unsettled: UnsettledEdit | None
    retired: int
    closed: bool


@final
class Drain(Generic[T]):
    """What an edit took away, until nobody holds it.

    You get one from every edit. It needn't be awaited: settling goes on by itself.

    Attributes:
        start: First key of the edit's full span.
        end: End of the span; both are None for an edit that changed nothing.
    """

    __slots__ = (
        "_after",
        "_cleanup",
        "_errors",
        "_event",
        "_holders",
        "_map",
        "_old",
        "_retiring",
        "_settled",
        "_waits_for",
        "end",
        "start",
    )

    def __init__(self, ranges: RangeMap[T], cleanup: Callable[[], None] | None = None) -> None:
        self._map = ranges
        self.start: Key = None
        self.end: Key = None
        # Named in statistics(); dropped on settling, or each region would keep all later alive.
        self._old: tuple[Region[T], ...] = ()
        self._cleanup = cleanup
        # Invariant: how many of `_old` are still held.
        self._holders = 0
        # Invariant: how many unsettled drains have this one in their `_after` (rule S).
        self._waits_for = 0
        self._after: tuple[Drain[T], ...] = ()
        self._settled = False
        # Invariant: leases that ended with a region of `_old` and whose on_retire still runs.
        self._retiring = 0
        self._errors: tuple[Exception, ...] = ()
        self._event: anyio.Event | None = None

    @property
    def done(self) -> bool:
        """Whether nobody holds what the edit took away, and its cleanup is over."""
        return self._settled and not self._retiring

    @property
    def settled(self) -> bool:
        """Whether nobody holds it any more; an async ``on_retire`` may still run."""
        return self._settled

    async def wait(self) -> None:
        """Wait until the drain is `done`. Always a checkpoint.

        A cancelled call has lost nothing: the edit stands, settling goes on, and the drain can be
        awaited again.

        Raises:
            DrainDeadlock: If the calling task holds a region of the map: it may wait for itself.
            Exception: What a cleanup or ``on_retire`` raised; an `ExceptionGroup` of several.
        """
        self._map._refuse_deadlock(self)
        await anyio.lowlevel.checkpoint()
        if not self.done:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        if self._errors:
            self._map._failed.pop(self, None)
            if len(self._errors) > 1:
                msg = f"errors while [{self.start!r}, {self.end!r}) settled"
                raise ExceptionGroup(msg, self._errors)
            raise self._errors[0]

    def last_put(self, region: Region[T]) -> None:
        """Take note that the last holder of a retired region has let go; `Guard` calls it."""
        self._holders -= 1
        ended = self._map._give_back(region)
        if ended is not None:
            self._retiring += 1
        self._map._settle(self)
        if ended is not None:
            self._map._retire(ended, self)

    def holders(self) -> tuple[str, ...]:
        """Name who still holds what the edit took away, as far as the map knows.

        `RangeMap.hold` knows its task, a pin only with ``RangeMap(debug=True)``.
        """
        return tuple(name for region in self._old for name in self._map._owners(region.guard))

    def __repr__(self) -> str:
        if self.done:
            state = "done"
        elif self._settled:
            state = f"running on_retire for {self._retiring}"
        else:
            state = f"{self._holders} regions held, behind {self._waits_for} earlier edits"
        return f"<Drain of [{self.start!r}, {self.end!r}): {state}>"


class Watcher(Generic[T]):
    """Hear when a key of a range loses its payload.

    It stands in the regions that serve its range, and moves to their successors.
    """

    __slots__ = ("_end", "_event", "_fired", "_payload", "_region", "_scope", "_start")

    def __init__(
        self, start: Key, end: Key | None, payload: T, scope: anyio.CancelScope | None = None
    ) -> None:
        self._start = start
        # None: the one key `start`.
        self._end = end
        self._payload = payload
        self._scope = scope
        self._fired = False
        self._event: anyio.Event | None = None
        self._region: Region[T] | None = None

    @classmethod
    def of_region(cls, region: Region[T]) -> Watcher[T]:
        """Return the watcher of all of a region's range, also if it has been retired meanwhile."""
        for watcher in region._watchers or ():
            if (watcher._start, watcher._end) == (region.start, region.end):
                return watcher
        watcher = cls(region.start, region.end, region.payload)
        watcher._stand_in(region)
        drain = region.guard.drain
        if drain is not None:
            watcher.moved(drain._map.index)
        return watcher

    @property
    def event(self) -> anyio.Event:
        """Set once the payload is lost."""
        if self._event is None:
            self._event = anyio.Event()
            if self._fired:
                self._event.set()
        return self._event

    def _stand_in(self, region: Region[T]) -> None:
        if region._watchers is None:
            region._watchers = {}
        region._watchers[self] = None
        self._region = region

    def leave(self) -> None:
        """Hear no more. For a watcher of one key, which stands in one region."""
        assert self._region is not None
        assert self._region._watchers is not None
        self._region._watchers.pop(self, None)

    def moved(self, index: RegionIndex[T]) -> None:
        """Find the regions that serve the range now, or fire."""
        serving = _serving(index, self._start, self._end, self._payload)
        for region in serving:
            self._stand_in(region)
        if not serving and not self._fired:
            self._fired = True
            if self._scope is not None:
                self._scope.cancel()
            if self._event is not None:
                self._event.set()


def _serving(
    index: RegionIndex[T], start: Key, end: Key | None, payload: T
) -> tuple[Region[T], ...]:
    """Return the regions that map all of ``[start, end)`` to *payload*; none if a key is not."""
    if end is None:
        region = index.find(start)
        return (region,) if region is not None and region.payload is payload else ()
    regions = index.overlapping(start, end)
    for region in regions:
        if start < region.start or region.payload is not payload:
            return ()
        start = region.end
    return () if start < end else regions


class _Editable(Generic[T, R]):
    """The edits, for a map (each is published at once) and for an edit block (at its end)."""

    def _apply(self, edit: Edit[T]) -> R:
        raise NotImplementedError  # pragma: no cover - abstract

    def _plan_on(self) -> RegionIndex[T]:
        raise NotImplementedError  # pragma: no cover - abstract

    def insert(self, start: Key, end: Key, payload: T) -> R:
        """Map ``[start, end)``, all of which must be free.

        Complexity: O(log n + √n), as for every edit.

        Raises:
            RangeOverlap: If a region overlaps the range.
            ValueError: If the range is empty.
            TypeError: If a key is not of the map's key type.
        """
        return self._apply(plan_insert(self._plan_on(), start, end, payload))

    def assign(self, start: Key, end: Key, payload: T) -> R:
        """Map ``[start, end)``, whatever was there; ``ranges[start:end] = payload``.

        Regions that stick out are cut; their pieces keep the payload. Neighbours with an equal
        payload are not joined: that is what `merge` is for.

        Raises:
            ValueError: If the range is empty.
            TypeError: If a key is not of the map's key type.
        """
        return self._apply(plan_assign(self._plan_on(), start, end, payload))

    def remove(self, start: Key, end: Key) -> R:
        """Unmap ``[start, end)``; ``del ranges[start:end]``.

        Regions that stick out are cut. Holes, and a range that is one hole, are no error. A
        `RangeMap.get_or_insert` in flight for the range starts over: what its factory has read
        is stale.

        Raises:
            ValueError: If the range is empty.
            TypeError: If a key is not of the map's key type.
        """
        result = self._apply(plan_remove(self._plan_on(), start, end))
        self._removed(start, end)
        return result

    def _removed(self, start: Key, end: Key) -> None:
        """Take note of what was to be free, also where nothing was mapped."""
        raise NotImplementedError  # pragma: no cover - abstract

    def split(self, key: Key) -> R:
        """Make a region begin at *key*; both pieces keep the payload.

        Raises:
            RangeNotFound: If no region contains the key.
        """
        return self._apply(plan_split(self._plan_on(), key))

    def merge(self, start: Key, end: Key) -> R:
        """Join all regions that overlap ``[start, end)``.

        Raises:
            ValueError: If there is a gap between them, or they don't share one payload object.
        """
        return self._apply(plan_merge(self._plan_on(), start, end))

    def __setitem__(self, key: slice, payload: T) -> None:
        start, end = _both_ends(key, "ranges[start:end] = payload")
        self.assign(start, end, payload)

    def __delitem__(self, key: slice) -> None:
        start, end = _both_ends(key, "del ranges[start:end]")
        self.remove(start, end)


def _both_ends(key: object, usage: str) -> tuple[Key, Key]:
    if not isinstance(key, slice) or key.start is None or key.stop is None:
        msg = f"{usage} needs a start and an end, not {key!r}"
        raise TypeError(msg)
    if key.step is not None:
        _refuse_step(key)
    return key.start, key.stop


def _refuse_step(key: slice) -> NoReturn:
    msg = f"a range has no step; use [{key.start!r}:{key.stop!r}] without {key.step!r}"
    raise TypeError(msg)


@final
class EditBlock(_Editable[T, None]):
    """Several edits that are published as one; `RangeMap.edit` makes it.

    Attributes:
        drain: The drain of the whole edit, once the block has ended; None before.
    """

    def __init__(self, index: RegionIndex[T]) -> None:
        self._opened_on = index
        self._index = index
        self._edit: Edit[T] = Edit((), (), index.version)
        self._holes: list[tuple[Key, Key]] = []
        # Regions that came and went inside the block.
        self._passing: list[Region[T]] = []
        self.drain: Drain[T] | None = None

    @property
    def index(self) -> RegionIndex[T]:
        """The map as it would be if the block ended here."""
        return self._index

    def _plan_on(self) -> RegionIndex[T]:
        if self.drain is not None:
            msg = "this edit block has ended and is published; open another with ranges.edit()"
            raise RuntimeError(msg)
        return self._index

    def _apply(self, edit: Edit[T]) -> None:
        self._index = self._index.edited(edit)
        came = set(map(id, self._edit.new))
        self._passing += (region for region in edit.old if id(region) in came)
        self._edit = self._edit.then(edit)

    def _removed(self, start: Key, end: Key) -> None:
        self._holes.append((start, end))


class _Fill:
    """A factory in flight, for all who want its range."""

    __slots__ = ("end", "error", "landed", "stale", "start", "task")

    def __init__(self, start: Key, end: Key) -> None:
        self.start = start
        self.end = end
        self.task = anyio.get_current_task().id
        self.landed = anyio.Event()
        # An edit has touched the range since the factory was called: what it read may be old.
        self.stale = False
        self.error: Exception | None = None


@final
class RangeMap(_Editable[T, Drain[T]], AsyncContextManagerMixin):
    """Map half-open ranges of keys to payloads that are used while they may be replaced.

    Readers `pin` what they find, without waiting. Edits are sync, visible at once, and return a
    `Drain`, which is done when nobody holds what the edit took away.

    Lookups: ``pin``, ``hold``, ``find``, ``get``, ``ranges[key]``, ``ranges[start:end]``, ``in``,
    ``len``, iteration, ``gaps``. Edits: ``insert``, ``assign`` (``ranges[start:end] = payload``),
    ``remove`` (``del ranges[start:end]``), ``split``, ``merge``, ``edit``, ``get_or_insert``.
    Life: ``on_retire``, ``aclose``, ``async with``, ``statistics``.

    A map belongs to one event loop and is not thread-safe.

    Args:
        items: ``(start, end, payload)`` triples to begin with.
        on_retire: Called with each payload once its last region has left the map and the last
            pin on any of them is released. A sync one runs in whoever released last. An async
            one needs an owner, ``async with RangeMap(on_retire=...)``, and is shielded from
            cancellation. What it raises is raised by the drain's waiters, or by `aclose`.
        debug: Remember which task took each pin, at some cost per pin.

    Raises:
        RangeOverlap: If two of the items overlap.

    >>> ranges = RangeMap([(0, 10, "a")])
    >>> drain = ranges.assign(4, 6, "b")
    >>> [(r.start, r.end, r.payload) for r in ranges]
    [(0, 4, 'a'), (4, 6, 'b'), (6, 10, 'a')]
    >>> with ranges.pin(5) as region:
    ...     del ranges[0:10]
    ...     region.payload, 5 in ranges
    ('b', False)
    """

    def __init__(
        self,
        items: Iterable[tuple[Key, Key, T]] = (),
        *,
        on_retire: Callable[[T], Awaitable[None] | None] | None = None,
        debug: bool = False,
    ) -> None:
        self._on_retire = on_retire
        self._retires_async = iscoroutinefunction(on_retire) or iscoroutinefunction(
            getattr(on_retire, "__call__", None)  # noqa: B004 - an object with async __call__
        )
        self._debug = debug
        self._adopts = debug or on_retire is not None
        self._leases: dict[int, Lease[T]] = {}
        # Invariant: drains that are not done, in publish order.
        self._pending: dict[Drain[T], None] = {}
        # Invariant: drains that are done, with an error that no waiter has been told.
        self._failed: dict[Drain[T], None] = {}
        # Invariant: the holds whose block is being executed. A dict for its order.
        self._holds: dict[_Hold[T], None] = {}
        self._fills: dict[tuple[Key, Key], _Fill] = {}
        self._tasks: TaskGroup | None = None
        self._loop: object | None = None
        self._closed = False
        self._edits = 0
        self._retired = 0
        self._index: RegionIndex[T] = _build(items)
        if self._adopts:
            for region in self._index:
                self._adopt(region)

    # ---------------------------------------------------------------- lookups

    @property
    def index(self) -> RegionIndex[T]:
        """The published index: a snapshot that no later edit changes."""
        return self._index

    def pin(self, key: Key) -> Guard[T]:
        """Hold the region that contains *key* for a ``with`` block. Never waits.

        Use it only as ``with ranges.pin(key) as region:``; the pin is taken by the call and
        released by leaving the block. What the region stands for stays usable until then, also if
        an edit takes the region out of the map meanwhile.

        Complexity: O(log n).

        Raises:
            RangeNotFound: If no region contains the key.
            ClosedResourceError: After `aclose`.
            TypeError: If the key is not of the map's key type.
        """
        index = self._index
        try:
            keys, slots = index._root
            keys, slots = slots[bisect_right(keys, key)]
            keys, slots = slots[bisect_right(keys, key)]
            region: Region[T] = slots[bisect_right(keys, key)]
        except TypeError:
            index.refuse_key(key)
        if key < region.end:
            guard = region.guard
            guard.n += 1
            return guard
        raise self._missing(key)

    def hold(self, key: Key, *, cancel_on_invalidate: bool = False) -> _Hold[T]:
        """Hold the region that contains *key* for an ``async with`` block, as a known owner.

        Entering is a checkpoint, leaving is not. A call cancelled on entering holds nothing.

        Args:
            key: What to look up, after the checkpoint.
            cancel_on_invalidate: Cancel the body when the key loses the payload. The block then
                raises `RangeInvalidated`, unless the body ended before it noticed.

        Raises:
            RangeNotFound: If no region contains the key.
            RangeInvalidated: See *cancel_on_invalidate*.
            ClosedResourceError: After `aclose`.
        """
        return _Hold(self, key, cancel_on_invalidate)

    def find(self, key: Key) -> Region[T] | None:
        """Return the region that contains *key*, not pinned: stale after the next await.

        Complexity: O(log n).
        """
        return self._plan_on().find(key)

    def get(self, key: Key, default: D | None = None) -> T | D | None:
        """Return the payload at *key*, not pinned, or *default*.

        Complexity: O(log n).
        """
        region = self.find(key)
        return default if region is None else region.payload

    def gaps(self, start: Key, end: Key) -> tuple[tuple[Key, Key], ...]:
        """Return the parts of ``[start, end)`` that no region covers, ascending.

        Complexity: O(log n + k) for k regions in the range.
        """
        check_range(start, end)
        return self._plan_on().gaps(start, end)

    def __getitem__(self, key: Any) -> Any:
        """Return the payload at a key, or the regions that a slice overlaps, ascending."""
        if isinstance(key, slice):
            if key.step is not None:
                _refuse_step(key)
            if key.start is not None and key.stop is not None:
                check_range(key.start, key.stop)
            return self._plan_on().overlapping(key.start, key.stop)
        region = self.find(key)
        if region is None:
            raise self._missing(key)
        return region.payload

    def __contains__(self, key: Key) -> bool:
        return self.find(key) is not None

    def __iter__(self) -> Iterator[Region[T]]:
        """Iterate over the regions of the map as it is now, ascending; edits don't disturb it."""
        return iter(self._plan_on())

    def __len__(self) -> int:
        """Return the number of regions."""
        return len(self._index)

    def _missing(self, key: Key) -> Exception:
        if self._closed:
            return _closed_error()
        near = self._index.find_next(key)
        hint = "there is none above it" if near is None else f"the next one is {near!r}"
        return RangeNotFound(f"no range contains {key!r}; {hint}")

    # ---------------------------------------------------------------- edits

    def _plan_on(self) -> RegionIndex[T]:
        if self._closed:
            raise _closed_error()
        return self._index

    def _apply(self, edit: Edit[T]) -> Drain[T]:
        return self._publish(edit, self._index.edited(edit), None)

    def _removed(self, start: Key, end: Key) -> None:
        self._outdate_fills(start, end)

    @contextmanager
    def edit(self) -> Iterator[EditBlock[T]]:
        """Publish several edits as one, on leaving the block.

        Nothing is published if the block raises. A payload that was put in and taken out again
        inside the block goes to ``on_retire`` as well.

        Raises:
            StaleEdit: On leaving, if the map changed since the block was entered.

        >>> ranges = RangeMap([(0, 4, "a"), (4, 8, "b")])
        >>> with ranges.edit() as edit:
        ...     edit.remove(0, 4)
        ...     edit[4:8] = "c"
        >>> edit.drain.done, list(ranges)
        (True, [<Region [4, 8) -> 'c'>])
        """
        block = EditBlock(self._plan_on())
        yield block
        if self._plan_on() is not block._opened_on:
            msg = (
                "the map changed while an edit() block was open; nothing of the block was "
                "published. Plan the edits again, and don't await inside the block"
            )
            raise StaleEdit(msg)
        block.drain = self._publish(block._edit, block._index, None)
        for start, end in block._holes:
            self._outdate_fills(start, end)
        # What the block was given and didn't keep was never in the map: nothing else retires it.
        kept = {id(region.payload) for region in block._edit.old}
        passing = {id(region.payload): region.payload for region in block._passing}
        for number, payload in passing.items():
            if number not in kept:
                self._discard(payload)

    def publish(
        self,
        edit: Edit[T],
        *,
        index: RegionIndex[T] | None = None,
        cleanup: Callable[[], None] | None = None,
    ) -> Drain[T]:
        """Make an edit that was planned on `index` visible, and begin to settle it. Never waits.

        Args:
            edit: What to change.
            index: For an edit that is composed by `Edit.then`: the index that its parts lead to.
            cleanup: Called once when the edit settles: nobody holds what it took away, and every
                earlier edit that overlaps its span has settled. It runs in whoever released last,
                possibly inside this call. What it raises goes to the drain's waiters.

        Raises:
            StaleEdit: If the map changed since the edit was planned.
            ClosedResourceError: After `aclose`.
        """
        current = self._plan_on()
        if index is None or edit.version != current.version:
            index = current.edited(edit)
        return self._publish(edit, index, cleanup)

    def unsettled(self, start: Key, end: Key) -> tuple[Drain[T], ...]:
        """Return the drains that have not settled and overlap ``[start, end)``, oldest first.

        Complexity: O(u) for u unsettled edits.
        """
        return tuple(
            drain
            for drain in self._pending
            if not drain._settled and drain.start < end and start < drain.end
        )

    def _publish(
        self, edit: Edit[T], index: RegionIndex[T], cleanup: Callable[[], None] | None
    ) -> Drain[T]:
        if self._retires_async:
            self._refuse_ownerless()
        drain = Drain(self, cleanup)
        drain.start, drain.end, drain._old = edit.start, edit.end, edit.old
        if self._pending and edit:
            for earlier in self.unsettled(drain.start, drain.end):
                earlier._after += (drain,)
                drain._waits_for += 1
        if self._fills and edit:
            self._outdate_fills(drain.start, drain.end)
        self._pending[drain] = None
        self._edits += 1
        # New leases before old ones end, or a payload that stays would be retired on the way.
        if self._adopts:
            for region in edit.new:
                self._adopt(region)
        self._index = index
        ended = []
        for region in edit.old:
            guard = region.guard
            guard.drain = drain
            guard.n -= BIAS
            if guard.n != -BIAS:
                drain._holders += 1
            elif (lease := self._give_back(region)) is not None:
                ended.append(lease)
            if region._watchers is not None:
                for watcher in region._watchers:
                    watcher.moved(index)
        drain._retiring = len(ended)
        self._settle(drain)
        for lease in ended:
            self._retire(lease, drain)
        return drain

    def _refuse_ownerless(self) -> None:
        if self._tasks is None:
            msg = (
                "an async on_retire needs an owner that outlives it: "
                "`async with RangeMap(on_retire=...) as ranges:`"
            )
            raise RuntimeError(msg)

    # ---------------------------------------------------------------- settling

    def _settle(self, first: Drain[T]) -> None:
        """Settle the drain if rule S allows it, and then those that waited for it."""
        if first._holders or first._waits_for:
            return
        ready = [first]
        # The list grows while it is walked: in publish order, for each _after is in it.
        for drain in ready:
            if drain._holders or drain._waits_for or drain._settled:
                continue
            drain._settled = True
            drain._old = ()
            if drain._cleanup is not None:
                try:
                    drain._cleanup()
                except Exception as error:  # noqa: BLE001 - it belongs to the waiters
                    drain._errors += (error,)
            if drain._after:
                for later in drain._after:
                    later._waits_for -= 1
                ready += drain._after
                drain._after = ()
            self._finish(drain)

    def _finish(self, drain: Drain[T]) -> None:
        if drain._retiring or not drain._settled:
            return
        del self._pending[drain]
        if drain._errors:
            self._failed[drain] = None
        if drain._event is not None:
            drain._event.set()

    def _adopt(self, region: Region[T]) -> None:
        """Give a region that enters the map its owner-aware guard and its share of a lease."""
        if self._debug:
            region.guard = OwnedGuard(region)
        if self._on_retire is None:
            return
        lease = self._leases.get(id(region.payload))
        if lease is None:
            lease = self._leases[id(region.payload)] = Lease(region.payload)
        lease.regions += 1
        region._lease = lease

    def _give_back(self, region: Region[T]) -> Lease[T] | None:
        """Return the lease if this region, retired and not held any more, was its last."""
        region.guard.forget()
        lease = region._lease
        if lease is None:
            return None
        lease.regions -= 1
        if lease.regions:
            return None
        del self._leases[id(lease.payload)]
        return lease

    def _retire(self, lease: Lease[T], drain: Drain[T]) -> None:
        assert self._on_retire is not None
        self._retired += 1
        if not self._retires_async:
            try:
                result = self._on_retire(lease.payload)
                if isawaitable(result):
                    _refuse_awaitable(result)
            except Exception as error:  # noqa: BLE001 - it belongs to the waiters
                drain._errors += (error,)
            finally:
                drain._retiring -= 1
                self._finish(drain)
        elif self._tasks is not None:
            self._tasks.start_soon(self._retire_shielded, lease.payload, drain)
        else:
            drain._retiring -= 1
            self._finish(drain)
            warnings.warn(
                f"{lease.payload!r} was released after its RangeMap had gone; "
                "its async on_retire did not run",
                ResourceWarning,
                stacklevel=2,
            )

    async def _retire_shielded(self, payload: T, drain: Drain[T]) -> None:
        assert self._on_retire is not None
        with anyio.CancelScope(shield=True):
            try:
                await cast("Awaitable[None]", self._on_retire(payload))
            except Exception as error:  # noqa: BLE001 - it belongs to the waiters
                drain._errors += (error,)
            finally:
                drain._retiring -= 1
                self._finish(drain)

    # ---------------------------------------------------------------- single flight

    async def get_or_insert(
        self, start: Key, end: Key, factory: Callable[[], Awaitable[T]]
    ) -> Region[T]:
        """Return the region at *start*, after mapping ``[start, end)`` if it was free.

        The factory is awaited once for all tasks that ask for the range meanwhile. If its task is
        cancelled, the next one takes over with its own factory; if it raises, all of them get the
        error. If an edit touches the range meanwhile, what the factory read may be stale: the
        payload goes to ``on_retire`` and everybody starts over. Always a checkpoint.

        The region is not pinned, but it is current until the caller's next await, so
        ``with ranges.pin(start):`` right after it finds it.

        Raises:
            RangeOverlap: If the range is mapped in part, or to several payloads.
            RuntimeError: If a factory asks for the range that it is to fill itself.
            ClosedResourceError: After `aclose`, also if the map was closed meanwhile.
        """
        check_range(start, end)
        self._bind()
        await anyio.lowlevel.checkpoint()
        while True:
            mapped = self._plan_on().overlapping(start, end)
            if mapped:
                if not _serving(self._index, start, end, mapped[0].payload):
                    msg = (
                        f"[{start!r}, {end!r}) is mapped in part or to several payloads, "
                        f"beginning with {mapped[0]!r}; ask for ranges that are mapped as one"
                    )
                    raise RangeOverlap(msg)
                return mapped[0]
            fill = self._fills.get((start, end))
            if fill is None:
                await self._lead(start, end, factory)
            elif fill.task == anyio.get_current_task().id:
                msg = f"the factory of [{start!r}, {end!r}) asks for the range that it is to fill"
                raise RuntimeError(msg)
            else:
                await fill.landed.wait()
                if fill.error is not None:
                    raise fill.error

    async def _lead(self, start: Key, end: Key, factory: Callable[[], Awaitable[T]]) -> None:
        """Await the factory and publish what it made, unless it has become stale."""
        fill = self._fills[start, end] = _Fill(start, end)
        try:
            payload = await factory()
        except Exception as error:
            fill.error = error
            raise
        finally:
            del self._fills[start, end]
            fill.landed.set()
        if fill.stale or self._closed:
            self._discard(payload)
        else:
            self.insert(start, end, payload)

    def _discard(self, payload: T) -> None:
        """Retire a payload that never entered the map."""
        if self._on_retire is not None and id(payload) not in self._leases:
            drain = Drain(self)
            drain._retiring = 1
            self._pending[drain] = None
            self._settle(drain)
            self._retire(Lease(payload), drain)

    def _outdate_fills(self, start: Key, end: Key) -> None:
        for fill in self._fills.values():
            if fill.start < end and start < fill.end:
                fill.stale = True

    # ---------------------------------------------------------------- life

    async def aclose(self) -> None:
        """Refuse new pins and edits, tell the holders, and wait until nobody holds anything.

        Always a checkpoint; closing twice is no error. If the call is cancelled the map stays
        closed; what is still held is retired by its last release.

        Raises:
            DrainDeadlock: If the calling task holds a region of the map, or is the factory of a
                `get_or_insert`; it is not closed then.
            ExceptionGroup: What cleanups and ``on_retire`` raised and no waiter has been told.
        """
        self._refuse_deadlock(None)
        if not self._closed:
            if self._retires_async:
                self._refuse_ownerless()
            everything = Edit(tuple(self._index), (), self._index.version)
            # Before publishing: on_retire may come back to the map.
            index, self._closed = self._index.edited(everything), True
            self._publish(everything, index, None)
        await anyio.lowlevel.checkpoint()
        while self._fills:
            # Its payload will come too late, and is retired.
            await next(iter(self._fills.values())).landed.wait()
        while self._pending:
            drain = next(iter(self._pending))
            if drain._event is None:
                drain._event = anyio.Event()
            await drain._event.wait()
        errors = [error for drain in self._failed for error in drain._errors]
        self._failed.clear()
        if errors:
            msg = "errors while the map settled that no waiter of a drain has seen"
            raise ExceptionGroup(msg, errors)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        failure: Exception | None = None
        async with anyio.create_task_group() as self._tasks:
            try:
                try:
                    yield self
                finally:
                    await self.aclose()
            except Exception as error:  # noqa: BLE001 - out of the group's ExceptionGroup
                failure = error
            finally:
                # Before the group ends: a release while it ends could not start a task in it.
                self._tasks = None  # noqa: PLW2901
        if failure is not None:
            raise failure

    def statistics(self) -> RangeMapStatistics:
        """Return what the map is doing now.

        Complexity: O(n): the pins are counted where they are.
        """
        waiting = [drain for drain in self._pending if not drain._settled]
        held = [region for drain in waiting for region in drain._old]
        oldest = waiting[0] if waiting else None
        return RangeMapStatistics(
            regions=len(self._index),
            pins=sum(region.guard.pins for region in (*self._index, *held)),
            holds=len(self._holds),
            fills=len(self._fills),
            edits=self._edits,
            unsettled=len(waiting),
            oldest_unsettled=oldest
            and UnsettledEdit(oldest.start, oldest.end, oldest.holders(), oldest._waits_for),
            retired=self._retired,
            closed=self._closed,
        )

    def _owners(self, guard: Guard[T]) -> Iterator[str]:
        """Name who holds a region: tasks where they are known, a number for the rest."""
        known = [name for _, name in guard.owners()]
        known = known or [hold._owner for hold in self._holds if hold._guard is guard]
        yield from known
        unknown = guard.pins - len(known)
        # Below zero: somebody has released what another holds, who will be told on leaving.
        if unknown > 0:
            yield f"{unknown} unnamed pin{'s' if unknown > 1 else ''}"

    def _bind(self) -> None:
        """Refuse another event loop while anything is in use in the map's own.

        Raises:
            RuntimeError: If something of the map is held, waited for or filled elsewhere.
        """
        loop = anyio.lowlevel.current_token()
        if self._loop != loop:
            busy = self._holds or self._fills or self._pending
            if self._loop is not None and (busy or self.statistics().pins):
                msg = (
                    f"{self!r} is in use in another event loop; a map belongs to one loop. "
                    "Make one map per loop, or close this one there first"
                )
                raise RuntimeError(msg)
            self._loop = loop

    def _refuse_deadlock(self, drain: Drain[T] | None) -> None:
        self._bind()
        task = anyio.get_current_task().id
        pinned = self._debug and any(
            owner == task
            for region in self._waited_for(drain)
            for owner, _ in region.guard.owners()
        )
        if pinned or any(hold._task == task for hold in self._holds):
            msg = (
                f"this task holds a region of {self!r} and would wait for itself; "
                "leave the block that holds it, then wait for the drain"
            )
            raise DrainDeadlock(msg)
        if drain is None and any(fill.task == task for fill in self._fills.values()):
            msg = f"a factory can't close {self!r}, which would wait for the factory"
            raise DrainDeadlock(msg)

    def _waited_for(self, drain: Drain[T] | None) -> Iterator[Region[T]]:
        """Yield the regions that a drain waits for, also through earlier edits; None: all."""
        if drain is None:
            yield from self._index
        awaited = set(self._pending) if drain is None else {drain}
        for earlier in reversed(self._pending):
            if earlier in awaited or not awaited.isdisjoint(earlier._after):
                awaited.add(earlier)
                yield from earlier._old

    def __repr__(self) -> str:
        waiting = sum(1 for drain in self._pending if not drain._settled)
        state = "closed" if self._closed else f"{len(self._index)} regions"
        return f"<RangeMap at {id(self):#x}: {state}, {waiting} unsettled edits>"


@final
class _Hold(Generic[T]):
    """The ``async with`` block of `RangeMap.hold`."""

    __slots__ = (
        "_cancels",
        "_guard",
        "_key",
        "_map",
        "_owner",
        "_region",
        "_scope",
        "_task",
        "_watcher",
    )

    # Set on entering, before anybody can see the hold.
    _task: int
    _owner: str
    # The guard forgets it once nobody holds it, also if that is by a release too many.
    _region: Region[T]

    def __init__(self, ranges: RangeMap[T], key: Key, cancels: bool) -> None:  # noqa: FBT001
        self._map = ranges
        self._key = key
        self._cancels = cancels
        self._guard: Guard[T] | None = None
        self._scope: anyio.CancelScope | None = None
        self._watcher: Watcher[T] | None = None

    async def __aenter__(self) -> Region[T]:
        if self._guard is not None:
            msg = "this hold has been entered already; call ranges.hold(key) for each block"
            raise RuntimeError(msg)
        self._map._bind()
        await anyio.lowlevel.checkpoint()
        self._guard = self._map.pin(self._key)
        task = anyio.get_current_task()
        self._task, self._owner = task.id, task.name or f"task {task.id}"
        self._map._holds[self] = None
        region = self._region = self._guard.region
        if self._cancels:
            self._scope = anyio.CancelScope().__enter__()
            self._watcher = Watcher(self._key, None, region.payload, self._scope)
            self._watcher._stand_in(region)
        return region

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._guard is not None
        del self._map._holds[self]
        if self._watcher is not None:
            self._watcher.leave()
        self._guard.release()
        if self._scope is None:
            return
        self._scope.__exit__(exc_type, exc, traceback)
        if self._scope.cancelled_caught:
            msg = f"{self._key!r} lost its payload while {self._region!r} was held"
            raise RangeInvalidated(msg) from None


def _build(items: Iterable[tuple[Key, Key, T]]) -> RegionIndex[T]:
    regions = []
    for start, end, payload in items:
        check_range(start, end)
        regions.append(Region(start, end, payload))
    try:
        return RegionIndex(regions)
    except ValueError as error:
        raise RangeOverlap(str(error)) from None


def _closed_error() -> ClosedResourceError:
    return ClosedResourceError("this RangeMap was closed by aclose()")


def _refuse_awaitable(result: object) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        # A coroutine that is never awaited warns; the error below says it better.
        close()
    msg = "on_retire returned an awaitable; declare it `async def` so that the map awaits it"
    raise TypeError(msg)
