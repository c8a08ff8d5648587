"""Time as a choice: deadlines that pass early, late, and at the same moment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from _golden import check_golden
from hypothesis import given, settings
from race._expiry import cache_with_a_time_to_live, impatient_client
from race.test_search import compare, plans

from aspf.race import (
    Cell,
    Exploration,
    ReplayDiverged,
    _engine as engine,
    explore,
    parse_token,
    record,
    replay,
)
from aspf.race._actions import timer
from aspf.race._token import format_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from race.test_search import Op

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


async def slow_answer() -> tuple[str, float]:
    """A client that waits for a second; the server has nothing to wait for."""
    answer = trio.Event()

    async def server() -> None:
        await trio.lowlevel.checkpoint()
        answer.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        with trio.move_on_after(1):
            await answer.wait()
            return "answered", trio.current_time()
        return "gave up", trio.current_time()
    raise AssertionError


def test_a_time_out_races_with_the_answer() -> None:
    """Under an idle clock a server without a sleep in it can never be late."""
    assert outcomes(slow_answer) == {"('answered', 0.0)"}
    assert outcomes(slow_answer, timers="any") == {
        "('answered', 0.0)",
        "('answered', 1.0)",  # the time was over when the answer was there, and not yet noticed
        "('gave up', 1.0)",
    }


def test_the_clock_never_goes_back() -> None:
    """Whatever passes early, passes in order, and every reading is at least the one before."""

    async def program() -> bool:
        readings: list[float] = []

        async def sleep(seconds: int) -> None:
            with trio.move_on_after(2):
                await trio.sleep(seconds)
            readings.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, 1)
            nursery.start_soon(sleep, 3)
            readings.append(trio.current_time())
        return readings == sorted(readings)

    assert outcomes(program, timers="any") == {"True"}


def test_a_task_that_can_run_is_not_overtaken_for_ever() -> None:
    """A heart that beats every second would make infinitely many schedules."""

    async def program() -> int:
        beats = 0

        async def heart() -> None:
            nonlocal beats
            while True:
                await trio.sleep(1)
                beats += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heart)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return beats

    assert outcomes(program) == {"0"}
    assert outcomes(program, timers="any") == {str(n) for n in range(engine.OVERTAKINGS + 1)}


def test_a_deadline_that_nobody_notices_is_no_choice() -> None:
    """Behind a shield, or when all is done: it must not multiply the schedules."""

    async def program(patience: float) -> None:
        event = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, event)
            with trio.move_on_after(patience), trio.CancelScope(shield=True):
                await event.wait()

    async def work(event: trio.Event) -> None:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        event.set()

    assert explored(lambda: program(math.inf), timers="any").schedules == 1
    # It may pass when its task has been woken, or not at all.
    assert explored(lambda: program(5), timers="any").schedules == 2


def test_a_deadline_is_noticed_behind_one_that_is_not() -> None:
    """The earliest deadline is behind a shield; the next one races all the same."""

    async def program() -> bool:
        event, woken = trio.Event(), False

        async def sleep() -> None:
            nonlocal woken
            await trio.sleep(2)
            woken = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            nursery.start_soon(work, event)
            with trio.move_on_after(1), trio.CancelScope(shield=True):
                await event.wait()
            return woken

    async def work(event: trio.Event) -> None:
        await trio.lowlevel.checkpoint()
        event.set()

    assert outcomes(program) == {"False"}
    assert outcomes(program, timers="any") == {"False", "True"}


@pytest.mark.parametrize("search", ["preemption", "delay"])
def test_time_is_chosen_among_others(search: str) -> None:
    """A time-out that comes early is a deviation like any other."""
    found = explored(slow_answer, search=search, timers="any")
    assert {outcome.partition(",")[0] for outcome in found.outcomes} == {
        "('answered'",
        "('gave up'",
    }


@pytest.mark.parametrize("search", ["preemption", "delay"])
def test_time_is_no_deviation_where_nothing_else_is_possible(search: str) -> None:
    """Who counts switches must not count that a sleep ends."""

    async def program() -> float:
        for _ in range(3):
            await trio.sleep(1)
        return trio.current_time()

    found = explore(program, search=search, timers="any")
    assert (found.schedules, found.exhausted) == (1, True)


def test_who_waits_for_idleness() -> None:
    """Idle is when nobody can run, and nothing that is due has yet to pass."""

    async def program() -> list[str]:
        log: list[str] = []

        async def work() -> None:
            await trio.lowlevel.checkpoint()
            log.append("work")
            with trio.move_on_after(1):
                await trio.Event().wait()
            log.append("late")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            log.append("idle")
            await trio.testing.wait_all_tasks_blocked()
            log.append("idle")
        return log

    assert outcomes(program) == {"['work', 'idle', 'idle', 'late']"}
    # Idleness comes first where nobody can run; who it wakes may be slow.
    assert outcomes(program, timers="any") == {
        "['work', 'idle', 'idle', 'late']",
        "['work', 'idle', 'late', 'idle']",
        "['work', 'late', 'idle', 'idle']",  # idleness was noticed, and the main task was slow
    }


# -- equal deadlines -------------------------------------------------------------------------------


async def tie() -> tuple[bool, bool]:
    """The first to give up sets what the second one waits for, at the same moment."""
    events = trio.Event(), trio.Event()
    late = [True, True]

    async def wait(me: int) -> None:
        with trio.move_on_after(5):
            await events[me].wait()
            late[me] = False
        events[1 - me].set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 0)
        nursery.start_soon(wait, 1)
    return late[0], late[1]


def test_equal_deadlines_are_a_choice() -> None:
    """It does make a difference: with both at once, nobody would be woken in time."""
    assert outcomes(tie) == {"(True, True)", "(True, False)", "(False, True)"}


def test_sleeps_that_end_together_are_none() -> None:
    """As many schedules as without any order among the deadlines; else sleeping is expensive."""

    async def program() -> str:
        order = []

        async def sleep(name: str) -> None:
            await trio.sleep(1)
            order.append(name)

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(sleep, name)
        return "".join(order)

    assert explored(program).schedules == 36  # 3! starts times 3! wake-ups
    assert len(explored(program).outcomes) == 6


def test_a_limit_passes_before_the_sleep_in_it() -> None:
    """It was set first. A sleep that gets through a limit of its own length is a false alarm."""

    async def program(timers: str) -> bool:
        with trio.move_on_after(5) as scope:
            if timers == "alone":
                await trio.sleep(5)
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 5)
                    nursery.start_soon(trio.sleep, 5)
        return scope.cancelled_caught

    for way in ("alone", "children"):
        for timers in ("idle", "any"):
            assert outcomes(lambda way=way: program(way), timers=timers) == {"True"}


def test_quiet_deadlines_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking every deadline that has come for a choice of its own leads to the same outcomes."""

    async def program() -> list[str]:
        log: list[str] = []
        event = trio.Event()

        async def sleep() -> None:
            await trio.sleep(5)
            log.append("slept")
            event.set()

        async def wait() -> None:
            with trio.move_on_after(5):
                await event.wait()
                log.append("set")
            log.append("on")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            nursery.start_soon(wait)
            nursery.start_soon(trio.sleep, 5)
        return log

    found = explored(program)
    monkeypatch.setattr(engine, "is_quiet", lambda entry: entry.scope._cancel_status is None)
    everything = explored(program)
    assert found.schedules < everything.schedules
    assert set(found.outcomes) == set(everything.outcomes)
    assert len(found.outcomes) > 2


def test_a_deadline_that_is_moved() -> None:
    """To now, to the past, to later: it passes when it says."""

    async def program() -> list[float]:
        log = []
        for deadline in (0.0, -math.inf, -3.0, 7.0):
            with trio.CancelScope(deadline=trio.current_time() + 100) as scope:
                scope.deadline = deadline if deadline <= 0 else trio.current_time() + deadline
                await trio.sleep(50)
            log.append(trio.current_time())
        return log

    assert outcomes(program) == {"[0.0, 0.0, 0.0, 7.0]"}


# -- reduction, strategies, tokens -----------------------------------------------------------------


@settings(max_examples=40)
@given(plans(tasks=2, ops=2, of=("sleep", "limit", "limit", "clock", "yield", "shield")))
def test_reduction_loses_nothing(drawn: list[list[Op]]) -> None:
    """An outcome that only the plain enumeration finds is a bug that a user is told isn't there."""
    compare(drawn, cancel="never", timers="any")


@settings(max_examples=40)
@given(plans(tasks=3, ops=2, of=("sleep", "limit", "limit", "shield", "mark")))
def test_reduction_loses_nothing_with_an_idle_clock(drawn: list[list[Op]]) -> None:
    """The same where deadlines pass only when nobody can run, with a scope cancelled as well."""
    compare(drawn, cancel="marked", timers="idle")


@pytest.mark.parametrize(
    "search", ["random", "pct", "pos", "urw", "swarm", "starve", "preemption", "delay", "portfolio"]
)
@pytest.mark.parametrize("shared", ["anything", "cells"])
def test_each_strategy_lets_time_pass(search: str, shared: Any) -> None:
    """One that never does, or does nothing else, can't find a race with a time-out."""
    found = explore(slow_answer, search=search, shared=shared, timers="any", schedules=200)
    assert len(found.outcomes) >= 2
    assert found.coverage is None or found.coverage.pct_runs == {}


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (impatient_client, {"timers": "any"}),
        (cache_with_a_time_to_live, {"timers": "any"}),
    ],
)
def test_report(program: Program, options: dict[str, Any]) -> None:
    """Byte for byte what was approved; minimised, and its tokens replay."""
    assert not explored(program).failures
    found = explore(program, search="exhaustive", minimise=True, **options)
    check_golden(GOLDEN / f"{program.__name__}.txt", str(found))
    (failure,) = found.failures
    again = replay(program, failure.token, minimise=True)
    assert again is not None
    assert again.diagram == failure.diagram
    assert record(program, failure.token).summary == failure.summary


def test_a_tie_in_a_token() -> None:
    """Which of the two passed first is written down, read, and said in words."""
    found = explored(tie)
    token = found.outcomes["(False, True)"].token
    assert record(tie, token).summary == "(False, True)"
    assert "t2.1" in token.split(",")
    actions = [0, timer(2, 1), ~0, timer(0, 12), ~3]
    text = format_token("tie", actions)
    assert text == "aspf1:tie:0,t2.1,t,t0.12,c3"
    assert list(parse_token(text).actions) == actions
    with pytest.raises(ReplayDiverged, match=r"step 2 .* is deadline 7 of task 0 \(main\) passes"):
        replay(tie, "aspf1:tie:0,t0.7")


def test_cells_and_time() -> None:
    """A wait for a cell's value that is cut short, at the moment of the write."""

    async def program() -> tuple[int, float]:
        cell = Cell(0, "cell")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cell.set, 1)
            with trio.move_on_after(1):
                return await cell.wait_until(bool), trio.current_time()
        return 0, trio.current_time()

    assert outcomes(program, timers="any", shared="cells") == {
        "(1, 0.0)",
        "(1, 1.0)",
        "(0, 1.0)",
    } & outcomes(program, timers="any")


def test_wrong_values() -> None:
    """A misspelt option would explore something else than was asked for."""
    with pytest.raises(ValueError, match="timers='all': expected 'idle' or 'any'"):
        explore(tie, timers="all", search="exhaustive")  # type: ignore[arg-type]
