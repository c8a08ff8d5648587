"""The pytest plugin: ``@pytest.mark.race`` explores an async test instead of running it once.

``_aspf_pytest.py``, which pytest loads at its start, has the hooks, and comes here for every test
with the marker; nothing in aspf imports this file, so pytest stays optional.

A test is taken over when it is collected: a sync function stands in for the async one. Hence no
other plugin sees an async test that it could take for its own, neither by a marker nor in its auto
mode. When the stand-in is called, it has the values of the fixtures and calls the explorer.

The async fixtures of a test, and what depends on them, are made anew in every schedule:
``_pytest_fixtures.py``. The others are set up once, before the first schedule, by pytest. So what a
function-scoped one returns is shared by all schedules: that is named in a warning.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import shlex
import signal
import time
import unittest
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

import pytest
import trio

from _aspf_pytest import BUDGET
from aspf._errors import (
    ExplorationInterrupted,
    NotDeterministic,
    RaceFound,
    ReplayDiverged,
    TeardownStuck,
)
from aspf.race._explore import explore, replay
from aspf.race._interrupts import interruptible
from aspf.race._kept import Keyed, is_reference
from aspf.race._pytest_fixtures import FixtureGraph
from aspf.race._raised import behind, leaves_of
from aspf.race._token import parse_token, safe_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from aspf.race._explore import Exploration, Failure
    from aspf.race._limits import Progress

__all__ = ("SharedFixtureWarning",)

#: The async function that the stand-in of a test explores.
_BODY: Final = pytest.StashKey["Callable[..., Awaitable[object]]"]()
_GRAPH: Final = pytest.StashKey[FixtureGraph]()
# The marker takes every option of the explorer that a test can choose, and one of our own.
_OPTIONS: Final = sorted(
    {*inspect.signature(explore).parameters, "fixtures"}
    - {"program", "name", "progress", "directory"}
)
_SUMMARY: Final = "aspf_race"
# Seconds before a search is long.
PATIENCE: Final = 2.0
# Seconds from a time-out that has not ended a schedule to its repetition.
AGAIN = 1.0
# A traceback through these files tells how the explorer works, not how the program fails.
_NOT_THE_PROGRAMS: Final = (Path(__file__).parents[1], Path(trio.__file__).parent)


class SharedFixtureWarning(pytest.PytestWarning):
    """A function-scoped fixture was set up once for all schedules of a test."""


@final
class RaceFoundInTest(pytest.fail.Exception, RaceFound):  # type: ignore[misc,name-defined]
    """What an explored test raises. pytest prints its message and no traceback."""

    __module__ = "builtins"  # as those of pytest's own outcomes: a short name in the summary

    def __init__(self, message: str) -> None:
        super().__init__(message, pytrace=False)  # type: ignore[call-arg]


# -- options and marker ------------------------------------------------------------------------


def check_token(config: pytest.Config) -> None:
    """Refuse a token that no test could use."""
    try:
        parse_token(config.getoption("aspf_replay"), directory_of(config))
    except ValueError as error:
        raise pytest.UsageError(f"--aspf-replay: {error}") from None


def directory_of(config: pytest.Config) -> Path | None:
    """Return where failures are kept, if they are."""
    flag = config.getoption("aspf_directory")
    if flag is not None:
        return config.invocation_params.dir / flag if flag else None
    of_file = config.getini("aspf_directory")
    return config.rootpath / of_file if of_file else None


def _options(item: pytest.Item) -> dict[str, Any]:
    """Return the options of a test: of its own marker before those of its class and module."""
    options: dict[str, Any] = {}
    for marker in item.iter_markers("race"):
        if marker.args:
            _refuse(item, f"race takes no positional arguments: {marker.args!r}")
        for option, value in marker.kwargs.items():
            if option not in _OPTIONS:
                _refuse(item, f"race has no option {option!r}; it has {', '.join(_OPTIONS)}")
            options.setdefault(option, value)
    if options.get("fixtures", "shared") != "shared":
        _refuse(item, f"fixtures={options['fixtures']!r}: expected 'shared', or nothing")
    return options


def _refuse(item: pytest.Item, why: str) -> NoReturn:
    pytest.fail(f"{item.name} is marked race: {why}", pytrace=False)


# -- taking a test over ------------------------------------------------------------------------


def take_over(item: pytest.Function) -> None:
    """Put the stand-in where the async function was."""
    body = item.obj
    if not inspect.iscoroutinefunction(body) or _is_unittest(item):
        return  # `prepare` says so

    @functools.wraps(body)
    def stand_in(**fixtures: object) -> None:
        _run(item, fixtures)

    # This is how pytest-trio marks the runners that it has made itself, and leaves alone.
    vars(stand_in)["_trio_test_runner_wrapped"] = True
    item.stash[_BODY] = body
    item.obj = stand_in


def _is_unittest(item: pytest.Function) -> bool:
    return item.cls is not None and issubclass(item.cls, unittest.TestCase)


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the test that the token names, or if it was renamed all that we can.

    What was selected by other means stays selected, and the rest is not added.
    """
    token = config.getoption("aspf_replay")
    races = [item for item in items if _BODY in item.stash]
    name = parse_token(token, directory_of(config)).name
    chosen = [item for item in races if safe_name(item.name) == name] or races
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


# -- fixtures ----------------------------------------------------------------------------------


def prepare(item: pytest.Function) -> None:
    """Refuse what can't be explored; warn of what is shared."""
    options = _options(item)
    if _BODY not in item.stash:
        _refuse(
            item,
            "only an async function can be explored, outside of unittest.TestCase. In a sync test "
            "(also under Hypothesis's @given) call aspf.race.check(program), without the marker",
        )
    _skip_other_backends(
        getattr(item, "callspec", None) and item.callspec.params.get("anyio_backend")
    )
    graph = item.stash[_GRAPH] = FixtureGraph(item)
    graph.take_from_pytest()
    shared = sorted(
        name
        for name, fixture in _fixtures(item, _arguments(item)).items()
        if fixture.scope == "function" and name not in graph.fresh and not _is_clock(fixture)
    )
    if shared and "fixtures" not in options:
        item.warn(
            SharedFixtureWarning(
                f"{item.name} is explored, but the function-scoped {_plural(shared)} set up once "
                "and not for each schedule. Make in the test what a schedule changes; if the "
                'schedules may share it, say so: @pytest.mark.race(fixtures="shared")'
            )
        )


def _plural(names: list[str]) -> str:
    quoted = ", ".join(map(repr, names))
    return f"fixture {quoted} is" if len(names) == 1 else f"fixtures {quoted} are"


def _fixtures(item: pytest.Function, names: list[str]) -> dict[str, pytest.FixtureDef[Any]]:
    """Return the fixtures that *names* need, themselves included; parameters are none."""
    known = item._fixtureinfo.name2fixturedefs
    found: dict[str, pytest.FixtureDef[Any]] = {}
    todo = [*names]
    while todo:
        name = todo.pop()
        # `request` has no definition of its own; what is parametrized directly has one of pytest's.
        if name in known and name not in found and name != "request" and not _is_direct(item, name):
            found[name] = known[name][-1]
            todo += found[name].argnames
    return found


def _is_direct(item: pytest.Function, name: str) -> bool:
    function = item._fixtureinfo.name2fixturedefs[name][-1].func
    return getattr(function, "__name__", "") == "get_direct_param_fixture_func"


def _arguments(item: pytest.Function) -> list[str]:
    """Name what the test asks for; of autouse fixtures its author often knows nothing."""
    used = [str(name) for marker in item.iter_markers("usefixtures") for name in marker.args]
    return [*item._fixtureinfo.argnames, *used]


def _is_clock(fixture: pytest.FixtureDef[Any]) -> bool:
    """Tell whether it is a clock of pytest-trio's, for which each schedule has one of its own."""
    module = getattr(fixture.func, "__module__", "")
    return module.startswith("pytest_trio") and fixture.argname.endswith("clock")


def _skip_other_backends(backend: object) -> None:
    """Skip what anyio's plugin would run on another event loop than trio's."""
    name = backend[0] if isinstance(backend, tuple) else backend
    if isinstance(name, str) and name != "trio":
        pytest.skip(f"explored on trio only, not on {name}")


def _refuse_instruments(item: pytest.Function, fixtures: dict[str, object]) -> None:
    for name, value in fixtures.items():
        if isinstance(value, trio.abc.Instrument):
            _refuse(
                item,
                f"the fixture {name!r} is a {type(value).__name__}, and would have no effect: the "
                "explorer drives trio's loop without instruments",
            )


# -- exploring ---------------------------------------------------------------------------------


def _run(item: pytest.Function, fixtures: dict[str, object]) -> None:
    _refuse_instruments(item, fixtures)
    _skip_other_backends(item.funcargs.get("anyio_backend"))
    program = item.stash[_GRAPH].bind(item.stash[_BODY], fixtures)
    token = item.config.getoption("aspf_replay")
    try:
        with _stopped_by_alarms():
            if token:
                _replay(item, program, token)
            else:
                _explore(item, program)
    except (NotDeterministic, ReplayDiverged, TeardownStuck, ValueError) as error:
        failed = pytest.fail.Exception(f"{type(error).__name__}: {error}", pytrace=False)
        raise failed from None


def _explore(item: pytest.Function, program: Callable[[], Awaitable[object]]) -> None:
    options = {"minimise": True, **_limited(item, _options(item))}
    options.pop("fixtures", None)
    progress = _ProgressLine(item)
    path = directory_of(item.config)
    directory = None if path is None else Keyed(path, item.nodeid)
    try:
        exploration = explore(
            program, name=item.name, progress=progress, directory=directory, **options
        )
    finally:
        progress.erase()
    for failure in exploration.failures:
        _obey(failure.error)
    _tell(item, exploration)
    if exploration.failures:
        failures = tuple(_for_pytest(item, failure) for failure in exploration.failures)
        raise RaceFoundInTest(str(replace(exploration, failures=failures)))
    if exploration.verdict == "failed":
        raise RaceFoundInTest(str(exploration))
    if exploration.verdict == "unknown" and item.config.stash[BUDGET].fail_unknown:
        pytest.fail(f"{exploration.headline()}\n{exploration.explanation}", pytrace=False)


def _limited(item: pytest.Item, options: dict[str, Any]) -> dict[str, Any]:
    """Apply the budget: options of the command before the marker, before the file."""
    budget = item.config.stash[BUDGET]
    for name, of_file in (("schedules", budget.schedules), ("seconds", budget.seconds)):
        flag = item.config.getoption(f"aspf_{name}")
        if flag is not None:
            options[name] = flag
        elif of_file is not None:
            options.setdefault(name, of_file)
    left = max(budget.ends_at - time.monotonic(), 1e-9)
    options["seconds"] = min(options.get("seconds", math.inf), left)
    return options


@contextmanager
def _stopped_by_alarms() -> Iterator[None]:
    """Let a time-out of the test end the exploration.

    pytest-timeout raises in a handler of SIGALRM, that is anywhere. In the program that would be
    taken for a failure of this schedule, which would be run again, to hang once more; in trio's
    loop it would be trio's own failure. So it is made an interruption, of which nothing is lost.
    """
    kind = getattr(signal, "SIGALRM", None)
    handler = None if kind is None else signal.getsignal(kind)
    if kind is None or not callable(handler):
        yield
        return
    raised: list[BaseException] = []
    with interruptible() as interrupts:

        def stop(signum: int, frame: FrameType | None) -> None:
            if not raised:
                try:
                    handler(signum, frame)
                except BaseException as error:  # noqa: BLE001 - raised below, in its place
                    raised.append(error)
                    # It may have come just before a step that has no end.
                    signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
                else:
                    return
            interrupts.insist(frame)

        signal.signal(kind, stop)
        try:
            yield
            interrupts.check()
        except KeyboardInterrupt as interrupt:
            if not raised:
                raise
            found = f"{interrupt}\n" if isinstance(interrupt, ExplorationInterrupted) else ""
            raise pytest.fail.Exception(f"{found}{raised[0]}", pytrace=False) from None
        finally:
            if raised:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if signal.getsignal(kind) is stop:  # pragma: no branch - a test may set its own
                signal.signal(kind, handler)


def _is_tty(terminal: Any) -> bool:
    # A method in new versions of pytest.
    return bool(terminal.isatty() if callable(terminal.isatty) else terminal.isatty)


@final
class _ProgressLine:
    """A line on the terminal that says how far a long exploration is."""

    def __init__(self, item: pytest.Item) -> None:
        self._name = item.name
        plugins = item.config.pluginmanager
        self._terminal: Any = plugins.get_plugin("terminalreporter")
        self._capture: Any = plugins.get_plugin("capturemanager")
        self._is_shown = False
        # A worker of pytest-xdist has no terminal; a file, or who wants quiet, no use for it.
        self._is_wanted = (
            self._terminal is not None
            and _is_tty(self._terminal)
            and self._terminal.verbosity >= 0
            and not hasattr(item.config, "workerinput")
        )

    def __call__(self, progress: Progress) -> None:
        """Write the line anew."""
        # Before 3.13 a signal may be pending and CPython not look (python/cpython#109369): that one
        # is handled with the next, and a time-out comes once. This makes it look.
        signal.raise_signal(0)
        if not self._is_wanted or progress.elapsed < PATIENCE:
            return
        found = f", {progress.failures} ways of failing" if progress.failures else ""
        self._write(
            f"{self._name}: {progress.runs} of at most {progress.limit} schedules, "
            f"{progress.elapsed:.0f} s{found}"
        )

    def erase(self) -> None:
        """Leave the terminal as pytest expects it: at the beginning of a line."""
        if self._is_shown:
            self._write("")

    def _write(self, text: str) -> None:
        with self._capture.global_and_fixture_disabled() if self._capture else nullcontext():
            if not self._is_shown:
                self._terminal.ensure_newline()
            self._is_shown = True
            self._terminal.rewrite(text, erase=True)


def _replay(item: pytest.Function, program: Callable[[], Awaitable[object]], token: str) -> None:
    failure = replay(program, token, directory=directory_of(item.config))
    if failure is not None:
        _obey(failure.error)
        item.user_properties.append((_SUMMARY, "fails in the schedule that was replayed"))
        raise RaceFoundInTest(str(_for_pytest(item, failure)))
    item.user_properties.append((_SUMMARY, "passes in the one schedule that was replayed"))


def _obey(error: BaseException | None) -> None:
    """Skip the test if it has asked for that, and so on; none of these is a race."""
    if error is not None:
        for leaf in leaves_of(error):
            if isinstance(
                leaf, pytest.skip.Exception | pytest.xfail.Exception | pytest.exit.Exception
            ):
                raise leaf


def _for_pytest(item: pytest.Function, failure: Failure) -> Failure:
    """Say where the test raised, and how to repeat that from the shell."""
    error = failure.error
    raised = [] if error is None else [*leaves_of(error), *behind(error)]
    where = "".join(map(_traceback, raised))
    # Where pytest was started, the path may be another than seen from its root.
    path = os.path.relpath(item.path, item.config.invocation_params.dir)
    test = shlex.quote("::".join([path, *item.nodeid.split("::")[1:]]))
    command = f"pytest {test} --aspf-replay={failure.token}"
    directory = item.config.getoption("aspf_directory")
    if directory and is_reference(failure.token):
        command += f" --aspf-directory={shlex.quote(directory)}"
    return replace(failure, token=command, diagram=failure.diagram + where)


def _traceback(error: BaseException) -> str:
    """Show what the program did, with the values that pytest knows of an assertion."""
    info = pytest.ExceptionInfo.from_exception(error)
    info.traceback = info.traceback.filter(
        lambda entry: not any(Path(entry.path).is_relative_to(d) for d in _NOT_THE_PROGRAMS)
    )
    if not info.traceback:
        return ""  # a task may be no more than a call into trio or aspf; the diagram has its name
    return f"\n{info.getrepr(style='short', chain=False)}\n"


# -- the summary -------------------------------------------------------------------------------


def _tell(item: pytest.Function, exploration: Exploration) -> None:
    """Attach what was explored to the report of the test; pytest-xdist and JUnit carry it on."""
    _, _, found = exploration.headline().partition(": ")
    item.user_properties += [
        (_SUMMARY, f"{exploration.verdict}: {found}"),
        (f"{_SUMMARY}_verdict", exploration.verdict),
        (f"{_SUMMARY}_schedules", exploration.schedules),
        (f"{_SUMMARY}_exhausted", exploration.exhausted),
    ]
