"""What is recorded of an object's calls, and what is printed when no order explains them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from _golden import check_golden
from race._models import Lock, Queue, Register
from trio.lowlevel import checkpoint

from aspf.race import Call, History, NotLinearizable, explore, linearizable, replay

if TYPE_CHECKING:
    from collections.abc import Awaitable

GOLDEN = Path(__file__).parent / "golden"


class SlowRegister:
    """Writes after a while: what it was told last is not what it keeps."""

    def __init__(self) -> None:
        self.value = 0

    async def write(self, value: int) -> None:
        await checkpoint()
        self.value = value

    async def read(self) -> int:
        value = self.value
        await checkpoint()
        return value


class ForgetfulRegister(SlowRegister):
    """Forgets what it keeps while it writes."""

    async def write(self, value: int) -> None:
        self.value = 0
        await super().write(value)


async def two_writers_and_a_reader(register: SlowRegister) -> None:
    with linearizable(Register) as history:
        watched = history.watch(register)

        async def write(value: int) -> None:
            await watched.write(value)

        async def read() -> int:
            return await watched.read()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 1, name="the writer")
            nursery.start_soon(read)
            nursery.start_soon(read)


def test_a_report_shows_the_schedule_and_the_history() -> None:
    """Byte for byte what was approved: the steps, the calls, the longest order and the answers."""

    async def forgetful() -> None:
        register = ForgetfulRegister()
        register.value = 5
        with linearizable(lambda: _at(5)) as history:
            watched = history.watch(register)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watched.write, 6, name="the writer")
                nursery.start_soon(watched.read)
                nursery.start_soon(watched.read)

    found = explore(forgetful, search="exhaustive")
    check_golden(GOLDEN / "forgetful.txt", str(found))
    (failure,) = found.failures
    again = replay(forgetful, failure.token)
    assert again is not None
    assert again.diagram == failure.diagram
    assert isinstance(failure.error, NotLinearizable)
    assert str(failure.error) in failure.diagram


def _at(value: int) -> Register:
    register = Register()
    register.value = value
    return register


def test_a_slow_register_is_linearizable() -> None:
    """Broken if calls that overlap could not be ordered against the order in which they began."""
    found = explore(lambda: two_writers_and_a_reader(SlowRegister()), search="exhaustive")
    assert found.exhausted
    assert not found.failures


def calls_of(history: History) -> list[tuple[str, str, str, int, float]]:
    return [(c.task, str(c), c.outcome, c.invoked, c.returned) for c in history.calls]


def test_what_is_recorded() -> None:
    """Broken if a call were missed, its ends out of order, or taken for another task's."""
    history = History(Queue)

    class Real:
        size = 2

        def __init__(self) -> None:
            self.model = Queue()

        def put(self, item: int) -> None:
            self.model.put(item)

        async def get(self) -> int:
            await checkpoint()
            return self.model.get()

        def get_nowait(self) -> int:
            return self.model.get_nowait()

    queue = history.watch(Real())
    queue.put(1)

    async def work() -> None:
        assert await queue.get() == 1

    async def fail() -> None:
        with pytest.raises(LookupError):
            queue.get_nowait()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, name="work")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, name="work")
        with trio.CancelScope() as scope:
            scope.cancel()
            await queue.get()

    trio.run(main)
    assert calls_of(history) == [
        ("no task", "put(1)", "-> None", 1, 2),
        ("work", "get()", "-> 1", 3, 4),
        ("work #2", "get_nowait()", "raises LookupError", 5, 6),
        ("main", "get()", "was cancelled", 7, 8),
    ]
    assert queue.size == 2
    assert repr(queue).startswith("<watched <")
    history.check()


def test_operators_are_recorded_where_the_model_has_them() -> None:
    """Broken if ``async with lock`` or ``table[key]`` went past the stand-in, or failed on it."""

    class Guarded(Lock):
        def __aenter__(self) -> None:
            self.acquire()

        def __aexit__(self, *_: object) -> None:
            self.release()

    class Keys(dict[str, int]):
        pass

    async def main() -> list[str]:
        async with guarded:
            pass
        return [f"{call.name}{call.outcome}" for call in locks.calls]

    locks = History(Guarded)
    guarded: Any = locks.watch(trio.Lock())
    for name in ("acquire", "acquire_nowait", "release"):
        assert name in dir(guarded)
    assert trio.run(main) == ["__aenter__-> None", "__aexit__-> None"]
    locks.check()

    table = History(Keys)
    keys = table.watch(Keys())
    keys["a"] = 1
    del keys["a"]
    assert "a" not in keys
    with pytest.raises(KeyError):
        keys["a"]
    assert len(keys) == 0
    assert [call.name for call in table.calls] == [
        "__setitem__",
        "__delitem__",
        "__contains__",
        "__getitem__",
        "__len__",
    ]
    table.check()


def test_each_part_is_checked_alone() -> None:
    """Broken if a partition were ignored, or its report named another part's calls."""

    class Table:
        def __init__(self) -> None:
            self.values: dict[str, int] = {}

        def set(self, key: str, value: int) -> None:
            self.values[key] = value

        def get(self, key: str) -> int | None:
            return self.values.get(key)

    class Sticky(Table):
        def set(self, key: str, value: int) -> None:
            self.values.setdefault(key, value)

    history = History(Table, partition=lambda call: call.args[0])
    table = history.watch(Sticky())
    for value in (1, 2):
        table.set("x", value)
        table.set("y", 0)
    table.get("y")
    history.check()
    table.get("x")
    with pytest.raises(NotLinearizable) as caught:
        history.check()
    check_golden(GOLDEN / "sticky.txt", str(caught.value))


def test_the_first_call_that_nothing_explains() -> None:
    """Broken if a report without any order to show were misread, or "1 calls"."""
    history = History(Register)
    history.watch(_at(3)).read()
    with pytest.raises(NotLinearizable) as caught:
        history.check()
    assert str(caught.value).splitlines() == [
        "no order of 1 call explains what they returned (model: Register)",
        "",
        "no task",
        "-----------",
        "read() -> 3",
        "",
        "what may come next, and what the model says:",
        "  no task: read() -> 3; the model: -> 0",
    ]


def test_a_cancelled_call_may_have_taken_effect_or_not() -> None:
    """Broken if one that did were refused, or one that may not have were taken for granted."""

    class Leaky(SlowRegister):
        async def write(self, value: int) -> None:
            self.value = value
            await checkpoint()

    for register, never in ((Leaky(), False), (SlowRegister(), True)):
        lax, strict = History(Register), History(Register, cancelled="never")
        watched = strict.watch(lax.watch(register))

        async def main(watched: SlowRegister = watched) -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await watched.write(1)
            await watched.read()

        trio.run(main)
        lax.check()
        if never:
            strict.check()
            continue
        with pytest.raises(NotLinearizable) as caught:
            strict.check()
        check_golden(GOLDEN / "leaky.txt", str(caught.value))


def test_a_call_that_has_not_ended() -> None:
    """Broken if a check in the middle of a program took what goes on for done."""
    history = History(Queue)

    class Stuck:
        put = get_nowait = Queue.put

        async def get(self) -> int:
            history.check()
            assert history.calls[0].outcome == "has not ended"
            return 1

    async def main() -> None:
        await history.watch(Stuck()).get()

    trio.run(main)
    with pytest.raises(NotLinearizable, match="the model: must wait"):
        history.check()


def test_a_block_that_raises_is_not_checked() -> None:
    """Broken if the error that a program is about were hidden behind a history cut short."""
    with pytest.raises(ZeroDivisionError), linearizable(Register) as history:
        history.watch(_at(3)).read()
        raise ZeroDivisionError


@pytest.mark.parametrize("sleepers", [1, 2])
def test_a_block_that_is_cancelled_is_checked(sleepers: int) -> None:
    """With ``cancel="each"`` the test itself is cancelled: a wrong answer before that would pass."""

    async def main() -> None:
        with trio.CancelScope() as scope, linearizable(Register) as history:
            history.watch(_at(3)).read()
            scope.cancel()
            async with trio.open_nursery() as nursery:
                for _ in range(sleepers):
                    nursery.start_soon(trio.sleep, 1)

    with pytest.raises(NotLinearizable, match="read"):
        trio.run(main)


def test_a_block_that_is_cancelled_before_anything_is_watched() -> None:
    """Broken if a cancellation that comes early were reported as a misspelt method."""

    async def program() -> str:
        with linearizable(Register) as history:
            await checkpoint()
            history.watch(Register())
        return "whole"

    found = explore(program, cancel="each", stop_on_failure=False, search="exhaustive")
    assert set(found.outcomes) == {"'whole'", "None"}


def test_a_schedule_that_is_torn_down_is_not_checked() -> None:
    """A run without an end would be checked when it is given up, which takes as good as for ever."""
    asked: list[Call] = []

    async def program() -> None:
        with linearizable(Register, partition=asked.append) as history:
            history.watch(Register()).read()
            await trio.sleep_forever()

    (failure,) = explore(program).failures
    assert failure.kind == "deadlock"
    assert not asked


def test_a_group_with_an_error_in_it_is_not_checked() -> None:
    """Broken if what went wrong in a nursery were hidden because something was cancelled too."""

    async def fail() -> None:
        try:
            await checkpoint()
        finally:
            raise ZeroDivisionError

    async def main() -> None:
        with trio.CancelScope() as scope, linearizable(Register) as history:
            history.watch(_at(3)).read()
            scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(trio.sleep, 1)

    with pytest.raises(ExceptionGroup, match="nursery"):
        trio.run(main)


def test_mistakes_are_named() -> None:
    """Broken if a misspelt method made a check that never fails."""
    with pytest.raises(ValueError, match="cancelled='no': expected 'maybe' or 'never'"):
        History(Register, cancelled="no")  # type: ignore[arg-type]
    history = History(Register)
    with pytest.raises(TypeError, match="none of the methods of its model Register"):
        history.watch([])
    with pytest.raises(TypeError, match="no watched object has: read, write"):
        history.check()

    class ReadOnly:
        read = Register.read
        value = 0

    history.watch(ReadOnly()).read()
    with pytest.raises(TypeError, match="no watched object has: write;"):
        history.check()

    class Deferred(Register):
        def read(self) -> Awaitable[int]:  # type: ignore[override]
            return SlowRegister().read()

    with (
        pytest.raises(TypeError, match=r"read\(\) returned an awaitable"),
        pytest.warns(RuntimeWarning, match="never awaited"),
    ):
        history.watch(Deferred()).read()


def test_calls_are_public() -> None:
    """Broken if a partition function could not be written against a documented type."""
    assert Call("a", "put", (1,)).args[0] == 1
