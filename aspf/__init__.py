"""Find a range without a lock, hold it while you use it, never take it from who still holds it."""

from ._errors import DrainDeadlock as DrainDeadlock
from ._errors import RangeInvalidated as RangeInvalidated
from ._errors import RangeNotFound as RangeNotFound
from ._errors import RangeOverlap as RangeOverlap
from ._errors import StaleEdit as StaleEdit
from ._exports import publish as _publish
from ._rwlock import ReadWriteLock as ReadWriteLock
from ._rwlock import ReadWriteLockStatistics as ReadWriteLockStatistics
from .ranges import Drain as Drain
from .ranges import RangeMap as RangeMap
from .ranges import RangeMapStatistics as RangeMapStatistics
from .ranges import Region as Region

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
