"""Several sweeps as one: more layers, seeds or data in further directories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from .run import Run
from .summary import COLUMNS, input_settings, shared_settings
from .sweep import Sweep, load_sweep


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
    """Reads sweep directories and collected files, each as load_sweep does, as one sweep.

    A cell whose name occurs in several of them carries its sweep's name in front; settings that differ are columns of
    `summary` only.  Raises AnalysisError where load_sweep does.
    """
    sweeps = [load_sweep(path) for path in dict.fromkeys(map(Path, paths))]
    if len(sweeps) == 1:
        return sweeps[0]
    counts = pandas.concat([sweep.summary["cell"] for sweep in sweeps]).value_counts()
    tables, places = [], {}
    packs: list[dict[str, Any]] = []
    for number, sweep in enumerate(sweeps):
        names = {cell: cell if counts[cell] == 1 else f"{_tag(sweeps, number)}/{cell}"
                 for cell in sweep.summary["cell"]}
        tables.append(sweep.summary.assign(cell=sweep.summary["cell"].map(names)))
        places.update({names[cell]: (sweep, cell) for cell in sweep.runs})
        packs += [{**pack, "name": f"{number}/{pack['name']}", "members": [names.get(cell, cell) for cell in
                                                                          pack["members"]]}
                  for pack in sweep.plan.get("packs", [])]
    summary = pandas.concat(tables, ignore_index=True)
    known = [name for name in COLUMNS if name in summary]
    summary = summary[[*known, *(name for name in summary.columns if name not in COLUMNS)]]
    plan = {**sweeps[0].plan, "settings": _joined_settings(sweeps), "packs": packs,
            "cells": [cell for sweep in sweeps for cell in sweep.plan["cells"]]}
    return Sweep(sweeps[0].path, " + ".join(sweep.name for sweep in sweeps), plan, summary, _JoinedRuns(places),
                 sweeps[0].program_version)


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
