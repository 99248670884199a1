"""Tiny GGUF files of newer architectures against the transformers 5.23.0 models they were made from."""

from __future__ import annotations

import functools
import subprocess

import pytest
import torch

from dumped_weights import PROGRAM as DUMP_WEIGHTS
from gguf_family_parity_test import Model, agrees, is_noticed
from tiny_gguf import make_model, newer_architectures, write_gguf

ARCHITECTURES = newer_architectures()
MISTAKES = [(name, mistake) for name, known in ARCHITECTURES.items() for mistake in known.mistakes]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the model of a name, once."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("architectures")
    return functools.cache(lambda name: Model(folder, name, ARCHITECTURES[name]))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_model(made, name):
    agrees(made(name))


@pytest.mark.parametrize("name, mistake", MISTAKES)
def test_a_reader_that_takes_it_for_another_model_would_be_noticed(made, tmp_path, name, mistake):
    is_noticed(made(name), mistake, tmp_path)


def with_shared_keys(writer, _tensors):
    writer.kv_data[0]["gemma4.attention.shared_kv_layers"].value = 2


def with_per_layer_inputs(writer, _tensors):
    writer.kv_data[0]["gemma4.embedding_length_per_layer_input"].value = 8


def with_experts(writer, _tensors):
    writer.add_expert_count(4)


def without_turning_pairs(_writer, tensors):
    del tensors["rope_freqs.weight"]


def without_a_scale(_writer, tensors):
    del tensors["blk.3.layer_output_scale.weight"]


@pytest.mark.parametrize("change, named", [
    (with_shared_keys, "gemma4.attention.shared_kv_layers"),
    (with_per_layer_inputs, "gemma4.embedding_length_per_layer_input"), (with_experts, "gemma4.expert_count"),
    (without_turning_pairs, "rope_freqs.weight"), (without_a_scale, "blk.3.layer_output_scale.weight")])
def test_what_is_not_computed_or_missing_is_refused_by_name(tmp_path, change, named):
    architecture = ARCHITECTURES["gemma4"]
    path = write_gguf(tmp_path / "model.gguf", architecture, make_model(architecture), change)
    run = subprocess.run([DUMP_WEIGHTS, path, "1", "0"], capture_output=True, check=False)
    assert run.returncode == 1
    message = run.stderr.decode()
    assert str(path) in message and named in message, message
