"""Chance: whoever can run may run next, with the same probability."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aspf.race._strategies._drawn import Drawn

if TYPE_CHECKING:
    from aspf.race._engine import Schedule

__all__ = ("Random",)


@final
class Random(Drawn):
    """Choose uniformly among the tasks that can run."""

    def choose(self, steps: list[int], schedule: Schedule) -> int:
        """Choose one of *steps*."""
        del schedule
        return steps[int(self._draw() * len(steps))]
