"""The fewest context switches: found, shown to be necessary, and never claimed without a replay."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from _golden import check_golden
from hypothesis import given, strategies as st
from race._programs import account, baton_lock, deadlock01, lost_update

from aspf.race import (
    Cell,
    Minimal,
    RaceFound,
    Switch,
    _explore as exploring,
    _minimise as planning,
    check,
    explore,
    replay,
)
from aspf.race._actions import TIME, timer
from aspf.race._footprint import Footprint
from aspf.race._minimal import minimal_of
from aspf.race._minimise import Choice, Departure, Follow, Found, minimise, normal_form
from aspf.race._search import _conflict
from aspf.race._token import parse_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

GOLDEN = Path(__file__).parent / "golden"


class Model:
    """Tasks that are nothing but a number of steps each; `kind` judges the order of the steps."""

    def __init__(self, lengths: Sequence[int], kind: Callable[[list[int]], str]) -> None:
        self.lengths = lengths
        self.kind = kind
        self.runs = 0

    def run(self, chooser: Follow) -> tuple[str, str]:
        self.runs += 1
        left = dict(enumerate(self.lengths))
        done: list[int] = []
        while actions := [task for task, steps in left.items() if steps]:
            self.task = chooser.pick(actions, self)  # type: ignore[arg-type]
            left[self.task] -= 1
            done.append(self.task)
        chooser.finish(self)  # type: ignore[arg-type]
        return self.kind(done), ""

    def note_cancellations(self) -> None:
        pass

    def footprint(self) -> Footprint:
        # Every step writes the same place: nothing can be exchanged.
        return Footprint(writes=frozenset({0}))


def switches_of(order: Sequence[int]) -> int:
    chooser = planning.Along(order)
    lengths = [order.count(task) for task in range(max(order) + 1)]
    Model(lengths, lambda _: "").run(chooser)
    return sum(choice.departure is not None for choice in chooser.choices)


schedules = st.lists(st.integers(0, 2), min_size=2, max_size=8).map(lambda s: [0, 1, 2, *s])


@given(st.data(), schedules, st.integers(1, 3))
def test_fewest_is_true(data: st.DataObject, lengths: list[int], modulus: int) -> None:
    """Compared with all orders of a few steps: a smaller one would make "fewest" a lie."""
    counts = [lengths.count(task) for task in range(3)][:2]
    order = data.draw(st.permutations([0] * counts[0] + [1] * counts[1]))

    def kind(done: list[int]) -> str:
        return str(sum(i * task for i, task in enumerate(done)) % (modulus + 1))

    found = minimise(order, Model(counts, kind).run, replays=5_000)
    assert found is not None
    assert found.fewest
    assert kind(list(found.actions)) == kind(order)
    assert switches_of(found.actions) == len(found.switches)
    assert len(found.switches) == min(
        switches_of(other) for other in all_orders(*counts) if kind(other) == kind(order)
    )
    assert all(without != (kind(order), "") for without in found.without)


def all_orders(zeros: int, ones: int) -> list[list[int]]:
    if not zeros or not ones:
        return [[0] * zeros + [1] * ones]
    return [[0, *rest] for rest in all_orders(zeros - 1, ones)] + [
        [1, *rest] for rest in all_orders(zeros, ones - 1)
    ]


@given(st.permutations([0, 0, 0, 1, 1, 1, 2, 2]), st.integers(1, 60))
def test_it_keeps_within_its_replays(order: list[int], limit: int) -> None:
    """A long failure would hold up the report; and what was not tried must not be claimed."""

    def kind(done: list[int]) -> str:
        return str(done.index(1) < done.index(2) < len(done) - 1 - done[::-1].index(0))

    model = Model([3, 3, 2], kind)
    found = minimise(order, model.run, replays=limit)
    assert found is not None
    assert model.runs == found.replays <= limit
    assert len(found.without) == len(found.switches)
    assert kind(list(found.actions)) == kind(order)
    assert switches_of(found.actions) <= switches_of(order)


@given(st.permutations([0, 0, 0, 1, 1, 1, 2, 2]), st.integers(0, 60))
def test_it_keeps_within_its_time(order: list[int], looks: int) -> None:
    """Who has asked for a minute waits for five; or what time has cut is claimed to be checked."""

    def kind(done: list[int]) -> str:
        return str(done.index(1) < done.index(2) < len(done) - 1 - done[::-1].index(0))

    model, whole = Model([3, 3, 2], kind), Model([3, 3, 2], kind)
    clock = count()
    found = minimise(order, model.run, replays=500, is_over=lambda: next(clock) >= looks)
    uncut = minimise(order, whole.run, replays=500)
    assert found is not None
    assert uncut is not None
    # One run, whatever the time; then as many as there were looks that said yes.
    assert model.runs == found.replays == min(looks + 1, uncut.replays)
    assert found.out_of_time == (uncut.replays > looks + 1)
    if not found.out_of_time:
        assert found == uncut
        return
    assert not found.fewest
    assert kind(list(found.actions)) == kind(order)
    assert switches_of(found.actions) == len(found.switches) <= switches_of(order)
    if found.switches:
        assert None in found.without


def test_a_schedule_that_is_not_repeated() -> None:
    """What a program that does not repeat itself did must not be called its failure."""
    assert minimise([0, 0, 1], Model([1, 1], lambda _: "").run, replays=10) is None
    assert minimise([0, 1], Model([1, 1], lambda _: "").run, replays=0) is None


actions = st.lists(st.sampled_from([0, 1, 2, 3, TIME, ~1]), max_size=12)


@given(st.data(), actions)
def test_normal_form(data: st.DataObject, order: list[int]) -> None:
    """An exchange of steps that conflict is another schedule, not another form of the same."""
    drawn = st.builds(
        lambda place, writes: (
            Footprint(writes=frozenset({place})) if writes else Footprint(frozenset({place}))
        ),
        st.integers(-1, 2),
        st.booleans(),
    )
    touched = [data.draw(drawn) for _ in order]
    named = list(zip(order, touched, range(len(order)), strict=True))
    normal = normal_form(order, touched)
    assert sorted(normal) == sorted(order)

    # Which of several equal actions is meant is clear: they conflict, so they keep their order.
    left = list(named)
    placed = []
    for action in normal:
        mine = next(item for item in left if item[0] == action)
        left.remove(mine)
        placed.append(mine)
    for i, (a, touched_a, place_a) in enumerate(placed):
        for b, touched_b, place_b in placed[i + 1 :]:
            if place_a > place_b:
                assert not _conflict(a, touched_a, b, touched_b)


def test_normal_form_lets_tasks_run_on() -> None:
    """Steps on different memory would be shown as a switch that matters."""
    mine = [Footprint(writes=frozenset({task})) for task in (0, 1, 0, 1)]
    assert normal_form([0, 1, 0, 1], mine) == [0, 0, 1, 1]


def test_very_long_schedules_are_left_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The square of their length would take minutes."""
    monkeypatch.setattr(planning, "_LONGEST_TO_EXCHANGE", 1)
    monkeypatch.setattr(planning, "normal_form", None)
    assert (
        explore(lost_update(2), minimise=True, search="exhaustive").failures[0].minimal is not None
    )


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (lost_update(3), {"search": "random", "seed": 1, "stop_on_failure": False}),
        (deadlock01, {"shared": "cells"}),
        (account, {"shared": "cells"}),
        (baton_lock(forgets_the_dead=False), {"cancel": "each"}),
    ],
)
def test_report(program: Callable[[], Awaitable[object]], options: dict[str, Any]) -> None:
    """Byte for byte what was approved; and the token repeats what the report shows."""
    options = {"search": "exhaustive"} | options
    found = explore(program, minimise=True, schedules=2_000, **options)
    check_golden(GOLDEN / f"minimal-{found.program}.txt", str(found))
    for failure in found.failures:
        assert failure.minimal is not None
        assert failure.minimal.is_minimal
        assert failure.minimal.fewest
        again = replay(program, failure.token)
        assert again is not None
        assert (again.summary, again.diagram) == (failure.summary, failure.diagram)
        assert again.minimal is None


def test_check_shows_the_minimal_schedule() -> None:
    """In a test it is what a person has to understand."""
    with pytest.raises(RaceFound, match="1 switch, necessary: without it the program passes"):
        check(lost_update(2), minimise=True, search="exhaustive")


def test_replay_minimises() -> None:
    """An old token of a long schedule would have to be searched for again."""
    program = lost_update(3)
    (failure,) = explore(program, search="random", seed=5).failures
    again = replay(program, failure.token, minimise=True)
    assert again is not None
    assert again.summary == failure.summary
    assert again.minimal is not None
    assert len(again.token) < len(failure.token)


async def spins() -> None:
    """It ends only if the second task comes first."""
    ready = Cell(False, "ready")

    async def spin() -> None:
        while not await ready.get():
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin)
        nursery.start_soon(ready.set, True)


def test_a_livelock() -> None:
    """It is cut at the same step, so that its token still repeats it."""
    (failure,) = explore(spins, max_steps=30, minimise=True, search="exhaustive").failures
    assert failure.kind == "livelock?"
    assert failure.minimal == Minimal((), fewest=True, replays=1)
    assert replay(spins, failure.token, minimise=True) is not None


def test_what_no_search_has_met() -> None:
    """A replay may do what the program had not done before: that is not the failure."""

    async def program() -> None:
        first = Cell(0, "first")

        async def write(value: int) -> None:
            await first.set(value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 1)
            nursery.start_soon(write, 2)
        if first.peek() == 2:
            await trio.to_thread.run_sync(int)
        raise AssertionError("the first one came last")

    token = explore(lost_update(2), search="exhaustive").outcomes["None"].token
    assert parse_token(token).actions[:2] == (0, 1)
    failure = replay(program, "aspf1:program:0,2x2,1x2,0", minimise=True)
    assert failure is not None
    assert failure.minimal is not None
    (switch,) = failure.minimal.switches
    assert "whose result no schedule can repeat" in switch.without
    assert (
        failure.minimal.headline() == "1 switch, necessary: without it the program fails otherwise"
    )


def test_a_program_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a failure can't be minimised, it is still reported."""
    monkeypatch.setattr(exploring, "minimise_schedule", lambda *_, **__: None)
    found = explore(lost_update(2), minimise=True, search="exhaustive")
    assert found.failures[0].minimal is None
    again = replay(lost_update(2), found.failures[0].token, minimise=True)
    assert again is not None
    assert again.minimal is None


def test_a_cancellation_that_comes_to_nothing() -> None:
    """Within a shield the run is given up as a repetition; it must have a name all the same."""

    async def program() -> None:
        cell = Cell(0, "cell")

        async def shielded() -> None:
            with trio.CancelScope(shield=True):
                await cell.set(1)
                await cell.set(2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shielded)

    chooser = planning.Along([0, 1, ~1])
    with exploring.exploring():
        schedule = exploring.Schedule(
            program, chooser, exploring.Settings(cancel="each", max_steps=50)
        )
        schedule.run()
    assert exploring.kind_of(schedule) == ("pruned", "the cancellation is delivered elsewhere")


TASKS = {0: "main", 1: "CPU 0", 2: "CPU 1"}
PASSES = ("passes", "None")
PREEMPTION = Choice(after=1, nth=3, actions=(1, 2), usual=1, taken=2)


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (PREEMPTION, "CPU 1 interrupts, after step 3 of CPU 0"),
        (Choice(0, 1, (1, 2), 1, 2), "CPU 1 runs before CPU 0, after step 1 of main"),
        (Choice(TIME, 2, (1, 2), 1, 2), "CPU 1 runs before CPU 0, after jump 2 of the clock"),
        (Choice(~1, 1, (1, 2), 1, 2), "CPU 1 runs before CPU 0, after the cancellation of CPU 0"),
        (Choice(1, 2, (1, ~2), 1, ~2), "CPU 1 is cancelled after step 2 of CPU 0"),
        (Choice(1, 2, (1, -1), 1, -1), "time passes after step 2 of CPU 0"),
        (
            Choice(1, 2, (timer(1, 3), timer(2, 1)), timer(1, 3), timer(2, 1)),
            "deadline 1 of CPU 1 passes after step 2 of CPU 0",
        ),
        (
            Choice(timer(2, 1), 1, (1, 2), 2, 1),
            "CPU 0 runs before CPU 1, after deadline 1 of CPU 1 has passed",
        ),
        (
            Choice(2, 1, (1, timer(2, 1)), timer(2, 1), 1),
            "CPU 0 runs before deadline 1 of CPU 1, after step 1 of CPU 1",
        ),
    ],
)
def test_switches_in_words(choice: Choice, text: str) -> None:
    """A person would not know which switch is meant."""
    minimal = minimal_of(Found((), (choice,), (PASSES,), fewest=False, replays=1), TASKS)
    assert [switch.text for switch in minimal.switches] == [text]
    assert choice.departure == Departure(choice.after, choice.nth, choice.taken)


@pytest.mark.parametrize(
    ("without", "headline"),
    [
        ([], "no switch is necessary: it fails though every task runs as long as it can"),
        (["passes"], "1 switch, necessary: without it the program passes"),
        (["x"], "1 switch, necessary: without it the program fails otherwise"),
        (["passes"] * 2, "2 switches, both necessary: without either the program passes"),
        (
            ["passes", "x", "x"],
            "3 switches, all necessary: without any one of them the program passes or fails otherwise",
        ),
        (
            ["passes", "", ""],
            "3 switches, 1 of them shown to be necessary; then the replays ran out",
        ),
        ([""] * 2, "2 switches, none of them shown to be necessary; then the replays ran out"),
    ],
)
def test_headlines(without: list[str], headline: str) -> None:
    """It would claim more than the replays have shown."""
    minimal = Minimal(tuple(Switch("it", text) for text in without), fewest=False, replays=9)
    assert minimal.headline() == headline
    assert minimal.is_minimal == ("" not in without)
    assert ("not tried" in str(minimal)) == ("" in without)


def test_out_of_time() -> None:
    """It would look like a list of what the failure takes, and nothing of it was tried."""
    switches = Switch("this", "passes"), Switch("that", "")
    cut = Minimal(switches, fewest=False, replays=9, out_of_time=True)
    head = "2 switches, {} of them shown to be necessary; not all were tried: the time was over\n"
    assert str(cut) == head.format(1) + "  1. this\n  2. that; without it: not tried\n"
    cut = Minimal(switches[1:] * 2, fewest=False, replays=1, out_of_time=True)
    assert str(cut) == head.format("none")
