"""How an exploration is ended from outside: by a ctrl-C, or by the time-out of a test.

A signal comes between any two instructions, and an exception raised there is not always safe: in
trio's loop or in the making of a nursery it would leave a run half torn down, in a finalizer it is
lost. So, as in trio, it is raised only where a task's own code runs, which alone can be without an
end; a schedule that is interrupted anywhere else ends at its next choice.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import trio
from trio._core._ki import ki_protection_enabled

from aspf.race import _hook
from aspf.race._frames import place_of_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ("Interrupts", "interruptible")


@final
class Interrupts:
    """Whether somebody wants the exploration to end."""

    def __init__(self) -> None:
        self.came = False
        #: Which step of the program was broken off, if any was.
        self.where = ""

    def take(self, _: int, frame: FrameType | None) -> None:
        """Keep the first ctrl-C; whoever presses twice doesn't want to wait for a schedule's end."""
        if self.came and _hook.current is None:
            raise KeyboardInterrupt  # other processes may be waited for
        if self.came:
            self.insist(frame)
        self.came = True

    def insist(self, frame: FrameType | None) -> None:
        """End the present schedule; between two, the next is not begun.

        Args:
            frame: Where the signal came.

        Raises:
            KeyboardInterrupt: It came in a task's own code, which need not come to a choice.
        """
        self.came = True
        if _hook.current is None:
            return
        # Also where it is raised: the program may catch it, or it may come in a finalizer.
        _hook.current.interrupt()
        if frame is not None and not ki_protection_enabled(frame):
            name = _hook.current.name_of(trio.lowlevel.current_task())
            self.where = f"a step of {name!r}, {place_of_program(frame)}"
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise what was kept."""
        if self.came:
            raise KeyboardInterrupt


_present: Interrupts | None = None


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Keep a ctrl-C until the present schedule has ended; the next one ends it at once.

    Only where Python's own handler is installed, and in the main thread, which alone may do it.
    Somebody else's handler stays. Inside another one, this is that one.
    """
    global _present  # noqa: PLW0603
    if _present is not None:
        yield _present
        return
    interrupts = _present = Interrupts()
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, interrupts.take)
    try:
        yield interrupts
    finally:
        _present = None
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
