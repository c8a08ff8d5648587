"""Watches one schedule, and keeps what a diagram shows of it."""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING, final

from aspf.race._diagram import EVERYWHERE, Row

if TYPE_CHECKING:
    from types import FrameType

    import trio

    from aspf.race._engine import Strand

__all__ = ("Trace", "name_of", "short", "without_addresses")

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
_NOT_THE_PROGRAM = ("aspf.race.", "trio.", "anyio.", "contextlib")
_LONGEST_VALUE = 40


@final
class Trace:
    """The rows of a diagram, as a schedule makes them.

    Which functions a task is in is read off its stack when it has something to show, so that a
    function is named when it is first seen in a row, above it and less indented.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.names: dict[int, str] = {}
        # Only while the trace is being made; `close` drops the frames.
        self._stacks: dict[int, list[FrameType]] = {}
        self._strand: Strand | None = None
        self._rows_before = 0

    def step(self, strand: Strand) -> None:
        """The task runs next."""
        self._strand = strand
        self._rows_before = len(self.rows)

    def stop(self, strand: Strand, situation: str) -> None:
        """The task's step has ended."""
        # A task that only ends has shown what it did.
        if situation and (situation != "ends" or len(self.rows) == self._rows_before):
            self.mark(strand, situation)

    def access(self, name: str, before: object, after: object, changed: bool, note: str) -> None:  # noqa: FBT001
        """Keep one access with its values."""
        text = (
            f"{name}: {short(before)} -> {short(after)}" if changed else f"{name} = {short(after)}"
        )
        self.line(f"{text}  # {note}" if note else text)

    def line(self, text: str) -> None:
        """Keep a line of the running task, below the calls that it stands in."""
        strand = self._strand
        assert strand is not None
        self._add(strand, _running_calls(strand), text)

    def mark(self, strand: Strand, text: str) -> None:
        """Keep what happens to a task that isn't running, below the calls that it waits in."""
        frames = [frame for frame, _ in strand.task.iter_await_frames()]
        self._add(strand, [frame for frame in frames if _is_of_the_program(frame)], text)

    def time(self, now: float) -> None:
        """Keep that the clock has jumped."""
        self.rows.append(Row(EVERYWHERE, 0, f"time passes: {now:g} s since the start"))

    def close(self) -> None:
        """Let go of the program's frames."""
        self._stacks.clear()
        self._strand = None

    def _add(self, strand: Strand, calls: list[FrameType], text: str) -> None:
        number = strand.number
        self.names[number] = strand.name
        known = self._stacks.get(number, [])
        same = 0
        while same < min(len(calls), len(known)) and calls[same] is known[same]:
            same += 1
        for depth in range(same, len(calls)):
            self.rows.append(Row(number, depth, f"{calls[depth].f_code.co_name}()"))
        self._stacks[number] = calls
        self.rows.append(Row(number, len(calls), text))


def name_of(task: trio.lowlevel.Task) -> str:
    """Shorten a task's name: trio's default is the dotted path of its function."""
    # A name with spaces was given.
    return task.name if " " in task.name else task.name.rpartition(".")[2]


def without_addresses(text: str) -> str:
    """Leave memory addresses out, which no two runs share.

    Examples:
        >>> without_addresses("<Thing at 0x7f00dead>")
        '<Thing>'
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


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


def _is_of_the_program(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return bool(frame.f_code.co_flags & _ASYNC) and not module.startswith(_NOT_THE_PROGRAM)
