"""What one action touched, and whether two of them may be exchanged."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ("NOTHING", "OF_A_THING", "Footprint", "touch_of")

# Cells are numbered from 0, primitives from here.
OF_A_THING: Final = 1 << 61


class Footprint(NamedTuple):
    """All that one action touched.

    A place is anything that tasks share and that says so: a cell, a lifetime, a lock, a channel.
    Each has a number. Whoever accesses a cell reads the lifetime that it lives in, and whoever
    frees that writes it.
    """

    reads: frozenset[int] = frozenset()
    writes: frozenset[int] = frozenset()
    #: Tasks that it woke or cancelled.
    touched: frozenset[int] = frozenset()
    #: Tasks that it started. They did not exist before, so what they do comes after it anyway.
    started: frozenset[int] = frozenset()
    #: Whether it cancelled any task but its own.
    cancelled: bool = False
    #: Whether it waits for a condition on the place.
    waits: bool = False
    #: Whether it may have touched anything.
    unknown: bool = False

    def conflicts(self, other: Footprint) -> bool:
        """Tell whether the two accesses may not be exchanged."""
        return (
            self.unknown
            or other.unknown
            or not (
                self.writes.isdisjoint(other.writes)
                and self.writes.isdisjoint(other.reads)
                and self.reads.isdisjoint(other.writes)
            )
        )

    @property
    def is_announced(self) -> bool:
        """Whether all that it accessed were cells, which it had announced."""
        return not self.unknown and all(place < OF_A_THING for place in self.places)

    @property
    def touches_others(self) -> bool:
        """Whether it did anything to any task."""
        return bool(self.touched or self.started)

    @property
    def places(self) -> frozenset[int]:
        """All places that it accessed."""
        return self.reads | self.writes


NOTHING: Final = Footprint()


def touch_of(task: int) -> int:
    """The place that stands for what others do to a task: two who wake one task conflict."""
    return ~task
