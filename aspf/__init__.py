"""Find a range without a lock, hold it while you use it, never take it from who still holds it."""

from ._errors import (
    DrainDeadlock as DrainDeadlock,
    RangeInvalidated as RangeInvalidated,
    RangeNotFound as RangeNotFound,
    RangeOverlap as RangeOverlap,
    StaleEdit as StaleEdit,
)
from ._exports import publish as _publish
from ._rwlock import (
    ReadWriteLock as ReadWriteLock,
    ReadWriteLockStatistics as ReadWriteLockStatistics,
)
from .ranges import (
    Drain as Drain,
    RangeMap as RangeMap,
    RangeMapStatistics as RangeMapStatistics,
    Region as Region,
)

__all__ = (
    "Drain",
    "DrainDeadlock",
    "RangeInvalidated",
    "RangeMap",
    "RangeMapStatistics",
    "RangeNotFound",
    "RangeOverlap",
    "ReadWriteLock",
    "ReadWriteLockStatistics",
    "Region",
    "StaleEdit",
)

_publish(__name__, globals())
