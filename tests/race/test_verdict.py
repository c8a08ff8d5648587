"""What an exploration claims: no more than it has shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from _golden import check_golden
from race._programs import lost_update

from aspf.race import Cell, NotProven, RaceFound, check, explore, may_cancel, sometimes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Program = Callable[[], Awaitable[object]]

GOLDEN = Path(__file__).parent / "golden"


async def increments() -> int:
    """Three tasks, one cell, nothing to fail."""
    cell = Cell(0, "cell")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(cell.update, lambda n: n + 1)
    return cell.peek()


async def nothing() -> None:
    """There is no choice in it."""
    await trio.lowlevel.checkpoint()


async def sleeps() -> None:
    """Something to cancel, and a deadline."""
    with may_cancel():
        await trio.sleep(1)


async def never() -> None:
    """One label is reached, one is not."""
    sometimes("reached")
    sometimes("not reached", None)


EXPLORATIONS: list[tuple[str, Program, dict[str, Any]]] = [
    ("one trace", nothing, {}),
    ("traces", increments, {"search": "exhaustive", "shared": "cells"}),
    ("schedules", increments, {"search": "exhaustive"}),
    ("the portfolio ends", increments, {}),
    ("clock and cancellation", sleeps, {"timers": "any", "search": "delay"}),
    ("each", increments, {"cancel": "each", "search": "exhaustive", "shared": "cells"}),
    ("cut short", increments, {"search": "exhaustive", "schedules": 7}),
    ("drawn", increments, {"schedules": 40}),
    ("PCT", lost_update(2), {"search": "pct:2", "schedules": 1, "seed": 2}),
    ("depths", increments, {"search": "pct", "schedules": 90, "shared": "cells"}),
    ("failed", lost_update(2), {"search": "exhaustive"}),
    ("never", never, {}),
    ("never, and unknown", never, {"search": "random", "schedules": 2, "sometimes": ["typo"]}),
]


def test_the_sentences() -> None:
    """Byte for byte what was approved: what was shown, for what, and what may have been missed."""
    lines = []
    for title, program, options in EXPLORATIONS:
        found = explore(program, **options)
        assert found.explanation.startswith(found.verdict)
        lines += [f"{title}:", f"  {found.explanation}"]
    check_golden(GOLDEN / "verdicts.txt", "\n".join([*lines, ""]))


def test_the_number_of_traces_is_real() -> None:
    """It is known where one schedule of each was run, and of nothing else."""
    assert explore(increments, search="exhaustive", shared="cells").traces == 6
    assert explore(increments, shared="cells").traces == 6
    assert explore(increments, search="exhaustive").traces is None
    assert explore(increments, search="exhaustive").enumerated == 90
    cut = explore(increments, search="exhaustive", shared="cells", schedules=5)
    assert (cut.traces, cut.enumerated) == (None, 5)
    assert explore(increments, search="pos", shared="cells", schedules=5).enumerated == 0


def test_a_program_without_choices_takes_one_schedule() -> None:
    """Drawing from one schedule again and again would be waste."""
    found = explore(nothing)
    assert (found.schedules, found.verdict) == (1, "holds")


def test_what_is_required() -> None:
    """A proof that has silently become none is what the option is for."""
    assert check(increments, require="holds").verdict == "holds"
    assert check(increments, schedules=5).verdict == "unknown"
    with pytest.raises(NotProven, match="unknown: 5 schedules drawn"):
        check(increments, schedules=5, require="holds")
    with pytest.raises(RaceFound):
        check(lost_update(2), require="holds")
    with pytest.raises(ValueError, match="require='proof': expected 'no failure' or 'holds'"):
        check(increments, require="proof")  # type: ignore[arg-type]


async def labelled() -> None:
    """Two tasks that may meet in two orders; the second label needs one of them."""
    seen: list[str] = []

    async def work(name: str) -> None:
        sometimes("b first", seen == ["b"])
        seen.append(name)
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, "a")
        nursery.start_soon(work, "b")


def test_a_label_that_is_reached() -> None:
    """In some schedules, and counted in how many."""
    found = check(labelled, search="exhaustive", sometimes=["b first"], require="holds")
    assert found.reached == {"b first": 3}
    assert "sometimes 'b first': 3\n" in str(found)


def test_a_label_that_is_never_reached() -> None:
    """A failure if all was explored, for `check` as well; unknown if it wasn't."""
    for options in ({"sometimes": ["typo"]}, {}):
        program = labelled if options else never
        found = explore(program, **options)
        assert (found.verdict, found.failures) == ("failed", ())
        with pytest.raises(RaceFound, match="is never reached"):
            check(program, **options)
    found = check(labelled, schedules=2, search="random", sometimes=["typo"])
    assert (found.verdict, found.unreached[0]) == ("unknown", "typo")


def test_a_label_outside_an_exploration() -> None:
    """A program must run as it is, under trio alone."""
    trio.run(labelled)


def test_nothing_was_run() -> None:
    """Who has stopped a step without an end would read of an enumeration of nothing."""
    found = replace(explore(nothing), schedules=0, exhausted=False, stopped_by="interrupted")
    assert found.explanation == "unknown: no schedule has come to its end; interrupted"
