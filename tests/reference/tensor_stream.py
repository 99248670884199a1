"""Reads the tensors that a helper program prints through tensor_stream.hpp."""

from __future__ import annotations

import json
from typing import BinaryIO

import torch

DTYPES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
          "BFloat16": torch.bfloat16}


def read(stream: BinaryIO) -> dict[str, torch.Tensor]:
    """All tensors up to an empty line or the end of the stream, by name."""
    tensors = {}
    while line := stream.readline().strip():
        header = json.loads(line)
        data = bytearray(stream.read(header["bytes"]))
        tensors[header["name"]] = torch.frombuffer(
            data, dtype=DTYPES[header["type"]]).reshape(header["shape"])
    return tensors
