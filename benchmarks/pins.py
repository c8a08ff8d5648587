"""What a pin costs: against the same lookup and increment, written as one plain function.

The baseline is what anybody would write who needs no release, no retirement and no error: the same
bisections of the same index, one compare, one increment. What a pin adds is a method call, the
``with`` block, and the look at the count on release that finds the last holder.

For information, the same against a bisection of one flat list, the fastest lookup there is; the
index has more levels than that so that an edit need not move the whole list.
"""

from __future__ import annotations

from bisect import bisect_right
from random import Random
from typing import TYPE_CHECKING

from aspf import RangeMap

from ._measure import take_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aspf import Region
    from aspf.ranges import RegionIndex

    from ._measure import Row

WIDTH = 16
SIZES = (100, 10_000, 1_000_000)


def rows(*, quick: bool) -> Iterator[Row]:
    for size in SIZES[:2] if quick else SIZES:
        yield from _measure(size, keys=20_000 if quick else 100_000, turns=5 if quick else 11)


def _measure(size: int, *, keys: int, turns: int) -> Iterator[Row]:
    ranges = RangeMap((i * WIDTH, i * WIDTH + WIDTH, i) for i in range(size))
    regions = list(ranges)
    starts = [region.start for region in regions]
    random = Random(size)
    wanted = [random.randrange(size * WIDTH) for _ in range(keys)]

    def pin_and_release() -> None:
        pin = ranges.pin
        for key in wanted:
            with pin(key):
                pass

    def count_in_a_function() -> None:
        index = ranges.index
        for key in wanted:
            _find_and_count(index, key)

    def count_in_a_list() -> None:
        for key in wanted:
            _find_and_count_in_list(starts, regions, key)

    for baseline, target, against in (
        (count_in_a_function, 2, "in a function"),
        (count_in_a_list, None, "flat list"),
    ):
        measured = take_turns(pin_and_release, baseline, operations=keys, turns=turns)
        # The baseline only counts up; give its pins back, or the map looks held.
        for region in regions:
            region.guard.n = 0
        yield measured.row(f"pin + release / {against}, {size:,} regions", at_most=target)


def _find_and_count(index: RegionIndex[int], key: int) -> Region[int] | None:
    keys, slots = index._root
    keys, slots = slots[bisect_right(keys, key)]
    keys, slots = slots[bisect_right(keys, key)]
    region: Region[int] = slots[bisect_right(keys, key)]
    if key < region.end:
        region.guard.n += 1
        return region
    return None


def _find_and_count_in_list(
    starts: list[int], regions: list[Region[int]], key: int
) -> Region[int] | None:
    region = regions[bisect_right(starts, key) - 1]
    if key < region.end:
        region.guard.n += 1
        return region
    return None
