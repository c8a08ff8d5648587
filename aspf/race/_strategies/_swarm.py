"""Swarm: a random walk with a weight for each task, drawn anew for each run.

Walker's thesis on it finds as many bugs as PCT with three priorities, without the need to know
how long a run is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aspf.race._strategies._drawn import Drawn

if TYPE_CHECKING:
    from aspf.race._engine import Schedule
    from aspf.race._strategies._profile import Profile

__all__ = ("Swarm",)

HEAVIEST = 50


@final
class Swarm(Drawn):
    """Draw a task with the weight that it has in this run, from 1 to 50."""

    def __init__(self, seed: int, profile: Profile) -> None:
        super().__init__(seed, profile)
        self._weights: dict[int, int] = {}

    def _start(self) -> None:
        self._weights = {}

    def choose(self, steps: list[int], schedule: Schedule) -> int:
        """Choose one of *steps*."""
        del schedule
        weights = self._weights
        for task in steps:
            if task not in weights:
                weights[task] = 1 + self._below(HEAVIEST)
        return self._weighted(steps, [weights[task] for task in steps])
