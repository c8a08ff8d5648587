"""The kernel's wait queue: sleep until a condition holds, and be woken by whoever makes it hold.

Nothing is lost as long as both sides keep the order of the kernel. The waiter first queues itself
and *then* looks at the condition; the waker first changes what the condition reads and *then*
looks at the queue. Whichever of the two comes second sees the other. A waker that judges by a
value of its own instead of waking whoever is there (`vma_put` of the mail: only at one) breaks
the second half, and a sleeper stays asleep.

The kernel guards list and task state with the queue's spinlock. The model makes what happens
under that lock one access of one cell, so it has neither the lock nor its interleavings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from aspf.race import Cell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aspf.race import Lifetime

__all__ = ("WaitQueue", "Waiter", "wait_event")


@final
class Waiter:
    """One sleep of one task: what ``DEFINE_WAIT`` puts on the sleeper's stack.

    Args:
        name: The sleeping task's, for diagrams.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def __repr__(self) -> str:
        return self.name


@final
class WaitQueue:
    """The tasks that sleep until somebody calls `wake_up`.

    Source: ``wait_queue_head_t`` of Linux 2.6.33, kernel/wait.c.

    Args:
        name: What diagrams and errors call the queue.
        lifetime: The memory that the queue is part of; no part of it may be touched once freed.
    """

    __slots__ = ("_waiters",)

    def __init__(self, name: str, *, lifetime: Lifetime | None = None) -> None:
        # Invariant: a waiter is in here exactly while its task may sleep and has not been woken.
        self._waiters: Final[Cell[tuple[Waiter, ...]]] = Cell((), name, lifetime=lifetime)

    async def prepare_to_wait(self, waiter: Waiter) -> None:
        """Queue *waiter*, unless it is queued already. From here on a wake-up is not lost."""
        await self._waiters.update(lambda queued: queued if waiter in queued else (*queued, waiter))

    async def schedule(self, waiter: Waiter) -> None:
        """Sleep until *waiter* has been woken."""
        await self._waiters.wait_until(lambda queued: waiter not in queued)

    async def finish_wait(self, waiter: Waiter) -> None:
        """Take *waiter* off the queue, if no wake-up has taken it off before."""
        await self._waiters.update(
            lambda queued: tuple(other for other in queued if other is not waiter)
        )

    async def waitqueue_active(self) -> bool:
        """Say whether anybody is queued; no lock is taken."""
        return bool(await self._waiters.get())

    async def wake_up(self) -> None:
        """Wake everybody who is queued, and take them off the queue."""
        await self._waiters.set(())

    def __repr__(self) -> str:
        return f"<WaitQueue {self._waiters.name!r} waiters={len(self._waiters.peek())}>"


async def wait_event(queue: WaitQueue, condition: Callable[[], Awaitable[bool]]) -> None:
    """Sleep on *queue* until *condition* holds.

    The condition is evaluated once without the queue and then, whenever the task would sleep,
    after `WaitQueue.prepare_to_wait`: a wake-up between that look and the sleep is not lost.

    Source: the macro ``wait_event`` of Linux 2.6.33, include/linux/wait.h.

    Args:
        queue: Where to sleep; whoever makes the condition true must wake it.
        condition: Reads shared memory and answers whether the wait is over.
    """
    if await condition():
        return
    waiter = Waiter(trio.lowlevel.current_task().name)
    await queue.prepare_to_wait(waiter)
    while not await condition():
        await queue.schedule(waiter)
        await queue.prepare_to_wait(waiter)
    await queue.finish_wait(waiter)
