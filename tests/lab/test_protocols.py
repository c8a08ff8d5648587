"""What each protocol of the mail gets wrong, and nothing else, over all interleavings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from _golden import check_golden
from lab._halves import RecheckOnly, WaitOnly

from aspf.lab import (
    PROTOCOLS,
    Hold,
    Jan2010,
    Kind,
    Row,
    classify,
    format_table,
    lost_wakeup,
    program,
    program_named,
    survey,
)
from aspf.race import explore, replay

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from aspf.lab import Protocol
    from aspf.lab._lost_wakeup import Unmap

GOLDEN = Path(__file__).parent / "golden"

#: Protocol, and what unmapping the whole VMA and its tail beside one fault goes wrong with.
EXPECTED: dict[str, tuple[AbstractSet[Kind], AbstractSet[Kind]]] = {
    "mmap_sem": (set(), set()),
    "rfc2009": ({Kind.LOST_WAKEUP, Kind.USE_AFTER_FREE}, {Kind.STALE_SHRUNK}),
    "rfc2009_wake0": ({Kind.USE_AFTER_FREE}, {Kind.STALE_SHRUNK}),
    "rfc2009_bias_reply": ({Kind.USE_AFTER_FREE, Kind.STALE_REMOVED}, {Kind.STALE_SHRUNK}),
    "rfc2009_bias": ({Kind.USE_AFTER_FREE, Kind.STALE_REMOVED}, {Kind.STALE_SHRUNK}),
    "jan2010": ({Kind.USE_AFTER_FREE}, {Kind.STALE_SHRUNK}),
    "rfc2009_repaired": (set(), set()),
}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Explore every protocol with one fault, once for all tests."""
    return list(survey())


def test_each_protocol_fails_as_its_head_says(rows: list[Row]) -> None:
    """A protocol that is modelled better or worse than it was is found."""
    assert list(EXPECTED) == list(PROTOCOLS)
    found = {(row.protocol, row.unmap): set(row.found) for row in rows}
    for protocol, (whole, tail) in EXPECTED.items():
        assert found.pop((protocol, "whole")) == whole
        assert found.pop((protocol, "tail")) == tail
    assert not found
    assert all(row.exploration.exhausted for row in rows)


def test_table(rows: list[Row]) -> None:
    """A table that changed, in its numbers or its looks, is found."""
    check_golden(GOLDEN / "table.txt", format_table(rows))


def test_table_shows_what_has_no_name_and_what_is_not_finished() -> None:
    """A failure of a kind that nobody expected, and that the table drops, is found."""

    class Forgetful(Jan2010):
        name = "forgetful"

        async def vma_put(self, hold: Hold) -> None:
            """Leak the hold."""

    report = explore(
        program(Forgetful, "tail"),
        name="forgetful",
        shared="cells",
        schedules=2,
        stop_on_failure=False,
        search="exhaustive",
    )
    kinds = {classify(failure) for failure in report.failures}
    assert Kind.OTHER in kinds
    table = format_table([Row("forgetful", "tail", 1, report, {Kind.OTHER: 7})])
    heading, row = (line.split() for line in table.splitlines()[:2])
    assert dict(zip(heading, row, strict=True))["other"] == "7"
    assert dict(zip(heading, row, strict=True))["exhausted"] == "no"
    assert "any other failure" in table


def test_lost_wakeup_is_found_within_twenty_schedules() -> None:
    """A search that needs luck for the mail's race, or draws it unreadably, is found."""
    report, failure = lost_wakeup()
    assert report.exhausted
    assert failure.schedule <= 20
    assert failure.kind == "deadlock"
    check_golden(GOLDEN / "lost_wakeup.txt", failure.diagram)


def test_token_repeats_the_failure() -> None:
    """A token that names another schedule than the one that failed is found."""
    _, failure = lost_wakeup()
    again = replay(program_named("rfc2009.whole"), failure.token)
    assert again is not None
    assert (again.kind, again.diagram) == (failure.kind, failure.diagram)


@pytest.mark.parametrize("unmap", ["whole", "tail"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_second_fault_hides_nothing(protocol: str, unmap: Unmap) -> None:
    """A program for two faults that does not run, or fails in a way that one fault can't, is found.

    It takes a minute and a half to exhaust them all, which ``survey(faults=2)`` does; this looks
    at the same few schedules of each every time.
    """
    name = f"{protocol}.{unmap}.2"
    report = explore(
        program_named(name),
        name=name,
        shared="cells",
        search="random",
        schedules=100,
        stop_on_failure=False,
    )
    assert report.schedules == 100
    whole, tail = EXPECTED[protocol]
    assert {classify(failure) for failure in report.failures} <= (
        whole if unmap == "whole" else tail
    )


@pytest.mark.parametrize("half", [RecheckOnly, WaitOnly])
def test_either_half_of_the_repair_of_k3_fails(half: type[Protocol]) -> None:
    """A repair that looks sufficient because the model is too coarse is found."""
    report = explore(
        program(half, "tail"),
        name=half.name,
        shared="cells",
        stop_on_failure=False,
        search="exhaustive",
    )
    assert {classify(failure) for failure in report.failures} == {Kind.STALE_SHRUNK}
    whole = explore(program(half, "whole"), name=half.name, shared="cells", search="exhaustive")
    assert whole.exhausted
    assert whole.failures == ()


@pytest.mark.parametrize("unmap", ["whole", "tail"])
@pytest.mark.parametrize("protocol", ["mmap_sem", "rfc2009_repaired"])
def test_programs_run_without_an_explorer(protocol: str, unmap: Unmap) -> None:
    """A program that only an explorer can run, and that nobody could debug, is found.

    trio's own choice of schedule is random; these two pass under every one.
    """
    assert trio.run(program(protocol, unmap)) in (("speculative",), ("mmap_sem",), ("SIGSEGV",))


def test_programs_are_found_by_their_names() -> None:
    """A token whose program can't be found again is found here first."""
    for name in ("rfc2009.whole", "jan2010.tail", "rfc2009_repaired.whole.2"):
        assert program_named(name).__name__ == name


@pytest.mark.parametrize("name", ["rfc2009", "rfc2009.head", "nosuch.whole", "rfc2009.whole.x", ""])
def test_unknown_names_say_what_there_is(name: str) -> None:
    """A misspelt token that ends in a KeyError is found."""
    with pytest.raises(ValueError, match=r"names are a protocol \(mmap_sem, rfc2009, "):
        program_named(name)


def test_wrong_arguments_say_what_there_is() -> None:
    """An argument that is wrong and goes unnoticed until the exploration runs is found."""
    with pytest.raises(ValueError, match="choose from mmap_sem, rfc2009, "):
        program("rfc2010")
    with pytest.raises(ValueError, match="'whole' or 'tail'"):
        program("rfc2009", "head")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        program("rfc2009", faults=0)


@pytest.mark.thorough
def test_the_repair_holds_with_two_faulting_tasks() -> None:
    """Broken if a second fault finds a hole in the repair; the counts are an independent tool's."""
    schedules = {"whole": 10_354, "tail": 5_810}
    for row in survey(["rfc2009_repaired"], faults=2):
        print(row.exploration.headline())  # noqa: T201 - the counts are a result
        assert not row.found
        assert row.exploration.exhausted
        assert row.exploration.schedules == schedules.pop(row.unmap)
    assert not schedules
