"""Several processes, and explorations that go on later: the report is that of one go in one."""

from __future__ import annotations

import json
import math
import signal
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from race import _importable
from race._programs import lost_update

from aspf.race import (
    ExplorationInterrupted,
    NotDeterministic,
    Progress,
    WorkerDied,
    _jobs,
    explore,
)
from aspf.race._counts import Counts
from aspf.race._interrupts import Interrupts
from aspf.race._limits import Limits
from aspf.race._part import run_part
from aspf.race._settings import Settings
from aspf.race._strategies import NAMES, _plans, make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aspf.race import Exploration
    from aspf.race._part import Done

OPTIONS: dict[str, Any] = {"shared": "cells", "stop_on_failure": False}


def everything(found: Exploration) -> tuple[object, ...]:
    return str(found), found.as_json(), found.coverage, found.outcomes


# -- jobs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "schedules"), [("exhaustive", 1_400), ("preemption", 300), ("portfolio", 700)]
)
def test_two_processes_report_what_one_does(search: str, schedules: int) -> None:
    """Broken if the number of processes changes a count, a token, or which failure is the first."""
    options = {"search": search, "schedules": schedules, **OPTIONS}
    one = explore(_importable.many, **options)
    assert everything(explore(_importable.many, jobs=2, **options)) == everything(one)


def test_the_first_failure_is_that_of_one_process() -> None:
    """Broken if whoever finds one first decides which is reported."""
    one = explore(_importable.many, search="urw", shared="cells")
    assert everything(
        explore(_importable.many, search="urw", shared="cells", jobs=2)
    ) == everything(one)


def test_a_process_that_dies_is_named() -> None:
    """Broken if an exploration waits for ever for somebody who is dead."""
    with pytest.raises(WorkerDied, match=r"of dies ended by itself \(exit code 7\)"):
        explore(_importable.dies, jobs=2, stop_on_failure=False)


def test_what_a_process_refuses_is_raised_here() -> None:
    """Broken if an error in another process is lost, or comes as another one."""
    with pytest.raises(NotDeterministic, match="to_thread"):
        explore(_importable.threads, jobs=2)


def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    """Broken if what they have found is lost, or one of them runs on."""
    told: list[Progress] = []

    def press(progress: Progress) -> None:
        told.append(progress)
        if progress.runs > 2_500:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(ExplorationInterrupted) as caught:
        explore(
            _importable.many,
            search="random",
            schedules=1_000_000,
            jobs=2,
            progress=press,
            resume=tmp_path / "exploration.json",
            **OPTIONS,
        )
    found = caught.value.exploration
    assert found.schedules
    assert "not exhausted: interrupted" in found.headline()
    assert (tmp_path / "exploration.json").exists()


def test_a_budget_in_seconds_ends_all_processes() -> None:
    """Broken if two processes go on when the time of one is over, or stop before any has run."""
    found = explore(_importable.lost, search="random", jobs=2, seconds=1e-9, **OPTIONS)
    assert found.schedules
    assert "not exhausted: out of time" in found.headline()


def test_a_program_without_a_file_has_a_checkpoint(tmp_path: Path) -> None:
    """Broken if what was typed in can't be explored in two goes."""
    module = ModuleType("typed_in")
    exec("async def program(): pass", vars(module))
    options = {"search": "random", "schedules": 1, "resume": tmp_path / "exploration.json"}
    assert explore(module.program, **options).schedules == 1


def test_who_is_told_to_stop_answers_with_what_he_has() -> None:
    """Broken if what a process is at when all have to stop is thrown away, or run to its end."""
    order = _jobs.Order("random", 0, "cells", Settings(), stop_on_failure=False)
    work = _plans.Work(_plans.Draws(0, 1_000_000))
    with _jobs.Pool(1, _jobs.pickled(_importable.lost, "lost"), "lost", order) as pool:
        pool.give(iter([work]), 1_000_000, examine=False)
        pool.stop()
    assert (work.runner, work.result.stopped_by, work.result.finished) == (None, "stopped", False)


@pytest.mark.parametrize("program", [lost_update(2), lambda: None])
def test_a_program_that_nobody_can_import(program: Any) -> None:
    """Broken if a closure fails in another process, far from its cause."""
    with pytest.raises(ValueError, match="a function at the top level of a module"):
        explore(program, jobs=2)


def test_no_processes() -> None:
    """Broken if a number that means nothing is taken."""
    with pytest.raises(ValueError, match="jobs=0: expected at least 1"):
        explore(_importable.lost, jobs=0)


def test_errors_that_no_pipe_takes() -> None:
    """Broken if an error of the program that can't be sent hangs whoever waits for it."""

    class Odd(Exception):
        pass

    sent = _jobs._sendable(Odd("so"))
    assert isinstance(sent, RuntimeError)
    assert str(sent) == "Odd: so"


def test_what_a_process_does() -> None:
    """Broken if a process forgets a limit, or that it was told to stop, or ends without a word."""

    class Line:
        def __init__(self, *orders: object) -> None:
            self.orders = [*orders, None]
            self.sent: list[Any] = []

        def recv(self) -> object:
            return self.orders.pop(0)

        def send(self, what: object) -> None:
            self.sent.append(what)

    class Flag:
        value = 0

    order = _jobs.Order("random", 0, "cells", Settings(), stop_on_failure=False)
    flag, runs = Flag(), [0]
    before = signal.getsignal(signal.SIGINT)

    def work(program: bytes, *orders: object) -> list[Any]:
        line: Any = Line(*orders)
        try:
            _jobs.work(line, program, order, (flag, runs), 0)
        finally:
            signal.signal(signal.SIGINT, before)
        return line.sent

    program = _jobs.pickled(_importable.lost, "lost")
    part = _plans.Draws(0, 5)
    cut, whole = work(program, (part, 3, True), (part, 9, False))
    assert (cut.counts.runs, cut.stopped_by, cut.finished) == (3, "schedules", False)
    assert (whole.counts.runs, whole.finished) == (5, True)
    assert runs == [4 + 6]
    flag.value = 1
    (stopped,) = work(program, (part, 9, False))
    assert (stopped.counts.runs, stopped.stopped_by) == (0, "stopped")
    flag.value = 0
    (refused,) = work(_jobs.pickled(_importable.threads, "threads"), (part, 9, False))
    assert isinstance(refused, NotDeterministic)
    (broken,) = work(b"cnosuchmodule\nprogram\n.", (part, 9, False))
    assert isinstance(broken, ModuleNotFoundError)


class Others:
    """Processes of which the last to be given something is the first to answer."""

    runs = 0

    def __init__(self, plan: _plans.Plan) -> None:
        self.plan = plan
        self.given: list[_plans.Work] = []
        self.longest = 0

    def give(self, works: Iterator[_plans.Work], limit: int, *, examine: bool) -> None:
        for work in works:
            work.runner = True
            self.given.append(work)
        self.longest = max(self.longest, len(self.given))
        self.limit = limit

    def collect(self, seconds: float) -> None:
        work = self.given.pop()
        search = self.plan.search(work.part)
        settings, limit = Settings(), self.limit
        work.result = done = run_part(
            _importable.lost,
            search,
            settings,
            lambda counts: "schedules" if counts.runs >= limit else "",
            examine=False,
            stop_on_failure=False,
        )
        work.runner = None
        self.runs += done.counts.runs
        done.left = self.plan.leave(search)


@pytest.mark.parametrize(
    ("search", "schedules", "ends"),
    [
        ("random", 128, "schedules"),  # with the end of a part
        ("random", 130, "schedules"),
        ("exhaustive", 1_000, ""),
    ],
)
def test_who_is_behind_is_waited_for(
    search: str, schedules: int, ends: str, short_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if parts are taken in another order, or ever more is run that nobody asks for."""
    monkeypatch.setattr(_plans, "DRAWS", 5)
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 2)
    counts, taken = Counts(), []

    def take(done: Done) -> None:
        counts.merge(done.counts)
        taken.append(plan.queue[0].part)
        if done.finished:
            plan.done(done.left, done.counts.runs)

    plan = make_plan(search, 0, "cells")
    others = Others(plan)
    options = {"limits": Limits(schedules, math.inf, None), "interrupts": Interrupts()}
    stopped_by = _jobs.run_parts(plan, others, counts, take=take, **options)
    assert stopped_by == ends
    assert others.longest <= _jobs.AHEAD * 2 + 1
    one = explore(
        _importable.lost, search=search, schedules=schedules, shared="cells", stop_on_failure=False
    )
    assert counts.complete == one.schedules
    if search == "random":
        assert [part.first for part in taken] == sorted(part.first for part in taken)


# -- resume ------------------------------------------------------------------------------------


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of few runs, so that a short exploration has many."""
    monkeypatch.setattr(_plans, "RUNS", 40)
    monkeypatch.setattr(_plans, "DRAWS", 40)
    monkeypatch.setattr(_plans, "BRANCHES", 3)
    monkeypatch.setattr(_plans, "FIRST_GO", 100)


@pytest.mark.parametrize("search", [*NAMES, "pct:2"])
def test_going_on_reports_what_one_go_does(search: str, short_parts: None, tmp_path: Path) -> None:
    """Broken if an interruption changes a count, a token, a bound, or which failure is the first."""
    options = {"search": search, **OPTIONS}
    file = tmp_path / "exploration.json"
    for schedules in (130, 131, 260):
        found = explore(_importable.lost, schedules=schedules, resume=file, **options)
        if found.exhausted:
            break
        assert file.exists()
    whole = explore(_importable.lost, schedules=400, resume=file, **options)
    assert everything(whole) == everything(explore(_importable.lost, schedules=400, **options))
    assert file.exists() is not whole.exhausted


@pytest.mark.parametrize("search", ["exhaustive", "preemption", "delay", "portfolio"])
def test_going_on_in_the_middle_of_an_enumeration(
    search: str, short_parts: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Broken if what is still to be taken is forgotten, or taken twice."""
    monkeypatch.setattr(_plans, "FAMILIAR", 1.0)  # the portfolio enumerates soon
    options = {"search": search, **OPTIONS}
    file = tmp_path / "exploration.json"
    for schedules in (90, 170, 330):
        explore(_importable.many, schedules=schedules, resume=file, **options)
        assert file.exists()
    found = explore(_importable.many, schedules=400, resume=file, **options)
    assert everything(found) == everything(explore(_importable.many, schedules=400, **options))


def test_going_on_after_ctrl_c(short_parts: None, tmp_path: Path) -> None:
    """Broken if a search of hours begins anew since somebody pressed ctrl-C."""
    file = tmp_path / "exploration.json"
    runs = 0

    def press(_: Progress) -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            signal.raise_signal(signal.SIGINT)

    options = {"search": "random", "schedules": 500, **OPTIONS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aspf.race._limits.INTERVAL", 0.0)
        with pytest.raises(ExplorationInterrupted):
            explore(_importable.lost, progress=press, resume=file, **options)
    assert file.exists()
    assert everything(explore(_importable.lost, resume=file, **options)) == everything(
        explore(_importable.lost, **options)
    )


def test_it_is_written_every_few_seconds(
    short_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if a process that is killed leaves nothing."""
    file = tmp_path / "exploration.json"
    monkeypatch.setattr("aspf.race._checkpoint.INTERVAL", -1.0)
    monkeypatch.setattr("aspf.race._checkpoint.SELDOM", 0)
    seen = []
    monkeypatch.setattr(
        "aspf.race._checkpoint.Checkpoint.remove", lambda self: seen.append(file.read_text())
    )
    found = explore(_importable.lost, search="exhaustive", resume=file, **OPTIONS)
    assert found.exhausted
    assert json.loads(seen[0])["counts"]["complete"] == found.schedules


def test_another_exploration_is_refused(tmp_path: Path) -> None:
    """Broken if what one program has left is gone on with by another, or under other options."""
    file = tmp_path / "exploration.json"
    explore(_importable.lost, search="pos", schedules=3, resume=file, **OPTIONS)
    before = file.read_text(encoding="utf-8")
    for program, options, said in (
        (_importable.many, {"search": "pos"}, "its program is 'race._importable:lost', and not"),
        (_importable.lost, {"search": "urw"}, "its search is 'pos', and not 'urw'"),
        (_importable.lost, {"search": "pos", "seed": 1}, "its seed is 0, and not 1"),
    ):
        with pytest.raises(ValueError, match=said):
            explore(program, schedules=9, resume=file, **options, **OPTIONS)
    file.write_text(before.replace('"version": 1', '"version": 2'), encoding="utf-8")
    with pytest.raises(ValueError, match="its version is 2, and not 1"):
        explore(_importable.lost, search="pos", resume=file, **OPTIONS)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format": 1}', b"\0", b"\xff"])
def test_what_is_no_checkpoint(tmp_path: Path, text: bytes) -> None:
    """Broken if a file of somebody else's is overwritten."""
    file = tmp_path / "exploration.json"
    file.write_bytes(text)
    with pytest.raises(ValueError, match="no checkpoint of an exploration"):
        explore(_importable.lost, resume=file)
    assert file.read_bytes() == text


def test_a_checkpoint_that_cannot_be_written(tmp_path: Path) -> None:
    """Broken if hours are run before it turns out that nothing can be kept."""
    with pytest.raises(FileNotFoundError):
        explore(_importable.lost, resume=tmp_path / "none" / "exploration.json")


def test_a_failure_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    """Broken if the search after the repair is refused, since its file is of the program before."""
    file = tmp_path / "exploration.json"
    explore(_importable.many, search="pos", schedules=3, shared="cells", resume=file)
    assert file.exists()
    assert explore(_importable.many, search="pos", shared="cells", resume=file).failures
    assert not file.exists()
