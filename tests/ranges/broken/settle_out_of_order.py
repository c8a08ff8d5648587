"""The design that rule S forbids: an edit settles as soon as its own holders are gone.

Edit 1 cuts the tail off a region that somebody holds, edit 2 removes the rest. What edit 2 takes
is a new region that nobody ever held, so by its own holders alone it settles at once, and cleans
up a range that the holder of the old region is using.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

from aspf import RangeMap

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def _waits_for_nobody(ranges: RangeMap[Any], start: Any, end: Any) -> tuple[()]:
    return ()


def installed() -> AbstractContextManager[object]:
    """Let no edit wait for an earlier one."""
    return mock.patch.object(RangeMap, "unsettled", _waits_for_nobody)
