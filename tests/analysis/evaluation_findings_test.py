"""The sentences on evaluations whose answer is known, each in the case where it must turn round."""

from __future__ import annotations

import dataclasses
import math

import numpy
import pandas
import pytest
from synthetic_evaluation import SyntheticEvaluation, around

from bipo_analysis import Evaluation, load_evaluation
from bipo_analysis.held_out_findings import control_warnings, curve_findings, steerability_findings
from bipo_analysis.limits import limits
from bipo_analysis.measure_findings import (choice_findings, cost_findings, judge_findings, judge_scale, judged_change,
                                            synergy_findings, tradeoff_findings)
from bipo_analysis.paired import paired_slopes
from bipo_analysis.transfer import compare, transfer_findings, transfer_warnings
from bipo_analysis.vectors_in_use import is_own_model, vectors_in_use
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
    # Slopes evenly from 0.4 to 2.0, four times that between the ends: t of 59 degrees is 2.001.
    half = 2.001 * 4 * 0.8 * math.sqrt(61 / 59 / 3) / math.sqrt(60)
    assert f"changes by +4.80 nats between the two ends (95 % interval {4.8 - half:.2f} to {4.8 + half:.2f} over the " \
           "same 60 pairs): that the vector has an effect on pairs like these is well supported" in found
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
    # Slopes of the pairs have a standard error of 0.0076: they leave a fall by 0.01 open, not one by 0.06.
    found = text(curve_findings(load(slopes=slopes(0.5), bend=0.188, spread=0.1)))
    assert "by 0.06 nats." in found
    found = text(curve_findings(load(slopes=slopes(0.5), bend=0.17, spread=0.1)))
    assert "by 0.01 nats, which the pairs leave open" in found


def test_curve_that_does_not_rise(load):
    found = text(curve_findings(load(slopes=slopes(0.0), bend=0.3)))
    assert "does not rise" in found and "other pairs might show no effect" in found and "of that" not in found


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
    difference = paired_slopes(evaluation, "vector", "caa")
    assert difference.value == pytest.approx(0, abs=1e-12) and difference.interval.low < 0 < difference.interval.high
    assert "leaves open which of the two steers better" in text(steerability_findings(evaluation))


def test_without_samples_nothing_is_compared(load):
    """Intervals of single means must not stand for a paired comparison, however far apart they are."""
    evaluation = load(absent=frozenset({"samples"}))
    assert "the order of the two is not tested" in text(steerability_findings(evaluation))
    found = text(curve_findings(evaluation))
    assert "cannot be tested" in found and "well supported" not in found


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


@pytest.mark.parametrize("entries, words", [([{"kind": "conceptor", "quota": 0.25}], "beside a conceptor"),
                                            ([{"layer": 10}, {"layer": 20}], "beside vectors of several layers")])
def test_no_mean_difference_is_asked_for_where_evaluate_refuses_it(load, entries, words):
    evaluation = load(slopes={name: slope for name, slope in slopes(1.2).items() if name != "caa"})
    (first,) = evaluation.settings["vectors"]
    evaluation.settings["vectors"] = [{**first, **entry} for entry in entries]
    found = text(control_warnings(evaluation))
    assert words in found and "evaluate --caa measures it" not in found


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


def of_choices(kind: str, rows: pandas.DataFrame, items: pandas.DataFrame | None = None) -> str:
    none = pandas.DataFrame(columns=["direction", "multiplier", "item", "correct"])
    return text(choice_findings("facts", kind, rows, none if items is None else items))


def test_choices():
    lost = of_choices("mmlu", choice_rows((-2, 0.44), (0, 0.75), (2, 0.3)))
    assert "44.0 % at -2, 75.0 % without steering and 30.0 % at +2 of 100 items" in lost
    assert "at +2, which loses 45.0 points (whichever items changed, 95 % interval within" in lost
    assert lost.endswith("more than chance.")
    gained = of_choices("mc", choice_rows((-2, 0.47), (0, 0.45), (2, 0.44)))
    assert "at -2, which gains 2.0 points; without single items in the file it is not tested" in gained
    assert "does not change the share" in of_choices("ab", choice_rows((-2, 0.5), (0, 0.5)))
    assert "largest change" not in of_choices("ab", choice_rows((-2, 0.5), (2, 0.9)))


def choice_items(gained: int, lost: int) -> pandas.DataFrame:
    """100 items, of which 50 are right without steering."""
    before = numpy.arange(100) < 50
    after = before.copy()
    after[50:50 + gained], after[:lost] = True, False
    return pandas.concat([pandas.DataFrame({"direction": "vector", "multiplier": m, "item": numpy.arange(100),
                                            "correct": right.astype(float)}) for m, right in ((0, before), (2, after))])


def test_choices_item_by_item():
    """Shares of 50 % and 60 % of 100 items have intervals that overlap; the change is certain if it is all one way."""
    rows = choice_rows((0, 0.5), (2, 0.6))
    one_way, both_ways = (of_choices("ab", rows, choice_items(*changes)) for changes in ((10, 0), (30, 20)))
    # (10.5 - 0.5) / 102 and 1.96 sqrt(11 - 10^2 / 102) / 102.
    assert "gains 10.0 points (95 % interval over the same items 3.7 to 15.9)." in one_way
    assert "which leaves open whether it is more than chance" in both_ways


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
           "together +1.70. Without single pairs in the file the difference of +0.30 is not tested." in found
    singles = frozenset({"grid_samples"})
    found = text(synergy_findings(load(synergy=0.3, singles=singles)))
    assert "a difference of +0.30 (95 % interval 0.28 to 0.32, pair by pair): together they do more" in found
    assert "At -1 and -1 the two vectors move propensity by -1.40 nats" in found and "less than the sum" in found
    additive = text(synergy_findings(load(synergy=0.01, singles=singles)))
    assert additive.count("as far as these pairs tell, their effects add up") == 2
    assert text(synergy_findings(load(synergy=-0.3, singles=singles))).count("less than the sum") == 1
    assert synergy_findings(load(absent=frozenset({"grid"}))) == []


def test_judge(load):
    found = text(judge_findings(load()))
    # Scores 1 + (prompt + m) mod 4 are the same at -2 and +2, prompt by prompt.
    assert "rises at every step from 1.30 at -2 to 3.70 at +2; prompt by prompt that is +0.00" in found
    assert "no effect is shown" in found
    assert "1 answer of the judge held no score and is left out" in found
    assert "held no score" not in text(judge_findings(load(judge_errors=0)))
    evaluation = load()
    evaluation.judge["score"] = 5 - evaluation.judge["score"]
    assert "falls at every step" in text(judge_findings(evaluation))


@pytest.mark.parametrize(("text_of_scale", "expected"), [
    ("1-4", (1, 4)), ("0-100", (0, 100)), ("0.0-1.0", (0, 1)), ("-2-2", (-2, 2)), ("-2.5--0.5", (-2.5, -0.5)),
    ("", (1, 4))])
def test_scale_of_a_judge(load, text_of_scale, expected):
    evaluation = load()
    evaluation.settings["judge_scale"] = text_of_scale
    assert judge_scale(evaluation) == expected


def test_missing_scores_of_a_scale_with_zero(load):
    """Prompts 0 to 9 score 0 at -2 and 2 at +2; the others have no score at +2."""
    evaluation = load()
    evaluation.settings["judge_scale"] = "0-2"
    scores = evaluation.judge_scores
    scores["score"] = numpy.where(scores["multiplier"] == 2, numpy.where(scores["prompt"] < 10, 2.0, numpy.nan), 0.0)
    change = judged_change(evaluation, "warmth", -2, 2)
    assert (change.value, change.items) == (2.0, 10)


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


def test_a_conceptor_is_named_and_its_control_explained(load):
    evaluation = load(pairs=100)
    assert "conceptor" not in text(limits([evaluation]))
    entry = evaluation.settings["vectors"][0]
    del entry["norm"]
    entry.update(kind="conceptor", quota=0.25, weight=1.5, file="chosen.h5", step=0)
    used = vectors_in_use(evaluation)[0]
    assert used.is_conceptor and used.quota == 0.25
    assert used.words.startswith("chosen.h5 (conceptor, quota 0.250, layer ") and "beta 1.5" in used.words
    found = text(limits([evaluation]))
    assert "βC - I" in found and "the same eigenvalues" in found


def test_limits(load):
    whole = text(limits([load(pairs=100)]))
    assert "Measured without controls: perplexity of the generations under the unsteered model, distinct words" in whole
    assert "judge is a language model" in whole and "Not measured" not in whole and "are few" not in whole
    bare = text(limits([load(pairs=40, absent=frozenset({"costs", "judge", "judge_scores"}))]))
    assert "40 held-out pairs are few" in bare and "language model" not in bare
    assert "Not measured: costs (perplexity, KL, repetition, refusals) and a judge's scores." in bare
