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

    def _choose(self, steps: list[int], schedule: Schedule) -> int:
        del schedule
        return steps[0] if len(steps) == 1 else steps[int(self._draw() * len(steps))]
