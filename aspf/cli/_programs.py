"""From what a person types to the program that is meant: ``MODULE:FUNCTION`` and the catalogue."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import click

from aspf.lab import PROTOCOLS, program_named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import ModuleType

__all__ = ("LOST_WAKEUP", "CatalogueProgram", "catalogue", "find_program")

LOST_WAKEUP: Final = "lost-wakeup"
_UNMAPS: Final = {"whole": "munmap of all", "tail": "munmap of the tail"}
_FORMS: Final = "MODULE:FUNCTION, FILE.py:FUNCTION, or a name that `aspf race --list` shows"


@final
@dataclass(frozen=True, slots=True)
class CatalogueProgram:
    """A program of the lab; it can be pickled, by its name."""

    name: str

    @property
    def __name__(self) -> str:
        """What reports and tokens call it."""
        return self.name

    async def __call__(self) -> object:
        """Run it."""
        return await program_named(self.name)()


def catalogue() -> Iterator[tuple[str, str]]:
    """Yield each program that aspf ships, and what it is."""
    yield LOST_WAKEUP, "the lost wake-up of the mail, drawn, and every repair of it in a table"
    for name, protocol in PROTOCOLS.items():
        about = (protocol.__doc__ or "").partition("\n")[0].replace("``", "")
        for unmap, what in _UNMAPS.items():
            yield f"{name}.{unmap}", f"{what}: {about}"


def find_program(text: str) -> tuple[Callable[[], Awaitable[object]], bool]:
    """Return the program that *text* names, and whether its tasks share nothing but cells.

    Raises:
        click.UsageError: There is none, or it is no program; the message says what to do.
    """
    where, colon, function = text.rpartition(":")
    if not colon:
        return _of_the_lab(text), True
    if not where or not function:
        raise click.UsageError(f"{text!r}: expected {_FORMS}")
    module = _file(Path(where)) if where.endswith(".py") else _module(where)
    return _program_in(module, function), False


def _of_the_lab(name: str) -> CatalogueProgram:
    try:
        return CatalogueProgram(program_named(name).__name__)
    except ValueError:
        names = difflib.get_close_matches(name, [known for known, _ in catalogue()], n=3)
        hint = f". Did you mean {' or '.join(names)}?" if names else ""
        raise click.UsageError(f"{name!r}: expected {_FORMS}{hint}") from None


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise click.UsageError(f"there is no file {str(path)!r}")
    whole = path.resolve()
    root, parts = whole.parent, [whole.stem]
    # A file of a package is imported as such: it may import its neighbours.
    while (root / "__init__.py").exists():
        root, parts = root.parent, [root.name, *parts]
    module = _import(".".join(parts), root)
    found = Path(module.__file__ or "").resolve()
    if found != whole:
        raise click.UsageError(
            f"{str(path)!r} can't be imported: the module {module.__name__!r} is {found}; "
            "give the file another name"
        )
    return module


def _module(name: str) -> ModuleType:
    return _import(name, Path.cwd())


def _import(name: str, root: Path) -> ModuleType:
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise click.UsageError(_import_failed(name, error)) from error
        raise click.UsageError(
            f"there is no module {missing!r}: it is neither in {os.fspath(root)} nor installed"
        ) from error
    except (Exception, SystemExit) as error:
        raise click.UsageError(_import_failed(name, error)) from error


def _import_failed(name: str, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    where = f" ({lines[-1].filename}:{lines[-1].lineno})" if lines else ""
    return f"importing {name!r} failed: {type(error).__name__}: {error}{where}"


def _program_in(module: ModuleType, path: str) -> Callable[[], Awaitable[object]]:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise click.UsageError(_no_function(module, path)) from None
    what = f"{module.__name__}:{path}"
    if not callable(found):
        raise click.UsageError(f"{what} is no function, but of type {type(found).__name__}")
    if isinstance(found, type):
        raise click.UsageError(f"{what} is a class; a program is an async function")
    if not _is_async(found):
        kind = "an async generator" if inspect.isasyncgenfunction(found) else "not async"
        raise click.UsageError(
            f"{what} is {kind}; a program is an async function: it opens a nursery, starts the "
            "tasks that may race, and asserts"
        )
    needed = [
        name
        for name, parameter in inspect.signature(found).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    if needed:
        raise click.UsageError(
            f"{what} has parameters ({', '.join(needed)}); a program has none: write an async "
            "function that makes them and calls it"
        )
    return found  # type: ignore[no-any-return]


def _is_async(found: Any) -> bool:
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(
        getattr(found, "__call__", None)  # noqa: B004 - which of its methods is async
    )


def _no_function(module: ModuleType, path: str) -> str:
    known = [name for name, value in vars(module).items() if callable(value) and _is_async(value)]
    names = difflib.get_close_matches(path, known, n=3) or known[:5]
    hint = f"; its async functions: {', '.join(names)}" if names else "; it has no async function"
    return f"module {module.__name__!r} has no {path!r}{hint}"
