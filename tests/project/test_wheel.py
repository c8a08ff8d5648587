"""What is tested is what users install."""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook

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
def test_the_wheel_ships_the_package_and_the_plugin() -> None:
    """Tests or benchmarks would land in the site-packages of users as top-level packages."""
    tops = {Path(str(path)).parts[0] for path in importlib.metadata.files("aspf") or ()}

    made_by_pip = {top for top in tops if top.endswith(".dist-info")} | {"..", "__pycache__"}
    assert tops - made_by_pip == {"aspf", "_aspf_pytest.py"}


@installed
def test_pytest_leaves_the_package_alone() -> None:
    """As an entry point the plugin makes pytest rewrite the assertions of everything we ship.

    ``runpy`` can't use that loader, and the explorer is slower.
    """
    assert not isinstance(aspf.__loader__, AssertionRewritingHook)
