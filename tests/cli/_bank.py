"""Programs that the tests of the command name, and what is no program."""

from __future__ import annotations

import trio

from aspf.race import Cell

number = 3


async def withdrawals() -> None:
    """Two withdrawals that read the balance before either writes it."""
    balance = 100

    async def withdraw(amount: int) -> None:
        nonlocal balance
        seen = balance
        await trio.lowlevel.checkpoint()
        balance = seen - amount

    async with trio.open_nursery() as nursery:
        nursery.start_soon(withdraw, 10)
        nursery.start_soon(withdraw, 20)
    assert balance == 70, f"balance {balance}"


async def repaired() -> int:
    """The same with one access."""
    balance = Cell(100, "balance")
    async with trio.open_nursery() as nursery:
        for amount in (10, 20):
            nursery.start_soon(balance.update, lambda seen, amount=amount: seen - amount)
    return balance.peek()


async def endless() -> None:
    """Far too many schedules for any test."""
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(trio.lowlevel.checkpoint)


async def talks() -> None:
    """Does real I/O."""
    await trio.to_thread.run_sync(lambda: None)


class Callable_:  # noqa: N801
    async def __call__(self) -> None:
        await repaired()


instance = Callable_()


def not_async() -> None: ...


async def generator():
    yield


async def needs(a, b, c=1) -> None: ...
