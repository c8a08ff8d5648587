"""Wait queues, RCU and locks, under plain trio and with every interleaving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from aspf.lab import Rcu, RwSemaphore, SpinLock, WaitQueue, wait_event
from aspf.race import Cell, explore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def explored(program: Callable[[], Awaitable[object]]) -> list[str]:
    """Run every schedule; return the kinds of failure, sorted."""
    report = explore(
        program, name="machine", shared="cells", stop_on_failure=False, search="exhaustive"
    )
    assert report.exhausted
    return sorted(failure.kind for failure in report.failures)


def sleeper_and_waker(*, ask_first: bool) -> Callable[[], Awaitable[None]]:
    """One task waits for a flag; the other sets it and wakes, in the right order or not."""

    async def program() -> None:
        flag, queue = Cell(False, "flag"), WaitQueue("queue")

        async def waker() -> None:
            active = ask_first and await queue.waitqueue_active()
            await flag.set(True)
            if active or (not ask_first and await queue.waitqueue_active()):
                await queue.wake_up()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_event, queue, flag.get)
            nursery.start_soon(waker)
        assert repr(queue) == "<WaitQueue 'queue' waiters=0>"

    return program


def test_wait_event_loses_no_wake_up() -> None:
    """A sleeper that queues itself after its last look at the condition is found."""
    assert explored(sleeper_and_waker(ask_first=False)) == []


def test_a_waker_that_asks_before_it_changes_is_found() -> None:
    """A machine too coarse to show the lost wake-up of a wrong waker would prove nothing."""
    assert explored(sleeper_and_waker(ask_first=True)) == ["deadlock"]


def test_wait_event_sleeps_again_after_a_wake_up_for_nothing() -> None:
    """A wait that ends at the first wake-up, whatever the condition says, is found."""

    async def program() -> None:
        count, queue = Cell(0, "count"), WaitQueue("queue")

        async def two() -> bool:
            return await count.get() == 2

        async def waker() -> None:
            for _ in range(2):
                await count.update(lambda n: n + 1)
                await queue.wake_up()

        async def waiter() -> None:
            await wait_event(queue, two)
            assert count.peek() == 2

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            nursery.start_soon(waker)

    assert explored(program) == []
    trio.run(program)


def test_synchronize_rcu_waits_for_a_reader_that_was_there() -> None:
    """A grace period that ends while a reader still uses what it found is found."""

    async def program() -> None:
        rcu = Rcu(2)
        linked, freed = Cell(True, "linked"), Cell(False, "freed")

        async def reader() -> None:
            cpu = rcu.cpus[0]
            await cpu.rcu_read_lock()
            await cpu.rcu_read_lock()
            found = await linked.get()
            await cpu.rcu_read_unlock()
            assert not (found and await freed.get())
            await cpu.rcu_read_unlock()

        async def writer() -> None:
            await linked.set(False)
            await rcu.cpus[1].synchronize_rcu()
            await freed.set(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            nursery.start_soon(writer)

    assert explored(program) == []


def test_synchronize_rcu_does_not_wait_for_a_reader_that_came_later() -> None:
    """A grace period that a stream of new readers can hold up for ever is found."""

    async def main() -> None:
        rcu = Rcu(2)
        reader, writer = rcu.cpus
        await reader.rcu_read_lock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.synchronize_rcu)
            await trio.testing.wait_all_tasks_blocked()
            await reader.rcu_read_unlock()
            await reader.rcu_read_lock()
        assert reader.in_read_section
        assert repr(rcu) == "<Rcu cpus=2 reading=[0]>"
        assert repr(reader) == "<Cpu 0 reading=True>"

    trio.run(main)


def test_wrong_use_of_rcu_says_what_to_do() -> None:
    """An unlock without a lock, or a wait for oneself, that goes unnoticed is found."""
    cpu = Rcu(1).cpus[0]
    with pytest.raises(RuntimeError, match="needs an rcu_read_lock before"):
        trio.run(cpu.rcu_read_unlock)
    trio.run(cpu.rcu_read_lock)
    with pytest.raises(RuntimeError, match="leave the section first"):
        trio.run(cpu.synchronize_rcu)


def test_semaphore_keeps_writers_from_everybody() -> None:
    """A writer beside a reader, beside another writer, or lost in a downgrade is found."""

    async def program() -> None:
        sem, inside = RwSemaphore("sem"), {"readers": 0, "writers": 0}

        async def read() -> None:
            await sem.down_read()
            inside["readers"] += 1
            assert inside["writers"] == 0
            await trio.lowlevel.checkpoint()
            inside["readers"] -= 1
            await sem.up_read()

        async def write(*, downgrade: bool) -> None:
            await sem.down_write()
            inside["writers"] += 1
            assert inside == {"readers": 0, "writers": 1}
            inside["writers"] -= 1
            if downgrade:
                await sem.downgrade_write()
                assert inside["writers"] == 0
                await sem.up_read()
            else:
                await sem.up_write()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(lambda: write(downgrade=True), name="downgrader")
            nursery.start_soon(lambda: write(downgrade=False), name="writer")
        assert not sem.locked
        assert repr(sem) == "<RwSemaphore 'sem' holders=0>"

    trio.run(program)
    report = explore(
        program, name="machine", stop_on_failure=False, schedules=300, search="exhaustive"
    )
    assert report.failures == ()


def test_spin_lock_has_one_holder() -> None:
    """Two holders at once, or a lock that stays taken, are found."""

    async def program() -> None:
        lock, counter = SpinLock("lock"), Cell(0, "counter")

        async def count() -> None:
            await lock.spin_lock()
            await counter.set(await counter.get() + 1)
            await lock.spin_unlock()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            nursery.start_soon(count)
        assert counter.peek() == 2
        assert repr(lock) == "<SpinLock 'lock' locked=False>"

    assert explored(program) == []


@pytest.mark.parametrize(
    "release",
    [
        RwSemaphore("sem").up_read,
        RwSemaphore("sem").up_write,
        RwSemaphore("sem").downgrade_write,
        SpinLock("lock").spin_unlock,
    ],
)
def test_letting_go_of_what_nobody_holds_is_an_error(
    release: Callable[[], Awaitable[None]],
) -> None:
    """A count that goes wrong in silence, and lets two writers in much later, is found."""
    with pytest.raises(RuntimeError, match="it first"):
        trio.run(release)
