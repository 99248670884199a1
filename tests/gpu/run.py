#!/usr/bin/env python3
"""Tests and measures bipo-dist on a machine with GPUs.

Lies in the archive of tests/gpu/pack.sh, and needs nothing but a Python with torch 2.11.0: no root, no compiler, no other
package.  Runs one step after the other, each with a time limit; a step that fails does not stop the next.  Writes what
they print and a table of what passed, failed and was not run into one folder.

Exit code: 0 all passed, 1 a step failed, 3 none failed but one or more were not run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"

# The largest relative distances (L2) between the vectors of GPU and CPU: in fp32; in bf16 it is the distance from the
# CPU's vector in fp32, in units of that of the CPU's own vector in bf16.
FP32_TOLERANCE = 1e-4
BF16_TOLERANCE = 1.5

# The paper's run: 20 epochs of 644 pairs in batches of 4.
PAPER_STEPS = 3220

SHAPES = {"smollm2-135m": 15, "llama-2-7b": 15, "llama-3.1-8b": 15}
PAIRS = (4, 32)


class StepFailed(Exception):
    """A step found a fault; the text says which."""


class CannotRun(Exception):
    """What a step needs is not there; the text says what."""


@dataclass
class Result:
    name: str
    mark: str
    note: str
    seconds: float = 0.0


@dataclass
class Machine:
    """What the steps may use; found once."""

    gpus: list[str]  # one line each, as nvidia-smi says it
    python: str
    model: Path | None  # the real small model
    results: Path

    def require_gpu(self) -> None:
        if not self.gpus:
            raise CannotRun("no GPU (nvidia-smi lists none)")

    def require(self, program: str) -> str:
        found = shutil.which(program, path=f"{HERE / 'bin'}:{os.environ.get('PATH', '')}")
        if found is None:
            raise CannotRun(f"{program} is not on this machine")
        return found


@dataclass
class Step:
    """Runs commands by `call`, and returns a note for the table; `limit` in seconds for all of them."""

    name: str
    limit: int
    work: Callable[["Calls"], str]


@dataclass
class Calls:
    """The commands of one step, under its time limit; their output goes to one file."""

    machine: Machine
    log: Path
    end: float  # by time.monotonic()
    outputs: list[str] = field(default_factory=list)

    def __call__(self, *command: object, codes: tuple[int, ...] = (0,), **environment: str) -> str:
        """Returns stdout; raises StepFailed for an exit code that is not among `codes`."""
        words = [str(word) for word in command]
        left = self.end - time.monotonic()
        if left <= 0:
            raise StepFailed("the time of the step is up")
        started = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="replace", start_new_session=True,
                                   env={**os.environ, **environment_of_bundle(self.machine), **environment})
        try:
            output, _ = started.communicate(timeout=left)
            over = False
        except subprocess.TimeoutExpired:
            end_group(started)
            output, _ = started.communicate()
            over = True
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(words)}\n{output}\n[{'time limit' if over else f'exit code {started.returncode}'}]\n\n")
        if over:
            raise StepFailed(f"{Path(words[0]).name}: not done in its time")
        if started.returncode not in codes:
            last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
            raise StepFailed(f"{Path(words[0]).name}: exit code {started.returncode}: {last[:160]}")
        return output


def end_group(started: subprocess.Popen) -> None:
    """Ends a command with all that it started: mpirun first by a request, which it hands on to its ranks."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(started.pid, number)
        except ProcessLookupError:
            return
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            continue


def environment_of_bundle(machine: Machine) -> dict[str, str]:
    return {"PATH": f"{HERE / 'bin'}:{os.environ.get('PATH', '')}", "BIPO_PYTHON": machine.python,
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}


# --- steps ----------------------------------------------------------------------------------------------------------


def describe_machine(call: Calls) -> str:
    call.machine.require_gpu()
    call(call.machine.require("nvidia-smi"))
    version = call(call.machine.python, "-c",
                   "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.device_count())")
    if not version.startswith("2.11.0"):
        raise StepFailed(f"torch is {version.strip()}, not 2.11.0")
    return f"{len(call.machine.gpus)} x {call.machine.gpus[0]}; torch {version.strip()}"


def show_version(call: Calls) -> str:
    return call("bipo-dist", "--version", "--verbose").strip().splitlines()[0]


def run_suite(call: Calls) -> str:
    call.machine.require_gpu()
    suite = call.machine.require("gpu_suite_test")
    return tests_passed(call(suite))


def tests_passed(output: str) -> str:
    """GoogleTest also exits with 0 where a filter leaves no test."""
    found = re.search(r"\[  PASSED  \] (\d+) test", output)
    if not found or int(found[1]) == 0:
        raise StepFailed("no test passed")
    return f"{found[1]} tests"


def visible_ranks(call: Calls) -> int:
    """One rank for each GPU that programs see: CUDA_VISIBLE_DEVICES may hide some of those that nvidia-smi lists."""
    call.machine.require_gpu()
    ranks = int(call(call.machine.python, "-c", "import torch; print(torch.cuda.device_count())").split()[-1])
    if ranks == 0:
        raise StepFailed("nvidia-smi lists GPUs, but torch sees none")
    return ranks


def run_nccl(call: Calls) -> str:
    ranks = visible_ranks(call)
    output = call("mpirun", "-np", ranks, call.machine.require("mpi_test"),
                  "--gtest_filter=NcclCommunicator*", ranks)
    tests_passed(output)
    return f"{ranks} rank{'' if ranks == 1 else 's'}"


def refuse_shared_device(call: Calls) -> str:
    call.machine.require_gpu()
    output = call("mpirun", "-np", 2, call.machine.require("mpi_test"), "--gtest_filter=SharedDevice*", 2,
                  CUDA_VISIBLE_DEVICES="0")
    tests_passed(output)
    output = call("mpirun", "-np", 2, "bipo-dist", "bench", *tiny_model(), "--device", "cuda", codes=(2,),
                  CUDA_VISIBLE_DEVICES="0")
    if "one rank per device" not in output:
        raise StepFailed("two ranks on one device ended with exit code 2, but for another reason")
    return "refused by the communicator and by the program"


def tiny_model() -> list[object]:
    return ["--model", HERE / "tiny" / "model", "--train", HERE / "tiny" / "train.csv", "--layer", 2]


def train_vector(call: Calls, folder: Path, model: list[object], device: str, dtype: str, *options: object,
                 ranks: int = 1, name: str = "") -> Path:
    """Returns a file with the vector of a few steps."""
    run = folder / f"{name or f'{device}-{dtype}'}.h5"
    vector = run.with_suffix(".pt")
    launcher = ["mpirun", "-np", ranks] if ranks > 1 else []
    call(*launcher, "bipo-dist", "train", *model, "--device", device, "--dtype", dtype, "--max-steps", 6,
         "--warmup-steps", 0, "--eval-every", 0, "--out", run, *options)
    call("bipo-dist", "export", run, "--format", "pt", "--out", vector)
    return vector


DISTANCE = """
import sys, torch
found, expected = (torch.load(path, weights_only=True).double() for path in sys.argv[1:3])
print(f"{(found - expected).norm() / expected.norm():.3e}")
"""


def distance(call: Calls, found: Path, expected: Path) -> float:
    return float(call(call.machine.python, "-c", DISTANCE, found, expected).split()[-1])


def parity(call: Calls, model: list[object], name: str) -> str:
    call.machine.require_gpu()
    folder = call.machine.results / f"parity-{name}"
    folder.mkdir()
    vectors = {(device, dtype): train_vector(call, folder, model, device, dtype)
               for dtype in ("fp32", "bf16") for device in ("cpu", "cuda")}
    exact = vectors["cpu", "fp32"]
    fp32 = distance(call, vectors["cuda", "fp32"], exact)
    of_cpu = distance(call, vectors["cpu", "bf16"], exact)
    of_gpu = distance(call, vectors["cuda", "bf16"], exact)
    note = f"fp32 {fp32:.1e} (at most {FP32_TOLERANCE:.0e}); bf16 {of_gpu:.2e}, the CPU's {of_cpu:.2e}"
    if not fp32 <= FP32_TOLERANCE:
        raise StepFailed(f"fp32 differs: {note}")
    if not of_gpu <= BF16_TOLERANCE * of_cpu:
        raise StepFailed(f"bf16 differs by more than {BF16_TOLERANCE} times the CPU's own error: {note}")
    return note


def parity_of_tiny_model(call: Calls) -> str:
    return parity(call, tiny_model(), "tiny")


def parity_of_real_model(call: Calls) -> str:
    if call.machine.model is None:
        raise CannotRun("no --model was given")
    return parity(call, ["--model", call.machine.model, "--train", HERE / "sample" / "train.csv", "--max-pairs", 24,
                         "--layer", 15, "--lr-unit", "residual", "--lr", "3e-3"], "real")


def parity_over_ranks(call: Calls) -> str:
    """Replicas on all GPUs give the bits of one, and a model divided over two GPUs its numbers."""
    ranks = visible_ranks(call)
    if ranks < 2:
        raise CannotRun("one GPU is visible")
    folder = call.machine.results / "parity-ranks"
    folder.mkdir()
    options = ["--batch-size", 2 * ranks, "--micro-batch", 1]
    for dtype in ("fp32", "bf16"):
        one = train_vector(call, folder, tiny_model(), "cuda", dtype, *options, name=f"one-{dtype}")
        replicas = train_vector(call, folder, tiny_model(), "cuda", dtype, *options, ranks=ranks, name=f"dp-{dtype}")
        found = distance(call, replicas, one)
        if found != 0:
            raise StepFailed(f"{dtype}: {ranks} replicas differ from one by {found:.1e}, not in no bit")
    divided = train_vector(call, folder, tiny_model(), "cuda", "fp32", *options, "--tp", 2, ranks=2, name="tp-fp32")
    found = distance(call, divided, folder / "one-fp32.pt")
    note = f"{ranks} replicas: the same bits; --tp 2 in fp32: {found:.1e} (at most {FP32_TOLERANCE:.0e})"
    if not found <= FP32_TOLERANCE:
        raise StepFailed(f"a divided model differs: {note}")
    return note


def sanitize(call: Calls) -> str:
    call.machine.require_gpu()
    sanitizer = call.machine.require("compute-sanitizer")
    call(sanitizer, "--target-processes", "all", "--error-exitcode", 9, "bipo-dist", "train", *tiny_model(), "--device",
         "cuda", "--max-steps", 2, "--eval-every", 0, "--out", call.machine.results / "sanitized.h5")
    return "memcheck found nothing"


def bench(shape: str, pairs: int) -> Callable[[Calls], str]:
    def work(call: Calls) -> str:
        call.machine.require_gpu()
        output = call("bipo-dist", "bench", "--shape", shape, "--layer", SHAPES[shape], "--batch-size", pairs,
                      "--micro-batch", pairs, "--device", "cuda", "--dtype", "bf16", "--json")
        begin = output.find("{\n")
        try:
            report = json.JSONDecoder().raw_decode(output[begin:])[0]
        except ValueError as error:
            raise StepFailed(f"bench printed no JSON: {error}") from error
        (call.machine.results / f"bench-{shape}-{pairs}.json").write_text(json.dumps(report, indent=2))
        step = report["seconds_per_step"]
        note = (f"{1000 * step:.4g} ms per step, {100 * report['fraction_of_peak']:.1f} % of "
                f"{report['peak_flops'] / 1e12:.4g} TFLOP/s, {report['peak_memory_bytes'] / 2**30:.3g} GiB; the plan: "
                f"{1000 * report['planned']['seconds_per_step']:.4g} ms, "
                f"{report['planned']['peak_memory_bytes'] / 2**30:.3g} GiB")
        return note + (f"; the paper's run {PAPER_STEPS * step:.0f} s" if pairs == 4 else "")

    return work


def profile(call: Calls) -> str:
    call.machine.require_gpu()
    command = ["bipo-dist", "bench", "--shape", "smollm2-135m", "--layer", 15, "--batch-size", 32, "--device", "cuda",
               "--dtype", "bf16"]
    try:
        nsys = call.machine.require("nsys")
    except CannotRun:
        line = next((line for line in call(*command).splitlines() if "a step's time" in line), "")
        if not line:
            raise StepFailed("bench says nothing of a step's time") from None
        return f"no nsys; the program's own, by kind of work: {' '.join(line.split()[3:])}"
    report = call.machine.results / "profile.nsys-rep"
    call(nsys, "profile", "--force-overwrite", "true", "--trace", "cuda", "-o", report, *command)
    table = call(nsys, "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", report)
    (call.machine.results / "kernels.csv").write_text(table)
    return "by kernel in kernels.csv"


def steps() -> list[Step]:
    """In the order of their importance: what the time does not reach is at the end."""
    return [Step("machine", 60, describe_machine),
            Step("version", 60, show_version),
            Step("device-suite", 240, run_suite),
            Step("nccl", 120, run_nccl),
            Step("shared-device", 120, refuse_shared_device),
            Step("parity-tiny", 180, parity_of_tiny_model),
            Step("parity-ranks", 180, parity_over_ranks),
            *(Step(f"bench-smollm2-135m-{pairs}", 60, bench("smollm2-135m", pairs)) for pairs in PAIRS),
            *(Step(f"bench-llama-2-7b-{pairs}", 150, bench("llama-2-7b", pairs)) for pairs in PAIRS),
            Step("profile", 90, profile),
            Step("sanitizer", 150, sanitize),
            Step("parity-real", 180, parity_of_real_model),
            *(Step(f"bench-llama-3.1-8b-{pairs}", 150, bench("llama-3.1-8b", pairs)) for pairs in PAIRS)]


# --- the run --------------------------------------------------------------------------------------------------------


def run_step(step: Step, machine: Machine, number: int, end_of_all: float) -> Result:
    begin = time.monotonic()
    log = machine.results / f"{number:02}-{step.name}.log"
    log.write_text("", encoding="utf-8")
    if begin >= end_of_all:
        return Result(step.name, NOT_RUN, "the time of all steps is up")
    try:
        note = step.work(Calls(machine, log, min(begin + step.limit, end_of_all)))
        mark = PASSED
    except CannotRun as reason:
        mark, note = NOT_RUN, str(reason)
    except StepFailed as fault:
        mark, note = FAILED, str(fault)
    except Exception as error:  # a fault of a step's own code must not stop the next step
        mark, note = FAILED, f"{type(error).__name__}: {error}"
    return Result(step.name, mark, note, time.monotonic() - begin)


def table(results: list[Result]) -> str:
    lines = ["| step | result | seconds | |", "|---|---|---|---|"]
    for result in results:
        note = result.note.replace("|", "/").replace("\n", " ")
        lines.append(f"| {result.name} | {result.mark} | {result.seconds:.0f} | {note} |")
    counts = ", ".join(f"{sum(r.mark == mark for r in results)} {mark}" for mark in (PASSED, FAILED, NOT_RUN))
    return "\n".join([*lines, "", f"{counts}, {sum(r.seconds for r in results):.0f} s"]) + "\n"


def visible_gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
                                capture_output=True, text=True, timeout=60)
    except (subprocess.TimeoutExpired, OSError):
        return []
    return [line for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


def exit_code(results: list[Result]) -> int:
    marks = {result.mark for result in results}
    return 1 if FAILED in marks else 3 if NOT_RUN in marks else 0


def parsed_arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0],
                                     epilog=f"Steps: {', '.join(names)}. Exit code: 0 all passed, 1 a step failed, "
                                            "3 none failed but one or more were not run.")
    parser.add_argument("--results", type=Path, default=Path("bipo-gpu-results"), help="folder to make (default %(default)s)")
    parser.add_argument("--model", type=Path, help="SmolLM2-135M, as a GGUF file or directory, for the parity of a real model")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STEP", help="run these steps alone")
    parser.add_argument("--minutes", type=float, default=25, help="for all steps together (default %(default)s)")
    return parser.parse_args()


def main() -> int:
    chosen = steps()
    arguments = parsed_arguments([step.name for step in chosen])
    if arguments.only:
        chosen = [step for step in chosen if step.name in arguments.only]
    try:
        arguments.results.mkdir(parents=True)
    except FileExistsError:
        sys.exit(f"{arguments.results} is there already: remove it, or give another --results")
    model = arguments.model.resolve() if arguments.model else None
    machine = Machine(visible_gpus(), sys.executable, model, arguments.results.resolve())
    end = time.monotonic() + 60 * arguments.minutes
    results = []
    for number, step in enumerate(chosen, 1):
        results.append(run_step(step, machine, number, end))
        print(f"{results[-1].mark:8}{step.name}: {results[-1].note}", flush=True)
        # After each step: a machine may be taken away at any time.
        (machine.results / "summary.md").write_text(table(results), encoding="utf-8")
    print("\n" + table(results))
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
