"""The program against plain_bipo: ten optimiser steps on the real model, and on every kind of tiny one."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import h5py
import numpy
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

import pair_tokens
import plain_bipo
import program
import run_files
from plain_bipo import Settings
from selection import every_second, seldom
from tiny_models import variants, write_model

STEPS = 10

# Log-probabilities of some 150 nats carry 4e-5 of fp32 rounding here (plain_bipo in fp32 against itself in
# fp64, all variants), which makes losses differ by up to 2.5e-6 of their value.
TINY_LOSS_RTOL = 1e-5
TINY_COSINE = 0.999999

# A learning rate at which ten steps make the vector some 6 % as long as the hidden states of the tiny
# models, so that losses leave ln 2 by up to 0.1.
TINY_HOT = Settings(steps=STEPS, lr=0.1, warmup_steps=2, weight_decay=0.05)


@dataclass(frozen=True)
class PlainRun:
    """A run of plain_bipo with what went into it."""

    model: PreTrainedModel
    pairs: list[plain_bipo.TokenPair]
    reference: plain_bipo.PairLogps
    records: list[plain_bipo.StepRecord]


def train_options(settings: Settings, **more: object) -> list[object]:
    """The options under which the program must do what plain_bipo does with `settings`."""
    return ["train", *program.options({
        "max_steps": settings.steps, "lr_unit": "absolute", "lr": settings.lr, "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay, "beta": settings.beta,
        "max_grad_norm": settings.max_grad_norm, "batch_size": settings.batch_size, "sign": settings.sign,
        "shuffle": "off", "dtype": "fp32", "device": "cpu", "eval_every": 0, **more})]


@pytest.fixture(scope="module")
def reference():
    path = Path(program.from_environment("BIPO_TEST_CACHE")) / "reference" / "reference.h5"
    assert path.is_file(), f"{path} is missing: tests/run.sh makes it (tests/reference/make_reference.py)"
    with h5py.File(path, "r") as file:
        yield file


@pytest.fixture(scope="module")
def first_pairs(reference, tmp_path_factory):
    """The pairs that the reference file was made of, as a file of their own."""
    source = Path(__file__).parents[2] / "datasets" / "sample" / reference.attrs["data"]
    target = tmp_path_factory.mktemp("pairs") / "first.csv"
    with open(source, newline="", encoding="utf-8") as rows, open(target, "w", newline="",
                                                                  encoding="utf-8") as file:
        csv.writer(file).writerows(islice(csv.reader(rows), 1 + int(reference.attrs["pairs"])))
    return target


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    return {name: write_model(folder / name, spec) for name, spec in variants().items()}


@functools.cache
def plain_run(model: Path, data: Path, layer: int, settings: Settings) -> PlainRun:
    """plain_bipo's own run, made once for all layouts of the program that are held against it."""
    pairs = pair_tokens.tokenize(AutoTokenizer.from_pretrained(model), pair_tokens.read_csv(data))
    torch.set_num_threads(1)
    frozen = plain_bipo.load_model(str(model))
    reference = plain_bipo.reference_logps(frozen, layer, pairs)
    return PlainRun(frozen, pairs, reference,
                    plain_bipo.train(frozen, layer, pairs, reference, settings))


@pytest.mark.smollm2
class TestSmolLM2:
    """Against the file that make_reference.py wrote."""

    def train(self, reference, first_pairs, name, out, ranks=None, **more):
        attributes = reference[f"runs/{name}"].attrs
        settings = Settings(**{key: plain(value) for key, value in attributes.items()})
        arguments = train_options(settings, model=program.smollm2_directory(), train=first_pairs,
                                  layer=int(reference.attrs["layer"]), out=out, **more)
        program.run_successfully(arguments, ranks, timeout=400)
        return run_files.read(out)

    @pytest.mark.parametrize("name, ranks, layout", [
        ("paper_plus", None, {"threads": 2}),
        seldom("hot_minus", None, {"threads": 2}),
        ("hot_plus", 2, {"dp": 2, "threads": 1}),
        seldom("hot_plus", 2, {"tp": 2, "threads": 1}),
        ("hot_plus", 3, {"tp": 3, "threads": 1}),
    ])
    def test_ten_steps(self, reference, first_pairs, tmp_path, name, ranks, layout):
        """9 query heads and 3 kv heads: tp 2 splits both unevenly."""
        run = self.train(reference, first_pairs, name, tmp_path / "run.h5", ranks, **layout)
        assert_follows(run, reference[f"runs/{name}"])

    def test_log_probabilities_before_and_after_training(self, reference, first_pairs, tmp_path):
        """The trained vector is within rounding of the reference's, so its effect is too."""
        run = self.train(reference, first_pairs, "hot_plus", tmp_path / "run.h5", threads=2,
                         test=first_pairs, eval_every=1, multipliers="-1,0,1")
        assert_follows(run, reference["runs/hot_plus"])
        for multiplier, group, tolerance in ((0, "zero", 1e-3), (1, "runs/hot_plus/final_plus", 5e-3),
                                             (-1, "runs/hot_plus/final_minus", 5e-3)):
            row = run.evaluation(multiplier)
            chosen, rejected = reference[f"{group}/chosen_logp"][:], reference[f"{group}/rejected_logp"][:]
            assert row["chosen_logp"] == pytest.approx(chosen.mean(), abs=tolerance)
            assert row["rejected_logp"] == pytest.approx(rejected.mean(), abs=tolerance)
            # A pair whose two answers are equally likely may fall on either side.
            undecided = numpy.abs(chosen - rejected) < 0.01
            assert abs(row["accuracy"] - (chosen > rejected).mean()) <= undecided.mean() + 1e-12


def plain(value):
    """An HDF5 attribute as the Python value it was written from."""
    return value.item() if hasattr(value, "item") else value


def assert_follows(run: run_files.RunFile, reference: h5py.Group) -> None:
    """The issue's criterion: losses within 1e-4, vectors of cosine 0.9999, the same learning rates."""
    numpy.testing.assert_allclose(run.steps["lr"], reference["lr"][:], rtol=1e-9, atol=1e-15)
    numpy.testing.assert_allclose(run.steps["loss"], reference["loss"][:], rtol=0, atol=1e-4)
    expected = reference["vector"][:]
    numpy.testing.assert_allclose(run.steps["grad_norm"], numpy.linalg.norm(reference["grad"][:], axis=1),
                                  rtol=1e-3)
    numpy.testing.assert_allclose(run.steps["vector_norm"], numpy.linalg.norm(expected, axis=1), rtol=1e-3,
                                  atol=1e-12)
    assert run_files.cosine(run.final_vector, expected[-1]) >= 0.9999


class TestTinyModels:
    """Against plain_bipo run here and now, in every combination that changes the arithmetic."""

    def compare(self, model, data, out, settings=TINY_HOT, layer=1, ranks=None, **more):
        expected = plain_run(model, data, layer, settings)
        records = expected.records
        program.run_successfully(train_options(settings, model=model, train=data, layer=layer, out=out,
                                               threads=1, **more), ranks)
        run = run_files.read(out)
        numpy.testing.assert_allclose(run.steps["lr"], [r.lr for r in records], rtol=1e-9, atol=1e-15)
        numpy.testing.assert_allclose(run.steps["loss"], [r.loss for r in records], rtol=TINY_LOSS_RTOL)
        numpy.testing.assert_allclose(run.steps["grad_norm"], [float(r.grad.norm()) for r in records],
                                      rtol=1e-3)
        assert run_files.cosine(run.final_vector, records[-1].vector.numpy()) >= TINY_COSINE
        return run, expected

    @pytest.mark.parametrize("name", every_second(sorted(variants())))
    def test_every_kind_of_model(self, models, tiny_pairs, tmp_path, name):
        self.compare(models[name], tiny_pairs, tmp_path / "run.h5")

    @pytest.mark.parametrize("name, tp", [("odd_sizes", 4), ("odd_tied_sharded", 3), seldom("one_kv_head", 2),
                                          ("no_gqa", 5), seldom("llama3_rope", 2)])
    def test_split_models(self, models, tiny_pairs, tmp_path, name, tp):
        """301 vocabulary rows and 83 columns divide by nothing; 5 ranks share 6 heads unevenly."""
        self.compare(models[name], tiny_pairs, tmp_path / "run.h5", ranks=tp, tp=tp)

    @pytest.mark.parametrize("layer", [0, 3])
    def test_first_and_last_layer(self, models, tiny_pairs, tmp_path, layer):
        """Behind the last block only the final norm and the head are left."""
        self.compare(models["plain"], tiny_pairs, tmp_path / "run.h5", layer=layer)

    @pytest.mark.parametrize("changes", [seldom({"sign": "minus"}), {"sign": "both"}, {"weight_decay": 0.0},
                                         {"batch_size": 5}, seldom({"beta": 0.5}), {"max_grad_norm": 0.01},
                                         seldom({"max_grad_norm": 0.0}), {"warmup_steps": 0}],
                             ids=lambda changes: "-".join(f"{k}-{v}" for k, v in changes.items()))
    def test_every_setting(self, models, tiny_pairs, tmp_path, changes):
        self.compare(models["plain"], tiny_pairs, tmp_path / "run.h5", replace(TINY_HOT, **changes))

    def test_evaluation(self, models, tiny_pairs, tmp_path):
        """Means over the held-out pairs at each multiplier, with the vector that the program ended at."""
        two_epochs = replace(TINY_HOT, steps=12)
        run, plain_side = self.compare(models["tied"], tiny_pairs, tmp_path / "run.h5", two_epochs,
                                       test=tiny_pairs, eval_every=1, multipliers="-2,0,1")
        vector = torch.from_numpy(run.final_vector)
        for multiplier in (-2.0, 0.0, 1.0):
            with torch.no_grad():
                policy = plain_bipo.pair_logps(plain_side.model, 1, multiplier * vector, plain_side.pairs)
            row = run.evaluation(multiplier)
            margins = 0.1 * plain_bipo.preference_gap(policy, plain_side.reference)
            losses = plain_bipo.pair_losses(policy, plain_side.reference, 1.0, 0.1)
            assert row["step"] == two_epochs.steps and row["pairs"] == len(plain_side.pairs)
            assert row["chosen_logp"] == pytest.approx(float(policy.chosen.mean()), abs=1e-4)
            assert row["rejected_logp"] == pytest.approx(float(policy.rejected.mean()), abs=1e-4)
            assert row["margin"] == pytest.approx(float(margins.mean()), abs=1e-5)
            assert row["loss"] == pytest.approx(float(losses.mean()), abs=1e-5)
            assert row["accuracy"] == pytest.approx(float((policy.chosen > policy.rejected).float().mean()))

    def test_residual_unit_is_the_median_rms_of_the_training_tokens(self, models, tiny_pairs, tmp_path):
        """lr in residual units = lr x the median over training tokens of |h_L| / sqrt(D)."""
        settings = replace(TINY_HOT, lr=0.01, warmup_steps=0)
        program.run_successfully(train_options(settings, model=models["plain"], train=tiny_pairs, layer=1,
                                               out=tmp_path / "run.h5", threads=1, lr_unit="residual"))
        tokenizer = AutoTokenizer.from_pretrained(models["plain"])
        pairs = pair_tokens.tokenize(tokenizer, pair_tokens.read_csv(tiny_pairs))
        frozen = plain_bipo.load_model(str(models["plain"]))
        rms = torch.cat([token_rms(frozen, 1, pair) for pair in pairs])
        # Which of two middle tokens is taken as the median is left open.
        first = run_files.read(tmp_path / "run.h5").steps["lr"][0]
        assert first == pytest.approx(0.01 * float(rms.median()), rel=0.005)


def token_rms(model, layer: int, pair: plain_bipo.TokenPair) -> torch.Tensor:
    """Root mean square over D of block `layer`'s output (not the last block) at every token of a pair.

    The prompt, which both answers share, counts once.
    """
    rows = []
    for answer, first in ((pair.chosen, 0), (pair.rejected, len(pair.prompt))):
        with torch.no_grad():
            output = model(input_ids=torch.tensor([pair.prompt + answer]), output_hidden_states=True)
        rows.append(output.hidden_states[layer + 1][0, first:].square().mean(dim=-1).sqrt())
    return torch.cat(rows)
