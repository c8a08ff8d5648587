"""What a person gets: reports, diagrams, tokens, errors about wrong arguments."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from _golden import check_golden
from race._programs import (
    deadlock01,
    lost_notification,
    lost_update,
    twostage,
    use_after_free,
)

from aspf.race import (
    Cell,
    RaceFound,
    ReplayDiverged,
    UseAfterFree,
    check,
    explore,
    note,
    replay,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GOLDEN = Path(__file__).parent / "golden"


async def timeouts() -> None:
    """Something cancelled by its deadline, something by the explorer, a value that is long."""
    cell: Cell[object] = Cell("a" * 60, "cell")

    async def patient() -> None:
        with trio.move_on_after(5):
            await cell.wait_until(lambda value: not value)
        note("gave up")
        await cell.set(None)

    async def waiter() -> None:
        await cell.wait_until(lambda value: value is None)
        raise KeyError("late\nand more")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(patient)
        nursery.start_soon(waiter)
        nursery.start_soon(waiter)


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (lost_update(2), {"shared": "cells"}),
        (deadlock01, {"shared": "cells"}),
        (twostage, {"search": "random", "seed": 3}),
        (use_after_free, {"shared": "cells"}),
        (lost_notification, {}),
        (lost_notification, {"cancel": "each", "stop_on_failure": False, "name": "two kinds"}),
        (timeouts, {"shared": "cells"}),
    ],
)
def test_report(program: Callable[[], Awaitable[object]], options: dict[str, Any]) -> None:
    """Byte for byte what was approved, on every Python, each time; and its tokens replay."""
    options = {"search": "exhaustive"} | options
    found = explore(program, **options)
    name = str(options.get("name", program.__name__)).replace(" ", "-")
    check_golden(GOLDEN / f"{name}.txt", str(found))
    assert str(explore(program, **options)) == str(found)
    assert found.failures
    for failure in found.failures:
        again = replay(program, failure.token)
        assert again is not None
        assert (again.kind, again.summary, again.diagram) == (
            failure.kind,
            failure.summary,
            failure.diagram,
        )


def test_a_report_without_failures() -> None:
    """It says how much was seen, and what came of it."""

    async def program() -> str:
        cell = Cell("", "cell")
        async with trio.open_nursery() as nursery:
            for letter in "ab":
                nursery.start_soon(cell.update, lambda text, letter=letter: text + letter)
        return cell.peek()

    found = check(program, shared="cells", name="two letters", search="exhaustive")
    check_golden(GOLDEN / "two-letters.txt", str(found))
    for text, outcome in found.outcomes.items():
        assert outcome.count == 1
        assert replay(program, outcome.token) is None, text
    assert [outcome.schedule for outcome in found.outcomes.values()] == [1, 2]


def test_check_raises_the_report() -> None:
    """In a test the message is all that a person sees."""
    with pytest.raises(RaceFound) as caught:
        check(lost_update(2), search="exhaustive")
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value) == str(explore(lost_update(2), search="exhaustive"))


def test_use_after_free_ends_the_schedule() -> None:
    """A program that swallows the error has touched freed memory all the same."""

    async def program() -> None:
        try:
            await use_after_free()
        except* UseAfterFree:
            pass

    (failure,) = explore(
        program, shared="cells", stop_on_failure=False, search="exhaustive"
    ).failures
    assert isinstance(failure.error, UseAfterFree)


def test_use_after_free_in_the_last_step() -> None:
    """The last step of a run is judged as the others are."""

    async def program() -> None:
        from aspf.race import Lifetime  # noqa: PLC0415

        memory = Lifetime("memory")
        cell = Cell(0, "cell", lifetime=memory)
        await memory.free()
        try:
            await cell.get()
        except UseAfterFree:
            return

    (failure,) = explore(program, search="exhaustive").failures
    assert failure.kind == "error"


def test_limits() -> None:
    """A search that was cut says so; one that ends exactly at its limit is complete."""
    program = lost_update(3)
    assert not explore(
        program, shared="cells", stop_on_failure=False, schedules=20, search="exhaustive"
    ).exhausted
    whole = explore(program, shared="cells", stop_on_failure=False, search="exhaustive")
    exact = whole.schedules + whole.pruned
    assert explore(
        program, shared="cells", stop_on_failure=False, schedules=exact, search="exhaustive"
    ).exhausted


def test_kinds_are_kept_apart() -> None:
    """One failure a way of failing, each with its count and its first schedule."""
    found = explore(lost_update(3), shared="cells", stop_on_failure=False, search="exhaustive")
    assert [(f.summary, f.count) for f in found.failures] == [
        ("AssertionError: 1 of 3 updates lost", 18),
        ("AssertionError: 2 of 3 updates lost", 12),
    ]
    assert found.failures[0].schedule < found.failures[1].schedule
    assert "the first of 18" in str(found.failures[0])


def test_errors_are_told_without_their_groups() -> None:
    """Nurseries wrap; what matters is what was raised, in one line."""

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            for error in (ValueError("a\nb"), KeyError()):
                nursery.start_soon(fail, error)

    async def fail(error: Exception) -> None:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        raise error

    failure = explore(program, search="exhaustive").failures[0]
    assert failure.summary == "ValueError: a; KeyError"
    assert isinstance(failure.error, ExceptionGroup)


def test_names() -> None:
    """Tasks by their function, numbered where that isn't enough; programs likewise."""

    async def program() -> None:
        async def work() -> None:
            await trio.Event().wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            nursery.start_soon(work)
            nursery.start_soon(work, name="CPU 1 (work)")

    (failure,) = explore(functools.partial(program), search="exhaustive").failures
    assert [line.split(" waits")[0] for line in failure.diagram.splitlines()[-4:]] == [
        "  main",
        "  work",
        "  work #2",
        "  CPU 1 (work)",
    ]
    assert explore(functools.partial(program), search="exhaustive").program == "program"

    class Callable_:  # noqa: N801
        def __call__(self) -> Awaitable[object]:
            return program()

    assert explore(Callable_(), search="exhaustive").program == "Callable_"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "clever"}, "search='clever'"),
        ({"shared": "nothing"}, "shared='nothing'"),
        ({"schedules": 0}, "schedules=0"),
        ({"max_steps": 0}, "max_steps=0"),
        (
            {"level": "strict"},
            "level='strict': expected 'stock' or 'batch' or 'free' or 'contract'",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    """An option that is silently ignored is a promise that isn't kept."""
    with pytest.raises(ValueError, match=message):
        explore(lost_notification, **options)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("0,1x3,2x2", r"the token ends after 6 steps and the program goes on; possible: task 2"),
        ("0,1x4", r"step 5 of the token is task 1 \(CPU 0\), which the program can't do"),
        ("0,1,7", r"step 3 of the token is task 7, which"),
        ("0,t", r"step 2 of the token is time passes, which"),
        ("0,c1", r"step 2 of the token is cancel task 1 \(CPU 0\), which"),
    ],
)
def test_a_token_that_does_not_fit(steps: str, message: str) -> None:
    """Replaying something else silently would have a person debug the wrong run."""
    with pytest.raises(ReplayDiverged, match=message):
        replay(lost_update(2), f"aspf1:lost:{steps}")


def test_a_replay_of_another_program() -> None:
    """After an edit the token of the failure would pass for a proof that it is a repair."""

    async def edited() -> None:
        pass

    (failure,) = explore(lost_update(2), search="exhaustive").failures
    with pytest.raises(ReplayDiverged, match="passes, which shows nothing"):
        replay(edited, failure.token)
