"""When an exploration ends before its end: its limits, and what is told meanwhile.

The clock only decides when to stop, never what is run: of two explorations with the same options
one that is stopped earlier has run a part of what the other has.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Set as AbstractSet

    from aspf.race._counts import Counts
    from aspf.race._minimise import Kind

__all__ = ("Limits", "Progress")

# Seconds between two calls of somebody who wants to know how far we are.
INTERVAL: Final = 0.1


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far an exploration is."""

    #: Runs so far, pruned ones included, and how many there are to be at most.
    runs: int
    limit: int
    #: Seconds since its beginning, and how many there are to be at most.
    elapsed: float
    seconds: float
    #: Ways of failing and outcomes that were found so far.
    failures: int
    outcomes: int


@final
class Limits:
    """Says when to stop, and tells how far it is.

    Args:
        runs: How many runs at most.
        seconds: No run but the first begins later than that after the beginning.
        progress: Is called about ten times a second, between two runs.

    Raises:
        ValueError: A limit leaves nothing to be run.
    """

    def __init__(
        self, runs: int, seconds: float, progress: Callable[[Progress], object] | None
    ) -> None:
        if runs < 1:
            raise ValueError(f"schedules={runs!r}: expected at least 1")
        if not seconds > 0:
            raise ValueError(f"seconds={seconds!r}: expected more than 0")
        #: How many runs at most.
        self.runs = runs
        self._seconds = seconds
        self._progress = progress
        self._begun = time.monotonic()
        self._tell_at = self._begun + INTERVAL
        # Most explorations ask for neither: they don't look at the clock.
        self._is_timed = progress is not None or seconds < math.inf

    def reached(self, counts: Counts, part: Counts) -> str:
        """Say which limit has been reached, if any; tell how far it is if that is due.

        Args:
            counts: What was counted in earlier parts.
            part: What was counted in the present one.
        """
        runs = counts.runs + part.runs
        if runs >= self.runs:
            return "schedules"
        if not self._is_timed:
            return ""
        kinds = counts.endings.keys() | part.endings.keys()
        return "seconds" if self.is_over(runs, kinds) and runs else ""

    def is_over(self, runs: int, kinds: AbstractSet[Kind]) -> bool:
        """Say whether the time is over; tell how far it is if that is due.

        Args:
            runs: How many runs there were so far.
            kinds: In which ways they have ended.
        """
        now = time.monotonic()
        if self._progress is not None and now >= self._tell_at:
            self._tell_at = now + INTERVAL
            failures = sum(kind[0] != "passes" for kind in kinds)
            self._progress(
                Progress(
                    runs=runs,
                    limit=self.runs,
                    elapsed=now - self._begun,
                    seconds=self._seconds,
                    failures=failures,
                    outcomes=len(kinds) - failures,
                )
            )
        return now >= self._begun + self._seconds

    @property
    def time_is_over(self) -> bool:
        """Whether no run may begin any more, whatever there is left to find out."""
        return self._seconds < math.inf and time.monotonic() >= self._begun + self._seconds
