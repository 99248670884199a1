"""`bipo-dist collect` against figures that pandas computes from the run files themselves."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy
import pandas
import pytest

import program
import run_files

WRITER = os.environ["BIPO_WRITE_SAMPLE_RUN"]

AXES = ["model", "data", "layer", "seed", "lr", "beta", "sign", "batch_size", "epochs"]
POINTS = {"minus": -1.0, "zero": 0.0, "plus": 1.0}
FIGURES = [f"{figure}_{point}" for figure in ("accuracy", "margin") for point in POINTS]
COLUMNS = ["cell", "status", *AXES, "site", "steps", "total_steps", "loss", "vector_norm", *FIGURES, "best_epoch",
           *(f"best_{name}" for name in FIGURES), "seconds", "tokens_per_second", "failure"]
SETTINGS = {"model_fingerprint": "00ff", "weight_decay": 0.25, "max_steps": 0, "shuffle": True, "lr_unit": "absolute",
            "multipliers": [-1, 0, 1], "huge": 2**64 - 1,
            "inputs": [{"model": "tiny", "data": "a", "train_pairs": 10, "prompt": "größe"},
                       {"model": "tiny", "data": "b", "train_pairs": 7, "prompt": ""}]}
SETTING_COLUMNS = ["model_fingerprint", "weight_decay", "max_steps", "shuffle", "lr_unit", "multipliers", "huge",
                   "train_pairs", "prompt"]
CONFIG = {"train_pairs": 10, "batch_size": 4, "epochs": 3, "max_steps": 0}


class Sweep:
    """A sweep directory made of sample runs with figures of their own."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.out = directory.parent / "sweep.h5"
        self.cells: list[dict] = []
        directory.mkdir()

    def cell(self, data: str = "a") -> str:
        index = len(self.cells)
        name = f"tiny-{data}-layer{index}-lr0.{index}5"
        self.cells.append({"name": name, "model": "tiny", "data": data, "layer": index, "seed": 2**64 - 2,
                           "lr": 0.5 + index / 3, "beta": 0.1, "sign": "batch", "batch_size": 4, "epochs": 3})
        return name

    def run_file(self, name: str) -> Path:
        return self.directory / f"{name}.h5"

    def run(self, name: str, steps: int, evals: list[tuple], status: str = "complete", **config: object) -> None:
        """A run of `steps` steps; `evals` holds (step, epoch, multiplier, accuracy, margin)."""
        path = self.run_file(name)
        subprocess.run([WRITER, str(path), str(steps)], check=True)
        layer = next(cell["layer"] for cell in self.cells if cell["name"] == name)
        with h5py.File(path, "r+") as file:
            file.attrs.modify("layer", numpy.int64(layer))
            del file.attrs["status"], file.attrs["config"]
            file.attrs["status"] = status
            file.attrs["config"] = json.dumps({**CONFIG, **config})
            rows = numpy.zeros(len(evals), file["evals"].dtype)
            for row, values in zip(rows, evals, strict=True):
                for column, value in zip(("step", "epoch", "multiplier", "accuracy", "margin"), values, strict=True):
                    row[column] = value
            file["evals"].resize((len(evals),))
            file["evals"][:] = rows
            run_files.drop_checksums(file)

    def collect(self) -> program.Finished:
        plan = {"schema_version": 1, "settings": SETTINGS, "vectors_per_pass": "auto", "cells": self.cells,
                "packs": [{"name": cell["name"], "members": [cell["name"]]} for cell in self.cells]}
        (self.directory / "plan.json").write_text(json.dumps(plan))
        return program.run_successfully(["collect", self.directory, "--out", self.out])

    def summary(self) -> pandas.DataFrame:
        with h5py.File(self.out, "r") as file:
            frame = pandas.DataFrame(file["summary"][:])
        for column in frame.columns[frame.dtypes == object]:
            frame[column] = frame[column].str.decode("utf-8")
        return frame.set_index("cell", drop=False)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "sweep")


def random_evals(seed: int, epochs: int) -> list[tuple]:
    """Accuracies of few values, so that evaluations tie; multipliers in no order, one of them not in /summary."""
    random = numpy.random.default_rng(seed)
    return [(2 * (epoch + 1), epoch, multiplier, random.integers(0, 3) / 4, random.integers(0, 5) / 8)
            for epoch in range(epochs) for multiplier in (2.0, 1.0, -1.0, 0.0)]


def figures_at(evals: pandas.DataFrame, step: int) -> dict[str, float]:
    rows = evals[evals["step"] == step].set_index("multiplier")
    return {f"{figure}_{point}": rows[figure].get(multiplier, math.nan)
            for figure in ("accuracy", "margin") for point, multiplier in POINTS.items()}


def expected_row(path: Path) -> dict[str, object]:
    """The figures of /summary, from the definitions and the run file alone."""
    with h5py.File(path, "r") as file:
        steps, evals = pandas.DataFrame(file["steps"][:]), pandas.DataFrame(file["evals"][:])
        config, done = json.loads(file.attrs["config"]), int(file["checkpoint/step"][()])
    row: dict[str, object] = {"steps": done, **dict.fromkeys(FIGURES, math.nan), "best_epoch": -1,
                              **{f"best_{name}": math.nan for name in FIGURES}}
    total = config["epochs"] * math.ceil(config["train_pairs"] / config["batch_size"])
    row["total_steps"] = min(total, config["max_steps"]) if config["max_steps"] else total
    row["loss"] = steps["loss"].iloc[-1] if len(steps) else math.nan
    row["vector_norm"] = steps["vector_norm"].iloc[-1] if len(steps) else math.nan
    row["seconds"] = steps["seconds"].sum() if len(steps) else math.nan
    row["tokens_per_second"] = steps["tokens"].sum() / row["seconds"] if len(steps) else math.nan
    if len(evals):
        row.update(figures_at(evals, evals["step"].max()))
        wide = evals.pivot(index=["step", "epoch"], columns="multiplier", values=["accuracy", "margin"])
        if {-1.0, 1.0} <= set(evals["multiplier"]):
            effects = (wide["margin"][1.0] - wide["margin"][-1.0]).rename("margin").reset_index()
            ranked = effects.sort_values(["margin", "step"], ascending=[False, True])
            row["best_epoch"] = ranked["epoch"].iloc[0]
            best = figures_at(evals, ranked["step"].iloc[0])
            row.update({f"best_{name}": value for name, value in best.items()})
    return row


def assert_row(summary: pandas.DataFrame, name: str, expected: dict[str, object]) -> None:
    for column, value in expected.items():
        found = summary.loc[name, column]
        is_same = found == value or (isinstance(value, float) and math.isnan(value) and math.isnan(found))
        assert is_same, f"{name}: {column} is {found}, expected {value}"


def assert_same_tree(copy: h5py.Group, original: h5py.Group) -> None:
    assert dict(copy.attrs) == dict(original.attrs)
    assert set(copy) == set(original)
    for name, item in original.items():
        if isinstance(item, h5py.Group):
            assert_same_tree(copy[name], item)
            continue
        assert copy[name].dtype == item.dtype and copy[name].maxshape == item.maxshape
        assert copy[name].chunks == item.chunks and copy[name].fletcher32 == item.fletcher32
        assert dict(copy[name].attrs) == dict(item.attrs)
        numpy.testing.assert_array_equal(copy[name][()], item[()])


def test_figures_are_those_of_the_run_files(sweep):
    for seed in range(12):
        sweep.run(sweep.cell(data="ab"[seed % 2]), 1 + seed, random_evals(seed, 1 + seed % 5))
    finished = sweep.collect()
    assert finished.stdout == f"{sweep.out}: 12 cells: 12 complete\n"
    summary = sweep.summary()
    for cell in sweep.cells:
        assert_row(summary, cell["name"], {"status": "complete", "failure": "",
                                           **{axis: cell[axis] for axis in AXES},
                                           **expected_row(sweep.run_file(cell["name"]))})


@pytest.mark.parametrize("accuracies, margins, best", [
    ([(0.50, 0.25), (0.75, 0.25), (0.50, 0.00)], [(0, 0), (0, 0), (9, 0)], 2),  # the largest margin
    ([(0.50, 0.25), (0.75, 0.50), (0.25, 0.00)], [(1, 0), (2, 1), (3, 2)], 0),  # all equal: the earliest
    ([(0.25, 0.50), (0.25, 0.75), (0.25, 0.25)], [(8, 0), (9, 0), (-9, 0)], 1),  # whatever the accuracy
    ([(0.25, 0.75), (0.25, 0.50), (0.25, 0.75)], [(-2, 0), (-1, 0), (-1, 1)], 1),  # all below zero
])
def test_the_best_evaluation(sweep, accuracies, margins, best):
    name = sweep.cell()
    evals = []
    for epoch, ((plus, minus), (margin_plus, margin_minus)) in enumerate(zip(accuracies, margins, strict=True)):
        evals += [(3 * epoch + 3, epoch, 1.0, plus, margin_plus), (3 * epoch + 3, epoch, -1.0, minus, margin_minus)]
    sweep.run(name, 9, evals)
    sweep.collect()
    assert_row(sweep.summary(), name, {
        "best_epoch": best, "best_accuracy_plus": accuracies[best][0], "best_accuracy_minus": accuracies[best][1],
        "best_accuracy_zero": math.nan, "best_margin_plus": float(margins[best][0])})


def test_what_is_not_known(sweep):
    empty, one_sided, no_config, missing = (sweep.cell() for _ in range(4))
    sweep.run(empty, 0, [], status="running")
    sweep.run(one_sided, 2, [(2, 0, 1.0, 0.5, 0.25), (2, 0, 0.0, 0.5, 0.25)], max_steps=5)
    sweep.run(no_config, 1, [], train_pairs="x")
    sweep.collect()
    summary = sweep.summary()
    assert_row(summary, empty, {"status": "interrupted", **expected_row(sweep.run_file(empty)), "total_steps": 9})
    assert_row(summary, one_sided, {**expected_row(sweep.run_file(one_sided)), "total_steps": 5, "best_epoch": -1,
                                    "accuracy_minus": math.nan, "accuracy_plus": 0.5})
    assert_row(summary, no_config, {"total_steps": -1, "steps": 1})
    assert_row(summary, missing, {"status": "missing", "steps": -1, "total_steps": -1, "best_epoch": -1,
                                  "loss": math.nan, "seconds": math.nan, "failure": "",
                                  "layer": 3, "seed": 2**64 - 2})


def test_columns_and_their_types(sweep):
    sweep.run(sweep.cell("a"), 2, random_evals(1, 1))
    sweep.cell("b")
    sweep.collect()
    with h5py.File(sweep.out, "r") as file:
        table = file["summary"]
        assert list(table.dtype.names) == COLUMNS + SETTING_COLUMNS
        integers = {"layer", "batch_size", "epochs", "steps", "total_steps", "best_epoch", "max_steps", "shuffle",
                    "train_pairs"}
        texts = {"cell", "status", "model", "data", "sign", "site", "failure", "model_fingerprint", "lr_unit", "multipliers",
                 "prompt"}
        for name in table.dtype.names:
            kind = "<i8" if name in integers else "<u8" if name == "seed" else "<f8"
            assert table.dtype[name].kind == "S" if name in texts else table.dtype[name] == kind, name
        assert table.maxshape == (None,) and table.fletcher32
        assert h5py.check_string_dtype(table.dtype["prompt"]).encoding == "utf-8"
        units = json.loads(table.attrs["units"])
        assert list(units) == COLUMNS
        assert all(entry["unit"] and entry["meaning"] for entry in units.values())
    summary = sweep.summary()
    assert list(summary["prompt"]) == ["größe", ""] and list(summary["train_pairs"]) == [10, 7]
    assert list(summary["multipliers"]) == ["[-1,0,1]"] * 2 and list(summary["shuffle"]) == [1, 1]
    assert list(summary["weight_decay"]) == [0.25] * 2 and list(summary["huge"]) == [float(2**64 - 1)] * 2


def test_runs_are_copies_of_the_run_files(sweep):
    names = [sweep.cell() for _ in range(3)]
    sweep.run(names[0], 5, random_evals(1, 2))
    sweep.run(names[1], 0, [], status="running")
    sweep.collect()
    with h5py.File(sweep.out, "r") as file:
        assert set(file) == {"summary", "runs"}
        assert set(file["runs"]) == set(names[:2])
        assert set(file.attrs) == {"schema_version", "kind", "plan", "program_version", "git_commit", "created_utc",
                                   "checksum"}
        assert json.loads(file.attrs["plan"])["cells"] == sweep.cells
        for name in names[:2]:
            with h5py.File(sweep.run_file(name), "r") as run:
                assert_same_tree(file["runs"][name], run)
    dump = subprocess.run(["h5dump", str(sweep.out)], check=True, capture_output=True, text=True)
    assert dump.stderr == ""


def test_a_sweep_half_dead(sweep):
    done, damaged, failed, missing = (sweep.cell() for _ in range(4))
    for name in (done, damaged, failed):
        sweep.run(name, 3, random_evals(2, 1), status="complete" if name == done else "running")
    with open(sweep.run_file(damaged), "r+b") as file:
        file.truncate(5000)
    (sweep.directory / "failures").mkdir()
    record = {"reason": "loss is nan", "utc": "2026-01-02T03:04:05Z", "host": "node1"}
    (sweep.directory / "failures" / f"{failed}.json").write_text(json.dumps(record))
    finished = sweep.collect()
    assert f"{sweep.out}: 4 cells: 1 complete, 1 failed, 1 unreadable, 1 missing\n" in finished.stdout
    assert f"failed:\n  {failed}: loss is nan (node1, 2026-01-02T03:04:05Z)\n" in finished.stdout
    assert f"missing:\n  {missing}\n" in finished.stdout
    summary = sweep.summary()
    assert list(summary["status"]) == ["complete", "unreadable", "failed", "missing"]
    assert_row(summary, failed, {**expected_row(sweep.run_file(failed)),
                                 "failure": "loss is nan (node1, 2026-01-02T03:04:05Z)"})
    assert "damaged" in summary.loc[damaged, "failure"]
    assert_row(summary, damaged, {"steps": -1, "loss": math.nan, "accuracy_plus": math.nan})
    with h5py.File(sweep.out, "r") as file:
        assert set(file["runs"]) == {done, failed}


def test_many_cells(sweep):
    first = sweep.cell()
    sweep.run(first, 40, random_evals(3, 20))
    for _ in range(399):
        name = sweep.cell()
        sweep.cells[-1]["layer"] = 0
        shutil.copy(sweep.run_file(first), sweep.run_file(name))
    finished = sweep.collect()
    assert finished.stdout == f"{sweep.out}: 400 cells: 400 complete\n"
    summary = sweep.summary()
    assert list(summary["cell"]) == [cell["name"] for cell in sweep.cells]
    assert (summary["steps"] == 40).all()


def test_another_file_is_not_replaced(sweep):
    sweep.cell()
    sweep.out.write_text("notes")
    with pytest.raises(AssertionError, match="--overwrite"):
        sweep.collect()
    assert sweep.out.read_text() == "notes"
    refused = program.run(["collect", sweep.directory, "--out", sweep.out])
    assert refused.code == program.BAD_INPUT and refused.stdout == ""
    program.run_successfully(["collect", sweep.directory, "--out", sweep.out, "--overwrite"])
    assert list(sweep.summary()["status"]) == ["missing"]


def test_what_is_no_sweep_is_refused(tmp_path):
    refused = program.run(["collect", tmp_path, "--out", tmp_path / "sweep.h5"])
    assert refused.code == program.BAD_INPUT
    assert "plan.json" in refused.stderr and "bipo-dist sweep" in refused.stderr
