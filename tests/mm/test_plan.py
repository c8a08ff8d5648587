"""The plans, without an event loop."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from mm._arena import load, numbered_file

from aspf.mm import (
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    VM_GROWSDOWN,
    VM_LOCKED,
    VMA,
    Anon,
    Limits,
)
from aspf.mm._pieces import Layout, Plan
from aspf.mm._plan import MmapCall, plan_mmap, plan_mprotect, plan_munmap
from aspf.mm._plan_flags import plan_madvise
from aspf.mm._vma import permissions
from aspf.ranges import Region, RegionIndex

PAGE = 4096
R, RW = PROT_READ, PROT_READ | PROT_WRITE
ANON = MAP_PRIVATE | MAP_ANONYMOUS
FIXED = ANON | MAP_FIXED
TASK = 64 * PAGE


def layout(index: RegionIndex, **limits) -> Layout:
    return Layout(index, **{"task_size": TASK, "min_address": 0, **limits})


def applied(index: RegionIndex, plan: Plan) -> RegionIndex:
    return index if plan.edit is None else index.edited(plan.edit)


def built(*calls: tuple) -> RegionIndex:
    """Map pages: (first, how many, prot), each at a fixed place."""
    index = RegionIndex()
    for first, pages, prot in calls:
        call = MmapCall(first * PAGE, pages * PAGE, prot, FIXED)
        index = applied(index, plan_mmap(layout(index), call))
    return index


def shown(index: RegionIndex) -> list[tuple[int, int, str]]:
    return [(r.start // PAGE, r.end // PAGE, permissions(r.payload.flags)[:3]) for r in index]


ClassicCases = pytest.mark.parametrize(
    ("before", "protect", "after"),
    [
        # What the kernel's comment on vma_merge() calls them. 1-3 fill a gap, 4-8 change a flag.
        ([(0, 4, RW), (8, 4, RW), (4, 4, RW)], None, [(0, 12, "rw-")]),
        ([(0, 4, RW), (8, 4, R), (4, 4, RW)], None, [(0, 8, "rw-"), (8, 12, "r--")]),
        ([(0, 4, R), (8, 4, RW), (4, 4, RW)], None, [(0, 4, "r--"), (4, 12, "rw-")]),
        ([(0, 6, RW), (6, 6, R)], (2, 4, R), [(0, 2, "rw-"), (2, 12, "r--")]),
        ([(0, 6, RW), (6, 6, R)], (6, 4, RW), [(0, 10, "rw-"), (10, 12, "r--")]),
        ([(0, 4, RW), (4, 4, R), (8, 4, RW)], (4, 4, RW), [(0, 12, "rw-")]),
        (
            [(0, 4, RW), (4, 4, R), (8, 4, RW | PROT_EXEC)],
            (4, 4, RW),
            [(0, 8, "rw-"), (8, 12, "rwx")],
        ),
        (
            [(0, 4, RW | PROT_EXEC), (4, 4, R), (8, 4, RW)],
            (4, 4, RW),
            [(0, 4, "rwx"), (4, 12, "rw-")],
        ),
    ],
    ids=[f"case {number}" for number in range(1, 9)],
)


@ClassicCases
def test_the_eight_classic_merges(before, protect, after):
    """Neighbours would stay apart, or merge into the wrong one of two."""
    index = built(*before)
    if protect is not None:
        first, pages, prot = protect
        index = applied(index, plan_mprotect(layout(index), first * PAGE, pages * PAGE, prot))
    assert shown(index) == after


def test_what_is_replaced_alike_is_retired_all_the_same():
    """MAP_FIXED over memory like it would not wait for those who still fill the old pages."""
    index = built((0, 8, RW))
    plan = plan_mmap(layout(index), MmapCall(2 * PAGE, 2 * PAGE, RW, FIXED))
    assert plan.edit.old == tuple(index)
    assert shown(index.edited(plan.edit)) == shown(index)


calls = st.lists(
    st.tuples(
        st.sampled_from(["mmap", "munmap", "mprotect"]),
        st.integers(0, 15),
        st.integers(1, 8),
        st.sampled_from([0, R, RW]),
    ),
    max_size=30,
)


@given(calls)
def test_any_calls_leave_what_a_dict_of_pages_has(steps):
    """A plan would cut, join or forget pages that its call does not name."""
    index, model = RegionIndex(), {}
    for name, first, pages, prot in steps:
        start, length, touched = first * PAGE, pages * PAGE, range(first, first + pages)
        if name == "mmap":
            plan = plan_mmap(layout(index), MmapCall(start, length, prot, FIXED))
            zapped = [n for n in touched if n in model]
            model |= dict.fromkeys(touched, prot)
        elif name == "munmap":
            plan = plan_munmap(layout(index), start, length)
            zapped = [n for n in touched if model.pop(n, None) is not None]
        else:
            plan, zapped = plan_mprotect(layout(index), start, length, prot), []
            hole = next((n for n in touched if n not in model), None)
            assert (plan.error and plan.error.errno) == (
                (hole is not None and errno.ENOMEM) or None
            )
            model |= dict.fromkeys(n for n in touched if hole is None or (n < hole and n in model))
            model |= {n: prot for n in touched if hole is None or n < hole}
        assert zapped == [n for s, e in plan.zap for n in range(s // PAGE, e // PAGE)]
        index = applied(index, plan)
        index._check()
        assert model == {
            n: r.payload.prot for r in index for n in range(r.start // PAGE, r.end // PAGE)
        }
        # Nothing was ever written to, so whatever may be one VMA is one.
        regions = list(index)
        for left, right in pairwise(regions):
            assert left.end < right.start or left.payload.merged(right.payload) is None


def test_an_edit_takes_only_what_changes():
    """Holders of a neighbour that stays would be waited for."""
    index = built((0, 4, RW), (4, 4, R), (8, 4, RW))
    assert plan_mprotect(layout(index), 4 * PAGE, 4 * PAGE, R).edit is None
    plan = plan_mprotect(layout(index), 5 * PAGE, PAGE, 0)
    assert [(r.start, r.end) for r in plan.edit.old] == [(4 * PAGE, 8 * PAGE)]
    both = plan_mprotect(layout(index), 0, 8 * PAGE, R)
    assert [(r.start, r.end) for r in both.edit.old] == [(0, 4 * PAGE), (4 * PAGE, 8 * PAGE)]


def test_pieces_of_an_unwritten_vma_have_an_identity_each():
    """Writing to two pieces apart would let them merge, which the kernel's do not."""
    index = built((0, 6, RW))
    index = applied(index, plan_mprotect(layout(index), 2 * PAGE, 2 * PAGE, R))
    left, middle, right = index
    left.payload.anon.identity, right.payload.anon.identity = object(), object()
    assert middle.payload.anon.identity is None
    index = applied(index, plan_mprotect(layout(index), 2 * PAGE, 2 * PAGE, RW))
    assert shown(index) == [(0, 4, "rw-"), (4, 6, "rw-")]


def errno_of(call, *args) -> tuple[int, str]:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno, str(caught.value)


READABLE = numbered_file("readable", writable=False)
UNREADABLE = numbered_file("unreadable")
UNREADABLE.is_readable = False


@pytest.mark.parametrize(
    ("call", "code", "cure"),
    [
        (MmapCall(0, PAGE, R, MAP_PRIVATE), errno.EBADF, "pass file="),
        (MmapCall(0, 0, R, ANON), errno.EINVAL, "at least one byte"),
        (MmapCall(0, PAGE, R, MAP_ANONYMOUS), errno.EINVAL, "MAP_SHARED or MAP_PRIVATE"),
        (MmapCall(0, PAGE, R, MAP_ANONYMOUS | MAP_SHARED_VALIDATE), errno.EINVAL, "MAP_SHARED or"),
        (MmapCall(0, PAGE, R, ANON | MAP_HUGETLB), errno.ENOMEM, "leave MAP_HUGETLB out"),
        (MmapCall(0, PAGE, R, MAP_ANONYMOUS | 0x8), errno.EINVAL, "MAP_SHARED or MAP_PRIVATE"),
        (
            MmapCall(0, PAGE, R, 0x80000 | MAP_SHARED_VALIDATE, READABLE),
            errno.EOPNOTSUPP,
            "use MAP",
        ),
        (MmapCall(1, PAGE, R, FIXED), errno.EINVAL, "multiple of 4096"),
        (MmapCall(0, PAGE, R, MAP_PRIVATE, READABLE, 7), errno.EINVAL, "multiple of 4096"),
        (MmapCall(0, PAGE, R, MAP_PRIVATE, READABLE, -PAGE), errno.EINVAL, "offset of 0 or more"),
        (
            MmapCall(0, PAGE, R, MAP_PRIVATE, READABLE, (1 << 63) - PAGE + 4096),
            errno.EOVERFLOW,
            "earlier",
        ),
        (MmapCall(0, PAGE, RW, MAP_SHARED, READABLE), errno.EACCES, "use MAP_PRIVATE"),
        (MmapCall(0, PAGE, R, MAP_PRIVATE, UNREADABLE), errno.EACCES, "open it for reading"),
        (
            MmapCall(0, PAGE, R, MAP_PRIVATE | MAP_GROWSDOWN, READABLE),
            errno.EINVAL,
            "MAP_ANONYMOUS",
        ),
        (MmapCall(0, TASK + PAGE, R, ANON), errno.ENOMEM, "at most 0x40000"),
        (MmapCall(TASK, PAGE, R, FIXED), errno.ENOMEM, "stay below 0x40000"),
        (MmapCall(-PAGE, PAGE, R, FIXED), errno.ENOMEM, "stay below 0x40000"),
        (MmapCall(0, PAGE, R, ANON | MAP_32BIT), errno.ENOMEM, "unmap something first"),
        (MmapCall(0, 33 * PAGE, R, ANON), errno.ENOMEM, "unmap something first"),
        (
            MmapCall(0, PAGE, R, ANON | MAP_FIXED_NOREPLACE),
            errno.EEXIST,
            "use MAP_FIXED to replace",
        ),
    ],
)
def test_mmap_refuses_with_the_kernels_errno_and_a_cure(call, code, cure):
    """A caller would not learn which of six arguments is wrong, and what to pass instead."""
    index = built((0, 1, RW), (32, 1, RW))
    got, text = errno_of(plan_mmap, layout(index), call)
    assert got == code
    assert cure in text
    assert text.split("mmap(")[1].startswith(f"{call.address:#x}, {call.length:#x}")


def test_the_lowest_pages_are_refused():
    """A program could map page 0 and turn the null-pointer bugs of others into exploits."""
    low = Layout(RegionIndex())
    assert errno_of(plan_mmap, low, MmapCall(PAGE, PAGE, R, FIXED))[0] == errno.EPERM
    assert plan_mmap(low, MmapCall(PAGE, PAGE, R, ANON)).address == 1 << 16


def test_the_other_calls_refuse_with_the_kernels_errno_and_a_cure():
    """An argument outside the address space would be taken for a hole."""
    index = layout(built((0, 4, RW)))
    for args in [(1, PAGE), (0, 0), (0, -PAGE), (-PAGE, PAGE), (0, TASK + 1)]:
        assert errno_of(plan_munmap, index, *args)[0] == errno.EINVAL, args
    assert errno_of(plan_mprotect, index, 0, PAGE, 16)[0] == errno.EINVAL
    for args in [(0, -PAGE, R), (-PAGE, PAGE, R), (0, 1 << 64, R), (PAGE, 1 << 64, R)]:
        code = errno.ENOMEM
        if args[1] == 1 << 64 and not args[0]:
            assert plan_mprotect(index, *args).error.errno == code
        else:
            assert errno_of(plan_mprotect, index, *args)[0] == code
    for args in [(1, PAGE, 4), (0, -PAGE, 4), (-PAGE, PAGE, 4), (0, PAGE, 5)]:
        assert errno_of(plan_madvise, index, *args)[0] == errno.EINVAL, args


def test_a_file_that_is_not_open_for_writing_stays_unwritten():
    """Mprotect would grant what mmap has refused."""
    index = RegionIndex()
    shared = MmapCall(0, 2 * PAGE, R, MAP_SHARED_VALIDATE | MAP_FIXED, READABLE)
    index = applied(index, plan_mmap(layout(index), shared))
    private = MmapCall(2 * PAGE, PAGE, R, MAP_PRIVATE | MAP_FIXED, READABLE)
    index = applied(index, plan_mmap(layout(index), private))
    plan = plan_mprotect(layout(index), 0, PAGE, RW)
    assert (plan.edit, plan.error.errno) == (None, errno.EACCES)
    assert plan_mprotect(layout(index), 2 * PAGE, PAGE, RW).error is None


def test_there_may_be_only_so_many_vmas():
    """A program that splits without end would take all memory for the index."""
    index = built((0, 3, RW), (4, 3, RW), (8, 3, RW))
    full = layout(index, limits=Limits(max_map_count=3))
    assert errno_of(plan_munmap, full, PAGE, PAGE)[0] == errno.ENOMEM
    assert plan_mprotect(full, PAGE, PAGE, R).error.errno == errno.ENOMEM
    assert plan_munmap(full, 0, PAGE).edit is not None
    # The kernel's mmap lets one more be.
    assert plan_mmap(full, MmapCall(20 * PAGE, PAGE, R, FIXED)).edit is not None
    over = layout(index, limits=Limits(max_map_count=2))
    assert errno_of(plan_mmap, over, MmapCall(20 * PAGE, PAGE, R, FIXED))[0] == errno.ENOMEM


def test_a_locked_mapping_keeps_its_pages():
    """MADV_DONTNEED would drop pages that are promised to stay."""
    index = RegionIndex([Region(0, PAGE, VMA(RW)), Region(PAGE, 2 * PAGE, VMA(RW | VM_LOCKED))])
    plan = plan_madvise(layout(index), 0, 2 * PAGE, 4)
    assert (plan.spans, plan.error.errno) == (((0, PAGE),), errno.EINVAL)


# Gaps ------------------------------------------------------------------------------------------

UNIT = (2 << 20) + PAGE
HUGE = 2 << 20


def region_with_holes(unit: int, holes: list[tuple[int, int]]) -> Layout:
    """Fill the space above, as a process's is, so that only the holes are high enough."""
    index, position, base = RegionIndex(), 0, 1 << 40
    regions = []
    for start, size in sorted((at, size) for size, at in holes):
        regions.append(Region(base + position * unit, base + start * unit, VMA(R)))
        position = start + size
    top = Layout(index).search_base
    regions.append(Region(base + position * unit, top, VMA(R)))
    return Layout(RegionIndex(regions))


# Measured like the recorded one, with a unit that is not whole huge pages.
EXACT_FIT = [
    (64, 1092),
    (128, 964),
    (64, 900),
    (64, 600),
    (256, "below"),
    (64, 364),
    (64, 300),
    (32, 132),
]
BOTTOM_UP, TOP_DOWN = (case for case in load("extra.json") if case["group"] == "gap")


@pytest.mark.parametrize(
    ("unit", "placed"),
    [(UNIT, EXACT_FIT), (HUGE, TOP_DOWN["result"])],
    ids=["exact fit", "aligned for huge pages"],
)
def test_the_highest_gap_that_fits_at_its_top(unit, placed):
    """Mappings would land elsewhere than the kernel that was measured put them."""
    assert "holes (unit 2MiB) 64@100 128@300 64@600 256@900" in TOP_DOWN["name"]
    base, where = 1 << 40, region_with_holes(unit, [(64, 100), (128, 300), (64, 600), (256, 900)])
    for size, place in placed:
        plan = plan_mmap(where, MmapCall(0, size * unit, RW, ANON))
        assert ("below" if plan.address < base else (plan.address - base) // unit) == place
        where = Layout(where.index.edited(plan.edit))


def test_the_lowest_gap_that_fits_below_4_gib():
    """MAP_32BIT would give addresses that no 32-bit pointer holds."""
    holes = [(2, 0x50000000), (8, 0x50010000), (4, 0x60000000), (8, 0x70000000)]
    position, regions = 0x40000000, []
    for pages, start in holes:
        regions.append(Region(position, start, VMA(R)))
        position = start + pages * PAGE
    where = Layout(RegionIndex([*regions, Region(position, 0x80000000, VMA(R))]))
    places = []
    assert "2p@0x50000000 8p@0x50010000 4p@0x60000000 8p@0x70000000" in BOTTOM_UP["name"]
    for pages, _ in BOTTOM_UP["result"]:
        call = MmapCall(0, pages * PAGE, RW, ANON | MAP_32BIT)
        try:
            plan = plan_mmap(where, call)
        except OSError as error:
            places.append([pages, errno.errorcode[error.errno]])
            continue
        places.append([pages, hex(plan.address)])
        where = Layout(where.index.edited(plan.edit))
    assert places == BOTTOM_UP["result"]


@pytest.mark.parametrize("taken", [0, 1])
def test_low_huge_pages_are_aligned_upwards(taken):
    """The room to spare would be taken from the wrong end, which even Linux does from below."""
    where = Layout(RegionIndex([Region(0x40000000 - PAGE, 0x40000000 + taken * PAGE, VMA(R))]))
    call = MmapCall(0, HUGE, RW, ANON | MAP_32BIT)
    assert plan_mmap(where, call).address == 0x40000000 + HUGE


def test_huge_pages_are_given_up_before_the_mapping():
    """A gap of the right size would be no gap, since it can't be aligned in."""
    where = Layout(RegionIndex([Region(0x40000000 + HUGE, 0x80000000, VMA(R))]))
    assert plan_mmap(where, MmapCall(0, HUGE, RW, ANON | MAP_32BIT)).address == 0x40000000


def test_what_is_vacated_counts_as_occupied():
    """A new mapping would get pages that the zap of the old one takes away."""
    top = 53 * PAGE
    empty = layout(RegionIndex())
    assert empty.search_base == top
    vacated = layout(RegionIndex(), vacated=((20 * PAGE, 30 * PAGE), (top - PAGE, top)))
    free = [plan_mmap(vacated, MmapCall(0, n * PAGE, R, ANON)).address // PAGE for n in (1, 22)]
    assert free == [51, 30]
    assert errno_of(plan_mmap, vacated, MmapCall(0, 23 * PAGE, R, ANON))[0] == errno.ENOMEM
    split = layout(built((40, 1, R)), vacated=vacated.vacated)
    assert plan_mmap(split, MmapCall(0, 12 * PAGE, R, ANON)).address == 8 * PAGE
    hint = MmapCall(25 * PAGE, PAGE, R, ANON)
    assert plan_mmap(vacated, hint).address == top - 2 * PAGE
    assert plan_mmap(empty, hint).address == 25 * PAGE


def test_a_stack_keeps_its_guard_gap():
    """A stack that grows would run into another mapping without a fault."""
    stack = Region(1000 * PAGE, 1004 * PAGE, VMA(RW | VM_GROWSDOWN, anon=Anon()))
    where = Layout(RegionIndex([stack]), task_size=1010 * PAGE, min_address=0)
    at = [
        plan_mmap(where, MmapCall(page * PAGE, PAGE, R, ANON)).address // PAGE
        for page in (743, 744)
    ]
    assert at == [743, 743]


def test_nothing_is_placed_within_the_guard_gap_of_a_stack_that_was_in_the_way():
    """A mapping would lie elsewhere than in Linux, which searches on below the whole guard gap."""
    stack = Region(1000 * PAGE, 1001 * PAGE, VMA(RW | VM_GROWSDOWN, anon=Anon()))
    below = Region(990 * PAGE, 991 * PAGE, VMA(R))
    above = Region(1001 * PAGE, 1010 * PAGE, VMA(R))

    def placed(regions: list, pages: int) -> int:
        top = 1010 * PAGE
        where = Layout(RegionIndex(regions), task_size=top, min_address=0, mmap_base=top)
        return plan_mmap(where, MmapCall(0, pages * PAGE, R, ANON)).address // PAGE

    assert placed([below, stack, above], 1) == 743
    # It is not in the way of what is too long for the room below it.
    assert placed([below, stack, above], 10) == 980


def test_above_the_stack_is_the_last_resort():
    """A space whose lower part is full would refuse what still has room."""
    where = layout(built((0, 54, R)))
    assert plan_mmap(where, MmapCall(0, PAGE, R, ANON)).address == 54 * PAGE


HUGE_PAGE = 512 * PAGE
TALL = 64 * HUGE_PAGE


@pytest.mark.parametrize(
    ("pages", "offset", "start"),
    [
        (512, 0, TALL - HUGE_PAGE),  # fits as it is: the search for one more found an aligned place
        (600, 0, TALL - 2 * HUGE_PAGE),
        (600, 100, TALL - 600 * PAGE),  # no whole huge page of the file is in it
        (1100, 100, TALL - 3 * HUGE_PAGE + 100 * PAGE),
        (511, 0, TALL - 511 * PAGE),
    ],
)
def test_a_large_file_is_placed_for_huge_pages(pages, offset, start):
    """Real programs map libraries of several MiB; they would be elsewhere than in Linux."""
    file = numbered_file("f")
    call = MmapCall(0, pages * PAGE, R, MAP_PRIVATE, file, offset * PAGE)
    where = Layout(RegionIndex(), task_size=2 * TALL, min_address=0, mmap_base=TALL)
    assert plan_mmap(where, call).address == TALL - pages * PAGE
    file.is_huge_aligned = True
    assert plan_mmap(where, call).address == start


def test_a_hint_for_a_large_file_needs_room_for_aligning():
    """A hint would be taken that Linux passes over, or the other way round."""
    file = numbered_file("f")
    file.is_huge_aligned = True
    hint = TALL // 2 + PAGE
    call = MmapCall(hint, HUGE_PAGE, R, MAP_PRIVATE, file)
    where = Layout(RegionIndex(), task_size=2 * TALL, min_address=0, mmap_base=TALL)
    assert plan_mmap(where, call).address == hint
    above = RegionIndex([Region(hint + HUGE_PAGE, hint + HUGE_PAGE + PAGE, VMA(R))])
    near = Layout(above, task_size=2 * TALL, min_address=0, mmap_base=TALL)
    assert plan_mmap(near, call).address == TALL - HUGE_PAGE


def test_a_stack_does_not_merge_with_other_memory():
    """The stacks of threads would be one VMA with what lies beside them; Linux 6.7 parts them."""
    index = built((8, 4, RW))
    for flags, vmas in ((FIXED, 1), (FIXED | MAP_STACK, 2)):
        call = MmapCall(4 * PAGE, 4 * PAGE, RW, flags)
        assert len(applied(index, plan_mmap(layout(index), call))) == vmas
