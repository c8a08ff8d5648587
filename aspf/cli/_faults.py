"""``aspf faults``: the mail's benchmark as tasks, one row a locking."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aspf.mm import FaultRow, MultiFault, sample_maps

from ._console import stdout_console

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("explanation", "faults", "table")


@click.command()
@click.option(
    "--tasks", default=8, show_default=True, type=click.IntRange(1), help="Tasks that fault."
)
@click.option(
    "--layout",
    type=click.Choice(["maps", "split", "all"]),
    default="maps",
    show_default=True,
    help="maps: the layout of a live process; split, all: the mail's windows of 2 MiB a task, "
    "one VMA each or one for all.",
)
@click.option(
    "--pid", type=click.IntRange(1), help="Take the layout of this process. [default: its own]"
)
@click.option(
    "--maps",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the layout from a copy of a /proc/<pid>/maps.",
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Map this file as well, and read it for real.",
)
@click.option(
    "--writers",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Tasks that map, protect and unmap meanwhile.",
)
@click.option(
    "--every",
    default=25.0,
    show_default=True,
    metavar="MS",
    type=click.FloatRange(0.01),
    help="Milliseconds between a writer's turns.",
)
@click.option(
    "--io",
    default=0.0,
    show_default=True,
    metavar="MS",
    type=click.FloatRange(0),
    help="Milliseconds that the pager takes for a page.",
)
@click.option(
    "--slow",
    default=50.0,
    show_default=True,
    metavar="FACTOR",
    type=click.FloatRange(1),
    help="One page in a hundred takes this many times longer, as on a disk; 1 for none.",
)
@click.option(
    "--seconds",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.01),
    help="How long each locking runs.",
)
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def faults(
    *,
    pid: int | None,
    maps: Path | None,
    file: Path | None,
    every: float,
    io: float,
    backend: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Count page faults a second, under each locking in turn.

    Tasks touch every page of their windows, drop them, and begin again.

    \b
    mmap_lock        a read-write lock, held through the whole fault, I/O included
    mmap_lock_retry  the same lock, dropped for I/O; the VMA is looked up again
    speculative      no lock: a fault finds its VMA, holds it, and lets go
    """  # noqa: D301 - click looks for the backspace itself
    text, source = _layout(pid, maps) if options["layout"] == "maps" else ("", "")
    workload = MultiFault(
        maps=text,
        file=None if file is None else str(file),
        every=every / 1000,
        io=io / 1000,
        **options,
    )
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.is_dumb_terminal,
    ) as progress:
        bar = progress.add_task("faulting", total=1.0)

        async def run(load: MultiFault) -> list[FaultRow]:
            return await load.run(lambda part: progress.update(bar, completed=part))

        try:
            rows = anyio.run(run, workload, backend=backend)
            alone = anyio.run(
                run,
                dataclasses.replace(
                    workload, tasks=1, writers=0, io=0.0, seconds=workload.seconds / 4
                ),
                backend=backend,
            )
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(_as_json(workload, source, rows, alone), indent=2))
        return
    click.echo(_heading(workload, source))
    # A table that wraps can't be read; a terminal may be narrower, a file has no width.
    stdout_console(at_least=100).print(table(rows))
    click.echo(explanation(workload, alone))


def _layout(pid: int | None, maps: Path | None) -> tuple[str, str]:
    """Return the text of a layout, and what to call it."""
    if maps is not None:
        if pid is not None:
            msg = "--pid and --maps both name a layout; give one of them"
            raise click.UsageError(msg)
        return maps.read_text(encoding="utf-8", errors="surrogateescape"), str(maps)
    path = Path("/proc") / str(pid or os.getpid()) / "maps"
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        if pid is not None:
            msg = f"can't read {path}: {error.strerror}"
            raise click.ClickException(msg) from error
        return sample_maps(), "the sample that aspf ships, for want of /proc"
    return text, "this process" if pid is None else f"process {pid}"


def _heading(workload: MultiFault, source: str) -> str:
    windows = {
        "maps": f"the layout of {source}",
        "split": "a window of 2 MiB for each task, each its own VMA",
        "all": "a window of 2 MiB for each task, one VMA for all",
    }
    parts = [_count(workload.tasks, "task"), windows[workload.layout]]
    if workload.file is not None:
        parts.append(f"and {workload.file}")
    if workload.io:
        tail = f", one page in 100 {workload.slow:g} times as long" if workload.slow > 1 else ""
        parts.append(f"pager {workload.io * 1000:g} ms a page{tail}")
    if workload.writers:
        parts.append(f"{_count(workload.writers, 'writer')} every {workload.every * 1000:g} ms")
    return "; ".join(parts) + f"; {workload.seconds:g} s a row\n"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("s" if number != 1 else "")


def table(rows: Sequence[FaultRow]) -> Table:
    """Lay the rows out for a terminal."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    drawn.add_column("locking", no_wrap=True)
    names = ["page-faults", "faults/s", "hits", "retries", "waits", "p50 ms", "p99 ms"]
    writes = any(row.writes for row in rows)
    for name in [*names, *(["writes", "write p99"] if writes else []), "ratio"]:
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [
            row.locking,
            f"{row.faults:,}",
            f"{row.faults_per_second:,.0f}",
            f"{row.speculative_hits:,}",
            f"{row.retries:,}",
            f"{row.waits:,}",
            f"{row.p50 * 1000:.3f}",
            f"{row.p99 * 1000:.3f}",
        ]
        if writes:
            cells += [f"{row.writes:,}", f"{row.write_p99 * 1000:.3f}"]
        drawn.add_row(*cells, f"{row.ratio:.2f}x")
    return drawn


def explanation(workload: MultiFault, alone: Sequence[FaultRow]) -> str:
    """Say what the ratios measure, so that nobody takes them for the mail's."""
    costs = ", ".join(f"{row.locking} {1e6 / row.faults_per_second:.1f}" for row in alone)
    if workload.io and workload.writers:
        meaning = (
            "What the ratio measures: a convoy behind I/O. Under mmap_lock a writer waits for the\n"
            "slowest fault, and every other fault waits for the writer. It grows with the spread of\n"
            "the I/O times (see --slow), with --writers and with --tasks."
        )
    elif workload.io:
        meaning = (
            "What the ratio measures: next to nothing. Without --writers, readers share mmap_lock\n"
            "and nobody waits for anybody; try --writers 1 for the convoy behind I/O."
        )
    else:
        meaning = (
            "What the ratio measures: the price in CPU time of taking and releasing a read-write\n"
            "lock for each fault. Try --io 1 --writers 1 for the convoy behind I/O."
        )
    return (
        "\nhits: VMAs found and held without a lock. retries: VMAs looked up again after I/O.\n"
        "waits: for a change of the layout to settle. ratio: faults/s over those of mmap_lock.\n"
        f"\nOne task alone, without I/O and writers, in microseconds a fault:\n{costs}\n\n{meaning}\n"
        "It is not the mail's 2.06 (December 2009): that was a cache line, mmap_sem's own, which\n"
        "8 processors took from one another. One event loop has no such line."
    )


def _as_json(
    workload: MultiFault, source: str, rows: Sequence[FaultRow], alone: Sequence[FaultRow]
) -> dict[str, object]:
    settings = dataclasses.asdict(workload)
    del settings["maps"]
    return {
        "workload": {**settings, "source": source},
        "rows": [_finite(row) for row in rows],
        "one_task_alone": [_finite(row) for row in alone],
    }


def _finite(row: FaultRow) -> dict[str, object]:
    """Return the row with null for what was not measured; JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in dataclasses.asdict(row).items()
    }
