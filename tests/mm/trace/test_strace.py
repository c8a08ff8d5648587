"""What strace and perf write, read."""

from __future__ import annotations

import pytest

from aspf.mm import PROT_EXEC, PROT_READ, PROT_WRITE
from aspf.mm.trace import RecordedCall, RecordedFault, RecordedSignal, parse_perf, parse_strace


def call(*lines: str) -> RecordedCall:
    (found,), _ = parse_strace(lines)
    return found


@pytest.mark.parametrize(
    ("line", "name", "arguments", "result", "error"),
    [
        ("brk(NULL) = 0x5600", "brk", ("NULL",), 0x5600, ""),
        ("munmap(0x7f00, 4096)     = 0", "munmap", ("0x7f00", "4096"), 0, ""),
        (
            "mmap(NULL, 50, PROT_READ, MAP_PRIVATE, 3</lib/odd, (name)>, 0x1000) = 0x7f00",
            "mmap",
            ("NULL", "50", "PROT_READ", "MAP_PRIVATE", "3</lib/odd, (name)>", "0x1000"),
            0x7F00,
            "",
        ),
        (
            "mlock(0x1000, 4096) = -1 ENOMEM (Cannot allocate memory)",
            "mlock",
            ("0x1000", "4096"),
            -1,
            "ENOMEM",
        ),
        (
            'execve("/bin/a", ["a", "b, c\\"d"], 0x7ff /* 3 vars */) = 0',
            "execve",
            ('"/bin/a"', '["a", "b, c\\"d"]', "0x7ff /* 3 vars */"),
            0,
            "",
        ),
        ("fork() = 77", "fork", (), 77, ""),
        ("openat(3, 4) = 5</lib/a>", "openat", ("3", "4"), 5, ""),
        ("prctl(PR_GET, 1) = 1 (DELAYED)", "prctl", ("PR_GET", "1"), 1, ""),
    ],
)
def test_a_call(line, name, arguments, result, error):
    """An argument would be cut in two, or an error taken for an address."""
    time = 5_000_000_007
    assert call(f"12 5.000000007 {line}") == (time, 12, name, arguments, result, error, time)
    assert call(f"[pid   12] 5.5 {line}").time == 5_500_000_000


def test_two_halves_are_one_call():
    """Threads that call at the same time would lose their calls."""
    calls, _ = parse_strace(
        [
            "1 1.0 mmap(NULL, 4096 <unfinished ...>",
            "2 1.1 munmap(0x1000, 4096 <unfinished ...>",
            "3 1.2 fork( <unfinished ...>",
            "1 1.3 <... mmap resumed>, PROT_READ) = 0x2000",
            "2 1.4 <... munmap resumed>) = 0",
            "3 1.5 <... fork resumed>) = 9",
        ]
    )
    assert [(c.tid, str(c)) for c in calls] == [
        (1, "mmap(NULL, 4096, PROT_READ) = 0x2000"),
        (2, "munmap(0x1000, 4096) = 0x0"),
        (3, "fork() = 0x9"),
    ]
    assert [c.time for c in calls] == [1_000_000_000, 1_100_000_000, 1_200_000_000]
    assert [c.end for c in calls] == [1_300_000_000, 1_400_000_000, 1_500_000_000]


def test_what_is_no_call_is_passed_over():
    """An exit would stop the reading, or a refused access be lost."""
    calls, signals = parse_strace(
        [
            "1 1.0 --- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_ACCERR, si_addr=0x7f00} ---",
            "1 1.0 --- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=NULL} ---",
            "1 1.0 --- SIGBUS {si_signo=SIGBUS, si_code=BUS_ADRERR, si_addr=0x1000} ---",
            "1 1.0 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---",
            "1 1.0 --- stopped by SIGSTOP ---",
            "2 1.0 <... mmap resumed>) = 0x2000",
            "1 1.0 mmap(NULL <unfinished ...>",
            "",
            "1 1.1 exit_group(0) = ?",
            "1 1.2 +++ exited with 0 +++",
        ]
    )
    assert calls == []
    assert signals == [
        RecordedSignal(1_000_000_000, 1, 0x7F00, "ACCERR"),
        RecordedSignal(1_000_000_000, 1, 0, "MAPERR"),
        RecordedSignal(1_000_000_000, 1, 0x1000, "ADRERR"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [("mmap(NULL) = 0", "no thread or no time; run strace -f -ttt"), ("1 1.0 ?", "is no call")],
)
def test_what_is_not_of_strace_is_named(line, said):
    """A recording of another tool would be replayed as an empty one."""
    with pytest.raises(ValueError, match=f"line 2 of strace .*{said}"):
        parse_strace(["1 1.0 brk(NULL) = 0x1", line])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "7 9.000000005: exceptions:page_fault_user: address=0x7f00 ip=0x7f00 error_code=0x14",
            (9_000_000_005, 7, 0x7F00, PROT_EXEC),
        ),
        (
            "  sort 7/8 [001] 9.5: exceptions:page_fault_kernel: address=0x7f00 ip=put error_code=0x6",
            (9_500_000_000, 8, 0x7F00, PROT_WRITE),
        ),
        (
            "7 9.5: exceptions:page_fault_user: address=7f00 ip=1 error_code=4",
            (9_500_000_000, 7, 0x7F00, PROT_READ),
        ),
        ("7 9.5:  1 page-faults:  7f00  7a00", (9_500_000_000, 7, 0x7F00, 0)),
        ("7 9.5:    page-faults:u:  7f00  7f00 x (/lib/a)", (9_500_000_000, 7, 0x7F00, PROT_EXEC)),
        ("7 9.5:    page-faults:  7f00", (9_500_000_000, 7, 0x7F00, 0)),
    ],
)
def test_a_fault(line, fault):
    """A write would be replayed as a read, or at the time of another fault."""
    assert parse_perf(["", line]) == [RecordedFault(*fault)]


@pytest.mark.parametrize("line", ["nonsense", "7 9.5: page-faults: nowhere", "7 9.5: cycles:"])
def test_what_is_no_fault_is_named(line):
    """Samples of another event would be taken for faults."""
    with pytest.raises(ValueError, match="line 2 of perf is no page fault; run perf script"):
        parse_perf(["7 9.5: page-faults: 7f00", line])
