"""A deadlock as a circle: who waits for what, and who has it.

What a task waits for is seen in its innermost frames. Who has it is known of trio's locks and
capacity limiters, of nurseries (their children), and of a cell: the task that wrote its value last,
for it is that value that the condition of the waiting task rejects. Of events, semaphores and
channels nobody can know who would have set, released or sent, so they end a chain.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from aspf.race._frames import is_library, is_ours, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import FrameType

    from aspf.race._engine import Schedule, Strand

__all__ = ("Wait", "cycle_among", "describe_cycle", "waits_of")

Lock = trio.Lock | trio.StrictFIFOLock


class Wait(NamedTuple):
    """What one task of a deadlock waits for."""

    task: int
    name: str
    what: str
    where: str = ""  # "file.py:12", of the await
    how: str = ""  # how the holders have it: "held by", or "last written by"
    holders: tuple[int, ...] = ()  # tasks


def waits_of(schedule: Schedule) -> tuple[Wait, ...]:
    """Describe what every living task waits for, at a deadlock."""
    return tuple(_wait_of(strand, schedule) for strand in schedule.strands if strand.is_alive)


def cycle_among(waits: Iterable[Wait]) -> list[Wait]:
    """Find tasks each of which waits for the next, and the last for the first.

    Returns:
        A shortest such circle, beginning with its lowest task; nothing if there is none.

    Examples:
        >>> ab = [Wait(1, "one", "b", holders=(2,)), Wait(2, "two", "a", holders=(1,))]
        >>> [wait.name for wait in cycle_among(ab)]
        ['one', 'two']
        >>> cycle_among(ab[:1])
        []
    """
    by_task = {wait.task: wait for wait in waits}
    found = (_way_back(task, by_task) for task in sorted(by_task))
    return min((path for path in found if path), key=len, default=[])


def describe_cycle(cycle: Sequence[Wait], names: Mapping[int, str]) -> list[str]:
    """Say a circle in words, a line for each task of it; nothing if there is none."""
    return ["wait-for cycle:", *(f"  {_in_words(wait, names)}" for wait in cycle)] if cycle else []


def _in_words(wait: Wait, names: Mapping[int, str]) -> str:
    text = f"{wait.name} waits for {wait.what}"
    if wait.how:
        text += f", {wait.how} " + ", ".join(names[holder] for holder in wait.holders)
    return f"{text} ({wait.where})" if wait.where else text


def _way_back(start: int, waits: Mapping[int, Wait]) -> list[Wait]:
    """Find a shortest way from a task back to itself, breadth first."""
    paths = [[waits[start]]]
    seen: set[int] = set()
    while paths:
        path = paths.pop(0)
        for holder in path[-1].holders:
            if holder == start:
                return path
            if holder in waits and holder not in seen:
                seen.add(holder)
                paths.append([*path, waits[holder]])
    return []


def _wait_of(strand: Strand, schedule: Schedule) -> Wait:
    frames = [frame for frame, _ in strand.task.iter_await_frames()]
    at = max((i for i, frame in enumerate(frames) if not is_library(frame)), default=-1)
    wait = Wait(strand.number, strand.name, "", "" if at < 0 else place_of(frames[at]))
    operation = strand.operation
    if strand.is_queued and operation is not None:
        return _wait_for_cell(wait._replace(what=operation.place.name), strand, schedule)
    inner = [frame for frame in frames[at + 1 :] if not is_ours(frame)]
    if any(frame.f_code.co_name == "_nested_child_finished" for frame in inner):
        children = (t for n in strand.task.child_nurseries[-1:] for t in n._children)
        held = _numbers(children, schedule)
        names = ", ".join(schedule.strands[number].name for number in held)
        return wait._replace(what=f"its child tasks {names}", holders=held)
    for frame in inner:
        thing = frame.f_locals.get("self")
        if isinstance(thing, Lock | trio.CapacityLimiter):
            name = _name_of(thing, frames[: at + 1])
            held = _numbers(_holders_of(thing), schedule)
            return wait._replace(what=name, how="held by" if held else "", holders=held)
    return wait._replace(what=inner[0].f_code.co_qualname if inner else "a reschedule")


def _wait_for_cell(wait: Wait, strand: Strand, schedule: Schedule) -> Wait:
    assert strand.operation is not None
    writer = schedule._writers.get(strand.operation.place)
    # Who has put itself into a queue waits for somebody else to take it out.
    if writer is None or writer is strand:
        return wait
    return wait._replace(how="last written by", holders=(writer.number,))


def _holders_of(thing: trio.Lock | trio.StrictFIFOLock | trio.CapacityLimiter) -> list[Any]:
    if isinstance(thing, trio.CapacityLimiter):
        return list(thing.statistics().borrowers)
    return [thing.statistics().owner]


def _numbers(tasks: Iterable[Any], schedule: Schedule) -> tuple[int, ...]:
    """The tasks' numbers; a limiter may be borrowed on behalf of anything."""
    known = {strand.task: strand.number for strand in schedule.strands}
    return tuple(sorted(known[task] for task in tasks if task in known))


def _name_of(thing: object, frames: list[FrameType]) -> str:
    """Name an object as the function that waits for it does, innermost first."""
    kind = type(thing).__name__
    for frame in reversed(frames):
        for name, value in frame.f_locals.items():
            if value is thing:
                return f"{kind} {name!r}"
            for attribute, inner in _attributes(value):
                if inner is thing:
                    return f"{kind} '{name}.{attribute}'"
    return f"a {kind}"


def _attributes(value: object) -> list[tuple[str, object]]:
    """An object's own attributes, read without running any code of its class."""
    if inspect.ismodule(value) or isinstance(value, type):
        return []
    try:
        return list(object.__getattribute__(value, "__dict__").items())
    except AttributeError:
        return []
