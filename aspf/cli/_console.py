"""The console that is written to, and how wide it is."""

from __future__ import annotations

import shutil

from rich.console import Console

__all__ = ("stdout_console",)


def stdout_console(*, at_least: int = 0) -> Console:
    """Return a console on standard output that knows how wide it is.

    Args:
        at_least: How many columns are needed: a table that is squeezed can't be read, one that the
            terminal wraps can.
    """
    console = Console()
    if console.is_dumb_terminal:
        # rich takes each of them for one of 80 columns, but most know how wide they are.
        width, height = shutil.get_terminal_size()
        console.size = (width, height)
    if console.width < at_least:
        console.size = (at_least, console.height)
    return console
