#!/usr/bin/env python3
"""Compares what `plan` says with what `bench` measures on this machine's CPU.

The rates come from one `bench` of a reference case; `plan --measured` then predicts other cases, which `bench` measures
too: other layers, batches, lengths of answers and, with the rates of two ranks, other arrangements of ranks.  Prints a
table of medians over the rounds, for docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import program  # noqa: E402


@dataclass(frozen=True)
class Case:
    """Options that `bench` and `plan` both take."""

    name: str
    options: tuple[str, ...]
    tp: int = 1
    ranks: int = 1


def case(name: str, layer: int, batch: int, answer: int = 12, tp: int = 1, ranks: int = 1) -> Case:
    return Case(name, ("--layer", str(layer), "--batch-size", str(batch), "--answer-length", str(answer)), tp, ranks)


# The first of each group is the reference, whose rates predict the others.
GROUPS = (
    (case("layer 15, 4 pairs", 15, 4), case("layer 5, 4 pairs", 5, 4), case("layer 25, 4 pairs", 25, 4),
     case("layer 15, 16 pairs", 15, 16), case("layer 15, 4 pairs, answers of 48", 15, 4, answer=48)),
    (case("layer 15, 8 pairs, 2 ranks, tp 2", 15, 8, tp=2, ranks=2),
     case("layer 15, 16 pairs, 2 ranks, tp 2", 15, 16, tp=2, ranks=2),
     case("layer 15, 8 pairs, 2 ranks, dp 2", 15, 8, ranks=2)),
)


def output_of(command: list[object]) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True,
                          timeout=1800, env={**os.environ, **program.MPI_ENVIRONMENT}).stdout


def bench(binary: Path, one: Case, shape: str, dtype: str, steps: int, cores: int) -> dict:
    ranks = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", one.ranks] if one.ranks > 1 else []
    return json.loads(output_of([*ranks, binary, "bench", "--shape", shape, "--dtype", dtype, "--device", "cpu",
                                 "--steps", steps, "--tp", one.tp, "--threads", max(1, cores // one.ranks), "--json",
                                 *one.options]))


def plan(binary: Path, one: Case, shape: str, measured: Path) -> dict:
    return json.loads(output_of([binary, "plan", "--shape", shape, "--measured", measured, "--devices", one.ranks,
                                 "--tp", one.tp, "--micro-batch", int(one.options[3]) * one.tp // one.ranks, "--json",
                                 *one.options]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--program", type=Path, default=Path("build/bipo-dist"))
    parser.add_argument("--shape", default="smollm2-135m")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "measured.json"
        for _ in range(arguments.rounds):
            for group in GROUPS:
                for number, one in enumerate(group):
                    report = bench(arguments.program, one, arguments.shape, arguments.dtype, arguments.steps,
                                   arguments.cores)
                    if number == 0:
                        measured.write_text(json.dumps(report), encoding="utf-8")
                    planned = plan(arguments.program, one, arguments.shape, measured)
                    found.setdefault(one.name, []).append(
                        (report["seconds_per_step"], planned["seconds_per_step"],
                         planned["seconds_per_step"] / report["seconds_per_step"]))
    print(f"{arguments.shape}, {arguments.dtype}, {arguments.rounds} rounds of {arguments.steps} steps\n")
    print("| | `bench` | `plan` | plan / bench (by round) |\n|---|---|---|---|")
    for name, rounds in found.items():
        step, said, _ = (statistics.median(column) for column in zip(*rounds))
        ratios = [ratio for *_, ratio in rounds]
        print(f"| {name} | {step:.3f} s | {said:.3f} s | {min(ratios):.2f} to {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
