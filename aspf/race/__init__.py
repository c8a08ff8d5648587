"""Run trio programs under a scheduler that we control, and shared memory to run them on.

`explore` runs a program in schedule after schedule and reports in which it fails, `check` raises
then, `replay` repeats one. `Cell`, `Atomic` and `Lifetime` are memory whose every access is a
scheduling point.
"""

from __future__ import annotations

from aspf._errors import (
    NotDeterministic,
    RaceFound,
    ReplayDiverged,
    TeardownStuck,
    UseAfterFree,
)
from aspf._exports import publish as _publish
from aspf.race._cell import Atomic, Cell, Lifetime
from aspf.race._explore import Exploration, Failure, Outcome, check, explore, replay
from aspf.race._hook import note
from aspf.race._strategies import Coverage
from aspf.race._token import Token, parse_token

__all__ = (
    "Atomic",
    "Cell",
    "Coverage",
    "Exploration",
    "Failure",
    "Lifetime",
    "NotDeterministic",
    "Outcome",
    "RaceFound",
    "ReplayDiverged",
    "TeardownStuck",
    "Token",
    "UseAfterFree",
    "check",
    "explore",
    "note",
    "parse_token",
    "replay",
)

_publish(__name__, globals())
