"""What outlives a run, in a directory: the tokens of failures, and tokens too long to paste.

``failures/KEY/HASH`` is a token of a failure; the key says which program or test it is of. ``tokens/HASH``
is a long token, which people see as ``aspf2:NAME:@HASH``. Each file is one token, and its name is
the hash of that. So nobody ever changes a file: two processes that keep something at the same time
write two files, or the same one twice, and none is lost.

The directory is a help and never a condition. What can't be read is not there, and what can't be
written is not kept; a long token then stays as it is. Only who asks for a token that is gone gets an
error.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final

from aspf._errors import NotDeterministic, ReplayDiverged
from aspf.race._atomic import write_whole
from aspf.race._periods import plain

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Kept", "Keyed", "is_reference", "resolve")

T = TypeVar("T")

# Characters of a token that fits into a command.
LONG: Final = 200
# How many tokens are kept: of one key, and long ones of all programs.
OF_A_KEY: Final = 10
OF_ALL: Final = 1000
_READABLE: Final = 60
_REFERENCE: Final = re.compile(r"aspf2:(?P<name>[\w.-]+):@(?P<digest>[0-9a-f]{12})", re.ASCII)


@final
class Keyed(os.PathLike[str]):
    """A directory, for a program whose name doesn't tell it from all others.

    Args:
        directory: Where things are kept.
        key: What tells the program from others.
    """

    def __init__(self, directory: str | os.PathLike[str], key: str) -> None:
        self._directory = os.fspath(directory)
        self.key: Final = key

    def __fspath__(self) -> str:
        """Return the directory."""
        return self._directory


@final
class Kept:
    """The directory.

    Args:
        directory: Its path. It is made when there is something to keep.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)

    def save(self, key: str, token: str) -> None:
        """Keep the token of a failure; of each key the newest ten."""
        with suppress(OSError):
            self._write(self._failures(key), token, OF_A_KEY)

    def tokens(self, key: str) -> list[str]:
        """Return what is kept, the newest first."""
        return [text for path in _newest(self._failures(key)) if (text := _read(path))]

    def drop(self, key: str, token: str) -> None:
        """Forget a token."""
        with suppress(OSError):
            (self._failures(key) / _digest(token)).unlink()

    def first(self, key: str, replay: Callable[[str], T | None]) -> tuple[T, int] | None:
        """Return the first failure that a token still leads to, and the number of replays.

        Tokens that lead to none are dropped: the program was repaired, or is another one by now.

        Args:
            key: Whose tokens.
            replay: Repeats a schedule, and returns how it fails.
        """
        for number, token in enumerate(self.tokens(key), 1):
            failure = None
            with suppress(ReplayDiverged, NotDeterministic, ValueError):
                failure = replay(token)
            if failure is not None:
                return failure, number
            self.drop(key, token)
        return None

    def shorten(self, token: str) -> str:
        """Return what to paste: the token, or what stands for it if it is long."""
        if len(token) <= LONG:
            return token
        try:
            self._write(self._directory / "tokens", token, OF_ALL)
        except OSError:
            return token
        return f"aspf2:{token.split(':')[1]}:@{_digest(token)}"

    def _failures(self, key: str) -> Path:
        return self._directory / "failures" / f"{plain(key)[:_READABLE]}-{_digest(key)}"

    def _write(self, directory: Path, token: str, limit: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        ignore = self._directory / ".gitignore"
        if not ignore.exists():
            write_whole(ignore, "*\n")
        write_whole(directory / _digest(token), f"{token}\n")
        for path in _newest(directory)[limit:]:
            path.unlink(missing_ok=True)


def is_reference(token: str) -> bool:
    """Tell whether it only stands for a token that is kept in a file."""
    return _REFERENCE.fullmatch(token) is not None


def resolve(token: str, directory: str | os.PathLike[str] | None) -> str:
    """Return the token itself if it is one, and else the one that it stands for.

    Raises:
        ValueError: It can't be found; the message says where it was looked for.
    """
    match = _REFERENCE.fullmatch(token)
    if match is None:
        return token
    if not directory:
        raise ValueError(
            f"{token!r} stands for a long token that is kept in a file; say in which directory: "
            "directory= of aspf.race.replay, --aspf-directory of pytest, --directory of aspf"
        )
    path = Path(directory) / "tokens" / match["digest"]
    text = _read(path)
    if not text:
        raise ValueError(
            f"{token!r} stands for a long token, and {path} is missing or can't be read. Name the "
            "directory that has it, or explore again to find the schedule anew"
        )
    if _digest(text) != match["digest"]:
        raise ValueError(
            f"{token!r} stands for a long token, and {path} has another one: it was changed. "
            "Delete it, and explore again to find the schedule anew"
        )
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _newest(directory: Path) -> list[Path]:
    """List the tokens of a directory; those of the same moment by name."""
    aged: list[tuple[int, Path]] = []
    with suppress(OSError):
        for path in sorted(directory.iterdir()):
            if not path.name.startswith("."):  # what somebody is about to write
                with suppress(OSError):  # somebody else has just dropped it
                    aged.append((-path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(aged)]
