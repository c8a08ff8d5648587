"""Bugs of released packages: found as examples/released/ says, in the version that it names.

The packages are no dependencies; ``nox -s released`` installs each version and runs this.
"""

from __future__ import annotations

import ast
import os
import runpy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from _golden import check_golden

EXAMPLES = sorted(Path(__file__).parents[2].joinpath("examples", "released").glob("*.py"))
GOLDEN = Path(__file__).parent / "golden"
# What nox has installed the packages for.
WANTED = os.environ.get("ASPF_RELEASED", "").split()


# httpcore leaves async generators to the garbage collector, whoever cancels it.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_the_bug_is_found(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The docs would show a failure that nobody can repeat."""
    docstring = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8")))
    assert docstring is not None
    package, release = docstring.partition(":")[0].split()
    try:
        installed = version(package)
    except PackageNotFoundError:
        installed = "not installed"
    if installed != release:
        assert example.stem not in WANTED
        pytest.skip(f"{package} {release} is not here ({installed}); nox -s released installs it")

    runpy.run_path(str(example), run_name="__main__")

    check_golden(GOLDEN / f"{example.stem}.txt", capsys.readouterr().out)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_every_program_fails(example: Path) -> None:
    """An approved output could be one that shows no bug."""
    text = (GOLDEN / f"{example.stem}.txt").read_text(encoding="utf-8")
    programs = example.read_text(encoding="utf-8").count("    print(explore(")

    assert text.count(" schedules failed (") == programs >= 1
    assert "no failure in " not in text
