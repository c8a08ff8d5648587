"""An exploration, cut into parts that any process can run, in any order.

**Why it comes out the same.** With ``jobs=4``, or resumed after a day, an exploration reports what
it would have reported in one go in one process: the same first failure, the same counts. Three
things make that so.

- *What a part runs is a function of the part, and of the program.* A part holds all that its
  search needs to know: the node of a tree and what sleeps there; the branches that cost as much as
  the bound; the numbers of the runs to be drawn and what to draw them with. Within a part runs
  follow each other, and may learn from each other.
- *The parts have an order*, that in which one process takes them. What they have found is added up
  in this order, whoever was done first; what comes after the first failure is thrown away. A part
  that gets too long stops and leaves the rest as new parts, which take its place.
- *What comes next is decided between parts*, by what all parts before have shown. One process
  does exactly the same.

**A tree** (`Enumerating`) begins as one part. After `RUNS` runs it leaves one part for each node of
its present path that has something left, the deepest first. Dynamic partial-order reduction would
open branches of those nodes from what it sees in others; as nobody may wait for that, all of their
branches are open from then on. Sleep sets are sound whatever is open, and leave one complete run
for each trace: so the traces are the same, and only pruned runs are added. What sleeps at a node is
known when it is left, since its branches are explored one after the other, in one part.

**Bounded search** (`Choosing`) has a stage for each bound. Who has a branch of this bound takes all
that it leads to for the same price; what is dearer waits for its own stage.

**Draws** (`Drawing`) come in epochs of doubling length, cut into parts of `DRAWS` runs. A run depends
on the seed, on its part and its place there, and on what all earlier epochs have shown: how long runs
are, and who does how much of them. That
half of all runs know only of the other half costs next to nothing, since these numbers hardly
change after the first few.

**The portfolio** (`Switching`) draws, and between two epochs may give the tree a go.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from aspf.race._search import Exhaustive, Search, Tree
from aspf.race._strategies._bounded import Bounded, Deviations
from aspf.race._strategies._coverage import Coverage, good_turing
from aspf.race._strategies._observed import Draws, Learned, Observed
from aspf.race._strategies._portfolio import ENOUGH, FAMILIAR, FIRST_GO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aspf.race._strategies._bounded import Branch

__all__ = ("Choosing", "Drawing", "Enumerating", "Part", "Plan", "Switching", "Work")

Part: TypeAlias = Tree | Deviations | Draws

# The most runs of a part. It must not depend on how many processes there are.
RUNS: Final = 1_000
# How many branches a part has; it doesn't change what is run, or when.
BRANCHES: Final = 16
# How many draws a part has at most. Chance is seeded for each, so another number draws others.
DRAWS: Final = 512


class Work:
    """One part in the queue, and who is at it."""

    __slots__ = ("part", "result", "runner")

    def __init__(self, part: Part) -> None:
        self.part = part
        # For several processes: whether one has it, and what came of it.
        self.runner: bool | None = None
        self.result: Any = None


class Plan(ABC):
    """The parts of an exploration that are still to be run, in their order."""

    def __init__(self) -> None:
        #: The present stage. Invariant: later stages depend on all of it.
        self.queue: deque[Work] = deque()
        #: How many runs the stage has left; the part that goes beyond is run to its end.
        self.budget: int | None = None
        #: Whether there is nothing left.
        self.exhausted = False
        #: How many complete runs an enumeration took, which takes none twice.
        self.enumerated = 0

    @property
    def reduces(self) -> bool:
        """Whether that takes one schedule of each trace only."""
        return False

    @abstractmethod
    def search(self, part: Part) -> Search:
        """Make the search that runs a part."""

    @abstractmethod
    def leave(self, search: Search) -> Any:
        """Say what a search that has ended leaves: new parts, and what it has learned."""

    @abstractmethod
    def learn(self, left: Any) -> Iterable[Part]:
        """Take what a part has left; return the parts that take its place."""

    @abstractmethod
    def next_stage(self) -> Iterable[Part]:
        """Say what comes after all that was run; nothing if that was all."""

    @property
    def coverage(self) -> Coverage | None:
        """What the runs that were drawn have covered; ``None`` if none was."""
        return None

    def fill(self) -> bool:
        """Go to the next stage if this one is over; False if there is none."""
        if not self.queue and not self.exhausted:
            self.queue.extend(map(Work, self.next_stage()))
            self.exhausted = not self.queue
        return not self.exhausted

    def count(self, part: Part, complete: int) -> None:
        """Count the complete runs of a part."""
        if not isinstance(part, Draws):
            self.enumerated += complete

    def done(self, left: Any, runs: int) -> None:
        """The first part of the queue was run to its end."""
        self.queue.popleft()
        self.queue.extendleft(map(Work, reversed(list(self.learn(left)))))
        if self.budget is not None:
            self.budget -= runs
            if self.budget <= 0:
                self.suspend()

    def suspend(self) -> None:  # noqa: B027 - only a stage with a budget comes here
        """The stage has had its runs."""


@final
class Enumerating(Plan):
    """Every schedule once, depth first."""

    def __init__(self, *, reduce: bool) -> None:
        super().__init__()
        self._reduce = reduce
        #: Whether the root was given out.
        self.begun = False

    @property
    def reduces(self) -> bool:
        """Whether the promise was given that the tasks share nothing but cells."""
        return self._reduce

    def search(self, part: Part) -> Search:
        """Make the search that runs a part."""
        assert isinstance(part, Tree)
        return Exhaustive(reduce=self._reduce, tree=part, runs=RUNS)

    def leave(self, search: Search) -> list[Tree]:
        """Leave the nodes that have something left."""
        assert isinstance(search, Exhaustive)
        return search.left

    def learn(self, left: Any) -> Iterable[Part]:
        """They take the place of the part."""
        nodes: list[Part] = left
        return nodes

    def next_stage(self) -> Iterable[Part]:
        """There is only one stage, which begins with the root."""
        begun, self.begun = self.begun, True
        return [] if begun else [Tree()]


@final
class Choosing(Plan):
    """Every schedule once, those with the fewest deviations first."""

    def __init__(self, *, delays: bool) -> None:
        super().__init__()
        self._delays = delays
        #: The bound of the schedules that are chosen now.
        self.bound = 0
        # By bound, in the order in which they were met: the last one is the next.
        self.open: dict[int, list[Branch]] = {0: [((), 0, 0)]}

    def search(self, part: Part) -> Search:
        """Make the search that runs a part."""
        assert isinstance(part, Deviations)
        return Bounded(delays=self._delays, part=part, runs=RUNS)

    def leave(self, search: Search) -> tuple[list[Branch], dict[int, list[Branch]]]:
        """Leave the branches that were not taken, and those of later stages."""
        assert isinstance(search, Bounded)
        return search.left, search.dearer

    def learn(self, left: Any) -> Iterable[Part]:
        """Those of this bound take the place of the part."""
        branches, dearer = left
        for bound, those in dearer.items():
            self.open.setdefault(bound, []).extend(those)
        return self._parts(branches)

    def next_stage(self) -> Iterable[Part]:
        """Take the next bound that has any branches."""
        if not self.open:
            return []
        self.bound = min(self.open)
        return self._parts(self.open.pop(self.bound)[::-1])

    def _parts(self, branches: list[Branch]) -> Iterator[Part]:
        for at in range(0, len(branches), BRANCHES):
            yield Deviations(self.bound, tuple(branches[at : at + BRANCHES]))


class Drawing(Plan):
    """Runs that are drawn, without end."""

    def __init__(self, drawing: Callable[..., Any], *, only_cells: bool) -> None:
        super().__init__()
        self._drawing = drawing
        self._only_cells = only_cells
        #: What all runs so far have shown.
        self.learned = Learned()
        #: The first run of the next epoch.
        self.first = 0

    def search(self, part: Part) -> Search:
        """Make the search that runs a part."""
        assert isinstance(part, Draws)
        return Observed(part, self._drawing, only_cells=self._only_cells)

    def leave(self, search: Search) -> Any:
        """Leave what was learned."""
        assert isinstance(search, Observed)
        return search.learned

    def learn(self, left: Any) -> Iterable[Part]:
        """Nothing takes the place of the part."""
        self.learned.merge(left)
        return []

    def next_stage(self) -> Iterable[Part]:
        """Draw as many runs again as there were so far."""
        first, self.first = self.first, max(1, 2 * self.first)
        known = deepcopy(self.learned.known)
        return [
            Draws(at, min(at + DRAWS, self.first), known) for at in range(first, self.first, DRAWS)
        ]

    @property
    def coverage(self) -> Coverage:
        """What the runs have covered so far."""
        learned = self.learned
        return Coverage(
            runs=learned.runs,
            traces=len(learned.traces),
            seen_once=self._seen_once,
            tasks=learned.known.tasks,
            choices=learned.known.choices,
            pct_runs=dict(sorted(learned.pct_runs.items())),
        )

    @property
    def _seen_once(self) -> int:
        return sum(count == 1 for count in self.learned.traces.values())


@final
class Switching(Drawing):
    """Runs that are drawn by several strategies, and every schedule once where that is soon done."""

    def __init__(self, drawing: Callable[..., Any], *, only_cells: bool) -> None:
        super().__init__(drawing, only_cells=only_cells)
        #: What the exhaustive search has left, how many runs its next go has, and after which
        #: epoch it had one.
        self.tree: list[Part] = [Tree()]
        self.go = FIRST_GO
        self.went_at = 0

    @property
    def reduces(self) -> bool:
        """Whether the exhaustive search takes one schedule of each trace only."""
        return self._only_cells

    def search(self, part: Part) -> Search:
        """Make the search that runs a part."""
        if isinstance(part, Tree):
            return Exhaustive(reduce=self._only_cells, tree=part, runs=RUNS)
        return super().search(part)

    def leave(self, search: Search) -> Any:
        """Leave the nodes that have something left, or what was learned."""
        return search.left if isinstance(search, Exhaustive) else super().leave(search)

    def learn(self, left: Any) -> Iterable[Part]:
        """Nodes take the place of the part."""
        return left if isinstance(left, list) else super().learn(left)

    def next_stage(self) -> Iterable[Part]:
        """Give the exhaustive search a go if the space seems to be small; else draw."""
        if not self.tree:
            return []
        if self.first == 1 and not self.learned.has_choices:
            self.enumerated = 1  # the first run has shown that there is no other
            return []
        if self.went_at < self.first and self.first >= ENOUGH and self._is_familiar:
            self.went_at = self.first
            self.budget, self.go = self.go, 2 * self.go
            parts, self.tree = self.tree, []
            return parts
        self.budget = None
        return super().next_stage()

    def suspend(self) -> None:
        """Keep what the exhaustive search has left for its next go."""
        self.tree = [work.part for work in self.queue]
        self.queue.clear()

    @property
    def _is_familiar(self) -> bool:
        return good_turing(self._seen_once, self.learned.runs) < FAMILIAR
