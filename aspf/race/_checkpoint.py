"""An exploration that can go on after an end of its process: what is left of it, in a file.

The file is written between two parts, hence what a part has done is lost if it is interrupted, and
done again. It is JSON. It says which program it is of, under which options and versions: with
others its parts would mean something else.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import sys
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from aspf.race._atomic import write_whole
from aspf.race._counts import Counts, Ending
from aspf.race._footprint import Footprint
from aspf.race._search import Tree
from aspf.race._strategies._bounded import Deviations
from aspf.race._strategies._observed import Draws, Learned
from aspf.race._strategies._plans import Choosing, Drawing, Enumerating, Part, Plan, Switching, Work
from aspf.race._strategies._profile import Known

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from aspf.race._strategies._bounded import Branch

__all__ = ("Checkpoint", "qualified_name")

FORMAT: Final = "aspf.race.checkpoint"
VERSION: Final = 1
# Seconds from one to the next, and how many times longer than it takes to write it.
INTERVAL: Final = 5.0
SELDOM: Final = 20
_NUMBERS: Final = ("complete", "pruned", "cancellations", "reached")


@final
class Checkpoint:
    """A file that says what is left of an exploration.

    Args:
        path: The file.
        program: What is explored.
        options: What decides which schedules are run, by name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        program: Callable[..., object],
        options: Mapping[str, Any],
    ) -> None:
        self._path = Path(path)
        self._head = {
            "format": FORMAT,
            "version": VERSION,
            "program": _identify(program),
            "options": dict(options),
            "versions": _versions(),
        }
        self._due = time.monotonic() + INTERVAL

    def load(self, plan: Plan, counts: Counts) -> None:
        """Go on where the file ends, if there is one; else begin it.

        Raises:
            ValueError: It is none, or of another exploration. Nothing was changed.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            # Whether it can be written had better be known before hours are run.
            self.save(plan, counts)
            return
        try:
            document = json.loads(data)
            found = {name: document[name] for name in self._head}
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{self._path} is no checkpoint of an exploration") from None
        for name, expected in self._head.items():
            if found[name] != expected:
                raise ValueError(self._differs(name, found[name], expected))
        _restore(plan, document["plan"])
        _restore_counts(counts, document["counts"])

    def save_if_due(self, plan: Plan, counts: Counts) -> None:
        """Write the file if the last time is some seconds ago."""
        if time.monotonic() >= self._due:
            self.save(plan, counts)

    def save(self, plan: Plan, counts: Counts) -> None:
        """Write the file, whole or not at all."""
        begun = time.monotonic()
        document = {**self._head, "counts": _of_counts(counts), "plan": _of_plan(plan)}
        write_whole(self._path, json.dumps(document))
        now = time.monotonic()
        self._due = now + max(INTERVAL, SELDOM * (now - begun))

    def remove(self) -> None:
        """Nothing is left to go on with."""
        self._path.unlink(missing_ok=True)

    def _differs(self, name: str, found: Any, expected: Any) -> str:
        if isinstance(found, dict) and isinstance(expected, dict):
            keys = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
            name, found, expected = keys[0], found.get(keys[0]), expected.get(keys[0])
        return (
            f"{self._path} is a checkpoint of another exploration: its {name} is {found!r}, and "
            f"not {expected!r}; name another file, or delete it to begin anew"
        )


def qualified_name(program: Callable[..., object]) -> str:
    """Return what tells a program from those of the same name elsewhere."""
    while hasattr(program, "func"):
        program = program.func
    name = getattr(program, "__qualname__", type(program).__qualname__)
    return f"{getattr(program, '__module__', '')}:{name}"


def _identify(program: Callable[..., object]) -> dict[str, str]:
    name = qualified_name(program)
    try:
        source = inspect.getsource(sys.modules[name.partition(":")[0]])
    except (OSError, KeyError, TypeError):
        source = ""
    return {
        "program": name,
        "digest of the program's file": hashlib.sha256(source.encode()).hexdigest()[:16],
    }


def _versions() -> dict[str, str]:
    versions = {"version of Python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("aspf", "trio"):
        try:
            versions[f"version of {package}"] = version(package)
        except PackageNotFoundError:  # pragma: no cover - aspf runs from a checkout
            versions[f"version of {package}"] = "unknown"
    return versions


# -- the plan ----------------------------------------------------------------------------------


def _of_plan(plan: Plan) -> dict[str, Any]:
    state: dict[str, Any] = {
        "queue": [_of_part(work.part) for work in plan.queue],
        "budget": plan.budget,
        "exhausted": plan.exhausted,
        "enumerated": plan.enumerated,
    }
    if isinstance(plan, Enumerating):
        state["begun"] = plan.begun
    elif isinstance(plan, Choosing):
        state["bound"] = plan.bound
        state["open"] = [[bound, _of_branches(those)] for bound, those in plan.open.items()]
    else:
        assert isinstance(plan, Drawing)
        state["first"] = plan.first
        state["learned"] = _of_learned(plan.learned)
    if isinstance(plan, Switching):
        state |= {"go": plan.go, "went_at": plan.went_at}
        state["tree"] = [_of_part(part) for part in plan.tree]
    return state


def _restore(plan: Plan, state: Mapping[str, Any]) -> None:
    plan.queue.extend(Work(_part(part)) for part in state["queue"])
    plan.budget, plan.exhausted = state["budget"], state["exhausted"]
    plan.enumerated = state["enumerated"]
    if isinstance(plan, Enumerating):
        plan.begun = state["begun"]
    elif isinstance(plan, Choosing):
        plan.bound = state["bound"]
        plan.open = {bound: _branches(those) for bound, those in state["open"]}
    else:
        assert isinstance(plan, Drawing)
        plan.first = state["first"]
        plan.learned = _learned(state["learned"])
    if isinstance(plan, Switching):
        plan.go, plan.went_at = state["go"], state["went_at"]
        plan.tree = [_part(part) for part in state["tree"]]


def _of_part(part: Part) -> dict[str, Any]:
    if isinstance(part, Tree):
        asleep = [[action, _of_footprint(touched)] for action, touched in part.asleep.items()]
        return {"prefix": part.prefix, "asleep": asleep}
    if isinstance(part, Deviations):
        return {"bound": part.bound, "branches": _of_branches(part.branches)}
    return {"first": part.first, "end": part.end, "known": _of_known(part.known)}


def _part(state: Mapping[str, Any]) -> Part:
    if "prefix" in state:
        asleep = {action: _footprint(touched) for action, touched in state["asleep"]}
        return Tree(tuple(state["prefix"]), asleep)
    if "branches" in state:
        return Deviations(state["bound"], tuple(_branches(state["branches"])))
    return Draws(state["first"], state["end"], _known(state["known"]))


def _of_footprint(footprint: Footprint) -> dict[str, Any]:
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in footprint._asdict().items()
    }


def _footprint(state: Mapping[str, Any]) -> Footprint:
    fields: dict[str, Any] = {
        name: frozenset(value) if isinstance(value, list) else value
        for name, value in state.items()
    }
    return Footprint(**fields)


def _of_branches(branches: Iterable[Branch]) -> list[Any]:
    """Write the choices of a run once for all of its branches that follow each other."""
    runs: list[Any] = []
    last: object = None
    for choices, depth, way in branches:
        if choices is not last or not runs:
            runs.append([choices, []])
            last = choices
        runs[-1][1].append([depth, way])
    return runs


def _branches(runs: Iterable[Any]) -> list[Branch]:
    branches: list[Branch] = []
    for choices, turns in runs:
        shared = [(action, tuple(actions)) for action, actions in choices]
        branches += [(shared, depth, way) for depth, way in turns]
    return branches


def _of_known(known: Known) -> dict[str, Any]:
    return {
        **{name: getattr(known, name) for name in ("tasks", "choices", "longest", "offers")},
        "steps": [[place, steps] for place, steps in known.steps.items()],
    }


def _known(state: Mapping[str, Any]) -> Known:
    steps = {tuple(place): steps for place, steps in state["steps"]}
    return Known(**{**state, "steps": steps})


def _of_learned(learned: Learned) -> dict[str, Any]:
    return {
        "known": _of_known(learned.known),
        "runs": learned.runs,
        "traces": [*learned.traces.items()],
        "pct_runs": [*learned.pct_runs.items()],
        "has_choices": learned.has_choices,
    }


def _learned(state: Mapping[str, Any]) -> Learned:
    return Learned(
        _known(state["known"]),
        state["runs"],
        Counter(dict(state["traces"])),
        Counter(dict(state["pct_runs"])),
        state["has_choices"],
    )


# -- the counts --------------------------------------------------------------------------------


def _of_counts(counts: Counts) -> dict[str, Any]:
    return {
        **{name: getattr(counts, name) for name in _NUMBERS},
        "endings": [
            [*kind, ending.count, ending.first, ending.actions, ending.shortest]
            for kind, ending in counts.endings.items()
        ],
    }


def _restore_counts(counts: Counts, state: Mapping[str, Any]) -> None:
    for name in _NUMBERS:
        setattr(counts, name, state[name])
    for kind, text, count, first, actions, shortest in state["endings"]:
        changes, steps, path = shortest
        counts.endings[kind, text] = Ending(count, first, actions, (changes, steps, path))
