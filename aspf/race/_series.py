"""Many schedules in one run of trio's loop: each costs what its own steps cost, and no more.

Making a runner and shutting it down is most of what a short schedule costs. So a main task that
stays runs the program again and again; for each time a fresh `Schedule` takes the runner's queue
over, and sets the clock back to zero.

That is only as good as a run of its own while nothing is left behind, which is looked at after every
schedule: no task but the main one, no deadline, no async generator, no value of a `RunVar`, and
nothing for trio to do soon. A schedule that fails, that is given up, or that leaves something is the
last of its run, and the next begins with a new one. What the program itself keeps between its
runs, in a module say, it keeps when they are isolated as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from aspf.race._engine import Schedule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aspf.race._engine import Chooser
    from aspf.race._settings import Settings

__all__ = ("Series",)

# The collector of garbage waits for the end of a run.
MOST: int = 100


@final
class Series:
    """Runs schedules of a program, as many in one run of trio's loop as are clean.

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
        # Invariant: None once `then` has been told of the last schedule.
        self._current: Schedule | None = None

    def run(self) -> bool:
        """Run schedules until one is not clean, or there are enough of them for a run.

        Returns:
            Whether another one follows.

        Raises:
            NotDeterministic: See `Schedule.run`; or *then* has raised it.
            TeardownStuck: See `Schedule.run`.
        """
        first = self._current = Schedule(self._main, self._chooser, self._settings)
        first.run()
        if self._error is not None:
            raise self._error
        return self._current is not None and self._then(self._current)

    async def _main(self) -> object:
        for _ in range(MOST):
            schedule = self._current
            assert schedule is not None
            result = await self._program()
            if schedule.is_over or not _is_clean(schedule):
                return result
            schedule.conclude_early(result)
            if schedule.verdict is not None:
                return None
            try:
                follows = self._then(schedule)
            except BaseException as error:  # noqa: BLE001 - it isn't the program's: `run` raises it
                self._error, follows = error, False
            self._current = schedule.successor() if follows else None
            if self._current is None:
                return None
            if not self._current.begin_in_this_step():
                # The main task is queued anew, as the new schedule's first and only one.
                await trio.lowlevel.cancel_shielded_checkpoint()
        return await self._program()


def _is_clean(schedule: Schedule) -> bool:
    """Tell whether the schedule has left nothing behind."""
    runner = schedule._runner
    generators = runner.asyncgens
    # The three are trio's first task, the main task, and the one for `run_sync_soon`.
    return (
        len(runner.tasks) == 3
        and not schedule._deadlines
        and not generators.alive
        and not generators.trailing_needs_finalize
        and not runner._locals
        and not runner.entry_queue.size()
    )
