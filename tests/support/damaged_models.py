"""Copies of a model directory with one thing wrong in them."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def copy_of(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder / "damaged"))


def edit_json(path: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_safetensors(path: Path, edit: Callable[[dict, bytearray], None]) -> None:
    """Rewrites the file after `edit` changed its header (a dict) or its data in place."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8:8 + size]), bytearray(content[8 + size:])
    edit(header, data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def rewrite_header(path: Path, edit: Callable[[str], str]) -> None:
    """Replaces the header's text, which need not be what a JSON library would write."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    encoded = edit(content[8:8 + size].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + size:])


def truncate(path: Path, drop: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-drop])


def declare_header_size(path: Path, size: int) -> None:
    """Replaces the first eight bytes, which say how long the header is."""
    path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])


def in_file_order(header: dict) -> list[str]:
    names = [name for name in header if name != "__metadata__"]
    return sorted(names, key=lambda name: header[name]["data_offsets"][0])


def overlap_two_tensors(header: dict, data: bytearray) -> None:
    """Moves every tensor but the first one element back; the last bytes go with them."""
    moved = 4
    for name in in_file_order(header)[1:]:
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin - moved, end - moved]
    del data[-moved:]


def leave_a_hole(header: dict, data: bytearray) -> None:
    """Puts bytes that belong to no tensor before the last one."""
    last = in_file_order(header)[-1]
    begin, end = header[last]["data_offsets"]
    data[begin:begin] = bytes(64)
    header[last]["data_offsets"] = [begin + 64, end + 64]


def point_past_the_end(header: dict, _data: bytearray) -> None:
    """The last tensor's bytes end where the file has none; its size still fits its shape."""
    last = in_file_order(header)[-1]
    begin, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [begin + 4096, end + 4096]


def claim_another_shape(header: dict, _data: bytearray) -> None:
    """A tensor whose shape does not fit its number of bytes."""
    header[in_file_order(header)[0]]["shape"][0] += 1


def add_tensor(header: dict, data: bytearray, name: str, values: bytes, dtype: str,
               shape: list[int]) -> None:
    header[name] = {"dtype": dtype, "shape": shape,
                    "data_offsets": [len(data), len(data) + len(values)]}
    data += values


def remove_a_tensor(header: dict, data: bytearray) -> str:
    """Takes the last tensor of the file out cleanly; returns its name."""
    last = in_file_order(header)[-1]
    begin, _ = header.pop(last)["data_offsets"]
    del data[begin:]
    return last
