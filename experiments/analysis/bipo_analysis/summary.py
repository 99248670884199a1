"""The columns of /summary, and how a cell's row comes from its run.

One row per cell of the plan.  What is not known is NaN in columns of floats, -1 in columns of integers, and empty
text.  Accuracies are shares from 0 to 1; losses and margins are in nats.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy
import pandas

from .run import Run
from .wording import plain

TEXT_COLUMNS = ("cell", "status", "model", "data", "sign", "site", "failure")
INTEGER_COLUMNS = ("layer", "seed", "batch_size", "epochs", "steps", "total_steps", "best_epoch")
AXES = ("model", "data", "layer", "seed", "lr", "beta", "sign", "batch_size", "epochs")
# Axes of sweeps with other objectives than BiPO's own form, with the values of that; other sweeps lack the columns.
OBJECTIVE_AXES: dict[str, object] = {"objective": "bipo", "label_smoothing": 0.0, "simpo_gamma": 0.5,
                                     "reduction": "sum", "steered_positions": "all"}
# What is steered where a file names no site: the block's output.
BLOCK_SITE = "block"
# Settings that a sweep may have as axes, with the usual values, which cells do not name; else they are shared settings.
# The site, which every table names, is never an axis of one sweep, but sweeps of several sites may be read together.
SETTING_AXES: dict[str, object] = {"norm": "free", "schedule": "cosine", "init": "zero", "factors": "1",
                                   "joint_layers": "", "site": BLOCK_SITE}
# The multipliers that the summary compares, and what their columns are called.
MULTIPLIERS = {"minus": -1.0, "zero": 0.0, "plus": 1.0}
MEASURES = ("accuracy", "margin")
OUTCOMES = tuple(f"{measure}_{side}" for measure in MEASURES for side in MULTIPLIERS)
EVALUATION_COLUMNS = ("step", "epoch", *OUTCOMES)
COLUMNS = ("cell", "status", *AXES, "site", "steps", "total_steps", "loss", "vector_norm", *OUTCOMES,
           "best_epoch", *(f"best_{name}" for name in OUTCOMES), "seconds", "tokens_per_second", "failure")

# Columns by name, of pandas or as HDF5 stores them.
Table = pandas.DataFrame | numpy.ndarray


def cell_row(cell: Mapping[str, object], status: str, failure: str, run: Run | None) -> dict[str, object]:
    """A cell's row without the settings: `cell` is the plan's entry, `run` what there is of its run file."""
    row: dict[str, object] = {name: _unknown(name) for name in COLUMNS}
    row.update({name: cell[name] for name in AXES if name in cell})
    row.update({name: cell.get(name, usual) for name, usual in OBJECTIVE_AXES.items()})
    row.update({name: cell[name] for name in SETTING_AXES if name in cell})
    row.update(cell=cell["name"], status=status, failure=failure)
    if run is not None:
        row["site"] = run.site
        row.update(_progress(run))
        row.update(outcomes(run.eval_rows))
    return row


def summary_frame(rows: Sequence[Mapping[str, object]], settings: Mapping[str, object]) -> pandas.DataFrame:
    """The table with the columns of /summary in their order: the rows, then the plan's settings."""
    by_cell = [cell_settings(settings, str(row["model"]), str(row["data"])) for row in rows]
    # A cell without a run is at the site of its sweep.
    sited = [{**row, "site": row["site"] or own.get("site") or BLOCK_SITE}
             for row, own in zip(rows, by_cell, strict=True)]
    frame = pandas.DataFrame(sited, columns=list(COLUMNS))
    for name in COLUMNS:
        kind = "object" if name in TEXT_COLUMNS else "int64" if name in INTEGER_COLUMNS else "float64"
        # Seeds go up to 2^64 - 1.
        frame[name] = frame[name].astype("uint64" if name == "seed" and (frame[name] >= 0).all() else kind)
    own_axes = _objective_columns(rows)
    names = dict.fromkeys([*shared_settings(settings), *(name for own in by_cell for name in own)])
    columns = {name: _setting_column([own.get(name) for own in by_cell]) for name in names if name not in COLUMNS}
    columns.update({name: _setting_column([row.get(name, own.get(name, usual))
                                           for row, own in zip(rows, by_cell, strict=True)])
                    for name, usual in SETTING_AXES.items()
                    if name not in COLUMNS and any(name in row for row in rows)})
    return pandas.concat([frame, pandas.DataFrame({**own_axes, **columns}, index=frame.index)], axis=1)


def axes_of(frame: pandas.DataFrame) -> list[str]:
    """The axes that the table has, those of the objective and of settings among them where there are several."""
    settings = (name for name in SETTING_AXES if name in frame.columns and frame[name].astype(str).nunique() > 1)
    return [*AXES, *(name for name in OBJECTIVE_AXES if name in frame.columns), *settings]


def with_site(frame: pandas.DataFrame) -> pandas.DataFrame:
    """A stored /summary with the column `site` where COLUMNS has it; that of older files is block outputs'."""
    sites = frame["site"].replace("", BLOCK_SITE) if "site" in frame else pandas.Series(BLOCK_SITE, frame.index, object)
    others = frame.drop(columns="site", errors="ignore")
    before = COLUMNS[COLUMNS.index("site") - 1]
    others.insert(list(others.columns).index(before) + 1, "site", sites)
    return others


def joint_layers(cells: pandas.DataFrame) -> str:
    """The layers that each of the cells trains jointly, "0+2"; "" where they train one each, or not the same ones."""
    found = set(cells["joint_layers"]) if "joint_layers" in cells else set()
    return str(found.pop()) if len(found) == 1 else ""


def layer_texts(cells: pandas.DataFrame) -> list[str]:
    """What each cell steers: "5", or "0+2" where it trains these jointly."""
    joint = cells["joint_layers"] if "joint_layers" in cells else [""] * len(cells)
    return [str(several) or plain(layer) for layer, several in zip(cells["layer"], joint, strict=True)]


def _objective_columns(rows: Sequence[Mapping[str, object]]) -> dict[str, pandas.Series]:
    values = {name: [row.get(name, usual) for row in rows] for name, usual in OBJECTIVE_AXES.items()}
    if all(value == OBJECTIVE_AXES[name] for name, column in values.items() for value in column):
        return {}
    return {name: _setting_column(column) for name, column in values.items()}


def shared_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings of a plan that all its cells share."""
    return {name: value for name, value in settings.items() if name != "inputs"}


def input_settings(settings: Mapping[str, object]) -> list[dict[str, object]]:
    """What goes with a model and data set, which each entry names; empty where the plan has one of each."""
    inputs = settings.get("inputs", [])
    return [entry for entry in inputs if isinstance(entry, dict)] if isinstance(inputs, list) else []


def cell_settings(settings: Mapping[str, object], model: str, data: str) -> dict[str, object]:
    """The settings of the cells of one model and data set."""
    own = (entry for entry in input_settings(settings) if (entry.get("model"), entry.get("data")) == (model, data))
    return {**shared_settings(settings), **next(own, {})}


def _setting_column(values: Sequence[object]) -> pandas.Series:
    """Whole numbers and truth values (0, 1) as int64, numbers as float64, all else as text: lists as JSON."""
    if all(isinstance(value, int) and abs(value) < 2**63 for value in values):
        return pandas.Series(values, dtype="int64")
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return pandas.Series(values, dtype="float64")
    return pandas.Series([_setting_text(value) for value in values], dtype="object")


def _setting_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _unknown(column: str) -> object:
    if column in TEXT_COLUMNS:
        return ""
    return -1 if column in INTEGER_COLUMNS else math.nan


def _progress(run: Run) -> dict[str, object]:
    progress: dict[str, object] = {"steps": len(run.step_rows), "total_steps": total_steps(run)}
    if len(run.step_rows):
        seconds, tokens = (float(run.step_rows[name].sum()) for name in ("seconds", "tokens"))
        progress.update({name: float(run.step_rows[name][-1]) for name in ("loss", "vector_norm")},
                        seconds=seconds)
        if seconds > 0:
            progress["tokens_per_second"] = tokens / seconds
    return progress


def total_steps(run: Run) -> int:
    """Optimiser steps of the whole run by its settings; -1 where they do not tell."""
    try:
        pairs, batch, epochs, most = (int(run.settings[name])  # type: ignore[call-overload]
                                      for name in ("train_pairs", "batch_size", "epochs", "max_steps"))
    except (KeyError, TypeError, ValueError):
        return -1
    if pairs < 1 or batch < 1:
        return -1
    whole = epochs * math.ceil(pairs / batch)
    return min(most, whole) if most > 0 else whole


def evaluations(evals: Table) -> pandas.DataFrame:
    """One row per evaluation, in order, with the columns step, epoch and OUTCOMES (NaN where not evaluated)."""
    return pandas.DataFrame(_evaluation_rows(evals), columns=list(EVALUATION_COLUMNS))


def evaluation_columns(evals: Table) -> dict[str, numpy.ndarray]:
    """The same as arrays by name."""
    rows = _evaluation_rows(evals)
    return {name: numpy.array([row[name] for row in rows]) for name in EVALUATION_COLUMNS}


def _evaluation_rows(evals: Table) -> list[dict[str, float]]:
    sides = {multiplier: side for side, multiplier in MULTIPLIERS.items()}
    rows: dict[int, dict[str, float]] = {}
    # Over plain lists: a sweep has thousands of these small tables, and a pivot of each would take seconds.
    columns = (evals[name].tolist() for name in ("step", "epoch", "multiplier", *MEASURES))
    for step, epoch, multiplier, *values in zip(*columns, strict=True):
        row = rows.setdefault(step, {"step": step, "epoch": epoch, **dict.fromkeys(OUTCOMES, math.nan)})
        if multiplier in sides:
            names = (f"{measure}_{sides[multiplier]}" for measure in MEASURES)
            row.update(zip(names, values, strict=True))
    return list(rows.values())


def outcomes(evals: Table) -> dict[str, object]:
    """The columns from OUTCOMES to best_...: the last evaluation and the best one.

    The best has the largest swing of margin, that at +1 less that at -1, and of equal ones is the earliest; the
    program chooses by the same rule.
    """
    rows = _evaluation_rows(evals)
    if not rows:
        return {}
    found: dict[str, object] = {name: float(rows[-1][name]) for name in OUTCOMES}
    swings = [(row["margin_plus"] - row["margin_minus"], -index) for index, row in enumerate(rows)]
    known = [swing for swing in swings if not math.isnan(swing[0])]
    if known:
        best = rows[-max(known)[1]]
        found["best_epoch"] = int(best["epoch"])
        found.update({f"best_{name}": float(best[name]) for name in OUTCOMES})
    return found
