"""Record the memory calls and page faults of a program, with its map at both ends.

Three tools of Linux do it together. `strace` writes the calls. `perf`, which runs it, writes the
faults by the same clock, where the machine allows that. The maps are ours to read, and the program
must stand still for it:

* After exec, the loader's first call is ``brk(NULL)``, which changes nothing. strace is told to
  inject a SIGSTOP there; the map is read while the program is stopped, then it goes on.
* Before the end, strace is told to delay ``exit_group``; the map is read while it does.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ("RecordingFailed", "record")

CALLS: Final = "%memory,shmat,shmdt,shmget,prctl,execve,execveat,clone,clone3,fork,vfork,exit_group"
# How long exit_group is held up, in microseconds: the time that there is to read the map.
DELAY: Final = 400_000
STRACE: Final = (
    *("strace", "--follow-forks", "--decode-fds=path"),
    *("--absolute-timestamps=format:unix,precision:ns", f"--trace={CALLS}", "--string-limit=4096"),
    *("--inject=brk:signal=SIGSTOP:when=1", f"--inject=exit_group:delay_enter={DELAY}:when=1"),
)
# What a program was allowed to have, by the names of /proc/<pid>/limits.
LIMITS: Final = ("address space", "data size", "locked memory", "stack size")
# Who has this capability may lock as much as he likes.
CAP_IPC_LOCK: Final = 14
# With the error code, which says whether a fault was a write; only root may, as a rule ...
EXACT: Final = "exceptions:page_fault_user,exceptions:page_fault_kernel"
# ... and without it.
PLAIN: Final = "page-faults"
FIELDS: Final = {EXACT: "tid,time,event,trace", PLAIN: "tid,time,event,addr,ip"}
PERF: Final = ("perf", "record", "--quiet", "--clockid=CLOCK_MONOTONIC", "--count=1", "--data")


class RecordingFailed(RuntimeError):
    """A program could not be recorded; the message says why."""


def record(command: Sequence[str], *, faults: bool = True) -> str:
    """Run a program and return its recording, for `parse_recording`.

    The program has this process's terminal. It runs several times slower than usual, and its end
    is held up by a fraction of a second.

    Args:
        command: The program and its arguments.
        faults: Record page faults too, if `perf` is there and permitted.

    Raises:
        RecordingFailed: If strace is missing, the program could not be started, or it ended before
            its map could be read.
    """
    if shutil.which("strace") is None:
        raise RecordingFailed("strace is missing; install it (apt install strace)")
    with tempfile.TemporaryDirectory() as directory:
        calls, samples = Path(directory, "calls"), Path(directory, "samples")
        strace = [*STRACE, f"--output={calls}", "--", *command]
        events = _events(samples) if faults else None
        perf = [*PERF, f"--event={events}", f"--output={samples}", "--"] if events else []
        process = subprocess.Popen([*perf, *strace])  # noqa: S603 - what the caller asked for
        # perf can't take the time of day for these events; the two clocks run alike.
        clock = time.time_ns() - time.monotonic_ns()
        maps = _Maps()
        for line in _lines(calls, process):
            maps.notice(line)
        if maps.first is None:
            raise RecordingFailed(
                f"{command[0]} ended (status {process.returncode}) before its map could be read: it "
                "could not be started, or makes no call of brk, as programs without a loader may"
            )
        text = calls.read_text(encoding="utf-8", errors="surrogateescape")
        return _assembled(
            command, maps, clock, text, _faults(samples, events, text) if events else ""
        )


class _Maps:
    """The maps of the first process, each read while it stands still."""

    def __init__(self) -> None:
        self.pid = 0
        self.first: str | None = None
        self.last = ""
        self.limits = ""

    def notice(self, line: str) -> None:
        """Take a line of strace, perhaps an unfinished one, and do what it calls for."""
        pid = int(line.partition(" ")[0])
        self.pid = self.pid or pid
        if "stopped by SIGSTOP" in line:
            if pid == self.pid and self.first is None:
                self.first = _map_of(pid)
                self.limits = _limits_of(pid)
            os.kill(pid, signal.SIGCONT)
        elif "exit_group(" in line and self.first is not None:
            # The last one counts: only the first process is asked, by whatever thread ends it.
            self.last = _map_of(self.pid) or self.last


def _map_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _limits_of(pid: int) -> str:
    """Return the limits of address space, data, locked memory and stack; "" if nobody can tell."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    found = dict(re.findall(r"^Max (.*?)  +(\w+)", limits, flags=re.MULTILINE))
    capabilities = re.search(r"^CapEff:\t(\w+)", status, flags=re.MULTILINE)
    if capabilities is not None and int(capabilities[1], 16) >> CAP_IPC_LOCK & 1:
        found["locked memory"] = "unlimited"
    return " ".join(found[name] for name in LIMITS)


def _lines(path: Path, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the lines that strace writes, the begun one of exit_group too, until it ends."""
    seen, begun = 0, -1
    while True:
        ended = process.poll() is not None
        text = ""
        if path.exists():
            with path.open(encoding="utf-8", errors="surrogateescape") as file:
                file.seek(seen)
                text = file.read()
        while "\n" in text:
            line, _, text = text.partition("\n")
            if seen != begun:
                yield line
            seen += len(line.encode("utf-8", "surrogateescape")) + 1
        if "exit_group(" in text and begun != seen:
            begun = seen
            yield text
        if ended:
            return
        time.sleep(0.005)


def _events(samples: Path) -> str | None:
    """Return the most telling events that this user may record here."""
    if shutil.which("perf") is None:
        return None
    for events in (EXACT, PLAIN):
        trial = [*PERF, f"--event={events}", f"--output={samples}", "--", "true"]
        if subprocess.run(trial, capture_output=True, check=False).returncode == 0:  # noqa: S603
            return events
    return None


def _faults(samples: Path, events: str, calls: str) -> str:
    """Return what perf has seen of the threads that strace has seen."""
    script = ["perf", "script", "--ns", f"--input={samples}", f"--fields={FIELDS[events]}"]
    answer = subprocess.run(script, capture_output=True, check=False)  # noqa: S603
    threads = {line.partition(" ")[0] for line in calls.splitlines()}
    lines = answer.stdout.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    return "".join(line for line in lines if line.split(maxsplit=1)[0] in threads)


def _assembled(command: Sequence[str], maps: _Maps, clock: int, calls: str, faults: str) -> str:
    system = platform.uname()
    parts = [
        "aspf recording 1\n",
        f"command {shlex.join(command)}\n",
        f"system {system.system} {system.release} {system.machine}\n",
        f"process {maps.pid}\n",
        f"clock {clock}\n",
        *([f"limits {maps.limits}\n"] if maps.limits else []),
        f"[maps]\n{maps.first}",
        f"[calls]\n{calls}",
        f"[faults]\n{faults}",
        f"[final]\n{maps.last}",
    ]
    return "".join(parts)
