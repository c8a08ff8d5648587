"""The strategies: in which order an exploration takes the schedules of a program.

Each is one small file and a `Search`, as those of ``_search.py`` are. Who draws leaves it to
`Observed` to keep what is learned from the runs and to count what they have covered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from aspf.race._actions import cancels, is_cancellation
from aspf.race._search import Exhaustive, Random
from aspf.race._strategies._bounded import Bounded
from aspf.race._strategies._coverage import Coverage, Traces
from aspf.race._strategies._pct import PCT
from aspf.race._strategies._portfolio import Portfolio
from aspf.race._strategies._pos import POS
from aspf.race._strategies._profile import Profile
from aspf.race._strategies._starve import Starve
from aspf.race._strategies._swarm import Swarm
from aspf.race._strategies._urw import URW

if TYPE_CHECKING:
    from aspf.race._engine import Schedule
    from aspf.race._search import Search

__all__ = ("NAMES", "Coverage", "Observed", "make_search")

NAMES: Final = (
    "exhaustive",
    "preemption",
    "delay",
    "random",
    "pct",
    "pos",
    "urw",
    "swarm",
    "starve",
    "portfolio",
)
# Most bugs need a depth of 2 or 3; a search for 3 finds those of 2 as well.
PCT_DEPTH: Final = 3


def make_search(search: str, seed: int, shared: str) -> Search:
    """Make the search that a name means.

    Raises:
        ValueError: There is none of that name, or *shared* is neither of its two values.
    """
    if shared not in ("anything", "cells"):
        raise ValueError(f"shared={shared!r}: expected 'anything' or 'cells'")
    name, colon, depth = search.partition(":")
    if name not in NAMES or (colon and (name != "pct" or not depth.isdecimal() or int(depth) < 1)):
        names = ", ".join(repr(name) for name in NAMES)
        raise ValueError(f"search={search!r}: expected one of {names}, or 'pct:2' for a depth")
    only_cells = shared == "cells"
    if name == "exhaustive":
        return Exhaustive(reduce=only_cells)
    if name in ("preemption", "delay"):
        return Bounded(delays=name == "delay")
    profile, traces = Profile(), Traces(only_cells=only_cells)
    drawn: Search
    if name == "random":
        drawn = Random(seed)
    elif name == "pct":
        drawn = PCT(seed, profile, depth=int(depth or PCT_DEPTH))
    elif name == "pos":
        drawn = POS(seed, profile, only_cells=only_cells)
    elif name == "urw":
        drawn = URW(seed, profile)
    elif name == "swarm":
        drawn = Swarm(seed, profile)
    elif name == "starve":
        drawn = Starve(seed, profile)
    else:
        drawn = Portfolio(seed, profile, traces, only_cells=only_cells)
    return Observed(drawn, profile, traces)


@final
class Observed:
    """A search that draws, together with what is learned and counted on the way."""

    def __init__(self, search: Search, profile: Profile, traces: Traces) -> None:
        self._search = search
        self._profile = profile
        self._traces = traces
        self._pct_runs: dict[int, int] = {}

    @property
    def exhausted(self) -> bool:
        """Whether the search has chosen every schedule that matters."""
        return self._search.exhausted

    @property
    def enumerated(self) -> int:
        """How many complete schedules an enumeration has chosen."""
        return self._search.enumerated

    @property
    def reduces(self) -> bool:
        """Whether that takes one schedule of each trace only."""
        return self._search.reduces

    @property
    def coverage(self) -> Coverage:
        """What the runs have covered so far."""
        return Coverage(
            runs=self._traces.runs,
            traces=len(self._traces.counts),
            seen_once=self._traces.seen_once,
            tasks=self._profile.tasks,
            choices=self._profile.choices,
            pct_runs=dict(self._pct_runs),
        )

    def begin(self) -> bool:
        """Make ready for the next schedule; False if there is none left."""
        self._profile.begin()
        self._traces.begin()
        return self._search.begin()

    def pick(self, actions: list[int], schedule: Schedule) -> int | None:
        """Look at what has happened, and let the search choose."""
        self._profile.look(schedule)
        self._profile.offers_so_far += is_cancellation(actions[-1])
        if self._is_drawn:
            self._traces.look_back(schedule)
        action = self._search.pick(actions, schedule)
        if action is not None:
            steps = len(actions)
            while steps and is_cancellation(actions[steps - 1]):
                steps -= 1
            self._profile.took(action, steps=steps)
        return action

    def finish(self, schedule: Schedule) -> None:
        """Learn from a schedule that has ended."""
        self._search.finish(schedule)
        self._profile.look(schedule)
        if self._is_drawn:
            self._traces.finish(schedule)
            self._count_pct(schedule)
        self._profile.finish(schedule)

    def _count_pct(self, schedule: Schedule) -> None:
        """Count the run if PCT made it, and the theorem is about such a run."""
        member = getattr(self._search, "member", self._search)
        if (
            isinstance(member, PCT)
            and member.holds
            and member.choices >= self._profile.choices_so_far
            and not schedule.may_be_disturbed
            and not cancels(schedule.actions)
        ):
            self._pct_runs[member.depth] = self._pct_runs.get(member.depth, 0) + 1

    @property
    def _is_drawn(self) -> bool:
        return not isinstance(self._search, Portfolio) or self._search.is_drawn
