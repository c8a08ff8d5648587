"""``aspf race lost-wakeup``: the mail's race found and drawn, and each repair of it tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aspf.lab import format_table, lost_wakeup, survey

from ._files import write_files

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("report_lost_wakeup",)

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


def report_lost_wakeup(faults: int, html: Path | None) -> None:
    """Print the race of the mail, and the table of its repairs."""
    click.echo(INTRODUCTION)
    exploration, failure = lost_wakeup()
    click.echo(exploration.headline())
    click.echo(f"\nlost wake-up in schedule {failure.schedule}:\n")
    click.echo(failure.diagram)
    click.echo(VERDICT.format(token=failure.token))
    write_files(failure.recording, html=html)
    click.echo(TABLE)
    click.echo(format_table(survey(faults=faults)), nl=False)
    click.echo(LEGEND, nl=False)
