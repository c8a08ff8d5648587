"""The persistent index and the pure edits, against a dict of integers."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aspf import RangeNotFound, RangeOverlap, Region, StaleEdit
from aspf.ranges import Edit, RegionIndex, _index
from aspf.ranges._edit import (
    check_range,
    plan_assign,
    plan_insert,
    plan_merge,
    plan_remove,
    plan_split,
)
from aspf.ranges._index import BEFORE

if TYPE_CHECKING:
    from collections.abc import Iterable

Triple = tuple[Any, Any, Any]

TOP = 60
KEYS = st.integers(0, TOP)
PAYLOADS = st.sampled_from("abc")
RANGES = st.tuples(KEYS, KEYS).filter(lambda ends: ends[0] != ends[1]).map(sorted)
# Small nodes, so that a handful of regions fills every level of the tree.
NODES = st.sampled_from([(3, 1), (4, 1), (4, 2), (7, 2)])


def nodes_of(largest: int, smallest: int) -> Any:
    """Patch the sizes of the index's nodes."""
    return mock.patch.multiple("aspf.ranges._index", NODE_MAX=largest, NODE_MIN=smallest)


def triples(regions: Iterable[Region[Any]]) -> list[Triple]:
    return [(region.start, region.end, region.payload) for region in regions]


class IntegersModel:
    """A dict from each integer to the stretch it belongs to; a stretch is a run of one mark."""

    def __init__(self) -> None:
        self.mark: dict[int, int] = {}
        self.payload: dict[int, str] = {}

    def _fresh(self, payload: str) -> int:
        mark = len(self.payload)
        self.payload[mark] = payload
        return mark

    def triples(self) -> list[Triple]:
        runs = groupby(range(TOP + 1), lambda key: self.mark.get(key))
        found = ((mark, list(keys)) for mark, keys in runs)
        return [
            (keys[0], keys[-1] + 1, self.payload[mark]) for mark, keys in found if mark is not None
        ]

    def overlapping(self, start: int, end: int) -> list[Triple]:
        return [t for t in self.triples() if t[0] < end and start < t[1]]

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        free = [key for key in range(start, end) if key not in self.mark]
        # key - position is one number over a run of neighbours.
        runs = groupby(enumerate(free), lambda pair: pair[1] - pair[0])
        ends = [[key for _, key in run] for _, run in runs]
        return [(run[0], run[-1] + 1) for run in ends]

    def assign(self, start: int, end: int, payload: str) -> None:
        self.mark.update(dict.fromkeys(range(start, end), self._fresh(payload)))

    def remove(self, start: int, end: int) -> None:
        for key in range(start, end):
            self.mark.pop(key, None)

    def split(self, key: int) -> None:
        old = self.mark[key]
        fresh = self._fresh(self.payload[old])
        for other in range(key, TOP):
            if self.mark.get(other) == old:
                self.mark[other] = fresh

    def copy(self) -> IntegersModel:
        twin = IntegersModel()
        twin.mark, twin.payload = dict(self.mark), dict(self.payload)
        return twin


def assert_same(index: RegionIndex[Any], model: IntegersModel) -> None:
    """Compare every answer that the index can give."""
    index._check()
    expected = model.triples()
    assert triples(index) == expected
    assert len(index) == len(expected)
    for key in range(-1, TOP + 2):
        found = index.find(key)
        assert triples([found] if found else []) == model.overlapping(key, key + 1)
        after = index.find_next(key)
        assert triples([after] if after else []) == [t for t in expected if t[1] > key][:1]


class IndexMachine(RuleBasedStateMachine):
    """Edits in any order, on nodes of any size; old indexes are looked at again."""

    def __init__(self) -> None:
        super().__init__()
        self.index: RegionIndex[str] = RegionIndex()
        self.model = IntegersModel()
        self.past: list[tuple[RegionIndex[str], IntegersModel]] = []

    @initialize(size=NODES, count=st.integers(0, 20))
    def begin(self, size: tuple[int, int], count: int) -> None:
        self.nodes = nodes_of(*size)
        self.nodes.start()
        self.index = RegionIndex(Region(3 * i, 3 * i + 2, "a") for i in reversed(range(count)))
        for i in range(count):
            self.model.assign(3 * i, 3 * i + 2, "a")

    def teardown(self) -> None:
        for index, model in self.past:
            assert_same(index, model)
        mock.patch.stopall()

    def _apply(self, edit: Edit[str]) -> None:
        if len(self.past) < 4:
            self.past.append((self.index, self.model.copy()))
        before, self.index = self.index, self.index.edited(edit)
        assert (self.index is before) == (not edit)
        assert self.index.version == before.version + bool(edit)

    @rule(ends=RANGES, payload=PAYLOADS)
    def assign(self, ends: list[int], payload: str) -> None:
        self._apply(plan_assign(self.index, *ends, payload))
        self.model.assign(*ends, payload)

    @rule(ends=RANGES, payload=PAYLOADS)
    def insert(self, ends: list[int], payload: str) -> None:
        if self.model.overlapping(*ends):
            with pytest.raises(RangeOverlap, match="can't insert"):
                plan_insert(self.index, *ends, payload)
        else:
            self._apply(plan_insert(self.index, *ends, payload))
            self.model.assign(*ends, payload)

    @rule(ends=RANGES)
    def remove(self, ends: list[int]) -> None:
        self._apply(plan_remove(self.index, *ends))
        self.model.remove(*ends)

    @rule(key=KEYS)
    def split(self, key: int) -> None:
        if key in self.model.mark:
            self._apply(plan_split(self.index, key))
            self.model.split(key)
        else:
            with pytest.raises(RangeNotFound, match="no range contains it"):
                plan_split(self.index, key)

    @rule(ends=RANGES)
    def merge(self, ends: list[int]) -> None:
        found = self.model.overlapping(*ends)
        gap = found and self.model.gaps(found[0][0], found[-1][1])
        if gap or len({payload for _, _, payload in found}) > 1:
            with pytest.raises(ValueError, match="can't merge"):
                plan_merge(self.index, *ends)
        else:
            self._apply(plan_merge(self.index, *ends))
            if found:
                self.model.assign(found[0][0], found[-1][1], found[0][2])

    @rule(ends=RANGES)
    def look(self, ends: list[int]) -> None:
        start, end = ends
        assert triples(self.index.overlapping(start, end)) == self.model.overlapping(start, end)
        assert triples(self.index.overlapping(start)) == self.model.overlapping(start, TOP + 1)
        assert triples(self.index.overlapping(end=end)) == self.model.overlapping(-1, end)
        assert list(self.index.gaps(start, end)) == self.model.gaps(start, end)

    @precondition(lambda self: self.past and self.past[-1][0].version != self.index.version)
    @rule(ends=RANGES)
    def stale(self, ends: list[int]) -> None:
        edit = plan_assign(self.past[-1][0], *ends, "z")
        with pytest.raises(StaleEdit, match="plan it again"):
            self.index.edited(edit)

    @invariant()
    def same(self) -> None:
        assert_same(self.index, self.model)


class TestIndexMachine(IndexMachine.TestCase):  # type: ignore[misc]
    """Broken if an edit loses, doubles or misplaces a region, or changes an index in place."""

    settings = settings(
        max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, database=None
    )


STEPS = st.lists(
    st.one_of(st.tuples(st.just("assign"), RANGES, PAYLOADS), st.tuples(st.just("remove"), RANGES)),
    max_size=8,
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(steps=STEPS)
def test_a_composed_edit_says_what_its_steps_did(steps: list[Any]) -> None:
    """Broken if an edit block retires a region that stays, or publishes one that has gone."""
    first = last = RegionIndex([Region(0, 10, "a"), Region(20, 30, "b"), Region(30, 40, "c")])
    whole: Edit[str] = Edit((), (), first.version)
    for name, ends, *payload in steps:
        plan = plan_assign if name == "assign" else plan_remove
        edit = plan(last, *ends, *payload)
        last = last.edited(edit)
        whole = whole.then(edit)
    assert whole.version == first.version
    assert set(whole.old) == set(first) - set(last)
    assert set(whole.new) == set(last) - set(first)
    for part in (whole.old, whole.new):
        assert list(part) == sorted(part, key=lambda region: region.start)
    if whole:
        touched = [*whole.old, *whole.new]
        assert whole.start == min(region.start for region in touched)
        assert whole.end == max(region.end for region in touched)


@pytest.mark.parametrize(
    "keys",
    [
        ["a", "b", "c", "d", "e"],
        [b"\x00", b"\x01", b"\x01\x00", b"k", b"\xff"],
        [(0, ""), (0, "x"), (1, ""), (1, "y"), (2, "")],
        [0.0, 0.5, 1, 1.25, float("inf")],
    ],
)
def test_any_ordered_keys_do(keys: list[Any]) -> None:
    """Broken if the index does arithmetic on keys, or compares them with anything but keys."""
    a, b, c, d, e = keys
    with nodes_of(3, 1):
        index: RegionIndex[int] = RegionIndex([Region(a, b, 1), Region(d, e, 2)])
        assert triples(index.overlapping(a, e)) == [(a, b, 1), (d, e, 2)]
        assert index.gaps(a, e) == ((b, d),)
        assert index.find(b) is None
        assert index.find(a) is not None
        index = index.edited(plan_assign(index, a, c, 3))
        index._check()
        assert triples(index) == [(a, c, 3), (d, e, 2)]


@pytest.mark.parametrize("count", [1, 12])
def test_a_key_of_another_type_is_named(count: int) -> None:
    """Broken if a key that can't be compared gives an error about `<` inside a library."""
    with nodes_of(3, 1):
        index = RegionIndex([Region(i, i + 1, "p") for i in range(count)])
        for look in (index.find, index.find_next, lambda key: index.overlapping(key, "z")):
            with pytest.raises(TypeError, match=r"keys of this map are int, such as 0; 'x' is str"):
                look("x")


def test_an_empty_index_has_no_opinion_on_keys() -> None:
    """Broken if the sentinels of an empty index can't be compared with every key."""
    index: RegionIndex[object] = RegionIndex()
    index._check()
    for key in (0, "a", b"a", (1, 2), 1.5):
        assert index.find(key) is None
        assert index.find_next(key) is None
    assert index.gaps(0, 5) == ((0, 5),)
    assert index.overlapping() == ()
    assert len(index) == 0


def test_a_key_below_the_first_region_is_not_in_it() -> None:
    """Broken if the region before all others contains something."""
    index = RegionIndex([Region(5, 9, "p")])
    assert index.find(4) is None
    assert index.find(9) is None
    assert index.find_next(4) is index.find(5)
    assert index.find_next(9) is None


@pytest.mark.parametrize(("start", "end"), [(3, 3), (4, 3)])
def test_an_empty_range_is_refused(start: int, end: int) -> None:
    """Broken if an empty region gets into an index, where nothing could find or remove it."""
    index = RegionIndex([Region(0, 9, "p")])
    for plan in (
        lambda: plan_assign(index, start, end, "q"),
        lambda: plan_insert(index, start, end, "q"),
        lambda: plan_remove(index, start, end),
        lambda: plan_merge(index, start, end),
    ):
        with pytest.raises(ValueError, match=rf"\[{start}, {end}\) is empty; .* needs start < end"):
            plan()


def test_two_keys_of_different_types_are_no_range() -> None:
    """Broken if the error doesn't show the two keys."""
    with pytest.raises(TypeError, match="one ordered type, not 3 and 'x'"):
        check_range(3, "x")


def test_an_index_refuses_overlapping_regions() -> None:
    """Broken if two regions may claim one key."""
    with pytest.raises(ValueError, match="overlap; an index holds disjoint regions"):
        RegionIndex([Region(4, 8, "b"), Region(0, 5, "a")])


def test_an_edit_that_forgets_a_region_is_refused() -> None:
    """Broken if a hand-made edit can drop a region that nobody retires."""
    index = RegionIndex([Region(0, 4, "a"), Region(4, 8, "b")])
    left, right = index
    with pytest.raises(ValueError, match="the edit names"):
        index.edited(Edit((left,), (Region(0, 6, "c"),), index.version))
    with pytest.raises(ValueError, match="the edit names"):
        index.edited(Edit((right, left), (), index.version))
    assert list(index) == [left, right]


def test_an_edit_may_grow_into_a_gap() -> None:
    """Broken if an edit can't cover more than it takes away (stacks and heaps grow)."""
    index = RegionIndex([Region(4, 8, "a"), Region(20, 24, "b")])
    edit = Edit(tuple(index)[:1], (Region(0, 12, "a"),), index.version)
    assert (edit.start, edit.end) == (0, 12)
    grown = index.edited(edit)
    grown._check()
    assert triples(grown) == [(0, 12, "a"), (20, 24, "b")]


def test_planning_nothing_changes_nothing() -> None:
    """Broken if a split at a start, or a merge of one region, retires what it would publish."""
    index = RegionIndex([Region(0, 4, "a"), Region(4, 8, "b")])
    for edit in (plan_split(index, 4), plan_merge(index, 0, 4), plan_remove(index, 8, 9)):
        assert not edit
        assert index.edited(edit) is index


def test_a_merge_wants_one_payload_object() -> None:
    """Broken if equal payloads are merged: two leases would end as one."""
    one, other = [1], [1]
    index = RegionIndex([Region(0, 4, one), Region(4, 8, other)])
    with pytest.raises(ValueError, match="their payloads are two objects; use assign"):
        plan_merge(index, 0, 8)


def test_an_iteration_is_a_snapshot() -> None:
    """Broken if a walk over one index sees an edited copy of it."""
    with nodes_of(3, 1):
        index = RegionIndex([Region(i, i + 1, i) for i in range(9)])
        walk = iter(index)
        assert next(walk).payload == 0
        edited = index.edited(plan_remove(index, 0, 9))
        assert [region.payload for region in walk] == list(range(1, 9))
        assert list(edited) == []


def test_nodes_of_the_shipped_size() -> None:
    """Broken if a map that fills every level goes wrong at a node's edge."""
    count = 5000
    index = RegionIndex([Region(2 * i, 2 * i + 1, i) for i in range(count)])
    index._check()
    for i in range(count):
        found = index.find(2 * i)
        assert found is not None
        assert found.payload == i
        assert index.find(2 * i + 1) is None
    index = index.edited(plan_assign(index, 100, 9000, "wide"))
    index._check()
    assert len(index) == 50 + 1 + 500
    index = index.edited(plan_remove(index, 0, 2 * count))
    index._check()
    assert len(index) == 0


def test_an_index_shrinks_with_its_regions() -> None:
    """Broken if removing region by region leaves thousands of nearly empty nodes behind."""
    index = RegionIndex([Region(i, i + 1, i) for i in range(4000)])
    for i in range(4000):
        if i % 100:
            index = index.edited(plan_remove(index, i, i + 1))
    index._check()
    branches = index._root[1]
    leaves = sum(len(slots) for _, slots in branches)
    assert (len(index), len(branches)) == (40, 1)
    assert leaves <= 3


def test_an_index_shows_its_size_and_version() -> None:
    """Broken if a failing assertion on an index tells nothing."""
    index = RegionIndex([Region(0, 4, "a")])
    index = index.edited(plan_remove(index, 0, 1))
    assert repr(index) == "<RegionIndex of 1 regions, version 1>"
    edit = plan_remove(index, 0, 2)
    assert repr(edit) == "Edit((<Region [1, 4) -> 'a'>,) -> (<Region [2, 4) -> 'a'>,), version=1)"
    assert repr(BEFORE) == "<Region [-inf, -inf) -> None>"


def test_a_region_contains_its_half_open_range() -> None:
    """Broken if the end of a region belongs to it."""
    region = Region(2, 5, "p")
    assert [key for key in range(8) if key in region] == [2, 3, 4]


@given(
    st.lists(RANGES, max_size=25), NODES, st.integers(1, 9), KEYS, KEYS, st.booleans(), st.data()
)
def test_wide_gaps_are_those_of_a_simple_scan(ranges, size, width, start, end, descending, data):
    """Room would be overlooked, or found where something is; after edits too."""
    with nodes_of(*size):
        index: RegionIndex[str] = RegionIndex()
        for low, high in ranges:
            if data.draw(st.booleans()):
                # Asked between edits, so that what a node knows of itself may be out of date.
                list(index.wide_gaps(width, start, end))
            plan = plan_assign(index, low, high, "a")
            index = index.edited(plan)
            if data.draw(st.booleans()):
                low, high = sorted(data.draw(st.lists(KEYS, min_size=2, max_size=2, unique=True)))
                index = index.edited(plan_remove(index, low, high))
        index._check()
        wide = [gap for gap in index.gaps(start, end) if gap[1] - gap[0] >= width]
        found = list(index.wide_gaps(width, start, end, descending=descending))
        assert found == (wide[::-1] if descending else wide)


def test_after_an_edit_only_what_was_copied_is_measured_again():
    """A search for room in a large map would cost as much as the map has regions."""
    index = RegionIndex(Region(10 * i, 10 * i + 8, "a") for i in range(20_000))
    measured: list[int] = []
    extent = _index._extent

    def count(node: Any, parts: list[Any], inner: Any) -> Any:
        measured.append(len(parts))
        return extent(node, parts, inner)

    with mock.patch.object(_index, "_extent", count):
        assert list(index.wide_gaps(3, 0, 200_000)) == []
        assert sum(measured) > 20_000
        for edits in (1, 3):
            for i in range(edits):
                at = 10 * (i * 777 + edits)
                index = index.edited(plan_remove(index, at, at + 8))
            measured.clear()
            assert len(list(index.wide_gaps(3, 0, 200_000))) == {1: 1, 3: 4}[edits]
            # One leaf and one branch for each edit.
            assert sum(measured) <= 2 * edits * _index.NODE_MAX
        assert list(index.wide_gaps(3, 0, 200_000, descending=True))[-1] == (8, 20)
