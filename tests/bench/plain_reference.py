"""Times optimiser steps of the plain, padded, two-forward reference and prints them as JSON.

    plain_reference.py --model DIR --pairs FILE.csv [--steps N] [--layer L] [--batch-size B] [--threads T]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "reference"
sys.path.insert(0, str(REFERENCE))

import torch  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

import pair_tokens  # noqa: E402
from plain_bipo import (Settings, TokenPair, batches_in_file_order, load_model, make_optimizer,  # noqa: E402
                        padded_training_step)


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    model = load_model(options.model)
    rows = pair_tokens.read_csv(options.pairs)[:options.steps * options.batch_size]
    pairs = pair_tokens.tokenize(AutoTokenizer.from_pretrained(options.model), rows)
    ready = time.perf_counter()
    print(json.dumps({"startup_seconds": ready - started, **time_steps(model, pairs, options)}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times the plain PyTorch reference's training step.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def time_steps(model, pairs: list[TokenPair], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds, loss and tokens of every step, in file order; tokens are those of the texts, unpadded."""
    settings = Settings(steps=options.steps, batch_size=options.batch_size)
    vector = torch.zeros(model.config.hidden_size, requires_grad=True)
    optimizer, schedule = make_optimizer(vector, settings)
    batches = batches_in_file_order(len(pairs), options.batch_size)
    seconds, losses, tokens = [], [], []
    for _ in range(options.steps):
        batch = pairs[next(batches)]
        begin = time.perf_counter()
        loss = padded_training_step(model, options.layer, vector, batch, optimizer, schedule, settings)
        seconds.append(time.perf_counter() - begin)
        losses.append(loss)
        tokens.append(sum(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in batch))
    return {"seconds": seconds, "loss": losses, "tokens": tokens}


if __name__ == "__main__":
    main()
