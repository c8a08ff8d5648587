"""A VMA as C has it: one piece of memory that is changed in place while others look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from aspf.lab.machine import WaitQueue
from aspf.race import Atomic, Cell, Lifetime

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("BLACK", "RED", "ParentColor", "Vma")

RED: Final = "red"
BLACK: Final = "black"


class ParentColor(NamedTuple):
    """The word that holds a tree node's parent and its colour, stored together as in C."""

    parent: Vma | None
    color: str

    def __repr__(self) -> str:
        return f"{self.parent}, {self.color}"


@final
class Vma:
    """The pages [vm_start, vm_end), the count of those who use them, and the links of the tree.

    Every field is a cell in the VMA's own `aspf.race.Lifetime`: touching any of them after the
    VMA was freed is `aspf.UseAfterFree`.

    Source: ``struct vm_area_struct`` with the two fields of the mail, ``refcnt`` and
    ``wait_queue``.

    Args:
        start: First page.
        end: The page after the last one.
        refcnt: The count that the protocol gives a VMA when it links it.
        name: What diagrams and errors call it.
        cell: What makes the tree's cells (another kind of cell enumerates the tree's states).
    """

    __slots__ = (
        "lifetime",
        "name",
        "rb_left",
        "rb_parent_color",
        "rb_right",
        "refcnt",
        "vm_end",
        "vm_flags",
        "vm_start",
        "wait_queue",
    )

    def __init__(
        self,
        start: int,
        end: int,
        *,
        refcnt: int = 1,
        name: str = "vma",
        cell: Callable[..., Any] = Cell,
    ) -> None:
        if not 0 <= start < end:
            raise ValueError(f"[{start}, {end}) is no range of pages: it must be 0 <= start < end")
        self.name: Final = name
        self.lifetime: Final = Lifetime(self.name)

        def field(value: object, name: str) -> Any:
            return cell(value, f"{self.name}.{name}", lifetime=self.lifetime)

        # Invariant: only vm_end ever changes, and only by the holder of mmap_sem for writing.
        self.vm_start: Final[Cell[int]] = field(start, "vm_start")
        self.vm_end: Final[Cell[int]] = field(end, "vm_end")
        self.vm_flags: Final[Cell[str]] = field("rw", "vm_flags")
        self.refcnt: Final = Atomic(refcnt, f"{self.name}.refcnt", lifetime=self.lifetime)
        self.wait_queue: Final = WaitQueue(f"{self.name}.wait_queue", lifetime=self.lifetime)
        # Invariant: only the holder of mmap_sem for writing stores to the links.
        self.rb_left: Final[Cell[Vma | None]] = field(None, "rb_left")
        self.rb_right: Final[Cell[Vma | None]] = field(None, "rb_right")
        self.rb_parent_color: Final[Cell[ParentColor]] = field(
            ParentColor(None, RED), "rb_parent_color"
        )

    def __repr__(self) -> str:
        return self.name
