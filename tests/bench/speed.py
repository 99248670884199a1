"""The benchmark command: bipo-dist against plain PyTorch, interleaved on the same machine, one table.

    speed.py --program build/bipo-dist --model DIR [--train FILE.csv] [--rounds R] [--steps N] [--threads T]

Every round runs N optimiser steps of each in a process of its own, on the same pairs in the same order, so
that whatever else the machine does falls on both.  The first step of each process is warm-up and not counted.
Start-up (for bipo-dist that includes the prefix and reference passes over the data, which a real run
pays once and then uses for every epoch) is reported apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py

HERE = Path(__file__).parent
SAMPLE = HERE.parents[1] / "datasets" / "sample" / "train.csv"
WARM_UP_STEPS = 1


@dataclass
class Timings:
    """What all rounds of one contestant took."""

    name: str
    seconds: list[float] = field(default_factory=list)  # per step, warm-up left out
    startup: list[float] = field(default_factory=list)  # per round

    @property
    def step(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    options = parse_arguments()
    plain = Timings("plain PyTorch, fp32")
    programs = {dtype: Timings(f"bipo-dist, {dtype}") for dtype in options.dtypes.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        data = first_pairs(options, Path(folder) / "pairs.csv")
        for number in range(options.rounds):
            progress(f"round {number + 1} of {options.rounds}: plain PyTorch")
            measured = run_plain(options, data)
            plain.seconds += measured["seconds"][WARM_UP_STEPS:]
            plain.startup.append(measured["startup_seconds"])
            for dtype, timings in programs.items():
                progress(f"round {number + 1} of {options.rounds}: {timings.name}")
                run_program(options, data, Path(folder) / f"{dtype}{number}.h5", dtype, timings)
    print_table(options, plain, list(programs.values()), measured["tokens"][WARM_UP_STEPS:])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="bipo-dist against plain PyTorch on the same machine.")
    parser.add_argument("--program", type=Path, default=HERE.parents[1] / "build" / "bipo-dist")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--train", type=Path, default=SAMPLE, help="preference CSV")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="per round and contestant, one of them warm-up")
    parser.add_argument("--dtypes", default="fp32,bf16", help="of bipo-dist; plain PyTorch always runs fp32")
    options = parser.parse_args()
    if options.steps <= WARM_UP_STEPS:
        parser.error(f"--steps must exceed the {WARM_UP_STEPS} warm-up step")
    return options


def first_pairs(options: argparse.Namespace, target: Path) -> Path:
    """A file of just the pairs that the measured steps use, so that start-up does not depend on the rest."""
    with open(options.train, newline="", encoding="utf-8") as source:
        rows = list(csv.reader(source))[:1 + options.steps * options.batch_size]
    if len(rows) < 1 + options.steps * options.batch_size:
        sys.exit(f"speed.py: {options.train} has {len(rows) - 1} pairs, "
                 f"{options.steps * options.batch_size} are needed; give fewer --steps")
    with open(target, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return target


def run_plain(options: argparse.Namespace, data: Path) -> dict:
    command = [sys.executable, HERE / "plain_reference.py", "--model", options.model, "--pairs", data,
               "--steps", options.steps, "--layer", options.layer, "--batch-size", options.batch_size,
               "--threads", options.threads]
    return json.loads(checked(command, options.threads).splitlines()[-1])


def run_program(options: argparse.Namespace, data: Path, out: Path, dtype: str, timings: Timings) -> None:
    command = [options.program, "train", "--model", options.model, "--train", data, "--layer", options.layer,
               "--out", out, "--max-steps", options.steps, "--batch-size", options.batch_size,
               "--threads", options.threads, "--dtype", dtype, "--device", "cpu", "--eval-every", 0,
               "--shuffle", "off", "--sign", "plus"]
    begin = time.perf_counter()
    checked(command, options.threads)
    whole = time.perf_counter() - begin
    with h5py.File(out, "r") as file:
        seconds = [float(value) for value in file["steps"]["seconds"]]
    timings.seconds += seconds[WARM_UP_STEPS:]
    timings.startup.append(whole - sum(seconds))


def checked(command: list, threads: int) -> str:
    """stdout of a command that must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    words = [str(word) for word in command]
    finished = subprocess.run(words, capture_output=True, text=True, env=environment)
    if finished.returncode != 0:
        sys.exit(f"speed.py: {' '.join(words)} ended with {finished.returncode}:\n{finished.stderr}")
    return finished.stdout


def print_table(options: argparse.Namespace, plain: Timings, programs: list[Timings],
                tokens_per_step: list[int]) -> None:
    tokens = statistics.mean(tokens_per_step)
    print(f"\n{options.model.name}, layer {options.layer}, batches of {options.batch_size} pairs "
          f"({tokens:.0f} tokens of text a step, the prompt counted once per pair)")
    print(f"{options.train.name}; {options.threads} threads; {options.rounds} rounds of "
          f"{options.steps - WARM_UP_STEPS} counted steps; {processor()}\n")
    print(f"{'':22}{'s/step':>9}{'(min':>9}{'max)':>8}{'pairs/s':>9}{'tokens/s':>10}{'speed-up':>10}"
          f"{'start-up s':>12}")
    for timings in [plain, *programs]:
        print(f"{timings.name:22}{timings.step:9.3f}{min(timings.seconds):9.3f}{max(timings.seconds):8.3f}"
              f"{options.batch_size / timings.step:9.2f}{tokens / timings.step:10.0f}"
              f"{plain.step / timings.step:9.2f}x{statistics.median(timings.startup):12.1f}")
    print("\ns/step are medians; speed-up is the ratio of the medians. plain PyTorch: policy and reference "
          "forward on a padded\nbatch, head on every position. bipo-dist's start-up includes its one pass "
          "over the data through blocks 0..L and to\nthe reference log-probabilities; plain PyTorch's only "
          "loads the model (and neither counts importing PyTorch there).")


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
