"""The portfolio: several strategies by turns, since each has programs that it is bad at.

The first run takes the tasks round by round, as trio does, and shows how long a run is and who does
how much of it; the second does so in reverse. Then chance, POS, URW, PCT for depths 2 and 3, and swarm take one run each, again and again.
If most of what they draw was drawn before, the space is small: then an exhaustive search takes
over, and finishes. If it has not finished after a while the space was not as small as it seemed;
the strategies go on, and the exhaustive search has another and longer go later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from aspf.race._strategies._pct import PCT
from aspf.race._strategies._pos import POS
from aspf.race._strategies._random import Random
from aspf.race._strategies._swarm import Swarm
from aspf.race._strategies._urw import URW

if TYPE_CHECKING:
    from collections.abc import Callable

    from aspf.race._engine import Schedule
    from aspf.race._strategies._drawn import Drawn
    from aspf.race._strategies._profile import Profile

__all__ = ("ENOUGH", "FAMILIAR", "FIRST_GO", "Rounds", "by_turns")

# The space is taken for small if the next run repeats an earlier one with this probability.
FAMILIAR: Final = 0.5
# The fewest runs on which that is judged, and how many runs the exhaustive search has at first.
ENOUGH: Final = 24
FIRST_GO: Final = 1_000


@final
class Rounds:
    """Take one step of each task that can run, then again: in the order of creation, or in reverse.

    It is what trio's own loop does as long as nobody is woken.
    """

    def __init__(self, *, reverse: bool) -> None:
        self._reverse = reverse
        self._round: list[int] = []
        self._looked_at = 0

    def begin(self, run: int) -> None:
        """Forget the round of the run before."""
        del run
        self._round = []
        self._looked_at = 0

    def cancellation(self, cancellations: list[int]) -> None:
        """Cancel nothing."""

    def choose(self, steps: list[int], schedule: Schedule) -> int:
        """Take the next of the round that can still run."""
        # Who had no choice has taken its step as well.
        for task in schedule.actions[self._looked_at :]:
            if task in self._round:
                self._round.remove(task)
        self._looked_at = len(schedule.actions)
        self._round = [task for task in self._round if task in steps]
        if not self._round:
            tasks = [step for step in steps if step >= 0]
            self._round = sorted(tasks, reverse=self._reverse) or steps[:1]
        return self._round[0]


def by_turns(seed: int, profile: Profile, *, only_cells: bool) -> Callable[[int], Drawn | Rounds]:
    """Say who draws the run of a number.

    Args:
        seed: The same seed draws the same schedules.
        profile: What is known of the program's runs.
        only_cells: The tasks share nothing but cells.
    """
    seeds = iter(range(6 * seed, 6 * seed + 6))
    members = (
        Random(next(seeds), profile),
        POS(next(seeds), profile, only_cells=only_cells),
        URW(next(seeds), profile),
        PCT(next(seeds), profile, depth=2),
        PCT(next(seeds), profile, depth=3),
        Swarm(next(seeds), profile),
    )
    first = Rounds(reverse=False), Rounds(reverse=True)
    return lambda run: first[run] if run < 2 else members[(run - 2) % len(members)]
