"""A phase-fair read-write lock for asyncio and trio.

The phases. The lock is free, or in a read phase (one task or more holds it for reading), or in a
write phase (one task holds it for writing). What decides who goes next is the policy that Brandenburg
and Anderson named phase-fair ("Spin-Based Reader-Writer Synchronization for Multiprocessor
Real-Time Systems", 2010):

* In a read phase a reader enters at once as long as no writer waits. Behind a waiting writer it
  queues, or a stream of readers would starve writers.
* When a read phase ends, the writer that has waited longest goes next.
* When a write phase ends, *every* reader waiting at that moment goes in, as one phase, before the
  next writer, or a stream of writers would starve readers. Readers who come later queue again as
  soon as another writer waits.

So a reader waits for at most one read phase and one write phase, however many writers queue; a writer
waits for the writers before it and one read phase for each, and one more.

The code has two halves. `Phases` decides: it is sync, knows no event loop, and every method is one
whole transition that answers with the owners it let in. `ReadWriteLock` waits and wakes, and decides
nothing. Nothing but `Phases` changes who holds or waits. There is no await inside a transition, so
within one event loop each is atomic.

Why no wake-up is lost:

1. *Nobody waits for what they could have.* After every transition: a lock that is free has no
   waiters, and readers wait only while a writer holds or waits. A task queues only in a state where
   it may not enter, and the four transitions that can make it able to enter (the last reader leaves,
   the writer leaves, the writer downgrades, a waiting writer gives up) each let in exactly those who
   now can.
2. *The resource is handed over at the wake-up, not taken at the next run.* Between the moment a
   waiter is woken and the moment it runs, anything may happen; but it holds the lock already, so
   nobody can get in between, and no second waiter is woken for the same vacancy.
3. *A cancelled task leaves no debt.* There is one way out of the wait, `Phases.give_up`. A task that
   still waits leaves its queue, and if it was the last writer that readers stood behind in a read
   phase, they go in now, not when that phase ends. A task that had been let in before the
   cancellation reached it holds the lock, so it releases it like any holder, and the next phase starts.

Owners are tasks. A hold belongs to the task that acquired it, once: asking again from the same task
is refused at once, because whether it would deadlock depends on whether a writer happens to wait,
which is the kind of error that tests don't meet and production does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, final

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

__all__ = ("ReadWriteLock", "ReadWriteLockStatistics")

OwnerT = TypeVar("OwnerT")


@final
@dataclass(frozen=True, slots=True)
class ReadWriteLockStatistics:
    """Show who holds and who waits for a `ReadWriteLock`, at one moment.

    Attributes:
        readers: Number of tasks that hold the lock for reading.
        writer: The task that holds it for writing, or None.
        readers_waiting: Number of tasks that wait to read.
        writers_waiting: Number of tasks that wait to write.
        peak_readers: The most tasks that ever held the lock for reading at once.
        peak_waiting: The most tasks that ever waited at once, readers and writers together.
    """

    readers: int
    writer: anyio.TaskInfo | None
    readers_waiting: int
    writers_waiting: int
    peak_readers: int
    peak_waiting: int


class Phases(Generic[OwnerT]):
    """Decide who holds a phase-fair lock; every method is one transition, without waiting.

    Owners are any hashable values. A transition answers with the owners that it let in, in the order
    in which they came; they hold the lock already when it returns.
    """

    __slots__ = (
        "peak_readers",
        "peak_waiting",
        "readers",
        "waiting_readers",
        "waiting_writers",
        "writer",
    )

    def __init__(self) -> None:
        # Invariant: `readers` is empty or `writer` is None.
        # Invariant: an owner is in at most one of readers, writer, waiting_readers, waiting_writers.
        self.readers: set[OwnerT] = set()
        self.writer: OwnerT | None = None
        # Invariant: nobody waits for a free lock; readers wait only while a writer holds or waits.
        # Dicts for their order of arrival with removal from the middle in O(1).
        self.waiting_readers: dict[OwnerT, None] = {}
        self.waiting_writers: dict[OwnerT, None] = {}
        self.peak_readers = 0
        self.peak_waiting = 0

    def may_read(self) -> bool:
        """Tell whether a reader that comes now enters at once."""
        return self.writer is None and not self.waiting_writers

    def may_write(self) -> bool:
        """Tell whether a writer that comes now enters at once."""
        return self.writer is None and not self.readers

    def refuse_reentry(self, owner: OwnerT, *, writing: bool) -> None:
        """Raise RuntimeError, with the cure, if *owner* holds the lock already."""
        if owner in self.readers:
            if writing:
                raise RuntimeError(
                    "this task holds the lock for reading and asks for writing: two tasks that"
                    " upgrade at once would wait for each other for ever. Release the read hold"
                    " first and look again at what it guarded, or acquire for writing from the"
                    " start and downgrade()"
                )
            raise RuntimeError(
                "this task holds the lock for reading already: a second acquire deadlocks as soon"
                " as a writer waits in between. Acquire once, around both uses"
            )
        if owner == self.writer:
            raise RuntimeError(
                "this task holds the lock for writing already, which includes reading: acquire"
                " once, around both uses, or call downgrade() to let other readers in"
            )

    def ask_read(self, owner: OwnerT) -> bool:
        """Let *owner* in as a reader and answer True, or queue it and answer False."""
        self.refuse_reentry(owner, writing=False)
        if not self.may_read():
            self._queue(self.waiting_readers, owner)
            return False
        self._enter_reading((owner,))
        return True

    def ask_write(self, owner: OwnerT) -> bool:
        """Let *owner* in as the writer and answer True, or queue it and answer False."""
        self.refuse_reentry(owner, writing=True)
        if not self.may_write():
            self._queue(self.waiting_writers, owner)
            return False
        self.writer = owner
        return True

    def give_up(self, owner: OwnerT) -> tuple[OwnerT, ...]:
        """Undo an ask of *owner*, whether it still waits or was let in since."""
        if owner in self.waiting_readers:
            del self.waiting_readers[owner]
            return ()
        if owner in self.waiting_writers:
            del self.waiting_writers[owner]
            # It may have been the only writer that these readers stood behind.
            return self._admit_readers() if self.may_read() else ()
        return self.release(owner)

    def release(self, owner: OwnerT) -> tuple[OwnerT, ...]:
        """End the hold of *owner*, of either kind; RuntimeError if it has none."""
        if owner == self.writer:
            return self.release_write(owner)
        return self.release_read(owner)

    def release_read(self, owner: OwnerT) -> tuple[OwnerT, ...]:
        """End the read hold of *owner*; the last one out lets the next writer in."""
        if owner not in self.readers:
            raise RuntimeError(
                "this task does not hold the lock for reading: it was released already, or"
                " another task acquired it; the task that acquired it must release it"
            )
        self.readers.remove(owner)
        # No look at waiting readers: in a read phase they wait only behind a waiting writer.
        return () if self.readers else self._admit_writer()

    def release_write(self, owner: OwnerT) -> tuple[OwnerT, ...]:
        """End the write hold of *owner*; all waiting readers go in, or else the next writer."""
        self._check_writer(owner)
        self.writer = None
        return self._admit_readers() or self._admit_writer()

    def downgrade(self, owner: OwnerT) -> tuple[OwnerT, ...]:
        """Turn the write hold of *owner* into a read hold; all waiting readers go in with it."""
        self._check_writer(owner)
        self.writer = None
        self._enter_reading((owner,))
        return self._admit_readers()

    def _check_writer(self, owner: OwnerT) -> None:
        if owner != self.writer:
            raise RuntimeError(
                "this task does not hold the lock for writing: it was released or downgraded"
                " already, or another task acquired it; the task that acquired it must release it"
            )

    def _queue(self, queue: dict[OwnerT, None], owner: OwnerT) -> None:
        queue[owner] = None
        waiting = len(self.waiting_readers) + len(self.waiting_writers)
        self.peak_waiting = max(self.peak_waiting, waiting)

    def _enter_reading(self, owners: tuple[OwnerT, ...]) -> None:
        self.readers.update(owners)
        self.peak_readers = max(self.peak_readers, len(self.readers))

    def _admit_readers(self) -> tuple[OwnerT, ...]:
        admitted = tuple(self.waiting_readers)
        self.waiting_readers.clear()
        self._enter_reading(admitted)
        return admitted

    def _admit_writer(self) -> tuple[OwnerT, ...]:
        if not self.waiting_writers:
            return ()
        self.writer = next(iter(self.waiting_writers))
        del self.waiting_writers[self.writer]
        return (self.writer,)


@final
class ReadWriteLock:
    """Let many tasks read or one task write, in fair turns; on asyncio and on trio.

    The policy is phase-fair: a waiting writer lets the readers that are in finish, readers who come
    meanwhile queue behind it, and when a writer ends, all readers waiting at that moment go in
    before the next writer. Neither readers nor writers starve. Every operation is O(1), except that
    letting in a phase of n readers is O(n).

    The task that acquires must release, and no task can hold the lock twice: a second acquire raises
    at once instead of deadlocking when a writer happens to wait. A lock belongs to one event loop and
    isn't thread-safe.

    A lock that is held across I/O makes a convoy: one slow reader holds the next writer up, and every
    reader that comes after queues behind that writer. Where that hurts, use a `RangeMap`, whose readers never
    wait.

    Example:
        >>> async def main() -> None:
        ...     lock = ReadWriteLock()
        ...     async with lock.read():
        ...         print(lock.statistics().readers)
        ...     async with lock.write():
        ...         lock.downgrade()
        ...         print(lock.statistics().readers)
        >>> anyio.run(main)
        1
        1
    """

    __slots__ = ("__weakref__", "_phases", "_wakeups")

    def __init__(self) -> None:
        self._phases: Phases[anyio.TaskInfo] = Phases()
        # Invariant: has one event for each task that waits in `_phases`, and no other, whenever no
        # method of this class is running: a task's event goes when its wait ends either way.
        self._wakeups: dict[anyio.TaskInfo, anyio.Event] = {}

    def read(self) -> AbstractAsyncContextManager[None]:
        """Return an async context manager that holds the lock for reading.

        Entering it is `acquire_read` with all that it says of waiting, cancellation and errors.
        Leaving it is not a checkpoint.
        """
        return _Hold(self.acquire_read, self.release_read)

    def write(self) -> AbstractAsyncContextManager[None]:
        """Return an async context manager that holds the lock for writing.

        Entering it is `acquire_write` with all that it says of waiting, cancellation and errors.
        `downgrade` may be called inside; leaving it releases whichever hold is left, and is not a
        checkpoint.
        """
        # Not release_write: the body may have called downgrade().
        return _Hold(self.acquire_write, self._release)

    async def acquire_read(self) -> None:
        """Wait until no writer holds the lock or waits for it before us, and hold it for reading.

        Always a checkpoint. A cancelled call does not hold the lock and has left the queue.

        Raises:
            RuntimeError: This task holds the lock already, for reading or for writing.
        """
        await self._acquire(self._phases.ask_read)

    async def acquire_write(self) -> None:
        """Wait until it is our turn and nobody else holds the lock, and hold it for writing.

        Always a checkpoint. A cancelled call does not hold the lock and has left the queue; readers
        that waited only behind it are let in at once.

        Raises:
            RuntimeError: This task holds the lock already, for reading or for writing.
        """
        await self._acquire(self._phases.ask_write)

    def acquire_read_nowait(self) -> None:
        """Hold the lock for reading if that needs no waiting.

        Raises:
            anyio.WouldBlock: A writer holds the lock or waits for it.
            RuntimeError: This task holds the lock already, for reading or for writing.
        """
        task = anyio.get_current_task()
        self._phases.refuse_reentry(task, writing=False)
        if not self._phases.may_read():
            raise anyio.WouldBlock
        self._phases.ask_read(task)

    def acquire_write_nowait(self) -> None:
        """Hold the lock for writing if that needs no waiting.

        Raises:
            anyio.WouldBlock: Another task holds the lock.
            RuntimeError: This task holds the lock already, for reading or for writing.
        """
        task = anyio.get_current_task()
        self._phases.refuse_reentry(task, writing=True)
        if not self._phases.may_write():
            raise anyio.WouldBlock
        self._phases.ask_write(task)

    def release_read(self) -> None:
        """Stop reading; the last reader out lets the next writer in.

        Raises:
            RuntimeError: This task does not hold the lock for reading.
        """
        self._wake(self._phases.release_read(anyio.get_current_task()))

    def release_write(self) -> None:
        """Stop writing; all waiting readers go in, or else the next writer.

        Raises:
            RuntimeError: This task does not hold the lock for writing.
        """
        self._wake(self._phases.release_write(anyio.get_current_task()))

    def downgrade(self) -> None:
        """Turn this task's write hold into a read hold, with no moment in between.

        No other writer can get in before this task's reading ends. All readers waiting now go in
        with it.

        Raises:
            RuntimeError: This task does not hold the lock for writing.
        """
        self._wake(self._phases.downgrade(anyio.get_current_task()))

    def statistics(self) -> ReadWriteLockStatistics:
        """Return who holds the lock and who waits for it, now."""
        phases = self._phases
        return ReadWriteLockStatistics(
            readers=len(phases.readers),
            writer=phases.writer,
            readers_waiting=len(phases.waiting_readers),
            writers_waiting=len(phases.waiting_writers),
            peak_readers=phases.peak_readers,
            peak_waiting=phases.peak_waiting,
        )

    def __repr__(self) -> str:
        now = self.statistics()
        if now.writer is not None:
            state = f"written by {now.writer.name!r}"
        elif now.readers:
            state = f"{now.readers} reading"
        else:
            state = "free"
        waiting = f"{now.readers_waiting} readers and {now.writers_waiting} writers waiting"
        return f"<aspf.ReadWriteLock at {id(self):#x}, {state}, {waiting}>"

    async def _acquire(self, ask: Callable[[anyio.TaskInfo], bool]) -> None:
        await checkpoint_if_cancelled()
        task = anyio.get_current_task()
        if ask(task):
            wait = cancel_shielded_checkpoint
        else:
            self._wakeups[task] = event = anyio.Event()
            wait = event.wait
        try:
            await wait()
        except BaseException:
            # Also for a task that was let in before the cancellation reached it: asyncio can throw
            # into a task between its wake-up and its next step, and into the shielded checkpoint.
            self._wakeups.pop(task, None)
            self._wake(self._phases.give_up(task))
            raise

    def _release(self) -> None:
        self._wake(self._phases.release(anyio.get_current_task()))

    def _wake(self, admitted: tuple[anyio.TaskInfo, ...]) -> None:
        for task in admitted:
            self._wakeups.pop(task).set()


class _Hold:
    """Acquire on entry and release on exit; stateless, so it can be kept and used again."""

    __slots__ = ("_acquire", "_release")

    def __init__(self, acquire: Callable[[], Awaitable[None]], release: Callable[[], None]) -> None:
        self._acquire = acquire
        self._release = release

    async def __aenter__(self) -> None:
        await self._acquire()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()
