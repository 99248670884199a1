"""What the held-out pairs show, in plain sentences: the curve, steerability, and both beside the controls."""

from __future__ import annotations

import itertools
import math

import numpy
import pandas

from .evaluation import CAA, CONCEPTOR, CONTROLS, RANDOM, VECTOR, Evaluation, direction_name, of_direction
from .paired import MIN_DRAWS, Change, change_between, null_of, pair_values, paired_slopes
from .vectors_in_use import vectors_in_use
from .wording import (NO_BREAK, at_multiplier, counted, joined, multiplier, number, percent, point_range, points,
                      signed, span)

# A control's norm may differ from the vector's by this share: both are rounded to fp32.
NORM_TOLERANCE = 0.01
# Means of log-probabilities in fp32 that differ by less are equal, in nats.
RESOLUTION = 1e-6
# From this share of anti-steerable pairs on a mean slope says little of a single prompt.
MANY_AGAINST = 0.25
# Mean rank correlations from which single pairs follow the multiplier closely, or at least on the whole.
CLOSE, LOOSE = 0.8, 0.4
MISSING_CONTROL = {
    CAA: "There is no mean difference (CAA) beside the vector: nothing here shows that training it was worth more than "
         "one pass over the pairs. `bipo-dist extract --method caa` makes one, and evaluate --caa measures it.",
    RANDOM: "There is no random direction beside the vector: nothing here shows that the direction matters, rather "
            "than that any vector of this norm moves the model. evaluate --random-control on measures one."}
NO_RANDOM_CONCEPTOR = (
    "There is no random conceptor beside the conceptor: nothing here shows that it matters which directions it lets "
    "pass, rather than that any matrix with its eigenvalues moves the model. evaluate --random-control on measures one.")
# evaluate --caa refuses these: the mean difference is then an evaluation of its own.
NO_CAA_BESIDE = {
    "conceptor": "No mean difference (CAA) is measured beside a conceptor: nothing here shows that a matrix was worth "
                 "more than a vector. `bipo-dist extract --method caa` makes one; evaluate that by itself.",
    "layers": "No mean difference (CAA) is measured beside vectors of several layers: nothing here shows that training "
              "them was worth more than one pass over the pairs. `bipo-dist extract --method caa --layers` makes one "
              "for each layer, and `export` and `import` one file of them; evaluate that by itself."}


def control_warnings(evaluation: Evaluation) -> list[str]:
    """What the report must say aloud: controls that are missing, incomplete or of another norm."""
    warnings = []
    for control in CONTROLS:
        if not _has(evaluation, control):
            warnings.append(_missing(evaluation, control))
            continue
        warnings += _coverage_warnings(evaluation, control) + _norm_warnings(evaluation, control)
    return warnings


def _missing(evaluation: Evaluation, control: str) -> str:
    used = vectors_in_use(evaluation)
    if control == CAA and any(vector.is_conceptor for vector in used):
        return NO_CAA_BESIDE["conceptor"]
    if control == CAA and len({layer for vector in used for layer in vector.layers}) > 1:
        return NO_CAA_BESIDE["layers"]
    return NO_RANDOM_CONCEPTOR if evaluation.noun == CONCEPTOR else MISSING_CONTROL[control]


def _has(evaluation: Evaluation, direction: str) -> bool:
    """Whether the direction was measured on held-out pairs; without any pairs, on anything else."""
    held_out = [evaluation.curve, evaluation.steerability]
    tables = held_out if any(len(table) for table in held_out) else [evaluation.choices, evaluation.costs]
    return all((table["direction"] == direction).any() for table in tables if len(table)) and any(map(len, tables))


def _coverage_warnings(evaluation: Evaluation, control: str) -> list[str]:
    measured = {name: set(of_direction(evaluation.curve, name)["multiplier"]) for name in (VECTOR, control)}
    # Multiplier 0 is the same model for every direction.
    left_out = sorted(measured[VECTOR] - measured[control] - {0})
    if not left_out:
        return []
    return [f"The {direction_name(control, evaluation.noun)} was not measured at "
            f"{joined([multiplier(value) for value in left_out])}, "
            f"where the {evaluation.noun} was."]


def _norm_warnings(evaluation: Evaluation, control: str) -> list[str]:
    own, other = (_first(of_direction(evaluation.steerability, name), "norm") for name in (VECTOR, control))
    if not (own > 0 and math.isfinite(other)) or abs(other / own - 1) <= NORM_TOLERANCE:
        return []
    return [f"The {direction_name(control, evaluation.noun)} has norm {number(other)}, the {evaluation.noun} "
            f"{number(own)}: at the same multiplier "
            "they do not steer equally hard, so the comparison is not a fair one."]


def _first(rows: pandas.DataFrame, name: str) -> float:
    return float(rows[name].iloc[0]) if len(rows) else math.nan


def curve_findings(evaluation: Evaluation) -> list[str]:
    """The sentences on the propensity curve."""
    curve = of_direction(evaluation.curve, VECTOR)
    if curve.empty:
        return [f"No held-out pairs were evaluated with the {evaluation.noun}, so there is no propensity curve."]
    if len(curve) == 1:
        return [f"Only multiplier {multiplier(curve['multiplier'].iloc[0])} was evaluated: one point is no curve."]
    return [_course(evaluation, curve), _ends(evaluation, curve), *_accuracy(evaluation, curve),
            *_controls_course(evaluation, curve), *_null(evaluation, curve)]


def _course(evaluation: Evaluation, curve: pandas.DataFrame) -> str:
    first, last = curve.iloc[0], curve.iloc[-1]
    where = f"from multiplier {multiplier(first['multiplier'])} to {multiplier(last['multiplier'])}"
    values = f"from {signed(first['propensity'])} to {signed(last['propensity'])} nats"
    steps = numpy.diff(curve["propensity"])
    if (steps > RESOLUTION).all():
        return f"The propensity curve of the {evaluation.noun} rises monotonically {where}: {values}."
    if (steps < -RESOLUTION).all():
        sign = "" if evaluation.noun == CONCEPTOR else ", or its sign,"
        return (f"The propensity curve of the {evaluation.noun} falls monotonically {where}: {values}. A larger "
                f"multiplier makes the matching answer less likely: the {evaluation.noun}{sign} is the wrong "
                "way round.")
    turns = joined(_turns(evaluation, curve))
    if last["propensity"] - first["propensity"] > RESOLUTION:
        return (f"The propensity curve of the {evaluation.noun} rises {where}, {values}, but not monotonically: it "
                f"falls {turns}.")
    return f"The propensity curve of the {evaluation.noun} does not rise {where} ({values}): it falls {turns}."


def _turns(evaluation: Evaluation, curve: pandas.DataFrame) -> list[str]:
    """The steps at which the curve does not rise, each with how sure that is."""
    turns, values = [], pair_values(evaluation.samples, VECTOR, "propensity")
    for (_, before), (_, after) in itertools.pairwise(curve.iterrows()):
        fall = before["propensity"] - after["propensity"]
        if fall >= -RESOLUTION:
            change = change_between(values, before["multiplier"], after["multiplier"], "propensity")
            doubt = "" if change.interval.high < 0 else ", which the pairs leave open" if change.items > 1 else ""
            turns.append(f"from {multiplier(before['multiplier'])} to {multiplier(after['multiplier'])} by "
                         f"{number(abs(float(fall)))} nats{doubt}")
    return turns


def change_over(evaluation: Evaluation, curve: pandas.DataFrame, measure: str = "propensity") -> Change:
    """The paired change of the vector from the first to the last multiplier of its curve."""
    start, end = curve["multiplier"].iloc[[0, -1]]
    return change_between(pair_values(evaluation.samples, VECTOR, measure), start, end, measure)


def _ends(evaluation: Evaluation, curve: pandas.DataFrame) -> str:
    change = change_over(evaluation, curve)
    if math.isnan(change.interval.low):
        return ("The file does not hold two single pairs at both ends, so whether the effect is more than chance "
                "cannot be tested.")
    text = (f"Pair by pair, propensity changes by {signed(change.value)} nats between the two ends "
            f"(95{NO_BREAK}% interval {span(*change.interval)} over the same {counted(change.items, 'pair')})")
    if change.is_certain and abs(change.value) > RESOLUTION:
        return f"{text}: that the {evaluation.noun} has an effect on pairs like these is well supported."
    return f"{text}: 0 lies within, so other pairs might show no effect."


def _accuracy(evaluation: Evaluation, curve: pandas.DataFrame) -> list[str]:
    if curve["accuracy"].isna().any():
        return []
    shown = curve[(curve["multiplier"] == 0) | curve["multiplier"].isin(curve["multiplier"].iloc[[0, -1]])]
    parts = [f"{percent(row['accuracy'])} {at_multiplier(row['multiplier'])}" for _, row in shown.iterrows()]
    pairs = int(curve["pairs"].max())
    change = change_over(evaluation, curve, "accuracy")
    paired = "" if math.isnan(change.interval.low) else (
        f" Over the same pairs that is a change of {points(change.value)} between the ends "
        f"(95{NO_BREAK}% interval {point_range(*change.interval)}).")
    return [f"The matching answer is the likelier one in {joined(parts)} of {counted(pairs, 'held-out pair')}.{paired}"]


def _controls_course(evaluation: Evaluation, curve: pandas.DataFrame) -> list[str]:
    own, parts = _reach(curve, curve), []
    for control in CONTROLS:
        moved = _reach(of_direction(evaluation.curve, control), curve)
        if math.isfinite(moved):
            share = f" ({percent(moved / own, 0)} of that)" if change_over(evaluation, curve).is_certain else ""
            parts.append(f"the {direction_name(control, evaluation.noun)} {signed(moved)} nats{share}")
    text = f"Over these multipliers the {evaluation.noun} moves propensity by {signed(own)} nats, {joined(parts)}."
    return [text] if parts else []


def _reach(rows: pandas.DataFrame, curve: pandas.DataFrame) -> float:
    """Propensity at the last multiplier of `curve` less that at its first, along `rows`."""
    by_multiplier = rows.set_index("multiplier")["propensity"]
    ends = curve["multiplier"].iloc[[0, -1]]
    return float(by_multiplier[ends.iloc[1]] - by_multiplier[ends.iloc[0]]) if ends.isin(by_multiplier.index).all() \
        else math.nan


def _null(evaluation: Evaluation, curve: pandas.DataFrame) -> list[str]:
    """The vector's move beside those of the random directions, where there are several."""
    null = null_of(evaluation, *curve["multiplier"].iloc[[0, -1]])
    draws = len(null.moved)
    if draws < 2 or math.isnan(null.own):
        return []
    beyond = int((abs(null.moved) >= abs(null.own)).sum())
    text = (f"The {draws} {direction_name(RANDOM, evaluation.noun)}s move propensity by "
            f"{span(null.moved.min(), null.moved.max())} nats over these multipliers; "
            f"{'none moves' if beyond == 0 else f'{beyond} move'} it as far as the {evaluation.noun}")
    if draws < MIN_DRAWS:
        return [f"{text}. {draws} are too few for a null distribution; {MIN_DRAWS} or more make one."]
    return [f"{text} (p = {number(null.probability, 3)}, by rank)."]


def steerability_findings(evaluation: Evaluation) -> list[str]:
    """The sentences on steerability, the controls' beside the vector's."""
    rows = of_direction(evaluation.steerability, VECTOR)
    if rows.empty or math.isnan(rows["steerability"].iloc[0]):
        return ["Steerability was not measured: it needs held-out pairs at two multipliers or more."]
    own = rows.iloc[0]
    others = [(control, of_direction(evaluation.steerability, control)) for control in CONTROLS]
    compared = [sentence for control, rows in others if len(rows)
                for sentence in _comparison(evaluation, own, control, rows.iloc[0])]
    return [_size(own, evaluation.noun), *compared, _spread(own), *_order(own)]


def _size(own: pandas.Series, noun: str) -> str:
    text = (f"Steerability, the mean slope of {counted(int(own['pairs']), 'pair')}, is {signed(own['steerability'])} "
            f"nats per unit of the multiplier ({interval_words(own, 'steerability')})")
    if own["steerability_low"] > 0:
        return f"{text}: the {noun} steers."
    if own["steerability_high"] < 0:
        return f"{text}: the {noun} steers the wrong way."
    return f"{text}: that cannot be told from 0, so no effect of the {noun} is shown."


def interval_words(row: pandas.Series, name: str) -> str:
    """The interval of a column: "95 % interval 0.41 to 0.52"."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "no interval" if math.isnan(low) or math.isnan(high) else f"95{NO_BREAK}% interval {span(low, high)}"


def _comparison(evaluation: Evaluation, own: pandas.Series, control: str, other: pandas.Series) -> list[str]:
    if math.isnan(other["steerability"]):
        return []
    return [_ratio(own, control, other, evaluation.noun) + _paired_verdict(evaluation, control)]


def _ratio(own: pandas.Series, control: str, other: pandas.Series, noun: str) -> str:
    name = direction_name(control, noun)
    size = f"{signed(other['steerability'])}, {interval_words(other, 'steerability')}"
    if not other["steerability_low"] > 0:
        about = "steers the wrong way" if other["steerability_high"] < 0 else \
            "has a steerability that cannot be told from 0"
        return f"The {name} {about} ({size})"
    if own["steerability"] <= 0:
        return f"The {name} steers, the {noun} does not ({size})"
    ratio = number(own["steerability"] / other["steerability"])
    return f"The {noun}'s steerability is {ratio} times that of the {name} ({size})"


def _paired_verdict(evaluation: Evaluation, control: str) -> str:
    change = paired_slopes(evaluation, VECTOR, control)
    if math.isnan(change.interval.low):
        return "; without the slopes of single pairs the order of the two is not tested."
    compared = f"{number(abs(change.value))} {'larger' if change.value >= 0 else 'smaller'}"
    text = f"; pair by pair the {evaluation.noun}'s slope is {compared} (difference {span(*change.interval)})"
    if change.interval.low > 0:
        return f"{text}, so the {evaluation.noun}'s lead is well supported."
    if change.interval.high < 0:
        return f"{text}: the {evaluation.noun} is the worse of the two."
    return f"{text}, which leaves open which of the two steers better."


def _spread(own: pandas.Series) -> str:
    share, low, high = (own[f"anti_steerable{end}"] for end in ("", "_low", "_high"))
    bounds = "" if math.isnan(low) else f" ({percent(low, 0)} to {percent(high, 0)})"
    text = (f"The slopes of single pairs have a standard deviation of {number(own['steerability_sd'])}, and "
            f"{percent(share, 0)} of the pairs{bounds} are anti-steerable: they move against the multiplier")
    if share >= MANY_AGAINST:
        return f"{text}. That is so many that the mean says little of a single prompt."
    return f"{text}."


def _order(own: pandas.Series) -> list[str]:
    value = own["spearman"]
    if math.isnan(value):
        return []
    how = "closely" if value >= CLOSE else "on the whole" if value >= LOOSE else "hardly, if at all"
    return [f"Single pairs follow the order of the multipliers {how}: the mean rank correlation is {signed(value)} "
            f"({interval_words(own, 'spearman')})."]
