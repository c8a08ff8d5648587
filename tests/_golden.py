"""Golden files: what a person sees is compared byte for byte with what a person has approved."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def check_golden(path: Path, text: str) -> None:
    """Compare *text* with the file; ``ASPF_UPDATE_GOLDEN=1`` writes the file instead."""
    if os.environ.get("ASPF_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
