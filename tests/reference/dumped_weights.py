"""Runs dump_weights and reads what it prints."""

import json
import os
import subprocess
from pathlib import Path

import torch

PROGRAM = Path(os.environ["BIPO_BUILD_DIR"], "tests", "reference", "dump_weights")
DTYPES = {"Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16}


def dump(model, tp, rank):
    """The configuration, and by Hugging Face name the weights that a rank reads."""
    run = subprocess.Popen([PROGRAM, model, str(tp), str(rank)], stdout=subprocess.PIPE)
    config = json.loads(run.stdout.readline())
    weights = {}
    while line := run.stdout.readline():
        header = json.loads(line)
        data = bytearray(run.stdout.read(header["bytes"]))
        weights[header["name"]] = torch.frombuffer(
            data, dtype=DTYPES[header["type"]]).reshape(header["shape"])
    assert run.wait() == 0
    return config, weights
