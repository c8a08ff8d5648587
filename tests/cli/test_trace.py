"""``aspf trace``: recording and replaying, and what they say."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from _golden import check_golden
from click.testing import CliRunner
from mm.trace._recordings import MAPS, TRACES, made_up, recording, text_of

from aspf.cli import _trace
from aspf.cli._commands import aspf
from aspf.cli._trace import summary
from aspf.mm.trace import RecordingFailed, Replay, parse_recording

GOLDEN = Path(__file__).parent / "golden"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(aspf, ["trace", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def told(text: str, **options: int) -> str:
    found = parse_recording(text)
    return summary(found, anyio.run(Replay(recording=found, rounds=1, **options).run))


def test_what_is_said_of_a_real_program_is_as_approved() -> None:
    """Whoever replays would not learn what was compared and what came of it."""
    check_golden(GOLDEN / "trace_node.txt", told(text_of("node")))


def test_what_is_said_of_differences_is_as_approved() -> None:
    """A difference would be counted and not shown."""
    calls = "".join(f"7 1.{n} munmap(0x{n}, 4096) = 0\n" for n in range(11, 23))
    calls += "7 1.3 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000\n"
    calls += "7 1.3 shmat(1, NULL, 0) = 0x20000\n"
    check_golden(GOLDEN / "trace_differences.txt", told(made_up(calls)))


def test_lockings_that_come_to_another_outcome_are_told_apart() -> None:
    """A difference under one locking would be hidden by the others."""
    found = recording("7 1.1 munmap(0x1000, 4096) = 0\n")
    one, two, three = anyio.run(Replay(recording=found, rounds=1).run)
    text = summary(found, [one, two, replace(three, calls=2)])
    assert "mmap_lock, mmap_lock_retry\n  calls      1 made" in text
    assert "speculative\n  calls      2 made" in text


def test_a_program_without_an_end_is_said() -> None:
    """A map that nobody has compared would be called equal."""
    text = told(made_up("", final=""))
    assert "final map  not recorded: the program did not end by itself" in text


def test_replaying_a_file(tmp_path: Path) -> None:
    """The command would not read what it has written, compressed or not."""
    code, output = run("replay", str(TRACES / "node.txt.gz"), "--rounds", "1", "--tasks", "2")
    assert code == 0
    assert "page-faults" in output
    plain = tmp_path / "plain"
    plain.write_text(made_up("7 1.1 munmap(0x1, 4096) = 0\n"))
    code, output = run("replay", str(plain), "--json", "--backend", "trio")
    assert code == 1
    report = json.loads(output)
    assert report["replays"][0]["row"]["p50"] is None
    assert len(report["replays"][2]["differences"]) == 1


@pytest.mark.parametrize(
    "data",
    [b"nonsense", gzip.compress(b"nonsense"), gzip.compress(MAPS.encode())[:20]],
    ids=["plain", "compressed", "cut off"],
)
def test_what_is_no_recording_is_named(tmp_path: Path, data: bytes) -> None:
    """A wrong file would be a traceback."""
    path = tmp_path / "file"
    path.write_bytes(data)
    code, output = run("replay", str(path))
    assert code == 1
    assert f"can't read {path}: " in output


@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Options of the program would be taken for our own, or the file not be what replay reads."""
    asked = []

    def recorded(command: tuple[str, ...], *, faults: bool) -> str:
        asked.append((command, faults))
        return made_up("7 1.1 munmap(0x1000, 4096) = 0\n")

    monkeypatch.setattr(_trace, "record", recorded)
    path = tmp_path / name
    code, output = run("record", "-o", str(path), "--no-faults", "--", "ls", "-l", "--all")
    assert (code, asked) == (0, [(("ls", "-l", "--all"), False)])
    assert f"{path}: 1 calls, 0 faults, 1 thread" in output
    assert run("replay", str(path))[0] == 0


def test_a_failed_recording_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing tool, or a directory that is not there, would be a traceback."""

    def failed(*_: object, **__: object) -> str:
        raise RecordingFailed("strace is missing")

    monkeypatch.setattr(_trace, "record", failed)
    assert run("record", "-o", str(tmp_path / "x"), "ls") == (1, "Error: strace is missing\n")
    monkeypatch.setattr(_trace, "record", lambda *_, **__: made_up(""))
    code, output = run("record", "-o", str(tmp_path / "no" / "x"), "ls")
    assert code == 1
    assert "can't write" in output


def test_neighbours_that_only_one_of_the_two_has_apart() -> None:
    """A map that is cut elsewhere would be called different, or equal without a word."""
    whole = "7f0000000000-7f0000002000 r--p 00000000 08:02 8"
    cut = "7f0000000000-7f0000001000 r--p 00000000 08:02 8                          /lib/ld.so\n"
    cut += "7f0000001000-7f0000002000 r--p 00001000 08:02 8"
    text = told(made_up("", final=MAPS.replace(whole, cut)))
    assert "; at 1 place only one of the two has equal neighbours apart" in text
