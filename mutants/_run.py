"""Run the explorations of the test suite on one mutant, in a process of its own.

The process is a fork of one that has imported all that a mutant doesn't change, so a mutant that
is soon found costs a fraction of a second. It can't hang: each test has a limit of processor time,
and a mutant that exceeds it is killed in both senses.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import io
import json
import os
import resource
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import hypothesis as _warm_hypothesis  # noqa: F401 - imported here so that no fork needs to
import pytest
import trio as _warm_trio  # noqa: F401
from anyio._backends import _trio as _warm_backend  # noqa: F401

import aspf.race as _warm_race  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

ROOT = Path(__file__).parents[1]
MEMORY = 2 * 2**30
# Every test may take so many seconds of processor time, and so often what it takes the original.
SECONDS, TIMES = 5.0, 8.0


@final
@dataclass(frozen=True)
class Verdict:
    """What the explorations said of a mutant."""

    #: The test that failed, or None: the mutant survived.
    killer: str | None
    #: The first line of what it said.
    reason: str
    #: Test by test, how many seconds those took that passed.
    seconds: dict[str, float]


class Child:
    """A process that runs the explorations on one mutant."""

    def __init__(
        self,
        module: str,
        source: str,
        tests: Sequence[Path],
        *,
        first: str | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        self.out, into = os.pipe()
        sys.stdout.flush()
        with warnings.catch_warnings():
            # There are no threads that hold a lock: pytest and trio are idle here.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.out)
                reporter = _Reporter(io.FileIO(into, "w"), first, seconds or {})
                _run(module, source, tests, reporter)
            finally:
                os._exit(0)
        os.close(into)
        self._said = b""

    def read(self) -> bool:
        """Take over what the process has said; False once it has ended."""
        said = os.read(self.out, 1 << 16)
        self._said += said
        return bool(said)

    def verdict(self) -> Verdict:
        """Say how it went, after the end."""
        os.close(self.out)
        _, status = os.waitpid(self.pid, 0)
        seconds: dict[str, float] = {}
        test = "import"
        ended = False
        for line in self._said.decode().splitlines():
            kind, *rest = json.loads(line)
            if kind == "failed":
                return Verdict(rest[0], rest[1], seconds)
            if kind == "passed":
                seconds[rest[0]] = rest[1]
            elif kind == "started":
                test = rest[0]
            ended = ended or kind == "ended"
        if ended:
            return Verdict(None, "", seconds)
        what = signal.strsignal(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else "exit"
        return Verdict(test, f"no end: {what}", seconds)


class _Reporter:
    """Write what happens to the parent; a pytest plugin."""

    def __init__(self, out: io.FileIO, first: str | None, seconds: Mapping[str, float]) -> None:
        self._out = out
        self._first = first
        self._seconds = seconds

    def say(self, *what: object) -> None:
        self._out.write(json.dumps(what).encode() + b"\n")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Begin with what killed this mutant last time, then with what is soon done."""
        order = self._seconds.get
        items.sort(key=lambda item: (item.nodeid != self._first, order(item.nodeid, 0.0)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Limit the test's processor time: a mutant may loop between two checkpoints."""
        self.say("started", item.nodeid)
        limit = SECONDS + TIMES * self._seconds.get(item.nodeid, 60.0)
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.say("failed", report.nodeid, _reason(report))
        elif report.when == "call":
            self.say("passed", report.nodeid, report.duration)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.say("failed", "import", _reason(report))


def _reason(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr) if crash is None else crash.message
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # A report of the explorer: the line that says what went wrong comes after the columns.
    return " | ".join(lines[:1] + lines[2:3])[:300] if lines else ""


def _run(module: str, source: str, tests: Sequence[Path], reporter: _Reporter) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    for name in list(sys.modules):
        room = name.split(".")[:2]
        if room[0] == "aspf" and room[1:] not in (["race"], ["_errors"], ["_exports"]):
            del sys.modules[name]
    sys.meta_path.insert(0, _Finder(module, source))
    signal.setitimer(signal.ITIMER_PROF, 30.0)
    # The explorations are plain functions: no plugin is needed, and no rewritten assert.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    pytest.main(
        [
            *("-q", "-x", "-p", "no:cacheprovider", "--assert=plain", "--tb=short"),
            *(f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={ROOT}", *map(str, tests)),
        ],
        plugins=[reporter],
    )
    reporter.say("ended")


class _Finder(importlib.abc.MetaPathFinder):
    """Find the mutant where the module is asked for."""

    def __init__(self, module: str, source: str) -> None:
        self._module = module
        self._source = source

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the protocol's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(self._source))


class _Loader(importlib.abc.ExecutionLoader):
    def __init__(self, source: str) -> None:
        self._source = source

    def get_filename(self, fullname: str) -> str:
        return str(ROOT / (fullname.replace(".", "/") + ".py"))

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 - there is one module
        return self._source
