"""Locks with one thing wrong, and the exploration that finds it.

That each is found shows that the explorations of test_explored.py would find the like in ours.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from rwlock.broken.hand_made import (
    DowngradesInTwoSteps,
    DropsTheRecheck,
    ForgetsTheEvent,
    PutsBeforeTheUse,
    SettlesOutOfOrder,
    SwallowsTheCancellation,
    WakesTheWrongWaiter,
)
from rwlock.broken.others_have_shipped import (
    DropsTheBaton,
    LeavesReadersAsleep,
    PausesAfterWakeup,
    WakesWithoutHandOver,
)
from rwlock.test_explored import explored, meet, meet_behind_a_cancelled_writer
from rwlock.test_explored_manners import take_turns

from aspf.race import explore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aspf import ReadWriteLock

    Program = Callable[[Callable[[], ReadWriteLock]], Awaitable[object]]


def test_waking_without_handing_over_is_found() -> None:
    """Broken if the explorer can't tell our lock from one that lets a third task in between."""
    program = partial(meet, WakesWithoutHandOver, who="rww")
    exploration = explore(program, stop_on_failure=False, search="exhaustive")

    assert any("came in to a" in failure.summary for failure in exploration.failures)


def test_dropping_the_baton_is_found() -> None:
    """Broken if a cancellation between wake-up and return isn't tried, or its leak isn't seen."""
    assert explored(DropsTheBaton).failures == ()
    (failure,) = explored(DropsTheBaton, cancel=True).failures

    assert failure.kind in {"deadlock", "error"}
    assert failure.kind == "deadlock" or "left behind" in failure.summary


def test_passing_the_baton_on_is_enough() -> None:
    """Broken if the lock is right only on backends that never cancel between wake-up and return."""
    exploration = explored(PausesAfterWakeup, cancel=True)

    assert exploration.failures == ()
    assert exploration.exhausted


def test_readers_left_asleep_are_found() -> None:
    """Broken if the explorer can't tell our lock from one that forgets readers behind a writer."""
    assert explored(LeavesReadersAsleep).failures == ()
    exploration = explore(
        partial(meet_behind_a_cancelled_writer, LeavesReadersAsleep), search="exhaustive"
    )
    (failure,) = exploration.failures

    assert failure.kind == "deadlock"
    assert "read" in failure.summary


ONE_EACH = partial(meet, who="rw")
TWO_READERS = partial(meet, who="rrw")
TWO_WRITERS = partial(meet, who="rww")
DOWNGRADES = partial(meet, who="rrw", downgrade=True)
WRITERS_DOWNGRADE = partial(meet, who="rww", downgrade=True)


@pytest.mark.parametrize(
    ("broken", "program", "cancel", "within", "what"),
    [
        (DropsTheRecheck, ONE_EACH, False, 4, "a writer came in to a reader"),
        (WakesTheWrongWaiter, TWO_WRITERS, False, 40, "left behind: (0, 'writer 2'"),
        (PutsBeforeTheUse, ONE_EACH, False, 3, "a writer came in to a reader"),
        (SettlesOutOfOrder, take_turns, False, 1, "the readers wait for another writer"),
        (SwallowsTheCancellation, TWO_READERS, True, 20, "does not hold the lock"),
        (DowngradesInTwoSteps, WRITERS_DOWNGRADE, False, 100, ""),
        (ForgetsTheEvent, TWO_READERS, True, 100, ""),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_one_wrong_line_is_found(
    broken: type[ReadWriteLock], program: Program, cancel: bool, within: int, what: str
) -> None:
    """Broken if a mistake of this kind could be made in our lock and nobody would notice."""
    exploration = explore(
        partial(program, broken), cancel="each" if cancel else "never", search="exhaustive"
    )
    (failure,) = exploration.failures
    print(f"{broken.__name__}: found in schedule {failure.schedule}")  # noqa: T201 - for the docs

    assert what in failure.summary
    assert failure.schedule <= within
