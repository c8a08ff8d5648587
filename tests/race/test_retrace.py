"""Tokens of failures and edited programs: which edits they survive, and what is said otherwise.

The program is text, so that an edit is an edit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from _golden import check_golden
from hypothesis import given, settings, strategies as st
from race._programs import lost_update

from aspf.race import Cell, ReplayDiverged, explore, record, replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GOLDEN = Path(__file__).parent / "golden"

# The reader has the old value while the writer empties the cache, and puts it in behind its back.
CACHE = """
class Cache:
    def __init__(self):
        self.stored, self.cached = "old", None

    async def write(self, value):
        self.stored = value
        await checkpoint()
        self.cached = None

    async def read(self):
        if self.cached is None:
            fetched = await self.fetch()
            self.cached = fetched
        return self.cached

    async def fetch(self):
        value = self.stored
        await checkpoint()
        return value

async def log():
    await checkpoint()

async def warm(cache):
    await log()

async def program():
    cache = Cache()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.read)
        nursery.start_soon(cache.write, "new")
    assert await cache.read() == "new", "stale"
"""


def made(text: str) -> Callable[[], Awaitable[object]]:
    """Run the text of a program, and return its main task."""
    namespace: dict[str, Any] = {"trio": trio, "checkpoint": trio.lowlevel.checkpoint, "Cell": Cell}
    exec(compile(text, "cache.py", "exec"), namespace)
    return namespace["program"]


def edited(*edits: tuple[str, str]) -> str:
    text = CACHE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.fixture(scope="module")
def token() -> str:
    """The token of the failure, as the exploration of the program as it was has printed it."""
    (failure,) = explore(made(CACHE), minimise=True, search="exhaustive").failures
    return failure.token


READS = "        nursery.start_soon(cache.read)\n"
WRITES = '        nursery.start_soon(cache.write, "new")\n'
SURVIVED = {
    "lines_shifted": [("class Cache", "\n\n# A cache.\n\nclass Cache")],
    "a_task_before": [(READS, "        nursery.start_soon(warm, cache)\n" + READS)],
    "a_task_between": [(WRITES, "        nursery.start_soon(warm, cache)\n" + WRITES)],
    "a_task_behind": [(WRITES, WRITES + "        nursery.start_soon(warm, cache)\n")],
    "a_nested_nursery": [
        ("async def warm(cache):\n", "async def warm(cache):\n    async with trio.open_nursery() as n:\n        n.start_soon(log)\n"),
        (READS, "        nursery.start_soon(warm, cache)\n" + READS),
    ],
    "a_checkpoint_in_the_other_task": [("        self.stored = value\n", "        await log()\n        self.stored = value\n")],
    "a_checkpoint_before_the_place": [("        value = self.stored\n", "        await log()\n        value = self.stored\n")],
    "a_checkpoint_behind_the_place": [("        return value\n", "        await log()\n        return value\n")],
    "a_checkpoint_in_main": [("    cache = Cache()\n", "    await log()\n    cache = Cache()\n")],
    "a_checkpoint_taken_out": [("        self.stored = value\n        await checkpoint()\n", "        self.stored = value\n")],
    "a_renamed_task": [
        ("async def read(", "async def look_up("),
        ("cache.read)", "cache.look_up)"),
        ("cache.read()", "cache.look_up()"),
    ],
    "a_renamed_main": [("async def program()", "async def main()"), ('"stale"\n', '"stale"\n\nprogram = main\n')],
    "another_order_of_start": [(READS + WRITES, WRITES + READS)],
}  # fmt: skip


@pytest.mark.parametrize("name", SURVIVED)
def test_a_token_survives(token: str, name: str) -> None:
    """After an edit elsewhere the token of yesterday's failure would be worth nothing."""
    failure = replay(made(edited(*SURVIVED[name])), token)

    assert failure is not None
    assert failure.summary.endswith("stale")


DIVERGED = {
    "a_lock": [
        ("        self.stored, self.cached", "        self.lock = trio.Lock()\n        self.stored, self.cached"),
        ("        if self.cached is None:\n            fetched = await self.fetch()\n            self.cached = fetched\n",
         "        async with self.lock:\n            self.cached = self.cached or await self.fetch()\n"),
        ("        await checkpoint()\n        self.cached = None", "        async with self.lock:\n            self.cached = None"),
    ],
    "a_sleep": [("        self.stored = value\n", "        self.stored = value\n        await trio.sleep(1)\n")],
    "a_renamed_function": [
        ("async def fetch(", "async def query("),
        ("self.fetch()", "self.query()"),
    ],
    "the_place_taken_out": [("        value = self.stored\n        await checkpoint()\n", "        value = self.stored\n")],
    "the_task_taken_out": [(READS, "")],
    "two_renamed_tasks": [
        (READS, "        nursery.start_soon(cache.read, name='reader')\n"),
        (WRITES, "        nursery.start_soon(cache.write, 'new', name='writer')\n"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", DIVERGED)
def test_a_token_says_where_it_diverged(token: str, name: str) -> None:
    """A replay that passes would be taken for a repair, and nobody could see what is different."""
    with pytest.raises(ReplayDiverged) as diverged:
        replay(made(edited(*DIVERGED[name])), token)

    check_golden(GOLDEN / f"diverged-{name}.txt", f"{diverged.value}\n")


def test_the_new_token_is_of_the_new_program(token: str) -> None:
    """Who replays and edits again and again would drift away from what the token knows."""
    program = made(edited(*SURVIVED["a_renamed_task"]))
    failure = replay(program, token)

    assert failure is not None
    assert "look_up" in failure.token
    assert replay(program, failure.token) == failure or "look_up" in failure.token


# -- the other kinds of steps --------------------------------------------------------------------

WAITS = """
async def impatient(ready):
    with trio.move_on_after(5):
        await ready.wait()
        return
    raise TimeoutError("too late")

async def slow(ready):
    await trio.sleep(5)
    ready.set()

async def program():
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient, ready)
        nursery.start_soon(slow, ready)
"""


def test_time_and_cancellations() -> None:
    """A jump of the clock or a cancellation would be left out, or done somewhere else."""
    for options in ({}, {"cancel": "each"}):
        found = explore(made(WAITS), stop_on_failure=False, **options)
        assert found.failures
        for failure in found.failures:
            again = replay(made(WAITS), failure.token)
            assert again is not None
            assert (again.diagram, again.token) == (failure.diagram, failure.token)


def test_no_time_passes_any_more() -> None:
    """A token with a jump of the clock would wait for one for ever."""
    (failure,) = explore(made(WAITS), search="exhaustive").failures
    with pytest.raises(ReplayDiverged, match=r"token lets time pass|takes slow"):
        replay(made(WAITS.replace("trio.sleep(5)", "checkpoint()")), failure.token)


def test_a_cancellation_that_is_not_possible() -> None:
    """The rest would be replayed without it, and a pass would look like a repair."""
    text = """
async def child():
    with trio.CancelScope(shield=False):
        await trio.sleep(1)

async def program():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
"""
    token = "aspf2:program:child:children,sleep:0@0,1@1,c1,1,0"

    assert replay(made(text), token) is None
    with pytest.raises(ReplayDiverged, match="cancels child; in the program that makes no"):
        replay(made(text.replace("False", "True")), token)


def test_a_livelock_is_cut_where_it_was() -> None:
    """The replay of a run without end would have none either."""
    endless = """
async def other():
    await checkpoint()

async def program():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        while True:
            await checkpoint()
"""
    (failure,) = explore(made(endless), max_steps=20, search="exhaustive").failures
    again = replay(made(endless), failure.token)
    edit = replay(
        made(endless.replace("True:", "True:\n            await trio.sleep(0)")), failure.token
    )

    assert (failure.kind, failure.summary) == (
        "livelock?",
        "no end within 20 steps: perhaps a livelock",
    )
    assert again is not None
    assert again.diagram == failure.diagram
    assert edit is not None
    assert edit.kind == "livelock?"


def test_the_program_goes_on_behind_the_end() -> None:
    """A failure that comes later than it did would be lost, or a pass be shown for one."""
    text = """
async def program():
    await checkpoint()
    assert False, "failed"
"""
    (failure,) = explore(made(text), search="exhaustive").failures
    later = text.replace(
        "    assert", "    await trio.sleep(1)\n    await checkpoint()\n    assert"
    )
    repaired = later.replace("False", "True")

    again = replay(made(later), failure.token)
    assert again is not None
    assert again.summary.endswith("failed")
    with pytest.raises(ReplayDiverged):
        replay(made(repaired), "aspf2:program::checkpoint:0@0")


# -- the same program ----------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 4))
def test_the_same_program_is_followed_step_by_step(seed: int, tasks: int) -> None:
    """A replay would show another schedule than the one that failed."""
    program = lost_update(tasks)
    (failure,) = explore(program, search="random", seed=seed).failures

    assert record(program, failure.token) == failure.recording


# -- differences that no edit above makes --------------------------------------------------------

STAGES = """
async def first():
    await checkpoint()

async def second():
    await checkpoint()

async def worker(log):
    await first()
    await second()
    log.append("worker")

async def other(log):
    log.append("other")
    await checkpoint()

async def program():
    log = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker, log)
        nursery.start_soon(other, log)
"""


@pytest.mark.parametrize(
    ("old", "new", "periods", "message"),
    [
        # The first place is gone; the worker must not run past the second one for its sake.
        (
            "    await first()\n",
            "",
            "1@1,2,1@2,1,0",
            "takes worker to first@checkpoint; the program has it at second@checkpoint already",
        ),
        (
            "",
            "",
            "t,1,2,0",
            "token lets time pass; in the program somebody can run; possible: task 1",
        ),
        ("", "", "1@1,2,1@2,1,0,1", "takes worker to its end; the program is at its end"),
    ],
    ids=["missed", "time", "end"],
)
def test_a_difference_is_kept(old: str, new: str, periods: str, message: str) -> None:
    """A pass on another way would be taken for a pass on this one."""
    token = f"aspf2:program:worker,other:children,first@checkpoint,second@checkpoint:0@0,{periods}"
    with pytest.raises(ReplayDiverged, match=message):
        replay(made(STAGES.replace(old, new, 1)), token)


def test_a_cancellation_behind_a_shield() -> None:
    """A run that is given up would be shown as a failure of its own kind."""
    text = """
async def child():
    with trio.CancelScope(shield=True):
        await checkpoint()
        await checkpoint()

async def program():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
"""
    with pytest.raises(ReplayDiverged, match="delivered elsewhere"):
        replay(made(text), "aspf2:program:child:children,checkpoint:0@0,1@1,c1,1,0")
