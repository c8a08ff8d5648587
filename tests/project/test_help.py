"""The help texts of the command, which the reference shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from _golden import check_golden
from click.testing import CliRunner

from aspf.cli._commands import aspf

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the words that call *command*, which is *path*, and each command in it."""
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, *path, name)


WORDS = list(commands(aspf, "aspf"))


@pytest.mark.parametrize("words", WORDS, ids="-".join)
def test_help(words: tuple[str, ...]) -> None:
    """A stranger who asks for help would get a text that nobody has read."""
    asked = CliRunner().invoke(aspf, [*words[1:], "--help"], prog_name="aspf", terminal_width=88)

    assert asked.exit_code == 0
    check_golden(Path(__file__).parent / "golden" / f"help-{'-'.join(words)}.txt", asked.output)


@pytest.mark.parametrize("words", WORDS, ids="-".join)
def test_help_is_in_the_reference(words: tuple[str, ...]) -> None:
    """A new command would be missing from the documentation."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")

    assert f"golden/help-{'-'.join(words)}.txt" in page
