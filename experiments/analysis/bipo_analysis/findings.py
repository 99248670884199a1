"""What a section shows, in plain sentences: which layer steers best, by which measure, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
import pandas

from .intervals import widest_share_interval, wilson_interval
from .layer_curve import Comparison, compare_layers, ranked_layers
from .resampling import seed_words
from .sections import Section, Variant
from .traces import Trace, of_complete_runs
from .vectors import cosine_matrix
from .wording import NO_BREAK, axis_values, counted, joined, number, percent, point_range, points, signed


def findings(section: Section, traces: Sequence[Trace]) -> list[str]:
    """The sentences on one section; `traces` are those of its best variant."""
    variant = section.best
    if variant.curve.empty:
        return [_nothing_evaluated(section)]
    pairs = held_out_pairs(traces)
    sentences = [_best_layer(variant), *_pair_uncertainty(variant, pairs)]
    if len(variant.curve) > 1:
        sentences += [_runner_up(variant, pairs), _other_measure(variant)]
    elif variant.joint_layers:
        sentences.append("These layers are trained jointly; what the vector of each does by itself was not measured.")
    else:
        sentences.append("Only one layer was evaluated, so there is none to compare it with.")
    sentences += _variant_choice(section)
    sentences += _agreement_of_seeds(traces)
    sentences += _left_out(variant)
    return sentences


def held_out_pairs(traces: Sequence[Trace]) -> int:
    """Pairs of an evaluation; 0 where there was none."""
    return max((trace.pairs for trace in traces), default=0)


def _nothing_evaluated(section: Section) -> str:
    begun = int((section.cells["steps"] > 0).sum())
    if begun == 0:
        return "No cell has made a step yet, so there is nothing to compare."
    return (f"{counted(begun, 'cell').capitalize()} of {len(section.cells)} made steps, but none has an evaluation at "
            "multipliers −1 and +1 yet, so layers cannot be compared: give --test, and an --eval-every that the "
            "run reaches.")


def _best_layer(variant: Variant) -> str:
    best = ranked_layers(variant.curve, "accuracy").iloc[0]
    swing = best["accuracy_swing"]
    course = (f"with +v the matching answer is the likelier one in {percent(best['accuracy_plus'])} of the held-out "
              f"pairs, with −v in {percent(best['accuracy_minus'])}{_unsteered(best)}")
    seeds = int(best["seeds"])
    spread = "a single seed"
    if seeds > 1:
        spread = (f"mean of {seeds} seeds, {seed_words(seeds)} "
                  f"{point_range(best['accuracy_swing_low'], best['accuracy_swing_high'])}")
    layer = variant.layer_words(int(best["layer"]))
    if swing <= 0:
        bad = f"Together, {layer} do not steer in the intended direction by accuracy" if variant.joint_layers else \
            f"No layer steers in the intended direction by accuracy. The least bad is {layer}"
        return f"{bad}: {course}, a swing of {points(swing)} ({spread})."
    verb = "together steer" if variant.joint_layers else "steers best" if len(variant.curve) > 1 else "steers"
    return f"{layer.capitalize()} {verb}: {course}, a swing of {points(swing)} ({spread})."


def _unsteered(best: pandas.Series) -> str:
    zero = best["accuracy_zero"]
    return "" if math.isnan(zero) else f", and without steering in {percent(zero)}"


def _pair_uncertainty(variant: Variant, pairs: int) -> list[str]:
    if pairs < 1:
        return []
    best = ranked_layers(variant.curve, "accuracy").iloc[0]
    plus = wilson_interval(best["accuracy_plus"], pairs)
    minus = wilson_interval(best["accuracy_minus"], pairs)
    sentence = (f"Each accuracy rests on {counted(pairs, 'pair')}, which leave {percent(plus.low, 0)} to "
                f"{percent(plus.high, 0)} open for +v and {percent(minus.low, 0)} to {percent(minus.high, 0)} for −v "
                f"(Wilson, 95{NO_BREAK}%). Both are of the same pairs, so what counts is the change of each pair")
    low, high = widest_share_interval(best["accuracy_minus"], best["accuracy_plus"], pairs)
    if low > 0 or high < 0:
        return [f"{sentence}: whichever pairs changed, the swing lies within {point_range(low, high)} points "
                f"(95{NO_BREAK}%), so that the vector has an effect is well supported."]
    return [f"{sentence}; the two accuracies alone do not tell that. `bipo-dist evaluate` measures it pair by pair."]


def _runner_up(variant: Variant, pairs: int) -> str:
    first, second = (int(layer) for layer in ranked_layers(variant.curve, "accuracy")["layer"].iloc[:2])
    comparison = compare_layers(variant.compared, first, second)
    return _lead(comparison, second) + _seed_support(comparison) + _pair_support(variant, comparison, pairs)


def _lead(comparison: Comparison, second: int) -> str:
    if abs(comparison.difference) < 1e-9:
        return f"Layer {second} has the same swing of accuracy"
    if comparison.difference < 0:
        return f"On the seeds that both have, layer {second} is {points(-comparison.difference)} of swing ahead"
    return f"The runner-up is layer {second}, {points(comparison.difference)} of swing behind"


def _seed_support(comparison: Comparison) -> str:
    if comparison.seeds < 2:
        return "; one seed does not tell whether another would give the same order."
    low, high = comparison.interval
    if comparison.seeds == 2:
        return f" (the two seeds say {point_range(low, high)}; two seeds are too few for a firm order)."
    verdict = "the order held over the seeds" if low > 0 else "the seeds leave the order open"
    return f" ({seed_words(comparison.seeds)} {point_range(low, high)}): {verdict}."


def _pair_support(variant: Variant, comparison: Comparison, pairs: int) -> str:
    if pairs < 1:
        return ""
    best = ranked_layers(variant.curve, "accuracy").iloc[0]
    low, high = wilson_interval(best["accuracy_plus"], pairs)
    if comparison.difference < (high - low) / 2:
        return (f" The lead is small beside the ±{100 * (high - low) / 2:.0f} points that "
                f"{counted(pairs, 'held-out pair')} leave open for one accuracy by itself; whether it "
                "holds on other pairs, only a comparison of both layers pair by pair can tell.")
    return ""


def _other_measure(variant: Variant) -> str:
    by_accuracy = int(ranked_layers(variant.curve, "accuracy")["layer"].iloc[0])
    by_margin = ranked_layers(variant.curve, "margin").iloc[0]
    margins = f"{signed(by_margin['margin_plus'])} nats at +v, {signed(by_margin['margin_minus'])} at −v"
    if int(by_margin["layer"]) == by_accuracy:
        return f"The margin, the finer measure, names the same layer ({margins})."
    return (f"By the margin, the finer measure, layer {int(by_margin['layer'])} leads ({margins}): "
            "the two measures disagree.")


def _variant_choice(section: Section) -> list[str]:
    if len(section.variants) < 2:
        return []
    return [f"{_variant_words(section.best)}, the one of {len(section.variants)} "
            "combinations of hyper-parameters with the largest swing; being chosen on the same held-out pairs, it "
            "looks a little better than it is."]


def _variant_words(variant: Variant) -> str:
    """Which variant the sentences before were about."""
    if variant.joint_layers:
        return f"This is {axis_values(variant.values)}"
    others = {name: value for name, value in variant.values.items() if name != "joint_layers"}
    alone = "each trained by itself" if len(others) < len(variant.values) else ""
    listed = ", ".join(text for text in (f"at {axis_values(others)}" if others else "", alone) if text)
    return f"Layers are compared {listed}"


def _agreement_of_seeds(traces: Sequence[Trace]) -> list[str]:
    vectors = [(trace.layer, trace.final_vector) for trace in of_complete_runs(traces)
               if trace.final_vector is not None]
    if len(vectors) < 2:
        return []
    layers = numpy.array([layer for layer, _ in vectors])
    cosines = cosine_matrix(numpy.stack([vector for _, vector in vectors]))
    upper = numpy.triu(numpy.ones_like(cosines, dtype=bool), 1)
    same = cosines[upper & (layers[:, None] == layers[None, :])]
    different = cosines[upper & (layers[:, None] != layers[None, :])]
    parts = [f"{number(float(numpy.nanmean(values)))} between {what}"
             for values, what in ((same, "seeds at the same layer"), (different, "different layers"))
             if numpy.isfinite(values).any()]
    return [f"The mean cosine of the trained vectors is {joined(parts)}."] if parts else []


def _left_out(variant: Variant) -> list[str]:
    if variant.is_preliminary:
        return ["No cell is complete yet: the figures are of runs under way or cut short, at their last evaluation."]
    left_out = len(variant.cells) - len(variant.compared)
    if left_out == 0:
        return []
    verb = "is" if left_out == 1 else "are"
    return [f"{counted(left_out, 'cell').capitalize()} without a complete, evaluated run {verb} left out of the "
            "comparison."]
