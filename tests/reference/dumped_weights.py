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
