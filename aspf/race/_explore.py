"""Explore a program's schedules, check that none fails, repeat one that does.

A program is an async function without arguments, the main task. It makes everything afresh that
its tasks share, opens a nursery, starts them, and returns the outcome, which is counted; it may
assert at its end. It is run again from its start for every schedule.

What is explored is the level that the survey of such tools calls *free*: whichever task can run
may run next, as trio's documentation allows, and not only in the orders in which today's trio
happens to do it. Tasks switch only at awaits that really yield.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final

from aspf._errors import NotDeterministic, RaceFound
from aspf.race._diagram import draw
from aspf.race._engine import TIME, Schedule, exploring
from aspf.race._record import Trace, without_addresses
from aspf.race._search import Exhaustive, Random, Repeat, Search
from aspf.race._token import format_token, parse_token, safe_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

__all__ = ("Exploration", "Failure", "Outcome", "check", "explore", "replay")


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule in which the program fails."""

    #: ``"deadlock"``, ``"livelock?"`` (too many steps) or ``"error"`` (the main task raised).
    kind: str
    #: What went wrong, in one line.
    summary: str
    #: The exception of an ``"error"``.
    error: BaseException | None
    #: The number of the first schedule that failed so; the first of all is 1.
    schedule: int
    #: How many schedules failed so.
    count: int
    #: Repeats the schedule: see `replay`.
    token: str
    #: The interleaving in columns, and what went wrong.
    diagram: str

    def __str__(self) -> str:
        times = "" if self.count == 1 else f", the first of {self.count}"
        head = f"{self.kind} in schedule {self.schedule}{times}"
        return f"{head}\n\n{self.diagram}\nreplay: {self.token}\n"


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program returned, in the schedules in which it returned that."""

    #: In how many schedules.
    count: int
    #: The number of the first of them.
    schedule: int
    #: Repeats that one.
    token: str


@final
@dataclass(frozen=True, slots=True)
class Exploration:
    """What an exploration has found, and how far it went."""

    #: The program's name.
    program: str
    #: ``"exhaustive"`` or ``"random"``.
    search: str
    #: Complete runs, those included that failed.
    schedules: int
    #: Runs that were given up since they would only have repeated others.
    pruned: int
    #: Complete runs in which a task was cancelled.
    cancellations: int
    #: True if every schedule was explored; false says nothing about the rest.
    exhausted: bool
    #: One for each way of failing, in the order in which they were found.
    failures: tuple[Failure, ...]
    #: What the program returned (its ``repr``), in the order in which it was first seen.
    outcomes: Mapping[str, Outcome]

    def __str__(self) -> str:
        """Return the whole report."""
        lines = [self.headline(), ""]
        lines += [str(failure) for failure in self.failures]
        if not self.failures:
            lines += [f"{o.count:>8} x {text}" for text, o in self.outcomes.items()]
        return "\n".join(lines).rstrip("\n") + "\n"

    def headline(self) -> str:
        """Say in one line what was explored and what was found."""
        failed = sum(failure.count for failure in self.failures)
        found = (
            f"{failed} of {self.schedules} schedules failed"
            if failed
            else (f"no failure in {self.schedules} schedules")
        )
        extent = "exhausted" if self.exhausted else "not exhausted"
        extra = f", {self.pruned} pruned" if self.pruned else ""
        extra += f", {self.cancellations} with a cancellation" if self.cancellations else ""
        return f"{self.program}: {found} ({self.search} search, {extent}{extra}; level: free)"


def explore(
    program: Callable[[], Awaitable[object]],
    *,
    name: str | None = None,
    search: Literal["exhaustive", "random"] = "exhaustive",
    schedules: int = 10_000,
    seed: int = 0,
    cancel: bool = False,
    shared: Literal["anything", "cells"] = "anything",
    stop_on_failure: bool = True,
    max_steps: int = 10_000,
    seconds: float = math.inf,
) -> Exploration:
    """Run a program in many schedules, and report in which it fails.

    Args:
        program: The main task. What it returns is the outcome; if it raises, that is a failure.
        name: What reports and tokens call it; its own name if left out.
        search: ``"exhaustive"`` takes every schedule once, ``"random"`` draws them.
        schedules: How many runs at most, pruned ones included.
        seed: For ``"random"``: the same seed gives the same report on every Python.
        cancel: Also cancel one task in each run, any but the main one, at each of its checkpoints
            in turn. It ends quietly, as if a scope around it had been cancelled.
        shared: ``"cells"`` promises that the tasks share nothing but cells and lifetimes. Then
            schedules that only differ in the order of independent accesses are left out.
        stop_on_failure: Stop at the first failure; else go on, and keep one of each kind.
        max_steps: A run with more steps is a failure of kind ``"livelock?"``.
        seconds: No schedule but the first begins later than that after the call.

    Returns:
        What was found. ``exhausted`` is true only if no schedule is left.

    Raises:
        NotDeterministic: The program used real I/O or threads, or did not repeat itself.
        TeardownStuck: The tasks of a failed schedule could not be cancelled.
        RuntimeError: Called from inside a trio program.

    Examples:
        >>> import trio
        >>> from aspf.race import Cell
        >>> async def lost_update():
        ...     counter = Cell(0, "counter")
        ...     async def increment():
        ...         await counter.set(await counter.get() + 1)
        ...     async with trio.open_nursery() as nursery:
        ...         nursery.start_soon(increment)
        ...         nursery.start_soon(increment)
        ...     return counter.peek()
        >>> print(explore(lost_update, shared="cells"), end="")
        lost_update: no failure in 4 schedules (exhaustive search, exhausted; level: free)
        <BLANKLINE>
               2 x 2
               2 x 1
    """
    name = safe_name(_name_of(program) if name is None else name)
    limit = _at_least(1, "schedules", schedules)
    steps = _at_least(1, "max_steps", max_steps)
    strategy = _make_search(search, seed, shared)
    tally = _Tally(program, name, cancel=cancel, max_steps=steps)
    deadline = time.monotonic() + seconds
    with exploring():
        while _may_go_on(tally.runs, limit, deadline) and strategy.begin():
            schedule = Schedule(program, strategy, cancel=cancel, max_steps=steps)
            schedule.run()
            tally.count(schedule)
            if stop_on_failure and tally.failures:
                break
        else:
            # The limit may have been met by the last schedule that there was.
            strategy.begin()
    return Exploration(
        program=name,
        search=search,
        schedules=tally.complete,
        pruned=tally.pruned,
        cancellations=tally.cancellations,
        exhausted=strategy.exhausted,
        failures=tuple(tally.failures.values()),
        outcomes={text: Outcome(*seen) for text, seen in tally.outcomes.items()},
    )


def check(
    program: Callable[[], Awaitable[object]],
    *,
    name: str | None = None,
    search: Literal["exhaustive", "random"] = "exhaustive",
    schedules: int = 10_000,
    seed: int = 0,
    cancel: bool = False,
    shared: Literal["anything", "cells"] = "anything",
    stop_on_failure: bool = True,
    max_steps: int = 10_000,
) -> Exploration:
    """Explore as `explore` does, and raise if any schedule fails.

    Returns:
        What was explored. Look at ``exhausted`` before you call it a proof.

    Raises:
        RaceFound: The report, with diagram and token.
    """
    exploration = explore(
        program,
        name=name,
        search=search,
        schedules=schedules,
        seed=seed,
        cancel=cancel,
        shared=shared,
        stop_on_failure=stop_on_failure,
        max_steps=max_steps,
    )
    if exploration.failures:
        raise RaceFound(str(exploration))
    return exploration


def replay(program: Callable[[], Awaitable[object]], token: str) -> Failure | None:
    """Repeat one schedule.

    Args:
        program: The program that the token was made with.
        token: From `Failure.token` or `Outcome.token`.

    Returns:
        How it fails; ``None`` if that schedule passes.

    Raises:
        ReplayDiverged: The program can't do what the token says.
        ValueError: The token is none.
    """
    name, actions, open_ended = parse_token(token)
    cancel = any(action < TIME for action in actions)
    with exploring():
        schedule, trace = _run_again(program, actions, cancel=cancel, open_ended=open_ended)
    if schedule.verdict is None:
        return None
    return _diagnose(name, 1, schedule, trace)


class _Tally:
    """Counts the runs of an exploration, and keeps the first of each kind."""

    def __init__(
        self, program: Callable[[], Awaitable[object]], name: str, *, cancel: bool, max_steps: int
    ) -> None:
        self._program = program
        self._name = name
        self._cancel = cancel
        self._max_steps = max_steps
        self.complete = 0
        self.pruned = 0
        self.cancellations = 0
        self.failures: dict[tuple[str, str], Failure] = {}
        self.outcomes: dict[str, tuple[int, int, str]] = {}

    @property
    def runs(self) -> int:
        return self.complete + self.pruned

    def count(self, schedule: Schedule) -> None:
        if schedule.verdict == "pruned":
            self.pruned += 1
            return
        self.complete += 1
        self.cancellations += any(action < TIME for action in schedule.actions)
        if schedule.verdict is None:
            self._count_outcome(schedule)
        else:
            self._count_failure(schedule)

    def _count_outcome(self, schedule: Schedule) -> None:
        text = without_addresses(repr(schedule.result))
        if text in self.outcomes:
            count, first, token = self.outcomes[text]
            self.outcomes[text] = count + 1, first, token
        else:
            token = format_token(self._name, schedule.actions)
            self.outcomes[text] = 1, self.complete, token

    def _count_failure(self, schedule: Schedule) -> None:
        kind = str(schedule.verdict), _summary(schedule)
        if kind in self.failures:
            known = self.failures[kind]
            self.failures[kind] = replace(known, count=known.count + 1)
            return
        again, trace = _run_again(
            self._program,
            schedule.actions,
            cancel=self._cancel,
            open_ended=schedule.verdict == "livelock?",
        )
        if (again.verdict, _summary(again)) != kind:
            raise NotDeterministic(
                f"the program did not repeat itself: a schedule ended in {kind[0]!r} ({kind[1]}), "
                f"and when it was run again in {again.verdict!r} ({_summary(again)}); look for "
                "state that outlives a run, real time or random numbers"
            )
        self.failures[kind] = _diagnose(self._name, self.complete, again, trace)


def _run_again(
    program: Callable[[], Awaitable[object]],
    actions: Sequence[int],
    *,
    cancel: bool,
    open_ended: bool,
) -> tuple[Schedule, Trace]:
    """Run one schedule with everything recorded."""
    trace = Trace()
    # A recording that was cut is cut again at the same step; any other has one step to spare, in
    # which `Repeat` complains.
    schedule = Schedule(
        program,
        Repeat(actions),
        cancel=cancel,
        max_steps=len(actions) + (not open_ended),
        watcher=trace,
    )
    schedule.run()
    trace.close()
    return schedule, trace


def _diagnose(name: str, number: int, schedule: Schedule, trace: Trace) -> Failure:
    kind = schedule.verdict
    assert kind is not None
    summary = _summary(schedule)
    lines = [summary]
    if kind == "deadlock":
        lines = ["deadlock: nobody can run, and no deadline is pending"]
        lines += (f"  {sleeper}" for sleeper in schedule.sleepers)
    diagram = draw(trace.rows, trace.names)
    return Failure(
        kind=kind,
        summary=summary,
        error=schedule.error,
        schedule=number,
        count=1,
        token=format_token(name, schedule.actions, open_ended=kind == "livelock?"),
        diagram="\n".join([diagram, *lines, ""] if diagram else [*lines, ""]),
    )


def _summary(schedule: Schedule) -> str:
    if schedule.verdict == "deadlock":
        stuck = [s for s in schedule.sleepers if not s.awaits_children] or schedule.sleepers
        what = "; ".join(f"{sleeper.name} waits for {sleeper.what}" for sleeper in stuck)
        return f"deadlock: {what}"
    if schedule.verdict == "livelock?":
        return f"no end within {len(schedule.actions)} steps: perhaps a livelock"
    return _describe_error(schedule.error)


def _describe_error(error: BaseException | None) -> str:
    """Say what was raised, in one line; what a nursery wrapped comes out of its group."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_describe_error(inner) for inner in error.exceptions)
    text = without_addresses(str(error)).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _make_search(search: str, seed: int, shared: str) -> Search:
    if shared not in ("anything", "cells"):
        raise ValueError(f"shared={shared!r}: expected 'anything' or 'cells'")
    if search == "exhaustive":
        return Exhaustive(reduce=shared == "cells")
    if search == "random":
        return Random(seed)
    raise ValueError(f"search={search!r}: expected 'exhaustive' or 'random'")


def _may_go_on(runs: int, limit: int, deadline: float) -> bool:
    return runs == 0 or (runs < limit and time.monotonic() < deadline)


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise ValueError(f"{name}={value!r}: expected at least {least}")
    return value


def _name_of(program: Callable[..., object]) -> str:
    while isinstance(program, functools.partial):
        program = program.func
    return str(getattr(program, "__name__", type(program).__name__))
