"""Writes the reference data that the program is tested against, made by plain_bipo on a real model.

    make_reference.py --model DIR --pairs FILE.csv --out reference.h5

The file holds, for the first 40 pairs at layer 15, everything needed to check another implementation
without its tokenizer:

    tokens/{prompt,chosen,rejected}_{ids,offsets}   pair i is ids[offsets[i]:offsets[i + 1]]
    zero/{chosen,rejected}_logp [P]                 summed log-probabilities at v = 0, nats
    probe/vector [D]                                a random v of norm about 1.2
    probe/plus/{chosen,rejected}_logp [P]           at +v
    probe/minus/{chosen,rejected}_logp [4]          at -v, pairs 0..3
    probe/{plus,minus}/{loss,grad}                  of pairs 0..3 with d = +1, -1; grad [D] is dL/dv
    runs/NAME/{lr,loss,grad,vector}                 10 optimiser steps in file order, 4 pairs each; grad
                                                    before clipping, vector after the update, [steps, D]
    runs/hot_plus/final_{plus,minus}/{chosen,rejected}_logp [P]   at +v and -v after the last step

The attributes of the file and of each run say with what settings and versions it was made.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy
import tokenizers
import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel

import pair_tokens
from plain_bipo import (PairLogps, Settings, TokenPair, batch_loss, load_model, pair_logps, reference_logps,
                        train)

PINNED = {"torch": "2.11.0", "transformers": "4.57.6"}
LAYER = 15
PAIRS = 40
STEPS = 10
BETA = 0.1
PROBE_SEED = 7
PROBE_SCALE = 0.05
RUNS = {
    "paper_plus": Settings(steps=STEPS),
    "hot_plus": Settings(steps=STEPS, lr=0.02, warmup_steps=2, weight_decay=0.05),
    "hot_minus": Settings(steps=STEPS, lr=0.02, warmup_steps=2, weight_decay=0.05, sign="minus"),
}


def main() -> None:
    options = parse_arguments()
    require_pinned_versions()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    texts = pair_tokens.read_csv(options.pairs)[:PAIRS]
    pairs = pair_tokens.tokenize(AutoTokenizer.from_pretrained(options.model), texts)
    write_atomically(options.out, lambda file: fill(file, model, pairs, options))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Reference data for the tests, made by plain PyTorch.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--pairs", type=Path, required=True, help="CSV: question, matching, not_matching")
    parser.add_argument("--out", type=Path, required=True, help="HDF5 file to write")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def require_pinned_versions() -> None:
    """Other versions may compute something else; data that claim to be the reference must not."""
    found = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if found != PINNED:
        sys.exit(f"make_reference.py: needs {PINNED}, found {found}; install launcher/requirements-full.txt")


def write_atomically(path: Path, fill_file) -> None:
    """A reader sees no file or a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        with h5py.File(temporary, "w") as file:
            fill_file(file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def fill(file: h5py.File, model: PreTrainedModel, pairs: list[TokenPair], options) -> None:
    describe(file, options)
    store_tokens(file.create_group("tokens"), pairs)
    report("log-probabilities at v = 0")
    reference = reference_logps(model, LAYER, pairs)
    store_logps(file.create_group("zero"), reference)
    store_probe(file.create_group("probe"), model, pairs, reference)
    for name, settings in RUNS.items():
        store_run(file.create_group(f"runs/{name}"), model, pairs, reference, settings)
    final = torch.from_numpy(file["runs/hot_plus/vector"][-1])
    for name, sign in (("plus", 1.0), ("minus", -1.0)):
        report(f"log-probabilities at the end of hot_plus, {name}")
        store_logps(file.create_group(f"runs/hot_plus/final_{name}"),
                    steered_logps(model, pairs, sign * final))


def describe(file: h5py.File, options) -> None:
    file.attrs.update({
        "layer": LAYER, "pairs": PAIRS, "beta": BETA, "model": options.model.name,
        "data": options.pairs.name, "system_prompt": pair_tokens.SYSTEM_PROMPT,
        "threads": options.threads, "arithmetic": "fp32, each answer alone, no padding",
        "torch": str(torch.__version__), "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__, "h5py": h5py.__version__, "numpy": numpy.__version__})


def store_tokens(group: h5py.Group, pairs: list[TokenPair]) -> None:
    for part in ("prompt", "chosen", "rejected"):
        sequences = [getattr(pair, part) for pair in pairs]
        group[f"{part}_ids"] = numpy.concatenate(sequences).astype(numpy.int32)
        group[f"{part}_offsets"] = numpy.cumsum([0, *map(len, sequences)], dtype=numpy.int64)


def store_logps(group: h5py.Group, logps: PairLogps) -> None:
    group["chosen_logp"] = logps.chosen.double().numpy()
    group["rejected_logp"] = logps.rejected.double().numpy()


def steered_logps(model: PreTrainedModel, pairs: list[TokenPair], shift: torch.Tensor) -> PairLogps:
    """The steered model's own log-probabilities."""
    with torch.no_grad():
        return pair_logps(model, LAYER, shift, pairs)


def store_probe(group: h5py.Group, model: PreTrainedModel, pairs: list[TokenPair],
                reference: PairLogps) -> None:
    generator = torch.Generator().manual_seed(PROBE_SEED)
    probe = PROBE_SCALE * torch.randn(model.config.hidden_size, generator=generator)
    group["vector"] = probe.numpy()
    first_batch = slice(0, Settings.batch_size)
    for name, sign, scored in (("plus", 1.0, pairs), ("minus", -1.0, pairs[first_batch])):
        report(f"log-probabilities and gradient at the probe, {name}")
        branch = group.create_group(name)
        store_logps(branch, steered_logps(model, scored, sign * probe))
        vector = probe.clone().requires_grad_()
        loss = batch_loss(model, LAYER, vector, pairs[first_batch], reference[first_batch], (sign,), BETA)
        loss.backward()
        branch["loss"] = loss.item()
        branch["grad"] = vector.grad.numpy()


def store_run(group: h5py.Group, model: PreTrainedModel, pairs: list[TokenPair], reference: PairLogps,
              settings: Settings) -> None:
    report(f"{settings.steps} optimiser steps: {group.name}")
    records = train(model, LAYER, pairs, reference, settings)
    group.attrs.update(asdict(settings))
    group["lr"] = numpy.array([record.lr for record in records])
    group["loss"] = numpy.array([record.loss for record in records])
    group["grad"] = torch.stack([record.grad for record in records]).numpy()
    group["vector"] = torch.stack([record.vector for record in records]).numpy()


def report(text: str) -> None:
    print(f"make_reference: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
