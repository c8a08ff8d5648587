"""Rows, and the one way in which two things are compared.

Absolute times say more about the machine than about the code, so a claim is a ratio. Two
contenders take turns in one process (A B A B ...), each turn gives a ratio, and the median of the
ratios counts: a machine that slows down for a while slows both sides of a turn.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Row", "Turns", "percentile", "take_turns", "without_gc")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    Attributes:
        what: What was measured, and under which circumstances.
        figure: The figure as text, with its unit.
        target: What was promised, as text; empty where the row only informs.
        holds: Whether the figure keeps the promise; None where nothing was promised.
        note: The absolute times behind a ratio, or what else helps to judge it.
    """

    what: str
    figure: str
    target: str = ""
    holds: bool | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Turns:
    """What `take_turns` measured: seconds per operation, by turn."""

    subject: tuple[float, ...]
    baseline: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median over the turns of subject time / baseline time."""
        return median(s / b for s, b in zip(self.subject, self.baseline, strict=True))

    def row(self, what: str, *, at_most: float | None = None) -> Row:
        """Say it as a row, with a target if there is one."""
        return Row(
            what,
            f"{self.ratio:.2f}x",
            "" if at_most is None else f"<= {at_most:g}x",
            None if at_most is None else self.ratio <= at_most,
            f"{_time(median(self.subject))} against {_time(median(self.baseline))}",
        )


def take_turns(
    subject: Callable[[], object], baseline: Callable[[], object], *, operations: int, turns: int
) -> Turns:
    """Run both in turns, after one turn that warms up and doesn't count.

    Args:
        subject: Does *operations* operations.
        baseline: Does as many.
        operations: How many that is.
        turns: How many turns count; an odd number gives a median that was measured.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for run, into in zip((subject, baseline), times, strict=True):
            with without_gc():
                started = perf_counter()
                run()
                elapsed = perf_counter() - started
            if turn:
                into.append(elapsed / operations)
    return Turns(tuple(times[0]), tuple(times[1]))


@contextmanager
def without_gc() -> Iterator[None]:
    """Keep the garbage collector's pauses out of a measurement."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def percentile(values: list[float], percent: float) -> float:
    """Return the value below which *percent* per cent of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _time(seconds: float) -> str:
    return f"{seconds * 1e9:.0f} ns" if seconds < 1e-5 else f"{seconds * 1e6:.1f} us"
