"""Several evaluations side by side: a vector on the model that it was trained on and on others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas

from .evaluation import CONCEPTOR, RANDOM, VECTOR, Evaluation, direction_name, of_direction
from .held_out_findings import interval_words
from .names import data_names, labels, model_names, vector_names
from .paired import paired_slopes, slopes_between
from .vectors_in_use import is_own_model, vectors_in_use
from .wording import counted, joined, number, percent, signed, span


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
        return len({tuple((used.file, used.layers, used.weight, number(used.norm, 3))
                          for used in vectors_in_use(evaluation)) for evaluation in self.evaluations}) == 1

    @property
    def noun(self) -> str:
        """What is evaluated: "vector", "conceptor", or "vector or conceptor" where there are both."""
        nouns = {evaluation.noun for evaluation in self.evaluations}
        return nouns.pop() if len(nouns) == 1 else f"{VECTOR} or {CONCEPTOR}"

    @property
    def nouns(self) -> str:
        """The same in the plural."""
        return " and ".join(f"{noun}s" for noun in self.noun.split(" or "))

    @property
    def models(self) -> int:
        """How many different models, adapters included, the files are of."""
        return len(set(model_names(self.evaluations)))

    @property
    def is_of_models(self) -> bool:
        """Whether one vector was evaluated on several models, which is a transfer."""
        return self.models > 1 and self.is_of_one_vector

    @property
    def title(self) -> str:
        """What the page is about: "warmth.h5 on smollm2 (test.csv)", or what there are several of."""
        models, vectors, data = (list(dict.fromkeys(names(self.evaluations)))
                                 for names in (model_names, vector_names, data_names))
        if self.models > 1:
            return f"{vectors[0]} on {counted(self.models, 'model')}" if len(vectors) == 1 else \
                f"Steering on {counted(self.models, 'model')}"
        where = f"{models[0]} ({data[0]})" if len(data) == 1 and data[0] else models[0]
        if len(vectors) > 1:
            return f"{len(vectors)} {self.nouns} on {where}"
        if len(data) > 1:
            return f"{vectors[0]} on {models[0]}: {counted(len(data), 'data set')}"
        count = "" if len(self.evaluations) == 1 else f": {counted(len(self.evaluations), 'evaluation')}"
        return f"{vectors[0]} on {where}{count}"

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
    """How much of the steerability on the vectors' own model is left on each other one, or how the files compare."""
    if not transfer.is_of_models:
        return _side_by_side(transfer)
    rows = [_steerability(evaluation) for evaluation in transfer.evaluations]
    origin, sentences = rows[transfer.origin], []
    for index, (label, row) in enumerate(zip(transfer.labels, rows, strict=True)):
        if index != transfer.origin:
            sentences.append(f"{label}: steerability was not measured." if row is None else
                             _kept(label, row, transfer.labels[transfer.origin], origin, transfer.noun))
            sentences += _beside_random(label, transfer.evaluations[index], row)
    return sentences


def transfer_warnings(transfer: Transfer) -> list[str]:
    """Why the files may not be comparable."""
    warnings = []
    if transfer.models > 1 and not transfer.is_of_one_vector:
        warnings.append(f"These files evaluate different {transfer.nouns} or weights: what differs between them is "
                        "not the model alone.")
    elif transfer.models > 1 and not transfer.has_origin:
        made = "made on" if transfer.noun == CONCEPTOR else "trained on"
        warnings.append(f"None of these files is of the model that the {transfer.noun} was {made}, so far as they "
                        f"tell; {transfer.labels[0]}, the first, stands for it.")
    pairs = [int(rows["pairs"].max()) for _, rows in transfer.vector_rows("steerability") if len(rows)]
    if len(set(pairs)) > 1:
        counts = joined([str(count) for count in pairs])
        warnings.append(f"The files rest on {counts} held-out pairs: not the same ones.")
    elif transfer.models > 1 and len({evaluation.test_data for evaluation in transfer.evaluations}) > 1:
        warnings.append("The files rest on different data sets: what differs between them is not the model alone.")
    return warnings


def _steerability(evaluation: Evaluation) -> pandas.Series | None:
    rows = of_direction(evaluation.steerability, VECTOR)
    return None if rows.empty or math.isnan(rows["steerability"].iloc[0]) else rows.iloc[0]


def _kept(label: str, row: pandas.Series, origin_label: str, origin: pandas.Series | None, noun: str) -> str:
    text = f"On {label} steerability is {signed(row['steerability'])} ({interval_words(row, 'steerability')})"
    if origin is not None and origin["steerability_low"] > 0:
        text += (f", {percent(row['steerability'] / origin['steerability'], 0)} of the "
                 f"{number(origin['steerability'])} on {origin_label}")
    if row["steerability_low"] > 0:
        return f"{text}: the {noun} steers there, too."
    if row["steerability_high"] < 0:
        return f"{text}: there it steers the wrong way."
    return f"{text}: no transfer is shown, for 0 lies within the interval."


def _beside_random(label: str, evaluation: Evaluation, own: pandas.Series | None) -> list[str]:
    rows, lead = of_direction(evaluation.steerability, RANDOM), paired_slopes(evaluation, VECTOR, RANDOM)
    if own is None or rows.empty or math.isnan(lead.interval.low) or lead.interval.low > 0:
        return []
    return [f"On {label} the {direction_name(RANDOM, evaluation.noun)} is not clearly worse: "
            f"{signed(rows['steerability'].iloc[0])} ({interval_words(rows.iloc[0], 'steerability')}); pair by pair "
            f"the {evaluation.noun}'s slope differs from its by {span(*lead.interval)}."]


def _side_by_side(transfer: Transfer) -> list[str]:
    """The steerability in each file, and the differences from the first where the pairs are the same ones."""
    sentences, first = [], transfer.evaluations[0]
    for label, evaluation in zip(transfer.labels, transfer.evaluations, strict=True):
        row = _steerability(evaluation)
        if row is None:
            sentences.append(f"{label}: steerability was not measured.")
            continue
        text = f"{label}: steerability is {signed(row['steerability'])} ({interval_words(row, 'steerability')})"
        change = slopes_between(evaluation, first)
        if evaluation is not first and _has_same_pairs(evaluation, first) and not math.isnan(change.interval.low):
            verdict = "" if change.is_certain else ", which leaves open which of the two steers better"
            text += (f"; pair by pair that is {signed(change.value)} against {transfer.labels[0]} "
                     f"(difference {span(*change.interval)}){verdict}")
        sentences.append(f"{text}.")
    return sentences


def _has_same_pairs(one: Evaluation, other: Evaluation) -> bool:
    """Whether two evaluations rest on the same held-out pairs: by the hash of their tokens."""
    mine, theirs = (evaluation.settings.get("test_tokens_hash") for evaluation in (one, other))
    return mine is not None and mine == theirs
