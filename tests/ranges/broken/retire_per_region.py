"""The design without leases: a payload is freed with each region that carries it.

The pieces of a split share their payload. Freed per region, it is freed once for each of them,
and the first time while readers use the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

from aspf import RangeMap, Region
from aspf.ranges._region import Lease

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def _ends_with_its_region(ranges: RangeMap[Any], region: Region[Any]) -> Lease[Any]:
    return Lease(region.payload)


def installed() -> AbstractContextManager[object]:
    """Let every region that is retired and not held take its payload with it."""
    return mock.patch.object(RangeMap, "_give_back", _ends_with_its_region)
