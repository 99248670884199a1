#!/usr/bin/env bash
# Guess: memory that a freed CPU tensor gives back serves the next tensor of the same size, as malloc does it.
#
# torch 2.11.0 with glibc 2.36: libtorch allocates CPU tensors by posix_memalign at 64 bytes, and glibc looks for an
# aligned block among free ones that hold size + alignment. Where sizes are multiples of 64, as those of rows of 64
# floats are, a hole between two living tensors is a little too small for the next tensor of exactly its size, and the
# process grows. Blocks of plain malloc (numpy below) do take the holes. In training, where results are kept between
# temporaries of the same shapes, resident memory reached 1.7 times that of the living tensors; torch's own counters do
# not show it.
#
# Exits 0 while that is so, 1 when it has changed (another glibc or torch may differ).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.11.0 numpy==2.3.5
cat >"$folder/show.py" <<'PYTHON'
import platform

import numpy
import torch

SIZES = range(64_000, 128_000, 6_400)  # rows of 64 floats; below the size for which glibc maps pages of its own
COUNT = 400


def reused(make, address):
    """How many of the holes between living blocks serve as many new blocks of their size."""
    blocks = [make() for _ in range(COUNT)]
    holes = set()
    for i in range(1, COUNT, 2):
        holes.add(address(blocks[i]))
        blocks[i] = None
    later = [make() for _ in holes]
    return sum(address(block) in holes for block in later)


tensors = sum(reused(lambda: torch.empty(size, dtype=torch.uint8), lambda tensor: tensor.data_ptr()) for size in SIZES)
arrays = sum(reused(lambda: numpy.empty(size, numpy.uint8), lambda array: array.ctypes.data) for size in SIZES)
holes = len(SIZES) * COUNT // 2
print(f"torch {torch.__version__}, {' '.join(platform.libc_ver())}: of {holes} holes new tensors take {tensors}, "
      f"new numpy arrays (malloc) {arrays}")
raise SystemExit(0 if tensors < 0.5 * holes and arrays > 0.9 * holes else 1)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py"
# Seen on 2026-11-29:
# torch 2.11.0+cu130, glibc 2.36: of 2000 holes new tensors take 258, new numpy arrays (malloc) 2000
