"""PCT: priorities that change only a few times in a run.

Burckhardt, Kothari, Musuvathi and Nagarakatte, "A Randomized Scheduler with Probabilistic
Guarantees of Finding Bugs", ASPLOS 2010. Each task has a priority, drawn at random; the task with
the highest runs. At d - 1 moments, drawn in advance, the task that would run falls below all
others, to the place that goes with the moment. A bug that needs d ordering constraints is found in
a run with a probability of at least 1/(n k^(d-1)), n being the number of tasks and k the number of
moments.

As in shuttle, only moments at which more than one task can run are counted, and their number is
that of the longest run so far. So the first run has no change. Nothing in the paper is fair: a
task that polls would run for ever. Here it falls below all others when it was preferred a hundred
times in a row; the theorem isn't claimed for such a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aspf.race._strategies._drawn import Drawn

if TYPE_CHECKING:
    from aspf.race._engine import Schedule
    from aspf.race._strategies._profile import Profile

__all__ = ("PCT",)

# How often in a row a task is preferred to others.
PATIENCE = 100


@final
class PCT(Drawn):
    """Run the task with the highest priority.

    Args:
        seed: The same seed draws the same schedules.
        profile: What is known of the program's runs.
        depth: The number of ordering constraints of the bugs that are sought, from 1.
    """

    def __init__(self, seed: int, profile: Profile, *, depth: int) -> None:
        super().__init__(seed, profile)
        self.depth = depth
        #: How many choices the present run is supposed to have.
        self.choices = 1
        #: Whether the theorem holds for the present run, if it has no more than that.
        self.holds = True
        # By task; what was drawn lies in [0, 1), who has fallen is below zero.
        self._priorities: dict[int, float] = {}
        self._falls: dict[int, float] = {}
        self._lowest = 0.0
        self._running = -1
        self._in_a_row = 0

    def _start(self) -> None:
        self._priorities = {}
        self._falls = {}
        self.holds = True
        choices = self.choices = self._profile.known.choices
        for place in range(1, min(self.depth, choices)):
            at = 1 + self._below(choices - 1)
            while at in self._falls:
                at = 1 + self._below(choices - 1)
            self._falls[at] = -float(place)
        self._lowest = -float(self.depth)
        self._in_a_row = 0

    def choose(self, steps: list[int], schedule: Schedule) -> int:
        """Choose one of *steps*."""
        del schedule
        priorities = self._priorities
        for task in steps:
            if task not in priorities:
                # Drawing a number is to be inserted at a random rank.
                priorities[task] = self._draw()
        fall = self._falls.get(self._profile.choices_so_far)
        if fall is not None:
            priorities[max(steps, key=priorities.__getitem__)] = fall
        best = max(steps, key=priorities.__getitem__)
        self._in_a_row = self._in_a_row + 1 if best == self._running else 1
        self._running = best
        if self._in_a_row > PATIENCE:
            self._lowest -= 1
            priorities[best] = self._lowest
            self.holds = False
            best = max(steps, key=priorities.__getitem__)
        return best
