"""Our map with one line wrong, each as somebody who maintains it might write it.

Each is a context manager that puts the mistake in.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from unittest import mock

import trio

from aspf import Drain, RangeMap
from aspf.ranges import _range_map
from aspf.ranges._range_map import _Hold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from aspf import Region


def dropped_recheck() -> AbstractContextManager[object]:
    """Insert what a factory made without a look at what has changed meanwhile."""

    def never_outdated(ranges: RangeMap[Any], start: Any, end: Any) -> None:
        pass

    return mock.patch.object(RangeMap, "_outdate_fills", never_outdated)


def wake_up_to_the_wrong_waiter() -> AbstractContextManager[object]:
    """Wake who waits for the youngest drain, not for the one that is done."""

    def finish(ranges: RangeMap[Any], drain: Drain[Any]) -> None:
        if drain._retiring or not drain._settled:
            return
        youngest = next(reversed(ranges._pending))
        del ranges._pending[drain]
        if drain._errors:
            ranges._failed[drain] = None
        if youngest._event is not None:
            youngest._event.set()

    return mock.patch.object(RangeMap, "_finish", finish)


@contextmanager
def put_before_the_use() -> Iterator[None]:
    """Release a hold on entering: the region object stays alive anyway."""
    enter = _Hold.__aenter__

    async def entered(self: _Hold[Any]) -> Region[Any]:
        region = await enter(self)
        region.guard.release()
        return region

    def released(self: _Hold[Any]) -> None:
        del self._map._holds[self]

    async def left(self: _Hold[Any], *exc: object) -> None:
        released(self)

    with (
        mock.patch.object(_Hold, "__aenter__", entered),
        mock.patch.object(_Hold, "__aexit__", left),
    ):
        yield


@contextmanager
def settles_behind_the_last_only() -> Iterator[None]:
    """Wait for the last earlier edit that overlaps, as if it had waited for all the others."""
    unsettled = RangeMap.unsettled

    def last(ranges: RangeMap[Any], start: Any, end: Any) -> tuple[Drain[Any], ...]:
        return unsettled(ranges, start, end)[-1:]

    with mock.patch.object(RangeMap, "unsettled", last):
        yield


@contextmanager
def swallowed_cancellation() -> Iterator[None]:
    """Return from the wait for a drain when the task is cancelled, as if the drain were done."""
    wait = Drain.wait

    async def waited(drain: Drain[Any]) -> None:
        with suppress(trio.Cancelled):
            await wait(drain)

    with mock.patch.object(Drain, "wait", waited):
        yield


@contextmanager
def old_leases_first() -> Iterator[None]:
    """End the leases of what an edit takes before those of what it brings begin."""
    publish = RangeMap._publish

    def published(ranges: RangeMap[Any], edit: Any, index: Any, cleanup: Any) -> Drain[Any]:
        adopt, new = ranges._adopts, edit.new
        ranges._adopts = False
        try:
            drain = publish(ranges, edit, index, cleanup)
        finally:
            ranges._adopts = adopt
        for region in new if adopt else ():
            ranges._adopt(region)
        return drain

    with mock.patch.object(RangeMap, "_publish", published):
        yield


def no_wake_up_of_the_watchers() -> AbstractContextManager[object]:
    """Move no watcher to the pieces of its region: it hears of the first edit and of no other."""

    def moved(self: Any, index: Any) -> None:
        if not _range_map._serving(index, self._start, self._end, self._payload):
            self._fired = True
            if self._scope is not None:
                self._scope.cancel()
            if self._event is not None:
                self._event.set()

    return mock.patch.object(_range_map.Watcher, "moved", moved)
