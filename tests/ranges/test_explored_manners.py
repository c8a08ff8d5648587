"""What a map says of itself, refuses and reports, at the moments that matter, in every order.

Each program records what can be seen from outside: results, errors, statistics, reprs, and what
`on_retire` was given. The records of all its schedules are the golden file.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import re
import warnings
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from _golden import check_golden
from anyio.lowlevel import checkpoint

from aspf import Drain, RangeMap, Region
from aspf.race import check
from aspf.ranges import Edit
from aspf.ranges._edit import plan_assign, plan_insert, plan_remove, plan_split

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

GOLDEN = Path(__file__).parent / "golden"


class Payload(str):
    """A payload that is equal to others, and the same as none."""

    __slots__ = ()


class Record:
    """What was seen."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self, *what: object) -> None:
        """Keep what was seen, without addresses and without where a function is from."""
        text = " ".join(str(part) for part in what)
        text = re.sub(r"0x[0-9a-f]+", "...", text)
        self.seen.append(re.sub(r"(?<=')(?:\w+\.)+(?=\w+')", "", text))

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Note an error, and go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - every kind is noted
            self.note(_told(error))
        else:
            self.note("not refused")

    def regions(self, ranges: RangeMap[Any]) -> None:
        self.note(*ranges)


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return f"{error.message}: {', '.join(map(_told, error.exceptions))}"
    return f"{type(error).__name__}: {error}"


async def look_up() -> list[str]:
    """Look at a map in every way, also at keys that it has not."""
    record = Record()
    note, refused = record.note, record.refused
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b"), (12, 16, "c")])
    note(ranges, len(ranges), *ranges)
    for key in (-1, 0, 3, 4, 8, 12, 15, 16):
        note(key, ranges.find(key), ranges.get(key), ranges.get(key, "none"), key in ranges)
        with refused(), ranges.pin(key) as region:
            note(region, region.guard, ranges.statistics())
            with ranges.pin(key):
                note(ranges.statistics().pins)
        with refused():
            note(ranges[key])
    note(ranges[2:13], ranges[:4], ranges[8:], ranges[:], ranges.gaps(2, 20))
    for call in (
        lambda: ranges[2:13:2],
        lambda: ranges[4:4],
        lambda: ranges[4:2],
        lambda: ranges.gaps(4, 4),
        lambda: ranges.pin("x"),
        lambda: ranges.find("x"),
        lambda: ranges.insert(1, 1, "d"),
        lambda: ranges.insert(3, 5, "d"),
        lambda: ranges.assign(5, 3, "d"),
        lambda: ranges.remove(5, 5),
        lambda: ranges.split(9),
        lambda: ranges.merge(0, 8),
        lambda: ranges.merge(0, 16),
        lambda: ranges.__setitem__(3, "d"),
        lambda: ranges.__setitem__(slice(3, None), "d"),
        lambda: ranges.__setitem__(slice(None, 3), "d"),
        lambda: ranges.__setitem__(slice(0, 3, 1), "d"),
        lambda: ranges.__delitem__(3),
        lambda: ranges.__delitem__(slice(0, None)),
        lambda: RangeMap([(0, 4, "a"), (3, 5, "b")]),
        lambda: RangeMap([(4, 4, "a")]),
        lambda: ranges.publish(Edit((), (Region(20, 24, "d"),), 7)),
    ):
        with refused():
            note(call())  # type: ignore[no-untyped-call]
    note(ranges.statistics(), *RangeMap(items=[(0, 4, "by name")]))
    with pytest.raises(TypeError):
        RangeMap((), None)  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        ranges.statistics().regions = 1  # type: ignore[misc]
    assert not hasattr(ranges.statistics(), "__dict__")
    return record.seen


async def edit() -> list[str]:
    """Edit a map in every way, alone and in blocks."""
    record = Record()
    note, refused = record.note, record.refused

    def retired(payload: str) -> None:
        if payload != "often":
            note("retired", payload)

    ranges: RangeMap[str] = RangeMap([(0, 4, Payload("a"))], on_retire=retired)
    drains = [
        ranges.insert(4, 8, Payload("b")),
        ranges.assign(2, 6, Payload("c")),
        ranges.split(3),
        ranges.split(3),
        ranges.merge(2, 6),
        ranges.remove(6, 7),
        ranges.remove(20, 21),
    ]
    note(*drains, *((drain.done, drain.settled, drain.start, drain.end) for drain in drains))
    record.regions(ranges)
    ranges[0:1] = Payload("d")
    del ranges[1:2]
    record.regions(ranges)
    with ranges.edit() as block:
        note(block.drain, *block.index)
        block.insert(10, 12, Payload("passing"))
        block.remove(10, 12)
        block.insert(12, 14, Payload("stays"))
        block.assign(0, 1, Payload("first"))
        block.assign(0, 1, Payload("second"))
        block.split(13)
        block.merge(12, 14)
        block[7:8] = Payload("e")
        del block[3:4]
        kept = block.index.find(2)
        assert kept is not None
        block.remove(2, 3)
        block.insert(2, 3, kept.payload)
        note("inside", *block.index)
        with pytest.raises(AttributeError):
            block.drain.done  # type: ignore[union-attr]  # noqa: B018
    note(block.drain, ranges.index is block.index)
    record.regions(ranges)
    with refused():
        block.remove(0, 1)
    with refused(), ranges.edit() as stale:
        stale.insert(30, 31, Payload("stale"))
        ranges.insert(40, 41, Payload("other"))
    note(stale.drain)
    with refused(), ranges.edit() as stale:
        stale.insert(30, 31, Payload("failed"))
        raise ValueError("in the block")
    with ranges.edit():
        pass
    planned = plan_insert(ranges.index, 50, 51, Payload("planned"))
    ranges.publish(edit=planned)
    with refused():
        ranges.publish(planned)
    with refused():
        ranges.publish(planned, index=ranges.index)
    with pytest.raises(TypeError):
        ranges.publish(planned, ranges.index)  # type: ignore[misc]
    with pytest.raises(TypeError):
        ranges.publish(edit=planned, cleanups=None)  # type: ignore[call-arg]
    first = plan_insert(ranges.index, 60, 61, Payload("one"))
    index = ranges.index.edited(first)
    ranges.publish(both := first.then(plan_split(index, 60)), index=index)
    note(both)
    record.regions(ranges)
    note(ranges.statistics(), ranges)
    with refused():
        ranges.publish(Edit((), (Region(90, 91, Payload("early")),), 99), index=ranges.index)
    # Composed of two edits with regions between them; of a version that is equal and not the same.
    for _ in range(300):
        ranges.assign(50, 51, Payload("often"))
    first = plan_remove(ranges.index, 0, 1)
    index = ranges.index.edited(first)
    second = plan_remove(index, 60, 61)
    both = first.then(second)
    both = Edit(both.old, both.new, int(str(both.version)))
    note(ranges.publish(both, index=index.edited(second)))
    record.regions(ranges)
    # An object that is back in another place, and one that is in two.
    twice = Payload("twice")
    ranges[70:71] = twice
    ranges[72:73] = twice
    del ranges[70:71]
    ranges[70:71] = twice
    ranges[70:71] = twice
    del ranges[70:73]
    note(ranges.statistics().retired)
    await ranges.aclose()
    note(ranges.statistics(), ranges)
    await ranges.aclose()
    for call in (
        lambda: ranges.pin(0),
        lambda: ranges.find(0),
        lambda: ranges.get(0),
        lambda: ranges[0],
        lambda: ranges[0:1],
        lambda: list(ranges),
        lambda: ranges.gaps(0, 1),
        lambda: ranges.insert(0, 1, "x"),
        lambda: ranges.remove(0, 1),
        lambda: ranges.edit().__enter__(),
        lambda: ranges.publish(planned),
        lambda: 0 in ranges,
    ):
        with refused():
            note(call())  # type: ignore[no-untyped-call]
    with refused():
        await ranges.get_or_insert(0, 1, checkpoint)
    with refused():
        async with ranges.hold(0):
            pass
    note(len(ranges))
    return record.seen


async def hold_and_drain(*, debug: bool) -> list[str]:
    """Edit under holders whose order is fixed, and look at every step."""
    record = Record()
    note = record.note
    ranges: RangeMap[str] = RangeMap(
        [(0, 4, "a"), (4, 8, "b"), (8, 12, "c")], on_retire=partial(note, "retired"), debug=debug
    )
    go = [trio.Event() for _ in range(3)]
    ready = [trio.Event() for _ in range(3)]

    async def hold() -> None:
        async with ranges.hold(1) as region:
            ready[0].set()
            await go[0].wait()
            note("hold ends", region, region.is_current, region.guard)

    async def pin() -> None:
        with ranges.pin(2) as region, ranges.pin(5) as other, ranges.pin(2):
            ready[1].set()
            await go[1].wait()
            note("pin ends", region, other)

    async def pin_twice() -> None:
        with ranges.pin(6), ranges.pin(6):
            ready[2].set()
            await go[2].wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, name="the hold")
        await ready[0].wait()
        nursery.start_soon(pin, name="the pin")
        await ready[1].wait()
        nursery.start_soon(pin_twice, name="the two")
        await ready[2].wait()
        note(ranges.statistics(), ranges)
        cut = ranges.publish(plan_remove(ranges.index, 2, 6), cleanup=lambda: note("cleaned 1"))
        note(cut, cut.holders(), cut.done, cut.settled)
        # An edit that changes nothing waits for nobody.
        note(ranges.split(0))
        rest = ranges.publish(
            plan_assign(ranges.index, 0, 2, "new"), cleanup=lambda: note("cleaned 2")
        )
        note(rest, rest.holders(), rest.done)
        beside = ranges.publish(plan_remove(ranges.index, 8, 9), cleanup=lambda: note("cleaned 3"))
        far = ranges.publish(plan_remove(ranges.index, 9, 12), cleanup=lambda: note("cleaned 4"))
        note(beside, far, ranges.unsettled(0, 12) == (cut, rest))
        note([ranges.unsettled(*span) == (cut, rest) for span in ((1, 2), (0, 1), (-9, 1))])
        note([ranges.unsettled(*span) == (cut,) for span in ((2, 3), (7, 8), (7, 99), (1, 3))])
        note([ranges.unsettled(*span) for span in ((8, 9), (-2, 0), (-2, -1), (20, 21))])
        note(ranges.statistics(), ranges)
        oldest = ranges.statistics().oldest_unsettled
        with pytest.raises(FrozenInstanceError):
            oldest.start = 1  # type: ignore[misc, union-attr]
        assert not hasattr(oldest, "__dict__")
        go[1].set()
        await until(lambda: cut._holders == 2 and cut._old[0].guard.pins == 1)
        note(ranges.statistics(), cut)
        go[0].set()
        await until(lambda: cut._holders == 1)
        note(ranges.statistics(), cut, rest)
        go[2].set()
        await rest.wait()
        note(ranges.statistics(), cut, rest, cut.holders())
        await cut.wait()
    note(ranges.statistics())
    await ranges.aclose()
    return record.seen


async def until(ready: Callable[[], bool]) -> None:
    """Let others run, a few times: a search that takes all orders would never end."""
    for _ in range(4):
        if ready():
            return
        await checkpoint()


async def errors_go_to_waiters() -> list[str]:
    """Let cleanups and on_retire raise, and see who is told."""
    record = Record()
    note, refused = record.note, record.refused

    def on_retire(payload: str) -> None:
        note("retire", payload)
        if "bad" in payload:
            raise ValueError(payload)

    def cleanup() -> None:
        note("cleanup", ranges.statistics().unsettled)
        raise KeyError("cleanup")

    ranges = RangeMap(
        [(0, 4, "bad"), (4, 8, "good"), (8, 12, "bad 2"), (12, 16, "bad 3")], on_retire=on_retire
    )
    with ranges.pin(1):
        one = ranges.publish(plan_remove(ranges.index, 0, 8), cleanup=cleanup)
        note(one, one.done)
    note(one, one.done)
    for _ in range(2):
        with refused():
            await one.wait()
    two = ranges.remove(8, 12)
    with refused():
        await two.wait()
    three = ranges.publish(plan_remove(ranges.index, 12, 16), cleanup=cleanup)
    with refused():
        await ranges.aclose()
    with refused():
        await ranges.aclose()
    with refused():
        await three.wait()
    quiet: RangeMap[str] = RangeMap([(0, 4, "x")])
    with refused():
        await quiet.remove(0, 4).wait()

    async def made() -> None:
        note("never")

    class Odd:
        def __await__(self) -> Iterator[None]:
            return iter(())

    for wrong in (lambda payload: made(), lambda payload: Odd()):
        odd: RangeMap[str] = RangeMap([(0, 4, "x")], on_retire=wrong)
        with refused():
            await odd.remove(0, 4).wait()
        note(odd.statistics())
    return record.seen


class AsyncCall:
    """An object that is called with await."""

    def __init__(self, record: Record) -> None:
        self.record = record

    async def __call__(self, payload: str) -> None:
        await checkpoint()
        self.record.note("retire", payload)
        if "bad" in payload:
            raise ValueError(payload)


async def retire_with_await(*, fail: bool) -> list[str]:
    """Give payloads to an async on_retire: with an owner, without one, and with one that fails."""
    record = Record()
    note, refused = record.note, record.refused
    ranges = RangeMap([(0, 4, "a"), (4, 8, "bad"), (8, 12, "c")], on_retire=AsyncCall(record))
    with refused():
        ranges.remove(0, 4)
    with refused():
        await ranges.aclose()
    note(ranges.statistics())
    with refused():
        async with ranges as same:
            assert same is ranges
            drain = ranges.remove(0, 4)
            note(drain, drain.done, drain.settled, ranges.statistics())
            with trio.CancelScope() as scope:
                scope.cancel()
                await drain.wait()
            note(scope.cancelled_caught, drain)
            await drain.wait()
            note(drain, ranges.statistics())
            with refused():
                await ranges.remove(4, 8).wait()
            if fail:
                raise LookupError("body")
    note(ranges.statistics(), ranges)
    with refused():
        async with RangeMap([(4, 8, "bad")], on_retire=AsyncCall(record)):
            pass
    return record.seen


async def passing_through() -> list[str]:
    """Take a payload out of an edit block again, with an async on_retire."""
    record = Record()
    async with RangeMap([(0, 4, "a")], on_retire=AsyncCall(record)) as ranges:
        with ranges.edit() as block:
            block.insert(20, 24, "passing")
            block.remove(20, 24)
        record.note(*ranges._pending, ranges.statistics())
    return record.seen


async def released_too_late() -> list[str]:
    """Cancel the owner of an async on_retire while somebody holds."""
    record = Record()
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")], on_retire=AsyncCall(record))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ranges.pin(0):
            with trio.CancelScope() as scope:
                async with ranges:
                    scope.cancel()
            record.note(ranges.statistics(), ranges)
            with record.refused():
                ranges.pin(0)
        record.note(ranges.statistics(), *ranges._pending)
    for warning in caught:
        release = {line for *_, line in Drain.last_put.__code__.co_lines()}
        blames_the_release = warning.lineno in release, Path(warning.filename).name
        record.note(warning.category.__name__, warning.message, *blames_the_release)
    return record.seen


async def hold_with_cancellation(*, end: str) -> list[str]:
    """Hold with cancel_on_invalidate while the key, its neighbour or its region changes."""
    record = Record()
    note, refused = record.note, record.refused
    payload = Payload("a")
    ranges: RangeMap[str] = RangeMap([(0, 8, payload)])
    ready, done = trio.Event(), trio.Event()
    block = ranges.hold(key=2, cancel_on_invalidate=True)
    with pytest.raises(TypeError):
        ranges.hold(2, True)  # type: ignore[misc]
    with pytest.raises(AssertionError):
        await ranges.hold(2).__aexit__(None, None, None)

    async def hold() -> None:
        with refused():
            async with block as region:
                event = region.invalidated
                note(region, event is region.invalidated, event.is_set())
                ready.set()
                with refused():
                    async with block:
                        pass
                try:
                    await trio.sleep_forever() if end != "leaves" else await done.wait()
                finally:
                    note(region, event.is_set(), region.invalidated.is_set(), region._watchers)
                    if end == "raises":
                        raise ValueError("body")
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await ready.wait()
        ranges.split(4)
        note(len(ranges[0].__class__.__name__), [r._watchers is not None for r in ranges])
        ranges[4:8] = Payload("a")
        await checkpoint()
        note("neighbour gone", done.is_set(), [r._watchers is not None for r in ranges])
        ranges.split(2)
        ranges.merge(0, 4)
        await checkpoint()
        note("still", done.is_set(), [len(r._watchers or ()) for r in ranges])
        if end == "leaves":
            done.set()
        elif end == "equal":
            ranges[0:4] = Payload("a")
        elif end == "outside":
            nursery.cancel_scope.cancel()
        else:
            del ranges[2:3]
    note([r._watchers for r in ranges], block._scope is not None and block._scope.cancel_called)
    note(ranges.statistics())
    return record.seen


async def hear() -> list[str]:
    """Ask regions for `invalidated`, early and late, and change their ranges."""
    record = Record()
    note = record.note
    payload = Payload("a")
    ranges: RangeMap[str] = RangeMap([(0, 8, payload), (8, 12, Payload("b"))])
    with ranges.pin(2) as region, ranges.pin(9) as other:
        ranges.split(4)
        note("late", region.invalidated.is_set(), region.is_current)
        ranges.split(2)
        note(region.invalidated.is_set(), [len(r._watchers or ()) for r in ranges])
        ranges.merge(0, 8)
        note(region.invalidated.is_set(), [len(r._watchers or ()) for r in ranges])
        left, right = region.invalidated, other.invalidated
        ranges[10:14] = payload
        note(left.is_set(), right.is_set())
        ranges[7:8] = Payload("a")
        note(left.is_set(), right.is_set(), [r._watchers for r in ranges])
    for first, last in ((0, 1), (3, 4), (7, 8)):
        ranges = RangeMap([(0, 8, payload)])
        with ranges.pin(0) as region:
            if first:
                early = region.invalidated
            del ranges[first:last]
            note(first, region.invalidated.is_set(), region.invalidated.is_set())
            assert not first or early.is_set()
    # A piece is not its whole: it hears of its own range only.
    whole: RangeMap[str] = RangeMap([(0, 8, payload)])
    with whole.pin(0) as region:
        of_the_whole = region.invalidated
        whole.split(4)
        of_the_piece = whole[4:8][0].invalidated
        whole[0:2] = Payload("a")
        note(of_the_whole.is_set(), of_the_piece.is_set())
    whole = RangeMap([(0, 8, payload)])
    with whole.pin(0) as region:
        whole[0:8] = payload
        note(region.invalidated.is_set(), region.is_current)
        whole[2:4] = Payload("a")
        note(region.invalidated.is_set())
    return record.seen


async def not_for_itself(*, debug: bool) -> list[str]:
    """Wait for a drain, or close, while the same task holds."""
    record = Record()
    note, refused = record.note, record.refused
    ranges: RangeMap[str] = RangeMap([(0, 4, "a"), (4, 8, "b")], debug=debug)
    free = ranges.insert(8, 12, "c")
    async with ranges.hold(1):
        note(ranges.statistics().holds)
        with refused():
            await free.wait()
        with refused():
            await ranges.aclose()
        note(ranges.statistics().closed)
    with ranges.pin(1):
        # What is held is published: nobody who waits for a drain waits for it.
        await free.wait()
        if debug:
            with refused():
                await ranges.aclose()
        note(_told_or_none(ranges))
        mine = ranges.assign(0, 4, "d")
        behind = ranges.assign(0, 4, "e")
        if debug:
            with refused():
                await mine.wait()
            with refused():
                await behind.wait()
            with refused():
                await ranges.aclose()
        with refused():
            await free.wait()
        other = ranges.assign(4, 8, "f")
        await other.wait()
        note(ranges.statistics())
        # Through an edit that overlaps both: the last one waits for the first.
        ranges.assign(3, 5, "between")
        through = ranges.remove(6, 8)
        note(through, [ranges.unsettled(0, 4), ranges.unsettled(6, 8)])
        if debug:
            with refused():
                await through.wait()

    async def factory() -> str:
        with refused():
            await ranges.aclose()
        with refused():
            await ranges.get_or_insert(20, 24, factory)
        note(ranges.statistics().fills)
        return "filled"

    note(await ranges.get_or_insert(20, 24, factory))
    note(await ranges.get_or_insert(21, 22, factory))
    with refused():
        await ranges.get_or_insert(22, 26, factory)
    ranges[24:26] = "g"
    with refused():
        await ranges.get_or_insert(20, 26, factory)
    with refused():
        await ranges.get_or_insert(18, 21, factory)
    with refused():
        await ranges.get_or_insert(5, 5, factory)
    # Elsewhere: another loop, of which the map would be reminded by anything in use.
    for use in ("nothing", "pin", "drain"):
        here, ranges._loop = ranges._loop, object()
        with refused():
            if use == "pin":
                with ranges.pin(0):
                    await free.wait()
            elif use == "drain":
                with ranges.pin(0):
                    ranges[0:4] = "h"
                    await free.wait()
            else:
                await free.wait()
        note(use, ranges._loop is here or ranges._loop == here)
    ranges._loop = object()
    ranges._fills[0, 1] = free  # type: ignore[assignment]
    with refused():
        async with ranges.hold(1):
            pass
    with refused():
        await ranges.get_or_insert(0, 1, factory)
    ranges._fills.clear()
    ranges._loop = None
    await ranges.aclose()
    return record.seen


def _told_or_none(ranges: RangeMap[str]) -> list[object]:
    return [region.guard for region in ranges]


async def fill(*, how: str) -> list[str]:
    """Ask for one range from three tasks while the first factory fails, is cancelled or outdated."""
    record = Record()
    note = record.note
    ranges: RangeMap[str] = RangeMap(on_retire=partial(note, "retired"))
    go = trio.Event()
    asked = 0

    async def ask(name: str) -> None:
        async def factory() -> str:
            nonlocal asked
            asked += 1
            if asked == 1:
                await go.wait()
                if how == "fails":
                    raise ValueError(name)
            return f"made by {name}"

        with scopes[name]:
            try:
                region = await ranges.get_or_insert(0, 8, factory)
                note(name, region, region.is_current)
            except (ValueError, anyio.ClosedResourceError) as error:
                note(name, _told(error))
        note(name, "ends")

    scopes = {"one": trio.CancelScope(), "two": trio.CancelScope()}
    async with trio.open_nursery() as nursery:
        for name in scopes:
            nursery.start_soon(ask, name)
            await until(lambda: len(ranges._fills) == 1)
        if how == "cancelled":
            scopes["one"].cancel()
        elif how == "removed":
            ranges.remove(7, 9)
        elif how == "touched":
            ranges[8:9] = "beside"
            ranges.split(8)
            ranges.remove(-2, 0)
            ranges[-1:0] = "before"
            ranges.remove(-9, -8)
            ranges[20:21] = "far"
        elif how == "assigned":
            ranges[0:8] = "theirs"
        elif how == "block":
            with ranges.edit() as block:
                block.remove(-1, 1)
        elif how == "closed":
            with trio.CancelScope() as scope:
                scope.cancel()
                await ranges.aclose()
        note(ranges.statistics())
        go.set()
    note(ranges.statistics(), asked)
    await ranges.aclose()
    return sorted(record.seen)


async def close_under_holders() -> list[str]:
    """Close, cancelled and again, while a pin and a hold are there."""
    record = Record()
    note = record.note
    ranges: RangeMap[str] = RangeMap([(0, 4, "a"), (4, 8, "b")], on_retire=partial(note, "retired"))
    ready, go = trio.Event(), trio.Event()

    async def hold() -> None:
        async with ranges.hold(1, cancel_on_invalidate=True):
            ready.set()
            with trio.CancelScope(shield=True):
                await go.wait()

    async def read() -> None:
        with record.refused():
            await hold()

    async def close() -> None:
        await ranges.aclose()
        note("closed", ranges.statistics())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, name="reader")
        await ready.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ranges.aclose()
        note(scope.cancelled_caught, ranges.statistics(), ranges)
        nursery.start_soon(close)
        nursery.start_soon(close)
        await checkpoint()
        go.set()
    note(ranges.statistics())
    return record.seen


async def who_holds() -> list[str]:
    """Name the holders where one is known and another is not."""
    record = Record()
    ranges: RangeMap[str] = RangeMap([(0, 4, "a"), (4, 8, "b")])
    async with ranges.hold(5), ranges.hold(1):
        with ranges.pin(2):
            drain = ranges.remove(0, 4)
            record.note(drain.holders(), ranges.statistics())
    # Somebody has released what is another's.
    with record.refused():
        async with ranges.hold(5), ranges.hold(5) as region:
            drain = ranges.remove(4, 8)
            region.guard.release()
            record.note(drain.holders())
    return record.seen


async def by_turns(*, how: str) -> list[str]:
    """Wait for what the other task holds or fills, each once: nobody waits for itself."""
    maps: list[RangeMap[str]] = [
        RangeMap([] if how == "fill" else [(0, 4, "a")], debug=how == "pin") for _ in range(2)
    ]
    ready = [trio.Event() for _ in maps]

    async def use(number: int) -> None:
        ranges = maps[number]

        async def factory() -> str:
            ready[number].set()
            await checkpoint()
            return "made"

        if how == "pin":
            with ranges.pin(1):
                await factory()
        elif how == "hold":
            async with ranges.hold(1):
                await factory()
        else:
            with contextlib.suppress(anyio.ClosedResourceError):
                await ranges.get_or_insert(0, 4, factory)

    async def wait(number: int) -> None:
        await ready[number].wait()
        if how == "fill":
            await maps[number].aclose()
        else:
            await maps[number].remove(0, 4).wait()

    async def one() -> None:
        await use(0)
        await wait(1)

    async def two() -> None:
        await wait(0)
        await use(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(two)
    return [str(ranges.statistics()) for ranges in maps]


async def ask_for_pieces() -> list[str]:
    """Ask for a range that was split: what begins where it begins is returned."""
    record = Record()
    ranges: RangeMap[str] = RangeMap([(0, 8, "a")])
    ranges.split(4)
    record.note(await ranges.get_or_insert(0, 8, checkpoint))  # type: ignore[arg-type]
    return record.seen


async def passing_fails() -> list[str]:
    """Let on_retire raise for what was never in the map: closing tells it."""
    record = Record()

    def on_retire(payload: str) -> None:
        record.note(payload, ranges.statistics(), *ranges._pending)
        raise ValueError(payload)

    ranges: RangeMap[str] = RangeMap(on_retire=on_retire)
    with ranges.edit() as block:
        block.insert(0, 4, "passing")
        block.remove(0, 4)
    with record.refused():
        await ranges.aclose()
    return record.seen


async def retire_two_with_await() -> list[str]:
    """Wait for a drain that gives two payloads to an async on_retire."""
    record = Record()
    async with RangeMap([(0, 4, "a"), (4, 8, "b")], on_retire=AsyncCall(record)) as ranges:
        drain = ranges.remove(0, 8)
        record.note(drain)
        await drain.wait()
        record.note(drain, len(ranges._pending))
    return record.seen


async def always_a_checkpoint() -> list[str]:
    """Call what never has to wait, while another task runs and in a cancelled scope."""
    record = Record()
    ranges: RangeMap[str] = RangeMap([(0, 4, "a")])
    drain = ranges.insert(4, 8, "b")

    async def hold() -> None:
        async with ranges.hold(1):
            record.note("entered")

    async def close() -> None:
        await ranges.aclose()

    async def ask() -> None:
        await ranges.get_or_insert(0, 4, checkpoint)  # type: ignore[arg-type]

    for call in (drain.wait, hold, ask, close):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
            record.note("went on")
        record.note(call.__name__, scope.cancelled_caught, ranges.statistics())
    return record.seen


async def lets_go() -> list[str]:
    """Drop a map that was edited much: nothing of it may wait for the garbage collector."""
    record = Record()
    ranges: RangeMap[str] = RangeMap([(0, 4, "a")], on_retire=lambda payload: None)
    gc.disable()
    try:
        with ranges.pin(1) as region:
            guard = region.guard
            drains = [ranges.assign(0, 4, payload) for payload in "bcd"]
            record.note(ranges.statistics())
        del region
        record.note(hasattr(guard, "region"), drains[-1])
        record.note([(drain._old, drain._after) for drain in drains])
        record.note(ranges.statistics(), ranges._leases.keys() == {id(ranges[1])})
    finally:
        gc.enable()
    return record.seen


PROGRAMS: dict[str, Callable[[], Awaitable[list[str]]]] = {
    "look_up": look_up,
    "edit": edit,
    "hold_and_drain": partial(hold_and_drain, debug=False),
    "hold_and_drain_debug": partial(hold_and_drain, debug=True),
    "errors_go_to_waiters": errors_go_to_waiters,
    "retire_with_await": partial(retire_with_await, fail=False),
    "retire_with_await_and_fail": partial(retire_with_await, fail=True),
    "passing_through": passing_through,
    "released_too_late": released_too_late,
    **{
        f"hold_with_cancellation_{end}": partial(hold_with_cancellation, end=end)
        for end in ("leaves", "equal", "outside", "removed", "raises")
    },
    "hear": hear,
    "not_for_itself": partial(not_for_itself, debug=False),
    "not_for_itself_debug": partial(not_for_itself, debug=True),
    **{
        f"fill_{how}": partial(fill, how=how)
        for how in ("fails", "cancelled", "removed", "touched", "assigned", "block", "closed")
    },
    "close_under_holders": close_under_holders,
    "who_holds": who_holds,
    **{f"by_turns_{how}": partial(by_turns, how=how) for how in ("pin", "hold", "fill")},
    "ask_for_pieces": ask_for_pieces,
    "passing_fails": passing_fails,
    "retire_two_with_await": retire_two_with_await,
    "always_a_checkpoint": always_a_checkpoint,
    "lets_go": lets_go,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_can_be_seen(name: str) -> None:
    """Broken if a map tells, refuses, retires or wakes otherwise in any order."""
    exploration = check(PROGRAMS[name], name=name, search="exhaustive")
    print(exploration.headline())  # noqa: T201 - the counts, for pytest -rP
    assert exploration.exhausted
    records = sorted("\n".join(ast.literal_eval(outcome)) for outcome in exploration.outcomes)
    check_golden(GOLDEN / f"{name}.txt", "\n\n".join(records) + "\n")
