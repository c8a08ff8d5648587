"""Page faults without the lock, against a read-write lock held through the fault.

What the ratios with I/O measure is a convoy: a writer waits for the slowest fault, and every other
fault waits for the writer. How slow the slowest is decides them, so the row with a pager that
always takes the same time is there too. They are not the mail's 2.06, which was a cache line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from aspf.mm import MultiFault

from ._measure import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aspf.mm import FaultRow

PERIODS = (0.001, 0.005, 0.025)
MAIL = 2.06


def rows(*, quick: bool) -> Iterator[Row]:
    seconds = 2.0 if quick else 10.0
    for every in PERIODS:
        what = f"1 ms I/O, a writer every {every * 1000:g} ms"
        yield _measure(what, MAIL, seconds, io=0.001, writers=1, every=every)
    what = "1 ms I/O, none slower, a writer every 25 ms"
    yield _measure(what, None, seconds, io=0.001, writers=1, every=0.025, slow=1)
    yield _measure("no I/O, no writers, 8 tasks", 0.95, seconds / 5)
    yield _measure("no I/O, no writers, one VMA for all", 0.95, seconds / 5, layout="all")
    yield _measure("no I/O, no writers, one task", 0.95, seconds / 5, tasks=1)


def _measure(what: str, target: float | None, seconds: float, **options: Any) -> Row:
    workload = MultiFault(
        **{"layout": "split", **options}, seconds=seconds, lockings=("mmap_lock", "speculative")
    )
    locked, speculative = anyio.run(workload.run)
    return Row(
        f"speculative / mmap_lock, {what}",
        f"{speculative.ratio:.2f}x",
        "" if target is None else f">= {target:g}x",
        None if target is None else speculative.ratio >= target,
        f"{_rates(speculative)} against {_rates(locked)}",
    )


def _rates(row: FaultRow) -> str:
    return f"{row.faults_per_second:,.0f}/s, p99 {row.p99 * 1000:.2f} ms"
