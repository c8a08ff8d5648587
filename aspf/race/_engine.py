"""One schedule: trio's own run loop, with every choice in our hands.

This file and ``_runner.py`` are the only ones that touch trio's internals.
``tests/race/test_engine.py`` checks each of them by name and says plainly what a new trio has
changed.

trio's run loop is a generator, ``unrolled_run``. It yields whenever a real loop would wait for
I/O, then takes a batch, ``list(runner.runq)``, clears the queue and runs the batch. A `Schedule`
builds a ``Runner`` of its own and drives the generator. Whenever it yields, the schedule takes out
of the queue who became runnable in the last step, and puts in the one task that the search picks:
so each batch is that task. There is no I/O manager, no thread and no signal; time is a number that
jumps to the next deadline when nothing else can happen. So it is exact that a deadlock is: nothing
to run, no deadline, nobody waiting for idleness.

Schedules that share a run (``isolated=False``, see ``_series.py``) are stepped by `spin` instead: the
body of trio's loop without what is between two steps.

Most steps need no thought: some tasks can run, and one of them does. `Schedule.next_task` is for
these, `Schedule._next_with_care` for all others. A search that doesn't ask what was touched
(`Chooser.follows_steps`) isn't told, and is asked only where there is a choice.

What may happen next is an *action*, an int:

- A task runs from its scheduling point to its next. Tasks are numbered in the order of their
  creation, the main task is 0. Two tasks are trio's own and never a choice, they go first: the one
  that the run begins and ends with, and that of `TrioToken.run_sync_soon`. System tasks that the
  program starts are tasks like all others; trio cancels them when the main task has ended.
- A scope is cancelled, which happens at most once in a run.
- `TIME`: the clock jumps to the next deadline, which passes, or who waited for idleness wakes.
  Where neither is to be expected and only a cancellation could help, it is the deadlock. Of several
  deadlines at one moment one passes first; which, is an action for each (see ``_timers.py``).

The clock jumps when nobody can run. With ``timers="any"`` it may also do so while tasks can run,
which were slow then. It never goes back, and it stops at every deadline that somebody notices. It
may not overtake a task that can run more than `OVERTAKINGS` times before that task has run: else a
program with a task that does something every second would have infinitely many schedules.

A cancellation acts on a `trio.CancelScope`: one that the program has marked with `may_cancel`, or
one that is put around each task when it is spawned (``cancel="each"``); that of the main task is
around the whole program, but for what `Schedule.main_scope` leaves out. A scope's *members* are the
tasks that stand inside it: the one that entered it, and the tasks in nurseries that were opened
inside it, and so on. What is offered is enough to reach every behaviour, and no more where that is
easy to prove:

- A scope that has not been entered, or has been left, isn't cancelled: nobody could notice. So a
  task that has not run yet is offered at its first checkpoint. Nor is a scope inside another one
  that is cancelled already: whoever leaves it, leaves the other one as well.
- A task that has yet to call ``task_status.started()`` is left alone: its death would be its
  starter's error. A scope that it has marked itself is not: it catches what it lets in.
- A member that sleeps is cancelled where it sleeps: its abort function runs, and it becomes
  runnable. Others may run between that and its own clean-up, hence the action is the
  cancellation alone.
- A member that is runnable (woken, or between two accesses) notices only when it resumes. If it is
  the only one, nobody else can see that the scope was cancelled. When precisely makes no
  difference, so the action is the cancellation together with the task's next step. "Woken, then
  cancelled before it ran" is this one, "cancelled in its sleep" the one before; they are different
  bugs.
- A scope with more members takes them all along, asleep or not: the cancellation alone. Who starts
  a task in a nursery inside it, between the cancellation and the next step of the only member,
  finds what he would have found before: the child is cancelled before its first step either way.
- A shielded sleeper notices nothing until something wakes it. A scope is offered when one of its
  members is runnable, or asleep with no shield in between. If the only member runs on, and its
  step ends inside a shield, nothing was delivered, and the run is given up: the one in which the
  cancellation comes a step later is the same, as long as nobody asks the scope itself whether it
  was cancelled. If the step ends outside of the scope, nothing was delivered either; that run is
  kept, since the program may ask.
- Scopes inside one another are offered each for itself, for they are left in different places.
"""

from __future__ import annotations

import gc
import math
import types
import warnings
from contextlib import nullcontext
from contextvars import copy_context
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, final

import trio
from sniffio import thread_local as current_library
from trio._core import _run
from trio._core._traps import CancelShieldedCheckpoint

from aspf._errors import NotDeterministic, ReplayDiverged, TeardownStuck
from aspf.race import _hook
from aspf.race._actions import TIME, cancellation, is_time, scope_of, task_of
from aspf.race._cell import Lifetime
from aspf.race._footprint import NOTHING, OF_A_THING, Footprint, touch_of
from aspf.race._frames import is_library, is_ours, place_of
from aspf.race._periods import plain
from aspf.race._primitives import number_of_outsider
from aspf.race._raised import leaves_of
from aspf.race._record import name_of
from aspf.race._runner import Clock, close, drive, make_runner, spin
from aspf.race._timers import Deadlines, is_noticed, is_quiet, is_shielded, members, outermost
from aspf.race._watch import unrest_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence

    from aspf.race._cell import Cell
    from aspf.race._settings import Settings
    from aspf.race._timers import Timer
    from aspf.race._watch import Watched

__all__ = ("Chooser", "Schedule", "Sleeper", "Strand")

_NONE: Final[frozenset[int]] = frozenset()
# A teardown that takes longer than this isn't going to end.
TEARDOWN_STEPS: Final = 10_000
# trio's first task, and the one for `run_sync_soon`.
TASKS_OF_TRIO: Final = 2
# How many steps of trio's own tasks there may be between two of the program's.
TRIOS_STEPS: Final = 1000
# And how many when nobody else can do anything, before that is taken for an endless loop.
TRIOS_STEPS_ALONE: Final = 10_000
# How many jumps of the clock a task that can run may be late.
OVERTAKINGS: Final = 3


class Operation(NamedTuple):
    """The access that a task has announced, and will do when it is resumed."""

    place: Cell[Any] | Lifetime
    writes: bool
    condition: Callable[[Any], bool] | None


class Sleeper(NamedTuple):
    """A task that a deadlock left asleep, and what it waits for."""

    number: int
    name: str
    what: str
    where: str = ""  # "file.py:12"; empty where a cell's name says more
    awaits_children: bool = False  # in a nursery, hence never the cause of a deadlock

    def __str__(self) -> str:
        return f"{self.name} waits for {self.what}" + (f" ({self.where})" if self.where else "")


class Left(NamedTuple):
    """A task that is still there when the main task has ended."""

    name: str
    what: str  # it is at, in words
    where: str  # "file.py:12"; empty if it has no frame of the program
    started_at: str = ""  # likewise; only known of a schedule that is drawn

    def __str__(self) -> str:
        started = f", started at {self.started_at}," if self.started_at else ""
        return f"{self.name}{started} {self.what}" + (f" ({self.where})" if self.where else "")


class Chooser(Protocol):
    """What a schedule asks of a search."""

    @property
    def follows_steps(self) -> bool:
        """Whether it wants to be asked about every step, and to know what each has touched.

        Else it is asked only where there is a choice. It doesn't change during a schedule.
        """

    def pick(self, actions: list[int], schedule: Schedule) -> int | None:
        """Choose one of *actions* (never empty); ``None`` gives the run up as redundant."""

    def finish(self, schedule: Schedule) -> None:
        """The run has ended; it is torn down next."""


class Watcher(_hook.Recorder, Protocol):
    """A recorder that is told by the schedule whose step it is."""

    def step(self, strand: Strand) -> None:
        """The task runs next."""

    def stop(self, strand: Strand, situation: str) -> None:
        """The task's step has ended; *situation* is empty if there is nothing to say of it."""

    def mark(self, strand: Strand, text: str) -> None:
        """Something happens to a task that isn't running."""

    def time(self, now: float) -> None:
        """The clock has jumped."""

    def deadlock(self, schedule: Schedule) -> None:
        """Nobody can run any more; the tasks are still where they wait."""


class Mark(NamedTuple):
    """A scope that may be cancelled."""

    strand: Strand  # who has entered it, or will
    number: int  # among the marked scopes of that task, from 1; 0 is around the task
    scope: trio.CancelScope
    where: str  # "file.py:12", of the mark; empty for a task

    @property
    def action(self) -> int:
        """The action that cancels it."""
        return cancellation(self.strand.number, self.number)


@final
class Strand:
    """One task of the program, as a schedule knows it."""

    __slots__ = (
        "_maker",
        "_name",
        "_nth",
        "_origin",
        "_strands",
        "inside",
        "made",
        "marks",
        "number",
        "operation",
        "parent",
        "pending",
        "point",
        "service",
        "sleeps_on",
        "task",
    )

    def __init__(
        self,
        task: trio.lowlevel.Task,
        parent: Strand | None,
        strands: list[Strand],
        maker: Strand | None,
        nth: int,
    ) -> None:
        self.task = task
        # In the order of their creation.
        self.number = len(strands)
        # In whose nursery it was started: nobody's is the main task, whose are the system tasks.
        self.parent = parent
        # The name of the system task that it is, or lives under: those end after the main task.
        # Empty for one that runs a function of trio's; ``None`` for all other tasks.
        self.service: str | None = None if parent is None else parent.service
        # Who started it, and as which of the things that it made.
        self._maker = maker
        self._nth = nth
        self._origin = 0
        self.made = 0
        self._strands = strands
        self._name = ""
        self.operation: Operation | None = None
        # The access that it will begin with when it is resumed, where that is known of a primitive;
        # and at what point it stands, if it has a name.
        self.pending: Footprint | None = None
        self.point = ""
        # The primitives that it writes in each of its steps; entered one inside the other.
        self.inside: tuple[object, ...] = ()
        # The primitive that it sleeps on, and whether waking it writes that.
        self.sleeps_on: tuple[object, bool] | None = None
        # Invariant: the k-th one has number k; the first is around the task itself, if that may be
        # cancelled, else a place is left for it.
        self.marks: list[Mark | None] = [None]

    @property
    def name(self) -> str:
        """What diagrams call it; made when first asked for, since most runs are never drawn."""
        if not self._name:
            self._name = "main"
            if self.number:
                name = name_of(self.task)
                same = sum(name_of(other.task) == name for other in self._strands[1 : self.number])
                self._name = f"{name} #{same + 1}" if same else name
        return self._name

    @property
    def origin(self) -> int:
        """A number that it has in every schedule in which it is started, unlike `number`."""
        chain = []
        strand: Strand | None = self
        while strand is not None and not strand._origin:
            chain.append(strand)
            strand = strand._maker
        for strand in reversed(chain):
            strand._origin = origin_of(strand._maker, strand._nth)
        return self._origin

    @property
    def is_alive(self) -> bool:
        """Whether the task has yet to end."""
        return self.task in self.task._runner.tasks

    @property
    def is_queued(self) -> bool:
        """Whether trio takes the task for runnable; one that waits for a cell's value is, too."""
        return self.task._next_send_fn is not None

    def expired(self, now: float) -> trio.CancelScope | None:
        """The scope whose deadline has passed and that cancels the task, if there is one."""
        status: _run.CancelStatus | None = self.task._cancel_status
        while status is not None and status.effectively_cancelled:
            # trio delivers a cancellation in a checkpoint by a scope whose deadline is -inf.
            if status._scope._cancel_called and -math.inf < status._scope._deadline <= now:
                return status._scope
            status = status.parent
        return None

    def holds(self) -> bool:
        """Tell whether the condition that the task waits for holds, or will never be asked."""
        operation = self.operation
        assert operation is not None
        assert operation.condition is not None
        place = operation.place
        assert not isinstance(place, Lifetime)
        if self.task._cancel_status.effectively_cancelled or _is_freed(place):
            return True
        try:
            return bool(operation.condition(place._value))
        except Exception:  # noqa: BLE001 - `Schedule.turn` asks again, and raises it in the task
            return True


@final
class Schedule:
    """Runs a program once. It is the hook of cells and primitives at the same time."""

    # CPython keeps as many fields in a dict of its own for each object, which takes time to make.
    __slots__ = (
        "_announced",
        "_any_time",
        "_batch",
        "_by_task",
        "_cancel",
        "_cancel_each",
        "_cancelled_others",
        "_chooser",
        "_clock",
        "_deadlines",
        "_follows_steps",
        "_has_batches",
        "_is_amid_a_batch",
        "_is_concluded",
        "_is_interrupted",
        "_is_lean",
        "_is_plain",
        "_known_cancelled",
        "_last_operation",
        "_made",
        "_marks",
        "_max_steps",
        "_may_stay",
        "_needs_care",
        "_overtaken",
        "_pick",
        "_places",
        "_queue",
        "_reads",
        "_ready",
        "_runner",
        "_running",
        "_settings",
        "_started",
        "_stepped",
        "_teardown_steps",
        "_things",
        "_thread",
        "_touched",
        "_trios",
        "_trios_began",
        "_trios_steps",
        "_undelivered",
        "_unknown",
        "_waiting",
        "_watched",
        "_watcher",
        "_writers",
        "_writes",
        "actions",
        "error",
        "is_calling",
        "labels",
        "left",
        "level",
        "program",
        "result",
        "sleepers",
        "started_at",
        "strands",
        "time_was_a_choice",
        "time_was_early",
        "unrest",
        "verdict",
    )

    def __init__(
        self,
        program: Callable[[], Awaitable[object]],
        chooser: Chooser,
        settings: Settings,
        *,
        watcher: Watcher | None = None,
        lean: bool = False,
    ) -> None:
        self.program = program
        self.level = settings.level
        # Where each task was started, while watched.
        self.started_at: dict[trio.lowlevel.Task, str] = {}
        self._chooser = chooser
        self._settings = settings
        self._max_steps = settings.max_steps
        self._any_time = settings.timers == "any"
        self._cancel_each = settings.cancel == "each"
        self._has_batches = settings.level in ("stock", "batch")
        self._watcher = watcher
        self._is_lean = lean
        # Whether there is nothing to be done about a step but to choose it, for most of them.
        self._is_plain = not (self._has_batches or self._any_time or watcher is not None)
        self._stepped: Strand | None = None  # only while somebody watches
        self._writers: dict[Cell[Any] | Lifetime, Strand] = {}  # the last ones, likewise
        self._thread = get_ident()
        self._is_interrupted = False
        self._clock = Clock()
        self._deadlines = Deadlines(lambda: self._running.number if self._running else 0)
        self._runner = make_runner(
            self, self._clock, self._deadlines, watched=watcher is not None, lean=lean
        )
        self._queue = self._runner.runq
        self._begin()

    def _begin(self) -> None:
        """Set all that is of one run of the program."""
        # Invariant: true while `next_task` may have more to think of than who can run.
        self._needs_care = not self._is_plain
        self._follows_steps, self._pick = self._chooser.follows_steps, self._chooser.pick
        self.actions: list[int] = []
        self.strands: list[Strand] = []
        # What the program has called `sometimes` with, and whether it ever held.
        self.labels: dict[str, bool] = {}
        # Invariant: true until the one cancellation has happened, unless there can't be any.
        self._cancel = self._settings.cancel != "never"
        self._marks: list[Mark] = []  # without those that were left
        self._watched: list[Watched] = []
        self._by_task: dict[trio.lowlevel.Task, Strand | None] = {}
        # Those of trio's own tasks that can run.
        self._trios: list[trio.lowlevel.Task] = []
        # Invariant: a queued task's number is in exactly one of these two lists.
        self._ready: list[int] = []
        self._waiting: list[int] = []
        # Who is left of the batch; whether any of it has run is `_is_amid_a_batch`.
        self._batch: list[int] = []
        self._is_amid_a_batch = False
        self._touched: list[int] = []
        self._started: list[int] = []
        # What the action has accessed of the primitives so far.
        self._reads: set[int] = set()
        self._writes: set[int] = set()
        # Numbers by address. Whatever is made at the address of something that is gone gets its own.
        self._things: dict[int, int] = {}
        self._places: dict[Cell[Any] | Lifetime, int] = {}
        # How the run failed: "deadlock", "livelock?", "leak", "task left" or "error"; or "pruned".
        # Invariant: once set, nothing is picked or recorded any more; the run is torn down.
        self.verdict: str | None = None
        self.error: BaseException | None = None
        self.result: object = None
        # What was not at rest in the end, in words.
        self.unrest: Sequence[str] = ()
        self.sleepers: tuple[Sleeper, ...] = ()
        self.left: tuple[Left, ...] = ()
        # Whether deadlines could pass, or did pass, while tasks could run.
        self.time_was_a_choice = self.time_was_early = False
        self._running: Strand | None = None
        self._announced: Operation | None = None
        self._last_operation: Operation | None = None
        self._unknown = self._cancelled_others = False
        # The tasks that were cancelled, as far as was noted.
        self._known_cancelled: set[int] = set()
        # How often the clock has jumped since a task could run, by task.
        self._overtaken: dict[int, int] = {}
        self._undelivered: Mark | None = None
        self._made = 0  # by nobody in particular
        self._teardown_steps = 0
        self._is_concluded = False
        # The names of the system tasks that may outlive the main task.
        self._may_stay: tuple[str, ...] = ()
        # Before which action, and how many since.
        self._trios_began, self._trios_steps = -1, 0
        # Whether in a ``"livelock?"`` nobody could do anything but `TrioToken.run_sync_soon`.
        self.is_calling = False

    # -- running ---------------------------------------------------------------------------

    def run(self) -> None:
        """Run the program to its end, or to ours; see `renew` for what else that may be.

        Raises:
            NotDeterministic: The program did what no schedule can repeat.
            TeardownStuck: Its tasks could not be brought to an end.
        """
        _hook.current, _hook.recorder = self, self._watcher
        library, current_library.name = current_library.name, "trio"
        loop = None
        collecting = gc.isenabled()
        # The collector would finalise abandoned async generators at a moment of its own choice.
        gc.disable()
        try:
            if self._is_lean:
                spin(self._runner, self.program)
            else:
                loop = _run.unrolled_run(
                    self._runner, self.program, (), host_uses_signal_set_wakeup_fd=True
                )
                drive(loop, self._runner)
        except BaseException as error:
            self._abandon(loop)
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise error.__cause__ from None
            if self._is_interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            _hook.current = _hook.recorder = None
            current_library.name = library
            if collecting:
                gc.enable()
        self._conclude()

    @property
    def is_over(self) -> bool:
        """Whether it has failed or was given up, and is only torn down any more."""
        return self.verdict is not None or self.error is not None

    def interrupt(self) -> None:
        """End at the next choice; see `_interrupts`."""
        self._is_interrupted = True
        self._max_steps = 0

    def conclude_early(self, result: object) -> None:
        """End before trio's run does; then the main task ends, or goes on after `renew`."""
        self._is_concluded = True
        self._chooser.finish(self)
        self._take_result(result)

    def renew(self) -> bool:
        """Begin another run of the program; the main task goes on with it at once, a step less.

        Returns:
            False if the program has set a context variable: it must not find that in its next run,
            and a task gets another context between two steps only. It is to yield then.
        """
        task, clean = _run.GLOBAL_RUN_CONTEXT.task, self._runner.system_context
        # The strands refer to it, hence the collector would have to find out that nobody else does.
        self.strands.clear()
        self._begin()
        self._clock.now = 0.0
        self._deadlines.forget()
        now = copy_context()
        if (now or clean) and (
            len(now) != len(clean) or any(now[var] is not clean.get(var, clean) for var in now)
        ):
            task.context = clean.copy()
            return False
        self._running = self._meet(task)
        if self._follows_steps:
            self._choose([0])  # nothing else could be done first
        self.actions.append(0)
        return True

    def _conclude(self) -> None:
        if self._is_concluded:
            return
        outcome = self._runner.main_task_outcome
        assert outcome is not None
        error = getattr(outcome, "error", None)
        if self._runner.main_task is None:  # trio could not make a task of the program
            assert error is not None
            raise error
        if self._is_interrupted or (
            error is not None and any(isinstance(e, KeyboardInterrupt) for e in leaves_of(error))
        ):
            raise KeyboardInterrupt
        if isinstance(self.error, NotDeterministic | ReplayDiverged):
            raise self.error
        if self.verdict is None:
            self._chooser.finish(self)
            if self.error is not None:  # it has failed in the very last step
                self.verdict = "error"
            elif error is not None:
                self.verdict, self.error = "error", error
            else:
                self._take_result(getattr(outcome, "value", None))

    def _take_result(self, result: object) -> None:
        self.result = result
        if self._watched:
            self.unrest = list(filter(None, map(unrest_of, self._watched)))
            self.verdict = "leak" if self.unrest else None

    def _abandon(self, loop: Generator[float, Any, None] | None) -> None:
        """Drop a run that can't go on, without a word from trio or the interpreter."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if loop is not None:
                loop.close()
            for task in dict.fromkeys((*self._by_task, *self._runner.tasks, *self._queue)):
                for nursery in task._child_nurseries:
                    nursery._children.clear()
                close(task.coro)

    # -- trio's run queue ------------------------------------------------------------------

    def _collect(self) -> None:
        """Take out of trio's queue who has become runnable."""
        queue = self._queue
        while queue:
            task = queue.popleft()
            strand = self._by_task.get(task)
            if strand is None:
                strand = self._meet(task)
                if strand is None:
                    self._trios.append(task)
                    self._needs_care = True
                    continue
                if self._follows_steps:
                    self._started.append(strand.number)
            elif strand is not self._running:
                if self._follows_steps:
                    self._touched.append(strand.number)
                    if strand.sleeps_on is not None:
                        self.access(*strand.sleeps_on)
            elif self._announced is not None:
                strand.operation, self._announced = self._announced, None
                if strand.operation.condition is not None:
                    self._waiting.append(strand.number)
                    self._needs_care = True
                    continue
            self._ready.append(strand.number)

    @property
    def runnable(self) -> int:
        """How many tasks trio would call runnable."""
        return len(self._queue) + len(self._trios) + len(self._ready) + len(self._waiting)

    def _meet(self, task: trio.lowlevel.Task) -> Strand | None:
        """Register a task that was just spawned; ``None`` for one of trio's own."""
        nursery, known = task._parent_nursery, self._by_task
        parent = None if nursery is None else known.get(nursery._parent_task)
        is_system = False
        if parent is None and task is not self._runner.main_task:
            is_system = nursery is not None and nursery is self._runner.system_nursery
            if not is_system:
                known[task] = None
                return None
            parent = self.strands[0]
        strand = known[task] = Strand(task, parent, self.strands, self._running, self._count())
        self.strands.append(strand)
        if is_system:
            strand.service = name_of(task) if _is_of_the_program(task) else ""
            _wrap(task, self._without_errors(task.coro))
        if self._cancel_each and self._cancel:
            scope = self._mark_task(strand)
            if strand.number > 0 or not self._is_lean:  # see `main_scope`
                _wrap(task, _cancellable(task.coro, scope))
        return strand

    async def _without_errors(self, coro: Awaitable[Any]) -> None:
        """Run a system task. What it raises is no error of trio's, but the program's failure."""
        try:
            await coro
        except BaseException as error:
            rest: BaseException | None = error
            if isinstance(error, BaseExceptionGroup):
                rest = error.split(trio.Cancelled)[1]
            if not isinstance(rest, Exception):  # but a cancellation, or what ends everything
                raise
            self.fail(rest)

    def _mark_task(self, strand: Strand) -> trio.CancelScope:
        scope = trio.CancelScope()
        mark = strand.marks[0] = Mark(strand, 0, scope, "")
        self._marks.append(mark)
        self._needs_care = True
        return scope

    # -- choosing --------------------------------------------------------------------------

    def next_task(self) -> trio.lowlevel.Task:
        """Take actions until one is a step of a task, which is to run now."""
        if self._queue:
            self._collect()
        ready, actions = self._ready, self.actions
        if (
            self._needs_care
            or not ready
            or self._deadlines.pending
            or len(actions) >= self._max_steps
        ):
            return self._next_with_care()
        # What most steps are: there is nothing to be thought of but who can run.
        if self._follows_steps:
            action = self._choose(sorted(ready))
            if action is None:
                return self._next_with_care()
            self._forget_the_last_action()
            ready.remove(action)
        elif len(ready) == 1:
            action = ready.pop()
        else:
            action = self._pick(sorted(ready), self)
            assert action is not None  # only who follows gives up
            ready.remove(action)
        actions.append(action)
        strand = self._running = self.strands[action]
        if strand.operation is not None or strand.inside:
            self._begin_access(strand)
        return strand.task

    def _next_with_care(self) -> trio.lowlevel.Task:
        self._needs_care = (
            not self._is_plain or bool(self._trios or self._waiting or self._marks) or self.is_over
        )
        while True:
            if self._deadlines.pending:
                self._deadlines.expire(self._clock.now)
            if self._queue:
                self._collect()
            if self._trios:
                if self._runner.main_task_outcome is not None:
                    self._look_for_tasks()
                orphaned = self.verdict is not None and any(self._orphans())
                if not orphaned and self._trios_may_go_first():
                    self._running = None
                    return self._trios.pop(0)
            if self.verdict is None:
                self._look_back()
            if self.verdict is not None:
                return self._next_in_teardown()
            actions = self._possible()
            if self.verdict is not None:
                continue
            action = self._choose(actions)
            if action is None:
                continue
            self.actions.append(action)
            self._forget_the_last_action()
            if action >= 0:
                return self._take(action)
            if is_time(action):
                self._let_time_pass(action)
                continue
            mark = self.mark_of(action)
            runs_on = _runs_on(mark) and (not self._has_batches or mark.strand.number in actions)
            self._cancel_scope(mark)
            if runs_on:
                self._collect()
                self._undelivered = mark
                return self._take(mark.strand.number)

    def _choose(self, actions: list[int]) -> int | None:
        """Let the search choose; if there is nothing to choose, that ends the schedule."""
        if len(actions) == 1 and not self._follows_steps:
            return actions[0]
        try:
            action = self._pick(actions, self)
        except (NotDeterministic, ReplayDiverged) as error:
            self.error = error
            self._end("error")
            return None
        if action is None:
            self._end("pruned")
        return action

    def _trios_may_go_first(self) -> bool:
        """Let calls of `TrioToken.run_sync_soon` keep the tasks waiting, but not for ever."""
        now = len(self.actions) + self._teardown_steps
        if now != self._trios_began:
            self._trios_began, self._trios_steps = now, 0
        self._trios_steps += 1
        if self._trios_steps <= TRIOS_STEPS:
            return True
        if self.verdict is not None or not self._is_stuck():
            return False
        if self._trios_steps <= TRIOS_STEPS_ALONE:
            return True  # it may still wake somebody
        self.is_calling = True
        self._look_back()
        if self.verdict is None:
            self._end("livelock?")
        return False

    def _is_stuck(self) -> bool:
        able = self._ready or any(self.strands[n].holds() for n in self._waiting)
        return not able and self._has_no_future()

    def _look_for_tasks(self) -> None:
        """Fail if the main task has ended, and another one of the program has not."""
        if self.verdict is not None or len(self._runner.tasks) <= TASKS_OF_TRIO:
            return
        self.left = tuple(map(self._describe_left, self._tasks_left()))
        error = self.error or getattr(self._runner.main_task_outcome, "error", None)
        if isinstance(error, RuntimeError) and str(error).startswith("Nursery stack corrupted"):
            # trio complains of the same; before that the program may have raised something.
            error = error.__context__
        if self.left and error is None:
            self._end("task left")
        elif any(self._orphans()):
            self.error = error
            self._end("error")

    def _tasks_left(self) -> Iterator[Strand]:
        """Yield the tasks that still live, but for those that may outlive the main task."""
        for strand in self.strands:
            if strand.is_alive and strand.service != "" and strand.service not in self._may_stay:
                yield strand

    def _describe_left(self, strand: Strand) -> Left:
        what, where = _awaited(strand.task)
        # Whether it could go on isn't said: trio may have cancelled it already.
        begun = getattr(strand.task.coro, "cr_await", None) is not None
        what = f"stands in {what}" if begun else "has not begun"
        return Left(strand.name, what, where, self.started_at.get(strand.task, ""))

    def _orphans(self) -> Iterator[Strand]:
        """Yield the tasks that must end before trio's own do, which else takes that for its error."""
        if self._runner.main_task_outcome is not None:
            yield from (s for s in self.strands if s.service is None and s.is_alive)

    def _look_back(self) -> None:
        """Judge what has just happened."""
        if self._stepped is not None:
            assert self._watcher is not None
            self._watcher.stop(self._stepped, self._situation(self._stepped))
            self._stepped = None
        if self.error is not None:
            self._end("error")
        elif len(self.actions) >= self._max_steps:
            self._end("livelock?")
        elif self._undelivered is not None:
            mark, self._undelivered = self._undelivered, None
            status = mark.scope._cancel_status
            if status is not None and is_shielded(mark.strand.task, status):
                self._end("pruned")

    def _possible(self) -> list[int]:
        due = self._due() if self._deadlines else []
        actions = self._ready.copy()
        if self._waiting:
            actions += (n for n in self._waiting if self.strands[n].holds())
        nobody = not actions
        if self._has_batches:
            actions = self._of_the_batch(actions)
        actions.sort()
        if due and not self._is_amid_a_batch:
            actions += due
        elif nobody:
            actions += self._jumps() or [TIME]
        elif self._is_amid_a_batch:
            pass
        elif self._any_time and self._deadlines and not self._is_overtaken(actions):
            actions += self._jumps(early=True)
        self.time_was_a_choice |= is_time(actions[-1]) and len(actions) > 1
        if self._marks and self._cancel:
            self._marks = [mark for mark in self._marks if not _is_left(mark.scope)]
            actions += sorted(
                (mark.action for mark in self._marks if _is_cancellable(mark)), reverse=True
            )
        if actions == [TIME] and self._has_no_future():
            self._deadlock()
        return actions

    def _of_the_batch(self, able: list[int]) -> list[int]:
        """Say which of the tasks that can run may be next, as trio has it.

        Those that can run make a batch, and it is over before any other. A batch that has begun at
        one of its ends is finished in that direction at the level "stock"; at its beginning both
        are possible.
        """
        self._batch = [number for number in self._batch if number in able]
        if not self._batch:
            self._batch = able
            self._is_amid_a_batch = False
            if self.level == "stock":
                return [*{able[0], able[-1]}] if able else []
        return self._batch[:1] if self.level == "stock" else self._batch.copy()

    def _take(self, number: int) -> trio.lowlevel.Task:
        if self._has_batches:
            self._take_from_batch(number)
        strand = self._running = self.strands[number]
        operation = strand.operation
        waits = operation is not None and operation.condition is not None
        (self._waiting if waits else self._ready).remove(number)
        self._begin_access(strand)
        if self._overtaken:
            self._overtaken.pop(number, None)
        if self._watcher is not None:
            if self._last_operation is not None and self._last_operation.writes:
                self._writers[self._last_operation.place] = strand
            self._stepped = strand
            self._watcher.step(strand)
        return strand.task

    def _begin_access(self, strand: Strand) -> None:
        operation, strand.operation = strand.operation, None
        if operation is not None and not strand.task._cancel_status.effectively_cancelled:
            self._last_operation = operation
        for thing in strand.inside:
            self.access(thing, True)

    def _take_from_batch(self, number: int) -> None:
        if number in self._batch:
            if not self._is_amid_a_batch and number == self._batch[-1]:
                self._batch.reverse()
            self._batch.remove(number)
            self._is_amid_a_batch = True

    def _has_no_future(self) -> bool:
        return not self._runner.waiting_for_idle and not self._deadlines

    def _due(self) -> list[int]:
        """Let deadlines pass that are due and quiet; return those that are due and a choice."""
        while due := outermost(self._deadlines.until(self._clock.now)):
            if not self._deadlines.passes([timer for timer in due if is_quiet(timer)]):
                break
        self._collect()
        return [timer.action for timer in due]

    def _jumps(self, *, early: bool = False) -> list[int]:
        """Return in which ways the clock may jump; in none while somebody waits for idleness."""
        if self._runner.waiting_for_idle and not early:
            return []
        for group in self._deadlines.groups():
            if early and not any(map(is_noticed, group)):
                continue
            timers = outermost(group)
            # Where some are quiet, `TIME` lets those pass; the others are due then.
            quiet = len(timers) == 1 or any(map(is_quiet, timers))
            return [TIME] if quiet else [timer.action for timer in timers]
        return []

    def _is_overtaken(self, actions: list[int]) -> bool:
        return any(self._overtaken.get(number, 0) >= OVERTAKINGS for number in actions)

    def _let_time_pass(self, action: int) -> None:
        able = [*self._ready, *(n for n in self._waiting if self.strands[n].holds())]
        self.time_was_early |= bool(able)
        if not able and self._runner.waiting_for_idle and action == TIME:
            self._wake_who_waits_for_idleness()
            return
        if self._has_no_future():
            self._deadlock()
            return
        timers = next(self._passing(action, early=bool(able)))
        if timers[0].deadline > self._clock.now:
            self._clock.now = timers[0].deadline
            for number in able:
                self._overtaken[number] = self._overtaken.get(number, 0) + 1
            if self._watcher is not None:
                self._watcher.time(self._clock.now)
            # What the clock has passed by, because nobody notices.
            self._deadlines.expire(self._clock.now)
        self._deadlines.passes(timers)

    def _wake_who_waits_for_idleness(self) -> None:
        """Wake those with the shortest cushion, as trio's loop would."""
        idle = self._runner.waiting_for_idle
        for key in [key for key in idle if key[0] == idle.peekitem(0)[0][0]]:
            self._runner.reschedule(idle.pop(key))

    def _passing(self, action: int, *, early: bool) -> Iterator[list[Timer]]:
        """Yield the deadlines that pass in an action."""
        for group in self._deadlines.groups():  # pragma: no branch - one was a choice
            if action != TIME:
                yield from ([timer] for timer in group if timer.action == action)
            elif not early or any(map(is_noticed, group)):
                timers = outermost(group)
                yield [timer for timer in timers if len(timers) == 1 or is_quiet(timer)]

    def _cancel_scope(self, mark: Mark) -> None:
        self._cancel = False
        if self._watcher is not None:
            which = f" ({mark.where})" if mark.where else ""
            self._watcher.mark(mark.strand, f"*** cancelled{which}")
        inside = map(self._by_task.get, members(mark.scope))
        mark.scope.cancel(reason="cancelled by the explorer")
        # Asleep or not, shielded or not: whatever any of them does next depends on it.
        self._touched += (member.number for member in inside if member is not None)

    def _deadlock(self) -> None:
        self.sleepers = tuple(_describe_sleeper(s, self._by_task) for s in self._stuck())
        self._end("deadlock")

    def _stuck(self) -> list[Strand]:
        """List who lives and should not, or else who lives."""
        return [*self._tasks_left()] or [strand for strand in self.strands if strand.is_alive]

    # -- what the last action did ----------------------------------------------------------

    def footprint(self) -> Footprint:
        """Say all that the last action touched, for a search that reduces."""
        access = self._footprint_of(self._last_operation)
        # Who woke or cancelled a task also did so to a task that it had just started.
        touched = frozenset(self._touched).difference(self._started)
        if not (self._reads or self._writes or touched or self._started or self._unknown):
            return access
        return access._replace(
            reads=access.reads.union(self._reads),
            writes=access.writes.union(self._writes, map(touch_of, touched)),
            touched=touched,
            started=frozenset(self._started),
            cancelled=self._cancelled_others,
            unknown=self._unknown,
        )

    def announced(self, number: int) -> Footprint:
        """Say what access the task has announced; `NOTHING` if it has not."""
        strand = self.strands[number]
        return strand.pending or self._footprint_of(strand.operation)

    def _forget_the_last_action(self) -> None:
        if self._touched or self._started:
            self._touched.clear()
            self._started.clear()
        if self._reads or self._writes:
            self._reads.clear()
            self._writes.clear()
        self._unknown = self._cancelled_others = False
        self._last_operation = None
        self._running = None

    def parent_of_ended(self, number: int) -> int | None:
        """Say whose nursery the task was in, if it has ended and was in anybody's."""
        task = self.strands[number].task
        if task in self._runner.tasks or task.parent_nursery is None:
            return None
        parent = self._by_task.get(task.parent_nursery.parent_task)
        return None if parent is None else parent.number

    def place_of(self, strand: Strand) -> str:
        """Say in symbols where the task stands after a step; nothing if it has ended.

        The innermost function of the program, unless the task began with it, and what it awaits.
        """
        if not strand.is_alive:
            return ""
        sleeper = _describe_sleeper(strand, self._by_task)
        what = "children" if sleeper.awaits_children else plain(sleeper.what) or "await"
        if strand.is_queued and strand.operation is not None and strand.operation.writes:
            what += ".set"
        frames = (frame for frame, _ in strand.task.iter_await_frames() if not is_library(frame))
        codes = [frame.f_code for frame in frames]
        if not codes or codes[-1] is codes[0]:
            return what
        return f"{plain(codes[-1].co_qualname.rpartition('<locals>.')[2]) or 'function'}@{what}"

    @property
    def was_cancelled(self) -> bool:
        """Whether the one cancellation has happened."""
        return not self._cancel and self._settings.cancel != "never"

    @property
    def expects_cancellation(self) -> bool:
        """Whether a cancellation may yet come, as far as is known."""
        return self._cancel and (self._cancel_each or bool(self._marks))

    @property
    def may_be_disturbed(self) -> bool:
        """Whether something other than the tasks' own steps may come, or might have, at any time."""
        return self.expects_cancellation or self.time_was_a_choice

    def mark_of(self, action: int) -> Mark:
        """Say which scope a cancellation is of."""
        mark = self.strands[task_of(action)].marks[scope_of(action)]
        assert mark is not None  # a scope that has been left is no choice any more
        return mark

    @property
    def was_cut_short(self) -> bool:
        """Whether tasks that could have gone on were stopped; at a deadlock none could."""
        return self.verdict in {"error", "livelock?", "task left"}

    def _footprint_of(self, operation: Operation | None) -> Footprint:
        if operation is None:
            return NOTHING
        place = operation.place
        it = frozenset((self._places[place],))
        if isinstance(place, Lifetime):
            return Footprint(writes=it)
        waits = operation.condition is not None
        memory = _NONE if place.lifetime is None else frozenset((self._places[place.lifetime],))
        if operation.writes:
            return Footprint(memory, it, waits=waits)
        return Footprint(it | memory, waits=waits)

    def note_cancellations(self) -> None:
        """Count the runnable tasks that the last action cancelled among those it touched.

        A task that sleeps is woken by its cancellation, which `append` sees. One that is
        runnable only finds it out later.
        """
        for number in (*self._ready, *self._waiting):
            strand = self.strands[number]
            cancelled = strand.task._cancel_status.effectively_cancelled
            if not cancelled:
                self._known_cancelled.discard(number)
            elif number not in self._known_cancelled:
                self._known_cancelled.add(number)
                self._touched.append(number)
                if strand is not self._running and number not in self._started:
                    self._cancelled_others = True

    def _number(self, place: Cell[Any] | Lifetime) -> None:
        self._places.setdefault(place, len(self._places))
        if not isinstance(place, Lifetime) and place.lifetime is not None:
            self._places.setdefault(place.lifetime, len(self._places))

    # -- the primitives' hook --------------------------------------------------------------

    def made(self, thing: object) -> None:
        """Give a primitive a number, the same in every schedule in which it is made."""
        if get_ident() == self._thread and self.verdict is None:
            self._things[id(thing)] = origin_of(self._running, self._count())

    def access(self, thing: object, writes: bool) -> None:  # noqa: FBT001
        """Take note that the last action has accessed a primitive."""
        if get_ident() == self._thread and self.verdict is None:
            number = self._number_of(thing)
            if writes:
                self._writes.add(number)
            else:
                self._reads.add(number)

    def access_anything(self) -> None:
        """Take note that the last action may have accessed anything."""
        if get_ident() == self._thread:
            self._unknown = True

    def depend_on(self, task: trio.lowlevel.Task) -> None:
        """Take note that the last action asked about a task."""
        strand = self._by_task.get(task)
        if strand is not None and strand is not self._running:
            self._touched.append(strand.number)

    def sleep_on(self, thing: object, writes: bool) -> None:  # noqa: FBT001
        """Take note that the running task may go to sleep on a primitive."""
        if self._running is not None and get_ident() == self._thread:
            self._running.sleeps_on = thing, writes

    def enter(self, thing: object) -> None:
        """Take note that the running task writes a primitive in each step until it leaves it."""
        self.access(thing, True)
        if self._running is not None and get_ident() == self._thread:
            self._running.inside += (thing,)

    def leave(self) -> None:
        """Take note that the running task has left the primitive that it entered last."""
        if self._running is not None and get_ident() == self._thread:
            self._running.inside = self._running.inside[:-1]

    def moved(self, task: trio.lowlevel.Task, thing: object) -> None:
        """Take note that a sleeping task sleeps on another primitive now."""
        strand = self._by_task.get(task)
        if strand is not None:
            strand.sleeps_on = thing, True

    def woken(self) -> None:
        """Take note that the running task sleeps no more."""
        if self._running is not None and get_ident() == self._thread:
            self._running.sleeps_on = None

    @types.coroutine
    def before(
        self,
        thing: object,
        writes: bool,  # noqa: FBT001
        what: str,
    ) -> Generator[Any, Any, None]:
        """Stand before an operation on a primitive, where the level has a point there."""
        strand = self._running if get_ident() == self._thread else None
        if self.level == "contract" and strand is not None and self.verdict is None:
            place = frozenset((self._number_of(thing),))
            strand.pending = Footprint(writes=place) if writes else Footprint(place)
            strand.point = f"before {what}"
            # Whether the task is cancelled is for the operation to find out.
            yield CancelShieldedCheckpoint
            strand.pending, strand.point = None, ""

    @types.coroutine
    def point(self, name: str) -> Generator[Any, Any, None]:
        """Stand at a point that the program has named."""
        strand = self._running if get_ident() == self._thread else None
        if strand is not None:
            strand.point = f"at the point {name!r}"
        yield CancelShieldedCheckpoint
        if strand is not None:
            strand.point = ""
        _run.GLOBAL_RUN_CONTEXT.task._cancel_points += 1
        _raise_if_cancelled("at a point")

    def _number_of(self, thing: object) -> int:
        number = self._things.get(id(thing))
        if number is not None:
            return number
        return OF_A_THING | number_of_outsider(thing)

    def _count(self) -> int:
        """Count what is made now: the how many-th thing of the running task's it is."""
        maker = self._running
        if maker is None:
            self._made += 1
            return self._made
        maker.made += 1
        return maker.made

    # -- the cells' hook -------------------------------------------------------------------

    @types.coroutine
    def turn(
        self,
        place: Cell[Any] | Lifetime,
        writes: bool,  # noqa: FBT001
        condition: Callable[[Any], bool] | None,
    ) -> Generator[Any, Any, None]:
        """Announce an access, and come back when it is to be done."""
        self._announced = Operation(place, writes, condition)
        # Numbered here, and not when a search asks: it doesn't ask again about what it knows, and
        # the numbers must be the same in every run that begins with the same steps.
        self._number(place)
        yield CancelShieldedCheckpoint
        _run.GLOBAL_RUN_CONTEXT.task._cancel_points += 1
        _raise_if_cancelled("at an access")
        if condition is not None and not _is_freed(place):
            condition(place._value)  # type: ignore[union-attr]

    def watch(self, watched: Watched) -> None:
        """Take note that an object has to be at rest when the program has ended."""
        if self.verdict is None:
            self._watched.append(watched)

    def sometimes(self, label: str, is_reached: bool) -> None:  # noqa: FBT001
        """Take note that a label was registered, and whether it was reached."""
        if self.verdict is None:
            self.labels[label] = self.labels.get(label, False) or is_reached

    def may_stay(self, name: str) -> None:
        """Take note that system tasks of this name may be there when the main task has ended."""
        self._may_stay += (name,)

    def may_cancel(self, scope: trio.CancelScope, where: str) -> None:
        """Take note that the running task has marked a scope."""
        strand = self._running
        if strand is not None and self.verdict is None:
            mark = Mark(strand, len(strand.marks), scope, where)
            strand.marks.append(mark)
            self._marks.append(mark)
            self._needs_care = True

    def main_scope(self) -> trio.CancelScope | nullcontext[None]:
        """Make the scope, to be entered in the main task, whose cancellation is that task's."""
        main = self.strands[0]
        if main.marks[0] is None:
            return nullcontext()
        self._marks.remove(main.marks[0])
        return self._mark_task(main)

    def fail(self, error: BaseException) -> None:
        """End the schedule after this step: what the task does about it doesn't matter."""
        if self.verdict is None and self.error is None:
            self.error = error
            self._needs_care = True

    def name_of(self, task: trio.lowlevel.Task) -> str:
        """Say what diagrams call a task."""
        strand = self._by_task.get(task)
        return strand.name if strand is not None else task.name

    def refuse(self, what: str, where: str = "") -> NotDeterministic:
        """Make the error for what no schedule can repeat, and end the schedule with it."""
        name = self.name_of(_run.GLOBAL_RUN_CONTEXT.task)
        place = f" ({where})" if where else ""
        error = NotDeterministic(
            f"task {name!r} called {what}{place}, whose result no schedule can repeat; "
            "give the program a stand-in that stays within its tasks"
        )
        self.fail(error)
        return error

    # -- the end ---------------------------------------------------------------------------

    def _end(self, verdict: str) -> None:
        self.verdict = verdict
        self._needs_care = True
        if not self._is_interrupted:
            self._chooser.finish(self)
        if verdict == "deadlock" and self._watcher is not None:
            self._watcher.deadlock(self)
            for sleeper in self.sleepers:
                if not sleeper.awaits_children:
                    text = f"*** never woken: waits for {sleeper.what}"
                    self._watcher.mark(self.strands[sleeper.number], text)
        self._watcher = _hook.recorder = None
        nursery = self._main_nursery
        nursery.cancel_scope.cancel(reason="the schedule is over")
        self._unshield(nursery._cancel_status)

    @property
    def _main_nursery(self) -> trio.Nursery:
        assert self._runner.main_task is not None
        nursery = self._runner.main_task.parent_nursery
        assert nursery is not None
        return nursery

    def _unshield(self, status: _run.CancelStatus) -> None:
        for child in list(status._children):
            if child._scope._shield:
                child._scope.shield = False
            self._unshield(child)

    def _next_in_teardown(self) -> trio.lowlevel.Task:
        self._teardown_steps += 1
        numbers = self._able_in_teardown()
        if not numbers:
            # Clean-up code has opened a shield of its own and sleeps in it.
            self._unshield(self._main_nursery._cancel_status)
            numbers = self._able_in_teardown()
        if not numbers and self._runner.main_task_outcome is not None:
            # That of a system task, which trio cancels now.
            assert self._runner.system_nursery is not None
            self._unshield(self._runner.system_nursery._cancel_status)
            numbers = self._able_in_teardown()
        if not numbers or self._teardown_steps > TEARDOWN_STEPS:
            self._give_up()
        # Nobody has cancelled a system task while the main task lives: it may go on and on.
        return self._take(min(numbers, key=lambda n: (self.strands[n].service is not None, n)))

    def _able_in_teardown(self) -> list[int]:
        self._collect()
        return self._ready or [n for n in self._waiting if self.strands[n].holds()]

    def _give_up(self) -> None:
        left = ", ".join(repr(strand.name) for strand in self._stuck())
        raise TeardownStuck(
            f"the schedule is over ({self.verdict}), but being cancelled did not end its tasks {left} within "
            f"{self._teardown_steps} steps; let every trio.Cancelled pass, and let no wait refuse it"
        )

    def _situation(self, strand: Strand) -> str:
        """Say what the task does after its step; nothing if it goes on with an access."""
        if not strand.is_alive:
            return "" if strand.number == 0 else "ends"
        if strand.is_queued and strand.point:
            return f"yields {strand.point}"
        if strand.is_queued and strand.operation is not None:
            waits = strand.operation.condition is not None and not strand.holds()
            return f"sleeps: waits for {strand.operation.place.name}" if waits else ""
        sleeper = _describe_sleeper(strand, self._by_task)
        if sleeper.awaits_children:
            return ""
        return f"{'yields in' if strand.is_queued else 'sleeps: waits for'} {sleeper.what}"


def _raise_if_cancelled(where: str) -> None:
    if _run.GLOBAL_RUN_CONTEXT.task._cancel_status.effectively_cancelled:
        # Raised here and now: trio's own checkpoint would take two more steps for it, which no
        # other task can tell apart.
        raise trio.Cancelled._create(source="explicit", reason=f"cancelled {where}")


def origin_of(maker: Strand | None, nth: int) -> int:
    """Number a thing by who has made it, and how much he had made before.

    Hashes of numbers are the same in every process. If two should be the same, accesses are taken
    to conflict that don't: a schedule too many, never one too few.
    """
    origin = 0 if maker is None else maker.origin
    return OF_A_THING | hash((origin, nth)) & OF_A_THING - 1


def _is_freed(place: Cell[Any] | Lifetime) -> bool:
    lifetime = place if isinstance(place, Lifetime) else place.lifetime
    return lifetime is not None and lifetime._freed


def _is_left(scope: trio.CancelScope) -> bool:
    return scope._has_been_entered and scope._cancel_status is None


def _is_cancellable(mark: Mark) -> bool:
    """Tell whether cancelling the scope now is a case of its own; see the head of this file."""
    status = mark.scope._cancel_status
    if status is None or status.effectively_cancelled:
        return False
    # A scope within may be cancelled already (its time is over, say); ours still makes a
    # difference then: the task won't go on behind that scope.
    if mark.number == 0 and mark.strand.task._eventual_parent_nursery is not None:
        return False
    return any(_notices(task, status) for task in members(mark.scope))


def _notices(task: trio.lowlevel.Task, root: _run.CancelStatus) -> bool:
    """Tell whether a task would notice now, or when it resumes, that *root* was cancelled."""
    if task._next_send_fn is not None:
        return True
    return task._abort_func is not None and not is_shielded(task, root)


def _runs_on(mark: Mark) -> bool:
    """Tell whether a task runs as soon as it is cancelled; see the head of this file."""
    return mark.strand.is_queued and list(members(mark.scope)) == [mark.strand.task]


def _describe_sleeper(strand: Strand, known: dict[trio.lowlevel.Task, Strand | None]) -> Sleeper:
    operation = strand.operation
    if strand.is_queued and operation is not None:
        return Sleeper(strand.number, strand.name, operation.place.name)
    frames = [frame for frame, _ in strand.task.iter_await_frames()]
    if any(frame.f_code.co_name == "_nested_child_finished" for frame in frames):
        children = (known[t] for n in strand.task.child_nurseries[-1:] for t in n._children)
        named = sorted((child.number, child.name) for child in children if child is not None)
        what = "its child tasks " + ", ".join(name for _, name in named)
        return Sleeper(strand.number, strand.name, what, awaits_children=True)
    return Sleeper(strand.number, strand.name, *_awaited(strand.task))


def _awaited(task: trio.lowlevel.Task) -> tuple[str, str]:
    """Say what the program awaits in a task, and where."""
    frames = [frame for frame, _ in task.iter_await_frames()]
    at = max((i for i, frame in enumerate(frames) if not is_library(frame)), default=-1)
    # A watched object's method is what is waited for, and not the recording around it.
    below = (frame for frame in frames[at + 1 :] if not is_ours(frame))
    what = next((frame.f_code.co_qualname for frame in below), "a reschedule")
    where = ""
    if at >= 0:
        where = place_of(frames[at])
    return what, where


def _is_of_the_program(task: trio.lowlevel.Task) -> bool:
    """Tell whether a system task is none of trio's, nor of a library that is trio's user."""
    frame = getattr(task.coro, "cr_frame", None)
    return frame is not None and not is_library(frame)


def _wrap(task: trio.lowlevel.Task, coro: Coroutine[Any, Any, Any]) -> None:
    """Let a task that has not begun run something around what it would."""
    task.coro = coro  # type: ignore[assignment]
    task._next_send_fn = coro.send


async def _cancellable(coro: Awaitable[Any], scope: trio.CancelScope) -> Any:
    """Run a task within a scope of its own: cancelled, it ends quietly."""
    with scope:
        return await coro
    return None
