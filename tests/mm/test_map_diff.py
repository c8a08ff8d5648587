"""Two maps compared, against a dict of pages."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, strategies as st

from aspf.mm import PAGE_SIZE, MapsLine, cuts_apart, diff_maps

PAGES = 12
FILES = [((0, 0), 0, ""), ((0, 0), 0, "[heap]"), ((8, 2), 77, "/lib/a"), ((8, 2), 78, "/lib/b")]

runs = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.none() | st.tuples(st.sampled_from(["r--p", "rw-p"]), st.sampled_from(FILES)),
        st.integers(0, 1),
    ),
    max_size=6,
)


def maps(pieces) -> list[MapsLine]:
    """Lay the pieces one after another; None is a hole."""
    lines, page = [], 1
    for length, what, shift in pieces:
        if what is not None:
            permissions, (device, inode, name) = what
            start, end = page * PAGE_SIZE, (page + length) * PAGE_SIZE
            offset = start + shift * PAGE_SIZE if inode else 0
            lines.append(MapsLine(start, end, permissions, offset, device, inode, name))
        page += length
    return lines


def pages(lines) -> dict[int, tuple]:
    return {
        address: (
            line.permissions,
            line.device,
            line.inode,
            line.name,
            line.offset + address - line.start if line.inode else 0,
        )
        for line in lines
        for address in range(line.start, line.end, PAGE_SIZE)
    }


@given(runs, runs)
def test_the_changes_are_the_pages_that_differ(one, other):
    """A page would be called changed that is not, or the other way round; or by a wrong name."""
    before, after = maps(one), maps(other)
    changes = diff_maps(before, after)
    old, new = pages(before), pages(after)
    assert {a: v for a, v in old.items() if new.get(a) != v} == pages(
        filter(None, (c.before for c in changes))
    )
    assert {a: v for a, v in new.items() if old.get(a) != v} == pages(
        filter(None, (c.after for c in changes))
    )
    for change in changes:
        assert (change.before is None) == (change.how == "added")
        assert (change.after is None) == (change.how == "removed")
    ends = [(c.line.start, c.line.end) for c in changes]
    assert ends == sorted(ends)


@given(runs, st.sets(st.integers(1, 20)))
def test_where_lines_are_cut_is_no_change(pieces, cuts):
    """A map would differ from one that has the same at every page."""
    lines = maps(pieces)
    cut = []
    for line in lines:
        inside = sorted(c * PAGE_SIZE for c in cuts if line.start < c * PAGE_SIZE < line.end)
        for start, end in zip([line.start, *inside], [*inside, line.end], strict=True):
            offset = line.offset + start - line.start if line.inode else 0
            cut.append(replace(line, start=start, end=end, offset=offset))
    assert diff_maps(lines, cut) == []
    starts = {line.start for line in lines}
    assert cuts_apart(cut, lines) == [line.start for line in cut if line.start not in starts]


def test_neighbours_that_change_alike_are_one_change():
    """A diff would have as many lines as the maps have, instead of as many as there are changes."""
    before = maps([(2, ("r--p", FILES[0]), 0), (2, ("r--p", FILES[0]), 0)])
    (change,) = diff_maps(before, [replace(line, permissions="rw-p") for line in before])
    assert (change.line.start, change.line.end) == (before[0].start, before[1].end)
