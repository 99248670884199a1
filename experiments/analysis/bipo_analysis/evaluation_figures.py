"""The plots of an evaluation's report, each as an SVG text; None where the file holds nothing to draw.

Directions are told apart by colour, marker and line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .drawing import (CATEGORIES, INK, MARKERS, MUTED, RULE, STYLE, WIDTH, as_svg, bar_lengths, curve_with_bars,
                      distinctly_shortened, dodged, legend_above, new_figure,
                      places, plain_figure, share_axis, shortened, write_values)
from .evaluation import CAA, RANDOM, VECTOR, Evaluation, direction_name, directions_in, of_direction
from .names import direction_names
from .paired import changes_from_zero, null_band
from .pareto import UNSTEERED, tradeoffs
from .wording import multiplier, number, percent, plain

# Colour, marker, line.
LOOKS = {VECTOR: ("#0072B2", "o", "-"), CAA: ("#D55E00", "v", "--"), RANDOM: (MUTED, "s", ":")}
OTHER_LOOK = ("#009E73", "D", "-.")
# What a share of right choices is by chance.
CHANCE = {"ab": 0.5, "mmlu": 0.25}
CURVES = {"accuracy": "held-out accuracy", "propensity": "propensity (nats)"}
CHANGES = {"propensity": "change of propensity (nats)", "accuracy": "change of accuracy (points)",
           "propensity_per_token": "change of propensity\nper token (nats)"}
COSTS = {"kl_neutral": "KL to unsteered (nats)", "perplexity_reference_text": "perplexity of reference text",
         "perplexity_of_generations": "perplexity of generations", "distinct_1": "distinct words",
         "distinct_2": "distinct word pairs", "distinct_3": "distinct word triples",
         "compression_ratio": "compressed size / size", "refusal_rate": "refusals"}
SHARES = ("distinct_1", "distinct_2", "distinct_3", "compression_ratio", "refusal_rate")
# Bars of a histogram.
BARS = 24
# More rows or columns of a grid than this are drawn without their numbers.
MOST_NUMBERS = 12
# A price whose largest value is this many times the smallest is drawn on a logarithmic axis.
WIDE = 20
LONGEST_MODEL = 28


def change_figure(evaluation: Evaluation, name: str, label: str) -> str | None:
    """Change of `name` from multiplier 0 over the same pairs, one line per direction, with paired intervals.

    Of propensity, a band shows what several random directions do.
    """
    rows = _known(changes_from_zero(evaluation), name)
    if not (rows["multiplier"] != 0).any():
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        axes.axhline(0, color=RULE, linewidth=0.9)
        band = null_band(evaluation, rows["multiplier"]) if name == "propensity" else pandas.DataFrame()
        if len(band):
            axes.fill_between(band["multiplier"], band["low"], band["high"], color=RULE, alpha=0.35, linewidth=0,
                              label=f"{int(band['draws'].max())} {direction_name(RANDOM, evaluation.noun)}s")
            rows = rows[rows["direction"] != RANDOM]
        _direction_lines(axes, rows, name, direction_names(evaluation))
        _finish_curve(axes, rows["multiplier"], label)
        if name == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        return as_svg(figure)


def curve_figure(rows: pandas.DataFrame, name: str, label: str, names: Mapping[str, str]) -> str | None:
    """The column `name` by multiplier, one line per direction, which `names` names, with the bars of `rows`."""
    rows = _known(rows, name)
    if rows.empty:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        _direction_lines(axes, rows, name, names)
        _finish_curve(axes, rows["multiplier"], label)
        if name == "accuracy":
            share_axis(axes)
        return as_svg(figure)


def slopes_figure(evaluation: Evaluation) -> str | None:
    """Histograms of the pairs' slopes, one below the other on one axis, with mean, s.d. and share below 0."""
    slopes = evaluation.slopes
    if slopes.empty:
        return None
    names = direction_names(evaluation)
    found, edges = directions_in(slopes), _edges(slopes["slope"].to_numpy())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 1.35 * len(found)), layout="constrained")
        for index, direction in enumerate(found):
            axes = figure.add_subplot(len(found), 1, index + 1)
            _slope_bars(axes, of_direction(slopes, direction)["slope"].to_numpy(), edges, _look(direction)[0])
            axes.set_title(shortened(names.get(direction, direction), LONGEST_MODEL), loc="left", fontsize=10,
                           color=_look(direction)[0])
            axes.tick_params(labelbottom=index == len(found) - 1)
        axes.set_xlabel("slope of a pair (nats per unit of the multiplier)")
        figure.supylabel("pairs", fontsize=10, color="#333A42")
        return as_svg(figure)


def pareto_figure(evaluation: Evaluation, effect: str, price: str) -> str | None:
    """Effect over price, one point per multiplier and direction; those that none beats are filled and joined."""
    points = tradeoffs(evaluation, effect, price)
    if not (points["multiplier"] != 0).any():
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure(height=3.9)
        _fronts(axes, points)
        for direction in directions_in(points):
            _tradeoff_points(axes, of_direction(points, direction), direction, direction_names(evaluation))
        if points["price"].min() > 0 and points["price"].max() > WIDE * points["price"].min():
            axes.set_xscale("log")
        axes.margins(x=0.08, y=0.1)
        axes.set_xlabel(COSTS[price])
        axes.set_ylabel(CURVES[effect])
        if effect == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        legend_above(axes, 2)
        return as_svg(figure)


def cost_figure(evaluation: Evaluation, measure: str) -> str | None:
    """One measure of /costs by multiplier, one line per direction."""
    rows = _known(evaluation.costs[evaluation.costs["measure"] == measure], "value")
    if rows.empty:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure(height=3.1)
        _direction_lines(axes, rows, "value", direction_names(evaluation))
        _finish_curve(axes, rows["multiplier"], COSTS.get(measure, measure.replace("_", " ")))
        if measure in SHARES:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        elif rows["value"].min() > 0 and rows["value"].max() > WIDE * rows["value"].min():
            axes.set_yscale("log")
        return as_svg(figure)


def choice_figure(rows: pandas.DataFrame, kind: str, name: str, label: str, names: Mapping[str, str]) -> str | None:
    """Accuracy or probability of one set of choices by multiplier, with chance where it is known."""
    rows = _known(rows, name)
    if rows.empty:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure(height=3.1)
        if kind in CHANCE:
            axes.axhline(CHANCE[kind], color=RULE, linewidth=0.9, linestyle="--")
        _direction_lines(axes, rows, name, names)
        _finish_curve(axes, rows["multiplier"], label)
        share_axis(axes)
        return as_svg(figure)


def grid_figure(grid: pandas.DataFrame, name: str, vectors: Sequence[str], noun: str = VECTOR) -> str | None:
    """Heat map of one column over the two multipliers; propensity's colours are centred on the unsteered model's.

    `noun` is what the two are.
    """
    known = _known(grid, name)
    if known.empty:
        return None
    cells = known.pivot_table(index="multiplier_2", columns="multiplier_1", values=name)[::-1]
    values = cells.to_numpy()
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure(height=4.2)
        low, high = (0.0, 1.0) if name == "accuracy" else _centred(cells)
        image = axes.imshow(values, vmin=low, vmax=high, cmap="PuOr", interpolation="none", aspect="auto")
        axes.set_xticks(range(cells.shape[1]), [multiplier(value) for value in cells.columns])
        axes.set_yticks(range(cells.shape[0]), [multiplier(value) for value in cells.index])
        axes.grid(False)
        first, second = distinctly_shortened(vectors, LONGEST_MODEL) if len(vectors) == 2 else (f"the first {noun}",
                                                                                                f"the second {noun}")
        axes.set_xlabel(f"multiplier of {first}")
        axes.set_ylabel(f"multiplier of {second}")
        if max(values.shape) <= MOST_NUMBERS:
            write_values(axes, values, abs(values - (low + high) / 2) > 0.3 * (high - low))
        bar = figure.colorbar(image, ax=axes, shrink=0.85)
        bar.set_label(CURVES[name])
        bar.outline.set_visible(False)  # type: ignore[operator]
        return as_svg(figure)


def judge_figure(judge: pandas.DataFrame, scale: tuple[float, float]) -> str | None:
    """The judge's mean score by multiplier, one line per behaviour."""
    parts = [(str(name), rows.sort_values("multiplier")) for name, rows in judge.groupby("behaviour", sort=False)]
    room = 0.05 * (scale[1] - scale[0])
    return named_curves_figure(parts, "score", f"judge's score, {plain(scale[0])} to {plain(scale[1])}",
                               limits=(scale[0] - room, scale[1] + room))


def named_curves_figure(parts: Sequence[tuple[str, pandas.DataFrame]], name: str, label: str,
                        limits: tuple[float, float] | None = None) -> str | None:
    """One column by multiplier, one line for each of the named parts, as many as have a colour of their own."""
    shown = _known_parts(parts, name)[:len(CATEGORIES)]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = plain_figure()
        multipliers = pandas.concat([rows["multiplier"] for _, rows in shown])
        titles = distinctly_shortened([title for title, _ in shown], LONGEST_MODEL)
        for index, ((_, rows), place) in enumerate(zip(shown, places(len(shown)), strict=True)):
            curve_with_bars(axes, dodged(rows, "multiplier", place, multipliers), "multiplier", name, titles[index],
                            CATEGORIES[index], MARKERS[index], "-")
        _finish_curve(axes, multipliers, label)
        if limits:
            axes.set_ylim(*limits)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if name == "accuracy":
            share_axis(axes)
        legend_above(axes, 2)
        return as_svg(figure)


def transfer_figure(parts: Sequence[tuple[str, pandas.DataFrame]], noun: str = VECTOR) -> str | None:
    """Steerability of every direction on every model; `parts` are labels with their /steerability.

    `noun` is what all of them are of.
    """
    known = _known_parts(parts, "steerability")
    if not known:
        return None
    found = directions_in(pandas.concat([rows for _, rows in known]))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(height=1.4 + 0.55 * len(known))
        axes.axvline(0, color=RULE, linewidth=0.9)
        for place, direction in enumerate(found):
            _steerability_marks(axes, known, direction, (place - (len(found) - 1) / 2) * 0.2,
                                 direction_name(direction, noun))
        axes.set_yticks(range(len(known)), distinctly_shortened([model for model, _ in known], LONGEST_MODEL))
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.set_xlabel("steerability (nats per unit of the multiplier)")
        axes.grid(False, axis="y")
        figure.legend(loc="outside upper center", ncols=3, columnspacing=1.2, handletextpad=0.5)
        return as_svg(figure)


def _known(rows: pandas.DataFrame, name: str) -> pandas.DataFrame:
    """The rows whose value can be drawn."""
    return rows[numpy.isfinite(rows[name])]


def _known_parts(parts: Sequence[tuple[str, pandas.DataFrame]], name: str) -> list[tuple[str, pandas.DataFrame]]:
    return [(title, known) for title, rows in parts if len(known := _known(rows, name))]


def _look(direction: str) -> tuple[str, str, str]:
    return LOOKS.get(direction, OTHER_LOOK)


def _direction_lines(axes: Axes, rows: pandas.DataFrame, name: str, names: Mapping[str, str]) -> None:
    found = directions_in(rows)
    # The vector comes last and so lies on top.
    for direction, place in reversed(list(zip(found, places(len(found)), strict=True))):
        colour, marker, line = _look(direction)
        own = dodged(of_direction(rows, direction), "multiplier", place, rows["multiplier"])
        curve_with_bars(axes, own, "multiplier", name, shortened(names.get(direction, direction), LONGEST_MODEL),
                        colour, marker, line)
    handles, titles = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], titles[::-1], loc="lower center", bbox_to_anchor=(0.5, 1.0),
                ncols=3 if sum(map(len, titles)) <= 60 else 2, columnspacing=1.2, handletextpad=0.5)


def _finish_curve(axes: Axes, multipliers: pandas.Series, label: str) -> None:
    distinct = sorted(set(multipliers))
    if len(distinct) <= MOST_NUMBERS:
        axes.set_xticks(distinct, [multiplier(value) for value in distinct])
    axes.set_xlabel("multiplier")
    axes.set_ylabel(label)


def _edges(slopes: numpy.ndarray) -> numpy.ndarray:
    """Edges of the bars, one of them at 0, so that no bar mixes steerable and anti-steerable pairs."""
    low, high = min(slopes.min(), 0.0), max(slopes.max(), 0.0)
    width = (high - low or 1.0) / BARS
    return width * numpy.arange(numpy.floor(low / width), numpy.ceil(high / width) + 2)


def _slope_bars(axes: Axes, slopes: numpy.ndarray, edges: numpy.ndarray, colour: str) -> None:
    counts, _ = numpy.histogram(slopes, edges)
    middles, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    against = middles < 0
    axes.bar(middles[~against], counts[~against], width * 0.92, color=colour)
    axes.bar(middles[against], counts[against], width * 0.92, color="white", edgecolor=colour, hatch="////",
             linewidth=0.8)
    axes.axvline(0, color=RULE, linewidth=0.9)
    axes.axvline(slopes.mean(), color=INK, linewidth=1.3, linestyle="--")
    spread = slopes.std(ddof=1) if len(slopes) > 1 else numpy.nan
    axes.text(1, 1.04, f"mean {number(float(slopes.mean()))}, s.d. {number(float(spread))}, "
              f"{percent((slopes < 0).mean(), 0)} below 0", ha="right", va="bottom", fontsize=8.5,
              transform=axes.transAxes)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(top=max(1, counts.max() * 1.08))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))


def _fronts(axes: Axes, points: pandas.DataFrame) -> None:
    """The two fronts, towards a higher and towards a lower effect, as lines from the cheapest point on."""
    for aim in (1, -1):
        front = points[points["on_front"] & (points["multiplier"] * aim >= 0)].sort_values(["price", "effect"])
        axes.plot(front["price"], front["effect"], color=RULE, linewidth=1.2, zorder=1)


def _tradeoff_points(axes: Axes, points: pandas.DataFrame, direction: str, names: Mapping[str, str]) -> None:
    if direction == UNSTEERED:
        colour, marker, label = INK, "D", "unsteered"
    else:
        colour, marker, label = *_look(direction)[:2], shortened(names.get(direction, direction), LONGEST_MODEL)
    axes.errorbar(points["price"], points["effect"], yerr=bar_lengths(points, "effect"), linestyle="none",
                  ecolor=colour, elinewidth=0.8, alpha=0.35)
    axes.scatter(points["price"], points["effect"], s=34, marker=marker, edgecolors=colour, zorder=3,
                 facecolors=[colour if on_front else "white" for on_front in points["on_front"]])
    axes.plot([], [], linestyle="none", marker=marker, markersize=6, color=colour, label=label)
    for point in points[points["multiplier"] != 0].itertuples():
        below = point.multiplier < 0
        axes.annotate(multiplier(point.multiplier), (point.price, point.effect), xytext=(5, -4 if below else 4),
                      textcoords="offset points", va="top" if below else "bottom", fontsize=7.5, color=colour)


def _centred(cells: pandas.DataFrame) -> tuple[float, float]:
    """Ends of a colour scale whose middle is the value at (0, 0), or the mean where that was not measured."""
    values = cells.to_numpy()
    has_origin = 0 in cells.index and 0 in cells.columns
    middle = float(cells.loc[0, 0]) if has_origin else float(numpy.nanmean(values))
    reach = float(numpy.nanmax(abs(values - middle))) or 1.0
    return middle - reach, middle + reach


def _steerability_marks(axes: Axes, parts: Sequence[tuple[str, pandas.DataFrame]], direction: str,
                        shift: float, label: str) -> None:
    rows = pandas.concat([of_direction(rows, direction).assign(place=index + shift)
                          for index, (_, rows) in enumerate(parts)])
    colour, marker, _ = _look(direction)
    axes.errorbar(rows["steerability"], rows["place"], xerr=bar_lengths(rows, "steerability"), linestyle="none",
                  marker=marker, color=colour, label=label, capsize=3, elinewidth=1.1)
