"""Reads evaluation files, and reckons their tables anew from the single samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy
import pandas

TABLES = ("curve", "steerability", "samples", "chosen", "choosing_pairs", "choices", "choice_items", "costs", "grid",
          "grid_samples", "judge", "judge_scores")


@dataclass(frozen=True)
class EvaluationFile:
    """The content of one file: every table as pandas reads it, texts as str."""

    attributes: dict
    tables: dict[str, pandas.DataFrame]
    units: dict[str, dict]

    def __getattr__(self, name: str) -> pandas.DataFrame:
        if name in TABLES:
            return self.tables[name]
        raise AttributeError(name)

    @property
    def config(self) -> dict:
        return json.loads(self.attributes["config"])

    def rows(self, table: str, **values: object) -> pandas.DataFrame:
        """The rows whose columns have the given values."""
        rows = self.tables[table]
        for name, value in values.items():
            rows = rows[rows[name] == value]
        return rows

    def row(self, table: str, **values: object) -> pandas.Series:
        rows = self.rows(table, **values)
        assert len(rows) == 1, f"/{table}: {len(rows)} rows with {values}\n{self.tables[table]}"
        return rows.iloc[0]


def read(path: Path) -> EvaluationFile:
    with h5py.File(path, "r") as file:
        tables = {name: as_frame(file[name][:]) for name in TABLES}
        units = {name: json.loads(file[name].attrs["units"]) for name in TABLES}
        return EvaluationFile(dict(file.attrs), tables, units)


def as_frame(table: numpy.ndarray) -> pandas.DataFrame:
    frame = pandas.DataFrame(table)
    for name in frame.columns:
        if frame[name].dtype == object:
            frame[name] = [value.decode("utf-8") for value in frame[name]]
    return frame


def assert_same_tables(left: EvaluationFile, right: EvaluationFile) -> None:
    """Bit for bit."""
    for name in TABLES:
        one, other = left.tables[name], right.tables[name]
        assert list(one.columns) == list(other.columns) and len(one) == len(other), name
        for column in one.columns:
            a, b = one[column].to_numpy(), other[column].to_numpy()
            same = list(a) == list(b) if a.dtype == object else a.tobytes() == b.tobytes()
            assert same, f"/{name}.{column}:\n{a}\n{b}"


def propensities(evaluation: EvaluationFile, direction: str) -> pandas.DataFrame:
    """[pair, multiplier], nats."""
    rows = evaluation.rows("samples", direction=direction)
    rows = rows.assign(propensity=rows["chosen_logp"] - rows["rejected_logp"])
    return rows.pivot(index="pair", columns="multiplier", values="propensity")


def rank_correlation(x: numpy.ndarray, y: numpy.ndarray) -> float:
    """Spearman's, ties having their average rank."""
    return float(numpy.corrcoef(pandas.Series(x).rank(), pandas.Series(y).rank())[0, 1])
