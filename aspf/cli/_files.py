"""The files that ``aspf race`` and ``aspf replay`` write, and the end with an error of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aspf.race import Recording

__all__ = ("DIRECTORY", "FILE", "Refused", "write_file", "write_files")

DIRECTORY = click.Path(file_okay=False)
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


class Refused(click.ClickException):
    """What was asked for can't be done. Not to be taken for a failure that was found."""

    exit_code = 2


def write_files(
    recording: Recording,
    *,
    html: Path | None = None,
    json: Path | None = None,
    perfetto: Path | None = None,
) -> None:
    """Write the files that were asked for."""
    if html is not None:
        write_file(html, recording.html())
    if json is not None:
        write_file(json, recording.as_json())
    if perfetto is not None:
        write_file(perfetto, recording.as_perfetto())


def write_file(path: Path, text: str) -> None:
    """Write a file, or say why it can't be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"can't write {path}: {error.strerror}") from error
