"""The mail's benchmark, on virtual time: what is measured then is the convoy and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from aspf.mm import MappedFile, MultiFault, sample_maps

if TYPE_CHECKING:
    from pathlib import Path

LOCKED, RETRY, SPECULATIVE = range(3)


def run(**options: object) -> list:
    """Run with a clock that only moves while everybody waits."""
    workload = MultiFault(seconds=2.0, **options)

    async def main() -> list:
        return await workload.run(clock=trio.current_time)

    return trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("every", [0.001, 0.005, 0.025])
def test_a_writer_makes_a_convoy_of_locked_faults(every: float) -> None:
    """Broken if faults without the lock wait for the writers, or locked ones don't."""
    rows = run(layout="split", io=0.001, writers=1, every=every)
    # 2 to 3 on average; a round sees only a few of the slow pages, so one run is no measurement.
    assert rows[SPECULATIVE].ratio > 1.5
    assert rows[LOCKED].ratio == 1
    assert rows[LOCKED].write_p99 > rows[SPECULATIVE].write_p99
    assert rows[RETRY].retries > 0 == rows[SPECULATIVE].retries
    assert rows[SPECULATIVE].speculative_hits == rows[SPECULATIVE].faults


def test_without_writers_there_is_none() -> None:
    """Broken if readers wait for one another: then the convoy would be of our making."""
    rows = run(layout="all", io=0.001)
    assert rows[SPECULATIVE].ratio == pytest.approx(1, abs=0.1)
    assert rows[SPECULATIVE].writes == 0


def test_latency_is_the_pagers() -> None:
    """Broken if p50 or p99 are not what --io and --slow say."""
    row = run(layout="split", io=0.001, slow=50, tasks=1)[SPECULATIVE]
    assert row.p50 == pytest.approx(0.001)
    # 99 pages of 1 ms and one of 50 ms take 149 ms.
    assert row.faults_per_second == pytest.approx(100 / 0.149, rel=0.2)
    assert run(layout="split", io=0.001, slow=1, tasks=1)[SPECULATIVE].p99 == pytest.approx(0.001)


def test_the_layout_of_a_process() -> None:
    """Broken if not every task gets something to touch, or the layout's VMAs are lost."""
    rows = run(layout="maps", maps=sample_maps(), files=False, io=0.001, tasks=3)
    assert all(row.faults > 100 for row in rows)


def test_progress_ends_at_one() -> None:
    """Broken if a progress bar never fills."""
    parts: list[float] = []
    workload = MultiFault(layout="split", io=0.001, seconds=0.1, tasks=1)

    async def main() -> None:
        await workload.run(parts.append, clock=trio.current_time)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert parts == sorted(parts)
    assert parts[-1] == 1


def test_a_layout_with_nothing_to_touch_is_refused() -> None:
    """Broken if tasks spin for ever over no pages."""
    maps = "00400000-00401000 ---p 00000000 00:00 0 \n"
    with pytest.raises(ValueError, match="nothing that may be read or written"):
        run(layout="maps", maps=maps)


@pytest.mark.anyio
@pytest.mark.parametrize("io", [0.0, 0.0001])
async def test_real_files_are_read(tmp_path: Path, io: float) -> None:
    """Broken if a file's pages are not read, with and without latency before them."""
    named, more = tmp_path / "named", tmp_path / "more"
    named.write_bytes(b"x" * 10_000)
    more.write_bytes(b"y" * 10_000)
    maps = (
        f"00400000-00405000 r--p 00000000 08:01 5                          {named}\n"
        "00500000-00501000 r--p 00000000 08:01 6                          /no/such/file\n"
    )
    workload = MultiFault(
        layout="maps", maps=maps, file=str(more), tasks=2, seconds=0.05, io=io, slow=1
    )
    rows = await workload.run()
    assert all(row.faults > 0 for row in rows)


@pytest.mark.anyio
async def test_files_that_cannot_be_read_are_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if a layout with a file of somebody else's, or an empty --file, ends in an error."""
    named, empty = tmp_path / "named", tmp_path / "empty"
    named.write_bytes(b"x" * 10_000)
    empty.write_bytes(b"")
    opened = MappedFile.open

    async def refuse(path: str) -> MappedFile:
        if path == str(named):
            raise PermissionError(path)
        return await opened(path)

    monkeypatch.setattr(MappedFile, "open", refuse)
    maps = f"00400000-00402000 r--p 00000000 08:01 5                          {named}\n"
    workload = MultiFault(layout="maps", maps=maps, file=str(empty), tasks=1, seconds=0.05)
    assert all(row.faults > 0 for row in await workload.run())
