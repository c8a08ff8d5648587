"""Run the benchmarks; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import benchmarks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._measure import Row


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each row as it is measured; 1 if a target is missed."""
    subjects = [m.name for m in iter_modules(benchmarks.__path__) if not m.name.startswith("_")]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument(
        "name", nargs="*", help=f"what to run: {', '.join(subjects)} (all but what takes long)"
    )
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; less exact")
    only = parser.add_argument_group("options of schedules")
    only.add_argument("--only", type=_names, metavar="PROGRAM,...", help="of these programs")
    only.add_argument("--strategy", type=_names, metavar="NAME,...", help="with these strategies")
    only.add_argument("--trials", type=int, metavar="N", help="with so many trials, not 20")
    options = parser.parse_args(arguments)
    unknown = set(options.name) - set(subjects)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {subjects}")

    asked = {"only": options.only, "strategies": options.strategy, "trials": options.trials}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked and options.name != ["schedules"]:
        parser.error("--only, --strategy and --trials are options of schedules alone")

    print(_machine(), flush=True)
    verdicts = []
    chosen = options.name or [name for name in subjects if not _takes_long(name)]
    for name in chosen:
        try:
            rows = import_module(f"benchmarks.{name}").rows(quick=options.quick, **asked)
        except ValueError as wrong:
            parser.error(str(wrong))
        print(f"\n{name}: {_title(name)}", flush=True)
        for row in rows:
            print(_line(row), flush=True)
            verdicts.append(row.holds)
    held, missed = verdicts.count(True), verdicts.count(False)
    print(f"\n{held} of {held + missed} targets hold")
    return 1 if missed else 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _takes_long(name: str) -> bool:
    return getattr(import_module(f"benchmarks.{name}"), "TAKES_LONG", False)


def _machine() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{python}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}"


def _title(name: str) -> str:
    return (import_module(f"benchmarks.{name}").__doc__ or "").partition("\n")[0]


def _line(row: Row) -> str:
    verdict = {True: "holds", False: "MISSED", None: ""}[row.holds]
    line = f"  {row.what:<52} {row.figure:>12}  {row.target:<10} {verdict:<6}  {row.note}"
    return line.rstrip()


if __name__ == "__main__":
    sys.exit(main())
