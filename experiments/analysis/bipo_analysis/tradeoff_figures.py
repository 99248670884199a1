"""Pictures of effect against cost: one per price, a row of plots for each model and data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .cells import Panel
from .drawing import CATEGORIES, INK, MARKERS, MUTED, RULE, STYLE, bar_lengths
from .effects import PRICES
from .label_placement import place_labels
from .wording import multiplier

# Of one plot, in inches.
PLOT_WIDTH, PLOT_HEIGHT = 5.2, 3.9
# Two more than CATEGORIES, of the colours that P. Tol made for readers with any kind of colour vision.
COLOURS = (*CATEGORIES, "#882255", "#999933")
# A price whose largest value is this many times the smallest is drawn on a logarithmic axis.
WIDE = 12
SHOWN = {"steerability": "steerability\n(nats per unit of the multiplier)",
         "accuracy_swing": "accuracy at {} less at {}\n(points)"}
RESOLUTION = 160  # pixels per inch


def write_tradeoff_figures(panels: Sequence[Panel], choices: pandas.DataFrame, cells: pandas.DataFrame, at: float,
                           directory: Path) -> list[Path]:
    """Writes tradeoffs-PRICE.png and .svg for each price that was measured; returns their paths."""
    written = []
    for price in PRICES:
        figure = tradeoff_figure(panels, choices, cells, price, at)
        if figure is not None:
            for kind in ("png", "svg"):
                path = directory / f"tradeoffs-{price}.{kind}"
                with matplotlib.rc_context(STYLE):
                    metadata = {"Date": None} if kind == "svg" else {"Software": None}
                    figure.savefig(path, dpi=RESOLUTION, metadata=metadata)
                written.append(path)
    return written


def tradeoff_figure(panels: Sequence[Panel], choices: pandas.DataFrame, cells: pandas.DataFrame, price: str,
                    at: float) -> Figure | None:
    """Both effects over one price, a row for each panel with data; None where the price was not measured."""
    drawn = [(panel, rows) for panel in panels if len(rows := _known(panel, choices, price))]
    if not drawn:
        return None
    looks = _looks(panels)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2 * PLOT_WIDTH, PLOT_HEIGHT * len(drawn) + 0.55), dpi=RESOLUTION)
        FigureCanvasAgg(figure)
        height = PLOT_HEIGHT * len(drawn) + 0.55
        figure.subplots_adjust(left=0.09, right=0.985, top=1 - 0.85 / height, bottom=0.6 / height, wspace=0.26,
                               hspace=0.3)
        plots = []
        for row, (panel, rows) in enumerate(drawn):
            for column, effect in enumerate(SHOWN):
                axes = figure.add_subplot(len(drawn), 2, 2 * row + column + 1)
                own = cells[(cells["model"] == panel.model) & (cells["data"] == panel.data)]
                plots.append((axes, rows, effect, _draw(axes, rows, own, effect, price, looks, at)))
                axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
                if row == len(drawn) - 1:
                    axes.set_xlabel(f"{PRICES[price].name},\nmean of {multiplier(at)} and {multiplier(-at)}")
        figure.text(0.012, 1 - 0.1 / height, "Filled, joined by a line: no choice has more of the effect for no more "
                    f"of the cost. Small dots: single seeds.\nUpright bars: 95 % bootstrap over pairs and seeds. Level "
                    f"bars: {_seed_bounds(choices)}.", va="top", fontsize=8.5, color=MUTED)
        for axes, rows, effect, bars in plots:
            _label(axes, rows, effect, price, looks, bars)
        return figure


def _seed_bounds(choices: pandas.DataFrame) -> str:
    kinds = sorted({text for text in choices["seed_bounds"] if text})
    return " or ".join(kinds) if kinds else "none"


def _known(panel: Panel, choices: pandas.DataFrame, price: str) -> pandas.DataFrame:
    rows = choices[(choices["model"] == panel.model) & (choices["data"] == panel.data)]
    return rows[numpy.isfinite(rows[price])]


def _looks(panels: Sequence[Panel]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each label, the same in all panels."""
    labels = list(dict.fromkeys(choice.label for panel in panels for choice in panel.choices))
    return {label: (COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)])
            for index, label in enumerate(labels)}


def _draw(axes: Axes, rows: pandas.DataFrame, cells: pandas.DataFrame, effect: str, price: str,
          looks: dict[str, tuple[str, str]], at: float) -> list[tuple[float, float, float, float]]:
    """Draws the points of one plot; returns the bars as (x0, y0, x1, y1) in data units."""
    rows = rows[numpy.isfinite(rows[effect])]
    front = rows[[not _is_beaten(rows, row, effect, price) for _, row in rows.iterrows()]].sort_values([price, effect])
    axes.plot(front[price], front[effect], color=RULE, linewidth=1.2, zorder=1)
    bars = []
    for index, row in rows.iterrows():
        colour, marker = looks[row["choice"]]
        own = cells[cells["choice"] == row["choice"]]
        axes.scatter(own[price], own[effect], s=5, color=colour, alpha=0.55, linewidths=0, zorder=2)
        one = rows.loc[[index]]
        axes.errorbar(one[price], one[effect], xerr=bar_lengths(one, price), yerr=bar_lengths(one, effect),
                      linestyle="none", ecolor=colour, elinewidth=0.9, alpha=0.6, zorder=2)
        axes.scatter([row[price]], [row[effect]], s=42, marker=marker, edgecolors=colour, linewidths=1.3, zorder=3,
                     facecolors=colour if index in front.index else "white")
        below, above = (bound.iloc[0] for bound in bar_lengths(one, effect))
        before, after = (bound.iloc[0] for bound in bar_lengths(one, price))
        bars += [(row[price], row[effect] - below, row[price], row[effect] + above),
                 (row[price] - before, row[effect], row[price] + after, row[effect])]
    unsteered = rows[f"{price}_unsteered"].mean()
    if math.isfinite(unsteered) and PRICES[price].measure != "kl_neutral":
        axes.axvline(unsteered, color=RULE, linewidth=0.9, linestyle="--", zorder=1)
    axes.axhline(0, color=RULE, linewidth=0.9, zorder=1)
    known = rows[price][rows[price] > 0]
    if len(known) == len(rows) and len(rows) and known.max() > WIDE * known.min():
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.margins(x=0.16, y=0.14)
    axes.set_ylabel(SHOWN[effect].format(multiplier(at), multiplier(-at)))
    if effect == "accuracy_swing":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    return bars


def _is_beaten(rows: pandas.DataFrame, row: pandas.Series, effect: str, price: str) -> bool:
    further, cheaper = rows[effect] - row[effect], row[price] - rows[price]
    return bool(((further >= 0) & (cheaper >= 0) & ((further > 0) | (cheaper > 0))).any())


def _label(axes: Axes, rows: pandas.DataFrame, effect: str, price: str, looks: dict[str, tuple[str, str]],
           bars: Sequence[tuple[float, float, float, float]]) -> None:
    rows = rows[numpy.isfinite(rows[effect])]
    place_labels(axes, list(zip(rows[price], rows[effect], strict=True)),
                 [str(label).replace(", ", ",\n") for label in rows["choice"]],
                 [looks[label][0] for label in rows["choice"]], bars)
