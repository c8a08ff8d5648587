"""Starvation: one task after the other is kept from running for a while.

The idea of rr's chaos mode (O'Callahan, 2016): some bugs need a task to stand still for longer
than chance allows. Between such intervals, and among the others, the draw is uniform. An interval
has a length of 1, 2, 4, ... steps, up to that of the longest run so far. Nobody is kept from
running who is the only one that can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aspf.race._strategies._drawn import Drawn

if TYPE_CHECKING:
    from aspf.race._engine import Schedule
    from aspf.race._strategies._profile import Profile

__all__ = ("Starve",)

# One choice in so many begins an interval, on average, if none is under way.
SELDOM = 4


@final
class Starve(Drawn):
    """Draw a task uniformly from all but the one that is starved."""

    def __init__(self, seed: int, profile: Profile) -> None:
        super().__init__(seed, profile)
        self._starved = -1
        self._until = 0

    def _start(self) -> None:
        self._until = 0

    def choose(self, steps: list[int], schedule: Schedule) -> int:
        """Choose one of *steps*."""
        now = len(schedule.actions)
        if now >= self._until and self._below(SELDOM) == 0:
            self._starved = steps[self._below(len(steps))]
            self._until = now + (1 << self._below(self._profile.known.longest.bit_length()))
        if now < self._until:
            steps = [task for task in steps if task != self._starved]
        return steps[self._below(len(steps))]
