"""Follow a token: step for step where the program is the same, as near as may be where it isn't.

**The same program.** A period says which task runs until it stands where. Where a task stands after
a step follows from the steps before, so in the program that the token was made with each period
ends at the very step at which it ended then, and the schedule is the same.

**Another one.** What the token doesn't speak of is no matter: a task that it doesn't know runs when
nobody that it knows can, and whatever stands between two places is passed through. Where the
program can't do what a period says, that is a *difference*, is kept with its step, and:

- a task of the token that has never been seen is taken for the one that the token doesn't know, if
  there is just one (it was renamed);
- a task that has come to the place of a later period of its own has missed this one's (its
  checkpoint was taken out), and the period is over;
- a period that can't go on is over; the next one that can is taken;
- behind the token's end, or where none of its periods is possible, a task runs until it can't go
  on, then the lowest number that can.

So a replay always comes to an end. What it says then: a failure is a failure, whatever the way
there. A run that passes after a difference has shown nothing, and its first difference is raised.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, final

from aspf._errors import ReplayDiverged
from aspf.race._actions import TIME, cancellation, is_time, scope_of, task_of, timer
from aspf.race._periods import MAIN, Path, Period, describe_path, plain
from aspf.race._record import name_of
from aspf.race._search import Repeat, describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aspf.race._engine import Schedule, Strand

__all__ = ("Noting", "Recall", "Retrace", "raise_if_diverged")


class Noting:
    """Chooses, and writes down what is done in symbols."""

    follows_steps = True

    def __init__(self) -> None:
        self.steps: list[Period] = []
        # By the tasks' numbers.
        self.paths: list[Path] = []
        self._children: dict[tuple[Path, str], int] = {}
        self._last: int | None = None

    def pick(self, actions: list[int], schedule: Schedule) -> int | None:
        """Note what the last action has led to, and choose."""
        self._look_back(schedule)
        self._last = self._choose(actions, schedule)
        return self._last

    def finish(self, schedule: Schedule) -> None:
        """Note the end."""
        self._look_back(schedule)

    def _choose(self, actions: list[int], schedule: Schedule) -> int | None:
        raise NotImplementedError  # pragma: no cover - each heir has its own

    def _look_back(self, schedule: Schedule) -> None:
        for strand in schedule.strands[len(self.paths) :]:
            self._meet(strand)
        action, self._last = self._last, None
        if action is None:
            return
        if action == TIME:
            self.steps.append(Period("time"))
        elif action < 0:
            kind = "deadline" if is_time(action) else "cancel"
            path = self.paths[task_of(action)]
            self.steps.append(Period(kind, path, scope=scope_of(action)))
        else:
            strand = schedule.strands[action]
            self.steps.append(Period("run", self.paths[action], schedule.place_of(strand)))

    def _meet(self, strand: Strand) -> None:
        parent = strand.parent
        if parent is None:
            self.paths.append(MAIN)
            return
        above, name = self.paths[parent.number], plain(name_of(strand.task)) or "task"
        nth = self._children[above, name] = self._children.get((above, name), 0) + 1
        self.paths.append((*above, (name, nth)))


@final
class Recall(Noting):
    """Chooses what was done, by its numbers.

    Args:
        actions: What to do, from the first step.
    """

    def __init__(self, actions: Sequence[int]) -> None:
        super().__init__()
        self._repeat = Repeat(actions)

    def _choose(self, actions: list[int], schedule: Schedule) -> int:
        return self._repeat.pick(actions, schedule)


@final
class Retrace(Noting):
    """Chooses what a token says; see the head of this file.

    Args:
        periods: From the token.
        open_ended: Whether the program would have gone on; then the run is given up at the end.
    """

    def __init__(self, periods: Sequence[Period], *, open_ended: bool) -> None:
        super().__init__()
        self._periods = periods
        self._open_ended = open_ended
        self._known = {
            period.task[:i]
            for period in periods
            if period.kind != "time"
            for i in range(len(period.task) + 1)
        }
        self._renamed: dict[Path, Path] = {}
        self._at = 0
        self._times = 0  # that this period's task has come to its place
        self._is_on_it = False  # whether the last action was this period's
        self._running = 0
        #: What the program did otherwise, in order.
        self.differences: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Whether the end of the token was reached."""
        return self._at >= len(self._periods)

    def finish(self, schedule: Schedule) -> None:
        """Note the end, and what the token says beyond it."""
        super().finish(schedule)
        self._judge()
        if not self.is_complete:
            self._differ(f"{_expected(self._periods[self._at])}; the program is at its end")

    def _choose(self, actions: list[int], schedule: Schedule) -> int | None:
        self._judge()
        if self.is_complete:
            if self._open_ended:
                return None
            self._differ(
                f"the token is at its end; the program goes on; {_possible(actions, schedule)}"
            )
            action = self._usual(actions)
        else:
            wanted = self._wanted()
            action = wanted if wanted in actions else self._nearest(actions, schedule)
            self._is_on_it = not self.is_complete and action == self._wanted()
        if action >= 0:
            self._running = action
        return action

    def _judge(self) -> None:
        """See whether the last step has ended its period."""
        if not self._is_on_it:
            return
        self._is_on_it = False
        step, period = self.steps[-1], self._periods[self._at]
        if period.kind == "run":
            self._times += step.place == period.place
            if self._times < period.times and not self._has_missed(step):
                return
        self._next()

    def _next(self) -> None:
        self._at += 1
        self._times = 0

    def _has_missed(self, step: Period) -> bool:
        """Tell whether a task stands where only a later period of its own takes it."""
        period = self._periods[self._at]
        if step.place in ("", period.place):
            return False
        of_it = [i for i, p in enumerate(self._periods) if p[:3] == (*period[:2], step.place)]
        if not of_it or of_it[0] < self._at:
            return False
        self._differ(
            f"{_expected(period)}; the program has it at {step.place} already", len(self.steps)
        )
        return True

    def _wanted(self) -> int | None:
        """The action that goes on with the present period, whether it is possible or not."""
        period = self._periods[self._at]
        if period.kind == "time":
            return TIME
        path = self._renamed.get(period.task, period.task)
        if path not in self.paths:
            return None
        number = self.paths.index(path)
        if period.kind == "deadline":
            return timer(number, period.scope)
        return number if period.kind == "run" else cancellation(number, period.scope)

    def _nearest(self, actions: list[int], schedule: Schedule) -> int:
        """Choose where the present period can't go on."""
        period = self._periods[self._at]
        if period.kind != "time":
            self._look_for(period.task)
        action = self._wanted()
        if action in actions:
            return action
        strand = None if action in (None, TIME) else schedule.strands[task_of(action)]
        if strand is None or strand.is_alive:
            strangers = [n for n in actions if n >= 0 and not self._knows(self.paths[n])]
            if strangers:
                return strangers[0]
            if TIME in actions and actions[0] < 0 and period.kind == "run":
                return TIME  # nobody can run: somebody sleeps who didn't then
        self._differ(
            f"{_expected(period)}; {self._instead(period, strand, schedule)}; "
            f"{_possible(actions, schedule)}"
        )
        while not self.is_complete:
            self._next()
            if not self.is_complete and (action := self._wanted()) in actions:
                return action
        return self._usual(actions)

    def _look_for(self, path: Path) -> None:
        """Take a task that the token doesn't know for one that the program doesn't know."""
        if path in self.paths or path in self._renamed:
            return
        above = self._renamed.get(path[:-1], path[:-1])
        new = [each for each in self.paths if not self._knows(each) and each[:-1] == above]
        if len(new) == 1:
            self._differ(
                f"the token has {describe_path(path)}; it is taken for {describe_path(new[0])}"
            )
            self._renamed[path] = new[0]

    def _knows(self, path: Path) -> bool:
        return path in self._known or path in self._renamed.values()

    def _usual(self, actions: list[int]) -> int:
        return self._running if self._running in actions else actions[0]

    def _differ(self, what: str, step: int | None = None) -> None:
        number = len(self.steps) + 1 if step is None else step
        self.differences.append(f"diverged at step {number}: {what}")

    def _instead(self, period: Period, strand: Strand | None, schedule: Schedule) -> str:
        if period.kind == "time":
            return "in the program somebody can run"
        if strand is None:
            names = [describe_path(path) for path in self.paths]
            near = difflib.get_close_matches(describe_path(period.task), names, n=1)
            end = f" (nearest: {near[0]})" if near else ""
            return f"the program has no such task, only {', '.join(names)}{end}"
        if period.kind in {"cancel", "deadline"}:
            return "in the program that makes no difference there"
        path = self.paths[strand.number]
        places = [step.place for step in self.steps if step.kind == "run" and step.task == path]
        near = difflib.get_close_matches(period.place, dict.fromkeys(filter(None, places)), n=1)
        end = f" (nearest: {near[0]})" if near else ""
        now = f"it is at {schedule.place_of(strand)}" if strand.is_alive else "it has ended"
        return f"in the program {now}{end}"


def _expected(period: Period) -> str:
    if period.kind == "time":
        return "the token lets time pass"
    task = describe_path(period.task)
    if period.kind == "deadline":
        return f"the token lets deadline {period.scope} of {task} pass first"
    if period.kind == "cancel":
        return f"the token cancels {f'scope {period.scope} of ' if period.scope else ''}{task}"
    times = f", {period.times} times" if period.times > 1 else ""
    return f"the token takes {task} to {period.place or 'its end'}{times}"


def _possible(actions: list[int], schedule: Schedule) -> str:
    return "possible: " + ", ".join(describe(action, schedule) for action in actions)


def raise_if_diverged(retrace: Retrace, schedule: Schedule) -> None:
    """Raise the first difference, if the run shows nothing for it.

    Raises:
        ReplayDiverged: It passes, or was given up, and not as the token says.
    """
    if schedule.verdict == "pruned":
        raise ReplayDiverged("the cancellation of the token is delivered elsewhere in the program")
    if schedule.verdict is None and retrace.differences:
        raise ReplayDiverged(
            f"{retrace.differences[0]}. The rest was run as near to the token as possible, and "
            "passes, which shows nothing: explore again"
        )
