"""Every operation against every kind of access, in every interleaving; see `mm._operations`."""

from __future__ import annotations

import random
from functools import partial
from itertools import combinations_with_replacement

import pytest
from mm import _broken
from mm._operations import (
    EXIT,
    FORK,
    MAPS,
    MREMAPS,
    OPERATIONS,
    Program,
    prepared,
    programs_of,
    read,
    write,
)

from aspf import race

NAMED = {operation.name: operation for operation in OPERATIONS}


def explore_all(name, programs, search="exhaustive", **options):
    """Explore programs until one fails, and print how much that was, as one exploration."""
    schedules, is_exhausted = 0, True
    for program in prepared(programs):
        found = race.explore(program.runner(), name=program.name, search=search, **options)
        assert not found.failures, f"{program.name}\n{found}"
        schedules += found.schedules
        is_exhausted = is_exhausted and found.exhausted
    state = "exhausted" if is_exhausted else "not exhausted"
    what = f"{name}: no failure in {schedules} schedules of {len(programs)} programs"
    print(f"{what} ({search} search, {state}; level: free)")  # noqa: T201 - a result
    return is_exhausted


@pytest.fixture
def explore(pytestconfig):
    """Explore a few schedules of each program, or all with ``--exhaustive``."""

    def run(name, programs, few, **options):
        if pytestconfig.getoption("exhaustive"):
            assert explore_all(name, programs, schedules=1_000_000, **options)
        else:
            explore_all(name, programs[:3], search="portfolio", schedules=few, **options)

    return run


@pytest.mark.parametrize("name", NAMED)
def test_an_access_sees_one_side_of_an_operation(name):
    """A permitted access would fail, a write be lost, a page stay, or maps() show a gap."""
    assert explore_all(name, programs_of(NAMED[name]))


LOCKINGS = ("mmap_lock", "mmap_lock_retry")
# What does something of its own under a lock.
LOCKED = ("fork", "exit", "munmap stack", "mmap below stack", "mremap moves over another")


@pytest.mark.thorough
@pytest.mark.parametrize("locking", LOCKINGS)
@pytest.mark.parametrize("name", NAMED)
def test_an_access_sees_one_side_under_a_lock(name, locking, explore, pytestconfig):
    """What keeps them apart would not; the lock is not what a program waits for in the end."""
    programs = programs_of(NAMED[name], locking=locking)
    if name in LOCKED:
        assert explore_all(f"{name} under {locking}", programs)
    elif pytestconfig.getoption("exhaustive"):
        explore(f"{name} under {locking}", programs, 0)
    else:
        explore(f"{name} under {locking}", programs[:2], 3)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMED)
def test_an_access_sees_one_side_of_an_operation_that_is_cancelled(name, explore):
    """A cancelled call would have half an effect, or leave a hold behind."""
    programs = programs_of(NAMED[name], cancelled=True)
    explore(f"{name} with a cancellation", programs, 4, cancel="each")


DRAINING = (
    "munmap",
    "munmap middle",
    "mmap alike over",
    "mmap read-only over",
    "mprotect read",
    "mremap moves",
    "mremap moves over another",
    "mremap DONTUNMAP",
)
# What else can drain; accesses meet it always, all operations with --exhaustive.
DRAINING_TOO = (
    "munmap file",
    "mmap file over",
    "mmap locked over",
    "mprotect none",
    "mprotect all none",
    "mprotect file",
    "munmap stack",
    "munmap below stack",
    "mremap shrinks",
    "mremap moves and shrinks",
    "mremap moves and grows",
    "mremap must move to grow",
    "mremap moves several",
    "mremap moves home",
    "mremap moves a copy",
    "brk shrinks",
)
MEETING = (FORK, EXIT, *MREMAPS, NAMED["mmap alike over"], NAMED["mprotect none"])


@pytest.mark.parametrize("draining", [*DRAINING, *DRAINING_TOO])
def test_an_access_meets_a_range_that_drains(draining):
    """It would see what was taken away, fail where the mapping stays, or maps() show a gap."""
    drains = NAMED[draining]
    accesses = [MAPS, *(of(page) for page in OPERATIONS[drains] for of in (write, read))]
    programs = [Program(((access,),), draining=drains) for access in accesses]
    # Two looks: what was seen once must not be unseen.
    programs += [Program(((MAPS, MAPS),), draining=drains)]
    assert explore_all(f"an access while {draining} drains", programs)


@pytest.mark.thorough
@pytest.mark.parametrize("draining", DRAINING)
@pytest.mark.parametrize("operation", MEETING, ids=lambda operation: operation.name)
def test_an_operation_meets_a_range_that_drains(operation, draining, pytestconfig):
    """Rules S and T: it would work on pages that are going, or are still to come."""
    schedules = 300 if pytestconfig.getoption("exhaustive") else 3
    name, drains = f"{operation.name} while {draining} drains", NAMED[draining]
    assert explore_all(name, [Program(((operation,),), draining=drains)])
    with_access = [
        Program(((access,), (operation,)), draining=drains)
        for access in (write(OPERATIONS[operation][0]), MAPS)
    ]
    explore_all(f"{name}, with an access", with_access, search="portfolio", schedules=schedules)


# The first takes several steps, and the second sees it in between. So it is in Linux: mmap and
# mlockall drop the lock before mm_populate brings the pages, one batch after the other. Before they
# have come, mprotect gives back what the mapping is charged for (it was never written to),
# munlockall lets it merge with its neighbours (it has no anon_vma), and mincore tells of some pages.
IN_BETWEEN = {
    ("mmap locked over", "mprotect read"),
    ("mmap locked over", "mprotect none"),
    ("mmap locked over", "mprotect all none"),
    ("mmap locked over", "munlockall"),
    ("mlockall", "mincore"),
}
PAIRS = [
    pair
    for pair in combinations_with_replacement(OPERATIONS, 2)
    if (pair[0].name, pair[1].name) not in IN_BETWEEN
]


# The one that drains was cancelled while it waited. A cancelled munmap leaves what was written with
# the file, for its flush. What an unsettled move has left is not free, so one with a hint goes elsewhere.
DRAINS_OTHERWISE = {
    ("munmap file", "exit"),
    ("mremap moves home", "mremap DONTUNMAP"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("draining", DRAINING_TOO)
def test_an_operation_meets_anything_that_drains(draining, pytestconfig):
    """Rules S and T would hold for some calls only."""
    not_these = IN_BETWEEN | DRAINS_OTHERWISE
    meeting = [other for other in MEETING if (draining, other.name) not in not_these]
    if not pytestconfig.getoption("exhaustive"):
        meeting = random.Random(draining).sample(meeting, 2)
    programs = [Program(((operation,),), draining=NAMED[draining]) for operation in meeting]
    assert explore_all(f"an operation while {draining} drains", programs)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMED)
def test_an_operation_meets_another(name, pytestconfig):
    """Two changes at once would come to what neither order of them does."""
    programs = [Program(((one,), (two,))) for one, two in PAIRS if one.name == name]
    if not pytestconfig.getoption("exhaustive"):
        programs = random.Random(name).sample(programs, 1)
    assert explore_all(f"{name} against another operation", programs, schedules=100_000)


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(8))
def test_two_operations_and_an_access(part, pytestconfig):
    """Two changes at once would come to what neither order of them does."""
    is_long = pytestconfig.getoption("exhaustive")
    draw = random.Random(part)
    programs = []
    for one, two in draw.sample(PAIRS, 40 if is_long else 12):
        page = draw.choice((*OPERATIONS[one], *OPERATIONS[two]))
        access = draw.choice((write(page), read(page), MAPS))
        programs.append(Program(((one,), (two,), (access,))))
    schedules = 100 if is_long else 8
    explore_all(f"pairs {part}", programs, search="portfolio", schedules=schedules)


BETWEEN_TWO = [
    ((write(0),), (write(0, child=True),)),
    ((write(0),), (read(0, child=True),)),
    ((read(0), write(0)), (write(0, child=True),)),
    ((write(8),), (write(8, child=True),)),
    *(
        ((operation,), (access,))
        for operation in (
            *(NAMED[name] for name in ("munmap", "mmap alike over", "mprotect read")),
            *(NAMED[name] for name in ("mremap moves", "madvise DONTNEED", "mlock")),
            EXIT,
        )
        for access in (write(0, child=True), read(0, child=True))
    ),
]


@pytest.mark.thorough
@pytest.mark.parametrize("tasks", BETWEEN_TWO, ids=lambda tasks: Program(tasks).name)
def test_parent_and_child_do_not_meet(tasks):
    """Copy on write: one would see what the other writes, or lose its own write."""
    program = Program((*tasks, (write(9),)) if len(tasks) > 2 else tasks, forked=True)
    program.needs |= {"memory", "file"}
    assert explore_all(program.name, [program])


BESIDE = (
    ("munmap", "madvise POPULATE_READ"),
    ("mprotect none", "madvise POPULATE_WRITE"),
    ("munmap below stack", "mlockall"),
)


@pytest.mark.parametrize(("one", "two"), BESIDE)
def test_a_call_that_brings_pages_meets_another(one, two):
    """It would return what Linux doesn't, or let a stack grow that nobody has touched."""
    assert explore_all(f"{one} against {two}", [Program(((NAMED[one],), (NAMED[two],)))])


# What each rule is for: leave it out, and this comes of it.
BROKEN = {
    _broken.fault_without_holding: (Program(((write(1),), (NAMED["munmap"],))), "stale page 1"),
    _broken.clean_up_at_once: (Program(((write(1),), (NAMED["munmap"],))), "stale page 1"),
    _broken.replace_in_two_steps: (
        Program(((MAPS,), (NAMED["mmap alike over"],))),
        "no order of the calls explains",
    ),
    _broken.decide_before_the_fetch: (
        Program(((write(1),), (NAMED["mprotect read"],))),
        "lost protection of page 1",
    ),
    _broken.move_at_once: (Program(((write(1),), (NAMED["mremap moves"],))), "stale page 1"),
    _broken.fork_what_is_vacated: (
        Program(((FORK,),), draining=NAMED["munmap"]),
        "stale page 0 in the child",
    ),
    _broken.fork_without_waiting: (
        Program(((FORK,),), draining=NAMED["mmap alike over"]),
        "no order of the calls explains",
    ),
    _broken.fork_without_taking_rights: (
        Program(((FORK,), (MAPS,))),
        "page 0 in the space is not its own",
    ),
    _broken.fork_with_rights_that_go: (
        Program(((FORK,),), draining=NAMED["mprotect all none"]),
        "lost protection of page 0 in the child",
    ),
    _broken.grow_over_what_is_vacated: (
        Program(((write(999),),), draining=NAMED["munmap below stack"]),
        "no order of the calls explains",
    ),
    _broken.grow_without_looking_again: (
        Program(((write(999),), (NAMED["munmap stack"],)), draining=NAMED["munmap below stack"]),
        "layout of plane 0",
    ),
    _broken.populate_lets_stacks_grow: (
        Program(((NAMED["mlockall"],), (NAMED["munmap below stack"],))),
        "layout of plane 0",
    ),
    _broken.exit_unnoticed: (
        Program(((write(1),), (EXIT,)), locking="mmap_lock"),
        "stale page 1",
    ),
    _broken.keep_what_is_replaced_alike: (
        Program(((NAMED["mmap at home"],),), draining=NAMED["mremap moves home"]),
        "layout of plane 0",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_rule_that_is_left_out_is_found(broken):
    """The explorations above would pass whatever the address space does."""
    program, consequence = BROKEN[broken]
    prepared([program])
    find = partial(race.explore, program.runner(broken), name=program.name)
    found = find(search="exhaustive", stop_on_failure=False, schedules=500)
    said = [failure.summary for failure in found.failures]
    assert any(consequence in text for text in said), str(found)
