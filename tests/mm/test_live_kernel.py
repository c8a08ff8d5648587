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
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from mm._arena import FLAGS, PAGE, SHOWN, Arena, at

from aspf.mm import AddressSpace, Limits, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
STEPS = 20


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
        """Return the answer to each call, and the contents afterwards."""
        self._process.stdin.write(json.dumps(calls) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.close()


# What is drawn -----------------------------------------------------------------------------------

PAGES = 24
pages = st.integers(0, PAGES - 1)
few = st.integers(1, 8)
prots = st.sampled_from(["-", "r", "rw", "rw", "rw", "rx", "rwx", "w", "x"])
PRIVATE, SHARED = "FIXED|PRIVATE|ANON", "FIXED|SHARED|ANON"
EXTRA = st.sampled_from(["", "", "", "|NORESERVE", "|LOCKED", "|POPULATE"])


def anonymous():
    flags = st.builds(str.__add__, st.sampled_from([PRIVATE] * 4 + [SHARED]), EXTRA)
    return st.tuples(st.just("mmap"), pages, few, prots, flags)


def mapped_file():
    flags = st.builds(str.__add__, st.sampled_from(["FIXED|PRIVATE", "FIXED|SHARED"]), EXTRA)
    offset = st.sampled_from([0, 1, 2, 3, 4, 60, 63])
    return st.tuples(st.just("mmap"), pages, few, prots, flags, st.sampled_from("fg"), offset)


def mapped_otherwise():
    kinds = ["NOREPLACE|PRIVATE|ANON", "PRIVATE|ANON", "FIXED|PRIVATE|ANON|GROWSDOWN"]
    return st.tuples(st.just("mmap"), pages, few, prots, st.sampled_from(kinds))


def refused():
    """Arguments that are wrong, in ways that the kernel tells apart."""
    flags = ["FIXED|ANON", "FIXED|SHARED|PRIVATE|ANON", "FIXED|PRIVATE", "SHARED|PRIVATE"]
    return st.tuples(
        st.just("mmap"),
        st.sampled_from([0, 0.5, 5]),
        st.sampled_from([0, 0.5, 1, 1 << 36]),
        prots,
        st.sampled_from([*flags, PRIVATE, "PRIVATE|ANON", "FIXED|SHARED|ANON|GROWSDOWN"]),
    )


mmaps = st.one_of(anonymous(), anonymous(), mapped_file(), mapped_otherwise(), refused())
ranges = st.tuples(pages, few)
odd_ranges = st.one_of(
    ranges,
    ranges,
    ranges,
    st.tuples(st.sampled_from([3.5, 0.25]), few),
    st.tuples(pages, st.sampled_from([0, 0.5, 1.5])),
)


def call(name: str, of, *arguments):
    return st.tuples(st.just(name), of, *arguments).map(lambda x: [x[0], *x[1], *x[2:]])


mremap_flags = ["0", "MAYMOVE", "MAYMOVE|FIXED", "MAYMOVE|FIXED", "MAYMOVE|FIXED"]
mremap_flags += ["MAYMOVE|FIXED|DONTUNMAP", "FIXED", "DONTUNMAP"]
lengths = st.sampled_from([0, 1, 1, 2, 2, 3, 4, 5, 6, 1.5])


def mremap():
    equal = st.tuples(pages, few).map(lambda x: (x[0], x[1], x[1]))
    either = st.one_of(equal, st.tuples(pages, lengths, lengths))
    to = st.one_of(pages, st.just(3.5))
    return call("mremap", either, st.sampled_from(mremap_flags), to)


ADVICE = "NORMAL RANDOM SEQUENTIAL WILLNEED DONTNEED FREE REMOVE DONTFORK DOFORK DONTDUMP DODUMP "
ADVICE += "WIPEONFORK KEEPONFORK COLD POPULATE_READ POPULATE_WRITE DONTNEED_LOCKED"
advice = st.sampled_from([*ADVICE.split(), *ADVICE.split(), 5])
sync_flags = st.sampled_from(["0", "SYNC", "ASYNC", "INVALIDATE", "SYNC|INVALIDATE", "SYNC|ASYNC"])
all_flags = ["CURRENT", "FUTURE", "CURRENT|FUTURE", "CURRENT|ONFAULT", "FUTURE|ONFAULT", "ONFAULT"]
touches = st.one_of(
    st.tuples(st.just("r"), pages),
    st.tuples(st.just("w"), pages, st.integers(1, 255)),
    st.tuples(st.just("w"), pages, st.integers(1, 255)),
)
mlocks = st.one_of(
    call("mlock", odd_ranges),
    call("munlock", odd_ranges),
    call("mlock2", ranges, st.sampled_from([0, 1, 1, 2])),
)
KINDS = {
    "mmap": mmaps,
    "munmap": call("munmap", odd_ranges),
    "mprotect": call(
        "mprotect", odd_ranges, st.one_of(prots, prots, st.sampled_from(["rd", "rwd"]))
    ),
    "mremap": mremap(),
    "madvise": call("madvise", odd_ranges, advice),
    "mlock": mlocks,
    "mlockall": st.one_of(
        st.tuples(st.just("mlockall"), st.sampled_from(all_flags)), st.just(("munlockall",))
    ),
    "msync": call("msync", odd_ranges, sync_flags),
    "mincore": call("mincore", odd_ranges),
    "brk": st.tuples(st.just("brk"), st.sampled_from([0, 99, 100, 101, 102.5, 103, 104, 106, 110])),
    "touch": st.one_of(
        touches, touches, st.tuples(st.just("ftruncate"), st.just("f"), st.sampled_from([0, 2, 64]))
    ),
}
# mlockall is this whole process's, so it is drawn seldom beside others.
OFTEN = st.one_of(mmaps, mmaps, touches, *(KINDS[k] for k in ("munmap", "mprotect", "mlock")))
SELDOM = st.one_of(*(KINDS[k] for k in ("mremap", "madvise")))


def drawn(kind: str):
    """Draw calls, every second of which is of this kind."""
    other = st.one_of(OFTEN, OFTEN, SELDOM)
    if kind == "brk":
        # Neighbours for the heap, which begins at page 100.
        near = st.tuples(
            st.just("mmap"), st.sampled_from([98, 103, 106]), few, prots, st.just(PRIVATE)
        )
        other = st.one_of(near, call("munmap", st.tuples(st.integers(98, 106), few)))
        other = st.one_of(other, call("mlock", st.tuples(st.integers(98, 106), few)))
    pairs = st.tuples(other, KINDS[kind]).map(list)
    return st.lists(pairs, min_size=1, max_size=STEPS).map(
        lambda x: [list(c) for p in x for c in p]
    )


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

    async def contents(self) -> list:
        read = []
        for start, end, *_ in self.vmas():
            for page in range(start, end):
                got = await self._read(page)
                read += [] if isinstance(got, str) else [[page, got[1]]]
        return read

    async def _read(self, page):
        return await self.run(["r", page])


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
            assert ours == [result, [[*v[:5], set(v[5].split())] for v in vmas]], op
            compared[op[0]] += 1
        assert await arena.contents() == answer["contents"]

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
    counts = ", ".join(f"{name} {count}" for name, count in done.most_common())
    print(f"{kind}: {done.total()} calls agree: {counts}")  # noqa: T201 - part of the claim


# Gaps ----------------------------------------------------------------------------------------------

HUGE = 512
lengths_placed = st.one_of(
    few, st.sampled_from([HUGE - 1, HUGE, HUGE + 1, 2 * HUGE, 1 << 32, 1 << 33, 1 << 34])
)
hints = st.one_of(
    st.just((-1, 0)),
    st.just((-1, 0)),
    st.tuples(st.integers(0, 8), st.sampled_from([-600, -300, -257, -256, -9, -1, 0, 0.5, 1, 8])),
)
GAPS = ("", "", "", "|32BIT", "|GROWSDOWN", "|POPULATE")
place_flags = st.sampled_from(
    [f"{kind}|ANON|NORESERVE{extra}" for kind in ("PRIVATE", "PRIVATE", "SHARED") for extra in GAPS]
)
placing = st.tuples(st.just("place"), hints, lengths_placed, st.just("-"), place_flags)
unplacing = st.tuples(st.just("unplace"), st.integers(0, 8))


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

    calls = st.lists(st.one_of(placing, placing, unplacing), min_size=1, max_size=STEPS)
    draw(calls, progress, how_many(request))
    print(f"gaps: {done['place']} mappings placed alike")  # noqa: T201 - part of the claim


async def compare_places(steps: list, calls: list, done: Counter) -> None:
    (maps, _), *answers = steps
    places = Places(maps)
    for op, (result, _) in zip(calls, answers, strict=True):
        ours = await places.run(op)
        assert ours == result, (op, ours, result)
        done[op[0]] += 1
