"""How long the report on a sweep takes: `python -m bipo_analysis report` on made-up run files, from start to end.

With --against, another checkout takes turns on the same files; the ratio is of the medians.  Times are of the
processor, user and system together, because another process on the machine changes those least.

    python tests/bench/sweep_report.py --python ~/.cache/bipo-dist/venv-full/bin/python --against ../other-checkout
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Sizes of a real sweep: SmolLM2-135M's vectors, thirty layers, ten seeds.
HIDDEN, LAYERS, EPOCHS = 576, 30, 5

WRITE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import synthetic_sweep
plain = synthetic_sweep.write_run_tree
synthetic_sweep.write_run_tree = lambda group, cell, status, steps, evaluates=True: plain(
    group, cell, status, steps, evaluates, hidden=int(sys.argv[5]))
cells = synthetic_sweep.grid(tuple(range(int(sys.argv[3]))), tuple(range(1, int(sys.argv[4]) + 1)),
                             epochs=(int(sys.argv[6]),))
synthetic_sweep.SyntheticSweep(cells).write(Path(sys.argv[2]))
"""


def write_sweep(python: Path, directory: Path, cells: int, run_file: Path | None = None) -> None:
    """With `run_file`, every cell's file is a copy of it: of the program, with its seal and checksums."""
    arguments = [ROOT / "tests/analysis", directory, LAYERS, max(1, cells // LAYERS), HIDDEN, EPOCHS]
    subprocess.run([python, "-c", WRITE, *map(str, arguments)], check=True)
    for path in sorted(directory.glob("*.h5")) if run_file else ():
        shutil.copyfile(run_file, path)


def measure(python: Path, checkout: Path, sweep: Path, out: Path) -> tuple[float, float]:
    """Seconds of the processor and of the clock."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "experiments/analysis"), "OMP_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1"}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([python, "-m", "bipo_analysis", "report", sweep, "--out", out], check=True, env=environment,
                   stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=300, help="cells of the sweep (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="reports of each checkout (default: %(default)s)")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="with the package's dependencies")
    parser.add_argument("--against", type=Path, help="another checkout, which the ratio is to")
    parser.add_argument("--run-file", type=Path, help="a real run file, which stands for that of every cell")
    parser.add_argument("--most", type=float, help="the ratio that must be met: exit code 1 otherwise")
    options = parser.parse_args()
    checkouts = {"this": ROOT, **({"other": options.against.resolve()} if options.against else {})}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory(prefix="bipo-report-") as folder:
        sweep = Path(folder) / "sweep"
        write_sweep(options.python, sweep, options.cells, options.run_file)
        for checkout in checkouts.values():  # compiles the package, and fills the cache of files
            measure(options.python, checkout, sweep, Path(folder) / "report.html")
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                seconds[name].append(measure(options.python, checkout, sweep, Path(folder) / "report.html"))
    medians = {name: [statistics.median(values) for values in zip(*rounds, strict=True)] for name, rounds in seconds.items()}
    figures = {"cells": options.cells, "rounds": options.rounds,
               **{name: {"processor_seconds": round(processor, 3), "seconds": round(clock, 3)}
                  for name, (processor, clock) in medians.items()}}
    if options.against:
        figures["ratio"] = round(medians["this"][0] / medians["other"][0], 3)
    print(json.dumps(figures, indent=2))
    if options.most is not None and figures.get("ratio", 0) > options.most:
        sys.exit(f"the report takes {figures['ratio']} times as long as the other's, more than {options.most}")


if __name__ == "__main__":
    main()
