"""The marker: tests that run pytest on tests.

The programs below are files of their own, in a directory of their own, so that no option of this
test suite reaches them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _golden import check_golden

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "golden"
# The run inside has neither this suite's filters nor a fresh interpreter.
QUIET = ("-W", "default", "-W", "ignore::pytest.PytestAssertRewriteWarning")
# An installed aspf brings its plugin itself; pytest doesn't take it twice under two names.
INSTALLED = importlib.metadata.entry_points(group="pytest11", name="aspf_race")
LOAD = QUIET if INSTALLED else (*QUIET, "-p", "_aspf_pytest")

HEAD = """
import pytest
import trio

async def turns(count=1):
    for _ in range(count):
        await trio.lowlevel.checkpoint()
"""
# Two tasks of one step each, hence two schedules; the second one fails.
ORDER = """
@pytest.mark.race
async def test_order():
    order = []

    async def note(name):
        order.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, "a")
        nursery.start_soon(note, "b")
    assert order == ["a", "b"], "not the order of their start"
"""
METHOD = ORDER.replace("test_order()", "test_order(self)")
REPLAY_OF_ORDER = "aspf2:test_order:note+2,note:children:0@0,1,2,0"


@pytest.fixture
def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Return a function that runs pytest on the text of one test file."""
    monkeypatch.setenv("COLUMNS", "200")
    for variable in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(variable, raising=False)

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=HEAD + text)
        return pytester.runpytest_inprocess(*LOAD, *options)

    return run


def explored(result: pytest.RunResult) -> list[str]:
    """Return what the summary says of each race test."""
    return [line for line in result.outlines if re.match(r"test_it\.py::.*level: free\)$", line)]


# -- what a failure looks like -------------------------------------------------------------------


def test_a_failure_is_the_report(pytester: pytest.Pytester) -> None:
    """Its reader would wade through our traceback, and would not know how to repeat it."""
    pytester.makepyfile(test_it=HEAD + ORDER)
    (report,) = pytester.inline_run(*LOAD).getfailures()

    assert REPLAY_OF_ORDER in report.longreprtext
    check_golden(GOLDEN / "pytest_failure.txt", report.longreprtext + "\n")


def test_the_command_of_a_failure_repeats_it(run: Callable[..., pytest.RunResult]) -> None:
    """What the report tells to paste would select no test, or run another schedule."""
    text = ORDER.replace("async def test_order()", "async def test_order(a)").replace(
        "@pytest.mark.race", '@pytest.mark.race\n@pytest.mark.parametrize("a", ["x y", "z"])'
    )
    first = run(text, "-x")
    (command,) = [line for line in first.outlines if line.startswith("replay: pytest ")]
    again = run(text, "test_it.py::test_order[x y]", command.rpartition(" ")[2])

    assert "pytest 'test_it.py::test_order[x y]' --aspf-replay=" in command
    again.assert_outcomes(failed=1)
    assert command in again.outlines


def test_a_path_is_seen_from_where_pytest_was_started(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command would name a file that isn't there."""
    pytester.makeini("[pytest]")
    inner = pytester.mkdir("inner")
    inner.joinpath("test_it.py").write_text(HEAD + ORDER, encoding="utf-8")
    monkeypatch.chdir(inner)
    result = pytester.runpytest_inprocess(*LOAD)

    result.stdout.fnmatch_lines(["replay: pytest test_it.py::test_order --aspf-replay=*"])


def test_a_deadlock_has_no_traceback(run: Callable[..., pytest.RunResult]) -> None:
    """The report would show a traceback of nothing, or fail to be made."""
    result = run("@pytest.mark.race\nasync def test_it():\n    await trio.Event().wait()")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["deadlock in schedule 1", "*main waits for*"])


def test_the_errors_of_all_tasks_are_shown(run: Callable[..., pytest.RunResult]) -> None:
    """Of two tasks that fail in one schedule the report would show neither's line."""
    result = run("""
async def first():
    raise KeyError("one")

async def second():
    raise IndexError("two")

@pytest.mark.race
async def test_it():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*in first", "*raise KeyError*", "*in second", "*IndexError*"])
    result.stdout.no_fnmatch_line("*_explore.py*")


def test_the_error_before_an_error_is_shown(run: Callable[..., pytest.RunResult]) -> None:
    """A check in a ``finally:`` would hide what really went wrong, and where."""
    result = run("""
@pytest.mark.race(minimise=False)
async def test_it():
    is_done = False
    try:
        raise ValueError("first")
    finally:
        assert is_done, "second"
""")

    result.stdout.fnmatch_lines(
        ["AssertionError: second", "  after ValueError: first", "E *second", "E *ValueError: first"]
    )


def test_an_error_may_come_from_no_line_of_the_test(run: Callable[..., pytest.RunResult]) -> None:
    """The report would show the inside of the explorer, or say that something is hidden."""
    result = run("""
from aspf.race import Cell, Lifetime

@pytest.mark.race
async def test_it():
    node = Lifetime("node")
    value = Cell(0, "value", lifetime=node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(value.get)
        nursery.start_soon(node.free)
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["error in schedule *", "*UseAfterFree*", "", "replay: *"])
    result.stdout.no_fnmatch_line("All traceback entries are hidden*")


def test_a_race_is_an_expected_failure_by_its_name(run: Callable[..., pytest.RunResult]) -> None:
    """`xfail(raises=RaceFound)` would not match what a marked test raises."""
    result = run(
        "from aspf.race import RaceFound\n@pytest.mark.xfail(raises=RaceFound)" + ORDER, "-rx"
    )

    result.assert_outcomes(xfailed=1)


@pytest.mark.parametrize(
    ("way", "outcome"),
    [("pytest.skip('no')", "skipped"), ("pytest.xfail('no')", "xfailed")],
)
def test_a_test_may_skip_itself(
    run: Callable[..., pytest.RunResult], way: str, outcome: str
) -> None:
    """`pytest.skip()` in a task would be reported as a race."""
    result = run(f"""
async def task():
    {way}

@pytest.mark.race
async def test_it():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
""")

    result.assert_outcomes(**{outcome: 1})


def test_a_program_that_cannot_be_repeated_is_refused(
    run: Callable[..., pytest.RunResult],
) -> None:
    """The traceback of the explorer would hide what the program did wrong."""
    result = run("""
@pytest.mark.race
async def test_it():
    await trio.to_thread.run_sync(print)
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["NotDeterministic: *"])
    result.stdout.no_fnmatch_line("During handling of*")


# -- how much is explored ------------------------------------------------------------------------


def test_an_explored_test_says_how_far_it_went(run: Callable[..., pytest.RunResult]) -> None:
    """A search that was cut would look like a proof."""
    result = run("""
async def program():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns)
        nursery.start_soon(turns)

@pytest.mark.race
async def test_all():
    await program()

@pytest.mark.race(schedules=2)
async def test_some():
    await program()
""")

    result.assert_outcomes(passed=2)
    assert explored(result) == [
        "test_it.py::test_all: holds: no failure in 38 schedules (portfolio search, exhausted; level: free)",
        "test_it.py::test_some: unknown: no failure in 2 schedules (portfolio search, not exhausted; level: free)",
    ]


def test_without_race_tests_nothing_is_said(run: Callable[..., pytest.RunResult]) -> None:
    """Everybody who has aspf installed would see an empty section in every run."""
    result = run("def test_it(): pass")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*races*")


@pytest.mark.parametrize("option", ["--aspf-schedules=1", "--aspf-seconds=1e-9"])
def test_a_budget_overrides_the_marker(run: Callable[..., pytest.RunResult], option: str) -> None:
    """An hour at night, or a minute before a commit, would need another marker."""
    result = run(ORDER.replace("race", "race(schedules=9)"), option)

    result.assert_outcomes(passed=1)
    (line,) = explored(result)
    assert "no failure in 1 schedules (portfolio search, not exhausted" in line


def test_a_budget_in_the_file(run: Callable[..., pytest.RunResult]) -> None:
    """A project would have to repeat it in every marker, or at every call of pytest."""
    text = ORDER + ORDER.replace("race", "race(schedules=9)").replace("test_", "test_own_")
    one = run(text, "-o", "aspf_schedules=1", "-o", "aspf_seconds=1e9")
    late = run(text, "-o", "aspf_seconds=1e-9", "--aspf-directory=")
    flag = run(text, "-o", "aspf_schedules=1", "--aspf-schedules=2")

    one.assert_outcomes(passed=1, failed=1)
    late.assert_outcomes(passed=2)
    flag.assert_outcomes(failed=2)


@pytest.mark.parametrize("option", [("--aspf-run-seconds=1e-9",), ("-o", "aspf_run_seconds=1e-9")])
def test_a_budget_for_the_run(
    run: Callable[..., pytest.RunResult], option: tuple[str, ...]
) -> None:
    """A suite would take longer with each test, whatever time there is."""
    result = run(ORDER + ORDER.replace("test_", "test_other_"), *option)

    result.assert_outcomes(passed=2)
    assert all("no failure in 1 schedules" in line for line in explored(result))


def test_a_budget_ends_minimising_too(run: Callable[..., pytest.RunResult]) -> None:
    """Ten tests that fail would take 5,000 schedules more than there was time for."""
    result = run(
        """
@pytest.mark.race
async def test_sum():
    sum_ = 0

    async def add():
        nonlocal sum_
        seen = sum_
        await trio.lowlevel.checkpoint()
        sum_ = seen + 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add)
        nursery.start_soon(add)
    assert sum_ == 2
""",
        "--aspf-run-seconds=1e-9",
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["not minimised: the time was over", "level: *"])


@pytest.mark.parametrize("option", [("--aspf-fail-unknown",), ("-o", "aspf_fail_unknown=true")])
def test_an_unknown_may_fail(run: Callable[..., pytest.RunResult], option: tuple[str, ...]) -> None:
    """Who wants proofs would have to read the summary after each run."""
    result = run(
        ORDER + "\n@pytest.mark.race\nasync def test_holds(): pass", "--aspf-schedules=1", *option
    )

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["test_order: no failure in 1 schedules*", "unknown: *"])


# A time-out as pytest-timeout makes it; here the test itself says when it is over.
ALARM = """
import signal
from aspf.race import Cell

def alarm():
    signal.raise_signal(signal.SIGALRM)
    return True

@pytest.fixture(autouse=True)
def time_limit():
    def time_out(signum, frame):
        __tracebackhide__ = True
        if frame.f_code is not alarm.__code__:
            pytest.fail("the second alarm is no affair of this")
        pytest.fail("Timeout (>0.2s)")

    before = signal.signal(signal.SIGALRM, time_out)
    yield
    assert signal.getsignal(signal.SIGALRM) is time_out
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    signal.signal(signal.SIGALRM, before)

class Finalised:
    def __del__(self):
        alarm()

runs = []
"""


@pytest.mark.parametrize(
    "body",
    [
        "alarm()",
        "runs.append(await turns()); alarm() if len(runs) == 9 else None",
        "await Cell(0, 'cell').wait_until(lambda value: alarm())",
        "while True:\n        runs.append(await turns()); alarm() if len(runs) == 9 else None",
        "try:\n        alarm()\n    except BaseException: pass",
        "while True:\n        try:\n            alarm()\n        except BaseException: await turns()",
        "await Cell(0, 'cell').wait_until(lambda value: alarm())\n    while True: pass",
        "Finalised()\n    while True: await turns()",
        "Finalised()\n    while True: pass",
        """try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns)
            alarm()
    except BaseException:
        while True: pass""",
    ],
    ids=[
        *("step", "ninth", "loop", "endless", "swallowed", "swallowed-always", "loop-then-step"),
        *("finalised", "finalised-then-step", "clean-up"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_outs(
    run: Callable[..., pytest.RunResult], body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out would be taken for a race, what hangs be run once more, or the time-out be lost."""
    monkeypatch.setattr("aspf.race.pytest_plugin.AGAIN", 1e-3)
    marker = 'race(max_steps=10**9, schedules=10**9, search="random", fixtures="shared")'
    result = run(
        ALARM
        + f"""
@pytest.mark.{marker}
async def test_it():
    {body}

@pytest.mark.race
async def test_after(): pass
"""
    )

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*Timeout (>0.2s)"])
    result.stdout.no_fnmatch_line("error in schedule*")
    if body == "alarm()":
        result.stdout.fnmatch_lines(["*interrupted in a step of 'main', test_it.py:*"])


def test_an_alarm_that_is_no_time_out(run: Callable[..., pytest.RunResult]) -> None:
    """A test could not use alarms of its own."""
    result = run(
        ALARM.replace('pytest.fail("Timeout (>0.2s)")', "runs.append(signum)")
        + """
@pytest.mark.race
async def test_it():
    alarm()
    assert runs.pop()
"""
    )

    result.assert_outcomes(passed=1)


def test_a_time_out_while_a_schedule_is_replayed(run: Callable[..., pytest.RunResult]) -> None:
    """The time-out would be shown as the failure that the token is of."""
    text = ALARM + ORDER.replace("order.append(name)", "order.append(name); alarm()")
    result = run(text, f"--aspf-replay={REPLAY_OF_ORDER}")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Timeout (>0.2s)"])
    result.stdout.no_fnmatch_line("error in*")


def test_what_is_never_reached_fails_the_test(run: Callable[..., pytest.RunResult]) -> None:
    """A test would pass although the case that it is for never came up."""
    result = run("""
from aspf.race import sometimes

@pytest.mark.race
async def test_it():
    await turns()
    sometimes("the cache is full", False)
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the cache is full*"])


def test_ctrl_c_ends_the_run(run: Callable[..., pytest.RunResult]) -> None:
    """It would be taken for a race, or stop one test only."""
    result = run(
        ALARM.replace('pytest.fail("Timeout (>0.2s)")', "")
        + """
@pytest.mark.race
async def test_it():
    raise KeyboardInterrupt

@pytest.mark.race
async def test_after(): pass
""",
        "--setup-show",
    )

    assert result.ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize(("option", "failed"), [("-x", 1), ("--maxfail=2", 2)])
def test_a_run_ends_after_so_many_failures(
    run: Callable[..., pytest.RunResult], option: str, failed: int
) -> None:
    """A race is a failure like any other: nobody wants to wait for the other searches."""
    text = "".join(ORDER.replace("test_", f"test_{i}_") for i in range(4))
    result = run("def test_sync(): pass\n" + text, option)

    result.assert_outcomes(passed=1, failed=failed)
    result.stdout.fnmatch_lines([f"*stopping after {failed} failures*"])
    # Within the last test the search has gone on to its own end, and the others were not begun.
    assert len(explored(result)) == failed


def test_a_worker_ends_after_so_many_failures(run: Callable[..., pytest.RunResult]) -> None:
    """Under pytest-xdist it would go on with all that it was given."""
    pytest.importorskip("xdist")
    text = "".join(ORDER.replace("test_", f"test_{i}_") for i in range(4))
    result = run(text, "-n1", "-x")

    result.assert_outcomes(failed=1)
    assert len(explored(result)) == 1


def test_progress_of_a_long_search(
    run: Callable[..., pytest.RunResult],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody who waits for minutes would not know whether anything happens."""
    # By name monkeypatch may find those of an earlier run inside, which are no longer in use.
    for module, constant in (("pytest_plugin", "PATIENCE"), ("_limits", "INTERVAL")):
        monkeypatch.setattr(importlib.import_module(f"aspf.race.{module}"), constant, 0)
    pytester.makeconftest("""
def pytest_sessionstart(session):
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    # A method in new versions of pytest.
    terminal.isatty = (lambda: True) if callable(terminal.isatty) else True
""")
    text = ORDER.replace("race", "race(stop_on_failure=False, schedules=9)")
    loud, quiet = run(text), run(text, "-q")
    bare = run(text, "-p", "no:capture")

    for result in (loud, bare):
        shown = result.stdout.str()
        assert re.search(r"test_order: 1 of at most 9 schedules, \d+ s", shown)
        assert re.search(r"of at most 9 schedules, \d+ s, 1 ways of failing", shown)
    assert "of at most" not in quiet.stdout.str()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--aspf-run-seconds=0", "--aspf-run-seconds=0.0: expected more than 0"),
        ("-oaspf_seconds=soon", "aspf_seconds = soon: expected a number, more than 0"),
        ("-oaspf_schedules=-1", "aspf_schedules = -1: expected a number, more than 0"),
        ("--aspf-schedules=0", "--aspf-schedules=0: expected more than 0"),
        ("--aspf-seconds=-1", "--aspf-seconds=-1.0: expected more than 0"),
        ("--aspf-seconds=nan", "--aspf-seconds=nan: expected more than 0"),
        ("--aspf-replay=x", "--aspf-replay: 'x' is no replay token"),
    ],
)
def test_a_wrong_option_ends_the_run(
    run: Callable[..., pytest.RunResult], option: str, message: str
) -> None:
    """Each test would fail with the same complaint, or none would be explored."""
    result = run(ORDER, option)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_the_nearest_marker_decides(run: Callable[..., pytest.RunResult]) -> None:
    """A test could not depart from what its module says."""
    result = run("""
pytestmark = pytest.mark.race(schedules=1, search="random")

class TestIt:
    pytestmark = pytest.mark.race(search="exhaustive")

    async def test_class(self):
        pass

    @pytest.mark.race(schedules=3, search="random")
    async def test_own(self):
        pass
""")

    assert explored(result) == [
        "test_it.py::TestIt::test_class: holds: no failure in 1 schedules (exhaustive search, exhausted; level: free)",
        "test_it.py::TestIt::test_own: unknown: no failure in 3 schedules (random search, not exhausted; level: free)",
    ]


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("race(3)", "race takes no positional arguments: (3,)"),
        ("race(schedule=3)", "race has no option 'schedule'; it has cancel, fixtures, "),
        ("race(fixtures='fresh')", "fixtures='fresh': expected 'shared', or nothing"),
        ("race(search='bogo')", "ValueError: search='bogo': expected one of 'exhaustive'"),
    ],
)
def test_a_wrong_marker_is_refused(
    run: Callable[..., pytest.RunResult], marker: str, message: str
) -> None:
    """A misspelt option would be ignored, and the test explored as nobody wanted."""
    result = run(ORDER.replace("race", marker))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert message in result.stdout.str()


# -- replay --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "passed", "message"),
    [
        (REPLAY_OF_ORDER, False, "test_it.py::test_order: fails in the schedule"),
        ("aspf1:test_order:0,1,2,0", True, "test_it.py::test_order: passes in the one schedule"),
        ("aspf1:test_order:0,7", False, "ReplayDiverged: *"),
    ],
)
def test_replay_runs_one_schedule(
    run: Callable[..., pytest.RunResult], token: str, passed: bool, message: str
) -> None:
    """A replay would explore, or pass for a program that can't do what the token says."""
    result = run(ORDER, f"--aspf-replay={token}")

    result.assert_outcomes(passed=int(passed), failed=int(not passed))
    result.stdout.fnmatch_lines([message + "*"])
    assert explored(result) == []


def test_replay_selects_the_test_of_that_name(run: Callable[..., pytest.RunResult]) -> None:
    """A token would be tried on every other test of the suite, to fail there."""
    other = "\n@pytest.mark.race\nasync def test_other(): pass\ndef test_plain(): pass\n"
    result = run(ORDER + other, f"--aspf-replay={REPLAY_OF_ORDER}")

    result.assert_outcomes(failed=1, deselected=2)


def test_replay_of_a_renamed_test(run: Callable[..., pytest.RunResult]) -> None:
    """A token would be worthless as soon as somebody finds a better name."""
    text = ORDER.replace("test_order", "test_better_name") + "\ndef test_plain(): pass"
    result = run(text, f"--aspf-replay={REPLAY_OF_ORDER}")

    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*not the order of their start"])


# -- fixtures ------------------------------------------------------------------------------------

FIXTURES = """
@pytest.fixture(scope="module")
def server(): return []

@pytest.fixture(autouse=True)
def always(): pass

@pytest.fixture
def inner(): return []

@pytest.fixture
def outer(inner): return inner

@pytest.fixture
def used(): pass

@pytest.mark.race
@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("number", [1])
async def test_it(outer, server, number, request): pass
"""


def test_fixtures_that_schedules_share_are_named(run: Callable[..., pytest.RunResult]) -> None:
    """What one schedule left in a fixture would make the next one fail, and nobody knows why."""
    result = run(FIXTURES)

    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*SharedFixtureWarning: *fixtures 'inner', 'outer', 'used' are*"])


def test_one_shared_fixture(run: Callable[..., pytest.RunResult]) -> None:
    """The sentence would be wrong in the most common case."""
    result = run("@pytest.mark.race\nasync def test_it(tmp_path): pass")

    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*function-scoped fixture 'tmp_path' is set up once*"])


def test_fixtures_may_be_shared_on_purpose(run: Callable[..., pytest.RunResult]) -> None:
    """A warning that can't be answered teaches to ignore warnings."""
    result = run(FIXTURES.replace("race", 'race(fixtures="shared")'))

    result.assert_outcomes(passed=1, warnings=0)


MODES = pytest.mark.parametrize(
    "mode", [(), ("-o", "trio_mode=true"), ("--anyio-mode=auto",)], ids=["", "trio", "anyio"]
)
FRESH = """
made = []

@pytest.fixture(scope="module")
def number(): return 7

@pytest.fixture(scope="module")
async def connection(number_of_module):
    await trio.lowlevel.checkpoint()
    made.append([])
    yield made[-1]
    await trio.lowlevel.checkpoint()
    made[-1].append("closed")

@pytest.fixture(scope="module")
def number_of_module(): return 1

@pytest.fixture
async def plain(number): return number

@pytest.fixture
def client(connection, plain):
    connection.append(plain)
    yield connection
    connection.append("left")

class TestIt:
    @pytest.fixture(autouse=True)
    async def always(self, client): client.append("always")

    @pytest.mark.race(search="exhaustive", minimise=False)
    async def test_it(self, client, connection):
        assert client is connection and client == [7, "always"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns)
            nursery.start_soon(turns)

def test_after():
    assert made == [[7, "always", "left", "closed"]] * 6
"""


@MODES
def test_async_fixtures_are_fresh_in_every_schedule(
    run: Callable[..., pytest.RunResult], mode: tuple[str, ...]
) -> None:
    """What one schedule leaves in a fixture would make the next one fail, or pass."""
    result = run(FRESH, *mode)

    result.assert_outcomes(passed=2, warnings=0)


@MODES
@pytest.mark.parametrize("isolated", [True, False])
def test_the_test_is_cancelled_and_not_its_fixtures(
    run: Callable[..., pytest.RunResult], mode: tuple[str, ...], isolated: bool
) -> None:
    """What a test leaves behind when it is cancelled would be blamed on its fixtures."""
    result = run(
        f"""
made = []

@pytest.fixture
async def connection():
    made.append([])
    await trio.lowlevel.checkpoint()
    yield made[-1]
    await trio.lowlevel.checkpoint()
    made[-1].append("closed")

@pytest.mark.race(search="exhaustive", cancel="each", isolated={isolated}, minimise=False)
async def test_it(connection):
    try:
        await trio.lowlevel.checkpoint()
        connection.append("used")
    except trio.Cancelled:
        connection.append("cancelled")
        raise

def test_after():
    assert made == [["used", "closed"], ["cancelled", "closed"]]
""",
        *mode,
    )

    result.assert_outcomes(passed=2)


def test_a_test_without_fixtures_is_cancelled(run: Callable[..., pytest.RunResult]) -> None:
    """Each test would have to mark itself, and one that doesn't would pass untried."""
    result = run("""
@pytest.mark.race(cancel="each")
async def test_it():
    try:
        await trio.lowlevel.checkpoint()
    except trio.Cancelled:
        raise ValueError("cancelled in the test") from None
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *ValueError: cancelled in the test", "replay: pytest *=aspf2:test_it:*c0,0"]
    )


def test_fixtures_may_have_parameters_finalizers_and_a_class(
    run: Callable[..., pytest.RunResult],
) -> None:
    """A fixture would be set up with less than pytest gives it."""
    result = run("""
closed = []

@pytest.fixture(params=["a", "b"])
async def letter(request):
    assert request.fixturename == "letter" and request.node.name.startswith("test_it")
    request.addfinalizer(lambda: closed.append(request.param))
    return request.param

@pytest.fixture
async def name(): return "outer"

class TestIt:
    def setup_method(self): self.ready = True

    @pytest.fixture
    async def name(self, name, request):
        assert self.ready and request.getfixturevalue("name_of_sync") == "sync"
        return "inner of " + name

    @pytest.mark.race(minimise=False)
    async def test_it(self, letter, name):
        assert letter in "ab" and name == "inner of outer"

@pytest.fixture
def name_of_sync(): return "sync"

def test_after(): assert closed == ["a", "b"]
""")

    result.assert_outcomes(passed=3, warnings=0)


@pytest.mark.parametrize(
    ("fixture", "body", "message"),
    [
        ("yield 1; raise ValueError('torn')", "assert False, 'first'", "*first; ValueError: torn"),
        ("yield 1; raise ValueError('torn')", "pass", "ValueError: torn"),
        ("yield 1; yield 2", "pass", "RuntimeError: the fixture 'it' yields more than once"),
        ("raise KeyError('set up')\n    yield", "pass", "KeyError: 'set up'"),
    ],
)
def test_a_fixture_that_fails(
    run: Callable[..., pytest.RunResult], fixture: str, body: str, message: str
) -> None:
    """Its error would be lost, or hide that of the test."""
    result = run(f"""
@pytest.fixture
async def it():
    {fixture}

@pytest.mark.race
async def test_it(it):
    {body}
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])


def test_what_a_fixture_asks_for_by_name(run: Callable[..., pytest.RunResult]) -> None:
    """It would get a placeholder, or one that another schedule has made."""
    result = run("""
closed = []

@pytest.fixture
async def first(): return object()

@pytest.fixture
async def second(first, request):
    request.addfinalizer(lambda: closed.append("second"))
    return request.getfixturevalue("first") is first

@pytest.fixture
async def early(request): return request.getfixturevalue("late")

@pytest.fixture
async def late(): pass

@pytest.fixture
def twice(first): yield 1; yield 2

@pytest.mark.race
async def test_made(second): assert not second

@pytest.mark.race
async def test_not_made(early, late): pass

@pytest.mark.race
async def test_sync(twice): pass

def test_after(): assert closed
""")

    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "AssertionError*",
            "LookupError: the async fixture 'late' is not set up yet: name it as an argument",
            "RuntimeError: the fixture 'twice' yields more than once",
        ]
    )


def test_a_nursery_of_a_fixture(run: Callable[..., pytest.RunResult]) -> None:
    """A crash of a background task would reach nobody, or end in an error of trio's."""
    result = run("""
async def crash():
    raise ValueError("crashed")

async def stay(): await trio.sleep_forever()

@pytest.fixture
async def server(task):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        yield
        nursery.cancel_scope.cancel()

@pytest.fixture
def client(server): yield "client"

@pytest.mark.race
@pytest.mark.parametrize("task", [stay, crash])
async def test_it(client):
    await trio.sleep(1)
""")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*ValueError: crashed"])


def test_fixtures_of_pytest_trio(run: Callable[..., pytest.RunResult]) -> None:
    """The nursery would be a placeholder, and the clock nobody's."""
    pytest.importorskip("pytest_trio")
    result = run("""
@pytest.fixture
async def server(nursery):
    nursery.start_soon(trio.sleep_forever)
    return nursery

@pytest.mark.trio
@pytest.mark.race
async def test_nursery(nursery, server):
    nursery.start_soon(turns)
    assert nursery is not server

@pytest.mark.race
async def test_clock(autojump_clock, mock_clock):
    started = trio.current_time()
    await trio.sleep(3)
    mock_clock.jump(2)
    mock_clock.rate = 0
    mock_clock.autojump_threshold = mock_clock.autojump_threshold
    assert (trio.current_time() - started, mock_clock.current_time()) == (5, 5)
    assert mock_clock.deadline_to_sleep_time(7) == 2 and mock_clock.rate == 0
    with pytest.raises(RuntimeError, match="can't take part in real time"):
        mock_clock.rate = 1
    with pytest.raises(ValueError, match="backwards"):
        mock_clock.jump(-1)

@pytest.mark.race
async def test_error(nursery):
    nursery.start_soon(turns)
    raise KeyError("of the test")

@pytest.mark.race
async def test_time_out(nursery):
    with trio.fail_after(1):
        await trio.sleep(2)

async def crash(): raise ValueError("crashed")

@pytest.mark.race
async def test_crash(nursery):
    nursery.start_soon(crash)
    await trio.sleep_forever()
""")

    result.assert_outcomes(passed=2, failed=3, warnings=0)
    result.stdout.fnmatch_lines(["KeyError: 'of the test'", "TooSlowError*", "ValueError: crashed"])


def test_backends_of_anyio(run: Callable[..., pytest.RunResult]) -> None:
    """A test would be explored once per backend, on trio each time, and pass for both."""
    result = run(
        """
@pytest.fixture
async def it(anyio_backend): return anyio_backend

@pytest.mark.anyio
@pytest.mark.race
async def test_it(it):
    assert it == "trio"

class TestOther:
    @pytest.fixture
    def anyio_backend(self): return "asyncio", {}

    @pytest.mark.race
    async def test_other(self, anyio_backend): pass
""",
        "-rs",
    )

    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED *: explored on trio only, not on asyncio"])


def test_instruments_are_refused(run: Callable[..., pytest.RunResult]) -> None:
    """An instrument would see nothing, and the test would pass for measured."""
    result = run("""
@pytest.fixture
def tracer(): return type("Tracer", (trio.abc.Instrument,), {})()

@pytest.mark.race
async def test_it(tracer): pass
""")

    result.stdout.fnmatch_lines(["*the fixture 'tracer' is a Tracer, and would have no effect*"])


# -- whose test it is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", [(), ("-o", "trio_mode=true"), ("--anyio-mode=auto",)], ids=["", "trio", "anyio"]
)
@pytest.mark.parametrize("marker", ["", "@pytest.mark.anyio", "@pytest.mark.trio"])
def test_a_race_test_is_ours_alone(
    run: Callable[..., pytest.RunResult], marker: str, mode: tuple[str, ...]
) -> None:
    """Another plugin would run it once, or once per backend, and nothing would be explored."""
    result = run(marker + ORDER, *mode)

    result.assert_outcomes(failed=1)
    assert len(explored(result)) == 1


def test_others_see_no_async_test(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """pytest-asyncio's auto mode makes what it sees into tests of its own kind."""
    pytester.makeconftest("""
import inspect
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem():
    made = yield
    for item in made or []:
        assert not inspect.iscoroutinefunction(item.obj)
    return made
""")
    result = run(ORDER)

    result.assert_outcomes(failed=1)


def test_others_keep_their_tests(run: Callable[..., pytest.RunResult]) -> None:
    """An async test without our marker would no longer run, or no longer on both backends."""
    result = run("""
@pytest.mark.anyio
async def test_anyio(): pass

@pytest.mark.trio
async def test_trio(): pass
""")

    result.assert_outcomes(passed=3)
    assert explored(result) == []


def test_a_method_has_its_own_instance(run: Callable[..., pytest.RunResult]) -> None:
    """What `setup_method` puts into an instance would not be there."""
    result = run("""
class TestIt:
    def setup_method(self):
        self.ready = True

    @pytest.mark.race
    async def test_method(self):
        assert self.ready

    @pytest.mark.race
    async def test_other_method(self):
        assert self.ready
""")

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "text",
    [
        "@pytest.mark.race\ndef test_it(): pass",
        """
from unittest import IsolatedAsyncioTestCase

class TestIt(IsolatedAsyncioTestCase):
    @pytest.mark.race
    async def test_it(self): pass
""",
    ],
    ids=["sync", "unittest"],
)
def test_what_cannot_be_explored_is_refused(
    run: Callable[..., pytest.RunResult], text: str
) -> None:
    """It would run once, and pass for explored."""
    result = run(text)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*only an async function can be explored*"])


def test_items_of_other_kinds_are_left_alone(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """A doctest, or any other plugin's item, would break the collection."""
    pytester.maketxtfile(test_text=">>> 1 + 1\n2")
    result = run("def test_it(): pass", "--doctest-glob=*.txt")

    result.assert_outcomes(passed=2)


def test_the_summary_comes_from_the_workers(run: Callable[..., pytest.RunResult]) -> None:
    """Under pytest-xdist the controller would not know what was explored."""
    pytest.importorskip("xdist")
    result = run("@pytest.mark.race\nasync def test_it(): pass", "-n1")

    result.assert_outcomes(passed=1)
    assert len(explored(result)) == 1


def test_the_counts_are_properties_of_the_report(pytester: pytest.Pytester) -> None:
    """Who reads JUnit's file would have to parse a sentence."""
    pytester.makepyfile(HEAD + "@pytest.mark.race(schedules=1)\nasync def test_it(): pass")
    (report,) = [r for r in pytester.inline_run(*LOAD).getreports() if r.when == "call"]

    properties = dict(json.loads(json.dumps(report.user_properties)))
    assert properties["aspf_race_schedules"] == 1
    assert properties["aspf_race_exhausted"] is True


# -- what is kept --------------------------------------------------------------------------------


def kept_in(directory: Path) -> list[Path]:
    """Return the tokens that are kept of failures."""
    return sorted(directory.glob("failures/*/*"))


def test_a_failure_is_tried_first_the_next_time(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """Whoever repairs a race runs the test again and again, and doesn't want to wait."""
    first = run(ORDER)
    second = run(ORDER)
    repaired = run(ORDER.replace('== ["a", "b"]', "is not None"))

    first.stdout.fnmatch_lines(["error in schedule 2"])
    second.stdout.fnmatch_lines(["error in schedule 1, kept from an earlier run"])
    # Below the root is nothing but what git ignores.
    assert (pytester.path / ".aspf" / ".gitignore").read_text(encoding="utf-8") == "*\n"
    repaired.stdout.fnmatch_lines(["test_it.py::test_order: holds: no failure in *"])
    assert kept_in(pytester.path / ".aspf") == []


def test_where_failures_are_kept(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """A read-only checkout, or who wants none of it."""
    run(ORDER, "--aspf-directory=")
    assert not (pytester.path / ".aspf").exists()
    run(ORDER, "-o", "aspf_directory=")
    assert not (pytester.path / ".aspf").exists()
    run(ORDER, "-o", "aspf_directory=of_file", "--aspf-directory=of_command")
    run(ORDER, "-o", "aspf_directory=of_file")

    assert len(kept_in(pytester.path / "of_command")) == 1
    assert len(kept_in(pytester.path / "of_file")) == 1
    assert not (pytester.path / ".aspf").exists()


def test_a_token_that_is_in_a_file(
    run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in the report must repeat the schedule as it stands there."""
    monkeypatch.setattr("aspf.race._kept.LONG", 10)
    for options in (), ("--aspf-directory=else where",):
        (line,) = [x for x in run(ORDER, *options).outlines if x.startswith("replay: ")]
        command, path, *flags = shlex.split(line.removeprefix("replay: "))
        assert (command, path) == ("pytest", "test_it.py::test_order")
        assert re.fullmatch("--aspf-replay=aspf2:test_order:@[0-9a-f]{12}", flags[0])
        assert flags[1:] == [*options]
        again = run(ORDER, *flags)
        again.assert_outcomes(failed=1)
        assert line in again.outlines
    gone = run(ORDER, "--aspf-replay=aspf2:test_order:@0123456789ab")
    assert gone.ret == pytest.ExitCode.USAGE_ERROR
    gone.stderr.fnmatch_lines(["ERROR: --aspf-replay: *stands for a long token, and *missing*"])


def test_tests_of_one_name_have_their_own(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """A failure of one test would be tried with another, and dropped when that passes."""
    run(f"class TestA:\n{textwrap.indent(METHOD, '    ')}\nclass TestB(TestA): pass\n")
    assert len(list((pytester.path / ".aspf" / "failures").iterdir())) == 2


def test_workers_keep_in_one_place(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """Those of pytest-xdist write at the same time."""
    text = ORDER.replace(
        "@pytest.mark.race", "@pytest.mark.race\n@pytest.mark.parametrize('n', range(6))"
    )
    text = text.replace("test_order()", "test_order(n)")
    run(text, "-p", "xdist", "-n", "2").assert_outcomes(failed=6)
    assert len(kept_in(pytester.path / ".aspf")) == 6
    again = run(text, "-p", "xdist", "-n", "2")
    assert sum("kept from an earlier run" in line for line in again.outlines) >= 6
