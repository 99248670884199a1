"""How every plot looks: style, colours and the pieces that plots share.

Colours are those of Okabe and Ito, which readers with any kind of colour vision tell apart.
"""

from __future__ import annotations

import io

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

WIDTH, HEIGHT = 5.4, 3.5  # inches; small, so that text stays readable on a phone
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "v", "s", "D", "^", "P", "X")
INK, MUTED, RULE = "#22272E", "#5F6770", "#9AA3AD"
# Characters in a legend.
LONGEST_LABEL = 48
STYLE = {
    "svg.fonttype": "path", "svg.hashsalt": "bipo_analysis", "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": RULE, "axes.labelcolor": "#333A42", "text.color": "#333A42",
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.grid": True, "grid.color": "#E6E9ED",
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.8, "lines.markersize": 5}


def new_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure of `height` inches with one plot in it."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def as_svg(figure: Figure) -> str:
    """The drawing as text, the same for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def bar_lengths(rows: pandas.DataFrame, name: str) -> list[pandas.Series]:
    """How far the interval NAME_low to NAME_high reaches below and above NAME; 0 where there is none."""
    # A mean may lie a rounding error outside its own interval.
    return [(rows[name] - rows[f"{name}_low"]).clip(lower=0).fillna(0),
            (rows[f"{name}_high"] - rows[name]).clip(lower=0).fillna(0)]


def curve_with_bars(axes: Axes, curve: pandas.DataFrame, along: str, name: str, label: str, colour: str, marker: str,
                    line: str) -> None:
    """The column `name` over the column `along`, with the interval of each point as a bar."""
    axes.errorbar(curve[along], curve[name], yerr=bar_lengths(curve, name), label=label, color=colour, marker=marker,
                  linestyle=line, capsize=3, elinewidth=1.1)


def share_axis(axes: Axes) -> None:
    """The upright axis from 0 to 100 %."""
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def legend_above(axes: Axes, columns: int) -> None:
    """The legend over the plot, where it hides no point."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)


def shortened(label: str, longest: int = LONGEST_LABEL) -> str:
    """A label that fits into a legend."""
    return label if len(label) <= longest else f"{label[:longest - 1]}…"


def write_values(axes: Axes, values: numpy.ndarray, is_dark: numpy.ndarray, digits: int = 2) -> None:
    """Writes each finite value into its cell of a heat map, in white where the cell is dark."""
    for row, column in numpy.ndindex(*values.shape):
        value = values[row, column]
        if numpy.isfinite(value):
            axes.text(column, row, f"{value:.{digits}f}".replace("-", "−"), ha="center", va="center", fontsize=7.5,
                      color="white" if is_dark[row, column] else INK)
