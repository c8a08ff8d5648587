"""Record the calls of an object that tasks share, and check that they are linearizable."""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast, final

import trio

from aspf._errors import NotLinearizable
from aspf.race import _hook
from aspf.race._diagram import Row, draw
from aspf.race._linearize import Call, Linearization, linearize
from aspf.race._raised import is_cancelled
from aspf.race._record import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

__all__ = ("History", "linearizable")

T = TypeVar("T")

# Methods that Python looks up on the class, and that a model may have.
_OPERATORS: Final = {
    "__aenter__",
    "__aexit__",
    "__call__",
    "__contains__",
    "__delitem__",
    "__enter__",
    "__exit__",
    "__getitem__",
    "__len__",
    "__setitem__",
}


@final
class History:
    """The calls of a shared object, to be checked against a sequential model of it.

    The model is a class, written as if there were no concurrency: sync methods with the names and
    arguments of those to be watched, which return or raise the same. Instead of waiting they raise
    `Blocked`. If it has an attribute ``task``, it finds there the name of the task that calls. Its
    state must bear ``copy.deepcopy``.

    A result is explained by one that is equal, an exception by one of its class or a base of it.
    A call that was cancelled, or has not ended, may have taken effect or not.

    Args:
        model: Makes the model in its initial state; usually its class.
        partition: Says which part of the object a call is about, such as its key, if the parts
            have nothing to do with each other. Each is then checked alone, which is much faster.
        cancelled: ``"never"`` is stricter than ``"maybe"``: a cancelled call has no effect, as
            trio promises of its own primitives.

    Examples:
        >>> class Register:
        ...     value = 0
        ...     def write(self, value): self.value = value
        ...     def read(self): return self.value
        >>> class Stuck(Register):
        ...     def read(self): return 0
        >>> history = History(Register)
        >>> register = history.watch(Stuck())
        >>> register.write(1), register.read()
        (None, 0)
        >>> history.check()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        aspf.race.NotLinearizable: no order of 2 calls explains what they returned (model: Register)
        ...
    """

    def __init__(
        self,
        model: Callable[[], object],
        *,
        partition: Callable[[Call], Hashable] | None = None,
        cancelled: Literal["maybe", "never"] = "maybe",
    ) -> None:
        if cancelled not in ("maybe", "never"):
            raise ValueError(f"cancelled={cancelled!r}: expected 'maybe' or 'never'")
        self._model = model
        self._kind = type(model())
        self._operations = {
            name
            for name in dir(self._kind)
            if (name in _OPERATORS or not name.startswith("_"))
            and callable(getattr(self._kind, name))
        }
        # Those that no watched object has had so far.
        self._unwatched = set(self._operations)
        self._partition = partition
        self._cancelled = cancelled
        self._calls: list[Call] = []
        self._moments = 0
        self._tasks: dict[trio.lowlevel.Task, str] = {}
        if _hook.current is not None:
            _hook.current.made(self)

    @property
    def calls(self) -> tuple[Call, ...]:
        """What was recorded, in the order in which it began."""
        return tuple(self._calls)

    def watch(self, thing: T) -> T:
        """Make a stand-in for *thing* that records its calls.

        Recorded are the methods that the model has, async or not; whatever else is asked of the
        stand-in comes from *thing*. Watch as many objects as the model describes together, such as
        the two ends of a channel.

        Raises:
            TypeError: *thing* has none of the model's methods.
        """
        operations = {name for name in self._operations if hasattr(thing, name)}
        if not operations:
            raise TypeError(
                f"{thing!r} has none of the methods of its model {self._kind.__name__}; "
                "name the model's methods as those of the object"
            )
        self._unwatched -= operations
        methods = {name: self._recorded(name, getattr(thing, name)) for name in operations}
        stand_in = type(f"Watched{type(thing).__name__}", (_Watched,), methods)
        return cast("T", stand_in(thing))

    def check(self) -> None:
        """Check that the calls so far can be put into an order that the model explains.

        Raises:
            NotLinearizable: They can't; the message shows them in columns, and how far one gets.
            TypeError: The model has a method that no watched object has.
        """
        if self._unwatched:
            raise TypeError(
                f"the model {self._kind.__name__} has methods that no watched object has: "
                f"{', '.join(sorted(self._unwatched))}; begin the names of its own with _"
            )
        self._check_calls()

    def _check_calls(self) -> None:
        for part, calls in self._parts().items():
            certain = [c for c in calls if self._cancelled == "maybe" or c.end != "cancelled"]
            found = linearize(certain, self._model)
            if not found.is_complete:
                where = "" if self._partition is None else f" on {part!r}"
                raise NotLinearizable(_explain(calls, found, where, self._kind.__name__))

    def _parts(self) -> dict[Hashable, list[Call]]:
        parts: dict[Hashable, list[Call]] = {}
        for call in self._calls:
            part = None if self._partition is None else self._partition(call)
            parts.setdefault(part, []).append(call)
        return parts

    def _recorded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wait(_: object, *args: Any, **kwargs: Any) -> Any:
            with self._record(name, args, kwargs) as call:
                call.value = await function(*args, **kwargs)
            return call.value

        @functools.wraps(function)
        def do(_: object, *args: Any, **kwargs: Any) -> Any:
            with self._record(name, args, kwargs) as call:
                call.value = function(*args, **kwargs)
                if inspect.isawaitable(call.value):
                    raise TypeError(
                        f"{name}() returned an awaitable, but is no async function, so nothing "
                        "tells when it takes effect; watch an object in which it is one"
                    )
            return call.value

        return wait if inspect.iscoroutinefunction(function) else do

    @contextmanager
    def _record(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
        call = Call(self._task(), name, args, kwargs, invoked=self._moment())
        self._calls.append(call)
        if _hook.recorder is not None:
            _hook.recorder.line(f"{call} ...")
        try:
            yield call
        except BaseException as error:
            call.value = error
            # Cancelled is no Exception; nor is whatever else ends a task from outside.
            call.end = "raised" if isinstance(error, Exception) else "cancelled"
            raise
        else:
            call.end = "returned"
        finally:
            call.returned = self._moment()
            if _hook.recorder is not None:
                _hook.recorder.line(f"... {call} {call.outcome}")

    def _moment(self) -> int:
        # Which call came first is a result: two tasks' calls are not exchanged.
        if _hook.current is not None:
            _hook.current.access(self, True)
        self._moments += 1
        return self._moments

    def _task(self) -> str:
        if not trio.lowlevel.in_trio_task():
            return "no task"
        task = trio.lowlevel.current_task()
        if task not in self._tasks:
            self._tasks[task] = self._name(task)
        return self._tasks[task]

    def _name(self, task: trio.lowlevel.Task) -> str:
        if _hook.current is not None:
            return _hook.current.name_of(task)
        name = name_of(task)
        same = sum(name_of(other) == name for other in self._tasks)
        return f"{name} #{same + 1}" if same else name


@contextmanager
def linearizable(
    model: Callable[[], object],
    *,
    partition: Callable[[Call], Hashable] | None = None,
    cancelled: Literal["maybe", "never"] = "maybe",
) -> Iterator[History]:
    """Check at the end of a ``with`` block that what was recorded in it is linearizable.

    A block that is cancelled is checked as well: its calls may or may not have taken effect. One
    that any other exception leaves isn't.

    Args:
        model: See `History`, as for the others.
        partition: What part of the object a call is about.
        cancelled: Whether a cancelled call may have taken effect.

    Raises:
        NotLinearizable: It isn't.

    Examples:
        >>> import trio
        >>> class Lock:
        ...     held = False
        ...     def acquire(self):
        ...         if self.held:
        ...             raise Blocked
        ...         self.held = True
        ...     def release(self): self.held = False
        >>> async def program():
        ...     async def work(lock):
        ...         await lock.acquire()
        ...         await trio.lowlevel.checkpoint()
        ...         lock.release()
        ...     with linearizable(Lock) as history:
        ...         lock = history.watch(trio.Lock())
        ...         async with trio.open_nursery() as nursery:
        ...             nursery.start_soon(work, lock)
        ...             nursery.start_soon(work, lock)
        >>> from aspf.race import Blocked, check
        >>> check(program).exhausted
        True
    """
    history = History(model, partition=partition, cancelled=cancelled)
    try:
        yield history
    except BaseException as error:
        is_torn_down = _hook.current is not None and _hook.current.is_over
        if is_cancelled(error) and not is_torn_down:
            history._check_calls()  # perhaps before all that the model is of was watched
        raise
    history.check()


class _Watched:
    """Stands in for an object; the methods to be recorded are added in a class of its own."""

    def __init__(self, thing: object) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._thing, name)

    def __repr__(self) -> str:
        return f"<watched {self._thing!r}>"


def _explain(calls: Sequence[Call], found: Linearization, where: str, model: str) -> str:
    lines = [
        f"no order of {_number(calls)}{where} explains what they returned (model: {model})",
        "",
        draw(*_columns(calls)),
    ]
    if found.order:
        lines.append("the longest order that the model explains:")
    for number, (call, effect) in enumerate(found.order, 1):
        without = "" if effect else " without effect"
        lines.append(f"  {number}. {call.task}: {call} {call.outcome}{without}")
    lines.append("what may come next, and what the model says:")
    lines += (
        f"  {call.task}: {call} {call.outcome}; the model: {answer}"
        for call, answer in found.refused
    )
    return "\n".join(lines)


def _number(calls: Sequence[Call]) -> str:
    return "1 call" if len(calls) == 1 else f"{len(calls)} calls"


def _columns(calls: Sequence[Call]) -> tuple[list[Row], dict[int, str]]:
    """Draw who called what and when: a call in one row if nothing came between, else in two."""
    numbers: dict[str, int] = {}
    events: list[tuple[float, Call]] = []
    for call in calls:
        numbers.setdefault(call.task, len(numbers))
        events += [(call.invoked, call), (call.returned, call)]
    events.sort(key=lambda event: event[0])
    rows: list[Row] = []
    before: Call | None = None
    for moment, call in events:
        if moment == call.invoked:
            rows.append(Row(numbers[call.task], 0, str(call)))
        elif before is call:
            rows[-1] = rows[-1]._replace(text=f"{call} {call.outcome}")
        else:
            rows.append(Row(numbers[call.task], 1, f"{call} {call.outcome}"))
        before = call
    return rows, {number: task for task, number in numbers.items()}
