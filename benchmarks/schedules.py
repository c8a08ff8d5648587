"""Schedules to the first bug, beside a reference; with the tests of Fisher and Mann-Whitney.

Each strategy explores each program in 20 trials, with the seeds 0 to 19 and at most 10,000
schedules each. A row gives mean and standard deviation of the number of the first schedule that
fails, as the reference does, which was computed on the same programs at the same granularity
(see `_pthreads.py`) by another implementation; and in how many trials it was found, where that
wasn't all of them.

What is compared. The reference gives mean and deviation, rounded to whole numbers, and not the
trials. These strategies draw each schedule independently of the others, so a trial is a series of
tosses of one coin, and all that the trials tell about the coin is how many schedules were run and
how many of them failed. Both follow from the mean, and from how many trials gave up at the limit.
So there are two tests, both one-sided: Fisher's exact test on failing schedules and others, ours
against the reference's; and the rank test of Mann and Whitney on the trials, ours against what the
reference's must have been distributed as: geometrically, with its mean. The reference has the
benefit of the doubt that its rounding leaves: its mean is taken as 0.5 larger.

A row is worse than the reference if one of the two says so at p < 0.01. Of more than two hundred
tests two or three may be expected to come out so by chance alone, so such a row is tried once more
with the seeds from 1000 on. It shows both p of the second sample as well, and fails if one is again
below 0.01. The strategies without a reference are rows for information; the portfolio has a target
of its own, to find every bug in every trial (SafeStack only informs).

The published figures are beside it for information: from the artifact of SURW (Zhao and others,
"Selectively Uniform Concurrency Testing", ASPLOS 2025), where each access to memory and each
creation of a thread is a step.

A pair for which the reference suggests a wait of minutes is left out, and said to be, unless
``--only`` names its program.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, erfc, sqrt
from statistics import mean, stdev
from typing import TYPE_CHECKING, Final

from aspf.race import explore

from ._measure import Row
from ._programs import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

# Half an hour: run it by its name.
TAKES_LONG = True

TRIALS: Final = 20
LIMIT: Final = 10_000
QUICK_LIMIT: Final = 2_000
WORSE_AT: Final = 0.01
OTHER_SEEDS: Final = 1_000
# Schedules times steps a schedule, over all trials: a few minutes' worth.
TOO_LONG: Final = 4_000_000
STRATEGIES: Final = ("random", "pct:2", "pct:3", "pos", "urw")
WITHOUT_REFERENCE: Final = ("swarm", "starve", "portfolio")
QUICK: Final = ("lost_update_2", "bluetooth_driver", "deadlock01", "stringbuffer", "twostage")
#: The portfolio needn't find this one; what it needs is reported.
HARD: Final = "SafeStack"


@dataclass(frozen=True, slots=True)
class Sample:
    """Schedules to the first bug: mean and deviation over the trials that found it."""

    mean: float
    deviation: float
    found: int
    trials: int
    #: What each trial took that found it; the reference doesn't say.
    firsts: tuple[int, ...] = ()

    def schedules(self, *, rounded: float = 0.0) -> int:
        """Return how many schedules all trials ran, a mean being too low by *rounded*."""
        return round(self.found * (self.mean + rounded)) + (self.trials - self.found) * LIMIT

    def __str__(self) -> str:
        text = f"{self.mean:.0f}±{self.deviation:.0f}" if self.found else "-"
        return text if self.found == self.trials else f"{text} [{self.found}/{self.trials}]"


def rows(
    *,
    quick: bool,
    only: Collection[str] = (),
    strategies: Collection[str] = (),
    trials: int | None = None,
) -> Iterator[Row]:
    """Yield a row for each program and strategy.

    Args:
        quick: Few programs, 10 trials, and at most 2,000 schedules each.
        only: The programs; all if empty.
        strategies: Their strategies; all if empty.
        trials: How many, instead of 20.

    Raises:
        ValueError: There is no such program or strategy, or less than one trial.
    """
    known = STRATEGIES + WITHOUT_REFERENCE
    for what, asked, there in (("program", only, PROGRAMS), ("strategy", strategies, known)):
        if unknown := [name for name in asked if name not in there]:
            raise ValueError(f"no such {what}: {', '.join(unknown)}; there are {', '.join(there)}")
    if trials is not None and trials < 1:
        raise ValueError(f"{trials} trials tell nothing: at least 1")
    names = only or (QUICK if quick else PROGRAMS)
    limit = QUICK_LIMIT if quick else LIMIT
    bench = Bench(trials or (10 if quick else TRIALS), limit, patient=bool(only))
    return bench.rows(names, strategies or known)


@dataclass(slots=True)
class Bench:
    """Makes the rows, and counts those that are worse than the reference.

    Attributes:
        trials: How many for each row.
        limit: Schedules a trial.
        patient: Leave nothing out.
    """

    trials: int
    limit: int
    patient: bool
    worse: int = 0
    compared: int = 0

    def rows(self, names: Iterable[str], strategies: Collection[str]) -> Iterator[Row]:
        for name in names:
            for strategy in strategies:
                if (reference := REFERENCES.get(name, {}).get(strategy)) is not None:
                    yield self.compare(name, strategy, reference)
                else:
                    yield self.inform(name, strategy)
        worse = f"{self.worse} of {self.compared}"
        yield Row("worse than the reference", worse, note=f"at p < {WORSE_AT}")

    def compare(self, name: str, strategy: str, reference: Sample) -> Row:
        published = _published(name, strategy)
        if not self.patient and _work(reference, STEPS[name]) > TOO_LONG:
            return Row(f"{name}, {strategy}", "left out", note=f"reference {reference}{published}")
        found = first_bugs(name, strategy, self.trials, self.limit)
        p, note = _judge(found, reference)
        if p < WORSE_AT:
            found = first_bugs(name, strategy, self.trials, self.limit, first_seed=OTHER_SEEDS)
            p, again = _judge(found, reference)
            note += f", again {again}"
        self.compared += 1
        self.worse += p < WORSE_AT
        return Row(
            f"{name}, {strategy}", str(found), f"~ {reference}", p >= WORSE_AT, note + published
        )

    def inform(self, name: str, strategy: str) -> Row:
        """Without a reference: only the portfolio has promised something."""
        what, published = f"{name}, {strategy}", _published(name, strategy).lstrip("; ")
        if not self.patient and (name == HARD or STEPS[name] > STEPS["twostage_50"]):
            return Row(what, "left out", note=published)
        found = first_bugs(name, strategy, self.trials, self.limit)
        if strategy == "portfolio" and name != HARD:
            return Row(what, str(found), "all found", found.found == self.trials, published)
        return Row(what, str(found), note=published)


def first_bugs(name: str, strategy: str, trials: int, limit: int, *, first_seed: int = 0) -> Sample:
    """Explore a program with one seed after the other, each until its first bug."""
    firsts = []
    for seed in range(first_seed, first_seed + trials):
        found = explore(
            PROGRAMS[name],
            search=strategy,
            seed=seed,
            schedules=limit,
            shared="cells",
            weakest=False,
        )
        firsts += [failure.schedule for failure in found.failures]
    deviation = stdev(firsts) if len(firsts) > 1 else 0.0
    average = mean(firsts) if firsts else 0.0
    return Sample(average, deviation, len(firsts), trials, tuple(firsts))


def _judge(found: Sample, reference: Sample) -> tuple[float, str]:
    """Return the smaller p of the two tests, and both for a person."""
    both = probability_of_no_worse(found, reference), rank_test(found, reference)
    return min(both), f"p = {both[0]:.3f} and {both[1]:.3f}"


def probability_of_no_worse(ours: Sample, reference: Sample) -> float:
    """Return p: how often chance alone makes us at least so much worse; see the head of the file."""
    spent, theirs = ours.schedules(), reference.schedules(rounded=0.5)
    return fisher(ours.found, spent, reference.found, theirs)


def rank_test(ours: Sample, reference: Sample) -> float:
    """Return Mann's and Whitney's one-sided p that our trials are no longer than the reference's.

    The statistic is the mean, over our trials, of the probability that one of the reference's is
    shorter (half of it, that it is as long). By the normal approximation, with the correction for
    ties.

    Examples:
        >>> geometric = Sample(9.5, 9.0, 20, 20)
        >>> round(rank_test(Sample(7.5, 0.0, 20, 20, (7, 8) * 10), geometric), 2)
        0.41
        >>> rank_test(Sample(40.0, 0.0, 20, 20, (40,) * 20), geometric) < 1e-6
        True
    """
    fails = reference.found / reference.schedules(rounded=0.5)

    def shorter(schedules: int) -> float:
        longer = (1 - fails) ** (schedules - 1)
        return 1 - longer + longer * (fails if schedules <= LIMIT else 1) / 2

    gave_up = [LIMIT + 1] * (ours.trials - ours.found)
    statistic = mean(map(shorter, (*ours.firsts, *gave_up)))
    never = (1 - fails) ** LIMIT
    ties = fails**3 / (1 - (1 - fails) ** 3) if fails else 0.0
    variance = (1 - ties - never**3) * (1 / ours.trials + 1 / reference.trials) / 12
    return erfc((statistic - 0.5) / sqrt(2 * variance)) / 2 if variance else 1.0


def fisher(found1: int, tried1: int, found2: int, tried2: int) -> float:
    """Return the one-sided p that the first finds no less often than the second.

    Examples:
        >>> fisher(20, 20, 20, 20)
        1.0
        >>> round(fisher(10, 20, 20, 20), 4)
        0.0002
        >>> round(fisher(20, 240, 20, 120), 3)
        0.016
    """
    found, tried = found1 + found2, tried1 + tried2
    least = max(0, found - tried2)
    fewer = sum(comb(tried1, i) * comb(tried2, found - i) for i in range(least, found1 + 1))
    return fewer / comb(tried, found)


def _work(reference: Sample, steps: int) -> float:
    typical = reference.mean if reference.found == reference.trials else LIMIT
    return typical * steps * TRIALS


def _published(name: str, strategy: str) -> str:
    figures = PUBLISHED.get(name, {}).get(strategy)
    return f"; published {figures}" if figures else ""


def _parse(cell: str) -> Sample:
    """Read ``mean±deviation``, with ``/found/trials`` where not every one of 20 found it."""
    figures, _, of = cell.partition("/")
    found, trials = map(int, of.split("/")) if of else (TRIALS, TRIALS)
    average, _, deviation = figures.partition("±")
    return Sample(float(average), float(deviation), found, trials)


# Steps in a schedule, then random, PCT with d=2 and d=3, POS, URW.
_REFERENCE: Final = """
lost_update_2 9 3±1 6±6 8±6 5±4 2±1
lost_update_3 13 1±1 4±3 4±2 2±1 1±0
lost_update_4 17 1±0 5±4 4±3 1±1 1±0
account 13 5±4 3±3 3±2 2±2 3±2
bluetooth_driver 12 23±27 25±36 21±20 19±16 76±51
carter01 17 2±1 7±6 2±2 3±3 2±1
circular_buffer 33 1±0 6±4 3±2 1±1 1±0
deadlock01 13 2±1 10±7 5±6 3±2 2±1
lazy01 12 4±2 3±2 2±1 4±3 2±1
philosophers_2 13 2±1 10±7 5±6 3±2 2±1
philosophers_3 19 6±6 32±23 13±10 6±4 4±3
philosophers_4 25 8±6 80±73 102±92 20±20 4±5
philosophers_5 31 12±11 334±323 402±461 48±52 7±8
philosophers_7 43 53±48 6132±3049/5/20 3986±2465/13/20 234±225 14±14
reorder_3 14 30±24 39±32 18±14 12±8 13±10
reorder_4 18 22±21 58±60 39±34 15±18 23±11
reorder_5 22 33±29 102±105 57±54 22±28 26±23
reorder_10 42 88±76 323±261 280±468 27±18 31±28
reorder_20 91 9±11 182±237 59±76 7±6 4±3
stack 45 2±1 5±4 3±2 2±2 2±1
stringbuffer 11 7±6 0±0/0/20 44±45 7±6 2±2
token_ring 13 4±4 6±6 6±4 8±10 5±4
twostage 13 21±20 13±10 9±10 15±19 13±8
twostage_20 121 102±104 1415±1011 524±389 58±49 67±71
twostage_50 301 162±114 3414±2416/9/10 3183±3214/13/13 70±68 141±170
twostage_100 601 365±348 0±0/0/2 2815±2284/3/4 215±194 224±222
wronglock_3 27 4±3 19±19 9±9 4±4 4±4
wronglock 51 3±2 25±23 25±19 2±3 2±2
"""
REFERENCES: Final = {
    name: dict(zip(STRATEGIES, map(_parse, cells), strict=True))
    for name, _, *cells in map(str.split, _REFERENCE.strip().splitlines())
}

# Steps in a schedule of the programs that the reference doesn't have.
_LENGTHS: Final = """
reorder_50 202
reorder_100 402
queue 85
fsbench 185
phase01 11
din_phil_2 9
din_phil_3 13
din_phil_4 17
din_phil_5 21
din_phil_6 25
din_phil_7 29
ctrace_test 57
arithmetic_prog 39
sync01 13
sync02 19
boundedBuffer 29
qsort_mt 48
WorkStealQueue 60
InterlockedWorkStealQueue 54
StateWorkStealQueue 72
InterlockedWorkStealQueueWithState 52
SafeStack 73
"""
STEPS: Final = {
    line.split()[0]: int(line.split()[1]) for line in (_REFERENCE + _LENGTHS).splitlines() if line
}

# SURW's artifact: random, PCT with d=3, POS, URW over all events; /found where not all 20 found it.
_PUBLISHED: Final = """
account 18±24 4±2 4±3 3±1
bluetooth_driver 215±225 112±73 36±29 1494±1474/19
carter01 1±0 5±3 2±2 ?
circular_buffer 4±3 9±7 2±1 14±12
deadlock01 3±3 13±12 4±3 3±1
lazy01 21±21 5±3 5±3 4±2
queue 1±0 3±2 1±1 2±0
stack 176±136 3±2 2±1 986±1163/19
token_ring 13±13 8±6 9±11 9±6
reorder_3 -/0 185±199 86±70 24±23
reorder_4 -/0 554±643 533±651 22±27
reorder_5 -/0 647±517 2169±2182 27±28
reorder_10 -/0 3225±2426/16 -/0 74±65
reorder_20 -/0 3005±2680 -/0 10±9
reorder_50 -/0 3304±1721/6 -/0 75±62
reorder_100 -/0 -/0 -/0 3785±3062/12
twostage 464±581 13±14 15±12 9±8
twostage_20 -/0 159±151 156±137 24±28
twostage_50 -/0 1676±1715 1637±1385 93±58
twostage_100 -/0 7466±831/3 6674±2877/3 2992±2589/18
wronglock 36±42 51±50 10±14 4±1
wronglock_3 36±42 58±46 11±14 5±2
stringbuffer 2243±2324/19 281±261 23±19 834±608
WorkStealQueue ? 48±49 12±7 13±10
InterlockedWorkStealQueue -/0 48±36 14±11 428±742
StateWorkStealQueue ? 842±679 6±5 5±3/3
InterlockedWorkStealQueueWithState 26±28 907±740 5±4 1367±1581/4
boundedBuffer 7±7 20±18 5±4 7±5
ctrace_test 1±0 2±0 1±0 ?
qsort_mt 3442±2806/19 4714±2931/14 3004±2787/18 297±209
SafeStack -/0 -/0 -/0 -/0
"""
PUBLISHED: Final = {
    name: {
        strategy: cell.replace("/", " [") + "/20]" * ("/" in cell)
        for strategy, cell in zip(("random", "pct:3", "pos", "urw"), cells, strict=True)
        if cell != "?"
    }
    for name, *cells in map(str.split, _PUBLISHED.strip().splitlines())
}
