"""An edit: old regions -> new regions. Pure: planning one changes nothing and waits for nothing.

Every change of a map, a one-key split as well as a page of kernel code, is the same object: the
neighbouring regions that go and the regions that come instead. It carries the version of the
index that it was planned on, and an index of another version refuses it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from aspf._errors import RangeNotFound, RangeOverlap

from ._region import Key, Region

if TYPE_CHECKING:
    from ._index import RegionIndex

__all__ = (
    "Edit",
    "check_range",
    "plan_assign",
    "plan_insert",
    "plan_merge",
    "plan_remove",
    "plan_split",
)

T = TypeVar("T")


@final
class Edit(Generic[T]):
    """Replace neighbouring regions of an index by others; immutable.

    Attributes:
        old: Regions that leave the index: all that stand between the first and the last of them.
        new: Regions that enter it, ascending and disjoint. They may cover more than *old* did,
            as long as they overlap no other region.
        version: The `RegionIndex.version` that the edit was planned on.
        start: First key of the full span: of what the edit takes away and of what it brings.
        end: End of the full span. Both are None for an edit that changes nothing.
    """

    # Not a frozen dataclass: an edit is made for each assign, and that costs as much as planning.
    __slots__ = ("end", "new", "old", "start", "version")

    def __init__(
        self, old: tuple[Region[T], ...], new: tuple[Region[T], ...], version: int
    ) -> None:
        self.old: Final = old
        self.new: Final = new
        self.version: Final = version
        self.start: Key = None
        self.end: Key = None
        if old and new:
            low, high = old[0].start, old[-1].end
            first, last = new[0].start, new[-1].end
            # min() and max() cost as much as all the rest of this method.
            self.start = first if first < low else low  # noqa: FURB136
            self.end = last if high < last else high  # noqa: FURB136
        elif old or new:
            some = old or new
            self.start, self.end = some[0].start, some[-1].end

    def __bool__(self) -> bool:
        """Tell whether the edit changes anything."""
        return bool(self.old or self.new)

    def __repr__(self) -> str:
        return f"Edit({self.old!r} -> {self.new!r}, version={self.version})"

    def then(self, later: Edit[T]) -> Edit[T]:
        """Compose with an edit that was planned on this one's result.

        The composed edit may leave regions between its old ones untouched; it describes what is
        retired and what is published, and `RegionIndex.edited` has been applied step by step.
        """
        came = set(map(id, self.new))
        went = set(map(id, later.old))
        old = (*self.old, *(region for region in later.old if id(region) not in came))
        new = (*(region for region in self.new if id(region) not in went), *later.new)
        return Edit(
            tuple(sorted(old, key=_start)),
            tuple(sorted(new, key=_start)),
            self.version,
        )


def _start(region: Region[T]) -> Key:
    return region.start


def check_range(start: Key, end: Key) -> None:
    """Refuse what is no range.

    Raises:
        ValueError: If the range is empty or reversed.
        TypeError: If the two keys can't be ordered.
    """
    try:
        if start < end:
            return
    except TypeError:
        msg = f"a range needs two keys of one ordered type, not {start!r} and {end!r}"
        raise TypeError(msg) from None
    msg = f"the range [{start!r}, {end!r}) is empty; a range is half-open and needs start < end"
    raise ValueError(msg)


def _replace(index: RegionIndex[T], start: Key, end: Key, middle: tuple[Region[T], ...]) -> Edit[T]:
    """Plan to put *middle* in place of ``[start, end)``; what sticks out keeps its payload."""
    old = index.overlapping(start, end)
    new = middle
    if old:
        first, last = old[0], old[-1]
        if first.start < start:
            new = (Region(first.start, start, first.payload), *new)
        if end < last.end:
            new = (*new, Region(end, last.end, last.payload))
    return Edit(old, new, index.version)


def plan_assign(index: RegionIndex[T], start: Key, end: Key, payload: T) -> Edit[T]:
    """Plan to map ``[start, end)`` to *payload*, whatever was there."""
    check_range(start, end)
    return _replace(index, start, end, (Region(start, end, payload),))


def plan_insert(index: RegionIndex[T], start: Key, end: Key, payload: T) -> Edit[T]:
    """Plan to map ``[start, end)``, all of which must be free.

    Raises:
        RangeOverlap: If a region overlaps it.
    """
    check_range(start, end)
    old = index.overlapping(start, end)
    if old:
        msg = (
            f"can't insert [{start!r}, {end!r}): {old[0]!r} overlaps it; "
            "use assign() to replace what is there"
        )
        raise RangeOverlap(msg)
    return Edit((), (Region(start, end, payload),), index.version)


def plan_remove(index: RegionIndex[T], start: Key, end: Key) -> Edit[T]:
    """Plan to unmap ``[start, end)``: regions that stick out are trimmed, holes are no error."""
    check_range(start, end)
    return _replace(index, start, end, ())


def plan_split(index: RegionIndex[T], key: Key) -> Edit[T]:
    """Plan to make a region begin at *key*; both pieces keep the payload.

    Raises:
        RangeNotFound: If no region contains the key.
    """
    region = index.find(key)
    if region is None:
        msg = f"can't split at {key!r}: no range contains it"
        raise RangeNotFound(msg)
    if region.start == key:
        return Edit((), (), index.version)
    pieces = (
        Region(region.start, key, region.payload),
        Region(key, region.end, region.payload),
    )
    return Edit((region,), pieces, index.version)


def plan_merge(index: RegionIndex[T], start: Key, end: Key) -> Edit[T]:
    """Plan to join all regions that overlap ``[start, end)`` into one.

    Raises:
        ValueError: If there is a gap between them, or they don't share one payload.
    """
    check_range(start, end)
    old = index.overlapping(start, end)
    if len(old) < 2:
        return Edit((), (), index.version)
    for left, right in pairwise(old):
        if left.end < right.start:
            msg = f"can't merge {left!r} and {right!r}: [{left.end!r}, {right.start!r}) is a gap"
            raise ValueError(msg)
        if left.payload is not right.payload:
            msg = (
                f"can't merge {left!r} and {right!r}: their payloads are two objects; "
                "use assign() to give the whole range one"
            )
            raise ValueError(msg)
    return Edit(old, (Region(old[0].start, old[-1].end, old[0].payload),), index.version)
