"""Cells under plain trio (pytest-trio runs these), and what an access is."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from aspf.race import Atomic, Cell, Lifetime, UseAfterFree, explore, note


@pytest.mark.trio
async def test_values() -> None:
    """An operation that returns the wrong end of a read-modify-write breaks every protocol."""
    cell = Cell(1, "cell")
    assert await cell.get() == 1
    await cell.set(2)
    assert await cell.update(lambda value: value + 3) == 5
    assert await cell.wait_until(lambda value: value == 5) == 5
    assert await cell.update_when(lambda value: value == 5, lambda _: 0) == 0
    assert cell.peek() == 0
    cell.poke(9)
    assert cell.peek() == 9


@pytest.mark.trio
async def test_atomic_is_the_kernels() -> None:
    """atomic_inc_not_zero accepts negatives: one of the mail's races is made of that."""
    count = Atomic(1, "count")
    assert await count.inc_return() == 2
    assert await count.dec_return() == 1
    assert await count.add_return(5) == 6
    assert await count.sub_return(6) == 0
    assert not await count.inc_not_zero()
    assert count.peek() == 0
    count.poke(-1)
    assert await count.inc_not_zero()
    assert count.peek() == 0


@pytest.mark.trio
async def test_every_access_is_a_checkpoint() -> None:
    """An access that doesn't yield is no scheduling point under plain trio."""
    memory = Lifetime("memory")
    count = Atomic(0, "count", lifetime=memory)
    for access in (
        count.get,
        lambda: count.set(0),
        lambda: count.update(abs),
        lambda: count.wait_until(lambda value: value == 0),
        lambda: count.update_when(lambda value: value == 0, abs),
        lambda: count.add_return(0),
        lambda: count.sub_return(0),
        count.inc_not_zero,
        count.inc_return,
        count.dec_return,
        memory.free,
    ):
        with assert_checkpoints():
            await access()


@pytest.mark.trio
async def test_a_cancelled_access_did_not_happen() -> None:
    """A write that happened although it raised Cancelled would be done twice by a careful caller."""
    memory = Lifetime("memory")
    cell = Cell(0, "cell", lifetime=memory)
    with trio.CancelScope() as scope:
        scope.cancel()
        await cell.set(1)
    with trio.move_on_after(0):
        await memory.free()
    assert cell.peek() == 0
    assert not memory.freed


@pytest.mark.parametrize("how", ["set", "poke"])
@pytest.mark.trio
async def test_waiting_really_waits(how: str) -> None:
    """Without an explorer nobody else evaluates the condition: the writer must wake the waiter."""
    cell = Cell(0, "cell")
    got: list[int] = []

    async def wait() -> None:
        got.append(await cell.update_when(lambda value: value > 1, lambda value: value * 10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await cell.set(1)
        await wait_all_tasks_blocked()
        assert not got
        if how == "set":
            await cell.set(2)
        else:
            cell.poke(2)
    assert got == [20, 200]


@pytest.mark.trio
async def test_free_wakes_who_waits() -> None:
    """A task that waits for a freed cell for ever hides the use after free."""
    memory = Lifetime("memory")
    cell = Cell(0, "cell", lifetime=memory)

    async def wait() -> None:
        with pytest.raises(UseAfterFree, match="'cell', which lived in 'memory',"):
            await cell.wait_until(bool)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await memory.free()
    with pytest.raises(UseAfterFree, match=r"^'memory' was touched"):
        await memory.free()
    with pytest.raises(UseAfterFree):
        await cell.set(1)
    assert cell.peek() == 0


def test_repr_shows_live_state() -> None:
    """A diagram or a debugger that shows stale state misleads."""
    memory = Lifetime("vma")
    cell = Cell("x", "vma.vm_flags", lifetime=memory)
    assert repr(cell) == "<Cell 'vma.vm_flags' = 'x'>"
    assert repr(memory) == "<Lifetime 'vma'>"
    trio.run(memory.free)
    assert repr(cell) == "<Cell 'vma.vm_flags' = 'x' freed>"
    assert repr(memory) == "<Lifetime 'vma' freed>"
    assert repr(Atomic(3, "n")) == "<Atomic 'n' = 3>"


def test_note_is_free_when_nothing_records() -> None:
    """It may stand in code that runs without an explorer, and outside any event loop."""
    note("nobody listens")


def test_waiting_for_freed_memory_under_an_explorer() -> None:
    """The waiter must wake to its own error, and not be reported as a deadlock."""

    async def program() -> None:
        memory = Lifetime("memory")
        cell = Cell(0, "cell", lifetime=memory)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cell.wait_until, bool)
            nursery.start_soon(memory.free)

    failures = explore(program, shared="cells", stop_on_failure=False, search="exhaustive").failures
    assert [failure.kind for failure in failures] == ["error"]
    assert isinstance(failures[0].error, UseAfterFree)


def test_a_condition_that_raises_raises_in_its_task() -> None:
    """The explorer evaluates conditions; an error in one is the task's, not the explorer's."""

    async def program() -> str:
        cell = Cell(0, "cell")
        try:
            await cell.wait_until(lambda value: 1 // value == 1)
        except ZeroDivisionError:
            return "raised"
        return "not raised"

    assert list(explore(program, search="exhaustive").outcomes) == ["'raised'"]
