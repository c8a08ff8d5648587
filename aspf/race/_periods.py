"""A schedule in symbols: which task runs until where, in words that survive edits elsewhere. Pure.

A *period* is a run of steps of one task. It is named by the task's way down from the main task
(names, and the n-th of that name) and by the *place* where the task stands when the period ends:
the innermost function of the program and what it awaits there, ``serve@Event.wait``. The function
is left out where it is the one that the task began with, and the place is empty where the task has
ended. Neither numbers of tasks nor of lines nor of steps occur, hence what is added to other tasks,
above in the file, or on the way between two places changes nothing.

As text, ``aspf2:NAME:TASKS:PLACES:PERIODS``, each a list with commas. ``write,serve,2/fetch+3`` are
tasks 1 to 3, the last one the third ``fetch`` that task 2 has started; the main task is 0. Places
are numbered from 0. ``2@0x3`` is task 2 until it has come to place 0 three times, ``2`` until it
ends; ``c2`` cancels task 2 and ``c2.1`` the first scope that it has marked; ``t`` lets time pass, and ``t2.1`` the first deadline that task 2 has set.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ("MAIN", "Path", "Period", "describe_path", "join", "periods_from", "periods_of", "plain")

# A task: of itself and of each task above it but the main one, which it is of its parent's tasks.
Path = tuple[tuple[str, int], ...]
MAIN: Final[Path] = ()

_PERIOD = re.compile(
    r"(?P<task>\d+)(?:@(?P<place>\d+)(?:x(?P<times>[1-9]\d*))?)?"
    r"|c(?P<cancel>\d+)(?:\.(?P<scope>[1-9]\d*))?"
    r"|(?P<time>t)(?:(?P<whose>\d+)\.(?P<timer>[1-9]\d*))?"
)
_TASK = re.compile(r"(?:(?P<parent>[1-9]\d*)/)?(?P<name>[\w.-]+)(?:\+(?P<nth>[1-9]\d*))?", re.ASCII)
_PLACE = re.compile(r"(?:[\w.-]+@)?[\w.-]+", re.ASCII)


class Period(NamedTuple):
    """Something that was done: by a single action, or by a run of steps."""

    kind: str  # "run", "cancel", "time" or "deadline"
    task: Path = MAIN  # whose; of no meaning for "time"
    place: str = ""  # of "run": where the task stood at the end; empty: it had ended
    times: int = 1  # of "run": how often the task came to that place
    # Of "cancel": which of the scopes that the task has marked, 0 is the task; of "deadline": which
    # of those that it has set.
    scope: int = 0


def plain(text: str) -> str:
    """Make a name that no shell takes for anything else.

    Examples:
        >>> plain("<lambda> of me")
        'lambda-of-me'
    """
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-")


def describe_path(path: Path) -> str:
    """Say which task it is.

    Examples:
        >>> describe_path((("serve", 1), ("fetch", 3)))
        'serve / fetch #3'
    """
    names = (name if nth == 1 else f"{name} #{nth}" for name, nth in path)
    return " / ".join(names) or "main"


def join(steps: Iterable[Period]) -> list[Period]:
    """Put the steps that a task took in a row into one period.

    Examples:
        >>> a, b = Period("run", place="a"), Period("run", place="b")
        >>> [(p.place, p.times) for p in join([a, b, a, b, b])]
        [('b', 3)]
    """
    periods: list[Period] = []
    places: list[str] = []
    for step in steps:
        if not (
            periods and step.kind == periods[-1].kind == "run" and step.task == periods[-1].task
        ):
            periods.append(step)
            places.clear()
        places.append(step.place)
        if step.kind == "run":
            periods[-1] = step._replace(times=places.count(step.place))
    return periods


def periods_of(periods: Sequence[Period], *, open_ended: bool = False) -> str:
    """Write periods as the last three parts of a token.

    Examples:
        >>> write = (("write", 1),)
        >>> periods_of([Period("run", place="children"), Period("run", write), Period("time")])
        'write:children:0@0,1,t'
    """
    tasks: dict[Path, int] = {MAIN: 0}
    names: list[str] = []
    places: dict[str, int] = {}

    def number(path: Path) -> int:
        if path not in tasks:
            parent = number(path[:-1])
            name, nth = path[-1]
            names.append((f"{parent}/" if parent else "") + name + (f"+{nth}" if nth > 1 else ""))
            tasks[path] = len(tasks)
        return tasks[path]

    def write(period: Period) -> str:
        if period.kind == "time":
            return "t"
        task = number(period.task)
        if period.kind in {"cancel", "deadline"}:
            letter = "c" if period.kind == "cancel" else "t"
            return f"{letter}{task}" + (f".{period.scope}" if period.scope else "")
        if not period.place:
            return f"{task}"
        place = places.setdefault(period.place, len(places))
        return f"{task}@{place}" + (f"x{period.times}" if period.times > 1 else "")

    written = [write(period) for period in periods] + ["+"] * open_ended
    return ":".join(map(",".join, (names, places, written)))


def periods_from(tasks: str, places: str, periods: str) -> tuple[tuple[Period, ...], bool]:
    """Read the last three parts of a token.

    Returns:
        The periods, and whether the program would have gone on.

    Raises:
        ValueError: The message says which word is wrong.
    """
    paths = [MAIN]
    for word in _words(tasks):
        match = _TASK.fullmatch(word)
        parent = int(match["parent"] or 0) if match else 0
        if match is None or parent >= len(paths):
            raise ValueError(f"{word!r} is no task; expected NAME, NAME+2 or 1/NAME")
        paths.append((*paths[parent], (match["name"], int(match["nth"] or 1))))
    known = _words(places)
    for word in known:
        if not _PLACE.fullmatch(word):
            raise ValueError(f"{word!r} is no place; expected FUNCTION@AWAITED or AWAITED")
    words = _words(periods)
    open_ended = words[-1:] == ["+"]
    return tuple(
        _period(word, paths, known) for word in words[: -1 if open_ended else None]
    ), open_ended


def _words(text: str) -> list[str]:
    return text.split(",") if text else []


def _period(word: str, paths: list[Path], places: list[str]) -> Period:
    match = _PERIOD.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is no period; expected 1, 1@0, 1@0x4, c1 or t")
    if match["time"] and not match["timer"]:
        return Period("time")
    task = int(match["task"] or match["cancel"] or match["whose"])
    place = int(match["place"] or 0)
    if task >= len(paths) or (match["place"] and place >= len(places)):
        raise ValueError(f"{word!r} names a task or a place that is not listed")
    if match["timer"]:
        return Period("deadline", paths[task], scope=int(match["timer"]))
    if match["cancel"]:
        return Period("cancel", paths[task], scope=int(match["scope"] or 0))
    if not match["place"]:
        return Period("run", paths[task])
    return Period("run", paths[task], places[place], int(match["times"] or 1))
