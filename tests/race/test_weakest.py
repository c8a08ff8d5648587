"""At which level a failure is possible at all: searched again downward, in few schedules."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from race._programs import misses_a_change, twostage_on_trio

from aspf.race import (
    ExplorationInterrupted,
    Failure,
    RaceFound,
    _weakest as weakest,
    check,
    explore,
    replay,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path


def orders(*bad: str, steps: int = 2, says: str = "") -> Callable[[], Awaitable[object]]:
    """Three tasks of some steps each; some orders of them fail."""

    async def program() -> None:
        order: list[str] = []

        async def work(name: str) -> None:
            for step in range(steps):
                if step:
                    await trio.lowlevel.checkpoint()
                order.append(name)

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(work, name)
        if "".join(order) in bad:
            raise AssertionError(says or "".join(order))

    return program


def only(failures: Iterable[Failure]) -> Failure:
    """There is one failure."""
    (failure,) = failures
    return failure


def line_of(failure: Failure) -> str:
    """The line of the report that names the level."""
    (line,) = [line for line in str(failure).splitlines() if line.startswith("level: ")]
    return line


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ("abcabc", "level: stock, as today's trio runs it"),
        ("abcbac", "level: batch; impossible at stock (all 4 schedules tried)"),
        ("aabbcc", "level: free; impossible at batch (all 36 schedules tried)"),
    ],
)
def test_the_weakest_level_is_named(bad: str, line: str) -> None:
    """Whoever reads of a failure must know whether today's trio can show it."""
    failure = only(explore(orders(bad), search="exhaustive").failures)
    assert line_of(failure) == line
    assert failure.level == line.split()[1].strip(",;")
    # What repeats it is of the level at which it was found.
    again = replay(orders(bad), failure.token)
    assert again is not None
    assert again.level == "free"
    assert again.below is None


def test_impossible_is_said_of_an_exhausted_search_only() -> None:
    """Two hundred schedules of 13,824 prove nothing."""
    failure = only(explore(orders("aaaabbbbcccc", steps=4), search="exhaustive").failures)
    assert line_of(failure) == "level: free; not found at batch in 200 schedules"
    assert failure.below is not None
    assert not failure.below.exhausted


def test_what_is_not_found_at_a_level_may_be_at_the_one_below() -> None:
    """Two hundred of 7,776 schedules show little, those of stock are 32: the label would be wrong."""
    bad = orders("aaaaabbbbbccccc", "abccbacbaabccba", steps=5, says="bad")
    assert not explore(bad, level="batch", schedules=200).failures
    failure = only(explore(bad, search="exhaustive").failures)
    assert line_of(failure) == "level: stock, as today's trio runs it"


def test_all_the_way_down_from_contract() -> None:
    """At each level it may be another schedule that fails so."""
    failure = only(explore(orders("abcabc"), level="contract").failures)
    assert failure.level == "stock"
    failure = only(explore(twostage_on_trio, level="contract").failures)
    count = explore(twostage_on_trio, search="exhaustive").schedules
    assert line_of(failure) == f"level: contract; impossible at free (all {count} schedules tried)"
    assert ":level=contract:" in failure.token


def test_a_missed_change_needs_no_other_scheduler() -> None:
    """It fails on stock trio, without any cancellation."""
    failure = only(explore(misses_a_change).failures)
    assert failure.kind == "deadlock"
    assert failure.level == "stock"
    # At that level there is nothing below.
    failure = only(explore(misses_a_change, level="stock").failures)
    assert line_of(failure) == "level: stock, as today's trio runs it"


def test_each_failure_has_its_own_level() -> None:
    """They are looked for in the same schedules, but found apart."""
    program = orders("abcabc", "abcbac", "aabbcc")
    found = explore(program, search="exhaustive", stop_on_failure=False, minimise=True)
    levels = {failure.summary.rpartition(" ")[2]: failure.level for failure in found.failures}
    assert levels == {"abcabc": "stock", "abcbac": "batch", "aabbcc": "free"}
    assert all(failure.minimal is not None for failure in found.failures)
    written = json.loads(found.as_json())["failures"]
    assert {each["level"] for each in written} == set(levels.values())
    assert [each["below"] for each in written if each["level"] == "batch"] == [
        {"level": "stock", "schedules": 4, "exhausted": True, "reduced": False, "refused": ""}
    ]


def test_where_only_one_of_each_trace_is_run() -> None:
    """Then that is what has been tried."""

    async def program() -> None:
        lock = trio.Lock()
        order: list[str] = []

        async def work(name: str, steps: int) -> None:
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            async with lock:
                order.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "a", 0)
            nursery.start_soon(work, "b", 2)
            nursery.start_soon(work, "c", 0)
        assert order[0] != "b"

    failure = only(explore(program, shared="cells").failures)
    assert (
        line_of(failure)
        == "level: free; impossible at batch (a schedule of each of its 4 traces tried)"
    )


def test_many_schedules_a_run_are_none_of_trios() -> None:
    """The weaker levels can only be searched one run at a time."""
    failure = only(explore(orders("abcabc"), search="exhaustive", isolated=False).failures)
    assert failure.level == "stock"


def test_it_can_be_switched_off() -> None:
    """A program whose runs are slow is run no more often than it was asked for."""
    runs = 0

    async def program() -> None:
        nonlocal runs
        runs += 1
        await orders("aabbcc")()

    with pytest.raises(RaceFound, match="\nlevel: free\nreplay: "):
        check(program, search="exhaustive", weakest=False)
    without, runs = runs, 0
    with pytest.raises(RaceFound, match="\nlevel: free; impossible at batch"):
        check(program, search="exhaustive")
    assert without < runs <= without + weakest.MOST


def test_a_program_that_cannot_be_searched_there_still_fails() -> None:
    """A failure is never lost to an error of what comes after it."""

    async def program() -> None:
        order: list[str] = []

        async def work(name: str) -> None:
            order.append(name)
            await trio.lowlevel.checkpoint()
            order.append(name)
            if order == ["a", "b", "b", "a"]:
                await trio.to_thread.run_sync(int)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "a")
            nursery.start_soon(work, "b")
        assert order != ["a", "a", "b", "b"]

    failure = only(explore(program, search="exhaustive").failures)
    assert failure.level == "free"
    line = line_of(failure)
    assert line.startswith("level: free; given up at batch after ")
    assert "trio.to_thread.run_sync()" in line


def test_runs_without_an_end_do_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred runs of ten thousand steps would take a minute."""
    monkeypatch.setattr(weakest, "STEPS", 150)

    async def program() -> None:
        order: list[str] = []

        async def work(name: str) -> None:
            order.append(name)
            await trio.lowlevel.checkpoint()
            order.append(name)
            while len(order) > 1 and order[0] != order[1]:
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "a")
            nursery.start_soon(work, "b")
        raise AssertionError("in time")

    failure = only(explore(program, search="exhaustive", max_steps=100).failures)
    assert failure.below is not None
    assert failure.below.schedules == 2


def test_it_takes_no_longer_than_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives a test ten seconds doesn't wait for four hundred more of its schedules."""
    now = 0.0
    monkeypatch.setattr("aspf.race._limits.time.monotonic", lambda: now)
    runs = 0

    async def program() -> None:
        nonlocal now, runs
        runs += 1
        await orders("aaaabbbbcccc", steps=4)()
        now += 1.0

    options: Any = {"search": "exhaustive", "weakest": False}
    # It fails in the first schedule, which is run again to be drawn.
    assert explore(program, **options).schedules == 1
    runs = 0
    failure = only(explore(program, search="exhaustive", seconds=5.0).failures)
    assert line_of(failure) == "level: free; not found at batch in 5 schedules"
    runs = 0
    failure = only(explore(program, search="exhaustive", seconds=0.5).failures)
    assert line_of(failure) == "level: free; not found at batch in 1 schedule"


@pytest.mark.parametrize("jobs", [1, 2])
def test_several_processes_say_the_same(jobs: int, tmp_path: Path) -> None:
    """The report of two processes, and of a search that was taken up again, is that of one."""
    file = tmp_path / "search.json"
    options: Any = {"search": "exhaustive", "stop_on_failure": False}
    once = explore(misses_a_change, **options)
    with_limit = explore(misses_a_change, schedules=3, resume=file, jobs=jobs, **options)
    assert with_limit.stopped_by == "schedules"
    resumed = explore(misses_a_change, resume=file, jobs=jobs, **options)
    assert str(resumed) == str(once)
    assert resumed.failures[0].level == "stock"


def test_ctrl_c_ends_it_and_keeps_the_failure() -> None:
    """What was found is told, though not all that could be said of it."""
    runs = 0

    async def program() -> None:
        nonlocal runs
        runs += 1
        if runs == 2 + before:
            signal.raise_signal(signal.SIGINT)
        await orders("aabbcc")()

    before = 1 << 30
    with pytest.raises(RaceFound):
        check(program, search="exhaustive", weakest=False)
    before, runs = runs, 0
    with pytest.raises(ExplorationInterrupted) as interrupted:
        explore(program, search="exhaustive")
    failure = only(interrupted.value.exploration.failures)
    assert line_of(failure) == "level: free"
    assert runs == before + 2


def test_one_schedule_in_words() -> None:
    """The sentence is for people."""
    only_one = weakest.Below("stock", 1, exhausted=True)
    assert str(only_one) == "impossible at stock (its only schedule tried)"
    assert str(replace(only_one, exhausted=False)) == "not found at stock in 1 schedule"
    only_trace = replace(only_one, reduced=True)
    assert str(only_trace) == "impossible at stock (a schedule of its only trace tried)"
