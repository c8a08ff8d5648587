"""Locks that lose or lend more than they have, as others have shipped them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from aspf._rwlock import Phases, ReadWriteLock

if TYPE_CHECKING:
    from collections.abc import Callable


class HandsNothingOver(Phases[anyio.TaskInfo]):
    """Tell whom to wake, but leave the lock free until they run."""

    def _admit_readers(self) -> tuple[anyio.TaskInfo, ...]:
        admitted = tuple(self.waiting_readers)
        self.waiting_readers.clear()
        return admitted

    def _admit_writer(self) -> tuple[anyio.TaskInfo, ...]:
        admitted = tuple(self.waiting_writers)[:1]
        for writer in admitted:
            del self.waiting_writers[writer]
        return admitted


class WakesWithoutHandOver(ReadWriteLock):
    """A woken task takes the lock when it runs, which others can do before it.

    aiorwlock had two writers so (its issues 235 and 236), and anyio's capacity limiter lent more
    tokens than it had (1170).
    """

    def __init__(self) -> None:
        super().__init__()
        self._phases = HandsNothingOver()

    async def _acquire(self, ask: Callable[[anyio.TaskInfo], bool]) -> None:
        await checkpoint_if_cancelled()
        task = anyio.get_current_task()
        if ask(task):
            await cancel_shielded_checkpoint()
            return
        self._wakeups[task] = woken = anyio.Event()
        await woken.wait()
        if ask == self._phases.ask_read:
            self._phases.readers.add(task)
        else:
            self._phases.writer = task


class PausesAfterWakeup(ReadWriteLock):
    """Stop once more between the wake-up and the return, where a cancellation can meet a holder.

    asyncio always has that moment; on trio it takes a checkpoint. Not broken: the control of the
    next one.
    """

    async def _acquire(self, ask: Callable[[anyio.TaskInfo], bool]) -> None:
        await checkpoint_if_cancelled()
        task = anyio.get_current_task()
        if ask(task):
            await cancel_shielded_checkpoint()
            return
        self._wakeups[task] = woken = anyio.Event()
        try:
            await woken.wait()
            await checkpoint()
        except BaseException:
            self._wakeups.pop(task, None)
            self._leave(task)
            raise

    def _leave(self, task: anyio.TaskInfo) -> None:
        self._wake(self._phases.give_up(task))


class DropsTheBaton(PausesAfterWakeup):
    """A cancelled task leaves the queue, and forgets that it may have been let in already."""

    def _leave(self, task: anyio.TaskInfo) -> None:
        self._phases.waiting_readers.pop(task, None)
        self._phases.waiting_writers.pop(task, None)


class NoWakeupOnGivingUp(Phases[anyio.TaskInfo]):
    """A writer that gives up wakes nobody as long as anybody holds the lock: aiorwlock 1.5.1."""

    def give_up(self, owner: anyio.TaskInfo) -> tuple[anyio.TaskInfo, ...]:
        """Leave the queue, and no more."""
        if owner in self.waiting_writers:
            del self.waiting_writers[owner]
            return ()
        return super().give_up(owner)

    def release_read(self, owner: anyio.TaskInfo) -> tuple[anyio.TaskInfo, ...]:
        """Let anybody in once the last reader has left, so that nobody sleeps for ever."""
        admitted = super().release_read(owner)
        return admitted or (() if self.readers else self._admit_readers())


class LeavesReadersAsleep(ReadWriteLock):
    """The lock of those phases."""

    def __init__(self) -> None:
        super().__init__()
        self._phases = NoWakeupOnGivingUp()
