"""What the explorer relies on in trio, and what its one schedule does with it.

If a new trio breaks the first part, the message says what has changed, and in which file of ours
to look.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import socket
import sys
import warnings
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from trio import _threads
from trio._core import _run
from trio._core._asyncgens import AsyncGenerators
from trio._core._entry_queue import EntryQueue
from trio._core._traps import CancelShieldedCheckpoint

from aspf.race import (
    Cell,
    ExplorationInterrupted,
    Lifetime,
    NotDeterministic,
    TeardownStuck,
    _hook,
    _timers,
    explore,
    replay,
)
from aspf.race._runner import exploring
from aspf.race._timers import Deadlines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

SOURCE = inspect.getsource(_run.unrolled_run)


@pytest.mark.parametrize(
    ("holds", "sentence"),
    [
        (
            inspect.isgeneratorfunction(_run.unrolled_run),
            "trio's run loop is no generator any more: we can't drive it",
        ),
        (
            list(inspect.signature(_run.unrolled_run).parameters)
            == ["runner", "async_fn", "args", "host_uses_signal_set_wakeup_fd"],
            "the parameters of trio's run loop have changed",
        ),
        (
            "batch = list(runner.runq)\n            runner.runq.clear()" in SOURCE,
            "trio's loop takes its batch in another way: next_task must put one task there",
        ),
        (
            "idle_primed is not None and not runner.runq" in SOURCE,
            "trio's loop may wake who waits for idleness though we have queued a task: see next_task",
        ),
        (
            "runner.deadlines.expire(now)" in SOURCE
            and SOURCE.index("runner.deadlines.expire(now)") < SOURCE.index("batch = "),
            "trio's loop expires deadlines elsewhere: a jump of our clock would come too late",
        ),
        (
            "self.runq.append(task)" in inspect.getsource(_run.Runner.reschedule),
            "trio queues runnable tasks in another way: Schedule.next_task doesn't see them",
        ),
        (
            "self.reschedule(task, None)" in inspect.getsource(_run.Runner.spawn_impl),
            "a task isn't queued at once when it is spawned: Schedule._meet doesn't see it",
        ),
        (
            {
                "clock",
                "instruments",
                "io_manager",
                "ki_manager",
                "strict_exception_groups",
                "system_context",
                "runq",
                "entry_queue",
            }
            <= set(inspect.signature(_run.Runner).parameters),
            "trio's Runner is made of other parts: see make_runner",
        ),
        (
            {
                "coro",
                "context",
                "_next_send",
                "_next_send_fn",
                "_abort_func",
                "_parent_nursery",
                "_schedule_points",
                "_cancel_status",
                "_cancel_points",
                "_child_nurseries",
                "_eventual_parent_nursery",
                "_ki_protected",
                "_runner",
            }
            <= set(_run.Task.__slots__),
            "trio's Task has lost an attribute that Strand, Schedule or spin reads",
        ),
        (
            {"effectively_cancelled", "_children", "_scope", "_parent"}
            <= set(_run.CancelStatus.__slots__),
            "trio's CancelStatus has lost an attribute that the teardown needs",
        ),
        ("_cancel_status" in _run.CancelScope.__slots__, "a CancelScope hides its status"),
        (
            hasattr(_run, "_NO_SEND") and hasattr(_run, "CONTEXT_RUN_TB_FRAMES"),
            "trio names otherwise what LeanRunner and spin take from it",
        ),
        (
            "wakeup" in inspect.signature(EntryQueue).parameters,
            "EntryQueue has no wakeup to replace",
        ),
        (
            {"alive", "trailing_needs_finalize"} <= set(AsyncGenerators.__slots__),
            "trio keeps its async generators in another way: see _AsyncGenerators",
        ),
        (inspect.isclass(CancelShieldedCheckpoint), "a schedule point is yielded in another form"),
        (
            {"add", "remove", "next_deadline", "expire"}
            <= {name for name in dir(_run.Deadlines) if not name.startswith("_")}
            and "deadlines" in inspect.signature(_run.Runner).parameters
            and "runner.deadlines.add(new, self)" in inspect.getsource(_run),
            "trio keeps and expires its deadlines in another way: see _timers.py",
        ),
        (
            len(_timers._ABORT_OF_CHILDREN) == 1 and len(_timers._ABORTS_UNSEEN) == 2,
            "trio aborts a sleep, or a wait for children, elsewhere: no deadline is quiet any more",
        ),
        (
            callable(getattr(_threads, "start_thread_soon", None)),
            "trio starts threads elsewhere: they are not refused any more",
        ),
        (
            isinstance(trio.Cancelled._create(source="explicit", reason=""), trio.Cancelled),
            "trio.Cancelled is made in another way: Schedule.turn can't raise it",
        ),
    ],
)
def test_trio_is_as_we_know_it(holds: bool, sentence: str) -> None:
    """Each internal of trio that aspf/race/_engine.py and _runner.py touch, by name."""
    assert holds, f"trio {trio.__version__} differs: {sentence}"


# -- control -----------------------------------------------------------------------------------


async def spawns() -> str:
    """Nested nurseries, and tasks that start tasks."""
    order: list[str] = []

    async def leaf(name: str) -> None:
        order.append(name)

    async def parent(name: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leaf, name)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(leaf, name.upper())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent, "a")
        nursery.start_soon(parent, "b")
    return "".join(order)


def test_every_order_of_dynamic_tasks() -> None:
    """A tool that controls only the tasks that it started itself misses most orders."""
    found = explore(spawns, search="exhaustive")
    assert found.exhausted
    everything = {"".join(word) for word in itertools.permutations("aAbB")}
    assert {text.strip("'") for text in found.outcomes} == everything


def test_virtual_time() -> None:
    """An hour passes at once, and only when nobody can run; ties come in both orders."""

    async def program() -> list[tuple[str, float]]:
        log: list[tuple[str, float]] = []

        async def sleeper() -> None:
            await trio.sleep(3600)
            log.append(("slept", trio.current_time()))

        async def limited() -> None:
            with trio.move_on_after(3600):
                await trio.sleep_forever()
            log.append(("moved on", trio.current_time()))

        async def busy() -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            log.append(("busy", trio.current_time()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper)
            nursery.start_soon(limited)
            nursery.start_soon(busy)
        return log

    slept, moved, busy = ("slept", 3600.0), ("moved on", 3600.0), ("busy", 0.0)
    assert set(explore(program, search="exhaustive").outcomes) == {
        repr([busy, slept, moved]),
        repr([busy, moved, slept]),
    }


def test_waiting_for_idleness() -> None:
    """It comes before any jump of the clock, and is no deadlock; waiters of cells are idle, too."""

    async def program() -> list[str]:
        log: list[str] = []
        cell = Cell(0, "cell")

        async def idle() -> None:
            await trio.testing.wait_all_tasks_blocked()
            log.append("idle")
            await cell.set(1)

        async def sleep() -> None:
            await trio.sleep(1)
            log.append("slept")

        async def wait() -> None:
            await cell.wait_until(bool)
            log.append("set")

        async with trio.open_nursery() as nursery:
            for task in (idle, sleep, wait):
                nursery.start_soon(task)
        return log

    assert list(explore(program, search="exhaustive").outcomes) == ["['idle', 'set', 'slept']"]


def test_statistics_work() -> None:
    """A program may ask its run loop how it is."""

    async def program() -> object:
        statistics = trio.lowlevel.current_statistics()
        return statistics.tasks_runnable, statistics.io_statistics.backend  # type: ignore[attr-defined]

    assert list(explore(program, search="exhaustive").outcomes) == ["(0, 'aspf.race')"]


def test_run_sync_soon_works() -> None:
    """Async generators are finalised through it; a stub that doesn't wake hangs every run."""

    async def program() -> list[int]:
        done: list[int] = []
        token = trio.lowlevel.current_trio_token()
        token.run_sync_soon(done.append, 1)
        token.run_sync_soon(done.append, 2)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        token.run_sync_soon(done.append, 3)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return done

    assert list(explore(program, search="exhaustive").outcomes) == ["[1, 2, 3]"]


def test_abandoned_async_generators_end_with_the_run() -> None:
    """One that a program leaves half-way is closed within its run, and not in the next."""
    closed: list[int] = []
    kept: list[AsyncGenerator[int, None]] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            closed.append(1)

    async def program() -> int:
        kept.append(numbers())
        return await anext(kept[-1])

    assert list(explore(program, search="exhaustive").outcomes) == ["1"]
    assert closed == [1]


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
def test_forgotten_async_generators_end_at_once() -> None:
    """The hooks are made for the first one, which must not be the one that is overlooked."""

    async def numbers(closed: list[int], number: int) -> AsyncGenerator[int, None]:
        try:
            yield number
        finally:
            closed.append(number)

    async def program() -> list[int]:
        closed: list[int] = []
        for number in (1, 2):
            await anext(numbers(closed, number))
            await trio.testing.wait_all_tasks_blocked()
        return closed

    hooks = sys.get_asyncgen_hooks()
    assert list(explore(program, search="exhaustive").outcomes) == ["[1, 2]"]
    assert sys.get_asyncgen_hooks() == hooks


# -- what no schedule can repeat ---------------------------------------------------------------


async def starts_a_thread() -> None:
    """Real parallelism."""
    await trio.to_thread.run_sync(int)


async def reads_a_socket() -> None:
    """Real I/O."""
    with socket.socket() as sock:
        await trio.lowlevel.wait_readable(sock)


async def closes_a_socket() -> None:
    """Harmless: nobody waits."""
    left, right = trio.socket.socketpair()
    left.close()
    right.close()


@pytest.mark.parametrize(
    ("work", "call"),
    [
        (starts_a_thread, "trio.to_thread.run_sync()"),
        (reads_a_socket, "trio.lowlevel.wait_readable()"),
    ],
)
@pytest.mark.parametrize("where", ["main", "child"])
def test_the_outside_world_is_refused(work: Callable[[], Any], call: str, where: str) -> None:
    """The error names the task and the call, wherever it is and whatever the task does about it."""

    async def program() -> None:
        if where == "main":
            await work()
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, name="the culprit")

    name = "main" if where == "main" else "the culprit"
    with pytest.raises(NotDeterministic) as caught:
        explore(program, search="exhaustive")
    assert str(caught.value).startswith(f"task '{name}' called {call}")


def test_closing_a_socket_is_not() -> None:
    """No result depends on it."""
    assert explore(closes_a_socket, search="exhaustive").schedules == 1


def test_threads_work_elsewhere() -> None:
    """The refusal is taken back, and while it lasts it is for explored programs only."""
    with pytest.raises(NotDeterministic):
        explore(starts_a_thread, search="exhaustive")
    assert trio.run(trio.to_thread.run_sync, lambda: 3) == 3


def test_a_program_that_does_not_repeat_itself() -> None:
    """A search that goes on with other choices than it had seen proves nothing."""
    runs: list[int] = []

    async def program() -> None:
        runs.append(1)
        async with trio.open_nursery() as nursery:
            for _ in range(1 + len(runs) % 2):
                nursery.start_soon(trio.lowlevel.checkpoint)

    with pytest.raises(NotDeterministic, match=r"task 1 \(checkpoint\).*outlives a run"):
        explore(program, search="exhaustive")


def test_a_failure_that_does_not_repeat_itself() -> None:
    """A diagram of another run than the one that failed would be a lie."""
    runs: list[int] = []

    async def program() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise KeyError

    with pytest.raises(NotDeterministic, match="KeyError"):
        explore(program, search="exhaustive")


def test_instruments_are_refused() -> None:
    """Silently ignoring one would leave its user without what it measures."""

    async def program() -> None:
        trio.lowlevel.add_instrument(trio.abc.Instrument())

    (failure,) = explore(program, search="exhaustive").failures
    assert isinstance(failure.error, NotImplementedError)


def test_not_from_inside_trio() -> None:
    """Two run loops in one thread would share one context."""

    async def main() -> None:
        explore(spawns, search="exhaustive")

    with pytest.raises(RuntimeError, match="inside a trio program"):
        trio.run(main)


def test_not_from_inside_an_exploration() -> None:
    """The hook is the process's."""

    async def program() -> None:
        explore(spawns, search="exhaustive")

    (failure,) = explore(program, search="exhaustive").failures
    assert "inside a trio program" in str(failure.error)


def test_what_is_no_program() -> None:
    """The message is trio's own, and no crash of the explorer."""
    with pytest.raises(TypeError, match="async"):
        explore(lambda: 3, search="exhaustive")  # type: ignore[arg-type, return-value]


def test_an_interrupt_gets_through() -> None:
    """Control-C is for the person at the keyboard, and no finding."""

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)

    async def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explore(program, search="exhaustive")
    assert explore(spawns, schedules=1, search="exhaustive").schedules == 1


def test_an_interrupt_in_the_loop_gets_through() -> None:
    """It may come while none of the program's code runs; nothing may be left half done."""

    async def program() -> None:
        def interrupt(_: object) -> bool:
            raise KeyboardInterrupt

        async with trio.open_nursery() as nursery:
            nursery.start_soon(Cell(0, "cell").wait_until, interrupt)

    with pytest.raises(KeyboardInterrupt):
        explore(program, search="exhaustive")
    gc.collect()
    assert explore(spawns, schedules=1, search="exhaustive").schedules == 1


def test_threads_work_beside_an_exploration() -> None:
    """Another thread's trio program may start threads while we explore."""
    with exploring():
        assert trio.run(trio.to_thread.run_sync, lambda: 3) == 3


def test_one_exploration_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells have one hook for the whole process."""
    monkeypatch.setattr(_hook, "current", object())
    with pytest.raises(RuntimeError, match="one exploration at a time"):
        explore(spawns, search="exhaustive")


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled: bool) -> None:
    """Runs are done without it; a program that had it off must not find it on."""
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        explore(spawns, schedules=1, search="exhaustive")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


# -- the end of a failed run -------------------------------------------------------------------


async def cleans_up_behind_a_shield() -> None:
    """The tasks that a deadlock leaves have clean-up code, which may shield and sleep."""
    cell = Cell(0, "cell")

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                await trio.Event().wait()

    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            try:
                await cell.wait_until(bool)
            finally:
                with trio.CancelScope(shield=True):
                    await cell.wait_until(bool)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        nursery.start_soon(shielded)


def test_teardown_is_quiet() -> None:
    """No warning of coroutines never awaited, no leftover task; the verdict stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (failure,) = explore(cleans_up_behind_a_shield, search="exhaustive").failures
        gc.collect()
    assert failure.kind == "deadlock"
    assert failure.summary == "deadlock: task waits for sleep_forever; shielded waits for cell"


def test_the_verdict_is_the_first_error() -> None:
    """Clean-up that touches freed memory, or the outside world, is no second finding."""

    async def program() -> None:
        memory = Lifetime("memory")
        cell = Cell(0, "cell", lifetime=memory)

        async def clean_up(work: Callable[[], Any]) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await work()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up, cell.get)
            nursery.start_soon(clean_up, starts_a_thread)
            await memory.free()

    (failure,) = explore(program, search="exhaustive").failures
    assert failure.kind == "deadlock"


def swallows() -> Any:
    """Swallow every Cancelled."""

    async def task() -> None:
        while True:
            with suppress(trio.Cancelled):
                await trio.Event().wait()

    return task


def refuses() -> Any:
    """Wait in a way that refuses to be cancelled."""
    return partial(trio.lowlevel.wait_task_rescheduled, lambda _: trio.lowlevel.Abort.FAILED)


@pytest.mark.parametrize("make", [swallows, refuses])
def test_a_task_that_will_not_end(make: Callable[[], Any]) -> None:
    """The explorer must come back, name the task, and leave nothing that complains later."""

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make(), name="the stubborn one")

    with pytest.raises(TeardownStuck, match=r"\(deadlock\).*'the stubborn one'"):
        explore(program, search="exhaustive")
    gc.collect()
    assert explore(spawns, schedules=1, search="exhaustive").schedules == 1


def test_livelock() -> None:
    """A run without end is never a pass, and its token repeats it."""

    async def program() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    (failure,) = explore(program, max_steps=50, search="exhaustive").failures
    assert failure.kind == "livelock?"
    assert failure.summary == "no end within 50 steps: perhaps a livelock"
    assert failure.token == "aspf2:program::checkpoint:0@0x50,+"
    again = replay(program, failure.token)
    assert again is not None
    assert again.kind == "livelock?"


def test_ctrl_c_in_code_of_trios_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if who presses it twice gets an internal error of trio's, or if trio stays changed."""

    def press(self: Deadlines, now: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Deadlines, "expire", press)
        with pytest.raises(ExplorationInterrupted):
            explore(spawns, search="exhaustive")
    assert explore(spawns, schedules=1, search="exhaustive").schedules == 1
