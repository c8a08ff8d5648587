"""Where tasks are switched: at the level "contract", at points of the program's own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
import trio.testing
from _golden import check_golden
from race._programs import twostage_on_trio
from trio._core import _run

from aspf.race import ReplayDiverged, explore, may_cancel, point, record, replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GOLDEN = Path(__file__).parent / "golden"


def test_twostage_is_out_of_reach_at_the_level_free() -> None:
    """A lock of trio is taken before its acquire yields: nobody gets in between two locks."""
    everything = explore(twostage_on_trio, level="free", search="exhaustive")
    assert everything.exhausted
    assert not everything.failures


def test_twostage_fails_at_the_level_contract() -> None:
    """The documentation lets acquire yield first; one in twelve random schedules shows it."""
    found = explore(
        twostage_on_trio, level="contract", search="random", schedules=1_000, stop_on_failure=False
    )
    (failure,) = found.failures
    assert 60 < failure.count < 100
    assert found.level == "contract"
    assert found.headline().endswith("level: contract)")
    # The token knows the level: at another one its steps would mean something else.
    assert ":level=contract:" in failure.token
    again = replay(twostage_on_trio, failure.token)
    assert again is not None
    assert again.summary == failure.summary
    with pytest.raises(ReplayDiverged):
        replay(twostage_on_trio, failure.token.replace(":level=contract", ""))


def test_a_failure_at_the_level_contract_in_columns() -> None:
    """A reader must see before which call a task stood."""
    (failure,) = explore(
        twostage_on_trio, level="contract", minimise=True, search="exhaustive"
    ).failures
    assert failure.minimal is not None
    assert failure.minimal.fewest
    check_golden(GOLDEN / "contract.txt", str(failure))


async def _acquire(lock: Any) -> None:
    async with lock:
        pass


async def _exit_nursery(_: object) -> None:
    async with trio.open_nursery():
        pass


async def _exit_task_group(_: object) -> None:
    async with anyio.create_task_group():
        pass


async def _start(_: object) -> None:
    async def child(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(child)


async def _checkpoint(_: object) -> None:
    await trio.lowlevel.checkpoint()


async def _sleep(_: object) -> None:
    await trio.sleep(1)


async def _wait(condition: Any) -> None:
    async with condition:
        with trio.move_on_after(1):
            await condition.wait()


def _event(library: Any) -> Any:
    event = library.Event()
    event.set()
    return event


def _sender() -> Any:
    return trio.open_memory_channel[int](1)


CHECKPOINTS: dict[str, tuple[Callable[[], Any], Callable[[Any], Awaitable[None]], int]] = {
    "Event.wait": (lambda: _event(trio), lambda it: it.wait(), 1),
    "anyio.Event.wait": (lambda: _event(anyio), lambda it: it.wait(), 1),
    "Lock.acquire": (trio.Lock, _acquire, 1),
    "anyio.Lock.acquire": (anyio.Lock, _acquire, 1),
    "StrictFIFOLock.acquire": (trio.StrictFIFOLock, _acquire, 1),
    "Semaphore.acquire": (lambda: trio.Semaphore(1), _acquire, 1),
    "anyio.Semaphore.acquire": (lambda: anyio.Semaphore(1), _acquire, 1),
    "CapacityLimiter.acquire": (lambda: trio.CapacityLimiter(1), _acquire, 1),
    "CapacityLimiter.acquire_on_behalf_of": (
        lambda: trio.CapacityLimiter(1),
        lambda it: it.acquire_on_behalf_of("x"),
        1,
    ),
    "anyio.CapacityLimiter.acquire": (lambda: anyio.CapacityLimiter(1), _acquire, 1),
    "Condition.wait": (trio.Condition, _wait, 3),
    "anyio.Condition.wait": (anyio.Condition, _wait, 4),
    "send": (_sender, lambda it: it[0].send(1), 1),
    "receive": (_sender, lambda it: it[0].send_nowait(1) or it[1].receive(), 1),
    "aclose": (_sender, lambda it: it[0].aclose(), 1),
    "aclose of the receiver": (_sender, lambda it: it[1].aclose(), 1),
    "the nursery's end": (lambda: None, _exit_nursery, 1),
    "the task group's end": (lambda: None, _exit_task_group, 1),
    "Nursery.start": (lambda: None, _start, 3),
    "checkpoint": (lambda: None, _checkpoint, 0),
    "sleep": (lambda: None, _sleep, 0),
    "anyio's send": (
        lambda: anyio.create_memory_object_stream[int](1),
        lambda it: it[0].send(1),
        0,
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_documented_checkpoint_has_a_point(name: str) -> None:
    """Where one is missing, code that relies on today's trio passes at the level contract, too."""
    make, use, points = CHECKPOINTS[name]

    async def program() -> None:
        it = make()
        await use(it)
        for end in it if isinstance(it, tuple) else ():
            end.close()

    assert _steps(program, "contract") - _steps(program, "free") == points


def _steps(program: Callable[[], Awaitable[object]], level: str) -> int:
    (outcome,) = explore(program, level=level, search="exhaustive").outcomes.values()
    return len(record(program, outcome.token).turns)


def test_a_point_cannot_be_cancelled_by_itself() -> None:
    """The nursery's end must run, whatever happens before it; a lock isn't taken if cancelled."""

    async def program() -> object:
        lock = trio.Lock()
        with trio.CancelScope() as scope:
            scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await lock.acquire()
        return lock.locked(), scope.cancelled_caught, len(nursery.child_tasks)

    assert set(explore(program, level="contract", search="exhaustive").outcomes) == {
        "(False, True, 0)"
    }


# -- points of the program's own --------------------------------------------------------------------


async def withdrawals() -> int:
    """A balance that is read, and written back a moment later."""
    balance = 100

    async def withdraw(amount: int) -> None:
        nonlocal balance
        rest = balance - amount
        await point("subtracted")
        balance = rest

    async with trio.open_nursery() as nursery:
        nursery.start_soon(withdraw, 10)
        nursery.start_soon(withdraw, 20)
    if balance != 70:
        raise AssertionError(f"{balance} instead of 70")
    return balance


@pytest.mark.parametrize("level", ["free", "contract"])
def test_a_point_of_the_programs_own(level: str) -> None:
    """It is a switch at every level, and has its name in the diagram."""
    (failure,) = explore(withdrawals, level=level, search="exhaustive").failures
    shown = [event.text for event in failure.recording.events]
    assert "yields at the point 'subtracted'" in shown


def test_a_token_that_does_not_fit_names_the_point() -> None:
    """At night it is the name that tells where one stands."""
    message = r"possible: task 1 \(withdraw, at the point 'subtracted'\), task 2"
    with pytest.raises(ReplayDiverged, match=message):
        replay(withdrawals, "aspf1:withdrawals:0,1,7")


def test_a_point_is_a_checkpoint() -> None:
    """Without an exploration it yields and can be cancelled, as with one."""

    async def program() -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await point("never passed")
        return scope.cancelled_caught

    assert trio.run(program)
    assert set(explore(program, search="exhaustive").outcomes) == {"True"}

    async def yields() -> None:
        with trio.testing.assert_checkpoints():
            await point("here")

    trio.run(yields)


# -- levels below free -----------------------------------------------------------------------------


async def three_times_two() -> str:
    """Three tasks of two steps each."""
    order: list[str] = []

    async def work(name: str) -> None:
        order.append(name)
        await trio.lowlevel.checkpoint()
        order.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(work, name)
    return "".join(order)


@pytest.mark.parametrize(("level", "interleavings"), [("stock", 4), ("batch", 36), ("free", 90)])
def test_how_many_orders_a_level_has(level: str, interleavings: int) -> None:
    """A level that has more orders than it says calls a failure likelier than it is."""
    found = explore(three_times_two, search="exhaustive", level=level)
    assert found.exhausted
    assert len(found.outcomes) == found.schedules == interleavings


@pytest.mark.parametrize(("level", "shuffles"), [("stock", False), ("batch", True)])
def test_levels_are_what_trio_does(
    level: str, shuffles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order that trio's own loop takes, and no other; under Hypothesis it shuffles a batch."""
    monkeypatch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", shuffles)
    monkeypatch.setattr(_run, "_r", random.Random(1))
    taken = {repr(trio.run(three_times_two)) for _ in range(600)}
    assert taken == set(explore(three_times_two, search="exhaustive", level=level).outcomes)


@pytest.mark.parametrize("level", ["stock", "batch"])
@pytest.mark.parametrize("timers", ["idle", "any"])
def test_lower_levels_are_parts_of_higher_ones(level: str, timers: Any) -> None:
    """With time and a cancellation too; and their tokens replay, with what they fail of."""

    async def program() -> list[str]:
        log: list[str] = []
        event = trio.Event()

        async def wait() -> None:
            with may_cancel():
                with trio.move_on_after(1):
                    await event.wait()
                    log.append("woken")
                await trio.lowlevel.checkpoint()
            log.append("on")

        async def give() -> None:
            await trio.lowlevel.checkpoint()
            event.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(give)
        return log

    options = {"search": "exhaustive", "timers": timers, "schedules": 50_000}
    lower, free = explore(program, level=level, **options), explore(program, **options)
    assert lower.exhausted
    assert free.exhausted
    assert set(lower.outcomes) <= set(free.outcomes)
    assert lower.schedules < free.schedules
    for text, outcome in lower.outcomes.items():
        assert record(program, outcome.token).summary == text
