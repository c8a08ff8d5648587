"""P3: the clean-up of a cancelled call undoes what the call had not done yet."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore


class UndoesTooMuch:
    """A gate that counts who is inside."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.inside = 0

    async def visit(self) -> None:
        try:
            await self.open.wait()
            self.inside += 1
            await trio.lowlevel.checkpoint()
        finally:
            # Bug: who was cancelled in front of the gate was never inside.
            self.inside -= 1


class UndoesWhatItDid(UndoesTooMuch):
    """The ``try`` begins right after what its ``finally`` undoes."""

    async def visit(self) -> None:
        await self.open.wait()
        self.inside += 1
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self.inside -= 1


async def program(make: type[UndoesTooMuch]) -> None:
    """Two visitors, one of whom may give up anywhere."""
    gate = make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.visit, name="visitor A")
        nursery.start_soon(gate.visit, name="visitor B")
        await trio.lowlevel.checkpoint()
        gate.open.set()
    assert gate.inside == 0, f"the gate is shut, and {gate.inside} are inside"


if __name__ == "__main__":
    for make in (UndoesTooMuch, UndoesWhatItDid):
        print(
            explore(partial(program, make), name=make.__name__, cancel="each", search="exhaustive")
        )
