"""Every error of aspf's own, flat: one class a cause, each from its nearest builtin.

What anyio already names (`anyio.WouldBlock`, `anyio.ClosedResourceError`,
`anyio.BusyResourceError`) is raised as anyio's. What the kernel answers with an errno is an
`OSError` with that errno.
"""

from __future__ import annotations

import errno
from typing import Any, Final

__all__ = (
    "Blocked",
    "BusError",
    "DrainDeadlock",
    "ExplorationInterrupted",
    "NotDeterministic",
    "NotLinearizable",
    "RaceFound",
    "RangeInvalidated",
    "RangeNotFound",
    "RangeOverlap",
    "ReplayDiverged",
    "SegmentationFault",
    "StaleEdit",
    "StalePage",
    "TeardownStuck",
    "UseAfterFree",
    "WorkerDied",
)


class RangeNotFound(KeyError):
    """No range of the map contains the key.

    You do not get it from `find` and `get`, which answer ``None`` or the default.
    """

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, which puts a sentence in quotes.
        return str(self.args[0]) if self.args else ""


class RangeOverlap(ValueError):
    """An `insert` would cover keys that a range of the map covers already.

    Nothing was changed. `assign` replaces what is there instead.
    """


class RangeInvalidated(RuntimeError):
    """The held key lost its payload, and the body of a `hold` was cancelled for it.

    You get it only from ``hold(..., cancel_on_invalidate=True)``.
    """


class StaleEdit(RuntimeError):
    """The map changed between the opening of an `edit()` block and its end.

    Nothing of the edit was published. Plan it again on the map as it is now.
    """


class DrainDeadlock(RuntimeError):
    """A task would wait for a drain that waits for the task's own hold.

    The edit stands; await the drain after the hold has ended.
    """


_ACCESSES: Final = {1: "read of", 2: "write to", 4: "execution of"}


class SegmentationFault(OSError):
    """A task touched an address where nothing is mapped, or in a way that the mapping forbids.

    What Linux tells a process by SIGSEGV. An access that overlaps a `munmap` of its address may
    get it; one to an address that stays mapped throughout never does.

    Attributes:
        address: The byte that was touched.
        access: PROT_READ, PROT_WRITE or PROT_EXEC.
        code: ``"MAPERR"``, nothing is mapped there; ``"ACCERR"``, the mapping forbids the access.
    """

    def __init__(self, address: int, access: int, code: str) -> None:
        self.address = address
        self.access = access
        self.code = code
        why = "nothing is mapped there" if code == "MAPERR" else "the mapping forbids it"
        super().__init__(errno.EFAULT, f"SIGSEGV ({code}): {_touch(access, address)}: {why}")

    def __reduce__(self) -> tuple[type[SegmentationFault], tuple[int, int, str]]:
        return type(self), (self.address, self.access, self.code)


class BusError(OSError):
    """A task touched a mapped page that has no bytes: beyond the end of its file, or unreadable.

    What Linux tells a process by SIGBUS. After an I/O error its ``__cause__`` is that error.

    Attributes:
        address: The byte that was touched.
        access: PROT_READ, PROT_WRITE or PROT_EXEC.
        reason: Why there are no bytes.
    """

    def __init__(self, address: int, access: int, reason: str) -> None:
        self.address = address
        self.access = access
        self.reason = reason
        super().__init__(errno.EFAULT, f"SIGBUS: {_touch(access, address)}: {reason}")

    def __reduce__(self) -> tuple[type[BusError], tuple[int, int, str]]:
        return type(self), (self.address, self.access, self.reason)


def _touch(access: int, address: int) -> str:
    return f"{_ACCESSES.get(access, f'access {access:#x} to')} {address:#x}"


class StalePage(AssertionError):
    """A page is in the page table of a model address space, and no VMA contains it.

    Attributes:
        shrunk: Whether the VMA that contained it is still there, only shorter.
    """

    def __init__(self, message: str, *, shrunk: bool) -> None:
        super().__init__(message)
        self.shrunk = shrunk


class UseAfterFree(RuntimeError):
    """A cell was touched after the memory that it lived in had been freed.

    While an explorer runs, the schedule ends there as a failure, whatever the task does next.
    """


class NotDeterministic(RuntimeError):
    """A program under an explorer did what no schedule can repeat.

    Real I/O, threads and real time are such; so is a program that behaved differently when the
    same schedule was run again. The message names the task and the call.
    """


class ReplayDiverged(ValueError):
    """A replay token doesn't fit the program: it was made by another program or version of it.

    The message names the step at which they part.
    """


class RaceFound(AssertionError):
    """`aspf.race.check` found a schedule in which the program fails.

    The message is the whole report: the interleaving and the token that replays it.
    """


class NotProven(AssertionError):
    """`aspf.race.check` was asked for a proof, found no failure, and did not explore everything.

    The message is the whole report: what was explored, and what may have been missed.
    """


class ExplorationInterrupted(KeyboardInterrupt):
    """An exploration was ended by ctrl-C.

    Whoever catches `KeyboardInterrupt` catches it.

    Attributes:
        exploration: The `aspf.race.Exploration`: what was found until then.
    """

    def __init__(self, exploration: Any) -> None:
        super().__init__(exploration.headline())
        self.exploration = exploration


class WorkerDied(RuntimeError):
    """A process of an exploration with ``jobs=`` ended by itself.

    What the others have found is lost; nothing hangs.
    """


class TeardownStuck(RuntimeError):
    """A schedule was over, but its tasks could not be brought to an end by cancelling them.

    A task that swallows every `trio.Cancelled`, or waits where nothing can wake it, does this.
    """


class NotLinearizable(AssertionError):
    """No order, one call after the other, explains what concurrent calls of an object returned.

    The message shows the calls in columns by task, the longest order that the model explains, and
    what the model says to the calls that could come next.
    """


class Blocked(Exception):
    """Raised by a sequential model: in this state the call must wait, and can't take effect.

    It never leaves the check; see `aspf.race.History`.
    """
