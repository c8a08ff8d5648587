"""The same random calls, made by this machine's kernel and by the model, and compared after each.

The kernel's side is `_kernel.py`, in a process of its own. Hypothesis draws the calls and shrinks
what disagrees. The suite draws some; ``--operations 100000`` draws that many of each kind.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from mm._arena import FLAGS, PAGE, SHOWN, Arena, at

from aspf.mm import AddressSpace, Limits, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What the model follows. Earlier ones answer otherwise: mremap moved no range of several mappings
# before 6.17, a written and an unwritten mapping did not always merge, and a refused MAP_FIXED
# unmapped what was in its way or left it whole. Later ones have not been measured.
FOLLOWED = ((6, 17), (6, 18))


def missing() -> str | None:
    """Say why there is nothing to compare with."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the kernel here is not Linux on x86-64: {platform.system()} {platform.machine()}"
    version = tuple(int(part) for part in platform.release().split(".")[:2])
    if not FOLLOWED[0] <= version <= FOLLOWED[1]:
        return f"the model follows Linux 6.17 and 6.18, and this is {platform.release()}"
    overcommit = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    if overcommit != "0":
        return f"compared under vm.overcommit_memory=0, and this machine has {overcommit}"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
STEPS = 40


class Kernel:
    """The process that makes the calls."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("_kernel.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, calls: list) -> dict:
        """Return the answer to each call, and the state afterwards."""
        self._process.stdin.write(json.dumps(calls) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Start a process for each kind: Linux's own count of locked memory drifts with the calls."""
    kernel = Kernel()
    yield kernel
    kernel.close()


# What is drawn -----------------------------------------------------------------------------------
#
# A call is drawn as a few bytes, which Hypothesis does ten times faster than one strategy for each
# argument, and shrinks as well: fewer calls, and in each the first of the options.

T = TypeVar("T")
BYTES = 12


class Choices:
    """What the bytes of a call choose, one byte each."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def of(self, *options: T) -> T:
        """Return one of at most 256 options, the first for a zero."""
        return options[next(self._bytes) % len(options)]

    def page(self) -> int:
        return self.of(*range(PAGES))

    def few(self) -> int:
        return self.of(*range(1, 9))

    def range(self) -> list:
        return [self.page(), self.few()]

    def odd_range(self) -> list:
        """A range, or seldom one that isn't aligned."""
        kind = self.of(0, 0, 0, 1, 2)
        page = self.of(3.5, 0.25) if kind == 1 else self.page()
        return [page, self.of(0, 0.5, 1.5) if kind == 2 else self.few()]

    def prot(self) -> str:
        return self.of("rw", "r", "-", "rw", "rw", "rx", "rwx", "w", "x")


PAGES = 24
PRIVATE, SHARED = "FIXED|PRIVATE|ANON", "FIXED|SHARED|ANON"
EXTRA = ("", "", "", "|NORESERVE", "|LOCKED", "|POPULATE")
# Of the kernel's four that are no protection, mmap ignores each and mprotect some: PROT_SEM, one
# that is none, PROT_GROWSUP, PROT_GROWSDOWN.
NO_PROTECTION = ("", "s", "?", "u", "d", "du", "ds", "d?")


def anonymous(c: Choices) -> list:
    kind = c.of(PRIVATE, PRIVATE, PRIVATE, PRIVATE, SHARED)
    return ["mmap", *c.range(), c.prot(), kind + c.of(*EXTRA)]


def mapped_file(c: Choices) -> list:
    where = [*c.range(), c.prot(), c.of("FIXED|PRIVATE", "FIXED|SHARED") + c.of(*EXTRA)]
    return ["mmap", *where, c.of("f", "g"), c.of(0, 1, 2, 3, 4, 60, 63)]


def mapped_otherwise(c: Choices) -> list:
    kinds = ["NOREPLACE|PRIVATE|ANON", "PRIVATE|ANON", "FIXED|PRIVATE|ANON|GROWSDOWN"]
    return ["mmap", *c.range(), c.prot() + c.of("", "", *NO_PROTECTION), c.of(*kinds)]


def refused(c: Choices) -> list:
    """Arguments that are wrong, in ways that the kernel tells apart."""
    flags = ["FIXED|ANON", "FIXED|SHARED|PRIVATE|ANON", "FIXED|PRIVATE", "SHARED|PRIVATE"]
    flags += [PRIVATE, "PRIVATE|ANON", "FIXED|SHARED|ANON|GROWSDOWN"]
    return ["mmap", c.of(0, 0.5, 5), c.of(0, 0.5, 1, 1 << 36), c.prot(), c.of(*flags)]


def mmap(c: Choices) -> list:
    return c.of(anonymous, anonymous, mapped_file, mapped_otherwise, refused)(c)


def mprotect(c: Choices) -> list:
    return ["mprotect", *c.odd_range(), c.prot() + c.of("", "", "", "", *NO_PROTECTION)]


def mremap(c: Choices) -> list:
    old = c.few()
    sizes = c.of((old, old), (c.of(*LENGTHS), c.of(*LENGTHS)))
    flags = c.of("MAYMOVE|FIXED", "MAYMOVE|FIXED", "MAYMOVE", "0", *MREMAP_FLAGS)
    return ["mremap", c.page(), *sizes, flags, c.of(*range(PAGES), 3.5)]


LENGTHS = (0, 1, 1, 2, 2, 3, 4, 5, 6, 1.5)
MREMAP_FLAGS = ("MAYMOVE|FIXED", "MAYMOVE|FIXED|DONTUNMAP", "FIXED", "DONTUNMAP")
MREMAP_FLAGS += ("MAYMOVE|DONTUNMAP",)


def madvise(c: Choices) -> list:
    return ["madvise", *c.odd_range(), c.of(*ADVICE.split(), *ADVICE.split(), 5)]


ADVICE = "NORMAL RANDOM SEQUENTIAL WILLNEED DONTNEED FREE REMOVE DONTFORK DOFORK DONTDUMP DODUMP "
ADVICE += "WIPEONFORK KEEPONFORK COLD POPULATE_READ POPULATE_WRITE DONTNEED_LOCKED"


def mlock(c: Choices) -> list:
    name = c.of("mlock", "munlock", "mlock2")
    return [name, *c.range(), c.of(0, 1, 1, 2)] if name == "mlock2" else [name, *c.odd_range()]


def mlockall(c: Choices) -> list:
    both = ["CURRENT", "FUTURE", "CURRENT|FUTURE", "CURRENT|ONFAULT", "FUTURE|ONFAULT", "ONFAULT"]
    return c.of(["munlockall"], ["mlockall", c.of(*both)])


def msync(c: Choices) -> list:
    flags = ("0", "SYNC", "ASYNC", "INVALIDATE", "SYNC|INVALIDATE", "SYNC|ASYNC")
    return ["msync", *c.odd_range(), c.of(*flags)]


def brk(c: Choices) -> list:
    return ["brk", c.of(0, 99, 100, 101, 102.5, 103, 104, 106, 110)]


def near_the_heap(c: Choices) -> list:
    """Make, and take away, neighbours for the heap, which begins at page 100."""
    mapped = ["mmap", c.of(98, 103, 106), c.few(), c.prot(), PRIVATE]
    place = [c.of(*range(98, 107)), c.few()]
    return c.of(mapped, ["munmap", *place], ["mlock", *place])


def touch(c: Choices) -> list:
    written = ["w", c.page(), c.of(*range(1, 256))]
    return c.of(["r", c.page()], written, written)


def cut(c: Choices) -> list:
    return ["ftruncate", "f", c.of(0, 2, 64)]


KINDS: dict[str, Callable[[Choices], list]] = {
    "mmap": mmap,
    "munmap": lambda c: ["munmap", *c.odd_range()],
    "mprotect": mprotect,
    "mremap": mremap,
    "madvise": madvise,
    "mlock": mlock,
    "mlockall": mlockall,
    "msync": msync,
    "mincore": lambda c: ["mincore", *c.odd_range()],
    "brk": brk,
    "touch": lambda c: c.of(touch, touch, cut)(c),
    # Who goes on; the other ends at once, or waits for the end.
    "fork": lambda c: ["fork", c.of("parent", "parent", "child")],
}
# mlockall is this whole process's, so it is drawn seldom beside others.
OFTEN = (mmap, mmap, touch, *(KINDS[kind] for kind in ("munmap", "mprotect", "mlock")))
OTHERS = (*OFTEN, *OFTEN, *OFTEN, *OFTEN, mremap, madvise, mremap, madvise, mremap, madvise)


def several(of: Callable[[Choices], list], at_least: int = 1):
    """Draw calls."""
    one = st.binary(min_size=BYTES, max_size=BYTES).map(lambda data: of(Choices(data)))
    return st.integers(at_least, STEPS).flatmap(lambda n: st.lists(one, min_size=n, max_size=n))


def drawn(kind: str):
    """Draw calls, about every second of which is of this kind."""
    others = (near_the_heap,) if kind == "brk" else OTHERS
    return several(lambda c: (c.of(*others) if c.of(0, 1) else KINDS[kind])(c))


# Kinds of more than one call.
MEMBERS = {
    "mlock": ("mlock", "mlock2", "munlock"),
    "mlockall": ("mlockall", "munlockall"),
    "touch": ("r", "w", "ftruncate"),
}
LIMITED = ("mmap", "mprotect", "mremap", "mlock", "brk", "madvise")


def limits(kind: str):
    size = st.one_of(st.none(), st.integers(0, 24))
    # brk compares RLIMIT_DATA with its own length as well, which can't be told from the rest here.
    data = st.none() if kind == "brk" else size
    sizes = st.fixed_dictionaries({"as": size, "data": data, "memlock": size})
    return st.tuples(st.just("limits"), sizes, st.booleans())


# The comparison ----------------------------------------------------------------------------------


SYSCTL = Path("/proc/sys/vm/overcommit_memory")
OVERCOMMIT = int(SYSCTL.read_text(encoding="ascii")) if SYSCTL.exists() else 0


class LiveArena(Arena):
    """As the kernel's side does it: what was placed outside the arena goes at once."""

    def __init__(self, limits: tuple) -> None:
        # The spaces of the processes that wait for their child, the latest one last.
        self.waiting: list[AddressSpace] = []
        given, privileged = limits
        sizes = {name: None if size is None else size * PAGE for name, size in given.items()}
        super().__init__(
            AddressSpace(
                start_brk=at(100),
                min_address=4096,
                limits=Limits(
                    address_space=sizes.get("as"),
                    data=sizes.get("data"),
                    locked=sizes.get("memlock"),
                    cap_ipc_lock=privileged,
                    overcommit_memory=OVERCOMMIT,
                ),
            )
        )

    async def placed(self, address, pages):
        page = await super().placed(address, pages)
        if page == "OUTSIDE":
            await self.space.munmap(address, int(pages * PAGE))
        return page

    def fill(self) -> None:
        """Have the files in their caches, as the kernel has those that are nowhere else."""
        for file in self.files.values():
            for index in range(64):
                file._cache[index] = page = Page(bytes([index]) * PAGE)
                page.share_count = 1

    async def _fork(self, who):
        child = await self.space.fork()
        parent, self.space = self.space, child
        if who == "child":
            self.waiting.append(parent)
            return 0
        ended = await self.state()
        await child.aclose()
        self.space = parent
        return ended

    async def state(self) -> dict:
        vmas, read = self.vmas(SHOWN), []
        for start, end, *_ in vmas:
            for page in range(start, end):
                got = await self.run(["r", page])
                read += [] if isinstance(got, str) else [[page, got[1]]]
        return {"vmas": vmas, "contents": read}

    async def ends(self) -> list[dict]:
        """Let each process end, from the last one on; return the state of each until then."""
        ended = [await self.state()]
        while self.waiting:
            await self.space.aclose()
            self.space = self.waiting.pop()
            ended.append(await self.state())
        return ended


def told(answer: object) -> object:
    """Return the kernel's answer with its flags as sets."""
    if not isinstance(answer, dict):
        return answer
    return {**answer, "vmas": [[*v[:5], set(v[5].split())] for v in answer["vmas"]]}


def compare(kernel: Kernel, calls: list) -> Counter:
    answer = kernel.run(calls)
    compared = Counter()

    async def main():
        limits = calls[0][1:] if calls[0][0] == "limits" else ({}, True)
        arena = LiveArena(limits)
        arena.fill()
        for op, (result, vmas) in zip(calls, answer["steps"], strict=True):
            if result == "UNSUPPORTED":
                return
            ours = [await arena.run(op), arena.vmas(SHOWN)]
            assert ours == [told(result), [[*v[:5], set(v[5].split())] for v in vmas]], op
            compared[op[0]] += 1
        assert await arena.ends() == [told(end) for end in answer["ends"]]

    anyio.run(main)
    return compared


FEW = 40
KIND_NAMES = [*KINDS, *(f"{name} with limits" for name in LIMITED)]


def how_many(request: pytest.FixtureRequest) -> int:
    wanted = request.config.getoption("--operations")
    if wanted != FEW:
        # Nobody hangs here: it takes that long.
        faulthandler.cancel_dump_traceback_later()
    return wanted


def draw(strategy, progress, wanted: int) -> None:
    """Draw calls until *progress*, which compares them, has counted so many.

    In batches, for Hypothesis keeps in mind what it has drawn.
    """
    counted = [0]

    @settings(
        max_examples=10 if wanted == FEW else 250,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=wanted == FEW,
        report_multiple_bugs=False,
    )
    @given(strategy)
    def check(calls):
        counted[0] = progress(calls)

    while counted[0] < wanted:
        check()


def report(what: str, counts: str) -> None:
    """Print what was compared, and with which kernel."""
    print(f"{what}: {counts} (Linux {platform.release()})")  # noqa: T201 - part of the claim


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_the_kernel_of_this_machine_agrees(kernel, kind, request):
    """The model would answer otherwise than Linux: errno, address, merging, flags, bytes."""
    wanted = how_many(request)
    name = kind.split()[0]
    calls = drawn(name)
    if kind != name:
        calls = st.tuples(limits(name), calls).map(lambda x: [list(x[0]), *x[1]])
    names = MEMBERS.get(name, (name,))
    done = Counter()

    def progress(calls):
        done.update(compare(kernel, calls))
        return sum(done[name] for name in names)

    draw(calls, progress, wanted)
    counts = ", ".join(f"{name} {count:,}" for name, count in done.most_common())
    report(f"{kind}: {done.total():,} calls agree", counts)


# Gaps ----------------------------------------------------------------------------------------------

HUGE = 512
PLACED = (*range(1, 9), HUGE - 1, HUGE, HUGE + 1, 2 * HUGE, 1 << 32, 1 << 33, 1 << 34)
AWAY = (0, -600, -300, -257, -256, -9, -1, 0.5, 1, 8)
GAPS = ("", "", "", "|32BIT", "|GROWSDOWN", "|POPULATE")


def place(c: Choices) -> list:
    """Map where the kernel likes, or so many pages from what an earlier call has placed."""
    hint = c.of((-1, 0), (-1, 0), (c.of(*range(9)), c.of(*AWAY)))
    flags = f"{c.of('PRIVATE', 'PRIVATE', 'SHARED')}|ANON|NORESERVE{c.of(*GAPS)}"
    return ["place", hint, c.of(*PLACED), "-", flags]


def unplace(c: Choices) -> list:
    return ["unplace", c.of(*range(9))]


class Places:
    """What the kernel's side calls place and unplace, on a layout like its own."""

    def __init__(self, maps: str) -> None:
        self.space = AddressSpace.from_maps(maps)
        self.places: list[tuple[int, int]] = []

    async def run(self, op: list) -> object:
        return await getattr(self, op[0])(*op[1:])

    async def place(self, hint, pages, prot, flags):
        near, away = hint
        address = self.places[near][0] + int(away * PAGE) if near in range(len(self.places)) else 0
        bits = sum(FLAGS[name] for name in flags.split("|"))
        try:
            found = await self.space.mmap(max(address, 0), pages * PAGE, 0, bits)
        except OSError as error:
            return errno.errorcode[error.errno]
        self.places.append((found, pages * PAGE))
        return found

    async def unplace(self, number):
        if number < len(self.places):
            await self.space.munmap(*self.places[number])
        return 0


def test_the_kernel_of_this_machine_places_mappings_alike(kernel, request):
    """A mapping would lie elsewhere: guard gaps, huge-page padding, hints, top-down and bottom-up."""
    done = Counter()

    def progress(calls):
        answer = kernel.run([["layout"], *calls])
        if answer["steps"][0][0] == "UNSUPPORTED":
            pytest.skip("this process may not turn address randomisation off")
        if answer["undisturbed"]:
            anyio.run(compare_places, answer["steps"], calls, done)
        return done["place"]

    draw(several(lambda c: c.of(place, place, unplace)(c)), progress, how_many(request))
    report("gaps", f"{done['place']:,} mappings placed alike")


async def compare_places(steps: list, calls: list, done: Counter) -> None:
    (maps, _), *answers = steps
    places = Places(maps)
    for op, (result, _) in zip(calls, answers, strict=True):
        ours = await places.run(op)
        assert ours == result, (op, ours, result)
        done[op[0]] += 1
