"""Steps that trio's loop doesn't make: `spin` and `LeanRunner` do what it would have done."""

from __future__ import annotations

import ast
import inspect
import textwrap
import traceback
import types
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
from _golden import check_golden
from hypothesis import given, settings
from race._random_programs import make, plans
from trio._core import _run

from aspf.race import explore
from aspf.race._runner import _NOTHING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from race._random_programs import Op

    from aspf.race import Exploration

GOLDEN = Path(__file__).parent / "golden"


def both_ways(program: Callable[[], Awaitable[object]], **options: Any) -> list[Exploration]:
    """Explore in trio's own loop, and in ours."""
    options = {"search": "random", "schedules": 40, "stop_on_failure": False} | options
    return [explore(program, isolated=isolated, **options) for isolated in (True, False)]


def facts(found: Exploration) -> tuple[object, ...]:
    """What must be the same both ways."""
    failures = [(failure.count, str(failure)) for failure in found.failures]
    return found.schedules, found.pruned, found.outcomes, failures


def test_trio_makes_its_steps_as_we_know() -> None:
    """If a new trio changes how it steps or queues a task, `spin` or `LeanRunner` has to follow.

    What the golden file shows is trio's code without comments.
    """
    loop = ast.parse(textwrap.dedent(inspect.getsource(_run.unrolled_run)))
    (steps,) = (
        node
        for node in ast.walk(loop)
        if isinstance(node, ast.While) and ast.unparse(node.test) == "batch"
    )
    (reschedule,) = ast.parse(textwrap.dedent(inspect.getsource(_run.Runner.reschedule))).body
    assert isinstance(reschedule, ast.FunctionDef)
    without_docstring = [ast.unparse(statement) for statement in reschedule.body[1:]]
    text = "\n".join([ast.unparse(steps), "", "# reschedule", *without_docstring, ""])
    check_golden(GOLDEN / "trios-step.txt", text)


@settings(max_examples=40)
@given(plans(tasks=3, ops=3))
def test_random_programs_do_the_same(drawn: list[list[Op]]) -> None:
    """A wake-up, an error or a cancellation would be handled otherwise than trio does."""
    one, many = both_ways(make(drawn))
    assert facts(one) == facts(many)


@settings(max_examples=20)
@given(plans(tasks=2, ops=2))
def test_random_programs_are_cancelled_the_same(drawn: list[list[Op]]) -> None:
    """Who is cancelled in its sleep would be woken twice, or not at all."""
    one, many = both_ways(make(drawn), cancel="each")
    assert facts(one) == facts(many)


async def moves_its_coroutine() -> list[str]:
    """Ends its task from outside, and goes on in another one."""
    log: list[str] = []

    async def leaves() -> None:
        log.append("leaves")
        await trio.lowlevel.permanently_detach_coroutine_object(outcome.Value(None))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaves)
        nursery.start_soon(leaves)
    return log


async def comes_back() -> list[object]:
    """Lets another task run its coroutine for a while."""
    task = trio.lowlevel.current_task()
    log: list[object] = []

    async def run_it() -> None:
        log.append(task.coro.send("from outside"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_it)
        log.append(
            await trio.lowlevel.temporarily_detach_coroutine_object(
                lambda _: trio.lowlevel.Abort.FAILED
            )
        )
        await trio.lowlevel.reattach_detached_coroutine_object(task, "back")
    return log


@types.coroutine
def of_another_library() -> Generator[str, None, None]:
    yield "a future of asyncio's"


async def speaks_another_language() -> str:
    try:
        await of_another_library()
    except TypeError as error:
        return str(error)
    return "understood"


async def raises_in_a_group() -> None:
    async def fail(error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, ValueError("one"))
        nursery.start_soon(fail, KeyError("two"))


async def is_woken_with_an_error() -> str:
    task = trio.lowlevel.current_task()

    async def wake() -> None:
        trio.lowlevel.reschedule(task, outcome.Error(OSError("gone")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake)
        try:
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
        except OSError as error:
            return str(error)
    return "woken"


@pytest.mark.parametrize(
    "program",
    [
        moves_its_coroutine,
        comes_back,
        speaks_another_language,
        raises_in_a_group,
        is_woken_with_an_error,
    ],
)
def test_rare_steps_are_the_same(program: Callable[[], Awaitable[object]]) -> None:
    """A task that leaves trio, or yields what trio doesn't know, would hang or break the run."""
    one, many = both_ways(program)
    assert facts(one) == facts(many)
    assert one.schedules == 40


def test_a_system_task_that_ends_all() -> None:
    """It would end the exploration as another error than trio's."""
    first = True

    async def fail() -> None:
        raise SystemExit("in a system task")

    async def program() -> None:
        nonlocal first
        if not first:  # the first schedule has a run of trio's own loop
            trio.lowlevel.spawn_system_task(fail)
        first = False
        await trio.lowlevel.checkpoint()

    with pytest.raises(trio.TrioInternalError) as caught:
        explore(program, search="random", schedules=9, isolated=False)
    assert "in a system task" in "".join(traceback.format_exception(caught.value))


def test_nothing_is_as_good_as_a_value() -> None:
    """Who unwraps what he was woken with, in whatever way, would get something else than None."""

    def generator() -> Generator[str, None, None]:
        got = yield "begun"
        yield f"got {got}"

    async def agenerator() -> AsyncGenerator[str, None]:
        got = yield "begun"
        yield f"got {got}"

    async def asend() -> str:
        values = agenerator()
        async with aclosing(values):
            await anext(values)
            return str(await _NOTHING.asend(values))

    values = generator()
    next(values)
    assert _NOTHING.send(values) == "got None"
    assert trio.run(asend) == "got None"
    for _ in range(2):
        _NOTHING.unwrap()  # type: ignore[func-returns-value]
