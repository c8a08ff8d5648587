"""What we answer, call by call, against what a real kernel answered."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest
from mm._arena import Arena, load, normal, told

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
# The rest: brk is in test_brk.py, gaps are in test_plan.py, fork is in test_fork.py.
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
