"""Is the program deterministic? One schedule of it is run under a profile hook, and once elsewhere.

An exploration stands and falls with one assumption: the same choices lead to the same events. Two
things can break it, and each has a test of its own here.

- *A call whose answer no schedule can repeat.* The first schedule of every exploration runs under
  `Examiner`, a profile hook that sees each call of a C function and compares it with a list.
  Reading a clock, `random` or `os.urandom` is only noted, with task and line: many packages do it
  for a log line or an identifier, and the order of events never depends on it. A thread, a process
  or a socket is refused, because what comes back from it comes back at a moment of its own.
- *An order that differs between processes.* Sets of strings are iterated in the order of their
  hashes, which Python draws anew for each process. So `doctor` runs the same schedule again in a
  fresh process with another PYTHONHASHSEED, and compares everything that a recording keeps: which
  tasks could run at each step, where each of them stopped, what was read and written, the outcome.

What the hook can't see is what C code does by itself, such as a clock that an extension module
reads. The second test finds it if it changes the events of that one schedule.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, final

from aspf._errors import NotDeterministic
from aspf.race._engine import Schedule
from aspf.race._examiner import Examiner, Finding
from aspf.race._explore import name_of_program
from aspf.race._minimise import Follow
from aspf.race._record import Trace, without_addresses
from aspf.race._runner import exploring
from aspf.race._settings import Settings

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Mapping
    from multiprocessing.connection import Connection

__all__ = ("Diagnosis", "doctor")

_SECONDS: Final = 60


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `doctor` has seen of a program."""

    #: The program's name.
    program: str
    #: What it read that another run need not repeat, and how often; no reason to stop.
    findings: Mapping[Finding, int]
    #: How many events of the schedule were compared.
    events: int
    #: Why there was no comparison with another process; empty if there was one.
    not_compared: str = ""

    def __str__(self) -> str:
        """Return the report."""
        lines = [f"{self.program}: nothing was found that a schedule can't repeat"]
        if self.findings:
            lines = [f"{self.program}: reads what another run need not repeat"]
            lines += [f"  {finding.times(n)}" for finding, n in self.findings.items()]
            lines.append("  that is no harm as long as the order of events does not depend on it")
        events = f"{self.events} event{'' if self.events == 1 else 's'}"
        if self.not_compared:
            lines.append(
                f"the same {events} twice in this process, and not in another: {self.not_compared}"
            )
        else:
            lines.append(f"the same {events} in another process, with another PYTHONHASHSEED")
        return "\n".join(lines) + "\n"


def doctor(
    program: Callable[[], Awaitable[object]], *, name: str | None = None, max_steps: int = 10_000
) -> Diagnosis:
    """Find out whether a program is deterministic, as far as one schedule can show.

    It is run once under a profile hook, in the order in which every task runs for as long as it can,
    and once more in the same order: in a fresh process with another PYTHONHASHSEED, if the program
    can be imported there (it is a function of a module, or a `functools.partial` of one), else in
    this process.

    Args:
        program: As for `explore`.
        name: What the report calls it; its own name if left out.
        max_steps: Where the schedule is cut, if it doesn't end.

    Returns:
        What it read that another run need not repeat, which is no reason to stop.

    Raises:
        NotDeterministic: It started a thread or a process or used a socket; the message names task
            and line. Or the two runs differ; the message shows where they part.
        RuntimeError: Called from inside a trio program.

    Examples:
        >>> import random, trio
        >>> async def program():
        ...     request = random.random()
        ...     await trio.sleep(1)
        >>> print(doctor(program), end="")  # doctest: +ELLIPSIS
        program: reads what another run need not repeat
          task 'main' calls random.random() (...:2)
          that is no harm as long as the order of events does not depend on it
        ...
    """
    called = name_of_program(program) if name is None else name
    settings = Settings(max_steps=max_steps)
    mine, findings = _account_of(program, settings)
    try:
        theirs = _elsewhere(program, settings)
        reason = ""
    except _NotImportableError as error:
        theirs, _ = _account_of(program, settings)
        reason = str(error)
    place = "this process" if reason else "another process"
    parting = _parting(mine, theirs)
    if parting:
        reads = "".join(f"\n  {finding.times(n)}" for finding, n in findings.items())
        raise NotDeterministic(
            f"{called} did not repeat itself in {place}: {parting}; look for an iteration over a set, "
            f"for state that outlives a run, and for what it reads{reads and ':'}{reads}"
        )
    return Diagnosis(called, dict(findings), len(mine.events), reason)


# -- two runs ------------------------------------------------------------------------------------


class _NotImportableError(Exception):
    """The program can't be run in another process."""


@dataclass(frozen=True, slots=True)
class _Account:
    """All that two runs of one schedule must have in common."""

    events: tuple[str, ...]
    choices: tuple[tuple[int, ...], ...] = field(repr=False)


def _account_of(
    program: Callable[[], Awaitable[object]], settings: Settings
) -> tuple[_Account, Counter[Finding]]:
    trace, chooser = Trace(), Follow()
    with exploring():
        schedule = Schedule(program, chooser, settings, watcher=trace)
        with Examiner(schedule) as examiner:
            schedule.run()
    names = {strand.number: strand.name for strand in schedule.strands}
    events = [
        f"{names.get(event.task, 'all')}: {event.text}"
        + (f" ({event.where})" if event.where else "")
        for event in trace.events
    ]
    ending = (
        repr(schedule.result)
        if schedule.verdict is None
        else f"{schedule.verdict}: {schedule.error!r}"
    )
    trace.close()
    events.append(f"ends with {without_addresses(ending)}")
    return _Account(
        tuple(events), tuple(choice.actions for choice in chooser.choices)
    ), examiner.findings


def _elsewhere(program: Callable[[], Awaitable[object]], settings: Settings) -> _Account:
    """Run the schedule in a fresh process that hashes strings in another way."""
    try:
        pickle.dumps(program)
    except Exception as error:
        raise _NotImportableError(
            "the program can't be imported there; make it a function of a module"
        ) from error
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(program, settings, sending), daemon=True)
    seed = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "1" if seed == "0" else "0"
    try:
        process.start()
    finally:
        if seed is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = seed
    sending.close()
    try:
        if not receiving.poll(_SECONDS):
            raise NotDeterministic(
                f"the program ended here and has not ended in another process within {_SECONDS} s"
            )
        account = receiving.recv()
    except EOFError:
        raise _NotImportableError(
            "a process that imports it ended before it ran; what it printed says why"
        ) from None
    finally:
        receiving.close()
        process.kill()
        process.join()
    if isinstance(account, BaseException):
        raise account
    assert isinstance(account, _Account)
    return account


def _report(
    program: Callable[[], Awaitable[object]], settings: Settings, answer: Connection
) -> None:  # pragma: no cover - runs in another process, which coverage doesn't follow
    try:
        account, _ = _account_of(program, settings)
    except NotDeterministic as error:
        answer.send(error)
    else:
        answer.send(account)


def _parting(mine: _Account, theirs: _Account) -> str:
    """Say where the two runs part; nothing if they don't."""
    for number, (first, second) in enumerate(zip(mine.events, theirs.events, strict=False), 1):
        if first != second:
            return f"event {number} of the same schedule was first {first!r}, then {second!r}"
    if mine.choices != theirs.choices:
        return "the same tasks did the same, but others could have run"
    return ""
