"""Is a program deterministic? What it reads is named, what it must not do is refused."""

from __future__ import annotations

import datetime as dt
import gc
import logging
import os
import random
import re
import select
import socket
import sys
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from race import _habits as habits

from aspf.race import Cell, NotDeterministic, _doctor, doctor, explore
from aspf.race._examiner import judge, where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@pytest.fixture(autouse=True)
def any_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program in this process must not take itself for the one in the other."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)


def test_a_clean_program_is_compared_with_another_process() -> None:
    """It would be told that something is wrong, or that it was not compared."""
    diagnosis = doctor(habits.clean)

    assert str(diagnosis) == (
        "clean: nothing was found that a schedule can't repeat\n"
        "the same 4 events in another process, with another PYTHONHASHSEED\n"
    )


def test_what_is_read_is_named_with_task_and_line() -> None:
    """Somebody would look for the clock in all of his program, or be stopped by a log line."""
    diagnosis = doctor(habits.reads, name="reader")

    calls: Counter[str] = Counter()
    for finding, n in diagnosis.findings.items():
        calls[finding.call] += n
    assert calls == {
        "time.monotonic()": 1,
        "time.time()": 3,
        "datetime.now()": 1,
        "random.random()": 1,
        "os.urandom()": 2,
    }
    assert {finding.task for finding in diagnosis.findings} == {"reader"}
    assert all(re.fullmatch(r"_habits\.py:\d+", f.where) for f in diagnosis.findings)
    assert "  task 'reader' calls time.time() (_habits.py:" in str(diagnosis)
    assert "), 3 times\n" in str(diagnosis)


def test_a_call_in_the_standard_library_is_laid_at_the_programs_door() -> None:
    """`logging/__init__.py:300` would be named, which is nobody's line."""
    (finding,) = explore(habits.logs, search="exhaustive").findings

    assert finding.call in {"time.time()", "time.time_ns()"}
    assert finding.where.startswith("_habits.py:")


def test_explorations_note_what_is_read() -> None:
    """An exploration of a program that reads a clock would not say so."""
    report = str(explore(habits.logs, search="exhaustive"))

    assert "note: task 'main' calls time.time" in report


@pytest.mark.parametrize(
    ("program", "call"),
    [
        (habits.starts_a_thread, r"_thread\.start_(new|joinable)_thread\(\)"),
        (habits.swallows_the_refusal, r"_thread\.start_(new|joinable)_thread\(\)"),
        (habits.connects, r"socket\.connect\(\)"),
        (habits.looks_up, r"_socket\.getaddrinfo\(\)"),
        (habits.runs_a_process, r"(_posixsubprocess\.fork_exec|posix\.\w+)\(\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("run", [doctor, explore])
def test_what_comes_back_at_a_moment_of_its_own_is_refused(
    run: Callable[[Callable[[], Awaitable[object]]], object],
    program: Callable[[], Awaitable[object]],
    call: str,
) -> None:
    """A thread would run beside the schedules, and their order would be a lie."""
    with pytest.raises(NotDeterministic, match=rf"task 'main' called {call} \(_habits\.py:\d+\)"):
        run(program)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (time.monotonic, ("time.monotonic()", False)),
        (time.sleep, ("time.sleep()", False)),
        (os.urandom, ("os.urandom()", False)),
        (dt.datetime.now, ("datetime.now()", False)),
        (dt.date.today, ("date.today()", False)),
        (random.random, ("random.random()", False)),
        (random.Random(1).random, None),
        (socket.socket.connect, None),  # of the class, on nothing yet
        (os.fork, (f"{os.name}.fork()", True)),
        (select.select, ("select.select()", True)),
        (len, None),
        ([].append, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_thought_of_a_call(function: Any, expected: tuple[str, bool] | None) -> None:
    """A call would be stopped that does no harm, or passed that no schedule repeats."""
    assert judge(function) == expected if hasattr(function, "__self__") else expected is None


def test_a_socket_is_known_by_its_object() -> None:
    """Methods of sockets have no module to know them by."""
    with socket.socket() as sock:
        assert judge(sock.send) == ("socket.send()", True)


def test_the_line_that_is_named() -> None:
    """The test that explores would be named, or a line of the standard library."""

    class Spy:
        def __str__(self) -> str:
            return where(sys._getframe())

    async def calls_the_library() -> str:
        return logging.Formatter().format(logging.LogRecord("", 0, "", 1, Spy(), None, None))

    names: dict[str, Any] = {"where": where, "sys": sys}
    code = compile("async def library(): return where(sys._getframe())", os.__file__, "exec")
    exec(code, names)

    (line,) = explore(calls_the_library, search="exhaustive").outcomes
    (own_line,) = explore(names["library"], search="exhaustive").outcomes
    assert line.startswith("'test_doctor.py:")
    assert own_line == "'os.py:1'"


@pytest.mark.parametrize(
    "program", [habits.iterates_over_a_set, partial(habits.iterates_over_a_set, 9)]
)
def test_an_order_that_comes_from_a_set_is_found_elsewhere(
    program: Callable[[], Awaitable[object]],
) -> None:
    """A token would not repeat its schedule tomorrow, when strings hash in another way."""
    explore(program, search="random", schedules=5)  # nothing is noticed here

    with pytest.raises(
        NotDeterministic,
        match=r"did not repeat itself in another process: event \d+ of the same schedule was first",
    ):
        doctor(program)


def test_the_suspects_are_named_with_the_difference() -> None:
    """The message would say that something differs, and leave the search to the reader."""
    with pytest.raises(
        NotDeterministic, match=r"(?s)and for what it reads:\n  task 'main' calls random"
    ):
        doctor(habits.sleeps_at_random)


def test_state_that_outlives_a_run_is_found_in_this_process() -> None:
    """A program that can't run elsewhere would not be compared at all."""

    async def program() -> int:
        return await habits.counts_its_runs()

    with pytest.raises(NotDeterministic, match="did not repeat itself in this process: event 1 "):
        doctor(program)


def test_a_program_of_no_module_is_compared_here_and_says_so() -> None:
    """A report would compare what never ran there."""

    async def program() -> None:
        await habits.clean()

    assert str(doctor(program)).endswith(
        "the same 5 events twice in this process, and not in another: the program can't be imported "
        "there; make it a function of a module\n"
    )


def test_a_process_that_dies_is_no_difference() -> None:
    """The doctor would wait for ever for a process that is gone."""
    diagnosis = doctor(habits.ends_elsewhere)

    assert diagnosis.not_compared == (
        "a process that imports it ended before it ran; what it printed says why"
    )


def test_what_is_refused_elsewhere_is_refused() -> None:
    """A refusal in the other process would be lost on the way, or taken for a difference."""
    with pytest.raises(NotDeterministic, match="called _thread"):
        doctor(habits.starts_a_thread_elsewhere)


def test_a_process_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor would hang together with it."""
    monkeypatch.setattr(_doctor, "_SECONDS", 0)
    with pytest.raises(NotDeterministic, match="has not ended in another process within 0 s"):
        doctor(habits.clean)


def test_the_hash_seed_of_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later child processes of the caller would hash as the doctor's did."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    diagnosis = doctor(habits.clean)

    assert not diagnosis.not_compared
    assert _doctor.os.environ["PYTHONHASHSEED"] == "0"


def test_other_choices_at_the_same_events_are_a_difference() -> None:
    """Two runs whose events agree, and whose choices don't, would pass for the same."""
    first = _doctor._Account(("a",), ((0,), (1, 2)))
    second = _doctor._Account(("a",), ((0,), (1,)))

    assert _doctor._parting(first, first) == ""
    assert (
        _doctor._parting(first, second) == "the same tasks did the same, but others could have run"
    )


def test_a_profiler_keeps_its_place() -> None:
    """The user's profiler would be switched off by an exploration."""

    def mine(*_: Any) -> None:
        pass

    sys.setprofile(mine)
    try:
        found = explore(habits.logs, search="exhaustive")
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
    assert not found.findings


def test_between_two_steps_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback of the garbage collector that reads a clock would raise there: Hypothesis has one."""
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def read_the_clock(*_: object) -> None:
        time.perf_counter()

    def collect(_: int) -> bool:
        gc.collect()
        return True

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Cell(0, "cell").wait_until, collect)

    gc.callbacks.append(read_the_clock)
    try:
        explore(program)
    finally:
        gc.callbacks.remove(read_the_clock)

    assert not unraisable
