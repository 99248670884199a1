"""What steering does at each layer: means and intervals over seeds, and which layer has the largest swing.

The swing of a cell is what the vector moves from -v to +v: accuracy (or margin) at multiplier +1 less that at -1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
import pandas

from .intervals import UNKNOWN, Interval
from .resampling import seed_interval
from .summary import MEASURES, OUTCOMES

SWINGS = tuple(f"{measure}_swing" for measure in MEASURES)


def with_swings(cells: pandas.DataFrame) -> pandas.DataFrame:
    """A copy of rows of the summary with the columns accuracy_swing and margin_swing."""
    swings = {f"{measure}_swing": cells[f"{measure}_plus"] - cells[f"{measure}_minus"] for measure in MEASURES}
    return cells.assign(**swings)


def evaluated(cells: pandas.DataFrame) -> pandas.DataFrame:
    """The cells whose last evaluation covers -v and +v."""
    return cells[with_swings(cells)["accuracy_swing"].notna()]


def _of_layers(cells: pandas.DataFrame) -> pandas.DataFrame:
    """Without the cells that train several layers jointly, which are no one layer's; all where all train the same."""
    if "joint_layers" not in cells or cells["joint_layers"].nunique() < 2:
        return cells
    return cells[cells["joint_layers"] == ""]


def layer_curve(cells: pandas.DataFrame) -> pandas.DataFrame:
    """One row per layer, in order, from the last evaluation of evaluated rows of the summary.

    Cells that train several layers jointly are left out beside others; by themselves they stand at their lowest layer.

    Columns: `layer`, `seeds` (cells of that layer), and for each of summary.OUTCOMES and SWINGS the mean NAME and
    the bounds NAME_low and NAME_high of resampling.seed_interval: the range of few seeds; NaN for a single one.
    """
    names = [*OUTCOMES, *SWINGS]
    rows = []
    for layer, group in with_swings(_of_layers(cells)).groupby("layer"):
        values = group[names].to_numpy(dtype=numpy.float64)
        means, lows, highs = numpy.full((3, len(names)), math.nan)
        for place in numpy.flatnonzero(~numpy.isnan(values).all(axis=0)):
            means[place] = numpy.nanmean(values[:, place])
            bounds = seed_interval(values[:, place])
            lows[place], highs[place] = bounds.low, bounds.high
        rows.append([layer, len(group), *numpy.stack([means, lows, highs], axis=1).ravel()])
    return pandas.DataFrame(rows, columns=["layer", "seeds", *(f"{name}{end}" for name in names
                                                               for end in ("", "_low", "_high"))])


def ranked_layers(curve: pandas.DataFrame, measure: str) -> pandas.DataFrame:
    """The rows of a layer curve with the largest mean swing of `measure` first, then of the other measure."""
    other = next(name for name in MEASURES if name != measure)
    return curve.sort_values([f"{measure}_swing", f"{other}_swing", "layer"], ascending=[False, False, True])


@dataclass(frozen=True)
class Comparison:
    """How much larger one layer's swing is than another's: the mean over the seeds that both have."""

    difference: float
    interval: Interval
    seeds: int


def compare_layers(cells: pandas.DataFrame, first: int, second: int, swing: str = "accuracy_swing") -> Comparison:
    """Pairs the two layers' cells by seed; without a common seed the difference is that of the means."""
    own = with_swings(_of_layers(cells))
    by_layer = {layer: group.set_index("seed")[swing] for layer, group in own.groupby("layer")}
    paired = (by_layer[first] - by_layer[second]).dropna()
    if paired.empty:
        return Comparison(float(by_layer[first].mean() - by_layer[second].mean()), UNKNOWN, 0)
    bounds = seed_interval(paired.to_numpy())
    return Comparison(float(paired.mean()), Interval(bounds.low, bounds.high), len(paired))
