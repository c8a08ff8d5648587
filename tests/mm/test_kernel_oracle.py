"""What we answer, call by call, against what a real kernel answered."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest
from mm._arena import Arena, load, normal, supports, told

from aspf.mm import AddressSpace

RANDOM = ("anon_nofault", "anon_fault", "file_nofault", "file_fault")


def replayable(case) -> bool:
    # Growing a stack by touching below it is not built yet.
    grows = (
        case["group"] == "growsdown" and case["op"][0] in "rw" and case["ret"] != "SIGSEGV/MAPERR"
    )
    return not grows and all(map(supports, [*case["setup"], case["op"]]))


CURATED = [case for name in ("curated.json", "curated2.json") for case in load(name)]
CASES = [case for case in CURATED if replayable(case)]


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


def test_every_case_that_needs_no_later_call_is_replayed():
    """Cases would silently drop out of the comparison."""
    left_out = Counter(case["group"] for case in CURATED if not replayable(case))
    assert len(CASES) == 126
    assert left_out == {
        "anon_vma": 3,
        "anon_vma-mremap": 6,
        "growsdown": 6,
        "mremap": 29,
        "mremap-grow": 3,
    }


@pytest.mark.parametrize("kind", RANDOM)
def test_random_sequences_have_the_kernels_results_and_layouts(kind):
    """Calls that are right one by one would go wrong one after another."""
    compared = 0

    async def replay(steps):
        nonlocal compared
        arena, before = Arena(AddressSpace()), []
        for op, result, vmas in steps:
            if supports(op):
                assert [await arena.run(op), arena.vmas()] == [result, normal(vmas)], op
                compared += 1
            elif vmas != before or not isinstance(result, str):
                return  # from here on the layout depends on a call that is not built yet
            before = vmas

    async def main():
        for sequence in load(f"random_{kind}.jsonl"):
            await replay(sequence["steps"])

    anyio.run(main)
    assert compared == COMPARED[kind]


COMPARED = {"anon_nofault": 598, "anon_fault": 597, "file_nofault": 623, "file_fault": 652}


@pytest.mark.parametrize("kind", ["anon_nofault", "file_nofault"])
def test_random_calls_on_rebuilt_layouts_have_the_kernels_results(kind):
    """Layouts that only later calls can make (mremap, DONTFORK) would be treated wrongly."""
    compared = 0

    async def main():
        nonlocal compared
        for sequence in load(f"random_{kind}.jsonl"):
            before = []
            for op, result, vmas in sequence["steps"]:
                if op[0] == "mlock":
                    break  # it writes to the pages, and the record does not tell which
                # Which of several shared anonymous files a VMA maps is not recorded either.
                if supports(op) and not any(v[3] == "shm" for v in before):
                    arena = Arena.of(before)
                    assert [await arena.run(op), arena.vmas()] == [result, normal(vmas)], op
                    compared += 1
                before = vmas

    anyio.run(main)
    assert compared == REBUILT[kind]


REBUILT = {"anon_nofault": 424, "file_nofault": 423}
