"""The mm's red-black tree, and the walk that takes no lock.

The mail walks the tree while a writer may be rotating it, and claims: "we just miss vma without
oops". The claim rests on the order of the writer's stores. Between any two of them the links
``rb_left`` and ``rb_right`` lead from the root to a part of the nodes and never in a circle, so
a walk ends; it may miss what is out of reach just then, which is why a miss never means that
there is no mapping. Every store is therefore an access of its own, in the order of lib/rbtree.c
of Linux 2.6.31 to 2.6.33; tests/lab/test_rbtree.py looks at the tree after every one.

Only the holder of ``mmap_sem`` for writing may call `RbTree.insert` and `RbTree.erase`. The
algorithm is the textbook's (Cormen et al., Introduction to Algorithms, chapter 13), except that
the erased node's place is given to its successor before anything else is moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from aspf.lab.mm._vma import BLACK, RED, ParentColor
from aspf.race import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aspf.lab.mm._vma import Vma

__all__ = ("RbTree",)

_LEFT: Final = 0
_RIGHT: Final = 1


@final
class RbTree:
    """VMAs, ordered by address; they do not overlap.

    Args:
        cell: What makes the root's cell.
    """

    __slots__ = ("root",)

    def __init__(self, *, cell: Callable[..., Any] = Cell) -> None:
        self.root: Final[Cell[Vma | None]] = cell(None, "mm_rb")

    async def find_vma(self, address: int) -> Vma | None:
        """Walk to the VMA with the lowest end above *address*, which need not contain it.

        O(log n) accesses. Without ``mmap_sem`` the answer may be wrong in two ways: a VMA that
        is there is missed, or what is found has changed since; the caller looks at the range
        again. It never touches a node that no link led to.

        Source: the walk in ``find_vma_speculative`` of the mail.
        """
        vma = None
        node = await self.root.get()
        while node is not None:
            if await node.vm_end.get() > address:
                vma = node
                if await node.vm_start.get() <= address:
                    break
                node = await node.rb_left.get()
            else:
                node = await node.rb_right.get()
        return vma

    async def insert(self, vma: Vma) -> None:
        """Link *vma*, which overlaps none that is linked, and restore the balance. O(log n)."""
        parent, link = None, self.root
        while (node := await link.get()) is not None:
            parent = node
            above = await node.vm_end.get() > await vma.vm_start.get()
            link = node.rb_left if above else node.rb_right
        await vma.rb_parent_color.set(ParentColor(parent, RED))
        await vma.rb_right.set(None)
        await vma.rb_left.set(None)
        await link.set(vma)
        await self._insert_color(vma)

    async def erase(self, vma: Vma) -> None:
        """Unlink *vma*, which is linked, and restore the balance. O(log n).

        The links inside *vma* stay as they are: whoever stands on it can walk on.
        """
        if await vma.rb_left.get() is None:
            child, parent, color = await self._splice_out(vma, vma.rb_right)
        elif await vma.rb_right.get() is None:
            child, parent, color = await self._splice_out(vma, vma.rb_left)
        else:
            child, parent, color = await self._replace_by_successor(vma)
        if color == BLACK:
            await self._erase_color(child, parent)

    async def _splice_out(
        self, node: Vma, link: Cell[Vma | None]
    ) -> tuple[Vma | None, Vma | None, str]:
        """Give the place of *node*, which has at most the child behind *link*, to that child."""
        child = await link.get()
        parent, color = await node.rb_parent_color.get()
        if child is not None:
            await _set_parent(child, parent)
        await self._replace_child(parent, node, child)
        return child, parent, color

    async def _replace_by_successor(self, old: Vma) -> tuple[Vma | None, Vma | None, str]:
        """Give the place of *old*, which has two children, to the node that follows it."""
        node = await _first(await old.rb_right.get())
        old_parent = (await old.rb_parent_color.get()).parent
        await self._replace_child(old_parent, old, node)
        child = await node.rb_right.get()
        parent, color = await node.rb_parent_color.get()
        if parent is old:
            parent = node
        else:
            assert parent is not None
            if child is not None:
                await _set_parent(child, parent)
            await parent.rb_left.set(child)
            right = await old.rb_right.get()
            await node.rb_right.set(right)
            await _set_parent(right, node)
        await node.rb_parent_color.set(await old.rb_parent_color.get())
        left = await old.rb_left.get()
        await node.rb_left.set(left)
        await _set_parent(left, node)
        return child, parent, color

    async def _replace_child(self, parent: Vma | None, old: Vma, new: Vma | None) -> None:
        if parent is None:
            await self.root.set(new)
        elif await parent.rb_left.get() is old:
            await parent.rb_left.set(new)
        else:
            await parent.rb_right.set(new)

    async def _rotate(self, node: Vma, side: int) -> None:
        """Move *node* down to *side*; its child on the other side takes its place."""
        link = _links(node, side)[1]
        child = await link.get()
        assert child is not None
        parent = (await node.rb_parent_color.get()).parent
        grandchild_link = _links(child, side)[0]
        grandchild = await grandchild_link.get()
        await link.set(grandchild)
        if grandchild is not None:
            await _set_parent(grandchild, node)
        await grandchild_link.set(node)
        await _set_parent(child, parent)
        await self._replace_child(parent, node, child)
        await _set_parent(node, child)

    async def _insert_color(self, node: Vma) -> None:
        """Restore "no red node has a red parent" from the new red *node* upwards."""
        while (parent := (await node.rb_parent_color.get()).parent) is not None:
            if not await _is_red(parent):
                break
            grandparent = (await parent.rb_parent_color.get()).parent
            assert grandparent is not None
            side = _LEFT if await grandparent.rb_left.get() is parent else _RIGHT
            uncle = await _links(grandparent, side)[1].get()
            if uncle is not None and await _is_red(uncle):
                await _set_color(uncle, BLACK)
                await _set_color(parent, BLACK)
                await _set_color(grandparent, RED)
                node = grandparent
                continue
            if await _links(parent, side)[1].get() is node:
                await self._rotate(parent, side)
                node, parent = parent, node
            await _set_color(parent, BLACK)
            await _set_color(grandparent, RED)
            await self._rotate(grandparent, 1 - side)
        root = await self.root.get()
        assert root is not None
        await _set_color(root, BLACK)

    async def _erase_color(self, node: Vma | None, parent: Vma | None) -> None:
        """Restore equal black heights; the paths through *node* lack one black node."""
        while parent is not None and not (node is not None and await _is_red(node)):
            side = _LEFT if await parent.rb_left.get() is node else _RIGHT
            sibling = await self._black_sibling(parent, side)
            near, far = _links(sibling, side)
            if not await _is_red(await near.get()) and not await _is_red(await far.get()):
                await _set_color(sibling, RED)
                node, parent = parent, (await parent.rb_parent_color.get()).parent
                continue
            await self._lend_black(parent, sibling, side)
            node = await self.root.get()
            break
        if node is not None:
            await _set_color(node, BLACK)

    async def _black_sibling(self, parent: Vma, side: int) -> Vma:
        """Return the black node opposite *side*, after a rotation if it is red as yet."""
        link = _links(parent, side)[1]
        sibling = await link.get()
        assert sibling is not None
        if await _is_red(sibling):
            await _set_color(sibling, BLACK)
            await _set_color(parent, RED)
            await self._rotate(parent, side)
            sibling = await link.get()
            assert sibling is not None
        return sibling

    async def _lend_black(self, parent: Vma, sibling: Vma, side: int) -> None:
        """Move a black node to *side* from *sibling*, which has a red child."""
        near, far = _links(sibling, side)
        if not await _is_red(await far.get()):
            nephew = await near.get()
            assert nephew is not None
            await _set_color(nephew, BLACK)
            await _set_color(sibling, RED)
            await self._rotate(sibling, 1 - side)
            sibling = nephew
        await _set_color(sibling, (await parent.rb_parent_color.get()).color)
        await _set_color(parent, BLACK)
        outer = await _links(sibling, side)[1].get()
        assert outer is not None
        await _set_color(outer, BLACK)
        await self._rotate(parent, side)

    def populate(self, vmas: Sequence[Vma]) -> None:
        """Link *vmas*, sorted by address, into the empty tree, before any task shares it.

        O(n), and no access: the tree is perfectly balanced, black but for its deepest row.
        """
        self.root.poke(_subtree(vmas, None, len(vmas).bit_length() - 1))

    def vmas(self) -> Iterator[Vma]:
        """Iterate over the linked VMAs in order of address (no access: for oracles)."""
        return _in_order(self.root.peek())

    def __repr__(self) -> str:
        return f"<RbTree of {sum(1 for _ in self.vmas())} VMAs>"


def _links(node: Vma, side: int) -> tuple[Cell[Vma | None], Cell[Vma | None]]:
    """Return the link of *node* on *side*, and the one opposite."""
    return (node.rb_left, node.rb_right) if side == _LEFT else (node.rb_right, node.rb_left)


async def _first(node: Vma | None) -> Vma:
    assert node is not None
    while (left := await node.rb_left.get()) is not None:
        node = left
    return node


async def _is_red(node: Vma | None) -> bool:
    """Say whether *node* is red; a missing one is black, and takes no access."""
    return node is not None and (await node.rb_parent_color.get()).color == RED


async def _set_parent(node: Vma | None, parent: Vma | None) -> None:
    assert node is not None
    await node.rb_parent_color.update(lambda word: ParentColor(parent, word.color))


async def _set_color(node: Vma, color: str) -> None:
    await node.rb_parent_color.update(lambda word: ParentColor(word.parent, color))


def _subtree(vmas: Sequence[Vma], parent: Vma | None, rows: int) -> Vma | None:
    """Link *vmas* below *parent*; the row after *rows* more is the tree's deepest."""
    if not vmas:
        return None
    middle = len(vmas) // 2
    node = vmas[middle]
    color = RED if rows == 0 and parent is not None else BLACK
    node.rb_parent_color.poke(ParentColor(parent, color))
    node.rb_left.poke(_subtree(vmas[:middle], node, rows - 1))
    node.rb_right.poke(_subtree(vmas[middle + 1 :], node, rows - 1))
    return node


def _in_order(node: Vma | None) -> Iterator[Vma]:
    if node is not None:
        yield from _in_order(node.rb_left.peek())
        yield node
        yield from _in_order(node.rb_right.peek())
