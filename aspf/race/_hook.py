"""The seam between shared memory and whoever watches it: which hook, if any, is running.

A `Cell` asks here before each access. With no hook it is an ordinary trio program; an explorer
puts itself here for as long as it runs a schedule. The hook is global to the process: one
exploration at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    import trio

    from aspf.race._cell import Cell, Lifetime
    from aspf.race._watch import Watched

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

    def made(self, thing: object) -> None:
        """Take note that the running task has made a primitive."""

    def access(self, thing: object, writes: bool) -> None:  # noqa: FBT001
        """Take note that the running task accesses a primitive."""

    def access_anything(self) -> None:
        """Take note that the running task may access anything."""

    def depend_on(self, task: trio.lowlevel.Task) -> None:
        """Take note that the running task asks about another."""

    def sleep_on(self, thing: object, writes: bool) -> None:  # noqa: FBT001
        """Take note that the running task may go to sleep on a primitive."""

    def enter(self, thing: object) -> None:
        """Take note that the running task writes a primitive in each step until it leaves it."""

    def leave(self) -> None:
        """Take note that the running task has left the primitive that it entered last."""

    def moved(self, task: trio.lowlevel.Task, thing: object) -> None:
        """Take note that a sleeping task sleeps on another primitive now."""

    def woken(self) -> None:
        """Take note that the running task sleeps no more."""

    def before(self, thing: object, writes: bool, what: str) -> Awaitable[None]:  # noqa: FBT001
        """Wait for the task's turn to use a primitive, if the level has a point there.

        Args:
            thing: The primitive.
            writes: Whether it will be written.
            what: The method that will be called.
        """

    def point(self, name: str) -> Awaitable[None]:
        """Wait for the task's turn to go on from a point of the program's own."""

    def fail(self, error: BaseException) -> None:
        """Take note that the program has failed, whatever the running task does about it."""

    def name_of(self, task: trio.lowlevel.Task) -> str:
        """Say what diagrams call a task."""

    def watch(self, watched: Watched) -> None:
        """Take note that an object has to be at rest when the program has ended."""

    def sometimes(self, label: str, is_reached: bool) -> None:  # noqa: FBT001
        """Take note that a label was registered, and whether it was reached."""

    def may_stay(self, name: str) -> None:
        """Take note that system tasks of this name may be there when the program has ended."""

    def may_cancel(self, scope: trio.CancelScope, where: str) -> None:
        """Take note that the running task has marked a scope, on the line *where*."""

    def main_scope(self) -> AbstractContextManager[object]:
        """Make the scope around the part of the main task that may be cancelled; enter it once.

        To be called in the main task's first step: until then it is around the whole task.
        """

    @property
    def is_over(self) -> bool:
        """Whether the run has failed or was given up, and is only torn down any more."""

    def interrupt(self) -> None:
        """End the run at its next choice; somebody at the keyboard, or a time-out, wants it."""


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
