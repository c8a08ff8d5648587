"""The drawing itself; what is recorded is tested with the programs in test_explore.py."""

from __future__ import annotations

from pathlib import Path

from _golden import check_golden
from hypothesis import given, strategies as st

from aspf.race._diagram import EVERYWHERE, Row, draw
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
        Row(1, 2, "vma.refcnt: 1 -> 2"),
        Row(4, 0, "do_munmap()"),
        Row(4, 1, "vma.refcnt: 2 -> 1  # the mail's decrement"),
        Row(4, 1, "sleeps: waits for vma.wait_queue"),
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
    st.builds(Row, st.integers(-1, 4), st.integers(0, 40), st.text("ab *()_", max_size=60)),
    max_size=12,
)


@given(rows, st.integers(40, 120))
def test_every_drawing(drawn: list[Row], width: int) -> None:
    """No trailing spaces (golden files, mailers), no line too long, no word lost."""
    text = draw(drawn, {n: f"task {n}" for n in range(5)}, width=width)
    lines = text.splitlines()
    assert all(line == line.rstrip() for line in lines)
    columns = {row.column for row in drawn if row.column != EVERYWHERE}
    least = 16 * len(columns) + 3 * (len(columns) - 1)
    assert all(len(line) <= max(width, least) for line in lines if not line.startswith("--- "))
    assert not text or text.endswith("\n")
    for letter in "ab":
        assert text.count(letter) == sum(row.text.count(letter) for row in drawn) + (
            sum(f"task {n}".count(letter) for n in columns)
        )


def test_addresses_are_left_out() -> None:
    """No two runs share them, so no two reports would be the same."""
    assert without_addresses(repr(object())) == "<object object>"
