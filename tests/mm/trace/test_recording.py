"""The file that a recording is."""

from __future__ import annotations

import pytest
from mm.trace._recordings import MAPS, made_up, recording

from aspf.mm.trace import parse_recording


def test_only_the_threads_of_the_process_are_kept():
    """A child's mappings would be made in its parent, or a thread's calls be lost."""
    found = recording(
        "7 1.1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 8\n"
        "8 1.2 munmap(0x1000, 1) = 0\n"
        "7 1.3 clone(child_stack=NULL, flags=SIGCHLD) = 9\n"
        "9 1.4 munmap(0x2000, 1) = 0\n"
        "7 1.5 vfork() = 10\n"
        "10 1.6 munmap(0x3000, 1) = 0\n"
        '10 1.7 execve("/bin/b", [], 0x1) = -1 ENOENT (No such file)\n'
        '10 1.8 execve("/bin/c", [], 0x1) = 0\n'
        "10 1.9 munmap(0x4000, 1) = 0\n"
        "7 2.0 fork() = -1 EAGAIN (Resource temporarily unavailable)\n"
        "9 2.1 --- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=NULL} ---\n",
        "8 1.25: page-faults: 7f00 1\n9 1.25: page-faults: 7f00 1\n7 0.5: page-faults: 7f00 1\n",
    )
    assert [(e.tid, e.time // 10**7) for e in found.events] == [(8, 120), (8, 125), (10, 160)]
    assert [call.arguments[0] for call in found.calls] == ["0x1000", "0x3000"]
    assert [fault.tid for fault in found.faults] == [8]
    assert found.signals == ()
    assert found.threads == 2
    assert (found.start_brk, found.mmap_base) == (0x500000, 0x7F0000002000)


def test_the_clock_of_perf_is_brought_to_that_of_strace():
    """Faults would come before the mapping that they are in."""
    found = parse_recording(
        made_up(
            "7 1000.5 munmap(0x1000, 1) = 0\n",
            "7 1.4: page-faults: 7f00 1\n7 1.6: page-faults: 8f00 1\n",
            header="process 7\nclock 999000000000\n",
        )
    )
    assert [event.time for event in found.events] == [
        1000_400_000_000,
        1000_500_000_000,
        1000_600_000_000,
    ]


def test_the_first_thread_is_the_process_if_nothing_else_says_so():
    """A recording that was put together by hand would need a line that nobody knows of."""
    found = parse_recording(made_up("7 1.1 munmap(0x1000, 1) = 0\n", header=""))
    assert len(found.calls) == 1
    empty = f"aspf recording 1\n[maps]\n{MAPS.splitlines()[0]}\n[calls]\n[faults]\n[final]\n"
    assert parse_recording(empty).events == ()
    assert parse_recording(empty).mmap_base is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense\n", "not a recording of aspf trace record: it begins with 'nonsense'"),
        (made_up("").partition("[final]")[0], r"lacks its section \[final\]"),
        (made_up('7 1.1 execve("/bin/b", [], 0x1) = 0\n'), "has replaced itself: execve"),
        (
            made_up("", header="limits 1 2 3\n"),
            r"not four sizes \(AS DATA MEMLOCK STACK\): '1 2 3'",
        ),
        (made_up("", header="limits 1 2 3 none\n"), "not four sizes .*: '1 2 3 none'"),
        (made_up("bad line\n"), "line 3 of strace"),
        (made_up("", "bad line\n"), "line 1 of perf"),
        (made_up("", "", "bad line\n"), "line 1 is not a line of /proc"),
    ],
)
def test_what_is_no_recording_is_named(text, said):
    """A damaged file would be replayed in part."""
    with pytest.raises(ValueError, match=said):
        parse_recording(text)
