"""What is tested is what users install."""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig
from pathlib import Path

import pytest

import aspf

installed = pytest.mark.skipif(
    "ASPF_TEST_INSTALLED" not in os.environ, reason="only nox builds and installs a wheel"
)


@installed
def test_the_imported_aspf_is_the_wheel() -> None:
    """The tests would pass on the checkout while the wheel lacks a file."""
    assert Path(aspf.__file__).is_relative_to(sysconfig.get_path("purelib"))


@installed
def test_the_wheel_ships_types_and_licences() -> None:
    """Type checkers would ignore every annotation; users would have no licence."""
    names = {Path(str(path)).name for path in importlib.metadata.files("aspf") or ()}

    assert {"py.typed", "LICENSE-MIT", "LICENSE-APACHE"} <= names


@installed
def test_the_wheel_ships_nothing_but_the_package() -> None:
    """Tests or benchmarks would land in the site-packages of users as top-level packages."""
    tops = {Path(str(path)).parts[0] for path in importlib.metadata.files("aspf") or ()}

    assert {top for top in tops if not top.endswith(".dist-info") and top != ".."} == {"aspf"}
