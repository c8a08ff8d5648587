"""The drawing itself; what is recorded is tested with the programs in test_explore.py."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from _golden import check_golden
from hypothesis import example, given, strategies as st

from aspf.race._diagram import EVERYWHERE, Row, draw, fold
from aspf.race._record import without_addresses

GOLDEN = Path(__file__).parent / "golden"


def test_nothing() -> None:
    """A program that fails in its first step has an empty diagram, not a broken one."""
    assert draw([], {}) == ""


def test_columns() -> None:
    """What a person sees first: who did what, in which order, beside whom."""
    rows = [
        Row(1, 0, "page_fault()"),
        Row(1, 1, "find_vma_speculative()"),
        Row(1, 2, "vma.refcnt: 1 -> 2", "fault.py:20"),
        Row(4, 0, "do_munmap()"),
        Row(4, 1, "vma.refcnt: 2 -> 1  # the mail's decrement", "unmap.py:31"),
        Row(4, 1, "sleeps: waits for vma.wait_queue", "unmap.py:31"),
        Row(EVERYWHERE, 0, "time passes: 1 s since the start"),
        Row(1, 1, "vma.refcnt: 1 -> 0"),
        Row(4, 1, "*** never woken: waits for vma.wait_queue"),
    ]
    check_golden(GOLDEN / "columns.txt", draw(rows, {1: "CPU 0 (fault)", 4: "CPU 1 (munmap)"}))


def test_wrapping() -> None:
    """Four busy columns do not fit a mail; each is narrowed, and long lines go on below."""
    rows = [
        Row(column, depth, f"a_function_with_a_long_name({column}) and {'some ' * 6}text")
        for column, depth in [(0, 0), (1, 1), (2, 2), (3, 12)]
    ]
    names = {n: f"CPU {n} (with a name that is rather long as well)" for n in range(4)}
    text = draw(rows, names)
    assert max(map(len, text.splitlines())) <= 110
    check_golden(GOLDEN / "wrapping.txt", text)


rows = st.lists(
    st.builds(
        Row,
        st.integers(-1, 4),
        st.integers(0, 40),
        st.text("ab *()_", max_size=60),
        st.sampled_from(["", "file.py:12", "a_longer_name.py:7"]),
    ),
    max_size=12,
).filter(lambda rows: list(fold(rows)) == rows)


@given(rows, st.integers(40, 120))
@example([Row(0, 0, " ")], 40)
def test_every_drawing(drawn: list[Row], width: int) -> None:
    """No trailing spaces (golden files, mailers), no line too long, no word lost."""
    text = draw(drawn, {n: f"task {n}" for n in range(5)}, width=width)
    lines = text.splitlines()
    assert all(line == line.rstrip() for line in lines)
    columns = {row.column for row in drawn if row.column != EVERYWHERE}
    least = 16 * len(columns) + 3 * (len(columns) - 1)
    margin = max((len(row.where) + 2 for row in drawn), default=0)
    most = max(width, least + margin)
    assert all(len(line) <= most for line in lines if not line.startswith("--- "))
    assert not text or text.endswith("\n")
    shown = "".join([*(row.text for row in drawn), *(f"task {n}" for n in columns)])
    places = [
        row.where
        for above, row in pairwise([Row(0, 0, ""), *drawn])
        if row.column != EVERYWHERE and row.where != above.where
    ]
    for letter in "ab":
        assert text.count(letter) == "".join([shown, *places]).count(letter)


POLL = Row(1, 1, "yields in checkpoint", "poll.py:3")
TICK = Row(EVERYWHERE, 0, "time passes: 1 s since the start")
TOCK = Row(EVERYWHERE, 0, "time passes: 2 s since the start")
SLEEPS = Row(2, 0, "sleeps")


@pytest.mark.parametrize(
    ("rows", "folded"),
    [
        ([POLL] * 4, [POLL] * 4),
        ([POLL] * 5, [POLL, Row(1, 1, "... 4 more times")]),
        (
            [SLEEPS, TICK, SLEEPS, TOCK, SLEEPS, TICK],
            [SLEEPS, TICK, Row(EVERYWHERE, 0, f"... the last 2 lines, 2 more times; {TICK.text}")],
        ),
        (
            [POLL, SLEEPS, Row(1, 0, "a"), Row(2, 0, "b")] * 2,
            [
                POLL,
                SLEEPS,
                Row(1, 0, "a"),
                Row(2, 0, "b"),
                Row(EVERYWHERE, 0, "... the last 4 lines, once more"),
            ],
        ),
        ([POLL, SLEEPS] * 2 + [POLL], [POLL, SLEEPS] * 2 + [POLL]),
    ],
)
def test_what_repeats_is_drawn_once(rows: list[Row], folded: list[Row]) -> None:
    """A task that polls would fill the page, and hide what matters."""
    assert list(fold(rows)) == folded


@given(st.lists(st.sampled_from([POLL, SLEEPS, TICK, Row(1, 0, "a")]), max_size=40))
def test_folding_loses_nothing(rows: list[Row]) -> None:
    """Something that happened between two repetitions would be folded away."""
    unfolded: list[Row] = []
    for row in fold(rows):
        said = re.match(
            r"\.\.\. (?:the last (\d+) lines, )?(?:(\d+) more times|once more)", row.text
        )
        if said is None:
            unfolded.append(row)
        else:
            unfolded += unfolded[-int(said[1] or 1) :] * int(said[2] or 1)

    assert unfolded == rows


def test_addresses_are_left_out() -> None:
    """No two runs share them, so no two reports would be the same."""
    assert without_addresses(repr(object())) == "<object object>"
