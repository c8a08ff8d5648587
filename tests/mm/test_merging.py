"""The pictures of the documentation's page on merging, drawn from what the kernel answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from _golden import check_golden
from mm._arena import load
from mm._merging import pictures

GOLDEN = Path(__file__).parent / "golden"
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "merging.md"
CASES = [case for name in ("curated.json", "curated2.json") for case in load(name)]
SHOWN = {
    "neighbours": ("merge8",),
    "attributes": ("merge-rule",),
    "written": ("anon_vma",),
    "written-protected": ("anon_vma-mprotect",),
    "written-moved": ("anon_vma-mremap",),
    "charged": ("account",),
    "cut": ("munmap", "mprotect"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_is_drawn_from_the_data(name: str) -> None:
    """The documentation would show a rule that the kernel has not, or has no longer."""
    check_golden(GOLDEN / f"merging-{name}.txt", pictures(CASES, *SHOWN[name]))


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_is_in_the_documentation(name: str) -> None:
    """A rule would be drawn and shown to nobody."""
    assert f"golden/merging-{name}.txt" in PAGE.read_text(encoding="utf-8")


def test_every_case_of_a_group_has_its_picture() -> None:
    """A case would fall out of the page unseen."""
    groups = {group for shown in SHOWN.values() for group in shown}
    drawn = "".join(pictures(CASES, *shown) for shown in SHOWN.values()).splitlines()
    names = [case["name"] for case in CASES if case["group"] in groups and case["before"]]
    assert len(names) > 50
    assert [name for name in names if name not in drawn] == []
    assert max(map(len, drawn)) <= 100
