"""The paired bootstrap, Holm's correction and intervals over seeds against closed forms and published values."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest

from bipo_analysis.method_comparisons import comparison_note, corrected
from bipo_analysis.resampling import (few_seeds_words, holm, paired_bootstrap, range_coverage, resampled_means,
                                      seed_interval)


def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 raised to the one before it; R's p.adjust says the same."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_as_statsmodels_has_it():
    """multipletests(method="holm") of statsmodels 0.15.0, with ties and probabilities that are capped at 1."""
    given = [0.0002, 0.0310, 0.0310, 0.4100, 0.0499, 0.0031, 0.9000, 0.0120, 0.5500, 0.0008]
    expected = [0.0020, 0.1860, 0.1860, 1.0, 0.1996, 0.0248, 1.0, 0.0840, 1.0, 0.0072]
    assert holm(given) == pytest.approx(expected, abs=1e-12)


def test_holm_counts_only_what_is_known():
    adjusted = holm([0.02, math.nan, 0.03])
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.04]) and math.isnan(adjusted[1])
    assert len(holm([])) == 0 and numpy.isnan(holm([math.nan])).all()


def test_holm_keeps_the_rate_of_false_findings():
    """Of 20 true null hypotheses some p is below 0.05 in 64 % of all reports; corrected, in at most 5 %."""
    given = numpy.random.default_rng(3).uniform(size=(2000, 20))
    assert (given.min(axis=1) < 0.05).mean() > 0.6
    corrected = numpy.array([holm(row).min() for row in given])
    assert (corrected < 0.05).mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_one_seed_draws_pairs_alone():
    """The mean of resampled 0s and 1s is binomial(100, 0.3) / 100: quantiles 0.21 and 0.39."""
    found = paired_bootstrap(numpy.array([1.0] * 30 + [0.0] * 70), resamples=40000)
    assert (found.value, found.pairs, found.seeds) == (0.3, 100, 1)
    assert found.interval == pytest.approx((0.21, 0.39), abs=0.0101)
    assert not found.seeds_agree  # one seed agrees with nothing


def test_one_seed_is_the_percentile_bootstrap_of_scipy():
    """scipy 1.17.1: stats.bootstrap((d,), np.mean, method="percentile", n_resamples=200000, rng=default_rng(0))."""
    differences = numpy.random.default_rng(9).gamma(2, 1, size=40) - 1.5
    # A quantile of 2.5 % of 40,000 means with a standard error of 0.14 is known to 0.002.
    assert paired_bootstrap(differences, resamples=40000).interval == pytest.approx((-0.2656, 0.2946), abs=0.008)


def test_draws_are_those_of_all_that_there_are():
    """Of 2 seeds one is drawn, of 3 pairs three: 2 x 27 equally likely draws, every mean as often as it should be."""
    table = numpy.array([[0.0, 1.0, 5.0], [10.0, 30.0, 70.0]])
    exact = [table[seed, list(pairs)].mean() for seed in range(2) for pairs in itertools.product(range(3), repeat=3)]
    drawn = resampled_means(table, resamples=30000)
    for value in set(numpy.round(exact, 9)):
        share = numpy.isclose(exact, value).mean()
        error = math.sqrt(share * (1 - share) / 30000)
        assert numpy.isclose(drawn, value).mean() == pytest.approx(share, abs=4.5 * error)


def test_both_sources_of_chance_are_in_the_interval():
    """Of seeds and pairs that add up, the variance is the unbiased one of the mean of seeds plus that over pairs."""
    generator = numpy.random.default_rng(7)
    seeds, pairs = generator.normal(size=3), generator.normal(size=40)
    drawn = resampled_means(seeds[:, None] + pairs, resamples=20000)
    expected = seeds.var(ddof=1) / 3 + pairs.var() / 40
    # The relative standard error of a variance of 20,000 values is 1 %.
    assert drawn.var() == pytest.approx(expected, rel=0.04)
    alone = resampled_means(pairs[None], resamples=20000)
    assert alone.var() == pytest.approx(pairs.var() / 40, rel=0.04)


def test_pairing_shows_what_means_hide():
    """Pairs differ by 40 nats, the second method adds 0.4 to 0.6 to each: the difference is certain."""
    base = numpy.linspace(-40, 40, 50) + numpy.array([[0.0], [1.0], [-1.0]])
    added = numpy.where(numpy.arange(50) % 2, 0.4, 0.6)
    found = paired_bootstrap(base + added - base)
    assert found.value == pytest.approx(0.5) and found.interval.low > 0.45 and found.seeds_agree
    assert found.probability == pytest.approx(2 / 10001)  # no resample on the other side
    assert found.by_seed == pytest.approx((0.5, 0.5, 0.5))


def test_p_is_even_where_nothing_differs():
    """p of differences without a mean is spread evenly: a tenth of them is below 0.1."""
    samples = numpy.random.default_rng(5).normal(size=(400, 30))
    small = sum(paired_bootstrap(sample, resamples=499).probability < 0.1 for sample in samples)
    assert small / 400 == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 400))


def test_few_pairs_show_no_more_than_their_signs_and_students_t():
    """Of 3 pairs with one sign 2 of 8 changes of signs lie as far from 0; t of 2 degrees is 4.302653."""
    found = paired_bootstrap(numpy.array([1.0, 2.0, 3.0]))
    assert found.probability == 0.25
    assert found.interval == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)
    assert paired_bootstrap(numpy.zeros(4)).probability == 1
    # Both seeds have the same pairs, whose signs change together.
    assert paired_bootstrap(numpy.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])).probability == 0.25
    assert "Of up to 12 pairs" in comparison_note(corrected({"CAA": found}), "the vector", "Steerability")
    many = corrected({"CAA": paired_bootstrap(numpy.arange(13.0))})
    assert "Of up to" not in comparison_note(many, "the vector", "Steerability")
    generator = numpy.random.default_rng(8)
    for pairs in (2, 3, 6, 12):
        findings = [paired_bootstrap(generator.normal(size=pairs), resamples=499) for _ in range(300)]
        for share in (sum(found.probability < 0.05 for found in findings) / 300,
                      sum(not found.interval.low <= 0 <= found.interval.high for found in findings) / 300):
            assert share <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)


def test_the_same_differences_give_the_same_result():
    differences = numpy.random.default_rng(1).normal(size=(3, 12))
    assert paired_bootstrap(differences) == paired_bootstrap(differences.copy())


def test_draws_of_one_shape_serve_no_other():
    """They are kept for the next comparison on as many pairs and seeds."""
    tables = [numpy.random.default_rng(index).normal(size=shape) for index, shape in
              enumerate([(2, 30), (3, 30), (2, 31), (2, 30), (2, 30)])]
    for resamples, seed in ((50, 0), (50, 1), (60, 1)):
        for table in tables:
            seeds, pairs = table.shape
            generator = numpy.random.default_rng(seed)
            of_pairs = generator.multinomial(pairs, [1 / pairs] * pairs, size=resamples)
            of_seeds = generator.multinomial(seeds - 1, [1 / seeds] * seeds, size=resamples)
            expected = [(own[:, None] * drawn[None, :] * table).sum() / (pairs * (seeds - 1))
                        for own, drawn in zip(of_seeds, of_pairs, strict=True)]
            assert resampled_means(table, resamples, seed) == pytest.approx(expected)


def test_unknown_pairs_are_left_out():
    table = numpy.array([[1.0, 2.0, math.nan, 3.0], [1.0, 2.0, 9.0, math.inf]])
    found = paired_bootstrap(table)
    assert (found.value, found.pairs, found.by_seed) == (1.5, 2, (1.5, 1.5))
    assert math.isnan(paired_bootstrap(numpy.empty((0, 5))).value)
    single = paired_bootstrap(numpy.array([[2.0]]))
    assert single.value == 2.0 and math.isnan(single.probability) and math.isnan(single.interval.low)


def test_few_seeds_have_a_range_and_many_an_interval():
    few = seed_interval([3.0, 1.0, 2.0])
    assert (few.low, few.high, few.words) == (1.0, 3.0, "range of 3 seeds")
    many = seed_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    # t of 5 degrees is 2.570582; s.d. 1.870829.
    half = 2.570582 * 1.870829 / math.sqrt(6)
    assert (many.low, many.high) == pytest.approx((3.5 - half, 3.5 + half), abs=1e-5)
    assert "Student's t" in many.words and "6 seeds" in many.words
    assert seed_interval([1.0]).words == "a single seed" and math.isnan(seed_interval([1.0]).low)
    assert seed_interval([math.nan, 2.0, 4.0]).words == "range of 2 seeds"


def test_coverage_of_a_range():
    """Three values all lie on one side of their median with 2 x 1/8."""
    assert [range_coverage(count) for count in (0, 1, 2, 3, 5)] == [0, 0, 0.5, 0.75, 0.9375]
    samples = numpy.random.default_rng(2).normal(size=(4000, 3))
    held = ((samples.min(axis=1) <= 0) & (samples.max(axis=1) >= 0)).mean()
    assert held == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 4000))
    assert "75" in few_seeds_words(3) and "few" in few_seeds_words(3) and "single" in few_seeds_words(1)
