"""The archive of tests/gpu/pack.sh without a GPU, and the steps of tests/gpu/run.py against commands made up here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import program

SOURCE = Path(__file__).parents[2]
BUILD = Path(program.from_environment("BIPO_BUILD_DIR"))
TORCH = Path(sysconfig.get_paths()["purelib"]) / "torch"
OF_TORCH = re.compile(r"lib(torch|c10|nccl|cudart|cublas|cudnn|gomp)")
STEPS = ["machine", "version", "device-suite", "nccl", "shared-device", "parity-tiny", "parity-ranks",
         "bench-smollm2-135m-4", "bench-smollm2-135m-32", "bench-llama-2-7b-4", "bench-llama-2-7b-32", "profile", "sanitizer", "parity-real",
         "bench-llama-3.1-8b-4", "bench-llama-3.1-8b-32"]

# The peak and the plan are round numbers, so that a reader of the table can check its figures.
BENCH = {"seconds_per_step": 0.02, "fraction_of_peak": 0.5, "peak_flops": 8e14, "peak_memory_bytes": 3 << 30,
         "planned": {"seconds_per_step": 0.03, "peak_memory_bytes": 4 << 30}}

# What each command of a machine in order does, as the body of a shell script.
IN_ORDER = {
    "nvidia-smi": 'case "$*" in *query*) echo "GPU of the test, 80 GB, 1.0"; echo "GPU of the test, 80 GB, 1.0";; esac',
    "bipo-dist": """
while [ $# -gt 0 ]; do case $1 in --out) out=$2;; --json) json=1;; --version) echo "bipo-dist 0.0";; esac; shift; done
[ -z "${out:-}" ] || echo "a file" >"$out"
[ -z "${json:-}" ] || cat "$(dirname "$0")/../bench.json"
echo "  a step's time     products 60 %, attention 40 %" """,
    "gpu_suite_test": 'echo "[  PASSED  ] 19 tests."',
    "mpi_test": 'echo "[  PASSED  ] 1 test."',
    # Two ranks of the program on one device are refused; tests are run once.
    "mpirun": """
shift 2
case "$1 $2" in "bipo-dist bench") echo "--device cuda: 2 ranks on this node, but 1 CUDA devices; start one rank per device"; exit 2;; esac
exec "$@" """,
    "compute-sanitizer": "exit 0",
    "nsys": 'echo "Time,Kernel"',
}

# Stands for the Python of the machine: answers what the steps ask of torch.  Vectors of the CPU in fp32 are the truth.
PYTHON = """
case "$2" in
  *cuda.device_count*) echo "2.11.0+cu130 13.0 ${GPUS:-2}";;
  *) case "$3 $4" in *cuda-fp32*) echo "${FP32:-3e-6}";; *cpu-bf16*) echo 1e-2;; *cuda-bf16*) echo "${BF16:-1.2e-2}";;
     *dp-*) echo "${DP:-0.000e+00}";; *tp-*) echo "${TP:-2e-6}";; esac;;
esac
"""


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body.strip()}\n", encoding="utf-8")
    path.chmod(0o755)


class Bundle:
    """A folder like the archive's, whose programs are made up."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.results = folder / "results"
        (folder / "bin").mkdir(parents=True)
        shutil.copy(SOURCE / "tests" / "gpu" / "run.py", folder)
        (folder / "bench.json").write_text(json.dumps(BENCH, indent=2) + "\n", encoding="utf-8")
        for name, body in IN_ORDER.items():
            self.set(name, body)
        write_program(folder / "python", PYTHON)
        # The script starts Python commands by the path of its own Python.
        text = (folder / "run.py").read_text(encoding="utf-8")
        assert text.count("sys.executable") == 1
        (folder / "run.py").write_text(text.replace("sys.executable", repr(str(folder / "python"))), encoding="utf-8")

    def set(self, name: str, body: str) -> None:
        write_program(self.folder / "bin" / name, body)

    def remove(self, name: str) -> None:
        (self.folder / "bin" / name).unlink()

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        shutil.rmtree(self.results, ignore_errors=True)
        return subprocess.run([sys.executable, self.folder / "run.py", "--results", self.results, *arguments],
                              env={"PATH": f"{self.folder}/bin:/usr/bin:/bin", **environment}, capture_output=True,
                              text=True, timeout=120)

    def marks(self) -> dict[str, tuple[str, str]]:
        """The result and the note of each step in the table."""
        rows = re.findall(r"^\| (\S+) \| (passed|FAILED|not run) \| \d+ \| (.*) \|$",
                          (self.results / "summary.md").read_text(encoding="utf-8"), re.MULTILINE)
        return {name: (mark, note) for name, mark, note in rows}


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return Bundle(tmp_path / "bundle")


def test_all_steps_of_a_machine_in_order_pass(bundle, tmp_path):
    finished = bundle.run("--model", str(tmp_path))
    assert finished.returncode == 0, finished
    marks = bundle.marks()
    assert list(marks) == STEPS and {mark for mark, _ in marks.values()} == {"passed"}, finished.stdout
    # 20 ms, half of 800 TFLOP/s, 3 GiB; 3,220 steps of 20 ms are 64 s.
    assert marks["bench-llama-2-7b-4"][1] == ("20 ms per step, 50.0 % of 800 TFLOP/s, 3 GiB; the plan: 30 ms, 4 GiB; "
                                              "the paper's run 64 s")
    assert marks["parity-ranks"][1] == "2 replicas: the same bits; --tp 2 in fp32: 2.0e-06 (at most 1e-04)"
    assert "2 ranks" in marks["nccl"][1] and "19 tests" in marks["device-suite"][1]
    assert "kernels.csv" in marks["profile"][1]
    assert (bundle.results / "kernels.csv").read_text() == "Time,Kernel\n"
    assert json.loads((bundle.results / "bench-smollm2-135m-32.json").read_text()) == BENCH
    assert len(list(bundle.results.glob("*.log"))) == len(STEPS)


def test_without_a_gpu_nothing_passes_that_needs_one(bundle):
    bundle.remove("nvidia-smi")
    finished = bundle.run()
    marks = bundle.marks()
    assert finished.returncode == 3, finished
    assert [name for name, (mark, _) in marks.items() if mark == "passed"] == ["version"]
    assert all(mark == "not run" for name, (mark, _) in marks.items() if name != "version"), marks
    assert "no GPU" in marks["bench-llama-2-7b-4"][1] and "no --model" in marks["parity-real"][1]


def test_a_driver_without_a_device_is_no_gpu(bundle):
    bundle.set("nvidia-smi", "echo 'No devices were found'; exit 6")
    assert bundle.run().returncode == 3
    assert bundle.marks()["device-suite"][0] == "not run"


@pytest.mark.parametrize(("name", "body", "step", "part"), [
    ("gpu_suite_test", 'echo "[  FAILED  ] 1 test"; exit 1', "device-suite", "exit code 1"),
    ("gpu_suite_test", 'echo "[  PASSED  ] 0 tests."', "device-suite", "no test passed"),
    ("mpi_test", "exit 7", "nccl", "exit code 7"),
    ("mpirun", 'shift 2; case $1 in bipo-dist) exit 0;; esac; exec "$@"', "shared-device", "exit code 0"),
    ("mpirun", 'shift 2; case $1 in bipo-dist) echo "no model"; exit 2;; esac; exec "$@"', "shared-device", "another reason"),
    ("compute-sanitizer", "exit 9", "sanitizer", "exit code 9"),
    ("nsys", "exit 1", "profile", "exit code 1"),
    ("bipo-dist", 'case "$*" in *bench*) echo "{"; echo "no JSON";; esac', "bench-llama-2-7b-4", "no JSON"),
], ids=lambda value: value if re.fullmatch(r"[\w -]+", value) else "script")
def test_a_step_that_fails_stops_no_other(bundle, name, body, step, part):
    bundle.set(name, body)
    finished = bundle.run()
    marks = bundle.marks()
    assert finished.returncode == 1 and list(marks) == STEPS, finished
    assert marks[step][0] == "FAILED" and part in marks[step][1], marks
    assert "FAILED" in finished.stdout and marks["bench-llama-3.1-8b-32"][0] in ("passed", "FAILED")


@pytest.mark.parametrize(("values", "fails", "part"), [
    ({"FP32": "1.1e-4"}, True, "fp32 differs"), ({"FP32": "0.9e-4"}, False, ""), ({"FP32": "nan"}, True, "fp32 differs"),
    ({"BF16": "1.6e-2"}, True, "bf16 differs"), ({"BF16": "1.4e-2"}, False, ""), ({"BF16": "nan"}, True, "bf16 differs"),
], ids=str)
def test_parity_keeps_its_tolerances(bundle, values, fails, part):
    bundle.run("--only", "parity-tiny", **values)
    mark, note = bundle.marks()["parity-tiny"]
    assert mark == ("FAILED" if fails else "passed") and part in note, note


@pytest.mark.parametrize(("values", "mark", "part"), [
    ({"DP": "1e-12"}, "FAILED", "2 replicas differ from one"), ({"DP": "nan"}, "FAILED", "2 replicas differ from one"),
    ({"TP": "1.1e-4"}, "FAILED", "a divided model differs"), ({"TP": "nan"}, "FAILED", "a divided model differs"),
    ({"GPUS": "1"}, "not run", "one GPU is visible"), ({"GPUS": "0"}, "FAILED", "torch sees none"),
], ids=str)
def test_ranks_are_held_to_one(bundle, values, mark, part):
    bundle.run("--only", "parity-ranks", **values)
    assert bundle.marks()["parity-ranks"][0] == mark and part in bundle.marks()["parity-ranks"][1], bundle.marks()


def test_as_many_ranks_start_as_there_are_visible_gpus(bundle):
    bundle.set("mpirun", 'echo "[  PASSED  ] $2 tests."')
    bundle.run("--only", "nccl", GPUS="3")
    assert bundle.marks()["nccl"] == ("passed", "3 ranks")


def test_missing_tools_are_said_and_are_no_pass(bundle):
    bundle.remove("compute-sanitizer")
    bundle.remove("nsys")
    finished = bundle.run("--only", "sanitizer", "profile")
    assert finished.returncode == 3
    assert bundle.marks()["sanitizer"] == ("not run", "compute-sanitizer is not on this machine")
    assert bundle.marks()["profile"] == ("passed", "no nsys; the program's own, by kind of work: products 60 %, attention 40 %")


def test_a_command_that_hangs_ends_with_all_that_it_started(bundle):
    bundle.set("gpu_suite_test", 'sleep 300 & echo $! >"$(dirname "$0")/../child"; wait')
    begin = time.monotonic()
    finished = bundle.run("--only", "device-suite", "--minutes", "0.03")
    assert finished.returncode == 1 and time.monotonic() - begin < 60, finished
    assert "not done in its time" in bundle.marks()["device-suite"][1]
    child = Path(f"/proc/{(bundle.folder / 'child').read_text().strip()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_the_time_of_all_steps_is_limited(bundle):
    bundle.set("gpu_suite_test", "sleep 300")
    finished = bundle.run("--only", "device-suite", "nccl", "sanitizer", "--minutes", "0.03")
    marks = bundle.marks()
    assert finished.returncode == 1 and marks["device-suite"][0] == "FAILED"
    assert marks["nccl"] == marks["sanitizer"] == ("not run", "the time of all steps is up")


def test_results_are_not_overwritten(bundle):
    assert bundle.run("--only", "version").returncode == 0
    again = subprocess.run([sys.executable, bundle.folder / "run.py", "--results", bundle.results], capture_output=True,
                           text=True, timeout=60)
    assert again.returncode == 1 and "is there already" in again.stderr


# --- the archive ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    subprocess.run([SOURCE / "tests" / "gpu" / "pack.sh", "cpu", folder], env={**os.environ, "BIPO_BUILD": str(BUILD)},
                   check=True, stdout=subprocess.DEVNULL, timeout=300)
    return folder / "bipo-gpu-tests.tar.gz"


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory) -> Path:
    """Elsewhere than it was packed."""
    home = tmp_path_factory.mktemp("another place")
    subprocess.run(["tar", "-xzf", archive, "-C", home], check=True)
    return home / "bipo-gpu-tests"


def run_unpacked(unpacked: Path, *command: object) -> subprocess.CompletedProcess:
    clean = {"PATH": f"{unpacked}/bin:/usr/bin:/bin", "HOME": str(unpacked.parent), "BIPO_TORCH": str(TORCH), "LANG": "C.UTF-8"}
    return subprocess.run([str(word) for word in command], env={**clean, **program.MPI_ENVIRONMENT}, capture_output=True,
                          text=True, timeout=120, cwd=unpacked.parent)


def test_the_archive_is_small_and_holds_nothing_of_torch(archive):
    assert archive.stat().st_size <= 60 << 20
    listed = subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [name for name in listed if OF_TORCH.match(Path(name).name)] == []
    names = {name.partition("/")[2] for name in listed}
    assert {"run.py", "bin/bipo-dist", "bin/mpi_test", "libexec/mpi_test", "tiny/train.csv", "tiny/model/config.json",
            "sample/train.csv"} <= names


def test_its_programs_run_elsewhere(unpacked):
    version = run_unpacked(unpacked, "bipo-dist", "--version")
    assert version.returncode == 0 and version.stdout.startswith("bipo-dist"), version
    tests = run_unpacked(unpacked, "mpi_test", "--gtest_filter=MpiCommunicator.World*", "1")
    assert tests.returncode == 0 and "[  PASSED  ] 1 test" in tests.stdout, tests


def test_its_tiny_model_trains(unpacked, tmp_path):
    trained = run_unpacked(unpacked, "bipo-dist", "train", "--model", unpacked / "tiny" / "model", "--train",
                           unpacked / "tiny" / "train.csv", "--layer", 2, "--max-steps", 2, "--out", tmp_path / "run.h5")
    assert trained.returncode == 0, trained


def test_its_script_says_what_was_not_run_here(unpacked, tmp_path):
    # Where the machine of this test has a GPU, this hides it.
    write_program(unpacked / "bin" / "nvidia-smi", "exit 9")
    finished = run_unpacked(unpacked, sys.executable, unpacked / "run.py", "--results", tmp_path / "results")
    assert finished.returncode == 3, finished
    assert "1 passed, 0 FAILED, 15 not run" in finished.stdout
