"""The benchmark command: runs the contestants of every case in turn, round after round, on the same machine.

    speed.py --model DIR [--train FILE.csv] [--cases quick|all|NAME,...] [--rounds R] [--out results.json]

Every round runs each contestant once, in a process of its own and on the same pairs, so that whatever else the
machine does falls on all; what the machine can do at best is measured in between.  All figures are medians or
ratios of medians.  This process stays small: a child's peak memory is at least that of its parent at the start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import h5py

import cases
import report
from cases import Contestant, Layout, StartCase, StepCase, SweepCase
from report import PairTokens, Run, SweepResults, StartResults, StepResults

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "support"))

from program import MPI_ENVIRONMENT  # noqa: E402

LEARNING_RATE = 0.02  # large, so that within a few steps wrong updates would show in the losses
LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
START_STEPS = 2

NOTES = f"""\
(a) plain: a policy and a reference pass every step on a padded batch, head on every position.
(b) the same with the reference's log-probabilities computed once, before the first step.
speed-up (against ...): ratio of tokens/s, from the medians of all counted steps; in brackets its range over the
  rounds.  The first pass of bipo-dist over its batches and the first step of (a) and (b) are not counted.
tokens: each pair's prompt, chosen and rejected answer once, without padding, whatever a contestant computes.
GFLOP/s: the floor's operations over the time of a step.  The floor, forward and backward and without attention:
  {report.FLOOR_FORMULA}.
of peak: of what torch reaches on one block's products, forward and backward, on this case's tokens and as many
  threads as the contestant has in all; in fp32, for bf16 in whichever of the two is faster here.
peak GB: resident set of the largest process.
others: cores that other processes, or other guests of the host, kept busy meanwhile (median over the rounds).
start s: the whole process without its steps; for bipo-dist with its one pass over these few pairs through the
  prefix and to the reference, for (b) with its reference passes."""


class BenchmarkError(Exception):
    """The run cannot go on; the text says why."""


@dataclass(frozen=True)
class Finished:
    """A child process that succeeded."""

    stdout: str
    seconds: float
    peak_bytes: int  # of the largest process among it and its own children
    cores_of_others: float  # that other processes and the host kept busy meanwhile, on average
    stderr: str


def main() -> None:
    options = parse_arguments()
    # As Ctrl-C does, so that a contestant does not outlive the benchmark.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        selected = cases.select(options.cases)
        with tempfile.TemporaryDirectory(prefix="bipo-bench-") as folder:
            run_cases(Bench(options, Path(folder)), selected)
    except KeyboardInterrupt:
        sys.exit("speed.py: interrupted")
    except (BenchmarkError, OSError, ValueError) as error:
        sys.exit(f"speed.py: {error}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="bipo-dist against plain PyTorch and the machine's limit.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--train", type=Path, default=ROOT / "datasets" / "sample" / "train.csv",
                        help="preference CSV (default: the sample data)")
    parser.add_argument("--cases", default="quick",
                        help=f"quick (all that the targets need), all, or some of "
                             f"{', '.join(case.name for case in cases.ALL)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for every number measured")
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "bipo-dist")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def run_cases(bench: Bench, selected: list[cases.Case]) -> None:
    """Prints each case's table when it is done and keeps --out up to date."""
    machine = describe_machine(bench.options.program)
    results: dict[str, dict] = {}
    print(f"{bench.options.model.name}, {bench.options.train.name}, {bench.options.rounds} rounds; "
          f"{machine['processor']}, {machine['cores']} cores; {machine['program']}")
    for number, case in enumerate(selected, start=1):
        progress(f"case {number} of {len(selected)}: {case.name}")
        measured = {StepCase: bench.measure_steps, SweepCase: bench.measure_sweep,
                    StartCase: bench.measure_start}[type(case)](case)
        results[case.name] = measured.figures()
        print(f"\n{case.name}\n{report.table(results[case.name])}", flush=True)
        goals = report.targets(results)
        write_results(bench.options.out, machine, results, goals)
    print(f"\n{NOTES}\n")
    print("\n".join(goal.line() for goal in goals))
    if disturbed := report.disturbed_cases(results):
        print(f"\nOther work disturbed {', '.join(disturbed)}: verdicts that rest on them do not count.")


class Bench:
    """Starts contestants on files in `folder`."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options = options
        self.folder = folder
        self.model = report.Model.read(options.model)

    def measure_steps(self, case: StepCase) -> StepResults:
        data = self.pair_file(case.name, case.pairs, case.answers)
        results = StepResults(case, self.model, self.count_tokens(data))
        tokens = round(sum(pair.packed for pair in results.pairs) / case.batches)
        for number in range(1, self.options.rounds + 1):
            for contestant in case.contestants:
                progress(f"  round {number} of {self.options.rounds}: {contestant.name}")
                run = self.run_steps(case, contestant, data)
                results.runs.setdefault(contestant.name, []).append(run)
                # Beside each run of the program: it is those that are compared with the peak.
                if contestant.trainer == "program":
                    cores = contestant.layout.cores
                    results.peaks.setdefault(cores, []).append(self.measure_peak(tokens, cores))
            self.require_equal_losses(results)
        if "bench" in self.commands:
            for contestant in case.contestants:
                if contestant.trainer == "program":
                    progress(f"  profile: {contestant.name}")
                    results.profiles[contestant.name] = self.profile(
                        data, case.layer, case.batch, case.steps(contestant), contestant.dtype, contestant.layout)
        return results

    def measure_sweep(self, case: SweepCase) -> SweepResults:
        data = self.pair_file(case.name, case.pairs)
        results = SweepResults(case)
        for number in range(1, self.options.rounds + 1):
            for layer in case.layers:
                progress(f"  round {number} of {self.options.rounds}: (a) at layer {layer}")
                run = self.run_plain(data, layer, case.batch, steps=1 + case.batches, warm_up=1,
                                     horizon=case.steps_per_cell, layout=case.layout)
                results.plain.setdefault(layer, []).append(run)
                results.cores_of_others.append(run.cores_of_others)
            if "sweep" in self.commands:
                progress(f"  round {number} of {self.options.rounds}: sweep")
                finished = self.run_sweep(case, data, self.folder / f"{case.name}-{number}")
                results.sweep_seconds.append(finished.seconds)
                results.sweep_peak_bytes = max(results.sweep_peak_bytes, finished.peak_bytes)
                results.cores_of_others.append(finished.cores_of_others)
        return results

    def measure_start(self, case: StartCase) -> StartResults:
        data = self.pair_file(case.name, case.pairs)
        results = StartResults(case)
        for number in range(1, self.options.rounds + 1):
            progress(f"  round {number} of {self.options.rounds}: start")
            kept = self.folder / f"{case.name}-cache-{number}"
            caching = ["--cache-dir", kept] if self.can_keep_caches else []
            for times in (results.absent, results.present)[:2 if caching else 1]:
                run = self.run_program(data, case.layer, case.batch, START_STEPS, START_STEPS // 2,
                                       case.dtype, case.layout, caching)
                times.append(run.startup_seconds)
                results.cores_of_others.append(run.cores_of_others)
            if "bench" in self.commands:
                profile = self.profile(data, case.layer, case.batch, START_STEPS, case.dtype, case.layout)
                # The profile takes as few pairs as its steps need.
                results.prefix.append(profile["prefix_seconds"] * case.pairs / profile["pairs"])
        return results

    def pair_file(self, name: str, pairs: int, answers: str = "short") -> Path:
        return cases.write_pairs(self.options.train, self.folder / f"{name}.csv", pairs, answers)

    def count_tokens(self, data: Path) -> list[PairTokens]:
        finished = run_child([sys.executable, HERE / "plain_reference.py", "--model", self.options.model,
                              "--pairs", data, "--steps", 0], Layout())
        return [PairTokens(*counts) for counts in json.loads(finished.stdout)["pairs"]]

    def measure_peak(self, tokens: int, cores: int) -> dict:
        return json.loads(run_child([sys.executable, HERE / "machine_peak.py", "--model", self.options.model,
                                     "--tokens", tokens, "--threads", cores], Layout(threads=cores)).stdout)

    def run_steps(self, case: StepCase, contestant: Contestant, data: Path) -> Run:
        steps, warm_up = case.steps(contestant), case.warm_up(contestant)
        batch = case.batch_of(contestant)
        if contestant.trainer == "program":
            return self.run_program(data, case.layer, batch, steps, warm_up, contestant.dtype, contestant.layout)
        # One horizon for all: the learning rate of a step must not depend on how many follow.
        horizon = max(case.steps(other) for other in case.contestants)
        return self.run_plain(data, case.layer, batch, steps, warm_up, horizon, contestant.layout,
                              ["--precomputed-reference"] if contestant.trainer == "precomputed" else [])

    def run_plain(self, data: Path, layer: int, batch: int, steps: int, warm_up: int, horizon: int,
                  layout: Layout, more: Sequence = ()) -> Run:
        finished = run_child([sys.executable, HERE / "plain_reference.py", "--model", self.options.model,
                              "--pairs", data, "--steps", steps, "--layer", layer, "--batch-size", batch,
                              "--threads", layout.threads, "--lr", LEARNING_RATE, "--horizon", horizon, *more],
                             layout)
        measured = json.loads(finished.stdout)
        return make_run(measured["seconds"], measured["loss"], warm_up, finished)

    def run_program(self, data: Path, layer: int, batch: int, steps: int, warm_up: int, dtype: str,
                    layout: Layout, more: Sequence = ()) -> Run:
        with tempfile.NamedTemporaryFile(suffix=".h5", dir=self.folder) as out:
            finished = self.run_command(
                ["train", "--layer", layer, "--out", out.name, "--overwrite", "--epochs", steps,
                 "--max-steps", steps, "--lr", LEARNING_RATE, "--warmup-steps", 0, "--shuffle", "off",
                 "--sign", "plus", "--tp", layout.tp, *self.common(data, batch, dtype, layout), *more], layout)
            with h5py.File(out.name, "r") as file:
                seconds = [float(value) for value in file["steps"]["seconds"]]
                losses = [float(value) for value in file["steps"]["loss"]]
        return make_run(seconds, losses, warm_up, finished)

    def run_sweep(self, case: SweepCase, data: Path, out: Path) -> Finished:
        """With the paper's order and signs, which differ between the seeds."""
        return self.run_command(
            ["sweep", "--layers", ",".join(map(str, case.layers)), "--seeds", ",".join(map(str, case.seeds)),
             "--out", out, "--epochs", case.epochs, *self.common(data, case.batch, case.dtype, case.layout)],
            case.layout)

    def common(self, data: Path, batch: int, dtype: str, layout: Layout) -> list:
        return ["--model", self.options.model, "--train", data, "--batch-size", batch, "--dtype", dtype,
                "--threads", layout.threads, "--device", "cpu", "--eval-every", 0]

    def profile(self, data: Path, layer: int, batch: int, steps: int, dtype: str, layout: Layout) -> dict:
        """What `bench` says of itself, with where a step's time goes."""
        finished = self.run_command(
            ["bench", "--model", self.options.model, "--train", data, "--layer", layer, "--batch-size", batch,
             "--steps", steps, "--dtype", dtype, "--threads", layout.threads, "--tp", layout.tp,
             "--device", "cpu", "--json"], layout)
        return json.loads(finished.stdout)

    def run_command(self, arguments: list, layout: Layout) -> Finished:
        command = [self.options.program, *arguments]
        if layout.ranks == 1:
            return run_child(command, layout)
        launcher = os.environ.get("BIPO_MPIEXEC", "mpirun")
        return run_child([launcher, "-np", layout.ranks, "--bind-to", "none", *command], layout)

    @cached_property
    def commands(self) -> set[str]:
        """Those that this build of the program has: its help lists each on an indented line of its own."""
        lines = self.help().splitlines()
        return {line.split()[0] for line in lines if line.startswith("  ") and line.strip()}

    @cached_property
    def can_keep_caches(self) -> bool:
        return "--cache-dir" in self.help("train")

    def help(self, *command: str) -> str:
        return run_child([self.options.program, *command, "--help"], Layout()).stdout

    def require_equal_losses(self, results: StepResults) -> None:
        """A faster contestant that does something else is no contestant."""
        differences = results.greatest_loss_difference()
        for contestant in results.case.contestants:
            difference = differences[contestant.name]
            if not difference <= LOSS_TOLERANCE[contestant.dtype]:
                raise BenchmarkError(f"{results.case.name}: the losses of {contestant.name} are up to "
                                     f"{difference:.2g} from those of the contestants before it on the same "
                                     "batches: they do not do the same work")


def make_run(seconds: list[float], losses: list[float], warm_up: int, finished: Finished) -> Run:
    return Run(seconds[:warm_up], seconds[warm_up:], losses, finished.seconds - sum(seconds),
               finished.peak_bytes, finished.cores_of_others)


def run_child(command: list, layout: Layout) -> Finished:
    """Runs a command that must succeed; its output goes to files, so that no pipe can fill up and block it."""
    words = [str(word) for word in command]
    environment = {**os.environ, **MPI_ENVIRONMENT, "OMP_NUM_THREADS": str(layout.threads),
                   "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        busy, begin = busy_seconds(), time.perf_counter()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                                   env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        seconds = time.perf_counter() - begin
        others = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise BenchmarkError(f"{' '.join(words)} ended with {process.returncode}:\n{text_of(stderr)}")
        return Finished(text_of(stdout), seconds, usage.ru_maxrss * 1024, max(0.0, others / seconds),
                        text_of(stderr))


def text_of(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def describe_machine(program: Path) -> dict:
    version = run_child([program, "--version"], Layout()).stdout.strip()
    return {"processor": processor(), "cores": os.cpu_count(), "program": version}


def processor() -> str:
    """The processor's name as the system gives it, and whether it has instructions for bf16."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
                 if flag in fields["flags"].split()]
        return f"{fields['model name']} ({' '.join(flags)})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def busy_seconds() -> float:
    """Processor time that all processes of this machine got, or the host took from it, since it started."""
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = (
        int(ticks) for ticks in Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:9])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def write_results(path: Path | None, machine: dict, results: dict, goals: list[report.Target]) -> None:
    if path is None:
        return
    verdicts = [{**asdict(goal), "verdict": goal.verdict} for goal in goals]
    text = json.dumps({"machine": machine, "floor": report.FLOOR_FORMULA, "cases": results,
                       "targets": verdicts}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
