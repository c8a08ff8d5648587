"""Run trio programs under a scheduler that we control, and shared memory to run them on.

`explore` runs a program in schedule after schedule and reports in which it fails, `check` raises
then, `replay` repeats one. `Cell`, `Atomic` and `Lifetime` are memory whose every access is a
scheduling point.
"""

from __future__ import annotations

from aspf._errors import (
    Blocked,
    ExplorationInterrupted,
    NotDeterministic,
    NotLinearizable,
    NotProven,
    RaceFound,
    ReplayDiverged,
    TeardownStuck,
    UseAfterFree,
    WorkerDied,
)
from aspf._exports import publish as _publish
from aspf.race._cell import Atomic, Cell, Lifetime
from aspf.race._doctor import Diagnosis, doctor
from aspf.race._examiner import Finding
from aspf.race._explore import Exploration, Failure, Outcome, check, explore, record, replay
from aspf.race._history import History, linearizable
from aspf.race._hook import note
from aspf.race._limits import Progress
from aspf.race._linearize import Call
from aspf.race._marks import may_cancel, may_stay, point, sometimes
from aspf.race._minimal import Minimal, Switch
from aspf.race._outcomes import outcome_table
from aspf.race._recording import Recording
from aspf.race._strategies import Coverage
from aspf.race._token import Token, parse_token
from aspf.race._watch import watch
from aspf.race._weakest import Below

__all__ = (
    "Atomic",
    "Below",
    "Blocked",
    "Call",
    "Cell",
    "Coverage",
    "Diagnosis",
    "Exploration",
    "ExplorationInterrupted",
    "Failure",
    "Finding",
    "History",
    "Lifetime",
    "Minimal",
    "NotDeterministic",
    "NotLinearizable",
    "NotProven",
    "Outcome",
    "Progress",
    "RaceFound",
    "Recording",
    "ReplayDiverged",
    "Switch",
    "TeardownStuck",
    "Token",
    "UseAfterFree",
    "WorkerDied",
    "check",
    "doctor",
    "explore",
    "linearizable",
    "may_cancel",
    "may_stay",
    "note",
    "outcome_table",
    "parse_token",
    "point",
    "record",
    "replay",
    "sometimes",
    "watch",
)

_publish(__name__, globals())
