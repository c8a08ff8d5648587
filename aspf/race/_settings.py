"""What a schedule is run under: the choices that an exploration, a replay and a minimisation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ("Settings",)


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How a program is run. A token repeats its schedule only under the same settings.

    Attributes:
        cancel: Whether one task may be cancelled, any but the main one.
        max_steps: A run with more steps is a failure of kind ``"livelock?"``.
    """

    cancel: bool = False
    max_steps: int = 10_000
