"""The plots of the report, each as an SVG text.

Sides are told apart by colour, marker and line, layers by the shades of cividis.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .drawing import (CATEGORIES, LONGEST_LABEL, MARKERS, STYLE, as_svg, curve_with_bars, legend_above, plain_figure,
                      share_axis, shortened, write_values)
from .sections import Section, Variant
from .traces import Trace, mean_by_layer, smoothed
from .vectors import cosine_matrix
from .wording import axis_values

# Column suffix, label, colour, marker, line.
SIDES = (("plus", "+v", "#0072B2", "o", "-"), ("zero", "no steering", "#5F6770", "s", ":"),
         ("minus", "−v", "#D55E00", "v", "--"))
# More lines than this get a colour bar in place of a legend.
MOST_IN_LEGEND = 8
# More vectors than this are averaged to one row per layer, and their cosines not written into the cells.
MOST_ROWS = 60
MOST_NUMBERS = 12


def layer_figure(variant: Variant, measure: str) -> str:
    """Mean of `measure` by layer at +v, 0 and -v, with intervals over seeds and the single seeds as dots."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        for side, label, colour, marker, line in SIDES:
            name = f"{measure}_{side}"
            if variant.curve[name].notna().any():
                if variant.curve["seeds"].max() > 1:
                    axes.plot(variant.compared["layer"], variant.compared[name], linestyle="none", marker=marker,
                              markersize=3, color=colour, alpha=0.35)
                curve_with_bars(axes, variant.curve, "layer", name, label, colour, marker, line)
        _layer_axis(axes, variant.curve["layer"])
        if measure == "accuracy":
            share_axis(axes)
            axes.set_ylabel("held-out accuracy")
        else:
            axes.set_ylabel("held-out margin β·Δ (nats)")
        legend_above(axes, 3)
        return as_svg(figure)


def swing_figure(curves: Sequence[tuple[str, pandas.DataFrame]]) -> str:
    """Swing of accuracy by layer, one line per named layer curve."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        for index, (name, curve) in enumerate(curves):
            style = index % len(CATEGORIES)
            curve_with_bars(axes, curve, "layer", "accuracy_swing", shortened(name), CATEGORIES[style], MARKERS[style],
                            "-")
        _layer_axis(axes, pandas.concat([curve["layer"] for _, curve in curves]))
        axes.axhline(0, color="#9AA3AD", linewidth=0.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        axes.set_ylabel("accuracy at +v less at −v (points)")
        legend_above(axes, 1 if max(len(name) for name, _ in curves) > LONGEST_LABEL // 2 else 2)
        return as_svg(figure)


def variant_curves(section: Section) -> list[tuple[str, pandas.DataFrame]]:
    """The evaluated variants of a section for swing_figure, as many as have a colour of their own."""
    curves = [(axis_values(variant.values), variant.curve) for variant in section.variants if len(variant.curve)]
    return curves[:len(CATEGORIES)]


def training_figure(traces: Sequence[Trace], column: str) -> str | None:
    """Course of `column` of /steps, loss or vector_norm, one line per layer; None where no step was made."""
    curves = mean_by_layer(traces, "steps", "step", column)
    if curves.empty:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        if column == "loss":
            axes.axhline(numpy.log(2), color="#9AA3AD", linewidth=0.9, linestyle="--")
        _layer_lines(figure, axes, smoothed(curves) if column == "loss" else smoothed(curves, 400), traces, marker="")
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("training loss (nats)" if column == "loss" else "norm of the vector (hidden units)")
        if column == "vector_norm":
            axes.set_ylim(bottom=0)
        return as_svg(figure)


def epoch_figure(traces: Sequence[Trace]) -> str | None:
    """Held-out margin at +v less at -v after each epoch; None unless some run was evaluated twice."""
    curves = {side: mean_by_layer(traces, "evaluations", "epoch", f"margin_{side}") for side in ("plus", "minus")}
    if min(len(curve) for curve in curves.values()) < 2:
        return None
    swing = curves["plus"] - curves["minus"]
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        _layer_lines(figure, axes, swing.set_index(swing.index + 1), traces, marker="o")
        _epoch_axis(axes)
        axes.set_ylabel("margin at +v less at −v (nats)")
        return as_svg(figure)


def convergence_figure(traces: Sequence[Trace]) -> str | None:
    """Distance of each epoch's vector to the last one; None unless some run saved two."""
    curves = mean_by_layer(traces, "convergence", "epoch", "relative_distance")
    if len(curves) < 2:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        _layer_lines(figure, axes, curves.set_index(curves.index + 1), traces, marker="o")
        _epoch_axis(axes)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("distance to the last vector\n(share of its norm)")
        return as_svg(figure)


def cosine_figure(traces: Sequence[Trace]) -> str | None:
    """Heat map of cosines between final vectors, cells by layer and seed; None for fewer than two vectors.

    Where there are more than MOST_ROWS vectors, a row is a layer and a value the mean over pairs of cells.
    """
    known = [trace for trace in traces if trace.final_vector is not None]
    if len(known) < 2:
        return None
    cosines = cosine_matrix(numpy.stack([trace.final_vector for trace in known]))
    labels = [trace.layer_name if _is_only_seed(trace, known) else f"{trace.layer_name} · {trace.seed}"
              for trace in known]
    if len(known) > MOST_ROWS:
        cosines, labels = _mean_cosines(cosines, [trace.layer for trace in known])
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure(height=4.6)
        image = axes.imshow(cosines, vmin=-1, vmax=1, cmap="PuOr", interpolation="none")
        shown = range(0, len(labels), max(1, -(-len(labels) // 24)))
        axes.set_xticks(shown, [labels[index] for index in shown])
        axes.set_yticks(shown, [labels[index] for index in shown])
        axes.tick_params(labelsize=8)
        axes.tick_params(axis="x", labelrotation=90)
        axes.grid(False)
        by_seed = any("·" in label for label in labels)
        axes.set_xlabel("layer · seed" if by_seed else "layer")
        if len(labels) <= MOST_NUMBERS:
            write_values(axes, cosines, abs(cosines) > 0.6)
        bar = figure.colorbar(image, ax=axes, shrink=0.85)
        bar.set_label("cosine")
        bar.outline.set_visible(False)  # type: ignore[operator]
        return as_svg(figure)


def throughput_figure(cells: pandas.DataFrame, column: str) -> str | None:
    """Seconds or tokens per second of the cells that made steps, by layer; None where none did."""
    known = cells[cells[column].notna()]
    if known.empty:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        axes.plot(known["layer"], known[column], linestyle="none", marker="o", color=CATEGORIES[0], alpha=0.6)
        means = known.groupby("layer")[column].mean()
        axes.plot(means.index, means, color=CATEGORIES[0], linewidth=1.2)
        _layer_axis(axes, known["layer"])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("training time of a cell (s)" if column == "seconds" else "tokens per second")
        return as_svg(figure)


def _layer_axis(axes: Axes, layers: pandas.Series) -> None:
    distinct = sorted(set(layers))
    if len(distinct) <= 12:
        axes.set_xticks(distinct)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(distinct[0] - _room(distinct), distinct[-1] + _room(distinct))
    axes.set_xlabel("layer")


def _room(layers: list[int]) -> float:
    return max(0.5, 0.05 * (layers[-1] - layers[0]))


def _epoch_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epochs done")


def _layer_lines(figure: Figure, axes: Axes, curves: pandas.DataFrame, traces: Sequence[Trace], marker: str) -> None:
    """One line per column, a layer each, coloured from shallow (dark) to deep (light)."""
    layers = list(curves.columns)
    names = {trace.layer: trace.layer_name for trace in traces}
    colours, scale = _layer_colours(), Normalize(layers[0], layers[-1] if len(layers) > 1 else layers[0] + 1)
    has_legend = len(layers) <= MOST_IN_LEGEND
    for index, layer in enumerate(layers):
        course = curves[layer].dropna()
        axes.plot(course.index, course, color=colours(scale(layer)), label=f"layer {names[layer]}", markersize=4,
                  marker="o" if len(course) == 1 else marker,
                  linestyle=("-", "--", "-.", ":")[index % 4] if has_legend else "-")
    if not has_legend:
        bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes)
        bar.set_label("layer")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        bar.outline.set_visible(False)  # type: ignore[operator]
    else:
        legend_above(axes, 4)


def _layer_colours() -> Colormap:
    """cividis without its lightest part, which is hard to see on white."""
    return ListedColormap(matplotlib.colormaps["cividis"](numpy.linspace(0, 0.88, 256)))


def _is_only_seed(trace: Trace, traces: Sequence[Trace]) -> bool:
    return len({other.seed for other in traces}) == 1


def _mean_cosines(cosines: numpy.ndarray, layers: Sequence[int]) -> tuple[numpy.ndarray, list[str]]:
    """Means over pairs of different cells, for each two layers."""
    distinct, rows = sorted(set(layers)), numpy.asarray(layers)
    others = numpy.where(numpy.eye(len(rows), dtype=bool), numpy.nan, cosines)
    means = numpy.full((len(distinct), len(distinct)), numpy.nan)
    for i, first in enumerate(distinct):
        for j, second in enumerate(distinct):
            block = others[numpy.ix_(rows == first, rows == second)]
            if numpy.isfinite(block).any():
                means[i, j] = numpy.nanmean(block)
    return means, [str(layer) for layer in distinct]
