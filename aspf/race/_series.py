"""Many schedules in one run: each costs what its own steps cost, and no more.

Making a runner and shutting it down is most of what a short schedule costs. So a main task that
stays runs the program again and again; for each time the `Schedule` forgets all that was, and sets
the clock back to zero. And it isn't trio's loop that makes the steps, but `spin`, which does nothing
between two of them. The tests compare both on random programs.

That is only as good as a run of its own while nothing is left behind, which is looked at after every
schedule: no task but the main one, no deadline, no async generator, no value of a `RunVar`, and
nothing for trio to do soon. A schedule that fails, that is given up, or that leaves something is the
last of its run, and the next begins with a new one. What the program itself keeps between its
runs, in a module say, it keeps when they are isolated as well.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, final

import trio

from aspf.race._engine import Schedule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aspf.race._engine import Chooser
    from aspf.race._settings import Settings

__all__ = ("Series",)

# The collector of garbage waits for the end of a run: how many objects may wait for it.
GARBAGE: int = 100_000


@final
class Series:
    """Runs schedules of a program, as many in one run as are clean.

    Args:
        program: What is run.
        chooser: Chooses in all of them.
        settings: Of all of them.
        then: Called after each schedule; tells whether another one follows.
    """

    def __init__(
        self,
        program: Callable[[], Awaitable[object]],
        chooser: Chooser,
        settings: Settings,
        then: Callable[[Schedule], bool],
    ) -> None:
        self._program = program
        self._chooser = chooser
        self._settings = settings
        self._then = then
        self._error: BaseException | None = None
        # Whether `then` was told of the present schedule, and what it has answered.
        self._is_told = self._follows = False

    def run(self) -> bool:
        """Run schedules until one is not clean, or there is too much garbage.

        Returns:
            Whether another one follows.

        Raises:
            NotDeterministic: See `Schedule.run`; or *then* has raised it.
            TeardownStuck: See `Schedule.run`.
        """
        self._schedule = Schedule(self._main, self._chooser, self._settings, lean=True)
        self._is_told = False
        self._schedule.run()
        if self._error is not None:
            raise self._error
        return self._follows if self._is_told else self._then(self._schedule)

    @trio.lowlevel.enable_ki_protection
    async def _main(self) -> object:
        schedule = self._schedule
        cancels = self._settings.cancel == "each"
        most = gc.get_count()[0] + GARBAGE
        while True:
            self._is_told = False
            result = await (self._within_scope() if cancels else _unprotected(self._program))
            if schedule.is_over or not _is_clean(schedule) or gc.get_count()[0] > most:
                return result
            schedule.conclude_early(result)
            if schedule.verdict is not None:
                return None
            if not self._tell(schedule):
                return None
            if not schedule.renew():
                # The main task is queued anew, as the new schedule's first and only one.
                await trio.lowlevel.cancel_shielded_checkpoint()

    async def _within_scope(self) -> object:
        with self._schedule.main_scope():
            return await _unprotected(self._program)
        return None

    def _tell(self, schedule: Schedule) -> bool:
        self._is_told = True
        try:
            self._follows = self._then(schedule)
        except BaseException as error:  # noqa: BLE001 - it isn't the program's: `run` raises it
            self._error, self._follows = error, False
        return self._follows


@trio.lowlevel.disable_ki_protection
async def _unprotected(program: Callable[[], Awaitable[object]]) -> object:
    """Run a program so that a signal may be raised in its code, and not in what is around it."""
    return await program()


def _is_clean(schedule: Schedule) -> bool:
    """Tell whether the schedule has left nothing behind."""
    runner = schedule._runner
    entries = runner.entry_queue
    # The three are trio's first task, the main task, and the one for `run_sync_soon`.
    return (
        len(runner.tasks) == 3
        and not schedule._deadlines.pending
        and not (entries.queue or entries.idempotent_queue)
        and not runner._locals
        and not runner.asyncgens.is_left
    )
