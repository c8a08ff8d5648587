"""When an exploration ends before its end: by its limits, or by ctrl-C."""

from __future__ import annotations

import re
import signal
import threading
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from race._programs import lost_update

from aspf.race import ExplorationInterrupted, Progress, _limits, check, explore, replay

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever somebody looks at it."""
    seconds = count()
    monkeypatch.setattr(_limits, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def pressing_at(*numbers: int, then: object = None):
    """A program in whose runs of these numbers ctrl-C is pressed, once for each time given."""
    started = []

    async def program() -> object:
        started.append(None)
        for number in numbers:
            if number == len(started):
                signal.raise_signal(signal.SIGINT)
        await lost_update(3)()
        return then

    program.started = started
    return program


@pytest.fixture(autouse=True)
def pythons_own_handler() -> object:
    """Broken if any exploration leaves another handler than it found."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


OPTIONS = {
    "search": "exhaustive",
    "shared": "cells",
    "stop_on_failure": False,
}


def test_seconds(clock: None) -> None:
    """Broken if a budget of time changes what is run, isn't kept, or isn't told."""
    found = explore(lost_update(3), seconds=4.0, **OPTIONS)
    assert (found.schedules, found.exhausted, found.stopped_by) == (3, False, "seconds")
    assert "not exhausted: out of time" in found.headline()
    same = explore(lost_update(3), schedules=3, **OPTIONS)
    assert same.outcomes == found.outcomes
    assert [f.token for f in same.failures] == [f.token for f in found.failures]
    assert same.stopped_by == "schedules"


def test_the_first_schedule_is_run_whatever_the_time(clock: None) -> None:
    """Broken if a budget that is over at once makes a report of nothing."""
    assert explore(lost_update(3), seconds=0.01, **OPTIONS).schedules == 1


def test_minimising_ends_with_the_time(clock: None) -> None:
    """Broken if who has asked for a minute waits for 500 replays more, or reads what is not so."""
    options = {"search": "random", "seed": 8, "weakest": False}
    (late,) = explore(lost_update(3), minimise=True, seconds=1.5, **options).failures
    assert "not minimised: the time was over" in str(late)
    assert not late.minimal.is_minimal
    for seconds, replays, switches in ((2.5, 1, 6), (5.5, 4, 1)):
        (cut,) = explore(lost_update(3), minimise=True, seconds=seconds, **options).failures
        assert cut.minimal is not None
        assert (cut.minimal.replays, len(cut.minimal.switches)) == (replays, switches)
        assert "none of them shown to be necessary; not all were tried: the time was over" in str(
            cut
        )
        assert replay(lost_update(3), cut.token) is not None
    (whole,) = explore(lost_update(3), minimise=True, seconds=10.5, **options).failures
    assert whole.minimal is not None
    assert (whole.minimal.replays, whole.minimal.out_of_time) == (6, False)


def test_minimising_what_was_kept_ends_with_the_time(clock: None, tmp_path: Path) -> None:
    """Broken if the first schedule of all, the kept one, may be minimised for as long as it likes."""
    options = {"search": "random", "seed": 1, "weakest": False, "directory": tmp_path}
    explore(lost_update(3), **options)
    for seconds, replays in ((0.5, 0), (3.5, 3)):
        (kept,) = explore(lost_update(3), minimise=True, seconds=seconds, **options).failures
        assert kept.kept
        assert kept.minimal is not None
        assert (kept.minimal.replays, kept.minimal.out_of_time) == (replays, True)


def test_nothing_is_minimised_out_of_time(clock: None) -> None:
    """Broken if a thousand outcomes take thousands of runs more than there was time for."""
    program = pressing_at()
    found = explore(program, seconds=3.0, minimise=True, **OPTIONS, weakest=False)
    assert (found.stopped_by, found.schedules, len(found.outcomes)) == ("seconds", 2, 1)
    # The failure is drawn.
    assert len(program.started) == 2 + 1


def test_what_stopped_it() -> None:
    """Broken if an exhausted search, or a failure, looks like one that ran into a limit."""
    assert explore(lost_update(3), **OPTIONS).stopped_by == ""
    assert explore(lost_update(3), search="exhaustive").stopped_by == "failure"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_wrong_seconds(seconds: float) -> None:
    """Broken if a budget that leaves nothing to be run is taken."""
    with pytest.raises(ValueError, match="seconds="):
        explore(lost_update(2), seconds=seconds, search="exhaustive")


def test_progress(clock: None) -> None:
    """Broken if somebody who waits isn't told how far it is, between two runs."""
    told: list[Progress] = []
    check(lost_update(1), schedules=7, seconds=99, progress=told.append, search="exhaustive")
    assert told == [Progress(0, 7, 1.0, 99, 0, 0), Progress(1, 7, 2.0, 99, 0, 1)]


def test_progress_may_end_it(clock: None) -> None:
    """Broken if what the callback raises is swallowed: it is how a caller gives up."""

    def give_up(_: Progress) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        explore(lost_update(3), progress=give_up, search="exhaustive")


def test_ctrl_c_ends_with_what_is_known() -> None:
    """Broken if an interrupted search of an hour has nothing to say."""
    with pytest.raises(ExplorationInterrupted) as caught:
        explore(program := pressing_at(7), **OPTIONS)
    found = caught.value.exploration
    assert isinstance(caught.value, KeyboardInterrupt)
    assert str(caught.value) == found.headline()
    assert "not exhausted: interrupted" in found.headline()
    # The run in which it came is whole.
    assert not found.interrupted_in
    assert found.schedules == 7
    assert len(program.started) == 7 + len(found.failures)
    same = explore(pressing_at(), schedules=found.schedules, **OPTIONS)
    assert (found.schedules, found.pruned) == (same.schedules, same.pruned)
    assert [f.count for f in found.failures] == [f.count for f in same.failures]
    assert found.stopped_by == "interrupted"


def test_pressing_twice_ends_it_at_once() -> None:
    """Broken if a step without an end can't be left by ctrl-C."""
    program = pressing_at(7, 7)
    with pytest.raises(ExplorationInterrupted) as caught:
        explore(program, **OPTIONS)
    found = caught.value.exploration
    assert found.schedules == 6
    assert re.search(r"interrupted in a step of 'main', test_limits\.py:\d+;", str(caught.value))


def test_ctrl_c_while_minimising_leaves_what_was_found() -> None:
    """Broken if the failure is lost since somebody didn't want to wait for a shorter one."""
    first = explore(pressing_at(), search="exhaustive").failures[0]
    program = pressing_at(first.schedule + 2)  # one more repeats the failure
    with pytest.raises(ExplorationInterrupted) as caught:
        explore(program, minimise=True, search="exhaustive")
    (failure,) = caught.value.exploration.failures
    assert failure.minimal is None
    assert failure.token == first.token
    assert len(program.started) == first.schedule + 2


def test_another_handler_of_sigint_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if an exploration takes ctrl-C away from the program that asked for it."""
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(None))
    try:
        assert explore(pressing_at(1), **OPTIONS).exhausted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert pressed == [None]


def test_in_another_thread() -> None:
    """Broken if explore() can only be called by the main thread."""
    found = []
    thread = threading.Thread(
        target=lambda: found.append(explore(lost_update(1), search="exhaustive"))
    )
    thread.start()
    thread.join()
    assert found[0].exhausted
