"""Effect against cost: which multipliers of which direction no other one beats."""

from __future__ import annotations

import weakref

import numpy
import pandas

from .evaluation import VECTOR, Evaluation
from .paired import with_paired_bars

EFFECTS = ("accuracy", "propensity")
# Measures of /costs of which less is better, so that an effect can be weighed against them.
PRICES = {"kl_neutral": "KL", "perplexity_reference_text": "perplexity of the reference text",
          "perplexity_of_generations": "perplexity of the generations"}
# Multiplier 0 is the same model for every direction.
UNSTEERED = "none"


# A page asks for each of them three times: for its plot, its table and its sentences.
_KNOWN: weakref.WeakKeyDictionary[Evaluation, dict[tuple[str, str], pandas.DataFrame]] = weakref.WeakKeyDictionary()


def tradeoffs(evaluation: Evaluation, effect: str, price: str) -> pandas.DataFrame:
    """One row per direction and multiplier with both an effect and a price, and one for the unsteered model.

    `effect` is a column of /curve, `price` a measure of /costs.  Columns: direction (UNSTEERED at multiplier 0),
    multiplier, effect and price with their bounds, on_front.  Where the file has single pairs, the bounds of an effect
    are those of its change from multiplier 0.  Steering has two aims: positive multipliers compete for the highest
    effect at the lowest price, negative ones for the lowest effect; 0 takes part in both.
    """
    known = _KNOWN.setdefault(evaluation, {})
    if (effect, price) not in known:
        known[effect, price] = _tradeoffs(evaluation, effect, price)
    return known[effect, price].copy()


def _tradeoffs(evaluation: Evaluation, effect: str, price: str) -> pandas.DataFrame:
    costs = evaluation.costs[evaluation.costs["measure"] == price]
    prices = costs[["direction", "multiplier", "value", "value_low", "value_high"]].set_axis(
        ["direction", "multiplier", "price", "price_low", "price_high"], axis=1)
    bounds = [f"{effect}_low", f"{effect}_high"]
    effects = with_paired_bars(evaluation)[["direction", "multiplier", effect, *bounds]].set_axis(
        ["direction", "multiplier", "effect", "effect_low", "effect_high"], axis=1)
    points = effects.merge(prices, on=["direction", "multiplier"])
    points = points[numpy.isfinite(points["effect"]) & numpy.isfinite(points["price"])]
    points = _with_one_origin(points).sort_values(["direction", "multiplier"], ignore_index=True)
    return points.assign(on_front=[not rivals(points, row).any() for _, row in points.iterrows()])


def rivals(points: pandas.DataFrame, point: pandas.Series) -> pandas.Series:
    """Which points beat `point`: as far in its direction for no higher price, and better in one of the two.

    The unsteered point, from which both aims start, is beaten by none.
    """
    aim = numpy.sign(point["multiplier"])
    if aim == 0:
        return pandas.Series(False, index=points.index)
    # By arrays: a page asks for the rivals of each of hundreds of points.
    multipliers, effects, prices = (points[name].to_numpy(dtype=float) for name in ("multiplier", "effect", "price"))
    further, cheaper = aim * (effects - point["effect"]), point["price"] - prices
    beats = (multipliers * aim >= 0) & (further >= 0) & (cheaper >= 0) & ((further > 0) | (cheaper > 0))
    return pandas.Series(beats, index=points.index)


def _with_one_origin(points: pandas.DataFrame) -> pandas.DataFrame:
    is_origin = points["multiplier"] == 0
    origins = points[is_origin]
    first = origins.sort_values("direction", key=lambda names: names != VECTOR, kind="stable").head(1)
    return pandas.concat([points[~is_origin], first.assign(direction=UNSTEERED)], ignore_index=True)
