"""What the strategies that draw their schedules share.

All chance comes from ``random.random()``, which is the same on every Python for one seed. It is
seeded anew for each part of an exploration, with the seed and the number of the strategy's first
run there: so any process can make the part, and makes the same runs (see
``_strategies/_plans.py``). To seed it for each run would take as long as half a dozen steps do.
The moment of the one cancellation is drawn as soon as there could be one: a number, uniformly from
as many as there were moments in any schedule so far at which something could have been cancelled,
and some more, so that a part of the schedules has none.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.race._engine import Schedule
    from aspf.race._strategies._profile import Profile

__all__ = ("Drawn",)

# How many moments are supposed to offer a cancellation before there was any.
OFFERS: Final = 16


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
        self._is_seeded = False
        self._profile = profile
        #: At which of the moments that offer a cancellation to take it; not drawn yet if `None`.
        self._cancel_at: int | None = None
        self._looked_at = 0

    def begin(self, run: int) -> None:
        """Draw what holds for a whole run."""
        if not self._is_seeded:
            self._random.seed(self._seed + run)
            self._is_seeded = True
        self._cancel_at = None
        self._looked_at = 0
        self._start()

    def cancellation(self, cancellations: list[int]) -> int | None:
        """Choose one of *cancellations* if it is time to cancel something."""
        if self._cancel_at is None:
            offers = self._profile.known.offers or OFFERS
            self._cancel_at = self._below(offers + offers // 4 + 1)
        if self._profile.offers_so_far > self._cancel_at:
            return cancellations[self._below(len(cancellations))]
        return None

    def _start(self) -> None:  # noqa: B027 - not every strategy has something to draw
        """Begin a run."""

    @abstractmethod
    def choose(self, steps: list[int], schedule: Schedule) -> int:
        """Choose one of *steps*, which are at least two; task numbers come in ascending order.

        Where there was no choice nobody was asked, so `schedule.actions` may have grown by more
        than one since the last time.
        """

    def _taken(self, schedule: Schedule) -> list[int]:
        """Return the actions since the last time that this was asked in the run."""
        taken = schedule.actions[self._looked_at :]
        self._looked_at = len(schedule.actions)
        return taken

    def _below(self, n: int) -> int:
        return int(self._draw() * n)

    def _weighted(self, steps: list[int], weights: Sequence[int]) -> int:
        left = self._draw() * sum(weights)
        for step, weight in zip(steps, weights, strict=True):
            left -= weight
            if left < 0:
                return step
        return steps[-1]  # pragma: no cover - whole numbers below 2**53 leave nothing over
