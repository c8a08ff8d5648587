"""What a process may have, what it has, and the checks of one against the other.

Each check is one that Linux makes under the name that is given with it. They only answer; which
errno a refusal is depends on the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

from ._constants import PAGE_SHIFT
from ._vma import VM_ACCOUNT, VM_GROWSDOWN, VM_LOCKED, VM_SHARED, VM_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aspf.ranges import Region

    from ._vma import VMA

__all__ = (
    "LINUX_LIMITS",
    "NOTHING",
    "Limits",
    "Usage",
    "can_do_mlock",
    "has_memory",
    "may_expand",
    "may_lock",
    "too_little_memory",
    "too_much",
    "too_much_locked",
    "usage_of",
    "usage_of_regions",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a process may have: Linux's resource limits, and what the machine allows.

    Sizes are in bytes; None is no limit. The defaults are those of a process that nobody has
    limited, on a machine of unknown size.

    Attributes:
        address_space: All that is mapped (``RLIMIT_AS``).
        data: Private writable memory, the heap among it (``RLIMIT_DATA``).
        locked: Locked memory (``RLIMIT_MEMLOCK``); 8 MiB, as Linux has it.
        stack: How long a stack may grow (``RLIMIT_STACK``); 8 MiB, as most systems have it.
        max_map_count: How many VMAs there may be (``vm.max_map_count``).
        overcommit_memory: Whether memory may be promised that there is not
            (``vm.overcommit_memory``). 0: unless one call asks for more than *total_memory*.
            1: always. 2: never more than *commit_limit*.
        total_memory: The machine's memory and swap space.
        commit_limit: How much may be promised in all (``CommitLimit`` of ``/proc/meminfo``). An
            address space counts what it has been promised itself.
        user_reserve: What mode 2 keeps free for others, but no more than the 32nd part of what is
            mapped (``vm.user_reserve_kbytes``).
        admin_reserve: What mode 2 keeps free for the administrator (``vm.admin_reserve_kbytes``).
        cap_ipc_lock: Whether *locked* does not count (``CAP_IPC_LOCK``).
        cap_sys_admin: Whether *admin_reserve* is ours (``CAP_SYS_ADMIN``).
    """

    address_space: int | None = None
    data: int | None = None
    locked: int | None = 8 << 20
    stack: int | None = 8 << 20
    max_map_count: int = 65530
    overcommit_memory: Literal[0, 1, 2] = 0
    total_memory: int | None = None
    commit_limit: int | None = None
    user_reserve: int = 0
    admin_reserve: int = 0
    cap_ipc_lock: bool = False
    cap_sys_admin: bool = False


@final
@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has, in pages; Linux counts the same.

    Attributes:
        total_vm: Mapped.
        data_vm: Of these, private and writable, and no stack.
        locked_vm: Locked.
        committed: Promised: mapped with VM_ACCOUNT, or the size of shared anonymous memory.
    """

    total_vm: int = 0
    data_vm: int = 0
    locked_vm: int = 0
    committed: int = 0

    def plus(self, other: Usage) -> Usage:
        """Add up."""
        return Usage(
            self.total_vm + other.total_vm,
            self.data_vm + other.data_vm,
            self.locked_vm + other.locked_vm,
            self.committed + other.committed,
        )

    def minus(self, other: Usage) -> Usage:
        """Take away."""
        return Usage(
            self.total_vm - other.total_vm,
            self.data_vm - other.data_vm,
            self.locked_vm - other.locked_vm,
            self.committed - other.committed,
        )


LINUX_LIMITS: Final = Limits()
NOTHING: Final = Usage()


def usage_of(vmas: Iterable[tuple[int, int, int]]) -> Usage:
    """Return what VMAs of these starts, ends and flags count for."""
    total = data = locked = committed = 0
    for start, end, flags in vmas:
        pages = (end - start) >> PAGE_SHIFT
        total += pages
        data += pages if _is_data(flags) else 0
        locked += pages if flags & VM_LOCKED else 0
        committed += pages if flags & VM_ACCOUNT else 0
    return Usage(total, data, locked, committed)


def usage_of_regions(regions: Iterable[Region[VMA]]) -> Usage:
    """Return what these regions count for."""
    return usage_of((r.start, r.end, r.payload.flags) for r in regions)


def _is_data(flags: int) -> bool:
    return flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) == VM_WRITE


def may_expand(limits: Limits, used: Usage, flags: int, pages: int) -> bool:
    """Tell whether so many pages more may be mapped (``may_expand_vm``)."""
    if _exceeds(used.total_vm + pages, limits.address_space):
        return False
    return not (_is_data(flags) and _exceeds(used.data_vm + pages, limits.data))


def may_lock(limits: Limits, used: Usage, flags: int, pages: int) -> bool:
    """Tell whether so many pages more may be mapped with these flags (``mlock_future_ok``)."""
    if not flags & VM_LOCKED or limits.cap_ipc_lock:
        return True
    return not _exceeds(used.locked_vm + pages, limits.locked)


def can_do_mlock(limits: Limits) -> bool:
    """Tell whether anything may be locked at all."""
    return limits.locked != 0 or limits.cap_ipc_lock


def has_memory(limits: Limits, used: Usage, pages: int) -> bool:
    """Tell whether so many pages more may be promised (``__vm_enough_memory``)."""
    if limits.overcommit_memory == 1:
        return True
    if limits.overcommit_memory == 0:
        return not _exceeds(pages, limits.total_memory)
    if limits.commit_limit is None:
        return True
    allowed = limits.commit_limit >> PAGE_SHIFT
    if not limits.cap_sys_admin:
        allowed -= limits.admin_reserve >> PAGE_SHIFT
    allowed -= min(used.total_vm // 32, limits.user_reserve >> PAGE_SHIFT)
    return used.committed + pages < allowed


def _exceeds(pages: int, limit: int | None) -> bool:
    return limit is not None and pages > limit >> PAGE_SHIFT


# What a refusal says: what is wrong, and the cure ----------------------------------------------


def too_much(limits: Limits) -> tuple[str, str]:
    """Return the words for what `may_expand` refuses."""
    sizes = f"address_space={_size(limits.address_space)}, data={_size(limits.data)}"
    return f"more memory than the limits {sizes}", "unmap some, or raise Limits"


def too_much_locked(limits: Limits) -> tuple[str, str]:
    """Return the words for what `may_lock` refuses."""
    what = f"more than {_size(limits.locked)} of locked memory"
    return what, "unlock some, raise Limits.locked, or set Limits.cap_ipc_lock"


def too_little_memory(limits: Limits) -> tuple[str, str]:
    """Return the words for what `has_memory` refuses."""
    # MAP_NORESERVE is not heard in mode 2.
    what, size, cure = "commit_limit", limits.commit_limit, "map less"
    if limits.overcommit_memory == 0:
        what, size, cure = "total_memory", limits.total_memory, "map less or with MAP_NORESERVE"
    cure = f"{cure}, or raise Limits.{what}"
    return f"more than may be promised ({what}={_size(size)})", cure


def _size(limit: int | None) -> str:
    return "no limit" if limit is None else f"{limit:#x}"
