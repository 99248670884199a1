"""Commands of bipo-dist against a base command, round after round on the same machine, as ratios.

    ratios.py --base COMMAND --other COMMAND [--other COMMAND ...] [--rounds R] [--program PATH] [--at-most X]
              [--out results.json]

A COMMAND is one argument: everything behind `bipo-dist`.  Of `bench`, which gets `--json`, the medians of a step and
of the prefix pass are compared; of any other command its processor time (user and system, its children included) and
its wall time.  `{out}` in a command is a new path in each round.  Every round runs each command once, forwards and
backwards in turn, so that a machine that slows down slows all of them.  A ratio is that of the medians; in brackets
its range over the rounds.

    ratios.py --base 'bench --shape smollm2-135m --layer 15' --other 'bench --shape smollm2-135m --layer 15 \
        --objective simpo' --at-most 1.02

The statistics of a conceptor against caa's pass, the start of both included:

    extract='--model M --train train.csv --layer 15 --threads 2 --out {out}'
    ratios.py --base "extract --method caa $extract" --other "extract --method conceptor $extract" --at-most 1.5
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCH_FIGURES = {"seconds_per_step": "step", "prefix_seconds": "prefix pass"}
TIME_FIGURES = {"processor_seconds": "processor time", "wall_seconds": "wall time"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where --at-most is exceeded; 2 where a command fails."""
    options = parser().parse_args(arguments)
    commands = [options.base, *options.other]
    figures = BENCH_FIGURES if all(is_bench(command) for command in commands) else TIME_FIGURES
    try:
        rounds = [run_round(options.program, commands, number) for number in range(options.rounds)]
    except subprocess.CalledProcessError as error:
        print(f"ratios: {shlex.join(map(str, error.cmd))} ended with {error.returncode}:\n{error.stderr}",
              file=sys.stderr)
        return 2
    results = {command: {name: ratio(*([row[which][name] for row in rounds] for which in (command, options.base)))
                         for name in figures} for command in options.other}
    base = {name: statistics.median(row[options.base][name] for row in rounds) for name in figures}
    print(table(options.base, base, results, figures, len(rounds)))
    if options.out is not None:
        options.out.write_text(json.dumps({"base": options.base, "base_seconds": base, "ratios": results,
                                           "rounds": rounds}, indent=2) + "\n", encoding="utf-8")
    first = next(iter(figures))
    return int(options.at_most is not None and any(found[first]["median"] > options.at_most
                                                   for found in results.values()))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--base", required=True, metavar="COMMAND")
    made.add_argument("--other", required=True, action="append", metavar="COMMAND")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--program", type=Path, default=ROOT / "build" / "bipo-dist")
    made.add_argument("--at-most", type=float, metavar="X", help="largest ratio of the first figure")
    made.add_argument("--out", type=Path)
    return made


def is_bench(command: str) -> bool:
    return shlex.split(command)[:1] == ["bench"]


def run_round(program: Path, commands: Sequence[str], number: int) -> dict[str, dict[str, float]]:
    """What each command measured, run in their order in even rounds and backwards in odd ones."""
    return {command: run(program, command) for command in (commands if number % 2 == 0 else commands[::-1])}


def run(program: Path, command: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        words = [word.replace("{out}", str(Path(folder) / "out.h5")) for word in shlex.split(command)]
        before, begin = processor_seconds(), time.perf_counter()
        done = subprocess.run([program, *words, *(["--json"] if is_bench(command) else [])], check=True,
                              capture_output=True, text=True)
        seconds = {"wall_seconds": time.perf_counter() - begin, "processor_seconds": processor_seconds() - before}
    if is_bench(command):
        measured = json.loads(done.stdout)
        seconds.update({name: float(measured[name]) for name in BENCH_FIGURES})
    return seconds


def processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ratio(own: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """The ratio of the medians, and the smallest and largest of single rounds."""
    rounds = [one / other for one, other in zip(own, base, strict=True)]
    return {"median": statistics.median(own) / statistics.median(base), "min": min(rounds), "max": max(rounds)}


def table(base: str, seconds: Mapping[str, float], results: Mapping[str, Mapping[str, Mapping[str, float]]],
          figures: Mapping[str, str], rounds: int) -> str:
    lines = [f"base: {base}",
             *(f"  {title}: {seconds[name]:.4g} s" for name, title in figures.items()),
             f"ratios of medians of {rounds} rounds (range over the rounds)"]
    for command, found in results.items():
        parts = (f"{title} {found[name]['median']:.3f} ({found[name]['min']:.3f} to {found[name]['max']:.3f})"
                 for name, title in figures.items())
        lines.append(f"{command}\n  {', '.join(parts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
