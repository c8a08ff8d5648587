"""What the primitives say while an explorer runs: that it is complete, and that it goes away."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio._backends._trio
import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st
from race._random_programs import make, plans
from race.test_search import enumerate_all

from aspf import RangeMap
from aspf.race import _hook, check, explore, point
from aspf.race._primitives import KINDS, SPECIAL
from aspf.race._runner import exploring

if TYPE_CHECKING:
    from collections.abc import Callable

    from race._random_programs import Op

    from aspf.race._settings import Cancel


# -- that nothing is missed ------------------------------------------------------------------------


@settings(max_examples=40)
@given(plans(tasks=3, ops=2))
def test_reduction_loses_nothing(drawn: list[list[Op]]) -> None:
    """An access that isn't announced hides an outcome, or a failure, from the reduced search."""
    compare(drawn, cancel="never", level="free")


@settings(max_examples=20)
@given(plans(tasks=2, ops=2))
def test_reduction_loses_nothing_with_cancellations(drawn: list[list[Op]]) -> None:
    """A cancelled waiter leaves a queue without any method of the queue being called."""
    compare(drawn, cancel="each", level="free")


@settings(max_examples=20)
@given(plans(tasks=2, ops=2))
def test_reduction_loses_nothing_at_the_level_contract(drawn: list[list[Op]]) -> None:
    """Between the point and the operation others do what the operation depends on."""
    compare(drawn, cancel="never", level="contract")


@pytest.mark.parametrize(
    ("drawn", "cancel"),
    [
        # The step that enters a scope takes the lock or not, as the scope is cancelled or isn't.
        (
            [
                [("wait_for", 0, 1), ("wait_for", 0, 0)],
                [("notify", 1, 2), ("cancel", 1, 0), ("close", 0, 1)],
                [("notify", 1, 0), ("notify", 0, 2)],
            ],
            "never",
        ),
        # The explorer itself once asked a sleeper's scopes whether they were shielded.
        (
            [
                [("semaphore", 0, 0), ("widen", 0, 2)],
                [("semaphore", 1, 0)],
                [("widen", 0, 1), ("semaphore", 1, 2), ("widen", 0, 1)],
            ],
            "each",
        ),
    ],
)
def test_programs_of_which_a_trace_was_missed(drawn: list[list[Op]], cancel: Cancel) -> None:
    """Found by the random programs at length; each lost a class of schedules, though no outcome."""
    compare(drawn, cancel=cancel, level="free", limit=1_000)


def compare(drawn: list[list[Op]], *, cancel: Cancel, level: str, limit: int = 300) -> None:
    """Compare the reduced search with the plain enumeration, and with sleep sets alone."""
    program = make(drawn)
    everything = enumerate_all(program, "all", cancel=cancel, limit=limit, level=level)
    if everything is None:
        return
    sleep_sets = enumerate_all(program, "sleep sets", cancel=cancel, limit=limit, level=level)
    reduced = enumerate_all(program, "both", cancel=cancel, limit=limit, level=level)
    assert sleep_sets is not None
    assert reduced is not None
    assert sleep_sets.outcomes == everything.outcomes
    assert reduced.outcomes == everything.outcomes
    assert reduced.complete == sleep_sets.complete


# -- traces, counted without the search --------------------------------------------------------------

# What a task does in one step, and what it reads and writes by that.
STEPS: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "set a": (lambda it: it["a"].set(), "", "a"),
    "ask a": (lambda it: it["a"].is_set(), "a", ""),
    "set b": (lambda it: it["b"].set(), "", "b"),
    "lock l": (lambda it: _try(it["l"]), "", "l"),
    "ask l": (lambda it: it["l"].locked(), "l", ""),
    "limit m": (lambda it: it["m"].available_tokens, "m", ""),
    "widen m": (lambda it: setattr(it["m"], "total_tokens", 2), "", "m"),
    "send c": (lambda it: it["c"][0].send_nowait(1), "", "c"),
    "count c": (lambda it: it["c"][1].statistics(), "c", ""),
    "send d": (lambda it: it["d"][0].send_nowait(1), "", "d"),
    "count d": (lambda it: it["d"][1].statistics(), "d", ""),
    "nothing": (lambda _: None, "", ""),
}


def _try(lock: trio.Lock) -> None:
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        return
    lock.release()


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3), min_size=2, max_size=3
    )
)
def test_as_many_schedules_as_traces(drawn: list[list[str]]) -> None:
    """Counted independently: all orders of the steps, made canonical, put in a set."""

    async def program() -> None:
        c, d = trio.open_memory_channel[int](99), anyio.create_memory_object_stream[int](99)
        it = {"a": trio.Event(), "b": anyio.Event(), "l": trio.Lock(), "c": c, "d": d}
        it["m"] = trio.CapacityLimiter(1)

        async def task(plan: list[str]) -> None:
            for what in plan[:-1]:
                STEPS[what][0](it)
                await trio.lowlevel.checkpoint()
            STEPS[plan[-1]][0](it)

        with c[0], c[1], d[0], d[1]:
            async with trio.open_nursery() as nursery:
                for plan in drawn:
                    nursery.start_soon(task, plan)

    found = explore(program, shared="cells", search="exhaustive")
    assert found.exhausted
    assert found.schedules == len({_canonical(word) for word in _words(drawn)})


Word = tuple[tuple[int, str], ...]


def _canonical(word: Word) -> Word:
    """The lexicographically least word that exchanging independent neighbours leads to."""
    left, least = list(word), []
    while left:
        firsts = [
            i
            for i, later in enumerate(left)
            if not any(_depend(earlier, later) for earlier in left[:i])
        ]
        least.append(left.pop(min(firsts, key=lambda i: left[i])))
    return tuple(least)


def _depend(a: tuple[int, str], b: tuple[int, str]) -> bool:
    (_, reads_a, writes_a), (_, reads_b, writes_b) = STEPS[a[1]], STEPS[b[1]]
    both = [(writes_a, writes_b), (writes_a, reads_b), (reads_a, writes_b)]
    return a[0] == b[0] or any(x and x == y for x, y in both)


def _words(drawn: list[list[str]]) -> list[Word]:
    if not any(drawn):
        return [()]
    return [
        ((task, plan[0]), *word)
        for task, plan in enumerate(drawn)
        if plan
        for word in _words([*drawn[:task], plan[1:], *drawn[task + 1 :]])
    ]


def test_traces_of_a_program_of_locks() -> None:
    """Two tasks and two locks, taken in opposite orders: as many traces as with cells."""

    async def program() -> None:
        a, b = trio.Lock(), trio.Lock()

        async def work(first: trio.Lock, second: trio.Lock) -> None:
            async with first, second:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, a, b)
            nursery.start_soon(work, b, a)

    reduced = explore(
        program, shared="cells", level="contract", stop_on_failure=False, search="exhaustive"
    )
    everything = explore(program, level="contract", stop_on_failure=False, search="exhaustive")
    assert reduced.exhausted
    assert everything.exhausted
    assert reduced.schedules < everything.schedules / 10
    assert [f.summary for f in reduced.failures] == [f.summary for f in everything.failures]


# -- that it is there, and that it goes away ---------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "attributes"),
    [
        *(
            (
                kind.module,
                kind.name,
                {
                    *kind.reads,
                    *kind.writes,
                    *kind.reading_waits,
                    *kind.writing_waits,
                    *kind.writes_throughout,
                    *kind.points,
                },
            )
            for kind in KINDS
        ),
        *((module, name, {attribute}) for module, name, attribute, _ in SPECIAL),
    ],
)
def test_the_primitives_are_as_we_know_them(module: str, name: str, attributes: set[str]) -> None:
    """A method that a new trio or anyio has renamed would not be watched any more."""
    of = getattr(sys.modules[module], name)
    missing = {attribute for attribute in attributes if not hasattr(of, attribute)}
    assert not missing, f"{module}.{name} has lost {', '.join(sorted(missing))}"


def _everything() -> dict[tuple[str, str, str], object]:
    classes = {(kind.module, kind.name) for kind in KINDS}
    classes |= {(module, name) for module, name, _, _ in SPECIAL}
    return {
        (module, name, attribute): value
        for module, name in classes
        for attribute, value in vars(getattr(sys.modules[module], name)).items()
    }


def test_nothing_is_left_of_it() -> None:
    """Whatever was changed for an exploration is as before, also if it ends in an error."""
    before = _everything()
    with exploring():
        assert _everything() != before
    assert _everything() == before
    with pytest.raises(KeyError), exploring():
        raise KeyError
    assert _everything() == before


EVERY_WAY: Final = [
    (kind, which, 0 if kind in ("hurry", "cancel") else 1)
    for kind in (
        *("lock", "lock_nowait", "locked", "semaphore", "limiter", "widen", "set", "wait"),
        *("is_set", "wait_for", "notify", "send_nowait", "receive_nowait", "count", "clone"),
        *("ask", "shielded", "shield", "timeout", "sleep", "nest", "spawn", "start", "open"),
        *("unpark", "update", "yield", "read", "write", "pin", "assign", "hold", "look"),
        *("fetch", "hurry", "close", "cancel"),
    )
    for which in ((1,) if kind in ("send_nowait", "receive_nowait", "clone") else (0, 1))
]


def use_them() -> object:
    """Use the primitives in every way that there is, in a run of trio's own."""

    async def others() -> tuple[int, bool]:
        condition = trio.Condition()

        async def wait() -> None:
            async with condition:
                await condition.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await point("between")
            async with condition:
                condition.notify()
                await trio.lowlevel.checkpoint()
            return len(nursery.child_tasks), anyio.get_current_task().has_pending_cancellation()

    clock = trio.testing.MockClock(autojump_threshold=0)
    logs, _, _ = trio.run(make([EVERY_WAY]), clock=clock)  # type: ignore[misc]
    return logs, anyio.run(others, backend="trio")


def test_between_two_schedules_they_are_as_ever() -> None:
    """While nobody runs a schedule there is nobody to tell, and a trio program runs as ever."""
    before = use_them()
    with exploring():
        assert use_them() == before


@pytest.mark.parametrize("level", ["free", "contract"])
def test_only_the_exploring_thread_is_watched(level: Any) -> None:
    """Another thread's trio program goes on meanwhile, and is none of the explorer's business."""
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()  # threads can't be started by an explored program
    expected = use_them()

    async def program() -> int:
        schedule: Any = _hook.current

        def state() -> list[object]:
            running = schedule._running
            return [
                *(running.made, running.point, running.sleeps_on, list(running.inside)),
                *(len(schedule._things), set(schedule._writes), set(schedule._reads)),
                *(schedule._unknown, set(schedule._touched)),
            ]

        before = state()
        assert pool.submit(use_them).result() == expected
        return before == state()

    with pool:
        found = explore(program, level=level, shared="cells", search="exhaustive")
    assert set(found.outcomes) == {"True"}


def test_packages_that_nobody_has_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who uses neither anyio nor a RangeMap must not pay for them, nor be refused."""
    for module in ("anyio", "anyio._backends._trio", "anyio.streams.memory"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "aspf.ranges._range_map")
    before = trio.Lock.acquire_nowait
    with exploring():
        assert trio.Lock.acquire_nowait is not before
        assert "anyio" not in sys.modules
    assert trio.Lock.acquire_nowait is before


def test_a_region_that_is_let_go_of_when_it_was_replaced() -> None:
    """The last reader of a retired region settles the edit: everybody who asks sees that."""

    async def program() -> tuple[object, ...]:
        shards = RangeMap([(0, 10, "old")])
        seen: list[object] = []

        async def read() -> None:
            with shards.pin(3) as shard:
                await trio.lowlevel.checkpoint()
                seen.append(shard.payload)

        async def replace() -> None:
            await shards.assign(0, 10, "new").wait()
            seen.append("settled")

        async def look() -> None:
            seen.append(shards.statistics().unsettled)

        async with trio.open_nursery() as nursery:
            for task in (read, replace, look):
                nursery.start_soon(task)
        return tuple(seen)

    options: Any = {"search": "exhaustive", "schedules": 2_000}
    everything = explore(program, **options)
    reduced = explore(program, shared="cells", **options)
    assert everything.exhausted
    assert reduced.exhausted
    assert set(reduced.outcomes) == set(everything.outcomes)
    assert reduced.schedules < everything.schedules


def test_what_was_made_before_the_exploration() -> None:
    """A lock that is older than the program has one number in all schedules, too."""
    shared = trio.Lock()

    async def program() -> object:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_hold, shared)

    reduced = check(program, shared="cells", search="exhaustive")
    assert reduced.exhausted
    assert reduced.schedules == 6


async def _hold(lock: trio.Lock) -> None:
    lock.acquire_nowait()
    lock.release()


def test_children_of_a_nursery_are_not_shared_memory() -> None:
    """Who asks for them may see anything: the step is exchanged with no other."""

    async def program() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            nursery.start_soon(trio.lowlevel.checkpoint)
            seen = 0
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                seen = 10 * seen + len(nursery.child_tasks)
        return seen

    reduced, everything = (
        explore(program, shared="cells", search="exhaustive"),
        explore(program, search="exhaustive"),
    )
    assert set(reduced.outcomes) == set(everything.outcomes)
    assert len(reduced.outcomes) == 10


@pytest.mark.parametrize(
    "drawn",
    [
        # One task opens a nursery, another starts a task in it: before, or when it has closed.
        [[("open", 0, 0)], [("spawn", 0, 0)]],
        # A stream asks whether the receiver that it would serve is cancelled.
        [[("receive", 1, 0)], [("send_nowait", 1, 1)], [("cancel", 0, 0)]],
    ],
)
def test_what_depends_on_another_task(drawn: list[list[Op]]) -> None:
    """A nursery that closes, a task that is cancelled: neither is an object that one calls."""
    compare(drawn, cancel="never", level="free", limit=2_000)
