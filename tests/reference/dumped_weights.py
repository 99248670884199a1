"""Runs dump_weights and reads what it prints."""

import json
import os
import subprocess
from pathlib import Path

import tensor_stream

PROGRAM = Path(os.environ["BIPO_BUILD_DIR"], "tests", "reference", "dump_weights")


def dump(model, tp, rank, *adapter):
    """The configuration, and by Hugging Face name the weights that a rank reads."""
    run = subprocess.Popen([PROGRAM, model, str(tp), str(rank), *adapter], stdout=subprocess.PIPE)
    config = json.loads(run.stdout.readline())
    weights = tensor_stream.read(run.stdout)
    assert run.wait() == 0
    return config, weights


def dump_all(model, most_ranks, *adapter):
    """By number of ranks, from 1 to `most_ranks`, and rank: the weights that it reads. One process reads them all,
    because libtorch takes longer to load than a tiny model."""
    _, weights = dump(model, most_ranks, "all", *adapter)
    parts = {}
    for name, values in weights.items():
        tp, rank, own_name = name.split("/", 2)
        parts.setdefault((int(tp), int(rank)), {})[own_name] = values
    assert list(parts) == [(tp, rank) for tp in range(1, most_ranks + 1) for rank in range(tp)]
    return parts
