"""Reads the tensors that a helper program prints through tensor_stream.hpp."""

from __future__ import annotations

import json
from typing import BinaryIO

import torch

DTYPES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
          "BFloat16": torch.bfloat16}


def read(stream: BinaryIO) -> dict[str, torch.Tensor]:
    """All tensors up to the end of the stream, by name."""
    tensors, _ = _read(stream)
    return tensors


def read_answer(stream: BinaryIO) -> dict[str, torch.Tensor]:
    """All tensors up to the line "{}", by name."""
    tensors, is_whole = _read(stream)
    if not is_whole:
        raise EOFError("the stream ends within an answer")
    return tensors


def _read(stream: BinaryIO) -> tuple[dict[str, torch.Tensor], bool]:
    """Also returns whether the line "{}" ended them."""
    tensors = {}
    while line := stream.readline():
        header = json.loads(line)
        if not header:
            return tensors, True
        data = bytearray(stream.read(header["bytes"]))
        tensors[header["name"]] = torch.frombuffer(
            data, dtype=DTYPES[header["type"]]).reshape(header["shape"])
    return tensors, False
