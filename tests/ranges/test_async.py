"""What waits: holds, invalidation, drains, single flight, async retirement, closing."""

from __future__ import annotations

import functools
import gc
import warnings
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import CancelScope, ClosedResourceError, create_task_group
from anyio.lowlevel import checkpoint

from aspf import DrainDeadlock, RangeInvalidated, RangeMap, RangeNotFound, RangeOverlap, Region
from aspf.ranges import Edit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aspf.ranges import Drain

pytestmark = pytest.mark.anyio


async def all_blocked() -> None:
    """Let the other tasks run until they wait; anyio's own function polls a clock on asyncio."""
    for _ in range(20):
        await checkpoint()


def assert_idle(ranges: RangeMap[Any]) -> None:
    """Check that nobody holds, waits or fills, and that nothing is left unsettled."""
    now = ranges.statistics()
    assert (now.pins, now.holds, now.fills, now.unsettled) == (0, 0, 0, 0)
    assert not ranges._pending


class Holder:
    """A task that holds a key until it is told to let go."""

    def __init__(self, ranges: RangeMap[Any], key: Any) -> None:
        self.ranges = ranges
        self.key = key
        self.release = anyio.Event()

    async def __call__(self) -> None:
        async with self.ranges.hold(self.key):
            await self.release.wait()


async def start(tasks: anyio.abc.TaskGroup, *functions: Callable[[], Awaitable[None]]) -> None:
    """Start them one after the other, each until it blocks."""
    for function in functions:
        tasks.start_soon(function)
        await all_blocked()


# -------------------------------------------------------------------- hold


async def test_a_hold_pins_and_knows_its_task() -> None:
    """Broken if a hold isn't counted, or is kept after its block."""
    ranges = RangeMap([(0, 4, "a")])
    async with ranges.hold(3) as region:
        assert region.payload == "a"
        now = ranges.statistics()
        assert (now.pins, now.holds) == (1, 1)
        async with ranges.hold(0) as again:
            assert again is region
            assert ranges.statistics().holds == 2
    assert_idle(ranges)


async def test_a_hold_that_is_cancelled_on_entering_holds_nothing() -> None:
    """Broken if entering isn't a checkpoint, or takes the pin before it (a leaked pin)."""
    ranges = RangeMap([(0, 4, "a")])
    with CancelScope() as scope:
        scope.cancel()
        async with ranges.hold(0):
            pytest.fail("entering is no checkpoint")
    assert scope.cancelled_caught
    assert_idle(ranges)


async def test_a_hold_looks_up_after_its_checkpoint() -> None:
    """Broken if a hold finds what was there before it let other tasks run."""
    ranges = RangeMap([(0, 4, "old")])
    found = []

    async def look() -> None:
        async with ranges.hold(0) as region:
            found.append(region.payload)

    async with create_task_group() as tasks:
        tasks.start_soon(look)
        ranges[0:4] = "new"
    assert found == ["new"]


async def test_a_hold_of_nothing_is_an_error() -> None:
    """Broken if a failed hold counts as one."""
    ranges = RangeMap([(0, 4, "a")])
    with pytest.raises(RangeNotFound):
        async with ranges.hold(4):
            pass
    assert_idle(ranges)
    await ranges.aclose()
    with pytest.raises(ClosedResourceError):
        async with ranges.hold(0):
            pass


async def test_a_hold_is_for_one_block() -> None:
    """Broken if entering a hold twice loses the first of its pins."""
    ranges = RangeMap([(0, 4, "a")])
    hold = ranges.hold(0)
    async with hold:
        with pytest.raises(RuntimeError, match="entered already"):
            await hold.__aenter__()
        assert ranges.statistics().pins == 1
    assert_idle(ranges)


@pytest.mark.parametrize("cancels", [False, True])
async def test_an_error_in_the_body_is_the_callers(cancels: bool) -> None:
    """Broken if a hold swallows or wraps what its body raises, or leaks its pin then."""
    ranges = RangeMap([(0, 4, "a")])
    with pytest.raises(ZeroDivisionError):
        async with ranges.hold(0, cancel_on_invalidate=cancels) as region:
            raise ZeroDivisionError
    assert region.guard.pins == 0
    assert not region._watchers
    assert_idle(ranges)


# -------------------------------------------------------------------- cancel_on_invalidate


async def test_the_body_is_cancelled_when_its_key_loses_the_payload() -> None:
    """Broken if a long transfer keeps an edit waiting that it was told about."""
    ranges = RangeMap([(0, 8, "a")])

    async def transfer() -> None:
        with pytest.raises(RangeInvalidated, match=r"2 lost its payload while <Region \[0, 8\)"):
            async with ranges.hold(2, cancel_on_invalidate=True):
                await anyio.sleep_forever()
        await checkpoint()

    async with create_task_group() as tasks:
        await start(tasks, transfer)
        drain = ranges.remove(0, 4)
        assert not drain.done
        await drain.wait()
    assert_idle(ranges)


async def test_only_the_loss_of_the_held_key_cancels() -> None:
    """Broken if splitting, merging, cutting elsewhere or re-assigning the payload cancels."""
    ranges = RangeMap([(0, 8, "a")])
    outcome: list[str] = []

    async def transfer() -> None:
        try:
            async with ranges.hold(2, cancel_on_invalidate=True):
                await anyio.sleep_forever()
        except RangeInvalidated:
            outcome.append("invalidated")

    async with create_task_group() as tasks:
        await start(tasks, transfer)
        for edit in (
            lambda: ranges.split(4),
            lambda: ranges.merge(0, 8),
            lambda: ranges.remove(6, 8),
            lambda: ranges.assign(0, 4, "a"),
            lambda: ranges.insert(10, 12, "a"),
        ):
            edit()
            await all_blocked()
            assert outcome == []
        ranges.assign(2, 3, "b")
        await all_blocked()
        assert outcome == ["invalidated"]
    assert_idle(ranges)


async def test_an_equal_payload_is_another_one() -> None:
    """Broken if a connection that compares equal to the held one is taken for it."""
    first, second = [1], [1]
    ranges = RangeMap([(0, 8, first)])

    async def transfer() -> None:
        with pytest.raises(RangeInvalidated):
            async with ranges.hold(2, cancel_on_invalidate=True):
                await anyio.sleep_forever()

    async with create_task_group() as tasks:
        await start(tasks, transfer)
        event = ranges[:][0].invalidated
        ranges[0:4] = second
    assert event.is_set()


async def test_a_body_that_ends_before_it_notices_has_ended() -> None:
    """Broken if a block that did all of its work raises, or its cancellation leaks out of it."""
    ranges = RangeMap([(0, 8, "a")])
    async with ranges.hold(2, cancel_on_invalidate=True):
        ranges.remove(0, 8)
    await checkpoint()
    assert_idle(ranges)


async def test_a_body_that_fails_while_it_is_cancelled_raises_its_own_error() -> None:
    """Broken if the error of a body's clean-up is hidden by RangeInvalidated."""
    ranges = RangeMap([(0, 8, "a")])

    async def transfer() -> None:
        with pytest.raises(ZeroDivisionError):
            async with ranges.hold(2, cancel_on_invalidate=True):
                try:
                    await anyio.sleep_forever()
                finally:
                    raise ZeroDivisionError

    async with create_task_group() as tasks:
        await start(tasks, transfer)
        ranges.remove(0, 8)
    assert_idle(ranges)


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Broken if the caller's own cancellation comes out as RangeInvalidated."""
    ranges = RangeMap([(0, 8, "a")])
    for edits in (False, True):
        with CancelScope() as outer:
            async with ranges.hold(2, cancel_on_invalidate=True):
                outer.cancel()
                if edits:
                    ranges.remove(0, 8)
                await anyio.sleep_forever()
        assert outer.cancelled_caught
        assert_idle(ranges)


async def test_a_hold_that_has_ended_hears_no_more() -> None:
    """Broken if a later edit cancels a task that let go long ago."""
    ranges = RangeMap([(0, 8, "a")])
    async with ranges.hold(2, cancel_on_invalidate=True):
        ranges.split(4)
    (left, _) = ranges
    assert not left._watchers
    ranges.remove(0, 8)
    await checkpoint()


# -------------------------------------------------------------------- invalidated


async def test_invalidated_is_set_by_the_loss_of_any_key() -> None:
    """Broken if who awaits the event sleeps through an edit of a part of the range."""
    ranges = RangeMap([(0, 8, "a"), (8, 12, "b")])
    heard: list[str] = []

    async def listen(name: str) -> None:
        with ranges.pin(0) as region:
            await region.invalidated.wait()
            heard.append(name)

    async with create_task_group() as tasks:
        tasks.start_soon(listen, "one")
        tasks.start_soon(listen, "two")
        await all_blocked()
        ranges[8:12] = "c"
        ranges.split(4)
        await all_blocked()
        assert heard == []
        ranges[7:8] = "d"
    assert sorted(heard) == ["one", "two"]


async def test_invalidated_survives_splits_and_merges() -> None:
    """Broken if the event is lost with the first region object, or set by an edit that keeps."""
    ranges = RangeMap([(0, 8, "a")])
    (region,) = ranges
    event = region.invalidated
    assert region.invalidated is event
    ranges.split(2)
    ranges.split(5)
    ranges.merge(0, 4)
    ranges.merge(0, 8)
    ranges.assign(1, 7, "a")
    assert not event.is_set()
    ranges.remove(6, 7)
    assert event.is_set()
    ranges.insert(6, 7, "a")
    ranges.remove(0, 8)
    assert region.invalidated.is_set()


async def test_invalidated_of_a_region_that_was_retired_before() -> None:
    """Broken if asking late, under a pin, misses what happened or invents a loss."""
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")])
    with ranges.pin(0) as kept, ranges.pin(4) as lost:
        ranges.split(2)
        ranges.remove(6, 8)
        assert not kept.invalidated.is_set()
        assert lost.invalidated.is_set()
        ranges.remove(0, 1)
        assert kept.invalidated.is_set()


async def test_closing_invalidates() -> None:
    """Broken if aclose doesn't tell those who hold."""
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")])

    async def stream() -> None:
        with pytest.raises(RangeInvalidated):
            async with ranges.hold(0, cancel_on_invalidate=True):
                await anyio.sleep_forever()

    async def listen() -> None:
        with ranges.pin(4) as region:
            await region.invalidated.wait()

    async with create_task_group() as tasks:
        await start(tasks, stream, listen)
        await ranges.aclose()
    assert_idle(ranges)


# -------------------------------------------------------------------- drains


async def test_a_wait_ends_with_the_last_holder() -> None:
    """Broken if a waiter is woken early, or one of several is not woken."""
    ranges = RangeMap([(0, 4, "a")])
    holders = [Holder(ranges, 0), Holder(ranges, 1)]
    woken: list[int] = []

    async with create_task_group() as tasks:
        await start(tasks, *holders)
        drain = ranges.remove(0, 4)

        async def wait(number: int) -> None:
            await drain.wait()
            woken.append(number)

        for number in range(2):
            tasks.start_soon(wait, number)
        await all_blocked()
        holders[0].release.set()
        await all_blocked()
        assert woken == []
        holders[1].release.set()
    assert sorted(woken) == [0, 1]


async def test_a_wait_is_always_a_checkpoint() -> None:
    """Broken if waiting for a drain that is done can't be cancelled."""
    ranges = RangeMap([(0, 4, "a")])
    drain = ranges.remove(0, 4)
    assert drain.done
    await drain.wait()
    with CancelScope() as scope:
        scope.cancel()
        await drain.wait()
        pytest.fail("no checkpoint")
    assert scope.cancelled_caught


async def test_a_cancelled_wait_has_lost_nothing() -> None:
    """Broken if the edit is undone, stops settling, or can't be awaited again."""
    retired: list[str] = []
    ranges = RangeMap([(0, 8, "a")], on_retire=retired.append)
    holder = Holder(ranges, 0)
    async with create_task_group() as tasks:
        await start(tasks, holder)
        drain = ranges.remove(0, 8)
        for _ in range(2):
            with CancelScope() as scope:

                async def give_up(scope: CancelScope = scope) -> None:
                    scope.cancel()

                tasks.start_soon(give_up)
                await drain.wait()
            assert scope.cancelled_caught
            assert not drain.done
        assert 0 not in ranges
        holder.release.set()
        await drain.wait()
    assert retired == ["a"]
    assert_idle(ranges)


async def test_errors_go_to_all_waiters_and_not_to_aclose_then() -> None:
    """Broken if an error of on_retire or a cleanup is lost, told to a reader, or told twice."""

    def fail(payload: str) -> None:
        raise OSError(payload)

    def clean() -> None:
        raise LookupError

    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")], on_retire=fail)
    one = ranges.remove(0, 4)
    for _ in range(2):
        with pytest.raises(OSError, match="a"):
            await one.wait()
    (region,) = ranges
    several = ranges.publish(Edit((region,), (), ranges.index.version), cleanup=clean)
    with pytest.raises(ExceptionGroup, match=r"errors while \[4, 8\) settled") as caught:
        await several.wait()
    assert [type(error) for error in caught.value.exceptions] == [LookupError, OSError]
    await ranges.aclose()


async def test_errors_that_nobody_was_told_come_out_of_aclose() -> None:
    """Broken if a failed clean-up can go unnoticed for ever."""

    def fail(payload: str) -> None:
        raise OSError(payload)

    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")], on_retire=fail)
    with ranges.pin(0):
        ranges.remove(0, 4)
    with pytest.raises(ExceptionGroup, match="no waiter of a drain has seen") as caught:
        await ranges.aclose()
    assert [str(error) for error in caught.value.exceptions] == ["a", "b"]
    await ranges.aclose()


async def test_a_task_that_holds_must_not_wait_for_a_drain() -> None:
    """Broken if a task, or two that hold for each other, can wait for themselves for ever."""
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")])
    async with ranges.hold(0):
        async with ranges.hold(4):
            drain = ranges.remove(0, 4)
        with pytest.raises(DrainDeadlock, match="this task holds a region"):
            await drain.wait()
        # Of another range too: its holder may be waiting for this task's.
        with pytest.raises(DrainDeadlock):
            await ranges.remove(4, 8).wait()
        with pytest.raises(DrainDeadlock):
            await ranges.aclose()
        assert not ranges.statistics().closed
    await drain.wait()


async def test_holds_of_other_tasks_and_other_maps_are_no_deadlock() -> None:
    """Broken if DrainDeadlock is raised where there is somebody else to let go."""
    ranges, others = RangeMap([(0, 4, "a")]), RangeMap([(0, 4, "b")])
    holder = Holder(ranges, 0)
    async with create_task_group() as tasks, others.hold(0):
        await start(tasks, holder)
        drain = ranges.remove(0, 4)
        holder.release.set()
        await drain.wait()
    assert drain.done


async def test_debug_finds_the_deadlock_of_a_pin() -> None:
    """Broken if debug=True doesn't know who pinned."""
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")], debug=True)
    with ranges.pin(0):
        await ranges.remove(4, 8).wait()
        drain = ranges.remove(0, 4)
        with pytest.raises(DrainDeadlock):
            await drain.wait()
        with pytest.raises(DrainDeadlock):
            await ranges.aclose()
    await drain.wait()
    ranges.insert(0, 4, "c")
    with ranges.pin(0), pytest.raises(DrainDeadlock):
        await ranges.aclose()
    assert not ranges.statistics().closed


async def test_debug_finds_the_deadlock_behind_an_earlier_edit() -> None:
    """Broken if a task waits for an edit that waits, by rule S, for one that it holds itself."""
    ranges = RangeMap([(0, 8, "a")], debug=True)
    refused: list[DrainDeadlock] = []

    async def wait() -> None:
        with ranges.pin(0):
            ranges.remove(4, 8)
            drain = ranges.remove(0, 4)
            try:
                await drain.wait()
            except DrainDeadlock as error:
                refused.append(error)

    async with create_task_group() as tasks:
        await start(tasks, wait)
        tasks.cancel_scope.cancel()
    assert len(refused) == 1


async def test_debug_lets_a_task_wait_for_what_it_does_not_pin() -> None:
    """Broken if a pin on one retired range forbids waiting for an edit of another."""
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")], debug=True)
    holder = Holder(ranges, 4)
    async with create_task_group() as tasks:
        await start(tasks, holder)
        with ranges.pin(0):
            held = ranges.remove(0, 4)
            other = ranges.remove(4, 8)
            assert not other.done
            holder.release.set()
            await other.wait()
            assert not held.done


async def test_debug_names_the_holders() -> None:
    """Broken if nobody can tell which task keeps an edit from settling."""
    ranges = RangeMap([(0, 4, "a")], debug=True)
    holder = Holder(ranges, 0)
    release = anyio.Event()

    async def read() -> None:
        with ranges.pin(0):
            await release.wait()

    async with create_task_group() as tasks:
        tasks.start_soon(holder, name="the holder")
        await all_blocked()
        tasks.start_soon(read, name="the reader")
        await all_blocked()
        with ranges.pin(1):
            drain = ranges.remove(0, 4)
            assert drain.holders()[:2] == ("the holder", "the reader")
            assert len(drain.holders()) == 3
        oldest = ranges.statistics().oldest_unsettled
        assert oldest is not None
        assert oldest.holders == ("the holder", "the reader")
        holder.release.set()
        await all_blocked()
        assert drain.holders() == ("the reader",)
        release.set()
    assert drain.holders() == ()


async def test_a_hold_is_named_without_debug() -> None:
    """Broken if only debug=True tells which task holds what an edit waits for."""
    ranges = RangeMap([(0, 4, "a")])
    holder = Holder(ranges, 0)
    async with create_task_group() as tasks:
        tasks.start_soon(holder, name="the holder")
        await all_blocked()
        with ranges.pin(0):
            drain = ranges.remove(0, 4)
            assert sorted(drain.holders()) == ["1 unnamed pin", "the holder"]
        assert drain.holders() == ("the holder",)
        holder.release.set()


async def test_a_debug_pin_may_be_released_by_another_task() -> None:
    """Broken if the names of debug=True get in the way of a pin that changes hands."""
    ranges = RangeMap([(0, 4, "a")], debug=True)
    guard = ranges.pin(0)

    async def release() -> None:
        guard.release()

    async with create_task_group() as tasks:
        tasks.start_soon(release)
    assert guard.pins == 0
    assert list(guard.owners()) == []


# -------------------------------------------------------------------- get_or_insert


class Factory:
    """A factory that counts its calls and returns when it is told to."""

    def __init__(self, *results: str | BaseException) -> None:
        self.results = list(results)
        self.calls = 0
        self.go = anyio.Event()

    async def __call__(self) -> str:
        self.calls += 1
        result = self.results.pop(0)
        await self.go.wait()
        if isinstance(result, BaseException):
            raise result
        return result


class Asker:
    """A task that asks for a range, and what it got."""

    def __init__(
        self, ranges: RangeMap[str], factory: Callable[[], Awaitable[str]], start: int, end: int
    ) -> None:
        self.ask = functools.partial(ranges.get_or_insert, start, end, factory)
        self.scope = CancelScope()
        self.got: Region[str] | Exception | None = None

    async def __call__(self) -> None:
        with self.scope:
            try:
                self.got = await self.ask()
            except Exception as error:  # noqa: BLE001 - to look at
                self.got = error


async def test_a_factory_is_awaited_once_for_all_who_ask() -> None:
    """Broken without single flight: ten readers of one block, ten fetches (zarr's CacheStore)."""
    ranges: RangeMap[str] = RangeMap()
    factory = Factory("a")
    askers = [Asker(ranges, factory, 0, 4) for _ in range(10)]
    async with create_task_group() as tasks:
        await start(tasks, *askers)
        assert ranges.statistics().fills == 1
        assert len(ranges) == 0
        factory.go.set()
    (region,) = ranges
    assert all(asker.got is region for asker in askers)
    assert factory.calls == 1
    assert (await ranges.get_or_insert(0, 4, factory)) is region
    assert (await ranges.get_or_insert(2, 3, factory)) is region
    assert_idle(ranges)


async def test_what_is_there_is_returned_after_a_checkpoint() -> None:
    """Broken if a hit can't be cancelled, or calls the factory."""
    ranges = RangeMap([(0, 4, "a")])
    with CancelScope() as scope:
        scope.cancel()
        await ranges.get_or_insert(0, 4, Factory())
        pytest.fail("no checkpoint")
    assert scope.cancelled_caught


async def test_a_range_mapped_to_one_payload_in_pieces_is_a_hit() -> None:
    """Broken if a split makes a cache miss."""
    ranges = RangeMap([(0, 8, "a")])
    ranges.split(4)
    region = await ranges.get_or_insert(2, 6, Factory())
    assert (region.start, region.end) == (0, 4)


@pytest.mark.parametrize(("start", "end"), [(2, 6), (3, 12), (0, 20), (7, 9)])
async def test_a_range_mapped_in_part_is_refused(start: int, end: int) -> None:
    """Broken if a caller gets a region that doesn't serve all of its range."""
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")])
    with pytest.raises(RangeOverlap, match="is mapped in part or to several payloads"):
        await ranges.get_or_insert(start, end, Factory())


async def test_an_empty_range_is_refused() -> None:
    """Broken if a range that can't be found later is fetched."""
    ranges: RangeMap[str] = RangeMap()
    with pytest.raises(ValueError, match="is empty"):
        await ranges.get_or_insert(4, 4, Factory())


async def test_a_cancelled_leader_hands_over() -> None:
    """Broken if those who wait get the leader's cancellation, or wait for ever."""
    ranges: RangeMap[str] = RangeMap()
    factories = [Factory("first"), Factory("second"), Factory("third")]
    askers = [Asker(ranges, factory, 0, 4) for factory in factories]
    async with create_task_group() as tasks:
        await start(tasks, *askers)
        assert [factory.calls for factory in factories] == [1, 0, 0]
        askers[0].scope.cancel()
        await all_blocked()
        assert sum(factory.calls for factory in factories) == 2
        assert ranges.statistics().fills == 1
        for factory in factories:
            factory.go.set()
    (region,) = ranges
    assert askers[0].got is None
    assert [asker.got for asker in askers[1:]] == [region, region]
    assert region.payload in ("second", "third")
    assert_idle(ranges)


async def test_a_cancelled_follower_takes_nobody_with_it() -> None:
    """Broken if one who stops waiting cancels the fetch of the others."""
    ranges: RangeMap[str] = RangeMap()
    factory = Factory("a")
    askers = [Asker(ranges, factory, 0, 4) for _ in range(3)]
    async with create_task_group() as tasks:
        await start(tasks, *askers)
        askers[1].scope.cancel()
        await all_blocked()
        factory.go.set()
    (region,) = ranges
    assert [asker.got for asker in askers] == [region, None, region]


async def test_all_who_wait_get_the_factorys_error_and_the_next_starts_anew() -> None:
    """Broken if an error leaves followers asleep, or is remembered for ever."""
    ranges: RangeMap[str] = RangeMap()
    error = OSError("no route")
    factory = Factory(error, "a")
    askers = [Asker(ranges, factory, 0, 4) for _ in range(3)]
    async with create_task_group() as tasks:
        await start(tasks, *askers)
        factory.go.set()
    assert [asker.got for asker in askers] == [error] * 3
    assert factory.calls == 1
    assert_idle(ranges)
    assert (await ranges.get_or_insert(0, 4, factory)).payload == "a"


@pytest.mark.parametrize("way", ["remove", "del", "block", "insert and remove"])
async def test_a_fill_that_became_stale_is_dropped(way: str) -> None:
    """Broken if a cache answers b'old' for ever: a fetch in flight while its range is edited."""
    retired: list[str] = []
    ranges: RangeMap[str] = RangeMap(on_retire=retired.append)
    factory = Factory("old", "new")
    askers = [Asker(ranges, factory, 0, 4) for _ in range(2)]
    async with create_task_group() as tasks:
        await start(tasks, *askers)
        if way == "remove":
            ranges.remove(3, 10)
        elif way == "del":
            del ranges[3:10]
        elif way == "block":
            with ranges.edit() as edit:
                edit.remove(3, 10)
        else:
            ranges.insert(3, 10, "x")
            ranges.remove(3, 10)
        factory.go.set()
    (region,) = ranges
    assert region.payload == "new"
    assert [asker.got for asker in askers] == [region, region]
    assert factory.calls == 2
    assert [payload for payload in retired if payload != "x"] == ["old"]
    assert_idle(ranges)


async def test_an_edit_beside_a_fill_leaves_it_alone() -> None:
    """Broken if every edit of the map restarts every fetch."""
    ranges: RangeMap[str] = RangeMap()
    factory = Factory("a")
    asker = Asker(ranges, factory, 4, 8)
    async with create_task_group() as tasks:
        await start(tasks, asker)
        ranges.insert(0, 4, "x")
        ranges.remove(8, 12)
        factory.go.set()
    assert ranges[4] == "a"
    assert factory.calls == 1


async def test_two_fills_that_overlap_do_not_both_land() -> None:
    """Broken if two ranges that overlap are both published, or the later one hangs."""
    retired: list[str] = []
    ranges: RangeMap[str] = RangeMap(on_retire=retired.append)
    first, second = Factory("first"), Factory("second")
    askers = [Asker(ranges, first, 0, 4), Asker(ranges, second, 2, 6)]
    async with create_task_group() as tasks:
        await start(tasks, *askers)
        assert ranges.statistics().fills == 2
        first.go.set()
        await all_blocked()
        second.go.set()
    assert [(r.start, r.end, r.payload) for r in ranges] == [(0, 4, "first")]
    assert isinstance(askers[1].got, RangeOverlap)
    assert retired == ["second"]


async def test_a_payload_that_is_mapped_elsewhere_is_not_retired_by_a_stale_fill() -> None:
    """Broken if dropping a stale fill retires a payload under the readers of another range."""
    retired: list[str] = []
    ranges: RangeMap[str] = RangeMap([(10, 14, "shared")], on_retire=retired.append)
    factory = Factory("shared", "shared")
    asker = Asker(ranges, factory, 0, 4)
    async with create_task_group() as tasks:
        await start(tasks, asker)
        ranges.remove(0, 4)
        factory.go.set()
    assert retired == []
    assert factory.calls == 2
    assert ranges[0] is ranges[10]


async def test_a_stale_fill_without_on_retire_is_just_dropped() -> None:
    """Broken if a map without on_retire keeps or publishes a stale fill."""
    ranges: RangeMap[str] = RangeMap()
    factory = Factory("old", "new")
    asker = Asker(ranges, factory, 0, 4)
    async with create_task_group() as tasks:
        await start(tasks, asker)
        ranges.remove(0, 4)
        factory.go.set()
    assert ranges[0] == "new"


async def test_closing_while_a_fill_is_in_flight() -> None:
    """Broken if a fetch lands in a closed map, or its payload is lost."""
    retired: list[str] = []
    ranges: RangeMap[str] = RangeMap(on_retire=retired.append)
    factory = Factory("a")
    askers = [Asker(ranges, factory, 0, 4) for _ in range(3)]
    async with create_task_group() as tasks:
        await start(tasks, *askers)
        tasks.start_soon(ranges.aclose)
        await all_blocked()
        factory.go.set()
    assert all(isinstance(asker.got, ClosedResourceError) for asker in askers)
    assert retired == ["a"]
    assert len(ranges) == 0
    assert_idle(ranges)


async def test_an_edit_with_keys_of_another_type_than_a_fill_is_refused_whole() -> None:
    """Broken if an edit is half published when its keys can't be compared with a fill's."""
    ranges: RangeMap[str] = RangeMap()
    factory = Factory("a")
    asker = Asker(ranges, factory, 0, 4)
    async with create_task_group() as tasks:
        await start(tasks, asker)
        with pytest.raises(TypeError):
            ranges.insert("x", "y", "b")
        assert len(ranges) == 0
        factory.go.set()
    assert ranges[0] == "a"
    assert_idle(ranges)


async def test_what_was_returned_is_current() -> None:
    """Broken if there is a checkpoint between publishing and the return of the region."""
    ranges: RangeMap[str] = RangeMap()

    async def make() -> str:
        await checkpoint()
        return "a"

    async def ask() -> None:
        for _ in range(5):
            region = await ranges.get_or_insert(0, 4, make)
            assert region.is_current
            with ranges.pin(0) as pinned:
                assert pinned is region

    async def spoil() -> None:
        for _ in range(20):
            ranges.remove(0, 4)
            await checkpoint()

    async with create_task_group() as tasks:
        for function in (ask, spoil, ask):
            tasks.start_soon(function)


# -------------------------------------------------------------------- async on_retire


class SlowRetire:
    """An async on_retire that ends when it is told to."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.go = anyio.Event()

    async def __call__(self, payload: str) -> None:
        self.began.append(payload)
        await self.go.wait()
        self.ended.append(payload)


async def test_an_async_on_retire_runs_in_the_owners_group() -> None:
    """Broken if the releasing reader waits for it, or a drain is done before it."""
    retire = SlowRetire()
    async with RangeMap([(0, 4, "a"), (4, 8, "b")], on_retire=retire) as ranges:
        with ranges.pin(0):
            drain = ranges.remove(0, 8)
            await all_blocked()
            assert retire.began == ["b"]
        await all_blocked()
        assert retire.began == ["b", "a"]
        assert (drain.settled, drain.done) == (True, False)
        assert repr(drain) == "<Drain of [0, 8): running on_retire for 2>"
        assert ranges.statistics().unsettled == 0
        retire.go.set()
        await drain.wait()
        assert sorted(retire.ended) == ["a", "b"]
    assert_idle(ranges)


async def test_an_async_on_retire_is_shielded() -> None:
    """Broken if cancelling the owner tears a clean-up in two."""
    retire = SlowRetire()
    scope = CancelScope()
    owned = anyio.Event()

    async def own() -> None:
        with scope:
            async with RangeMap([(0, 4, "a")], on_retire=retire) as ranges:
                ranges.remove(0, 4)
                owned.set()
                await anyio.sleep_forever()

    async with create_task_group() as tasks:
        tasks.start_soon(own)
        await owned.wait()
        await all_blocked()
        scope.cancel()
        await all_blocked()
        assert (retire.began, retire.ended) == (["a"], [])
        retire.go.set()
    assert retire.ended == ["a"]


async def test_an_async_on_retire_that_had_not_begun_runs_when_its_owner_is_cancelled() -> None:
    """Broken if a lease that ends just before the cancellation is never cleaned up."""
    retire = SlowRetire()
    retire.go.set()
    with CancelScope() as scope:
        async with RangeMap([(0, 4, "a")], on_retire=retire) as ranges:
            ranges.remove(0, 4)
            scope.cancel()
    assert retire.ended == ["a"]


async def test_errors_of_an_async_on_retire() -> None:
    """Broken if they cancel the owner's group, or are lost."""

    async def fail(payload: str) -> None:
        await checkpoint()
        raise OSError(payload)

    drains: list[Drain[str]] = []
    with pytest.raises(ExceptionGroup, match="no waiter") as caught:
        async with RangeMap([(i, i + 1, str(i)) for i in range(3)], on_retire=fail) as ranges:
            drains += (ranges.remove(0, 1), ranges.remove(1, 2))
            with pytest.raises(OSError, match="0"):
                await drains[0].wait()
    assert [str(error) for error in caught.value.exceptions] == ["1", "2"]


async def test_a_stale_fill_is_retired_by_an_async_on_retire() -> None:
    """Broken if a dropped payload isn't cleaned up, or nobody waits for it."""
    retire = SlowRetire()
    factory = Factory("old", "new")
    async with RangeMap(on_retire=retire) as ranges, create_task_group() as tasks:
        asker = Asker(ranges, factory, 0, 4)
        await start(tasks, asker)
        ranges.remove(0, 4)
        factory.go.set()
        await all_blocked()
        assert retire.began == ["old"]
        retire.go.set()
    assert retire.ended == ["old", "new"]


# -------------------------------------------------------------------- closing


async def test_aclose_waits_for_every_holder_and_retires_all() -> None:
    """Broken if a closed map leaves a holder without its payload, or a payload without its end."""
    retired: list[str] = []
    ranges = RangeMap([(0, 4, "a"), (4, 8, "b")], on_retire=retired.append)
    holders = [Holder(ranges, 0), Holder(ranges, 4)]
    closed: list[int] = []

    async def close(number: int) -> None:
        await ranges.aclose()
        closed.append(number)

    async with create_task_group() as tasks:
        await start(tasks, *holders)
        ranges.remove(4, 8)
        for number in range(2):
            tasks.start_soon(close, number)
        await all_blocked()
        assert ranges.statistics().closed
        with pytest.raises(ClosedResourceError):
            ranges.pin(0)
        assert retired == []
        holders[0].release.set()
        await all_blocked()
        assert (retired, closed) == (["a"], [])
        holders[1].release.set()
    assert retired == ["a", "b"]
    assert sorted(closed) == [0, 1]
    await ranges.aclose()
    assert_idle(ranges)


async def test_aclose_is_a_checkpoint() -> None:
    """Broken if closing an idle map, or closing again, can't be cancelled."""
    ranges = RangeMap([(0, 4, "a")])
    for _ in range(2):
        with CancelScope() as scope:
            scope.cancel()
            await ranges.aclose()
        assert scope.cancelled_caught
    assert ranges.statistics().closed


async def test_a_cancelled_aclose_leaves_the_map_closed_and_the_last_release_frees() -> None:
    """Broken if a cancelled aclose opens the map again, or what is held is never retired."""
    retired: list[str] = []
    ranges = RangeMap([(0, 4, "a")], on_retire=retired.append)
    with ranges.pin(0):
        with CancelScope() as scope:
            scope.cancel()
            await ranges.aclose()
        assert ranges.statistics().closed
        with pytest.raises(ClosedResourceError):
            ranges.pin(0)
        assert retired == []
    assert retired == ["a"]
    await ranges.aclose()


async def test_a_release_after_the_owner_has_gone_warns() -> None:
    """Broken if a payload whose async clean-up nobody can run is dropped in silence."""
    retire = SlowRetire()
    with CancelScope() as scope:
        async with RangeMap([(0, 4, "a")], on_retire=retire) as ranges:
            guard = ranges.pin(0)
            scope.cancel()
    with pytest.warns(ResourceWarning, match="'a' was released after its RangeMap had gone"):
        guard.release()
    assert retire.began == []
    assert_idle(ranges)


@pytest.mark.parametrize("delay", range(6))
async def test_a_release_while_the_owner_goes(delay: int) -> None:
    """Broken if a reader that lets go while the owner's task group ends gets the group's error."""
    ended: list[str] = []

    async def retire(payload: str) -> None:
        ended.append(payload)

    scope = CancelScope()
    ranges = RangeMap([(0, 4, "a")], on_retire=retire)
    held, go = anyio.Event(), anyio.Event()

    async def own() -> None:
        with scope:
            async with ranges:
                held.set()
                await anyio.sleep_forever()

    async def read() -> None:
        await held.wait()
        with ranges.pin(0):
            await go.wait()
            for _ in range(delay):
                await checkpoint()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with create_task_group() as tasks:
            await start(tasks, own, read)
            scope.cancel()
            go.set()
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning] * (1 - len(ended))
    assert_idle(ranges)


async def test_an_error_in_the_owners_body_comes_out_as_it_is() -> None:
    """Broken if `async with RangeMap(...)` wraps its body's error in a group."""
    retire = SlowRetire()
    retire.go.set()
    with pytest.raises(ZeroDivisionError):
        async with RangeMap([(0, 4, "a")], on_retire=retire) as ranges:
            raise ZeroDivisionError
    assert retire.ended == ["a"]
    assert ranges.statistics().closed


async def test_a_map_with_an_async_on_retire_and_no_owner_can_not_half_close() -> None:
    """Broken if aclose fails and leaves a map that says closed and still gives pins."""
    retire = SlowRetire()
    ranges = RangeMap([(0, 4, "a")], on_retire=retire)
    with pytest.raises(RuntimeError, match="needs an owner"):
        await ranges.aclose()
    with ranges.pin(0):
        assert not ranges.statistics().closed


async def test_a_block_that_was_open_while_the_map_closed_publishes_nothing() -> None:
    """Broken if an edit gets into a closed map, where nothing will ever retire it."""
    ranges: RangeMap[str] = RangeMap()
    with pytest.raises(ClosedResourceError), ranges.edit() as edit:
        edit.insert(0, 4, "a")
        await ranges.aclose()
    assert len(ranges) == 0
    assert edit.drain is None


# -------------------------------------------------------------------- event loops


def test_a_map_in_use_refuses_another_event_loop(anyio_backend: str) -> None:
    """Broken if a holder in one loop is waited for in another, which nothing can wake."""
    ranges = RangeMap([(0, 4, "a")])

    async def leave_pinned() -> None:
        await ranges.hold(0).__aenter__()

    async def use() -> None:
        with pytest.raises(RuntimeError, match="in use in another event loop"):
            await ranges.hold(0).__aenter__()
        drain = ranges.assign(0, 2, "b")
        with pytest.raises(RuntimeError, match="a map belongs to one loop"):
            await drain.wait()

    anyio.run(leave_pinned, backend=anyio_backend)
    anyio.run(use, backend=anyio_backend)


@pytest.mark.parametrize("use", ["fill", "hold", "drain", "retire"])
async def test_a_second_event_loop_in_a_thread_is_refused(anyio_backend: str, use: str) -> None:
    """Broken if two loops can use one map at once: its steps would not be atomic any more."""
    factory, retire = Factory("a"), SlowRetire()

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="in use in another event loop"):
            await ranges.get_or_insert(0, 4, factory)

    async with RangeMap([(8, 12, "b")], on_retire=retire) as ranges:
        holder, asker = Holder(ranges, 8), Asker(ranges, factory, 0, 4)
        async with create_task_group() as tasks:
            if use in ("hold", "drain"):
                await start(tasks, holder)
            if use == "fill":
                await start(tasks, asker)
            if use in ("drain", "retire"):
                await start(tasks, ranges.remove(8, 12).wait)
            await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, backend=anyio_backend))
            for event in (factory.go, retire.go, holder.release):
                event.set()
    assert factory.calls == (use == "fill")
    assert_idle(ranges)


def test_an_idle_map_may_move_to_another_event_loop(anyio_backend: str) -> None:
    """Broken if a map can't be made before, or outlive, an event loop."""
    ranges = RangeMap([(0, 4, "a")])

    async def use() -> None:
        async with ranges.hold(0):
            pass
        with ranges.pin(0):
            drain = ranges.assign(0, 4, "b")
        await drain.wait()

    for _ in range(2):
        anyio.run(use, backend=anyio_backend)
    anyio.run(ranges.aclose, backend=anyio_backend)
    assert_idle(ranges)
    assert ranges.statistics().closed


def test_a_pinned_map_refuses_another_event_loop(anyio_backend: str) -> None:
    """Broken if only holds count as use."""
    ranges = RangeMap([(0, 4, "a")])

    async def pin() -> None:
        async with ranges.hold(0):
            ranges.pin(0)

    anyio.run(pin, backend=anyio_backend)
    with pytest.raises(RuntimeError, match="in use in another event loop"):
        anyio.run(ranges.aclose, backend=anyio_backend)


async def test_closing_waits_for_a_fill_in_flight() -> None:
    """Broken if a payload arrives when its owner has gone, and nobody retires it."""
    retired: list[str] = []

    async def retire(payload: str) -> None:
        await anyio.lowlevel.checkpoint()
        retired.append(payload)

    go = anyio.Event()

    async def slow() -> str:
        await go.wait()
        return "late"

    async def ask() -> None:
        with pytest.raises(ClosedResourceError):
            await ranges.get_or_insert(0, 4, slow)

    async def close() -> None:
        await ranges.aclose()
        assert retired == ["late"]

    async with create_task_group() as tasks, RangeMap(on_retire=retire) as ranges:
        await start(tasks, ask)
        await start(tasks, close)
        go.set()


async def test_a_factory_may_not_wait_for_itself() -> None:
    """Broken if a factory that asks for its own range, or closes the map, hangs silently."""
    ranges: RangeMap[str] = RangeMap()

    async def ask_again() -> str:
        with pytest.raises(RuntimeError, match="asks for the range that it is to fill"):
            await ranges.get_or_insert(0, 4, ask_again)
        with pytest.raises(DrainDeadlock, match="a factory can't close"):
            await ranges.aclose()
        return "a"

    region = await ranges.get_or_insert(0, 4, ask_again)
    assert region.payload == "a"
