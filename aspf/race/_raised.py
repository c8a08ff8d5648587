"""What a program has raised: what is in a nursery's groups, and what had gone wrong before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from aspf.race._record import without_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("behind", "in_one_line", "is_cancelled", "leaves_of")


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Unpack groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves_of(inner)
    else:
        yield error


def is_cancelled(error: BaseException) -> bool:
    """Tell whether it is a cancellation and nothing else."""
    return all(isinstance(leaf, trio.Cancelled) for leaf in leaves_of(error))


def behind(error: BaseException) -> list[BaseException]:
    """List what an error was raised from, or during the handling of, and so on; the latest first.

    Where a ``finally:`` fails, what had gone wrong before is found nowhere else.
    """
    leaves = {id(leaf) for leaf in leaves_of(error)}
    found: list[BaseException] = []
    queue, known = [error], {id(error)}
    for each in queue:  # which grows
        inner = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        handled = None if each.__suppress_context__ else each.__context__
        for other in (*inner, each.__cause__ or handled):
            if other is None or id(other) in known:
                continue
            known.add(id(other))
            queue.append(other)
            if id(other) not in leaves and not isinstance(
                other, BaseExceptionGroup | trio.Cancelled
            ):
                found.append(other)
    return found


def in_one_line(error: BaseException) -> str:
    """Say what was raised; what a nursery wrapped comes out of its group.

    Examples:
        >>> in_one_line(ExceptionGroup("of a nursery", [ValueError("a"), KeyError()]))
        'ValueError: a; KeyError'
    """
    return "; ".join(map(_in_one_line, leaves_of(error)))


def _in_one_line(error: BaseException) -> str:
    text = without_addresses(str(error)).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
