"""Numbers that leave every sane range end a run as diverged, with its log; identical answers do not."""

from __future__ import annotations

import csv

import numpy
import pytest

import program
import run_files


@pytest.mark.parametrize("lr, dtype", [("1e19", "fp32"), ("1e30", "fp32"), ("1e38", "fp32"), ("1e20", "bf16"),
                                       ("1e300", "fp32")])
def test_an_absurd_learning_rate_ends_as_diverged(job, lr, dtype):
    absurd = job.but(lr=lr, dtype=dtype, test=None)
    finished = program.run(absurd.arguments())
    assert finished.code == program.FAILED, finished
    assert "diverged" in finished.stderr and "lower --lr" in finished.stderr, finished
    assert "step 1: " in finished.stderr, "warm-up makes the first step 0"
    run = run_files.read(absurd.out)
    assert run.attributes["status"] == "diverged"
    assert len(run.steps) >= 1 and numpy.isfinite(run.final_vector).all()

    before = absurd.out.read_bytes()
    resumed = program.run(absurd.arguments("--resume"))
    assert resumed.code == program.BAD_INPUT and "diverged" in resumed.stderr, resumed
    assert "--overwrite" in resumed.stderr and absurd.out.read_bytes() == before
    shown = program.run_successfully(["inspect", absurd.out])
    assert "diverged" in shown.stdout


@pytest.mark.parametrize("ranks, extra", [(2, {}), (2, {"tp": 2})])
def test_every_rank_ends(job, ranks, extra):
    absurd = job.but(lr="1e30", test=None, **extra)
    finished = program.run(absurd.arguments(), ranks, timeout=60)
    assert finished.code == program.FAILED and "diverged" in finished.stderr, finished
    assert run_files.read(absurd.out).attributes["status"] == "diverged"


def test_identical_answers_train(job, tmp_path):
    same = tmp_path / "same.csv"
    with open(same, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "matching", "not_matching"])
        writer.writerows([[f"Shall we go {i}?", "Yes.", "Yes."] for i in range(6)])
    alike = job.but(train=same, test=None)
    program.run_successfully(alike.arguments())
    assert run_files.read(alike.out).attributes["status"] == "complete"
