"""What our runner has in place of the outside world: a clock, no I/O, no threads, no signals.

With ``_engine.py`` this is what touches trio's internals.
"""

from __future__ import annotations

import math
import sys
import types
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeAlias, final
from weakref import WeakSet

import outcome
import trio
from sortedcontainers import SortedDict
from trio import _threads
from trio._core import _run
from trio._core._asyncgens import AsyncGenerators
from trio._core._entry_queue import EntryQueue
from trio._core._ki import KIManager
from trio._core._traps import (
    CancelShieldedCheckpoint,
    PermanentlyDetachCoroutineObject,
    WaitTaskRescheduled,
)
from trio.lowlevel import Abort

from aspf.race import _hook
from aspf.race._frames import place_of_caller
from aspf.race._primitives import instrumented

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator

    from aspf._errors import NotDeterministic
    from aspf.race._engine import Schedule
    from aspf.race._timers import Deadlines

    Refuse: TypeAlias = Callable[[str], NotDeterministic]

__all__ = ("Clock", "Runner", "close", "drive", "exploring", "make_runner", "spin")


@final
class Clock(trio.abc.Clock):
    """Virtual time: it stands still until a schedule moves it."""

    now: float = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:  # noqa: ARG002
        return math.inf


@final
class _NoIO:
    """An I/O manager without I/O: whatever a task asks of it is an error."""

    def process_events(self, events: object) -> None:
        pass

    def statistics(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(backend="aspf.race")

    def notify_closing(self, fd: object) -> None:
        """Nobody can be waiting for it."""

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., object]:
        def refuse(*_args: object, **_kwargs: object) -> object:
            schedule: Any = _hook.current
            raise schedule.refuse(f"trio.lowlevel.{name}()")

        return refuse


@final
class _Wakeup:
    """Wakes trio's ``run_sync_soon`` task without a socket pair.

    It must really do so: the end of every run hangs on it (``asyncgens.finalize_remaining``).
    """

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait_woken(self) -> None:
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def wakeup_thread_and_signal_safe(self) -> None:
        # The task looks at its queue before it waits, and there is only one thread.
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def close(self) -> None:
        pass

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED


@final
class _EntryQueue(EntryQueue):
    """Begins with trio's work when there is any, which most runs never have."""

    async def task(self) -> None:
        try:
            await self.wakeup.wait_woken()
        except trio.Cancelled:
            # Nothing was queued, else it would have been woken.
            with self.lock:
                self.done = True
            return
        await super().task()


@final
class _AsyncGenerators(AsyncGenerators):
    """Costs next to nothing in runs without async generators, which are nearly all.

    trio's hooks are made when the first one is iterated, and where none is left at the end, a run
    is two steps shorter.
    """

    #: Whether there ever was one.
    is_used = False

    def install_hooks(self, runner: _run.Runner) -> None:
        self.prev_hooks = sys.get_asyncgen_hooks()
        trios: Any = None

        def firstiter(generator: Any) -> None:
            nonlocal trios
            self.is_used, self.alive = True, WeakSet(self.alive)
            sys.set_asyncgen_hooks(*self.prev_hooks)
            AsyncGenerators.install_hooks(self, runner)
            trios = sys.get_asyncgen_hooks()
            trios.firstiter(generator)

        # The first generator takes this one for its own just before `firstiter` is called.
        def finalizer(generator: Any) -> None:
            trios.finalizer(generator)

        sys.set_asyncgen_hooks(firstiter, finalizer)

    async def finalize_remaining(self, runner: _run.Runner) -> None:
        queue = runner.entry_queue
        if self.is_left or queue.queue or queue.idempotent_queue:
            await super().finalize_remaining(runner)

    @property
    def is_left(self) -> bool:
        """Whether one is left that has to be ended."""
        return self.is_used and bool(self.alive or self.trailing_needs_finalize)


class _NoInstruments(dict[str, Any]):
    """No instruments. A dict, since trio asks it six times a step."""

    def add_instrument(self, _: object) -> None:
        raise NotImplementedError("an explored program can't add instruments to the run loop")


class Runner(_run.Runner):
    """trio's own, and the schedule that says what its loop runs."""

    __slots__ = ("schedule",)

    schedule: Schedule
    asyncgens: _AsyncGenerators

    def current_statistics(self) -> trio.lowlevel.RunStatistics:
        """Count those who can run where they are while they can."""
        known = super().current_statistics()
        return trio.lowlevel.RunStatistics(
            tasks_living=known.tasks_living,
            tasks_runnable=self.schedule.runnable,
            seconds_to_next_deadline=known.seconds_to_next_deadline,
            io_statistics=known.io_statistics,
            run_sync_soon_queue_size=known.run_sync_soon_queue_size,
        )


@final
class WatchedRunner(Runner):
    """Notes where each task is started, which takes its time."""

    __slots__ = ()

    def spawn_impl(self, *args: Any, **kwargs: Any) -> trio.lowlevel.Task:
        """Start a task."""
        task = super().spawn_impl(*args, **kwargs)
        self.schedule.started_at[task] = place_of_caller()
        return task


@final
class _Nothing(outcome.Outcome[None]):
    """As good as any number of ``Value(None)``, of which there is one for each time of waking."""

    __slots__ = ()

    def unwrap(self) -> None:
        pass

    def send(self, gen: Generator[Any, None, object]) -> Any:
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[Any, None]) -> Any:
        return await agen.asend(None)


_NOTHING = _Nothing()
_NO_SEND = _run._NO_SEND


@final
class LeanRunner(Runner):
    """What `spin` runs: it leaves out what is of no use to us, and makes nothing for it."""

    __slots__ = ()

    def reschedule(
        self, task: trio.lowlevel.Task, next_send: outcome.Outcome[object] = _NO_SEND
    ) -> None:
        """Let a task run on: as trio does it, who tells others as well."""
        if next_send is _NO_SEND:
            next_send = _NOTHING
        assert task._next_send_fn is None
        task._next_send_fn = task.coro.send
        task._next_send = next_send
        task._abort_func = None
        task.custom_sleep_data = None
        self.runq.append(task)


# What has no state, and is the same in all runs; the last two are empty between two of them.
_INSTRUMENTS: Any = _NoInstruments()
_NO_IO: Any = _NoIO()
_NO_SIGNALS = KIManager()
_WAITING_FOR_IDLE = SortedDict()
_NO_GENERATORS: Any = WeakSet()


def make_runner(
    schedule: Schedule, clock: Clock, deadlines: Deadlines, *, watched: bool, lean: bool
) -> Runner:
    """Make a runner that runs what *schedule* says, and let it be the one of this thread."""
    _WAITING_FOR_IDLE.clear()
    runner = (WatchedRunner if watched else LeanRunner if lean else Runner)(
        clock=clock,
        instruments=_INSTRUMENTS,
        io_manager=_NO_IO,
        ki_manager=_NO_SIGNALS,
        strict_exception_groups=True,
        system_context=copy_context(),
        deadlines=deadlines,  # type: ignore[arg-type]
        entry_queue=_EntryQueue(wakeup=_Wakeup()),  # type: ignore[arg-type]
        asyncgens=_AsyncGenerators(alive=_NO_GENERATORS),
        waiting_for_idle=_WAITING_FOR_IDLE,
    )
    runner.schedule = schedule
    runner.asyncgens.install_hooks(runner)
    _run.GLOBAL_RUN_CONTEXT.runner = runner
    return runner


def _unrecognized(message: object) -> TypeError:
    # In trio's words: a failure is known by its text.
    return TypeError(
        f"trio.run received unrecognized yield message {message!r}. "
        "Are you trying to use a library written for some "
        "other framework like asyncio? That won't work "
        "without some kind of compatibility shim.",
    )


def close(coro: types.CoroutineType[Any, Any, Any]) -> None:
    """End a coroutine that refuses to."""
    # It has had its chance to end properly. Nurseries await once more in their clean-up, each.
    for _ in range(100):  # pragma: no branch - but not for ever
        with suppress(BaseException):
            coro.close()
        if coro.cr_frame is None:
            break


def drive(loop: Generator[float, Any, None], runner: Runner) -> None:
    """Run trio's loop to its end; it yields where a real one would wait for I/O, and next runs
    whoever is in its queue.
    """
    send, give = loop.send, runner.runq.append
    try:
        send(None)
        while True:
            give(runner.schedule.next_task())
            send(())
    except StopIteration:
        pass


@trio.lowlevel.enable_ki_protection
def spin(runner: Runner, main: Callable[[], Awaitable[object]]) -> None:
    """Do what `drive` does, with the steps of trio's loop and nothing in between.

    What is here is the body of ``while batch:`` in ``unrolled_run``. Before each batch trio looks
    at deadlines, I/O and instruments, which are a schedule's business here, or nobody's.
    """
    # What is behind the thread's local attributes; it is several times faster.
    context = _run.GLOBAL_RUN_CONTEXT.__dict__
    tasks, next_task = runner.tasks, runner.schedule.next_task
    try:
        runner.init_task = runner.spawn_impl(
            runner.init, (main, ()), None, "<init>", system_task=True
        )
        while tasks:
            task = context["task"] = next_task()
            next_send_fn, next_send = task._next_send_fn, task._next_send
            task._next_send_fn = task._next_send = None
            final_outcome: outcome.Outcome[object] | None = None
            try:
                message = task.context.run(next_send_fn, next_send)  # type: ignore[arg-type]
            except StopIteration as stop:
                final_outcome = outcome.Value(stop.value)
            except BaseException as error:  # noqa: BLE001 - whoever waits for the task gets it
                traceback = error.__traceback__
                for _ in range(1 + _run.CONTEXT_RUN_TB_FRAMES):
                    if traceback is not None:  # pragma: no branch - as in trio
                        traceback = traceback.tb_next
                final_outcome = outcome.Error(error.with_traceback(traceback))
                del traceback
            if final_outcome is not None:
                try:
                    runner.task_exited(task, final_outcome)
                except trio.TrioInternalError:
                    raise
                except BaseException as error:  # trio's first task has failed: a system task has
                    raise trio.TrioInternalError(
                        "internal error in Trio - please file a bug!"
                    ) from error
                final_outcome = None
            else:
                task._schedule_points += 1
                if message is CancelShieldedCheckpoint:
                    runner.reschedule(task)
                elif type(message) is WaitTaskRescheduled:
                    task._cancel_points += 1
                    task._abort_func = message.abort_func
                    task._attempt_delivery_of_any_pending_cancel()
                elif type(message) is PermanentlyDetachCoroutineObject:
                    runner.task_exited(task, message.final_outcome)
                else:
                    runner.reschedule(task, _unrecognized(message))  # type: ignore[arg-type]
                    task._next_send_fn = task.coro.throw
                del message
            # Nothing must keep a task alive, nor be a task's between two steps.
            del context["task"], task, next_send, next_send_fn
    finally:
        runner.close()
        context.clear()


@contextmanager
def exploring(*, primitives: bool = True) -> Iterator[None]:
    """Make the process ready for schedules.

    Threads are refused where trio starts them, in this thread's schedules only.

    Args:
        primitives: Whether the primitives say what they access. It takes its time, and is of use
            only to a search that asks for it, or at a level that has points there.

    Raises:
        RuntimeError: A trio program or another exploration is running.
    """
    if trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "an exploration drives event loops of its own and can't be called from inside a trio "
            "program; call it from synchronous code"
        )
    if _hook.current is not None:
        raise RuntimeError("another thread of this process explores; one exploration at a time")
    start = _threads.start_thread_soon  # type: ignore[attr-defined]

    def refuse(*args: Any, **kwargs: Any) -> None:
        runner = getattr(_run.GLOBAL_RUN_CONTEXT, "runner", None)
        if not isinstance(runner, Runner):
            return start(*args, **kwargs)
        raise runner.schedule.refuse("trio.to_thread.run_sync()")

    _threads.start_thread_soon = refuse  # type: ignore[attr-defined]
    try:
        with instrumented() if primitives else nullcontext():
            yield
    finally:
        _threads.start_thread_soon = start  # type: ignore[attr-defined]
