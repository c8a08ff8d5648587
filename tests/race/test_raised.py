"""What had gone wrong before an error, which it would hide."""

from __future__ import annotations

import pytest
import trio

from aspf.race import explore
from aspf.race._raised import behind, in_one_line, is_cancelled


async def hides_an_error() -> None:
    """Fail in a task, and again in the check at the end."""
    lock = trio.Lock()

    async def work() -> None:
        await lock.acquire()
        raise KeyError("what went wrong")

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
    finally:
        assert not lock.locked(), "the lock is held"


def test_a_report_shows_what_a_check_in_the_end_would_hide() -> None:
    """Whoever repairs the check, and not what went wrong, looks in the wrong place."""
    (failure,) = explore(hides_an_error).failures
    assert failure.summary == "AssertionError: the lock is held"
    assert (
        "\nAssertionError: the lock is held\n  after KeyError: 'what went wrong'\n\nlevel: "
    ) in str(failure)


def chained() -> BaseException:
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904 - that is what is tested
    except ValueError as error:
        try:
            raise TypeError("third") from error
        except TypeError as last:
            return last


def suppressed() -> BaseException:
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second") from None
    except ValueError as error:
        return error


def in_groups() -> BaseException:
    inner = ExceptionGroup("of a nursery", [chained()])
    error = ExceptionGroup("of another", [ValueError("last"), RuntimeError("too")])
    error.__context__ = inner
    error.exceptions[1].__context__ = error.exceptions[0]
    return error


def round_and_round() -> BaseException:
    error, other = ValueError("last"), KeyError("first")
    error.__context__, other.__context__ = other, error
    return error


def of_a_cancellation() -> BaseException:
    error = ValueError("last")
    error.__context__ = BaseExceptionGroup("of a nursery", [a_cancellation()])
    return error


def a_cancellation() -> BaseException:
    return trio.Cancelled._create(source="explicit")


@pytest.mark.parametrize(
    ("error", "before"),
    [
        (chained(), ["ValueError: second", "KeyError: 'first'"]),
        (suppressed(), []),
        (in_groups(), ["TypeError: third", "ValueError: second", "KeyError: 'first'"]),
        (round_and_round(), ["KeyError: 'first'"]),
        (of_a_cancellation(), []),
    ],
    ids=["chained", "suppressed", "groups", "circle", "cancellation"],
)
def test_what_is_behind_an_error(error: BaseException, before: list[str]) -> None:
    """Each error once, the latest first; none that was hidden on purpose, and no cancellation."""
    assert [in_one_line(each) for each in behind(error)] == before


def test_a_cancellation_and_an_error_are_no_cancellation() -> None:
    """The error would be taken for what a cancelled block raises, and nobody would see it."""
    assert is_cancelled(a_cancellation())
    assert is_cancelled(BaseExceptionGroup("", [a_cancellation(), a_cancellation()]))
    assert not is_cancelled(BaseExceptionGroup("", [a_cancellation(), ValueError()]))
