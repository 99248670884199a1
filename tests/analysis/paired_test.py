"""Paired comparisons of data whose answer is known: effects that intervals of single means hide, and the reverse."""

from __future__ import annotations

import dataclasses
import math

import numpy
import pandas
import pytest
from synthetic_evaluation import SyntheticEvaluation

from bipo_analysis import (bootstrap_interval, changes_from_zero, load_evaluation, paired_share_interval,
                           student_interval)
from bipo_analysis.choice import DRAWN, choice_sentences, chosen_multipliers
from bipo_analysis.drawing import distinctly_shortened, dodged, places
from bipo_analysis.evaluation_report import evaluation_report_html
from bipo_analysis.held_out_findings import curve_findings
from bipo_analysis.intervals import student_quantile, widest_share_interval
from bipo_analysis.paired import null_band, with_paired_bars


def of_propensities(tmp_path, propensities: dict[float, list[float]]):
    """An evaluation of the vector with these propensities of its pairs, and the marginal intervals of their means."""
    pairs = len(propensities[0.0])
    evaluation = load_evaluation(SyntheticEvaluation(
        slopes={"vector": 1.0}, pairs=pairs, multipliers=tuple(propensities)).write(tmp_path / "eval.h5"))
    samples, curve = evaluation.samples.copy(), evaluation.curve.copy()
    for m, values in propensities.items():
        samples.loc[samples["multiplier"] == m, "chosen_logp"] = -40 + numpy.array(values) / 2
        samples.loc[samples["multiplier"] == m, "rejected_logp"] = -40 - numpy.array(values) / 2
        low, high = bootstrap_interval(values)
        curve.loc[curve["multiplier"] == m, ["propensity", "propensity_low", "propensity_high"]] = (
            numpy.mean(values), low, high)
    return dataclasses.replace(evaluation, samples=samples, curve=curve)


def bounds(evaluation, m: float) -> tuple[float, float]:
    row = evaluation.curve[evaluation.curve["multiplier"] == m].iloc[0]
    return row["propensity_low"], row["propensity_high"]


def test_overlapping_means_of_a_certain_effect(tmp_path):
    """Pairs lie between -40 and 40 nats, and steering adds 0.9 to 1.1 to each of them."""
    before = numpy.linspace(-40, 40, 50)
    added = numpy.where(numpy.arange(50) % 2, 0.9, 1.1)
    evaluation = of_propensities(tmp_path, {0.0: before, 2.0: before + added})
    assert bounds(evaluation, 2.0)[0] < bounds(evaluation, 0.0)[1]  # the means' own intervals overlap by far
    half = 2.0096 * 0.1 * math.sqrt(50 / 49) / math.sqrt(50)  # t of 49 degrees
    row = changes_from_zero(evaluation).iloc[-1]
    assert (row["propensity"], row["propensity_low"], row["propensity_high"]) == pytest.approx(
        (1.0, 1 - half, 1 + half), abs=1e-4)
    assert "is well supported" in curve_findings(evaluation)[1]
    bars = with_paired_bars(evaluation).set_index("multiplier")
    assert bars.loc[2.0, "propensity_high"] - bars.loc[2.0, "propensity"] == pytest.approx(half, abs=1e-4)
    assert bars.loc[0.0, "propensity_high"] == bars.loc[0.0, "propensity"]


def test_means_apart_of_an_uncertain_effect(tmp_path):
    """Three pairs change by 1, 1.9 and 5.8 nats: t of 2 degrees gives 2.9 +- 6.3, though the means' intervals part."""
    evaluation = of_propensities(tmp_path, {0.0: [0.0, 0.1, 0.2], 2.0: [1.0, 2.0, 6.0]})
    assert bounds(evaluation, 2.0)[0] > bounds(evaluation, 0.0)[1]
    sentence = curve_findings(evaluation)[1]
    assert "other pairs might show no effect" in sentence and "well supported" not in sentence


def test_changes_against_each_other_are_no_effect(tmp_path):
    before = numpy.linspace(-1, 1, 40)
    evaluation = of_propensities(tmp_path, {0.0: before, 2.0: before + numpy.where(numpy.arange(40) % 2, 5.0, -5.0)})
    assert "other pairs might show no effect" in curve_findings(evaluation)[1]


def test_accuracy_counts_the_pairs_that_change(tmp_path):
    """Of 40 pairs 8 turn right and 2 wrong."""
    before = numpy.where(numpy.arange(40) < 20, 1.0, -1.0)
    after = before.copy()
    after[:2], after[20:28] = -1.0, 1.0
    row = changes_from_zero(of_propensities(tmp_path, {0.0: before, 2.0: after})).iloc[-1]
    low, high = paired_share_interval(8, 2, 40)
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == pytest.approx((6 / 40, low, high))


def test_quantiles_are_those_of_the_tables():
    tabled = {1: 12.7062, 2: 4.30265, 3: 3.18245, 10: 2.22814, 30: 2.04227, 120: 1.97993, 5000: 1.96044}
    assert {degrees: student_quantile(0.975, degrees) for degrees in tabled} == pytest.approx(tabled, abs=1e-5)
    assert student_quantile(0.95, 7) == pytest.approx(1.894579, abs=1e-6)


def test_coverage_of_few_pairs():
    """Of 4000 samples of 4 normal differences, 95 % of the intervals hold the mean; the bootstrap's do far less."""
    samples = numpy.random.default_rng(5).normal(1.0, 2.0, size=(4000, 4))
    held = sum(low <= 1.0 <= high for low, high in map(student_interval, samples))
    assert abs(held / 4000 - 0.95) < 0.011  # three standard errors
    few = sum(low <= 1.0 <= high for low, high in (bootstrap_interval(row, resamples=400) for row in samples[:600]))
    assert few / 600 < 0.9


def test_intervals_of_degenerate_data():
    assert all(map(math.isnan, student_interval([1.0]))) and all(map(math.isnan, paired_share_interval(0, 0, 0)))
    assert student_interval([2.0, 2.0]) == (2.0, 2.0)
    # No pair changed: of 50 a change of 3.8 points either way is not ruled out.
    assert paired_share_interval(0, 0, 50) == pytest.approx((-0.0377, 0.0377), abs=1e-4)
    with pytest.raises(ValueError):
        student_interval([1.0, math.nan])


def test_widest_interval_holds_every_way_to_change():
    """Whichever pairs account for 11 right before and 15 after, the interval is within the widest one."""
    low, high = widest_share_interval(11 / 20, 15 / 20, 20)
    for lost in range(6):
        own = paired_share_interval(4 + lost, lost, 20)
        assert low <= own.low + 1e-12 and own.high <= high + 1e-12


def test_multiplier_is_chosen_on_one_half_and_reported_on_the_other(tmp_path):
    """On even pairs +1 is the best by 3 nats, on odd ones it does -2, so that the report must say -2."""
    even = numpy.arange(20) % 2 == 0
    noise = 0.01 * (numpy.arange(20) % 5 - 2)
    evaluation = of_propensities(tmp_path, {
        0.0: numpy.zeros(20), 1.0: numpy.where(even, 3.0, -2.0) + noise, 2.0: numpy.where(even, 1.0, 4.0) + noise})
    (chosen,) = chosen_multipliers(evaluation, "even")
    assert (chosen.multiplier, chosen.aim) == (1.0, 1) and chosen.chosen_on == pytest.approx(3.0, abs=0.02)
    assert chosen.propensity.value == pytest.approx(-2.0, abs=0.02) and chosen.propensity.items == 10
    assert chosen_multipliers(evaluation, "odd")[0].multiplier == 2.0
    found = choice_sentences(evaluation, [chosen], "even", math.inf)
    assert "had no part in the choice" in found[0] and "no effect in that direction is shown" in found[1]


def test_the_pairs_that_the_file_names_choose(tmp_path):
    """Of pairs 0, 3, 4 and 9 multiplier 1 is the best by 3 nats; on the other six it does -2."""
    drawn = numpy.isin(numpy.arange(10), [0, 3, 4, 9])
    noise = 0.01 * (numpy.arange(10) % 5 - 2)
    evaluation = dataclasses.replace(
        of_propensities(tmp_path, {0.0: numpy.zeros(10), 1.0: numpy.where(drawn, 3.0, -2.0) + noise,
                                   2.0: numpy.where(drawn, 1.0, 4.0) + noise}),
        choosing_pairs=pandas.DataFrame({"pair": numpy.arange(10), "chooses": drawn.astype(int)}))
    (chosen,) = chosen_multipliers(evaluation, DRAWN)
    assert chosen.multiplier == 1.0 and chosen.chosen_on == pytest.approx(3 + noise[drawn].mean())
    assert chosen.propensity.value == pytest.approx(-2 + noise[~drawn].mean()) and chosen.propensity.items == 6
    # Of equals, none is preferred, so that accuracy falls nowhere: it is 0 before and after.
    assert (chosen.accuracy.value, chosen.accuracy.items) == (0.0, 6)
    found = choice_sentences(evaluation, [chosen], DRAWN, math.inf)
    assert "Chosen on 4 pairs of 10, which evaluate --choose-on drew by --seed 42" in found[0]
    page = evaluation_report_html([evaluation])
    assert "Multipliers chosen on one part of the pairs" in page and "drew by --seed 42" in page
    assert "chosen on one part" not in evaluation_report_html([dataclasses.replace(
        evaluation, choosing_pairs=evaluation.choosing_pairs[:0])])


def test_choice_keeps_to_the_largest_divergence(tmp_path):
    """KL is 0.05 m^2: at most 0.1 leaves +1 and -1; where it is not known none is left."""
    evaluation = load_evaluation(SyntheticEvaluation().write(tmp_path / "eval.h5"))
    def multipliers(limit: float) -> list[float]:
        return [choice.multiplier for choice in chosen_multipliers(evaluation, "odd", limit)
                if choice.direction == "vector"]
    assert multipliers(math.inf) == [2.0, -2.0] and multipliers(0.1) == [1.0, -1.0] and multipliers(0.01) == []
    bare = load_evaluation(SyntheticEvaluation(absent=frozenset({"costs"})).write(tmp_path / "bare.h5"))
    assert chosen_multipliers(bare, "odd", 1.0) == []
    assert "No multiplier can be chosen" in choice_sentences(bare, [], "odd", 1.0)[0]


def test_band_of_random_directions(tmp_path):
    evaluation = load_evaluation(SyntheticEvaluation(draws=12).write(tmp_path / "eval.h5"))
    band = null_band(evaluation, [0.0, 2.0]).set_index("multiplier")
    assert (band.loc[2.0, "low"], band.loc[2.0, "high"]) == pytest.approx((-0.2, 0.2)) and band.loc[2.0, "draws"] == 12
    single = load_evaluation(SyntheticEvaluation().write(tmp_path / "single.h5"))
    assert null_band(single, [0.0, 2.0]).empty


def test_curves_stand_beside_each_other():
    rows = pandas.DataFrame({"multiplier": [-1.0, 0.0, 0.5]})
    moved = [dodged(rows, "multiplier", place, rows["multiplier"])["multiplier"].tolist() for place in places(3)]
    # Each curve moves by a share of the smallest gap, 0.5, and none meets the next multiplier's.
    assert moved[1] == rows["multiplier"].tolist()
    assert all(moved[0][i] < moved[1][i] < moved[2][i] < moved[1][i] + 0.25 for i in range(3))


@pytest.mark.parametrize("labels", [
    ["smollm2-135m-instruct.gguf", "smollm2-135m-instruct.gguf + lora"],
    ["smollm2-135m-instruct, warmth.h5, test.csv", "smollm2-135m-instruct, coldness.h5, test.csv"],
    ["a" * 60 + "1" + "b" * 60, "a" * 60 + "2" + "b" * 60], ["x" * 90, "y" * 90, "x" * 89 + "z"]])
def test_cut_labels_still_differ(labels):
    cut = distinctly_shortened(labels, 24)
    assert len(set(cut)) == len(labels) and max(map(len, cut)) <= 24
    assert distinctly_shortened(labels, 200) == labels
