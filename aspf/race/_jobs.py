"""Several processes for one exploration; why it comes out the same is said in ``_plans.py``.

Each process has the program, imports it by itself, and is given one part after the other. It
sends back numbers and text, nothing of the program. Whatever happens to a process, nobody waits
for it: its end is an event like its answer.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Final, final

from aspf._errors import WorkerDied
from aspf.race._part import Done, run_part
from aspf.race._runner import exploring
from aspf.race._strategies import make_plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType
    from typing import Self

    from aspf.race._counts import Counts
    from aspf.race._interrupts import Interrupts
    from aspf.race._limits import Limits
    from aspf.race._settings import Settings
    from aspf.race._strategies import Plan
    from aspf.race._strategies._plans import Work

__all__ = ("Order", "Pool", "pickled", "run_parts")

# How many parts are given out beyond the first, for each process: what comes after a failure, or
# beyond a limit, is thrown away.
AHEAD: Final = 4
# Seconds to look up again, and that a process has to answer when it was told to stop.
TURN: Final = 0.1
PATIENCE: Final = 5.0


@final
@dataclass(frozen=True, slots=True)
class Order:
    """What all processes do alike."""

    search: str
    seed: int
    shared: str
    settings: Settings
    stop_on_failure: bool

    @property
    def primitives(self) -> bool:
        """Whether primitives have to say what they access."""
        return self.shared == "cells" or self.settings.level == "contract"


def pickled(program: Callable[[], Awaitable[object]], name: str) -> bytes:
    """Write the program so that another process can import it.

    Raises:
        ValueError: It can't.
    """
    try:
        return pickle.dumps(program)
    except Exception as error:
        raise ValueError(
            f"{name} can't be run by other processes, since they can't import it ({error}); "
            "make it a function at the top level of a module, or explore with jobs=1"
        ) from error


def work(
    connection: Connection, program: bytes, order: Order, shared: tuple[Any, Any], index: int
) -> None:
    """Run part after part, in a process of its own."""
    flag, runs = shared
    # Ctrl-C reaches all processes of a terminal; it is the first one that says what is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):  # the first process has ended
        try:
            main = pickle.loads(program)  # noqa: S301 - from our own parent
            plan = make_plan(order.search, order.seed, order.shared)
        except Exception as error:  # noqa: BLE001 - the parent raises it
            connection.recv()
            connection.send(_sendable(error))
            return
        with exploring(primitives=order.primitives):
            while (given := connection.recv()) is not None:
                part, limit, examine = given

                def stop(counts: Counts, limit: int = limit) -> str:
                    runs[index] += 1
                    if counts.runs >= limit:
                        return "schedules"
                    return "stopped" if flag.value else ""

                try:
                    search = plan.search(part)
                    done = run_part(
                        main,
                        search,
                        order.settings,
                        stop,
                        examine=examine,
                        stop_on_failure=order.stop_on_failure,
                    )
                    done.left = plan.leave(search)
                except BaseException as error:  # noqa: BLE001 - the parent raises it
                    connection.send(_sendable(error))
                else:
                    connection.send(done)


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own words
    except Exception:  # noqa: BLE001 - whatever it is
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@final
class _Worker:
    """A process, and what it is at."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.work: Work | None = None


@final
class Pool:
    """The processes of an exploration.

    Args:
        jobs: How many.
        program: See `pickled`.
        name: What reports call it.
        order: What all of them do alike.
    """

    def __init__(self, jobs: int, program: bytes, name: str, order: Order) -> None:
        # The same on every system; and a fork of a process that has threads may hang.
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._flag = context.RawValue("b", 0)
        self._runs = context.RawArray("L", jobs)
        self._workers: list[_Worker] = []
        for index in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work,
                args=(theirs, program, order, (self._flag, self._runs), index),
                name=f"aspf.race {index + 1}",
                daemon=True,
            )
            self._workers.append(_Worker(process, ours))
            process.start()
            theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the processes, whatever they are at."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    @property
    def runs(self) -> int:
        """How many runs there were so far, in all processes."""
        return sum(self._runs)

    def give(self, works: Iterator[Work], limit: int, *, examine: bool) -> None:
        """Give parts to those who have none.

        Args:
            works: The parts, the first one first.
            limit: How many runs each may have at most.
            examine: Watch the first run.
        """
        idle = [worker for worker in self._workers if worker.work is None]
        for worker, given in zip(idle, works, strict=False):
            given.runner, worker.work = True, given
            with suppress(OSError):  # its end is seen by `collect`
                worker.connection.send((given.part, limit, examine))
            examine = False

    def collect(self, seconds: float) -> None:
        """Wait for an answer, but no longer than that.

        Raises:
            WorkerDied: A process has ended without one.
        """
        sources = {worker.connection: worker for worker in self._workers}
        for source in wait([*sources], seconds):
            worker = sources[source]  # type: ignore[index]
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                raise self._died(worker) from None
            assert worker.work is not None  # who has nothing to do says nothing
            worker.work.result, worker.work.runner = answer, None
            worker.work = None

    def stop(self) -> None:
        """Have all processes answer with what they have, if they do so in time."""
        self._flag.value = 1
        end = time.monotonic() + PATIENCE
        with suppress(WorkerDied):
            while any(w.work is not None for w in self._workers) and time.monotonic() < end:
                self.collect(TURN)

    def _died(self, worker: _Worker) -> WorkerDied:
        worker.process.join(PATIENCE)
        return WorkerDied(
            f"a process of the exploration of {self._name} ended by itself (exit code "
            f"{worker.process.exitcode}); does the program end it, or does its module, when it is "
            'imported, without `if __name__ == "__main__":`? jobs=1 runs it in this process'
        )


def run_parts(
    plan: Plan,
    pool: Pool,
    counts: Counts,
    *,
    limits: Limits,
    interrupts: Interrupts,
    take: Callable[[Done], None],
) -> str:
    """Run all parts, and take what came of them in their order.

    Args:
        plan: The parts.
        pool: Who runs them.
        counts: What *take* has counted so far.
        limits: When to stop.
        interrupts: Whether there was a ctrl-C.
        take: Called with what came of the first part of the queue; it takes that part off.

    Returns:
        What stopped it; nothing if it came to its end.
    """
    while plan.fill():
        head = plan.queue[0]
        done = head.result
        left = limits.runs - counts.runs
        if isinstance(done, BaseException):
            raise done
        if left <= 0:
            return "schedules"
        if done is None or done.counts.runs > left:
            head.result = None
            pool.give(_waiting(plan), left, examine=not counts.runs)
            pool.collect(TURN)
            over = limits.is_over(pool.runs, counts.endings.keys())
            if interrupts.came or (over and pool.runs):
                pool.stop()
                return "interrupted" if interrupts.came else "seconds"
            continue
        take(done)
        if not done.finished:
            return str(done.stopped_by)
    return ""


def _waiting(plan: Plan) -> Iterator[Work]:
    """Yield the parts that nobody has, as far as it makes sense to run them now."""
    for ahead, each in enumerate(plan.queue):
        if each.result is not None:
            if not isinstance(each.result, Done) or not each.result.finished:
                return  # what comes after will be thrown away
        elif each.runner is None:
            if ahead > AHEAD * multiprocessing.cpu_count():
                return
            yield each
