"""``aspf race`` and ``aspf replay``: the mail's race found, drawn, and repeated."""

from __future__ import annotations

import click

from aspf.lab import format_table, lost_wakeup, program_named, survey
from aspf.race import ReplayDiverged, parse_token, replay as replay_schedule

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
def lost_wakeup_command(*, faults: int) -> None:
    """Find the lost wake-up of the mail, and try each repair of it."""
    click.echo(INTRODUCTION)
    exploration, failure = lost_wakeup()
    click.echo(exploration.headline())
    click.echo(f"\nlost wake-up in schedule {failure.schedule}:\n")
    click.echo(failure.diagram)
    click.echo(VERDICT.format(token=failure.token))
    click.echo(TABLE)
    click.echo(format_table(survey(faults=faults)), nl=False)
    click.echo(LEGEND, nl=False)


@click.command()
@click.argument("token")
def replay(*, token: str) -> None:
    """Repeat the schedule of a TOKEN, as a failure has printed it."""
    try:
        failure = replay_schedule(program_named(parse_token(token).name), token)
    except (ValueError, ReplayDiverged) as error:
        raise click.ClickException(str(error)) from error
    if failure is None:
        click.echo("this schedule passes")
        return
    click.echo(failure.diagram, nl=False)
    raise SystemExit(1)
