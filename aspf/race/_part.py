"""Run one part of an exploration, to its end or to ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from aspf.race._counts import Counts, kind_of
from aspf.race._engine import Schedule
from aspf.race._examiner import Examiner, Finding
from aspf.race._series import Series

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aspf.race._search import Search
    from aspf.race._settings import Settings

__all__ = ("Done", "run_part")


@final
@dataclass(slots=True)
class Done:
    """What came of a part."""

    counts: Counts = field(default_factory=Counts)
    #: Whether it was run to its end; if not, what stopped it.
    finished: bool = False
    stopped_by: str = ""
    #: What its first schedule did that another run need not repeat.
    findings: dict[Finding, int] = field(default_factory=dict)
    #: What its search has left, for the plan.
    left: Any = None


def run_part(
    program: Callable[[], Awaitable[object]],
    search: Search,
    settings: Settings,
    stop: Callable[[Counts], str],
    *,
    examine: bool,
    stop_on_failure: bool,
) -> Done:
    """Run one schedule after the other, the first of an exploration always by itself.

    Args:
        program: The main task.
        search: Chooses the schedules.
        settings: What they are run under.
        stop: Called before each, with what was counted so far; says what forbids to go on.
        examine: Watch the first schedule for calls that another run need not repeat.
        stop_on_failure: Stop at the first failure.
    """
    done = Done()
    counts = done.counts

    def begin() -> bool:
        # A limit may be met by the last schedule that there is.
        done.stopped_by = stop(counts)
        done.finished = not search.begin()
        return not done.finished and not done.stopped_by

    def count(schedule: Schedule) -> bool:
        if schedule.verdict == "pruned":
            counts.pruned += 1
            return begin()
        for label, is_reached in schedule.labels.items():
            counts.reached[label] = counts.reached.get(label, 0) + is_reached
        counts.add(kind_of(schedule), schedule.actions, cancelled=schedule.was_cancelled)
        if stop_on_failure and schedule.verdict is not None:
            done.stopped_by = "failure"
            return False
        return begin()

    try:
        follows = begin()
        while follows:
            if not settings.isolated and (counts.runs or not examine):
                follows = Series(program, search, settings, count).run()
                continue
            schedule = Schedule(program, search, settings)
            if examine and not counts.runs:
                with Examiner(schedule) as examiner:
                    schedule.run()
                done.findings = dict(examiner.findings)
            else:
                schedule.run()
            follows = count(schedule)
    except KeyboardInterrupt:
        done.stopped_by = "interrupted"
    return done
