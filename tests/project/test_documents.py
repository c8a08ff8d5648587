"""README, changelog, documentation and version agree with each other and with the code."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from _golden import check_golden

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GOLDEN = Path(__file__).parent / "golden"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)


def readme() -> str:
    """Read README.md, or say that there is none."""
    path = ROOT / "README.md"
    assert path.is_file(), "the project has no README.md"
    return path.read_text(encoding="utf-8")


def test_the_example_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing that a stranger copies would not run."""
    block = re.search(r"^```python\n(.*?)^```$", readme(), re.DOTALL | re.MULTILINE)
    assert block, "README.md shows no ```python block"

    exec(compile(block[1], "README.md", "exec"), {"__name__": "__main__"})

    check_golden(GOLDEN / "readme.txt", capsys.readouterr().out)


def test_the_readme_is_short() -> None:
    """Nobody would read to the limits at its end."""
    assert len(readme().splitlines()) < 120


def test_the_readme_names_the_commands_of_the_noxfile() -> None:
    """The two commands would have been renamed in one place only."""
    sessions = re.findall(r"python3 -m nox -s (\w+)", readme())
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")

    assert {"demo", "tests"} <= set(sessions)
    assert all(f"\ndef {session}(session: nox.Session)" in noxfile for session in sessions)


def test_the_version_is_one() -> None:
    """A bug report would name a version that was never released."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)

    assert newest
    assert newest[1] == VERSION


def test_the_installed_version_is_this_one() -> None:
    """The tests would run on another release than the one at hand."""
    try:
        installed = importlib.metadata.version("aspf")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("aspf runs from the checkout and is not installed")
    assert installed == VERSION


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_no_page_is_an_orphan(page: Path) -> None:
    """A page would exist that no reader comes to."""
    listed = {
        (parent.parent / entry.rpartition("<")[2].rstrip(">")).with_suffix(".md").resolve()
        for parent in PAGES
        for toctree in re.findall(r"```\{toctree\}\n(.*?)```", parent.read_text("utf-8"), re.DOTALL)
        for entry in toctree.split("\n")
        if entry and not entry.startswith(":")
    }

    assert page == DOCS / "index.md" or page.resolve() in listed


@pytest.mark.parametrize(
    "package", ["aspf", "aspf.ranges", "aspf.mm", "aspf.mm.trace", "aspf.race", "aspf.lab"]
)
def test_the_reference_is_complete(package: str) -> None:
    """A public name would be found only by those who read the source."""
    reference = "".join(page.read_text("utf-8") for page in DOCS.glob("reference/*.md"))
    described = re.findall(r"^\.\. auto\w+:: (\w+)$|`(\w+)`", reference, re.MULTILINE)
    names = importlib.import_module(package).__all__

    assert [name for name in names if not any(name in found for found in described)] == []


def test_no_example_is_hidden() -> None:
    """An example would run in the tests and be shown to nobody."""
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)

    assert [path.name for path in ROOT.glob("examples/**/*.py") if path.name not in shown] == []
