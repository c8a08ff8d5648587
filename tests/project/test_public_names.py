"""What users import: complete, documented, typed, and named by where they import it from."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from enum import Enum
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import aspf
import aspf.lab

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("aspf", "aspf.ranges", "aspf.mm", "aspf.mm.trace", "aspf.race", "aspf.lab")
PUBLIC = [
    pytest.param(package, name, id=f"{package}.{name}")
    for package in PACKAGES
    for name in getattr(importlib.import_module(package), "__all__", ())
]
MODULES = [module.name for module in pkgutil.walk_packages(aspf.__path__, "aspf.")]


def ours(thing: Any) -> bool:
    """Tell classes and functions of aspf from constants and from others' names."""
    return isinstance(thing, type | FunctionType) and thing.__module__.startswith("aspf")


def functions_of(thing: Any) -> Iterator[tuple[str, FunctionType]]:
    """Yield the public functions that users of *thing* can call, with their names."""
    if isinstance(thing, FunctionType):
        yield thing.__name__, thing
    elif isinstance(thing, type):
        for name, member in vars(thing).items():
            function = getattr(member, "fget", None) or inspect.unwrap(
                getattr(member, "__func__", member)
            )
            if not name.startswith("_") and isinstance(function, FunctionType):
                yield f"{thing.__name__}.{name}", function


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_what_the_package_exports(package: str) -> None:
    """A name would be importable and unlisted, or listed and missing."""
    module = importlib.import_module(package)
    exported = {
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and not isinstance(thing, ModuleType)
        and getattr(thing, "__module__", None) != "__future__"
        and name != "annotations"
    }

    assert isinstance(module.__all__, tuple)
    assert set(module.__all__) == exported
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_names_say_where_to_import_them_from(package: str, name: str) -> None:
    """Tracebacks, pickles and the reference would show a private file."""
    thing = getattr(importlib.import_module(package), name)
    if ours(thing):
        assert thing.__module__ in PACKAGES
        assert getattr(importlib.import_module(thing.__module__), thing.__name__) is thing


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_public_callables_are_documented(package: str, name: str) -> None:
    """The reference would have a name without a sentence."""
    thing = getattr(importlib.import_module(package), name)
    if ours(thing):
        assert thing.__doc__
        assert not thing.__doc__.startswith(f"{name}(")  # what a dataclass writes by itself
    assert [name for name, function in functions_of(thing) if not function.__doc__] == []


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_public_callables_are_annotated(package: str, name: str) -> None:
    """Users' type checkers would see Any."""
    thing = getattr(importlib.import_module(package), name)
    for function_name, function in functions_of(thing):
        signature = inspect.signature(function)
        bare = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in {"self", "cls"}
        ]

        assert bare == [], function_name
        assert signature.return_annotation is not signature.empty, function_name


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_public_classes_are_final_or_meant_to_be_extended(package: str, name: str) -> None:
    """A subclass in somebody's program would make every private detail public."""
    thing = getattr(importlib.import_module(package), name)
    # A protocol of the lab is there to be varied: half a repair derives from the whole.
    varied = BaseException | Enum | aspf.lab.Protocol
    if ours(thing) and isinstance(thing, type) and not issubclass(thing, varied):
        extended = any(ours(heir) for heir in thing.__subclasses__())
        abstract = getattr(thing, "_is_protocol", False)

        assert getattr(thing, "__final__", False) or extended or abstract


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    """A docstring would show what the code does not do."""
    if module.endswith("__main__"):
        pytest.skip("importing it runs the command")
    assert doctest.testmod(importlib.import_module(module)).failed == 0
