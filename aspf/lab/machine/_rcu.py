"""Read-copy-update: readers announce themselves to nobody but their own CPU; a writer waits.

Each CPU has a cell of its own that counts the boundaries of its read sections: odd inside, even
outside. Two readers therefore never touch the same memory, which is what makes the read side
cheap, and what keeps the model's readers independent of one another. `Cpu.synchronize_rcu` looks
at every other CPU once, and waits for those it finds inside *that* section to leave it. A section
that begins after the look is not waited for: its reader can't find what was unlinked before.

Nesting is counted by the CPU for itself, as the kernel does: only the outermost boundaries are
accesses to shared memory.
"""

from __future__ import annotations

from typing import Final, final

from aspf.race import Cell

__all__ = ("Cpu", "Rcu")


@final
class Rcu:
    """The read sections of all CPUs.

    Args:
        cpus: How many CPUs there are, at least 1.
    """

    __slots__ = ("cpus",)

    def __init__(self, cpus: int) -> None:
        self.cpus: Final = tuple(Cpu(self, number) for number in range(cpus))

    def __repr__(self) -> str:
        inside = [cpu.number for cpu in self.cpus if cpu.in_read_section]
        return f"<Rcu cpus={len(self.cpus)} reading={inside}>"


@final
class Cpu:
    """One CPU: the calls that a task makes in its own name.

    A task is a CPU, so no other task may use the same one.
    """

    __slots__ = ("_boundaries", "_nesting", "_rcu", "number")

    def __init__(self, rcu: Rcu, number: int) -> None:
        self._rcu = rcu
        self.number: Final = number
        # Invariant: odd exactly while this CPU is inside a read section.
        self._boundaries: Final[Cell[int]] = Cell(0, f"rcu[{number}]")
        # Private to the task: no other CPU ever looks at it.
        self._nesting = 0

    @property
    def in_read_section(self) -> bool:
        """Whether this CPU is inside a read section now (no access: for tests and reprs)."""
        return self._boundaries.peek() % 2 == 1

    async def rcu_read_lock(self) -> None:
        """Enter a read section. A nested one is no access to shared memory, and no checkpoint."""
        self._nesting += 1
        if self._nesting == 1:
            await self._boundaries.update(_next)

    async def rcu_read_unlock(self) -> None:
        """Leave the read section. Leaving a nested one is no checkpoint.

        Raises:
            RuntimeError: This CPU is in no read section.
        """
        if self._nesting == 0:
            raise RuntimeError(
                f"rcu_read_unlock on CPU {self.number}, which is in no read section: "
                "every unlock needs an rcu_read_lock before it"
            )
        self._nesting -= 1
        if self._nesting == 0:
            await self._boundaries.update(_next)

    async def synchronize_rcu(self) -> None:
        """Wait for a grace period: until every read section that is open now has been left.

        One access a CPU, and one more for each that is inside a read section.

        Raises:
            RuntimeError: This CPU is inside a read section, and would wait for itself.
        """
        if self._nesting:
            raise RuntimeError(
                f"synchronize_rcu on CPU {self.number} inside its own read section would wait "
                "for itself: leave the section first"
            )
        for cpu in self._rcu.cpus:
            if cpu is not self:
                await cpu.wait_until_left()

    async def wait_until_left(self) -> None:
        """Wait until this CPU has left the read section that it is in, if it is in one."""
        seen = await self._boundaries.get()
        if seen % 2 == 1:
            await self._boundaries.wait_until(lambda now: now != seen)

    def __repr__(self) -> str:
        return f"<Cpu {self.number} reading={self.in_read_section}>"


def _next(boundaries: int) -> int:
    return boundaries + 1
