"""Every file of examples/ runs, and prints what a person has approved."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from _golden import check_golden

# Those of released/ need packages in versions with a bug: see tests/released.
EXAMPLES = sorted(
    example
    for example in Path(__file__).parents[2].joinpath("examples").rglob("*.py")
    if example.parent.name != "released"
)
RACES = [example.stem for example in EXAMPLES if example.parent.name == "races"]
GOLDEN = Path(__file__).parent / "golden"


def test_there_are_examples() -> None:
    """A moved directory would leave the test below without a case."""
    assert len(EXAMPLES) - len(RACES) >= 5
    assert [name[:3] for name in RACES] == [f"p{number:02}" for number in range(1, 13)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who copies the example would get an error, or other lines than the docs show."""
    runpy.run_path(str(example), run_name="__main__")

    check_golden(GOLDEN / f"{example.stem}.txt", capsys.readouterr().out)


@pytest.mark.parametrize("race", RACES)
def test_each_bug_is_found_and_each_repair_holds(race: str) -> None:
    """A pattern would be shown that the explorer misses, or a repair that is none."""
    text = (GOLDEN / f"{race}.txt").read_text(encoding="utf-8")
    found, holds = [line for line in text.splitlines() if line.endswith("level: free)")]

    assert " schedules failed (" in found
    assert "no failure in " in holds
    assert ", exhausted" in holds
