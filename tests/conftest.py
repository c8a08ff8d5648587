"""What holds for every test: the same inputs each time, and the counts of what was explored."""

from __future__ import annotations

import os
import re
import signal

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let somebody who has an hour exhaust what the suite only samples."""
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="explore every schedule where the test suite draws some at random (minutes)",
    )
    parser.addoption(
        "--operations",
        type=int,
        default=40,
        help="how many calls of each kind are compared with this machine's kernel",
    )


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Give the inner pytest a root of its own, and no CI.

    The temporary directory may lie in a checkout, as nox's does, and pytest would take the settings
    of the first ``pyproject.toml`` upwards. On a CI it prints every failure twice.
    """
    for variable in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(variable, raising=False)
    pytester.makeini("[pytest]")
    return pytester


# No setting of the terminal that runs the tests decides what a program prints in them.
os.environ["TERM"] = "xterm-256color"
for _setting in ("COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(_setting, None)

# A shell lets what it runs in the background ignore ctrl-C; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("aspf", derandomize=True, deadline=None)
settings.load_profile("aspf")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the explorer ran: "exhausted, no failure" says little without the number."""
    explored = sorted(
        {
            line
            for report in terminalreporter.stats.get("passed", ())
            for line in report.capstdout.splitlines()
            if line.endswith("level: free)")
            # These are about the tests that a test has made.
            and not re.search("test_(pytest_plugin|newcomer)", report.nodeid)
        }
    )
    if explored:
        terminalreporter.section("explored")
        terminalreporter.write("\n".join(explored) + "\n")
