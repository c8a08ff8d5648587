"""Schedules in symbols: what is written can be read, and says the same."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, strategies as st

from aspf.race._periods import MAIN, Path, Period, join, periods_from, periods_of
from aspf.race._token import format_symbols, parse_token

words = st.text("abc_.-0", min_size=1, max_size=4)
paths = st.lists(st.tuples(words, st.integers(1, 3)), max_size=3).map(tuple)
places = st.one_of(words, st.tuples(words, words).map("@".join))
stops = st.tuples(st.just("run"), paths, places, st.integers(1, 9)) | st.tuples(
    st.just("run"), paths
)
cancels = st.tuples(st.just("cancel"), paths, st.just(""), st.just(1), st.integers(0, 3))
periods = st.lists((stops | cancels | st.just(("time",))).map(lambda p: Period(*p)), max_size=12)


@given(periods, st.booleans())
def test_round_trip(written: list[Period], open_ended: bool) -> None:
    """A token that reads differently than it was written replays another schedule."""
    text = periods_of(written, open_ended=open_ended)

    assert periods_from(*text.split(":")) == (tuple(written), open_ended)


@given(st.text(), periods, st.sampled_from(["free", "contract"]))
def test_a_shell_leaves_it_alone(name: str, written: list[Period], level: str) -> None:
    """It is pasted behind a command; quotes would be forgotten."""
    token = format_symbols(name, written, level=level)

    assert token.isascii()
    assert shlex.quote(token) == token
    assert parse_token(f" {token}\n").level == level


@given(periods)
def test_the_steps_of_a_task_are_joined(steps: list[Period]) -> None:
    """A replay would leave a task before or behind the place where it stood."""
    left = [step._replace(times=1) for step in steps]
    for period in join(left):
        # What follows a period to its end takes its steps, and no more.
        times = 0
        while times < period.times:
            step = left.pop(0)
            assert step._replace(place="", times=1) == period._replace(place="", times=1)
            times += step.place == period.place
    assert left == []


def test_as_text() -> None:
    """Each sign has one meaning, and what goes without saying is left out."""
    server: Path = (("serve", 1),)
    third: Path = (*server, ("fetch", 3))
    text = periods_of(
        [
            Period("run", MAIN, "children"),
            Period("run", third, "read@Event.wait", 2),
            Period("cancel", third),
            Period("cancel", server, scope=2),
            Period("time"),
            Period("run", server),
        ],
        open_ended=True,
    )

    assert text == "serve,1/fetch+3:children,read@Event.wait:0@0,2@1x2,c2,c1.2,t,1,+"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:b", "one looks like aspf1:NAME:0,1x2,2 or aspf2:NAME:TASKS:PLACES:0@0,1,2"),
        ("lax:::", "'lax' in the replay token 'aspf2:x:lax:::' is no option"),
        ("a+0::0", r"'a\+0' is no task; expected NAME"),
        ("2/a::0", "'2/a' is no task"),
        (":a@b@c:0", "'a@b@c' is no place"),
        ("::x", "'x' is no period; expected 1, 1@0"),
        ("::0@0x0", "'0@0x0' is no period"),
        ("::1", "'1' names a task or a place that is not listed"),
        ("::0@0", "'0@0' names a task or a place"),
        ("::+,t", r"'\+' is no period"),
    ],
)
def test_what_is_no_token(text: str, message: str) -> None:
    """A mistyped token must not replay something else."""
    with pytest.raises(ValueError, match=message):
        parse_token(f"aspf2:x:{text}")
