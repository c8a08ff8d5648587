"""The mail's experiment: one munmap beside one fault or more, under each protocol in turn.

A program maps the pages [0, 2) as one VMA. CPU 0 faults page 1, as in the mail; CPU 1 unmaps the
whole VMA or its tail, page 1; any further CPU faults page 1 as well. Whatever the schedule, three
things must hold at its end: nobody sleeps for ever, nobody touched freed memory, and no page of
the unmapped range is in the page table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final

import trio

from aspf._errors import StalePage, UseAfterFree
from aspf.lab.mm import Mm, do_munmap, do_page_fault
from aspf.lab.protocols import (
    Jan2010,
    MmapSem,
    Protocol,
    Rfc2009,
    Rfc2009Bias,
    Rfc2009BiasReply,
    Rfc2009Repaired,
    Rfc2009Wake0,
)
from aspf.race import explore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from aspf.race import Exploration, Failure

__all__ = (
    "PROTOCOLS",
    "Kind",
    "Row",
    "Unmap",
    "classify",
    "format_table",
    "lost_wakeup",
    "program",
    "program_named",
    "survey",
)

Unmap = Literal["whole", "tail"]

#: The protocols by name, in the order in which they came up.
PROTOCOLS: Final[Mapping[str, type[Protocol]]] = {
    protocol.name: protocol
    for protocol in (
        MmapSem,
        Rfc2009,
        Rfc2009Wake0,
        Rfc2009BiasReply,
        Rfc2009Bias,
        Jan2010,
        Rfc2009Repaired,
    )
}

_PAGE: Final = 1
_END: Final = 2
_FIRST_UNMAPPED: Final[Mapping[str, int]] = {"whole": 0, "tail": 1}


class Kind(enum.Enum):
    """What a schedule can go wrong with; the value is the heading of its column."""

    LOST_WAKEUP = "K1"
    USE_AFTER_FREE = "K2"
    STALE_SHRUNK = "K3"
    STALE_REMOVED = "stale"
    OTHER = "other"


_MEANINGS: Final[Mapping[Kind, str]] = {
    Kind.LOST_WAKEUP: "lost wake-up: the unmapping task sleeps for ever",
    Kind.USE_AFTER_FREE: "use after free: a fault touches a VMA that has been freed",
    Kind.STALE_SHRUNK: "stale page: a fault installs it beyond the end of a VMA that has shrunk",
    Kind.STALE_REMOVED: "stale page: a fault installs it where a VMA has been removed",
    Kind.OTHER: "any other failure",
}


@final
@dataclass(frozen=True, slots=True)
class Row:
    """What the exploration of one program found.

    Attributes:
        protocol: The protocol's name.
        unmap: What was unmapped beside the faults, ``"whole"`` or ``"tail"``.
        faults: The number of faulting tasks.
        exploration: The explorer's own report, with a diagram and a token a failure.
        found: How many schedules failed, by kind; kinds that did not occur are left out.
    """

    protocol: str
    unmap: Unmap
    faults: int
    exploration: Exploration
    found: Mapping[Kind, int]


def program(
    protocol: str | type[Protocol], unmap: Unmap = "whole", faults: int = 1
) -> Callable[[], Awaitable[object]]:
    """Make a program for `aspf.race.explore`: *faults* tasks fault, and one unmaps.

    Args:
        protocol: A name in `PROTOCOLS`, or a class.
        unmap: ``"whole"`` unmaps the pages [0, 2), ``"tail"`` [1, 2).
        faults: How many tasks fault page 1, at least 1.

    Returns:
        The program. Its ``__name__``, such as ``rfc2009.whole`` or ``rfc2009.whole.2`` with two
        faults, finds it again through `program_named`. It returns what became of each fault, and
        raises what `Mm.check` raises.

    Raises:
        ValueError: There is no such protocol or part, or *faults* is below 1.
    """
    chosen = PROTOCOLS.get(protocol) if isinstance(protocol, str) else protocol
    if chosen is None:
        raise ValueError(f"no protocol is named {protocol!r}: choose from {', '.join(PROTOCOLS)}")
    if unmap not in _FIRST_UNMAPPED:
        raise ValueError(f"unmap={unmap!r}: choose 'whole' or 'tail'")
    if faults < 1:
        raise ValueError(f"faults={faults}: at least one task must fault")
    start = _FIRST_UNMAPPED[unmap]

    async def run() -> tuple[str, ...]:
        mm = Mm([(0, _END)], cpus=faults + 1, refcnt=chosen.linked_refcnt)
        outcomes: dict[int, str] = {}

        async def touch(cpu: int) -> None:
            outcomes[cpu] = await do_page_fault(chosen(mm, mm.rcu.cpus[cpu]), _PAGE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(touch, 0, name="CPU 0")
            nursery.start_soon(do_munmap, chosen(mm, mm.rcu.cpus[1]), start, _END, name="CPU 1")
            for cpu in range(2, faults + 1):
                nursery.start_soon(touch, cpu, name=f"CPU {cpu}")
        mm.check()
        return tuple(outcomes[cpu] for cpu in sorted(outcomes))

    run.__name__ = run.__qualname__ = _name(chosen.name, unmap, faults)
    return run


def program_named(name: str) -> Callable[[], Awaitable[object]]:
    """Return the program of that name, as a replay token has it.

    Raises:
        ValueError: No program of the lab has that name.
    """
    protocol, _, rest = name.partition(".")
    unmap, _, faults = rest.partition(".")
    if protocol in PROTOCOLS and unmap in _FIRST_UNMAPPED and (not faults or faults.isdecimal()):
        return program(protocol, unmap, int(faults or 1))  # type: ignore[arg-type]
    raise ValueError(
        f"the lab has no program {name!r}: names are a protocol ({', '.join(PROTOCOLS)}), "
        "a dot, and 'whole' or 'tail'"
    )


def lost_wakeup() -> tuple[Exploration, Failure]:
    """Explore the mail's protocol as posted; return the report and the first lost wake-up."""
    exploration = _explore(program("rfc2009"))
    return exploration, next(
        failure for failure in exploration.failures if classify(failure) is Kind.LOST_WAKEUP
    )


def survey(
    protocols: Iterable[str] = tuple(PROTOCOLS), *, faults: int = 1, schedules: int = 1_000_000
) -> Iterator[Row]:
    """Explore each protocol against munmap of the whole VMA and of its tail.

    Args:
        protocols: Names in `PROTOCOLS`.
        faults: How many tasks fault.
        schedules: After how many an exploration gives up, and says that it has.

    Yields:
        A row as soon as its exploration has ended.
    """
    for protocol in protocols:
        for unmap in ("whole", "tail"):
            report = _explore(program(protocol, unmap, faults), schedules=schedules)
            yield Row(protocol, unmap, faults, report, _count(report))


def classify(failure: Failure) -> Kind:
    """Say which of the known failures *failure* is.

    A deadlock is a lost wake-up here: every lock of the programs is let go of by whoever holds
    it, so only `aspf.lab.machine.wait_event` can leave a task asleep.
    """
    if failure.kind == "deadlock":
        return Kind.LOST_WAKEUP
    if isinstance(failure.error, UseAfterFree):
        return Kind.USE_AFTER_FREE
    if isinstance(failure.error, StalePage):
        return Kind.STALE_SHRUNK if failure.error.shrunk else Kind.STALE_REMOVED
    return Kind.OTHER


def format_table(rows: Iterable[Row]) -> str:
    """Lay *rows* out as text: how many schedules failed and how, and what the columns mean."""
    rows = list(rows)
    kinds = [
        kind for kind in Kind if kind is not Kind.OTHER or any(kind in row.found for row in rows)
    ]
    heading = ["protocol", "munmap", "faults", "schedules", "exhausted"]
    lines = [[*heading, *(kind.value for kind in kinds)], *(_cells(row, kinds) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    legend = [f"{kind.value:5}  {_MEANINGS[kind]}" for kind in kinds]
    return "\n".join([*(_line(cells, widths) for cells in lines), "", *legend, ""])


def _cells(row: Row, kinds: list[Kind]) -> list[str]:
    report = row.exploration
    exhausted = "yes" if report.exhausted else "no"
    counts = (str(row.found.get(kind, "-")) for kind in kinds)
    return [row.protocol, row.unmap, str(row.faults), str(report.schedules), exhausted, *counts]


def _line(cells: list[str], widths: list[int]) -> str:
    """Left-align the two names, right-align the rest."""
    padded = map(str.rjust, cells[2:], widths[2:])
    return "  ".join([*map(str.ljust, cells[:2], widths[:2]), *padded])


def _explore(run: Callable[[], Awaitable[object]], **limits: Any) -> Exploration:
    return explore(
        run,
        name=run.__name__,
        search="exhaustive",
        shared="cells",
        stop_on_failure=False,
        weakest=False,
        **limits,
    )


def _count(report: Exploration) -> dict[Kind, int]:
    found: dict[Kind, int] = {}
    for failure in report.failures:
        kind = classify(failure)
        found[kind] = found.get(kind, 0) + failure.count
    return found


def _name(protocol: str, unmap: str, faults: int) -> str:
    return f"{protocol}.{unmap}" + (f".{faults}" if faults > 1 else "")
