"""How tame a scheduler shows a failure: it is looked for again, one level further down each time.

What is possible at a level is possible at each one above. So a failure that a level can't show, of
which every schedule was tried, isn't looked for further down; one that wasn't found in some of them
is, since a tamer level has fewer schedules and may show it nonetheless. All failures are looked for
at the same time: the cost is that of one search for each level, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

from aspf._errors import NotDeterministic, TeardownStuck
from aspf.race._counts import Counts
from aspf.race._part import run_part
from aspf.race._settings import LEVELS
from aspf.race._strategies import make_plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set as AbstractSet

    from aspf.race._jobs import Order
    from aspf.race._minimise import Kind

__all__ = ("Below", "in_words", "weakest_levels")

# For each level: the most schedules, the fewest however long they are, and about how many steps.
MOST: Final = 200
FEWEST: Final = 20
STEPS: Final = 300_000


@final
@dataclass(frozen=True, slots=True)
class Below:
    """The level below one that has shown a failure; there, and further down, none was found."""

    #: Its name.
    level: str
    #: How many schedules were run there.
    schedules: int
    #: True if those were all there are, so that it can't fail so there.
    exhausted: bool
    #: Whether one schedule of each trace was run, of those that only differ in the order of steps
    #: that don't conflict.
    reduced: bool = False
    #: Why the search had to be given up, if it had to.
    refused: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        count = f"{self.schedules} schedule" + "s" * (self.schedules != 1)
        if self.refused:
            return f"given up at {self.level} after {count}: {self.refused}"
        if not self.exhausted:
            return f"not found at {self.level} in {count}"
        if self.reduced:
            traces = (
                f"each of its {self.schedules} traces" if self.schedules > 1 else "its only trace"
            )
            return f"impossible at {self.level} (a schedule of {traces} tried)"
        every = f"all {count}" if self.schedules > 1 else "its only schedule"
        return f"impossible at {self.level} ({every} tried)"


def in_words(level: str, below: Below | None) -> str:
    """Say in one line at which level a failure was seen, and where not.

    Examples:
        >>> in_words("stock", None)
        "stock, as today's trio runs it"
        >>> in_words("free", Below("batch", 36, exhausted=True))
        'free; impossible at batch (all 36 schedules tried)'
    """
    if below is not None:
        return f"{level}; {below}"
    return f"{level}, as today's trio runs it" if level == LEVELS[0] else level


def weakest_levels(
    program: Callable[[], Awaitable[object]],
    failures: Mapping[Kind, Sequence[int]],
    order: Order,
    check: Callable[[], object],
    is_over: Callable[[], bool],
) -> Iterator[tuple[Kind, str, Below | None]]:
    """Look for failures at the weaker levels.

    Args:
        program: The main task.
        failures: The ways of failing, each with a schedule.
        order: How they were found.
        check: Called before each run; may raise.
        is_over: Says whether the time is over; one run at each level is made nonetheless.

    Yields:
        For a way of failing the weakest level that has shown it so far, and the one below if it
        was not found there; for each again as soon as more is known.
    """
    wanted = set(failures)
    level = order.settings.level
    known: dict[Kind, tuple[str, Below | None]] = dict.fromkeys(failures, (level, None))
    longest = max(map(len, failures.values()), default=1)
    limit = max(FEWEST, min(MOST, STEPS // longest))
    for lower in reversed(LEVELS[: LEVELS.index(level)]):
        if not wanted:
            break
        # trio's own order is that of a run by itself.
        settings = replace(order.settings, level=lower, isolated=True)
        below_order = replace(order, settings=settings)
        found, below = _search(program, wanted, below_order, limit, check=check, is_over=is_over)
        for kind in failures:
            if kind in found:
                known[kind] = lower, None
            elif known[kind] == (level, None):
                known[kind] = level, below
            else:
                continue
            yield kind, *known[kind]
        if below.exhausted or below.refused or is_over():
            wanted &= found
        level = lower


def _search(
    program: Callable[[], Awaitable[object]],
    wanted: AbstractSet[Kind],
    order: Order,
    limit: int,
    *,
    check: Callable[[], object],
    is_over: Callable[[], bool],
) -> tuple[AbstractSet[Kind], Below]:
    """Run schedules until all that is wanted was seen; return what was, and what to say if not."""
    settings = order.settings
    plan = make_plan("portfolio", order.seed, order.shared)
    counts = Counts()
    runs = 0

    def stop(part: Counts) -> str:
        nonlocal runs
        check()
        runs = counts.runs + part.runs
        if wanted <= counts.endings.keys() | part.endings.keys():
            return "failure"
        if runs and is_over():
            return "seconds"
        # Runs without an end are the only ones that are much longer than the failures.
        endless = sum(
            ending.count
            for each in (counts, part)
            for kind, ending in each.endings.items()
            if kind[0] == "livelock?"
        )
        return "schedules" if runs >= limit or endless * settings.max_steps > STEPS else ""

    refused = ""
    try:
        while plan.fill():
            part = plan.queue[0].part
            search = plan.search(part)
            done = run_part(program, search, settings, stop, examine=False, stop_on_failure=False)
            counts.merge(done.counts)
            plan.count(part, done.counts.complete)
            if done.stopped_by == "interrupted":
                raise KeyboardInterrupt
            if not done.finished:
                break
            plan.done(plan.leave(search), done.counts.runs)
    except (NotDeterministic, TeardownStuck) as error:
        # Where no search has been yet, things may be done that none has met.
        refused = str(error)
    tried = plan.enumerated if plan.exhausted else runs
    below = Below(settings.level, tried, plan.exhausted, plan.exhausted and plan.reduces, refused)
    return wanted & counts.endings.keys(), below
