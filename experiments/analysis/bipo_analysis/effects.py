"""What cells do and what they cost: figures of each cell, means of each choice, differences from the reference.

Effects are known pair by pair, so that choices are compared on the same pairs; of costs the files hold means.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import pandas

from .cells import Cell, Choice, Panel
from .evaluation import VECTOR, Evaluation, of_direction
from .paired import pair_values
from .resampling import NO_DIFFERENCE_KNOWN, Difference, holm, paired_bootstrap, seed_interval
from .summary import total_steps

# Measured at the multipliers +AT and -AT unless another is asked for.
AT = 1.0
# A choice whose KL is below this share of the reference's does not decide at which KL the others are compared.
WEAK = 0.25
EFFECTS = {"steerability": "steerability (nats per unit of the multiplier)",
           "accuracy_swing": "accuracy at +m less at -m",
           "swing_at_equal_kl": "propensity swing at equal KL (nats)"}


# Differences at equal KL: the swing of a choice less that of the reference, one of the two interpolated.  A line
# understates a curve that flattens, so that what both say does not come from interpolation.
AT_ITS_KL, AT_REFERENCE_KL = "swing_at_its_kl", "swing_at_reference_kl"
COMPARED = ("steerability", "accuracy_swing", AT_ITS_KL, AT_REFERENCE_KL)


@dataclass(frozen=True)
class Settings:
    """What effects are measured with; `multipliers` are those that all evaluations of a panel have."""

    at: float
    equal_kl: float
    multipliers: tuple[float, ...]


@dataclass(frozen=True)
class Price:
    """A cost: its measure in /costs, how a value of it becomes one of which less is better, and its name."""

    measure: str
    of: Callable[[float], float]
    name: str


PRICES = {"kl": Price("kl_neutral", lambda value: value, "KL on neutral prompts (nats per token)"),
          "perplexity": Price("perplexity_of_generations", lambda value: value,
                              "perplexity of the answers, unsteered model"),
          "repetition": Price("distinct_2", lambda value: 1 - value, "repeated word pairs in the answers"),
          "text_perplexity": Price("perplexity_reference_text", lambda value: value,
                                   "perplexity of the reference text, steered")}


# Each effect, choice and difference asks for them.
_BY_PAIR: weakref.WeakKeyDictionary[Evaluation, dict[Settings, pandas.DataFrame]] = weakref.WeakKeyDictionary()


def effects_by_pair(evaluation: Evaluation, settings: Settings) -> pandas.DataFrame:
    """One row per held-out pair with the columns EFFECTS; NaN where the file does not tell.

    The steerability of a pair is the slope of its propensity over the multipliers, by least squares, as `evaluate`
    defines it.  The swing at equal KL is the propensity at m+ less that at m-, at which the KL on neutral prompts is
    that of the settings; NaN where the multipliers do not reach that on both sides.
    """
    known = _BY_PAIR.setdefault(evaluation, {})
    if settings not in known:
        known[settings] = _effects_by_pair(evaluation, settings)
    return known[settings]


def _effects_by_pair(evaluation: Evaluation, settings: Settings) -> pandas.DataFrame:
    values = pair_values(evaluation.samples, VECTOR, "propensity")
    shown = [value for value in settings.multipliers if value in values]
    if len(shown) < 2:
        return pandas.DataFrame(columns=list(EFFECTS), dtype=float)
    values = values[shown]
    away = numpy.array(shown) - numpy.mean(shown)
    table = pandas.DataFrame({"steerability": (values * away).sum(axis=1) / (away**2).sum()})
    right, at = pair_values(evaluation.samples, VECTOR, "accuracy"), settings.at
    table["accuracy_swing"] = right[at] - right[-at] if at in right and -at in right else math.nan
    table["swing_at_equal_kl"] = _swing_at_equal_kl(evaluation, values, settings)
    return table.astype(float)


def _swing_at_equal_kl(evaluation: Evaluation, values: pandas.DataFrame, settings: Settings) -> pandas.Series | float:
    ends = [multiplier_at_kl(evaluation, side, settings) for side in (1, -1)]
    if values.empty or not all(map(math.isfinite, ends)):
        return math.nan
    plus, minus = (_between(values, end) for end in ends)
    return plus - minus


def multiplier_at_kl(evaluation: Evaluation, side: int, settings: Settings) -> float:
    """The multiplier on one side of 0 (1 or -1) at which KL on neutral prompts is settings.equal_kl.

    NaN beyond the settings' multipliers.  The root of KL is taken as straight between multipliers that were measured,
    for KL grows with the square of a small multiplier.
    """
    known = {abs(m): math.sqrt(max(0.0, value)) for m, value in _kl(evaluation, settings.multipliers).items()
             if m * side > 0}
    target = math.sqrt(settings.equal_kl)
    for (low, before), (high, after) in itertools.pairwise(sorted({0.0: 0.0, **known}.items())):
        if before <= target <= after and after > before:
            return side * (low + (high - low) * (target - before) / (after - before))
    return math.nan


def _between(values: pandas.DataFrame, multiplier: float) -> pandas.Series:
    """Each pair's value at a multiplier between two measured ones, on the line through them; NaN outside."""
    known = sorted(values.columns)
    for low, high in itertools.pairwise(known):
        if low <= multiplier <= high:
            share = (multiplier - low) / (high - low)
            return (1 - share) * values[low] + share * values[high]
    return pandas.Series(math.nan, index=values.index)


def price_of(evaluation: Evaluation, price: str, at: float) -> tuple[float, float, float]:
    """The mean of a price at +at and -at with the bounds of its interval over items (means of both); NaN if unknown."""
    return _mean_rows([_price_at(evaluation, price, side * at) for side in (1, -1)])


def settings_of(panel: Panel, at: float = AT, equal_kl: float | None = None) -> Settings:
    """What the effects of a panel are measured with: the multipliers that all of its evaluations have.

    Slopes over other multipliers are others where a curve bends.  Without `equal_kl` it is the largest KL on neutral
    prompts, in nats, that all choices reach on both sides, by their least seed; choices that do not reach WEAK of the
    reference's are left out.
    """
    measured = [set(of_direction(cell.evaluation.curve, VECTOR)["multiplier"]) for choice in panel.choices
                for cell in choice.cells if cell.evaluation is not None]
    multipliers = tuple(sorted(float(value) for value in set.intersection(*measured))) if measured else ()
    if equal_kl is None:
        reached = [_least([_largest_kl(cell.evaluation, side, multipliers) for cell in choice.cells
                           if cell.evaluation is not None for side in (1, -1)]) for choice in panel.choices]
        equal_kl = min((value for value in reached if value >= WEAK * reached[0]), default=math.nan)
    return Settings(at, equal_kl, multipliers)


def _with_settings(panels: Sequence[Panel], at: float, equal_kl: float | None) -> list[tuple[Panel, Settings]]:
    """Each panel with its settings, which take all of its evaluations to find."""
    return [(panel, settings_of(panel, at, equal_kl)) for panel in panels]


def left_out_multipliers(panel: Panel, settings: Settings) -> list[float]:
    """Those that only some evaluations of a panel have."""
    measured = {float(value) for choice in panel.choices for cell in choice.cells if cell.evaluation is not None
                for value in of_direction(cell.evaluation.curve, VECTOR)["multiplier"]}
    return sorted(measured - set(settings.multipliers))


def _least(values: Sequence[float]) -> float:
    """NaN where one is, or where there are none."""
    return float(numpy.min(values)) if values else math.nan


def _largest_kl(evaluation: Evaluation, side: int, multipliers: Sequence[float]) -> float:
    return max((value for m, value in _kl(evaluation, multipliers).items() if m * side > 0), default=math.nan)


def _kl(evaluation: Evaluation, multipliers: Sequence[float]) -> dict[float, float]:
    """The known KL on neutral prompts by multiplier."""
    return {m: value for m, (value, *_) in _costs(evaluation).get("kl_neutral", {}).items()
            if m in multipliers and math.isfinite(value)}


# Each row of each table asks for them, and those of hundreds of cells take long to find in frames.
_COSTS: weakref.WeakKeyDictionary[Evaluation, dict[str, dict[float, tuple[float, float, float]]]] = \
    weakref.WeakKeyDictionary()


def _costs(evaluation: Evaluation) -> dict[str, dict[float, tuple[float, float, float]]]:
    """The vector's costs by measure and multiplier: value and bounds."""
    if evaluation not in _COSTS:
        found: dict[str, dict[float, tuple[float, float, float]]] = {}
        rows = of_direction(evaluation.costs, VECTOR)
        columns = (rows[name].tolist() for name in ("measure", "multiplier", "value", "value_low", "value_high"))
        for measure, multiplier, *values in zip(*columns, strict=True):
            found.setdefault(measure, {}).setdefault(float(multiplier), tuple(map(float, values)))
        _COSTS[evaluation] = found
    return _COSTS[evaluation]


def unsteered_price(evaluation: Evaluation, price: str) -> float:
    """The price of the model by itself; NaN if unknown."""
    return _price_at(evaluation, price, 0.0)[0]


def _price_at(evaluation: Evaluation, price: str, multiplier: float) -> tuple[float, float, float]:
    chosen = PRICES[price]
    known = _costs(evaluation).get(chosen.measure, {})
    if multiplier not in known:
        return (math.nan, math.nan, math.nan)
    value, *bounds = map(chosen.of, known[multiplier])
    return (value, min(bounds), max(bounds))


def _mean_rows(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    value, low, high = (float(part) for part in numpy.mean(numpy.array(rows), axis=0))
    return (value, low, high)


def cell_table(panels: Sequence[Panel], at: float = AT, equal_kl: float | None = None) -> pandas.DataFrame:
    """One row per cell: its names, the settings that tell choices apart, its run's figures, effects and prices.

    `at` and `equal_kl` are those of settings_of, here and in the other tables.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.base))
    rows = [_cell_row(panel, choice, cell, names, settings)
            for panel, settings in _with_settings(panels, at, equal_kl) for choice in panel.choices
            for cell in choice.cells]
    return pandas.DataFrame(rows)


def _cell_row(panel: Panel, choice: Choice, cell: Cell, names: Sequence[str],
              settings: Settings) -> dict[str, object]:
    values = {**panel.base, **choice.departures}
    row: dict[str, object] = {"model": panel.model, "data": panel.data, "choice": choice.label, "seed": cell.seed,
                              **{name: values.get(name) for name in names},
                              "cell": cell.name, "origin": cell.origin, "status": cell.status}
    steps = cell.run.step_rows if cell.run is not None else []
    row["steps"] = len(steps)
    row["train_seconds"] = float(steps["seconds"].sum()) if len(steps) else math.nan
    row["vector_norm"] = float(steps["vector_norm"][-1]) if len(steps) else math.nan
    row["total_steps"] = total_steps(cell.run) if cell.run is not None else -1
    if cell.evaluation is not None:
        row.update(_evaluation_row(cell.evaluation, settings))
    return row


def _evaluation_row(evaluation: Evaluation, settings: Settings) -> dict[str, object]:
    effects, at = effects_by_pair(evaluation, settings), settings.at
    row: dict[str, object] = {"pairs": len(effects), "equal_kl": settings.equal_kl,
                              **{name: float(effects[name].mean()) for name in EFFECTS}}
    curve = of_direction(evaluation.curve, VECTOR).set_index("multiplier")
    for value, side in ((-at, "minus"), (0.0, "zero"), (at, "plus")):
        for name in ("accuracy", "propensity"):
            row[f"{name}_{side}"] = float(curve.loc[value, name]) if value in curve.index else math.nan
    wrong = of_direction(evaluation.steerability, VECTOR)
    row["anti_steerable"] = float(wrong["anti_steerable"].iloc[0]) if len(wrong) else math.nan
    row["multiplier_at_equal_kl_plus"] = multiplier_at_kl(evaluation, 1, settings)
    row["multiplier_at_equal_kl_minus"] = multiplier_at_kl(evaluation, -1, settings)
    for price in PRICES:
        row[price], row[f"{price}_low"], row[f"{price}_high"] = price_of(evaluation, price, at)
        row[f"{price}_unsteered"] = unsteered_price(evaluation, price)
    return row


def effect_matrix(choice: Choice, effect: str, settings: Settings) -> pandas.DataFrame:
    """An effect of a choice: a row per evaluated seed, a column per pair."""
    rows = {cell.seed: effects_by_pair(cell.evaluation, settings)[effect]
            for cell in choice.cells if cell.evaluation is not None}
    return pandas.DataFrame(rows).T


def choice_table(panels: Sequence[Panel], at: float = AT, equal_kl: float | None = None) -> pandas.DataFrame:
    """One row per choice: means over its seeds and pairs.

    Bounds NAME_low and NAME_high of an effect are its 95 % bootstrap interval over pairs and seeds, those of a price
    the range of its seeds (from six seeds on Student's t), of which `seed_bounds` says which; PRICE_items_low and
    _high are the means over the seeds of the file's own bootstrap intervals over prompts or texts.  `on_front_PRICE`
    tells whether no choice of the panel has more steerability for no more of that price.
    """
    rows = [_choice_row(panel, choice, settings) for panel, settings in _with_settings(panels, at, equal_kl)
            for choice in panel.choices]
    table = pandas.DataFrame(rows)
    for price in PRICES if len(table) else ():
        table[f"on_front_{price}"] = _fronts(table, "steerability", price)
    return table


def _choice_row(panel: Panel, choice: Choice, settings: Settings) -> dict[str, object]:
    evaluated = [cell for cell in choice.cells if cell.evaluation is not None]
    row: dict[str, object] = {"model": panel.model, "data": panel.data, "choice": choice.label,
                              "seed_bounds": "", "cells": len(choice.cells), "seeds": len(evaluated),
                              "equal_kl": settings.equal_kl}
    for effect in EFFECTS:
        matrix = effect_matrix(choice, effect, settings)
        known = matrix.dropna(axis=0, how="all")
        mean = paired_bootstrap(known.to_numpy()) if len(known) == len(matrix) else NO_DIFFERENCE_KNOWN
        row.update({effect: mean.value, f"{effect}_low": mean.interval.low, f"{effect}_high": mean.interval.high})
        row["pairs"] = max(int(row.get("pairs", 0)), mean.pairs)  # type: ignore[call-overload]
    for price in PRICES:
        values = numpy.array([price_of(cell.evaluation, price, settings.at) for cell in evaluated]).reshape(-1, 3)
        bounds = seed_interval(values[:, 0])
        mean_value = values.mean(axis=0) if len(values) else numpy.full(3, math.nan)
        row.update({price: float(mean_value[0]), f"{price}_low": bounds.low, f"{price}_high": bounds.high,
                    f"{price}_items_low": float(mean_value[1]), f"{price}_items_high": float(mean_value[2]),
                    f"{price}_unsteered": float(numpy.mean([unsteered_price(cell.evaluation, price)
                                                            for cell in evaluated])) if evaluated else math.nan})
        if bounds.seeds:
            row["seed_bounds"] = bounds.words.replace("\N{NO-BREAK SPACE}", " ")
    row["accuracy_unsteered"] = _mean([_accuracy(cell.evaluation, 0.0) for cell in evaluated])
    norms = [float(cell.run.step_rows["vector_norm"][-1]) for cell in choice.cells
             if cell.run is not None and len(cell.run.step_rows)]
    row["vector_norm"] = _mean(norms)
    return row


def _mean(values: Sequence[float]) -> float:
    return float(numpy.mean(values)) if values else math.nan


def _accuracy(evaluation: Evaluation, multiplier: float) -> float:
    curve = of_direction(evaluation.curve, VECTOR)
    own = curve.loc[curve["multiplier"] == multiplier, "accuracy"]
    return float(own.iloc[0]) if len(own) else math.nan


def _fronts(table: pandas.DataFrame, effect: str, price: str) -> list[bool]:
    return [not _is_beaten(table[(table["model"] == row["model"]) & (table["data"] == row["data"])], row, effect, price)
            and math.isfinite(row[effect]) and math.isfinite(row[price]) for _, row in table.iterrows()]


def _is_beaten(rivals: pandas.DataFrame, row: pandas.Series, effect: str, price: str) -> bool:
    further, cheaper = rivals[effect] - row[effect], row[price] - rivals[price]
    return bool(((further >= 0) & (cheaper >= 0) & ((further > 0) | (cheaper > 0))).any())


def compare_choices(choice: Choice, reference: Choice, effect: str, settings: Settings) -> Difference:
    """How much more of an effect, one of COMPARED, a choice has than the reference, on common seeds and pairs.

    AT_ITS_KL compares the swing of propensity from -at to +at of the choice with that of the reference at the
    multipliers on both sides where its KL on neutral prompts is the choice's; AT_REFERENCE_KL the other way round.
    Both take all multipliers of a file, and are not known where those do not reach that KL.
    """
    if effect in (AT_ITS_KL, AT_REFERENCE_KL):
        return _compare_at_equal_kl(choice, reference, effect == AT_ITS_KL, settings.at)
    own, other = (effect_matrix(one, effect, settings) for one in (choice, reference))
    seeds = [seed for seed in own.index if seed in other.index]
    pairs = [pair for pair in own.columns if pair in other.columns]
    if not seeds or not pairs:
        return NO_DIFFERENCE_KNOWN
    return paired_bootstrap((own.loc[seeds, pairs] - other.loc[seeds, pairs]).to_numpy())


def _compare_at_equal_kl(choice: Choice, reference: Choice, at_its_kl: bool, at: float) -> Difference:
    rows = {}
    others = {cell.seed: cell.evaluation for cell in reference.cells if cell.evaluation is not None}
    for cell in choice.cells:
        if cell.evaluation is not None and cell.seed in others:
            other = others[cell.seed]
            own_price, other_price = (None, cell.evaluation) if at_its_kl else (other, None)
            rows[cell.seed] = _swing(cell.evaluation, own_price, at) - _swing(other, other_price, at)
    table = pandas.DataFrame(rows).T
    return paired_bootstrap(table.to_numpy(dtype=float)) if len(table) else NO_DIFFERENCE_KNOWN


def _swing(evaluation: Evaluation, priced_as: Evaluation | None, at: float) -> pandas.Series:
    """Propensity of each pair at +at less that at -at, or between the multipliers that cost what another's cost."""
    values = pair_values(evaluation.samples, VECTOR, "propensity")
    ends = []
    for side in (1, -1):
        price = math.nan if priced_as is None else _price_at(priced_as, "kl", side * at)[0]
        settings = Settings(at, price, tuple(map(float, values.columns)))
        ends.append(side * at if priced_as is None else
                    multiplier_at_kl(evaluation, side, settings) if math.isfinite(price) else math.nan)
    plus, minus = (_between(values, end) for end in ends)
    return plus - minus


def price_differences(choice: Choice, reference: Choice, price: str, at: float) -> list[float]:
    """How much more of a price a choice has than the reference, seed by seed."""
    own, other = ({cell.seed: price_of(cell.evaluation, price, at)[0] for cell in one.cells
                   if cell.evaluation is not None} for one in (choice, reference))
    return [own[seed] - other[seed] for seed in own if seed in other]


def difference_table(panels: Sequence[Panel], at: float = AT, equal_kl: float | None = None) -> pandas.DataFrame:
    """One row per effect or price and choice but the reference: the difference from the reference of its panel.

    Of an effect, bounds and p are of the bootstrap over pairs and seeds, and p_holm is corrected for all comparisons
    of that effect in the table.  Of a price the bounds are those of seed_interval, without a p.
    """
    rows = []
    for panel in panels:
        reference, settings = panel.choices[0], settings_of(panel, at, equal_kl)
        for choice in panel.choices[1:]:
            names = {"model": panel.model, "data": panel.data, "choice": choice.label, "against": reference.label}
            rows += [_effect_row(names, effect, compare_choices(choice, reference, effect, settings))
                     for effect in COMPARED]
            rows += [_price_row(names, price, price_differences(choice, reference, price, at)) for price in PRICES]
    table = pandas.DataFrame(rows, columns=["model", "data", "choice", "against", "measure", "difference", "low",
                                            "high", "bounds", "p", "pairs", "seeds", "by_seed"])
    table["p_holm"] = math.nan
    for effect in COMPARED:
        own = table["measure"] == effect
        table.loc[own, "p_holm"] = holm(table.loc[own, "p"].to_numpy(dtype=float))
    return table


def _effect_row(names: dict[str, str], effect: str, found: Difference) -> dict[str, object]:
    return {**names, "measure": effect, "difference": found.value, "low": found.interval.low,
            "high": found.interval.high, "bounds": "95 % bootstrap over pairs and seeds" if found.seeds > 1 else
            "95 % bootstrap over pairs", "p": found.probability, "pairs": found.pairs, "seeds": found.seeds,
            "by_seed": " ".join(f"{value:.4g}" for value in found.by_seed)}


def _price_row(names: dict[str, str], price: str, values: Sequence[float]) -> dict[str, object]:
    bounds = seed_interval(values)
    return {**names, "measure": price, "difference": float(numpy.mean(values)) if values else math.nan,
            "low": bounds.low, "high": bounds.high, "bounds": bounds.words.replace("\N{NO-BREAK SPACE}", " "),
            "p": math.nan, "pairs": 0, "seeds": len(values), "by_seed": " ".join(f"{value:.4g}" for value in values)}
