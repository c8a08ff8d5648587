"""The rooms and the arrows between them, read from the source of the imported package."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aspf

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(aspf.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# What each room may import. Arrows run downward only: cli -> lab -> race, cli -> mm -> ranges.
# "base" is the private files beside `aspf/__init__.py`; "aspf" is that file itself.
ROOMS = {
    "base": set(),
    "ranges": {"base"},
    "race": {"base"},
    "mm": {"base", "ranges"},
    "lab": {"base", "race"},
    "aspf": {"base", "ranges", "mm", "race", "lab"},
    "cli": {"base", "ranges", "mm", "race", "lab", "aspf"},
}

# What decides is sync and pure: these import no event loop and contain no async function.
PURE = {
    "aspf._errors",
    "aspf.ranges._edit",
    "aspf.ranges._index",
    "aspf.mm._map_diff",
    "aspf.mm._map_picture",
    "aspf.mm._pieces",
    "aspf.mm._plan",
    "aspf.mm._plan_brk",
    "aspf.mm._plan_flags",
    "aspf.mm._plan_mremap",
    "aspf.mm._proc_maps",
    "aspf.mm._vma",
    "aspf.mm.trace._perf",
    "aspf.mm.trace._recording",
    "aspf.mm.trace._strace",
}
PYTEST_PLUGIN = "aspf.race.pytest_plugin"
EVENT_LOOPS = {"anyio", "asyncio", "trio", "sniffio"}


def room_of(module: str) -> str:
    """Name the room of a module of aspf."""
    _, _, inner = module.partition(".")
    room = inner.partition(".")[0]
    return "aspf" if not room else "base" if room.startswith("_") else room


def imported(node: ast.AST, module: str) -> Iterator[str]:
    """Yield the full names that one import statement of *module* makes available."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            is_package = MODULES[module].name == "__init__.py"
            above = module.split(".")[: None if is_package and node.level == 1 else -node.level]
            base = ".".join([*above, *filter(None, [node.module])])
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            yield submodule if submodule in MODULES else base


def imports_of(module: str, *, at_import_time: bool = False) -> set[str]:
    """Collect what *module* imports: anywhere in it, or only what importing it imports too."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        found.update(imported(node, module))
        for_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        if not (at_import_time and for_later):
            todo.extend(ast.iter_child_nodes(node))
    return found


def test_every_room_is_in_the_table() -> None:
    """A new room without a row in the table would be bound by no rule."""
    assert {room_of(module) for module in MODULES} <= ROOMS.keys()


@pytest.mark.parametrize("module", MODULES)
def test_arrows_run_downward_only(module: str) -> None:
    """An upward or a sideways import would tie the explorer to the range map, or close a cycle."""
    room = room_of(module)
    used = {room_of(name) for name in imports_of(module) if name.partition(".")[0] == "aspf"}

    assert used <= ROOMS[room] | {room}


def test_the_table_itself_has_no_cycle() -> None:
    """A row edited in haste could permit two rooms to import each other."""
    assert list(TopologicalSorter(ROOMS).static_order())


def test_no_two_modules_import_each_other() -> None:
    """A cycle of imports works or fails by who is imported first."""
    graph = {
        module: {name for name in imports_of(module, at_import_time=True) if name in MODULES}
        for module in MODULES
    }

    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", sorted(PURE))
def test_what_decides_knows_no_event_loop(module: str) -> None:
    """Index, edits and plans could no longer be tested and read without an event loop."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))

    assert not {name.partition(".")[0] for name in imports_of(module)} & EVENT_LOOPS
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]


@pytest.mark.parametrize("module", MODULES)
def test_each_room_runs_where_it_says(module: str) -> None:
    """Ranges and mm would stop to run on asyncio, or race and lab pretend that they do."""
    foreign = {"ranges": {"trio"}, "mm": {"trio"}, "race": {"asyncio"}, "lab": {"asyncio", "anyio"}}
    used = {name.partition(".")[0] for name in imports_of(module)}

    assert not used & foreign.get(room_of(module), set())


def test_only_the_command_needs_the_extras() -> None:
    """`pip install aspf` without extras would fail at import."""
    extras = {"click", "rich", "matplotlib", "pytest", "hypothesis"}
    users = {
        module
        for module in MODULES
        if {name.partition(".")[0] for name in imports_of(module, at_import_time=True)} & extras
    }

    assert {room_of(module) for module in users - {PYTEST_PLUGIN}} <= {"cli"}


def test_only_pytest_imports_its_plugin() -> None:
    """`import aspf.race` would fail where there is no pytest."""
    assert [module for module in MODULES if PYTEST_PLUGIN in imports_of(module)] == []


def test_importing_aspf_is_cheap() -> None:
    """Every program that imports aspf would pay for test tools and the command's packages."""
    unwanted = ["trio.testing", "pytest", "_pytest", "hypothesis", "rich", "click", "matplotlib"]
    program = f"import sys, aspf; print([m for m in {unwanted} if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=PACKAGE.parent,
        text=True,
    )

    assert ran.stdout.strip() == "[]"


def test_the_entry_point_of_pytest_imports_nothing_of_ours() -> None:
    """Every run of pytest would pay for trio, and coverage would miss what it imports."""
    program = "import sys, _aspf_pytest; print({m.partition('.')[0] for m in sys.modules} & {'aspf', 'trio', 'anyio'})"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=PACKAGE.parent,
        text=True,
    )

    assert ran.stdout.strip() == "set()"
