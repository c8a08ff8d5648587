"""How many schedules each strategy needs to its first bug, beside reference numbers.

Each strategy explores each program in 20 trials, with the seeds 0 to 19 and at most 10,000
schedules each. A row gives mean and standard deviation of the number of the first schedule that
fails, as the reference does, which was computed on the same programs at the same granularity
(see `_programs.py`) by another implementation; and in how many trials it was found, where that
wasn't all of them.

What is compared. The reference gives mean and deviation, rounded to whole numbers, and not the
trials: a rank test (Mann-Whitney), which would suit these skewed distributions, can't be made.
So:

- Where both found the bug in every trial: Welch's t test, one-sided, on the two means and
  deviations. The reference has the benefit of the doubt that its rounding leaves: it is taken as
  up to 0.5 larger in both. With 20 trials of such a distribution the t test is a rough one.
- Where one of them missed it in some trials: Fisher's exact test, one-sided, on in how many it
  was found. The means, which then are of the lucky trials only, aren't compared.

A row is worse than the reference at p < 0.01. Of more than a hundred tests one or two may be
expected to come out so by chance alone, so such a row is tried once more with the seeds from 1000
on. It shows the second sample and both p, and fails if the second is below 0.01 as well. The
strategies without a reference are rows for information; the portfolio has a target of its own, to
find every bug in every trial.

A pair for which the reference suggests a wait of minutes is left out, and said to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, exp, lgamma, log as ln, pi, sqrt
from statistics import mean, stdev
from typing import TYPE_CHECKING, Final

from aspf.race import explore

from ._measure import Row
from ._programs import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@dataclass(frozen=True, slots=True)
class Sample:
    """Schedules to the first bug: mean and deviation over the trials that found it."""

    mean: float
    deviation: float
    found: int
    trials: int

    def __str__(self) -> str:
        text = f"{self.mean:.0f}±{self.deviation:.0f}" if self.found else "-"
        return text if self.found == self.trials else f"{text} [{self.found}/{self.trials}]"


def rows(*, quick: bool) -> Iterator[Row]:
    trials, limit = (10, QUICK_LIMIT) if quick else (TRIALS, LIMIT)
    worse = compared = 0
    for name in QUICK if quick else PROGRAMS:
        for strategy, expected in zip(STRATEGIES, _references()[name], strict=True):
            if _work(expected, STEPS[name]) > TOO_LONG:
                yield Row(f"{name}, {strategy}", "left out", note=f"reference {expected}")
                continue
            found = first_bugs(name, strategy, trials, limit)
            p = probability_of_no_worse(found, expected)
            note = f"p = {p:.3f}"
            if p < WORSE_AT:
                found = first_bugs(name, strategy, trials, limit, first_seed=OTHER_SEEDS)
                p = probability_of_no_worse(found, expected)
                note += f", again {p:.3f}"
            compared += 1
            worse += p < WORSE_AT
            yield Row(f"{name}, {strategy}", str(found), f"~ {expected}", p >= WORSE_AT, note)
        for strategy in WITHOUT_REFERENCE:
            if STEPS[name] <= STEPS["twostage_50"]:
                found = first_bugs(name, strategy, trials, limit)
                is_promised = strategy == "portfolio"
                target, holds = ("all found", found.found == trials) if is_promised else ("", None)
                yield Row(f"{name}, {strategy}", str(found), target, holds)
    yield Row("worse than the reference", f"{worse} of {compared}", note=f"at p < {WORSE_AT}")


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
    return Sample(mean(firsts) if firsts else 0.0, deviation, len(firsts), trials)


def probability_of_no_worse(ours: Sample, reference: Sample) -> float:
    """Return p: how often chance alone makes us at least so much worse; see the head of the file."""
    if ours.found < ours.trials or reference.found < reference.trials:
        return fisher(ours.found, ours.trials, reference.found, reference.trials)
    return welch(
        ours.mean,
        ours.deviation,
        ours.trials,
        reference.mean + 0.5,
        reference.deviation + 0.5,
        reference.trials,
    )


def welch(mean1: float, sd1: float, n1: int, mean2: float, sd2: float, n2: int) -> float:
    """Return the one-sided p that the first mean is no greater than the second.

    Examples:
        >>> round(welch(5.0, 2.0, 20, 4.0, 2.0, 20), 3)
        0.061
        >>> welch(4.0, 2.0, 20, 4.0, 1.0, 20)
        0.5
    """
    v1, v2 = sd1**2 / n1, sd2**2 / n2
    degrees = (v1 + v2) ** 2 / (v1**2 / (n1 - 1) + v2**2 / (n2 - 1))
    return student((mean1 - mean2) / sqrt(v1 + v2), degrees)


def student(t: float, degrees: float) -> float:
    """Return the probability that Student's t exceeds *t*, by Simpson's rule.

    Examples:
        >>> round(student(2.539, 19), 4), round(student(-2.539, 19), 4)
        (0.01, 0.99)
    """
    scale = exp(lgamma((degrees + 1) / 2) - lgamma(degrees / 2)) / sqrt(degrees * pi)

    def density(x: float) -> float:
        return scale * exp(-(degrees + 1) / 2 * ln(1 + x * x / degrees))

    parts = 2_000
    width = t / parts
    inner = sum((4 if i % 2 else 2) * density(i * width) for i in range(1, parts))
    return 0.5 - (density(0) + inner + density(t)) * width / 3


def fisher(found1: int, trials1: int, found2: int, trials2: int) -> float:
    """Return the one-sided p that the first finds no less often than the second.

    Examples:
        >>> fisher(20, 20, 20, 20)
        1.0
        >>> round(fisher(10, 20, 20, 20), 4)
        0.0002
    """
    found = found1 + found2
    ways = comb(trials1 + trials2, found)
    least = max(0, found - trials2)
    fewer = sum(comb(trials1, i) * comb(trials2, found - i) for i in range(least, found1 + 1))
    return fewer / ways


def _work(reference: Sample, steps: int) -> float:
    typical = reference.mean if reference.found == reference.trials else LIMIT
    return typical * steps * TRIALS


def _references() -> dict[str, list[Sample]]:
    return {
        line.split()[0]: [_parse(cell) for cell in line.split()[2:]]
        for line in REFERENCE.splitlines()
        if line
    }


def _parse(cell: str) -> Sample:
    """Read ``mean±deviation``, with ``/found/trials`` where not every one of 20 found it."""
    figures, _, of = cell.partition("/")
    found, trials = map(int, of.split("/")) if of else (TRIALS, TRIALS)
    average, _, deviation = figures.partition("±")
    return Sample(float(average), float(deviation), found, trials)


# Steps in a schedule, then random, PCT with d=2 and d=3, POS, URW.
REFERENCE: Final = """
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
STEPS: Final = {line.split()[0]: int(line.split()[1]) for line in REFERENCE.splitlines() if line}
