"""The benchmark of `bipo-dist generate` against transformers' generate, round after round on the same machine.

    generation.py --model DIR [--vector RUN.h5] [--prompts P] [--multipliers LIST] [--max-new-tokens N] [--rounds R]
                  [--threads T] [--out results.json]

Every round runs each contestant once, in a process of its own, on the same prompts, multipliers and threads, in
fp32, greedy, and with answers of the same number of tokens.  All figures are medians or ratios of medians.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cases
import report
from cases import Layout
from speed import ROOT, BenchmarkError, Finished, describe_machine, progress, run_child

HERE = Path(__file__).parent
LAYER = 15
PAIRS_OF_THE_VECTOR = 16
# Greedy answers part where the two best logits lie within rounding of each other, which some in a hundred do.
LEAST_AGREEMENT = 0.9

NOTES = """\
(a) transformers, one answer after the other.
(b) transformers, all prompts in one left-padded batch, one multiplier after the other.
(c) transformers, all prompts at all multipliers in one left-padded batch, each row with a multiplier of its own.
tokens/s: new tokens over the time of all answers, with their prompts' passes and without loading the model.
against: ratio of tokens/s, of the medians; in brackets its range over the rounds.
agrees: mean share of an answer's tokens before the first that differs from the program's.
peak GB: resident set.  others: cores that other processes, or other guests of the host, kept busy meanwhile.
start s: the whole process without the timed part."""


@dataclass(frozen=True)
class Contestant:
    """One way to make the answers; `way` as plain_generation.py names it, none for the program."""

    name: str
    way: str | None = None


PROGRAM = Contestant("bipo-dist generate")
SINGLE = Contestant("(a) one by one", "single")
BY_MULTIPLIER = Contestant("(b) batch per multiplier", "multiplier")
ROWS = Contestant("(c) one batch", "rows")
CONTESTANTS = (SINGLE, BY_MULTIPLIER, ROWS, PROGRAM)


@dataclass(frozen=True)
class Run:
    """One process of a contestant."""

    seconds: float
    tokens: int
    startup_seconds: float
    peak_bytes: int
    cores_of_others: float
    agreement: float  # with the program's answers of the same round

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


@dataclass
class Results:
    """All rounds, by contestant."""

    runs: dict[str, list[Run]] = field(default_factory=dict)

    def figures(self) -> dict:
        return {"contestants": {name: self.contestant_figures(name) for name in self.runs},
                "greatest_cores_of_others": max(run.cores_of_others for runs in self.runs.values() for run in runs)}

    def contestant_figures(self, name: str) -> dict:
        runs = self.runs[name]
        return {"tokens": runs[0].tokens, "tokens_per_second": report.spread([run.rate for run in runs]),
                "seconds": report.spread([run.seconds for run in runs]),
                "speedups": {other.name: self.speedup(name, other.name) for other in CONTESTANTS if other.way},
                "agreement": statistics.mean(run.agreement for run in runs),
                "peak_bytes": max(run.peak_bytes for run in runs),
                "startup_seconds": report.spread([run.startup_seconds for run in runs]),
                "cores_of_others": report.spread([run.cores_of_others for run in runs]),
                "runs": [asdict(run) for run in runs]}

    def speedup(self, name: str, baseline: str) -> dict:
        ours, theirs = ([run.rate for run in self.runs[which]] for which in (name, baseline))
        rounds = [a / b for a, b in zip(ours, theirs)]
        return {"median": statistics.median(ours) / statistics.median(theirs), "min": min(rounds),
                "max": max(rounds)}


class Bench:
    """Starts contestants on files in `folder`."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options = options
        self.folder = folder
        self.layout = Layout(threads=options.threads)
        self.prompts = write_prompts(options.data, folder / "prompts.csv", options.prompts)
        self.vector = options.vector or self.extract()

    def extract(self) -> Path:
        """A direction that steers, from a few pairs."""
        pairs = cases.write_pairs(self.options.train, self.folder / "pairs.csv", PAIRS_OF_THE_VECTOR)
        run_child([self.options.program, "extract", "--model", self.options.model, "--train", pairs, "--layer",
                   LAYER, "--out", self.folder / "vector.h5", "--threads", self.options.threads, "--device", "cpu"],
                  self.layout)
        return self.folder / "vector.h5"

    def measure(self) -> Results:
        results = Results()
        for number in range(1, self.options.rounds + 1):
            # The program first: what the others say is compared with its answers.
            expected: list[list[list[int]]] = []
            for contestant in (PROGRAM, *(one for one in CONTESTANTS if one.way)):
                progress(f"  round {number} of {self.options.rounds}: {contestant.name}")
                seconds, answers, finished = self.run(contestant)
                expected = expected or answers
                run = make_run(seconds, answers, expected, finished)
                if run.agreement < LEAST_AGREEMENT:
                    raise BenchmarkError(f"{contestant.name} and the program agree in {run.agreement:.0%} of the "
                                         "tokens only: they do not do the same work")
                results.runs.setdefault(contestant.name, []).append(run)
        return results

    def run(self, contestant: Contestant) -> tuple[float, list[list[list[int]]], Finished]:
        return self.run_program() if contestant.way is None else self.run_plain(contestant)

    def run_program(self) -> tuple[float, list[list[list[int]]], Finished]:
        options = self.options
        out = self.folder / "answers.jsonl"
        finished = run_child(
            [options.program, "generate", "--model", options.model, "--vector", self.vector, "--prompts",
             self.prompts, f"--multipliers={options.multipliers}", "--max-new-tokens", options.max_new_tokens,
             "--ignore-eos", "--temperature", 0, "--out", out, "--overwrite", "--threads", options.threads,
             "--dtype", "fp32", "--device", "cpu"], self.layout)
        said = re.search(r"(\d+) tokens in \S+ s, (\S+) tokens/s", finished.stderr)
        if said is None:
            raise BenchmarkError(f"generate says nothing of its speed:\n{finished.stderr}")
        return int(said[1]) / float(said[2]), read_answers(out), finished

    def run_plain(self, contestant: Contestant) -> tuple[float, list[list[list[int]]], Finished]:
        options = self.options
        limit = ["--limit", options.single_prompts] if contestant is SINGLE else []
        finished = run_child(
            [sys.executable, HERE / "plain_generation.py", "--model", options.model, "--vector", self.vector,
             "--prompts", self.prompts, f"--multipliers={options.multipliers}", "--max-new-tokens",
             options.max_new_tokens, "--way", contestant.way, "--threads", options.threads, *limit], self.layout)
        said = json.loads(finished.stdout)
        return said["seconds"], said["answers"], finished


def write_prompts(source: Path, target: Path, count: int) -> Path:
    """The first `count` questions of a preference CSV."""
    with open(source, newline="", encoding="utf-8") as file:
        questions = [row["question"] for row in csv.DictReader(file)][:count]
    if len(questions) < count:
        raise ValueError(f"{source} has {len(questions)} questions, --prompts asks for {count}")
    with open(target, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question",), *((question,) for question in questions)])
    return target


def read_answers(path: Path) -> list[list[list[int]]]:
    """Token ids by prompt and multiplier."""
    answers: list[list[list[int]]] = []
    with open(path, encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["prompt_index"] == len(answers):
                answers.append([])
            answers[row["prompt_index"]].append(row["tokens"])
    return answers


def make_run(seconds: float, answers: list[list[list[int]]], expected: list[list[list[int]]],
             finished: Finished) -> Run:
    pairs = [pair for ours, theirs in zip(answers, expected) for pair in zip(ours, theirs)]
    return Run(seconds, sum(len(ours) for ours, _ in pairs), finished.seconds - seconds, finished.peak_bytes,
               finished.cores_of_others, statistics.mean(common_share(*pair) for pair in pairs))


def common_share(left: Sequence[int], right: Sequence[int]) -> float:
    """Of the tokens of two answers of the same length, those before the first difference."""
    if len(left) != len(right):
        raise BenchmarkError(f"answers of {len(left)} and of {len(right)} tokens: they do not do the same work")
    differing = [place for place, (a, b) in enumerate(zip(left, right)) if a != b]
    return (differing[0] if differing else len(left)) / len(left)


def table(figures: dict, single_prompts: int) -> str:
    baselines = [contestant.name for contestant in CONTESTANTS if contestant.way]
    lines = [f"{'':27}{'tokens/s (min max)':>24}{'s':>8}"
             + "".join(f"{'against ' + name.split()[0]:>24}" for name in baselines)
             + f"{'agrees':>8}{'peak GB':>9}{'start s':>9}{'others':>8}"]
    for contestant in CONTESTANTS:
        row = figures["contestants"][contestant.name]
        rate = row["tokens_per_second"]
        lines.append(
            f"{contestant.name + (' *' if contestant is SINGLE else ''):27}"
            + f"{rate['median']:.1f} ({rate['min']:.1f} {rate['max']:.1f})".rjust(24)
            + f"{row['seconds']['median']:8.1f}"
            + "".join(f"{report.ratio(row['speedups'][name]):>24}" for name in baselines)
            + f"{row['agreement']:8.1%}{row['peak_bytes'] / 1e9:9.2f}{row['startup_seconds']['median']:9.1f}"
            f"{row['cores_of_others']['median']:8.2f}")
    lines.append(f"* made the answers to the first {single_prompts} prompts, which stand for all")
    return "\n".join(lines + report.disturbance_lines(figures))


def parse_arguments() -> argparse.Namespace:
    sample = ROOT / "datasets" / "sample"
    parser = argparse.ArgumentParser(description="bipo-dist generate against transformers' generate.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--vector", type=Path, help=f"run file (default: the mean difference at layer {LAYER} of "
                                                    f"{PAIRS_OF_THE_VECTOR} pairs of --train)")
    parser.add_argument("--train", type=Path, default=sample / "train.csv", help="preference CSV")
    parser.add_argument("--data", type=Path, default=sample / "test.csv", help="CSV of the questions")
    parser.add_argument("--prompts", type=int, default=12, help="questions to answer")
    parser.add_argument("--single-prompts", type=int, default=2, help="those that (a) answers, one by one")
    parser.add_argument("--multipliers", default="-2,-1,0,1,2")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for every number measured")
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "bipo-dist")
    options = parser.parse_args()
    for name in ("rounds", "prompts", "single_prompts", "max_new_tokens", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    options.single_prompts = min(options.single_prompts, options.prompts)
    return options


def run_benchmark(options: argparse.Namespace, folder: Path) -> None:
    machine = describe_machine(options.program)
    print(f"{options.model.name}, {options.prompts} prompts at multipliers {options.multipliers}, "
          f"{options.max_new_tokens} tokens each, {options.threads} threads, {options.rounds} rounds; "
          f"{machine['processor']}, {machine['cores']} cores; {machine['program']}", flush=True)
    figures = Bench(options, folder).measure().figures()
    target = report.Target("generation, fp32, against (b)", 3, report.dig(
        figures, "contestants", PROGRAM.name, "speedups", BY_MULTIPLIER.name, "median"))
    print(f"\n{table(figures, options.single_prompts)}\n\n{NOTES}\n\n{target.line()}")
    if options.out:
        settings = {name: str(value) for name, value in vars(options).items()}
        text = json.dumps({"machine": machine, "settings": settings, **figures,
                           "targets": [{**asdict(target), "verdict": target.verdict}]}, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    options = parse_arguments()
    # As Ctrl-C does, so that a contestant does not outlive the benchmark.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        with tempfile.TemporaryDirectory(prefix="bipo-bench-") as folder:
            run_benchmark(options, Path(folder))
    except KeyboardInterrupt:
        sys.exit("generation.py: interrupted")
    except (BenchmarkError, OSError, ValueError) as error:
        sys.exit(f"generation.py: {error}")


if __name__ == "__main__":
    main()
