"""No task of the program may be left when its main task has ended."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio.testing
from _golden import check_golden

from aspf.race import (
    Cell,
    Failure,
    NotDeterministic,
    TeardownStuck,
    _engine,
    explore,
    may_stay,
    replay,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

GOLDEN = Path(__file__).parent / "golden"


async def flush() -> None:
    """A task that somebody should have waited for."""
    await trio.sleep_forever()


async def system_task() -> None:
    """One that trio cancels wherever it stands."""
    trio.lowlevel.spawn_system_task(flush)
    await trio.lowlevel.checkpoint()


async def left_open() -> None:
    """A nursery without ``async with``."""
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    nursery.start_soon(flush)
    await trio.lowlevel.checkpoint()


async def in_a_generator() -> None:
    """A nursery in an async generator that is not run to its end."""

    async def numbers() -> AsyncIterator[int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            yield 1

    generator = numbers()
    await generator.__anext__()
    await trio.lowlevel.checkpoint()
    _ALIVE.append(generator)


_ALIVE: list[Any] = []


@pytest.fixture(autouse=True)
def _no_generator_outlives_its_test() -> Any:
    yield
    _ALIVE.clear()
    gc.collect()


def only(program: Callable[[], Awaitable[object]], **options: Any) -> Failure:
    """There is one failure, in one way, and its token repeats it."""
    (failure,) = explore(program, **options).failures
    again = replay(program, failure.token)
    assert again is not None
    assert (again.kind, again.summary) == (failure.kind, failure.summary)
    return failure


@pytest.mark.parametrize("program", [system_task, left_open, in_a_generator])
@pytest.mark.parametrize("isolated", [True, False])
def test_a_task_that_is_left(program: Callable[[], Awaitable[object]], isolated: bool) -> None:
    """A program that loses its work now and then would be said to hold."""
    failure = only(program, isolated=isolated)
    assert failure.kind == "task left"
    assert failure.summary.startswith("task left when the main task has ended: flush ")


def test_the_report() -> None:
    """Whoever reads it must know which task, who started it, and where it is."""
    check_golden(GOLDEN / "task_left.txt", str(only(some_are_left, level="stock")))


async def some_are_left() -> None:
    """They sleep, could go on, or have yet to begin."""

    async def count() -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(2):
            await trio.sleep(1)
        await trio.lowlevel.checkpoint()

    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    nursery.start_soon(count)
    trio.lowlevel.spawn_system_task(flush)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(flush)
    nursery.start_soon(count)
    await trio.sleep(1)
    nursery.start_soon(count)


def test_only_in_some_schedules() -> None:
    """A task that ends in time is no failure, in the same program."""

    async def program() -> None:
        done = trio.Event()
        order: list[str] = []

        async def serve() -> None:
            await done.wait()

        async def note(name: str) -> None:
            order.append(name)

        trio.lowlevel.spawn_system_task(serve)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "a")
            nursery.start_soon(note, "b")
        if order == ["a", "b"]:
            done.set()
            await trio.lowlevel.checkpoint()

    found = explore(program, search="exhaustive", stop_on_failure=False)
    assert {failure.kind for failure in found.failures} == {"task left"}
    assert 0 < sum(failure.count for failure in found.failures) < found.schedules


def test_an_error_comes_first() -> None:
    """What the program has raised says more; and the tasks are cleared away all the same."""

    async def program() -> None:
        await left_open()
        raise ValueError("the reason")

    failure = only(program)
    assert (failure.kind, failure.summary) == ("error", "ValueError: the reason")

    async def with_system_task() -> None:
        await system_task()
        raise ValueError("the reason")

    failure = only(with_system_task)
    assert (failure.kind, failure.summary) == ("error", "ValueError: the reason")


def test_in_the_last_step_of_all() -> None:
    """A main task that has ended would be taken for one that never does."""

    async def program() -> None:
        trio.lowlevel.spawn_system_task(flush)

    assert only(program).kind == "task left"
    assert only(program, max_steps=1).kind == "task left"


def test_a_system_task_that_never_rests() -> None:
    """The exploration would never end, and the program does."""

    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def program() -> None:
        trio.lowlevel.spawn_system_task(spin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)

    assert only(program).summary.endswith(": spin stands in checkpoint")


async def tidy() -> None:
    """It lives as long as there is anybody, and has something to do at its end."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "options", [{}, {"isolated": False}, {"cancel": "each"}, {"timers": "any"}, {"level": "stock"}]
)
def test_a_system_task_that_may_stay(options: dict[str, Any]) -> None:
    """A program that uses a library with such a task could not be explored at all."""

    async def program() -> int:
        may_stay("tidy")
        trio.lowlevel.spawn_system_task(tidy)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            nursery.start_soon(trio.sleep, 0.5)
        return 1

    found = explore(program, search="exhaustive", stop_on_failure=False, **options)
    returned = {"1", "None"} if options == {"cancel": "each"} else {"1"}
    assert (found.verdict, {*found.outcomes}) == ("holds", returned)
    assert found.schedules > 1
    assert replay(program, found.outcomes["1"].token) is None


def test_what_may_not_stay() -> None:
    """One that serves would hide another one that has lost its work."""

    async def program() -> None:
        may_stay("tidy")
        trio.lowlevel.spawn_system_task(tidy)
        await system_task()

    failure = only(program)
    assert failure.summary.startswith("task left when the main task has ended: flush ")

    async def left() -> None:
        may_stay("flush")
        await left_open()

    assert only(left).kind == "task left"


async def sleep_again() -> None:
    await trio.sleep_forever()


async def sleep_on() -> None:
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


@pytest.mark.parametrize("sleep", [sleep_again, sleep_on])
@pytest.mark.parametrize("stays", ["refuse", "nobody"])
def test_a_system_task_that_refuses_to_end(
    sleep: Callable[[], Awaitable[None]], stays: str
) -> None:
    """Nobody would know which task it is that holds the exploration up."""

    async def refuse() -> None:
        while True:
            with suppress(trio.Cancelled):
                await sleep()

    async def program() -> None:
        may_stay(stays)
        trio.lowlevel.spawn_system_task(refuse)
        await trio.lowlevel.checkpoint()

    with pytest.raises(TeardownStuck, match="did not end its tasks 'refuse' within"):
        explore(program)


def test_nobody_asks() -> None:
    """Outside of an exploration the program would not run."""
    may_stay("tidy")


def call_soon(count: int, then: trio.Event) -> None:
    """Keep trio's own task of ``run_sync_soon`` busy."""
    token = trio.lowlevel.current_trio_token()
    if count:
        with suppress(trio.RunFinishedError):  # when a schedule is torn down
            token.run_sync_soon(call_soon, count - 1, then)
    else:
        then.set()


@pytest.mark.parametrize("options", [{}, {"cancel": "never"}, {"level": "contract"}])
def test_calls_that_nothing_but_their_own_end_can_stop(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Nobody would find the loop if it was called a deadlock of those who wait for it."""
    monkeypatch.setattr(_engine, "TRIOS_STEPS", 10)
    monkeypatch.setattr(_engine, "TRIOS_STEPS_ALONE", 30)

    async def program() -> None:
        done = trio.Event()
        call_soon(100, done)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(done.wait)

    failure = only(program, **options)
    assert failure.kind == "livelock?"
    assert failure.summary == (
        "nobody can run, and the calls by TrioToken.run_sync_soon go on and on: perhaps a livelock"
    )
    again = replay(program, failure.token, minimise=True)
    assert again is not None
    assert again.minimal is not None
    assert (again.summary, again.minimal.switches) == (failure.summary, ())


@pytest.mark.parametrize("options", [{}, {"cancel": "each"}, {"shared": "cells"}])
def test_calls_that_take_their_time(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """A program that is right would be told that it has a deadlock."""
    monkeypatch.setattr(_engine, "TRIOS_STEPS", 10)

    async def program() -> None:
        done, cell = trio.Event(), Cell(0, "cell")
        call_soon(100, done)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(done.wait)
            nursery.start_soon(cell.wait_until, bool)
            await done.wait()
            await cell.set(1)

    found = explore(program, search="exhaustive", **options)
    assert found.verdict == "holds"


def test_a_refusal_comes_before_calls_that_never_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program that swallows it would be told something that is not its fault."""
    monkeypatch.setattr(_engine, "TRIOS_STEPS", 10)
    monkeypatch.setattr(_engine, "TRIOS_STEPS_ALONE", 30)

    async def program() -> None:
        done = trio.Event()
        call_soon(100, done)
        with suppress(NotDeterministic):
            await trio.to_thread.run_sync(int)
        await done.wait()

    with pytest.raises(NotDeterministic, match="to_thread"):
        explore(program)


def test_tasks_of_trios_own_do_not_count() -> None:
    """Nobody could do anything about them."""

    async def program() -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await trio.lowlevel.checkpoint()

    assert explore(program).verdict == "holds"
