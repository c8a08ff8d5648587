"""What earlier runs of a program have shown: how long they are, and who does how much of it.

PCT needs the number of choices in a run, URW the number of steps of each task. A task is known
from run to run by its place in the tree of tasks (the second child of the main task's first
child), since its number depends on the order in which the tasks were started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from aspf.race._engine import Schedule

__all__ = ("Known", "Profile")

Place = tuple[int, ...]


@final
@dataclass(slots=True)
class Known:
    """What some runs have shown. Nothing in it ever gets smaller, whatever their order."""

    #: The most tasks in a run.
    tasks: int = 1
    #: The most choices in a run: steps at which more than one task could run.
    choices: int = 1
    #: The most steps in a run, and what is supposed before there was any.
    longest: int = 16
    #: The most moments in a run at which something could have been cancelled.
    offers: int = 0
    #: By task, the most steps in a run.
    steps: dict[Place, int] = field(default_factory=dict)

    def merge(self, other: Known) -> None:
        """Learn what others have learned."""
        self.tasks = max(self.tasks, other.tasks)
        self.choices = max(self.choices, other.choices)
        self.longest = max(self.longest, other.longest)
        self.offers = max(self.offers, other.offers)
        for place, steps in other.steps.items():
            self.steps[place] = max(self.steps.get(place, 0), steps)


@final
class Profile:
    """What is known at the beginning of some runs, and what they show."""

    def __init__(self, known: Known | None = None) -> None:
        #: What the runs are drawn with. Invariant: it doesn't change from run to run.
        self.known = Known() if known is None else known
        #: What they have shown.
        self.learned = Known()
        #: Choices, and such moments, in the run that is going on.
        self.choices_so_far = 0
        self.offers_so_far = 0
        #: By task number, the steps that are to be expected of it and of the children that it has
        #: yet to start; whoever goes by that takes off what it has done.
        self.remaining: list[int] = []
        # Of the run that is going on, by task number.
        self._places: list[Place] = []
        self._children: list[int] = []

    def begin(self) -> None:
        """A run begins."""
        self.choices_so_far = self.offers_so_far = 0
        if self._places:
            for of_run in (self.remaining, self._places, self._children):
                of_run.clear()

    def look(self, schedule: Schedule) -> None:
        """Make the acquaintance of the tasks that were started since the last look."""
        expected = self.known.steps
        for strand in schedule.strands[len(self._places) :]:
            place: Place = ()
            if strand.parent is not None:
                parent = strand.parent.number
                place = (*self._places[parent], self._children[parent])
                self._children[parent] += 1
                self.remaining[parent] -= expected.get(place, 0)
            self.remaining.append(expected.get(place, 0))
            self._places.append(place)
            self._children.append(0)

    def finish(self, schedule: Schedule) -> None:
        """A run has ended: learn from it."""
        self.look(schedule)
        learned, strands = self.learned, schedule.strands
        totals = [0] * len(strands)
        for action in schedule.actions:
            if action >= 0:
                totals[action] += 1
        for number in range(len(totals) - 1, -1, -1):
            place, total, parent = self._places[number], totals[number], strands[number].parent
            if total > learned.steps.get(place, -1):
                learned.steps[place] = total
            if parent is not None:
                totals[parent.number] += total
        learned.tasks = max(learned.tasks, len(totals))
        learned.choices = max(learned.choices, self.choices_so_far)
        learned.offers = max(learned.offers, self.offers_so_far)
        learned.longest = max(learned.longest, len(schedule.actions))
