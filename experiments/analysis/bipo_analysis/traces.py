"""What the plots need of the runs: how each trained, and the vectors it ended with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy
import pandas

from .errors import AnalysisError
from .summary import evaluations
from .sweep import Sweep
from .vectors import convergence


@dataclass(frozen=True, eq=False)
class Trace:
    """The course of one cell's training."""

    cell: str
    status: str
    layer: int
    seed: int
    steps: pandas.DataFrame  # step, loss, vector_norm
    evaluations: pandas.DataFrame  # see summary.evaluations
    convergence: pandas.DataFrame  # epoch, cosine and relative_distance to the last saved vector
    final_vector: numpy.ndarray | None
    pairs: int  # held out; 0 where nothing was evaluated


def read_traces(sweep: Sweep, cells: pandas.DataFrame) -> list[Trace]:
    """The traces of those of `cells` that have a readable run, by layer and seed.

    A run file that went away since the sweep was loaded is left out.
    """
    traces = []
    for row in cells.sort_values(["layer", "seed"]).itertuples():
        if row.cell not in sweep.runs:
            continue
        try:
            run = sweep.runs[row.cell]
        except AnalysisError:
            continue
        course = convergence(run.vectors).assign(epoch=run.vector_epochs)
        pairs = int(run.evals["pairs"].iloc[-1]) if len(run.evals) else 0
        steps = run.steps[["step", "loss", "vector_norm"]]
        traces.append(Trace(row.cell, row.status, int(row.layer), int(row.seed), steps, evaluations(run.evals), course,
                            run.final_vector, pairs))
    return traces


def of_complete_runs(traces: Sequence[Trace]) -> Sequence[Trace]:
    """The traces whose vectors are final; all where no run is complete."""
    return [trace for trace in traces if trace.status == "complete"] or traces


def mean_by_layer(traces: Iterable[Trace], table: str, index: str, column: str) -> pandas.DataFrame:
    """Mean over seeds of `column` of one of a trace's tables: a row per value of `index`, a column per layer."""
    parts = [getattr(trace, table)[[index, column]].assign(layer=trace.layer) for trace in traces]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pandas.DataFrame()
    return pandas.concat(parts).pivot_table(index=index, columns="layer", values=column, aggfunc="mean")


def smoothed(curves: pandas.DataFrame, points: int = 200) -> pandas.DataFrame:
    """Running means over about a fortieth of the rows, thinned to at most `points` rows, the last one among them."""
    window = max(1, len(curves) // 40)
    means = curves.rolling(window, min_periods=1).mean()
    picks = numpy.unique(numpy.linspace(0, len(means) - 1, min(points, len(means))).round().astype(int))
    return means.iloc[picks]
