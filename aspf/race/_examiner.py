"""A profile hook that names the calls whose answers no schedule can repeat; see ``_doctor.py``."""

from __future__ import annotations

import os
import random
import socket
import sys
import sysconfig
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import trio

from aspf.race._frames import is_library, place_of

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self

    from aspf.race._engine import Schedule

__all__ = ("Examiner", "Finding", "judge", "where")

# C functions, by the module that they say they are of.
_CLOCK: Final = {
    *(
        ("time", name + suffix)
        for name in ("time", "monotonic", "perf_counter")
        for suffix in ("", "_ns")
    ),
    *(
        ("time", name + suffix)
        for name in ("process_time", "thread_time")
        for suffix in ("", "_ns")
    ),
    *(("time", name) for name in ("sleep", "localtime", "gmtime", "ctime", "asctime", "strftime")),
    *(("time", name) for name in ("clock_gettime", "clock_gettime_ns")),
}
_CHANCE: Final = {
    *((os.name, name) for name in ("urandom", "getrandom")),
    *(("_uuid", name) for name in ("generate_time_safe", "UuidCreate")),
}
_REFUSED: Final = {
    *(("_thread", name) for name in ("start_new_thread", "start_new", "start_joinable_thread")),
    *((os.name, name) for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system")),
    *(("_posixsubprocess", "fork_exec"), ("_winapi", "CreateProcess")),
    *(("select", name) for name in ("select", "poll", "epoll", "kqueue")),
    *(("_socket", name) for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex")),
    *(("_socket", name) for name in ("gethostbyaddr", "getnameinfo")),
}
_OF_SOCKETS: Final = {
    *("accept", "_accept", "connect", "connect_ex"),
    *("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"),
    *("send", "sendall", "sendfile", "sendmsg", "sendto"),
}
_OF_DATES: Final = {"now", "today", "utcnow"}
_OF_CHANCE: Final = {"random", "getrandbits"}
_STANDARD_LIBRARY: Final = tuple(
    os.path.join(sysconfig.get_path(name), "")  # noqa: PTH118 - a prefix of text, not a path
    for name in ("stdlib", "platstdlib")
)
_SITE_PACKAGES: Final = ("site-packages", "dist-packages")


@final
class Finding(NamedTuple):
    """A call whose answer the next run need not repeat."""

    #: The task that made it.
    task: str
    #: The call, such as ``"time.monotonic()"``.
    call: str
    #: The line of the program, or of a package that it uses: ``"cache.py:12"``.
    where: str

    def __str__(self) -> str:
        return f"task {self.task!r} calls {self.call} ({self.where})"

    def times(self, n: int) -> str:
        """Say it, and how often."""
        return str(self) if n == 1 else f"{self}, {n} times"


@final
class Examiner:
    """A profile hook for one schedule: ``with Examiner(schedule) as examiner: schedule.run()``.

    Another profiler that is already there keeps its place, and nothing is examined.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.findings: Counter[Finding] = Counter()
        self._schedule = schedule

    def __enter__(self) -> Self:
        if sys.getprofile() is None:
            sys.setprofile(self._look)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if sys.getprofile() == self._look:
            sys.setprofile(None)

    # A profile function isn't traced, so coverage sees nothing of it; what decides is below.
    def _look(
        self, frame: FrameType, event: str, function: Any
    ) -> None:  # pragma: no cover - see above
        if event != "c_call":
            return
        verdict = judge(function)
        if verdict is None:
            return
        try:
            task = trio.lowlevel.current_task()
        except RuntimeError:
            return  # between two steps: a callback of the garbage collector, say
        if self._schedule._by_task.get(task) is None:
            return  # trio's own start or end of the run
        if verdict.is_refused:
            raise self._schedule.refuse(verdict.call, where(frame))
        finding = Finding(self._schedule.name_of(task), verdict.call, where(frame))
        self.findings[finding] += 1


class Verdict(NamedTuple):
    """What to think of a call."""

    call: str
    is_refused: bool


def judge(function: Any) -> Verdict | None:
    """Say what to think of a call of a C function; `None` for nearly all of them."""
    name, owner = function.__name__, function.__self__
    known = function.__module__, name
    if known in _REFUSED:
        return Verdict(f"{known[0]}.{name}()", is_refused=True)
    if name in _OF_SOCKETS and isinstance(owner, socket.SocketType):
        return Verdict(f"socket.{name}()", is_refused=True)
    if known in _CLOCK:
        return Verdict(f"time.{name}()", is_refused=False)
    if known in _CHANCE:
        return Verdict(f"{'os' if known[0] == os.name else 'uuid'}.{name}()", is_refused=False)
    if name in _OF_DATES and isinstance(owner, type) and owner.__module__ == "datetime":
        return Verdict(f"{owner.__name__}.{name}()", is_refused=False)
    # A `random.Random` with a seed of its own repeats itself.
    if name in _OF_CHANCE and random.random.__self__ is owner:  # type: ignore[attr-defined]
        return Verdict(f"random.{name}()", is_refused=False)
    return None


def where(frame: FrameType) -> str:
    """Return the line of the program, or of a package, that led to the call."""
    caller: FrameType | None = frame
    # Below trio's loop stands who explores, not the program.
    while caller is not None and caller.f_code.co_name != "unrolled_run":
        if not is_library(caller) and not _is_standard(caller.f_code.co_filename):
            return place_of(caller)
        caller = caller.f_back
    return place_of(frame)


def _is_standard(filename: str) -> bool:
    return filename.startswith("<frozen ") or (
        filename.startswith(_STANDARD_LIBRARY) and not any(p in filename for p in _SITE_PACKAGES)
    )
