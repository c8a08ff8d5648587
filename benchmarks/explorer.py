"""How fast the explorer is: a schedule, a step, and beside another tool.

A schedule is a whole run of the program from its start. With sleep sets, those that would only
repeat others are given up on the way; they cost nearly as much, and are counted apart.

frontrun 0.7 explores asyncio, so it is given the asyncio twin of the same program: three tasks that
each increment an attribute twice with a switch in between. It has two strategies for that; the
first is its default, whose runs find out what conflicts, the second only draws them.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import log
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import trio

from aspf import ReadWriteLock
from aspf.race import Cell, explore

from ._measure import Row, take_turns, without_gc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


# A schedule of lost update may cost as much as this part of an empty `trio.run`.
ISOLATED = 1 / 1.3
SHARED_RUNS = 4
FASTER_THAN_FRONTRUN = 10


def rows(*, quick: bool) -> Iterator[Row]:
    yield from _isolated(quick=quick)
    yield from _shared_runs(quick=quick)
    yield from _step(quick=quick)
    yield from _beside_frontrun(quick=quick)
    yield from _rates(quick=quick)


def _isolated(*, quick: bool) -> Iterator[Row]:
    n = 200 if quick else 1_000

    def empty_runs() -> None:
        for _ in range(n):
            trio.run(_nothing)

    for search in ("random", "pct"):
        explored = partial(explore, _plain_lost_update, search=search, schedules=n)
        turns = take_turns(explored, empty_runs, operations=n, turns=5 if quick else 11)
        what = f"lost update, isolated ({search}) / empty trio.run"
        yield turns.row(what, at_most=ISOLATED)


def _shared_runs(*, quick: bool) -> Iterator[Row]:
    """How many times as fast schedules are that share a run of trio's loop."""
    n = 500 if quick else 2_000

    def explored(*, isolated: bool) -> None:
        explore(_plain_lost_update, search="random", schedules=n, isolated=isolated)

    turns = take_turns(
        partial(explored, isolated=True),
        partial(explored, isolated=False),
        operations=n,
        turns=5 if quick else 11,
    )
    yield Row(
        "lost update, many schedules a run",
        f"{turns.ratio:.1f}x",
        f">= {SHARED_RUNS}x",
        turns.ratio >= SHARED_RUNS,
        "as fast as isolated; for programs that leave nothing behind",
    )

    async def again_and_again() -> None:
        for _ in range(n):
            await _plain_lost_update()

    turns = take_turns(
        partial(explored, isolated=True),
        partial(trio.run, again_and_again),
        operations=n,
        turns=5 if quick else 11,
    )
    yield Row(
        "the same program in plain trio, again and again",
        f"{turns.ratio:.1f}x",
        note="as fast as isolated: nobody explores, so that is the limit",
    )


def _step(*, quick: bool) -> Iterator[Row]:
    """By how much a step costs more when ten times as many tasks can run."""
    few, many = 100, 1_000
    for search in ("random", "pct", "pos", "urw", "swarm", "starve"):
        times = {
            tasks: _seconds_per_step(search, tasks, 1 if quick else 3) for tasks in (few, many)
        }
        exponent = log(times[many] / times[few]) / log(many / few)
        yield Row(
            f"step with n tasks that can run ({search})",
            f"n^{exponent:.2f}",
            "<= n^1",
            exponent <= 1,
            f"{times[few] * 1e6:.1f} us with {few}, {times[many] * 1e6:.1f} us with {many:,}",
        )


def _seconds_per_step(search: str, tasks: int, runs: int) -> float:
    rounds = 3
    samples = []
    for _ in range(3):
        program = partial(_yields, tasks, rounds)
        with without_gc():
            started = perf_counter()
            explore(program, search=search, schedules=runs, max_steps=1_000_000)
            samples.append((perf_counter() - started) / (runs * tasks * (rounds + 1)))
    return min(samples)


def _beside_frontrun(*, quick: bool) -> Iterator[Row]:
    try:
        import frontrun  # noqa: PLC0415 - a benchmark dependency, and the other rows need none
    except ModuleNotFoundError:
        yield Row("beside frontrun 0.7", "not run", note="frontrun is not installed")
        return
    tasks = 3

    def default() -> int:
        found = frontrun.explore(
            setup=_Counter,
            workers=_Counter.increment_twice,
            count=tasks,
            invariant=lambda _: True,
            preemption_bound=None,
            max_executions=200 if quick else 1_000,
        )
        return int(asyncio.run(found).num_explored)

    def drawn() -> int:
        workers = [_Counter.increment_twice] * tasks
        attempts = 200 if quick else 1_000
        found = frontrun.explore_async_random(
            _Counter, workers, lambda _: True, max_attempts=attempts
        )
        return int(asyncio.run(found).num_explored)

    for name, search, theirs, target in (
        ("its DPOR", "exhaustive", default, FASTER_THAN_FRONTRUN),
        ("its random search", "random", drawn, None),
    ):
        ratios, rates = [], (0.0, 0.0)
        for _ in range(3 if quick else 5):
            found, seconds = _timed(partial(_explored_twin, search, 500 if quick else 1_680))
            other, other_seconds = _timed(theirs)
            rates = found / seconds, other / other_seconds
            ratios.append(rates[0] / rates[1])
        yield Row(
            f"{search} / frontrun ({name})",
            f"{median(ratios):.1f}x",
            f">= {target}x" if target else "",
            median(ratios) >= target if target else None,
            f"{rates[0]:,.0f}/s against {rates[1]:,.0f}/s",
        )


def _timed(run: Callable[[], int]) -> tuple[int, float]:
    started = perf_counter()
    n = run()
    return n, perf_counter() - started


def _explored_twin(search: str, schedules: int) -> int:
    return explore(
        _twin, search=search, schedules=schedules, stop_on_failure=False, weakest=False
    ).schedules


def _rates(*, quick: bool) -> Iterator[Row]:
    """For information."""
    three = partial(_lost_update, 3)
    limit = 1_000 if quick else 5_000
    yield _row("lost update, 3 tasks, anything shared", three, schedules=limit)
    yield _row("lost update, 3 tasks, sleep sets", three, shared="cells", schedules=limit)
    yield _row("lost update, 3 tasks, random", three, search="random", schedules=limit)
    for level in ("free", "contract"):
        what = f"channel, lock and event, level {level}"
        yield _row(f"{what}, anything shared", _pipeline, level=level, schedules=limit)
        yield _row(f"{what}, traces", _pipeline, shared="cells", level=level, schedules=limit)
    yield _row("lost update, 2 tasks, cancelled", partial(_lost_update, 2), cancel="each")
    yield _row("ReadWriteLock, 2 readers, 1 writer", _two_readers_and_a_writer)
    if not quick:
        yield _row(
            "ReadWriteLock, the same, cancelled",
            _two_readers_and_a_writer,
            cancel="each",
        )


def _row(what: str, program: Callable[[], Awaitable[object]], **options: Any) -> Row:
    started = perf_counter()
    options = {"search": "exhaustive", "stop_on_failure": False, "weakest": False} | options
    found = explore(program, name="benchmark", **options)
    seconds = perf_counter() - started
    runs = found.schedules + found.pruned
    extent = "exhausted" if found.exhausted else "not exhausted"
    note = f"{found.schedules:,} schedules, {found.pruned:,} pruned, {extent}, {seconds:.2f} s"
    return Row(what, f"{runs / seconds:,.0f}/s", note=note)


async def _nothing() -> None:
    pass


async def _plain_lost_update() -> int:
    value = 0

    async def increment() -> None:
        nonlocal value
        read = value
        await trio.lowlevel.checkpoint()
        value = read + 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(increment)
        nursery.start_soon(increment)
    return value


class _Counter:
    """What frontrun is given; `_twin` is the same for trio."""

    def __init__(self) -> None:
        self.value = 0

    async def increment_twice(self) -> None:
        for _ in range(2):
            read = self.value
            await asyncio.sleep(0)
            self.value = read + 1


async def _twin() -> int:
    counter = _Counter()

    async def increment_twice() -> None:
        for _ in range(2):
            read = counter.value
            await trio.lowlevel.checkpoint()
            counter.value = read + 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(increment_twice)
    return counter.value


async def _yields(tasks: int, rounds: int) -> None:
    async def task() -> None:
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(task)


async def _pipeline() -> tuple[int, int]:
    """Two producers and a consumer, who share nothing but trio's primitives."""
    sender, receiver = trio.open_memory_channel[int](1)
    lock, done = trio.Lock(), trio.Event()

    async def produce(item: int) -> None:
        async with lock:
            await sender.send(item)

    async def consume() -> tuple[int, int]:
        first, second = await receiver.receive(), await receiver.receive()
        done.set()
        return first, second

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, 1)
        nursery.start_soon(produce, 2)
        nursery.start_soon(done.wait)
        return await consume()


async def _lost_update(tasks: int) -> int:
    counter = Cell(0, "counter")

    async def increment() -> None:
        await counter.set(await counter.get() + 1)

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(increment)
    return counter.peek()


async def _two_readers_and_a_writer() -> None:
    lock = ReadWriteLock()

    async def read() -> None:
        async with lock.read():
            await trio.lowlevel.checkpoint()

    async def write() -> None:
        async with lock.write():
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for use in (read, read, write):
            nursery.start_soon(use)
