"""P2: a waiter that has been given the lock has been cancelled meanwhile, and nobody gets it after that."""

from __future__ import annotations

from functools import partial

import trio

from aspf.race import explore, note


class DropsTheBaton:
    """A lock that is handed over."""

    def __init__(self) -> None:
        self.held = False
        self.waiting: list[trio.Event] = []

    async def acquire(self) -> None:
        if not self.held:
            self.held = True
            return
        given = trio.Event()
        self.waiting.append(given)
        try:
            await given.wait()
        except trio.Cancelled:
            self.give_up(given)
            raise

    def give_up(self, given: trio.Event) -> None:
        # Bug: if it is not in the queue any more, it has the lock.
        if given in self.waiting:
            self.waiting.remove(given)

    def release(self) -> None:
        if self.waiting:
            self.waiting.pop(0).set()
        else:
            self.held = False


class PassesItOn(DropsTheBaton):
    """Who gives up with the lock in hand gives it to the next."""

    def give_up(self, given: trio.Event) -> None:
        if given.is_set():
            self.release()
        else:
            self.waiting.remove(given)


async def program(make: type[DropsTheBaton]) -> None:
    """Three tasks, one of which may be cancelled anywhere."""
    lock = make()

    async def work() -> None:
        await lock.acquire()
        note("has the lock")
        try:
            await trio.lowlevel.checkpoint()
        finally:
            note("hands it on")
            lock.release()

    async with trio.open_nursery() as nursery:
        for name in "ABC":
            nursery.start_soon(work, name=f"task {name}")


if __name__ == "__main__":
    for make in (DropsTheBaton, PassesItOn):
        print(
            explore(partial(program, make), name=make.__name__, cancel="each", search="exhaustive")
        )
