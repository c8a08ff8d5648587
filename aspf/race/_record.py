"""Watches one schedule, and keeps what a diagram shows of it."""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING, NamedTuple, final

import trio

from aspf.race._diagram import EVERYWHERE, Row
from aspf.race._frames import place_of
from aspf.race._wait_for import Wait, waits_of

if TYPE_CHECKING:
    from types import FrameType

    from aspf.race._engine import Schedule, Strand

__all__ = ("Event", "Trace", "name_of", "short", "without_addresses")

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
_NOT_THE_PROGRAM = ("aspf.race.", "trio.", "anyio.", "contextlib")
_LONGEST_VALUE = 40


# What `Trace.mark` is told, by its first words.
_MARKS = {
    "*** cancelled": "cancelled",
    "*** timed out": "timed out",
    "*** never woken": "never woken",
    "sleeps": "sleeps",
    "yields": "yields",
    "ends": "ends",
}


class Event(NamedTuple):
    """One thing that happened: a row of the diagram, and what only other forms of it show."""

    turn: int  # in which turn of a task, counted over all tasks from 1
    time: float  # virtual seconds since the start
    task: int  # its number; `EVERYWHERE` if it concerns all
    depth: int  # how many calls deep
    kind: str  # "call", "access", "line", "time", or a value of `_MARKS`
    text: str
    where: str = ""  # "file.py:12", of the await in the innermost function of the program
    cell: str = ""  # of an access, as are the next three
    before: str = ""
    after: str = ""
    changed: bool = False

    @property
    def row(self) -> Row:
        """What the text diagram shows; a call is shown by what is done in it."""
        # What was typed in has no file to look into.
        is_shown = self.kind != "call" and not self.where.startswith("<")
        return Row(self.task, self.depth, self.text, self.where if is_shown else "")


@final
class Trace:
    """The events of a schedule, as it makes them.

    Which functions a task is in is read off its stack when it has something to show, so that a
    function is named when it is first seen in a row, above it and less indented.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.names: dict[int, str] = {}
        # The task of each turn, and when it was; the first is turn 1.
        self.turns: list[tuple[int, float]] = []
        # Who waits for whom, if the schedule ended in a deadlock.
        self.waits: tuple[Wait, ...] = ()
        self._now = 0.0
        # Only while the trace is being made; `close` drops the frames.
        self._stacks: dict[int, list[FrameType]] = {}
        self._expired: list[tuple[Strand, trio.CancelScope]] = []
        self._strand: Strand | None = None
        self._events_before = 0

    def step(self, strand: Strand) -> None:
        """The task runs next."""
        self._strand = strand
        self.turns.append((strand.number, self._now))
        scope = strand.expired(self._now)
        if scope is not None and (strand, scope) not in self._expired:
            self._expired.append((strand, scope))
            if not _sleeps_until(strand, scope._deadline):
                self.mark(strand, "*** timed out")
        self._events_before = len(self.events)

    def stop(self, strand: Strand, situation: str) -> None:
        """The task's step has ended."""
        # A task that only ends has shown what it did.
        if situation and (situation != "ends" or len(self.events) == self._events_before):
            self.mark(strand, situation)

    def access(self, name: str, before: object, after: object, changed: bool, note: str) -> None:  # noqa: FBT001
        """Keep one access with its values."""
        old, new = short(before), short(after)
        text = f"{name}: {old} -> {new}" if changed else f"{name} = {new}"
        self.line(f"{text}  # {note}" if note else text)
        self.events[-1] = self.events[-1]._replace(
            kind="access", cell=name, before=old, after=new, changed=changed
        )

    def line(self, text: str) -> None:
        """Keep a line of the running task, below the calls that it stands in."""
        strand = self._strand
        assert strand is not None
        self._add(strand, _running_calls(strand), "line", text)

    def mark(self, strand: Strand, text: str) -> None:
        """Keep what happens to a task that isn't running, below the calls that it waits in."""
        frames = [frame for frame, _ in strand.task.iter_await_frames()]
        kind = next(kind for words, kind in _MARKS.items() if text.startswith(words))
        self._add(strand, [frame for frame in frames if _is_of_the_program(frame)], kind, text)

    def time(self, now: float) -> None:
        """Keep that the clock has jumped."""
        self._now = now
        text = f"time passes: {now:g} s since the start"
        self.events.append(Event(len(self.turns), now, EVERYWHERE, 0, "time", text))

    def deadlock(self, schedule: Schedule) -> None:
        """Keep who waits for whom."""
        self.waits = waits_of(schedule)

    def close(self) -> None:
        """Let go of the program's frames."""
        self._stacks.clear()
        self._expired.clear()
        self._strand = None

    def _add(self, strand: Strand, calls: list[FrameType], kind: str, text: str) -> None:
        number = strand.number
        self.names[number] = strand.name
        known = self._stacks.get(number, [])
        same = 0
        while same < min(len(calls), len(known)) and calls[same] is known[same]:
            same += 1
        event = Event(len(self.turns), self._now, number, len(calls), kind, text)
        for depth in range(same, len(calls)):
            name = f"{calls[depth].f_code.co_name}()"
            place = place_of(calls[depth])
            self.events.append(event._replace(depth=depth, kind="call", text=name, where=place))
        self._stacks[number] = calls
        self.events.append(event._replace(where=place_of(calls[-1])) if calls else event)


def name_of(task: trio.lowlevel.Task) -> str:
    """Shorten a task's name: trio's default is the dotted path of its function."""
    # A name with spaces was given.
    return task.name if " " in task.name else task.name.rpartition(".")[2]


def without_addresses(text: str) -> str:
    """Leave memory addresses out, which no two runs share; anyio's numbers of tasks are such.

    Examples:
        >>> without_addresses("<Thing at 0x7f00dead>")
        '<Thing>'
        >>> without_addresses("TrioTaskInfo(id=139836, name='reader')")
        "TrioTaskInfo(name='reader')"
    """
    if " at 0x" in text or "TaskInfo(id=" in text:
        return re.sub(r" at 0x[0-9a-fA-F]+|(?<=TaskInfo\()id=\d+, ", "", text)
    return text


def short(value: object) -> str:
    """Write a value so that it fits into a column."""
    text = without_addresses(repr(value))
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _running_calls(strand: Strand) -> list[FrameType]:
    """The async functions of the program that the running task is in, outermost first."""
    calls: list[FrameType] = []
    root = strand.task.coro.cr_frame
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_of_the_program(frame):
            calls.append(frame)
        frame = None if frame is root else frame.f_back
    calls.reverse()
    return calls


def _sleeps_until(strand: Strand, deadline: float) -> bool:
    """Tell whether the deadline is that of a sleep, whose end is no time-out."""
    return any(
        frame.f_code is trio.sleep_until.__code__ and frame.f_locals["deadline"] == deadline
        for frame, _ in strand.task.iter_await_frames()
    )


def _is_of_the_program(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return bool(frame.f_code.co_flags & _ASYNC) and not module.startswith(_NOT_THE_PROGRAM)
