"""The async fixtures of an explored test: every schedule has its own.

pytest sets fixtures up once per test, outside of any event loop. For an async fixture, whichever
plugin it was written for, that is neither possible nor wanted: what one schedule leaves in it the
next one would find. So those of an explored test are taken from pytest (a placeholder stands where
it would put their value), and the graph that they make is built anew in each schedule: the async
ones, and the sync ones that depend on them. What they need of other fixtures pytest sets up as ever.

All run in the main task, one after the other, and are torn down in the reverse order, also after a
failure. As in pytest, a fixture does not see what the test raised: it goes on behind its ``yield``.
Except for a cancellation. It may come from a nursery that a fixture holds open around its ``yield``,
and then has to arrive there; so it is raised at the ``yield``.

pytest-trio's ``nursery`` is one around whoever asks for it. Its clocks become a `VirtualClock`.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, Final, final

import trio
from trio.testing import MockClock

from aspf.race import _hook
from aspf.race._raised import leaves_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractContextManager

    import pytest

__all__ = ("FixtureGraph", "VirtualClock")


@final
class _Fresh:
    """Stands in for the value of a fixture that each schedule makes."""


FRESH: Final = _Fresh()


@final
class VirtualClock(trio.abc.Clock):
    """Stands in for a `trio.testing.MockClock` in an explored test.

    Its time is that of the schedule, which starts at 0 and jumps when nobody can run.
    """

    def start_clock(self) -> None:
        """Do nothing: the schedule has a clock."""

    def current_time(self) -> float:
        """Return the virtual time."""
        return trio.lowlevel.current_clock().current_time()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how much virtual time there is until *deadline*."""
        return deadline - self.current_time()

    def jump(self, seconds: float) -> None:
        """Let virtual time pass at once.

        Raises:
            ValueError: It would go back.
        """
        if seconds < 0:
            raise ValueError(f"seconds={seconds!r}: time can't go backwards")
        clock: Any = trio.lowlevel.current_clock()
        clock.now += seconds
        _hook.note(f"the clock jumps by {seconds:g} s")

    @property
    def rate(self) -> float:
        """How fast virtual time passes while tasks run: not at all."""
        return 0.0

    @rate.setter
    def rate(self, rate: float) -> None:
        if rate:
            raise RuntimeError(
                f"rate={rate!r}: an explored test can't take part in real time; its clock jumps "
                "when nobody can run"
            )

    @property
    def autojump_threshold(self) -> float:
        """After how much real time the clock jumps when nobody can run: at once."""
        return 0.0

    @autojump_threshold.setter
    def autojump_threshold(self, threshold: float) -> None:
        """Do nothing: the clock jumps in any case."""


@final
class FixtureGraph:
    """What the fixtures of a test need of each other, as far as schedules make them."""

    def __init__(self, item: pytest.Function) -> None:
        self._item = item
        self._known: Mapping[str, Any] = item._fixtureinfo.name2fixturedefs
        #: The fixtures that each schedule makes.
        self.fresh: Final = [name for name in item.fixturenames if self._is_fresh(name)]

    def take_from_pytest(self) -> None:
        """Keep pytest from setting those up; to be called before it sets up any."""
        for name in self.fresh:
            self._item.funcargs[name] = FRESH

    def bind(
        self, body: Callable[..., Awaitable[object]], arguments: Mapping[str, object]
    ) -> Callable[[], Awaitable[object]]:
        """Make the program of one schedule after the other.

        Args:
            body: The test.
            arguments: What pytest gives it.
        """
        if not self.fresh and not any(isinstance(v, MockClock) for v in arguments.values()):
            return functools.partial(body, **arguments)

        async def program() -> object:
            hook = _hook.current
            assert hook is not None
            scope = hook.main_scope()
            schedule = _Schedule(self._item, self._known, self.fresh)
            return await schedule.run(body, arguments, scope)

        return program

    def _is_fresh(self, name: str, at: int = -1) -> bool:
        definitions = self._known.get(name, ())
        if name == "request" or len(definitions) < -at:
            return False
        definition = definitions[at]
        return _is_async(definition.func) or any(
            self._is_fresh(argument, at - 1 if argument == name else -1)
            for argument in definition.argnames
        )


def _is_async(function: Any) -> bool:
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or getattr(function, "_force_trio_fixture", False)  # as of pytest-trio's `nursery`
    )


class _Schedule:
    """The fixtures of one schedule."""

    def __init__(self, item: pytest.Function, known: Mapping[str, Any], fresh: list[str]) -> None:
        self._item = item
        self._known = known
        self._fresh = fresh
        self._made: dict[tuple[str, int], object] = {}
        self._closers: list[Callable[[BaseException | None], Awaitable[None]]] = []

    async def run(
        self,
        body: Callable[..., Awaitable[object]],
        arguments: Mapping[str, object],
        scope: AbstractContextManager[object],
    ) -> object:
        """Set all up, run the test within *scope*, and tear all down."""
        error: BaseException | None = None
        result: object = None
        try:
            for name in self._fresh:
                await self._make(name)
            values = {name: await self._value(name, value) for name, value in arguments.items()}
            with scope:
                result = await body(**values)
        except BaseException as raised:  # noqa: BLE001 - it is raised again below
            error = raised
        while self._closers:
            try:
                await self._closers.pop()(error)
            except BaseException as raised:  # noqa: BLE001 - likewise
                error = raised if error is None else _both(error, raised)
            else:
                # Whoever has taken a cancellation in has answered it.
                error = None if error is not None and _is_cancelled(error) else error
        if error is not None:
            raise error
        return result

    async def _value(self, name: str, value: object, at: int = -1) -> object:
        if value is FRESH:
            value = await self._make(name, at)
        if _is_nursery(name, value):
            return await self._open_nursery()
        return VirtualClock() if isinstance(value, MockClock) else value

    async def _make(self, name: str, at: int = -1) -> object:
        if (name, at) in self._made:
            return self._made[name, at]
        definition = self._known[name][at]
        values: dict[str, object] = {}
        for argument in definition.argnames:
            if argument == "request":
                values[argument] = _Request(self, self._item, name)
            elif argument == name:  # overrides another one, and asks for it
                values[argument] = await self._value(argument, FRESH, at - 1)
            else:
                values[argument] = await self._value(argument, self._item.funcargs[argument])
        made: Any = self._bound(definition.func)(**values)
        if inspect.iscoroutine(made):
            made = await made
        elif inspect.isasyncgen(made):
            generator, made = made, await anext(made)
            self._closers.append(lambda error: _close_async(name, generator, error))
        elif inspect.isgenerator(made):
            sync_generator, made = made, next(made)
            self._closers.append(lambda error: _close_sync(name, sync_generator, error))
        self._made[name, at] = made
        return made

    def _bound(self, function: Any) -> Any:
        instance = self._item.instance
        if inspect.ismethod(function) and isinstance(instance, type(function.__self__)):
            return function.__func__.__get__(instance)
        return function

    async def _open_nursery(self) -> trio.Nursery:
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()

        async def close(error: BaseException | None) -> None:
            nursery.cancel_scope.cancel()
            if error is None:
                await manager.__aexit__(None, None, None)
            else:  # it takes a cancellation in, and raises anything else in a group
                await manager.__aexit__(type(error), error, error.__traceback__)

        self._closers.append(close)
        return nursery

    def finalize(self, finalizer: Callable[[], object]) -> None:
        """Call *finalizer* at the end of the schedule."""

        async def close(error: BaseException | None) -> None:
            finalizer()
            if error is not None:
                raise error

        self._closers.append(close)

    def value_of(self, name: str) -> Any:
        """Return a fixture that somebody asks for by its name."""
        if (name, -1) in self._made:
            return self._made[name, -1]
        if name in self._fresh:
            raise LookupError(
                f"the async fixture {name!r} is not set up yet: name it as an argument"
            )
        return self._item._request.getfixturevalue(name)


@final
class _Request:
    """The ``request`` of a fixture that a schedule makes."""

    def __init__(self, schedule: _Schedule, item: pytest.Function, name: str) -> None:
        self._item = item
        self.fixturename = name
        self.addfinalizer = schedule.finalize
        self.getfixturevalue = schedule.value_of
        parameters = getattr(item, "callspec", None)
        if parameters is not None and name in parameters.params:
            self.param = parameters.params[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._item._request, name)


async def _close_async(name: str, generator: Any, error: BaseException | None) -> None:
    try:
        if error is not None and _is_cancelled(error):
            await generator.athrow(error)
        else:
            await generator.asend(None)
    except StopAsyncIteration:
        return
    raise RuntimeError(f"the fixture {name!r} yields more than once")


async def _close_sync(name: str, generator: Any, error: BaseException | None) -> None:
    try:
        if error is not None and _is_cancelled(error):
            generator.throw(error)
        else:
            generator.send(None)
    except StopIteration:
        return
    raise RuntimeError(f"the fixture {name!r} yields more than once")


def _is_nursery(name: str, value: object) -> bool:
    # pytest-trio's own fixture returns a constant that stands for a nursery.
    plugin = sys.modules.get("pytest_trio.plugin")
    placeholder = getattr(plugin, "NURSERY_FIXTURE_PLACEHOLDER", None)
    return name == "nursery" and value is not None and value is placeholder


def _is_cancelled(error: BaseException) -> bool:
    return any(isinstance(leaf, trio.Cancelled) for leaf in leaves_of(error))


def _both(error: BaseException, other: BaseException) -> BaseException:
    """Keep what a closer has raised, and what it was given unless that is in it."""
    given = list(leaves_of(error))
    if _is_cancelled(error) or any(leaf is each for leaf in leaves_of(other) for each in given):
        return other
    return BaseExceptionGroup("errors of the test and of its fixtures", [error, other])
