"""Measures what opening and loading a model costs: time against reading its bytes, and memory.

    loading.py --model DIR|FILE.gguf [--rounds R] [--threads N]

Prints medians over the rounds.  The file is in the page cache; `read` copies its bytes into memory that is
there already, in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIECE = 1 << 22
MIB = 1 << 20


def main() -> None:
    options = parse_arguments()
    files = [options.model] if options.model.is_file() else sorted(options.model.glob("*.safetensors"))
    rounds = [measure(options, files) for _ in range(options.rounds)]
    for name in rounds[0]:
        print(f"{name:44} {statistics.median(each[name] for each in rounds):10.3f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of loading a model.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def measure(options: argparse.Namespace, files: list[Path]) -> dict[str, float]:
    read_seconds(files)  # into the page cache, where they were not
    dump = options.build / "tests" / "reference" / "dump_weights"
    start, _ = run(options, [dump])
    weights, _ = run(options, [dump, options.model, 1, 0])
    bench, output = run(options, [
        options.build / "bipo-dist", "bench", "--model", options.model, "--layer", options.layer, "--steps", 1,
        "--warmup", 0, "--batch-size", 4, "--threads", options.threads, "--json"])
    report = json.loads(output)
    return {"MiB of files": sum(file.stat().st_size for file in files) / MIB,
            "s to read them from the page cache": read_seconds(files),
            "s to start a program with libtorch": start,
            "s to read all weights, start included": weights,
            "s of bench with one step": bench,
            "MiB of weights that stay": report["weight_bytes"] / MIB,
            "MiB of kept activations": report["cache_bytes"] / MIB,
            "MiB at most, libraries included": report["peak_memory_bytes"] / MIB}


def read_seconds(files: list[Path]) -> float:
    buffer = bytearray(PIECE)
    begin = time.perf_counter()
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begin


def run(options: argparse.Namespace, command: list[object]) -> tuple[float, bytes]:
    """Seconds, and what the program printed where it is short."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    prints_report = "bench" in command
    begin = time.perf_counter()
    finished = subprocess.run([str(word) for word in command], env=environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE if prints_report else subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - begin
    if len(command) > 1 and finished.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with code {finished.returncode}")
    return seconds, finished.stdout or b""


if __name__ == "__main__":
    main()
