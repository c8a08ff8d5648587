"""The entry point."""

from __future__ import annotations

import runpy
import sys

import pytest

from aspf.cli import main


@pytest.mark.parametrize("run", [main, lambda: runpy.run_module("aspf.cli", run_name="__main__")])
def test_help(run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if the script, or ``python -m aspf.cli``, can't be run at all."""
    monkeypatch.setattr(sys, "argv", ["aspf", "--help"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 0
    assert "replay" in capsys.readouterr().out


def test_without_the_extra_it_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a missing extra is a traceback."""
    for name in [name for name in sys.modules if name.startswith("aspf.cli._")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit, match=r"pip install 'aspf\[cli\]'"):
        main()


def test_other_missing_modules_are_not_blamed_on_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a broken installation of aspf itself tells people to install click."""
    for name in [name for name in sys.modules if name.startswith("aspf.cli._")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aspf.lab", None)
    with pytest.raises(ModuleNotFoundError):
        main()
