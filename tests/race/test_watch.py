"""What is watched has to be at rest in the end: no lock held, no token lent, nobody in a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio

from aspf import RangeMap, ReadWriteLock
from aspf.race import explore, may_cancel, replay, sometimes, watch

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("make", "spoil", "what"),
    [
        (trio.Lock, "acquire", "locked=True"),
        (anyio.Lock, "acquire", "locked=True"),
        (lambda: trio.Semaphore(2), "acquire", "value=1"),
        (lambda: anyio.Semaphore(2), "acquire", "value=1"),
        (lambda: trio.CapacityLimiter(1), "acquire", "borrowed_tokens=1"),
        (trio.Condition, "acquire", "locked=True"),
        (ReadWriteLock, "acquire_read", "readers=1"),
    ],
)
def test_what_is_left_behind(make: Callable[[], Any], spoil: str, what: str) -> None:
    """A leak that nobody runs into in the test is one that somebody runs into later."""

    async def program() -> None:
        thing = watch(make(), "the thing")
        with may_cancel() as scope:
            await trio.lowlevel.checkpoint()
        if scope.cancelled_caught:
            await getattr(thing, spoil)()

    found = explore(program, search="exhaustive")
    (failure,) = found.failures
    assert (failure.kind, failure.summary) == (
        "leak",
        f"the thing is not at rest in the end: {what}",
    )
    again = replay(program, failure.token)
    assert again is not None
    assert again.summary == failure.summary
    assert not explore(program, cancel="never").failures


def test_a_map_that_is_pinned() -> None:
    """Regions may stay; pins may not."""

    async def program(release: bool) -> None:
        ranges = watch(RangeMap[str]())
        ranges.insert(0, 10, "payload")
        pin = ranges.pin(5)
        pin.__enter__()
        if release:
            pin.__exit__(None, None, None)

    (failure,) = explore(lambda: program(False)).failures
    assert failure.summary == "RangeMap is not at rest in the end: pins=1"
    assert not explore(lambda: program(True)).failures


def test_an_object_that_nobody_knows() -> None:
    """It has to be as it was."""

    class Counter:
        def __init__(self) -> None:
            self.n = 3

        def statistics(self) -> tuple[int]:
            return (self.n,)

    async def program(n: int) -> None:
        watch(Counter()).n += n

    (failure,) = explore(lambda: program(1)).failures
    assert failure.summary == "Counter is not at rest in the end: (4,), and was (3,)"
    assert not explore(lambda: program(0)).failures


def test_outside_an_exploration() -> None:
    """It gives back what it was given, and that is all."""
    lock = trio.Lock()
    assert watch(lock) is lock


def test_what_is_said_after_the_end_of_a_schedule_is_not_heard() -> None:
    """A schedule that has failed is cancelled; what its tasks say in their clean-up is no finding."""

    async def program() -> None:
        try:
            await trio.sleep_forever()
        finally:
            watch(trio.Semaphore(1), "too late").acquire_nowait()
            sometimes("reached in the clean-up")

    found = explore(program, search="exhaustive", stop_on_failure=False)
    assert [failure.kind for failure in found.failures] == ["deadlock"]
    assert not found.reached
