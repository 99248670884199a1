"""What readers call an evaluation, its vectors and its directions: what tells them apart comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import pandas

from .evaluation import DIRECTIONS, VECTOR, Evaluation, direction_name
from .vectors_in_use import vectors_in_use
from .wording import plain


def labels(evaluations: Iterable[Evaluation]) -> list[str]:
    """A name for each evaluation: what differs of model (with adapter), vectors, their use, and data set.

    Where nothing does it is the model, with the file's name, and with a number where that repeats, too.
    """
    listed = list(evaluations)
    models = model_names(listed)
    parts = [names for names in (models, vector_names(listed), use_names(listed), data_names(listed))
             if len(set(names)) > 1] or [models]
    names = [", ".join(part for part in own if part) or model for *own, model in zip(*parts, models, strict=True)]
    names = [name if names.count(name) == 1 else f"{name} ({evaluation.name})"
             for name, evaluation in zip(names, listed, strict=True)]
    return [name if names.count(name) == 1 else f"{name} {names[:index + 1].count(name)}"
            for index, name in enumerate(names)]


def model_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Models, each with its adapter, with as many folders as tell different ones apart."""
    models = _shortest([_path(evaluation, "model") or evaluation.name for evaluation in evaluations])
    adapters = _shortest([_path(evaluation, "adapter") for evaluation in evaluations])
    return [" + ".join(name for name in names if name) for names in zip(models, adapters, strict=True)]


def vector_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """The vectors of each evaluation: "warmth.h5", "warmth.h5 + 0.5 cold.h5"; "vector" where the file names none."""
    used = [vectors_in_use(evaluation) for evaluation in evaluations]
    files = iter(_shortest([vector.path for vectors in used for vector in vectors]))
    named = [[(vector, next(files)) for vector in vectors] for vectors in used]
    plainly = [" + ".join(_weighted(file, vector.weight) for vector, file in vectors) for vectors in named]
    # One file may hold the vectors of several epochs; one that was chosen is named.
    epochs = [tuple(vector.epoch for vector in vectors) for vectors in used]
    tell = len(set(zip(plainly, epochs, strict=True))) > len(set(plainly))
    return [" + ".join(
        f"{_weighted(file, vector.weight)} of epoch {vector.epoch + 1}"
        if vector.epoch is not None and (tell or vector.selected) else _weighted(file, vector.weight)
        for vector, file in vectors) or VECTOR for vectors in named]


def use_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """How the vectors were used, "" for the usual: "null", "clamp:2, gate g.h5:0.5", "at prompt"."""
    usual = (None, "add", "none", "all", "as the vectors were trained")
    named = (("intervention", "{}"), ("gate", "gate {}"), ("positions", "at {}"))
    uses = [[form.format(evaluation.settings[key]) for key, form in named if evaluation.settings.get(key) not in usual]
            + ["begin-of-sequence not steered"] * (evaluation.settings.get("steer_bos") in (False, "off"))
            for evaluation in evaluations]
    return [", ".join(use) for use in uses]


def data_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """The files of held-out pairs."""
    return _shortest([_path(evaluation, "test") for evaluation in evaluations])


def single_vector_names(evaluation: Evaluation) -> list[str]:
    """The name of each vector of one evaluation, in their order."""
    return _shortest([vector.path for vector in vectors_in_use(evaluation)])


def direction_names(evaluation: Evaluation) -> dict[str, str]:
    """What a plot's legend calls the directions: what was evaluated by its file's name."""
    named = {name: direction_name(name, evaluation.noun) for name in DIRECTIONS}
    return {**named, VECTOR: vector_names([evaluation])[0]}


def combined_table(evaluations: list[Evaluation], table: str) -> pandas.DataFrame:
    """One table of all evaluations, with the column `evaluation`, their labels, in front."""
    parts = []
    for label, evaluation in zip(labels(evaluations), evaluations, strict=True):
        rows = [evaluation.tables[table], *(draws for name, draws in evaluation.other_draws.items() if name == table)]
        parts += [part.assign(evaluation=label) for part in rows]
    # Empty tables know nothing of types: they would turn the others' into objects.
    whole = pandas.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return whole[["evaluation", *(name for name in whole.columns if name != "evaluation")]]


def _path(evaluation: Evaluation, key: str) -> str:
    return str(evaluation.settings.get(key) or evaluation.attributes.get(key) or "")


def _shortest(paths: Sequence[str]) -> list[str]:
    """The last part of each path, with as many folders before it as tell different paths apart."""
    split = [PurePosixPath(path.rstrip("/")).parts for path in paths]
    tails: list[str] = []
    for count in range(1, max([1, *map(len, split)]) + 1):
        tails = ["/".join(parts[-count:]) for parts in split]
        if len(set(tails)) == len(set(split)):
            break
    return tails


def _weighted(file: str, weight: float) -> str:
    return file if weight == 1 else f"{plain(weight)} {file}"
