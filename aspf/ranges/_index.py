"""A persistent index of disjoint regions: find one, walk them, make an edited copy.

It is a B-tree of fixed height: a root, branches, leaves. An edit copies one node of each level, a
few hundred references in a map of a million regions where one flat list would move a million, and
shares all others with the index that it was made from. Nothing is ever changed in place, so
whoever took an index keeps it: a reader's iteration is a snapshot for the price of a reference,
and publishing is the assignment of one name.

A node is a pair of lists, ``keys`` and ``slots``, with one slot more than keys, and in every node
``slots[bisect_right(keys, key)]`` is where to go. In the root and the branches slots are nodes and
keys separate them: a separator is above every region before it and not above any after it, and no
region crosses one. In a leaf the keys are the regions' starts, and slot 0 is `BEFORE`, a region
that ends below every key. So a lookup is three bisections without arithmetic or special cases,
and one compare with the end of the only region that can contain the key.

Whoever wants room asks for the gaps of some width. How wide the widest gap of a leaf or a branch is
stands beside the tree, not in it, so that a lookup does not pay for it. It is found out when it is
first asked for, and handed on from index to index: nodes never change, so after an edit only what
was copied has to be looked at again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain, islice, pairwise, takewhile
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    NamedTuple,
    NoReturn,
    TypeAlias,
    TypeVar,
    final,
)

from aspf._errors import StaleEdit

from ._region import Key, Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._edit import Edit

__all__ = ("RegionIndex",)

T = TypeVar("T")
Node: TypeAlias = tuple[list[Key], list[Any]]

NODE_MAX: Final = 48
NODE_MIN: Final = NODE_MAX // 4
LEAF: Final = 0
BRANCH: Final = 1
ROOT: Final = 2


class _BelowAll:
    """A key below every other key."""

    def __gt__(self, other: object) -> bool:
        return False

    def __repr__(self) -> str:
        return "-inf"


@final
class _Extent(NamedTuple):
    """How far the regions of a node reach, and the widest gap between two of them."""

    node: Node
    """Whose extent it is; kept, so that no other node can have its identity."""
    start: Key
    end: Key
    widest: Any
    """None if there is no gap."""
    inner: dict[int, _Extent]
    """Those of a branch's leaves, by identity."""


BEFORE: Final[Region[Any]] = Region(_BelowAll(), _BelowAll(), None)


@final
class RegionIndex(Generic[T]):
    """Hold disjoint regions in ascending order; never changes.

    Attributes:
        version: Grows by one with each `edited`, so that an edit planned on another is refused.

    >>> from aspf.ranges import Region, RegionIndex
    >>> index = RegionIndex([Region(0, 4, "a"), Region(8, 12, "b")])
    >>> index.find(9)
    <Region [8, 12) -> 'b'>
    >>> index.find(5) is None
    True
    >>> index.gaps(0, 20)
    ((4, 8), (12, 20))
    """

    __slots__ = ("_extents", "_root", "_size", "version")

    def __init__(self, regions: Iterable[Region[T]] = ()) -> None:
        """Index the regions.

        Complexity: O(n) where they come in ascending order, else O(n log n).

        Raises:
            ValueError: If two of them overlap.
            TypeError: If their keys can't be ordered.
        """
        regions = list(regions)
        try:
            ordered = sorted(regions, key=lambda region: region.start)
        except TypeError:
            kinds = " and ".join(sorted({type(region.start).__name__ for region in regions}))
            msg = f"the keys of one map are of one ordered type; these are {kinds}"
            raise TypeError(msg) from None
        for left, right in pairwise(ordered):
            if right.start < left.end:
                msg = f"{left!r} and {right!r} overlap; an index holds disjoint regions"
                raise ValueError(msg)
        leaf: Node = ([region.start for region in ordered], [BEFORE, *ordered])
        self._root: Node = _cut(_cut(leaf, LEAF), BRANCH)
        self._size = len(ordered)
        # By identity, those of the branches; perhaps still those of an earlier index.
        self._extents: dict[int, _Extent] = {}
        self.version: int = 0

    def find(self, key: Key) -> Region[T] | None:
        """Return the region that contains *key*.

        Complexity: O(log n).
        """
        _, slots, slot = self._slot(key)
        region: Region[T] = slots[slot]
        return region if key < region.end else None

    def find_next(self, key: Key) -> Region[T] | None:
        """Return the first region that ends above *key*: the one that contains it, or the next.

        This is what Linux calls ``find_vma``.

        Complexity: O(log n).
        """
        return next(self._walk(key), None)

    def overlapping(
        self, start: Key | None = None, end: Key | None = None
    ) -> tuple[Region[T], ...]:
        """Return the regions that share a key with ``[start, end)``, ascending.

        Args:
            start: First key; None for the lowest.
            end: End of the range; None for no end.

        Complexity: O(log n + k) for k regions.
        """
        if start is None or end is None:
            if end is not None:
                self._slot(end)  # refuses a key of another type
            found = self if start is None else self._walk(start)
            return tuple(found if end is None else takewhile(lambda r: r.start < end, found))
        keys, slots, first = self._slot(start)
        if not start < slots[first].end:
            first += 1
        last = first
        # Slot n has key n - 1.
        for key in islice(keys, max(first - 1, 0), None):
            if not key < end:
                return tuple(slots[first:last])
            last += 1
        # The range may go on in the next leaf.
        return tuple(takewhile(lambda region: region.start < end, self._walk(start)))

    def gaps(self, start: Key, end: Key) -> tuple[tuple[Key, Key], ...]:
        """Return the parts of ``[start, end)`` that no region covers, ascending.

        Complexity: O(log n + k) for k regions in the range.
        """
        found = []
        for region in self.overlapping(start, end):
            if start < region.start:
                found.append((start, region.start))
            start = region.end
        if start < end:
            found.append((start, end))
        return tuple(found)

    def wide_gaps(
        self, width: Any, start: Key, end: Key, *, descending: bool = False
    ) -> Iterator[tuple[Key, Key]]:
        """Yield the gaps of ``[start, end)`` that are at least *width* wide.

        Keys must be numbers, or anything else of which ``end - start`` can be compared with *width*.

        Args:
            width: How wide.
            start: Where to begin; a gap that begins earlier is cut there.
            end: Where to end; a gap that ends later is cut there.
            descending: From the highest to the lowest.

        Complexity: O(1) for each gap, and O(n / 1,000) to begin; once for an index that was not made
            by an edit O(n).

        >>> from aspf.ranges import Region, RegionIndex
        >>> index = RegionIndex([Region(0, 4, "a"), Region(6, 8, "b"), Region(12, 13, "c")])
        >>> list(index.wide_gaps(3, 0, 20, descending=True))
        [(13, 20), (8, 12)]
        """
        self._extents = _extents(self._root[1], self._extents)
        branches = list(self._extents.values())
        ends: list[tuple[Key, Key]] = [(start, end), (end, end)]
        if branches:
            ends = [(start, branches[0].start), (branches[-1].end, end)]
        inside = _gaps(branches, width, start, end, descending=descending)
        first, last = reversed(ends) if descending else ends
        for low, high in chain((first,), inside, (last,)):
            low, high = max(low, start), min(high, end)  # noqa: PLW2901 - cut
            if low < high and not high - low < width:
                yield low, high

    def edited(self, edit: Edit[T]) -> RegionIndex[T]:
        """Return a copy in which the edit's new regions stand in place of its old ones.

        Complexity: O(log n + k) for k regions of the edit, with a root of n / 10,000 references.

        Raises:
            StaleEdit: If the edit was planned on another index.
            ValueError: If the edit would drop or overlap a region that it does not name.
        """
        if edit.version != self.version:
            msg = (
                f"the edit was planned on version {edit.version} of the map, which is now at "
                f"version {self.version}; plan it again"
            )
            raise StaleEdit(msg)
        if not (edit.old or edit.new):
            return self
        copy: RegionIndex[T] = object.__new__(RegionIndex)
        copy._root = _edited(self._root, ROOT, edit, edit.start, edit.end)
        copy._extents = self._extents
        copy._size = self._size + len(edit.new) - len(edit.old)
        copy.version = self.version + 1
        return copy

    def refuse_key(self, key: Key) -> NoReturn:
        """Raise the TypeError for a key that can't be ordered with those of the index."""
        sample = next(iter(self)).start
        msg = (
            f"the keys of this map are {type(sample).__name__}, such as {sample!r}; "
            f"{key!r} is {type(key).__name__}"
        )
        raise TypeError(msg) from None

    def _slot(self, key: Key) -> tuple[list[Key], list[Any], int]:
        """Return a leaf and the slot in it of the only region that can contain the key."""
        try:
            keys, slots = self._root
            keys, slots = slots[bisect_right(keys, key)]
            keys, slots = slots[bisect_right(keys, key)]
            return keys, slots, bisect_right(keys, key)
        except TypeError:
            self.refuse_key(key)

    def _walk(self, key: Key) -> Iterator[Region[T]]:
        """Yield the regions that end above *key*, ascending."""
        region = self.find(key)
        if region is not None:
            yield region
        keys, branches = self._root
        branch = bisect_right(keys, key)
        keys, leaves = branches[branch]
        leaf = bisect_right(keys, key)
        keys, regions = leaves[leaf]
        yield from islice(regions, bisect_right(keys, key) + 1, None)
        yield from _regions_of(islice(leaves, leaf + 1, None))
        for _, others in islice(branches, branch + 1, None):
            yield from _regions_of(others)

    def __iter__(self) -> Iterator[Region[T]]:
        return chain.from_iterable(_regions_of(leaves) for _, leaves in self._root[1])

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<RegionIndex of {self._size} regions, version {self.version}>"

    def _check(self) -> None:
        """Walk every invariant; for tests.

        Raises:
            AssertionError: If one is broken.
        """
        below: list[Key] = []
        self._check_node(self._root, ROOT, below)
        previous: Region[T] | None = None
        for region in self:
            assert region.start < region.end
            assert previous is None or not region.start < previous.end, (previous, region)
            previous = region
        assert self._size == sum(1 for _ in self)

    def _check_node(self, node: Node, level: int, below: list[Key]) -> None:
        keys, slots = node
        assert len(slots) == len(keys) + 1
        assert keys == sorted(keys)
        assert level == ROOT or len(keys) <= NODE_MAX
        if level == LEAF:
            assert slots[0] is BEFORE
            assert keys == [region.start for region in slots[1:]]
            return
        for separator, left, right in zip(keys, slots, slots[1:], strict=False):
            before, after = _ends(left, level - 1), _ends(right, level - 1)
            assert before is None or not separator < before.end
            assert after is None or not after.start < separator
        for slot in slots:
            self._check_node(slot, level - 1, below)


def _extents(branches: list[Node], known: dict[int, _Extent]) -> dict[int, _Extent]:
    """Return the extents of the branches that have regions, ascending; what is known is taken."""
    kept = {id(branch) for branch in branches}
    # The leaves of the branches that were copied; most of them are in the copies.
    leaves: dict[int, _Extent] = {}
    for number, extent in known.items():
        if number not in kept:
            leaves.update(extent.inner)
    extents = {}
    for branch in branches:
        found = known.get(id(branch)) or _extent_of_branch(branch, leaves)
        if found is not None:
            extents[id(branch)] = found
    return extents


def _extent_of_branch(branch: Node, known: dict[int, _Extent]) -> _Extent | None:
    inner = {}
    for leaf in branch[1]:
        extent = known.get(id(leaf)) or _extent(leaf, leaf[1][1:], {})
        if extent is not None:
            inner[id(leaf)] = extent
    return _extent(branch, list(inner.values()), inner)


def _extent(node: Node, parts: list[Any], inner: dict[int, _Extent]) -> _Extent | None:
    """Return the extent of a node, which is made of regions or of extents; None if it is empty."""
    if not parts:
        return None
    widths = [right.start - left.end for left, right in pairwise(parts) if left.end < right.start]
    widths += [part.widest for part in inner.values() if part.widest is not None]
    return _Extent(node, parts[0].start, parts[-1].end, max(widths, default=None), inner)


def _gaps(
    parts: list[Any], width: Any, start: Key, end: Key, *, descending: bool
) -> Iterator[tuple[Key, Key]]:
    """Yield the gaps between and inside regions or extents that are wide enough.

    Of extents that lie outside ``[start, end)`` the gaps inside are left out.
    """
    previous: Any = None
    for part in reversed(parts) if descending else parts:
        if previous is not None:
            low, high = (part.end, previous.start) if descending else (previous.end, part.start)
            if low < high and not high - low < width:
                yield low, high
        previous = part
        if not isinstance(part, _Extent) or part.widest is None or part.widest < width:
            continue
        if start < part.end and part.start < end:
            inner = list(part.inner.values()) or part.node[1][1:]
            yield from _gaps(inner, width, start, end, descending=descending)


def _regions_of(leaves: Iterable[Node]) -> Iterator[Any]:
    return chain.from_iterable(islice(slots, 1, None) for _, slots in leaves)


def _edited(node: Node, level: int, edit: Edit[T], low: Key, high: Key) -> Node:
    """Return a copy of the node with the edit, which spans ``[low, high)``, made below it."""
    keys, slots = node
    if level == LEAF:
        first, last = bisect_left(keys, low), bisect_left(keys, high)
        if tuple(slots[first + 1 : last + 1]) != edit.old or low < slots[first].end:
            msg = (
                f"the edit names {edit.old!r}; it covers {slots[first + 1 : last + 1]!r} "
                f"and begins after {slots[first]!r}"
            )
            raise ValueError(msg)
        keys, slots = keys.copy(), slots.copy()
        keys[first:last] = [region.start for region in edit.new]
        slots[first + 1 : last + 1] = edit.new
        return keys, slots
    first = bisect_right(keys, low)
    # A region that begins at the edit's end is a neighbour; one that begins below it goes.
    last = max(first, bisect_left(keys, high))
    child = slots[first] if first == last else _joined(node, first, last, level)
    child = _edited(child, level - 1, edit, low, high)
    size = len(child[0])
    slots = slots.copy()
    if first == last and size <= NODE_MAX and (size >= NODE_MIN or not keys):
        slots[first] = child
        return keys, slots
    keys = keys.copy()
    keys[first:last] = ()
    slots[first : last + 1] = (child,)
    if size < NODE_MIN and keys:
        # Too small to stand alone: join it with the next, or with the one before.
        first = min(first, len(keys) - 1)
        child = _joined((keys, slots), first, first + 1, level)
        keys[first : first + 1] = ()
        slots[first : first + 2] = (child,)
        size = len(child[0])
    if size > NODE_MAX:
        separators, children = _cut(child, level - 1)
        keys[first:first] = separators
        slots[first : first + 1] = children
    return keys, slots


def _joined(node: Node, first: int, last: int, level: int) -> Node:
    """Return the node's children ``first`` to ``last`` as one."""
    keys, slots = node
    joined_keys: list[Key] = []
    joined_slots: list[Any] = []
    for number in range(first, last + 1):
        child_keys, child_slots = slots[number]
        if number > first and level == BRANCH:
            # Leaves: the starts say all, and one BEFORE is enough.
            child_slots = child_slots[1:]
        elif number > first:
            joined_keys.append(keys[number - 1])
        joined_keys += child_keys
        joined_slots += child_slots
    return joined_keys, joined_slots


def _cut(node: Node, level: int) -> Node:
    """Return a node over pieces of this one, each of a fair size."""
    keys, slots = node
    size = len(slots)
    # Two thirds full, so that the next edits don't cut them again.
    count = -(-size * 3 // (NODE_MAX * 2))
    bounds = [size * i // count for i in range(1, count)]
    separators = [keys[bound - 1] for bound in bounds]
    children: list[Node] = []
    for low, high in pairwise((0, *bounds, size)):
        if level == LEAF and low:
            children.append((keys[low - 1 : high - 1], [BEFORE, *slots[low:high]]))
        else:
            children.append((keys[low : high - 1], slots[low:high]))
    return separators, children


def _ends(node: Node, level: int) -> Region[Any] | None:
    """Return some region of a node, if it has one; for checks."""
    for _ in range(level):
        node = node[1][0]
    return node[1][1] if len(node[1]) > 1 else None
