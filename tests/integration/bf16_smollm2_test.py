"""bf16 against fp32 on the real model: the same vector and the same held-out answers, within stated bounds."""

import csv
from pathlib import Path

import numpy
import program
import run_files

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample"


def test_bf16_trains_the_vector_that_fp32_trains(tmp_path):
    held_out = tmp_path / "held_out.csv"
    assert write_rows(held_out, rows("train.csv") + rows("test.csv")) == 200
    ends = {dtype: trained(tmp_path, held_out, dtype) for dtype in ("fp32", "bf16")}

    exact, rounded = ends["fp32"], ends["bf16"]
    norms = numpy.linalg.norm(exact.final_vector) * numpy.linalg.norm(rounded.final_vector)
    assert numpy.dot(exact.final_vector, rounded.final_vector) / norms >= 0.99
    for multiplier in (-1, 0, 1):
        before, after = exact.evaluation(multiplier), rounded.evaluation(multiplier)
        # Both runs answer the same 200 pairs. Where n of them change sides, the difference in their number has a
        # standard error of sqrt(n) at least, so that up to 4 lie within two of them whatever n is.
        assert round(abs(before["accuracy"] - after["accuracy"]) * 200) <= 4
        assert abs(before["margin"] - after["margin"]) <= 0.05 * max(1, abs(before["margin"]))
    # The vector does something, so that there is something to agree on.
    assert exact.evaluation(1)["margin"] > 0.2 and exact.evaluation(-1)["margin"] < -0.2


def trained(tmp_path, held_out, dtype):
    out = tmp_path / f"{dtype}.h5"
    program.run_successfully(
        ["train", *program.options({
            "model": program.smollm2_directory(), "train": SAMPLE / "test.csv", "test": held_out, "layer": 15,
            "out": out, "epochs": 2,
            "lr_unit": "absolute", "lr": 0.3, "warmup_steps": 4, "threads": 2, "dtype": dtype, "eval_every": 2})],
        timeout=1200)
    return run_files.read(out)


def rows(name):
    with open(SAMPLE / name, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def write_rows(path, content):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["question", "matching", "not_matching"], *content])
    return len(content)
