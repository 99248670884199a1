"""Several sweeps and single runs as one: more layers, seeds or data in further directories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from .kinds import RUN, kind_of
from .run import Run, load_run
from .summary import (AXES, COLUMNS, OBJECTIVE_AXES, SETTING_AXES, cell_row, input_settings, shared_settings,
                      summary_frame)
from .sweep import Sweep, load_sweep
from .wording import last_part


class _JoinedRuns(Mapping[str, Run]):
    """The runs of several sweeps under the names of the joined table."""

    def __init__(self, places: dict[str, tuple[Sweep, str]]):
        self._places = places

    def __getitem__(self, cell: str) -> Run:
        sweep, name = self._places[cell]
        return sweep.runs[name]

    def __contains__(self, cell: object) -> bool:
        return cell in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load_sweeps(paths: Sequence[str | Path]) -> Sweep:
    """Reads sweep directories, collected files and run files, which count as sweeps of one cell, as one sweep.

    Where there are several, the column `origin` of `summary` names what each cell comes from.  A cell whose name occurs
    in several of them carries that in front; settings that differ are columns of `summary` only.  Raises
    AnalysisError where load_sweep and load_run do.
    """
    sweeps = [_load(path) for path in dict.fromkeys(map(Path, paths))]
    if len(sweeps) == 1:
        return sweeps[0]
    counts = pandas.concat([sweep.summary["cell"] for sweep in sweeps]).value_counts()
    tables, places = [], {}
    packs: list[dict[str, Any]] = []
    for number, sweep in enumerate(sweeps):
        names = {cell: cell if counts[cell] == 1 else f"{_tag(sweeps, number)}/{cell}"
                 for cell in sweep.summary["cell"]}
        # What collect merged tells its cells' origins itself.
        origin = sweep.summary["origin"] if "origin" in sweep.summary else _tag(sweeps, number)
        tables.append(sweep.summary.assign(cell=sweep.summary["cell"].map(names), origin=origin))
        places.update({names[cell]: (sweep, cell) for cell in sweep.runs})
        packs += [{**pack, "name": f"{number}/{pack['name']}", "members": [names.get(cell, cell) for cell in
                                                                          pack["members"]]}
                  for pack in sweep.plan.get("packs", [])]
    # Sweeps without another objective lack its columns.
    summary = pandas.concat(tables, ignore_index=True).fillna({**OBJECTIVE_AXES, **SETTING_AXES})
    known = [name for name in COLUMNS if name in summary]
    summary = summary[[*known, *(name for name in summary.columns if name not in COLUMNS)]]
    plan = {**sweeps[0].plan, "settings": _joined_settings(sweeps), "packs": packs,
            "cells": [cell for sweep in sweeps for cell in sweep.plan["cells"]]}
    return Sweep(sweeps[0].path, " + ".join(sweep.name for sweep in sweeps), plan, summary, _JoinedRuns(places),
                 sweeps[0].program_version)


def _load(path: Path) -> Sweep:
    return _sweep_of_run(path) if kind_of(path) == RUN else load_sweep(path)


def _sweep_of_run(path: Path) -> Sweep:
    """A run as a sweep of one cell that is named as its file.

    Its settings are those that a sweep's cells share: the axes and the names of files are no part of them.
    """
    run = load_run(path)
    axes = (*AXES, *OBJECTIVE_AXES)
    cell = {**{axis: run.settings[axis] for axis in axes if axis in run.settings}, "name": path.stem,
            "model": last_part(run.attributes.get("model")), "layer": run.layer,
            "data": Path(last_part(run.settings.get("train"))).stem}
    if len(run.layers) > 1:
        cell["joint_layers"] = "+".join(map(str, run.layers))
    settings = {name: value for name, value in run.settings.items()
                if name not in (*axes, "train", "test", "train_file", "test_file", "name")}
    status = {"diverged": "failed"}.get(run.status, run.status)
    reason = "the training diverged" if status == "failed" else ""
    plan = {"schema_version": 1, "settings": settings, "cells": [cell],
            "packs": [{"name": path.stem, "members": [path.stem]}]}
    return Sweep(path, path.stem, plan, summary_frame([cell_row(cell, status, reason, run)], settings),
                 {path.stem: run}, str(run.attributes.get("program_version", "")))


def _tag(sweeps: Sequence[Sweep], number: int) -> str:
    """A sweep's name, with its number where that repeats."""
    names = [sweep.name for sweep in sweeps]
    return names[number] if names.count(names[number]) == 1 else f"{names[number]} {number + 1}"


def _joined_settings(sweeps: Sequence[Sweep]) -> dict[str, object]:
    """What all sweeps share, and what goes with each model and data set."""
    first, *others = (shared_settings(sweep.settings) for sweep in sweeps)
    shared: dict[str, object] = {name: value for name, value in first.items()
                                 if all(name in other and other[name] == value for other in others)}
    inputs = {str(entry): entry for sweep in sweeps for entry in input_settings(sweep.settings)}
    return {**shared, "inputs": list(inputs.values())} if inputs else shared
