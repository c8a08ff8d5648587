"""One cancellation in a run, at each checkpoint in turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from _golden import check_golden
from race._programs import baton_lock, leaks

from aspf.race import Cell, _engine as engine, check, explore, replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GOLDEN = Path(__file__).parent / "golden"
# A main task that was cancelled returns nothing.
MAIN_CANCELLED = "None"


def test_a_dropped_baton() -> None:
    """The classic: who was handed the lock was cancelled; without a cancellation all is well."""
    broken = baton_lock(forgets_the_dead=False)
    assert not explore(broken, schedules=1500, search="exhaustive").failures
    (failure,) = explore(broken, cancel="each", search="exhaustive").failures
    assert failure.kind == "deadlock"
    again = replay(broken, failure.token)
    assert again is not None
    assert again.diagram == failure.diagram
    assert "*** cancelled" in failure.diagram


def two_tasks() -> Awaitable[object]:
    """Run the repaired lock with two tasks, which can be exhausted."""
    return baton_lock(forgets_the_dead=True)()


def test_a_repaired_baton() -> None:
    """A false alarm here would make the option useless."""
    found = check(two_tasks, cancel="each", schedules=1500, search="random")
    assert found.cancellations > 100
    assert set(found.outcomes) == {"False", MAIN_CANCELLED}


def test_woken_then_cancelled() -> None:
    """A task that was woken, and is cancelled before it runs: the wake-up is lost with it."""

    async def program() -> None:
        lot = trio.lowlevel.ParkingLot()
        tickets = 0

        async def take() -> None:
            nonlocal tickets
            while not tickets:
                await lot.park()
                await trio.lowlevel.checkpoint_if_cancelled()
            tickets -= 1

        async def give() -> None:
            nonlocal tickets
            await trio.lowlevel.checkpoint()
            tickets += 1
            lot.unpark()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, name="first")
            nursery.start_soon(take, name="second")
            nursery.start_soon(give)
            await trio.lowlevel.checkpoint()
            # The second task's ticket never comes; so that one deadlock is left, it is given up.
            with trio.move_on_after(1):
                await trio.sleep_forever()
            if tickets and lot:
                raise AssertionError("a ticket and a sleeper")
            nursery.cancel_scope.cancel()

    failures = explore(program, cancel="each", search="exhaustive").failures
    assert [failure.summary for failure in failures] == ["AssertionError: a ticket and a sleeper"]
    assert not explore(program, search="exhaustive").failures


def outcomes(program: Callable[[], Awaitable[object]]) -> set[str]:
    found = explore(program, cancel="each", stop_on_failure=False, search="exhaustive")
    assert found.exhausted
    return set(found.outcomes) | {failure.summary for failure in found.failures}


def test_each_checkpoint_in_turn() -> None:
    """A checkpoint that is left out is a bug that is left in."""

    async def program() -> list[int]:
        done: list[int] = []

        async def work() -> None:
            for i in range(4):
                await trio.lowlevel.checkpoint()
                done.append(i)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
        return done

    assert outcomes(program) == {repr(list(range(n))) for n in range(5)} | {MAIN_CANCELLED}


def test_a_cancelled_access_is_not_done() -> None:
    """Cancelled at a cell, the task ends before the access: never between access and return."""

    async def program() -> tuple[int, list[int]]:
        cell = Cell(0, "cell")
        seen: list[int] = []

        async def work() -> None:
            seen.append(await cell.update(lambda value: value + 1))
            seen.append(await cell.update(lambda value: value + 1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
        return cell.peek(), seen

    assert outcomes(program) == {"(0, [])", "(1, [1])", "(2, [1, 2])", MAIN_CANCELLED}


@pytest.mark.parametrize("isolated", [True, False])
def test_each_checkpoint_of_the_main_task(isolated: bool) -> None:
    """In a test the main task is the test itself: what it does not clean up would go unnoticed."""
    seen = set()

    async def program() -> list[int]:
        done: list[int] = []
        try:
            for i in range(3):
                await trio.lowlevel.checkpoint()
                done.append(i)
        finally:
            seen.add((*done,))
        return done

    found = check(program, cancel="each", search="exhaustive", isolated=isolated)
    assert seen == {(), (0,), (0, 1), (0, 1, 2)}
    assert set(found.outcomes) == {"[0, 1, 2]", MAIN_CANCELLED}
    assert (found.schedules, found.cancellations) == (4, 3)
    assert found.outcomes[MAIN_CANCELLED].shortest == "aspf1:program:0,c0,0"


def test_all_go_with_the_main_task() -> None:
    """What ends when everything is cancelled at once is another case than one task's end."""
    seen = set()

    async def program() -> None:
        log: list[str] = []

        async def sleep(name: str) -> None:
            try:
                await trio.sleep(1)
            except trio.Cancelled:
                log.append(name)
                raise

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sleep, "a")
                nursery.start_soon(sleep, "b")
        finally:
            seen.add(frozenset(log))

    check(program, cancel="each", search="exhaustive")
    assert seen == {frozenset(each) for each in ("", "a", "b", "ab")}


def test_a_main_task_behind_a_shield() -> None:
    """Whose main task must go on has a way to say so; else it gets alarms that mean nothing."""

    async def program() -> list[str]:
        log: list[str] = []

        async def sleep() -> None:
            await trio.sleep(1)
            log.append("slept")

        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sleep)
            await trio.lowlevel.checkpoint()
        return log

    assert outcomes(program) == {"['slept']", "[]"}


@pytest.mark.parametrize("isolated", [True, False])
def test_a_failure_of_a_cancelled_main_task(isolated: bool) -> None:
    """The report must say that it was the main task, and its token must repeat that."""
    found = explore(leaks, cancel="each", minimise=True, isolated=isolated)
    check_golden(GOLDEN / "cancelled-main.txt", str(found).replace("; many schedules a run", ""))
    (failure,) = found.failures
    again = replay(leaks, failure.token)
    assert again is not None
    assert again.diagram == failure.diagram
    assert again.token == failure.token


def test_shields() -> None:
    """Nothing comes through a shield; what is pending comes at the first checkpoint after it."""

    async def program() -> list[str]:
        log: list[str] = []

        async def work() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                await trio.lowlevel.checkpoint()
            log.append("out")
            await trio.lowlevel.checkpoint_if_cancelled()
            log.append("not cancelled")
            await trio.sleep(1)
            log.append("end")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
        return log

    whole = ["out", "not cancelled", "end"]
    assert outcomes(program) == {repr(whole[:n]) for n in (1, 2, 3)} | {MAIN_CANCELLED}


def test_children_go_with_their_parent() -> None:
    """A cancelled task takes its nursery along, asleep or not; its siblings stay."""

    async def program() -> list[str]:
        log: list[str] = []

        async def child() -> None:
            try:
                await trio.sleep(1)
                log.append("child")
            except trio.Cancelled:
                log.append("child cancelled")
                raise

        async def parent() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
            log.append("parent")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(parent)
        return log

    assert outcomes(program) == {
        "['child', 'parent']",
        "['child cancelled', 'parent']",
        "['child cancelled']",
        MAIN_CANCELLED,
    }


def test_starting_tasks_are_left_alone() -> None:
    """The death of a task before `started` is its starter's error, and would be a false alarm."""

    async def program() -> object:
        async def service(task_status: trio.TaskStatus[int]) -> None:
            await trio.lowlevel.checkpoint()
            task_status.started(3)
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            return await nursery.start(service)

    found = check(program, cancel="each", search="exhaustive")
    assert set(found.outcomes) == {"3", MAIN_CANCELLED}
    assert found.cancellations


def test_idle_and_deadlocked_nodes_offer_cancellations() -> None:
    """Before who waits for idleness wakes, before time passes, and where only it could help."""

    async def program() -> list[str]:
        log: list[str] = []

        async def idle() -> None:
            await trio.testing.wait_all_tasks_blocked()
            log.append("idle")

        async def sleep() -> None:
            await trio.sleep(1)
            log.append("slept")

        async def stuck() -> None:
            with trio.move_on_after(2):
                await trio.sleep_forever()
            log.append("late")
            await trio.Event().wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle)
            nursery.start_soon(sleep)
            nursery.start_soon(stuck)
        return log

    assert outcomes(program) == {
        "deadlock: stuck waits for Event.wait",
        "['idle', 'slept', 'late']",
        "['idle', 'slept']",
        MAIN_CANCELLED,
    }


# -- what is offered is enough -----------------------------------------------------------------


def locked(log: list[str]) -> list[Callable[[], Awaitable[None]]]:
    lock = trio.Lock()

    async def work() -> None:
        async with lock:
            await trio.lowlevel.checkpoint()
        log.append("x")

    return [work, work]


def signalled(log: list[str]) -> list[Callable[[], Awaitable[None]]]:
    event, done = trio.Event(), trio.Event()

    async def wait() -> None:
        try:
            await event.wait()
            log.append("woken")
        finally:
            done.set()
            log.append("left")

    async def give() -> None:
        event.set()
        with trio.CancelScope(shield=True):
            await done.wait()
        log.append("given")

    return [wait, give]


def nested(log: list[str]) -> list[Callable[[], Awaitable[None]]]:
    async def child() -> None:
        try:
            await trio.lowlevel.checkpoint()
        finally:
            log.append("child")

    async def parent() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.lowlevel.checkpoint()
            log.append("body")

    return [parent]


def timed(log: list[str]) -> list[Callable[[], Awaitable[None]]]:
    async def patient() -> None:
        with trio.move_on_after(1):
            await trio.sleep_forever()
        log.append("gave up")
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        log.append("shielded")
        await trio.lowlevel.checkpoint_if_cancelled()
        log.append("end")

    async def sleeper() -> None:
        await trio.sleep(1)
        log.append("slept")

    return [patient, sleeper]


@pytest.mark.parametrize("make", [locked, signalled, nested, timed])
def test_nothing_is_lost_by_what_is_not_offered(
    make: Callable[[list[str]], list[Callable[[], Awaitable[None]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cancelling every living task at every node, alone, leads to the same outcomes."""

    async def program() -> list[str]:
        log: list[str] = []
        async with trio.open_nursery() as nursery:
            for task in make(log):
                nursery.start_soon(task)
        return log

    with_the_reduction = explore(
        program, cancel="each", stop_on_failure=False, schedules=20_000, search="exhaustive"
    )

    def entered(mark: engine.Mark) -> bool:
        return mark.scope._cancel_status is not None

    monkeypatch.setattr(engine, "_is_cancellable", entered)
    monkeypatch.setattr(engine, "_runs_on", lambda _: False)
    everything = explore(
        program, cancel="each", stop_on_failure=False, schedules=20_000, search="exhaustive"
    )
    assert with_the_reduction.exhausted
    assert everything.exhausted
    assert with_the_reduction.schedules < everything.schedules
    assert set(with_the_reduction.outcomes) == set(everything.outcomes)
    assert {f.summary for f in with_the_reduction.failures} == {
        f.summary for f in everything.failures
    }
