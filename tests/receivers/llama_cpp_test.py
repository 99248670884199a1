"""Exported GGUF control vectors in llama.cpp: the real model's vectors on the first, middle and last block, two files at
once, and one vector on tiny models of the architectures."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

import gguf_models
import receivers
import tiny_gguf

SETTINGS = {
    "first": {"first": 1.0}, "middle": {"middle": -1.5}, "last": {"last": 1.0},
    "two": {"middle": 1.0, "last": -2.0}, "two-on-one-block": {"middle": 1.0, "middle-2": 0.5}}
# llama.cpp makes of these files the model that transformers makes of the same weights.
ARCHITECTURES = ("llama_llama3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "seed_oss", "olmo2", "exaone4_small",
                 "granite", "glm4", "ernie4_5", "smollm3", "phi3", "phi3_longrope")
# It leaves out Phi-3's window, and takes long factors where its context, here 256, is above the original one.
CHANGED = {"phi3": {"sliding_window": None},
           "phi3_longrope": {"original_max_position_embeddings": 512, "max_position_embeddings": 4096}}
TINY_TOKENS = [3 + 5 * place for place in range(12)]


@pytest.fixture(scope="module")
def in_float32(directory, model, tmp_path_factory) -> Path:
    """The model as a GGUF file in float32, so that llama.cpp computes in float32."""
    folder = tmp_path_factory.mktemp("gguf")
    model.save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directory / name, folder / "model")
    path = gguf_models.write_gguf(folder / "model.gguf", folder / "model")
    shutil.rmtree(folder / "model")
    return path


def applied(path: Path, tokens: list[int], settings: list) -> torch.Tensor:
    return receivers.apply("llama-cpp", "apply_llama_cpp.py",
                           {"model": str(path), "tokens": tokens, "settings": settings})


@pytest.mark.parametrize("name", SETTINGS)
def test_the_real_model(directory, in_float32, model, answers, runs, tmp_path, name):
    used = [(runs[vector], scale) for vector, scale in SETTINGS[name].items()]
    files = [[run.export("gguf", tmp_path / f"{place}.gguf"), scale] for place, (run, scale) in enumerate(used)]
    ours = receivers.program_log_probs(directory, [f"{run.path}@{scale}" for run, scale in used], tmp_path)
    for answer, log_prob in zip(answers, ours, strict=True):
        (found,) = applied(in_float32, answer.tokens, [files])
        assert answer.log_prob(found) == pytest.approx(log_prob, abs=receivers.LOG_PROB_TOLERANCE)
    distance = receivers.assert_applied(model, answer.tokens, used, found)
    print(f"llama.cpp, {name}: KL {distance:.1e}")


def test_three_layers_in_one_file(in_float32, model, answers, runs, tmp_path):
    used = [runs["first"], runs["middle"], runs["last"]]
    path = receivers.export_together(used, "gguf", tmp_path / "v.gguf")
    answer = answers[0]
    (found,) = applied(in_float32, answer.tokens, [[[path, 1.0]]])
    distance = receivers.assert_applied(model, answer.tokens, [(run, 1.0) for run in used], found)
    print(f"llama.cpp, three layers in one file: KL {distance:.1e}")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tiny_models(tmp_path, name):
    # transformers 4.57.6 leaves out Gemma 2's soft cap of attention unless this is "eager".
    architecture = tiny_gguf.architectures()[name]
    architecture = dataclasses.replace(architecture, config={
        **architecture.config, **CHANGED.get(name, {}), "attn_implementation": "eager"})
    model = tiny_gguf.make_model(architecture).eval()
    path = tiny_gguf.write_gguf(tmp_path / "model.gguf", architecture, model,
                                lambda writer, _: writer.add_token_merges(["t o"]))  # llama.cpp wants one at least
    last = model.config.num_hidden_layers - 1
    runs = [receivers.write_run(tmp_path / f"{block}.h5", block,
                                receivers.random_vector(model.config.hidden_size, 3.0, block), path)
            for block in (1, last // 2, last)]
    files = [[[run.export("gguf", tmp_path / f"{run.block}.gguf"), 1.0]] for run in runs]
    for run, found in zip(runs, applied(path, TINY_TOKENS, files), strict=True):
        distance = receivers.assert_applied(model, TINY_TOKENS, [(run, 1.0)], found)
        print(f"llama.cpp, {name}, block {run.block}: KL {distance:.1e}")


def test_a_model_of_another_width_is_not_steered(in_float32, answers, tmp_path):
    run = receivers.write_run(tmp_path / "run.h5", 1, receivers.random_vector(64, 3.0, 1), in_float32)
    with pytest.raises(AssertionError, match="llama_set_adapter_cvec: -1"):
        applied(in_float32, answers[0].tokens, [[[run.export("gguf", tmp_path / "v.gguf"), 1.0]]])
