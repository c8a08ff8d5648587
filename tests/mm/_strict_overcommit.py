"""Record what a kernel answers under ``vm.overcommit_memory=2``: a program for root, no test.

    python tests/mm/_strict_overcommit.py > tests/mm/data/overcommit.jsonl

The setting is the whole machine's, so it must hurt nobody. A page of the recorded calls is 64 GiB
here, and ``CommitLimit`` is always half of that above what the arena may have on top of all that is
promised already: there is room for everybody else, and what they take or give back decides no
answer. Nothing is touched but single bytes. The settings are put back in any case: at the end, at
a signal, and by a program of its own if this one is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import _kernel as kernel

UNIT = 64 << 30
BASE = 0x1000_0000_0000
SIZE = 640
LONGEST = 60
SYSCTL = Path("/proc/sys/vm")
CAP_SYS_ADMIN = 21


def meminfo(name: str) -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def promised(before: int) -> int:
    """Return how many units have been promised since *before*."""
    return round((meminfo("Committed_AS") - before) / (UNIT >> 10))


class Settings:
    """The machine's settings, put back when it is left."""

    def __init__(self) -> None:
        names = ("overcommit_ratio", "overcommit_kbytes", "admin_reserve_kbytes")
        names += ("user_reserve_kbytes",)
        # The first that is put back is the mode; of ratio and kbytes the one that counts is last.
        self._before = {name: self._read(name) for name in ("overcommit_memory", *names)}
        if self._before["overcommit_kbytes"] == "0":
            del self._before["overcommit_kbytes"]

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))
        put_back = "; ".join(f"echo {v} > {SYSCTL / k}" for k, v in self._before.items())
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", f"sleep {LONGEST}; {put_back}"], start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            self.write(name, value)
        os.killpg(self._watchdog.pid, signal.SIGTERM)
        self._watchdog.wait()

    def _read(self, name: str) -> str:
        return (SYSCTL / name).read_text(encoding="ascii").strip()

    def write(self, name: str, value: object) -> None:
        (SYSCTL / name).write_text(str(value), encoding="ascii")

    def strict(self, units: int, user: int, admin: int) -> None:
        """Allow the arena, which is empty now, so many units."""
        limit = meminfo("Committed_AS") - meminfo("SwapTotal") + (units << 26) + (1 << 25)
        self.write("user_reserve_kbytes", user << 26)
        self.write("admin_reserve_kbytes", admin << 26)
        self.write("overcommit_kbytes", limit)
        self.write("overcommit_memory", 2)


class Arena(kernel.Arena):
    """The arena of the live comparison, in units, and with what it does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()
        kernel.PAGE, kernel.BASE, kernel.SIZE = UNIT, BASE, SIZE
        kernel.END = BASE + SIZE * UNIT
        resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY,) * 2)

    def empty(self) -> None:
        kernel.call("munmap", BASE, SIZE * UNIT)
        self.arena_brk = None

    def told(self) -> list[list[object]]:
        """Return the VMAs, and of their flags those that decide what counts."""
        return [
            [*vma, " ".join(name for name in flags.split() if name in {"ac", "nr", "dc"})]
            for *vma, flags in self.vmas()
        ]

    def _fork(self) -> object:
        try:
            child = os.fork()
        except OSError as error:
            return kernel.errno.errorcode[error.errno]
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        return 0

    def _plain(self, op: list) -> object:
        """Make a call without CAP_SYS_ADMIN."""
        before = self._capabilities()
        number = ctypes.c_long(kernel.SYSCALLS["capset"])
        without = (ctypes.c_uint32 * 6)(*before)
        without[0] &= ~(1 << CAP_SYS_ADMIN)
        kernel.LIBC.syscall(number, kernel.CAPABILITIES, without)
        result = self.run(op)
        kernel.LIBC.syscall(number, kernel.CAPABILITIES, before)
        return result


FIXED = "FIXED|PRIVATE|ANON"
#: Name, units that may be promised, reserves for the user and for the administrator, calls.
CASES: list[tuple[str, int, int, int, list]] = [
    (
        "private writable memory counts, what was unmapped does not",
        4,
        0,
        0,
        [
            ["mmap", 0, 5, "rw", FIXED],
            ["mmap", 0, 4, "rw", FIXED],
            ["mmap", 8, 1, "rw", FIXED],
            ["munmap", 1, 1],
            ["mmap", 8, 1, "rw", FIXED],
            ["mmap", 9, 1, "rw", FIXED],
            # In place of what is there only the difference counts.
            ["mmap", 0, 3, "rw", FIXED],
            ["mmap", 0, 4, "rw", FIXED],
        ],
    ),
    (
        "MAP_NORESERVE is not heard",
        4,
        0,
        0,
        [
            ["mmap", 0, 5, "rw", f"{FIXED}|NORESERVE"],
            ["mmap", 0, 4, "rw", f"{FIXED}|NORESERVE"],
            ["mmap", 8, 1, "rw", "FIXED|SHARED|ANON|NORESERVE"],
        ],
    ),
    (
        "what can't be written to does not count",
        4,
        0,
        0,
        [
            ["mmap", 0, 20, "r", FIXED],
            ["mmap", 20, 20, "-", FIXED],
            ["mmap", 40, 20, "rw", "FIXED|SHARED", "f", 0],
            ["mmap", 60, 5, "rw", "FIXED|PRIVATE", "f", 0],
            ["mmap", 60, 4, "rw", "FIXED|PRIVATE", "f", 0],
        ],
    ),
    (
        "shared anonymous memory counts by its size",
        4,
        0,
        0,
        [
            ["mmap", 0, 5, "r", "FIXED|SHARED|ANON"],
            ["mmap", 0, 4, "r", "FIXED|SHARED|ANON"],
            ["munmap", 0, 3],
            ["mmap", 8, 1, "rw", FIXED],
            ["munmap", 3, 1],
            ["mmap", 8, 4, "rw", FIXED],
        ],
    ),
    (
        "mprotect counts what becomes writable, and it stays counted once it was written to",
        4,
        0,
        0,
        [
            ["mmap", 0, 8, "r", FIXED],
            ["mprotect", 0, 5, "rw"],
            ["mprotect", 0, 4, "rw"],
            ["mprotect", 4, 1, "rw"],
            ["mprotect", 0, 4, "r"],
            ["mprotect", 4, 4, "rw"],
            ["w", 4],
            ["mprotect", 4, 4, "r"],
            ["mprotect", 0, 1, "rw"],
        ],
    ),
    (
        "mremap counts what grows",
        4,
        0,
        0,
        [
            ["mmap", 0, 2, "rw", FIXED],
            ["mremap", 0, 2, 5, "0"],
            ["mremap", 0, 2, 4, "0"],
            ["mremap", 0, 4, 5, "MAYMOVE|FIXED", 10],
            ["mremap", 0, 4, 4, "MAYMOVE|FIXED", 10],
            ["mremap", 10, 4, 2, "0"],
            ["mremap", 10, 2, 5, "MAYMOVE|FIXED", 20],
            ["mremap", 10, 2, 4, "MAYMOVE|FIXED", 20],
        ],
    ),
    (
        "MREMAP_DONTUNMAP counts twice",
        4,
        0,
        0,
        [
            ["mmap", 0, 3, "rw", FIXED],
            ["mremap", 0, 3, 3, "MAYMOVE|FIXED|DONTUNMAP", 10],
            ["munmap", 2, 1],
            ["mremap", 0, 2, 2, "MAYMOVE|FIXED|DONTUNMAP", 10],
            ["mmap", 20, 1, "rw", FIXED],
        ],
    ),
    (
        "the heap counts",
        4,
        0,
        0,
        [["brk", 103], ["brk", 105], ["brk", 104], ["brk", 101], ["mmap", 0, 3, "rw", FIXED]],
    ),
    (
        "a stack counts as it grows",
        4,
        0,
        0,
        [
            ["mmap", 600, 2, "rw", f"{FIXED}|GROWSDOWN"],
            ["w", 597],
            ["w", 598],
            ["mmap", 0, 1, "rw", FIXED],
        ],
    ),
    (
        "fork counts once more what is private and writable",
        7,
        0,
        0,
        [
            ["mmap", 0, 3, "rw", FIXED],
            ["mmap", 8, 20, "r", FIXED],
            ["fork"],
            ["mmap", 3, 1, "rw", FIXED],
            ["fork"],
            ["madvise", 3, 1, "DONTFORK"],
            ["fork"],
            ["mprotect", 8, 2, "rw"],
            ["fork"],
        ],
    ),
    (
        "fork counts no shared memory",
        4,
        0,
        0,
        [["mmap", 0, 3, "rw", "FIXED|SHARED|ANON"], ["fork"]],
    ),
    (
        "the user's reserve is the 32nd part of what is mapped",
        8,
        100,
        0,
        [
            ["mmap", 100, 96, "-", FIXED],
            ["mmap", 0, 6, "rw", FIXED],
            ["mmap", 0, 5, "rw", FIXED],
            ["munmap", 100, 96],
            ["mmap", 5, 4, "rw", FIXED],
            ["mmap", 5, 3, "rw", FIXED],
        ],
    ),
    (
        "but no more than it is set to",
        8,
        2,
        0,
        [
            ["mmap", 100, 320, "-", FIXED],
            ["mmap", 0, 7, "rw", FIXED],
            ["mmap", 0, 6, "rw", FIXED],
        ],
    ),
    (
        "fork asks with the parent's mapped memory, not with both",
        11,
        100,
        0,
        [
            ["mmap", 100, 64, "-", FIXED],
            ["mmap", 164, 1, "rw", FIXED],
            ["mmap", 0, 3, "rw", FIXED],
            ["fork"],
            ["mmap", 3, 1, "rw", FIXED],
            ["fork"],
        ],
    ),
    (
        "the administrator's reserve is for who has CAP_SYS_ADMIN",
        8,
        0,
        3,
        [
            ["plain", ["mmap", 0, 6, "rw", FIXED]],
            ["plain", ["mmap", 0, 5, "rw", FIXED]],
            ["plain", ["mmap", 5, 1, "rw", FIXED]],
            ["mmap", 5, 4, "rw", FIXED],
            ["mmap", 5, 3, "rw", FIXED],
        ],
    ),
]


def drawn(seed: int) -> tuple[str, int, int, int, list]:
    """Draw calls around a limit; those of odd numbers map files and touch nothing."""
    r = random.Random(seed)
    has_files = bool(seed % 2)

    def one() -> list:
        page, pages = r.randrange(16), r.randint(1, 5)
        prot = r.choice(("rw", "rw", "r", "-"))
        kind = r.choice(("PRIVATE", "PRIVATE", "SHARED"))
        names = ["mmap", "mmap", "mmap", "munmap", "mprotect", "mprotect", "mremap", "fork", "brk"]
        match r.choice([*names, "madvise", *([] if has_files else ["w"])]):
            case "mmap" if has_files and r.random() < 0.5:
                return ["mmap", page, pages, prot, f"FIXED|{kind}", r.choice("fg"), r.randrange(8)]
            case "mmap":
                more = r.choice(("", "", "|NORESERVE"))
                return ["mmap", page, pages, prot, f"FIXED|{kind}|ANON{more}"]
            case "mremap":
                # Never shorter: what a mapping loses on its way, Linux counts as promised for ever.
                new = pages + r.randint(0, 3)
                flags = r.choice(("0", "MAYMOVE|FIXED", "MAYMOVE|FIXED", "DONTUNMAP"))
                if flags == "DONTUNMAP":
                    return ["mremap", page, pages, pages, f"MAYMOVE|FIXED|{flags}", 16 + page]
                to = [] if flags == "0" else [r.randrange(24)]
                return ["mremap", page, pages, new, flags, *to]
            case "brk":
                return ["brk", r.randint(100, 104)]
            case "munmap":
                return ["munmap", page, pages]
            case "mprotect":
                return ["mprotect", page, pages, prot]
            case "madvise":
                return ["madvise", page, pages, r.choice(("DONTFORK", "DOFORK", "DONTNEED"))]
            case name:
                return [name] if name == "fork" else [name, page]

    return f"random {seed}", r.randint(3, 16), 0, 0, [one() for _ in range(20)]


def main() -> None:
    arena = Arena()
    lines = []
    with Settings() as settings:
        for name, units, user, admin, calls in [*CASES, *map(drawn, range(60))]:
            arena.empty()
            before = meminfo("Committed_AS")
            settings.strict(units, user, admin)
            steps = [[op, arena.run(op), arena.told(), promised(before)] for op in calls]
            arena.empty()
            moved = abs(meminfo("Committed_AS") - before) >> 20
            assert moved < 16, f"{name}: others have taken or given back {moved} GiB; record again"
            case = {"name": name, "units": units, "user": user, "admin": admin, "steps": steps}
            lines.append(json.dumps(case))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
