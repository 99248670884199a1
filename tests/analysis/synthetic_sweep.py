"""Sweeps written by h5py and json alone, whose every number is a simple function of layer, seed, epoch and step."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy

PAIRS = 50  # held out
STEPS_PER_EPOCH = 10
TRAIN_PAIRS = 40
BATCH = 4
MULTIPLIERS = (-1.0, 0.0, 1.0)
STEP_TYPE = numpy.dtype([
    ("step", "<i8"), ("epoch", "<i4"), ("lr", "<f8"), ("loss", "<f8"), ("margin", "<f8"), ("accuracy", "<f8"),
    ("sign", "|i1"), ("grad_norm", "<f8"), ("vector_norm", "<f8"), ("tokens", "<f8"), ("seconds", "<f8")])
EVAL_TYPE = numpy.dtype([
    ("step", "<i8"), ("epoch", "<i4"), ("multiplier", "<f8"), ("pairs", "<f8"), ("loss", "<f8"),
    ("margin", "<f8"), ("accuracy", "<f8"), ("chosen_logp", "<f8"), ("rejected_logp", "<f8")])


@dataclass(frozen=True)
class CellSpec:
    """The axes of one cell."""

    layer: int
    seed: int
    model: str = "smollm2"
    data: str = "warmth"
    lr: float = 0.0005
    beta: float = 0.1
    sign: str = "batch"
    batch_size: int = BATCH
    epochs: int = 3
    objective: str = "bipo"  # plans name it, and its reduction, where it is another
    higher_layers: tuple[int, ...] = ()  # trained jointly with `layer`, the lowest

    @property
    def joint_layers(self) -> str:
        return "+".join(map(str, (self.layer, *self.higher_layers))) if self.higher_layers else ""

    @property
    def name(self) -> str:
        return (f"{self.model}-{self.data}-layer{self.joint_layers or self.layer}-seed{self.seed}-lr{self.lr:g}-beta{self.beta:g}"
                f"-sign{self.sign}-batch{self.batch_size}-epochs{self.epochs}"
                f"{'' if self.objective == 'bipo' else f'-objective{self.objective}-reductionmean'}").replace("/", "_")

    @property
    def total_steps(self) -> int:
        return self.epochs * STEPS_PER_EPOCH

    def axes(self) -> dict[str, object]:
        other = {} if self.objective == "bipo" else {"objective": self.objective, "reduction": "mean"}
        if self.higher_layers:
            other["joint_layers"] = self.joint_layers
        return {"name": self.name, "model": self.model, "data": self.data, "layer": self.layer, "seed": self.seed,
                "lr": self.lr, "beta": self.beta, "sign": self.sign, "batch_size": self.batch_size,
                "epochs": self.epochs, **other}


def quality(cell: CellSpec) -> float:
    """From 0 to 1, with its peak at layer 15; smaller for smaller learning rates."""
    return max(0.0, 1 - abs(cell.layer - 15) / 20) * min(1.0, cell.lr / 0.0005)


def accuracy(cell: CellSpec, epoch: int, multiplier: float) -> float:
    """A whole number of the held-out pairs; 0.58 without steering; grows with the epochs; seeds differ by a pair."""
    gained = 10 * quality(cell) * (epoch + 1) / cell.epochs + (cell.seed % 2 if multiplier else 0)
    return (29 + multiplier * round(gained)) / PAIRS


def margin(cell: CellSpec, epoch: int, multiplier: float) -> float:
    return multiplier * (quality(cell) * 1.5 * (epoch + 1) / cell.epochs + 0.05 * (cell.seed % 2))


def loss(cell: CellSpec, step: int) -> float:
    return math.log(2) * (1 - 0.8 * quality(cell) * step / cell.total_steps)


def vector_norm(step: int) -> float:
    return 0.1 * (step + 1)


def seconds(cell: CellSpec) -> float:
    """Of one step."""
    return 1.5 - 0.05 * cell.layer


def direction(cell: CellSpec, hidden: int) -> numpy.ndarray:
    """A unit vector that turns with the layer by 3 degrees each, and by 10 degrees between odd and even seeds."""
    angle, tilt = math.radians(3 * cell.layer), math.radians(10 * (cell.seed % 2))
    vector = numpy.zeros(hidden)
    vector[:3] = (math.cos(angle) * math.cos(tilt), math.sin(angle) * math.cos(tilt), math.sin(tilt))
    return vector


def step_rows(cell: CellSpec, count: int) -> numpy.ndarray:
    rows = numpy.zeros(count, STEP_TYPE)
    for step in range(count):
        rows[step] = (step, step // STEPS_PER_EPOCH, cell.lr, loss(cell, step), 0.1, 0.5, 1, 0.2, vector_norm(step),
                      400, seconds(cell))
    return rows


def eval_rows(cell: CellSpec, epochs_done: int) -> numpy.ndarray:
    rows = [((epoch + 1) * STEPS_PER_EPOCH, epoch, multiplier, PAIRS, 0.7, margin(cell, epoch, multiplier),
             accuracy(cell, epoch, multiplier), -100.0, -101.0)
            for epoch in range(epochs_done) for multiplier in MULTIPLIERS]
    return numpy.array(rows, EVAL_TYPE)


def settings(cell: CellSpec) -> dict[str, object]:
    """What `config` holds besides the axes, in small."""
    return {"train_pairs": TRAIN_PAIRS, "test_pairs": PAIRS, "max_steps": 0, "lr_unit": "residual",
            "multipliers": list(MULTIPLIERS), "shuffle": True, "weight_decay": 0.0, "system_prompt": "Be brief."}


def write_run_tree(group: h5py.Group, cell: CellSpec, status: str, steps: int, evaluates: bool = True,
                   hidden: int = 16) -> None:
    """The tree of a run file after `steps` updates, into a file's root or a group."""
    epochs_done = steps // STEPS_PER_EPOCH
    config = {**settings(cell), **cell.axes(), "model": f"models/{cell.model}"}
    config.pop("joint_layers", None)
    layers = (cell.layer, *cell.higher_layers)
    if cell.higher_layers:
        config["layer"] = layers
    group.attrs.update({
        "schema_version": 1, "status": status, "config": json.dumps(config), "program_version": "0.1.0",
        "git_commit": "0123456789abcdef", "created_utc": "2026-01-02T03:04:05Z", "model": f"models/{cell.model}",
        "layer": cell.layer, "hidden_size": hidden, "world_size": 2, "dp": 2, "tp": 1, "backend": "mpi",
        "dtype": "fp32", "hosts": "node1"})
    group.create_dataset("steps", data=step_rows(cell, steps), maxshape=(None,), chunks=(64,))
    group.create_dataset("evals", data=eval_rows(cell, epochs_done if evaluates else 0), maxshape=(None,), chunks=(64,))
    saved = [(epoch + 1) * STEPS_PER_EPOCH for epoch in range(epochs_done)]
    values = [vector_norm(step) * direction(cell, hidden) for step in saved]
    group["vectors/value"] = numpy.array(values, "<f4").reshape(len(saved), hidden)
    if cell.higher_layers:  # the same vector at each
        del group["vectors/value"]
        group["vectors/value"] = numpy.stack([numpy.array(values, "<f4")] * len(layers), axis=1)
        group["vectors/layer"] = numpy.array(layers, "<i8")
    group["vectors/step"] = numpy.array(saved, "<i8")
    group["vectors/epoch"] = numpy.arange(epochs_done, dtype="<i4")
    for name in ("vector", "exp_avg", "exp_avg_sq"):
        group[f"checkpoint/{name}"] = numpy.zeros(hidden, "<f4")
    group["checkpoint/step"], group["checkpoint/seed"] = numpy.int64(steps), numpy.uint64(cell.seed)


def make_mlps(sweep: Path) -> Path:
    """Turns a sweep's directory into that of --site mlp in a model whose MLPs have no norm behind them."""
    plan = json.loads((sweep / "plan.json").read_text())
    plan["settings"]["site"] = "mlp"
    (sweep / "plan.json").write_text(json.dumps(plan))
    for path in sweep.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            config = {**json.loads(file.attrs["config"]), "site": "mlp", "block_output_factor": 1.0}
            file.attrs.update({"config": json.dumps(config), "site": "mlp", "schema_version": 2})
    return sweep


@dataclass(frozen=True)
class SyntheticSweep:
    """A sweep of `cells`; those named in `steps`, `failures` or `missing` by index did not run to their end."""

    cells: list[CellSpec]
    steps: dict[int, int] = field(default_factory=dict)  # interrupted there
    failures: dict[int, str] = field(default_factory=dict)  # failed after steps[i] steps, or without a run file
    missing: frozenset[int] = frozenset()
    evaluates: bool = True

    def write(self, directory: Path) -> Path:
        """The sweep as a directory."""
        directory.mkdir()
        (directory / "plan.json").write_text(self.plan())
        for index, cell in enumerate(self.cells):
            if self.has_run(index):
                with h5py.File(directory / f"{cell.name}.h5", "w") as file:
                    self.write_tree(file, index)
            if index in self.failures:
                (directory / "failures").mkdir(exist_ok=True)
                record = {"reason": self.failures[index], "utc": "2026-01-02T03:04:05Z", "host": "node1"}
                (directory / "failures" / f"{cell.name}.json").write_text(json.dumps(record))
        return directory

    def plan(self) -> str:
        packs = [{"name": cell.name, "members": [cell.name]} for cell in self.cells]
        shared = settings(self.cells[0]) if self.cells else {}
        return json.dumps({"schema_version": 1, "settings": shared, "vectors_per_pass": 1,
                           "cells": [cell.axes() for cell in self.cells], "packs": packs})

    def write_tree(self, group: h5py.Group, index: int) -> None:
        cell = self.cells[index]
        steps = self.steps.get(index, cell.total_steps)
        status = "complete" if steps == cell.total_steps and index not in self.failures else "interrupted"
        write_run_tree(group, cell, status, steps, self.evaluates)

    def has_run(self, index: int) -> bool:
        return index not in self.missing and (index not in self.failures or index in self.steps)

    def status(self, index: int) -> str:
        if index in self.failures:
            return "failed"
        if index in self.missing:
            return "missing"
        return "interrupted" if index in self.steps else "complete"

    def failure(self, index: int) -> str:
        """As /summary has it: with the place and time of the record."""
        return f"{self.failures[index]} (node1, 2026-01-02T03:04:05Z)" if index in self.failures else ""

    def summary(self) -> numpy.ndarray:
        """/summary, from the formulas above."""
        outcomes = [f"{measure}_{side}" for measure in ("accuracy", "margin") for side in ("minus", "zero", "plus")]
        shared = [("train_pairs", "<i8"), ("test_pairs", "<i8"), ("max_steps", "<i8"), ("lr_unit", "S8"),
                  ("multipliers", "S24"), ("shuffle", "<i8"), ("weight_decay", "<f8"), ("system_prompt", "S16")]
        columns = [("cell", "S120"), ("status", "S16"), ("model", "S40"), ("data", "S40"), ("layer", "<i8"),
                   ("seed", "<u8"), ("lr", "<f8"), ("beta", "<f8"), ("sign", "S8"), ("batch_size", "<i8"),
                   ("epochs", "<i8"), ("site", "S8"), ("steps", "<i8"), ("total_steps", "<i8"), ("loss", "<f8"),
                   ("vector_norm", "<f8"), *((name, "<f8") for name in outcomes), ("best_epoch", "<i8"),
                   *((f"best_{name}", "<f8") for name in outcomes), ("seconds", "<f8"),
                   ("tokens_per_second", "<f8"), ("failure", "S200"), *shared]
        table = numpy.zeros(len(self.cells), columns)
        for index in range(len(self.cells)):
            row = self.summary_row(index)
            for name, _ in columns:
                value = row[name]
                table[name][index] = value.encode() if isinstance(value, str) else value
        return table

    def summary_row(self, index: int) -> dict[str, object]:
        cell = self.cells[index]
        row: dict[str, object] = {**settings(cell), **cell.axes(), "cell": cell.name, "status": self.status(index),
                                  "site": "block", "failure": self.failure(index), "steps": -1, "total_steps": -1,
                                  "loss": math.nan, "vector_norm": math.nan, "seconds": math.nan,
                                  "tokens_per_second": math.nan, "best_epoch": -1}
        row["multipliers"] = "[-1.0,0.0,1.0]"
        evaluated = 0
        if self.has_run(index):
            steps = self.steps.get(index, cell.total_steps)
            evaluated = steps // STEPS_PER_EPOCH if self.evaluates else 0
            row.update(steps=steps, total_steps=cell.total_steps, loss=loss(cell, steps - 1),
                       vector_norm=vector_norm(steps - 1), seconds=steps * seconds(cell),
                       tokens_per_second=400 / seconds(cell))
        last = evaluated - 1
        if evaluated:
            row["best_epoch"] = last  # margins grow with every epoch
        for side, multiplier in zip(("minus", "zero", "plus"), MULTIPLIERS, strict=True):
            row[f"accuracy_{side}"] = accuracy(cell, last, multiplier) if evaluated else math.nan
            row[f"margin_{side}"] = margin(cell, last, multiplier) if evaluated else math.nan
            row[f"best_accuracy_{side}"] = row[f"accuracy_{side}"]
            row[f"best_margin_{side}"] = row[f"margin_{side}"]
        return row

    def collect(self, path: Path) -> Path:
        """The sweep as one file."""
        with h5py.File(path, "w") as file:
            file.attrs.update({"schema_version": 1, "kind": "sweep", "plan": self.plan(), "program_version": "0.1.0",
                               "git_commit": "0123456789abcdef", "created_utc": "2026-01-02T04:00:00Z"})
            file["summary"] = self.summary()
            runs = file.create_group("runs")
            for index, cell in enumerate(self.cells):
                if self.has_run(index):
                    self.write_tree(runs.create_group(cell.name), index)
        return path


def grid(layers: tuple[int, ...] = (5, 10, 15, 20, 25), seeds: tuple[int, ...] = (1, 2),
         **axes: tuple) -> list[CellSpec]:
    """The cells of a product of axes, in the order of a plan."""
    names = list(axes)
    return [CellSpec(layer, seed, **dict(zip(names, values, strict=True)))
            for *values, layer, seed in itertools.product(*axes.values(), layers, seeds)]
