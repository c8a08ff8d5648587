"""``aspf faults``: the table, and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _golden import check_golden
from click.testing import CliRunner
from rich.console import Console

from aspf.cli._commands import aspf
from aspf.cli._faults import explanation, table
from aspf.mm import FaultRow, MultiFault, sample_maps

GOLDEN = Path(__file__).parent / "golden"
LOCKINGS = ["mmap_lock", "mmap_lock_retry", "speculative"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(aspf, ["faults", "--seconds", "0.05", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def row(locking: str, ratio: float, **values: float) -> FaultRow:
    numbers = {
        "faults": 12345,
        "faults_per_second": 6172.5,
        "speculative_hits": 12345,
        "retries": 0,
        "waits": 7,
        "p50": 0.0013,
        "p99": 0.0501,
        "writes": 0,
        "write_p99": float("nan"),
    }
    return FaultRow(locking=locking, ratio=ratio, **{**numbers, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("writers", [0, 1])
def test_the_table_is_as_approved(writers: int) -> None:
    """Broken if a column is lost, is cut off at 100 characters, or stands under another's name."""
    written = {"writes": 620, "write_p99": 0.0549} if writers else {}
    rows = [row(name, 1 + i, **written) for i, name in enumerate(LOCKINGS)]
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(table(rows))
    check_golden(GOLDEN / f"table_{writers}.txt", capture.get())


@pytest.mark.parametrize(
    ("name", "options"),
    [("convoy", {"io": 0.001, "writers": 1}), ("io", {"io": 0.001}), ("lock", {})],
)
def test_the_explanation_is_as_approved(name: str, options: dict[str, float]) -> None:
    """Broken if a ratio is printed without what it measures, or is taken for the mail's."""
    workload = MultiFault(layout="split", **options)  # type: ignore[arg-type]
    text = explanation(workload, [row(name, 1) for name in LOCKINGS])
    assert "not the mail's 2.06" in text
    check_golden(GOLDEN / f"explanation_{name}.txt", text + "\n")


def test_it_runs_on_the_layout_of_its_own_process() -> None:
    """Broken if the command does not work for somebody who types nothing but its name."""
    code, output = run()
    assert code == 0
    for locking in LOCKINGS:
        assert locking in output


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("layout", ["split", "all"])
def test_the_mails_windows_as_json(layout: str, backend: str) -> None:
    """Broken if the JSON lacks a row, is no JSON (NaN), or counts nothing."""
    code, output = run("--layout", layout, "--backend", backend, "--json", "--io", "0.1")
    assert code == 0
    report = json.loads(output)
    assert report["workload"]["layout"] == layout
    assert [r["locking"] for r in report["rows"]] == LOCKINGS
    assert all(r["faults"] > 0 for r in (*report["rows"], *report["one_task_alone"]))
    assert report["rows"][0]["ratio"] == 1
    assert report["rows"][0]["write_p99"] is None


def test_writers_are_counted() -> None:
    """Broken if --writers has no effect, or its columns are missing."""
    code, output = run("--layout", "split", "--writers", "2", "--every", "1", "--io", "0.1")
    assert code == 0
    assert "2 writers every 1 ms" in output
    assert "writes" in output


def test_a_copy_of_maps_and_a_real_file(tmp_path: Path) -> None:
    """Broken if a layout from elsewhere can't be used, or --file is not read."""
    maps, file = tmp_path / "maps", tmp_path / "file"
    maps.write_text(sample_maps())
    file.write_bytes(b"bytes" * 5000)
    code, output = run("--maps", str(maps), "--file", str(file), "--tasks", "2")
    assert code == 0
    assert f"the layout of {maps}; and {file}" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pid", "1", "--maps", __file__], "give one of them"),
        (["--maps", __file__], "Error: "),
        (["--pid", "999999999"], "can't read"),
        (["--tasks", "0"], "Invalid value for '--tasks'"),
    ],
)
def test_bad_input_says_what_is_wrong(arguments: list[str], said: str) -> None:
    """Broken if a wrong option ends in a traceback, or in silence."""
    code, output = run(*arguments)
    assert code != 0
    assert said in output


def test_without_proc_the_sample_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if the command fails on a machine that has no /proc."""
    monkeypatch.setattr("aspf.cli._faults.os.getpid", lambda: 999999999)
    code, output = run("--tasks", "2")
    assert code == 0
    assert "the sample that aspf ships" in output
