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
    #: The most moments in a run at which something could have been cancelled; likewise.
    offers: int = 16
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
        #: yet to start; below zero if it does more than ever before.
        self.remaining: list[int] = []
        # Of the run that is going on, by task number.
        self._places: list[Place] = []
        self._parents: list[int] = []
        self._children: list[int] = []
        self._steps: list[int] = []

    def begin(self) -> None:
        """A run begins."""
        self.choices_so_far = self.offers_so_far = 0
        for of_run in (self.remaining, self._places, self._parents, self._children, self._steps):
            of_run.clear()

    def look(self, schedule: Schedule) -> None:
        """Make the acquaintance of the tasks that the last step has started."""
        if len(self._places) == len(schedule.strands):
            return
        for strand in schedule.strands[len(self._places) :]:
            nursery = strand.task.parent_nursery
            parent = nursery and schedule._by_task.get(nursery.parent_task)
            place: Place = ()
            if parent:
                place = (*self._places[parent.number], self._children[parent.number])
                self._children[parent.number] += 1
                self.remaining[parent.number] -= self.known.steps.get(place, 0)
            self.remaining.append(self.known.steps.get(place, 0))
            self._places.append(place)
            self._parents.append(parent.number if parent else -1)
            self._children.append(0)
            self._steps.append(0)

    def took(self, action: int, *, steps: int) -> None:
        """One of *steps* possible steps was taken, or a cancellation."""
        if action >= 0:
            self._steps[action] += 1
            self.remaining[action] -= 1
        self.choices_so_far += steps > 1

    def finish(self, schedule: Schedule) -> None:
        """A run has ended: learn from it."""
        learned = self.learned
        totals = self._steps.copy()
        for number in range(len(totals) - 1, -1, -1):
            place = self._places[number]
            learned.steps[place] = max(learned.steps.get(place, 0), totals[number])
            if number:
                totals[self._parents[number]] += totals[number]
        learned.tasks = max(learned.tasks, len(totals))
        learned.choices = max(learned.choices, self.choices_so_far)
        learned.offers = max(learned.offers, self.offers_so_far)
        learned.longest = max(learned.longest, len(schedule.actions))
