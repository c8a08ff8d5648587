"""``aspf maps``: what it says of processes and files, and of those that it can't read."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from aspf.cli import _maps
from aspf.cli._commands import aspf
from aspf.mm import parse_maps, sample_maps

needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")


def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(aspf, ["maps", *arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.maps"
    path.write_text(sample_maps())
    return path


@needs_proc
def test_a_process_with_what_is_in_memory() -> None:
    """The first thing that anybody tries would fail."""
    code, output = run(str(os.getpid()))
    assert code == 0
    assert output.startswith(f"process {os.getpid()} (")
    assert "resident" in output.splitlines()[0]
    assert "[stack]" in output
    code, output = run(str(os.getpid()), "--no-rss")
    assert "resident" not in output.splitlines()[0]


def test_a_file_and_standard_input(sample: Path) -> None:
    """A copy from another machine could not be drawn."""
    code, output = run(str(sample))
    assert (code, output.count("free")) == (0, 11)
    assert output.startswith(str(sample))
    code, piped = run("-", stdin=sample_maps())
    assert code == 0
    assert piped.splitlines()[2:] == output.splitlines()[2:]
    assert "\x1b" not in output
    code, folded = run(str(sample), "--rows", "3")
    assert len(folded.splitlines()) < len(output.splitlines())


def test_a_diff_of_two_files(sample: Path, tmp_path: Path) -> None:
    """--diff would compare lines instead of pages."""
    other = tmp_path / "other"
    other.write_text("".join(f"{line}\n" for line in parse_maps(sample_maps())[1:]))
    code, output = run("--diff", str(sample), str(other))
    assert code == 0
    assert "1 removed (4 KiB)" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the PID of a process, or a FILE"),
        (["999999999"], "there is no process 999999999, or it has ended"),
        (["no/such/file"], "can't read no/such/file: No such file"),
        ([__file__], "line 1 is not a line of /proc/<pid>/maps"),
        ([os.devnull], "has no mappings: it is empty"),
        (["1", "--diff", "1", "2"], "--diff compares its own two maps"),
        (["--watch", "file"], "'file' is none"),
        (["--watch", "1"], "--watch needs a terminal"),
    ],
)
@needs_proc
def test_bad_input_says_what_is_wrong(arguments: list[str], said: str) -> None:
    """A wrong word would end in a traceback, or in an empty picture."""
    code, output = run(*arguments)
    assert code != 0
    assert said in output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "process 7 belongs to somebody else"),
        (ProcessLookupError(3, "No such process"), "there is no process 7"),
        (OSError(5, "Input/output error"), "can't read the map of process 7: Input/output error"),
    ],
)
def test_a_process_that_can_not_be_read(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's process would look like one that is not there."""

    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(_maps.Path, "exists", lambda _: True)
    monkeypatch.setattr(_maps.Path, "read_text", refuse)
    code, output = run("7")
    assert code == 1
    assert said in output


def test_without_smaps_the_map_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel without smaps, or a process without a name, could not be drawn at all."""
    monkeypatch.setattr(_maps, "PROC", tmp_path)
    (tmp_path / "self").mkdir()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "maps").write_text(sample_maps())
    code, output = run("7")
    assert code == 0
    assert output.startswith("process 7: ")


def test_without_proc_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On another system the process would be called missing."""
    monkeypatch.setattr(_maps, "PROC", tmp_path / "none")
    code, output = run("7")
    assert code == 1
    assert "only Linux has it" in output


def terminal(**options: int) -> Console:
    return Console(file=sys.stdout, force_terminal=True, **options)


def test_watching_needs_a_terminal_that_can_be_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell within an editor there would be nothing to see until it is over."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(_maps, "stdout_console", terminal)
    code, output = run("7", "--watch")
    assert code == 2
    assert "--watch needs a terminal that can be drawn over (TERM=dumb can't)" in output


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals of Unix here")
@pytest.mark.parametrize("end", ["interrupted", "gone"])
def test_watching_ends_cleanly(end: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C, or the end of the process, would leave a traceback or a spoilt screen."""
    process = tmp_path / "7"
    process.mkdir()
    (tmp_path / "self").mkdir()
    (process / "maps").write_text(sample_maps())
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        lines = sample_maps().splitlines(keepends=True)
        (process / "maps").write_text("".join(lines[:3] + lines[4:]))
        if len(naps) == 3:
            if end == "interrupted":
                raise KeyboardInterrupt
            (process / "maps").unlink()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(_maps, "PROC", tmp_path)
    monkeypatch.setattr(time, "sleep", nap)
    monkeypatch.setattr(_maps, "stdout_console", lambda: terminal(width=90, height=30))
    code, output = run("7", "--watch", "--every", "0.5")
    assert code == 0
    assert naps == [0.5] * 3
    assert ("there is no process 7, or it has ended" in output) == (end == "gone")
    assert "\x1b[?1049l" in output  # the screen is given back
    assert "5566a1c03000" in output
