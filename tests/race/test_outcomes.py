"""The table of everything that a program did."""

from __future__ import annotations

from pathlib import Path

import trio
from _golden import check_golden

from aspf.race import Cell, explore, outcome_table, record, replay

GOLDEN = Path(__file__).parent / "golden"


async def three_increments() -> int:
    """Two may get lost; a third one is noticed."""
    counter = Cell(0, "counter")

    async def increment() -> None:
        await counter.set(await counter.get() + 1)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(increment)
    if counter.peek() == 1:
        raise AssertionError(f"two updates were lost, and {'that is a lot, ' * 3}isn't it")
    return counter.peek()


def test_the_table() -> None:
    """Byte for byte: every outcome, how often, the simplest schedule, and what can't happen."""
    found = explore(
        three_increments, shared="cells", stop_on_failure=False, minimise=True, search="exhaustive"
    )
    table = outcome_table(found, expected=[3, 4, 4])
    check_golden(GOLDEN / "outcomes.txt", f"{table}\n{outcome_table(found)}")


def test_the_shortest_schedule() -> None:
    """It is one that has the outcome; without minimising it is one that was seen."""
    options = {"search": "random", "seed": 3, "stop_on_failure": False, "schedules": 8}
    seen = explore(three_increments, **options)  # type: ignore[arg-type]
    minimal = explore(three_increments, minimise=True, **options)  # type: ignore[arg-type]
    for text, outcome in seen.outcomes.items():
        first, best = outcome.token, minimal.outcomes[text].shortest
        assert {record(three_increments, t).summary for t in (first, outcome.shortest, best)} == {
            text
        }
        assert replay(three_increments, best) is None
        assert periods(best) <= periods(outcome.shortest) <= periods(first)
    assert any(
        periods(minimal.outcomes[text].shortest) < periods(outcome.shortest)
        for text, outcome in seen.outcomes.items()
    )


def periods(token: str) -> int:
    return token.count(",")


def test_a_failure_is_never_expected() -> None:
    """A result that reads like the failure would hide it."""

    async def program() -> None:
        raise KeyError(1)

    table = outcome_table(explore(program, search="exhaustive"), expected=["KeyError: 1"])
    assert table.splitlines()[3].split()[:6] == ["KeyError:", "1", "1", "100%", "1", "NO"]
