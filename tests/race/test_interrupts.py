"""Signals at every place of a schedule: each ends the exploration, and none breaks the next."""

from __future__ import annotations

import dis
import gc
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from aspf.race import Cell, ExplorationInterrupted, _hook, explore
from aspf.race._interrupts import interruptible

if TYPE_CHECKING:
    from types import FrameType


async def program() -> None:
    """Use nurseries, scopes, time, and cells."""
    cell = Cell(0, "cell")
    event = trio.Event()

    async def count() -> None:
        await cell.set(await cell.get() + 1)
        event.set()

    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            nursery.start_soon(count)
            nursery.start_soon(trio.sleep, 1)
            await event.wait()


def interrupted_at(call: int, *, pressed: bool, isolated: bool = True) -> int:
    """Explore, with a signal at one of the calls and returns of the first schedules.

    Returns:
        How many there were before it was over.
    """
    calls = 0
    with interruptible() as interrupts:
        interrupts.came = False

        def profile(frame: FrameType, _: str, __: object) -> None:
            nonlocal calls
            if _hook.current is None or not _may_come_at(frame):
                return
            calls += 1
            if calls == call:
                # A ctrl-C counts from its second on.
                interrupts.came = pressed
                interrupts.insist(frame)

        try:
            sys.setprofile(profile)
            explore(
                program,
                search="random",
                schedules=2 if isolated else 4,
                isolated=isolated,
                weakest=False,
            )
        except ExplorationInterrupted:
            return calls
        finally:
            sys.setprofile(None)
    return 0


def _may_come_at(frame: FrameType) -> bool:
    """Tell whether Python looks for signals there: not where a coroutine awaits another."""
    instruction, argument = frame.f_code.co_code[frame.f_lasti : frame.f_lasti + 2]
    name = dis.opname[instruction]
    return name != "YIELD_VALUE" and not (name == "RESUME" and argument & 3 >= 2)


@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "many a run"])
@pytest.mark.parametrize("pressed", [False, True], ids=["time-out", "ctrl-C"])
def test_a_signal_may_come_anywhere(pressed: bool, isolated: bool) -> None:
    """Raised in trio's loop, an interrupt was trio's failure; in a finalizer, it was lost."""
    assert not interrupted_at(0, pressed=pressed, isolated=isolated)
    call = 1
    with warnings.catch_warnings():
        # trio itself may be interrupted between the making of a coroutine and that of its task.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")
        while seen := interrupted_at(call, pressed=pressed, isolated=isolated):
            assert seen >= call
            call += 7
        gc.collect()
    assert call > 1000
    assert explore(program, search="random", schedules=2, weakest=False).verdict == "unknown"


def test_a_signal_in_a_cell() -> None:
    """A step that polls a cell without an end would swallow most of the presses of ctrl-C."""
    peeks = []

    async def polls() -> None:
        cell = Cell(0, "cell")
        while len(peeks) < 1_000 and not cell.peek():
            peeks.append(cell)

    with interruptible() as interrupts:

        def profile(frame: FrameType, _: str, __: object) -> None:
            if frame.f_code is Cell.peek.__code__:
                interrupts.insist(frame)

        async def program() -> None:
            sys.setprofile(profile)  # the first schedule has a profile hook of the explorer's own
            await polls()

        try:
            with pytest.raises(ExplorationInterrupted, match=r"interrupted in a step of 'main'"):
                explore(program, search="random", schedules=2, weakest=False)
        finally:
            sys.setprofile(None)
    assert len(peeks) < 10


def test_a_signal_between_two_schedules() -> None:
    """A time-out would break off the counting, and ctrl-C not end the wait for other processes."""
    with interruptible() as interrupts:
        interrupts.insist(None)
        interrupts.insist(None)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            interrupts.take(signal.SIGINT, None)


BROKEN = """
import warnings
from test_interrupts import interrupted_at
from aspf.race import _interrupts
from aspf.race._engine import Schedule

_interrupts.ki_protection_enabled = lambda frame: False
Schedule.interrupt = lambda schedule: None
warnings.simplefilter("ignore")
for call in range(1, 1000, 7):
    try:
        assert interrupted_at(call, pressed=True)
    except BaseException as error:
        print(type(error).__name__)
        break
"""


def test_raising_it_anywhere_is_found() -> None:
    """The test above would pass for signals that are raised where they come, as they once were."""
    # In a process of its own: what is broken stays so.
    answer = subprocess.run(
        [sys.executable, "-c", BROKEN],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )
    assert not answer.stderr
    assert answer.stdout.strip() in {"TrioInternalError", "RuntimeError", "KeyboardInterrupt"}
