"""trio's and anyio's primitives, and aspf's own, while an explorer runs: what they say of themselves.

Each method of `KINDS` tells the running schedule which object it reads or writes before it does
so, or that a task goes to sleep on it. That is all that changes; the code that then runs is
trio's. The classes are changed and not the names by which a program has imported them, and only
inside `instrumented`: outside an exploration nothing of this is there, and nothing is asked.

**What is a read.** Two reads commute, a write commutes with nothing on the same object. "Read" and
"write" mean no more than that. So whoever waits for an event *reads* it, although it keeps a set
of the waiting, since two who begin to wait are not told apart; and `Event.statistics`, which
counts them, *writes*. Likewise a task that ends reads its nursery, for it may be the one with
which the nursery closes, and who starts a task in a nursery that it isn't in writes it.

**Asleep.** A task that can't go on has accessed the object: its attempt was a step. Whoever wakes
it, or cancels it, accesses that object too: a cancelled waiter leaves a queue although none of the
queue's methods is called.

**Cancel scopes** form a tree. To cancel one writes it, and touches every task that is thereby
cancelled, which the schedule sees itself. A task behind a shield is not; it depends on the scopes
outside when its shield is taken away, so that reads all of them.

**The level** ``contract`` has a scheduling point before each documented checkpoint that yields
only after it has acted, or not at all: trio's documentation allows a switch there. It can't be
cancelled itself, since the operation that follows finds out. What is made for building primitives
(`trio.lowlevel.ParkingLot.park`, `wait_task_rescheduled`) has none: who calls them relies on
looking and parking in one step. Nor has a sleep: whoever gets in before it begins is as early as if
he had got in before it was over, and nobody can tell. anyio's memory streams yield by themselves
before they act.
"""

from __future__ import annotations

import functools
import sys
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio
from outcome import Error
from trio._core import _run

from aspf.race import _hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("KINDS", "SPECIAL", "Kind", "instrumented", "number_of_outsider")


class Kind(NamedTuple):
    """A class of objects that tasks share, and what its methods do to one of them."""

    module: str
    name: str
    #: The attribute that holds what is shared, where that isn't the object itself.
    part: str = ""
    #: Whether objects get a number when they are made. Invariant: true if the object itself is
    #: what is accessed.
    makes: bool = True
    #: Methods and properties that read it; setting such a property writes it.
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    #: Async methods that may sleep on it, as readers or as writers, and how their point is called.
    reading_waits: tuple[str, ...] = ()
    writing_waits: tuple[str, ...] = ()
    #: Async methods that write it in each of their steps.
    writes_throughout: tuple[str, ...] = ()
    #: Methods before which the level "contract" has a point, and that say the rest themselves.
    points: tuple[str, ...] = ()


KINDS: Final = (
    Kind(
        "trio._sync",
        "Event",
        reads=("is_set",),
        writes=("set", "statistics"),
        reading_waits=("wait",),
        points=("wait",),
    ),
    Kind(
        "trio._sync",
        "CapacityLimiter",
        reads=("total_tokens", "borrowed_tokens", "available_tokens", "statistics", "__repr__"),
        writes=("acquire_on_behalf_of_nowait", "release_on_behalf_of"),
        points=("acquire_on_behalf_of",),
    ),
    Kind(
        "trio._sync",
        "Semaphore",
        reads=("value", "statistics", "__repr__"),
        writes=("acquire_nowait", "release"),
        points=("acquire",),
    ),
    Kind(
        "trio._sync",
        "_LockImpl",
        reads=("locked", "statistics", "__repr__"),
        writes=("acquire_nowait", "release"),
        points=("acquire",),
    ),
    # A condition is a lock and a parking lot.
    Kind("trio._sync", "Condition", part="_lot", makes=False, points=("wait",)),
    Kind(
        "trio._core._parking_lot",
        "ParkingLot",
        reads=("__len__", "__bool__", "statistics"),
        writes=("unpark", "break_lot"),
        writing_waits=("park",),
    ),
    Kind("trio._channel", "MemoryChannelState"),
    Kind(
        "trio._channel",
        "MemorySendChannel",
        part="_state",
        makes=False,
        reads=("statistics",),
        writes=("send_nowait", "clone", "close"),
        writing_waits=("send",),
        points=("send", "aclose"),
    ),
    Kind(
        "trio._channel",
        "MemoryReceiveChannel",
        part="_state",
        makes=False,
        reads=("statistics",),
        writes=("receive_nowait", "clone", "close"),
        writing_waits=("receive",),
        points=("receive", "aclose"),
    ),
    Kind("trio._core._local", "RunVar", reads=("get",), writes=("set", "reset")),
    Kind(
        "trio._core._run",
        "CancelScope",
        reads=("is_relative", "cancelled_caught", "deadline", "relative_deadline"),
        writes=("__enter__",),
    ),
    Kind("trio._core._run", "Nursery"),
    Kind("trio._core._run", "NurseryManager", part="_nursery", makes=False, points=("__aexit__",)),
    # anyio's events, locks, semaphores, limiters, scopes and task groups are trio's inside.
    Kind(
        "anyio._core._synchronization",
        "Condition",
        reads=("statistics",),
        writes=("notify", "notify_all"),
        writes_throughout=("wait",),
        points=("wait",),
    ),
    Kind("anyio._core._synchronization", "ResourceGuard", writes=("__enter__", "__exit__")),
    Kind("anyio.streams.memory", "_MemoryObjectStreamState"),
    Kind(
        "anyio.streams.memory",
        "MemoryObjectSendStream",
        part="_state",
        makes=False,
        reads=("statistics",),
        writes=("send_nowait", "clone", "close"),
        writes_throughout=("send",),
    ),
    Kind(
        "anyio.streams.memory",
        "MemoryObjectReceiveStream",
        part="_state",
        makes=False,
        reads=("statistics",),
        writes=("receive_nowait", "clone", "close"),
        writes_throughout=("receive",),
    ),
    Kind(
        "anyio._core._tasks",
        "TaskHandle",
        reads=("status", "return_value", "exception", "start_value"),
        writes_throughout=("_run_coro",),
    ),
    # Ours, by their names: this room knows nothing of the others.
    Kind(
        "aspf._rwlock",
        "ReadWriteLock",
        reads=("statistics", "__repr__"),
        writes=(
            "acquire_read_nowait",
            "acquire_write_nowait",
            "release_read",
            "release_write",
            "downgrade",
        ),
        writes_throughout=("_acquire",),
        points=("acquire_read", "acquire_write"),
    ),
    Kind(
        "aspf.ranges._range_map",
        "RangeMap",
        reads=("index", "_plan_on", "__len__", "_bind"),
        writes=("_discard", "_outdate_fills", "unsettled", "__repr__"),
        writes_throughout=("get_or_insert", "_lead", "_retire_shielded", "aclose"),
        points=("aclose",),
    ),
    Kind(
        "aspf.ranges._range_map",
        "Drain",
        part="_map",
        makes=False,
        reads=("done", "settled"),
        writes=("holders", "__repr__"),
        writes_throughout=("wait",),
    ),
    Kind(
        "aspf.ranges._range_map",
        "_Hold",
        part="_map",
        makes=False,
        writes_throughout=("__aenter__", "__aexit__"),
    ),
    # Pins are counted, and no two are told apart until the region is retired.
    Kind("aspf.ranges._region", "Guard", writes=("pins", "owners", "__repr__")),
    Kind(
        "aspf.ranges._region",
        "Region",
        part="guard",
        makes=False,
        reads=("is_current",),
        writes=("invalidated",),
    ),
)

# -- one wrapper for each way of touching --------------------------------------------------------

Method = Any  # a function that becomes a method; its arguments are its own affair


def _accessing(original: Method, part: str, *, writes: bool) -> Method:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _hook.current is not None:
            _hook.current.access(getattr(self, part) if part else self, writes)
        return original(self, *args, **kwargs)

    return method


def _accessing_property(original: Any, part: str, *, writes: bool = False) -> property:
    # Either a property, or the descriptor of a slot.
    read: Method = original.fget if isinstance(original, property) else original.__get__
    write: Method = original.fset if isinstance(original, property) else original.__set__

    def getter(self: Any) -> Any:
        if _hook.current is not None:
            _hook.current.access(getattr(self, part) if part else self, writes)
        return read(self)

    def setter(self: Any, value: Any) -> None:
        if _hook.current is not None:
            _hook.current.access(getattr(self, part) if part else self, True)
        write(self, value)

    return property(getter, setter if write is not None else None, doc=original.__doc__)


def _sleeping(original: Method, part: str, *, writes: bool) -> Method:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        schedule = _hook.current
        if schedule is None:  # pragma: no cover - a coroutine that outlives the exploration
            return await original(self, *args, **kwargs)
        thing = getattr(self, part) if part else self
        schedule.access(thing, writes)
        schedule.sleep_on(thing, writes)
        try:
            return await original(self, *args, **kwargs)
        finally:
            schedule.woken()

    return method


def _accessing_throughout(original: Method, part: str) -> Method:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        schedule = _hook.current
        if schedule is None:  # pragma: no cover - a coroutine that outlives the exploration
            return await original(self, *args, **kwargs)
        schedule.enter(getattr(self, part) if part else self)
        try:
            return await original(self, *args, **kwargs)
        finally:
            schedule.leave()

    return method


def _with_point(original: Method, part: str, *, writes: bool) -> Method:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _hook.current is not None:
            what = f"{type(self).__name__}.{original.__name__}"
            if what == "NurseryManager.__aexit__":
                what = "the nursery's end"
            await _hook.current.before(getattr(self, part) if part else self, writes, what)
        return await original(self, *args, **kwargs)

    return method


def _making(original: Method) -> Method:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if _hook.current is not None:
            _hook.current.made(self)

    return init


def _wrapped(kind: Kind, of: type) -> Iterator[tuple[str, Any]]:
    """The attributes of a class, as they are while an explorer runs."""
    found: dict[str, Any] = {}

    def original(name: str) -> Any:
        return found[name] if name in found else of.__dict__.get(name) or getattr(of, name)

    if kind.makes:
        found["__init__"] = _making(of.__init__)  # type: ignore[misc]
    for name in kind.reads:
        is_method = callable(original(name))
        found[name] = (
            _accessing(original(name), kind.part, writes=False)
            if is_method
            else _accessing_property(original(name), kind.part)
        )
    for name in kind.writes:
        found[name] = (
            _accessing(original(name), kind.part, writes=True)
            if callable(original(name))
            else _accessing_property(original(name), kind.part, writes=True)
        )
    for name in kind.reading_waits + kind.writing_waits:
        writes = name in kind.writing_waits
        found[name] = _sleeping(original(name), kind.part, writes=writes)
    for name in kind.writes_throughout:
        found[name] = _accessing_throughout(original(name), kind.part)
    for name in kind.points:
        writes = name not in kind.reading_waits
        found[name] = _with_point(original(name), kind.part, writes=writes)
    yield from found.items()


# -- what is no single access ----------------------------------------------------------------------


def _enclosing(status: _run.CancelStatus | None) -> Iterator[trio.CancelScope]:
    while status is not None:
        yield status._scope
        status = status._parent


def _reads_what_encloses(status: _run.CancelStatus | None) -> None:
    if _hook.current is not None:
        for scope in _enclosing(status):
            _hook.current.access(scope, False)


def _cancel(original: Method) -> Method:
    @functools.wraps(original)
    def _cancel(self: trio.CancelScope, *args: Any, **kwargs: Any) -> None:
        if _hook.current is not None:
            # To cancel what is cancelled does nothing.
            _hook.current.access(self, not self._cancel_called)
        original(self, *args, **kwargs)

    return _cancel


def _cancel_called(original: property) -> property:
    def cancel_called(self: trio.CancelScope) -> bool:
        if _hook.current is not None:
            _hook.current.access(self, False)
        return bool(original.fget(self))  # type: ignore[misc]

    return property(cancel_called, doc=original.__doc__)


def _close(original: Method) -> Method:
    @functools.wraps(original)
    def _close(self: trio.CancelScope, exc: BaseException | None) -> BaseException | None:
        if _hook.current is not None:
            _hook.current.access(self, True)
            if self._shield:
                _reads_what_encloses(self._cancel_status)
        answer: BaseException | None = original(self, exc)
        return answer

    return _close


def _shield(original: property) -> property:
    def getter(self: trio.CancelScope) -> bool:
        if _hook.current is not None:
            _hook.current.access(self, False)
        return self._shield

    def setter(self: trio.CancelScope, value: bool) -> None:  # noqa: FBT001
        if _hook.current is not None:
            _hook.current.access(self, True)
            _reads_what_encloses(self._cancel_status)
        original.fset(self, value)  # type: ignore[misc]

    return property(getter, setter, doc=original.__doc__)


def _effective_deadline(original: Method) -> Method:
    @functools.wraps(original)
    def effective_deadline(self: _run.CancelStatus) -> float:
        _reads_what_encloses(self)
        return float(original(self))

    return effective_deadline


def _repark(original: Method) -> Method:
    @functools.wraps(original)
    def repark(self: trio.lowlevel.ParkingLot, new_lot: Any, *, count: float = 1) -> None:
        before = list(self._parked)
        original(self, new_lot, count=count)
        if _hook.current is not None:
            _hook.current.access(self, True)
            _hook.current.access(new_lot, True)
            for task in before[: len(before) - len(self._parked)]:
                _hook.current.moved(task, new_lot)

    return repark


def _keeps_open(nursery: trio.Nursery) -> bool:
    """Tell whether the nursery can't close before the running task has ended, or left it."""
    task: trio.lowlevel.Task | None = _run.GLOBAL_RUN_CONTEXT.task
    if task is nursery._parent_task:
        return nursery._nested_child_running
    while task is not None:
        parent = task._parent_nursery
        if parent is nursery:
            return True
        task = None if parent is None else parent._parent_task
    return False


def _starts(nursery: trio.Nursery) -> None:
    if _hook.current is not None and not _keeps_open(nursery):
        _hook.current.access(nursery, True)


def _start_soon(original: Method) -> Method:
    @functools.wraps(original)
    def start_soon(self: trio.Nursery, *args: Any, **kwargs: Any) -> None:
        _starts(self)
        original(self, *args, **kwargs)

    return start_soon


def _start(original: Method) -> Method:
    @functools.wraps(original)
    async def start(self: trio.Nursery, *args: Any, **kwargs: Any) -> Any:
        if _hook.current is not None:
            await _hook.current.before(self, True, "Nursery.start")
        _starts(self)
        try:
            return await original(self, *args, **kwargs)
        finally:
            # It may be what the nursery was kept open for.
            if _hook.current is not None:
                _hook.current.access(self, False)

    return start


def _started(original: Method) -> Method:
    @functools.wraps(original)
    def started(self: _run._TaskStatus[Any], value: Any = None) -> None:
        # The task moves from one branch of the tree of scopes to another.
        _reads_what_encloses(self._old_nursery._cancel_status)
        _reads_what_encloses(self._new_nursery._cancel_status)
        original(self, value)

    return started


def _child_finished(original: Method) -> Method:
    @functools.wraps(original)
    def _child_finished(self: trio.Nursery, task: trio.lowlevel.Task, outcome: Any) -> None:
        if _hook.current is not None:
            # Errors are kept in the order in which they come; cancellations look all the same.
            failed = isinstance(outcome, Error) and not _is_cancelled(outcome.error)
            _hook.current.access(self, failed)
        original(self, task, outcome)

    return _child_finished


def _nested_child_finished(original: Method) -> Method:
    @functools.wraps(original)
    async def _nested_child_finished(self: trio.Nursery, error: BaseException | None) -> Any:
        if _hook.current is not None:
            _hook.current.access(self, error is not None and not _is_cancelled(error))
        return await original(self, error)

    return _nested_child_finished


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancelled(inner) for inner in error.exceptions)
    return isinstance(error, trio.Cancelled)


def _child_tasks(original: property) -> property:
    def child_tasks(self: trio.Nursery) -> Any:
        if _hook.current is not None:
            _hook.current.access_anything()
        return original.fget(self)  # type: ignore[misc]

    return property(child_tasks, doc=original.__doc__)


def _has_pending_cancellation(original: Method) -> Method:
    @functools.wraps(original)
    def has_pending_cancellation(self: Any) -> bool:
        if _hook.current is not None:
            for task in list(_run.GLOBAL_RUN_CONTEXT.runner.tasks):
                if id(task) == self.id:
                    _hook.current.depend_on(task)
        return bool(original(self))

    return has_pending_cancellation


def _pin(original: Method) -> Method:
    @functools.wraps(original)
    def pin(self: Any, key: Any) -> Any:
        if _hook.current is None:
            return original(self, key)
        _hook.current.access(self, False)
        guard = original(self, key)
        _hook.current.access(guard, False)
        return guard

    return pin


def _unpin(original: Method) -> Method:
    @functools.wraps(original)
    def unpin(self: Any, *args: Any) -> None:
        if _hook.current is not None:
            retired = self.drain is not None
            _hook.current.access(self, retired)
            if retired:
                # It may be the last one: then the edit settles here.
                _hook.current.access(self.drain._map, True)
        original(self, *args)

    return unpin


def _publish(original: Method) -> Method:
    @functools.wraps(original)
    def _publish(self: Any, edit: Any, *args: Any) -> Any:
        if _hook.current is not None:
            _hook.current.access(self, True)
            for region in edit.old:
                _hook.current.access(region.guard, True)
        return original(self, edit, *args)

    return _publish


def _counting(original: Method) -> Method:
    @functools.wraps(original)
    def statistics(self: Any) -> Any:
        if _hook.current is not None:
            _hook.current.access(self, True)
            for region in self._index:
                _hook.current.access(region.guard, True)
        return original(self)

    return statistics


SPECIAL: Final[tuple[tuple[str, str, str, Callable[[Any], Any]], ...]] = (
    ("trio._core._run", "CancelScope", "_cancel", _cancel),
    ("trio._core._run", "CancelScope", "cancel_called", _cancel_called),
    ("trio._core._run", "CancelScope", "_close", _close),
    ("trio._core._run", "CancelScope", "shield", _shield),
    ("trio._core._run", "CancelStatus", "effective_deadline", _effective_deadline),
    ("trio._core._run", "Nursery", "start_soon", _start_soon),
    ("trio._core._run", "Nursery", "start", _start),
    ("trio._core._run", "Nursery", "_child_finished", _child_finished),
    ("trio._core._run", "Nursery", "_nested_child_finished", _nested_child_finished),
    ("trio._core._run", "Nursery", "child_tasks", _child_tasks),
    ("trio._core._run", "_TaskStatus", "started", _started),
    ("trio._core._parking_lot", "ParkingLot", "repark", _repark),
    (
        "anyio._backends._trio",
        "TrioTaskInfo",
        "has_pending_cancellation",
        _has_pending_cancellation,
    ),
    ("aspf.ranges._range_map", "RangeMap", "pin", _pin),
    ("aspf.ranges._range_map", "RangeMap", "_publish", _publish),
    ("aspf.ranges._range_map", "RangeMap", "statistics", _counting),
    ("aspf.ranges._region", "Guard", "__exit__", _unpin),
)

# -- for as long as somebody explores ----------------------------------------------------------------

# What was made before the exploration, and is used in it: the same object in every schedule.
_outsiders: dict[int, tuple[int, object]] = {}


def number_of_outsider(thing: object) -> int:
    """Number a primitive that was not made in the schedule, in the order of their first use."""
    if id(thing) not in _outsiders:
        _outsiders[id(thing)] = len(_outsiders), thing
    return _outsiders[id(thing)][0]


@contextmanager
def instrumented() -> Iterator[None]:
    """Have the primitives say what they do; on leaving they are as they were."""
    if "anyio" in sys.modules:
        import_module("anyio._backends._trio")
        import_module("anyio.streams.memory")
    _outsiders.clear()
    with ExitStack() as undo:
        for kind in KINDS:
            module = sys.modules.get(kind.module)
            if module is not None:
                of = getattr(module, kind.name)
                for name, value in list(_wrapped(kind, of)):
                    _replace(undo, of, name, value)
        for module_name, class_name, name, wrap in SPECIAL:
            module = sys.modules.get(module_name)
            if module is not None:
                of = getattr(module, class_name)
                _replace(undo, of, name, wrap(of.__dict__[name]))
        yield
    _outsiders.clear()


def _replace(undo: ExitStack, of: type, name: str, value: object) -> None:
    undo.callback(setattr, of, name, of.__dict__[name])
    setattr(of, name, value)
