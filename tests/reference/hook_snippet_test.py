"""The program of docs/export.md that steers a transformers model by a forward hook says what the program says."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

import program
import run_files
from documentation import SOURCE, python_block

MULTIPLIERS = (-1, 0, 1)
# Sums of some 40 log-probabilities, two float32 implementations.
TOLERANCE = 1e-3


def snippet() -> str:
    return python_block(SOURCE / "docs" / "export.md", "register_forward_hook")


def write_rows(source: Path, target: Path, count: int) -> Path:
    """The first `count` pairs of `source`."""
    with open(source, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[:1 + count]
    with open(target, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """run.h5 of two long steps, and the test.csv it was evaluated on."""
    folder = tmp_path_factory.mktemp("snippet")
    sample = SOURCE / "datasets" / "sample"
    train = write_rows(sample / "train.csv", folder / "train.csv", 4)
    test = write_rows(sample / "test.csv", folder / "test.csv", 2)
    program.run_successfully(["train", *program.options({
        "model": program.smollm2_directory(), "train": train, "test": test, "layer": 15, "out": folder / "run.h5",
        "epochs": 2, "lr_unit": "residual", "lr": 0.02, "warmup_steps": 0, "batch_size": 4, "sign": "plus",
        "multipliers": ",".join(map(str, MULTIPLIERS)), "threads": 1, "dtype": "fp32", "device": "cpu"})],
        timeout=300)
    return folder


@pytest.fixture(scope="module")
def printed(folder) -> dict[int, tuple[float, float, str]]:
    """By multiplier: mean log-probabilities of the chosen and the rejected answers, and a generated text."""
    # One thread: among other tests, two that wait for each other take longer.
    finished = subprocess.run([sys.executable, "-c", snippet()], cwd=folder, capture_output=True, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert finished.returncode == 0, finished.stderr
    rows = [line.split(maxsplit=3) for line in finished.stdout.splitlines()]
    return {int(multiplier): (float(chosen), float(rejected), text) for multiplier, chosen, rejected, text in rows}


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_log_probabilities_are_those_of_the_run_file(folder, printed, multiplier):
    row = run_files.read(folder / "run.h5").evaluation(multiplier)
    numpy.testing.assert_allclose(printed[multiplier][:2], [row["chosen_logp"], row["rejected_logp"]], rtol=0,
                                  atol=TOLERANCE)


def test_the_vector_matters(printed):
    """Without that, any hook would do."""
    margins = [printed[multiplier][0] - printed[multiplier][1] for multiplier in MULTIPLIERS]
    assert margins[1] - margins[0] > 100 * TOLERANCE and margins[2] - margins[1] > 100 * TOLERANCE
    assert printed[0][2] != printed[1][2] or printed[0][2] != printed[-1][2]
