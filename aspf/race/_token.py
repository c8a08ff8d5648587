"""A schedule as one line of text that a shell leaves alone.

``aspf1:lost-update:0,1x2,2,c1,t,2x3`` is a version, the program's name and what was done, in
periods: task 0 ran one step, task 1 two, task 2 one, task 1 was cancelled, time passed (``t``),
task 2 ran three. Tasks are numbered in the order in which they were spawned; the main task is 0.
``c0`` cancels the main task, ``c0.2`` the second of the scopes that it has marked; ``t0.2`` lets
the second deadline that it has set pass before others of the same moment.
*Every* step is recorded, also those without an alternative: so a replay notices where it parts
from the program, and a token stays valid when a reader adds nothing but choices. A ``+`` at the
end says that the program would have gone on. Where it was run at another level than ``free``, the
scheduling points are others, so the token says which: ``aspf1:lost-update:level=contract:0,1x2``.

Numbers are cheap, and mean something else as soon as the program is edited. So the tokens of
failures, ``aspf2:...``, are symbolic: see ``_periods.py``. What stands for a long one that is kept in
a file, ``aspf2:NAME:@HASH``: see ``_kept.py``.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, final

from aspf.race._actions import TIME, cancellation, is_time, scope_of, task_of, timer
from aspf.race._kept import resolve
from aspf.race._periods import Period, join, periods_from, periods_of, plain
from aspf.race._settings import LEVELS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

__all__ = ("Token", "format_symbols", "format_token", "parse_token", "safe_name")

_NUMBERS, _SYMBOLS = "aspf1", "aspf2"
_PERIOD = re.compile(
    r"(?:(?P<step>\d+)(?:x(?P<times>[1-9]\d*))?|c(?P<cancel>\d+)(?:\.(?P<scope>[1-9]\d*))?|t(?:(?P<whose>\d+)\.(?P<timer>[1-9]\d*))?)"
)


@final
class Token(NamedTuple):
    """What a token says.

    It has ``actions``, by their numbers, or ``periods`` in symbols.
    """

    name: str
    actions: tuple[int, ...]
    open_ended: bool
    level: str = "free"
    periods: tuple[Period, ...] = ()


def safe_name(name: str) -> str:
    """Make a name that no shell, and no reader of tokens, takes for anything else.

    Examples:
        >>> safe_name("<lambda> of me")
        'lambda-of-me'
    """
    return plain(name) or "program"


def format_token(
    name: str, actions: Iterable[int], *, open_ended: bool = False, level: str = "free"
) -> str:
    """Write a schedule as a token.

    Examples:
        >>> format_token("lost update", [0, 1, 1, 2, ~1, ~0, 2])
        'aspf1:lost-update:0,1x2,2,c1,t,2'
    """
    periods = list(_periods(actions))
    if open_ended:
        periods.append("+")
    return f"{_NUMBERS}:{safe_name(name)}:{_options(level)}{','.join(periods)}"


def format_symbols(
    name: str, steps: Iterable[Period], *, open_ended: bool = False, level: str = "free"
) -> str:
    """Write a schedule as a token that survives edits.

    Examples:
        >>> write = (("write", 1),)
        >>> steps = [Period("run", place="children"), Period("run", write), Period("run")]
        >>> format_symbols("lost update", steps)
        'aspf2:lost-update:write:children:0@0,1,0'
    """
    text = periods_of(join(steps), open_ended=open_ended)
    return f"{_SYMBOLS}:{safe_name(name)}:{_options(level)}{text}"


def _options(level: str) -> str:
    return "" if level == "free" else f"level={level}:"


def _periods(actions: Iterable[int]) -> Iterator[str]:
    for action, group in groupby(actions):
        times = len(list(group))
        if action >= 0:
            yield f"{action}x{times}" if times > 1 else str(action)
        else:
            yield from ["t" if action == TIME else _of_task(action)] * times


def _of_task(action: int) -> str:
    scope = scope_of(action)
    letter = "t" if is_time(action) else "c"
    return f"{letter}{task_of(action)}" + (f".{scope}" if scope else "")


def parse_token(token: str, directory: str | os.PathLike[str] | None = None) -> Token:
    """Read a token.

    Args:
        token: From `Failure.token` or `Outcome.token`.
        directory: Where the long ones are kept, if any are: see `explore`.

    Raises:
        ValueError: It is none, and the message shows the part that is wrong; or it stands for one
            that can't be found.

    Examples:
        >>> parse_token("aspf1:lost-update:0,1x2,c1,t").actions
        (0, 1, 1, -2, -1)
        >>> parse_token("aspf2:lost-update:level=contract:::0").level
        'contract'
    """
    token = resolve(token.strip(), directory)
    version, *parts = token.split(":")
    length = {_NUMBERS: 2, _SYMBOLS: 4}.get(version)
    if length is None or len(parts) not in (length, length + 1):
        raise ValueError(
            f"{token!r} is no replay token; one looks like {_NUMBERS}:NAME:0,1x2,2 or "
            f"{_SYMBOLS}:NAME:TASKS:PLACES:0@0,1,2"
        )
    name = parts.pop(0)
    level = "free"
    if len(parts) == length:
        options = parts.pop(0)
        level = options.removeprefix("level=")
        if level not in LEVELS or options == level:
            names = " or ".join(f"level={level}" for level in LEVELS)
            raise ValueError(
                f"{options!r} in the replay token {token!r} is no option; expected {names}"
            )
    try:
        if version == _NUMBERS:
            return Token(name, *_parse_actions(*parts), level)
        periods, open_ended = periods_from(*parts)
    except ValueError as error:
        raise ValueError(f"{error}; in the replay token {token!r}") from None
    return Token(name, (), open_ended, level, periods)


def _parse_actions(text: str) -> tuple[tuple[int, ...], bool]:
    periods = text.split(",") if text else []
    open_ended = periods[-1:] == ["+"]
    actions: list[int] = []
    for period in periods[:-1] if open_ended else periods:
        match = _PERIOD.fullmatch(period)
        if match is None:
            raise ValueError(f"{period!r} is no step; expected 1, 1x4, c1 or t")
        if match["step"]:
            actions += [int(match["step"])] * int(match["times"] or 1)
        elif match["cancel"]:
            actions.append(cancellation(int(match["cancel"]), int(match["scope"] or 0)))
        elif match["timer"]:
            actions.append(timer(int(match["whose"]), int(match["timer"])))
        else:
            actions.append(TIME)
    return tuple(actions), open_ended
