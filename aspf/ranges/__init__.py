"""Ranges, pins and drains: the range map for async programs.

`RangeMap` is what a program imports; the persistent `RegionIndex` and the pure `Edit` under it
are public for those who build on them, as `aspf.mm` does.
"""

from aspf._exports import publish as _publish

from ._edit import Edit as Edit
from ._index import RegionIndex as RegionIndex
from ._range_map import (
    Drain as Drain,
    EditBlock as EditBlock,
    RangeMap as RangeMap,
    RangeMapStatistics as RangeMapStatistics,
    UnsettledEdit as UnsettledEdit,
)
from ._region import Guard as Guard, Key as Key, Region as Region

__all__ = (
    "Drain",
    "Edit",
    "EditBlock",
    "Guard",
    "Key",
    "RangeMap",
    "RangeMapStatistics",
    "Region",
    "RegionIndex",
    "UnsettledEdit",
)

_publish(__name__, globals())
