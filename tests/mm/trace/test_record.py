"""Recording: with the real tools where they are, and with stand-ins that say what tools may say."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from mm.trace._recordings import MAPS, made_up

from aspf.mm.trace import RecordingFailed, _record, parse_recording, record

needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")

# Runs as strace would: writes what it sees into the file, and stands still where it is told to.
STRACE = """\
for word in "$@"; do case "$word" in --output=*) out=${word#--output=};; esac; done
say() { echo "$$ $@" >> "$out"; }
# Says so when it stands still, not before.
stop() {
  (until grep -q '^State:.T' /proc/$$/status; do :; done; say "$1 --- stopped by SIGSTOP ---") &
  kill -STOP $$
}
say '1.0 execve("/bin/a", [], 0x1) = 0'
say '1.1 brk(NULL) = 0x500000'
stop 1.2
say '1.3 clone(CLONE_VM) = 77'
echo '77 1.4 --- stopped by SIGSTOP ---' >> "$out"
say '1.5 exit_group(0 <unfinished ...>'
stop 1.6
say '1.7 +++ exited with 0 +++'
"""
PERF = """\
for last in "$@"; do :; done
case "$*" in
  *exceptions*true) exit 1;;
  *true) exit 0;;
  record*) while [ "$1" != -- ]; do shift; done; shift; exec "$@";;
  *) echo "77 1.45: page-faults: 1000 1000"; echo "78 1.45: page-faults: 1000 1000";;
esac
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a directory of stand-ins in front of the real tools."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    return tmp_path


def limits_of_this_process() -> str:
    return f"limits {_record._limits_of(os.getpid())}\n"


def stand_in(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@needs_proc
def test_the_maps_are_taken_while_the_program_stands_still(tools: Path, monkeypatch) -> None:
    """A map would be one of later, or a stopped program never go on."""
    woken = []
    kill = os.kill

    def wake(pid: int, number: int) -> None:
        woken.append(pid)
        if pid != 77:
            kill(pid, number)

    monkeypatch.setattr(os, "kill", wake)
    stand_in(tools, "strace", STRACE)
    stand_in(tools, "perf", PERF)
    recording = parse_recording(record(["a", "b c"]))
    assert recording.command == "a 'b c'"
    assert recording.maps == recording.final
    assert any(line.name == "[stack]" for line in recording.maps)
    assert recording.start_brk == 0x500000
    assert recording.limits == parse_recording(made_up("", header=limits_of_this_process())).limits
    assert woken[1] == 77
    assert [event.tid for event in recording.events] == [77]
    assert parse_recording(record(["a"], faults=False)).faults == []


@needs_proc
def test_without_perf_there_are_no_faults(tools: Path, monkeypatch) -> None:
    """A machine without perf could not record anything."""
    stand_in(tools, "strace", STRACE.replace("echo '77", ": '77"))
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "strace" else None)
    assert "[faults]\n[final]" in record(["a"])
    stand_in(tools, "perf", "exit 1")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.defpath}")
    assert "[faults]\n[final]" in record(["a"])


def test_a_program_that_does_not_start_is_named(tools: Path) -> None:
    """A typing error would give an empty recording."""
    stand_in(tools, "strace", "exit 1")
    with pytest.raises(RecordingFailed, match=r"nothing ended \(status 1\) before its map"):
        record(["nothing"], faults=False)


def test_without_strace_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing tool would be a traceback."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RecordingFailed, match="apt install strace"):
        record(["true"])


def test_a_process_that_is_gone_has_no_map() -> None:
    """A program that is killed at its end would lose the whole recording."""
    maps = _record._Maps()
    maps.first, maps.last = MAPS, MAPS
    maps.notice("999999999 1.0 exit_group(0")
    assert maps.last == MAPS
    assert _record._limits_of(999999999) == ""


def test_the_limits_are_read_as_the_kernel_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would refuse what the program was allowed, or the reverse."""
    limits = "Limit   Soft Limit  Hard Limit  Units\n" + "".join(
        f"Max {name:22}{value:21}unlimited            bytes\n"
        for name, value in {
            "data size": "7",
            "stack size": "8388608",
            "locked memory": "65536",
            "address space": "unlimited",
        }.items()
    )
    status = "Name:\tx\nCapEff:\t{}\n"
    texts = {"limits": limits, "status": status.format("0000000000000000")}
    monkeypatch.setattr(Path, "read_text", lambda self, **_: texts[self.name])
    assert _record._limits_of(1) == "unlimited 7 65536 8388608"
    texts["status"] = status.format("0000000000004000")
    assert _record._limits_of(1) == "unlimited 7 unlimited 8388608"
    texts["status"] = "Name:\tx\n"
    assert _record._limits_of(1) == "unlimited 7 65536 8388608"


def test_a_line_that_is_not_finished_is_seen_once(monkeypatch, tmp_path: Path) -> None:
    """The map of the end would be missed, for strace ends that line when all is over."""
    file = tmp_path / "calls"
    steps = iter(
        ["1 1.0 brk(NULL) = 1\n1 1.1 exit_", "group(0", "", ") = ?\n1 1.2 +++ exited +++\n"]
    )

    class Process:
        ended = False

        def poll(self) -> int | None:
            return 0 if self.ended else None

    process = Process()

    def nap(_: float) -> None:
        with file.open("a") as out:
            out.write(text := next(steps))
        process.ended = "exited" in text

    monkeypatch.setattr(_record.time, "sleep", nap)
    assert list(_record._lines(file, process)) == [
        "1 1.0 brk(NULL) = 1",
        "1 1.1 exit_group(0",
        "1 1.2 +++ exited +++",
    ]


@needs_proc
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace on this machine")
def test_a_real_program() -> None:
    """What strace really writes would not be understood."""
    try:
        text = record([sys.executable, "-c", "pass"])
    except RecordingFailed as error:
        pytest.skip(f"strace may not trace here: {error}")
    recording = parse_recording(text)
    assert len(recording.calls) > 20
    names = {line.name for line in recording.maps}
    assert "[stack]" in names
    assert len(recording.final) > len(recording.maps)
