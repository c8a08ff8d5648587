"""A condition variable whose cancelled waiter takes a wake-up along, and its repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from aspf.race import may_cancel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Condition:
    """anyio 4.12.1's, in short: who was notified and is cancelled takes the wake-up along."""

    def __init__(self, *, hands_on: bool) -> None:
        self.lock = trio.Lock()
        self._waiters: list[trio.Event] = []
        self._hands_on = hands_on

    async def wait(self) -> None:
        """Wait to be notified; anyio PR #1075 has repaired what a cancelled waiter does."""
        event = trio.Event()
        self._waiters.append(event)
        self.lock.release()
        try:
            await event.wait()
        except trio.Cancelled:
            if not event.is_set():
                self._waiters.remove(event)
            elif self._hands_on:
                self.notify()
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self.lock.acquire()

    def notify(self) -> None:
        """Wake the first that waits."""
        if self._waiters:
            self._waiters.pop(0).set()


def two_wait(*, hands_on: bool) -> Callable[[], Awaitable[object]]:
    """Two wait for the door to be opened, each wakes the next; one of them may be cancelled."""

    async def lost_notification() -> None:
        condition = Condition(hands_on=hands_on)
        is_open = False

        async def enter() -> None:
            async with condition.lock:
                while not is_open:
                    await condition.wait()
                condition.notify()

        async def impatient() -> None:
            with may_cancel():
                await enter()

        async def open_the_door() -> None:
            nonlocal is_open
            async with condition.lock:
                is_open = True
                condition.notify()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            nursery.start_soon(enter, name="patient")
            nursery.start_soon(open_the_door)

    return lost_notification
