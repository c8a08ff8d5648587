"""Many schedules in one run of trio's loop: the same as one by one, as far as nothing is left."""

from __future__ import annotations

import gc
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import pytest
import trio
from race._programs import account, deadlock01, lost_update

from aspf.race import Cell, RaceFound, _series, check, explore, may_cancel, watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

runs = trio.lowlevel.RunVar("runs", default=0)
who = ContextVar("who", default="nobody")


async def sleeps() -> list[float]:
    """Virtual time, which has to begin at zero each time."""
    times: list[float] = []

    async def sleep(seconds: float) -> None:
        with trio.move_on_after(2), may_cancel():
            await trio.sleep(seconds)
        times.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep, 1)
        nursery.start_soon(sleep, 3)
    return times


async def plain() -> int:
    value = 0

    async def increment() -> None:
        nonlocal value
        read = value
        await trio.lowlevel.checkpoint()
        value = read + 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(increment)
        nursery.start_soon(increment)
    return value


async def fails_late() -> None:
    assert await plain() == 2


@pytest.mark.parametrize(
    "program", [plain, sleeps, lost_update(2), account, deadlock01, fails_late]
)
@pytest.mark.parametrize("search", ["exhaustive", "random", "pct", "pos", "urw", "portfolio"])
def test_the_same_is_found(program: Callable[[], Awaitable[object]], search: str) -> None:
    """A schedule would begin where another has left off, or be counted twice, or not at all."""
    found: list[Any] = []
    for isolated in (True, False):
        exploration = explore(
            program, search=search, schedules=300, isolated=isolated, stop_on_failure=False
        )
        found.append(
            {
                name: getattr(exploration, name)
                for name in exploration.__slots__
                if name not in ("isolated", "failures")
            }
        )
        found[-1]["failures"] = [str(failure) for failure in exploration.failures]
    assert found[0] == found[1]


@pytest.mark.parametrize("shared", ["anything", "cells"])
def test_runs_that_are_given_up(shared: Any) -> None:
    """A pruned schedule ends its run, and the next must go on from the same node."""
    programs = lost_update(3), account
    for program in programs:
        one, many = (
            explore(
                program,
                search="exhaustive",
                shared=shared,
                schedules=20_000,
                isolated=isolated,
                stop_on_failure=False,
            )
            for isolated in (True, False)
        )
        assert (one.schedules, one.pruned, one.outcomes) == (
            many.schedules,
            many.pruned,
            many.outcomes,
        )


def test_the_report_says_so() -> None:
    """Who reads the numbers would take them for those of isolated schedules."""
    assert "; many schedules a run)" in explore(plain, isolated=False).headline()
    assert '"isolated": false' in explore(plain, isolated=False).as_json()


def test_runs_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be as slow as it was."""
    loops: list[object] = []
    run = _series.Schedule.run

    def counted(self: _series.Schedule) -> None:
        loops.append(self)
        run(self)

    monkeypatch.setattr(_series.Schedule, "run", counted)
    explore(plain, search="random", schedules=250, isolated=False)

    assert len(loops) < 15  # a search learns between its parts, which are runs of their own


def test_garbage_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes much of it would run out of memory: the collector waits for the end of a run."""
    monkeypatch.setattr(_series, "GARBAGE", 1_000)
    most = 0

    async def program() -> None:
        nonlocal most
        most = max(most, gc.get_count()[0])
        for _ in range(100):
            knot: list[object] = []
            knot.append(knot)

    gc.collect()
    explore(program, search="random", schedules=250, isolated=False)
    assert most < 1_000 + gc.get_threshold()[0] + 200


async def sets_a_run_variable() -> int:
    runs.set(runs.get() + 1)
    return runs.get()


async def sets_a_context_variable() -> str:
    before = who.get()
    who.set("somebody")
    await trio.lowlevel.checkpoint()
    return before


async def leaves_a_generator() -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await trio.lowlevel.checkpoint()

    kept.append(numbers())
    await anext(kept[-1])


kept: list[Any] = []


@pytest.mark.parametrize(
    "program", [sets_a_run_variable, sets_a_context_variable, leaves_a_generator]
)
def test_nothing_is_handed_on(program: Callable[[], Awaitable[object]]) -> None:
    """A cache that lives as long as the run would make the second schedule another program."""
    try:
        (outcome,) = explore(
            program, search="random", schedules=20, isolated=False
        ).outcomes.values()
        assert outcome.count == 20
    finally:
        kept.clear()


def test_a_replaced_context_variable_is_put_back() -> None:
    """The second schedule would find what the first one has put in the place of the caller's."""

    async def replaces() -> str:
        before = who.get()
        who.set("somebody")
        return before

    def explored() -> list[str]:
        who.set("the caller")
        return list(explore(replaces, search="random", schedules=20, isolated=False).outcomes)

    assert copy_context().run(explored) == ["'the caller'"]


def test_the_main_task_goes_on_in_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each schedule would cost a step of trio's loop more than the program takes."""
    steps: list[object] = []
    next_task = _series.Schedule.next_task

    def counted(self: _series.Schedule) -> trio.lowlevel.Task:
        steps.append(self)
        return next_task(self)

    async def takes_one() -> None:
        pass

    monkeypatch.setattr(_series.Schedule, "next_task", counted)
    found = explore(takes_one, search="random", schedules=250, isolated=False)

    assert found.schedules == 250
    assert len(steps) < 100  # what the few runs that they share take to begin and to end


def test_what_is_watched_is_looked_at_in_each() -> None:
    """A leak in a schedule that isn't the last of its run would go unseen."""

    async def program() -> None:
        lock = watch(trio.Lock(), "lock")
        order: list[str] = []

        async def note(name: str) -> None:
            order.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "a")
            nursery.start_soon(note, "b")
        if order == ["b", "a"]:
            lock.acquire_nowait()

    found = explore(program, search="random", schedules=50, isolated=False, stop_on_failure=False)
    (failure,) = found.failures
    assert failure.kind == "leak"
    assert 5 < failure.count < 45


def test_an_error_of_the_progress_callback_is_its_own() -> None:
    """It would be taken for an error of the program, and explored."""

    def stop(_: object) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        explore(plain, search="random", schedules=10**6, isolated=False, progress=stop)


def test_a_failure_is_drawn_from_a_run_of_its_own() -> None:
    """Its token would not replay."""
    with pytest.raises(RaceFound, match=r"replay: aspf\d:"):
        check(fails_late, isolated=False)


def test_levels_of_trios_own_order_are_refused() -> None:
    """What trio does next at these levels depends on how the run began."""
    with pytest.raises(ValueError, match="isolated=False with level='stock': "):
        explore(plain, level="stock", isolated=False)


def test_cells_are_new_each_time() -> None:
    """Numbers of places must be those of an isolated schedule, or reduction goes wrong."""

    async def program() -> int:
        cell = Cell(0, "cell")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cell.set, 1)
            nursery.start_soon(cell.set, 2)
        return cell.peek()

    found = explore(program, search="exhaustive", shared="cells", isolated=False)
    assert (found.schedules, found.exhausted, set(found.outcomes)) == (2, True, {"1", "2"})
