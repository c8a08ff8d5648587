"""``aspf race`` and ``aspf replay``: find a race in a program, and repeat a schedule of it."""

from __future__ import annotations

import inspect
import math
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from aspf.lab import program_named
from aspf.race import (
    ExplorationInterrupted,
    NotDeterministic,
    ReplayDiverged,
    TeardownStuck,
    WorkerDied,
    explore,
    parse_token,
    record,
    replay as replay_schedule,
)

from ._files import (
    DIRECTORY,
    FILE,
    JSON,
    OUTPUT,
    STDOUT,
    Refused,
    write_file,
    write_files,
)
from ._lost_wakeup import report_lost_wakeup
from ._programs import LOST_WAKEUP, catalogue, find_program
from ._watch import watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Set as AbstractSet
    from pathlib import Path

    from aspf.race import Exploration

    Program = Callable[[], Awaitable[object]]

__all__ = ("race", "replay")

DEFAULTS: Final = {
    name: parameter.default for name, parameter in inspect.signature(explore).parameters.items()
}
# The exit codes. Click's own for a wrong command line is 2.
HOLDS: Final = 0
FAILED: Final = 1
UNKNOWN: Final = 3
_OF_LOST_WAKEUP: Final = {"program", "faults", "html"}
_OF_A_SEARCH: Final = {
    "search",
    "schedules",
    "seconds",
    "seed",
    "level",
    "shared",
    "keep_going",
    "jobs",
    "resume",
    "weakest",
}
# Where failures and long tokens are kept, as by the plugin for pytest.
KEPT: Final = ".aspf"
LIST: Final = """
Names with a dot are programs of aspf.lab, a page fault beside a munmap under one protocol each;
they take all options that your own programs take. Twelve common patterns of such bugs, each with
its repair, are not installed; they are in examples/races of the source.
"""


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    if wanted and not context.resilient_parsing:
        rows = list(catalogue())
        width = max(len(name) for name, _ in rows)
        for name, about in rows:
            click.echo(f"{name:<{width}}  {about}")
        click.echo(LIST, nl=False)
        context.exit()


@click.command()
@click.argument("program")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Show the programs that aspf ships, and exit.",
)
@click.option(
    "--strategy",
    "search",
    metavar="NAME",
    default=DEFAULTS["search"],
    show_default=True,
    help="In which order schedules are taken: exhaustive, preemption, delay, random, pct (pct:2), "
    "pos, urw, swarm, starve or portfolio.",
)
@click.option(
    "--schedules",
    default=DEFAULTS["schedules"],
    show_default=True,
    type=click.IntRange(1),
    help="How many runs at most.",
)
@click.option(
    "--seconds",
    default=math.inf,
    type=click.FloatRange(0, min_open=True),
    help="For how long at most; whichever limit comes first.",
)
@click.option("--seed", default=0, show_default=True, help="For a strategy that draws.")
@click.option(
    "--level",
    metavar="NAME",
    default=DEFAULTS["level"],
    show_default=True,
    help="Where tasks may be switched.",
)
@click.option(
    "--cancel",
    type=click.Choice(["marked", "each", "never"]),
    default=DEFAULTS["cancel"],
    show_default=True,
    help="What may be cancelled, once in a run: the scopes marked with race.may_cancel, each task "
    "at each checkpoint as well, or nothing.",
)
@click.option(
    "--timers",
    type=click.Choice(["idle", "any"]),
    default=DEFAULTS["timers"],
    show_default=True,
    help="When deadlines may pass: when nobody can run, or at any time.",
)
@click.option(
    "--shared",
    type=click.Choice(["anything", "cells"]),
    help="cells: a promise that the tasks share nothing but cells of aspf.race; schedules that "
    "only repeat others are left out.  [default: anything; cells for those of --list]",
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="How many processes; the report is that of one.",
)
@click.option(
    "--resume",
    type=FILE,
    metavar="FILE",
    help="Note in FILE what is left, every few seconds; go on there if it exists.",
)
@click.option("--keep-going", is_flag=True, help="Go on after a failure; show one of each kind.")
@click.option(
    "--minimise/--no-minimise",
    default=True,
    show_default=True,
    help="Look for the fewest context switches that fail so.",
)
@click.option(
    "--weakest/--no-weakest",
    default=True,
    show_default=True,
    help="Look for the weakest level that shows a failure: whether today's trio can run into it.",
)
@click.option("--replay", "token", metavar="TOKEN", help="Repeat one schedule instead.")
@click.option(
    "--directory",
    type=DIRECTORY,
    metavar="DIR",
    help="Keep failing schedules in DIR and try them first the next time, and long tokens; an "
    f"empty DIR keeps none.  [default: {KEPT}; none for those of --list]",
)
@click.option(
    "--html", type=OUTPUT, metavar="FILE", help="Write the first failure as a page to step through."
)
@click.option(
    "--json",
    type=JSON,
    metavar="FILE",
    help="Write all that was found for a program to read; - is standard output, and the report "
    "goes to stderr.",
)
@click.option(
    "--perfetto", type=OUTPUT, metavar="FILE", help="Write the first failure for ui.perfetto.dev."
)
@click.option(
    "--faults",
    type=click.IntRange(1, 4),
    help="Of lost-wakeup: tasks that fault, for its table; two take minutes.  [default: 1]",
)
@click.pass_context
def race(
    context: click.Context,
    /,
    *,
    program: str,
    shared: str | None,
    keep_going: bool,
    token: str | None,
    directory: str | None,
    html: Path | None,
    json: Path | None,
    perfetto: Path | None,
    faults: int | None,
    **options: Any,
) -> None:
    """Find a race by running PROGRAM in every order.

    PROGRAM is an async function without parameters that starts the tasks and asserts: as
    MODULE:FUNCTION, FILE.py:FUNCTION, or one of --list.

    \b
    Exit codes:
    0  holds: every schedule was run, none fails
    1  failed
    2  it could not be run: a wrong command line, real I/O or threads
    3  unknown: no failure so far, and schedules are left
    """  # noqa: D301 - click looks for the backspace itself
    if program == LOST_WAKEUP:
        _refuse(
            context,
            {parameter.name or "" for parameter in context.command.params} - _OF_LOST_WAKEUP,
            f"{LOST_WAKEUP} is a report of its own; for {{}} explore its program, rfc2009.whole",
        )
        report_lost_wakeup(faults or 1, html)
        return
    if faults is not None:
        raise click.UsageError(f"--faults is an option of {LOST_WAKEUP}")
    found, only_cells = find_program(program)
    command = f"aspf race {shlex.quote(program)}"
    if directory:
        command += f" --directory {shlex.quote(directory)}"
    elif directory is None and (token is not None or not only_cells):
        directory = KEPT
    if token is not None:
        _refuse(context, _OF_A_SEARCH, "--replay repeats one schedule, and has no use for {}")
        minimise = options["minimise"] and _is_given(context, "minimise")
        files = {"html": html, "json": json, "perfetto": perfetto}
        _replay(
            found, token, f"{command} --replay", minimise=minimise, directory=directory, **files
        )
        return
    options["shared"] = shared or ("cells" if only_cells else "anything")
    before = _read(options["resume"])
    exploration = _explore(found, stop_on_failure=not keep_going, directory=directory, **options)
    # Before the files: a full disk must not take it along.
    report = _report(exploration, command)
    for path in (html, perfetto):
        if path is not None and not exploration.failures:
            report += f"{path} was not written: there is no failure to show\n"
    if exploration.verdict == "unknown" and (left := _read(options["resume"])):
        how = "the same command goes on there"
        if exploration.stopped_by == "schedules":
            how = "the same command with more --schedules goes on there"
        elif left == before:
            how = "as before, for its next part takes longer than this; give it more time"
        report += f"{options['resume']} has what is left: {how}\n"
    click.echo(report, nl=False, err=json == STDOUT)
    if json is not None:
        write_file(json, exploration.as_json())
    if exploration.failures:
        write_files(exploration.failures[0].recording, html=html, perfetto=perfetto)
    raise SystemExit({"failed": FAILED, "holds": HOLDS, "unknown": UNKNOWN}[exploration.verdict])


def _read(path: Path | None) -> bytes:
    return path.read_bytes() if path is not None and path.exists() else b""


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _refuse(context: click.Context, names: AbstractSet[str], why: str) -> None:
    """Refuse options that would be ignored."""
    for parameter in context.command.params:
        if parameter.name in names and _is_given(context, parameter.name):
            raise click.UsageError(why.format(parameter.opts[0]))


def _explore(program: Program, **options: Any) -> Exploration:
    name = getattr(program, "__name__", type(program).__name__)
    try:
        with watch(name) as progress:
            return explore(program, progress=progress, **options)
    except ExplorationInterrupted as interrupted:
        return interrupted.exploration  # type: ignore[no-any-return]
    except (NotDeterministic, TeardownStuck, WorkerDied) as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise Refused(f"can't write {options['resume']}: {error.strerror}") from error
    except ValueError as error:
        # The words of Python are those of the command, but for one.
        raise click.UsageError(str(error).replace("search=", "--strategy ")) from error


def _report(exploration: Exploration, command: str) -> str:
    """Write the report so that its last line is the command that repeats the failure."""
    failures = tuple(
        replace(failure, token=f"{command} --replay {failure.token}")
        for failure in exploration.failures
    )
    notes = "".join(f"note: {found.times(n)}\n" for found, n in exploration.findings.items())
    return notes + str(replace(exploration, failures=failures, findings={}))


@click.command()
@click.argument("token")
@click.option("--minimise", is_flag=True, help="Look for fewer context switches that fail so.")
@click.option(
    "--html", type=OUTPUT, metavar="FILE", help="Write the schedule as a page to step through."
)
@click.option(
    "--json",
    type=JSON,
    metavar="FILE",
    help="Write the schedule for a program to read; - is standard output.",
)
@click.option("--perfetto", type=OUTPUT, metavar="FILE", help="Write it for ui.perfetto.dev.")
@click.option(
    "--directory",
    type=DIRECTORY,
    metavar="DIR",
    default=KEPT,
    show_default=True,
    help="Where long tokens are kept.",
)
def replay(*, token: str, minimise: bool, directory: str, **files: Path | None) -> None:
    """Repeat the schedule of a TOKEN of the lab's programs.

    A schedule of your own program is repeated by `aspf race PROGRAM --replay TOKEN`.
    """
    try:
        program = program_named(parse_token(token, directory).name)
    except ValueError as error:
        raise Refused(
            f"{error}; for a program of yours: aspf race MODULE:FUNCTION --replay TOKEN"
        ) from error
    command = "aspf replay"
    if directory not in ("", KEPT):
        command += f" --directory {shlex.quote(directory)}"
    _replay(program, token, command, minimise=minimise, directory=directory, **files)


def _replay(
    program: Program,
    token: str,
    command: str,
    *,
    minimise: bool,
    directory: str | None,
    **files: Path | None,
) -> None:
    try:
        failure = replay_schedule(program, token, minimise=minimise, directory=directory)
        if failure is None:
            recording = record(program, token, directory=directory)
        else:
            recording = failure.recording
    except (ValueError, ReplayDiverged, NotDeterministic, TeardownStuck) as error:
        raise Refused(str(error)) from error
    report = "this schedule passes\n" if failure is None else failure.diagram
    if failure is not None and failure.minimal is not None:
        report += f"\n{failure.minimal}\nreplay: {command} {failure.token}\n"
    click.echo(report, nl=False, err=files["json"] == STDOUT)
    write_files(recording, **files)
    if failure is not None:
        raise SystemExit(FAILED)
