"""The pictures of a map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from _golden import check_golden
from hypothesis import given, strategies as st
from rich.console import Console

from aspf.mm import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    AddressSpace,
    DiffPicture,
    MapPicture,
    kind_of,
    parse_maps,
    parse_smaps,
    sample_maps,
    size_text,
)

GOLDEN = Path(__file__).parent / "golden"
LINES = parse_maps(sample_maps())
RESIDENT = {x.start: (x.end - x.start) // 3 & -PAGE_SIZE for x in LINES}
FULL = MapPicture(lines=LINES, resident=RESIDENT, title="process 4711 (python3)")


@pytest.mark.parametrize(
    ("name", "picture", "width", "ascii_only"),
    [
        ("wide", FULL, 130, False),
        ("no_width", replace(FULL, resident={}), None, False),
        ("narrow", FULL, 80, False),
        ("narrower", FULL, 50, True),
        ("folded", replace(FULL, rows=9, totals_first=True), 100, False),
        ("empty", MapPicture(lines=[]), 100, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_picture_is_as_approved(name, picture, width, ascii_only):
    """Columns would run into each other, or a terminal would break the lines."""
    text = picture.text(width, ascii_only=ascii_only)
    assert width is None or max(map(len, text.splitlines())) <= width
    assert not ascii_only or text.isascii()
    check_golden(GOLDEN / f"maps_{name}.txt", text)


def later() -> list:
    """Return the sample after some calls: a heap that has grown, a page that is read-only now."""
    changed = list(LINES)
    heap = next(i for i, line in enumerate(changed) if line.name == "[heap]")
    changed[heap] = replace(changed[heap], end=changed[heap].end + 8 * PAGE_SIZE)
    anonymous = changed[heap + 1]
    middle = anonymous.start + PAGE_SIZE
    changed[heap + 1 : heap + 2] = [
        replace(anonymous, end=middle, permissions="r--p"),
        replace(anonymous, start=middle),
    ]
    file = changed[heap + 4]
    changed[heap + 4] = replace(file, inode=1, name="/tmp/odd\x1b[31m name")
    changed[-3] = replace(changed[-3], offset=PAGE_SIZE, inode=5, device=(0, 1))
    del changed[-6]
    return changed


def test_a_diff_is_as_approved():
    """What was added, removed and changed could not be told apart, or a name would paint."""
    text = DiffPicture(before=LINES, after=later(), names=("monday", "tuesday")).text()
    check_golden(GOLDEN / "maps_diff.txt", text)


def test_a_diff_the_other_way_round_is_as_approved():
    """Removed would be called added."""
    picture = DiffPicture(before=later(), after=LINES, names=("tuesday", "monday"))
    check_golden(GOLDEN / "maps_diff_back.txt", picture.text(80, ascii_only=True))


def test_equal_maps_have_no_diff():
    """Somebody would look for a change where none is."""
    assert DiffPicture(before=LINES, after=LINES).text() == "before → after\nno page differs\n"


def test_other_places_are_called_so():
    """Two processes would be compared, and everything that is alike would be called removed."""
    moved = [
        replace(x, start=x.start + PAGE_SIZE * 99999999, end=x.end + PAGE_SIZE * 99999999)
        for x in LINES[:3]
    ]
    text = DiffPicture(before=LINES[:3], after=moved).text()
    assert "Nothing is at the same address in both" in text


def test_cuts_alone_are_counted():
    """A VMA that was split would look like no change at all."""
    line = LINES[5]
    middle = line.start + PAGE_SIZE
    cut = [replace(line, end=middle), replace(line, start=middle)]
    text = DiffPicture(before=[line], after=cut).text()
    assert "no page differs; at 1 place only one of them has equal neighbours apart" in text


def test_what_is_new_is_marked_as_approved():
    """--watch would show a changed map without a word of what has changed."""
    picture = MapPicture(lines=later(), since=LINES, rows=12)
    check_golden(GOLDEN / "maps_since.txt", picture.text(100))


def test_what_has_gone_is_marked():
    """A mapping at either end of the map would vanish without a mark."""
    for kept in (LINES[1:], LINES[:-1]):
        rows = MapPicture(lines=kept, since=LINES).text().splitlines()
        assert len([row for row in rows if row.startswith("- ")]) == 1


@given(st.integers(1, 60), st.integers(0, len(LINES)))
def test_folding_keeps_to_the_number_of_lines(rows, gone):
    """--watch would scroll off the screen."""
    lines = LINES[: len(LINES) - gone]
    text = MapPicture(lines=lines, rows=rows).text()
    assert len(text.split("\n\n")[1].splitlines()) <= rows


def test_totals_add_up():
    """A mapping would be in no total, or in two."""
    totals = FULL.totals()
    assert sum(total.mappings for total in totals) == len(LINES)
    assert sum(total.size for total in totals) == sum(x.end - x.start for x in LINES)
    assert sum(total.resident or 0 for total in totals) == sum(RESIDENT.values())


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("rw-p 00000000 00:00 0 [heap]", "heap"),
        ("rw-p 00000000 00:00 0 [stack]", "stack"),
        ("rw-s 00000000 00:01 7 /dev/zero (deleted)", "shared"),
        ("rwxp 00000000 00:00 0 ", "code"),
        ("r-xp 00000000 08:02 7 /lib/libc.so", "code"),
        ("r--p 00000000 08:02 7 /lib/libc.so", "file"),
        ("---p 00000000 08:02 7 /lib/libc.so", "file"),
        ("---p 00000000 00:00 0 ", "reserved"),
        ("rw-p 00000000 00:00 0 [anon: pool]", "anonymous"),
        ("r--p 00000000 00:00 0 [vvar_vclock]", "kernel"),
    ],
)
def test_kinds(line, kind):
    """The totals would name a mapping as what it is not."""
    assert kind_of(*parse_maps(f"00001000-00002000 {line}")) == kind


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000 * 1024, "0.98 MiB"),
        (1 << 64, "16 EiB"),
        (1 << 80, "1048576 EiB"),
        ((1 << 47) - 1, "128 TiB"),
    ],
)
def test_sizes(size, text):
    """A size would not fit its column, or read as another."""
    assert size_text(size) == text


def test_colours_only_where_somebody_sees_them():
    """A pipe would get escape sequences, or a terminal no colours."""
    for force, codes in ((True, True), (False, False)):
        console = Console(
            force_terminal=force, color_system="standard" if force else None, width=100
        )
        with console.capture() as capture:
            console.print(FULL, soft_wrap=True)
        assert ("\x1b[32m" in capture.get()) == codes
        if not force:
            assert capture.get() == FULL.text()


SMAPS = """\
55e8d0a00000-55e8d0a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                  12 kB
VmFlags: rd wr mr mw me ac sd
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
Rss:                   0 kB
"""


def test_smaps_are_maps_with_what_is_in_memory():
    """A picture would lack what is resident, or show it at another mapping."""
    lines, resident = parse_smaps(SMAPS)
    assert [line.name for line in lines] == ["[heap]", "[stack]"]
    assert resident == {lines[0].start: 12288, lines[1].start: 0}
    assert parse_smaps(sample_maps()) == (LINES, {})
    assert parse_smaps(SMAPS.splitlines(keepends=True)) == (lines, resident)


@pytest.mark.parametrize("bad", ["Rss: many kB", "nonsense", "55e8 rw-p"])
def test_what_is_no_smaps_is_named(bad):
    """A damaged file would be drawn as if it were whole."""
    with pytest.raises(ValueError, match=f"line 8 is not a line .*{bad}"):
        parse_smaps(SMAPS + bad)
    with pytest.raises(ValueError, match="line 1 is not a line"):
        parse_smaps("Rss: 4 kB\n" + SMAPS)


def test_a_live_space_shows_itself():
    """A debugger would show an address space as a number of VMAs."""

    async def main():
        async with AddressSpace() as space:
            address = await space.mmap(
                0, 16 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
            )
            await space.write(address, b"1")
            await space.read(address + PAGE_SIZE, 1)  # the zero page: nothing in memory for it
            assert "speculative: 1 VMAs (anonymous 64 KiB), 2 pages, 0 unsettled>" in repr(space)
            assert str(space) == space.picture().text().rstrip("\n")
            assert "64 KiB      4 KiB  █░░░░" in str(space)
            console = Console(width=100)
            with console.capture() as capture:
                console.print(space)
            assert capture.get() == f"{space}\n"
            assert space.picture(rows=1).rows == 1
        assert "closed" in repr(space)
        assert str(space).startswith("address space, closed")

    anyio.run(main)


def test_a_moved_offset_is_said():
    """A file mapped from another offset would be called changed, and nobody would know how."""
    line = parse_maps("00001000-00002000 rwxp 00003000 08:02 7 /lib/a")[0]
    picture = DiffPicture(before=[line], after=[replace(line, offset=0x5000)])
    assert "/lib/a  (offset 0x3000 → 0x5000)" in str(picture)


def test_what_may_be_written_and_executed_is_red():
    """The mapping that one looks for would look like any other."""
    console = Console(force_terminal=True, color_system="standard", width=100)
    with console.capture() as capture:
        console.print(MapPicture(lines=parse_maps("00001000-00002000 rwxp 00000000 00:00 0 ")))
    assert "\x1b[1;31mrwxp" in capture.get()
