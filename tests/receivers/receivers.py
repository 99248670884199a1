"""What the tests of receivers share: the model, vectors on three of its blocks, and what transformers and bipo-dist make
of them. A receiver is a program of others that applies an exported vector."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy
import torch
from safetensors.numpy import save_file
from transformers import AutoTokenizer, PreTrainedModel

import program

# Between two implementations in float32, in nats at any position; one that rounds to bfloat16 somewhere is 1000 times
# farther.
MOST_KL = 1e-6
# What a vector on another block, or with another scale, must differ by.
LEAST_KL = 1e-4
# Sums of some 20 log-probabilities.
LOG_PROB_TOLERANCE = 1e-3
PAIRS = [("Where are the spare keys kept?", "They hang on the hook behind the door.", "Look for them yourself."),
         ("What should I plant this autumn?", "Tulips do well beside a wall.", "Nothing grows there, leave it.")]

Vectors = Sequence[tuple[int, numpy.ndarray]]  # block from 0, what is added to its output


@dataclass(frozen=True)
class Answer:
    """All tokens of a prompt and its answer, and how many of them are the prompt's."""

    tokens: list[int]
    prompt: int

    def log_prob(self, table: torch.Tensor) -> float:
        """`table` holds the log-probabilities [tokens, vocabulary] after every token."""
        return sum(table[place - 1, self.tokens[place]].item() for place in range(self.prompt, len(self.tokens)))


def python_of(name: str) -> str:
    """The interpreter of a receiver's environment, launcher/requirements-NAME.txt."""
    path = Path(program.from_environment("BIPO_TEST_CACHE")) / f"venv-{name}" / "bin" / "python"
    assert path.exists(), f"{path} is missing: tests/run.sh makes it"
    return str(path)


def apply(name: str, script: str, job: Mapping[str, object], environment: Mapping[str, str] | None = None) -> torch.Tensor:
    """Runs a receiver; returns log-probabilities [settings, tokens, vocabulary] of the logits that it writes."""
    finished = subprocess.run(
        [python_of(name), "-W", "ignore", str(Path(__file__).parent / script)], input=json.dumps(job).encode(),
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})},
        capture_output=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr.decode(errors="replace")[-4000:]
    logits = numpy.frombuffer(finished.stdout, numpy.float32).reshape(len(job["settings"]), len(job["tokens"]), -1)
    return torch.from_numpy(logits.astype(numpy.float64)).log_softmax(-1)


def expected(model: PreTrainedModel, tokens: Sequence[int], vectors: Vectors) -> torch.Tensor:
    """The same of transformers, with the vectors added by forward hooks."""
    def hook(vector: numpy.ndarray):
        addend = torch.from_numpy(vector)

        def add(_module, _inputs, output):
            return (output[0] + addend, *output[1:]) if isinstance(output, tuple) else output + addend
        return add

    with ExitStack() as stack, torch.no_grad():
        for block, vector in vectors:
            stack.callback(model.model.layers[block].register_forward_hook(hook(vector)).remove)
        return model(torch.tensor([list(tokens)])).logits[0].double().log_softmax(-1)


def kl(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest KL divergence of next-token distributions at any position, in nats."""
    return (one.exp() * (one - other)).sum(-1).max().item()


@dataclass(frozen=True)
class Run:
    """A run file of one vector."""

    path: Path
    block: int
    vector: numpy.ndarray

    def export(self, kind: str, out: Path, *arguments: object) -> str:
        program.run_successfully(["export", self.path, "--format", kind, "--out", out, *arguments])
        return str(out)

    def times(self, scale: float, shift: int = 0) -> tuple[int, numpy.ndarray]:
        """What transformers is to add, `shift` blocks off."""
        return self.block + shift, numpy.float32(scale) * self.vector


def write_run(path: Path, block: int, vector: numpy.ndarray, model: Path) -> Run:
    save_file({"vector": vector}, path.with_suffix(".safetensors"))
    program.run_successfully(["import", path.with_suffix(".safetensors"), "--layer", block, "--model", model,
                              "--out", path])
    return Run(path, block, vector)


def export_together(runs: Sequence[Run], kind: str, out: Path, *arguments: object) -> str:
    """One file of all of them."""
    program.run_successfully(["export", *(run.path for run in runs), "--format", kind, "--out", out, *arguments])
    return str(out)


def random_vector(width: int, norm: float, seed: int) -> numpy.ndarray:
    vector = numpy.random.default_rng(seed).standard_normal(width)
    return (vector * (norm / numpy.linalg.norm(vector))).astype(numpy.float32)


def assert_applied(model: PreTrainedModel, tokens: Sequence[int], used: Sequence[tuple[Run, float]],
                   found: torch.Tensor) -> float:
    """The receiver's distributions are those of transformers with every vector on its block, and of no other block and no
    other scale. Returns how far they are off."""
    distance = kl(expected(model, tokens, [run.times(scale) for run, scale in used]), found)
    assert distance <= MOST_KL, distance
    for run, _ in used:
        for other_scale, shift in ((1.0, -1), (1.0, 1), (0.5, 0), (-1.0, 0)):
            if not 0 <= run.block + shift < model.config.num_hidden_layers:
                continue
            wrong = [other.times(other_scale * scale, shift) if other is run else other.times(scale)
                     for other, scale in used]
            assert kl(expected(model, tokens, wrong), found) > LEAST_KL, (run, other_scale, shift)
    return distance


def answers(directory: Path) -> list[Answer]:
    """The chosen and the rejected answer of each pair."""
    fast = AutoTokenizer.from_pretrained(directory)
    found = []
    for question, *both in PAIRS:
        prompt = fast.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                          tokenize=False)
        count = len(fast(prompt, add_special_tokens=False).input_ids)
        found += [Answer([*fast(prompt + answer, add_special_tokens=False).input_ids, fast.eos_token_id], count)
                  for answer in both]
    return found


def program_log_probs(directory: Path, vectors: Sequence[str], folder: Path) -> list[float]:
    """What `bipo-dist evaluate` says of those answers, with each of the vectors once."""
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "matching", "not_matching"), *PAIRS])
    out = folder / "evaluation.h5"
    given = [part for vector in vectors for part in ("--vector", vector)]
    program.run_successfully(["evaluate", *given, "--overwrite", *program.options({
        "model": directory, "test": folder / "pairs.csv", "multipliers": "1,2", "system_prompt": "", "out": out,
        "random_control": "off", "dtype": "fp32", "device": "cpu", "threads": 1})])
    with h5py.File(out) as file:
        samples = [row for row in file["samples"][:] if row["multiplier"] == 1]
    return [float(row[column]) for row in samples for column in ("chosen_logp", "rejected_logp")]
