"""The seam between shared memory and whoever watches it: which hook, if any, is running.

A `Cell` asks here before each access. With no hook it is an ordinary trio program; an explorer
puts itself here for as long as it runs a schedule. The hook is global to the process: one
exploration at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from aspf.race._cell import Cell, Lifetime

__all__ = ("Hook", "Recorder", "current", "note", "recorder")


class Hook(Protocol):
    """Decides when a task may do its next access to shared memory."""

    def turn(
        self,
        place: Cell[Any] | Lifetime,
        writes: bool,  # noqa: FBT001
        condition: Callable[[Any], bool] | None,
    ) -> Awaitable[None]:
        """Wait for the task's turn to access *place*; with a condition, for that to hold too."""

    def use_after_free(self, error: BaseException) -> None:
        """Take note that the running task touched freed memory, whatever it does about it."""

    def name_of(self, task: trio.lowlevel.Task) -> str:
        """Say what diagrams call a task."""

    def may_cancel(self, scope: trio.CancelScope, where: str) -> None:
        """Take note that the running task has marked a scope, on the line *where*."""


class Recorder(Protocol):
    """Keeps what happened, for a diagram."""

    def access(self, name: str, before: object, after: object, changed: bool, note: str) -> None:  # noqa: FBT001
        """Keep one access; *before* and *after* are the cell's values."""

    def line(self, text: str) -> None:
        """Keep a line of text in the running task's column."""


current: Hook | None = None
# Only one run in thousands records, so a cell asks for the recorder apart from the hook.
recorder: Recorder | None = None


def note(text: str) -> None:
    """Add a line to the running task's column of the diagram.

    It is no access, no scheduling point, and costs next to nothing while nothing records.

    Args:
        text: One short line.
    """
    if recorder is not None:
        recorder.line(text)
