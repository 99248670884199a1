"""Measures, in a process of its own, what this machine reaches at a model's matrix shapes and prints it as JSON.

    machine_peak.py --model DIR --tokens T --threads N [--seconds S]

The products are those of one block, forward (x W^T) and backward (g W), each timed by itself and weighted as the
block weighs them: the peak is the block's floating-point operations over the sum of its products' median times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import linear

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COPIED_FLOATS = 32 * 1024 * 1024  # 128 MiB: far beyond any cache
FEWEST_REPEATS = 5


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shapes = block_shapes(json.loads((options.model / "config.json").read_text(encoding="utf-8")))
    report = {name: product_peak(shapes, options.tokens, dtype, options.seconds)
              for name, dtype in DTYPES.items()}
    print(json.dumps({**report, "copy": copy_bandwidth(options.seconds / 4)}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak of matrix products and of copying.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=1.5, help="spent per dtype, about")
    return parser.parse_args()


def block_shapes(config: dict) -> list[tuple[int, int]]:
    """[out, in] of a block's four products, with q, k, v as one and gate, up as one."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    queries, keys = heads * size, config.get("num_key_value_heads", heads) * size
    return [(queries + 2 * keys, hidden), (hidden, queries), (2 * inner, hidden), (hidden, inner)]


@torch.no_grad()
def product_peak(shapes: list[tuple[int, int]], tokens: int, dtype: torch.dtype, budget: float) -> float:
    """FLOP/s of one block's products, forward and backward."""
    products = []
    for rows, columns in shapes:
        weight = torch.randn(rows, columns).to(dtype)
        products.append(lambda x=torch.randn(tokens, columns).to(dtype), w=weight: linear(x, w))
        products.append(lambda g=torch.randn(tokens, rows).to(dtype), w=weight: g @ w)
    operations = sum(4 * tokens * rows * columns for rows, columns in shapes)
    return operations / sum(median_seconds(product, budget / len(products)) for product in products)


def copy_bandwidth(budget: float) -> float:
    """Bytes read and written per second by copying memory that no cache holds."""
    source = torch.ones(COPIED_FLOATS)
    target = torch.zeros(COPIED_FLOATS)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), budget)


def median_seconds(work: Callable[[], object], budget: float) -> float:
    """Of repeats that together take about `budget` seconds; the first call warms up."""
    work()
    seconds: list[float] = []
    while len(seconds) < FEWEST_REPEATS or sum(seconds) < budget:
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
