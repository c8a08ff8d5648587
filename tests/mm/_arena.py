"""An address space that is driven in the words of the kernel's recorded answers."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import anyio.lowlevel

from aspf import mm
from aspf.mm import AddressSpace, MappedFile

DATA = Path(__file__).parent / "data"
BASE = 0x10_0000_0000
SIZE = 1200
PAGE = mm.PAGE_SIZE

PROTS = {
    "r": mm.PROT_READ,
    "w": mm.PROT_WRITE,
    "x": mm.PROT_EXEC,
    "-": mm.PROT_NONE,
    "d": mm.PROT_GROWSDOWN,
    "u": mm.PROT_GROWSUP,
    "s": mm.PROT_SEM,
    # None of them.
    "?": 0x10,
}
FLAGS = {
    "FIXED": mm.MAP_FIXED,
    "NOREPLACE": mm.MAP_FIXED_NOREPLACE,
    "PRIVATE": mm.MAP_PRIVATE,
    "SHARED": mm.MAP_SHARED,
    "ANON": mm.MAP_ANONYMOUS,
    "NORESERVE": mm.MAP_NORESERVE,
    "LOCKED": mm.MAP_LOCKED,
    "GROWSDOWN": mm.MAP_GROWSDOWN,
    "POPULATE": mm.MAP_POPULATE,
    "NONBLOCK": mm.MAP_NONBLOCK,
    "32BIT": mm.MAP_32BIT,
}
# The letters of VmFlags in smaps.
SHOWN = {
    "mr": mm.VM_MAYREAD,
    "mw": mm.VM_MAYWRITE,
    "me": mm.VM_MAYEXEC,
    "ms": mm.VM_MAYSHARE,
    "gd": mm.VM_GROWSDOWN,
    "lo": mm.VM_LOCKED,
    "lf": mm.VM_LOCKONFAULT,
    "ac": mm.VM_ACCOUNT,
    "nr": mm.VM_NORESERVE,
    "sr": mm.VM_SEQ_READ,
    "rr": mm.VM_RAND_READ,
    "dc": mm.VM_DONTCOPY,
    "dd": mm.VM_DONTDUMP,
    "wf": mm.VM_WIPEONFORK,
}
# Of these, what the recorded answers tell.
LETTERS = {name: SHOWN[name] for name in ("ac", "lo", "dc")}


class Numbered:
    """A pager whose page i is filled with byte i."""

    async def fetch(self, index: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return bytes([index % 256]) * PAGE


class Recording(Numbered):
    """The same, and it counts who asked for what."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def fetch(self, index: int) -> bytes:
        self.asked.append(index)
        return await super().fetch(index)


def numbered_file(name: str, *, writable: bool = True, pages: int = 64) -> MappedFile:
    return MappedFile(Numbered(), size=pages * PAGE, name=name, is_writable=writable)


def bits(letters: str) -> int:
    return sum(PROTS[letter] for letter in letters)


def named(prefix: str, names: str) -> int:
    return sum(getattr(mm, f"{prefix}_{name}") for name in names.split("|") if name != "0")


def _advice(name: str | int) -> int:
    return getattr(mm, f"MADV_{name}") if isinstance(name, str) else name


def at(page: float) -> int:
    return BASE + int(page * PAGE)


class Arena:
    """Runs recorded calls and answers as the recording does."""

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self.files = {"f": numbered_file("f"), "g": numbered_file("g")}

    async def run(self, op: list) -> object:
        try:
            return await getattr(self, "_" + op[0])(*op[1:])
        except mm.SegmentationFault as error:
            return f"SIGSEGV/{error.code}"
        except mm.BusError:
            return "SIGBUS/ADRERR"
        except OSError as error:
            return errno.errorcode[error.errno]

    async def _mmap(self, page, pages, prot, flags, file=None, offset=0):
        address = await self.space.mmap(
            0 if page is None else at(page),
            int(pages * PAGE),
            bits(prot),
            sum(FLAGS[name] for name in flags.split("|")),
            self.files.get(file),
            int(offset * PAGE),
        )
        return await self.placed(address, pages)

    async def placed(self, address, pages):
        inside = BASE <= address < BASE + SIZE * PAGE
        return (address - BASE) // PAGE if inside else "OUTSIDE"

    async def _munmap(self, page, pages):
        await self.space.munmap(at(page), int(pages * PAGE))
        return 0

    async def _mprotect(self, page, pages, prot):
        await self.space.mprotect(at(page), int(pages * PAGE), bits(prot))
        return 0

    async def _madvise(self, page, pages, advice):
        await self.space.madvise(at(page), int(pages * PAGE), _advice(advice))
        return 0

    async def _mlock(self, page, pages):
        await self.space.mlock(at(page), int(pages * PAGE))
        return 0

    async def _mlock2(self, page, pages, flags):
        await self.space.mlock(at(page), int(pages * PAGE), flags)
        return 0

    async def _mlockall(self, flags):
        await self.space.mlockall(named("MCL", flags))
        return 0

    async def _munlockall(self):
        await self.space.munlockall()
        return 0

    async def _msync(self, page, pages, flags):
        await self.space.msync(at(page), int(pages * PAGE), named("MS", flags))
        return 0

    async def _mincore(self, page, pages):
        return list(await self.space.mincore(at(page), int(pages * PAGE)))

    async def _brk(self, page):
        return (await self.space.brk(at(page)) - BASE) / PAGE

    async def _limits(self, limits, privileged):
        return 0

    async def _munlock(self, page, pages):
        await self.space.munlock(at(page), int(pages * PAGE))
        return 0

    async def _mremap(self, page, old, new, flags, to=None):
        address = await self.space.mremap(
            at(page),
            int(old * PAGE),
            int(new * PAGE),
            named("MREMAP", flags),
            0 if to is None else at(to),
        )
        return await self.placed(address, new)

    async def _ftruncate(self, file, pages):
        await self.files[file].truncate(pages * PAGE)
        return 0

    async def _r(self, page):
        return ["ok", (await self.space.read(at(page), 1))[0]]

    async def _w(self, page, value=1):
        await self.space.write(at(page), bytes([value]))
        return "ok"

    def vmas(self, letters=LETTERS) -> list:
        """Return what smaps would say, with flags as far as *letters* names them."""
        shown = []
        for region in self.space._map.index:
            if not BASE <= region.start < BASE + SIZE * PAGE:
                continue
            vma = region.payload
            start, end = (region.start - BASE) // PAGE, (region.end - BASE) // PAGE
            perm = mm._vma.permissions(vma.flags)
            kind, pgoff = "anon", None
            if vma.file is not None:
                kind = f"file:{vma.file.name}" if vma.file in self.files.values() else "shm"
                pgoff = vma.page_index(region.start)
            flags = {name for name, bit in letters.items() if vma.flags & bit}
            shown.append([start, end, perm, kind, pgoff, flags])
        return shown


def told(vmas: list, recorded: list) -> list:
    """Cut what we have down to what the recording tells."""
    if not recorded or len(recorded[0]) == 6:
        return vmas
    return [
        [s, e, p, k.partition(":")[0], *([] if o is None else [o])] for s, e, p, k, o, _ in vmas
    ]


def normal(recorded: list) -> list:
    return [[*v[:5], set(v[5].split())] if len(v) == 6 else v for v in recorded]


def load(name: str) -> list:
    text = (DATA / name).read_text(encoding="ascii")
    if name.endswith(".json"):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines()]
