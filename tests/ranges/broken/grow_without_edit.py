"""The design that calls growing harmless: a region that only got larger needs no edit.

Nobody loses a key by it, true. But who holds the smaller region is forgotten with it: removing
the grown region, which nobody holds yet, settles at once.
"""

from __future__ import annotations

from typing import Any

from aspf import RangeMap, Region
from aspf.ranges import Edit


def planned(ranges: RangeMap[Any], key: Any, end: Any) -> Edit[Any]:
    """Plan to let the region at *key* end at *end*."""
    region = ranges.find(key)
    assert region is not None
    return Edit((region,), (Region(region.start, end, region.payload),), ranges.index.version)


def grow(ranges: RangeMap[Any], key: Any, end: Any) -> None:
    """Put the larger region in the place of the smaller one, lease and all, and tell nobody."""
    edit = planned(ranges, key, end)
    for smaller, larger in zip(edit.old, edit.new, strict=True):
        larger._lease = smaller._lease
    ranges._index = ranges.index.edited(edit)
