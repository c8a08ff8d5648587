"""``aspf race`` and ``aspf replay``: the mail's race found, drawn, and repeated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aspf.lab import format_table, lost_wakeup, program_named, survey
from aspf.race import ReplayDiverged, parse_token, record, replay as replay_schedule

if TYPE_CHECKING:
    from aspf.race import Recording

__all__ = ("race", "replay")

INTRODUCTION = """\
rfc2009, the protocol of the mail: a page fault finds its VMA without the lock and counts itself
in; whoever unmaps takes the VMA out of the tree, takes its own count off, and waits for zero.
One task faults (CPU 0), one unmaps (CPU 1); every order of their accesses to memory is explored.
"""
VERDICT = """\
The count went 2, 1, 0, and the wake-up is for 1: CPU 1 sleeps for ever.
Repeat it: aspf replay {token}
"""
TABLE = """
Every protocol against munmap of the whole VMA, and of its tail, in every order of the accesses.
The columns on the right say in how many schedules what went wrong.
"""
LEGEND = """
schedules: two that differ only in the order of accesses to different memory count once.
exhausted: none is left, so a row without failures has none, for these tasks.
"""

_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
_html = click.option(
    "--html", type=_FILE, metavar="FILE", help="Write the schedule as a page to step through."
)


@click.group()
def race() -> None:
    """Find races by running a program in every order."""


@race.command("lost-wakeup")
@click.option(
    "--faults",
    default=1,
    show_default=True,
    type=click.IntRange(1, 4),
    help="Tasks that fault, for the table; two take minutes.",
)
@_html
def lost_wakeup_command(*, faults: int, html: Path | None) -> None:
    """Find the lost wake-up of the mail, and try each repair of it."""
    click.echo(INTRODUCTION)
    exploration, failure = lost_wakeup()
    click.echo(exploration.headline())
    click.echo(f"\nlost wake-up in schedule {failure.schedule}:\n")
    click.echo(failure.diagram)
    click.echo(VERDICT.format(token=failure.token))
    _write(failure.recording, html=html)
    click.echo(TABLE)
    click.echo(format_table(survey(faults=faults)), nl=False)
    click.echo(LEGEND, nl=False)


@click.command()
@click.argument("token")
@click.option("--minimise", is_flag=True, help="Look for fewer context switches that fail so.")
@_html
@click.option(
    "--json", type=_FILE, metavar="FILE", help="Write the schedule for a program to read."
)
@click.option("--perfetto", type=_FILE, metavar="FILE", help="Write it for ui.perfetto.dev.")
def replay(*, token: str, minimise: bool, **files: Path | None) -> None:
    """Repeat the schedule of a TOKEN, as a failure has printed it."""
    try:
        program = program_named(parse_token(token).name)
        failure = replay_schedule(program, token, minimise=minimise)
        _write(record(program, token) if failure is None else failure.recording, **files)
    except (ValueError, ReplayDiverged) as error:
        raise click.ClickException(str(error)) from error
    if failure is None:
        click.echo("this schedule passes")
        return
    click.echo(failure.diagram, nl=False)
    if failure.minimal is not None:
        click.echo(f"\n{failure.minimal}\nreplay: {failure.token}")
    raise SystemExit(1)


def _write(
    recording: Recording,
    *,
    html: Path | None = None,
    json: Path | None = None,
    perfetto: Path | None = None,
) -> None:
    """Write the files that were asked for."""
    if html is not None:
        _write_file(html, recording.html())
    if json is not None:
        _write_file(json, recording.as_json())
    if perfetto is not None:
        _write_file(perfetto, recording.as_perfetto())


def _write_file(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"can't write {path}: {error.strerror}") from error
