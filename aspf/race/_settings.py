"""What a schedule is run under: the choices that an exploration, a replay and a minimisation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

__all__ = ("LEVELS", "Settings")

# Where a schedule may switch tasks, from few places to many.
LEVELS: Final = ("free", "contract")


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How a program is run. A token repeats its schedule only under the same settings.

    Attributes:
        cancel: Whether one task may be cancelled, any but the main one.
        max_steps: A run with more steps is a failure of kind ``"livelock?"``.
        level: Where tasks may be switched: one of `LEVELS`.

    Raises:
        ValueError: There is no such level.
    """

    cancel: bool = False
    max_steps: int = 10_000
    level: str = "free"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            names = " or ".join(repr(level) for level in LEVELS)
            raise ValueError(f"level={self.level!r}: expected {names}")
