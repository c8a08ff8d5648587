"""Replay tokens: what is written can be read, and nothing else can."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, strategies as st

from aspf.race._actions import cancellation
from aspf.race._settings import LEVELS
from aspf.race._token import Token, format_token, parse_token, safe_name

cancellations = st.builds(cancellation, st.integers(0, 3), st.integers(0, 3))
actions = st.lists(st.integers(-5, 5) | cancellations, max_size=30)


@given(st.text(), actions, st.booleans(), st.sampled_from(LEVELS))
def test_round_trip(name: str, actions: list[int], open_ended: bool, level: str) -> None:
    """A token that reads differently than it was written replays another schedule."""
    token = format_token(name, actions, open_ended=open_ended, level=level)
    assert parse_token(token) == Token(safe_name(name), tuple(actions), open_ended, level)
    assert parse_token(f" {token}\n") == parse_token(token)


@given(st.text(), actions, st.sampled_from(LEVELS))
def test_a_shell_leaves_it_alone(name: str, actions: list[int], level: str) -> None:
    """It is pasted behind a command; quotes would be forgotten."""
    token = format_token(name, actions, level=level)
    assert shlex.split(token) == [token]
    assert token.isascii()


def test_periods() -> None:
    """One period a run of steps; cancellations and jumps of the clock one each."""
    token = format_token("a b", [0, 1, 1, 1, 2, ~1, cancellation(0), ~0, ~0, 12], open_ended=True)
    assert token == "aspf1:a-b:0,1x3,2,c1,c0,t,t,12,+"
    assert format_token("a", [0, 1], level="contract") == "aspf1:a:level=contract:0,1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no replay token"),
        ("aspf9:x:0", "no replay token"),
        ("aspf2:x:0", "no replay token"),
        ("aspf1:0,1", "no replay token"),
        ("aspf1:x:0,y", "'y' is no step; expected 1, 1x4, c1 or t; in the replay token"),
        ("aspf1:x:0,1x0", "'1x0'"),
        ("aspf1:x:c", "'c'"),
        ("aspf1:x:c0.0", "'c0.0'"),
        ("aspf1:x:+,0", r"'\+'"),
        ("aspf1:x:0,,1", "''"),
        ("aspf1:x:level=lax:0", "'level=lax' in the replay token"),
        ("aspf1:x:contract:0", "expected level=stock or level=batch"),
    ],
)
def test_what_is_no_token(text: str, message: str) -> None:
    """A mistyped token must not replay something else."""
    with pytest.raises(ValueError, match=message):
        parse_token(text)
