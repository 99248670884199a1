"""A multiplier chosen on some of the held-out pairs, and what it does on the others.

The best of several multipliers looks better than it is on the pairs that it was chosen on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import pandas

from .evaluation import Evaluation, direction_name, directions_in
from .paired import Change, change_between, pair_values
from .wording import NO_BREAK, counted, multiplier, number, point_range, points, signed, span

# Which pairs choose, by their place in the file from 0; the others report.
HALVES = {"even": 0, "odd": 1}
# The same where `bipo-dist evaluate --choose-on` drew them.
DRAWN = "drawn"


@dataclass(frozen=True)
class Chosen:
    """The multiplier of a direction that moves the choosing pairs furthest, and what it does on the others."""

    direction: str
    aim: int  # 1 for the highest propensity, -1 for the lowest
    multiplier: float
    chosen_on: float  # mean change of propensity on the choosing pairs, nats
    propensity: Change  # from multiplier 0, on the others
    accuracy: Change


def chosen_multipliers(evaluation: Evaluation, half: str, max_kl: float = math.inf) -> list[Chosen]:
    """For each direction and aim that has multipliers, the one chosen on `half`, a key of HALVES or DRAWN.

    `max_kl` leaves out multipliers whose KL on neutral prompts is larger or, where it is finite, not known.  Empty
    where the file holds no single pairs or no multiplier 0.
    """
    found = []
    for direction in directions_in(evaluation.samples):
        values = pair_values(evaluation.samples, direction, "propensity")
        if 0.0 not in values:
            continue
        accuracy = pair_values(evaluation.samples, direction, "accuracy")
        choosing, others = _chooses(evaluation, half, values.index), ~_chooses(evaluation, half, accuracy.index)
        means = (values[choosing].sub(values.loc[choosing, 0.0], axis=0)).mean()
        for aim in (1, -1):
            allowed = [value for value in means.index if value * aim > 0 and math.isfinite(means[value])
                       and _kl(evaluation.costs, direction, value) <= max_kl]
            if allowed:
                best = max(allowed, key=lambda value: (aim * means[value], -abs(value)))
                found.append(Chosen(direction, aim, best, float(means[best]),
                                    change_between(values[~choosing], 0.0, best, "propensity"),
                                    change_between(accuracy[others], 0.0, best, "accuracy")))
    return found


def _chooses(evaluation: Evaluation, half: str, pairs: pandas.Index) -> numpy.ndarray:
    """Which of the pairs choose."""
    if half == DRAWN:
        drawn = evaluation.choosing_pairs
        return pairs.isin(drawn.loc[drawn["chooses"] != 0, "pair"])
    return numpy.asarray(pairs % 2 == HALVES[half])


def choice_sentences(evaluation: Evaluation, choices: Sequence[Chosen], half: str, max_kl: float) -> list[str]:
    """How the choice was made, then the choices of each direction."""
    if not choices:
        return ["No multiplier can be chosen: it takes single pairs at multiplier 0 and at another one"
                + ("." if math.isinf(max_kl) else f" whose KL is known and at most {number(max_kl)}.")]
    limit = "" if math.isinf(max_kl) else f", among those with a KL of at most {number(max_kl)} nats on neutral prompts"
    start = (f"Chosen on {_half_words(evaluation, half)}, by the largest change of propensity"
             f"{limit}; the figures are of the other pairs, which had no part in the choice.")
    return [start, *(_sentence(choice, evaluation.noun) for choice in choices)]


def _half_words(evaluation: Evaluation, half: str) -> str:
    if half != DRAWN:
        return f"the pairs at {half} places of the file, counted from 0"
    drawn = evaluation.choosing_pairs["chooses"] != 0
    return (f"{counted(int(drawn.sum()), 'pair')} of {len(drawn)}, which evaluate --choose-on drew by --seed "
            f"{evaluation.settings.get('seed')}")


def _sentence(choice: Chosen, noun: str) -> str:
    change, accuracy = choice.propensity, choice.accuracy
    aim = "highest" if choice.aim > 0 else "lowest"
    text = (f"{direction_name(choice.direction, noun)}, {aim} propensity: multiplier {multiplier(choice.multiplier)} "
            f"changes it by {signed(change.value)} nats on {counted(change.items, 'other pair')}")
    if math.isnan(change.interval.low):
        return f"{text}; too few for an interval."
    verdict = "" if change.is_certain and choice.aim * change.value > 0 else ": no effect in that direction is shown"
    return (f"{text} (95{NO_BREAK}% interval {span(*change.interval)}) and accuracy by {points(accuracy.value)} "
            f"({point_range(*accuracy.interval)}){verdict}.")


def _kl(costs: pandas.DataFrame, direction: str, value: float) -> float:
    """KL on neutral prompts; infinite where it was not measured, so that only an infinite limit admits it."""
    rows = costs[(costs["measure"] == "kl_neutral") & (costs["direction"] == direction)
                 & (costs["multiplier"] == value)]
    return float(rows["value"].iloc[0]) if len(rows) and math.isfinite(rows["value"].iloc[0]) else math.inf
