"""The real model and vectors on its first, middle and last block, for the tests of receivers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import program
import receivers

# Block, length (about a quarter of the residual stream's there) and seed. A control vector cannot reach block 0.
VECTORS = {"first": (1, 12.0, 1), "middle": (15, 30.0, 2), "middle-2": (15, 30.0, 3), "last": (29, 60.0, 4)}


@pytest.fixture(scope="session")
def directory() -> Path:
    return program.smollm2_directory()


@pytest.fixture(scope="session")
def model(directory) -> PreTrainedModel:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def answers(directory) -> list[receivers.Answer]:
    return receivers.answers(directory)


@pytest.fixture(scope="session")
def runs(directory, model, tmp_path_factory) -> dict[str, receivers.Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: receivers.write_run(folder / f"{name}.h5", block,
                                      receivers.random_vector(model.config.hidden_size, norm, seed), directory)
            for name, (block, norm, seed) in VECTORS.items()}
