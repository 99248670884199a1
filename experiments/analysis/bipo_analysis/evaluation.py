"""One evaluation of a vector, as the file of `bipo-dist evaluate` tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy
import pandas

from .checksums import require_checked_attributes
from .errors import AnalysisError
from .stored import plain_value, read_stored, read_table, require_schema

EVALUATION_SCHEMA = 1
VECTOR, CAA, RANDOM = "vector", "caa", "random"
CONTROLS = (CAA, RANDOM)
# What the column `direction` says, in the order of plots and tables, and what readers call it.
DIRECTIONS = {VECTOR: "vector", CAA: "mean difference (CAA)", RANDOM: "random direction"}

# The same where there is little room.
SHORT_NAMES = {VECTOR: "vector", CAA: "CAA", RANDOM: "random"}


def _estimates(*names: str) -> tuple[str, ...]:
    """Columns with the bounds of their 95 % intervals."""
    return tuple(f"{name}{end}" for name in names for end in ("", "_low", "_high"))


# The tables of a file, and the columns that each must have.
COLUMNS = {
    "curve": ("direction", "multiplier", "pairs",
              *_estimates("accuracy", "margin", "propensity", "propensity_per_token"), "chosen_logp", "rejected_logp"),
    "steerability": ("direction", "norm", "pairs", *_estimates("steerability"), "steerability_sd",
                     *_estimates("anti_steerable", "spearman")),
    "samples": ("direction", "pair", "multiplier", "chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens",
                "slope"),
    "choices": ("set", "kind", "direction", "multiplier", "items", *_estimates("accuracy", "probability"),
                "macro_accuracy"),
    "costs": ("measure", "direction", "multiplier", *_estimates("value"), "items"),
    "grid": ("multiplier_1", "multiplier_2", "pairs", *_estimates("accuracy"), "margin", *_estimates("propensity")),
    "judge": ("behaviour", "multiplier", "items", "errors", *_estimates("score")),
    "judge_scores": ("behaviour", "prompt", "multiplier", "score"),
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The content of one evaluation file, in memory.

    The tables have the columns of COLUMNS and may each be empty: what was not asked for was not measured.
    `settings` is every effective setting, the attribute config.
    """

    name: str
    attributes: dict[str, object]
    settings: dict[str, object]
    curve: pandas.DataFrame
    steerability: pandas.DataFrame
    samples: pandas.DataFrame
    choices: pandas.DataFrame
    costs: pandas.DataFrame
    grid: pandas.DataFrame
    judge: pandas.DataFrame
    judge_scores: pandas.DataFrame

    @property
    def model(self) -> str:
        """The evaluated model's name, and its adapter's, without their folders."""
        names = [last_part(self.attributes.get(key)) for key in ("model", "adapter")]
        return " + ".join(name for name in names if name) or self.name

    @property
    def tables(self) -> dict[str, pandas.DataFrame]:
        """All tables by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    @property
    def slopes(self) -> pandas.DataFrame:
        """The slope of each pair: direction, pair, slope; pairs without one are left out."""
        known = self.samples[numpy.isfinite(self.samples["slope"])]
        return known[["direction", "pair", "slope"]].drop_duplicates(["direction", "pair"])


def load_evaluation(path: str | Path) -> Evaluation:
    """Reads an evaluation file.  Raises AnalysisError for what is missing, damaged, newer, or another kind of file."""
    return read_stored(path, "an evaluation file", "`bipo-dist evaluate`", _read)


def _read(file: h5py.File, name: str) -> Evaluation:
    attributes = {key: plain_value(value) for key, value in file.attrs.items()}
    _require_evaluation(file, attributes)
    require_checked_attributes(file)
    settings = json.loads(str(attributes["config"]))
    if not isinstance(settings, dict):
        raise ValueError("the attribute config is not a JSON object")
    return Evaluation(name, attributes, settings, **{table: _table(file, table) for table in COLUMNS})


def _require_evaluation(file: h5py.File, attributes: dict[str, object]) -> None:
    kind = attributes.get("kind")
    if kind == "sweep":
        raise AnalysisError("this is a collected sweep; `python -m bipo_analysis report` reads it")
    if kind is None and "steps" in file and "evals" in file:
        raise AnalysisError("this is the run file of a training; `bipo-dist evaluate --vector` makes an evaluation "
                            "file of it, and load_run reads it")
    if kind != "evaluation":
        raise AnalysisError("not an evaluation file; name a file that `bipo-dist evaluate` wrote")
    require_schema(attributes.get("schema_version"), EVALUATION_SCHEMA)


def _table(file: h5py.File, name: str) -> pandas.DataFrame:
    if name not in file:
        raise AnalysisError(f"it has no table /{name}: damaged, or not written by bipo-dist")
    table = read_table(file[name])
    missing = [column for column in COLUMNS[name] if column not in table]
    if missing:
        raise AnalysisError(f"its table /{name} lacks {', '.join(missing)}: damaged, or not written by bipo-dist")
    return table


def last_part(path: object) -> str:
    """A path without its folders."""
    return str(path or "").rstrip("/").rpartition("/")[2]


def direction_name(direction: str) -> str:
    """What readers call a direction."""
    return DIRECTIONS.get(direction, direction)


def short_name(direction: str) -> str:
    """What a table calls a direction."""
    return SHORT_NAMES.get(direction, direction)


def directions_in(rows: pandas.DataFrame) -> list[str]:
    """The directions of a table, in the order of DIRECTIONS, others after them."""
    found = list(dict.fromkeys(rows["direction"]))
    return sorted(found, key=lambda name: list(DIRECTIONS).index(name) if name in DIRECTIONS else len(DIRECTIONS))


def of_direction(rows: pandas.DataFrame, direction: str) -> pandas.DataFrame:
    """The rows of one direction, by multiplier where they have one."""
    own = rows[rows["direction"] == direction]
    return own.sort_values("multiplier", kind="stable") if "multiplier" in own else own


def in_order(rows: pandas.DataFrame) -> pandas.DataFrame:
    """All rows by direction, then multiplier."""
    parts = [of_direction(rows, direction) for direction in directions_in(rows)]
    return pandas.concat(parts) if parts else rows


def labels(evaluations: Iterable[Evaluation]) -> list[str]:
    """A name for each evaluation: its model, with the file's name where models repeat, with a number where both do."""
    listed = list(evaluations)
    models = [evaluation.model for evaluation in listed]
    names = [model if models.count(model) == 1 else f"{model} ({evaluation.name})"
             for model, evaluation in zip(models, listed, strict=True)]
    return [name if names.count(name) == 1 else f"{name} {names[:index + 1].count(name)}"
            for index, name in enumerate(names)]


def combined_table(evaluations: list[Evaluation], table: str) -> pandas.DataFrame:
    """One table of all evaluations, with the column `evaluation`, their labels, in front."""
    parts = [evaluation.tables[table] for evaluation in evaluations]
    named = [part.assign(evaluation=label) for label, part in zip(labels(evaluations), parts, strict=True)]
    # Empty tables know nothing of types: they would turn the others' into objects.
    whole = pandas.concat([part for part in named if len(part)] or named[:1], ignore_index=True)
    return whole[["evaluation", *(name for name in whole.columns if name != "evaluation")]]
