"""P10: a pin is taken back twice, once where the error is handled and once at the end."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class UnpinsTwice:
    """A block of memory that is freed when nobody has it pinned."""

    def __init__(self) -> None:
        self.pins = 0
        self.freed = False

    def unpin(self) -> None:
        self.pins -= 1
        self.freed = self.pins == 0
        note("unpins, the block is freed" if self.freed else "unpins")

    async def use(self, fails: bool) -> None:
        try:
            await trio.lowlevel.checkpoint()
            assert not self.freed, "the block was freed under who had it pinned"
            if fails:
                raise OSError
        except OSError:
            # Bug: so does the `finally`.
            self.unpin()
        finally:
            self.unpin()


class UnpinsOnce(UnpinsTwice):
    """A pin ends in one place."""

    async def use(self, fails: bool) -> None:
        try:
            await trio.lowlevel.checkpoint()
            assert not self.freed, "the block was freed under who had it pinned"
            if fails:
                raise OSError
        except OSError:
            note("fails")
        finally:
            self.unpin()


async def program(make: type[UnpinsTwice]) -> None:
    """Two tasks use a block, one of them in vain."""
    block = make()
    async with trio.open_nursery() as nursery:
        for fails in (False, True):
            block.pins += 1
            nursery.start_soon(block.use, fails, name="fails" if fails else "reads")


if __name__ == "__main__":
    for make in (UnpinsTwice, UnpinsOnce):
        print(explore(partial(program, make), name=make.__name__, search="exhaustive"))
