"""How wide the console is that the commands write to."""

from __future__ import annotations

import pytest
from rich.console import Console

from aspf.cli import _console
from aspf.cli._console import stdout_console


@pytest.mark.parametrize(("term", "columns"), [("xterm", "60"), ("dumb", "60"), ("dumb", "130")])
def test_every_terminal_is_as_wide_as_it_says(
    term: str, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture would be wrapped in a shell within an editor, or a table be squeezed to nothing."""
    monkeypatch.setattr(_console, "Console", lambda: Console(force_terminal=True))
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "40")
    assert (stdout_console().width, stdout_console().height) == (int(columns), 40)
    wide = stdout_console(at_least=100)
    assert (wide.width, wide.height) == (max(int(columns), 100), 40)
