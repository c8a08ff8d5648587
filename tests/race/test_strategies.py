"""In which order schedules are taken, what that promises, and what is said to be covered."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings
from race._programs import (
    account,
    deadlock01,
    lazy01,
    lost_update,
    stringbuffer,
    twostage,
    use_after_free,
)
from race.test_search import enumerate_all, make, plans

from aspf.race import Cell, Coverage, NotDeterministic, explore, replay
from aspf.race._engine import Schedule
from aspf.race._runner import exploring
from aspf.race._search import Exhaustive
from aspf.race._settings import Settings
from aspf.race._strategies import NAMES, make_plan
from aspf.race._strategies._coverage import Traces, good_turing, pct_miss
from aspf.race._strategies._urw import URW

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from race.test_search import Op

    from aspf.race._search import Search
    from aspf.race._settings import Cancel

    Program = Callable[[], Awaitable[object]]


class Whole:
    """All parts of a plan, one after the other, as one search."""

    def __init__(self, search: str, seed: int, shared: str) -> None:
        self.plan: Any = make_plan(search, seed, shared)
        self.part: Any = None

    @property
    def exhausted(self) -> bool:
        return self.plan.exhausted

    def begin(self) -> bool:
        if self.part is not None and self.part.begin():
            self.runs += 1
            return True
        if self.part is not None:
            self.plan.done(self.plan.leave(self.part), self.runs)
        self.part = None
        if not self.plan.fill():
            return False
        self.part, self.runs = self.plan.search(self.plan.queue[0].part), 0
        return self.begin()

    @property
    def follows_steps(self) -> bool:
        return self.part.follows_steps

    def pick(self, actions: list[int], schedule: Schedule) -> int | None:
        return self.part.pick(actions, schedule)

    def finish(self, schedule: Schedule) -> None:
        self.part.finish(schedule)


DRAWN = ("random", "pct", "pct:1", "pos", "urw", "swarm", "starve", "portfolio")


def schedules(
    program: Program, search: Search, *, limit: int = 10_000, cancel: Cancel = "never"
) -> Iterator[Schedule]:
    """Run one schedule after the other."""
    with exploring():
        while limit and search.begin():
            limit -= 1
            schedule = Schedule(program, search, Settings(cancel=cancel, max_steps=1_000))
            schedule.run()
            yield schedule


def steps(*plan: int) -> Program:
    """A program whose tasks only take steps: so many each, beside their start."""

    async def program() -> None:
        async def take(count: int) -> None:
            for _ in range(count):
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for count in plan:
                nursery.start_soon(take, count)

    return program


# -- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [*NAMES, "pct:2"])
@pytest.mark.parametrize("shared", ["anything", "cells"])
def test_each_finds_a_bug_and_its_token_replays(search: str, shared: Any) -> None:
    """A strategy that can't be told from another run by its report is of no use to anybody."""
    found = explore(twostage, search=search, seed=3, shared=shared)
    assert str(explore(twostage, search=search, seed=3, shared=shared)) == str(found)
    assert found.search == search
    (failure,) = found.failures
    again = replay(twostage, failure.token)
    assert again is not None
    assert again.summary == failure.summary


@pytest.mark.parametrize("search", [*NAMES, "pct:2"])
def test_each_survives_what_programs_do(search: str) -> None:
    """Time, cancellations, freed memory and nested tasks come in every exploration."""
    found = explore(use_after_free, search=search, shared="cells", cancel="each", schedules=400)
    assert found.failures

    async def program() -> int:
        async def nap(seconds: int) -> None:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, seconds)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(nap, 1)
            nursery.start_soon(nap, 1)
        return 0

    found = explore(program, search=search, shared="cells", cancel="each", schedules=60)
    assert not found.failures
    assert found.cancellations
    assert found.pruned or search == "preemption"  # a cancellation that met the shield


def test_shared_is_checked_for_every_search() -> None:
    """An option that is silently ignored is a promise that isn't kept."""
    with pytest.raises(ValueError, match="shared='nothing'"):
        Whole("pos", 0, "nothing")


@pytest.mark.parametrize("search", ["pct:0", "pct:x", "pct:", "pos:2", "", "dfs"])
def test_names_that_mean_nothing(search: str) -> None:
    """A misspelt strategy that is silently another one finds nothing, and nobody knows why."""
    with pytest.raises(ValueError, match="expected one of 'exhaustive'"):
        explore(twostage, search=search)


@pytest.mark.parametrize("search", DRAWN)
def test_nobody_polls_for_ever(search: str) -> None:
    """A task that polls must not keep the one that it waits for from running: no livelock."""

    async def program() -> None:
        done = False

        async def poll() -> None:
            while not done:
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            nursery.start_soon(poll)
            await trio.lowlevel.checkpoint()
            done = True

    assert not explore(program, search=search, schedules=50, max_steps=3_000).failures


# -- PCT ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "depth"), [(twostage, 2), (stringbuffer, 3)])
def test_pct_keeps_its_promise(program: Program, depth: int) -> None:
    """Fewer finds than the theorem promises, and the bound in the report is a lie."""
    found = explore(
        program, search=f"pct:{depth}", shared="cells", schedules=800, stop_on_failure=False
    )
    coverage = found.coverage
    assert coverage is not None
    hits = sum(failure.count for failure in found.failures)
    assert hits / found.schedules >= 1 / (coverage.tasks * coverage.choices ** (depth - 1))


def test_pct_does_not_find_what_is_deeper() -> None:
    """The change points are counted: one more than asked for would spoil the others' bound."""
    shallow = explore(stringbuffer, search="pct:2", shared="cells", schedules=600)
    assert not shallow.failures
    assert explore(stringbuffer, search="pct:3", shared="cells", schedules=600).failures


def test_pct_runs_of_a_program_without_choices() -> None:
    """No change point can be drawn where there is nothing to change."""
    found = explore(steps(3), search="pct:5", schedules=5)
    assert (found.schedules, found.coverage and found.coverage.choices) == (5, 1)


# -- URW, swarm, starvation -----------------------------------------------------------------------


def test_urw_is_uniform() -> None:
    """Every interleaving as often as any other; a plain walk is off by a factor of ten here."""

    def spread(search: str) -> float:
        drawn = list(schedules(steps(1, 4), Whole(search, 0, "anything"), limit=1_700))
        counts: dict[tuple[int, ...], int] = {}
        for schedule in drawn[1:]:
            actions = tuple(schedule.actions)
            counts[actions] = counts.get(actions, 0) + 1
        assert len(counts) == 21  # 2 steps among 7
        return max(counts.values()) / min(counts.values())

    assert spread("urw") < 2
    assert spread("random") > 5


def test_urw_counts_the_children_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that has yet to start others has their steps to do as well."""

    async def program() -> None:
        async def parent() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)
                nursery.start_soon(trio.lowlevel.checkpoint)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(parent)
            nursery.start_soon(trio.lowlevel.checkpoint)

    search: Any = Whole("urw", 5, "anything")
    left: list[tuple[int, int]] = []
    inner = URW.choose

    def choose(self: URW, steps: list[int], schedule: Schedule) -> int:
        step = inner(self, steps, schedule)
        left.append((len(schedule.actions), sum(self._profile.remaining)))
        return step

    monkeypatch.setattr(URW, "choose", choose)
    lengths = []
    for schedule in schedules(program, search, limit=20):
        lengths.append(len(schedule.actions))
        if len(lengths) > 1:  # the first has shown how long they are
            assert left
            assert all(done + to_do == lengths[0] for done, to_do in left)
        left.clear()
    assert len(set(lengths)) == 1


def test_swarm_prefers_somebody() -> None:
    """With weights from 1 to 50 one task is often far ahead, and nobody is forgotten."""
    search: Any = Whole("swarm", 1, "anything")
    ahead = 0
    weights: set[int] = set()
    for schedule in schedules(steps(6, 6), search, limit=400):
        ahead += len(set(schedule.actions[1:8])) == 1
        weights |= set(search.part.member._weights.values())
    assert ahead > 40  # a plain walk: 400 / 64
    assert (min(weights), max(weights)) == (1, 50)


def test_starvation_reaches_what_chance_does_not() -> None:
    """A bug that needs a task to stand still for twenty steps of the other."""

    async def program() -> None:
        progress = Cell(0, "progress")

        async def late() -> None:
            if await progress.get() >= 20:
                raise AssertionError("so late")

        async def work() -> None:
            for _ in range(24):
                await progress.update(lambda n: n + 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)
            nursery.start_soon(work)

    assert explore(program, search="starve", schedules=300, shared="cells").failures
    assert not explore(program, search="random", schedules=300, shared="cells").failures


# -- bounded search --------------------------------------------------------------------------------


def preemptions(actions: list[int], schedule_of: dict[int, list[int]]) -> int:
    """Count the switches away from a task that could have gone on."""
    return sum(b != a and a in schedule_of[i + 1] for i, (a, b) in enumerate(pairwise(actions)))


@pytest.mark.parametrize("search", ["preemption", "delay"])
@pytest.mark.parametrize("program", [lost_update(2), deadlock01, twostage, stringbuffer])
@pytest.mark.parametrize("cancel", ["never", "each"])
def test_bounded_search_takes_every_schedule_once(
    search: str, program: Program, cancel: Cancel
) -> None:
    """One left out is a bug that is said not to be there; one taken twice is time lost."""

    def runs(searching: Search) -> list[tuple[str | None, tuple[int, ...]]]:
        # Those that are given up when a cancellation has met a shield are the engine's affair.
        done = schedules(program, searching, cancel=cancel, limit=600)
        return [(schedule.verdict, tuple(schedule.actions)) for schedule in done]

    bounded = Whole(search, 0, "anything")
    found, expected = runs(bounded), runs(Exhaustive(reduce=False))
    assert len(found) == len(expected)
    if len(expected) < 600:
        assert bounded.exhausted
        assert sorted(found, key=repr) == sorted(expected, key=repr)
        assert not bounded.begin()
    assert len(set(found)) == len(found)


def test_few_preemptions_first() -> None:
    """The bound at which a bug is found is the bound that it needs."""
    search: Any = Whole("preemption", 0, "anything")
    offered: dict[int, list[int]] = {}
    inner = search.pick

    def pick(actions: list[int], schedule: Schedule) -> int:
        offered[len(schedule.actions)] = actions
        return int(inner(actions, schedule))

    search.pick = pick
    bounds = []
    for schedule in schedules(twostage, search, limit=2_000):
        assert preemptions(schedule.actions, offered) == search.plan.bound
        bounds.append(search.plan.bound)
        offered.clear()
    assert bounds == sorted(bounds)
    assert bounds[0] == 0
    assert bounds.count(0) == 2  # who of the two begins


@pytest.mark.parametrize(
    ("program", "search", "bound"),
    [
        (lost_update(2), "preemption", 1),
        (lost_update(2), "delay", 1),
        (stringbuffer, "preemption", 2),
        (stringbuffer, "delay", 2),
        (lazy01, "preemption", 0),
        (account, "preemption", 0),
        (account, "delay", 1),
    ],
)
def test_the_bounds_that_bugs_need(program: Program, search: str, bound: int) -> None:
    """The numbers that others have published for these programs."""
    bounded: Any = Whole(search, 0, "anything")
    for schedule in schedules(program, bounded):
        if schedule.verdict is not None:
            break
    assert bounded.plan.bound == bound


def test_a_program_that_does_not_repeat_itself() -> None:
    """A path that can't be followed must not be followed halfway."""
    runs = 0

    async def program() -> None:
        nonlocal runs
        runs += 1
        async with trio.open_nursery() as nursery:
            for _ in range(2 + runs % 2):
                nursery.start_soon(trio.lowlevel.checkpoint)

    with pytest.raises(NotDeterministic, match="did not repeat itself: at step 2"):
        explore(program, search="delay")


# -- the portfolio ---------------------------------------------------------------------------------


def test_the_portfolio_finishes_what_is_small() -> None:
    """Drawing for ever from what could be shown to hold leaves a user without a proof."""
    found = explore(lost_update(3), search="portfolio", shared="cells", stop_on_failure=False)
    assert found.exhausted
    assert found.schedules < 500
    coverage = found.coverage
    assert coverage is not None
    assert coverage.runs < found.schedules
    assert explore(steps(0), search="portfolio").exhausted


def test_the_portfolio_goes_on_where_it_was_mistaken() -> None:
    """An exhaustive search that doesn't come to its end must not keep the others from running."""

    async def program() -> None:
        cells = [Cell(0, f"cell {i}") for i in range(2)]

        async def work(cell: Cell[int]) -> None:
            for _ in range(9):
                await cell.update(lambda n: n + 1)

        async def rarely() -> None:
            if await cells[0].get() == 9:
                await work(cells[0])
                await work(cells[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, cells[0])
            nursery.start_soon(work, cells[0])
            nursery.start_soon(rarely)

    search: Any = Whole("portfolio", 0, "cells")
    plan = search.plan
    plan.first, plan.go = 256, 1
    plan.learned.runs = 180  # as if most had been seen
    kinds = [
        type(getattr(search.part, "member", search.part)).__name__
        for _ in schedules(program, search, limit=1_500)
    ]
    assert kinds[0] == "Exhaustive"
    assert kinds.count("Exhaustive") > 900  # a part is run to its end
    assert not search.exhausted
    drawn = 1_500 - kinds.count("Exhaustive")
    assert drawn > 200
    assert search.plan.coverage.runs == 180 + 256


# -- coverage ----------------------------------------------------------------------------------


def count_traces(program: Program, *, limit: int = 10_000) -> int | None:
    """Count the traces of all schedules by their numbers, without any reduction."""
    traces, search = Traces(only_cells=True), Exhaustive(reduce=False)

    class Watching:
        exhausted = False
        follows_steps = True

        def begin(self) -> bool:
            traces.begin()
            return search.begin()

        def pick(self, actions: list[int], schedule: Schedule) -> int | None:
            traces.look_back(schedule)
            return search.pick(actions, schedule)

        def finish(self, schedule: Schedule) -> None:
            search.finish(schedule)
            traces.finish(schedule)

    for _ in schedules(program, Watching(), limit=limit):
        pass
    return len(traces.counts) if search.exhausted or not search.begin() else None


@pytest.mark.parametrize(
    ("program", "traces"),
    [
        (lost_update(2), 4),
        (lost_update(3), 36),
        (account, 6),
        (deadlock01, 3),
        (lazy01, 6),
        (stringbuffer, 6),
        (twostage, 3),
    ],
)
def test_traces_are_told_apart(program: Program, traces: int) -> None:
    """Two numbers for one trace, and the estimate of what is unseen never falls."""
    assert count_traces(program) == traces


@settings(max_examples=25)
@given(plans(tasks=3, ops=2))
def test_traces_of_random_programs(drawn: list[list[Op]]) -> None:
    """As many numbers among all schedules as an exhaustive search runs schedules."""
    program = make(drawn)
    if enumerate_all(program, "all", cancel="never", limit=200) is None:
        return
    reduced = enumerate_all(program, "both", cancel="never", limit=200)
    assert reduced is not None
    assert count_traces(program) == reduced.complete


def test_what_is_covered() -> None:
    """The numbers by which a person judges whether to go on."""
    found = explore(lost_update(2), search="pct:2", shared="cells", schedules=200, seed=1)
    assert found.failures
    found = explore(
        lost_update(2), search="pct:2", shared="cells", schedules=200, stop_on_failure=False
    )
    coverage = found.coverage
    assert coverage is not None
    assert (coverage.runs, coverage.traces, coverage.seen_once) == (200, 4, 0)
    assert (coverage.tasks, coverage.unseen) == (3, 0.0)
    # The first run doesn't know the number of choices, and doesn't count.
    assert 190 < coverage.pct_runs[2] < 200
    assert coverage.miss(2) == pct_miss(3, coverage.choices, 2, coverage.pct_runs[2])
    assert coverage.miss(1) == coverage.miss(2)
    assert coverage.miss(3) == 1.0
    with pytest.raises(ValueError, match="depth=0"):
        coverage.miss(0)
    assert explore(lost_update(2), search="exhaustive").coverage is None


def test_what_the_theorem_is_not_about() -> None:
    """A bound that counts runs of another kind is too good to be true."""

    async def poll() -> None:
        done = False

        async def wait() -> None:
            while not done:
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            for _ in range(2):
                await trio.lowlevel.checkpoint()
            done = True

    polled = explore(poll, search="pct", schedules=40).coverage
    cancelled = explore(steps(2, 2), search="pct", schedules=40, cancel="each").coverage
    plain = explore(steps(2, 2), search="pct", schedules=40).coverage
    assert polled is not None
    assert cancelled is not None
    assert plain is not None
    assert polled.choices > 100
    assert 0 < polled.pct_runs[3] < 40
    assert cancelled.pct_runs == {}
    assert plain.pct_runs[3] > 35


def test_the_bounds() -> None:
    """A bound that is off by a power of k promises what nobody keeps."""
    assert pct_miss(3, 10, 1, 1) == pytest.approx(2 / 3)
    assert pct_miss(3, 10, 3, 1) == pytest.approx(299 / 300)
    assert pct_miss(1, 1, 4, 1) == 0
    assert good_turing(0, 10) == 0
    assert good_turing(5, 10) == 0.5
    nothing = Coverage(runs=0, traces=0, seen_once=0, tasks=1, choices=1, pct_runs={})
    assert (nothing.unseen, nothing.miss(1)) == (1.0, 1.0)


def test_the_estimate_of_the_unseen() -> None:
    """After a few draws of a large space nearly everything is new; the estimate must say so."""
    few = explore(lost_update(4), search="urw", shared="cells", schedules=60, stop_on_failure=False)
    many = explore(
        lost_update(4), search="urw", shared="cells", schedules=900, stop_on_failure=False
    )
    assert few.coverage is not None
    assert many.coverage is not None
    assert few.coverage.unseen > 0.7
    assert many.coverage.unseen < 0.6
