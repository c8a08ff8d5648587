"""What a program did in all its schedules, as a table. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aspf.race._record import without_addresses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aspf.race._explore import Exploration

__all__ = ("outcome_table",)

_HEADINGS = ("outcome", "schedules", "share", "first", "expected", "shortest schedule")
_WIDEST = 60


class _Line(NamedTuple):
    outcome: str
    times: int
    first: int
    token: str
    failed: bool = False


def outcome_table(exploration: Exploration, *, expected: Iterable[object] | None = None) -> str:
    """Write every distinct outcome of an exploration, as JCStress and dejafu do.

    Failures are outcomes too, and never expected. An expected outcome that no schedule had has a
    line as well: of an exhausted search that says that it can't happen.

    Args:
        exploration: What `explore` found; with ``stop_on_failure=False`` it goes on after a
            failure, and with ``minimise=True`` the schedules on the right are the simplest.
        expected: The results that are right; they are compared by their ``repr``.

    Returns:
        Lines ended by a newline, the commonest outcome first: what was returned or went wrong,
        in how many schedules and in which for the first time, and the token of the shortest.

    Examples:
        >>> from aspf.race import explore
        >>> async def one_way():
        ...     return "done"
        >>> print(outcome_table(explore(one_way), expected=["done", "never"]), end="")
        one_way: no failure in 1 schedules (portfolio search, exhausted; level: free)
        <BLANKLINE>
        outcome  schedules  share  first  expected  shortest schedule
        'done'           1   100%      1       yes  aspf1:one_way:0
        'never'          0     0%      -       yes  never seen
    """
    right = None if expected is None else [without_addresses(repr(value)) for value in expected]
    found = sorted(_lines(exploration), key=lambda line: (-line.times, line.first))
    seen = {line.outcome for line in found if not line.failed}
    missing = dict.fromkeys(text for text in right or () if text not in seen)
    rows: list[tuple[str, ...]] = [_HEADINGS]
    rows += (_row(line, exploration.schedules, right) for line in found)
    rows += ((_cut(text), "0", "0%", "-", "yes", "never seen") for text in missing)
    if right is None:
        rows = [row[:4] + row[5:] for row in rows]
    return "\n".join([exploration.headline(), "", *_aligned(rows), ""])


def _lines(exploration: Exploration) -> Iterator[_Line]:
    for text, outcome in exploration.outcomes.items():
        yield _Line(text, outcome.count, outcome.schedule, outcome.shortest)
    for failure in exploration.failures:
        yield _Line(failure.summary, failure.count, failure.schedule, failure.token, failed=True)


def _row(line: _Line, total: int, right: list[str] | None) -> tuple[str, ...]:
    expected = right is not None and line.outcome in right and not line.failed
    share = f"{100 * line.times / total:.3g}%"
    return (
        _cut(line.outcome),
        str(line.times),
        share,
        str(line.first),
        "yes" if expected else "NO",
        line.token,
    )


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Left-align the outer columns, right-align the numbers between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *middle, last in rows:
        padded = map(str.rjust, middle, widths[1:-1])
        yield "  ".join([first.ljust(widths[0]), *padded, last])
