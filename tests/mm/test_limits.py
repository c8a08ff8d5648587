"""Limits: which errno, and what has changed all the same.

The answers were measured on Linux 6.18; those of overcommit_memory=2 are in test_overcommit.py.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import anyio
import pytest
from mm.test_address_space import ANON, BASE, FIXED, PAGE, RW, Gate, R, at, settle_down
from mm.test_plan import applied, built, errno_of, layout, shown

from aspf import mm
from aspf.mm import AddressSpace, Limits
from aspf.mm._limits import Usage, has_memory
from aspf.mm._plan import MmapCall, plan_mmap, plan_mprotect
from aspf.mm._plan_brk import plan_brk
from aspf.mm._plan_flags import plan_mlock, plan_mlockall
from aspf.mm._plan_mremap import MremapCall, plan_mremap

if TYPE_CHECKING:
    from aspf.mm._pieces import Layout

TO = mm.MREMAP_MAYMOVE | mm.MREMAP_FIXED
SHARED = mm.MAP_SHARED | mm.MAP_ANONYMOUS | mm.MAP_FIXED


def limited(index, **limits) -> Layout:
    sizes = ("address_space", "data", "locked", "total_memory", "commit_limit", "user_reserve")
    return layout(
        index,
        limits=Limits(**{k: v * PAGE if k in sizes else v for k, v in limits.items()}),
    )


def fixed(first: int, pages: int, prot: int, flags: int = FIXED, file=None) -> MmapCall:
    return MmapCall(first * PAGE, pages * PAGE, prot, flags, file)


def shown_after(where: Layout, plan) -> list:
    return shown(applied(where.index, plan))


def test_what_is_replaced_makes_room():
    """A process at its limit could not change what a mapping is."""
    where = limited(built((0, 6, RW)), address_space=7)
    assert plan_mmap(where, fixed(2, 5, R)).error is None
    plan = plan_mmap(where, fixed(2, 6, R))
    assert plan.error.errno == errno.ENOMEM
    assert "address_space=0x7000" in str(plan.error)


def test_a_refused_mmap_has_split_what_was_in_its_way():
    """The layout after the error would not be the kernel's."""
    where = limited(built((0, 4, RW), (4, 4, R)), address_space=8)
    plan = plan_mmap(where, fixed(2, 20, R))
    assert shown_after(where, plan) == [(0, 2, "rw-"), (2, 4, "rw-"), (4, 8, "r--")]
    assert plan.zap == ()
    # Nothing sticks out, so nothing is split.
    assert plan_mmap(where, fixed(0, 20, R)).edit is None


def test_what_was_split_stays_apart_where_no_call_touches_it():
    """A piece that grows on its right would merge on its left too, which the kernel's does not."""
    where = limited(built((0, 4, RW), (4, 2, R)), address_space=6)
    index = applied(where.index, plan_mmap(where, fixed(2, 20, R, FIXED)))
    assert shown(index)[:2] == [(0, 2, "rw-"), (2, 4, "rw-")]
    plan = plan_mprotect(layout(index), 3 * PAGE, 2 * PAGE, RW)
    assert shown(applied(index, plan)) == [(0, 2, "rw-"), (2, 5, "rw-"), (5, 6, "r--")]


def test_only_private_writable_memory_is_data():
    """A process would be refused memory that RLIMIT_DATA is not about."""
    where = limited(built((0, 4, RW)), data=4)
    assert plan_mmap(where, fixed(8, 1, RW)).error.errno == errno.ENOMEM
    assert plan_mmap(where, fixed(8, 1, RW, FIXED | mm.MAP_GROWSDOWN)).error is None
    where = layout(applied(where.index, plan_mmap(where, fixed(8, 4, R))), limits=where.limits)
    plan = plan_mprotect(where, 8 * PAGE, PAGE, RW)
    assert (plan.error.errno, plan.edit) == (errno.ENOMEM, None)
    assert plan_brk(where, 0, 0, 5 * PAGE).address == 0
    assert plan_brk(limited(built(), data=4), 0, 0, 4 * PAGE).address == 4 * PAGE


def test_mprotect_changes_what_lies_below_the_limit():
    """All or nothing of the range would change, and the kernel's part is in between."""
    where = limited(built((0, 2, R), (2, 2, mm.PROT_EXEC)), data=3)
    plan = plan_mprotect(where, 0, 4 * PAGE, RW)
    assert plan.error.errno == errno.ENOMEM
    assert shown_after(where, plan) == [(0, 2, "rw-"), (2, 4, "--x")]
    # Who is over the address-space limit already may still change protections.
    where = limited(built((0, 4, R)), address_space=3, data=4)
    assert plan_mprotect(where, 0, 4 * PAGE, RW).error is None


def test_a_split_without_room_leaves_the_splits_before_it():
    """The layout after ENOMEM or EAGAIN would not be the kernel's."""
    index = built((0, 4, RW), (4, 4, R))
    where = limited(index, max_map_count=3)
    plan = plan_mprotect(where, PAGE, PAGE, 0)
    # There was room for one of two splits.
    assert (plan.error.errno, shown_after(where, plan)) == (
        errno.ENOMEM,
        [(0, 1, "rw-"), (1, 4, "rw-"), (4, 8, "r--")],
    )
    plan = plan_mlock(where, 2 * PAGE, 4 * PAGE)
    assert plan.error.errno == errno.ENOMEM
    assert shown_after(where, plan) == [(0, 2, "rw-"), (2, 4, "rw-"), (4, 8, "r--")]
    # What merges needs no room.
    plan = plan_mprotect(limited(index, max_map_count=2), 2 * PAGE, 2 * PAGE, R)
    assert plan.error is None
    plan = plan_mprotect(limited(index, max_map_count=2), 2 * PAGE, 4 * PAGE, R)
    assert shown_after(where, plan) == [(0, 2, "rw-"), (2, 8, "r--")]


def test_locked_memory_has_an_errno_for_each_call():
    """A program could not tell "try again" from "never"."""
    index = built((0, 6, RW))
    where = limited(index, locked=4)
    assert errno_of(plan_mlock, where, 0, 5 * PAGE)[0] == errno.ENOMEM
    index = applied(index, plan_mlock(where, 0, 4 * PAGE))
    where = layout(index, limits=where.limits)
    assert plan_mlock(where, 2 * PAGE, 2 * PAGE).error is None
    assert errno_of(plan_mlock, where, 2 * PAGE, 3 * PAGE)[0] == errno.ENOMEM
    assert errno_of(plan_mmap, where, fixed(8, 1, R, FIXED | mm.MAP_LOCKED))[0] == errno.EAGAIN
    grow = MremapCall(0, 2 * PAGE, 4 * PAGE, TO, 20 * PAGE)
    assert errno_of(plan_mremap, where, grow)[0] == errno.EAGAIN
    assert errno_of(plan_mlockall, where, mm.MCL_CURRENT)[0] == errno.ENOMEM
    assert plan_mlockall(where, mm.MCL_FUTURE).edit is None
    future = layout(index, limits=where.limits, def_flags=mm.VM_LOCKED)
    assert plan_brk(future, 0x20000, 0x20000, 0x21000).error.errno == errno.EAGAIN
    assert errno_of(plan_mmap, future, fixed(8, 1, R))[0] == errno.EAGAIN
    free = limited(index, locked=4, cap_ipc_lock=True)
    assert plan_mlock(free, 0, 6 * PAGE).error is None
    assert plan_mlockall(free, mm.MCL_CURRENT).edit
    assert plan_mmap(free, fixed(8, 1, R, FIXED | mm.MAP_LOCKED)).error is None


def test_who_may_lock_nothing_is_told_so():
    """EPERM says that no smaller request will do."""
    where = limited(built((0, 4, RW)), locked=0)
    for plan, *args in [
        (plan_mlock, 0, PAGE),
        (plan_mlock, 0, 0),
        (plan_mlockall, mm.MCL_FUTURE),
        (plan_mmap, fixed(8, 1, R, FIXED | mm.MAP_LOCKED)),
    ]:
        code, text = errno_of(plan, where, *args)
        assert code == errno.EPERM
        assert "Limits.cap_ipc_lock" in text


def test_the_obvious_overcommit_is_refused():
    """A call would be promised more than the machine has, or NORESERVE not be heard."""
    index = built((0, 6, RW))
    where = limited(index, total_memory=20)
    plan = plan_mmap(where, fixed(2, 30, RW))
    assert plan.error.errno == errno.ENOMEM
    assert "MAP_NORESERVE" in str(plan.error)
    assert shown_after(where, plan) == [(0, 2, "rw-"), (2, 6, "rw-")]
    assert plan_mmap(where, fixed(2, 30, R)).error is None
    assert plan_mmap(where, fixed(2, 30, RW, FIXED | mm.MAP_NORESERVE)).error is None
    big = layout(applied(index, plan_mmap(where, fixed(10, 30, R))), limits=where.limits)
    assert plan_mprotect(big, 10 * PAGE, 30 * PAGE, RW).error.errno == errno.ENOMEM
    assert errno_of(plan_mremap, where, MremapCall(0, 6 * PAGE, 30 * PAGE))[0] == errno.ENOMEM
    assert plan_brk(where, 10 * PAGE, 10 * PAGE, 40 * PAGE).error.errno == errno.ENOMEM
    always = limited(index, total_memory=20, overcommit_memory=1)
    assert plan_mmap(always, fixed(2, 30, RW)).error is None


def test_under_strict_overcommit_everything_counts():
    """More would be promised than there is, and somebody be killed for it."""
    index = built((0, 6, RW))
    where = limited(index, overcommit_memory=2, commit_limit=10)
    # Nine of ten: the last page is never given.
    assert plan_mmap(where, fixed(8, 3, RW)).error is None
    assert plan_mmap(where, fixed(8, 4, RW)).error.errno == errno.ENOMEM
    assert plan_mmap(where, fixed(0, 9, RW)).error is None
    # Who must not promise too much can't be told not to count.
    told = plan_mmap(where, fixed(8, 4, RW, FIXED | mm.MAP_NORESERVE)).error
    assert told.errno == errno.ENOMEM
    assert "map less, or raise Limits.commit_limit" in str(told)
    dontunmap = MremapCall(0, 6 * PAGE, 6 * PAGE, TO | mm.MREMAP_DONTUNMAP, 20 * PAGE)
    assert plan_mremap(where, dontunmap).error.errno == errno.ENOMEM
    assert plan_mmap(limited(index, overcommit_memory=2), fixed(8, 40, RW)).error is None


def test_what_strict_overcommit_keeps_for_others():
    """An administrator could not log in any more."""
    used = Usage(total_vm=640)
    limits = {"overcommit_memory": 2, "commit_limit": 100 * PAGE, "admin_reserve": 10 * PAGE}
    assert has_memory(Limits(**limits), used, 89)
    assert not has_memory(Limits(**limits), used, 90)
    assert has_memory(Limits(cap_sys_admin=True, **limits), used, 99)
    # A 32nd part of 640 pages, but no more than the reserve.
    assert not has_memory(Limits(user_reserve=50 * PAGE, **limits), used, 70)
    assert has_memory(Limits(user_reserve=50 * PAGE, **limits), used, 69)
    assert has_memory(Limits(user_reserve=5 * PAGE, **limits), used, 84)


def test_mremap_asks_the_limits():
    """A mapping could grow where mmap would be refused."""
    index = built((0, 4, RW))
    where = limited(index, address_space=6)
    assert plan_mremap(where, MremapCall(0, 4 * PAGE, 6 * PAGE)).error is None
    assert errno_of(plan_mremap, where, MremapCall(0, 4 * PAGE, 7 * PAGE))[0] == errno.ENOMEM
    dontunmap = MremapCall(0, 4 * PAGE, 4 * PAGE, TO | mm.MREMAP_DONTUNMAP, 20 * PAGE)
    assert plan_mremap(where, dontunmap).error.errno == errno.ENOMEM
    assert plan_brk(where, 40 * PAGE, 40 * PAGE, 43 * PAGE).error.errno == errno.ENOMEM


# In a space ----------------------------------------------------------------------------------------

pytestmark = pytest.mark.anyio


def counted(space: AddressSpace) -> tuple[int, int, int, int]:
    seen = space.statistics()
    return seen.total_vm, seen.data_vm, seen.locked_vm, seen.committed


async def test_what_there_is_is_counted():
    """A limit would be compared with something else than what is mapped."""
    async with AddressSpace() as space:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED)
        await space.mmap(at(4), 2 * PAGE, R, FIXED | mm.MAP_LOCKED)
        assert counted(space) == (6, 4, 2, 4)
        await space.mprotect(BASE, 6 * PAGE, R)
        assert counted(space) == (6, 0, 2, 0)
        await space.mprotect(BASE, 2 * PAGE, RW)
        await space.mremap(BASE, 2 * PAGE, 2 * PAGE, TO, at(8))
        await space.brk(await space.brk(0) + 3 * PAGE)
        assert counted(space) == (9, 5, 2, 5)
        await space.munmap(BASE, 10 * PAGE)
        assert counted(space) == (3, 3, 0, 3)


async def test_shared_memory_is_promised_whole():
    """Memory that two mappings share would be counted twice, or given back by halves."""
    limits = Limits(total_memory=16 * PAGE)
    async with AddressSpace(limits=limits) as space:
        await space.mmap(BASE, 8 * PAGE, RW, SHARED)
        await space.mremap(BASE, 0, 2 * PAGE, TO, at(20))
        assert counted(space)[3] == 8
        await space.munmap(BASE, 8 * PAGE)
        assert counted(space)[3] == 8
        await space.munmap(at(21), PAGE)
        await space.munmap(at(20), PAGE)
        assert counted(space)[3] == 0
        await space.mmap(BASE, 20 * PAGE, RW, SHARED | mm.MAP_NORESERVE)
        assert counted(space)[3] == 0
        # What was in the way is gone when its file can't be made.
        with pytest.raises(OSError, match="total_memory=0x10000"):
            await space.mmap(at(1), 17 * PAGE, RW, SHARED)
        assert [(r.start, r.end) for r in space._map.index] == [(BASE, at(1)), (at(18), at(20))]


async def test_a_refused_mremap_leaves_no_page_of_what_was_in_its_way():
    """A page of an unmapped range would stay, and be found in what is mapped there next."""
    async with AddressSpace(limits=Limits(data=2 * PAGE)) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.mmap(at(8), 2 * PAGE, R, FIXED)
        await space.read(at(9), 1)
        with pytest.raises(OSError, match="data=0x2000"):
            await space.mremap(BASE, 2 * PAGE, 2 * PAGE, TO | mm.MREMAP_DONTUNMAP, at(8))
        assert [(r.start, r.end) for r in space._map.index] == [(BASE, at(2))]
        assert space.statistics().pages == 0


async def test_what_linux_never_stops_counting():
    """The third mlock would succeed here and fail there."""
    async with AddressSpace() as space:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED | mm.MAP_LOCKED)
        flags = TO | mm.MREMAP_DONTUNMAP
        await space.mremap(BASE, 4 * PAGE, 4 * PAGE, flags, at(20))
        await space.munlock(at(20), 4 * PAGE)
        assert counted(space) == (8, 8, 4, 8)
        await space.mremap(at(20), 4 * PAGE, PAGE, TO, at(40))
        assert counted(space) == (5, 5, 4, 8)
        await space.munmap(BASE, 60 * PAGE)
        assert counted(space) == (0, 0, 4, 3)


async def test_a_refused_mmap_raises_and_waits_for_nobody():
    """An error would come when a slow disk lets it, or the part that took effect be lost."""
    gate = Gate()
    limits = Limits(address_space=4 * PAGE)
    async with AddressSpace(limits=limits, pager=gate) as space, anyio.create_task_group() as tasks:
        await space.mmap(BASE, 4 * PAGE, RW, FIXED)
        tasks.start_soon(space.fault, BASE)
        await settle_down()
        with pytest.raises(OSError, match="address_space=0x4000"):
            await space.mmap(at(2), 9 * PAGE, R, FIXED)
        assert [r.start for r in space._map.index] == [BASE, at(2)]
        gate.go.set()


@pytest.mark.parametrize(
    "call",
    [
        lambda space: space.mmap(at(20), 2 * PAGE, RW, FIXED),
        lambda space: space.mremap(BASE, 2 * PAGE, 4 * PAGE, mm.MREMAP_MAYMOVE),
        lambda space: space.mlock(BASE, 2 * PAGE),
        lambda space: space.mprotect(at(8), PAGE, RW),
    ],
    ids=["mmap", "mremap", "mlock", "mprotect"],
)
async def test_what_is_being_unmapped_is_waited_for_before_a_call_is_refused(call):
    """A call would fail for want of memory that is being given back."""
    gate = Gate()
    limits = Limits(data=4 * PAGE, locked=2 * PAGE)
    async with AddressSpace(limits=limits, pager=gate) as space:
        await space.mmap(BASE, 2 * PAGE, RW, FIXED)
        await space.mmap(at(2), 2 * PAGE, RW, FIXED | mm.MAP_NORESERVE)
        await space.mmap(at(8), PAGE, R, FIXED)
        done = []
        async with anyio.create_task_group() as tasks:
            gate.go.set()
            await space.mlock(at(2), 2 * PAGE)
            await space.madvise(at(2), 2 * PAGE, mm.MADV_DONTNEED_LOCKED)
            gate.go = anyio.Event()
            tasks.start_soon(space.fault, at(2))
            await settle_down()
            tasks.start_soon(space.munmap, at(2), 2 * PAGE)
            await settle_down()
            assert space.statistics().locked_vm == 2

            async def caller():
                await call(space)
                done.append(True)

            tasks.start_soon(caller)
            await settle_down()
            assert done == []
            gate.go.set()
        assert done == [True]


async def test_a_heap_waits_for_what_is_being_unmapped():
    """An allocator would be refused memory that is being given back."""
    gate = Gate()
    limits = Limits(address_space=2 * PAGE)
    async with AddressSpace(limits=limits, pager=gate) as space:
        start = await space.brk(0)
        await space.mmap(BASE, PAGE, RW, FIXED)
        await space.brk(start + PAGE)
        assert await space.brk(start + 2 * PAGE) == start + PAGE
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.fault, BASE)
            await settle_down()
            tasks.start_soon(space.munmap, BASE, PAGE)
            await settle_down()
            tasks.start_soon(space.brk, start + 2 * PAGE)
            await settle_down()
            assert await space.brk(0) == start + PAGE
            gate.go.set()
        assert await space.brk(0) == start + 2 * PAGE


async def test_a_refused_call_says_what_the_limit_is():
    """Who reads the error at night would not know what to raise."""
    async with AddressSpace(limits=Limits(locked=0x3000)) as space:
        with pytest.raises(OSError, match=r"0x3000 of locked memory; .*raise Limits\.locked"):
            await space.mmap(0, 4 * PAGE, RW, ANON | mm.MAP_LOCKED)
