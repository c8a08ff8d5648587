"""``aspf race`` and ``aspf replay``: what a stranger types, and reads."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from _golden import check_golden
from cli import _bank
from click.testing import CliRunner
from rich.console import Console

from aspf.cli._commands import aspf
from aspf.cli._watch import watch
from aspf.lab import program
from aspf.race import Progress, explore

GOLDEN = Path(__file__).parent / "golden"
DUMB = Console(stderr=True, force_terminal=True, _environ={"TERM": "dumb"})


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(aspf, arguments, prog_name="aspf")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in; what is imported there is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is kept of failures out of the working tree, and from other tests."""
    monkeypatch.chdir(tmp_path)


# -- what is kept -----------------------------------------------------------------------------


def test_a_failure_is_tried_first_the_next_time() -> None:
    """Whoever repairs a program runs the command again and again."""
    _, first = run("race", "cli._bank:withdrawals")
    _, second = run("race", "cli._bank:withdrawals")
    assert "kept from an earlier run" not in first
    assert "\nerror in schedule 1, kept from an earlier run\n" in second
    assert first.splitlines()[-1] == second.splitlines()[-1]
    assert Path(".aspf/.gitignore").read_text(encoding="utf-8") == "*\n"


def test_where_failures_are_kept() -> None:
    """Who wants another directory, or none; those of --list nobody repairs."""
    run("race", "cli._bank:withdrawals", "--directory", "")
    run("race", "rfc2009.whole")
    assert not list(Path().iterdir())
    run("race", "cli._bank:withdrawals", "--directory", "else where")
    assert [path.name for path in Path().iterdir()] == ["else where"]


@pytest.mark.parametrize("program", ["cli._bank:withdrawals", "rfc2009.whole"])
@pytest.mark.parametrize("directory", [(), ("--directory", "else where")])
def test_a_token_that_is_in_a_file(
    program: str, directory: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in the last line must repeat the schedule as it stands there."""
    monkeypatch.setattr("aspf.race._kept.LONG", 10)
    where = directory or ("--directory", ".aspf")
    code, output = run("race", program, *where)
    assert code == 1
    aspf, *command = shlex.split(output.splitlines()[-1].removeprefix("replay: "))
    assert aspf == "aspf"
    assert re.fullmatch(r"aspf2:[\w.-]+:@[0-9a-f]{12}", command[-1])
    again, diagram = run(*command)
    assert again == 1
    assert diagram in output
    if program == "rfc2009.whole":
        again, _ = run("replay", command[-1], *directory)
        assert again == 1
        _, minimal = run("replay", command[-1], *directory, "--minimise")
        line = minimal.splitlines()[-1].removeprefix("replay: ")
        assert run(*shlex.split(line)[1:])[0] == 1
    # In another directory there is nothing.
    code, output = run("race", program, "--directory", "gone", "--replay", command[-1])
    assert code == 2
    assert "gone/tokens/" in output.replace("\\", "/")


# -- the mail's race --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> str:
    code, output = run("race", "lost-wakeup")
    assert code == 0
    return output


def test_the_report_is_as_approved(report: str) -> None:
    """Broken if a word, a schedule's number or the diagram changes unseen, on any Python."""
    check_golden(GOLDEN / "lost_wakeup.txt", report)


def test_the_race_is_found_early(report: str) -> None:
    """Broken if the lost wake-up needs more than 20 schedules."""
    found = re.search(r"lost wake-up in schedule (\d+)", report)
    assert found is not None
    assert int(found[1]) <= 20


def test_the_token_of_the_report_repeats_the_failure(report: str) -> None:
    """Broken if what the report tells people to paste doesn't show the same diagram."""
    token = re.search(r"aspf replay (\S+)", report)
    assert token is not None
    code, output = run("replay", token[1])
    assert code == 1
    assert output.strip() in report


# -- any program ------------------------------------------------------------------------------


def test_a_failure() -> None:
    """Broken if the report, byte for byte, is not what was approved."""
    code, output = run("race", "cli._bank:withdrawals", "--strategy", "exhaustive")
    check_golden(GOLDEN / "race_failure.txt", output)
    assert code == 1


def test_the_last_line_repeats_the_failure() -> None:
    """Broken if the line that a person pastes runs something else."""
    last = run("race", "cli._bank:withdrawals", "--strategy", "exhaustive")[1].splitlines()[-1]
    code, output = run(*shlex.split(last.removeprefix("replay: aspf ")))
    assert code == 1
    assert "balance 80" in output
    again = shlex.split(last.removeprefix("replay: aspf "))
    code, output = run(*again, "--minimise")
    assert code == 1
    assert output.splitlines()[-1] == last


def test_what_holds() -> None:
    """Broken if a proof ends in anything but 0."""
    code, output = run("race", "cli._bank:repaired", "--strategy", "exhaustive")
    check_golden(GOLDEN / "race_holds.txt", output)
    assert code == 0


def test_what_is_unknown() -> None:
    """Broken if a script takes a search that was cut for a proof."""
    code, output = run("race", "cli._bank:endless", "--schedules", "3", "--strategy", "random")
    check_golden(GOLDEN / "race_unknown.txt", output)
    assert code == 3


def test_keep_going() -> None:
    """Broken if it stops at the first failure all the same, or shows the same one twice."""
    arguments = "race", "cli._bank:withdrawals", "--strategy", "exhaustive", "--no-minimise"
    _, output = run(*arguments, "--keep-going")
    assert output.count("replay: ") == 2
    assert run(*arguments)[1].count("replay: ") == 1


def test_options_reach_the_explorer() -> None:
    """Broken if an option is taken and forgotten."""
    name = "cli._bank:repaired"
    _, output = run("race", name, "--shared", "cells", "--strategy", "exhaustive")
    assert "in 2 schedules" in output
    _, output = run("race", name, "--strategy", "pos", "--schedules", "5", "--level", "contract")
    assert "in 5 schedules (pos search, not exhausted; level: contract)" in output
    _, output = run("race", name, "--cancel", "each", "--timers", "any")
    assert "with a cancellation" in output
    assert "timers: any" in output
    _, output = run("race", "cli._bank:endless", "--seconds", "0.0001")
    assert "out of time" in output


def test_programs_of_the_lab_promise_cells() -> None:
    """Broken if the catalogue's programs take for ever, since nothing is known of them."""
    code, output = run("race", "mmap_sem.whole", "--strategy", "exhaustive")
    assert code == 0
    assert "schedules (exhaustive search, exhausted" in output


def test_the_files(tmp_path: Path) -> None:
    """Broken if a file that was asked for is missing, or isn't what its name says."""
    html, data, trace = (tmp_path / name for name in ("a.html", "a.json", "a.perfetto.json"))
    files = "--html", str(html), "--json", str(data), "--perfetto", str(trace)
    run("race", "cli._bank:withdrawals", *files)
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    found = json.loads(data.read_text(encoding="utf-8"))
    assert (found["format"], found["version"]) == ("aspf.race.exploration", 1)
    assert found["failures"][0]["format"] == "aspf.race.recording"
    assert json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]


def test_no_failure_no_page(tmp_path: Path) -> None:
    """Broken if somebody looks for a page that was never written, or finds an old one in doubt."""
    html, data = tmp_path / "a.html", tmp_path / "a.json"
    code, output = run("race", "cli._bank:repaired", "--html", str(html), "--json", str(data))
    assert f"{html} was not written" in output
    assert not html.exists()
    assert json.loads(data.read_text(encoding="utf-8"))["outcomes"][0]["outcome"] == "70"
    assert code == 0


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """Broken if that ends in a traceback, or in the code of a failure."""
    code, output = run("race", "cli._bank:withdrawals", "--html", "none/a.html")
    assert code == 2
    assert "can't write none/a.html: there is no directory none" in output
    # What can't be known before must not take the report along.
    code, output = run("race", "cli._bank:withdrawals", "--html", "a" * 300)
    assert code == 2
    assert "replay: aspf race cli._bank:withdrawals --replay aspf2:" in output
    assert "can't write aaa" in output


def test_json_to_standard_output() -> None:
    """Broken if a script has to cut JSON out of a report, or finds a file that is called "-"."""
    command = "race", "cli._bank:withdrawals"
    result = CliRunner().invoke(aspf, [*command, "--json", "-"])
    found = json.loads(result.stdout)
    assert found["verdict"] == "failed"
    assert result.stderr.splitlines()[-1].startswith("replay: aspf race ")
    token = found["failures"][0]["token"]
    result = CliRunner().invoke(aspf, [*command, "--replay", token, "--json", "-"])
    assert json.loads(result.stdout)["token"] == token
    assert "AssertionError: balance 80" in result.stderr
    assert not Path("-").exists()
    code, output = run(*command, "--html", "-")
    assert code == 2
    assert "only --json can go to standard output" in output


def test_what_is_left_is_in_a_file() -> None:
    """Broken if nobody is told how to go on, or is told so when there is nothing left."""
    code, output = run("race", "cli._bank:endless", "--schedules", "3", "--resume", "left.json")
    assert code == 3
    left = "left.json has what is left: "
    assert output.splitlines()[-1] == f"{left}the same command with more --schedules goes on there"
    Path("left.json").unlink()
    cut = "race", "cli._bank:endless", "--seconds", "0.0001", "--resume", "left.json"
    assert run(*cut)[1].splitlines()[-1] == f"{left}the same command goes on there"
    assert run(*cut)[1].splitlines()[-1] == (
        f"{left}as before, for its next part takes longer than this; give it more time"
    )
    _, output = run("race", "cli._bank:repaired", "--resume", "none.json")
    assert "none.json" not in output
    assert not Path("none.json").exists()


def test_ctrl_c_reports_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if an hour's search has nothing to say when it is interrupted."""

    async def pressed() -> None:
        signal.raise_signal(signal.SIGINT)
        await _bank.endless()

    monkeypatch.setattr(_bank, "endless_", pressed, raising=False)
    code, output = run("race", "cli._bank:endless_")
    assert "in 1 schedules" in output
    assert "interrupted" in output
    assert code == 3


def test_the_list() -> None:
    """Broken if the catalogue isn't what was approved, or a name in it can't be run."""
    code, output = run("race", "--list")
    check_golden(GOLDEN / "race_list.txt", output)
    assert code == 0


# -- naming a program -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "'nothing': expected MODULE:FUNCTION, FILE.py:FUNCTION, or a name that"),
        ("rfc2009.whol", "Did you mean rfc2009.whole"),
        (":", "':': expected MODULE:FUNCTION"),
        ("cli._bank:", "expected MODULE:FUNCTION"),
        ("nosuchmodule:f", "there is no module 'nosuchmodule': it is neither in "),
        ("cli.nosuchmodule:f", "there is no module 'cli.nosuchmodule'"),
        ("nosuchfile.py:f", "there is no file 'nosuchfile.py'"),
        ("cli._bank:repared", "module 'cli._bank' has no 'repared'; its async functions: repaired"),
        ("cli._bank:Callable_.nothing", "has no 'Callable_.nothing'"),
        ("cli._bank:number", "cli._bank:number is no function, but of type int"),
        ("cli._bank:Callable_", "cli._bank:Callable_ is a class"),
        ("cli._bank:not_async", "cli._bank:not_async is not async; a program is an async function"),
        ("cli._bank:generator", "cli._bank:generator is an async generator"),
        ("cli._bank:needs", "cli._bank:needs has parameters (a, b); a program has none"),
        ("errno:f", "it has no async function"),
        ("cli._bank:talks", "called trio.to_thread.run_sync()"),
    ],
)
def test_what_is_no_program(here: Path, name: str, said: str) -> None:
    """Broken if a wrong name ends in a traceback, or doesn't say what to do."""
    code, output = run("race", name)
    assert code == 2
    assert said in output.replace("\n", " ")


@pytest.mark.parametrize("name", ["cli._bank:instance", "mine:program", "mine.py:program"])
def test_ways_to_name_one(here: Path, name: str) -> None:
    """Broken if a program in the current directory isn't found, or one that is an object."""
    text = "async def program() -> None: ..."
    (here / "mine.py").write_text(text, encoding="utf-8")
    assert run("race", name)[0] == 0


def test_a_file_of_a_package(here: Path) -> None:
    """Broken if a file that imports its neighbours can't be named by its path."""
    package = here / "somewhere" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "neighbour.py").write_text("async def program() -> None: ...", encoding="utf-8")
    (package / "mine.py").write_text("from .neighbour import program", encoding="utf-8")
    assert run("race", "somewhere/package/mine.py:program")[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_module_that_cannot_be_imported(here: Path, text: str, said: str) -> None:
    """Broken if a broken module is called a missing one, or its error has no place."""
    (here / "broken_.py").write_text(f"\n{text}\n", encoding="utf-8")
    code, output = run("race", "broken_:program")
    assert code == 2
    assert f"importing 'broken_' failed: {said}" in output.replace("\n", " ")
    assert "broken_.py:2" in output


def test_a_module_that_is_no_python(here: Path) -> None:
    """Broken if a syntax error is a traceback."""
    (here / "broken_.py").write_text("def", encoding="utf-8")
    assert "importing 'broken_' failed: SyntaxError" in run("race", "broken_.py:f")[1]


def test_a_file_with_the_name_of_another_module(here: Path) -> None:
    """Broken if another module's function is explored than that of the file which was named."""
    (here / "json.py").write_text("async def program() -> None: ...", encoding="utf-8")
    code, output = run("race", "json.py:program")
    assert code == 2
    assert "give the file another name" in output


# -- wrong options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lost-wakeup", "--seed", "3"], "for --seed explore its program, rfc2009.whole"),
        (["cli._bank:repaired", "--faults", "2"], "--faults is an option of lost-wakeup"),
        (["cli._bank:repaired", "--replay", "x", "--seed", "3"], "has no use for --seed"),
        (["cli._bank:repaired", "--strategy", "dfs"], "--strategy 'dfs': expected one of"),
        (["cli._bank:repaired", "--level", "dfs"], "level='dfs': expected"),
        (["cli._bank:repaired", "--seconds", "0"], "'--seconds'"),
        (["cli._bank:repaired", "--replay", "x"], "is no replay token"),
        (["cli._bank:repaired", "--replay", "aspf1:x:0,1x200"], "step"),
        ([], "Missing argument 'PROGRAM'"),
    ],
)
def test_wrong_options(arguments: list[str], said: str) -> None:
    """Broken if an option is silently ignored, or a wrong one is a traceback."""
    code, output = run("race", *arguments)
    assert code == 2
    assert said in output.replace("\n", " ")


# -- replay -----------------------------------------------------------------------------------


def test_a_token_that_passes_says_so() -> None:
    """Broken if the replay of a good schedule looks like a failure."""
    (outcome, *_) = explore(
        program("rfc2009_repaired"), name="rfc2009_repaired.whole", schedules=1
    ).outcomes.values()
    assert run("replay", outcome.token) == (0, "this schedule passes\n")


def test_a_checkpoint_that_cannot_be_written(tmp_path: Path) -> None:
    """Broken if hours of search end in a traceback."""
    file = str(tmp_path / "none" / "exploration.json")
    code, output = run("race", "cli._bank:repaired", "--resume", file)
    assert code == 2
    assert "can't write" in output
    assert "No such file or directory" in output


def test_a_token_of_your_own_program_that_passes() -> None:
    """Broken if a schedule that passes ends in anything but 0."""
    (outcome,) = explore(_bank.repaired, search="exhaustive").outcomes.values()
    code, output = run("race", "cli._bank:repaired", "--replay", outcome.token)
    assert (code, output) == (0, "this schedule passes\n")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("nonsense", "is no replay token"),
        ("aspf1:unknown.whole:0,1", "the lab has no program"),
        ("aspf1:mine:0,1", "for a program of yours: aspf race MODULE:FUNCTION --replay TOKEN"),
        ("aspf1:rfc2009.whole:0,1x200", "step"),
    ],
)
def test_a_bad_token_says_what_is_wrong(token: str, said: str) -> None:
    """Broken if a typo in a token ends in a traceback, or in the code of a failure."""
    code, output = run("replay", token)
    assert code == 2
    assert output.startswith("Error: ")
    assert said in output


# -- progress ---------------------------------------------------------------------------------


def test_progress_on_a_terminal() -> None:
    """Broken if a person who waits sees nothing, or something that stays behind."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with watch("mine", console) as show:
        show(Progress(1_200, 10_000, 3.0, 60.0, 1, 2))
    assert "1,200 of 10,000 schedules, 3 of 60 s, 1 way of failing" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("console", [None, DUMB])
def test_progress_in_a_pipe(capsys: pytest.CaptureFixture[str], console: Console | None) -> None:
    """Broken if the log of a machine, or an editor's window, is flooded, or silent for hours."""
    with watch("mine", console) as show:
        for second in range(25):
            show(Progress(100 * second, 10_000, float(second), float("inf"), 0, 1))
    assert capsys.readouterr().err.splitlines() == [
        "mine: 1,000 of 10,000 schedules, 10 s, no failure",
        "mine: 2,000 of 10,000 schedules, 20 s, no failure",
    ]
