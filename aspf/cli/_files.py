"""The files that ``aspf race`` and ``aspf replay`` write, and the end with an error of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import click

if TYPE_CHECKING:
    from aspf.race import Recording

__all__ = ("DIRECTORY", "FILE", "JSON", "OUTPUT", "STDOUT", "Refused", "write_file", "write_files")

STDOUT: Final = Path("-")


@final
class _Output(click.Path):
    """A file that will be written when all is known, which may be in an hour."""

    def __init__(self, *, may_be_stdout: bool) -> None:
        super().__init__(dir_okay=False, writable=True)
        self._may_be_stdout = may_be_stdout

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Refuse at once what can't be written."""
        path = Path(str(super().convert(value, param, ctx)))
        if path == STDOUT and not self._may_be_stdout:
            self.fail("only --json can go to standard output; name a file", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"can't write {path}: there is no directory {path.parent}", param, ctx)
        return path


DIRECTORY = click.Path(file_okay=False)
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
OUTPUT = _Output(may_be_stdout=False)
JSON = _Output(may_be_stdout=True)


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
    if path == STDOUT:
        click.echo(text, nl=False)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"can't write {path}: {error.strerror}") from error
