"""``aspf race`` and ``aspf replay``: what a stranger reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from _golden import check_golden
from click.testing import CliRunner

from aspf.cli._commands import aspf
from aspf.lab import program
from aspf.race import explore

GOLDEN = Path(__file__).parent / "golden"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(aspf, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def report() -> str:
    code, output = run("race", "lost-wakeup")
    assert code == 0
    return output


def test_the_report_is_as_approved(report: str) -> None:
    """Broken if a word, a schedule's number or the diagram changes unseen, on any Python."""
    check_golden(GOLDEN / "lost_wakeup.txt", report)


def test_the_race_is_found_early(report: str) -> None:
    """Broken if the lost wake-up needs more than 20 schedules."""
    found = re.search(r"lost wake-up in schedule (\d+)", report)
    assert found is not None
    assert int(found[1]) <= 20


def test_the_token_of_the_report_repeats_the_failure(report: str) -> None:
    """Broken if what the report tells people to paste doesn't show the same diagram."""
    token = re.search(r"aspf replay (\S+)", report)
    assert token is not None
    code, output = run("replay", token[1])
    assert code == 1
    assert output.strip() in report


def test_a_token_that_passes_says_so() -> None:
    """Broken if the replay of a good schedule looks like a failure."""
    (outcome, *_) = explore(
        program("rfc2009_repaired"), name="rfc2009_repaired.whole"
    ).outcomes.values()
    assert run("replay", outcome.token) == (0, "this schedule passes\n")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("nonsense", "is no replay token"),
        ("aspf1:unknown.whole:0,1", "the lab has no program"),
        ("aspf1:rfc2009.whole:0,1x200", "step"),
    ],
)
def test_a_bad_token_says_what_is_wrong(token: str, said: str) -> None:
    """Broken if a typo in a token ends in a traceback."""
    code, output = run("replay", token)
    assert code == 1
    assert output.startswith("Error: ")
    assert said in output
