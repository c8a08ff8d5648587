"""``aspf trace``: record what a real program does to its memory, and replay it."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aspf.mm import DiffPicture
from aspf.mm.trace import RecordingFailed, Replay, parse_recording, record

from ._console import stdout_console
from ._faults import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.mm.trace import Recording, Replayed

__all__ = ("summary", "trace")

SHOWN = 10


@click.group()
def trace() -> None:
    """Record what a real program does to its memory, and replay it here."""


@trace.command("record", context_settings={"ignore_unknown_options": True})
@click.option(
    "--output",
    "-o",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where to write the recording; compressed if the name ends in .gz.",
)
@click.option("--no-faults", is_flag=True, help="Don't ask perf for page faults.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def record_command(*, output: Path, no_faults: bool, command: tuple[str, ...]) -> None:
    """Run COMMAND under strace and perf, and record its memory calls and page faults.

    Needs strace. Page faults need perf, and are known as reads or writes only to root; without perf
    the recording has none.
    """
    try:
        text = record(command, faults=not no_faults)
        recording = parse_recording(text)
        data = text.encode("utf-8", "surrogateescape")
        output.write_bytes(gzip.compress(data, mtime=0) if output.suffix == ".gz" else data)
    except (RecordingFailed, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"can't write {output}: {error.strerror}") from error
    click.echo(f"{output}: {_contents(recording)}", err=True)


@trace.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--tasks", default=8, show_default=True, type=click.IntRange(1), help="Tasks that fault."
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
    "--rounds",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="How often each locking is run; the median counts.",
)
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def replay_command(
    *, file: Path, tasks: int, io: float, slow: float, rounds: int, backend: str, as_json: bool
) -> None:
    """Make the calls and faults of a recording again, under each locking in turn.

    Each answer and the map at the end are compared with the kernel's, page for page. The status is
    1 if one differs.
    """
    recording = _read(file)
    replay = Replay(recording=recording, tasks=tasks, io=io / 1000, slow=slow, rounds=rounds)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.is_dumb_terminal,
    ) as progress:
        bar = progress.add_task("replaying", total=1.0)

        async def run() -> list[Replayed]:
            return await replay.run(lambda part: progress.update(bar, completed=part))

        outcomes = anyio.run(run, backend=backend)
    if as_json:
        click.echo(json.dumps(_as_json(recording, outcomes), indent=2))
    else:
        click.echo(summary(recording, outcomes))
        stdout_console(at_least=100).print(table([outcome.row for outcome in outcomes]))
    if not all(outcome.agrees for outcome in outcomes):
        raise SystemExit(1)


def _read(path: Path) -> Recording:
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        return parse_recording(data.decode("utf-8", "surrogateescape"))
    except (OSError, EOFError, ValueError) as error:
        raise click.ClickException(f"can't read {path}: {error}") from error


def _contents(recording: Recording) -> str:
    calls, faults = len(recording.calls), len(recording.faults)
    return f"{calls:,} calls, {faults:,} faults, {_counted(recording.threads, 'thread')}"


def summary(recording: Recording, outcomes: Sequence[Replayed]) -> str:
    """Say what the replays came to; lockings that came to the same are named together."""
    lines = [f"{recording.command}\n{recording.system}: {_contents(recording)}\n"]
    told = [(_told(recording, outcome), outcome.row.locking) for outcome in outcomes]
    for text, group in groupby(told, key=lambda pair: pair[0]):
        lockings = ", ".join(locking for _, locking in group)
        lines.append(f"{lockings}\n{text}")
    return "\n".join(lines)


def _told(recording: Recording, outcome: Replayed) -> str:
    differences = len(outcome.differences)
    answers = f"{differences:,} differ" if differences else "all the kernel's"
    corrected = "; the others were corrected" if outcome.misplaced else ""
    made = f"{outcome.calls:,} made, {outcome.faults:,} faults handled"
    lines = [
        f"  calls      {made}, {outcome.refused:,} refused as the kernel did",
        f"  answers    {answers}",
        f"  addresses  {outcome.predicted:,} of {outcome.chosen:,} as the kernel chose{corrected}",
    ]
    if outcome.unknown:
        left = ", ".join(f"{name} ({n})" for name, n in sorted(outcome.unknown.items()))
        lines.append(f"  left out   {left}")
    lines.append(f"  final map  {_verdict(recording, outcome)}")
    lines += _listed("answered otherwise", outcome.differences)
    lines += _listed("placed otherwise", outcome.misplaced)
    if outcome.changes:
        picture = DiffPicture(
            before=outcome.maps, after=outcome.final, names=("here", "the kernel")
        )
        lines += ["", *(f"  {line}" for line in picture.text().splitlines())]
    return "\n".join(lines) + "\n"


def _verdict(recording: Recording, outcome: Replayed) -> str:
    if not recording.final:
        return "not recorded: the program did not end by itself"
    pages = sum(line.end - line.start for line in outcome.final) >> 12
    if outcome.changes:
        number = len(outcome.changes)
        return f"differs in {_counted(number, 'range')}"
    said = f"equal at each of {pages:,} pages"
    if not outcome.cuts:
        return f"{said}, and cut at the same places"
    places = _counted(len(outcome.cuts), "place")
    return (
        f"{said}; at {places} only one of the two has equal neighbours apart\n"
        "             (a fault decides what may merge, and may be missing or come in another order)"
    )


def _listed(title: str, differences: Sequence[object]) -> list[str]:
    if not differences:
        return []
    shown = [f"    {difference}" for difference in differences[:SHOWN]]
    more = len(differences) - SHOWN
    return ["", f"  {title}:", *shown, *([f"    and {more:,} more"] if more > 0 else [])]


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("s" if number != 1 else "")


def _as_json(recording: Recording, outcomes: Sequence[Replayed]) -> dict[str, object]:
    return {
        "command": recording.command,
        "system": recording.system,
        "calls": len(recording.calls),
        "faults": len(recording.faults),
        "threads": recording.threads,
        "replays": [
            {
                "row": {
                    name: None if isinstance(value, float) and math.isnan(value) else value
                    for name, value in dataclasses.asdict(outcome.row).items()
                },
                "calls": outcome.calls,
                "faults": outcome.faults,
                "refused": outcome.refused,
                "chosen": outcome.chosen,
                "predicted": outcome.predicted,
                "differences": [str(difference) for difference in outcome.differences],
                "misplaced": [str(difference) for difference in outcome.misplaced],
                "unknown": dict(outcome.unknown),
                "changes": len(outcome.changes),
                "cuts": [hex(cut) for cut in outcome.cuts],
                "agrees": outcome.agrees,
            }
            for outcome in outcomes
        ],
    }
