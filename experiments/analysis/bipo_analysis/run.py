"""One training run, as its run file or its group in a collected sweep tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy
import pandas

from .checksums import checked_values, require_checked_attributes
from .errors import AnalysisError
from .stored import plain_value, read_stored, require_schema

RUN_SCHEMA = 2
# Single held-out pairs of the evaluations, which a file may lack.
SAMPLE_COLUMNS = ("step", "epoch", "multiplier", "pair", "chosen_logp", "rejected_logp")


@dataclass(frozen=True, eq=False)
class Run:
    """The content of one run, in memory.

    `steps` and `evals` are the tables /steps and /evals with the columns that docs/files.md describes; both may be
    empty.  `vectors` holds one row per saved epoch, float32; `vector_steps` (optimiser steps done) and
    `vector_epochs` (from 0) stand beside it; `result_row` is the row that the run ended with, the last one unless
    `--select best` chose another.  `eval_samples` are the single pairs of the evaluations, if known.  Of a run of
    several layers, `joint_layers` names them, and a row of `vectors` holds the vectors of all, one after the other;
    `load_vectors` gives them one by one.  `step_rows`, `eval_rows` and `sample_rows` are these tables as stored,
    because frames of hundreds of runs take seconds to make.
    """

    name: str
    attributes: dict[str, object]
    settings: dict[str, object]
    step_rows: numpy.ndarray
    eval_rows: numpy.ndarray
    vectors: numpy.ndarray
    vector_steps: numpy.ndarray
    vector_epochs: numpy.ndarray
    sample_rows: numpy.ndarray | None = None
    result_row: int = -1
    joint_layers: tuple[int, ...] = ()

    @cached_property
    def steps(self) -> pandas.DataFrame:
        """The table /steps."""
        return pandas.DataFrame(self.step_rows)

    @cached_property
    def evals(self) -> pandas.DataFrame:
        """The table /evals."""
        return pandas.DataFrame(self.eval_rows)

    @cached_property
    def eval_samples(self) -> pandas.DataFrame:
        """The table /eval_samples, empty where the file has none."""
        if self.sample_rows is None:
            return pandas.DataFrame(columns=list(SAMPLE_COLUMNS))
        return pandas.DataFrame(self.sample_rows)

    @property
    def status(self) -> str:
        """What the file itself says: running, complete, interrupted or diverged."""
        return str(self.attributes["status"])

    @property
    def layer(self) -> int:
        return int(self.attributes["layer"])  # type: ignore[call-overload]

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks, from 0, that the run steers, ascending."""
        return self.joint_layers or (self.layer,)

    @property
    def site(self) -> str:
        """What of these blocks: "block", their outputs, or "mlp", what their MLPs return."""
        return str(self.attributes.get("site", "block"))

    @property
    def final_vector(self) -> numpy.ndarray | None:
        """The vector that the run ended with; None before the first save of one."""
        return self.vectors[self.result_row] if len(self.vectors) else None


def load_run(path: str | Path) -> Run:
    """Reads a run file.  Raises AnalysisError for one that is missing, damaged, or newer than this package."""
    return read_stored(path, "a run file", "`bipo-dist train` or `sweep`", read_run)


def read_run(group: h5py.Group, name: str) -> Run:
    """Reads a run from the group that holds its tree: a run file's root, or /runs/<cell> of a collected sweep.

    Raises AnalysisError for a newer schema, and h5py's own errors (OSError, KeyError, ValueError, TypeError) for
    a tree that is damaged.
    """
    stored = dict(group.attrs.items())
    attributes = {key: plain_value(value) for key, value in stored.items()}
    if attributes.get("kind") == "conceptor":
        raise AnalysisError("it holds a conceptor, a matrix that no training made; load_conceptor and steer take it")
    require_schema(attributes.get("schema_version"), RUN_SCHEMA)
    require_checked_attributes(group, stored)
    settings = json.loads(str(attributes["config"]))
    if not isinstance(settings, dict):
        raise ValueError("the attribute config is not a JSON object")
    steps, evals, vectors, vector_steps, vector_epochs = (checked_values(group[part]) for part in (
        "steps", "evals", "vectors/value", "vectors/step", "vectors/epoch"))
    layers: tuple[int, ...] = ()
    if "vectors/layer" in group:
        layers = tuple(int(layer) for layer in checked_values(group["vectors/layer"]))
        if vectors.ndim != 3 or vectors.shape[1] != len(layers):
            raise ValueError(f"/vectors/value has the shape {vectors.shape} for {len(layers)} layers")
        if layers[:1] != (int(str(attributes["layer"])),) or list(layers) != sorted(set(layers)):
            raise ValueError(f"/vectors is of the layers {layers}, which do not ascend from {attributes['layer']}")
        vectors = vectors.reshape(len(vectors), len(layers) * vectors.shape[2])
    result_row = -1
    if len(vector_steps) > 1 and vector_steps[-1] < vector_steps[-2]:
        # --select best repeats the row of its epoch at the end.
        result_row = int(numpy.argmax(vector_steps == vector_steps[-1]))
        vectors, vector_steps, vector_epochs = vectors[:-1], vector_steps[:-1], vector_epochs[:-1]
    return Run(name, attributes, settings, steps, evals, vectors, vector_steps, vector_epochs,
               checked_values(group["eval_samples"]) if "eval_samples" in group else None, result_row, layers)
