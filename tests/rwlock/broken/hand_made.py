"""Our lock with one line wrong, each as somebody who maintains it might write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from aspf._rwlock import Phases, ReadWriteLock

if TYPE_CHECKING:
    from collections.abc import Callable


class DropsTheRecheck(ReadWriteLock):
    """Look whether the lock is free, yield, and take it without another look."""

    async def _acquire(self, ask: Callable[[anyio.TaskInfo], bool]) -> None:
        reading = ask == self._phases.ask_read
        free = self._phases.may_read() if reading else self._phases.may_write()
        if not free:
            await super()._acquire(ask)
            return
        await checkpoint()
        task = anyio.get_current_task()
        if reading:
            self._phases.readers.add(task)
        else:
            self._phases.writer = task


class WakesTheWrongWaiter(ReadWriteLock):
    """Set the event of whoever waits longest, not of whom the lock was given to."""

    def _wake(self, admitted: tuple[anyio.TaskInfo, ...]) -> None:
        for _ in admitted:
            self._wakeups.pop(next(iter(self._wakeups))).set()


class PutsBeforeTheUse(ReadWriteLock):
    """Let a reader release when it is in, as if a snapshot were all it wanted."""

    async def acquire_read(self) -> None:
        await super().acquire_read()
        super().release_read()

    def release_read(self) -> None:
        """Nothing is left to do."""


class WritersFirst(Phases[anyio.TaskInfo]):
    """End a write phase with the next writer, though readers wait."""

    def release_write(self, owner: anyio.TaskInfo) -> tuple[anyio.TaskInfo, ...]:
        self._check_writer(owner)
        self.writer = None
        return self._admit_writer() or self._admit_readers()


class SettlesOutOfOrder(ReadWriteLock):
    """The lock of those phases: readers wait for every writer there is."""

    def __init__(self) -> None:
        super().__init__()
        self._phases = WritersFirst()


class SwallowsTheCancellation(ReadWriteLock):
    """Leave the line when cancelled, and let the caller go on as if it held the lock."""

    async def _acquire(self, ask: Callable[[anyio.TaskInfo], bool]) -> None:
        await checkpoint_if_cancelled()
        task = anyio.get_current_task()
        if ask(task):
            await cancel_shielded_checkpoint()
            return
        self._wakeups[task] = woken = anyio.Event()
        try:
            await woken.wait()
        except BaseException:  # noqa: BLE001 - the mistake
            self._wakeups.pop(task, None)
            self._wake(self._phases.give_up(task))


class DowngradesInTwoSteps(ReadWriteLock):
    """Stop writing and ask to read: a writer can be in between."""

    def downgrade(self) -> None:
        self.release_write()
        self._phases.ask_read(anyio.get_current_task())


class ForgetsTheEvent(ReadWriteLock):
    """Leave the line when cancelled, but keep the event."""

    async def _acquire(self, ask: Callable[[anyio.TaskInfo], bool]) -> None:
        await checkpoint_if_cancelled()
        task = anyio.get_current_task()
        if ask(task):
            await cancel_shielded_checkpoint()
            return
        self._wakeups[task] = woken = anyio.Event()
        try:
            await woken.wait()
        except BaseException:
            self._wake(self._phases.give_up(task))
            raise
