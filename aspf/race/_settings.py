"""What a schedule is run under: the choices that an exploration, a replay and a minimisation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from aspf.race._actions import is_cancellation, scope_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("LEVELS", "Cancel", "Settings", "Timers", "cancel_for")

# Where a schedule may switch tasks, from few places to many.
LEVELS: Final = ("stock", "batch", "free", "contract")
Cancel: TypeAlias = Literal["marked", "each", "never"]
Timers: TypeAlias = Literal["idle", "any"]


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How a program is run. A token repeats its schedule only under the same settings.

    Attributes:
        cancel: What may be cancelled, once in a run: the scopes that the program marks, or every
            task as well, or nothing.
        max_steps: A run with more steps is a failure of kind ``"livelock?"``.
        level: Where tasks may be switched: one of `LEVELS`.
        timers: Whether deadlines pass only when nobody can run, or at any time.
        isolated: Whether each schedule has a run of trio's loop to itself. It makes no difference
            to what a schedule is.

    Raises:
        ValueError: There is no such level, or no such value of *cancel* or *timers*; or schedules
            are to share runs at a level where they can't.
    """

    cancel: Cancel = "marked"
    max_steps: int = 10_000
    level: str = "free"
    timers: Timers = "idle"
    isolated: bool = True

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            names = " or ".join(repr(level) for level in LEVELS)
            raise ValueError(f"level={self.level!r}: expected {names}")
        if self.cancel not in ("marked", "each", "never"):
            raise ValueError(
                f"cancel={self.cancel!r}: expected 'marked', 'each' or 'never'{_hint(self.cancel)}"
            )
        if self.timers not in ("idle", "any"):
            raise ValueError(f"timers={self.timers!r}: expected 'idle' or 'any'")
        if not self.isolated and self.level in ("stock", "batch"):
            raise ValueError(
                f"isolated=False with level={self.level!r}: trio's own order of a run depends on how "
                "it began; leave isolated out, or use level='free' or 'contract'"
            )


def _hint(cancel: object) -> str:
    if not isinstance(cancel, bool):
        return ""
    if cancel:
        return "; 'each' cancels every task at every checkpoint"
    return "; 'marked' cancels nothing but what the program marks with may_cancel()"


def cancel_for(actions: Iterable[int]) -> Cancel:
    """Say under which ``cancel=`` a schedule can be repeated."""
    cancelling = [action for action in actions if is_cancellation(action)]
    return "each" if any(not scope_of(action) for action in cancelling) else "marked"
