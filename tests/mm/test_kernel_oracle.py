"""What we answer, call by call, against what a real kernel answered."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest
from mm._arena import BASE, PAGE, Arena, load, normal, told

from aspf.mm import AddressSpace

# Every recorded call, and no layout is taken from the record on the way.
COMPARED = {"anon_nofault": 3000, "anon_fault": 3000, "file_nofault": 1800, "file_fault": 1800}


CASES = [case for name in ("curated.json", "curated2.json") for case in load(name)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['group']}: {case['name']}")
def test_one_call_has_the_kernels_result_and_layout(case):
    """A rule of the kernel (merge, errno, partial effect, fault outcome) would be ours no more."""

    async def main():
        arena = Arena(AddressSpace())
        for op in case["setup"]:
            await arena.run(op)
        if "before" in case:
            assert told(arena.vmas(), case["before"]) == normal(case["before"])
        result = await arena.run(case["op"])
        assert result == case["ret"]
        assert told(arena.vmas(), case["after"]) == normal(case["after"])

    anyio.run(main)


def test_every_case_is_replayed():
    """Cases would silently drop out of the comparison."""
    assert len(CASES) == 173


@pytest.mark.parametrize("kind", COMPARED)
def test_random_sequences_have_the_kernels_results_and_layouts(kind):
    """Calls that are right one by one would go wrong one after another."""
    compared = Counter()

    async def main():
        for sequence in load(f"random_{kind}.jsonl"):
            arena = Arena(AddressSpace())
            for op, result, vmas in sequence["steps"]:
                assert [await arena.run(op), arena.vmas()] == [result, normal(vmas)], op
                compared[op[0]] += 1

    anyio.run(main)
    assert compared.total() == COMPARED[kind]


EXTRA = load("extra.json")
# The rest: gaps are in test_plan.py, fork is in test_fork.py.
OPENED = [case for case in EXTRA if case["group"] == "fd-perm"]


@pytest.mark.parametrize("case", OPENED, ids=lambda case: case["name"])
def test_a_file_grants_what_it_was_opened_for(case):
    """A mapping would write to a file that is open for reading only, or the other way round."""
    _, opened, _, prot, flags = case["name"].split()

    async def main():
        arena = Arena(AddressSpace())
        arena.files["f"].is_readable = opened != "WRONLY"
        arena.files["f"].is_writable = opened != "RDONLY"
        result = await arena.run(["mmap", 0, 1, prot, flags, "f", 0])
        answers = ["ok" if result == 0 else result]
        if result == 0 and "w" not in prot:
            grown = prot.replace("-", "") + "w"
            answers.append(["mprotect +w", await arena.run(["mprotect", 0, 1, grown])])
        assert answers == case["result"]

    anyio.run(main)


MOVES = {
    "DONTUNMAP: data moved, old mapping stays, reads zero": [
        ["mremap", 0, 2, 2, "MAYMOVE|FIXED|DONTUNMAP", 8],
        ["r", 8],
        ["r", 9],
        ["r", 0],
    ],
    "move+grow: data moved, tail zero, old addr MAPERR": [
        ["mremap", 0, 2, 4, "MAYMOVE|FIXED", 8],
        ["r", 8],
        ["r", 10],
        ["r", 0],
    ],
}


@pytest.mark.parametrize("name", MOVES)
def test_data_moves_with_a_mapping(name):
    """Moved memory would hold other bytes than the kernel's."""
    (case,) = (case for case in EXTRA if case["name"] == name)

    async def main():
        arena = Arena(AddressSpace())
        for op in (["mmap", 0, 2, "rw", "FIXED|PRIVATE|ANON"], ["w", 0, 11], ["w", 1, 12]):
            await arena.run(op)
        answers = [await arena.run(op) for op in MOVES[name]]
        assert [*answers, told(arena.vmas(), case["result"][-1])] == case["result"]

    anyio.run(main)


BRK = {
    "brk(+4p)": 4,
    "brk(+4p+100B) -> returns the unaligned value": 4 + 100 / PAGE,
    "shrink brk(+2p)": 2,
    "brk(0) query": -BASE / PAGE,
    "brk(1) below start_brk: unchanged": (1 - BASE) / PAGE,
    "brk(+128TiB): unchanged (failure = old value)": 1 << 35,
    "mmap blocker at top+2p": None,
    "grow by 1p leaving 1p gap to blocker": 3,
    "grow to touch blocker": 4,
    "grow over blocker": 5,
}


def test_the_heap_ends_where_the_kernels_did():
    """An allocator would be told another break than a real kernel's."""
    (case,) = (case for case in EXTRA if case["group"] == "brk")

    async def main():
        arena = Arena(AddressSpace(start_brk=BASE))
        for name, recorded in case["result"]:
            if BRK[name] is None:
                await arena.run(["mmap", 4, 1, "rw", "FIXED|PRIVATE|ANON"])
                continue
            there = await arena.run(["brk", BRK[name]])
            assert recorded in (there, f"+{round(there * PAGE)} bytes"), name
        assert [name for name, _ in case["result"]] == list(BRK)

    anyio.run(main)


def test_addresses_at_the_ends_of_the_space():
    """Page 0 would be mapped for who may not, or something beyond the last page."""
    results = {case["name"]: case["result"] for case in EXTRA if case["group"] == "mmap"}

    async def main():
        arena = Arena(AddressSpace(min_address=0))  # the recorded process was allowed to
        low = await arena.run(["mmap", -BASE / PAGE, 1, "rw", "FIXED|PRIVATE|ANON"])
        assert low == "OUTSIDE"
        assert arena.space.vma_lookup(0).start == 0
        high = await arena.run(["mmap", 1 << 36, 1, "rw", "FIXED|PRIVATE|ANON"])
        assert results == {
            "MAP_FIXED at 0 (mmap_min_addr; we are root)": 0,
            "addr above TASK_SIZE with FIXED": high,
        }

    anyio.run(main)


def test_every_other_recorded_answer_has_its_test():
    """Recorded answers would drop out of the comparison unseen."""
    assert Counter(case["group"] for case in EXTRA) == {
        "fd-perm": 18,
        "mmap": 2,
        "mremap": 2,
        "fork": 10,
        "brk": 1,
        "gap": 2,
    }
