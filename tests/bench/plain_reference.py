"""Times optimiser steps of the plain, padded reference in a process of its own and prints them as JSON.

    plain_reference.py --model DIR --pairs FILE.csv --steps N [--layer L] [--batch-size B] [--threads T]
                       [--precomputed-reference]

Every step has a policy and a reference pass; with --precomputed-reference, the reference passes are made once,
before the first step.  With --steps 0 no model is loaded and only the pairs' token counts are printed.
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
from transformers import AutoTokenizer, PreTrainedModel  # noqa: E402

import pair_tokens  # noqa: E402
from plain_bipo import (PairLogps, Settings, TokenPair, batches_in_file_order, load_model,  # noqa: E402
                        make_optimizer, padded_pair_logps, padded_training_step, pair_losses, update)

PLUS = 1.0


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    pairs = pair_tokens.tokenize(AutoTokenizer.from_pretrained(options.model),
                                 pair_tokens.read_csv(options.pairs))
    report = {"pairs": [[len(p.prompt), len(p.chosen), len(p.rejected)] for p in pairs]}
    if options.steps > 0:
        report |= time_steps(load_model(options.model), pairs, options)
    print(json.dumps(report))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times the plain PyTorch reference's training step.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=Settings.lr)
    parser.add_argument("--horizon", type=int, help="steps of the learning rate's schedule (default --steps)")
    parser.add_argument("--precomputed-reference", action="store_true")
    return parser.parse_args()


def time_steps(model: PreTrainedModel, pairs: list[TokenPair],
               options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds and loss of every step, in file order and without warm-up of the learning rate."""
    settings = Settings(steps=options.horizon or options.steps, lr=options.lr, warmup_steps=0,
                        batch_size=options.batch_size)
    order = batches_in_file_order(len(pairs), options.batch_size)
    batches = [pairs[next(order)] for _ in range(options.steps)]
    distinct = batches[:-(-len(pairs) // options.batch_size)]
    references = reference_logps(model, options.layer, distinct) if options.precomputed_reference else None
    vector = torch.zeros(model.config.hidden_size, requires_grad=True)
    optimizer, schedule = make_optimizer(vector, settings)
    seconds, losses = [], []
    for number, batch in enumerate(batches):
        begin = time.perf_counter()
        if references is None:
            loss = padded_training_step(model, options.layer, vector, batch, optimizer, schedule, settings)
        else:
            loss = step_with_reference(model, options.layer, vector, batch,
                                       references[number % len(distinct)], optimizer, schedule, settings)
        seconds.append(time.perf_counter() - begin)
        losses.append(loss)
    return {"seconds": seconds, "loss": losses}


def reference_logps(model: PreTrainedModel, layer: int, batches: list[list[TokenPair]]) -> list[PairLogps]:
    """Log-probabilities of every batch under the unsteered model, from the same padded passes as a step's."""
    with torch.no_grad():
        return [padded_pair_logps(model, layer, None, batch) for batch in batches]


def step_with_reference(model: PreTrainedModel, layer: int, vector: torch.Tensor, pairs: list[TokenPair],
                        reference: PairLogps, optimizer, schedule, settings: Settings) -> float:
    """One step with the padded policy pass only; returns the loss."""
    policy = padded_pair_logps(model, layer, PLUS * vector, pairs)
    loss = pair_losses(policy, reference, PLUS, settings.beta).mean()
    loss.backward()
    update(vector, optimizer, schedule, settings.max_grad_norm)
    return loss.item()


if __name__ == "__main__":
    main()
