"""Confidence intervals: bootstrap over seeds, Wilson for shares of pairs, and those of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy

# Up to this number of pairs resamples vary too little, and tests of normal differences and of signs are heard, too.
FEW_PAIRS = 12


class Interval(NamedTuple):
    """Bounds of a confidence interval; both NaN where the data allow none."""

    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan)


def bootstrap_interval(values: Sequence[float] | numpy.ndarray, statistic: Callable[..., numpy.ndarray] = numpy.mean,
                       confidence: float = 0.95, resamples: int = 4000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of `statistic` over independent values, one per seed.

    `statistic` takes an array and `axis`, like numpy.mean or numpy.median.  The resamples come from numpy's default
    generator started with `seed`: the same values give the same interval.  Fewer than two values give UNKNOWN.
    The interval of few values is too narrow (of two it is their range): the true coverage of a nominal 95 % is
    about 50 % for 2 values, 80 % for 4 and 90 % for 10.  Raises ValueError for values that are not finite.
    """
    data = numpy.asarray(values, dtype=numpy.float64)
    if not numpy.isfinite(data).all():
        raise ValueError(f"bootstrap_interval: values must be finite, got {data}")
    if len(data) < 2:
        return UNKNOWN
    low, high = bootstrap_bounds(data, statistic, confidence, resamples, seed)
    return Interval(float(low), float(high))


def bootstrap_bounds(data: numpy.ndarray, statistic: Callable[..., numpy.ndarray] = numpy.mean,
                     confidence: float = 0.95, resamples: int = 4000, seed: int = 0) -> numpy.ndarray:
    """The same for several columns [values, columns] at once: lower and upper bounds [2, columns], NaN for fewer than
    two values. Values must be finite."""
    if len(data) < 2:
        return numpy.full((2, *data.shape[1:]), math.nan)
    picks = numpy.random.default_rng(seed).integers(0, len(data), size=(resamples, len(data)))
    tail = (1 - confidence) / 2
    return numpy.quantile(statistic(data[picks], axis=1), [tail, 1 - tail], axis=0)


def wilson_interval(share: float, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share of `count` independent pairs, such as a held-out accuracy.

    Stays within [0, 1] and has a width also at 0 % and 100 %.  E. B. Wilson, J. Am. Stat. Assoc. 22 (1927), 209-212.
    No pairs or a share that is NaN give UNKNOWN.
    """
    if count < 1 or math.isnan(share):
        return UNKNOWN
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    spread = z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def student_interval(differences: Sequence[float] | numpy.ndarray, confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent differences, one per question: a paired comparison.

    Exact for normal differences of any number, where the percentile bootstrap of few is too narrow.  Fewer than two
    values give UNKNOWN.  Raises ValueError for values that are not finite.
    """
    data = numpy.asarray(differences, dtype=numpy.float64)
    if not numpy.isfinite(data).all():
        raise ValueError(f"student_interval: values must be finite, got {data}")
    if len(data) < 2:
        return UNKNOWN
    half = student_quantile(0.5 + confidence / 2, len(data) - 1) * float(data.std(ddof=1)) / math.sqrt(len(data))
    mean = float(data.mean())
    return Interval(mean - half, mean + half)


def student_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution with `degrees` of freedom, for a probability from 0.5 on."""
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, degrees: int) -> float:
    """For t >= 0, by the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    if degrees > 2000:
        # Cornish and Fisher's first terms: a relative error of quantiles below 1e-6 at so many degrees.
        return NormalDist().cdf(t * (1 - 1 / (4 * degrees)) / math.sqrt(1 + t * t / (2 * degrees)))
    angle = math.atan2(t, math.sqrt(degrees))
    square = math.cos(angle) ** 2
    term = total = math.cos(angle) if degrees % 2 else 1.0
    for power in range(3 if degrees % 2 else 2, degrees - 1, 2):
        term *= square * (power - 1) / power
        total += term
    if degrees % 2 == 0:
        return 0.5 + math.sin(angle) * total / 2
    sums = math.sin(angle) * total if degrees > 1 else 0.0
    return 0.5 + (angle + sums) / math.pi


def paired_share_interval(gained: float, lost: float, count: int, confidence: float = 0.95) -> Interval:
    """Interval for the change of a share over the same `count` items, of which `gained` turned right, `lost` wrong.

    Wald's interval after half an item is added to each cell of the fourfold table: it has a width also where no item
    changed.  A. Agresti, Y. Min, Stat. Med. 24 (2005), 729-740.  No items give UNKNOWN.
    """
    if count < 1 or not math.isfinite(gained + lost):
        return UNKNOWN
    whole, up, down = count + 2, gained + 0.5, lost + 0.5
    change = (up - down) / whole
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(up + down - whole * change * change) / whole
    return Interval(max(-1.0, change - half), min(1.0, change + half))


def widest_share_interval(before: float, after: float, count: int, confidence: float = 0.95) -> Interval:
    """paired_share_interval for two shares of the same items where nobody knows which items changed.

    It assumes as many changes in both directions as the two shares allow, which makes it the widest: what it excludes
    is excluded whichever items they were.
    """
    if count < 1 or not math.isfinite(before + after):
        return UNKNOWN
    gained = min(after, 1 - before) * count
    return paired_share_interval(gained, gained - (after - before) * count, count, confidence)
