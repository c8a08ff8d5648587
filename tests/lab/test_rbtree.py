"""The tree of 2.6.33 between any two of its stores, looked at by a walk that takes no lock."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from lab._stores import StoreCell, run, stores

from aspf.lab.mm import RbTree, Vma
from aspf.lab.mm._vma import BLACK, RED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Trees:
    """All trees that inserting *size* VMAs in any order makes, and every state on the way."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tree = RbTree(cell=StoreCell)
        self.vmas = [
            Vma(2 * key, 2 * key + 1, name=str(key), cell=StoreCell) for key in range(size)
        ]

    def states(self) -> Iterator[tuple[str, StoreCell, set[int]]]:
        """Yield the operation, the cell just stored to, and the keys that must not vanish."""
        for order in itertools.permutations(range(self.size)):
            self.tree.root.poke(None)
            for done, key in enumerate(order):
                for cell in stores(self.tree.insert(self.vmas[key])):
                    yield "insert", cell, set(order[:done])
                check_balance(self.tree, self.vmas, order[: done + 1])
            yield from self._erasures()

    def _erasures(self) -> Iterator[tuple[str, StoreCell, set[int]]]:
        links = [(vma.rb_left, vma.rb_right, vma.rb_parent_color) for vma in self.vmas]
        cells = [self.tree.root, *itertools.chain(*links)]
        full = [cell.peek() for cell in cells]
        for key in range(self.size):
            kept = set(range(self.size)) - {key}
            for cell in stores(self.tree.erase(self.vmas[key])):
                yield "erase", cell, kept
            check_balance(self.tree, self.vmas, kept)
            for cell, value in zip(cells, full, strict=True):
                cell.poke(value)

    def lookup(self, address: int, start: Vma | None = None) -> Vma | None:
        """Find as the mail does: walk, then look at the range. A walk in a circle fails."""
        tree = self.tree
        if start is not None:
            tree = RbTree(cell=StoreCell)
            tree.root.poke(start)
        # A walk reads at most an end, a start and a link of every node.
        StoreCell.reads_left = 3 * self.size + 1
        vma = run(tree.find_vma(address))
        if vma is not None and vma.vm_start.peek() <= address < vma.vm_end.peek():
            return vma
        return None


def check_balance(tree: RbTree, vmas: list[Vma], keys: Collection[int]) -> None:
    """Check order, parents and colours of a tree that no writer is working on."""
    assert list(tree.vmas()) == [vmas[key] for key in sorted(keys)]
    black_heights(tree.root.peek(), None)


def black_heights(node: Vma | None, parent: Vma | None) -> int:
    """Return how many black nodes are on every way down from *node*."""
    if node is None:
        return 1
    word = node.rb_parent_color.peek()
    assert word.parent is parent
    if word.color == RED:
        assert parent is not None
        assert parent.rb_parent_color.peek().color == BLACK
    left, right = (
        black_heights(child, node) for child in (node.rb_left.peek(), node.rb_right.peek())
    )
    assert left == right
    return left + (word.color == BLACK)


def test_lookup_may_miss_but_never_crashes_loops_or_lies() -> None:
    """A walk between two stores that circles, crashes or answers with the wrong VMA is found.

    After every single store (to a link, to the root, to a word of parent and colour) of every
    insertion, in every order of up to six VMAs, and of every erasure from every tree so built,
    the address of each VMA is looked up, and of the hole behind it. A miss is counted when
    the operation under way concerns another VMA. (The project's earlier enumeration of the same
    tree counted 59,393 states and 56,818 misses over a choice of operations that it did not
    record; this one covers its own choice, named here, and finds no cycle either.)
    """
    counts: Counter[str] = Counter()
    for size in range(1, 7):
        trees = Trees(size)
        for operation, _cell, kept in trees.states():
            counts[f"{operation}: states"] += 1
            for key, vma in enumerate(trees.vmas):
                found = trees.lookup(2 * key)
                assert found in (vma, None)
                # The holes are looked at in the smaller trees, which are enough for them.
                assert size == 6 or trees.lookup(2 * key + 1) is None
                counts[f"{operation}: misses"] += found is None and key in kept
    assert counts == {
        "insert: states": 39_177,
        "insert: misses": 3_324,
        "erase: states": 28_227,
        "erase: misses": 22_404,
    }


def test_a_walk_under_way_ends_wherever_it_stands() -> None:
    """A circle that only a walker who already stands inside the tree could enter is found.

    After every store, walks start from every node, those not linked yet or no more included. No
    memory between two stores holds a circle, so a walk goes on only as long as a writer stores.
    """
    for size in range(1, 6):
        trees = Trees(size)
        for _ in trees.states():
            for start in trees.vmas:
                for key, vma in enumerate(trees.vmas):
                    assert trees.lookup(2 * key, start) in (vma, None)


@pytest.mark.parametrize("size", range(33))
def test_populate_makes_a_red_black_tree(size: int) -> None:
    """A model mm that starts with a tree no writer could have made is found."""
    tree = RbTree()
    vmas = [Vma(key, key + 1, name=str(key)) for key in range(size)]
    tree.populate(vmas)
    check_balance(tree, vmas, range(size))
    assert repr(tree) == f"<RbTree of {size} VMAs>"
