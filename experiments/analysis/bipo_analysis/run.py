"""One training run, as its run file or its group in a collected sweep tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy
import pandas

from .checksums import checked_values, require_checked_attributes
from .stored import plain_value, read_stored, require_schema

RUN_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Run:
    """The content of one run, in memory.

    `steps` and `evals` are the tables /steps and /evals with the columns that docs/files.md describes; both may be
    empty.  `vectors` holds one row per saved epoch, float32; `vector_steps` (optimiser steps done) and
    `vector_epochs` (from 0) stand beside it.
    """

    name: str
    attributes: dict[str, object]
    settings: dict[str, object]
    steps: pandas.DataFrame
    evals: pandas.DataFrame
    vectors: numpy.ndarray
    vector_steps: numpy.ndarray
    vector_epochs: numpy.ndarray

    @property
    def status(self) -> str:
        """What the file itself says: running, complete, interrupted or diverged."""
        return str(self.attributes["status"])

    @property
    def layer(self) -> int:
        return int(self.attributes["layer"])  # type: ignore[call-overload]

    @property
    def final_vector(self) -> numpy.ndarray | None:
        """The last saved vector; None before the first save of one."""
        return self.vectors[-1] if len(self.vectors) else None


def load_run(path: str | Path) -> Run:
    """Reads a run file.  Raises AnalysisError for one that is missing, damaged, or newer than this package."""
    return read_stored(path, "a run file", "`bipo-dist train` or `sweep`", read_run)


def read_run(group: h5py.Group, name: str) -> Run:
    """Reads a run from the group that holds its tree: a run file's root, or /runs/<cell> of a collected sweep.

    Raises AnalysisError for a newer schema, and h5py's own errors (OSError, KeyError, ValueError, TypeError) for
    a tree that is damaged.
    """
    attributes = {key: plain_value(value) for key, value in group.attrs.items()}
    require_schema(attributes.get("schema_version"), RUN_SCHEMA)
    require_checked_attributes(group)
    settings = json.loads(str(attributes["config"]))
    if not isinstance(settings, dict):
        raise ValueError("the attribute config is not a JSON object")
    return Run(name, attributes, settings,
               *(pandas.DataFrame(checked_values(group[table])) for table in ("steps", "evals")),
               *(checked_values(group[f"vectors/{part}"]) for part in ("value", "step", "epoch")))
