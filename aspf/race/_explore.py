"""Explore a program's schedules, check that none fails, repeat one that does.

A program is an async function without arguments, the main task. It makes everything afresh that
its tasks share, opens a nursery, starts them, and returns the outcome, which is counted; it may
assert at its end. It is run again from its start for every schedule.

Whichever task can run may run next, as trio's documentation allows, and not only in the orders in
which today's trio happens to do it. Where tasks are switched is the *level*: at awaits that really
yield (``free``), or wherever the documentation says that they may (``contract``).
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, final

from aspf._errors import (
    ExplorationInterrupted,
    NotDeterministic,
    NotLinearizable,
    NotProven,
    RaceFound,
    TeardownStuck,
)
from aspf.race._checkpoint import Checkpoint, qualified_name
from aspf.race._counts import Counts, kind_of
from aspf.race._engine import Schedule
from aspf.race._interrupts import interruptible
from aspf.race._jobs import Order, Pool, pickled, run_parts
from aspf.race._kept import Kept, Keyed
from aspf.race._limits import Limits
from aspf.race._minimal import NOT_TRIED, Minimal, minimal_of
from aspf.race._minimise import minimise as minimise_schedule
from aspf.race._part import Done, run_part
from aspf.race._raised import behind, in_one_line
from aspf.race._record import Trace
from aspf.race._recording import Recording
from aspf.race._retrace import Recall, Retrace, raise_if_diverged
from aspf.race._runner import exploring
from aspf.race._settings import Cancel, Settings, Timers, cancel_for
from aspf.race._strategies import make_plan
from aspf.race._token import format_symbols, format_token, parse_token, safe_name
from aspf.race._verdict import explain, judge
from aspf.race._weakest import Below, in_words, weakest_levels

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from aspf.race._examiner import Finding
    from aspf.race._limits import Progress
    from aspf.race._minimise import Follow, Found, Kind
    from aspf.race._strategies import Coverage
    from aspf.race._token import Token
    from aspf.race._verdict import Verdict

__all__ = ("Exploration", "Failure", "Outcome", "check", "explore", "record", "replay")

_ANY = 1 << 30


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule in which the program fails."""

    #: ``"deadlock"``, ``"livelock?"`` (too many steps), ``"error"`` (the main task raised) or
    #: ``"leak"`` (something that is watched is not at rest in the end: see `watch`), or
    #: ``"task left"`` (another task of the program is still there when the main task has ended).
    kind: str
    #: What went wrong, in one line.
    summary: str
    #: The exception of an ``"error"``.
    error: BaseException | None
    #: The number of the first schedule that failed so; the first of all is 1.
    schedule: int
    #: How many schedules failed so.
    count: int
    #: Repeats the schedule: see `replay`. A long one is short here, and in a file, if the
    #: exploration had a directory.
    token: str
    #: The interleaving in columns, and what went wrong.
    diagram: str
    #: The same as data.
    recording: Recording = field(repr=False)
    #: Which switches it takes, if it was minimised.
    minimal: Minimal | None = None
    #: The weakest level that has shown it; the token and the diagram are of the one at which it
    #: was found. See `explore`.
    level: str = "free"
    #: The next weaker level, if it was looked for there in vain.
    below: Below | None = None
    #: Whether an earlier run has found it, and its token was kept: see ``directory=`` of `explore`.
    kept: bool = False

    def __str__(self) -> str:
        times = "" if self.count == 1 else f", the first of {self.count}"
        kept = ", kept from an earlier run" if self.kept else ""
        head = f"{self.kind} in schedule {self.schedule}{times}{kept}"
        switches = "" if self.minimal is None else f"\n{self.minimal}"
        level = f"level: {in_words(self.level, self.below)}"
        return f"{head}\n\n{self.diagram}{switches}\n{level}\nreplay: {self.token}\n"

    def as_json(self) -> str:
        """Write the schedule for a program to read: see `Recording.as_json`."""
        return self.recording.as_json()

    def as_perfetto(self) -> str:
        """Write the schedule in Chrome's trace format: see `Recording.as_perfetto`."""
        return self.recording.as_perfetto()

    def html(self) -> str:
        """Write the schedule as one page to step through: see `Recording.html`."""
        return self.recording.html()


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
    #: Repeats the one with the fewest switches between tasks, of those that were seen; if the
    #: exploration minimises, a simpler one if there is any and it was found in time.
    shortest: str


@final
@dataclass(frozen=True, slots=True)
class Exploration:
    """What an exploration has found, and how far it went."""

    #: The program's name.
    program: str
    #: The strategy: see `explore`.
    search: str
    #: Where tasks could be switched: see `explore`.
    level: str
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
    #: What a search that draws its schedules has covered; ``None`` for one that enumerates them.
    coverage: Coverage | None = None
    #: What the first schedule read that another run need not repeat (clocks, random numbers), and
    #: how often: no failure, but where to look if the program doesn't repeat itself. See `doctor`.
    findings: Mapping[Finding, int] = field(default_factory=dict)
    #: What ended it while schedules were left: ``"failure"`` (the first one), ``"schedules"`` or
    #: ``"seconds"`` (the limit), ``"interrupted"`` (ctrl-C), or nothing.
    stopped_by: str = ""
    #: Which step of the program the interruption broke off, if any: that one may have no end.
    interrupted_in: str = ""
    #: What could be cancelled, and when deadlines could pass: see `explore`.
    cancel: Cancel = "marked"
    timers: Timers = "idle"
    #: Whether each schedule had a run of trio's loop to itself: see `explore`.
    isolated: bool = True
    #: How many of the complete runs an enumeration took, which takes none twice.
    enumerated: int = 0
    #: How many traces the program has, if that is known: classes of schedules that only differ in
    #: the order of steps that don't conflict.
    traces: int | None = None
    #: In how many schedules each label of `sometimes` was reached.
    reached: Mapping[str, int] = field(default_factory=dict)

    @property
    def unreached(self) -> list[str]:
        """The labels that no schedule has reached."""
        return [label for label, count in self.reached.items() if not count]

    @property
    def verdict(self) -> Verdict:
        """``"holds"`` if every schedule was explored and none fails, ``"failed"``, or ``"unknown"``.

        A label of `sometimes` that no schedule at all reaches is a failure too.
        """
        return judge(self)

    @property
    def explanation(self) -> str:
        """The verdict in one sentence: for what it holds, or what may have been missed."""
        return explain(self)

    def __str__(self) -> str:
        """Return the whole report."""
        lines = [self.headline()]
        if not self.failures:
            lines.append(self.explanation)
        lines += [f"sometimes {label!r}: {n or 'never'}" for label, n in self.reached.items()]
        lines.append("")
        lines += [str(failure) for failure in self.failures]
        if not self.failures:
            lines += [f"{o.count:>8} x {text}" for text, o in self.outcomes.items()]
        lines += [f"note: {finding.times(n)}" for finding, n in self.findings.items()]
        return "\n".join(lines).rstrip("\n") + "\n"

    def headline(self) -> str:
        """Say in one line what was explored and what was found."""
        failed = sum(failure.count for failure in self.failures)
        found = (
            f"{failed} of {self.schedules} schedules failed"
            if failed
            else (f"no failure in {self.schedules} schedules")
        )
        where = f" in {self.interrupted_in}" if self.interrupted_in else ""
        cuts = {"seconds": ": out of time", "interrupted": f": interrupted{where}"}
        cut = cuts.get(self.stopped_by, "")
        extent = "exhausted" if self.exhausted else f"not exhausted{cut}"
        extra = f", {self.pruned} pruned" if self.pruned else ""
        extra += f", {self.cancellations} with a cancellation" if self.cancellations else ""
        level = f"level: {self.level}" + (", timers: any" if self.timers == "any" else "")
        level += "" if self.isolated else "; many schedules a run"
        return f"{self.program}: {found} ({self.search} search, {extent}{extra}; {level})"

    def as_json(self) -> str:
        """Write all that was found for a program to read.

        The object's ``format`` is ``"aspf.race.exploration"`` and its ``version`` 1. Within a
        version keys are added, never changed or taken away. Outcomes are the ``repr`` of what was
        returned; each failure has its recording, as `Recording.as_json` writes it, and its level.

        Returns:
            JSON text, ended by a newline.
        """
        counted = (
            "schedules",
            "pruned",
            "cancellations",
            "exhausted",
            "stopped_by",
            "interrupted_in",
        )
        document = {
            "format": "aspf.race.exploration",
            "version": 1,
            "program": self.program,
            "search": self.search,
            "level": self.level,
            "cancel": self.cancel,
            "timers": self.timers,
            "isolated": self.isolated,
            "verdict": self.verdict,
            "explanation": self.explanation,
            "traces": self.traces,
            "reached": dict(self.reached),
            **{name: getattr(self, name) for name in counted},
            "outcomes": [{"outcome": text, **asdict(o)} for text, o in self.outcomes.items()],
            "failures": [
                {
                    **{
                        name: getattr(failure, name)
                        for name in ("schedule", "count", "kept", "level")
                    },
                    "below": None if failure.below is None else asdict(failure.below),
                    **json.loads(failure.as_json()),
                }
                for failure in self.failures
            ],
        }
        return json.dumps(document, indent=1) + "\n"


def explore(
    program: Callable[[], Awaitable[object]],
    *,
    name: str | None = None,
    search: str = "portfolio",
    schedules: int = 10_000,
    seconds: float = math.inf,
    seed: int = 0,
    cancel: Cancel = "marked",
    shared: Literal["anything", "cells"] = "anything",
    stop_on_failure: bool = True,
    max_steps: int = 10_000,
    level: str = "free",
    timers: Timers = "idle",
    isolated: bool = True,
    sometimes: Iterable[str] = (),
    minimise: bool = False,
    weakest: bool = True,
    progress: Callable[[Progress], object] | None = None,
    jobs: int = 1,
    resume: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Exploration:
    """Run a program in many schedules, and report in which it fails.

    Args:
        program: The main task. What it returns is the outcome; if it raises, that is a failure.
        name: What reports and tokens call it; its own name if left out.
        search: ``"portfolio"`` takes several strategies by turns, and finishes as
            ``"exhaustive"`` does where that is soon done. ``"exhaustive"`` takes every schedule
            once, depth first; ``"preemption"`` and ``"delay"`` do so beginning with those that
            have the fewest. ``"random"``, ``"pct"`` (with ``"pct:2"`` for another depth than 3),
            ``"pos"``, ``"urw"``, ``"swarm"`` and ``"starve"`` draw them, each in its own way.
        schedules: How many runs at most, pruned ones included.
        seconds: No run but the first begins later than that after the call. The clock decides
            when it ends, and nothing else.
        seed: For a search that draws: the same seed gives the same report on every Python.
        cancel: What may be cancelled, once in a run. ``"marked"``: the scopes that the program
            marks with `may_cancel`. ``"each"``: every task as well, at each of its checkpoints in
            turn; it ends quietly, as if a scope around it had been cancelled, and so does the
            main task, whose outcome is None then. ``"never"``: nothing.
        shared: ``"cells"`` promises that the tasks share nothing but cells, lifetimes and
            primitives: trio's, anyio's, `RangeMap` and `ReadWriteLock`. Then schedules that only
            differ in the order of independent accesses are left out.
        stop_on_failure: Stop at the first failure; else go on, and keep one of each kind.
        max_steps: A run with more steps is a failure of kind ``"livelock?"``.
        level: Where tasks may be switched. ``"free"``: at every await that really yields, to
            any task that can run, as trio's documentation allows. ``"batch"``: all tasks that can
            run have a turn before any has another, in any order. ``"stock"``: in the order in
            which they were woken or in its reverse, as trio's loop has it today.
            ``"contract"``: also before each operation that trio documents as a checkpoint and
            that yields, if at all, only after it has acted, such as ``Lock.acquire``.
        timers: When deadlines may pass. ``"idle"``: when nobody can run, as if steps took no time.
            ``"any"``: at any time, as if tasks that could run were slow; so time-outs, retries
            and expiry race with everything else. The clock jumps to the deadline, and never back.
        isolated: Give each schedule a run of trio's loop to itself. Without, many share one as long
            as none fails or leaves anything behind, and the steps are made by a loop that leaves
            out what trio's does between two of them; that is several times faster. A `RunVar` that
            is set counts as left behind; what a failure is run again for is isolated.
        sometimes: Labels that some schedule has to reach; see `aspf.race.sometimes`.
        minimise: At the end look for the schedules with the fewest context switches that fail
            in the same ways, and return the same; see `Minimal`. It takes at most 500 more runs
            for each. When *seconds* are over, it ends with the shortest so far, and says so.
        weakest: At the end look for the failures at the weaker levels too, in 200 schedules at
            most for each level, until one can't show them; see `Failure.level`. When *seconds*
            are over, each level is given one schedule only.
        progress: Called between two runs, about ten times a second; what it raises ends the
            exploration.
        jobs: How many processes to use. The report is the same as of one. *program* must be one
            that other processes can import: a function at the top level of a module.
        resume: A file to note in, every few seconds, what is left; if it exists, the exploration
            goes on where it ends, and reports the same as without interruption. It is removed
            when nothing is left. Only what *schedules* and *seconds* cut, or ctrl-C, leaves any.
            The part that was cut is run again, which is at most 1,000 schedules of each process
            (512 if they are drawn): give each go the time for more than that.
        directory: Where to keep the tokens of failures, such as ``".aspf"``. The next exploration
            of the program with the same *name*, *level*, *cancel* and *timers* replays them first,
            and if one still fails ends with that; it drops those that pass. (With
            ``stop_on_failure=False`` they are kept, and not tried first.) Long tokens become
            short: they stand for a file there. What can't be written is not kept.

    Returns:
        What was found. ``exhausted`` is true only if no schedule is left.

    Raises:
        NotDeterministic: The program used real I/O or threads, or did not repeat itself.
        TeardownStuck: The tasks of a failed schedule could not be cancelled.
        RuntimeError: Called from inside a trio program.
        ExplorationInterrupted: Ctrl-C; has what was found until then. The schedule that is running
            is run to its end first, unless ctrl-C comes again.
        WorkerDied: A process of several ended by itself.
        ValueError: An option is wrong; or *program* can't be imported, and *jobs* is more than 1;
            or *resume* names a file of another program, options or versions.

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
        >>> print(explore(lost_update, search="exhaustive", shared="cells"))
        ... # doctest: +ELLIPSIS
        lost_update: no failure in 4 schedules (exhaustive search, exhausted; level: free)
        holds: all 4 traces were run, a schedule for each; at level free, ...
        <BLANKLINE>
               2 x 2
               2 x 1
        <BLANKLINE>
    """
    name = safe_name(name_of_program(program) if name is None else name)
    limits = Limits(schedules, seconds, progress)
    steps = _at_least(1, "max_steps", max_steps)
    settings = Settings(cancel, steps, level, timers, isolated)
    plan = make_plan(search, seed, shared)
    order = Order(search, seed, shared, settings, stop_on_failure)
    sent = pickled(program, name) if _at_least(1, "jobs", jobs) > 1 else b""
    tally = _Tally(program, name, settings, sometimes)
    checkpoint = _checkpoint(resume, program, order)
    if checkpoint is not None:
        checkpoint.load(plan, tally.counts)
    kept = Kept(directory) if directory else None
    key = _key(program, name, settings, directory)
    again: tuple[Failure, int] | None = None
    findings: dict[Finding, int] = {}
    stopped_by = ""

    def take(done: Done) -> None:
        findings.update(done.findings)
        if not done.finished and done.stopped_by != "failure" and checkpoint is not None:
            checkpoint.save(plan, tally.counts)
        tally.add(done.counts)
        plan.count(plan.queue[0].part, done.counts.complete)
        if not done.finished:
            plan.learn(done.left)
            return
        plan.done(done.left, done.counts.runs)
        if checkpoint is not None:
            checkpoint.save_if_due(plan, tally.counts)

    with exploring(primitives=order.primitives), interruptible() as interrupts:

        def stop(part: Counts) -> str:
            interrupts.check()
            return limits.reached(tally.counts, part)

        try:
            tally.draw()  # what an earlier go has found
            if kept is not None and stop_on_failure:
                again = kept.first(
                    key,
                    lambda token: _still_fails(
                        program, name, token, limits, minimise=minimise, check=interrupts.check
                    ),
                )
                interrupts.check()
                stopped_by = "" if again is None else "failure"
            if jobs > 1 and not stopped_by:
                with Pool(jobs, sent, name, order) as pool:
                    stopped_by = run_parts(
                        plan, pool, tally.counts, limits=limits, interrupts=interrupts, take=take
                    )
                if stopped_by in {"seconds", "interrupted"}:
                    # Whatever else is known, in its order.
                    if checkpoint is not None:
                        checkpoint.save(plan, tally.counts)
                    for work in plan.queue:
                        if isinstance(work.result, Done):
                            findings.update(work.result.findings)
                            tally.add(work.result.counts)
                            plan.count(work.part, work.result.counts.complete)
                            plan.learn(work.result.left)
            while jobs == 1 and not stopped_by and plan.fill():
                searching = plan.search(plan.queue[0].part)
                done = run_part(
                    program,
                    searching,
                    settings,
                    stop,
                    examine=not tally.counts.runs,
                    stop_on_failure=stop_on_failure,
                )
                done.left = plan.leave(searching)
                take(done)
                stopped_by = done.stopped_by if not done.finished else ""
            if checkpoint is not None and again is None and stopped_by in {"", "failure"}:
                checkpoint.remove()
            if stopped_by != "interrupted":
                if weakest and again is not None:
                    again = _weakened(program, *again, order, limits, check=interrupts.check)
                elif weakest:
                    tally.weaken(order, interrupts.check, lambda: limits.time_is_over)
                if minimise:
                    tally.minimise(interrupts.check, lambda: limits.time_is_over)
        except KeyboardInterrupt:
            stopped_by = "interrupted"
    failures, schedules = tally.failures, tally.counts.complete
    if again is not None:
        failure, number = again
        failures = (replace(failure, schedule=number, kept=True), *failures)
        schedules += number
    if kept is not None:
        for failure in failures:
            kept.save(key, failure.token)
        failures = tuple(replace(each, token=kept.shorten(each.token)) for each in failures)
    exploration = Exploration(
        program=name,
        search=search,
        level=level,
        cancel=cancel,
        timers=timers,
        isolated=isolated,
        schedules=schedules,
        pruned=tally.counts.pruned,
        cancellations=tally.counts.cancellations,
        exhausted=plan.exhausted,
        failures=failures,
        outcomes=tally.outcomes,
        coverage=plan.coverage,
        findings=findings,
        stopped_by="" if plan.exhausted else stopped_by,
        interrupted_in=interrupts.where,
        enumerated=plan.enumerated,
        traces=plan.enumerated if plan.exhausted and plan.reduces else None,
        reached=tally.counts.reached,
    )
    if stopped_by == "interrupted":
        raise ExplorationInterrupted(exploration) from None
    return exploration


def check(
    program: Callable[[], Awaitable[object]],
    *,
    name: str | None = None,
    search: str = "portfolio",
    schedules: int = 10_000,
    seconds: float = math.inf,
    seed: int = 0,
    cancel: Cancel = "marked",
    shared: Literal["anything", "cells"] = "anything",
    stop_on_failure: bool = True,
    max_steps: int = 10_000,
    level: str = "free",
    timers: Timers = "idle",
    isolated: bool = True,
    sometimes: Iterable[str] = (),
    minimise: bool = False,
    weakest: bool = True,
    progress: Callable[[Progress], object] | None = None,
    require: Literal["no failure", "holds"] = "no failure",
    jobs: int = 1,
    resume: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Exploration:
    """Explore as `explore` does, and raise if any schedule fails.

    With ``require="no failure"`` what was explored must not fail; how much that was is in the
    result. With ``require="holds"`` it must have been everything, so that a program that has grown
    too large for its limits fails its test, and doesn't silently prove less. All else is as for
    `explore`.

    Returns:
        What was explored. Look at its ``verdict`` before you call it a proof.

    Raises:
        RaceFound: The report, with diagram and token; or a label was never reached.
        NotProven: No failure was found, and not everything was explored.
    """
    if require not in ("no failure", "holds"):
        raise ValueError(f"require={require!r}: expected 'no failure' or 'holds'")
    exploration = explore(
        program,
        name=name,
        search=search,
        schedules=schedules,
        seconds=seconds,
        seed=seed,
        cancel=cancel,
        shared=shared,
        stop_on_failure=stop_on_failure,
        max_steps=max_steps,
        level=level,
        timers=timers,
        isolated=isolated,
        sometimes=sometimes,
        minimise=minimise,
        weakest=weakest,
        progress=progress,
        jobs=jobs,
        resume=resume,
        directory=directory,
    )
    if exploration.verdict == "failed":
        raise RaceFound(str(exploration))
    if require == "holds" and exploration.verdict != "holds":
        raise NotProven(str(exploration))
    return exploration


def replay(
    program: Callable[[], Awaitable[object]],
    token: str,
    *,
    minimise: bool = False,
    directory: str | os.PathLike[str] | None = None,
) -> Failure | None:
    """Repeat one schedule.

    Args:
        program: The program that the token was made with.
        token: From `Failure.token` or `Outcome.token`.
        minimise: Look for a schedule with fewer context switches that fails in the same way.
        directory: Where long tokens are kept, as it was given to `explore`.

    Returns:
        How it fails; ``None`` if that schedule passes.

    Raises:
        ReplayDiverged: The program can't do what the token says.
        ValueError: The token is none, or stands for one that can't be found.
    """
    parsed = parse_token(token, directory)
    with exploring(primitives=parsed.level == "contract"):
        failure = _failure(program, parsed.name, _follow(program, parsed), minimise=minimise)
    if failure is None or not directory:
        return failure
    return replace(failure, token=Kept(directory).shorten(failure.token))


def record(
    program: Callable[[], Awaitable[object]],
    token: str,
    *,
    directory: str | os.PathLike[str] | None = None,
) -> Recording:
    """Repeat one schedule, failing or not, and keep all that happens in it.

    Args:
        program: The program that the token was made with.
        token: From `Failure.token` or `Outcome.token`.
        directory: Where long tokens are kept, as it was given to `explore`.

    Raises:
        ReplayDiverged: The program can't do what the token says.
        ValueError: The token is none, or stands for one that can't be found.
    """
    parsed = parse_token(token, directory)
    with exploring(primitives=parsed.level == "contract"):
        return _recording_of(parsed.name, _follow(program, parsed))


def _follow(program: Callable[[], Awaitable[object]], token: Token) -> _Run:
    if token.periods:
        return _retrace(program, token)
    settings = Settings(cancel_for(token.actions), level=token.level, timers="any")
    return _run_again(program, token.actions, settings, open_ended=token.open_ended)


def _key(
    program: Callable[..., object],
    name: str,
    settings: Settings,
    directory: str | os.PathLike[str] | None,
) -> str:
    """Say what a kept token is of: under other settings its schedule need not be one."""
    of = directory.key if isinstance(directory, Keyed) else f"{qualified_name(program)} {name}"
    return f"{of} {settings.level} {settings.cancel} {settings.timers}"


def _still_fails(
    program: Callable[[], Awaitable[object]],
    name: str,
    token: str,
    limits: Limits,
    *,
    minimise: bool,
    check: Callable[[], object],
) -> Failure | None:
    check()
    run = _follow(program, parse_token(token))
    return _failure(
        program, name, run, minimise=minimise, check=check, is_over=lambda: limits.time_is_over
    )


def _weakened(
    program: Callable[[], Awaitable[object]],
    failure: Failure,
    number: int,
    order: Order,
    limits: Limits,
    *,
    check: Callable[[], object],
) -> tuple[Failure, int]:
    """Look for a failure at weaker levels that no search has found this time."""
    kind = failure.kind, failure.summary
    turns = [task for task, _ in failure.recording.turns]
    for _, level, below in weakest_levels(
        program, {kind: turns}, order, check, lambda: limits.time_is_over
    ):
        failure = replace(failure, level=level, below=below)
    return failure, number


def _failure(
    program: Callable[[], Awaitable[object]],
    name: str,
    run: _Run,
    *,
    minimise: bool,
    check: Callable[[], object] = lambda: None,
    is_over: Callable[[], bool] = lambda: False,
) -> Failure | None:
    """Say how a schedule fails that was repeated, if it does."""
    schedule = run.schedule
    if schedule.verdict is None:
        return None
    failure = _diagnose(name, 1, run)
    if not minimise:
        return failure
    if is_over():
        return replace(failure, minimal=NOT_TRIED)
    settings = Settings(
        cancel_for(schedule.actions),
        _ANY,
        schedule.level,
        "any" if schedule.time_was_early else "idle",
    )
    kind = failure.kind, failure.summary
    found = _minimise(program, kind, schedule.actions, settings, check=check, is_over=is_over)
    return failure if found is None else _minimised(program, failure, found, settings)


def _retrace(program: Callable[[], Awaitable[object]], token: Token) -> _Run:
    """Follow a symbolic token, in a program that may have changed since."""
    retrace = Retrace(token.periods, open_ended=token.open_ended)
    settings = Settings(
        cancel="each"
        if any(p.kind == "cancel" and not p.scope for p in token.periods)
        else "marked",
        level=token.level,
        timers="any",
    )
    # What goes another way must end too; who has raised the limit has more steps in the token.
    steps = 10 * max(settings.max_steps, sum(period.times for period in token.periods))
    run = _watch(program, retrace, replace(settings, max_steps=steps))
    if token.open_ended and retrace.is_complete and run.schedule.verdict == "pruned":
        run.schedule.verdict = "livelock?"
    raise_if_diverged(retrace, run.schedule)
    return run


class _Tally:
    """Counts the runs of an exploration, and draws the first of each way of failing."""

    def __init__(
        self,
        program: Callable[[], Awaitable[object]],
        name: str,
        settings: Settings,
        labels: Iterable[str],
    ) -> None:
        self.counts = Counts(reached=dict.fromkeys(labels, 0))
        self._program = program
        self._name = name
        self._settings = settings
        self._failures: dict[Kind, Failure] = {}
        # Schedules that were found to be shorter than any that was seen.
        self._shorter: dict[Kind, Sequence[int]] = {}
        # The weakest level that has shown a failure, and the one below.
        self._levels: dict[Kind, tuple[str, Below | None]] = {}

    def add(self, counts: Counts) -> None:
        """Add the runs of the part that comes next."""
        self.counts.merge(counts)
        self.draw()

    def draw(self) -> None:
        """Draw the first of each way of failing that was not drawn yet."""
        for kind in self.counts.failures:
            if kind not in self._failures:
                self._failures[kind] = self._draw(kind)

    def weaken(
        self, order: Order, check: Callable[[], object], is_over: Callable[[], bool]
    ) -> None:
        """Look for the failures at weaker levels."""
        failures = {kind: self.counts.endings[kind].actions for kind in self._failures}
        for kind, level, below in weakest_levels(self._program, failures, order, check, is_over):
            self._levels[kind] = level, below

    def minimise(self, check: Callable[[], object], is_over: Callable[[], bool]) -> None:
        """Look for shorter schedules than those that were seen."""
        program, settings = self._program, self._settings
        for kind, ending in self.counts.endings.items():
            if is_over():
                if kind in self._failures:
                    self._failures[kind] = replace(self._failures[kind], minimal=NOT_TRIED)
                continue
            start = ending.actions if kind in self._failures else ending.shortest[2]
            found = _minimise(program, kind, start, settings, check=check, is_over=is_over)
            if found is not None and kind in self._failures:
                self._failures[kind] = _minimised(program, self._failures[kind], found, settings)
            elif found is not None:
                self._shorter[kind] = found.actions

    @property
    def failures(self) -> tuple[Failure, ...]:
        """One for each way of failing."""
        return tuple(map(self._failure, self._failures))

    def _failure(self, kind: Kind) -> Failure:
        level, below = self._levels.get(kind, (self._settings.level, None))
        count = self.counts.endings[kind].count
        return replace(self._failures[kind], count=count, level=level, below=below)

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """What the program returned."""
        return {
            kind[1]: Outcome(
                ending.count,
                ending.first,
                self._token(ending.actions),
                self._token(self._shorter.get(kind, ending.shortest[2])),
            )
            for kind, ending in self.counts.endings.items()
            if kind[0] == "passes"
        }

    def _token(self, actions: Sequence[int]) -> str:
        return format_token(self._name, actions, level=self._settings.level)

    def _draw(self, kind: Kind) -> Failure:
        ending = self.counts.endings[kind]
        run = _run_again(
            self._program, ending.actions, self._settings, open_ended=kind[0] == "livelock?"
        )
        now = kind_of(run.schedule)
        if now != kind:
            raise NotDeterministic(
                f"the program did not repeat itself: a schedule ended in {kind[0]!r} ({kind[1]}), "
                f"and when it was run again in {now[0]!r} ({now[1]}); look for "
                "state that outlives a run, real time or random numbers"
            )
        return _diagnose(self._name, ending.first, run)


class _Run(NamedTuple):
    """A schedule with everything recorded."""

    schedule: Schedule
    trace: Trace
    chooser: Recall | Retrace


def _checkpoint(
    path: str | os.PathLike[str] | None, program: Callable[..., object], order: Order
) -> Checkpoint | None:
    if path is None:
        return None
    options = asdict(order)
    return Checkpoint(path, program, {**options, **options.pop("settings")})


def _run_again(
    program: Callable[[], Awaitable[object]],
    actions: Sequence[int],
    settings: Settings,
    *,
    open_ended: bool,
) -> _Run:
    """Run one schedule with everything recorded."""
    # A recording that was cut is cut again at the same step; any other has one step to spare, in
    # which `Repeat` complains.
    steps = len(actions) + (not open_ended)
    return _watch(program, Recall(actions), replace(settings, max_steps=steps))


def _watch(
    program: Callable[[], Awaitable[object]], chooser: Recall | Retrace, settings: Settings
) -> _Run:
    trace = Trace()
    schedule = Schedule(program, chooser, settings, watcher=trace)
    schedule.run()
    trace.close()
    return _Run(schedule, trace, chooser)


def _minimise(
    program: Callable[[], Awaitable[object]],
    kind: Kind,
    actions: Sequence[int],
    settings: Settings,
    *,
    check: Callable[[], object],
    is_over: Callable[[], bool],
) -> Found | None:
    """Look for a schedule with fewer switches that ends in the same way.

    Before each run *check* is called, which may raise; when the time *is over*, the first is the
    only one.
    """
    # What is found without an end may be as long, what isn't need not be much longer.
    longest = len(actions)
    if kind[0] != "livelock?":
        longest = min(settings.max_steps, 2 * longest + 100)
    settings = replace(settings, max_steps=longest)

    def run(chooser: Follow) -> Kind:
        check()
        schedule = Schedule(program, chooser, settings)
        try:
            schedule.run()
        except (NotDeterministic, TeardownStuck) as error:
            # Where no search has been yet, things may be done that none has met.
            return "refused", str(error)
        return kind_of(schedule)

    replays = max(20, min(500, 300_000 // len(actions)))
    return minimise_schedule(actions, run, replays=replays, is_over=is_over)


def _minimised(
    program: Callable[[], Awaitable[object]], failure: Failure, found: Found, settings: Settings
) -> Failure:
    """Make the failure anew from a schedule with fewer switches."""
    run = _run_again(program, found.actions, settings, open_ended=failure.kind == "livelock?")
    minimal = minimal_of(found, failure.recording.tasks)
    again = _diagnose(failure.recording.program, failure.schedule, run)
    recording = replace(again.recording, switches=tuple(map(str, minimal.switches)))
    return replace(again, count=failure.count, recording=recording, minimal=minimal)


def _diagnose(name: str, number: int, run: _Run) -> Failure:
    recording = _recording_of(name, run)
    schedule = run.schedule
    lines = [recording.summary]
    if isinstance(schedule.error, NotLinearizable):
        lines = str(schedule.error).splitlines()
    elif recording.verdict == "deadlock":
        lines = ["deadlock: nobody can run, and no deadline is pending"]
        lines += (f"  {sleeper}" for sleeper in schedule.sleepers)
        lines += recording.cycle
    elif recording.verdict == "task left":
        lines = ["task left: the main task has ended, and not all that the program started"]
        lines += (f"  {task}" for task in schedule.left)
    if schedule.error is not None:
        lines += (f"  after {in_one_line(each)}" for each in behind(schedule.error))
    diagram = recording.diagram
    return Failure(
        kind=recording.verdict,
        summary=recording.summary,
        error=schedule.error,
        schedule=number,
        count=1,
        token=recording.token,
        diagram="\n".join([diagram, *lines, ""] if diagram else [*lines, ""]),
        recording=recording,
        level=schedule.level,
    )


def _recording_of(name: str, run: _Run) -> Recording:
    schedule, trace, chooser = run
    verdict, summary = kind_of(schedule)
    return Recording(
        program=name,
        token=format_symbols(
            name, chooser.steps, open_ended=verdict == "livelock?", level=schedule.level
        ),
        verdict=verdict,
        summary=summary,
        tasks={strand.number: strand.name for strand in schedule.strands},
        events=tuple(trace.events),
        turns=tuple(trace.turns),
        waits=trace.waits,
    )


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise ValueError(f"{name}={value!r}: expected at least {least}")
    return value


def name_of_program(program: Callable[..., object]) -> str:
    """Return what reports call a program that was given no name."""
    while isinstance(program, functools.partial):
        program = program.func
    return str(getattr(program, "__name__", type(program).__name__))
