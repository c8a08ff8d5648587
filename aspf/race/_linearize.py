"""Is there an order, one call after the other, that explains what concurrent calls returned? Pure.

An object is *linearizable* (Herlihy and Wing, "Linearizability", TOPLAS 1990) if each of its calls
takes effect at one moment between its start and its end. So for what was recorded there must be an
order of the calls, the *linearization*, in which a call that ended before another began stands
before it, and in which a sequential model of the object, asked call by call, gives the recorded
answers.

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", JPDC 1993): the
next call in the order is one that began before any of those that are left has ended. With the
table of Lowe ("Testing for Linearizability", CCPE 2017): what is left to explain depends only on
which calls have been placed and on the model's state, so a pair of these that has been reached
before need not be entered again. Both are exact, they leave no order out that could succeed.

A call that was cancelled, or has not ended, may have taken effect or not: the search tries both.
What the model would have answered it doesn't matter then, only that it may answer.

What the model is asked, it is asked on a copy. Values that were arguments or results are not
copied, since an object may be known by its identity. Two states are the same if they hold equal
values in the same order; that may take one state for two, which costs time, but never two for one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

from aspf._errors import Blocked
from aspf.race._record import short

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

__all__ = ("Answer", "Call", "Linearization", "linearize")


@final
@dataclass(slots=True, eq=False)
class Call:
    """One call of a watched object: who called what, when, and what came of it.

    Attributes:
        task: The task's name.
        name: The method's name.
        args: Its arguments.
        kwargs: Those that were given by name.
        invoked: When it began; moments are numbered, no two are the same.
        returned: When it ended; `math.inf` if it has not.
        end: ``"pending"``, ``"returned"``, ``"raised"`` or ``"cancelled"``. Only of a call that
            returned or raised is it known that it took effect.
        value: What it returned or raised.
    """

    task: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    invoked: int = 0
    returned: float = math.inf
    end: Literal["pending", "returned", "raised", "cancelled"] = "pending"
    value: Any = None

    def __str__(self) -> str:
        """Return the call as it is written in a program."""
        given = [short(value) for value in self.args]
        given += [f"{name}={short(value)}" for name, value in self.kwargs.items()]
        return f"{self.name}({', '.join(given)})"

    @property
    def outcome(self) -> str:
        """What came of it, in words."""
        if self.end in {"returned", "raised"}:
            return _in_words(self.end, self.value)
        return "was cancelled" if self.end == "cancelled" else "has not ended"

    @property
    def is_known(self) -> bool:
        """Whether it took effect for certain."""
        return self.end in {"returned", "raised"}


class State(NamedTuple):
    """A model after some calls. It is never asked itself, only its copies."""

    model: object
    key: Hashable

    @classmethod
    def of(cls, model: object) -> State:
        return cls(model, _parts(model))


class Answer(NamedTuple):
    """What the model says to a call, and its state after that; none if the call must wait."""

    end: str  # "returned", "raised" or "blocked"
    value: Any
    after: State | None

    def __str__(self) -> str:
        return "must wait" if self.end == "blocked" else _in_words(self.end, self.value)

    def explains(self, call: Call) -> bool:
        """Tell whether the call may have taken effect here."""
        if self.end == "blocked" or not call.is_known:
            return self.end != "blocked"
        if self.end != call.end:
            return False
        if self.end == "raised":
            return isinstance(call.value, type(self.value))
        return bool(self.value == call.value)


@final
class Linearization(NamedTuple):
    """An order that explains all calls; or the longest that explains some, and who is next."""

    is_complete: bool
    #: Each with whether it took effect.
    order: tuple[tuple[Call, bool], ...]
    #: The calls that could come next, and what the model says to them.
    refused: tuple[tuple[Call, Answer], ...]


def linearize(calls: Sequence[Call], model: Callable[[], object]) -> Linearization:
    """Search for an order of *calls* that *model* explains.

    Exponential in the number of calls that overlap, at worst; linear where none do.

    Args:
        calls: Calls of one object, in any order.
        model: Makes the sequential object, with methods of the same names.

    Returns:
        The first order found, or the longest part of one.

    Examples:
        >>> class Flag:
        ...     up = False
        ...     def raise_(self): self.up = True
        ...     def is_up(self): return self.up
        >>> raised = Call("A", "raise_", invoked=1, returned=4, end="returned")
        >>> seen = Call("B", "is_up", invoked=2, returned=3, end="returned", value=True)
        >>> late = Call("B", "is_up", invoked=5, returned=6, end="returned", value=False)
        >>> linearize([seen, raised], Flag).is_complete
        True
        >>> linearize([seen, raised, late], Flag).is_complete
        False
    """
    return _Search(calls, model).run()


class _Frame(NamedTuple):
    """A node of the search: what was placed last, what is placed, and what may be placed next."""

    placed: tuple[Call, bool] | None
    done: int  # a bit for each call
    state: State
    moves: Iterator[tuple[int, bool, State]]


@final
class _Search:
    def __init__(self, calls: Sequence[Call], model: Callable[[], object]) -> None:
        # Invariant: sorted by the moment of the beginning.
        self._calls = sorted(calls, key=lambda call: call.invoked)
        self._start = State.of(model())
        self._opaque = {
            id(value): value
            for call in calls
            for value in (*call.args, *call.kwargs.values(), call.value)
        }
        self._answers: dict[tuple[Hashable, int], Answer] = {}

    def run(self) -> Linearization:
        everything = (1 << len(self._calls)) - 1
        seen: set[tuple[int, Hashable]] = set()
        path = [self._frame(None, 0, self._start)]
        longest = tuple(path)
        while path and path[-1].done != everything:
            for index, effect, after in path[-1].moves:
                done = path[-1].done | 1 << index
                if (done, after.key) not in seen:
                    seen.add((done, after.key))
                    path.append(self._frame((self._calls[index], effect), done, after))
                    break
            else:
                path.pop()
            if len(path) > len(longest):
                longest = tuple(path)
        order = tuple(frame.placed for frame in longest if frame.placed is not None)
        last = longest[-1]
        refused = tuple(
            (self._calls[index], self._ask(last.state, index)) for index in self._next(last.done)
        )
        return Linearization(last.done == everything, order, refused)

    def _frame(self, placed: tuple[Call, bool] | None, done: int, state: State) -> _Frame:
        return _Frame(placed, done, state, self._moves(done, state))

    def _moves(self, done: int, state: State) -> Iterator[tuple[int, bool, State]]:
        for index in self._next(done):
            call, answer = self._calls[index], self._ask(state, index)
            if answer.after is not None and answer.explains(call):
                yield index, True, answer.after
            if not call.is_known:
                yield index, False, state

    def _next(self, done: int) -> Iterator[int]:
        """Yield the calls that are left and began before any of these ended."""
        first_end = math.inf
        first_left = (~done & (done + 1)).bit_length() - 1
        for index in range(first_left, len(self._calls)):
            call = self._calls[index]
            if call.invoked > first_end:
                return
            if not done >> index & 1:
                first_end = min(first_end, call.returned)
                yield index

    def _ask(self, state: State, index: int) -> Answer:
        question = state.key, index
        if question not in self._answers:
            self._answers[question] = self._answer(state.model, self._calls[index])
        return self._answers[question]

    def _answer(self, before: object, call: Call) -> Answer:
        model: Any = deepcopy(before, dict(self._opaque))
        knows_caller = hasattr(model, "task")
        if knows_caller:
            model.task = call.task
        try:
            end, value = "returned", getattr(model, call.name)(*call.args, **call.kwargs)
        except Blocked:
            return Answer("blocked", None, None)
        except Exception as error:  # noqa: BLE001 - compared with what the call raised
            end, value = "raised", error
        if knows_caller:
            # Who called last is no part of the state.
            model.task = None
        return Answer(end, value, State.of(model))


def _in_words(end: str, value: object) -> str:
    if end == "returned":
        return f"-> {short(value)}"
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    return f"raises {'' if package == 'builtins' else package + '.'}{kind.__qualname__}"


def _frozen(value: Any) -> Hashable:
    """Make something hashable that is equal only for equal values."""
    if type(value) is dict:
        return dict, tuple((key, _frozen(held)) for key, held in value.items())
    if type(value) in (list, tuple, deque):
        return type(value), tuple(_frozen(held) for held in value)
    if type(value) is set:
        return frozenset(value)
    try:
        hash(value)
    except TypeError:
        return _parts(value)
    return value  # type: ignore[no-any-return]


def _parts(value: object) -> Hashable:
    """Take an object apart as `copy.deepcopy` does: its class, its attributes, its items."""
    parts = value.__reduce_ex__(4)
    return tuple(_frozen(tuple(part) if isinstance(part, Iterator) else part) for part in parts)
