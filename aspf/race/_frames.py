"""Whose code a frame of the stack is: the program's, trio's and anyio's, or the explorer's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ("is_library", "is_ours", "place_of", "place_of_caller", "place_of_program")


def is_library(frame: FrameType) -> bool:
    """Tell whether a frame is trio's, anyio's or ours, hence no place to look for a bug."""
    return _module(frame).partition(".")[0] in {"trio", "anyio"} or is_ours(frame)


def is_ours(frame: FrameType) -> bool:
    """Tell whether a frame is the explorer's."""
    return _module(frame).startswith("aspf.race.")


def place_of_caller() -> str:
    """Return the line of the program that is running: "file.py:12"."""
    return place_of_program(sys._getframe(1))


def place_of_program(frame: FrameType) -> str:
    """Return the line of the program that has called what runs in a frame: "file.py:12"."""
    while is_library(frame):
        # Whoever has called the explorer is none.
        assert frame.f_back is not None
        frame = frame.f_back
    return place_of(frame)


def place_of(frame: FrameType) -> str:
    """Say where a function stands: "file.py:12"."""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
