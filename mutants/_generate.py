"""Make the mutants of a module: Cosmic Ray's operators, and one that drops a statement."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, final

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator, operator_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# They would need the names of variables to put in.
_WITH_ARGUMENTS = ("core/VariableInserter", "core/VariableReplacer")


@final
@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    #: What it is called in `explained.toml`: where, the line before and after. No line number.
    name: str
    operator: str
    line: int
    diff: str
    source: str


@final
@dataclass(frozen=True)
class Mutants:
    """The mutants of a module, and how many were not worth a run."""

    mutants: tuple[Mutant, ...]
    #: They are no Python, as ``def f(self, /)`` with another operator for the slash.
    invalid: int
    #: They change a type hint and nothing else: an annotation, which ``from __future__`` leaves
    #: unevaluated, or ``@final``, which at run time only sets an attribute that nobody reads.
    hints: int
    #: Another mutant is the same program.
    repeated: int


class DropStatement(Operator):  # type: ignore[misc]
    """Put ``pass`` in the place of a statement of a function, if it is no docstring."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "simple_stmt" and parso.python.tree.search_ancestor(node, "funcdef"):
            statement = node.children[0]
            if statement.type not in {"string", "strings", "import_from", "import_name"}:
                yield statement.start_pos, statement.end_pos

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002 - one way for each node
        first = node.get_first_leaf()
        dropped = parso.python.tree.Keyword("pass", first.start_pos, prefix=first.prefix)
        node.children = [dropped, *node.children[-1:]]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("def f():\n    g()\n", "def f():\n    pass\n"),)


@final
@dataclass(frozen=True)
class Piece:
    """Some whole lines of a module that can be parsed alone: a method, say, and a class around."""

    where: str
    #: How many lines of the module come before.
    before: int
    head: str
    text: str
    tail: str


def mutants_of(label: str, source: str) -> Mutants:
    """Make every mutant of a module; *label* begins their names."""
    operators: dict[str, Operator] = {"DropStatement": DropStatement()}
    for name in operator_names():
        if name not in _WITH_ARGUMENTS:
            operators[name.removeprefix("core/")] = get_operator(name)()
    made: list[Mutant] = []
    names: Counter[str] = Counter()
    invalid = hints = repeated = 0
    for piece in _pieces(source):
        # What has been made of this piece already: the original, and each mutant.
        known = dict([_parsed(piece.head + piece.text + piece.tail)])
        for operator, mutated in _mutated(piece, operators):
            try:
                program, everything = _parsed(piece.head + mutated + piece.tail)
            except SyntaxError:
                invalid += 1
                continue
            if program in known:
                if known[program] != everything:
                    hints += 1
                else:
                    repeated += 1
                continue
            known[program] = everything
            line, before, after = _change(piece.text, mutated)
            name = f"{label} {piece.where}: {_one_line(before)} => {_one_line(after)}"
            names[name] += 1
            if names[name] > 1:
                name += f" ({names[name]})"
            diff = "\n".join([*(f"-{text}" for text in before), *(f"+{text}" for text in after)])
            lines = source.splitlines(keepends=True)
            lines[piece.before : piece.before + len(piece.text.splitlines())] = [mutated]
            line += piece.before
            made.append(Mutant(name, operator, line, diff, "".join(lines)))
    return Mutants(tuple(made), invalid, hints, repeated)


def _pieces(source: str) -> Iterator[Piece]:
    """Cut a module into pieces: to parse all of it for each mutant would take minutes."""
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        first, last = _lines_of(node)
        if not isinstance(node, ast.ClassDef):
            where = getattr(node, "name", "<module>")
            yield Piece(where, first - 1, "", "".join(lines[first - 1 : last]), "")
            continue
        # Its head, and what is in it one by one.
        start = _lines_of(node.body[0])[0]
        head = "".join(lines[first - 1 : start - 1])
        yield Piece(node.name, first - 1, "", head, "    pass\n")
        for inner in node.body:
            first, last = _lines_of(inner)
            where = ".".join([node.name, *([name] if (name := getattr(inner, "name", "")) else [])])
            text = "".join(lines[first - 1 : last])
            yield Piece(where, first - 1, f"class {node.name}:\n", text, "")


def _lines_of(node: ast.stmt) -> tuple[int, int]:
    """Return the first and the last line of a statement, decorators included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return first, node.end_lineno or first


def _mutated(piece: Piece, operators: dict[str, Operator]) -> Iterator[tuple[str, str]]:
    whole = piece.head + piece.text + piece.tail
    nodes = list(ast_nodes(get_ast(whole)))
    for name, operator in operators.items():
        for number in range(sum(len(list(operator.mutation_positions(node))) for node in nodes)):
            mutated = mutate_code(whole, operator, number)
            assert mutated is not None
            yield name, mutated[len(piece.head) : len(mutated) - len(piece.tail)]


def _parsed(source: str) -> tuple[str, str]:
    """Return what a module does, without its type hints and with them."""
    tree = ast.parse(source)
    everything = ast.dump(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.ClassDef):
            decorators = node.decorator_list
            node.decorator_list = [d for d in decorators if ast.unparse(d) != "final"]
    return ast.dump(tree), everything


def _change(source: str, mutated: str) -> tuple[int, list[str], list[str]]:
    """Return the first line that differs, and the lines that stood and stand there."""
    before, after = source.splitlines(), mutated.splitlines()
    line = sum(1 for _ in takewhile(_same, zip(before, after, strict=False)))
    rest = zip(reversed(before[line:]), reversed(after[line:]), strict=False)
    same = sum(1 for _ in takewhile(_same, rest))
    return line + 1, before[line : len(before) - same], after[line : len(after) - same]


def _same(lines: tuple[str, str]) -> bool:
    return lines[0] == lines[1]


def _one_line(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines)
