"""A recorded schedule as text: one column a task, as kernel mails draw it. Pure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ("EVERYWHERE", "Row", "draw")

EVERYWHERE = -1  # the column of what concerns all tasks
_INDENT = "  "
_BETWEEN = " | "
_NARROWEST = 16


class Row(NamedTuple):
    """One line of one task."""

    column: int  # the task's number
    depth: int  # how many calls deep
    text: str


def draw(rows: Sequence[Row], names: Mapping[int, str], *, width: int = 110) -> str:
    """Draw rows in columns, a column for each task that has any.

    Args:
        rows: What happened, in order.
        names: The tasks' names, by number.
        width: How many characters a line may have; with very many columns it has more.

    Returns:
        Lines without trailing spaces, each ended by a newline; nothing if there are no rows.

    Examples:
        >>> rows = [Row(1, 0, "munmap()"), Row(1, 1, "refcnt: 2 -> 1"), Row(2, 0, "refcnt = 1")]
        >>> print(draw(rows, {1: "CPU 0", 2: "CPU 1"}), end="")
        CPU 0            | CPU 1
        -----------------+-----------
        munmap()         |
          refcnt: 2 -> 1 |
                         | refcnt = 1
    """
    columns = sorted({row.column for row in rows} - {EVERYWHERE})
    widths = _fit({column: _natural(column, rows, names) for column in columns}, width)
    lines = list(_side_by_side({column: names[column] for column in columns}, widths))
    if lines:
        lines.append("-+-".join("-" * widths[column] for column in columns))
    for row in rows:
        if row.column == EVERYWHERE:
            lines.append(f"--- {row.text} ---")
        else:
            lines += _side_by_side({row.column: _INDENT * row.depth + row.text}, widths)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _natural(column: int, rows: Sequence[Row], names: Mapping[int, str]) -> int:
    texts = (len(_INDENT) * row.depth + len(row.text) for row in rows if row.column == column)
    return max(len(names[column]), *texts)


def _fit(widths: dict[int, int], total: int) -> dict[int, int]:
    """Narrow the widest columns until all fit."""
    room = total - len(_BETWEEN) * (len(widths) - 1)
    while sum(widths.values()) > room:
        widest = max(widths, key=lambda column: (widths[column], -column))
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _side_by_side(texts: Mapping[int, str], widths: Mapping[int, int]) -> Iterator[str]:
    wrapped = {column: _wrap(text, widths[column]) for column, text in texts.items()}
    for i in range(max(map(len, wrapped.values()), default=0)):
        cells = (
            (wrapped.get(column, [])[i : i + 1] or [""])[0].ljust(width)
            for column, width in widths.items()
        )
        yield _BETWEEN.join(cells)


def _wrap(text: str, width: int) -> list[str]:
    body = text.lstrip()
    # However deep the call, half of the column is left for the text.
    indent = text[: min(len(text) - len(body), width // 2)]
    return textwrap.wrap(
        body, width, initial_indent=indent, subsequent_indent=indent[: width // 4] + _INDENT * 2
    )
