"""What an exploration has shown: that the program holds, that it fails, or neither. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aspf.race._explore import Exploration

__all__ = ("Verdict", "explain", "judge")

Verdict: TypeAlias = Literal["holds", "failed", "unknown"]

_CLOCKS = {"idle": "deadlines pass when nobody can run", "any": "deadlines pass at any time"}
_CANCELLATIONS = {
    "marked": "a marked scope may be cancelled",
    "each": "a task or a marked scope is cancelled at each checkpoint",
    "never": "nothing is cancelled",
}
_LIMITS = {
    "failure": "ended by a failure",
    "schedules": "the limit of schedules was met",
    "seconds": "out of time",
    "interrupted": "interrupted",
}


def judge(exploration: Exploration) -> Verdict:
    """Judge an exploration; what was not explored to its end has not been shown to hold."""
    if exploration.failures or (exploration.exhausted and exploration.unreached):
        return "failed"
    return "holds" if exploration.exhausted else "unknown"


def explain(exploration: Exploration) -> str:
    """Say why, in one sentence."""
    verdict = judge(exploration)
    reasons = {"holds": _why_it_holds, "failed": _why_it_failed, "unknown": _why_nobody_knows}
    return f"{verdict}: {'; '.join(reasons[verdict](exploration))}"


def _why_it_holds(exploration: Exploration) -> Iterator[str]:
    count = exploration.enumerated
    if count == 1:
        yield "there is only one schedule"
    elif exploration.traces is None:
        yield f"all {count} schedules were run"
    else:
        yield f"all {count} traces were run, a schedule for each"
    yield f"at level {exploration.level}, where tasks switch only at awaits"
    yield _CLOCKS[exploration.timers]
    # A program that marks nothing has nothing to be cancelled.
    yield _CANCELLATIONS["never" if not exploration.cancellations else exploration.cancel]


def _why_it_failed(exploration: Exploration) -> Iterator[str]:
    if exploration.failures:
        failed = sum(failure.count for failure in exploration.failures)
        yield f"{failed} of {_count(exploration.schedules, 'schedule')}"
    if exploration.exhausted:
        yield from (f"{label!r} is never reached" for label in exploration.unreached)


def _why_nobody_knows(exploration: Exploration) -> Iterator[str]:
    coverage = exploration.coverage
    why = _LIMITS.get(exploration.stopped_by, "not ended")
    if not exploration.schedules:
        yield f"no schedule has come to its end; {why}"
    elif coverage is None or not coverage.runs:
        yield f"the first {_count(exploration.schedules, 'schedule')} of an enumeration; {why}"
    else:
        yield f"{_count(coverage.runs, 'schedule')} drawn, {coverage.traces} of them different; {why}"
        yield f"one more would show something new with a probability of about {coverage.unseen:.2g}"
        for depth in (2, 3):
            if (missed := coverage.miss(depth)) < 1:
                yield f"a bug of depth {depth} was missed with a probability of at most {missed:.2g}"
    yield from (f"{label!r} was not reached" for label in exploration.unreached)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
