"""The locks of the model: the read-write semaphore and the spinlock, one cell each.

Neither is fair. A fair lock admits fewer interleavings, so what holds under these holds under a
fair one; and a schedule that starves a task is a schedule like any other to the explorer.
"""

from __future__ import annotations

from typing import Final, final

from aspf.race import Cell

__all__ = ("RwSemaphore", "SpinLock")

_WRITER: Final = -1


@final
class RwSemaphore:
    """Many readers or one writer.

    Source: ``struct rw_semaphore`` of Linux, include/linux/rwsem.h.

    Args:
        name: What diagrams call it.
    """

    __slots__ = ("_holders",)

    def __init__(self, name: str) -> None:
        # Invariant: the number of readers, or -1 while a writer holds it.
        self._holders: Final[Cell[int]] = Cell(0, name)

    @property
    def locked(self) -> bool:
        """Whether anybody holds it now (no access: for tests and reprs)."""
        return self._holders.peek() != 0

    async def down_read(self) -> None:
        """Wait until no writer holds it, and hold it with the other readers."""
        await self._holders.update_when(lambda holders: holders >= 0, lambda holders: holders + 1)

    async def up_read(self) -> None:
        """Let go of a read hold."""
        await self._holders.update(_without_reader)

    async def down_write(self) -> None:
        """Wait until nobody holds it, and hold it alone."""
        await self._holders.update_when(lambda holders: holders == 0, lambda _: _WRITER)

    async def up_write(self) -> None:
        """Let go of the write hold."""
        await self._holders.update(lambda holders: _without_writer(holders, 0))

    async def downgrade_write(self) -> None:
        """Turn the write hold into a read hold in one step, so that no writer gets between."""
        await self._holders.update(lambda holders: _without_writer(holders, 1))

    def __repr__(self) -> str:
        return f"<RwSemaphore {self._holders.name!r} holders={self._holders.peek()}>"


@final
class SpinLock:
    """One holder; who comes later waits.

    Source: ``spinlock_t`` of Linux. A task that spins does nothing another could see, so the
    model blocks it instead.

    Args:
        name: What diagrams call it.
    """

    __slots__ = ("_held",)

    def __init__(self, name: str) -> None:
        self._held: Final[Cell[bool]] = Cell(False, name)

    @property
    def locked(self) -> bool:
        """Whether anybody holds it now (no access: for tests and reprs)."""
        return self._held.peek()

    async def spin_lock(self) -> None:
        """Wait until nobody holds it, and hold it."""
        await self._held.update_when(lambda held: not held, lambda _: True)

    async def spin_unlock(self) -> None:
        """Let go of it."""
        await self._held.update(_unlocked)

    def __repr__(self) -> str:
        return f"<SpinLock {self._held.name!r} locked={self.locked}>"


def _without_reader(holders: int) -> int:
    if holders <= 0:
        raise RuntimeError("up_read of a semaphore that no reader holds: down_read it first")
    return holders - 1


def _without_writer(holders: int, left: int) -> int:
    if holders != _WRITER:
        raise RuntimeError("the semaphore is not held by a writer: down_write it first")
    return left


def _unlocked(held: bool) -> bool:  # noqa: FBT001 - the cell's value
    if not held:
        raise RuntimeError("spin_unlock of a lock that nobody holds: spin_lock it first")
    return False
