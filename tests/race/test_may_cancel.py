"""Scopes that a program marks, of which one is cancelled in a run, at any checkpoint inside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from _golden import check_golden
from race._condition import two_wait

from aspf.race import (
    Exploration,
    ReplayDiverged,
    _engine as engine,
    explore,
    may_cancel,
    record,
    replay,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Program = Callable[[], Awaitable[object]]

GOLDEN = Path(__file__).parent / "golden"


def explored(program: Program, **options: Any) -> Exploration:
    options = {"search": "exhaustive", "stop_on_failure": False, "schedules": 50_000} | options
    found = explore(program, **options)
    assert found.exhausted
    return found


def outcomes(program: Program, **options: Any) -> set[str]:
    found = explored(program, **options)
    return set(found.outcomes) | {failure.summary for failure in found.failures}


async def three_sleeps() -> list[str]:
    """Sleep within a mark in the main task."""
    log = []
    with may_cancel() as scope:
        for name in "abc":
            await trio.sleep(1)
            log.append(name)
    log.append("caught" if scope.cancelled_caught else "whole")
    return log


def test_outside_an_exploration_it_does_nothing() -> None:
    """A program must run as it is, under trio alone."""
    assert trio.run(three_sleeps) == ["a", "b", "c", "whole"]


def test_each_checkpoint_of_the_main_task() -> None:
    """A checkpoint that is left out is a bug that is left in."""
    whole = ["a", "b", "c"]
    assert outcomes(three_sleeps) == {
        repr([*whole, "whole"]),
        *(repr([*whole[:n], "caught"]) for n in range(3)),
    }
    assert outcomes(three_sleeps, cancel="each") == outcomes(three_sleeps) | {"None"}
    assert outcomes(three_sleeps, cancel="never") == {repr([*whole, "whole"])}


def test_at_most_one_in_a_run() -> None:
    """Two would make every waiter die that a repair relies on."""

    async def program() -> list[bool]:
        scopes = []
        for _ in range(3):
            with may_cancel() as scope:
                await trio.lowlevel.checkpoint()
            scopes.append(scope.cancelled_caught)
        return scopes

    found = explored(program)
    assert set(found.outcomes) == {
        "[False, False, False]",
        "[True, False, False]",
        "[False, True, False]",
        "[False, False, True]",
    }
    assert (found.schedules, found.cancellations) == (4, 3)


def test_a_scope_that_is_never_entered() -> None:
    """It has no checkpoint."""

    async def program() -> bool:
        scope = may_cancel()
        await trio.lowlevel.checkpoint()
        return scope.cancel_called

    assert explored(program).schedules == 1


def test_nested_scopes() -> None:
    """Each is left in a place of its own."""

    async def program() -> str:
        with may_cancel() as outer:
            with may_cancel() as inner:
                await trio.lowlevel.checkpoint()
            if inner.cancelled_caught:
                return "inner"
            await trio.lowlevel.checkpoint()
            return "neither"
        return f"outer {outer.cancelled_caught}"

    assert outcomes(program) == {"'inner'", "'outer True'", "'neither'"}


def test_a_scope_in_a_scope_that_is_cancelled() -> None:
    """Whoever leaves it leaves the outer one as well: no case of its own."""

    async def program() -> str:
        with trio.CancelScope() as outer:
            outer.cancel()
            with may_cancel():
                await trio.lowlevel.checkpoint()
        return "left"

    assert explored(program).schedules == 1


def test_what_the_program_asks_of_its_scope() -> None:
    """A cancellation that came too late to be delivered is still to be seen in the scope."""

    async def program() -> tuple[bool, bool]:
        with may_cancel() as scope:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return scope.cancel_called, scope.cancelled_caught

    assert outcomes(program) == {"(False, False)", "(True, False)"}


def test_a_task_that_has_not_started() -> None:
    """Nobody marks it by accident: what it lets in, its own scope catches."""

    async def program() -> object:
        async def service(task_status: trio.TaskStatus[str]) -> None:
            with may_cancel() as scope:
                await trio.lowlevel.checkpoint()
            task_status.started("cut short" if scope.cancelled_caught else "whole")

        async with trio.open_nursery() as nursery:
            return await nursery.start(service)

    assert outcomes(program) == {"'cut short'", "'whole'"}


# -- what is offered is enough ---------------------------------------------------------------------


async def woken_or_not(log: list[str]) -> None:
    """A waiter whose cancellation and whose wake-up meet."""
    event = trio.Event()

    async def wait() -> None:
        with may_cancel():
            try:
                await event.wait()
                log.append("woken")
            finally:
                log.append("left")
        log.append("on")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.lowlevel.checkpoint()
        event.set()


async def children(log: list[str]) -> None:
    """A nursery inside; one child asleep, one behind a shield, one that has yet to be started."""
    event = trio.Event()

    async def asleep() -> None:
        try:
            await event.wait()
        finally:
            log.append("asleep")

    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            await event.wait()
        log.append("shielded")
        await trio.lowlevel.checkpoint_if_cancelled()
        log.append("out")

    with may_cancel():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asleep)
            nursery.start_soon(shielded)
            await trio.lowlevel.checkpoint()
            event.set()
    log.append("end")


async def started_from_outside(log: list[str]) -> None:
    """Somebody else starts a task inside the scope, at the moment at which it is cancelled."""

    async def child() -> None:
        log.append("born")
        await trio.lowlevel.checkpoint_if_cancelled()
        log.append("lives")

    async def other(inner: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()
        if not inner.cancel_scope.cancel_called:
            try:
                inner.start_soon(child)
            except RuntimeError:
                log.append("closed")

    async with trio.open_nursery() as nursery:
        with may_cancel():
            async with trio.open_nursery() as inner:
                nursery.start_soon(other, inner)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
        log.append("left")


async def shields(log: list[str]) -> None:
    """Shields inside a scope, with a checkpoint that only notices, and a nested scope in them."""

    async def work() -> None:
        with may_cancel():
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                with may_cancel() as inner:
                    await trio.lowlevel.checkpoint()
                log.append(f"inner {inner.cancelled_caught}")
            await trio.lowlevel.checkpoint_if_cancelled()
            log.append("not cancelled")
            await trio.lowlevel.checkpoint()
        log.append("end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        nursery.start_soon(trio.sleep, 1)


@pytest.mark.parametrize("make", [woken_or_not, children, started_from_outside, shields])
def test_nothing_is_lost_by_what_is_not_offered(
    make: Callable[[list[str]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling every scope that was entered at every node, alone, leads to the same outcomes."""

    async def program() -> list[str]:
        log: list[str] = []
        await make(log)
        return log

    found = explored(program)
    monkeypatch.setattr(
        engine, "_is_cancellable", lambda mark: mark.scope._cancel_status is not None
    )
    monkeypatch.setattr(engine, "_runs_on", lambda _: False)
    everything = explored(program)
    assert found.schedules <= everything.schedules
    assert set(found.outcomes) == set(everything.outcomes)
    assert {f.summary for f in found.failures} == {f.summary for f in everything.failures}


# -- reports ---------------------------------------------------------------------------------------


def test_a_cancelled_waiter_takes_the_wake_up_along() -> None:
    """The report: the line of the mark, a token that repeats it, switches that are necessary."""
    program = two_wait(hands_on=False)
    found = explore(program, search="exhaustive", minimise=True)
    (failure,) = found.failures
    assert failure.kind == "deadlock"
    check_golden(GOLDEN / "may_cancel.txt", str(found))
    again = replay(program, failure.token)
    assert again is not None
    assert again.diagram == failure.diagram
    assert record(program, failure.token).summary == failure.summary
    repaired = explore(two_wait(hands_on=True), search="exhaustive", schedules=50_000)
    assert (repaired.exhausted, repaired.failures) == (True, ())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("c0.1", r"step 1 of the token is cancel marked scope 1 of task 0 \(main\), which"),
        ("0,c0.1", r"token ends after 2 steps and the program goes on"),
        ("0,c0.2", r"step 2 of the token is cancel marked scope 2 of task 0 \(main\), which"),
        ("0,c7.1", r"step 2 of the token is cancel marked scope 1 of task 7, which"),
        ("0,c0.1x2", r"is no step; expected"),
        ("c0", r"step 1 of the token is cancel task 0 \(main\), which"),
        ("0,c0.0", r"is no step; expected"),
    ],
)
def test_a_token_that_does_not_fit(steps: str, message: str) -> None:
    """Replaying something else silently would have a person debug the wrong run."""
    with pytest.raises((ReplayDiverged, ValueError), match=message):
        replay(three_sleeps, f"aspf1:three_sleeps:{steps}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "cancel=True: expected 'marked', 'each' or 'never'; 'each' cancels every task"),
        (False, "cancel=False: expected .*; 'marked' cancels nothing but what the program marks"),
        ("all", "cancel='all': expected 'marked', 'each' or 'never'$"),
    ],
)
def test_wrong_values(value: Any, message: str) -> None:
    """Who asks for cancellations and gets none believes in a proof that there isn't."""
    with pytest.raises(ValueError, match=message):
        explore(three_sleeps, cancel=value, search="exhaustive")


@pytest.mark.parametrize("search", ["random", "pct", "urw", "swarm", "delay"])
def test_each_strategy_cancels_what_is_marked(search: str) -> None:
    """And leaves some schedules without a cancellation."""
    found = explore(two_wait(hands_on=True), search=search, schedules=60)
    assert 0 < found.cancellations < found.schedules
