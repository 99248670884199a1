"""The plots of a single run's report, each as an SVG text; None where the run holds nothing to draw."""

from __future__ import annotations

import math

import matplotlib
import numpy
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .drawing import CATEGORIES, INK, MARKERS, MUTED, RULE, STYLE, as_svg, legend_above, new_figure, share_axis
from .run import Run
from .run_findings import norm_share
from .run_scale import residual_norm
from .traces import smoothed
from .wording import multiplier

__all__ = ["evaluation_figure", "norm_share", "step_figure"]
LABELS = {"loss": "training loss (nats)", "margin": "training margin (nats)", "vector_norm": "norm of the vector",
          "lr": "learning rate"}


def step_figure(run: Run, column: str) -> str | None:
    """A column of /steps by step; loss and margin with their running mean, the norm as a share where that is known."""
    if run.steps.empty:
        return None
    values = run.steps[["step", column]].set_index("step")
    norm = residual_norm(run) if column == "vector_norm" else math.nan
    if math.isfinite(norm):
        values = values / norm
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(height=3.0)
        if column == "loss":
            axes.axhline(numpy.log(2), color=RULE, linewidth=0.9, linestyle="--")
        if column in ("loss", "margin"):
            raw = values.iloc[numpy.unique(numpy.linspace(0, len(values) - 1, min(2000, len(values))).astype(int))]
            axes.plot(raw.index, raw[column], color=MUTED, alpha=0.4, linewidth=0.7)
        course = smoothed(values, 400) if column in ("loss", "margin") else values
        axes.plot(course.index, course[column], color=CATEGORIES[0], marker="o" if len(course) == 1 else "")
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(LABELS[column])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if column == "vector_norm":
            axes.set_ylim(bottom=0)
            if math.isfinite(norm):
                axes.set_ylabel("norm of the vector (% of residual)")
                axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        return as_svg(figure)


def evaluation_figure(run: Run, column: str) -> str | None:
    """A column of /evals by epochs done, one line per multiplier."""
    multipliers = sorted(set(run.evals["multiplier"]), reverse=True)
    if not multipliers:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure()
        for index, value in enumerate(multipliers[:len(CATEGORIES)]):
            rows = run.evals[run.evals["multiplier"] == value]
            axes.plot(rows["epoch"] + 1, rows[column], color=INK if value == 0 else CATEGORIES[index % 6],
                      marker=MARKERS[index], linestyle=":" if value == 0 else "-" if value > 0 else "--",
                      label=f"multiplier {multiplier(value)}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epochs done")
        axes.set_ylabel("held-out accuracy" if column == "accuracy" else "held-out margin β·Δ (nats)")
        if column == "accuracy":
            share_axis(axes)
        legend_above(axes, 3)
        return as_svg(figure)
