"""A recorded schedule as text: one column a task, as kernel mails draw it. Pure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ("EVERYWHERE", "Row", "draw", "fold")

EVERYWHERE = -1  # the column of what concerns all tasks
_INDENT = "  "
_BETWEEN = " | "
_MARGIN = "  "
_NARROWEST = 16
# What repeats in a longer rhythm than this isn't seen to repeat by a reader either.
_LONGEST_PERIOD = 12
_SAVES_LINES = 3


class Row(NamedTuple):
    """One line of one task."""

    column: int  # the task's number
    depth: int  # how many calls deep
    text: str
    where: str = ""  # "file.py:12"


def draw(rows: Sequence[Row], names: Mapping[int, str], *, width: int = 110) -> str:
    """Draw rows in columns, a column for each task that has any, and the lines at the margin.

    What repeats is drawn once, with the number of times; a line of code that is the same as in the
    row above is not written again.

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
    rows = list(fold(rows))
    columns = sorted({row.column for row in rows} - {EVERYWHERE})
    margin = max((len(_MARGIN + row.where) for row in rows if row.where), default=0)
    natural = {column: _natural(column, rows, names) for column in columns}
    widths = _fit(natural, width - margin)
    lines = list(_side_by_side({column: names[column] for column in columns}, widths))
    if lines:
        lines.append("-+-".join("-" * widths[column] for column in columns))
    above = ""
    for row in rows:
        if row.column == EVERYWHERE:
            lines.append(f"--- {row.text} ---")
        else:
            texts = {row.column: _INDENT * row.depth + (row.text if row.text.strip() else "-")}
            first, *rest = _side_by_side(texts, widths)
            lines += [first + _MARGIN + row.where if row.where != above else first, *rest]
        above = row.where
    return "".join(f"{line.rstrip()}\n" for line in lines)


def fold(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows, but what repeats only once, followed by a row that says how often.

    Complexity: O(rows).
    """
    at = 0
    while at < len(rows):
        best = max(range(1, _LONGEST_PERIOD + 1), key=lambda period: _saved(rows, at, period))
        if _saved(rows, at, best) < _SAVES_LINES:
            yield rows[at]
            at += 1
            continue
        times = _times(rows, at, best)
        yield from rows[at : at + best]
        yield _again(rows[at : at + best * times], best, times - 1)
        at += best * times


def _again(rows: Sequence[Row], period: int, times: int) -> Row:
    what = f"the last {period} lines, " if period > 1 else ""
    text = f"... {what}once more" if times == 1 else f"... {what}{times} more times"
    passes = [row.text for row in rows if row.column == EVERYWHERE]
    text += f"; {passes[-1]}" if passes else ""
    columns = {row.column for row in rows}
    column = columns.pop() if len(columns) == 1 else EVERYWHERE
    return Row(column, min(row.depth for row in rows), text)


def _saved(rows: Sequence[Row], at: int, period: int) -> int:
    return (_times(rows, at, period) - 1) * period - 1


def _times(rows: Sequence[Row], at: int, period: int) -> int:
    """Say how often the rows from *at* on repeat with that period."""
    end = at + period
    while end < len(rows) and _is_same(rows[end], rows[end - period]):
        end += 1
    return (end - at) // period


def _is_same(a: Row, b: Row) -> bool:
    """Tell whether two rows say the same; what concerns all tasks says when it was."""
    return a == b or a.column == b.column == EVERYWHERE


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
