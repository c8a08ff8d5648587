"""Shared memory whose every access is an await.

A task of trio runs undisturbed from one await to the next, so a program that keeps what its
tasks share in cells has a scheduling point before each access and nowhere else: it behaves as
threads on a sequentially consistent machine would. Without an explorer a cell works under plain
trio. With one, the access is announced, the task is set aside, and the access is done in the
step in which the task is resumed; that a step begins with the access that was announced for it
is what the search's reasoning rests on (see `_search.py`).

A cancelled access did not happen: it raises at the scheduling point, before the cell is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import trio

from aspf._errors import UseAfterFree
from aspf.race import _hook

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Atomic", "Cell", "Lifetime")

T = TypeVar("T")


@final
class Lifetime:
    """Memory that can be freed: a cell placed in it may not be touched afterwards.

    Args:
        name: What diagrams and errors call it, such as ``"vma"``.

    Examples:
        >>> vma = Lifetime("vma")
        >>> refcnt = Atomic(1, "vma.refcnt", lifetime=vma)
        >>> vma.freed
        False
    """

    __slots__ = ("_cells", "_freed", "name")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self._freed = False
        self._cells: list[Cell[Any]] = []

    @property
    def freed(self) -> bool:
        """Whether `free` has happened; no scheduling point, for oracles and reprs."""
        return self._freed

    async def free(self, *, note: str = "") -> None:
        """Free the memory: one writing access that conflicts with every access of its cells.

        A cancelled call has freed nothing.

        Args:
            note: A short text for the diagram.

        Raises:
            UseAfterFree: It was freed before.
        """
        await _turn(self, writes=True, condition=None)
        self._check_alive(self.name)
        self._freed = True
        if _hook.recorder is not None:
            _hook.recorder.line(f"free {self.name}" + (f"  # {note}" if note else ""))
        for cell in self._cells:
            cell._wake()

    def _check_alive(self, name: str) -> None:
        if self._freed:
            what = f"{name!r}" if name == self.name else f"{name!r}, which lived in {self.name!r},"
            error = UseAfterFree(f"{what} was touched after {self.name!r} had been freed")
            if _hook.recorder is not None:
                _hook.recorder.line(f"{name}: *** use after free of {self.name}")
            if _hook.current is not None:
                _hook.current.fail(error)
            raise error

    def __repr__(self) -> str:
        return f"<Lifetime {self.name!r}{' freed' if self._freed else ''}>"


class Cell(Generic[T]):
    """One word of shared memory; every access is a scheduling point while an explorer runs.

    Every access is a checkpoint in trio's sense, and a cancelled access did not happen. Each
    takes ``note=``, a short text that the diagram prints behind the value.

    Args:
        value: What it holds at first.
        name: What diagrams, deadlock reports and errors call it.
        lifetime: The memory that it lives in, if that can be freed.

    Examples:
        >>> import trio
        >>> flag = Cell(False, "flag")
        >>> trio.run(flag.set, True)
        >>> flag.peek()
        True
    """

    __slots__ = ("_lot", "_value", "lifetime", "name")

    def __init__(self, value: T, name: str, *, lifetime: Lifetime | None = None) -> None:
        self._value = value
        self.name: str = name
        self.lifetime: Lifetime | None = lifetime
        # Where waiting tasks are parked under plain trio; an explorer evaluates conditions itself.
        self._lot: trio.lowlevel.ParkingLot | None = None
        if lifetime is not None:
            lifetime._cells.append(self)

    async def get(self, *, note: str = "") -> T:
        """Read the value.

        Raises:
            UseAfterFree: The cell's lifetime was freed.
        """
        await _turn(self, writes=False, condition=None)
        return self._load(note)

    async def set(self, value: T, *, note: str = "") -> None:
        """Write *value*.

        Raises:
            UseAfterFree: The cell's lifetime was freed.
        """
        await _turn(self, writes=True, condition=None)
        self._store(value, note)

    async def update(self, change: Callable[[T], T], *, note: str = "") -> T:
        """Change the value in one atomic read-modify-write.

        Args:
            change: A function from the old value to the new one, without side effects.
            note: A short text for the diagram.

        Returns:
            The new value.

        Raises:
            UseAfterFree: The cell's lifetime was freed.
        """
        await _turn(self, writes=True, condition=None)
        return self._store(change(self._load_silently()), note)

    async def wait_until(self, condition: Callable[[T], bool], *, note: str = "") -> T:
        """Wait until *condition* holds of the value, then read it: one reading access.

        Args:
            condition: A function of the value, without side effects; it is called often.
            note: A short text for the diagram.

        Returns:
            The value, of which *condition* holds.

        Raises:
            UseAfterFree: The cell's lifetime was freed, before the call or during the wait.
        """
        await _turn(self, writes=False, condition=condition)
        return self._load(note)

    async def update_when(
        self, condition: Callable[[T], bool], change: Callable[[T], T], *, note: str = ""
    ) -> T:
        """Wait until *condition* holds of the value, then change it: one atomic access.

        ``update_when(lambda held: not held, lambda _: True)`` takes a lock.

        Args:
            condition: A function of the value, without side effects; it is called often.
            change: A function from the old value to the new one, without side effects.
            note: A short text for the diagram.

        Returns:
            The new value.

        Raises:
            UseAfterFree: The cell's lifetime was freed, before the call or during the wait.
        """
        await _turn(self, writes=True, condition=condition)
        return self._store(change(self._load_silently()), note)

    def peek(self) -> T:
        """Return the value, unseen by any explorer: for oracles at the end of a run and reprs."""
        return self._value

    def poke(self, value: T) -> None:
        """Set the value, unseen by any explorer: for set-up before any task shares the cell."""
        self._value = value
        self._wake()

    def _load_silently(self) -> T:
        if self.lifetime is not None:
            self.lifetime._check_alive(self.name)
        return self._value

    def _load(self, note: str) -> T:
        value = self._load_silently()
        if _hook.recorder is not None:
            _hook.recorder.access(self.name, value, value, False, note)
        return value

    def _store(self, value: T, note: str) -> T:
        before = self._load_silently()
        self._value = value
        if _hook.recorder is not None:
            _hook.recorder.access(self.name, before, value, True, note)
        if self._lot is not None:
            self._wake()
        return value

    def _wake(self) -> None:
        if self._lot is not None:
            self._lot.unpark_all()

    def __repr__(self) -> str:
        gone = " freed" if self.lifetime is not None and self.lifetime.freed else ""
        return f"<{type(self).__name__} {self.name!r} = {self._value!r}{gone}>"


@final
class Atomic(Cell[int]):
    """The kernel's ``atomic_t``: a cell of an integer with the kernel's operations on it.

    Examples:
        >>> import trio
        >>> refcnt = Atomic(1, "refcnt")
        >>> trio.run(refcnt.inc_return), trio.run(refcnt.sub_return, 2)
        (2, 0)
        >>> trio.run(refcnt.inc_not_zero), refcnt.peek()
        (False, 0)
    """

    __slots__ = ()

    async def add_return(self, n: int, *, note: str = "") -> int:
        """Add *n* and return the new value (``atomic_add_return``)."""
        await _turn(self, writes=True, condition=None)
        return self._store(self._load_silently() + n, note)

    async def sub_return(self, n: int, *, note: str = "") -> int:
        """Subtract *n* and return the new value (``atomic_sub_return``)."""
        await _turn(self, writes=True, condition=None)
        return self._store(self._load_silently() - n, note)

    async def inc_return(self, *, note: str = "") -> int:
        """Add one and return the new value (``atomic_inc_return``)."""
        return await self.add_return(1, note=note)

    async def dec_return(self, *, note: str = "") -> int:
        """Subtract one and return the new value (``atomic_dec_return``)."""
        return await self.sub_return(1, note=note)

    async def inc_not_zero(self, *, note: str = "") -> bool:
        """Add one unless the value is zero (``atomic_inc_not_zero``).

        As the kernel's, it accepts a negative value.

        Returns:
            False if the value was zero; nothing was changed then.
        """
        await _turn(self, writes=True, condition=None)
        if self._load_silently() == 0:
            self._load(note)
            return False
        self._store(self._value + 1, note)
        return True


async def _turn(
    place: Cell[Any] | Lifetime, *, writes: bool, condition: Callable[[Any], bool] | None
) -> None:
    """Come back when the access may be done; raise if the task is cancelled meanwhile."""
    if _hook.current is not None:
        await _hook.current.turn(place, writes, condition)
        return
    await trio.lowlevel.checkpoint()
    if condition is not None:
        assert isinstance(place, Cell)
        await _wait_for(place, condition)


async def _wait_for(cell: Cell[T], condition: Callable[[T], bool]) -> None:
    # It isn't always a checkpoint; `_turn` has passed one.
    while not condition(cell._load_silently()):
        if cell._lot is None:
            cell._lot = trio.lowlevel.ParkingLot()
        await cell._lot.park()
