"""Which context switches a failure takes, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from aspf.race._actions import TIME, is_cancellation, is_time, scope_of, task_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aspf.race._minimise import Choice, Found

__all__ = ("NOT_TRIED", "Minimal", "Switch", "minimal_of")


@final
@dataclass(frozen=True, slots=True)
class Switch:
    """A point at which a schedule departs from the usual one, which see in `Minimal`."""

    #: Who runs, or is cancelled, instead of whom, and after what.
    text: str
    #: Without this switch, and with the others: ``"passes"`` or how the program fails otherwise;
    #: empty if no replay, or no time, was left to find out.
    without: str

    @property
    def necessary(self) -> bool:
        """Whether a replay has shown that it does not fail so without it."""
        return bool(self.without)

    def __str__(self) -> str:
        if self.without == "passes":
            return self.text
        return f"{self.text}; without it: {self.without or 'not tried'}"


@final
@dataclass(frozen=True, slots=True)
class Minimal:
    """The context switches of a failure that was minimised.

    Usually a task runs until it can't go on, then the one with the lowest number that can, and
    nobody is cancelled. A *switch* is a point at which the schedule departs from that. What only
    follows from it (the running task sleeps or ends, and the next takes over) isn't counted.
    """

    #: In order.
    switches: tuple[Switch, ...]
    #: True if every schedule with fewer switches was tried, and none fails in the same way.
    fewest: bool
    #: How many runs it took to find this; none if the time was over before the first.
    replays: int
    #: True if ``seconds=`` were over before all was tried.
    out_of_time: bool = False

    @property
    def is_minimal(self) -> bool:
        """Whether each switch was shown to be necessary."""
        return self.replays > 0 and all(switch.necessary for switch in self.switches)

    def __str__(self) -> str:
        """Say it in a line for all, and a line for each switch."""
        lines = [self.headline()]
        # Out of time at once it has all that the schedule was found with, which may be hundreds.
        if not self.out_of_time or any(switch.necessary for switch in self.switches):
            lines += (f"  {i}. {switch}" for i, switch in enumerate(self.switches, 1))
        if self.switches and self.fewest:
            lines.append("no schedule with fewer switches fails so: all were tried")
        return "".join(f"{line}\n" for line in lines)

    def headline(self) -> str:
        """Say in one line how many there are, and whether each is necessary."""
        count = len(self.switches)
        if not self.replays:
            return "not minimised: the time was over"
        if not count:
            return "no switch is necessary: it fails though every task runs as long as it can"
        shown = sum(switch.necessary for switch in self.switches)
        what = f"{count} switch{'es' if count > 1 else ''}"
        if shown < count:
            end = "then the replays ran out"
            if self.out_of_time:
                end = "not all were tried: the time was over"
            return f"{what}, {shown or 'none'} of them shown to be necessary; {end}"
        passes = all(switch.without == "passes" for switch in self.switches)
        end = "passes" if passes else "passes or fails otherwise"
        if count == 1:
            end = "passes" if passes else "fails otherwise"
            return f"{what}, necessary: without it the program {end}"
        if count == 2:
            return f"{what}, both necessary: without either the program {end}"
        return f"{what}, all necessary: without any one of them the program {end}"


#: Of a failure that there was no time for.
NOT_TRIED: Final = Minimal((), fewest=False, replays=0, out_of_time=True)


def minimal_of(found: Found, tasks: Mapping[int, str]) -> Minimal:
    """Put what a minimiser found into words."""
    switches = (
        Switch(
            _in_words(choice, tasks),
            "" if kind is None else "passes" if kind[0] == "passes" else kind[1],
        )
        for choice, kind in zip(found.switches, found.without, strict=True)
    )
    return Minimal(tuple(switches), found.fewest, found.replays, found.out_of_time)


def _in_words(choice: Choice, tasks: Mapping[int, str]) -> str:
    if choice.after == TIME:
        when = f"after jump {choice.nth} of the clock"
    elif is_time(choice.after):
        when = f"after {_whom(choice.after, tasks)} has passed"
    elif is_cancellation(choice.after):
        when = f"after the cancellation of {_whom(choice.after, tasks)}"
    else:
        when = f"after step {choice.nth} of {tasks[choice.after]}"
    if is_cancellation(choice.taken):
        return f"{_whom(choice.taken, tasks)} is cancelled {when}"
    if choice.taken == TIME:
        return f"time passes {when}"
    if is_time(choice.taken):
        return f"{_whom(choice.taken, tasks)} passes {when}"
    if choice.preempts:
        return f"{tasks[choice.taken]} interrupts, {when}"
    before = "time passes" if choice.usual == TIME else _whom(choice.usual, tasks)
    return f"{tasks[choice.taken]} runs before {before}, {when}"


def _whom(action: int, tasks: Mapping[int, str]) -> str:
    name, scope = tasks[task_of(action)], scope_of(action)
    if action >= 0:
        return name
    if is_time(action):
        return f"deadline {scope} of {name}"
    return f"marked scope {scope} of {name}" if scope else name
