"""What pytest loads at its start: the marker ``race``, its options, and the summary "races".

The plugin proper is ``aspf.race.pytest_plugin``. That pytest's entry point is a module beside the
package, which imports nothing of it, has two reasons.

- pytest loads this file in every run of everybody who has aspf installed, and before pytest-cov
  measures anything. Who has no race test pays for no import of trio; who measures aspf sees all of
  it. The plugin is imported when the first test that is marked ``race`` has been collected.
- pytest rewrites the assertions of all modules of a distribution that has such an entry point.
  Here that would be the library under test, imported by a loader that ``runpy`` can't use (as in
  ``python -m aspf.cli``) and with a slower explorer. So the package is taken off pytest's list.
"""

from __future__ import annotations

import importlib
import inspect
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

Number = TypeVar("Number", int, float)


class Budget(NamedTuple):
    """How much is explored in this run, as far as markers and options of a test don't say."""

    schedules: int | None  # a test, from the configuration file
    seconds: float | None  # likewise
    ends_at: float  # by `time.monotonic`
    fail_unknown: bool


BUDGET = pytest.StashKey[Budget]()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the options that say how much is explored."""
    _keep_from_rewriting(pluginmanager)
    group = parser.getgroup("aspf", "races (aspf)")
    group.addoption(
        "--aspf-replay",
        metavar="TOKEN",
        help="repeat one schedule of a test marked race instead of exploring it",
    )
    group.addoption(
        "--aspf-directory",
        metavar="DIR",
        help="keep failing schedules in DIR and try them first the next time (default: .aspf in "
        "the root directory); an empty DIR keeps none",
    )
    group.addoption(
        "--aspf-schedules",
        metavar="N",
        type=int,
        help="explore at most N schedules per test, whatever its marker says",
    )
    group.addoption(
        "--aspf-seconds",
        metavar="S",
        type=float,
        help="begin no schedule later than S seconds after the test's first one",
    )
    group.addoption(
        "--aspf-run-seconds",
        metavar="S",
        type=float,
        help="explore for S seconds in all; later tests run one schedule each",
    )
    group.addoption(
        "--aspf-fail-unknown",
        action="store_true",
        default=None,
        help="fail a test whose schedules were not exhausted",
    )
    parser.addini("aspf_directory", "as --aspf-directory, seen from the root", default=".aspf")
    parser.addini("aspf_schedules", "as --aspf-schedules, for tests whose marker says nothing")
    parser.addini("aspf_seconds", "as --aspf-seconds, for tests whose marker says nothing")
    parser.addini("aspf_run_seconds", "as --aspf-run-seconds")
    parser.addini("aspf_fail_unknown", "as --aspf-fail-unknown", type="bool", default=False)


def _keep_from_rewriting(pluginmanager: pytest.PytestPluginManager) -> None:
    # No public way leads back. Where this one ends some day, the package is rewritten, as those of
    # other plugins are, which is a nuisance and no more.
    hook: Any = getattr(pluginmanager, "rewrite_hook", None)
    with suppress(AttributeError):  # also with --assert=plain
        hook._must_rewrite.discard("aspf")
        # Somebody may have asked where the package is, as coverage does.
        hook._marked_for_rewrite_cache.clear()


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker, and refuse an option that no test could use."""
    config.addinivalue_line(
        "markers",
        "race(*, search, schedules, seed, cancel, shared, max_steps, ...): explore the schedules "
        "of an async test, with the options of aspf.race.explore; fixtures='shared' says that "
        "the schedules may share the function-scoped fixtures.",
    )
    for option in ("schedules", "seconds", "run_seconds"):
        value = config.getoption(f"aspf_{option}")
        if value is not None and not value > 0:
            flag = f"--aspf-{option}".replace("_", "-")
            raise pytest.UsageError(f"{flag}={value}: expected more than 0")
        _from_file(config, f"aspf_{option}", int if option == "schedules" else float)
    run_seconds = config.getoption("aspf_run_seconds") or _from_file(
        config, "aspf_run_seconds", float
    )
    config.stash[BUDGET] = Budget(
        schedules=_from_file(config, "aspf_schedules", int),
        seconds=_from_file(config, "aspf_seconds", float),
        ends_at=time.monotonic() + (run_seconds or math.inf),
        fail_unknown=bool(
            config.getoption("aspf_fail_unknown") or config.getini("aspf_fail_unknown")
        ),
    )
    if config.getoption("aspf_replay"):
        _plugin().check_token(config)


def _from_file(config: pytest.Config, name: str, number: type[Number]) -> Number | None:
    """Read a limit from the configuration file; ``None`` if there is none."""
    text = str(config.getini(name) or "")
    if not text:
        return None
    try:
        value = number(text)
    except ValueError:
        value = None
    if value is None or not value > 0:
        raise pytest.UsageError(f"{name} = {text}: expected a number, more than 0")
    return value


def _plugin() -> Any:
    return importlib.import_module("aspf.race.pytest_plugin")


# -- the tests ---------------------------------------------------------------------------------


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> None:
    """Keep anyio's plugin from running a test once per backend.

    It asks for its fixture by a mark on the function, and does so first; pytest makes the test
    last. We come between them.
    """
    if not inspect.iscoroutinefunction(obj):
        return
    marks = getattr(obj, "pytestmark", [])
    if collector.get_closest_marker("race") or any(mark.name == "race" for mark in marks):
        unwanted = pytest.mark.usefixtures("anyio_backend").mark
        vars(obj)["pytestmark"] = [mark for mark in marks if mark != unwanted]


@pytest.hookimpl(specname="pytest_pycollect_makeitem", wrapper=True, trylast=True)
def pytest_pycollect_makeitem_race() -> Generator[None, object, object]:
    """Hand the tests with the marker to the plugin, before any other wrapper sees them.

    pytest-asyncio makes tests of a class of its own of all async ones, if it may.
    """
    made = yield
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Function) and item.get_closest_marker("race") is not None:
            _plugin().take_over(item)
    return made


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--aspf-replay``: select the test that the token is of."""
    if config.getoption("aspf_replay"):
        _plugin().select(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse what can't be explored before any fixture is set up."""
    if isinstance(item, pytest.Function) and item.get_closest_marker("race") is not None:
        _plugin().prepare(item)


# -- the summary -------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say of each race test how far it went: only an exhausted one has proved anything.

    pytest-xdist's controller collects no test and has no plugin but this one.
    """
    reports = [
        report
        for category in terminalreporter.stats.values()
        for report in category
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    lines = sorted(
        f"{report.nodeid}: {found}"
        for report in reports
        for name, found in report.user_properties
        if name == "aspf_race"
    )
    if lines:
        terminalreporter.section("races")
        for line in lines:
            terminalreporter.write_line(line)
