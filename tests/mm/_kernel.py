"""The kernel's side of the live comparison: make the calls that stdin names, in this process.

A program of its own, and nothing of aspf in it: numbers are Linux's for x86-64, so that a wrong
constant of ours is found too. Each line of stdin is a JSON list of calls in the words of the
recorded answers (see data/README.md); the answer is a line with the result and the VMAs after each.
The calls work on an arena, at an address where Linux itself places nothing.

Reading and writing go through a few bytes of machine code, because a fault is to be survived: the
handler of SIGSEGV and SIGBUS notes the cause and steps over the access.

Limits are those of the arena. What the rest of this process uses is added right before each call,
and the limits are lifted right after it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")

BASE = 0x10_0000_0000
SIZE = 1200
PAGE = 4096
END = BASE + SIZE * PAGE
FILE_PAGES = 64
HEAP = 100
# How much of a file of /proc is read at once.
BLOCK = 4096

# Behind the rights: PROT_GROWSDOWN, PROT_GROWSUP, PROT_SEM, and a bit that is no protection.
PROTS = {"r": 1, "w": 2, "x": 4, "-": 0, "d": 0x1000000, "u": 0x2000000, "s": 8, "?": 16}
MAP = {
    "SHARED": 0x01,
    "PRIVATE": 0x02,
    "FIXED": 0x10,
    "ANON": 0x20,
    "32BIT": 0x40,
    "GROWSDOWN": 0x100,
    "LOCKED": 0x2000,
    "NORESERVE": 0x4000,
    "POPULATE": 0x8000,
    "NONBLOCK": 0x10000,
    "NOREPLACE": 0x100000,
}
MADV = {
    "NORMAL": 0,
    "RANDOM": 1,
    "SEQUENTIAL": 2,
    "WILLNEED": 3,
    "DONTNEED": 4,
    "FREE": 8,
    "REMOVE": 9,
    "DONTFORK": 10,
    "DOFORK": 11,
    "DONTDUMP": 16,
    "DODUMP": 17,
    "WIPEONFORK": 18,
    "KEEPONFORK": 19,
    "COLD": 20,
    "PAGEOUT": 21,
    "POPULATE_READ": 22,
    "POPULATE_WRITE": 23,
    "DONTNEED_LOCKED": 24,
}
MREMAP = {"0": 0, "MAYMOVE": 1, "FIXED": 2, "DONTUNMAP": 4}
MS = {"0": 0, "ASYNC": 1, "INVALIDATE": 2, "SYNC": 4}
MCL = {"0": 0, "CURRENT": 1, "FUTURE": 2, "ONFAULT": 4}
SHOWN = {"mr", "mw", "me", "ms", "gd", "lo", "lf", "ac", "nr", "sr", "rr", "dc", "dd", "wf"}

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
SYSCALLS = {
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "mremap": 25,
    "msync": 26,
    "mincore": 27,
    "madvise": 28,
    "mlock": 149,
    "munlock": 150,
    "mlockall": 151,
    "munlockall": 152,
    "mlock2": 325,
    "capget": 125,
    "capset": 126,
    "prctl": 157,
}
CAP_IPC_LOCK = 14
ADDR_NO_RANDOMIZE = 0x0040000
CAPABILITIES = (ctypes.c_uint32 * 2)(0x20080522, 0)


def call(name: str, *arguments: int) -> int | str:
    words = [ctypes.c_ulong(argument & (1 << 64) - 1) for argument in arguments]
    result = LIBC.syscall(ctypes.c_long(SYSCALLS[name]), *words)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result


def bits(names: str, table: dict[str, int]) -> int:
    return sum(table[name] for name in names.split("|") if name)


def prot_of(letters: str) -> int:
    return sum(PROTS[letter] for letter in letters)


def at(page: float) -> int:
    return BASE + int(page * PAGE)


def size_of(pages: float) -> int:
    return int(pages * PAGE)


# Accesses that may fault -------------------------------------------------------------------------


class SigAction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
SA_SIGINFO = 4
# In ucontext: uc_flags, uc_link, uc_stack, then gregs, of which rip is the 17th.
RIP_AT = 8 + 8 + 24 + 16 * 8
CODE = {
    "read": b"\x0f\xb6\x07\xc3",  # movzx eax, byte [rdi]; ret
    "write": b"\x40\x88\x37\x31\xc0\xc3",  # mov [rdi], sil; xor eax, eax; ret
    "failed": b"\xb8\xff\xff\xff\xff\xc3",  # mov eax, -1; ret
}
CODES = {
    (signal.SIGSEGV, 1): "SIGSEGV/MAPERR",
    (signal.SIGSEGV, 2): "SIGSEGV/ACCERR",
    (signal.SIGBUS, 2): "SIGBUS/ADRERR",
}


class Access:
    """Touch bytes, and say what the signal was if there was one."""

    def __init__(self) -> None:
        start = call("mmap", 0, PAGE, 7, 0x22, -1, 0)
        places = {}
        for number, (name, code) in enumerate(CODE.items()):
            places[name] = start + 16 * number
            ctypes.memmove(places[name], code, len(code))
        self._failed = places["failed"]
        prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
        self._read = prototype(places["read"])
        self._write = prototype(places["write"])
        self._seen = ""
        self._handler = Handler(self._handle)
        action = SigAction(ctypes.cast(self._handler, ctypes.c_void_p), flags=SA_SIGINFO)
        for number in (signal.SIGSEGV, signal.SIGBUS):
            LIBC.sigaction(int(number), ctypes.byref(action), None)

    def _handle(self, number: int, info: int, context: int) -> None:
        code = ctypes.c_int.from_address(info + 8).value
        self._seen = CODES.get((number, code), f"signal {number}, code {code}")
        ctypes.c_ulong.from_address(context + RIP_AT).value = self._failed

    def read(self, address: int) -> list[object] | str:
        value = self._read(address, 0)
        return self._seen if value < 0 else ["ok", value]

    def write(self, address: int, value: int) -> str:
        return self._seen if self._write(address, value) < 0 else "ok"


PR_SET_MM, PR_SET_MM_MAP = 35, 14
# Where /proc/self/stat has them; the break is not there, 4 stands in its place.
MM_FIELDS = (26, 27, 45, 46, 47, 4, 28, 48, 49, 50, 51)


class MmMap(ctypes.Structure):
    """What PR_SET_MM_MAP takes."""

    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in [
                "start_code",
                "end_code",
                "start_data",
                "end_data",
                "start_brk",
                "brk",
                "start_stack",
                "arg_start",
                "arg_end",
                "env_start",
                "env_end",
                "auxv",
            ]
        ),
        ("auxv_size", ctypes.c_uint32),
        ("exe", ctypes.c_uint32),
    )


# The arena ---------------------------------------------------------------------------------------


class Arena:
    def __init__(self) -> None:
        self.access = Access()
        self.look()
        self.files: dict[str, int] = {}
        self.inodes: dict[int, str] = {}
        self.limits: dict[str, int | None] = {}
        self.privileged = True
        self.pages = self.data = self.others_locked = 0
        self.arena_brk = None
        for name in "fg":
            self.files[name] = os.memfd_create(name)
            self.inodes[os.fstat(self.files[name]).st_ino] = name

    def look(self) -> None:
        """Open what tells of this process; after a fork that is another one."""
        self.smaps = os.open("/proc/self/smaps", os.O_RDONLY)
        self.status = os.open("/proc/self/status", os.O_RDONLY)
        self.statm = os.open("/proc/self/statm", os.O_RDONLY)

    def reset(self) -> None:
        call("munlockall")
        call("munmap", BASE, SIZE * PAGE)
        for file in self.files.values():
            os.ftruncate(file, 0)
            data = b"".join(bytes([i % 256]) * PAGE for i in range(FILE_PAGES))
            os.pwrite(file, data, 0)
        self.limits = {}
        self.privileged = True
        self.arena_brk = None
        self.places: list[tuple[int, int]] = []
        self.before = ""
        self.mapped_pages = 0
        self.was_disturbed = False
        self.pages = self.data = 0
        # Not counted anew before each call: Linux miscounts what MREMAP_DONTUNMAP leaves behind.
        self.others_locked = self._used()["VmLck"]

    def run(self, op: list) -> object:
        return getattr(self, "_" + op[0])(*op[1:])

    def _limits(self, limits: dict[str, int | None], privileged: bool) -> int | str:
        self.limits, self.privileged = limits, privileged
        is_able = self._capabilities()[0] >> CAP_IPC_LOCK & 1
        return 0 if is_able or not privileged else "UNSUPPORTED"

    # Limits, the process's and the arena's ---------------------------------------------------

    def limited(self, name: str, *arguments: int) -> int | str:
        return self.under_limits(call, name, *arguments)

    def under_limits(self, what: Callable[..., R], *arguments: object) -> R | str:
        if not self.limits and self.privileged:
            return what(*arguments)
        used = self._used()
        total, data = used["VmSize"] - self.pages, used["VmData"] - self.data
        bases = {"as": total, "memlock": self.others_locked, "data": data}
        numbers = {
            "as": resource.RLIMIT_AS,
            "memlock": resource.RLIMIT_MEMLOCK,
            "data": resource.RLIMIT_DATA,
        }
        before = {number: resource.getrlimit(number) for number in numbers.values()}
        values = {}
        for key, limit in self.limits.items():
            if limit is not None:
                value = (bases[key] + limit) * PAGE
                if key == "memlock" and not limit:
                    value = 0
                if 0 <= before[numbers[key]][1] < value:
                    return "UNSUPPORTED"
                values[numbers[key]] = value
        for number, value in values.items():
            resource.setrlimit(number, (value, before[number][1]))
        if not self.privileged:
            self._set_privilege(False)
        result = what(*arguments)
        if not self.privileged:
            self._set_privilege(True)
        for number in values:
            resource.setrlimit(number, before[number])
        return result

    def _used(self) -> dict[str, int]:
        used = {}
        for line in os.pread(self.status, 8192, 0).decode().splitlines():
            key, _, value = line.partition(":")
            if key in {"VmSize", "VmLck", "VmData"}:
                used[key] = int(value.split()[0]) // 4
        return used

    def _set_privilege(self, on: bool) -> None:
        """Raise or drop CAP_IPC_LOCK in the effective set."""
        data = self._capabilities()
        data[0] = data[0] | 1 << CAP_IPC_LOCK if on else data[0] & ~(1 << CAP_IPC_LOCK)
        LIBC.syscall(ctypes.c_long(SYSCALLS["capset"]), CAPABILITIES, data)

    def _capabilities(self) -> ctypes.Array[ctypes.c_uint32]:
        """Return the effective, permitted and inheritable sets, in two halves."""
        data = (ctypes.c_uint32 * 6)()
        LIBC.syscall(ctypes.c_long(SYSCALLS["capget"]), CAPABILITIES, data)
        return data

    # Calls -----------------------------------------------------------------------------------

    def _placed(self, result: int | str, length: int) -> object:
        if isinstance(result, str):
            return result
        if BASE <= result < END:
            return (result - BASE) // PAGE
        call("munmap", result, length)
        return "OUTSIDE"

    def _mmap(self, page, pages, prot, flags, file=None, offset=0):
        address = 0 if page is None else at(page)
        fd = -1 if file is None else self.files[file]
        flags = bits(flags, MAP)
        length = size_of(pages)
        result = self.limited("mmap", address, length, prot_of(prot), flags, fd, int(offset * PAGE))
        return self._placed(result, length)

    def _layout(self):
        """Return where everything is, for the calls that search for a gap."""
        if not is_unrandomised():
            return "UNSUPPORTED"
        self.before = Path("/proc/self/maps").read_text(encoding="utf-8")
        self.mapped_pages = self._mapped()
        return self.before

    def _mapped(self) -> int:
        return int(os.pread(self.statm, 64, 0).split()[0])

    def _watched(self, name: str, *arguments: int) -> int | str:
        """Make a call, and notice if this program has mapped something since the last one."""
        self.was_disturbed |= self._mapped() != self.mapped_pages
        result = call(name, *arguments)
        self.mapped_pages = self._mapped()
        return result

    def is_undisturbed(self) -> bool:
        """Tell whether this program has mapped nothing for itself meanwhile.

        Python takes memory by the mebibyte and gives it back, so the map at the end does not tell.
        """
        if self.was_disturbed:
            return False
        for number in range(len(self.places)):
            self._unplace(number)
        return self.before in {"", Path("/proc/self/maps").read_text(encoding="utf-8")}

    def _place(self, hint, pages, prot, flags):
        """Map anywhere; the hint is so many pages from what an earlier call has placed."""
        near, away = hint
        address = self.places[near][0] + size_of(away) if near in range(len(self.places)) else 0
        length = size_of(pages)
        where = max(address, 0), length, prot_of(prot), bits(flags, MAP), -1, 0
        result = self._watched("mmap", *where)
        if not isinstance(result, str):
            self.places.append((result, length))
        return result

    def _unplace(self, number):
        return self._watched("munmap", *self.places[number]) if number < len(self.places) else 0

    def _munmap(self, page, pages):
        return self.limited("munmap", at(page), size_of(pages))

    def _mprotect(self, page, pages, prot):
        return self.limited("mprotect", at(page), size_of(pages), prot_of(prot))

    def _mremap(self, page, old, new, flags, to=None):
        target = 0 if to is None else at(to)
        flags = bits(flags, MREMAP)
        result = self.limited("mremap", at(page), size_of(old), size_of(new), flags, target)
        return self._placed(result, size_of(new))

    def _madvise(self, page, pages, advice):
        number = MADV[advice] if isinstance(advice, str) else advice
        return self.limited("madvise", at(page), size_of(pages), number)

    def _mlock(self, page, pages):
        return self.limited("mlock", at(page), size_of(pages))

    def _mlock2(self, page, pages, flags):
        return self.limited("mlock2", at(page), size_of(pages), flags)

    def _munlock(self, page, pages):
        return self.limited("munlock", at(page), size_of(pages))

    def _mlockall(self, flags):
        return self.limited("mlockall", bits(flags, MCL))

    def _munlockall(self):
        return self.limited("munlockall")

    def _msync(self, page, pages, flags):
        return self.limited("msync", at(page), size_of(pages), bits(flags, MS))

    def _mincore(self, page, pages):
        whole = -(-size_of(pages) // PAGE)
        there = (ctypes.c_ubyte * (whole + 1))()
        place = ctypes.addressof(there)
        result = self.limited("mincore", at(page), size_of(pages), place)
        return result if isinstance(result, str) else [x & 1 for x in there][:whole]

    def _brk(self, page):
        """Move a heap that begins at the arena's page 100.

        This program has a heap of its own, which the C library must find where it was.
        """
        start = at(HEAP)
        now = start if self.arena_brk is None else self.arena_brk
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        own = MmMap(*(int(fields[number - 3]) for number in MM_FIELDS), exe=0xFFFFFFFF)
        own.brk = call("brk", 0)
        moved = MmMap.from_buffer_copy(own)
        moved.end_data, moved.start_brk, moved.brk = own.start_data, start, now
        if self._set_map(moved):
            return "UNSUPPORTED"
        self.arena_brk = self.limited("brk", at(page))
        assert not self._set_map(own)
        return (self.arena_brk - BASE) / PAGE

    def _set_map(self, words: MmMap) -> int | str:
        pointer, size = ctypes.addressof(words), ctypes.sizeof(words)
        return call("prctl", PR_SET_MM, PR_SET_MM_MAP, pointer, size, 0)

    def _ftruncate(self, file, pages):
        os.ftruncate(self.files[file], pages * PAGE)
        return 0

    def _r(self, page):
        return self.under_limits(self.access.read, at(page))

    def _w(self, page, value=1):
        return self.under_limits(self.access.write, at(page), value)

    # Reading the VMAs back -------------------------------------------------------------------

    def vmas(self) -> list[list[object]]:
        """Return ``[start, end, permissions, kind, page offset, flags]`` of each VMA."""
        os.lseek(self.smaps, 0, os.SEEK_SET)
        text, past = b"", False
        while not past and (block := os.read(self.smaps, BLOCK)):
            text += block
            last = text.rfind(b"VmFlags")
            past = any(
                int(line[: line.index(b"-")], 16) >= END
                for line in text[:last].split(b"\n")
                if line[:1].isalnum() and b"-" in line[:20]
            )
        found: list[list[object]] = []
        self.pages = self.data = 0
        for line in text.decode().split("\n"):
            if line[:1].isdigit() or "a" <= line[:1] <= "f":
                head = line.split(None, 5)
                start, end = (int(part, 16) for part in head[0].split("-"))
            elif line.startswith("VmFlags:") and BASE <= start < END:
                flags = SHOWN & set(line.split()[1:])
                pages = (end - start) // PAGE
                self.pages += pages
                self.data += pages * ("w" in head[1] and "p" in head[1] and "gd" not in flags)
                found.append([*self._shown(head, start, end), " ".join(sorted(flags))])
        return found

    def _shown(self, head: list[str], start: int, end: int) -> list[object]:
        kind, offset = "anon", None
        if int(head[4]):
            offset = int(head[2], 16) // PAGE
            name = self.inodes.get(int(head[4]))
            kind = "shm" if name is None else f"file:{name}"
        return [(start - BASE) // PAGE, (end - BASE) // PAGE, head[1], kind, offset]

    def state(self) -> dict[str, object]:
        """Return all VMAs, and the first byte of each page that can be read."""
        vmas = self.vmas()
        pages = [page for start, end, *_ in vmas for page in range(start, end)]
        read = [(page, self.access.read(at(page))) for page in pages]
        return {"vmas": vmas, "contents": [(p, got[1]) for p, got in read if isinstance(got, list)]}


def play(arena: Arena, calls: list[list]) -> dict:
    """Make the calls.

    Returns:
        The ``steps``, a result and all VMAs after each, and the ``ends``: the state of this process
        when all were made, behind that of the process that made the last ones.
    """
    steps: list[object] = []
    for number, op in enumerate(calls, 1):
        if op[0] != "fork":
            steps.append([arena.run(op), arena.vmas()])
        elif op[1] == "parent":
            steps.append([forked(arena, [])["ends"][0], arena.vmas()])
        else:
            rest = forked(arena, calls[number:])
            steps.append([0, rest["begins"]])
            return {"steps": steps + rest["steps"], "ends": [*rest["ends"], arena.state()]}
    return {"steps": steps, "ends": [arena.state()]}


def forked(arena: Arena, calls: list[list]) -> dict:
    """Fork, and let the child make the calls, while this process waits."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            arena.look()
            begins = arena.vmas()
            with os.fdopen(writer, "w", encoding="ascii") as answer:
                json.dump({**play(arena, calls), "begins": begins}, answer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="ascii") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


def is_unrandomised() -> bool:
    return bool(LIBC.personality(0xFFFFFFFF) & ADDR_NO_RANDOMIZE)


def main() -> None:
    # The search for gaps begins at a known address without randomness; it is chosen at exec.
    if not is_unrandomised() and LIBC.personality(ADDR_NO_RANDOMIZE) != -1 and is_unrandomised():
        os.execv(sys.executable, [sys.executable, __file__])
    arena = Arena()
    for line in sys.stdin:
        arena.reset()
        answer = play(arena, json.loads(line))
        answer["undisturbed"] = arena.is_undisturbed()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
