"""Run the mutants; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import platform
import selectors
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, final

import mutants

from ._generate import Mutant, mutants_of
from ._run import ROOT, Child, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CACHE = ROOT / ".nox" / "mutants"
EXPLAINED = Path(__file__).with_name("explained.toml")


@final
@dataclass(frozen=True)
class Subject:
    """A module, and the explorations that must kill its mutants."""

    path: str
    #: Their directory; the files are called test_explored*.py.
    tests: str

    @property
    def label(self) -> str:
        return Path(self.path).stem

    @property
    def explorations(self) -> list[Path]:
        return sorted((ROOT / self.tests).glob("test_explored*.py"))

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")


SUBJECTS = (
    Subject("aspf/_rwlock.py", "tests/rwlock"),
    Subject("aspf/ranges/_range_map.py", "tests/ranges"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was killed and by what, and who survived; 1 if a survivor is not explained."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=mutants.__doc__)
    parser.add_argument("only", nargs="?", default="", help="only mutants with this in their name")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument(
        "--survivors", action="store_true", help="only those that were not killed last time"
    )
    parser.add_argument("--diff", action="store_true", help="show the diff of explained ones too")
    options = parser.parse_args(arguments)
    os.nice(19 - os.nice(0))
    CACHE.mkdir(parents=True, exist_ok=True)
    results = Results()
    explained = explanations()
    left = dict(explained)
    failed = False
    for subject in SUBJECTS:
        source = (ROOT / subject.path).read_text(encoding="utf-8")
        made = mutants_of(subject.label, source)
        chosen = [
            mutant
            for mutant in made.mutants
            if options.only in mutant.name and not (options.survivors and results.last(mutant.name))
        ]
        if not chosen:
            continue
        skipped = f"{made.hints} that change only a type hint, {made.invalid} that are no Python"
        print(f"\n{subject.path}: {len(made.mutants)} mutants (not counted: {skipped})", flush=True)
        survivors = []
        killers: Counter[str] = Counter()
        for mutant, verdict in verdicts(subject, source, chosen, results, options.jobs):
            if verdict.killer is None:
                survivors.append(mutant)
            else:
                killers[verdict.killer.rpartition("::")[2]] += 1
        killed = len(chosen) - len(survivors)
        print(f"  {killed} of {len(chosen)} killed, by the first of these that noticed:")
        for killer, count in killers.most_common():
            print(f"  {count:>5}  {killer}")
        print(f"  {len(survivors)} survived:")
        for mutant in survivors:
            why = left.pop(mutant.name, None) or explained.get(mutant.name)
            failed |= why is None
            print(f"\n  {subject.path}:{mutant.line} [{mutant.operator}] {mutant.name}")
            if why is None or options.diff:
                print("\n".join(f"      {text}" for text in mutant.diff.splitlines()))
            print(f"      {'NOT EXPLAINED' if why is None else why}", flush=True)
    if left and not options.only and not options.survivors:
        failed = True
        print(f"\nexplained, but killed or gone; delete them from {EXPLAINED.name}:")
        print("\n".join(f"  {name}" for name in left))
    return 1 if failed else 0


def explanations() -> dict[str, str]:
    """Read why a survivor can't be told from the original, by the mutant's name."""
    known: dict[str, str] = {}
    for entry in tomllib.loads(EXPLAINED.read_text(encoding="utf-8")).get("explained", []):
        for name in entry["mutants"]:
            if name in known:
                raise SystemExit(f"{EXPLAINED.name} explains {name!r} twice")
            known[name] = " ".join(entry["why"].split())
    return known


def verdicts(
    subject: Subject, source: str, chosen: Sequence[Mutant], results: Results, jobs: int
) -> Iterator[tuple[Mutant, Verdict]]:
    """Run the mutants that have changed since the last time, and yield all with their verdicts."""
    world = _world(subject)
    keys = {mutant.name: _hash(world, mutant.source.encode()) for mutant in chosen}
    todo = [mutant for mutant in chosen if keys[mutant.name] not in results]
    for mutant in chosen:
        if keys[mutant.name] in results:
            yield mutant, results[keys[mutant.name]]
    if not todo:
        return
    seconds = _unchanged(subject, source)
    started = monotonic()
    for number, (mutant, verdict) in enumerate(_raced(subject, todo, results, seconds, jobs), 1):
        results.add(keys[mutant.name], mutant.name, verdict)
        left = (monotonic() - started) / number * (len(todo) - number)
        if verdict.killer is None or not number % 50:
            said = "survived" if verdict.killer is None else "done"
            print(f"  [{number}/{len(todo)}, {left:.0f} s left] {said}: {mutant.name}", flush=True)
        yield mutant, verdict


def _unchanged(subject: Subject, source: str) -> dict[str, float]:
    """Run the explorations on the original, which must survive; return how long each took."""
    child = Child(subject.module, source, subject.explorations)
    while child.read():
        pass
    verdict = child.verdict()
    if verdict.killer is not None:
        raise SystemExit(f"{verdict.killer} fails without a mutation: {verdict.reason}")
    return verdict.seconds


def _raced(
    subject: Subject,
    todo: Sequence[Mutant],
    results: Results,
    seconds: dict[str, float],
    jobs: int,
) -> Iterator[tuple[Mutant, Verdict]]:
    waiting = list(reversed(todo))
    with selectors.DefaultSelector() as selector:
        while waiting or selector.get_map():
            while waiting and len(selector.get_map()) < jobs:
                mutant = waiting.pop()
                child = Child(
                    subject.module,
                    mutant.source,
                    subject.explorations,
                    first=results.last(mutant.name),
                    seconds=seconds,
                )
                selector.register(child.out, selectors.EVENT_READ, (mutant, child))
            for key, _ in selector.select():
                mutant, child = key.data
                if not child.read():
                    selector.unregister(child.out)
                    yield mutant, child.verdict()


class Results:
    """What is known of mutants: verdicts by content, and the last killer by name."""

    def __init__(self) -> None:
        self._file = CACHE / "results.jsonl"
        self._known: dict[str, Verdict] = {}
        self._last: dict[str, str | None] = {}
        if self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                key, name, killer, reason = json.loads(line)
                self._known[key] = Verdict(killer, reason, {})
                self._last[name] = killer

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Verdict:
        return self._known[key]

    def last(self, name: str) -> str | None:
        """Return what killed the mutant when it last ran; None if nothing did."""
        return self._last.get(name)

    def add(self, key: str, name: str, verdict: Verdict) -> None:
        """Keep a verdict at once: a run that is interrupted has lost nothing."""
        self._known[key], self._last[name] = verdict, verdict.killer
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, name, verdict.killer, verdict.reason]) + "\n")


def _world(subject: Subject) -> str:
    """Return a hash of all that a verdict depends on, besides the mutant.

    The explorer is left out, or no verdict would outlive a day of work on it. The explorations
    insist that it exhausts their programs, and on what is seen on the way, so an explorer that
    looked at less would fail on the original already. Delete `.nox/mutants` to judge all again.
    """
    tests = ROOT / subject.tests
    files = sorted({*(ROOT / "aspf").glob("*.py"), *(ROOT / subject.path).parent.glob("*.py")})
    files += subject.explorations
    files += sorted(file for kind in ("broken", "golden") for file in (tests / kind).glob("*.*"))
    files += [ROOT / "tests" / "conftest.py", Path(__file__).with_name("_run.py")]
    versions = [version("trio"), version("anyio"), platform.python_version()]
    # The subject is in its mutants.
    contents = [file.read_bytes() for file in files if file != ROOT / subject.path]
    return _hash(*contents, *versions)


def _hash(*parts: bytes | str) -> str:
    whole = sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
        whole.update(b"\0")
    return whole.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
