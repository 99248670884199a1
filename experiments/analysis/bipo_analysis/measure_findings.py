"""What choices, costs, two vectors together and a judge show, in plain sentences."""

from __future__ import annotations

import itertools
import math
import re

import numpy
import pandas

from .evaluation import CONTROLS, VECTOR, Evaluation, direction_name, of_direction
from .held_out_findings import interval_words
from .intervals import widest_share_interval
from .paired import NO_CHANGE_KNOWN, Change, mean_change
from .pareto import EFFECTS, PRICES, rivals, tradeoffs
from .wording import (NO_BREAK, at_multiplier, counted, joined, multiplier, number, percent, point_range, points,
                      signed, span)

CHOICE_ACCURACY = {"ab": "the matching option is the likelier one", "mc": "the right answer is the likeliest (MC1)",
                   "mmlu": "the right letter is the likeliest"}
COST_NAMES = {"kl_neutral": "KL from the unsteered model on neutral prompts",
              "perplexity_reference_text": "Perplexity of the reference text under the steered model",
              "perplexity_of_generations": "Perplexity of the generations under the unsteered model",
              "distinct_1": "Distinct words", "distinct_2": "Distinct word pairs",
              "distinct_3": "Distinct word triples", "compression_ratio": "Compressed size of the generations",
              "refusal_rate": "Refusals"}
PERPLEXITIES = ("perplexity_reference_text", "perplexity_of_generations")


def choice_findings(title: str, kind: str, rows: pandas.DataFrame, items: pandas.DataFrame) -> list[str]:
    """One sentence on the vector in one set of choices; `items` are its rows of /choice_items, if any."""
    own = of_direction(rows, VECTOR)
    if own.empty:
        return [f"{title}: measured for the controls only."]
    what = CHOICE_ACCURACY.get(kind, "the choice is right")
    parts = [f"{percent(row['accuracy'])} {at_multiplier(row['multiplier'])}"
             for _, row in _ends_and_zero(own).iterrows()]
    return [f"{title}: {what} in {joined(parts)} of {counted(int(own['items'].max()), 'item')}."
            f"{_against_zero(own, of_direction(items, VECTOR))}"]


def _ends_and_zero(rows: pandas.DataFrame) -> pandas.DataFrame:
    wanted = {rows["multiplier"].iloc[0], 0.0, rows["multiplier"].iloc[-1]}
    return rows[rows["multiplier"].isin(wanted)]


def _against_zero(own: pandas.DataFrame, items: pandas.DataFrame) -> str:
    """The largest change of accuracy from the unsteered model's, and whether it is more than chance.

    `items` are the vector's rows of /choice_items of this set.  Without them the widest interval that the two
    accuracies allow decides what is certain whichever items changed.
    """
    zero, steered = own[own["multiplier"] == 0], own[own["multiplier"] != 0]
    changes = (steered["accuracy"] - (zero["accuracy"].iloc[0] if len(zero) else math.nan)).dropna()
    if changes.empty:
        return ""
    row, base = steered.loc[changes.abs().idxmax()], zero.iloc[0]
    change = changes[changes.abs().idxmax()]
    if change == 0:
        return " Steering does not change the share."
    verb = "gains" if change > 0 else "loses"
    text = f" The largest change is at {multiplier(row['multiplier'])}, which {verb} {points(abs(change))}"
    paired = _paired_items(items, row["multiplier"])
    if not math.isnan(paired.interval.low):
        verdict = "" if paired.is_certain else ", which leaves open whether it is more than chance"
        return f"{text} (95{NO_BREAK}% interval over the same items {point_range(*paired.interval)}){verdict}."
    low, high = widest_share_interval(base["accuracy"], row["accuracy"], int(row["items"]))
    if low > 0 or high < 0:
        return (f"{text} (whichever items changed, 95{NO_BREAK}% interval within {point_range(low, high)}): more than "
                "chance.")
    return f"{text}; without single items in the file it is not tested whether that is more than chance."


def _paired_items(items: pandas.DataFrame, value: float) -> Change:
    known = items.pivot_table(index="item", columns="multiplier", values="correct", aggfunc="first") \
        if len(items) else pandas.DataFrame()
    if 0.0 not in known or value not in known:
        return NO_CHANGE_KNOWN
    return mean_change((known[value] - known[0.0]).dropna().to_numpy(dtype=float), is_share=True)


def cost_findings(evaluation: Evaluation) -> list[str]:
    """One sentence for each measured cost of the vector."""
    own = of_direction(evaluation.costs, VECTOR)
    sentences = []
    for measure in measures_in(own):
        rows = own[(own["measure"] == measure) & own["value"].notna()]
        if len(rows):
            shown = _ends_and_zero(rows)
            zero = shown.loc[shown["multiplier"] == 0, "value"]
            base = float(zero.iloc[0]) if len(zero) else math.nan
            parts = [_cost_at(measure, row, base) for _, row in shown.iterrows()
                     if not (measure == "kl_neutral" and row["multiplier"] == 0)]
            sentences.append(f"{COST_NAMES.get(measure, measure.replace('_', ' '))}: {joined(parts)}.")
    return sentences


def measures_in(costs: pandas.DataFrame) -> list[str]:
    """The measures of a table of costs in the order of COST_NAMES, unknown ones after them."""
    found = list(dict.fromkeys(costs["measure"]))
    return [name for name in COST_NAMES if name in found] + [name for name in found if name not in COST_NAMES]


def cost_text(measure: str, value: float) -> str:
    """A cost in its unit."""
    if measure == "kl_neutral":
        return number(value, 3)
    return number(value) if measure in PERPLEXITIES or measure not in COST_NAMES else percent(value)


def _cost_at(measure: str, row: pandas.Series, base: float) -> str:
    text, value = cost_text(measure, float(row["value"])), row["multiplier"]
    unit = " nats" if measure == "kl_neutral" else ""
    change = ""
    if measure in PERPLEXITIES and value != 0 and base > 0:
        change = f" ({signed(100 * (row['value'] / base - 1), 0)}{NO_BREAK}%)"
    return f"{text}{unit}{change} {at_multiplier(value)}"


def tradeoff_findings(evaluation: Evaluation) -> list[str]:
    """Whether a control moves the model further than the vector does at no higher cost, for each effect and price."""
    unbeaten, sentences = [], []
    for effect, (price, name) in itertools.product(EFFECTS, PRICES.items()):
        known = tradeoffs(evaluation, effect, price)
        own = known[(known["direction"] == VECTOR) & (known["multiplier"] != 0)]
        beaten = [text for _, point in own.iterrows() for text in _beaten_by(known, point, evaluation.noun)]
        if beaten:
            sentences.append(f"{effect.capitalize()} against {name}: the {evaluation.noun} is beaten {joined(beaten)}, "
                             "which is as far or further for no more.")
        elif len(own) and known["direction"].isin(CONTROLS).any():
            unbeaten.append(f"{effect} against {name}")
    if unbeaten:
        sentences.append(f"At no multiplier does a control beat the {evaluation.noun} in {joined(unbeaten)}.")
    return sentences + _unpriced_controls(evaluation)


def _unpriced_controls(evaluation: Evaluation) -> list[str]:
    priced = evaluation.costs[evaluation.costs["measure"].isin(PRICES)]["direction"]
    unpriced = [f"the {direction_name(control, evaluation.noun)}" for control in CONTROLS
                if control not in set(priced) and control in set(evaluation.curve["direction"])]
    return [f"What {joined(unpriced)} cost{'' if len(unpriced) > 1 else 's'} was not measured, so the "
            f"{evaluation.noun} cannot be compared with it here."] if unpriced else []


def _beaten_by(known: pandas.DataFrame, point: pandas.Series, noun: str) -> list[str]:
    better = known[rivals(known, point) & known["direction"].isin(CONTROLS)]
    if better.empty:
        return []
    best = better.sort_values("price").iloc[0]
    return [f"at {multiplier(point['multiplier'])} by the {direction_name(best['direction'], noun)} at "
            f"{multiplier(best['multiplier'])}"]


def synergy_findings(evaluation: Evaluation) -> list[str]:
    """Whether two vectors together move propensity by the sum of what each moves alone, at the corners of the grid."""
    grid = evaluation.grid[numpy.isfinite(evaluation.grid["propensity"])]
    if grid.empty:
        return []
    grid = grid.set_index(["multiplier_1", "multiplier_2"]).sort_index()
    firsts, seconds = (grid.index.get_level_values(level) for level in (0, 1))
    corners = [(firsts.max(), seconds.max()), (firsts.min(), seconds.min())]
    sentences = [sentence for corner in corners for sentence in _corner(evaluation, grid, *corner)]
    best = grid.loc[grid["propensity"].idxmax()]
    first, second = grid["propensity"].idxmax()
    return [f"Propensity is highest, {signed(best['propensity'])} nats, at "
            f"{multiplier(first)} and {multiplier(second)}.", *sentences]


def _corner(evaluation: Evaluation, grid: pandas.DataFrame, first: float, second: float) -> list[str]:
    needed = [(first, second), (first, 0.0), (0.0, second), (0.0, 0.0)]
    if first == 0 or second == 0 or any(cell not in grid.index for cell in needed):
        return []
    both, one, other, none = (float(grid.loc[cell, "propensity"]) for cell in needed)
    alone = one + other - 2 * none
    text = (f"At {multiplier(first)} and {multiplier(second)} the two {evaluation.noun}s move propensity by "
            f"{signed(both - none)} nats; alone they move it by {signed(one - none)} and {signed(other - none)}, "
            f"together {signed(alone)}")
    extra = _interaction(evaluation.grid_samples, needed)
    if math.isnan(extra.interval.low):
        return [f"{text}. Without single pairs in the file the difference of {signed(both - none - alone)} is not "
                "tested."]
    text += f", a difference of {signed(extra.value)} (95{NO_BREAK}% interval {span(*extra.interval)}, pair by pair)"
    if not extra.is_certain:
        return [f"{text}: as far as these pairs tell, their effects add up."]
    further = abs(both - none) > abs(alone) and (both - none) * alone > 0
    return [f"{text}: together they do {'more' if further else 'less'} than the sum."]


def _interaction(samples: pandas.DataFrame, cells: list[tuple[float, float]]) -> Change:
    """Over single pairs, what both vectors move less what each moves alone."""
    values = samples["chosen_logp"] - samples["rejected_logp"]
    columns = [values[(samples["multiplier_1"] == first) & (samples["multiplier_2"] == second)].set_axis(
        samples["pair"][(samples["multiplier_1"] == first) & (samples["multiplier_2"] == second)])
        for first, second in cells]
    if any(column.empty for column in columns):
        return NO_CHANGE_KNOWN
    both, one, other, none = columns
    return mean_change((both - one - other + none).dropna().to_numpy(dtype=float))


def judge_findings(evaluation: Evaluation) -> list[str]:
    """Course and failures of the judge's scores, for each behaviour."""
    sentences = []
    for behaviour, rows in evaluation.judge.groupby("behaviour", sort=False):
        known = rows[rows["score"].notna()].sort_values("multiplier")
        if len(known) > 1:
            sentences.append(_judged_course(evaluation, str(behaviour), known))
        errors = int(rows["errors"].sum())
        if errors:
            sentences.append(f"{behaviour}: {counted(errors, 'answer')} of the judge held no score and "
                             f"{'is' if errors == 1 else 'are'} left out of the means.")
    return sentences


def judge_scale(evaluation: Evaluation) -> tuple[float, float]:
    """Lowest and highest score that the judge was asked for."""
    bound, stored = r"(-?\d+(?:\.\d+)?)", str(evaluation.settings.get("judge_scale") or "1-4")
    found = re.fullmatch(f"{bound}-{bound}", stored)
    return (float(found[1]), float(found[2])) if found else (1.0, 4.0)


def judged_change(evaluation: Evaluation, behaviour: str, start: float, end: float) -> Change:
    """Mean over prompts of the score at multiplier `end` less that at `start`; prompts without both left out."""
    scores = evaluation.judge_scores[evaluation.judge_scores["behaviour"] == behaviour]
    # Of files of schema 1, 0 stands for an answer without a score; later ones store NaN.
    known = scores[scores["score"].notna() & ((scores["score"] != 0) | (judge_scale(evaluation)[0] <= 0))]
    table = known.pivot_table(index="prompt", columns="multiplier", values="score", aggfunc="first")
    if start not in table or end not in table:
        return NO_CHANGE_KNOWN
    return mean_change((table[end] - table[start]).dropna().to_numpy(dtype=float))


def _judged_course(evaluation: Evaluation, behaviour: str, rows: pandas.DataFrame) -> str:
    first, last = rows.iloc[0], rows.iloc[-1]
    change = judged_change(evaluation, behaviour, first["multiplier"], last["multiplier"])
    course = _course(numpy.diff(rows["score"]))
    scores = [f"{number(float(row['score']))} at {multiplier(row['multiplier'])}" for row in (first, last)]
    text = f"{behaviour}: the judge's mean score {course} from {scores[0]} to {scores[1]}"
    if math.isnan(change.interval.low):
        return f"{text}; without the scores of single prompts the change is not tested."
    verdict = "an effect is well supported" if change.is_certain else "no effect is shown"
    return (f"{text}; prompt by prompt that is {signed(change.value)} (95{NO_BREAK}% interval "
            f"{span(*change.interval)}, {counted(change.items, 'prompt')}): {verdict}.")


def _course(steps: numpy.ndarray) -> str:
    if (steps > 0).all():
        return "rises at every step"
    if (steps < 0).all():
        return "falls at every step"
    return "rises, but not at every step," if steps.sum() > 0 else "does not rise,"
