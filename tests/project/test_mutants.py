"""The explanations of mutants that no exploration can kill, kept near what they explain."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPLAINED = ROOT / "mutants" / "explained.toml"
FILES = {"_rwlock": "aspf/_rwlock.py", "_range_map": "aspf/ranges/_range_map.py"}


def _explained() -> list[str]:
    entries = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["explained"]
    return [name for entry in entries for name in entry["mutants"]]


@pytest.mark.parametrize("name", _explained())
def test_an_explained_line_is_still_there(name: str) -> None:
    """A stale explanation would be found only by `nox -s mutants`, which nobody runs every day."""
    place, _, change = name.partition(": ")
    label = place.split()[0]
    before = change.split(" => ")[0]
    source = " ".join((ROOT / FILES[label]).read_text(encoding="utf-8").split())

    assert " ".join(before.split()) in source


def test_nothing_is_explained_twice() -> None:
    """Two explanations of one mutant would contradict each other sooner or later."""
    names = _explained()

    assert len(names) == len(set(names))
