"""What is kept of failures, and long tokens: a directory that may be lost, broken or shared."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio
from _golden import check_golden

from aspf.race import (
    ExplorationInterrupted,
    NotDeterministic,
    RaceFound,
    ReplayDiverged,
    _kept as module,
    check,
    explore,
    parse_token,
    record,
    replay,
)
from aspf.race._kept import LONG, OF_A_KEY, Kept, Keyed, is_reference, resolve

GOLDEN = Path(__file__).parent / "golden"
KEY = "tests/test_cache.py::test_it[a b]"
LONG_TOKEN = "aspf2:program:::" + ",".join(["0"] * LONG)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A place where nothing can be written, not even by root."""
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    return tmp_path / "file"


# -- the directory -------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    """What was found would be searched for again."""
    kept = Kept(tmp_path / "new" / ".aspf")
    assert kept.tokens(KEY) == []
    kept.drop(KEY, "one")
    kept.save(KEY, "one")
    kept.save(KEY, "one")
    kept.save("another", "two")

    assert kept.tokens(KEY) == ["one"]
    assert kept.tokens("another") == ["two"]
    kept.drop(KEY, "one")
    assert kept.tokens(KEY) == []
    assert Kept(tmp_path / "new" / ".aspf").tokens("another") == ["two"]


def test_git_ignores_it(tmp_path: Path) -> None:
    """Everybody's first commit after a failure would have the tokens in it."""
    Kept(tmp_path).save(KEY, "one")
    assert (tmp_path / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_keys_that_look_alike_differ(tmp_path: Path) -> None:
    """A test would drop the tokens of another one whose name has the same readable part."""
    kept = Kept(tmp_path)
    kept.save("a" * 100 + "1", "one")
    kept.save("a b", "two")

    assert kept.tokens("a" * 100 + "2") == []
    assert kept.tokens("a-b") == []


def test_the_newest_come_first_and_few_are_kept(tmp_path: Path) -> None:
    """Replays would take longer with each failure, and the one at hand come last."""
    kept = Kept(tmp_path)
    for number in range(OF_A_KEY + 3):
        kept.save(KEY, f"token {number}")
        (path,) = [p for p in tmp_path.rglob("*-*/*") if f"token {number}\n" == p.read_text()]
        os.utime(path, ns=(number, number))

    assert kept.tokens(KEY) == [f"token {n}" for n in reversed(range(3, OF_A_KEY + 3))]


def test_two_writers(tmp_path: Path) -> None:
    """A worker of pytest-xdist would overwrite what the other one has found."""
    one, two = Kept(tmp_path), Kept(tmp_path)
    one.save(KEY, "one")
    two.save(KEY, "two")
    one.save(KEY, "both")
    two.save(KEY, "both")
    assert sorted(one.tokens(KEY)) == ["both", "one", "two"]
    two.drop(KEY, "both")
    one.drop(KEY, "both")

    assert sorted(two.tokens(KEY)) == ["one", "two"]


def test_a_file_that_goes_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would break since another one has dropped a token."""
    kept = Kept(tmp_path)
    kept.save(KEY, "one")
    (path,) = tmp_path.rglob("*-*/*")
    # As if it were gone when its turn comes, and half of another one were there.
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([path, self / "gone", self / ".half"]))

    assert kept.tokens(KEY) == ["one"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no token", b"aspf1:x:0,y"])
def test_a_corrupt_file(tmp_path: Path, content: bytes) -> None:
    """One bad file would break every run until somebody finds it."""
    kept = Kept(tmp_path)
    kept.save(KEY, "aspf1:x:0")
    (path,) = tmp_path.rglob("*-*/*")
    path.write_bytes(content)

    def parse(token: str) -> None:
        parse_token(token)

    assert kept.first(KEY, parse) is None


def test_a_directory_that_cannot_be_written(locked: Path) -> None:
    """A test suite on a read-only disk would end in errors."""
    kept = Kept(locked / ".aspf")
    kept.save(KEY, "one")
    kept.drop(KEY, "one")

    assert kept.tokens(KEY) == []
    assert kept.shorten(LONG_TOKEN) == LONG_TOKEN


@pytest.mark.skipif(sys.platform == "win32", reason="modes mean little there")
def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    """Likewise; root may read everything, and then there is nothing to see."""
    kept = Kept(tmp_path)
    kept.save(KEY, "one")
    tmp_path.joinpath("failures").chmod(0)
    try:
        assert kept.tokens(KEY) in ([], ["one"])
        kept.save(KEY, "two")
    finally:
        tmp_path.joinpath("failures").chmod(0o700)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would leave half a token under a whole one's name, or rubbish beside it."""

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    Kept(tmp_path).save(KEY, "one")
    assert files(tmp_path) == []


def test_the_first_that_fails(tmp_path: Path) -> None:
    """A repaired failure would be tried for ever, or the next one not be found."""
    kept = Kept(tmp_path)
    results = {
        "diverges": ReplayDiverged("elsewhere"),
        "differs": NotDeterministic("a thread"),
        "is none": ValueError("no token"),
        "passes": None,
        "fails": "a failure",
        "later": "another",
    }
    for number, token in enumerate(results):
        kept.save(KEY, token)
        (path,) = [p for p in tmp_path.rglob("*-*/*") if p.read_text() == f"{token}\n"]
        os.utime(path, ns=(100 - number, 100 - number))

    def replay(token: str) -> str | None:
        result = results[token]
        if isinstance(result, Exception):
            raise result
        return result

    assert kept.first(KEY, replay) == ("a failure", 5)
    assert kept.tokens(KEY) == ["fails", "later"]


# -- long tokens ---------------------------------------------------------------------------------


def test_a_long_token_has_a_short_name(tmp_path: Path) -> None:
    """Nobody can paste a line of a thousand characters; a short one needs no file."""
    kept = Kept(tmp_path)
    short = "aspf2:program:::0"
    reference = kept.shorten(LONG_TOKEN)

    assert kept.shorten(short) == short
    assert is_reference(reference)
    assert not is_reference(LONG_TOKEN)
    assert len(reference) < 40
    assert resolve(reference, tmp_path) == LONG_TOKEN
    assert resolve(LONG_TOKEN, None) == LONG_TOKEN
    assert parse_token(reference, tmp_path) == parse_token(LONG_TOKEN)


def test_long_tokens_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory would grow for ever."""
    monkeypatch.setattr(module, "OF_ALL", 2)
    for number in range(4):
        Kept(tmp_path).shorten(f"{LONG_TOKEN},{number}")
    assert len(files(tmp_path / "tokens")) == 2


def test_a_long_token_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pastes a line of somebody else's log would not know what is missing, and where."""
    monkeypatch.chdir(tmp_path)
    reference = Kept(".aspf").shorten(LONG_TOKEN)
    (path,) = Path(".aspf/tokens").iterdir()
    messages = []
    for directory, content in [
        (None, ""),
        ("", ""),
        (".aspf", "aspf2:program:::1"),
        (".aspf", ""),
        ("gone", ""),
    ]:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="stands for a long token") as caught:
            resolve(reference, directory)
        messages.append(f"{caught.value}\n")

    assert messages[0] == messages[1]
    check_golden(GOLDEN / "kept_missing.txt", "".join(messages[1:]).replace("\\", "/"))


# -- explorations --------------------------------------------------------------------------------


class Order:
    """Two tasks that note their names; only one order is right."""

    right = "ab"
    repeat = 1
    is_interrupted = False

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self) -> None:
        self.runs += 1
        if self.is_interrupted:
            signal.raise_signal(signal.SIGINT)
        order: list[str] = []

        async def note(name: str) -> None:
            for _ in range(self.repeat):
                await trio.lowlevel.checkpoint()
            order.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "a")
            nursery.start_soon(note, "b")
        assert self.right in ("any", "".join(order)), "not the order of their start"


def test_a_failure_is_tried_first(tmp_path: Path) -> None:
    """The second run would have to search again; a seed or a strategy may miss it then."""
    first = explore(Order(), search="exhaustive", directory=tmp_path, minimise=True)
    second = explore(Order(), search="exhaustive", directory=tmp_path, minimise=True)

    assert first.schedules > 1
    assert not first.failures[0].kept
    assert len(files(tmp_path)) == 2, "the same schedule is kept once"
    assert second.schedules == 1
    assert second.failures[0].kept
    assert second.failures[0].minimal is not None
    assert second.verdict == "failed"
    check_golden(GOLDEN / "kept.txt", str(explore(Order(), directory=tmp_path)))


async def ends_in_the_wrong_order() -> None:
    """A program that can be imported, as several processes need it."""
    await Order()()


def test_before_several_processes_begin(tmp_path: Path) -> None:
    """They would search for what is known, and the report would be another one than of one."""
    explore(ends_in_the_wrong_order, directory=tmp_path)
    one = explore(ends_in_the_wrong_order, directory=tmp_path)
    two = explore(ends_in_the_wrong_order, directory=tmp_path, jobs=2)

    assert str(one) == str(two)
    assert two.failures[0].kept


def test_the_level_of_what_was_kept(tmp_path: Path) -> None:
    """The second report would say less than the first."""
    first = explore(Order(), directory=tmp_path)
    second = explore(Order(), directory=tmp_path)
    without = explore(Order(), directory=tmp_path, weakest=False)

    assert (first.failures[0].level, first.failures[0].below) == ("stock", None)
    assert (second.failures[0].level, second.failures[0].below) == ("stock", None)
    assert without.failures[0].level == "free"


def test_a_repaired_program_is_searched(tmp_path: Path) -> None:
    """What passes now must not stand for the whole search, nor be tried for ever."""
    explore(Order(), directory=tmp_path)
    repaired = Order()
    repaired.right = "any"
    exploration = explore(repaired, search="exhaustive", directory=tmp_path)

    assert exploration.verdict == "holds"
    assert files(tmp_path) == [".gitignore"]


def test_nothing_is_written_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that leaves files behind is a nuisance."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RaceFound):
        check(Order())
    assert list(tmp_path.iterdir()) == []


def test_check_keeps_as_well(tmp_path: Path) -> None:
    """Most people call that one."""
    with pytest.raises(RaceFound, match="error in schedule 2\n"):
        check(Order(), directory=tmp_path)
    with pytest.raises(RaceFound, match="in schedule 1, kept from an earlier run"):
        check(Order(), directory=tmp_path)


def test_all_failures_are_searched_for_and_kept(tmp_path: Path) -> None:
    """Who wants all of them doesn't want one that is known in their place."""
    explore(Order(), directory=tmp_path)
    exploration = explore(Order(), directory=tmp_path, stop_on_failure=False)
    assert not exploration.failures[0].kept
    assert exploration.schedules > 1


def test_other_settings_have_their_own(tmp_path: Path) -> None:
    """At another level, or with cancellations, a token may stand for something else."""
    explore(Order(), directory=tmp_path)
    assert not explore(Order(), directory=tmp_path, level="contract").failures[0].kept
    assert not explore(Order(), directory=tmp_path, name="other").failures[0].kept
    keyed = Keyed(tmp_path, "test_it.py::test_a")
    assert not explore(Order(), directory=keyed).failures[0].kept
    assert explore(Order(), directory=keyed).failures[0].kept


def test_ctrl_c_while_it_is_tried(tmp_path: Path) -> None:
    """It would go on with the search, or forget what was kept."""
    explore(Order(), directory=Keyed(tmp_path, "a test"))
    before = files(tmp_path)

    interrupted = Order()
    interrupted.is_interrupted = True
    with pytest.raises(ExplorationInterrupted) as caught:
        explore(interrupted, directory=Keyed(tmp_path, "a test"))
    assert caught.value.exploration.failures[0].kept
    assert interrupted.runs == 1
    assert files(tmp_path) == before


def test_a_long_token_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the report shows must be what repeats it, from the directory and from nowhere else."""
    monkeypatch.setattr(module, "LONG", 10)
    (failure,) = explore(Order(), directory=tmp_path).failures

    assert is_reference(failure.token)
    again = replay(Order(), failure.token, directory=tmp_path)
    assert again is not None
    assert again.token == failure.token
    assert record(Order(), failure.token, directory=tmp_path).verdict == "error"
    with pytest.raises(ValueError, match="say in which directory"):
        replay(Order(), failure.token)
