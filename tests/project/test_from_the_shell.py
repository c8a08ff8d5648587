"""The commands of the how-to page on `aspf race` print what stands below them."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from _golden import check_golden
from click.testing import CliRunner

from aspf.cli._commands import aspf

PAGE = Path(__file__).parents[2].joinpath("docs/how-to/race-from-the-shell.md").read_text("utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
BLOCK = (
    r"```console\n\$ aspf (.*)\n```\n\n```\{literalinclude\} \.\./\.\./tests/project/golden/(.*)\n"
)
COMMANDS = re.findall(BLOCK, PAGE)
GOLDEN = Path(__file__).parent / "golden"
# How a report with these words ends; see the table of exit codes.
CODES = {"\nholds: ": 0, "\nunknown: ": 3, "\nError: ": 2}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with the programs of the page, and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("COLUMNS", "100")
    (programs,) = PROGRAMS
    Path("shop.py").write_text(programs, encoding="utf-8")
    yield
    sys.modules.pop("shop", None)


def test_every_command_has_its_output() -> None:
    """One would stand there that nobody runs."""
    assert len(COMMANDS) == PAGE.count("```console") > 5


def test_the_commands(here: None) -> None:
    """Who types them, one after the other, would read something else."""
    for command, golden in COMMANDS:
        result = CliRunner().invoke(aspf, shlex.split(command), prog_name="aspf")
        check_golden(GOLDEN / golden, result.output)
        code = next((code for words, code in CODES.items() if words in result.output), 1)
        assert (command, result.exit_code) == (command, code)
