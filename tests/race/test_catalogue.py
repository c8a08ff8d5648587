"""The programs and the judgement of the benchmark of schedules to first bug."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from aspf.race import explore, parse_token

ROOT = Path(__file__).parents[2]


def load(name: str) -> Any:
    """Import a benchmark of the checkout, wherever the tests are started."""
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path.remove(str(ROOT))


PROGRAMS = load("_programs").PROGRAMS
benchmark = load("schedules")


@pytest.mark.parametrize("name", PROGRAMS)
def test_length(name: str) -> None:
    """A port of another granularity is no port: its numbers can't be compared with anything."""
    found = explore(PROGRAMS[name], search="preemption", schedules=1)
    (steps,) = [len(failure.recording.turns) for failure in found.failures] or [
        len(parse_token(outcome.token).actions) for outcome in found.outcomes.values()
    ]
    assert steps == benchmark.STEPS[name]


@pytest.mark.parametrize(
    ("name", "interleavings"),
    [
        ("lost_update_2", 35),
        ("account", 897),
        ("bluetooth_driver", 148),
        ("carter01", 75),
        ("deadlock01", 68),
        ("lazy01", 649),
        ("stringbuffer", 14),
        ("twostage", 114),
    ],
)
def test_interleavings(name: str, interleavings: int) -> None:
    """As many as the reference counts: the same steps, the same that may be exchanged."""
    found = explore(PROGRAMS[name], stop_on_failure=False, search="exhaustive")
    assert (found.schedules, found.exhausted) == (interleavings, True)


@pytest.mark.parametrize(
    ("name", "traces", "failing"),
    [
        ("lost_update_2", 4, 2),
        ("lost_update_3", 36, 30),
        ("account", 6, 2),
        ("deadlock01", 3, 1),
        ("lazy01", 6, 2),
        ("stringbuffer", 6, 1),
        ("twostage", 3, 1),
    ],
)
def test_traces(name: str, traces: int, failing: int) -> None:
    """The promise that nothing but cells is shared must hold for the ports as well."""
    found = explore(PROGRAMS[name], shared="cells", stop_on_failure=False, search="exhaustive")
    assert (found.schedules, sum(f.count for f in found.failures)) == (traces, failing)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if benchmark.STEPS[name] < 100])
def test_the_portfolio_finds_it(name: str) -> None:
    """The default for who knows nothing of strategies has to find every one of these bugs."""
    assert explore(PROGRAMS[name], search="portfolio", shared="cells").failures


def test_worse_is_told_from_unlucky() -> None:
    """A test that never rejects would let any strategy pass, one that always does none."""
    expected = benchmark.Sample(10, 8, 20, 20)

    def p(*figures: float) -> float:
        return float(benchmark.probability_of_no_worse(benchmark.Sample(*figures), expected))

    assert p(10, 8, 20, 20) > 0.5
    assert p(13, 9, 20, 20) > 0.01
    assert p(25, 15, 20, 20) < 0.01
    assert p(5, 3, 15, 20) > 0.01
    assert p(5, 3, 10, 20) < 0.01
    assert benchmark.welch(3.0, 2.0, 20, 3.0, 2.0, 20) == pytest.approx(0.5)
    # From tables of Student's t: 1.729 is the 95 % point of 19 degrees of freedom.
    assert benchmark.student(1.729, 19) == pytest.approx(0.05, abs=2e-4)


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command prints: a row a strategy, and how many are worse."""
    monkeypatch.setattr(benchmark, "QUICK", ("lost_update_2",))
    monkeypatch.setattr(benchmark, "TOO_LONG", 1_300)  # 8 schedules of 9 steps, 20 times: 1,440
    rows = list(benchmark.rows(quick=True))
    figures = {row.what: row for row in rows}
    assert figures["lost_update_2, urw"].holds
    assert figures["lost_update_2, portfolio"].holds
    assert figures["lost_update_2, pct:3"].figure == "left out"
    assert figures["lost_update_2, pct:3"].target == ""
    assert figures["worse than the reference"].figure.startswith("0 of ")


def test_a_row_that_is_worse_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance alone would fail a benchmark of a hundred tests; a bad strategy fails twice."""
    asked = []

    def first_bugs(_: str, strategy: str, trials: int, __: int, *, first_seed: int = 0) -> Any:
        asked.append((strategy, first_seed))
        slow = strategy == "urw" or (strategy == "pos" and not first_seed)
        return benchmark.Sample(100 if slow else 1, 5, trials, trials)

    monkeypatch.setattr(benchmark, "QUICK", ("lost_update_2",))
    monkeypatch.setattr(benchmark, "first_bugs", first_bugs)
    rows = {row.what: row for row in benchmark.rows(quick=True)}
    assert rows["lost_update_2, pos"].holds
    assert "again" in rows["lost_update_2, pos"].note
    assert rows["lost_update_2, urw"].holds is False
    assert [strategy for strategy, seed in asked if seed] == ["pos", "urw"]
    assert rows["worse than the reference"].figure == "1 of 5"
