"""How every plot looks: style, colours and the pieces that plots share.

Colours are those of Okabe and Ito, which readers with any kind of colour vision tell apart.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Sequence

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter

WIDTH, HEIGHT = 5.4, 3.5  # inches; small, so that text stays readable on a phone
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "v", "s", "D", "^", "P", "X")
INK, MUTED, RULE = "#22272E", "#5F6770", "#9AA3AD"
# How far apart curves stand that share their values, as a share of the gap between two values.
DODGE = 0.09
# Characters in a legend.
LONGEST_LABEL = 48
# Of matplotlib's DejaVu Sans, in multiples of its size: a line, a digit, a letter of a text on average, and other
# characters of ticks.
LINE, DIGIT, LETTER = 1.2, 0.64, 0.6
CHARACTERS = {".": 0.32, ",": 0.32, " ": 0.32, "·": 0.32, "−": 0.84, "%": 0.95}
# In points: a tick and the gap before its text, that text, the gap before a label, the edge of a figure; an inch.
TICK_ROOM, TICK_SIZE, LABEL_ROOM, EDGE, POINTS = 7.5, 10, 4.5, 4.0, 72
# What mathematical text has beside the characters that are drawn.
_MARKUP = re.compile(r"\\mathdefault|\\times|[${}^\\]")
STYLE = {
    "svg.fonttype": "path", "svg.hashsalt": "bipo_analysis", "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": RULE, "axes.labelcolor": "#333A42", "text.color": "#333A42",
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.grid": True, "grid.color": "#E6E9ED",
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.8, "lines.markersize": 5}


def new_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure of `height` inches with one plot in it."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def plain_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """The same for a plot without a title, with at most a legend above and a colour bar.

    Its margins follow from its texts: a constrained layout takes as long as all the rest of a plot.
    """
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def as_svg(figure: Figure) -> str:
    """The drawing as text, the same for the same figure."""
    engine = figure.get_layout_engine()
    if engine is None:
        _set_margins(figure)
    else:
        engine.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.StringIO()
    # savefig would draw twice, the first time only for a layout.
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def _set_margins(figure: Figure) -> None:
    axes, *bars = figure.axes
    width, height = figure.get_size_inches() * POINTS
    left = _across(axes.yaxis) + _label_height(axes.yaxis.label)
    along = _across(axes.xaxis) if "labelrotation" in axes.xaxis.get_tick_params() else TICK_ROOM + TICK_SIZE * LINE
    bottom = along + _label_height(axes.xaxis.label)
    right = sum(_across(bar.yaxis) + _label_height(bar.yaxis.label) for bar in bars) if bars else 2 * EDGE
    figure.subplots_adjust(left=(EDGE + left) / width, bottom=(EDGE + bottom) / height,
                           right=1 - (EDGE + right) / width, top=1 - (EDGE + _legend_height(axes)) / height)
    _keep_legend_inside(axes, width)


def _across(axis: Axis) -> float:
    """Points that an axis's ticks and their texts, lying across it, take beside it."""
    texts = axis.get_major_formatter().format_ticks(axis.get_majorticklocs())
    # Between powers of ten a logarithmic axis names its minor ticks, where there are few.
    texts += axis.get_minor_formatter().format_ticks(axis.get_minorticklocs())
    longest = max((sum(CHARACTERS.get(character, DIGIT) for character in _MARKUP.sub("", text)) for text in texts),
                  default=0.0)
    return TICK_ROOM + longest * axis.get_tick_params().get("labelsize", TICK_SIZE)


def _label_height(label: Text) -> float:
    lines = label.get_text().count("\n") + 1 if label.get_text() else 0
    return lines * label.get_size() * LINE + (LABEL_ROOM if lines else 0)


def _legend_height(axes: Axes) -> float:
    legend = axes.get_legend()
    if legend is None:
        return EDGE
    texts = legend.get_texts()
    rows, size = -(-len(texts) // legend._ncols), texts[0].get_size()
    return size * (rows * LINE + (rows - 1) * legend.labelspacing + 2 * legend.borderpad + legend.borderaxespad)


def _keep_legend_inside(axes: Axes, width: float) -> None:
    """Moves a legend above the plot sideways where it would leave a figure of `width` points."""
    legend = axes.get_legend()
    if legend is None:
        return
    half = _legend_width(legend) / 2
    box = axes.get_position()
    centre = (box.x0 + box.x1) / 2 * width
    moved = width / 2 if half + EDGE > width / 2 else min(max(centre, half + EDGE), width - half - EDGE)
    if moved != centre:
        legend.set_bbox_to_anchor(((moved / width - box.x0) / box.width, 1.0), transform=axes.transAxes)


def _legend_width(legend: Legend) -> float:
    texts = [text.get_text() for text in legend.get_texts()]
    size = legend.get_texts()[0].get_size()
    columns = [column for column in numpy.array_split(numpy.array(texts, dtype=object), legend._ncols) if len(column)]
    across = sum(max(map(len, column)) * LETTER + legend.handlelength + legend.handletextpad for column in columns)
    return size * (across + (len(columns) - 1) * legend.columnspacing + 2 * legend.borderpad)


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


def dodged(rows: pandas.DataFrame, along: str, place: float, values: pandas.Series) -> pandas.DataFrame:
    """The rows moved sideways along `along`, so that curves over the same `values` do not hide each other's bars.

    `place` counts from the middle one of the curves; the outermost stays well within half a gap of the values.
    """
    distinct = sorted(set(values))
    gaps = [after - before for before, after in itertools.pairwise(distinct)]
    return rows.assign(**{along: rows[along] + place * DODGE * min(gaps, default=1.0)})


def places(count: int) -> list[float]:
    """Where `count` curves stand beside each other: -1, 0, 1 for three."""
    return [index - (count - 1) / 2 for index in range(count)]


def share_axis(axes: Axes) -> None:
    """The upright axis from 0 to 100 %."""
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def legend_above(axes: Axes, columns: int) -> None:
    """The legend over the plot, where it hides no point."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)


def distinctly_shortened(labels: Sequence[str], longest: int = LONGEST_LABEL) -> list[str]:
    """The labels cut so that what differs stays: at what all have in common, then in the middle."""
    if all(len(label) <= longest for label in labels):
        return list(labels)
    head, tail = len(os.path.commonprefix(list(labels))), len(os.path.commonprefix([label[::-1] for label in labels]))
    cut = []
    for label in labels:
        room = len(label) - longest
        if len(labels) > 1 and room > 0:
            # A few characters of what is common stay, so that readers know the rest by its beginning or end.
            front = min(max(head - 6, 0), room + 1)
            label = f"…{label[front:]}" if front > 1 else label
            back = min(max(tail - 6, 0), len(label) - longest + 1)
            label = f"{label[:-back]}…" if back > 1 else label
        if len(label) > longest:
            label = f"{label[:(longest - 1) // 2]}…{label[-(longest - 1 - (longest - 1) // 2):]}"
        cut.append(label)
    return cut if len(set(cut)) == len(set(labels)) else [f"{index + 1}: {shortened(label, longest - 4)}"
                                                          for index, label in enumerate(labels)]


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
