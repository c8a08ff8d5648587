"""The files that ``aspf race`` and ``aspf replay`` write, and the minimised schedule."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from aspf.cli._commands import aspf
from aspf.race import parse_token

if TYPE_CHECKING:
    from pathlib import Path

LOST = (
    "aspf2:rfc2009.whole:CPU-0,CPU-1:children,Rfc2009.vma_put@vma.refcnt.set,"
    "WaitQueue.schedule@vma.wait_queue:0@0,1@1,2@2,1"
)
PASSES = "aspf1:rfc2009.whole:0,1x16,2x20,0"


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(aspf, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_replay_writes_every_form(tmp_path: Path) -> None:
    """A failure from a log could not be looked at but as text."""
    files = {form: tmp_path / f"schedule.{form}" for form in ("html", "json", "perfetto")}
    options = [part for form, path in files.items() for part in (f"--{form}", path)]
    code, output = run("replay", LOST, *options)
    assert code == 1
    assert (code, output) == run("replay", LOST)
    assert files["html"].read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(files["json"].read_text(encoding="utf-8"))["token"] == LOST
    assert json.loads(files["perfetto"].read_text(encoding="utf-8"))["traceEvents"]


def test_a_schedule_that_passes_can_be_drawn(tmp_path: Path) -> None:
    """The good order is what one wants to see beside the bad one."""
    page = tmp_path / "page.html"
    _, output = run("replay", PASSES, "--html", page)
    assert output == "this schedule passes\n"
    assert '<span class="verdict" id="verdict">passes</span>' in page.read_text(encoding="utf-8")


def test_race_writes_the_page(tmp_path: Path) -> None:
    """The report's race would have to be replayed to be seen as a page."""
    page = tmp_path / "page.html"
    assert run("race", "lost-wakeup", "--html", page)[0] == 0
    assert LOST in page.read_text(encoding="utf-8")


def test_replay_minimises() -> None:
    """Its token must repeat what it has drawn."""
    scattered = "aspf1:rfc2009.whole:0,1x3,2x9,1x11,2x6,1"
    code, output = run("replay", scattered, "--minimise")
    assert code == 1
    assert "switches fails so: all were tried" in output
    diagram, _, token = output.rpartition("replay: aspf replay ")
    assert parse_token(token).name == "rfc2009.whole"
    assert diagram.startswith(run("replay", token.strip())[1])


@pytest.mark.parametrize("form", ["--html", "--json", "--perfetto"])
def test_a_file_that_cannot_be_written(form: str, tmp_path: Path) -> None:
    """A mistyped directory would end in a traceback."""
    code, output = run("replay", LOST, form, tmp_path / "missing" / "file")
    assert code == 2
    assert f"Error: Invalid value for '{form}': can't write " in output
