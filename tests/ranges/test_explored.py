"""Every schedule of small programs, also with a task cancelled at each checkpoint in turn.

The programs share plain Python objects, so every two steps may conflict and every order is run.
Mutants of the map are judged by these programs: see the package `mutants` and test_broken.py.
"""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from anyio import ClosedResourceError
from ranges.broken import grow_without_edit
from trio.lowlevel import checkpoint

from aspf import RangeInvalidated, RangeMap, RangeNotFound, Region
from aspf.race import check
from aspf.ranges._edit import plan_assign, plan_remove, plan_split

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from aspf.ranges import Drain, Edit

    Program = Callable[[], Awaitable[object]]
    Task = Callable[[], Awaitable[None]]


def _mapped(regions: Iterable[Region[str]]) -> set[tuple[int, str]]:
    return {(key, r.payload) for r in regions for key in range(r.start, r.end)}


class World:
    """A map, its readers, and an oracle: who uses what, what was cleaned up, what was retired."""

    def __init__(self, *items: tuple[int, int, str]) -> None:
        self.ranges: RangeMap[str] = RangeMap(items, on_retire=self.on_retire)
        self.payloads = {payload for _, _, payload in items}
        # Who is between a pin and its release: key and payload.
        self.using: list[tuple[int, str]] = []
        self.retired: list[str] = []
        self.seen: set[str] = set()
        # What went wrong: on_retire and cleanups must not raise, their errors are the waiters'.
        self.wrong: list[str] = []

    def on_retire(self, payload: str) -> None:
        self.wrong += [
            f"{payload} was retired under who holds {key}"
            for key, used in self.using
            if used == payload
        ]
        self.retired.append(payload)

    def publish(self, edit: Edit[str]) -> Drain[str]:
        """Publish an edit whose cleanup looks for those who still use a key that it took."""
        lost = _mapped(edit.old) - _mapped(edit.new)

        def cleanup() -> None:
            self.wrong += [
                f"{key} was cleaned up under who holds {payload} there"
                for key, payload in self.using
                if (key, payload) in lost
            ]

        self.payloads |= {region.payload for region in edit.new}
        return self.ranges.publish(edit, cleanup=cleanup)

    @contextmanager
    def use(self, key: int, payload: str) -> Iterator[None]:
        self.using.append((key, payload))
        self.seen.add(payload)
        try:
            yield
        finally:
            self.using.remove((key, payload))

    def expect_retired(self, *payloads: str) -> None:
        """Say what a waiter must find when its drain is done."""
        if sorted(self.retired) != sorted(payloads):
            self.wrong.append(f"{self.retired} were retired when {payloads} should have been")

    def pinning(self, key: int) -> Task:
        async def pin() -> None:
            try:
                with self.ranges.pin(key) as region, self.use(key, region.payload):
                    await checkpoint()
            except (RangeNotFound, ClosedResourceError):
                pass

        return pin

    def holding(self, key: int, *, cancel_on_invalidate: bool = False) -> Task:
        async def hold() -> None:
            try:
                async with self.ranges.hold(
                    key, cancel_on_invalidate=cancel_on_invalidate
                ) as region:
                    with self.use(key, region.payload):
                        await checkpoint()
            except (RangeNotFound, ClosedResourceError, RangeInvalidated):
                pass

        return hold

    async def run(self, *tasks: Task) -> tuple[list[str], list[str]]:
        """Run the tasks to their end, close the map, and look at what is left."""
        try:
            async with trio.open_nursery() as nursery:
                for task in tasks:
                    nursery.start_soon(task)
        finally:  # also when all of them were cancelled at once
            with trio.CancelScope(shield=True):
                await self._close()
        return sorted(self.seen), self.retired

    async def _close(self) -> None:
        assert not self.wrong, "; ".join(self.wrong)
        now = self.ranges.statistics()
        assert (now.pins, now.holds, now.fills, now.unsettled) == (0, 0, 0, 0)
        await self.ranges.aclose()
        assert not self.wrong, "; ".join(self.wrong)
        assert Counter(self.retired) == Counter(self.payloads), f"retired: {self.retired}"
        assert not self.ranges._leases
        assert not self.ranges._pending


async def cut_and_remove() -> object:
    """Remove the tail, then the rest: rule S."""
    world = World((0, 8, "old"))

    async def write() -> None:
        world.publish(plan_remove(world.ranges.index, 4, 8))
        await checkpoint()
        await world.publish(plan_remove(world.ranges.index, 0, 4)).wait()
        world.expect_retired("old")

    return await world.run(world.pinning(1), world.holding(6), write)


async def two_edits_and_one_over_both() -> object:
    """Remove both halves, then what came in their places: rule S holds for each of them."""
    world = World((0, 4, "old"), (4, 8, "old"))

    async def write() -> None:
        world.publish(plan_assign(world.ranges.index, 0, 4, "new"))
        world.publish(plan_assign(world.ranges.index, 4, 8, "new"))
        await world.publish(plan_remove(world.ranges.index, 0, 8)).wait()
        world.wrong += [f"{key} is still used" for key, _ in world.using]

    return await world.run(world.pinning(1), world.pinning(6), write)


async def two_behind_one() -> object:
    """Replace both halves at once, then remove each: who holds one of them delays no other."""
    world = World((0, 4, "old"), (4, 8, "old"))

    async def write() -> None:
        index = world.ranges.index
        left = plan_assign(index, 0, 4, "new")
        world.publish(left.then(plan_assign(index.edited(left), 4, 8, "new")))
        await checkpoint()
        world.publish(plan_remove(world.ranges.index, 0, 4))
        await world.publish(plan_remove(world.ranges.index, 4, 8)).wait()
        world.wrong += [f"{key} is still used" for key, _ in world.using if key >= 4]

    return await world.run(world.pinning(1), world.pinning(6), write)


async def assign_over() -> object:
    """Replace a range twice under its readers."""
    world = World((0, 8, "old"))

    async def write() -> None:
        world.publish(plan_assign(world.ranges.index, 2, 6, "new"))
        await world.publish(plan_assign(world.ranges.index, 0, 8, "newer")).wait()
        world.expect_retired("new", "old")

    return await world.run(world.pinning(1), world.holding(3), write)


async def split_and_replace() -> object:
    """Split a region and replace its pieces one by one: one payload, one lease."""
    world = World((0, 8, "old"))

    async def write() -> None:
        world.publish(plan_split(world.ranges.index, 4))
        world.publish(plan_remove(world.ranges.index, 0, 4))
        await checkpoint()
        world.publish(plan_assign(world.ranges.index, 2, 8, "new"))

    return await world.run(world.pinning(5), world.holding(2), write)


def growing(grow: Callable[[World], None]) -> Program:
    async def grow_and_remove() -> object:
        """Let a region grow, then remove all of it."""
        world = World((0, 4, "old"))

        async def write() -> None:
            grow(world)
            await world.publish(plan_remove(world.ranges.index, 0, 8)).wait()
            world.expect_retired("old")

        return await world.run(world.pinning(1), world.holding(2), write)

    return grow_and_remove


def grow_by_an_edit(world: World) -> None:
    world.publish(grow_without_edit.planned(world.ranges, 0, 8))


async def let_go_in_time() -> object:
    """Cancel a holder when its key loses the payload, and wait for it."""
    world = World((0, 8, "old"))

    async def write() -> None:
        world.publish(plan_split(world.ranges.index, 4))
        await world.publish(plan_remove(world.ranges.index, 0, 4)).wait()
        world.wrong += [f"{key} is still held" for key, _ in world.using if key < 4]

    return await world.run(world.pinning(5), world.holding(2, cancel_on_invalidate=True), write)


async def two_who_wait() -> object:
    """Two tasks wait for one drain."""
    world = World((0, 8, "old"))
    drain: Drain[str] | None = None

    async def write() -> None:
        nonlocal drain
        drain = world.publish(plan_remove(world.ranges.index, 0, 8))
        await drain.wait()
        world.expect_retired("old")

    async def wait() -> None:
        await checkpoint()
        if drain is not None:
            await drain.wait()
            world.expect_retired("old")

    return await world.run(world.pinning(1), write, wait)


async def close_under_readers() -> object:
    """Close the map while it is read."""
    world = World((0, 8, "old"))

    async def close() -> None:
        await world.ranges.aclose()
        world.expect_retired("old")

    return await world.run(world.pinning(1), world.holding(2), close)


async def three_who_ask() -> object:
    """Ask for one range from three tasks: single flight."""
    world = World()
    flying = 0

    def asking(name: str) -> Task:
        async def fetch() -> str:
            nonlocal flying
            flying += 1
            world.wrong += ["two factories at once"] * (flying - 1)
            try:
                await checkpoint()
            finally:
                flying -= 1
            world.payloads.add(name)
            return name

        async def ask() -> None:
            region = await world.ranges.get_or_insert(0, 8, fetch)
            assert region.is_current
            with world.ranges.pin(0) as pinned:
                assert pinned is region
                world.seen.add(region.payload)

        return ask

    seen, retired = await world.run(asking("a"), asking("b"), asking("c"))
    assert len(seen) == len(retired) == 1
    return seen


async def two_who_ask_and_one_who_removes() -> object:
    """Remove a range while it is fetched: what was read before must not stay."""
    world = World()
    version = 0

    def asking(name: str) -> Task:
        async def fetch() -> str:
            read = f"{name}{version}"
            world.payloads.add(read)
            await checkpoint()
            return read

        async def ask() -> None:
            region = await world.ranges.get_or_insert(0, 8, fetch)
            assert region.is_current
            # Not older than the last removal.
            assert region.payload.endswith(str(version)), region
            world.seen.add(region.payload)

        return ask

    async def remove() -> None:
        nonlocal version
        version += 1
        world.ranges.remove(0, 8)

    try:
        async with trio.open_nursery() as nursery:
            for task in (asking("a"), asking("b"), remove):
                nursery.start_soon(task)
    finally:
        with trio.CancelScope(shield=True):
            await world.ranges.aclose()
        assert not world.wrong
        # A factory that was cancelled has made nothing, though it had read.
        assert Counter(world.retired) <= Counter(world.payloads)
        assert world.seen <= set(world.retired)
    return sorted(world.seen)


async def owner_goes() -> object:
    """End the owner of an async on_retire while others hold, release and edit."""
    retired: list[str] = []
    held: list[int] = []

    async def on_retire(payload: str) -> None:
        assert not held
        await checkpoint()
        retired.append(payload)

    ranges = RangeMap([(0, 8, "old")], on_retire=on_retire)

    async def own() -> None:
        async with ranges:
            await checkpoint()
        assert retired == ["old"]

    async def read() -> None:
        try:
            with ranges.pin(0):
                held.append(0)
                try:
                    await checkpoint()
                    await checkpoint()
                finally:
                    held.pop()
        except ClosedResourceError:
            pass

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(own)
            nursery.start_soon(read)
    finally:
        assert not ranges._pending
        assert ranges.statistics().pins == 0
    return retired


PROGRAMS = [
    (cut_and_remove, 250),
    (two_edits_and_one_over_both, 50),
    (two_behind_one, 50),
    (assign_over, 200),
    (split_and_replace, 150),
    (growing(grow_by_an_edit), 100),
    (let_go_in_time, 150),
    (two_who_wait, 100),
    (close_under_readers, 100),
    (three_who_ask, 500),
    (two_who_ask_and_one_who_removes, 100),
]


@pytest.mark.thorough
@pytest.mark.parametrize("cancel", [False, True], ids=["", "cancelled"])
@pytest.mark.parametrize(
    ("program", "at_least"), PROGRAMS, ids=[program.__name__ for program, _ in PROGRAMS]
)
def test_every_schedule(program: Program, at_least: int, cancel: bool) -> None:
    """Broken if one schedule leaks a pin, loses a wake-up, retires twice, early or never."""
    exploration = check(
        program, cancel="each" if cancel else "never", schedules=100_000, search="exhaustive"
    )
    print(exploration.headline())  # noqa: T201 - the counts, for pytest -rP
    assert exploration.exhausted
    # A floor and no number: how often an await yields is anyio's and trio's business.
    assert exploration.schedules >= at_least * (8 if cancel else 1)
    assert (exploration.cancellations > 0) == cancel


@pytest.mark.parametrize("cancel", [False, True], ids=["", "cancelled"])
def test_the_owner_of_an_async_on_retire_goes(cancel: bool) -> None:
    """Broken if a release meets a task group that takes no more tasks."""
    with warnings.catch_warnings():
        # What is released after a cancelled owner has gone is named in a ResourceWarning.
        warnings.simplefilter("ignore", ResourceWarning)
        exploration = check(
            owner_goes, cancel="each" if cancel else "never", schedules=100_000, search="exhaustive"
        )
    print(exploration.headline())  # noqa: T201 - the counts, for pytest -rP
    assert exploration.exhausted
    assert set(exploration.outcomes) == ({"['old']", "[]", "None"} if cancel else {"['old']"})
