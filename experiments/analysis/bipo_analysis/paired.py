"""What a direction changes in the same held-out pairs: differences from the unsteered model, pair by pair.

An interval of a mean over pairs shows mostly how much pairs differ from each other.  Both ends of a comparison are
measured on the same pairs, so that their difference is compared pair by pair: Student's t for means, Agresti and
Min's interval for shares.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import numpy
import pandas

from .evaluation import VECTOR, Evaluation
from .intervals import UNKNOWN, Interval, paired_share_interval, student_interval

# From this number on random directions make a null distribution: the smallest rank p is 1 / 11.
MIN_DRAWS = 10
MEASURES = ("propensity", "accuracy", "propensity_per_token")


@dataclass(frozen=True)
class Change:
    """A mean difference over the same items, with its 95 % interval; NaN where it is not known."""

    value: float
    interval: Interval
    items: int

    @property
    def is_certain(self) -> bool:
        """Whether the interval is known and leaves 0 out."""
        return self.interval.low > 0 or self.interval.high < 0


NO_CHANGE_KNOWN = Change(math.nan, UNKNOWN, 0)


def pair_values(samples: pandas.DataFrame, direction: str, measure: str) -> pandas.DataFrame:
    """One of MEASURES for each pair: a row per pair, a column per multiplier; pairs without all of them left out.

    `samples` are rows of /samples.  Accuracy is 1 where the matching answer is the likelier one, else 0.
    """
    own = samples[samples["direction"] == direction]
    values = own["chosen_logp"] - own["rejected_logp"]
    if measure == "accuracy":
        values = (values > 0).astype(float).where(values.notna())
    elif measure == "propensity_per_token":
        values = own["chosen_logp"] / own["chosen_tokens"] - own["rejected_logp"] / own["rejected_tokens"]
    table = own.assign(value=values).pivot_table(index="pair", columns="multiplier", values="value", aggfunc="first")
    return table[numpy.isfinite(table).all(axis=1)]


def change_between(values: pandas.DataFrame, start: float, end: float, measure: str) -> Change:
    """The mean of a pair's value at multiplier `end` less that at `start`; `values` as pair_values returns them."""
    if start not in values or end not in values or values.empty:
        return NO_CHANGE_KNOWN
    return mean_change((values[end] - values[start]).to_numpy(), measure == "accuracy")


def mean_change(differences: numpy.ndarray, is_share: bool = False) -> Change:
    """The mean of differences of single items; of a share, they are -1, 0 and 1."""
    if len(differences) == 0:
        return NO_CHANGE_KNOWN
    interval = paired_share_interval(float((differences > 0).sum()), float((differences < 0).sum()), len(differences)) \
        if is_share else student_interval(differences)
    return Change(float(differences.mean()), interval, len(differences))


# A page asks for the changes of an evaluation some twenty times, and the pairs of many directions take long.
_CHANGES: weakref.WeakKeyDictionary[Evaluation, pandas.DataFrame] = weakref.WeakKeyDictionary()


def changes_from_zero(evaluation: Evaluation) -> pandas.DataFrame:
    """One row per direction and multiplier: the change of each of MEASURES from multiplier 0, with its bounds.

    Empty where the file holds no single pairs or no multiplier 0.
    """
    if evaluation not in _CHANGES:
        _CHANGES[evaluation] = _changes_from_zero(evaluation)
    return _CHANGES[evaluation].copy()


def _changes_from_zero(evaluation: Evaluation) -> pandas.DataFrame:
    rows = []
    for direction in dict.fromkeys(evaluation.samples["direction"]):
        tables = {measure: pair_values(evaluation.samples, direction, measure) for measure in MEASURES}
        for value in tables["propensity"].columns if 0.0 in tables["propensity"] else ():
            row: dict[str, object] = {"direction": direction, "multiplier": value}
            for measure, table in tables.items():
                change = change_between(table, 0.0, value, measure)
                # The unsteered model does not differ from itself.
                low, high = change.interval if value != 0 else (0.0, 0.0)
                row.update({measure: change.value, f"{measure}_low": low, f"{measure}_high": high,
                            "pairs": change.items})
            rows.append(row)
    bounds = (f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high"))
    columns = ["direction", "multiplier", "pairs", *bounds]
    table = pandas.DataFrame(rows, columns=columns)
    return table.astype({name: float for name in columns if name != "direction"})


def with_paired_bars(evaluation: Evaluation) -> pandas.DataFrame:
    """/curve with the intervals of the change from multiplier 0 around each mean, where the file has single pairs."""
    changes = changes_from_zero(evaluation).set_index(["direction", "multiplier"])
    curve = evaluation.curve.copy()
    if changes.empty:
        return curve
    keys = pandas.MultiIndex.from_frame(curve[["direction", "multiplier"]])
    own = changes.reindex(keys)
    for name in MEASURES:
        for end in ("low", "high"):
            curve[f"{name}_{end}"] = curve[name] + (own[f"{name}_{end}"] - own[name]).to_numpy()
    for end in ("low", "high"):
        curve[f"accuracy_{end}"] = curve[f"accuracy_{end}"].clip(0, 1)
    return curve


def paired_slopes(evaluation: Evaluation, first: str, second: str) -> Change:
    """Mean over pairs of the first direction's slope less the second's."""
    slopes = evaluation.slopes
    own, other = (slopes[slopes["direction"] == name].set_index("pair")["slope"] for name in (first, second))
    return mean_change((own - other).dropna().to_numpy())


def slopes_between(first: Evaluation, second: Evaluation) -> Change:
    """Mean over pairs of the vector's slope in one evaluation less that in another of the same pairs."""
    own, other = (evaluation.slopes.query("direction == @VECTOR").set_index("pair")["slope"]
                  for evaluation in (first, second))
    return mean_change((own - other).dropna().to_numpy())


@dataclass(frozen=True)
class Null:
    """How far random directions move propensity, beside the vector, between two multipliers."""

    moved: numpy.ndarray  # nats, one for each draw
    own: float

    @property
    def probability(self) -> float:
        """Of a random direction that moves propensity at least as far either way: (draws as far + 1) / (draws + 1)."""
        return (int((abs(self.moved) >= abs(self.own)).sum()) + 1) / (len(self.moved) + 1)


def null_of(evaluation: Evaluation, start: float, end: float) -> Null:
    """The moves from multiplier `start` to `end` of all random directions that were measured at both."""
    moved = [_move(rows, start, end) for _, rows in evaluation.random_curve.groupby("direction", sort=False)]
    own = _move(evaluation.curve[evaluation.curve["direction"] == VECTOR], start, end)
    return Null(numpy.array([value for value in moved if math.isfinite(value)]), own)


def null_band(evaluation: Evaluation, multipliers: Iterable[float]) -> pandas.DataFrame:
    """Smallest, mean and largest change of propensity from multiplier 0 of the random directions, by multiplier."""
    rows = []
    for value in sorted(set(multipliers)):
        moved = null_of(evaluation, 0.0, value).moved
        if len(moved) > 1:
            rows.append({"multiplier": value, "low": moved.min(), "mean": moved.mean(), "high": moved.max(),
                         "draws": len(moved)})
    return pandas.DataFrame(rows, columns=["multiplier", "low", "mean", "high", "draws"])


def _move(rows: pandas.DataFrame, start: float, end: float) -> float:
    values = dict(zip(rows["multiplier"], rows["propensity"], strict=True))
    return float(values.get(end, math.nan)) - float(values.get(start, math.nan))
