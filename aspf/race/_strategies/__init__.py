"""The strategies: in which order an exploration takes the schedules of a program.

Each is one small file. What they share is in ``_plans.py``: an exploration is cut
into parts, and a strategy says which there are and makes the `Search` that runs one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aspf.race._strategies._coverage import Coverage
from aspf.race._strategies._pct import PCT
from aspf.race._strategies._plans import Choosing, Drawing, Enumerating, Plan, Switching
from aspf.race._strategies._portfolio import by_turns
from aspf.race._strategies._pos import POS
from aspf.race._strategies._random import Random
from aspf.race._strategies._starve import Starve
from aspf.race._strategies._swarm import Swarm
from aspf.race._strategies._urw import URW

if TYPE_CHECKING:
    from collections.abc import Callable

    from aspf.race._strategies._drawn import Drawn
    from aspf.race._strategies._portfolio import Rounds
    from aspf.race._strategies._profile import Profile

__all__ = ("NAMES", "Coverage", "Plan", "make_plan")

NAMES: Final = (
    "exhaustive",
    "preemption",
    "delay",
    "random",
    "pct",
    "pos",
    "urw",
    "swarm",
    "starve",
    "portfolio",
)
# Most bugs need a depth of 2 or 3; a search for 3 finds those of 2 as well.
PCT_DEPTH: Final = 3


def make_plan(search: str, seed: int, shared: str) -> Plan:
    """Make the plan of the search that a name means.

    Raises:
        ValueError: There is none of that name, or *shared* is neither of its two values.
    """
    if shared not in ("anything", "cells"):
        raise ValueError(f"shared={shared!r}: expected 'anything' or 'cells'")
    name, colon, depth = search.partition(":")
    if name not in NAMES or (colon and (name != "pct" or not depth.isdecimal() or int(depth) < 1)):
        names = ", ".join(repr(name) for name in NAMES)
        raise ValueError(f"search={search!r}: expected one of {names}, or 'pct:2' for a depth")
    only_cells = shared == "cells"
    if name == "exhaustive":
        return Enumerating(reduce=only_cells)
    if name in ("preemption", "delay"):
        return Choosing(delays=name == "delay")

    def drawing(profile: Profile) -> Callable[[int], Drawn | Rounds]:
        if name == "portfolio":
            return by_turns(seed, profile, only_cells=only_cells)
        drawn: Drawn
        if name == "random":
            drawn = Random(seed, profile)
        elif name == "pct":
            drawn = PCT(seed, profile, depth=int(depth or PCT_DEPTH))
        elif name == "pos":
            drawn = POS(seed, profile, only_cells=only_cells)
        elif name == "urw":
            drawn = URW(seed, profile)
        elif name == "swarm":
            drawn = Swarm(seed, profile)
        else:
            drawn = Starve(seed, profile)
        return lambda _run: drawn

    plan = Switching if name == "portfolio" else Drawing
    return plan(drawing, only_cells=only_cells)
