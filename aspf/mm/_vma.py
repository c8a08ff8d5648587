"""The VMA: what a range of addresses is mapped to, and when two neighbours are one.

A VMA is the payload of a region, and the region is what has a start and an end. The payload says
where byte 0 of the mapped object would lie (`VMA.origin`) instead of which page of it comes first,
as Linux's ``vm_pgoff`` does. The two say the same, but the origin does not move when a piece is
cut off, and "the offsets are contiguous" between neighbours becomes "the origins are equal".

One thing about a VMA changes without an edit: its first write fault gives it an anonymous
identity (Linux's ``anon_vma``). Publishing an edit for that would retire the region under
everybody who holds it, so the identity stands in a handle of its own, `Anon`, which is set once.
Pieces of a VMA that has an identity share the handle. Pieces of one that has none must not, for
they may later be written to apart and are then two (the kernel leaves them unmerged); `VMA.cut`
sees to both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, final

from ._constants import PAGE_SHIFT, PROT_EXEC, PROT_READ, PROT_WRITE

if TYPE_CHECKING:
    from ._file import MappedFile

__all__ = (
    "VMA",
    "VM_ACCESS",
    "VM_ACCOUNT",
    "VM_DONTCOPY",
    "VM_DONTDUMP",
    "VM_GROWSDOWN",
    "VM_HUGEPAGE",
    "VM_LOCKED",
    "VM_LOCKED_MASK",
    "VM_LOCKONFAULT",
    "VM_MAYEXEC",
    "VM_MAYREAD",
    "VM_MAYSHARE",
    "VM_MAYWRITE",
    "VM_NOHUGEPAGE",
    "VM_NORESERVE",
    "VM_RAND_READ",
    "VM_SEQ_READ",
    "VM_SHARED",
    "VM_WIPEONFORK",
    "VM_WRITE",
    "Anon",
)

# VM_READ, VM_WRITE and VM_EXEC have the values of PROT_*, and the same four bits higher are what
# mprotect may ever grant.
VM_WRITE: Final = PROT_WRITE
VM_ACCESS: Final = PROT_READ | PROT_WRITE | PROT_EXEC
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_LOCKED: Final = 0x2000
VM_SEQ_READ: Final = 0x8000
VM_RAND_READ: Final = 0x10000
VM_DONTCOPY: Final = 0x20000
VM_LOCKONFAULT: Final = 0x80000
VM_LOCKED_MASK: Final = VM_LOCKED | VM_LOCKONFAULT
VM_ACCOUNT: Final = 0x100000
VM_NORESERVE: Final = 0x200000
VM_WIPEONFORK: Final = 0x2000000
VM_DONTDUMP: Final = 0x4000000
VM_HUGEPAGE: Final = 0x20000000
VM_NOHUGEPAGE: Final = 0x40000000


@final
class Anon:
    """The handle of an anonymous identity: None until the first write fault, then one object.

    Two VMAs that have the same identity may become one; two that have different ones never.

    Attributes:
        identity: None until the first write fault.
        is_inherited: A fork made it, in the child. Its pages may be the parent's too, so it stays
            with the VMA that was forked and is never taken over by a neighbour, as in Linux where
            the ``anon_vma_chain`` has several entries then.
    """

    __slots__ = ("identity", "is_inherited")

    def __init__(self, identity: object = None, *, is_inherited: bool = False) -> None:
        # Invariant: set once, in the step that installs the first private writable page.
        self.identity: object = identity
        self.is_inherited: Final = is_inherited

    def __repr__(self) -> str:
        if self.identity is None:
            return "<Anon unfaulted>"
        return f"<Anon {id(self.identity):#x}{', inherited' if self.is_inherited else ''}>"


@final
@dataclass(frozen=True, slots=True, eq=False)
class VMA:
    """What a range of addresses is mapped to; the payload of a region of the address space.

    Attributes:
        flags: VM_* bits, with Linux's values.
        origin: The address at which byte 0 of the file would lie; 0 for anonymous memory, which
            is its own file with one byte for each address. It may be negative.
        file: The mapped file; None for private anonymous memory.
        anon: The anonymous identity that pieces of a written-to VMA share.
        name: What `maps` prints for a VMA without file, such as ``[heap]``.
    """

    flags: int
    origin: int = 0
    file: MappedFile | None = None
    anon: Anon = field(default_factory=Anon)
    name: str = ""

    @property
    def prot(self) -> int:
        """The protection: PROT_* bits."""
        return self.flags & VM_ACCESS

    @property
    def is_private(self) -> bool:
        """Whether a write copies the page instead of reaching the file."""
        return not self.flags & VM_MAYSHARE

    def page_index(self, address: int) -> int:
        """Return the number of the object's page that is mapped at *address*."""
        return (address - self.origin) >> PAGE_SHIFT

    def allows(self, access: int) -> bool:
        """Tell whether the protection allows PROT_READ, PROT_WRITE or PROT_EXEC.

        x86 can't forbid reading what may be written or executed.
        """
        return bool(self.flags & (VM_ACCESS if access == PROT_READ else access))

    @property
    def rights(self) -> int:
        """What a page-table entry may allow under this VMA: PROT_* bits."""
        return rights_of(self.flags)

    def cut(self) -> VMA:
        """Return the payload of a piece that is split off."""
        return replace(self, anon=Anon()) if self.anon.identity is None else self

    def merged(self, right: VMA) -> VMA | None:
        """Return the payload of this VMA and its right-hand neighbour as one, or None.

        The one place that decides it, for mmap, mprotect and all that come later: same flags,
        same object and name, contiguous offsets, and at most one anonymous identity, which the
        merged VMA takes over (but see `Anon.is_inherited`).
        """
        if not self._same_object(right) or self.flags != right.flags:
            return None
        if right.anon.identity is self.anon.identity:
            return self
        if right.anon.identity is None:
            return None if self.anon.is_inherited else self
        return right if self.anon.identity is None and not right.anon.is_inherited else None

    def forked(self) -> VMA | None:
        """Return the payload in a child process; None if it does not inherit it.

        Locks are not inherited. Memory that was written to gets an identity of its own, each VMA
        another: pieces that the parent can merge stay apart in the child.
        """
        if self.flags & VM_DONTCOPY:
            return None
        is_written = self.anon.identity is not None and not self.flags & VM_WIPEONFORK
        anon = Anon(object(), is_inherited=True) if is_written else Anon()
        return replace(self, flags=self.flags & ~VM_LOCKED_MASK, anon=anon)

    def may_share_anon(self, neighbour: VMA) -> bool:
        """Tell whether a first write fault may take over the neighbour's identity.

        It may where only the protection stands between the two, so that a later mprotect can
        merge them.
        """
        return (
            neighbour.anon.identity is not None
            and not neighbour.anon.is_inherited
            and self._same_object(neighbour)
            and not (self.flags ^ neighbour.flags) & ~VM_ACCESS
        )

    def _same_object(self, other: VMA) -> bool:
        return self.file is other.file and self.origin == other.origin and self.name == other.name

    def __repr__(self) -> str:
        what = self.file.name if self.file is not None else self.name or "anonymous"
        return f"<VMA {permissions(self.flags)} {what}>"


def rights_of(flags: int) -> int:
    """Return what an entry may allow under these flags; see `VMA.allows` for reading."""
    access = flags & VM_ACCESS
    return access | PROT_READ if access else 0


def permissions(flags: int) -> str:
    """Return the four letters of ``/proc/<pid>/maps``.

    >>> permissions(PROT_READ | PROT_WRITE)
    'rw-p'
    """
    bits = ((PROT_READ, "r"), (PROT_WRITE, "w"), (PROT_EXEC, "x"))
    letters = "".join(letter if flags & bit else "-" for bit, letter in bits)
    return letters + ("s" if flags & VM_MAYSHARE else "p")
