"""Several evaluations side by side: a vector on the model that it was trained on and on others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas

from .evaluation import RANDOM, VECTOR, Evaluation, direction_name, labels, of_direction
from .held_out_findings import interval_words
from .vectors_in_use import is_own_model, vectors_in_use
from .wording import joined, number, percent, signed


@dataclass(frozen=True, eq=False)
class Transfer:
    """Evaluations with a label each; `origin` is the index of the one on the model that the vectors were trained on.

    Where no file is of that model, the first one stands for it.
    """

    evaluations: list[Evaluation]
    labels: list[str]
    origin: int
    has_origin: bool

    @property
    def is_of_one_vector(self) -> bool:
        """Whether all evaluations used the same vectors with the same weights, as far as the files tell."""
        return len({tuple((used.file, used.layer, used.weight, number(used.norm, 3))
                          for used in vectors_in_use(evaluation)) for evaluation in self.evaluations}) == 1

    def vector_rows(self, table: str) -> list[tuple[str, pandas.DataFrame]]:
        """The vector's rows of a table, by label."""
        return [(label, of_direction(evaluation.tables[table], VECTOR))
                for label, evaluation in zip(self.labels, self.evaluations, strict=True)]

    def all_rows(self, table: str) -> list[tuple[str, pandas.DataFrame]]:
        """All rows of a table, by label."""
        return [(label, evaluation.tables[table])
                for label, evaluation in zip(self.labels, self.evaluations, strict=True)]


def compare(evaluations: Sequence[Evaluation]) -> Transfer:
    """Finds out which evaluation is that of the vectors' own model."""
    listed = list(evaluations)
    own = [index for index, evaluation in enumerate(listed) if is_own_model(evaluation)]
    return Transfer(listed, labels(listed), own[0] if own else 0, bool(own))


def transfer_findings(transfer: Transfer) -> list[str]:
    """How much of the steerability on the vectors' own model is left on each other one."""
    rows = [_steerability(evaluation) for evaluation in transfer.evaluations]
    origin, sentences = rows[transfer.origin], []
    for index, (label, row) in enumerate(zip(transfer.labels, rows, strict=True)):
        if index != transfer.origin:
            sentences.append(f"{label}: steerability was not measured." if row is None else
                             _kept(label, row, transfer.labels[transfer.origin], origin))
            sentences += _beside_random(label, transfer.evaluations[index], row)
    return sentences


def transfer_warnings(transfer: Transfer) -> list[str]:
    """Why the files may not be comparable."""
    warnings = []
    if not transfer.is_of_one_vector:
        warnings.append("These files evaluate different vectors or weights: what differs between them is not the model "
                        "alone.")
    elif not transfer.has_origin:
        warnings.append("None of these files is of the model that the vector was trained on, so far as they tell; "
                        f"{transfer.labels[0]}, the first, stands for it.")
    pairs = [int(rows["pairs"].max()) for _, rows in transfer.vector_rows("steerability") if len(rows)]
    if len(set(pairs)) > 1:
        counts = joined([str(count) for count in pairs])
        warnings.append(f"The files rest on {counts} held-out pairs: not the same ones.")
    return warnings


def _steerability(evaluation: Evaluation) -> pandas.Series | None:
    rows = of_direction(evaluation.steerability, VECTOR)
    return None if rows.empty or math.isnan(rows["steerability"].iloc[0]) else rows.iloc[0]


def _kept(label: str, row: pandas.Series, origin_label: str, origin: pandas.Series | None) -> str:
    text = f"On {label} steerability is {signed(row['steerability'])} ({interval_words(row, 'steerability')})"
    if origin is not None and origin["steerability_low"] > 0:
        text += (f", {percent(row['steerability'] / origin['steerability'], 0)} of the "
                 f"{number(origin['steerability'])} on {origin_label}")
    if row["steerability_low"] > 0:
        return f"{text}: the vector steers there, too."
    if row["steerability_high"] < 0:
        return f"{text}: there it steers the wrong way."
    return f"{text}: no transfer is shown, for 0 lies within the interval."


def _beside_random(label: str, evaluation: Evaluation, own: pandas.Series | None) -> list[str]:
    rows = of_direction(evaluation.steerability, RANDOM)
    if own is None or rows.empty or rows["steerability_high"].iloc[0] < own["steerability_low"]:
        return []
    return [f"On {label} the {direction_name(RANDOM)} is not clearly worse: {signed(rows['steerability'].iloc[0])} "
            f"({interval_words(rows.iloc[0], 'steerability')})."]
