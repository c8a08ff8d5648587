"""Plans of mremap: what the recorded cases of the kernel leave out."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, strategies as st
from mm.test_plan import PAGE, RW, TASK, R, applied, built, errno_of, layout, shown

from aspf.mm import (
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYSHARE,
    VMA,
    Limits,
)
from aspf.mm._plan_mremap import MremapCall, plan_mremap
from aspf.ranges import Region, RegionIndex

TO = MREMAP_MAYMOVE | MREMAP_FIXED


def call(first: int, old: int, new: int, flags: int = 0, to: int = 0) -> MremapCall:
    return MremapCall(first * PAGE, old * PAGE, new * PAGE, flags, to * PAGE)


@pytest.mark.parametrize(
    ("wrong", "code", "cure"),
    [
        (call(0, 2, 2, 8), errno.EINVAL, "use MREMAP_MAYMOVE"),
        (MremapCall(1, PAGE, PAGE), errno.EINVAL, "multiple of 4096"),
        (call(0, 2, 0), errno.EINVAL, "at least one byte"),
        (call(0, 2, 65), errno.EINVAL, "up to 0x40000"),
        (call(0, -1, 2), errno.EINVAL, "pass lengths"),
        (call(0, 2, 2, TO, 63), errno.EINVAL, "stay below 0x40000"),
        (call(0, 2, 2, TO, -1), errno.EINVAL, "stay below 0x40000"),
        (call(0, 2, 2, MREMAP_FIXED, 8), errno.EINVAL, "add MREMAP_MAYMOVE"),
        (call(0, 2, 3, TO | MREMAP_DONTUNMAP, 8), errno.EINVAL, "same length twice"),
        (MremapCall(0, PAGE, PAGE, TO, 8 * PAGE + 1), errno.EINVAL, "multiple of 4096"),
        (call(0, 2, 2, TO, 1), errno.EINVAL, "another place"),
        (call(20, 2, 2, TO, 8), errno.EFAULT, "pass a mapped range"),
        (call(20, 2, 1), errno.EFAULT, "pass a mapped range"),
        (call(0, 0, 2, MREMAP_MAYMOVE), errno.EINVAL, "the length that it has"),
        (call(0, 5, 6, MREMAP_MAYMOVE), errno.EFAULT, "one mapping at a time"),
        (call(0, 2, 6), errno.ENOMEM, "add MREMAP_MAYMOVE"),
        (call(62, 2, 3), errno.ENOMEM, "add MREMAP_MAYMOVE"),
        (call(0, 4, 60, MREMAP_MAYMOVE), errno.ENOMEM, "unmap something"),
    ],
)
def test_mremap_refuses_with_the_kernels_errno_and_a_cure(wrong, code, cure):
    """A caller would not learn which of five arguments is wrong, and what to pass instead."""
    got, text = errno_of(plan_mremap, layout(built((0, 4, RW), (4, 2, R), (62, 2, RW))), wrong)
    assert got == code
    assert cure in text


def test_moves_stop_before_there_are_too_many_vmas():
    """A move that needs more VMAs on its way would stop in the middle."""
    index = built((0, 4, RW), (8, 2, R))
    full = layout(index, limits=Limits(max_map_count=7))
    assert errno_of(plan_mremap, full, call(0, 4, 4, TO, 20))[0] == errno.ENOMEM
    full = layout(index, limits=Limits(max_map_count=5))
    assert errno_of(plan_mremap, full, call(0, 4, 10, MREMAP_MAYMOVE))[0] == errno.ENOMEM
    # Two pieces: the first leaves too many for the second.
    index = built((0, 4, RW), (4, 2, R))
    plan = plan_mremap(layout(index, limits=Limits(max_map_count=8)), call(1, 5, 5, TO, 20))
    assert plan.error is None
    index = built((0, 2, RW), (3, 2, RW), (6, 2, RW), (9, 2, RW), (20, 9, R))
    plan = plan_mremap(layout(index, limits=Limits(max_map_count=11)), call(1, 9, 9, TO, 20))
    assert plan.error.errno == errno.ENOMEM
    assert (20, 21, "rw-") in shown(plan.index)
    assert (9, 11, "rw-") in shown(plan.index)


def test_what_is_moved_below_min_address_is_refused_after_the_destination_is_gone():
    """A page 0 could be made by moving, and the order of the checks would not be the kernel's."""
    index = built((0, 1, R), (8, 4, RW))
    low = layout(index, min_address=PAGE)
    for new in (1, 4):
        plan = plan_mremap(low, call(8, 4 if new == 1 else new, new, TO, 0))
        assert plan.error.errno == errno.EPERM
    plan = plan_mremap(low, call(8, 4, 1, TO, 0))
    assert shown(plan.index) == [(8, 9, "rw-")]
    assert plan.zap == ((0, PAGE), (9 * PAGE, 12 * PAGE))


def test_a_duplicate_onto_itself_finds_its_source_gone():
    """MREMAP_FIXED over the source's own start would map what is not there any more."""
    shared = VMA(RW | VM_MAYSHARE)
    index = RegionIndex([Region(0, 2 * PAGE, shared)])
    plan = plan_mremap(layout(index), call(0, 0, 1, TO, 0))
    assert plan.error.errno == errno.EFAULT
    assert shown(plan.index) == [(1, 2, "rw-")]
    plan = plan_mremap(layout(index), call(0, 0, 2, MREMAP_MAYMOVE))
    assert len(plan.index) == 2
    assert not plan.error


def test_what_dontunmap_leaves_behind():
    """The old mapping would stay locked, or be merged as if its pages were still there."""
    index = built((0, 4, RW))
    (whole,) = index
    whole.payload.anon.identity = object()
    locked = VMA(whole.payload.flags | VM_LOCKED, 0, None, whole.payload.anon)
    index = RegionIndex([Region(0, 4 * PAGE, locked)])
    plan = plan_mremap(layout(index), call(0, 4, 4, TO | MREMAP_DONTUNMAP, 8))
    left, moved = plan.index
    assert not left.payload.flags & VM_LOCKED
    assert moved.payload.flags & VM_LOCKED
    assert left.payload.anon.identity is None
    assert moved.payload.anon is locked.anon
    part = plan_mremap(layout(index), call(0, 2, 2, TO | MREMAP_DONTUNMAP, 8))
    left, moved = part.index
    assert (left.end, left.payload.flags & VM_LOCKED) == (4 * PAGE, 0)
    assert left.payload.anon is moved.payload.anon is locked.anon
    anywhere = plan_mremap(layout(index), call(0, 4, 4, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 30))
    assert anywhere.address == 30 * PAGE


def test_a_mapping_moved_behind_itself_is_one():
    """An unwritten mapping would merge with its own source and then be lost with it."""
    index = built((0, 4, RW))
    plan = plan_mremap(layout(index), call(0, 2, 2, TO, 4))
    assert shown(plan.index) == [(2, 6, "rw-")]
    plan = plan_mremap(layout(index), call(0, 4, 4, TO | MREMAP_DONTUNMAP, 4))
    assert shown(plan.index) == [(0, 8, "rw-")]


def test_a_stack_that_is_moved_has_no_name():
    """``maps`` would call something the stack that is none."""
    index = RegionIndex([Region(0, PAGE, VMA(RW | VM_GROWSDOWN, name="[stack]"))])
    (moved,) = plan_mremap(layout(index), call(0, 1, 1, TO, 8)).index
    assert moved.payload.name == ""


def test_growth_of_locked_memory_is_brought():
    """Locked memory would have pages that are not there."""
    vma = VMA(RW | VM_LOCKED)
    index = RegionIndex([Region(0, 2 * PAGE, vma)])
    assert plan_mremap(layout(index), call(0, 2, 4)).populate == ((2 * PAGE, 4 * PAGE),)
    moved = plan_mremap(layout(index), call(0, 2, 4, TO, 8))
    assert moved.populate == ((10 * PAGE, 12 * PAGE),)
    assert plan_mremap(layout(index), call(0, 2, 1, TO, 8)).populate == ()
    assert TASK == 64 * PAGE


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.integers(1, 8),
            st.integers(1, 8),
            st.sampled_from([0, MREMAP_MAYMOVE, TO, TO | MREMAP_DONTUNMAP]),
            st.integers(0, 30),
        ),
        max_size=12,
    )
)
def test_the_composed_edit_leads_to_the_index_that_was_planned(steps):
    """What is published would not be what the plan says, or name regions that are not there."""
    index = built((0, 4, RW), (4, 4, R), (10, 6, RW), (20, 3, R))
    for first, old, new, flags, to in steps:
        try:
            plan = plan_mremap(layout(index), call(first, old, new, flags, to))
        except OSError:
            continue
        if plan.index is None:
            index = applied(index, plan)
            continue
        plan.index._check()
        gone = set(map(id, plan.edit.old))
        assert gone <= set(map(id, index))
        left = [r for r in index if id(r) not in gone]
        assert sorted([*left, *plan.edit.new], key=lambda r: r.start) == list(plan.index)
        for move in plan.moves:
            assert plan.index.find(move.to) is not None
            assert (plan.index.find(move.start) is not None) == move.stays
        index = plan.index
