"""How the documentation is built; it needs no network, so it links to no other project's."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils.nodes import Element, reference
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "aspf"
author = "The aspf contributors"
copyright = f"2026, {author}"
release = version = importlib.metadata.version("aspf")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # for its role `autolink`
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"aspf {release}"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# A single-backtick name in a docstring links to what it names, where the reference has it.
default_role = "autolink"
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 80
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
add_module_names = False  # what `aspf` re-exports is described once
toc_object_entries_show_parents = "hide"

# Examples in docstrings run in the tests, in the module that they describe.
doctest_test_doctest_blocks = ""

nitpicky = True
# What a signature may name without being a page of the reference.
OTHERS = "anyio|asyncio|click|collections|contextlib|enum|os|pathlib|rich|trio|types|typing"
BUILTINS = (
    "bool|bytes|bytearray|dict|float|frozenset|int|list|memoryview|object|set|slice|str|tuple"
)
TYPING = (
    "AbstractAsyncContextManager|AbstractContextManager|Any|Awaitable|Callable|Collection|Hashable|Iterable"
    "|Iterator|Mapping|Path|Self|Sequence"
)
nitpick_ignore_regex = [
    # Other projects' names: linking to them would need their inventories, and so the network.
    ("py:.*", rf"({OTHERS})\..*"),
    ("py:.*", rf"{BUILTINS}|{TYPING}|type|None|True|False"),
    ("py:.*", r"[A-Z]\w*(Error|Warning|Exception|Interrupt)"),
    # Backticks in a docstring may also hold a parameter or an attribute; `setup` links the rest.
    ("py:obj", r"[\w.]+"),
    # How Sphinx splits `Callable[..., object]` where it can't evaluate it.
    ("py:class", r"Callable\[\.\.\."),
    # Context managers that callers enter and never name.
    ("py:class", r"aspf\..*\._[A-Z]\w*"),
    # Aliases, which the reference spells out.
    ("py:.*", r"Key|Locking|Unmap|Event|Cancel|Timers|Verdict|Period"),
    # Type variables.
    ("py:.*", r"(aspf\..*\.)?([A-Z]|[A-Z]\w*T)"),
]


PACKAGES = ("aspf", "aspf.ranges", "aspf.mm", "aspf.mm.trace", "aspf.race", "aspf.lab")


def link_by_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element
) -> reference | None:
    """Find what a docstring or an annotation names without its public package."""
    if node["refdomain"] != "py":
        return None
    documented = env.domains.python_domain.objects
    parts = node["reftarget"].split(".")
    for package in PACKAGES:
        for first in range(len(parts)):
            name = ".".join([package, *parts[first:]])
            if entry := documented.get(name):
                return make_refnode(
                    app.builder, node["refdoc"], entry.docname, entry.node_id, content, name
                )
    return None


def keep_first_sentence(
    _app: Sphinx, what: str, _name: str, _thing: Any, _options: Any, lines: list[str]
) -> None:
    """Stop napoleon from taking what stands before the colon of a sentence for a type."""
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]  # an empty comment


def setup(app: Sphinx) -> None:
    """Connect the two."""
    app.connect("missing-reference", link_by_public_name)
    app.connect("autodoc-process-docstring", keep_first_sentence, priority=400)
