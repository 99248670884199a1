"""The sentences on evaluations whose answer is known, each in the case where it must turn round."""

from __future__ import annotations

import dataclasses
import math

import numpy
import pandas
import pytest
from synthetic_evaluation import SyntheticEvaluation, around

from bipo_analysis import Evaluation, load_evaluation
from bipo_analysis.held_out_findings import (control_warnings, curve_findings, slope_difference,
                                             steerability_findings)
from bipo_analysis.limits import limits
from bipo_analysis.measure_findings import (choice_findings, cost_findings, judge_findings, synergy_findings,
                                            tradeoff_findings)
from bipo_analysis.transfer import compare, transfer_findings, transfer_warnings
from bipo_analysis.vectors_in_use import is_own_model
from bipo_analysis.wording import NO_BREAK


@pytest.fixture
def load(tmp_path):
    """Loads a synthetic evaluation with some of its properties changed."""
    counter = iter(range(100))

    def make(**changes: object) -> Evaluation:
        return load_evaluation(SyntheticEvaluation(**changes).write(tmp_path / f"{next(counter)}.h5"))
    return make


def text(sentences: list[str]) -> str:
    return " ".join(sentences).replace(NO_BREAK, " ").replace("−", "-")


def slopes(vector: float, caa: float = 0.6, random: float = 0.05) -> dict[str, float]:
    return {"vector": vector, "caa": caa, "random": random}


def test_rising_curve(load):
    found = text(curve_findings(load()))
    # Propensity at 0 is the mean of -0.5 + 0.1 (i mod 7) over 60 pairs; the slopes' mean is 1.2.
    base = numpy.mean([-0.5 + 0.1 * (i % 7) for i in range(60)])
    assert f"rises monotonically from multiplier -2 to +2: from {base - 2.4:+.2f} to {base + 2.4:+.2f} nats" in found
    assert "at its two ends do not overlap" in found
    assert "moves propensity by +4.80 nats, the mean difference (CAA) +2.40 nats (50 % of that) and the random " \
           "direction +0.20 nats (4 % of that)" in found


def test_falling_curve(load):
    found = text(curve_findings(load(slopes=slopes(-1.2))))
    assert "falls monotonically" in found and "wrong way round" in found and "rises" not in found


def test_curve_that_bends_down(load):
    """With 0.5 m - 0.3 m^2 it rises up to 1 (0.2) and falls to 2 (-0.2)."""
    found = text(curve_findings(load(slopes=slopes(0.5), bend=0.3, spread=0.01)))
    assert "rises from multiplier -2 to +2" in found
    assert "not monotonically: it falls from +1 to +2 by 0.40 nats." in found
    # Intervals of propensity are those of the pairs' bases, +-0.05: a fall of 0.06 lies within, one of 0.4 does not.
    found = text(curve_findings(load(slopes=slopes(0.5), bend=0.188, spread=0.01)))
    assert "by 0.06 nats, which its intervals leave open" in found


def test_curve_that_does_not_rise(load):
    found = text(curve_findings(load(slopes=slopes(0.0), bend=0.3)))
    assert "does not rise" in found and "overlap or are not known" in found and "of that" not in found


def test_equal_steps_are_no_rise(load):
    assert "monotonically" not in text(curve_findings(load(slopes=slopes(0.0), spread=0.0))).replace("not mono", "")


def test_curve_without_data(load):
    assert "No held-out pairs" in text(curve_findings(load(absent=frozenset({"curve"}))))
    assert "one point is no curve" in text(curve_findings(load(multipliers=(1.0,))))


def test_steerability_beside_the_controls(load):
    found = text(steerability_findings(load()))
    assert "mean slope of 60 pairs, is +1.20 nats" in found and "the vector steers." in found
    assert "2.00 times that of the mean difference (CAA) (+0.60, 95 % interval 0.48 to 0.72)" in found
    assert "pair by pair the vector's slope is 0.60 larger (difference 0.60 to 0.60)" in found
    assert "The random direction has a steerability that cannot be told from 0 (+0.05" in found


def test_vector_that_is_worse_than_the_mean_difference(load):
    found = text(steerability_findings(load(slopes=slopes(0.3, caa=0.6))))
    assert "0.50 times that of the mean difference" in found and "slope is 0.30 smaller" in found
    assert "the vector is the worse of the two" in found
    assert "random direction" in found and found.count("lead is well supported") == 1


def test_vector_as_good_as_the_mean_difference(load):
    """Slopes of the two pair by pair that differ by noise around 0."""
    evaluation = load(slopes=slopes(0.6, caa=0.6))
    own = evaluation.samples["direction"] == "vector"
    signs = numpy.where(evaluation.samples["pair"] % 2, 0.1, -0.1)
    evaluation.samples.loc[own, "slope"] += signs[own]
    difference, interval = slope_difference(evaluation, "caa")
    assert difference == pytest.approx(0, abs=1e-12) and interval.low < 0 < interval.high
    assert "leaves open which of the two steers better" in text(steerability_findings(evaluation))


def test_comparison_without_samples_rests_on_the_intervals(load):
    absent = frozenset({"samples"})
    close = text(steerability_findings(load(slopes=slopes(0.7, caa=0.6), absent=absent)))
    assert "their intervals overlap, which leaves the order open" in close
    assert "overlap" not in text(steerability_findings(load(absent=absent)))


def test_vector_without_effect(load):
    found = text(steerability_findings(load(slopes=slopes(0.01))))
    assert "no effect of the vector is shown" in found and "the vector steers." not in found
    assert "steers the wrong way" in text(steerability_findings(load(slopes=slopes(-1))))


def test_control_that_steers_the_wrong_way(load):
    found = text(steerability_findings(load(slopes=slopes(1, caa=-1))))
    assert "The mean difference (CAA) steers the wrong way" in found


def test_anti_steerable_pairs(load):
    few, many = text(steerability_findings(load())), text(steerability_findings(load(slopes=slopes(0.3))))
    assert "0 % of the pairs" in few and "says little of a single prompt" not in few
    # Slopes from -0.5 to 1.1: of 60 evenly spaced ones 19 lie below 0.
    assert "32 % of the pairs" in many and "says little of a single prompt" in many


def test_rank_correlation(load):
    assert "multipliers closely" in text(steerability_findings(load()))
    assert "hardly, if at all" in text(steerability_findings(load(slopes=slopes(0.05))))


def test_steerability_without_data(load):
    assert "was not measured" in text(steerability_findings(load(absent=frozenset({"steerability"}))))


@pytest.mark.parametrize("missing, words", [("caa", "no mean difference (CAA)"), ("random", "no random direction")])
def test_missing_control_is_said(load, missing, words):
    assert control_warnings(load()) == []
    found = control_warnings(load(slopes={name: slope for name, slope in slopes(1.2).items() if name != missing}))
    assert len(found) == 1 and words in found[0]


def test_missing_controls_without_held_out_pairs(load):
    bare = frozenset({"curve", "steerability", "samples"})
    assert control_warnings(load(absent=bare)) == []
    assert len(control_warnings(load(absent=bare, slopes={"vector": 1.0}))) == 2
    assert len(control_warnings(load(absent=bare | {"choices", "costs"}))) == 2


def test_control_of_another_norm(load):
    assert control_warnings(load(norms={"caa": 3.201})) == []
    found = text(control_warnings(load(norms={"caa": 6.4})))
    assert "has norm 6.40, the vector 3.20" in found


def test_control_at_fewer_multipliers(load):
    evaluation = load()
    part = evaluation.curve.query("not (direction == 'random' and multiplier in (0, 2))")
    found = text(control_warnings(dataclasses.replace(evaluation, curve=part)))
    assert found == "The random direction was not measured at +2, where the vector was."


def choice_rows(*points: tuple[float, float]) -> pandas.DataFrame:
    return pandas.DataFrame([{"direction": "vector", "multiplier": m, "items": 100,
                              **around("accuracy", accuracy, 0.03)} for m, accuracy in points])


def test_choices():
    lost = text(choice_findings("facts", "mmlu", choice_rows((-2, 0.44), (0, 0.45), (2, 0.3))))
    assert "44.0 % at -2, 45.0 % without steering and 30.0 % at +2 of 100 items" in lost
    assert "at +2, which loses 15.0 points: the intervals do not overlap" in lost
    gained = text(choice_findings("facts", "mc", choice_rows((-2, 0.47), (0, 0.45), (2, 0.44))))
    assert "at -2, which gains 2.0 points: less than the intervals leave open" in gained
    assert "changes nothing" in text(choice_findings("facts", "ab", choice_rows((-2, 0.5), (0, 0.5))))
    assert "largest change" not in text(choice_findings("facts", "ab", choice_rows((-2, 0.5), (2, 0.9))))


def test_costs(load):
    found = cost_findings(load(damage=0.1))
    assert len(found) == 8 and found[0].startswith("KL")
    # 12 exp(0.1 m^2) is half as much again at 2; 0.1 - 0.1 m refusals are none at 2.
    assert f"17.90 (+{100 * (math.exp(0.4) - 1):.0f} %) at -2, 12.00 without steering" in text(found)
    assert "Refusals: 30.0 % at -2, 10.0 % without steering and 0.0 % at +2." in text(found)
    assert "0.400 nats at -2 and 0.400 nats at +2" in text(found)


def test_tradeoffs(load):
    clean = text(tradeoff_findings(load()))
    assert "At no multiplier does a control beat the vector in" in clean and "is beaten" not in clean
    # The mean difference as strong for less.
    beaten = text(tradeoff_findings(load(slopes=slopes(0.5, caa=1.2), damage=0.1)))
    assert "Propensity against KL: the vector is beaten at -2 by the mean difference (CAA) at -1" in beaten
    assert "At no multiplier" not in beaten


def test_tradeoffs_of_controls_without_costs(load):
    evaluation = load()
    own = evaluation.costs.query("direction == 'vector'")
    found = text(tradeoff_findings(dataclasses.replace(evaluation, costs=own)))
    assert found == ("What the mean difference (CAA) and the random direction cost was not measured, so the vector "
                     "cannot be compared with it here.")


def test_synergy(load):
    found = text(synergy_findings(load(synergy=0.3)))
    assert "At +1 and +1 the two vectors move propensity by +2.00 nats; alone they move it by +1.20 and +0.50, " \
           "together +1.70: together they do more than the sum." in found
    assert "At -1 and -1 the two vectors move propensity by -1.40 nats" in found and "less than the sum" in found
    additive = text(synergy_findings(load(synergy=0.05)))
    assert additive.count("within the interval their effects add up") == 2
    assert "At +1 and +1" in text(synergy_findings(load(synergy=-0.3))) and "less than the sum" in \
        text(synergy_findings(load(synergy=-0.3)))
    assert synergy_findings(load(absent=frozenset({"grid"}))) == []


def test_judge(load):
    found = text(judge_findings(load()))
    assert "rises at every step from 1.30 at -2 to 3.70 at +2; the intervals at the ends do not overlap" in found
    assert "1 answer of the judge held no score and is left out" in found
    assert "held no score" not in text(judge_findings(load(judge_errors=0)))
    evaluation = load()
    evaluation.judge["score"] = 5 - evaluation.judge["score"]
    assert "falls at every step" in text(judge_findings(evaluation))


def test_transfer(load):
    own, sister = load(), load(model="sister", slopes=slopes(0.9))
    lora = load(adapter="lora", slopes=slopes(0.02))
    transfer = compare([sister, own, lora])
    assert transfer.origin == 1 and transfer.has_origin and transfer.is_of_one_vector
    assert transfer_warnings(transfer) == []
    found = text(transfer_findings(transfer))
    assert "On sister steerability is +0.90" in found
    assert "75 % of the 1.20 on smollm2: the vector steers there, too" in found
    assert "On smollm2 + lora steerability is +0.02" in found and "no transfer is shown" in found
    assert "On smollm2 + lora the random direction is not clearly worse" in found
    assert "On sister the random" not in found


def test_transfer_that_turns_round(load):
    found = text(transfer_findings(compare([load(), load(model="sister", slopes=slopes(-0.9))])))
    assert "there it steers the wrong way" in found


def test_what_is_no_transfer(load):
    other = load(model="sister", vector_file="cold.h5", pairs=50)
    found = text(transfer_warnings(compare([load(), other])))
    assert "different vectors" in found and "60 and 50 held-out pairs" in found
    strangers = compare([load(model="a"), load(model="b")])
    assert "None of these files is of the model" in text(transfer_warnings(strangers))


def test_own_model_by_name_where_there_are_no_fingerprints(load):
    evaluation = load()
    assert is_own_model(evaluation) and not is_own_model(load(model="other/smollm2"))
    del evaluation.settings["model_fingerprint"]
    assert is_own_model(evaluation)
    evaluation.settings["vectors"][0]["model"] = "another"
    assert not is_own_model(evaluation)


def test_limits(load):
    whole = text(limits([load(pairs=100)]))
    assert "Measured without controls: perplexity of the generations under the unsteered model, distinct words" in whole
    assert "judge is a language model" in whole and "Not measured" not in whole and "are few" not in whole
    bare = text(limits([load(pairs=40, absent=frozenset({"costs", "judge", "judge_scores"}))]))
    assert "40 held-out pairs are few" in bare and "language model" not in bare
    assert "Not measured: costs (perplexity, KL, repetition, refusals) and a judge's scores." in bare
