"""Maps with one thing wrong, and the exploration that finds it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from ranges.broken import grow_without_edit, hand_made, retire_per_region, settle_out_of_order
from ranges.test_explored import (
    cut_and_remove,
    growing,
    split_and_replace,
    two_edits_and_one_over_both,
    two_who_ask_and_one_who_removes,
)
from ranges.test_explored_manners import hold_with_cancellation

from aspf.race import explore

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ranges.test_explored import Program, World


def grow_without_an_edit(world: World) -> None:
    grow_without_edit.grow(world.ranges, 0, 8)


def found_in(program: Program) -> list[str]:
    """Explore all of a program that must fail, and return what its oracle said."""
    exploration = explore(program, stop_on_failure=False, schedules=100_000, search="exhaustive")
    print(exploration.headline())  # noqa: T201 - the counts, for pytest -rP
    assert exploration.exhausted
    return [str(failure.error) for failure in exploration.failures]


def test_the_explorer_finds_settling_out_of_order() -> None:
    """Broken if rule S could be dropped and nobody would notice."""
    with settle_out_of_order.installed():
        found = found_in(cut_and_remove)
    assert any("1 was cleaned up under who holds old there" in text for text in found)


def test_the_explorer_finds_growth_without_an_edit() -> None:
    """Broken if growing could be done behind the drains' backs and nobody would notice."""
    found = found_in(growing(grow_without_an_edit))
    assert any("1 was cleaned up under who holds old there" in text for text in found)
    assert any("old was retired under who holds 1" in text for text in found)


def test_the_explorer_finds_a_payload_freed_per_region() -> None:
    """Broken if leases could be dropped and nobody would notice."""
    with retire_per_region.installed():
        found = found_in(split_and_replace)
    assert any("old was retired under who holds 5" in text for text in found)
    assert any("retired: ['old', 'old', " in text for text in found)


loses_its_key = partial(hold_with_cancellation, end="removed")


@pytest.mark.parametrize(
    ("broken", "program", "cancel", "within", "what"),
    [
        (hand_made.dropped_recheck, two_who_ask_and_one_who_removes, False, 8, "AssertionError"),
        (hand_made.wake_up_to_the_wrong_waiter, cut_and_remove, False, 170, "[] were retired"),
        (hand_made.put_before_the_use, cut_and_remove, False, 2, "was cleaned up under"),
        (hand_made.settles_behind_the_last_only, two_edits_and_one_over_both, False, 15, "used"),
        (hand_made.swallowed_cancellation, cut_and_remove, True, 100, "[] were retired"),
        (hand_made.old_leases_first, split_and_replace, False, 1, "retired"),
        (hand_made.no_wake_up_of_the_watchers, loses_its_key, False, 1, "deadlock"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_wrong_line_is_found(
    broken: Callable[[], AbstractContextManager[object]],
    program: Program,
    cancel: bool,
    within: int,
    what: str,
) -> None:
    """Broken if a mistake of this kind could be made in our map and nobody would notice."""
    with broken():
        exploration = explore(program, cancel="each" if cancel else "never", search="exhaustive")
    (failure,) = exploration.failures
    print(f"{broken.__name__}: found in schedule {failure.schedule}")  # noqa: T201 - for the docs

    assert what in failure.summary
    assert failure.schedule <= within
