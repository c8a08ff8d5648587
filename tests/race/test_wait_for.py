"""A deadlock as a circle of tasks, with the names of what they hold and the lines they wait at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from _golden import check_golden
from hypothesis import given, strategies as st

from aspf.race import Cell, explore
from aspf.race._wait_for import Wait, cycle_among, describe_cycle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GOLDEN = Path(__file__).parent / "golden"


class Account:
    """Something with a lock in it."""

    def __init__(self, lock: trio.Lock) -> None:
        self.lock = lock


class Slotted:
    """Something without a dictionary."""

    __slots__ = ()


async def transfers() -> None:
    """Each takes its own account's lock, then the other's."""
    accounts = [Account(trio.Lock()) for _ in range(2)]

    async def transfer(source: Account, target: Account) -> None:
        async with source.lock:
            await trio.lowlevel.checkpoint()
            async with target.lock:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transfer, *accounts)
        nursery.start_soon(transfer, *reversed(accounts))


async def child_of_the_holder() -> None:
    """A task holds a lock while it waits for a child that needs it."""
    lock, kinds, nothing = trio.StrictFIFOLock(), trio.Lock, Slotted()

    async def child() -> None:
        assert kinds
        assert nothing
        await lock.acquire()

    async with lock, trio.open_nursery() as nursery:
        nursery.start_soon(child)


async def limiter() -> None:
    """Nobody of the program has what somebody borrowed in the name of a thing."""
    limits = [trio.CapacityLimiter(1)]
    limits[0].acquire_on_behalf_of_nowait("a thing")
    await limits[0].acquire()


async def own_queue() -> None:
    """Who wrote last is who waits: it waits for somebody else to write."""
    queue = Cell((), "queue")
    await queue.set(("main",))  # type: ignore[arg-type]
    await queue.wait_until(lambda waiting: not waiting)


async def bare() -> None:
    """Nothing says what is waited for."""
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)


@pytest.mark.parametrize("program", [transfers, child_of_the_holder, limiter, own_queue, bare])
def test_deadlocks(program: Callable[[], Awaitable[object]]) -> None:
    """Byte for byte: a circle that isn't there is worse than none."""
    (failure,) = explore(program, search="exhaustive").failures
    waits = [
        f"  {wait.name}: {wait.what} {wait.how} {wait.holders}".rstrip()
        for wait in failure.recording.waits
    ]
    text = "\n".join([failure.diagram, "waits:", *waits, ""])
    check_golden(GOLDEN / f"waits-{program.__name__}.txt", text)


edges = st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 5)), max_size=6)


@given(edges)
def test_every_circle_is_one(graph: dict[int, set[int]]) -> None:
    """Each waits for the next; a circle is found if there is one, and no shorter one exists."""
    waits = [Wait(n, f"t{n}", "x", holders=tuple(sorted(to))) for n, to in graph.items()]
    cycle = [wait.task for wait in cycle_among(waits)]
    for task, following in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        assert following in graph[task]
    assert len(set(cycle)) == len(cycle)

    reached = {n: {n} for n in graph}
    shortest = 0
    for length in range(1, 7):
        reached = {
            n: {to for at in ends for to in graph.get(at, ()) if to in graph}
            for n, ends in reached.items()
        }
        if not shortest and any(n in ends for n, ends in reached.items()):
            shortest = length
    assert len(cycle) == shortest


def test_words() -> None:
    """Without a place in the program there is nothing in brackets."""
    assert describe_cycle([], {}) == []
    wait = Wait(1, "one", "itself", holders=(1,))
    assert describe_cycle([wait], {1: "one"}) == ["wait-for cycle:", "  one waits for itself"]
