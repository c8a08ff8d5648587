"""Every file of examples/ runs, and prints what a person has approved."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from _golden import check_golden

EXAMPLES = sorted(Path(__file__).parents[2].joinpath("examples").glob("*.py"))
GOLDEN = Path(__file__).parent / "golden"


def test_there_are_examples() -> None:
    """A moved directory would leave the test below without a case."""
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who copies the example would get an error, or other lines than the docs show."""
    runpy.run_path(str(example), run_name="__main__")

    check_golden(GOLDEN / f"{example.stem}.txt", capsys.readouterr().out)
