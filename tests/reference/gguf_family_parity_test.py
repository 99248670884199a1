"""Tiny GGUF files of every architecture against the transformers models they were made from, and against what
transformers reads in the same files, where it reads them."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from dumped_weights import PROGRAM as DUMP_WEIGHTS
from family_parity_test import (LARGEST_DIVERGENCE, LEAST_EFFECT, MIDDLE, PAIRS, Case, largest_change, program_scores,
                                unsteered, vector)
from float64_oracle import FLOAT64_BY_FLOAT32, Oracle, distances
from make_reference import require_pinned_versions
from selection import every_second
from tiny_families import read_config, write_copy
from tiny_gguf import Architecture, architectures, make_model, read_gguf, write_gguf

ARCHITECTURES = architectures()
MISTAKES = [case for name, known in ARCHITECTURES.items()
            for case in every_second((name, mistake) for mistake in known.mistakes)]
# One case is enough where each takes seconds.
MANY_BLOCKS = 40


class Model:
    """A model as a directory and as a GGUF file, with what float64 says of it and what float32 may say."""

    def __init__(self, folder: Path, name: str, architecture: Architecture):
        self.architecture = architecture
        source = make_model(self.architecture)
        self.directory = folder / name
        source.save_pretrained(self.directory)
        self.file = write_gguf(folder / f"{name}.gguf", self.architecture, source)
        self.oracle = Oracle(self.directory, PAIRS)
        self.cases = [unsteered(self.oracle)]
        if self.oracle.model.config.num_hidden_layers < MANY_BLOCKS:
            self.cases.append(Case(MIDDLE, vector(self.oracle.hidden_size)))
        names = [case.name for case in self.cases]
        sites = [(case.layer, case.vector) for case in self.cases]
        exact = self.oracle.all_scores(sites)
        self.exact = dict(zip(names, exact))
        self.bounds = dict(zip(names, self.oracle.float32_bounds(sites, exact)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Makes the model of a name, once."""
    require_pinned_versions()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("architectures")
    return functools.cache(lambda name: Model(folder, name, ARCHITECTURES[name]))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(model, name):
    """Packed and split over one to three ranks, in float32 by the fused loops and in float64 by plain ones."""
    agrees(model(name))


def agrees(made: Model) -> None:
    types = ("float32", "float64") if made.architecture.is_exact else ("float32",)
    found = program_scores(made.file, made.cases, (1, 2, 3), types)
    for (number, ranks, case), scores in found.items():
        distance = distances(scores, made.exact[case])
        bound = made.bounds[case] * (FLOAT64_BY_FLOAT32 if number == "float64" else 1.0)
        assert distance.within(bound), f"{number}, tp {ranks}, {case}: {distance}, may be {bound}"
        assert distance.divergence < LARGEST_DIVERGENCE, f"{number}, tp {ranks}, {case}: {distance}"


@pytest.mark.parametrize("name", [name for name, known in ARCHITECTURES.items() if known.unread is not None])
def test_transformers_reads_the_same_model_in_the_file(model, name):
    made = model(name)
    theirs = Oracle(read_gguf(made.file, made.architecture.unread), PAIRS)
    for case in made.cases:
        distance = distances(theirs.scores(case.layer, case.vector), made.exact[case.name])
        bound = made.bounds[case.name] * FLOAT64_BY_FLOAT32
        assert distance.within(bound), f"{case.name}: {distance}, may be {bound}"


@pytest.mark.parametrize("name, mistake", MISTAKES)
def test_a_reader_that_takes_it_for_another_model_would_be_noticed(model, tmp_path, name, mistake):
    is_noticed(model(name), mistake, tmp_path)


def is_noticed(made: Model, mistake: str, tmp_path: Path) -> None:
    case = unsteered(made.oracle)
    other = write_copy(tmp_path / "model", made.directory,
                       {**read_config(made.directory), **made.architecture.mistakes[mistake]})
    effect = largest_change(Oracle(other, PAIRS).log_probs(), made.exact[case.name].log_probs)
    assert effect > LEAST_EFFECT * made.bounds[case.name].log_probs


def writing_key(writer, _tensors):
    writer.add_uint32("gemma2.some_new_scale", 1)


def without_norm(_writer, tensors):
    del tensors["blk.3.post_ffw_norm.weight"]


def with_norm_of_another_family(_writer, tensors):
    tensors["blk.3.attn_q_norm.weight"] = np.ones(10, np.float32)


@pytest.mark.parametrize("change, named", [
    (writing_key, "gemma2.some_new_scale"), (without_norm, "blk.3.post_ffw_norm.weight"),
    (with_norm_of_another_family, "blk.3.attn_q_norm.weight")])
def test_what_is_unknown_missing_or_too_much_is_refused_by_name(tmp_path, change, named):
    architecture = ARCHITECTURES["gemma2"]
    path = write_gguf(tmp_path / "model.gguf", architecture, make_model(architecture), change)
    run = subprocess.run([DUMP_WEIGHTS, path, "1", "0"], capture_output=True, check=False)
    assert run.returncode == 1
    message = run.stderr.decode()
    assert str(path) in message and named in message, message
    assert message.count("blk.") <= 1, message
