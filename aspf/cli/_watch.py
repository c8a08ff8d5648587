"""How far an exploration is: a bar on a terminal, now and then a line anywhere else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aspf.race import Progress

__all__ = ("describe", "watch")

# Seconds between two lines where there is no terminal.
SELDOM: Final = 10.0


def describe(progress: Progress) -> str:
    """Say in a few words how far it is.

    Examples:
        >>> from aspf.race import Progress
        >>> describe(Progress(1200, 10_000, 3.2, float("inf"), 1, 2))
        '1,200 of 10,000 schedules, 3 s, 1 way of failing'
    """
    failures = progress.failures
    found = f"{failures} way{'s' if failures > 1 else ''} of failing" if failures else "no failure"
    time = f"{progress.elapsed:.0f} s"
    if progress.seconds < float("inf"):
        time = f"{progress.elapsed:.0f} of {progress.seconds:g} s"
    return f"{progress.runs:,} of {progress.limit:,} schedules, {time}, {found}"


@contextmanager
def watch(name: str, console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Give what `aspf.race.explore` may call, and show on stderr what it is told."""
    console = Console(stderr=True) if console is None else console
    # One that can't move its cursor would show the bar at its end.
    if not console.is_terminal or console.is_dumb_terminal:
        yield _lines(name)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[at]}"),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        shown = bar.add_task(name, total=1.0, at="")

        def show(progress: Progress) -> None:
            part = max(progress.runs / progress.limit, progress.elapsed / progress.seconds)
            bar.update(shown, completed=part, at=describe(progress))

        yield show


def _lines(name: str) -> Callable[[Progress], None]:
    due = SELDOM

    def show(progress: Progress) -> None:
        nonlocal due
        if progress.elapsed >= due:
            due = progress.elapsed + SELDOM
            click.echo(f"{name}: {describe(progress)}", err=True)

    return show
