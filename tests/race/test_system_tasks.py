"""System tasks that a program starts: tasks like all others, but that trio ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from aspf.race import Cell, NotDeterministic, explore, may_stay, replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def overtaken_by_a_service() -> None:
    """Lose an update to a system task."""
    counter = 0
    done = trio.Event()

    async def increment() -> None:
        nonlocal counter
        seen = counter
        await trio.lowlevel.checkpoint()
        counter = seen + 1

    async def serve() -> None:
        await increment()
        done.set()

    trio.lowlevel.spawn_system_task(serve)
    await increment()
    await done.wait()
    await trio.lowlevel.checkpoint()
    assert counter == 2, "an update is lost"


@pytest.mark.parametrize("options", [{}, {"isolated": False}, {"level": "stock"}])
def test_a_race_with_a_system_task_is_found(options: dict[str, Any]) -> None:
    """A program that loses updates to one would be said to hold in every schedule."""
    found = explore(
        overtaken_by_a_service,
        search="exhaustive",
        stop_on_failure=False,
        minimise=True,
        weakest=False,
        **options,
    )
    kinds = {failure.kind: failure for failure in found.failures}
    failure = kinds["error"]
    assert failure.summary == "AssertionError: an update is lost"
    again = replay(overtaken_by_a_service, failure.token)
    assert again is not None
    assert again.diagram == failure.diagram
    assert "serve" in failure.diagram.splitlines()[0]


def orders(spawn_last: Callable[[trio.Nursery, Callable[[str], Awaitable[None]]], object]) -> Any:
    """Three tasks of two steps each; returns their order."""

    async def program() -> str:
        order: list[str] = []

        async def work(name: str) -> None:
            order.append(name)
            await trio.lowlevel.checkpoint()
            order.append(name)

        may_stay("work")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "a")
            nursery.start_soon(work, "b")
            spawn_last(nursery, work)
            with trio.CancelScope(shield=True):
                while len(order) < 6:
                    await trio.testing.wait_all_tasks_blocked()
        return "".join(order)

    return program


@pytest.mark.parametrize(("level", "schedules"), [("stock", 4), ("batch", 36), ("free", 90)])
def test_it_is_scheduled_like_any_other(level: str, schedules: int) -> None:
    """Its place in trio's batches would be another one than trio's, and ``holds`` too strong."""
    in_a_nursery = explore(
        orders(lambda nursery, work: nursery.start_soon(work, "c")),
        search="exhaustive",
        level=level,
    )
    in_the_system = explore(
        orders(lambda _, work: trio.lowlevel.spawn_system_task(work, "c")),
        search="exhaustive",
        level=level,
    )
    assert set(in_the_system.outcomes) == set(in_a_nursery.outcomes)
    assert in_the_system.schedules == in_a_nursery.schedules == schedules


async def serve_until_the_end(cell: Cell[int], other: Cell[int]) -> None:
    """Work in two tasks, and once more when trio ends the run."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cell.update, lambda value: value + 5)
            await other.set(1)
            await cell.update(lambda value: value * 3)
    finally:
        with trio.CancelScope(shield=True):
            await other.update(lambda value: value + 10)


class Values:
    """Shows what cells hold when the run is over."""

    def __init__(self, *cells: Cell[int]) -> None:
        self.cells = cells

    def __repr__(self) -> str:
        return str([cell.peek() for cell in self.cells])


@pytest.mark.parametrize("cancel", ["never", "each"])
def test_its_end_conflicts_with_what_it_does(cancel: Any) -> None:
    """One of each class of schedules must come to all that a program can come to."""

    async def program() -> Values:
        may_stay("serve_until_the_end")
        cell, other = Cell(1, "cell"), Cell(0, "other")
        trio.lowlevel.spawn_system_task(serve_until_the_end, cell, other)
        await cell.update(lambda value: value + 100)
        return Values(cell, other)

    all_of_them = explore(program, search="exhaustive", cancel=cancel, schedules=50_000)
    reduced = explore(program, search="exhaustive", cancel=cancel, shared="cells")
    assert all_of_them.exhausted
    assert reduced.exhausted
    assert len(all_of_them.outcomes) > 3
    assert set(reduced.outcomes) == set(all_of_them.outcomes)
    assert reduced.schedules < all_of_them.schedules


def test_it_is_cancelled_with_every_other_task() -> None:
    """A service that dies would be tried nowhere."""

    async def program() -> None:
        requests, replies = trio.Event(), trio.Event()

        async def serve() -> None:
            await requests.wait()
            replies.set()

        trio.lowlevel.spawn_system_task(serve)
        requests.set()
        await replies.wait()
        await trio.lowlevel.checkpoint()

    found = explore(program, cancel="each", search="exhaustive", stop_on_failure=False)
    assert "deadlock: main waits for Event.wait" in {each.summary for each in found.failures}


def test_a_service_that_sleeps_is_no_part_of_a_deadlock() -> None:
    """It sleeps as it should; whoever reads its name looks for the bug in it."""

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)

    async def program() -> None:
        may_stay("serve")
        trio.lowlevel.spawn_system_task(serve)
        await trio.Event().wait()

    (failure,) = explore(program).failures
    assert failure.summary == "deadlock: main waits for Event.wait"


def test_one_that_never_rests_does_not_keep_others_from_ending() -> None:
    """The schedule is over, and trio cancels that task only when the main task has ended."""

    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def program() -> None:
        may_stay("spin")
        trio.lowlevel.spawn_system_task(spin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("over")

    found = explore(program, search="exhaustive", schedules=20, max_steps=50, stop_on_failure=False)
    assert {failure.kind for failure in found.failures} <= {"error", "livelock?"}


@pytest.mark.parametrize("isolated", [True, False])
def test_what_it_raises_is_a_failure(isolated: bool) -> None:
    """Trio ends the run with it, and so would the exploration: without a schedule to repeat."""
    done = True

    async def serve() -> None:
        if not done:
            raise ValueError("too early")

    async def program() -> None:
        nonlocal done
        done = False
        trio.lowlevel.spawn_system_task(serve)
        await trio.lowlevel.checkpoint()
        done = True
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    found = explore(program, search="exhaustive", stop_on_failure=False, isolated=isolated)
    kinds = {failure.kind: failure for failure in found.failures}
    failure = kinds["error"]
    assert failure.summary == "ValueError: too early"
    assert failure.count < found.schedules
    again = replay(program, failure.token)
    assert again is not None
    assert again.diagram == failure.diagram


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_it_raises_at_its_end_is_a_failure(is_alone: bool) -> None:
    """It comes after the main task has ended; the program would pass."""

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the end")

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            if not is_alone:
                nursery.start_soon(trio.sleep_forever)

    async def program() -> None:
        may_stay("serve")
        trio.lowlevel.spawn_system_task(serve)
        await trio.testing.wait_all_tasks_blocked()

    (failure,) = explore(program).failures
    assert failure.summary == "ValueError: in the end"


def test_a_call_of_run_sync_soon_that_fails() -> None:
    """Trio makes a system task of it; the exploration would end with it."""

    async def program() -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(int, "x")
        await trio.sleep(1)

    (failure,) = explore(program).failures
    assert failure.summary.startswith("ValueError: invalid literal")


def test_it_uses_no_threads() -> None:
    """They would be refused in every task but in this one."""

    async def serve() -> None:
        await trio.to_thread.run_sync(int)

    async def program() -> None:
        trio.lowlevel.spawn_system_task(serve)
        await trio.sleep(1)

    with pytest.raises(NotDeterministic, match=r"task 'serve' called trio\.to_thread"):
        explore(program)
