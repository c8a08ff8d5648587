"""What we answer, call by call, against what a real kernel answered."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest
from mm._arena import Arena, load, normal, told

from aspf.mm import AddressSpace

# Every recorded call, and no layout is taken from the record on the way.
COMPARED = {"anon_nofault": 3000, "anon_fault": 3000, "file_nofault": 1800, "file_fault": 1800}


def replayable(case) -> bool:
    # Growing a stack by touching below it is not built yet.
    return not (
        case["group"] == "growsdown" and case["op"][0] in "rw" and case["ret"] != "SIGSEGV/MAPERR"
    )


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
    assert len(CASES) == 167
    assert left_out == {"growsdown": 6}


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
