"""What an edit costs: an ``assign`` that splits a region, against a splice of two plain lists.

The baseline is the fastest mutable range map that fits into ten lines of Python: starts in one
list, ends and payloads in another, found by bisection and cut by slice assignment. It moves half
of both lists for each edit, and it has no snapshot, no pins and no drain.
"""

from __future__ import annotations

from bisect import bisect_right
from random import Random
from typing import TYPE_CHECKING

from aspf import RangeMap

from ._measure import take_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._measure import Row

WIDTH = 16
# Regions -> the most that an assign may cost, in splices.
TARGETS = {100_000: 1.0, 1_000_000: 0.4}


def rows(*, quick: bool) -> Iterator[Row]:
    for size, target in TARGETS.items():
        edits, turns = 200, 5 if quick else 21
        if not quick or size <= 100_000:
            yield _measure(size, target, edits=edits, turns=turns)


def _measure(size: int, target: float, *, edits: int, turns: int) -> Row:
    ranges = RangeMap((i * WIDTH, i * WIDTH + WIDTH, i) for i in range(size))
    lists = _TwoLists(size)
    # Each side cuts each region once; one turn of each warms up.
    random = Random(size)
    cut = random.sample(range(size), edits * (turns + 1))
    ours, theirs = iter(cut), iter(cut)

    def assign() -> None:
        for _, i in zip(range(edits), ours, strict=False):
            ranges[i * WIDTH + 4 : i * WIDTH + 12] = -1

    def splice() -> None:
        for _, i in zip(range(edits), theirs, strict=False):
            lists.assign(i * WIDTH + 4, i * WIDTH + 12, -1)

    measured = take_turns(assign, splice, operations=edits, turns=turns)
    same = [(r.start, r.end, r.payload) for r in ranges] == lists.ranges()
    if not same:
        raise AssertionError("the two sides did not do the same edits")
    return measured.row(f"splitting assign, {size:,} regions", at_most=target)


class _TwoLists:
    """Ranges in two parallel lists, edited in place; an edit must stay within one range."""

    def __init__(self, size: int) -> None:
        self.starts = [i * WIDTH for i in range(size)]
        self.values = [(i * WIDTH + WIDTH, i) for i in range(size)]

    def assign(self, start: int, end: int, payload: int) -> None:
        i = bisect_right(self.starts, start) - 1
        old_end, old_payload = self.values[i]
        self.starts[i : i + 1] = [self.starts[i], start, end]
        self.values[i : i + 1] = [(start, old_payload), (end, payload), (old_end, old_payload)]

    def ranges(self) -> list[tuple[int, int, int]]:
        pairs = zip(self.starts, self.values, strict=True)
        return [(start, end, payload) for start, (end, payload) in pairs]
