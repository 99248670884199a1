"""Comparisons over the same pairs and several seeds: a paired bootstrap, Holm's correction, intervals over seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from .intervals import FEW_PAIRS, UNKNOWN, Interval, student_interval
from .wording import NO_BREAK, counted, percent

RESAMPLES = 10000
# From this number of seeds on, their range is wider than a 95 % interval, and Student's t is taken.
ENOUGH_SEEDS = 6


@dataclass(frozen=True)
class Difference:
    """A mean difference over pairs and seeds, its 95 % interval, and its two-sided p; NaN where not known."""

    value: float
    interval: Interval
    probability: float
    pairs: int
    by_seed: tuple[float, ...]  # the mean difference of each seed

    @property
    def seeds(self) -> int:
        return len(self.by_seed)

    @property
    def seeds_agree(self) -> bool:
        """Whether there are several seeds and all differences have one sign."""
        return self.seeds > 1 and (all(value > 0 for value in self.by_seed) or all(value < 0 for value in self.by_seed))


NO_DIFFERENCE_KNOWN = Difference(math.nan, UNKNOWN, math.nan, 0, ())


def paired_bootstrap(differences: numpy.ndarray, confidence: float = 0.95, resamples: int = RESAMPLES,
                     seed: int = 0) -> Difference:
    """Compares by the differences [seeds, pairs] of two methods on the same pairs, seed by seed.

    Pairs and seeds are drawn independently, each draw of a pair for all seeds together, because the seeds were
    evaluated on the same pairs (the pigeonhole bootstrap: A. B. Owen, Ann. Appl. Stat. 1 (2007), 386-411).  Of n seeds
    n - 1 are drawn, which makes the variance of their mean unbiased (J. N. K. Rao, C. F. J. Wu, J. Am. Stat. Assoc. 83
    (1988), 231-241); a single seed is kept, so that nothing is said of others.  The interval is of percentiles; p is
    twice the smaller share of resamples on one side of 0, each share as (count + 1) / (resamples + 1).  Of up to
    FEW_PAIRS pairs, of which resamples vary too little, the interval holds Student's t interval of the pairs' means,
    too, and p is at least that of all changes of their signs.  The same differences give the same result.  Pairs that
    are not finite for every seed are left out; fewer than two give neither interval nor p.
    """
    table = numpy.atleast_2d(numpy.asarray(differences, dtype=numpy.float64))
    table = table[:, numpy.isfinite(table).all(axis=0)]
    seeds, pairs = table.shape
    if seeds == 0 or pairs == 0:
        return NO_DIFFERENCE_KNOWN
    by_seed = tuple(float(value) for value in table.mean(axis=1))
    if pairs < 2:
        return Difference(float(table.mean()), UNKNOWN, math.nan, pairs, by_seed)
    means = resampled_means(table, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = (float(bound) for bound in numpy.quantile(means, [tail, 1 - tail]))
    smaller = min(int((means <= 0).sum()), int((means >= 0).sum()))
    probability = min(1.0, 2 * (smaller + 1) / (resamples + 1))
    if pairs <= FEW_PAIRS:
        by_pair = table.mean(axis=0)
        wider = student_interval(by_pair, confidence)
        low, high = min(low, wider.low), max(high, wider.high)
        probability = max(probability, _sign_probability(by_pair))
    return Difference(float(table.mean()), Interval(low, high), probability, pairs, by_seed)


def _sign_probability(values: numpy.ndarray) -> float:
    """The share of all changes of signs whose mean lies at least as far from 0 (R. A. Fisher, 1935)."""
    signs = 1 - 2 * ((numpy.arange(2 ** len(values))[:, None] >> numpy.arange(len(values))) & 1)
    totals = abs(signs @ values)
    return float((totals >= totals[0] * (1 - 1e-12)).mean())


def resampled_means(table: numpy.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> numpy.ndarray:
    """The mean of `table` [seeds, pairs] in each of `resamples` draws of its pairs and, of several, its seeds."""
    seeds, pairs = table.shape
    pair_counts, seed_counts = _draws(seeds, pairs, resamples, seed)
    return ((seed_counts @ table) * pair_counts).sum(axis=1) / (max(1, seeds - 1) * pairs)


# A page compares many methods on the same pairs and seeds, and the draws take longer than all that is done with them.
# Those of the last shape alone are kept: 10,000 of 1,000 pairs take 40 MB.
@functools.lru_cache(maxsize=1)
def _draws(seeds: int, pairs: int, resamples: int, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """How often each resample holds each pair [resamples, pairs] and each seed [resamples, seeds]."""
    generator = numpy.random.default_rng(seed)
    pair_counts = generator.multinomial(pairs, numpy.full(pairs, 1 / pairs), size=resamples)
    seed_counts = generator.multinomial(max(1, seeds - 1), numpy.full(seeds, 1 / seeds), size=resamples)
    return pair_counts.astype(numpy.int32), seed_counts


def holm(probabilities: Sequence[float] | numpy.ndarray) -> numpy.ndarray:
    """The probabilities adjusted for their number, so that none of all false findings is likely.

    S. Holm, Scand. J. Stat. 6 (1979), 65-70: the i-th smallest of n is multiplied by n + 1 - i and is at least the one
    before it.  NaN stays NaN and counts as no comparison.
    """
    values = numpy.asarray(probabilities, dtype=numpy.float64)
    adjusted = numpy.full(values.shape, math.nan)
    known = numpy.flatnonzero(numpy.isfinite(values))
    order = known[numpy.argsort(values[known], kind="stable")]
    steps = values[order] * numpy.arange(len(order), 0, -1)
    adjusted[order] = numpy.minimum(1.0, numpy.maximum.accumulate(steps)) if len(order) else steps
    return adjusted


@dataclass(frozen=True)
class SeedInterval:
    """How far a mean over seeds is known, and how many of them there were."""

    low: float
    high: float
    seeds: int

    @property
    def words(self) -> str:
        """What the bounds are, and of how many seeds: "range of 3 seeds"."""
        return seed_words(self.seeds)


def seed_words(count: int) -> str:
    """What the bounds of seed_interval are for a number of seeds."""
    if count < 2:
        return "a single seed" if count == 1 else "no seed"
    if count < ENOUGH_SEEDS:
        return f"range of {count} seeds"
    return f"95{NO_BREAK}% interval over {count} seeds, Student's t"


def seed_interval(values: Sequence[float] | numpy.ndarray) -> SeedInterval:
    """The range of few seeds, from ENOUGH_SEEDS on Student's t interval of their mean; NaN for fewer than two.

    The range of n independent values holds the median of their distribution with the probability
    range_coverage(n).  Student's interval of two or three would be exact for normal values, and so wide that it says
    nothing.  Values that are not finite are left out.
    """
    data = numpy.asarray(values, dtype=numpy.float64)
    data = data[numpy.isfinite(data)]
    if len(data) < 2:
        return SeedInterval(math.nan, math.nan, len(data))
    if len(data) < ENOUGH_SEEDS:
        return SeedInterval(float(data.min()), float(data.max()), len(data))
    return SeedInterval(*student_interval(data), len(data))


def range_coverage(count: int) -> float:
    """The probability that the smallest and the largest of `count` values lie on both sides of their median."""
    return 1 - 2.0 ** (1 - count) if count > 0 else 0.0


def few_seeds_words(count: int) -> str:
    """What a number of seeds can tell, as a sentence."""
    if count < 2:
        return "A single seed: nothing here tells how another one would come out."
    if count < ENOUGH_SEEDS:
        return (f"{counted(count, 'seed').capitalize()} are few: their range holds the median of all seeds with "
                f"{percent(range_coverage(count), 0)}, not 95{NO_BREAK}%.")
    return f"Intervals over the {count} seeds are Student's t (95{NO_BREAK}%)."
