"""A failure with the fewest context switches, found by replays. What is replayed is planned here.

**Departures.** Under the *usual* scheduler a task runs until it can't go on; then the lowest
number runs that can; time passes when nobody can; nobody is cancelled. Any schedule is the usual
one with departures from it: after the n-th turn of one task, not the usual action but another.
That is what a report calls a switch. What must follow from it (a task sleeps or ends, and the next
one is taken) isn't counted. A departure is named by the task that was left and its count of turns,
not by its place in the schedule, so that it still means the same when others are taken out.
A replay is tolerant: where a departure's action can't be taken, the usual one is.

**Four ways down.** Steps that have nothing to do with each other are exchanged so that each task
runs on as long as what conflicts lets it (a normal form of the schedule's Mazurkiewicz trace; what
conflicts is taken from what the steps touched). Departures are taken out, many at a time at first,
as in delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
TSE 28(2), 2002). All schedules with fewer departures are tried, none first, then each single one,
as far as the replays reach. At last each departure that is left is taken out by itself.

Nothing is believed that was not replayed: a schedule is taken for simpler only if it was run, has
fewer departures, and fails in the same way, the message included. So it does not matter if steps
touch what nobody has announced. "Necessary" is what the last replays show: without this switch,
and with the others, the program does something else.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, final

from aspf.race._actions import TIME, is_time, task_of
from aspf.race._search import _conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aspf.race._engine import Schedule
    from aspf.race._footprint import Footprint

__all__ = ("Along", "Choice", "Departure", "Follow", "Found", "Kind", "minimise", "normal_form")

# Finding out what conflicts takes the square of a schedule's length.
_LONGEST_TO_EXCHANGE = 2_000

# How a run ended: in which way, and with what message or result.
Kind = tuple[str, str]


class Departure(NamedTuple):
    """After the *nth* time that *after* was done, do *to* and not the usual."""

    after: int
    nth: int
    to: int


class Choice(NamedTuple):
    """One point of a run: what was done before, what could be done, what was."""

    after: int
    nth: int
    actions: tuple[int, ...]
    usual: int
    taken: int

    @property
    def departure(self) -> Departure | None:
        """The departure that was made here, if one was."""
        return None if self.taken == self.usual else Departure(self.after, self.nth, self.taken)

    @property
    def preempts(self) -> bool:
        """Whether a task was left that could have gone on."""
        return self.after >= 0 and self.after in self.actions


class Follow:
    """Chooses the usual, but for some departures; keeps what it was asked and what was done."""

    follows_steps = True

    def __init__(self, departures: Sequence[Departure] = ()) -> None:
        self._to = {(after, nth): to for after, nth, to in departures}
        self._done: Counter[int] = Counter()
        # Before the first step there is nothing but the main task.
        self._last = 0
        self.choices: list[Choice] = []
        self.footprints: list[Footprint] = []

    def pick(self, actions: list[int], schedule: Schedule) -> int:
        """Take the wish for this point if it is possible, else the usual."""
        self._look_back(schedule)
        after, nth = self._last, self._done[self._last]
        usual = _usual(after, actions)
        wish = self._wish(after, nth)
        taken = wish if wish in actions else usual
        self.choices.append(Choice(after, nth, tuple(actions), usual, taken))
        self._done[taken] += 1
        self._last = taken
        return taken

    def finish(self, schedule: Schedule) -> None:
        """Look back on the last step."""
        self._look_back(schedule)

    def _wish(self, after: int, nth: int) -> int | None:
        return self._to.get((after, nth))

    def _look_back(self, schedule: Schedule) -> None:
        if len(self.footprints) < len(self.choices):
            schedule.note_cancellations()
            self.footprints.append(schedule.footprint())


@final
class Along(Follow):
    """Follows a list of actions as far as it is possible."""

    def __init__(self, actions: Sequence[int]) -> None:
        super().__init__()
        self._list = actions

    def _wish(self, after: int, nth: int) -> int | None:  # noqa: ARG002
        at = len(self.choices)
        return self._list[at] if at < len(self._list) else None


class Found(NamedTuple):
    """The simplest schedule that was found."""

    actions: tuple[int, ...]
    #: The departures that are left, in order.
    switches: tuple[Choice, ...]
    #: For each what the program did without it; ``None`` if no replay was left for it.
    without: tuple[Kind | None, ...]
    #: True if no schedule with fewer departures does the same.
    fewest: bool
    #: How many times the program was run.
    replays: int
    #: True if it might have been run more often, but the time was over.
    out_of_time: bool = False


def minimise(
    actions: Sequence[int],
    run: Callable[[Follow], Kind],
    *,
    replays: int,
    is_over: Callable[[], bool] = lambda: False,
) -> Found | None:
    """Find a schedule that ends as the given one does, with few departures from the usual.

    Args:
        actions: The schedule.
        run: Runs the program once, asking the chooser, and says how it ended.
        replays: How often it may be run, at least once.
        is_over: Says whether the time is over; the first run is made nonetheless.

    Returns:
        What was found; ``None`` if the program did not repeat the schedule.
    """
    search = _Minimiser(run, replays, is_over)
    first = search.attempt(Along(actions))
    if first is None or first.actions != tuple(actions):
        return None
    best = search.reduce(first)
    while True:
        below, fewest = search.below(best)
        if below is not None:
            best = search.reduce(below)
            continue
        without = [search.attempt(Follow(rest)) for rest in _one_less(best.departures)]
        better = next((each for each in without if each and each.kind == best.kind), None)
        if better is None:
            break
        best = search.reduce(better)
    return Found(
        best.actions,
        tuple(choice for choice in best.choices if choice.departure is not None),
        tuple(each.kind if each else None for each in without),
        # Nothing is said of all without what each switch does.
        fewest and not search.out_of_time,
        search.replays,
        search.out_of_time,
    )


class _Attempt(NamedTuple):
    kind: Kind
    choices: tuple[Choice, ...]
    footprints: tuple[Footprint, ...]

    @property
    def actions(self) -> tuple[int, ...]:
        return tuple(choice.taken for choice in self.choices)

    @property
    def departures(self) -> list[Departure]:
        return [choice.departure for choice in self.choices if choice.departure is not None]


class _Minimiser:
    """Runs what is planned, and never more often or longer than it may."""

    def __init__(
        self, run: Callable[[Follow], Kind], limit: int, is_over: Callable[[], bool]
    ) -> None:
        self._run = run
        self._limit = limit
        self._is_over = is_over
        self.replays = 0
        self.out_of_time = False

    def attempt(self, chooser: Follow, *, reserve: int = 0) -> _Attempt | None:
        """Run once; ``None`` if nothing is left to spend but the reserve."""
        if self.out_of_time or self.replays >= self._limit - reserve:
            return None
        self.out_of_time = self.replays > 0 and self._is_over()
        if self.out_of_time:
            return None
        self.replays += 1
        kind = self._run(chooser)
        return _Attempt(kind, tuple(chooser.choices), tuple(chooser.footprints))

    def reduce(self, best: _Attempt) -> _Attempt:
        """Exchange steps, then take departures out, until neither helps."""
        while True:
            before = len(best.departures)
            best = self._drop(self._exchange(best))
            if len(best.departures) == before:
                return best

    def below(self, best: _Attempt) -> tuple[_Attempt | None, bool]:
        """Try the schedules with fewer departures.

        Returns:
            One that ends the same, if there is any; and whether all were tried in vain.
        """
        plans: list[list[Departure]] = [[]]
        reserve = len(best.departures)
        for _ in range(len(best.departures)):
            longer: list[list[Departure]] = []
            for plan in plans:
                attempt = self.attempt(Follow(plan), reserve=reserve)
                if attempt is None:
                    return None, False
                if attempt.kind == best.kind:
                    return attempt, False
                longer += ([*plan, extra] for extra in _alternatives(attempt.choices))
                # No need to plan what won't be run.
                del longer[self._limit :]
            plans = longer
        return None, True

    def _exchange(self, best: _Attempt) -> _Attempt:
        if len(best.choices) > _LONGEST_TO_EXCHANGE:
            return best
        order = normal_form(best.actions, best.footprints)
        if order == list(best.actions):
            return best
        attempt = self.attempt(Along(order))
        same = attempt is not None and attempt.kind == best.kind
        if attempt is None or not same or len(attempt.departures) > len(best.departures):
            return best
        return attempt

    def _drop(self, best: _Attempt) -> _Attempt:
        size = max(len(best.departures) // 2, 1)
        at, helped = 0, False
        while best.departures:
            plan = best.departures
            if at >= len(plan):
                if size == 1 and not helped:
                    break
                size, at, helped = max(size // 2, 1), 0, False
            rest = plan[:at] + plan[at + size :]
            attempt = self.attempt(Follow(rest), reserve=len(plan))
            if attempt is None:
                break
            if attempt.kind == best.kind:
                best, helped = attempt, True
            else:
                at += size
        return best


def _usual(last: int, actions: Sequence[int]) -> int:
    task = last if last == TIME else task_of(last)
    return task if task in actions else actions[0]


def _one_less(plan: Sequence[Departure]) -> Iterator[list[Departure]]:
    return ([*plan[:i], *plan[i + 1 :]] for i in range(len(plan)))


def _alternatives(choices: Sequence[Choice]) -> Iterator[Departure]:
    """Departures that could be made after the last one that was."""
    start = max((i for i, choice in enumerate(choices) if choice.departure), default=-1) + 1
    for choice in choices[start:]:
        for action in choice.actions:
            if action != choice.usual:
                yield Departure(choice.after, choice.nth, action)


def normal_form(actions: Sequence[int], footprints: Sequence[Footprint]) -> list[int]:
    """Exchange neighbours that don't conflict until each task runs on as long as it may.

    Args:
        actions: A schedule.
        footprints: What each action touched.

    Returns:
        The same actions; any two that conflict are in the same order.

    Complexity:
        Quadratic in the number of actions.
    """
    after: list[list[int]] = [[] for _ in actions]
    waits_for = [0] * len(actions)
    for later, action in enumerate(actions):
        for earlier in range(later):
            if action in footprints[earlier].started or _conflict(
                actions[earlier], footprints[earlier], action, footprints[later]
            ):
                after[earlier].append(later)
                waits_for[later] += 1
    # Invariant: holds at most one action a lane, since those of one lane conflict.
    free = {_task(action): i for i, action in enumerate(actions) if not waits_for[i]}
    order: list[int] = []
    last = 0
    while free:
        last = last if last in free else min(free)
        i = free.pop(last)
        order.append(actions[i])
        for later in after[i]:
            waits_for[later] -= 1
            if not waits_for[later]:
                free[_task(actions[later])] = later
    return order


def _task(action: int) -> int:
    """Whose lane an action is in; time has one of its own, behind all others."""
    if is_time(action):
        return 1 << 30
    return task_of(action)
