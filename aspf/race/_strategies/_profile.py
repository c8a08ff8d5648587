"""What earlier runs of a program have shown: how long they are, and who does how much of it.

PCT needs the number of choices in a run, URW the number of steps of each task. A task is known
from run to run by its place in the tree of tasks (the second child of the main task's first
child), since its number depends on the order in which the tasks were started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from aspf.race._engine import Schedule

__all__ = ("Profile",)

Place = tuple[int, ...]


@final
class Profile:
    """Grows with every run; nothing in it ever gets smaller."""

    def __init__(self) -> None:
        #: The most tasks in a run.
        self.tasks = 1
        #: The most choices in a run: steps at which more than one task could run.
        self.choices = 1
        #: The most steps in a run, and what is supposed before there was any.
        self.longest = 16
        #: The most moments in a run at which something could have been cancelled; likewise.
        self.offers = 16
        #: Choices, and such moments, in the run that is going on.
        self.choices_so_far = 0
        self.offers_so_far = 0
        #: By task number, the steps that are to be expected of it and of the children that it has
        #: yet to start; below zero if it does more than ever before.
        self.remaining: list[int] = []
        self._known: dict[Place, int] = {}
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
                self.remaining[parent.number] -= self._known.get(place, 0)
            self.remaining.append(self._known.get(place, 0))
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
        totals = self._steps.copy()
        for number in range(len(totals) - 1, -1, -1):
            place = self._places[number]
            self._known[place] = max(self._known.get(place, 0), totals[number])
            if number:
                totals[self._parents[number]] += totals[number]
        self.tasks = max(self.tasks, len(totals))
        self.choices = max(self.choices, self.choices_so_far)
        self.offers = max(self.offers, self.offers_so_far)
        self.longest = max(self.longest, len(schedule.actions))
