from __future__ import annotations

from hypothesis import given, strategies as st

from aspf.mm import Entry, Page, PageTable

PAGE = 4096
# Near together and far apart, so that levels are shared and are not.
numbers = st.one_of(
    st.integers(0, 40),
    st.integers(500, 530),
    st.sampled_from([1 << 9, 1 << 18, 1 << 27, (1 << 35) - 1]),
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), numbers, st.integers(0, 7)),
        st.tuples(st.just("zap"), numbers, numbers),
        st.tuples(st.just("restrict"), numbers, numbers),
    )
)


@given(operations)
def test_it_is_a_dict_of_pages(steps):
    """A walk through four levels would lose, keep or change an entry that it should not."""
    table, model = PageTable(), {}
    for what, first, second in steps:
        if what == "set":
            entry = Entry(Page(), second)
            table.set(first * PAGE, entry)
            model[first] = entry
            continue
        inside = [number for number in model if first <= number < second]
        if what == "zap":
            assert table.zap(first * PAGE, second * PAGE) == len(inside)
            for number in inside:
                assert model.pop(number).page.share_count == 0
        else:
            table.restrict(first * PAGE, second * PAGE, 5)
            for number in inside:
                model[number] = Entry(model[number].page, model[number].rights & 5)
    assert list(table.items(0, 1 << 48)) == [(n * PAGE, model[n]) for n in sorted(model)]
    assert len(table) == len(model)
    assert all(table.get(number * PAGE + 4095) == entry for number, entry in model.items())
    assert all(entry.page.share_count == 1 for entry in model.values())


def test_zapping_all_leaves_no_empty_levels():
    """A sparse space that is used for long would fill up with levels that hold nothing."""
    table = PageTable()
    for number in (0, 1 << 9, 1 << 18, 1 << 27):
        table.set(number * PAGE, Entry(Page(), 1))
    table.zap(0, 1 << 47)
    assert table._top == {}
    assert repr(table) == "<PageTable of 0 pages>"


def test_a_page_in_two_entries_is_shared_by_two():
    """Copy on write would write to a page that another mapping sees."""
    table, page = PageTable(), Page()
    table.set(0, Entry(page, 1))
    table.set(PAGE, Entry(page, 1))
    assert (page.share_count, repr(page)) == (2, "<Page shared 2 times>")
    table.set(0, Entry(page, 3))
    assert page.share_count == 2
    table.zap(0, PAGE)
    assert page.share_count == 1
