"""Intervals against closed forms, published values and their coverage of known data."""

from __future__ import annotations

import math

import numpy
import pytest

from bipo_analysis import bootstrap_interval, wilson_interval


def test_bootstrap_of_two_values_is_their_range():
    """Both resamples of one value only have probability 1/4 each, more than either tail of 2.5 %."""
    assert bootstrap_interval([0.25, 0.75]) == (0.25, 0.75)


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_bootstrap_of_one_value_is_unknown():
    assert all(math.isnan(bound) for bound in bootstrap_interval([1.0]))
    assert all(math.isnan(bound) for bound in bootstrap_interval([]))


def test_bootstrap_of_binary_values_is_binomial():
    """The mean of resampled 0s and 1s is binomial(100, 0.3) / 100, whose 2.5 % and 97.5 % quantiles are 21 and 39."""
    low, high = bootstrap_interval([1] * 30 + [0] * 70, resamples=40000)
    assert low == pytest.approx(0.21, abs=0.0101) and high == pytest.approx(0.39, abs=0.0101)


def test_bootstrap_takes_other_statistics():
    low, high = bootstrap_interval(range(101), statistic=numpy.median)
    assert 35 < low < 45 and 55 < high < 65


def test_bootstrap_is_reproducible():
    values = numpy.random.default_rng(5).normal(size=7)
    assert bootstrap_interval(values) == bootstrap_interval(list(values))
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_bootstrap_refuses_unknown_values():
    with pytest.raises(ValueError, match="must be finite"):
        bootstrap_interval([1.0, math.nan])


def coverage(count: int, trials: int = 400) -> float:
    """How often the interval over `count` standard normal values holds their mean, 0."""
    samples = numpy.random.default_rng(11).normal(size=(trials, count))
    intervals = [bootstrap_interval(sample, resamples=500) for sample in samples]
    return float(numpy.mean([low <= 0 <= high for low, high in intervals]))


@pytest.mark.parametrize("count, expected", [(2, 0.5), (4, 0.8), (40, 0.945)])
def test_bootstrap_coverage(count, expected):
    """Of two values it is 1/2 exactly; those of 4 and 40 are what the documentation tells or theory approaches.

    Four standard errors of 400 trials: 4 sqrt(p (1 - p) / 400).
    """
    assert coverage(count) == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 400))


def test_wilson_solves_its_equation():
    """The bounds are the p with |share - p| = z sqrt(p (1 - p) / n)."""
    for share, count in ((0.76, 50), (0.34, 50), (0.5, 7), (0.02, 200)):
        for bound in wilson_interval(share, count):
            z = abs(share - bound) / math.sqrt(bound * (1 - bound) / count)
            assert z == pytest.approx(1.959964, abs=1e-5)


def test_wilson_at_the_ends():
    """At 0 of n the upper bound is z^2 / (n + z^2)."""
    z_squared = 1.959964**2
    low, high = wilson_interval(0.0, 10)
    assert low == pytest.approx(0, abs=1e-15) and high == pytest.approx(z_squared / (10 + z_squared), rel=1e-5)
    low, high = wilson_interval(1.0, 10)
    assert low == pytest.approx(10 / (10 + z_squared), rel=1e-5) and high == pytest.approx(1)


def test_wilson_without_pairs_is_unknown():
    assert all(math.isnan(bound) for bound in (*wilson_interval(0.5, 0), *wilson_interval(math.nan, 10)))
