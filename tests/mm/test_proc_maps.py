from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import anyio
import pytest
from hypothesis import given, strategies as st
from mm._arena import Numbered

from aspf import mm
from aspf.mm import AddressSpace, MappedFile, MapsLine, format_maps, parse_maps

SAMPLE = files("aspf.mm").joinpath("sample.maps").read_text(encoding="ascii")

names = st.one_of(
    st.just(""),
    st.sampled_from(["[heap]", "[stack]", "[anon: pool]", "/dev/zero (deleted)"]),
    st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=40).map("/".__add__),
)
lines = st.builds(
    MapsLine,
    start=st.integers(0, 1 << 64),
    end=st.integers(0, 1 << 64),
    permissions=st.from_regex(r"[r-][w-][x-][ps]", fullmatch=True),
    offset=st.integers(0, 1 << 44),
    device=st.tuples(st.integers(0, 4095), st.integers(0, 1 << 20)),
    inode=st.integers(0, 1 << 63),
    name=names,
)


@given(st.lists(lines))
def test_what_is_printed_is_parsed_back(shown):
    """A line with a long inode or an odd name would come back as another."""
    text = format_maps(shown)
    assert parse_maps(text) == shown
    assert parse_maps(text.split("\n")) == shown


def test_the_sample_comes_back_byte_for_byte():
    """The columns would not be the kernel's."""
    assert format_maps(parse_maps(SAMPLE)) == SAMPLE


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc on this machine")
def test_this_process_comes_back_byte_for_byte():
    """The sample would be the only process that can be read."""
    text = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    assert format_maps(parse_maps(text)) == text
    kept = "".join(f"{line}\n" for line in parse_maps(text) if line.end <= mm.TASK_SIZE)
    assert AddressSpace.from_maps(text).maps() == kept


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "1000-2000 rw-p 00000000 00:00 0 ",
        SAMPLE.splitlines()[0].replace("r--p", "rwyp"),
    ],
)
def test_what_is_no_line_is_named(line):
    """A file that is something else would give an empty or a wrong layout."""
    with pytest.raises(ValueError, match="line 2 is not a line"):
        parse_maps(f"{SAMPLE.splitlines()[3]}\n{line}\n")


def test_a_live_layout_is_rebuilt_as_it_is():
    """VMAs that the process has apart would merge, or [vsyscall] would be in the way."""
    space = AddressSpace.from_maps(SAMPLE)
    assert space.maps() == "".join(
        line for line in SAMPLE.splitlines(True) if "vsyscall" not in line
    )
    stack = space.find_vma(0x7FFD3A5D2000)
    assert stack.payload.flags & mm.VM_GROWSDOWN


def test_a_live_layout_can_be_faulted_on_and_changed():
    """The layout would be a picture only."""

    async def main():
        libc = MappedFile(Numbered(), name="/usr/lib/x86_64-linux-gnu/libc.so.6")
        known = {libc.name: libc}
        async with AddressSpace.from_maps(SAMPLE.splitlines(), files=known) as space:
            # Page 0x28 of the file, by its offset in the map; a file that is only a name is zeros.
            assert await space.read(0x7F3B14A28000, 2) == b"\x28\x28"
            assert await space.read(0x7F3B14C30000, 2) == b"\0\0"
            heap = 0x5566C2A4E000
            await space.write(heap, b"heap")
            await space.mprotect(heap, 4096, mm.PROT_READ)
            assert space.maps().splitlines()[5:7] == [
                f"5566c2a4e000-5566c2a4f000 r--p 00000000 00:00 0{'[heap]':>32}",
                f"5566c2a4f000-5566c2c3f000 rw-p 00000000 00:00 0{'[heap]':>32}",
            ]
            # The names stay apart what the protection no longer does.
            await space.mprotect(heap, 4096, mm.PROT_READ | mm.PROT_WRITE)
            assert space.maps().splitlines()[5].startswith("5566c2a4e000-5566c2c3f000 rw-p")

    anyio.run(main)
