"""What the strategies that draw their schedules share.

All chance comes from ``random.random()``, which is the same on every Python for one seed. It is
seeded anew for each run, with the seed and the run's number: so a run depends on nothing but these
and what was known from earlier runs, and any process can make it (see ``_strategies/_plans.py``). The moment of the one cancellation is drawn first: a number, uniformly from as many as there were
moments in any schedule so far at which something could have been cancelled, and some more, so
that a part of the schedules has none.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from aspf.race._actions import is_cancellation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.race._engine import Schedule
    from aspf.race._strategies._profile import Profile

__all__ = ("Drawn",)


class Drawn(ABC):
    """A search that never ends, and draws which task runs next.

    Args:
        seed: The same seed draws the same schedules.
        profile: What is known of the program's runs; somebody else keeps it.
    """

    def __init__(self, seed: int, profile: Profile) -> None:
        self._random = random.Random()  # noqa: S311
        self._draw = self._random.random
        self._seed = seed << 32
        self._profile = profile
        self._cancel_at = 0

    def begin(self, run: int) -> None:
        """Draw when to cancel, and whatever else holds for a whole run."""
        self._random.seed(self._seed + run)
        offers = self._profile.known.offers
        self._cancel_at = self._below(offers + offers // 4 + 1)
        self._start()

    def pick(self, actions: list[int], schedule: Schedule) -> int:
        """Cancel somebody if it is time to; else let the strategy choose a step."""
        if actions[-1] >= 0 or not is_cancellation(actions[-1]):
            return self._choose(actions, schedule)
        steps = [action for action in actions if not is_cancellation(action)]
        if self._profile.offers_so_far > self._cancel_at:
            return actions[len(steps) + self._below(len(actions) - len(steps))]
        return self._choose(steps, schedule)

    def finish(self, schedule: Schedule) -> None:  # noqa: B027 - a hook of `Search`
        """Nothing: what is learned from a run is in the profile."""

    def _start(self) -> None:  # noqa: B027 - not every strategy has something to draw
        """Begin a run."""

    @abstractmethod
    def _choose(self, steps: list[int], schedule: Schedule) -> int:
        """Choose one of *steps*: task numbers in ascending order, or only `TIME`."""

    def _below(self, n: int) -> int:
        return int(self._draw() * n)

    def _weighted(self, steps: list[int], weights: Sequence[int]) -> int:
        left = self._draw() * sum(weights)
        for step, weight in zip(steps, weights, strict=True):
            left -= weight
            if left < 0:
                return step
        return steps[-1]  # pragma: no cover - whole numbers below 2**53 leave nothing over
