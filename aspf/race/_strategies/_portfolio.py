"""The portfolio: several strategies by turns, since each has programs that it is bad at.

The first run takes the tasks round by round, as trio does, and shows how long a run is and who does
how much of it; the second does so in reverse. Then chance, POS, URW, PCT for depths 2 and 3, and swarm take one run each, again and again.
If most of what they draw was drawn before, the space is small: then an exhaustive search takes
over, and finishes. If it has not finished after a while the space was not as small as it seemed;
the strategies go on, and the exhaustive search has another and longer go later.
"""

from __future__ import annotations

from itertools import chain, cycle
from typing import TYPE_CHECKING, final

from aspf.race._search import Exhaustive, Random
from aspf.race._strategies._coverage import good_turing
from aspf.race._strategies._pct import PCT
from aspf.race._strategies._pos import POS
from aspf.race._strategies._swarm import Swarm
from aspf.race._strategies._urw import URW

if TYPE_CHECKING:
    from aspf.race._engine import Schedule
    from aspf.race._search import Search
    from aspf.race._strategies._coverage import Traces
    from aspf.race._strategies._profile import Profile

__all__ = ("Portfolio", "Rounds")

# The space is taken for small if the next run repeats an earlier one with this probability.
FAMILIAR = 0.5
# The fewest runs on which that is judged, and how many runs the exhaustive search has at first.
ENOUGH = 24
FIRST_GO = 1_000


@final
class Rounds:
    """Take one step of each task that can run, then again: in the order of creation, or in reverse.

    It is what trio's own loop does as long as nobody is woken.
    """

    exhausted = False
    enumerated = 0
    reduces = False

    def __init__(self, *, reverse: bool) -> None:
        self._reverse = reverse
        self._round: list[int] = []

    def begin(self) -> bool:
        """Forget the round of the run before."""
        self._round = []
        return True

    def pick(self, actions: list[int], schedule: Schedule) -> int:
        """Take the next of the round that can still run."""
        del schedule
        self._round = [action for action in self._round if action in actions]
        if not self._round:
            tasks = [action for action in actions if action >= 0]
            self._round = sorted(tasks, reverse=self._reverse) or actions[:1]
        return self._round.pop(0)

    def finish(self, schedule: Schedule) -> None:
        """Nothing to learn."""


@final
class Portfolio:
    """Choose by turns, and finish where that can be done.

    Args:
        seed: The same seed draws the same schedules.
        profile: What is known of the program's runs; somebody else keeps it.
        traces: What was drawn so far; likewise.
        only_cells: The tasks share nothing but cells.
    """

    def __init__(self, seed: int, profile: Profile, traces: Traces, *, only_cells: bool) -> None:
        seeds = iter(range(6 * seed, 6 * seed + 6))
        members: tuple[Search, ...] = (
            Random(next(seeds)),
            POS(next(seeds), profile, only_cells=only_cells),
            URW(next(seeds), profile),
            PCT(next(seeds), profile, depth=2),
            PCT(next(seeds), profile, depth=3),
            Swarm(next(seeds), profile),
        )
        self._members = chain((Rounds(reverse=True),), cycle(members))
        self._exhaustive = Exhaustive(reduce=only_cells)
        self._traces = traces
        self._turn = 0
        self._go = FIRST_GO
        self._left = 0  # runs of the exhaustive search's present go
        self._has_choices = False
        self._due = ENOUGH  # the number of drawn runs at which the space is judged next
        #: Whose turn it is.
        self.member: Search = Rounds(reverse=False)

    @property
    def exhausted(self) -> bool:
        """Whether the exhaustive search has finished, or there was nothing to search."""
        return self._exhaustive.exhausted or self._is_the_only_one

    @property
    def enumerated(self) -> int:
        """How many complete schedules the exhaustive search has chosen."""
        return 1 if self._is_the_only_one else self._exhaustive.enumerated

    @property
    def reduces(self) -> bool:
        """Whether that takes one schedule of each trace only."""
        return self._exhaustive.reduces

    @property
    def is_drawn(self) -> bool:
        """Whether the present run is drawn, and not one of an enumeration."""
        return self.member is not self._exhaustive

    def begin(self) -> bool:
        """Choose who chooses."""
        if self._is_the_only_one:
            return False
        if self._turn:
            self.member = self._next()
        self._turn += 1
        return self.member.begin()

    def pick(self, actions: list[int], schedule: Schedule) -> int | None:
        """Ask the member whose turn it is."""
        self._has_choices |= len(actions) > 1
        return self.member.pick(actions, schedule)

    def finish(self, schedule: Schedule) -> None:
        """Tell the member whose turn it is."""
        self.member.finish(schedule)

    @property
    def _is_the_only_one(self) -> bool:
        """Whether the first run has shown that there is no other."""
        return self._turn == 1 and not self._has_choices and self._traces.runs == 1

    def _next(self) -> Search:
        drawn = self._traces.runs
        if not self._left and drawn >= self._due:
            self._due = 2 * drawn
            if good_turing(self._traces.seen_once, drawn) < FAMILIAR:
                self._left, self._go = self._go, 2 * self._go
        if self._left:
            self._left -= 1
            return self._exhaustive
        return next(self._members)
