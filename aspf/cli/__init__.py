"""The command ``aspf``: thin; everything it does is callable from Python."""

from __future__ import annotations

import sys

__all__ = ("main",)


def main() -> None:
    """Run the command line, or say which packages it needs."""
    try:
        from ._commands import aspf  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit(f"aspf: {error.name} is missing; install it with: pip install 'aspf[cli]'")
    aspf()
