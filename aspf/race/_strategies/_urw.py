"""URW: a random walk that takes every interleaving with the same probability.

The walk that draws a task uniformly favours the interleavings in which some task is far ahead. If
each task is drawn with the weight of the steps that are left to do, its own and those of the
children that it has yet to start, every interleaving of a program whose tasks don't block is
equally likely (Zhao, Wolff, Mathur and Roychoudhury, "Selectively Uniform Concurrency Testing",
ASPLOS 2025; also in shuttle). How many steps a task has is learned from earlier runs; the first
run draws uniformly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aspf.race._strategies._drawn import Drawn

if TYPE_CHECKING:
    from aspf.race._engine import Schedule

__all__ = ("URW",)


@final
class URW(Drawn):
    """Draw a task with the weight of the steps that it has left."""

    def choose(self, steps: list[int], schedule: Schedule) -> int:
        """Choose one of *steps*."""
        self._profile.look(schedule)
        remaining = self._profile.remaining
        for task in self._taken(schedule):
            if task >= 0:
                remaining[task] -= 1
        # Who does more than in any run before has at least the step that he is at.
        return self._weighted(
            steps, [max(1, remaining[task]) if task >= 0 else 1 for task in steps]
        )
