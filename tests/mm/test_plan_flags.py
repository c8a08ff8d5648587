"""Plans that set flags: mlock, munlock and madvise."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, strategies as st
from mm.test_plan import PAGE, RW, R, applied, built, errno_of, layout, shown

from aspf import mm
from aspf.mm import VMA, Limits
from aspf.mm._plan_flags import plan_madvise, plan_mlock, plan_munlock
from aspf.ranges import Region, RegionIndex


def flagged(index: RegionIndex, flags: int) -> list[int]:
    """Return the pages whose VMA has all of the flags."""
    return [
        page
        for r in index
        if r.payload.flags & flags == flags
        for page in range(r.start // PAGE, r.end // PAGE)
    ]


ADVICE = {
    mm.MADV_SEQUENTIAL: mm.VM_SEQ_READ,
    mm.MADV_RANDOM: mm.VM_RAND_READ,
    mm.MADV_DONTFORK: mm.VM_DONTCOPY,
    mm.MADV_WIPEONFORK: mm.VM_WIPEONFORK,
}
UNDO = {
    mm.MADV_SEQUENTIAL: mm.MADV_NORMAL,
    mm.MADV_RANDOM: mm.MADV_NORMAL,
    mm.MADV_DONTFORK: mm.MADV_DOFORK,
    mm.MADV_WIPEONFORK: mm.MADV_KEEPONFORK,
}


@pytest.mark.parametrize("advice", ADVICE)
def test_advice_splits_and_its_opposite_merges(advice):
    """A flag would be set on pages that the call does not name, or stay for ever."""
    index = built((0, 6, RW))
    index = applied(index, plan_madvise(layout(index), 2 * PAGE, 2 * PAGE, advice))
    assert [(s, e) for s, e, _ in shown(index)] == [(0, 2), (2, 4), (4, 6)]
    assert flagged(index, ADVICE[advice]) == [2, 3]
    assert not plan_madvise(layout(index), 2 * PAGE, 2 * PAGE, advice).edit
    index = applied(index, plan_madvise(layout(index), 0, 6 * PAGE, UNDO[advice]))
    assert shown(index) == [(0, 6, "rw-")]


def test_reading_advice_excludes_its_opposite():
    """A mapping would be read both at random and in sequence."""
    index = built((0, 1, RW))
    index = applied(index, plan_madvise(layout(index), 0, PAGE, mm.MADV_SEQUENTIAL))
    index = applied(index, plan_madvise(layout(index), 0, PAGE, mm.MADV_RANDOM))
    assert (flagged(index, mm.VM_SEQ_READ), flagged(index, mm.VM_RAND_READ)) == ([], [0])
    index = applied(index, plan_madvise(layout(index), 0, PAGE, mm.MADV_SEQUENTIAL))
    assert (flagged(index, mm.VM_SEQ_READ), flagged(index, mm.VM_RAND_READ)) == ([0], [])


def test_advice_passes_over_holes_and_stops_at_a_refusal():
    """The part of the range that took effect would not be the kernel's."""
    index = built((0, 2, RW), (4, 2, RW))
    plan = plan_madvise(layout(index), 0, 6 * PAGE, mm.MADV_DONTFORK)
    assert plan.error.errno == errno.ENOMEM
    assert flagged(applied(index, plan), mm.VM_DONTCOPY) == [0, 1, 4, 5]
    nothing = plan_madvise(layout(index), 2 * PAGE, PAGE, mm.MADV_DONTFORK)
    assert (nothing.edit, nothing.error.errno) == (None, errno.ENOMEM)
    shared = mm.MappedFile(mm.Pager, size=PAGE)
    index = RegionIndex(
        [Region(0, PAGE, VMA(R)), Region(2 * PAGE, 3 * PAGE, VMA(R, 2 * PAGE, shared))]
    )
    plan = plan_madvise(layout(index), 0, 3 * PAGE, mm.MADV_WIPEONFORK)
    assert plan.error.errno == errno.EINVAL
    assert flagged(applied(index, plan), mm.VM_WIPEONFORK) == [0]


def test_free_is_for_private_anonymous_memory_that_is_not_locked():
    """Pages of a file, or pages that are promised to stay, could be dropped."""
    index = built((0, 2, RW))
    assert plan_madvise(layout(index), 0, 2 * PAGE, mm.MADV_FREE).error is None
    index = applied(index, plan_mlock(layout(index), PAGE, PAGE))
    plan = plan_madvise(layout(index), 0, 2 * PAGE, mm.MADV_FREE)
    assert (plan.spans, plan.error.errno) == (((0, PAGE),), errno.EINVAL)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15), st.integers(1, 8)), max_size=20))
def test_locking_any_ranges_locks_these_pages(steps):
    """Pages would be locked that no call named, or merged neighbours stay apart."""
    index, locked = built((0, 6, RW), (6, 4, R), (12, 6, RW)), set()
    mapped = {*range(10), *range(12, 18)}
    for lock, first, pages in steps:
        call = plan_mlock if lock else plan_munlock
        plan = call(layout(index), first * PAGE + 7, pages * PAGE - 7)
        hole = next((n for n in range(first, first + pages) if n not in mapped), None)
        touched = range(first, first + pages if hole is None else hole)
        locked = locked.union(touched) if lock else locked.difference(touched)
        assert (plan.error is None) == (hole is None)
        assert plan.populate == (
            ((first * PAGE, (first + pages) * PAGE),) if lock and hole is None else ()
        )
        index = applied(index, plan)
        assert flagged(index, mm.VM_LOCKED) == sorted(locked)
    index = applied(index, plan_munlock(layout(index), 0, 10 * PAGE))
    index = applied(index, plan_munlock(layout(index), 12 * PAGE, 6 * PAGE))
    assert shown(index) == shown(built((0, 6, RW), (6, 4, R), (12, 6, RW)))


def test_what_is_no_range_and_too_many_vmas():
    """A wrong argument would be taken for a hole, or splits would go on without end."""
    index = built((0, 3, RW))
    full = layout(index, limits=Limits(max_map_count=1))
    for args in [(0, -PAGE), (-PAGE, PAGE), (PAGE, 1 << 64)]:
        assert errno_of(lambda a, n: plan_mlock(full, a, n), *args)[0] == errno.EINVAL
    assert plan_mlock(full, PAGE, 0).edit is None
    assert plan_mlock(full, PAGE, PAGE).error.errno == errno.ENOMEM
    assert plan_madvise(full, PAGE, PAGE, mm.MADV_DONTFORK).error.errno == errno.EAGAIN
