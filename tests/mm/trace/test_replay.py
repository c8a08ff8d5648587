"""Real programs replayed: what they did to their memory has the same outcome here as in Linux."""

from __future__ import annotations

import anyio
import pytest
from mm.trace._recordings import MAPS, made_up, recording, text_of

from aspf.mm.trace import Replay, Replayed, parse_recording

# Calls; faults that were handled; faults that the kernel refused; addresses that the kernel chose;
# how many of them are not ours; where one map has equal neighbours apart. And what is left out.
PROGRAMS = {
    "sort": ((40, 5786, 0, 20, 0, 0), {}),
    # Its allocator binds memory to nodes, which the address space does not know.
    "numpy": ((262, 7196, 0, 70, 0, 0), {"mbind": 6}),
    "node": ((211, 2151, 0, 41, 0, 0), {}),
    "java": ((458, 4738, 1, 88, 0, 0), {}),
    # It tried to attach a segment that there is not.
    "sysv": ((75, 924, 0, 22, 0, 0), {"shmat of a segment of unknown size": 1}),
}


def alone(calls: str, faults: str = "", final: str = MAPS) -> Replayed:
    found = recording(calls, faults, final)
    (outcome,) = anyio.run(Replay(recording=found, rounds=1, lockings=("speculative",)).run)
    return outcome


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_leaves_the_map_that_it_left_in_linux(name):
    """A rule of the kernel that real programs rely on would be ours no more."""
    replay = Replay(recording=parse_recording(text_of(name)), rounds=1, lockings=("speculative",))
    (outcome,) = anyio.run(replay.run)
    assert outcome.differences == ()
    assert outcome.changes == ()
    assert outcome.agrees
    misplaced = len(outcome.misplaced)
    counts = outcome.calls, outcome.faults, outcome.refused, outcome.chosen, misplaced
    assert ((*counts, len(outcome.cuts)), dict(outcome.unknown)) == PROGRAMS[name]


@pytest.mark.trio
@pytest.mark.parametrize("io", [0, 0.001])
async def test_it_leaves_it_under_every_locking(io, autojump_clock):
    """Faults that take their time, beside calls, would get pages or a layout that Linux has not."""
    replay = Replay(recording=parse_recording(text_of("node")), rounds=1, io=io)
    outcomes = await replay.run()
    assert [outcome.row.locking for outcome in outcomes] == list(replay.lockings)
    for outcome in outcomes:
        assert outcome.agrees
        assert outcome.faults == outcome.row.faults == 2151
        assert outcome.row.writes == 211
    assert io == 0 or outcomes[-1].row.waits > 0


def test_progress_and_rounds():
    """A bar would stand still, or the median be that of one round."""
    parts = []
    replay = Replay(recording=recording("7 1.1 munmap(0x400000, 4096) = 0\n"), rounds=2)

    async def main():
        return await replay.run(parts.append, clock=iter(range(1000)).__next__)

    outcomes = anyio.run(main)
    assert parts == [n / 6 for n in range(1, 7)]
    assert all(outcome.row.writes == 1 for outcome in outcomes)


ANON = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK"
TOP = "7effffffe000-7f0000000000 rw-p 00000000 00:00 0 \n"
WITH_TOP = MAPS.replace("7f0000000000", f"{TOP}7f0000000000", 1)
MMAP = f"7 1.1 mmap(NULL, 8192, {ANON}, -1, 0) = 0x7effffffe000\n"


def test_a_right_address_is_predicted():
    """The search for room would not be looked at."""
    outcome = alone(MMAP, "7 1.2: page-faults: 7effffffe008\n", WITH_TOP)
    assert (outcome.predicted, outcome.chosen, outcome.faults) == (1, 1, 1)
    assert outcome.agrees
    assert outcome.row.p50 >= 0


def test_another_address_is_said_and_corrected():
    """One wrong choice would spoil everything after it, or nobody would hear of it."""
    outcome = alone(
        MMAP.replace("0x7effffffe000", "0x7eff00000000"),
        final=WITH_TOP.replace("7effffffe000-7f0000000000", "7eff00000000-7eff00002000"),
    )
    assert (outcome.predicted, outcome.chosen) == (0, 1)
    assert outcome.agrees
    assert str(outcome.misplaced[0]).endswith("= 0x7eff00000000: here 0x7effffffe000")


def test_a_map_that_ends_otherwise_is_said():
    """Whatever a program did would be called right."""
    outcome = alone(MMAP)
    assert not outcome.agrees
    assert [change.how for change in outcome.changes] == ["removed"]
    assert alone(MMAP, final="").changes == ()


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("munmap(0x1, 4096) = 0", "Invalid argument"),
        ("munmap(0x1, 4096) = -1 EPERM (x)", "Invalid argument"),
        ("munmap(0x1000, 4096) = -1 ENOMEM (x)", "success"),
        (
            "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = -1 ENOMEM (x)",
            "success",
        ),
        ("brk(0x501000) = 0x500000", "0x501000"),
    ],
)
def test_another_answer_is_said(call, answer):
    """A call would fail here and succeed in Linux, and nobody would hear of it."""
    (difference,) = alone(f"7 1.1 {call}\n").differences
    assert answer in str(difference)
    assert str(difference).startswith(call.partition("(")[0])


def test_equal_errors_are_no_difference():
    """A program that tries what fails would be called different."""
    assert alone("7 1.1 munmap(0x1, 4096) = -1 EINVAL (Invalid argument)\n").agrees


FAULT = "7 1.2: exceptions:page_fault_user: address=0x{:x} ip=0x1 error_code=0x{}\n"


@pytest.mark.parametrize(
    ("signal", "address", "refused"),
    [
        ("SIGSEGV {si_code=SEGV_MAPERR, si_addr=0x1008}", 0x1008, 1),
        ("SIGSEGV {si_code=SEGV_ACCERR, si_addr=0x1008}", 0x1008, 0),
        ("SIGSEGV {si_code=SEGV_ACCERR, si_addr=0x7f0000000000}", 0x7F0000000000, 1),
        ("SIGCHLD {si_signo=SIGCHLD}", 0x1008, 0),
    ],
)
def test_refused_faults_are_compared_too(signal, address, refused):
    """A wild access would be allowed, or an allowed one refused, and nobody would hear of it."""
    outcome = alone(f"7 1.3 --- {signal} ---\n", FAULT.format(address, 6))
    assert outcome.refused == refused
    assert len(outcome.differences) == 1 - refused
    assert outcome.faults == 0


def test_a_beyond_the_file_fault_has_its_own_code():
    """SIGBUS would be taken for SIGSEGV."""
    found = recording("7 1.3 --- SIGBUS {si_code=BUS_ADRERR, si_addr=0x400000} ---\n")
    run = Replay(recording=found, rounds=1, lockings=("speculative",))
    assert anyio.run(run.run)[0].agrees


def test_faults_in_the_kernels_own_memory_are_none_of_the_programs():
    """A fault in the kernel's half would be called refused."""
    assert alone("", FAULT.format(0xFFFF888000000000, 2)).agrees


def test_faults_on_one_page_keep_their_order():
    """A write would overtake the read before it, and another VMA be merged."""
    faults = FAULT.format(0x7EFFFFFFE000, 4) + FAULT.format(0x7EFFFFFFE008, 6)
    assert alone(MMAP, faults, WITH_TOP).faults == 2


def test_a_guess_is_a_write_where_one_may_write():
    """Without an error code, memory that was written to would count as untouched."""
    faults = "7 1.2: page-faults: 400000 1\n7 1.2: page-faults: 7effffffe000 1\n7 1.2: page-faults: 1000 1\n"
    outcome = alone(MMAP, faults, WITH_TOP)
    assert outcome.faults == 2
    assert len(outcome.differences) == 1


def test_calls_that_are_not_known_are_counted():
    """A replay that leaves calls out would look like one that makes them all."""
    outcome = alone(
        "7 1.1 shmat(3, NULL, 0) = 0x7effffffe000\n"
        "7 1.1 madvise(0x400000, 4096, MADV_COLLAPSE) = 0\n"
        "7 1.1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_SYNC, 3</a>, 0) = 0x1000\n"
        "7 1.1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = 0x1000\n"
        "7 1.1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3</dev/a>, 0) = -1 ENODEV (x)\n"
        "7 1.1 pkey_mprotect(0x400000, 4096, PROT_READ, 3) = 0\n"
        "7 1.1 mbind(0x400000, 4096, MPOL_PREFERRED, NULL, 0, 0) = 0\n"
        "7 1.1 mbind(0x400000, 4096, MPOL_PREFERRED, NULL, 0, 0) = 0\n"
        "7 1.1 remap_file_pages(0x400000, 4096, 0, 1, 0) = 0\n"
        "7 1.1 map_shadow_stack(0, 4096, 0) = 0x1000\n"
        '7 1.1 prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0x400000, 4096, "a") = 0\n'
        '7 1.1 prctl(PR_SET_NAME, "a") = 0\n'
    )
    assert dict(outcome.unknown) == {
        "shmat of a segment of unknown size": 1,
        "mbind": 2,
        "remap_file_pages": 1,
        "map_shadow_stack": 1,
        "prctl PR_SET_VMA": 1,
        "madvise MADV_COLLAPSE": 1,
        "MAP_SYNC": 1,
        "mmap without a path (run strace -y)": 1,
        "mmap": 1,
        "pkey_mprotect with a key": 1,
    }
    assert outcome.calls == 0


def test_every_call_that_is_known():
    """A call of a recording would change nothing, or something else."""
    outcome = alone(
        MMAP + "7 1.2 mlock(0x7effffffe000, 4096) = 0\n"
        "7 1.2 munlock(0x7effffffe000, 4096) = 0\n"
        "7 1.2 mlock2(0x7effffffe000, 4096, MLOCK_ONFAULT) = 0\n"
        "7 1.2 mlock2(0x7effffffe000, 4096, 0) = 0\n"
        "7 1.2 mlockall(MCL_CURRENT|MCL_FUTURE) = 0\n"
        "7 1.2 munlockall() = 0\n"
        "7 1.2 msync(0x7effffffe000, 4096, MS_SYNC) = 0\n"
        "7 1.2 mincore(0x7effffffe000, 8192, [1, 1]) = 0\n"
        "7 1.2 madvise(0x7effffffe000, 4096, MADV_DONTNEED) = 0\n"
        "7 1.2 pkey_mprotect(0x7effffffe000, 8192, PROT_READ, -1) = 0\n"
        "7 1.2 mremap(0x7effffffe000, 8192, 4096, 0) = 0x7effffffe000\n"
        "7 1.2 mremap(0x7effffffe000, 4096, 8192, MREMAP_MAYMOVE|MREMAP_FIXED, 0x10000) = 0x10000\n"
        "7 1.2 mremap(0x10000, 8192, 12288, MREMAP_MAYMOVE) = 0x10000\n"
        "7 1.2 mmap(0x20000, 4096, PROT_READ, MAP_SHARED|MAP_ANONYMOUS|MAP_FIXED, -1, 0) = 0x20000\n"
        "7 1.2 mmap(0x30000, 8192, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE, 3</c>, 0x1000) = 0x30000\n"
        "7 1.2 brk(0) = 0x500000\n"
        "7 1.2 brk(0x502000) = 0x502000\n"
        "7 1.3 brk(0x501000) = 0x501000\n",
        FAULT.format(0x501000, 6) + "7 1.21: page-faults: 10000\n",
        "00010000-00013000 r--p 00000000 00:00 0 \n"
        "00020000-00021000 r--s 00000000 00:01 99 /dev/zero (deleted)\n"
        "00030000-00032000 r--p 00001000 08:02 5 /c (deleted)\n"
        + MAPS.replace(
            "7f0000000000", "00500000-00501000 rw-p 00000000 00:00 0 [heap]\n7f0000000000", 1
        )
        + "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n",
    )
    assert outcome.differences == ()
    assert outcome.changes == ()
    assert outcome.faults == 2
    assert (outcome.predicted, outcome.chosen) == (1, 1)


def test_a_moved_mapping_is_moved_to_where_it_went():
    """A mapping that the kernel moved elsewhere would be at another place ever after."""
    outcome = alone(
        MMAP
        + "7 1.2 mremap(0x7effffffe000, 8192, 12288, MREMAP_MAYMOVE) = 0x7effff000000\n"
        + "7 1.3 mremap(0x1000, 8192, 12288, MREMAP_MAYMOVE) = -1 EFAULT (Bad address)\n",
        final=WITH_TOP.replace("7effffffe000-7f0000000000", "7effff000000-7effff003000"),
    )
    assert outcome.agrees
    assert (outcome.predicted, outcome.chosen) == (1, 2)


@pytest.mark.parametrize(
    ("call", "differs"),
    [
        ("mlock2(0x1000, 4096, MLOCK_ONFAULT) = 0", "Cannot allocate memory"),
        ("mlock2(0x400000, 4096, 0x8) = 0", "Invalid argument"),
        ("mlockall(0) = 0", "Invalid argument"),
        ("mlockall(MCL_CURRENT) = -1 ENOMEM (x)", "success"),
        ("munlockall() = -1 EPERM (x)", "success"),
        ("msync(0x1000, 4096, MS_SYNC) = 0", "Cannot allocate memory"),
        ("mincore(0x1000, 4096, [1]) = 0", "Cannot allocate memory"),
    ],
)
def test_answers_of_calls_that_change_no_layout_are_compared_too(call, differs):
    """A call would be made, and nobody would look at what it came to."""
    (difference,) = alone(f"7 1.1 {call}\n").differences
    assert differs in str(difference)


def test_locked_memory_has_its_flags_in_the_layout():
    """What mlockall and mlock2 set would be gone, and what it keeps apart merge."""
    lock = "7 1.2 mlock2(0x7effffffe000, 4096, MLOCK_ONFAULT) = 0\n"
    one, two = "7effffffe000-7efffffff000", "7efffffff000-7f0000000000"
    pieces = "".join(f"{piece} rw-p 00000000 00:00 0 \n" for piece in (one, two))
    apart = MAPS.replace("7f0000000000", f"{pieces}7f0000000000", 1)
    assert alone(MMAP + lock, final=apart).cuts == ()
    assert alone(MMAP + lock + "7 1.3 munlockall() = 0\n", final=WITH_TOP).cuts == ()
    assert alone(MMAP + lock + "7 1.3 mlockall(MCL_FUTURE) = 0\n", final=apart).cuts == ()
    assert len(alone(MMAP + lock, final=WITH_TOP).cuts) == 1


def test_a_program_may_lock_what_it_was_allowed_to():
    """A refusal that came of the program's limits would be said to be none here, or the reverse."""
    lock = "7 1.2 mlock(0x7effffffe000, 8192) = {}\n"
    refused = MMAP + lock.format("-1 ENOMEM (Cannot allocate memory)")
    assert not alone(refused, final=WITH_TOP).agrees
    header = "process 7\nlimits unlimited unlimited 4096 8388608\n"
    found = parse_recording(made_up(refused, final=WITH_TOP, header=header))
    (outcome,) = anyio.run(Replay(recording=found, rounds=1, lockings=("speculative",)).run)
    assert outcome.agrees


GET = "7 1.05 shmget(IPC_PRIVATE, 10000, IPC_CREAT|0600) = 5\n"
SYSV = "/SYSV00000000 (deleted)"


def with_segments(*lines: str) -> str:
    """Return the map with these pieces of segments: `start-end permissions offset`."""
    text = "".join("{} {} {:0>8} 00:01 5 {}\n".format(*line.split(), SYSV) for line in lines)
    return MAPS.replace("7f0000000000", f"{text}7f0000000000", 1)


def test_a_segment_is_mapped_and_unmapped():
    """System V shared memory would be missing from the map, and everything below it be misplaced."""
    attach = GET + "7 1.1 shmat(5, NULL, 0) = 0x7effffffd000\n"
    outcome = alone(attach, final=with_segments("7effffffd000-7f0000000000 rw-s 0"))
    assert outcome.agrees
    assert (outcome.calls, outcome.predicted, outcome.chosen) == (1, 1, 1)
    assert alone(attach + "7 1.2 shmdt(0x7effffffd000) = 0\n").agrees
    # Read-only; and to be run.
    read = attach.replace("NULL, 0", "NULL, SHM_RDONLY|SHM_EXEC")
    assert alone(read, final=with_segments("7effffffd000-7f0000000000 r-xs 0")).agrees


def test_a_segment_that_another_program_has_made_is_known_by_the_final_map():
    """One whose making was not recorded would never be mapped."""
    pieces = ("7effffffd000-7efffffff000 rw-s 0", "7efffffff000-7f0000000000 r--s 2000")
    outcome = alone(
        "7 1.01 shmget(0x1, 0, 0600) = 5\n"
        "7 1.1 shmat(5, NULL, 0) = 0x7effffffd000\n"
        "7 1.2 mprotect(0x7efffffff000, 4096, PROT_READ) = 0\n",
        final=with_segments(*pieces),
    )
    assert outcome.agrees
    assert outcome.cuts == ()


def test_a_segment_goes_only_where_it_may():
    """It would be put over something, or a refusal of the kernel's be called a difference."""
    einval = "-1 EINVAL (Invalid argument)"
    outcome = alone(
        GET + f"7 1.1 shmat(5, 0x400000, 0) = {einval}\n"
        f"7 1.1 shmat(5, 0x10001, 0) = {einval}\n"
        "7 1.1 shmat(5, NULL, 0) = -1 EACCES (Permission denied)\n"
        "7 1.2 shmat(5, 0x10001, SHM_RND) = 0x10000\n"
        "7 1.3 shmat(5, 0x12000, SHM_REMAP) = 0x12000\n"
        f"7 1.4 shmdt(0x11000) = {einval}\n",
        final=f"00010000-00012000 rw-s 00000000 00:01 5 {SYSV}\n"
        f"00012000-00015000 rw-s 00000000 00:01 5 {SYSV}\n{MAPS}",
    )
    assert outcome.agrees
    assert (outcome.calls, dict(outcome.unknown)) == (5, {"shmat": 1})


def test_shmdt_takes_the_pieces_of_one_segment_and_no_others():
    """What a program has unmapped or protected in between would stay, or its neighbour go too."""
    # Segment 6 begins where segment 5 will, but only its end stays: the same distance from there.
    cut = (
        GET + "7 1.06 shmget(0xab, 16384, IPC_CREAT|0600) = 6\n"
        "7 1.1 shmat(6, 0x10000, 0) = 0x10000\n"
        "7 1.1 munmap(0x10000, 12288) = 0\n"
        "7 1.1 shmat(5, 0x10000, 0) = 0x10000\n"
        "7 1.2 munmap(0x10000, 4096) = 0\n"
        "7 1.2 mprotect(0x11000, 4096, PROT_READ) = 0\n"
        "7 1.3 shmdt(0x10000) = 0\n"
    )
    left = "00013000-00014000 rw-s 00003000 00:01 6 /SYSV000000ab (deleted)\n"
    assert alone(cut, final=left + MAPS).agrees
    assert alone(cut + "7 1.4 shmdt(0x10000) = 0\n").agrees


def overlapping(*results: str, between: str = "") -> str:
    """Calls of mmap that threads make at the same time, each of a page, with these results."""
    flags = "PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0"
    threads = range(8, 8 + len(results))
    lines = [f"7 1.0{t} clone(CLONE_VM) = {t}\n" for t in threads]
    lines += [f"{t} 1.2{t} mmap(NULL, 4096, {flags} <unfinished ...>\n" for t in threads]
    lines += [between]
    lines += [
        f"{t} 1.4{t} <... mmap resumed>) = {result}\n"
        for t, result in zip(threads, results, strict=True)
    ]
    return "".join(lines)


def final(pages: int) -> str:
    start = 0x7F0000000000 - pages * 4096
    return MAPS.replace(
        "7f0000000000", f"{start:x}-7f0000000000 r--p 00000000 00:00 0 \n7f0000000000", 1
    )


def test_calls_that_overlap_are_put_into_the_order_that_explains_their_addresses():
    """Threads that map at the same time would be said to be placed otherwise."""
    calls = overlapping("0x7effffffd000", "0x7effffffe000", "0x7efffffff000")
    outcome = alone(calls, final=final(3))
    assert (outcome.predicted, outcome.chosen) == (3, 3)
    assert outcome.agrees


def test_no_call_overtakes_one_that_had_come_back():
    """Any order would be allowed, and a wrong address be explained by it."""
    first = overlapping("0x7effffffe000").splitlines(keepends=True)[1:]
    second = (
        "7 1.9 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7efffffff000\n"
    )
    outcome = alone("7 1.0 clone(CLONE_VM) = 8\n" + "".join(first) + second, final=final(2))
    assert outcome.predicted == 1
    # Nor one that began after a call of its own thread, nor one that began too late.
    between = "9 1.3 --- SIGCHLD {} ---\n10 1.31 munmap(0x1000, 4096) = 0\n"
    calls = overlapping("0x7effffffe000", "0x7effffffd000", between=between)
    calls = "7 1.01 clone(CLONE_VM) = 10\n" + calls
    late = (
        "10 1.35 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7efffffff000\n"
    )
    assert alone(calls + late, final=final(3)).predicted == 1


def test_an_overlapping_call_without_a_file_or_room_fits_nothing():
    """A call that can't be placed at all would stop the replay."""
    unknown = "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0"
    calls = (
        "7 1.01 clone(CLONE_VM) = 8\n"
        f"7 1.2 {unknown} <unfinished ...>\n"
        "8 1.3 munmap(0x1000, 4096 <unfinished ...>\n"
        "7 1.4 <... mmap resumed>) = 0x1000\n"
        "8 1.5 <... munmap resumed>) = 0\n"
    )
    outcome = alone(calls)
    assert outcome.calls == 1
    assert sum(outcome.unknown.values()) == 1
