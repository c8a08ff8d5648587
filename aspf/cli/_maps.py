"""``aspf maps``: the map of a process as a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.live import Live

from aspf.mm import DiffPicture, MapPicture, parse_smaps

from ._console import stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from aspf.mm import MapsLine

__all__ = ("maps",)

PROC = Path("/proc")


@click.command()
@click.argument("target", metavar="PID|FILE", required=False)
@click.option("--watch", is_flag=True, help="Draw it again and again, until ctrl-C.")
@click.option(
    "--every",
    default=1.0,
    show_default=True,
    metavar="S",
    type=click.FloatRange(0.05),
    help="Seconds from one picture to the next, for --watch.",
)
@click.option(
    "--diff",
    nargs=2,
    metavar="A B",
    help="Compare two maps, each a PID or a FILE, page for page.",
)
@click.option(
    "--rows",
    type=click.IntRange(1),
    metavar="N",
    help="Fold the smallest mappings until the others fit into N lines.",
)
@click.option("--no-rss", is_flag=True, help="Don't ask what is in memory; faster.")
def maps(
    *,
    target: str | None,
    watch: bool,
    every: float,
    diff: tuple[str, str] | None,
    rows: int | None,
    no_rss: bool,
) -> None:
    """Draw the map of a process: what lies where, how large, and what may be done there.

    \b
    PID    a process that runs
    FILE   a copy of a /proc/PID/maps or smaps; - for standard input

    Executable mappings are green, writable ones yellow, both at once red. A number is a PID: write
    ./123 for a file of that name.
    """  # noqa: D301 - click looks for the backspace itself
    console = stdout_console()
    if diff is not None:
        if target is not None or watch:
            msg = "--diff compares its own two maps; leave out --watch and any other PID or FILE"
            raise click.UsageError(msg)
        before, after = (_read(name, with_resident=False)[0] for name in diff)
        _print(console, DiffPicture(before=before, after=after, names=diff))
        return
    if target is None:
        msg = "give the PID of a process, or a FILE with a copy of its /proc/PID/maps"
        raise click.UsageError(msg)
    if watch:
        _watch(console, target, every, rows, with_resident=not no_rss)
        return
    lines, resident = _read(target, with_resident=not no_rss)
    title = _title(target)
    _print(console, MapPicture(lines=lines, resident=resident, title=title, rows=rows))


def _print(console: Console, picture: MapPicture | DiffPicture) -> None:
    console.print(picture, soft_wrap=True)


def _watch(
    console: Console, target: str, every: float, rows: int | None, *, with_resident: bool
) -> None:
    if not target.isdecimal():
        msg = f"--watch needs the PID of a process; {target!r} is none"
        raise click.UsageError(msg)
    if not console.is_terminal or console.is_dumb_terminal:
        what = (
            "a terminal"
            if not console.is_terminal
            else "a terminal that can be drawn over (TERM=dumb can't)"
        )
        msg = f"--watch needs {what}; for a record, save maps now and then and use --diff"
        raise click.UsageError(msg)

    def draw(since: list[MapsLine] | None) -> MapPicture:
        lines, resident = _read(target, with_resident=with_resident)
        # The kinds, the headline, the scale and the empty lines between them take 13.
        room = max(1, console.height - 13)
        return MapPicture(
            lines=lines,
            resident=resident,
            title=_title(target),
            since=since,
            rows=min(rows or room, room),
            totals_first=True,
        )

    picture = draw(None)
    said = ""
    with Live(picture, console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(picture, refresh=True)
                time.sleep(every)
                picture = draw(list(picture.lines))
        except KeyboardInterrupt:
            pass
        except click.ClickException as error:
            said = error.message
    # The screen that was drawn on is gone; what was seen last stays.
    _print(console, picture)
    if said:
        click.echo(f"\n{said}")


def _title(target: str) -> str:
    if not target.isdecimal():
        return "standard input" if target == "-" else target
    try:
        name = (PROC / target / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"process {target}"
    return f"process {target} ({name})"


def _read(target: str, *, with_resident: bool) -> tuple[list[MapsLine], dict[int, int]]:
    """Read the map of a process, or of a file, and what of it is in memory."""
    text = (
        _text_of_process(target, with_resident=with_resident)
        if target.isdecimal()
        else _text_of_file(target)
    )
    try:
        lines, resident = parse_smaps(text)
    except ValueError as error:
        raise click.ClickException(f"{_title(target)}: {error}") from error
    if not lines:
        cause = (
            "it is a thread of the kernel, or has ended" if target.isdecimal() else "it is empty"
        )
        raise click.ClickException(f"{_title(target)} has no mappings: {cause}")
    return lines, resident if with_resident else {}


def _text_of_file(name: str) -> str:
    try:
        with click.open_file(name, encoding="utf-8", errors="surrogateescape") as file:
            text: str = file.read()
            return text
    except OSError as error:
        cure = "give a PID, or a FILE with a copy of a /proc/PID/maps"
        raise click.ClickException(f"can't read {name}: {error.strerror}; {cure}") from error


def _text_of_process(pid: str, *, with_resident: bool) -> str:
    if not (PROC / "self").exists():
        msg = "there is no /proc here, for only Linux has it; give a FILE that was copied from one"
        raise click.ClickException(msg)
    failed = OSError()
    for name in ("smaps", "maps") if with_resident else ("maps",):
        try:
            return (PROC / pid / name).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            failed = error
    if isinstance(failed, PermissionError):
        msg = f"process {pid} belongs to somebody else; ask as its user, or with sudo"
    elif isinstance(failed, (FileNotFoundError, ProcessLookupError)):
        msg = f"there is no process {pid}, or it has ended"
    else:
        msg = f"can't read the map of process {pid}: {failed.strerror}"
    raise click.ClickException(msg) from failed
