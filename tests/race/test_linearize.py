"""The checker against all permutations, and what a history prints. No event loop decides here."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import event, given, settings, strategies as st
from race._models import Lock, Queue, Register

from aspf.race import Blocked, Call
from aspf.race._linearize import linearize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

OPERATIONS: dict[Callable[[], object], list[tuple[str, tuple[int, ...]]]] = {
    Register: [("write", (1,)), ("write", (2,)), ("read", ())],
    Queue: [("put", (1,)), ("put", (2,)), ("get", ()), ("get_nowait", ())],
    Lock: [("acquire", ()), ("acquire_nowait", ()), ("release", ())],
}


def call_on(model: Any, call: Call) -> tuple[str, object]:
    """Do a call on a model that nobody has to copy."""
    if hasattr(model, "task"):
        model.task = call.task
    try:
        return "returned", getattr(model, call.name)(*call.args)
    except Blocked:
        return "blocked", None
    except (LookupError, RuntimeError, BlockingIOError) as error:
        return "raised", type(error)


def is_explained(order: Iterable[Call], model: Callable[[], object]) -> bool:
    """Run an order on one model from its start."""
    state = model()
    for call in order:
        end, value = call_on(state, call)
        known = type(call.value) if call.end == "raised" else call.value
        if end == "blocked" or (call.is_known and (end, value) != (call.end, known)):
            return False
    return True


def is_in_time(order: Sequence[Call]) -> bool:
    """Nothing stands before what had ended when it began."""
    return all(a.invoked < b.returned for a, b in itertools.combinations(order, 2))


def by_brute_force(calls: Sequence[Call], model: Callable[[], object]) -> bool:
    """Try every order of every set of calls that has all whose effect is known."""
    known = [call for call in calls if call.is_known]
    unknown = [call for call in calls if not call.is_known]
    return any(
        is_in_time(order) and is_explained(order, model)
        for n in range(len(unknown) + 1)
        for extra in itertools.combinations(unknown, n)
        for order in itertools.permutations([*known, *extra])
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[Callable[[], object], list[Call]]:
    """Up to six calls at random times, with results that are mostly plausible."""
    model = draw(st.sampled_from(list(OPERATIONS)))
    n = draw(st.integers(1, 6))
    moments = draw(st.permutations(range(2 * n)))
    state = model()
    calls = []
    for i in range(n):
        name, args = draw(st.sampled_from(OPERATIONS[model]))
        begin, end = sorted(moments[2 * i : 2 * i + 2])
        calls.append(Call(f"task {i % 2}", name, args, invoked=begin, returned=end))
    # As some order would have it, in time or not; what it would block, and some others, is open.
    for call in sorted(calls, key=lambda call: draw(st.integers(call.invoked, int(call.returned)))):
        how, value = call_on(state, call)
        if how == "blocked" or draw(st.integers(0, 5)) == 0:
            call.end = draw(st.sampled_from(["pending", "cancelled"]))
            call.returned = math.inf if call.end == "pending" else call.returned
        elif draw(st.integers(0, 7)) == 0:
            call.end, call.value = "returned", draw(st.sampled_from([None, 0, 1, 2]))
        elif how == "returned":
            call.end, call.value = "returned", value
        else:
            assert isinstance(value, type)
            call.end, call.value = "raised", value()
    return model, calls


@settings(max_examples=500)
@given(histories())
def test_as_all_permutations_say(history: tuple[Callable[[], object], list[Call]]) -> None:
    """Broken if a wrong history would pass, or a right one be refused."""
    model, calls = history
    expected = by_brute_force(calls, model)
    event(f"{model.__name__}: {'is' if expected else 'is not'} linearizable")

    assert linearize(calls, model).is_complete == expected


@settings(max_examples=500)
@given(histories())
def test_what_is_found_is_an_order_that_the_model_explains(
    history: tuple[Callable[[], object], list[Call]],
) -> None:
    """Broken if a report would show an order that is none, whole or in part."""
    model, calls = history
    found = linearize(calls, model)
    placed = [call for call, _ in found.order]
    effective = [call for call, effect in found.order if effect]

    assert is_in_time(placed)
    assert is_explained(effective, model)
    assert all(effect or not call.is_known for call, effect in found.order)
    assert found.is_complete == (len(placed) == len(calls))
    assert found.is_complete == (not found.refused)
    for call, answer in found.refused:
        assert call not in placed
        assert not is_explained([*effective, call], model) or not call.is_known
        assert answer.end == call_on(_after(model, effective), call)[0]


def _after(model: Callable[[], object], calls: Iterable[Call]) -> object:
    state = model()
    for call in calls:
        call_on(state, call)
    return state


def returned(task: str, name: str, *args: Any, at: tuple[float, float], value: Any = None) -> Call:
    return Call(task, name, args, {}, int(at[0]), at[1], "returned", value)


def test_a_long_history_is_checked_in_no_time() -> None:
    """Broken if the search entered the same pair of done calls and state again and again."""
    asked = 0

    class Counted(Register):
        def write(self, value: int) -> None:
            nonlocal asked
            asked += 1
            super().write(value)

    # Thirteen writes at the same time, of two values, and a read that none explains.
    calls = [returned(f"{i}", "write", i % 2, at=(i, 100)) for i in range(13)]
    calls.append(returned("reader", "read", at=(200, 201), value=7))

    found = linearize(calls, Counted)
    assert not found.is_complete
    assert len(found.order) == 13
    assert asked <= 3 * 13  # each call in each of the three states that there are

    one_by_one = [returned("a", "write", i, at=(2 * i, 2 * i + 1)) for i in range(2_000)]
    assert linearize(one_by_one, Register).is_complete


@dataclass
class Unhashable:
    """Equal by value, hence without a hash."""

    number: int = 0


class Hoard(list[Any]):
    """A model that is a container, with containers in it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[object] = set()
        self.bytes = bytearray()
        self.box = Unhashable()
        self.things: dict[str, list[object]] = {}

    def keep(self, thing: object) -> int:
        self.append(thing)
        self.seen.add(id(thing))
        self.bytes.append(len(self))
        self.box.number += 1
        self.things.setdefault("all", []).append(thing)
        return len(self)

    def last(self) -> object:
        assert self.box.number == len(self.bytes) == len(self.things["all"]) == len(self)
        return self[-1]


def test_states_are_told_apart_by_all_that_is_in_them() -> None:
    """Broken if two states were taken for one, and an order left out that explains the calls."""
    a, b = object(), object()
    keeps = [returned("a", "keep", a, at=(0, 10)), returned("b", "keep", b, at=(1, 11))]
    keeps[0].value, keeps[1].value = 2, 1
    for last, expected in ((a, True), (b, False)):
        calls = [*keeps, returned("c", "last", at=(20, 21), value=last)]
        assert linearize(calls, Hoard).is_complete == expected


@dataclass
class Bag:
    """A model whose order of arrival is all that there is to tell its states apart."""

    held: list[Unhashable] = field(default_factory=list)

    def put(self, number: int) -> None:
        self.held.append(Unhashable(number))

    def all(self) -> list[int]:
        return [held.number for held in self.held]


@pytest.mark.parametrize(
    ("seen", "expected"), [([1, 2], True), ([2, 1], True), ([1, 1], False), ([1], False)]
)
def test_values_in_a_list_are_compared_one_by_one(seen: list[int], expected: bool) -> None:
    """Broken if equal lengths, or equal classes, made equal states."""
    calls = [returned(f"{i}", "put", i, at=(i, 10)) for i in (1, 2)]
    calls.append(returned("3", "all", at=(20, 21), value=seen))

    assert linearize(calls, Bag).is_complete == expected


def test_the_caller_is_no_part_of_the_state() -> None:
    """Broken if a model that asks for its caller could never be in one state twice."""
    calls = [Call(str(i), "acquire_nowait", (), {}, i, 100, "raised", ValueError()) for i in (1, 2)]
    found = linearize(calls, Lock)

    assert [str(answer) for _, answer in found.refused] == ["-> None", "-> None"]
    assert all(answer.after.model.task is None for _, answer in found.refused if answer.after)


def test_an_exception_is_explained_by_its_base() -> None:
    """Broken if an object could not raise a class of its own where the model raises a builtin."""
    for error, expected in ((KeyError("k"), True), (LookupError(), True), (ValueError(), False)):
        call = Call("a", "get_nowait", (), {}, 0, 1, "raised", error)
        assert linearize([call], Queue).is_complete == expected


def test_a_call_in_words() -> None:
    """Broken if a report could not be read as the program it is about."""
    call = Call("a", "put", (1, "x"), {"key": None})
    assert (str(call), call.outcome) == ("put(1, 'x', key=None)", "has not ended")
    call.end, call.value = "raised", KeyError(1)
    assert call.outcome == "raises KeyError"
    call.end = "cancelled"
    assert call.outcome == "was cancelled"


class Shelf:
    """A model with a set in it, whose lookups return an error instead of raising it."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def put(self, thing: int) -> None:
        self.held.add(thing)

    def swap(self, old: int, new: int) -> None:
        self.held.remove(old)
        self.held.add(new)

    def find(self, thing: int) -> Exception | None:
        return None if thing in self.held else LOST


LOST = KeyError("lost")


def test_sets_are_told_apart_by_what_is_in_them() -> None:
    """Broken if an order that leads to another set were taken for one that was tried before."""
    calls = [returned("a", "put", 1, at=(0, 10)), returned("b", "put", 2, at=(1, 11))]
    calls.append(returned("c", "swap", 1, 3, at=(2, 12)))
    calls.append(Call("d", "put", (1,), {}, 3, 13, "cancelled"))
    for thing, value in ((1, None), (1, LOST), (2, None), (3, None)):
        found = returned("e", "find", thing, at=(20, 21), value=value)
        assert linearize([*calls, found], Shelf).is_complete
    assert not linearize([*calls, returned("e", "find", 4, at=(20, 21))], Shelf).is_complete


def test_an_error_that_is_returned_is_not_raised() -> None:
    """Broken if a method that raises what its model returns were taken for right, or the reverse."""
    assert linearize([returned("a", "find", 4, at=(0, 1), value=LOST)], Shelf).is_complete
    raised = Call("a", "find", (4,), {}, 0, 1, "raised", LOST)
    assert not linearize([raised], Shelf).is_complete
    instead = returned("a", "swap", 4, 5, at=(0, 1), value=KeyError(4))
    assert not linearize([instead], Shelf).is_complete
