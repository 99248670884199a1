"""What the plots need of the runs: how each trained, and the vectors it ended with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy
import pandas

from .errors import AnalysisError
from .summary import evaluation_columns
from .sweep import Sweep
from .vectors import relative_distances

# A table of numbers by the names of its columns: frames of thousands of small tables would take seconds to make.
Columns = dict[str, numpy.ndarray]


@dataclass(frozen=True, eq=False)
class Trace:
    """The course of one cell's training."""

    cell: str
    status: str
    layer: int
    seed: int
    steps: Columns  # step, loss, vector_norm
    evaluations: Columns  # see summary.evaluations
    convergence: Columns  # epoch and relative_distance to the last saved vector
    final_vector: numpy.ndarray | None
    pairs: int  # held out; 0 where nothing was evaluated
    joint_layers: str = ""  # all that it trains jointly, "0+2", of which `layer` is the lowest

    @property
    def layer_name(self) -> str:
        return self.joint_layers or str(self.layer)


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
        pairs = int(run.eval_rows["pairs"][-1]) if len(run.eval_rows) else 0
        traces.append(Trace(
            row.cell, row.status, int(row.layer), int(row.seed),
            {name: run.step_rows[name] for name in ("step", "loss", "vector_norm")}, evaluation_columns(run.eval_rows),
            {"epoch": run.vector_epochs, "relative_distance": relative_distances(run.vectors)}, run.final_vector, pairs,
            str(getattr(row, "joint_layers", ""))))
    return traces


def of_complete_runs(traces: Sequence[Trace]) -> Sequence[Trace]:
    """The traces whose vectors are final; all where no run is complete."""
    return [trace for trace in traces if trace.status == "complete"] or traces


def mean_by_layer(traces: Iterable[Trace], table: str, index: str, column: str) -> pandas.DataFrame:
    """Mean over seeds of `column` of one of a trace's tables: a row per value of `index`, a column per layer."""
    tables = [(trace.layer, columns) for trace in traces if len((columns := getattr(trace, table))[index])]
    if not tables:
        return pandas.DataFrame()
    places = tables[0][1][index]
    columns = [(layer, rows[column]) for layer, rows in tables if numpy.array_equal(rows[index], places)]
    if len(columns) == len(tables) and len(set(places)) == len(places) and \
            not any(numpy.isnan(values).any() for _, values in columns):
        # All runs have the same rows, as in most sweeps: a pivot of thousands of small tables takes seconds.
        means = {layer: numpy.mean([values for own, values in columns if own == layer], axis=0)
                 for layer in sorted({layer for layer, _ in columns})}
        return pandas.DataFrame(means, index=pandas.Index(places, name=index)).rename_axis(columns="layer").sort_index()
    parts = [pandas.DataFrame({index: rows[index], column: rows[column], "layer": layer}) for layer, rows in tables]
    return pandas.concat(parts).pivot_table(index=index, columns="layer", values=column, aggfunc="mean")


def smoothed(curves: pandas.DataFrame, points: int = 200) -> pandas.DataFrame:
    """Running means over about a fortieth of the rows, thinned to at most `points` rows, the last one among them."""
    window = max(1, len(curves) // 40)
    means = curves.rolling(window, min_periods=1).mean()
    picks = numpy.unique(numpy.linspace(0, len(means) - 1, min(points, len(means))).round().astype(int))
    return means.iloc[picks]
