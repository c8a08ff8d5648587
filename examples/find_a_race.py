"""Find a lost update: two tasks read a counter, add one, and write it back.

Run as an ordinary program it is right almost always. `check` tries every order of the two tasks'
accesses, stops at the first that breaks the assertion, and shows it.
"""

from __future__ import annotations

import trio

from aspf.race import Atomic, Cell, RaceFound, check


async def two_increments_of_a_cell() -> int:
    """Add one twice; each read and each write is a step of its own."""
    counter = Cell(0, "counter")

    async def increment() -> None:
        value = await counter.get()
        await counter.set(value + 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(increment, name="CPU 0")
        nursery.start_soon(increment, name="CPU 1")
    assert counter.peek() == 2, f"two increments made {counter.peek()}"
    return counter.peek()


async def two_increments_of_an_atomic() -> int:
    """Add one twice; read and write are one step."""
    counter = Atomic(0, "counter")

    async def increment() -> None:
        await counter.inc_return()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(increment, name="CPU 0")
        nursery.start_soon(increment, name="CPU 1")
    assert counter.peek() == 2, f"two increments made {counter.peek()}"
    return counter.peek()


def main() -> None:
    """Check both."""
    try:
        check(two_increments_of_a_cell, shared="cells", search="exhaustive")
    except RaceFound as found:
        print(found)

    print()
    exploration = check(two_increments_of_an_atomic, shared="cells", search="exhaustive")
    print(
        f"With an atomic counter: {exploration.schedules} schedules, "
        f"exhausted: {exploration.exhausted}, failures: {len(exploration.failures)}"
    )


if __name__ == "__main__":
    main()
