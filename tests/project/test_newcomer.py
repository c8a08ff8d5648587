"""The way from `pip install` to the first race, as the documentation shows it."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _golden import check_golden

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parents[2] / "docs/how-to/test-for-races.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## In a test") :]
FILE, REPAIRED, *_ = re.findall(r"^```python\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
INSTALL, *COMMANDS = re.findall(r"^\$ (.*)$", SECTION, re.MULTILINE)
GOLDEN = Path(__file__).parent / "golden"
# An installed aspf brings its plugin itself.
INSTALLED = importlib.metadata.entry_points(group="pytest11", name="aspf_race")
LOAD = () if INSTALLED else ("-p", "_aspf_pytest")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that runs one command of the page and returns what it prints."""
    monkeypatch.setenv("COLUMNS", "100")
    for variable in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(variable, raising=False)

    def run(command: str) -> str:
        program, *arguments = shlex.split(command)
        assert program == "pytest"
        quiet = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
        return pytester.runpytest_inprocess(*LOAD, *quiet, *arguments).stdout.str()

    return run


def test_at_most_six_commands() -> None:
    """Who only wants to have a look would have given up."""
    assert INSTALL == "pip install aspf pytest"
    assert 1 + len(COMMANDS) <= 6


def test_the_commands_find_the_race(pytester: pytest.Pytester, run: Callable[[str], str]) -> None:
    """The first thing that a newcomer tries would find nothing, or print something else."""
    pytester.path.joinpath("test_cache.py").write_text(FILE, encoding="utf-8")
    explored, repeated = map(run, COMMANDS)

    report = re.search(
        r"^test_cache_serves_.*? schedules failed .*^replay: .*?\n",
        explored,
        re.MULTILINE | re.DOTALL,
    )
    assert report
    check_golden(GOLDEN / "newcomer.txt", report[0])
    assert f"replay: {COMMANDS[-1]}\n" in explored
    assert f"replay: {COMMANDS[-1]}\n" in repeated


def test_the_repair_of_the_page(pytester: pytest.Pytester, run: Callable[[str], str]) -> None:
    """The page would teach a repair that isn't one."""
    text = re.sub(
        r"^class Cache:.*?(?=\n\n\n@)", REPAIRED.strip(), FILE, flags=re.MULTILINE | re.DOTALL
    )
    pytester.path.joinpath("test_cache.py").write_text(text, encoding="utf-8")
    explored = run(COMMANDS[0])

    assert "1 passed" in explored
    assert ", exhausted" in explored
    (line,) = re.findall(r"^test_cache\.py::.*\n", explored, re.MULTILINE)
    check_golden(GOLDEN / "newcomer_repaired.txt", line)
