"""The program's RePS, suppression and learned factor against plain_objectives in float64, on a tiny model."""

from __future__ import annotations

import csv
from dataclasses import replace

import h5py
import numpy
import pytest
import torch
from transformers import AutoTokenizer

import pair_tokens
import plain_bipo
import plain_objectives
import program
import run_files
from plain_bipo import Settings

LAYERS = [1]
SETTINGS = Settings(steps=6, lr=0.1, warmup_steps=2, weight_decay=0.05, batch_size=2, sign="both")
# As reference_test.py has them: fp32 against exact log-probabilities of some 150 nats, here also as factors of others.
LOSS_RTOL, COSINE = 1e-5, 0.999999
# Moments are sums of the steps' gradients and of their squares, which grad_norm's tolerance of parity_test.py bounds.
MOMENT_RTOL = 2e-3

CASES = {
    "reps": ("reps", SETTINGS, {"factors": 2}, {"factor": 2.0}),
    "reps with a learned factor": ("reps", SETTINGS,
                                   {"factors": "learned", "factor_init": 1.5, "factor_lr": 0.5},
                                   {"factor": 1.5, "factor_lr": 0.5}),
    "suppress": ("suppress", SETTINGS, {}, {}),
    "suppress with a learned factor, clipped": ("suppress", replace(SETTINGS, max_grad_norm=0.5),
                                                {"factors": "learned", "factor_lr": 0.5},
                                                {"factor": 1.0, "factor_lr": 0.5}),
}
# A vector for each of these layers, the model's last among them; slower, since all act at once.
JOINT = {
    "reps at three layers": ("reps", replace(SETTINGS, lr=0.05), {"factors": 2}, {"factor": 2.0}, [0, 2, 3]),
    "suppress at two layers, with a learned factor": ("suppress",
                                                      replace(SETTINGS, lr=0.05, max_grad_norm=0.5),
                                                      {"factors": "learned", "factor_lr": 0.5},
                                                      {"factor": 1.0, "factor_lr": 0.5}, [1, 3]),
}


# Short answers of like lengths: between long ones of a random model lie so many nats that every sigmoid of RePS would
# be 0 or 1.
ROWS = [("is it warm out", "yes", "no"), ("did the cat sit", "never", "always"), ("tell me more", "tea", "hat"),
        ("was it the dog", "maybe so", "not yet"), ("where is it", "under that tree", "on its leg")]


@pytest.fixture(scope="module")
def pairs(tiny_model, tmp_path_factory):
    """The model, a file of a few pairs, and these as token ids."""
    few = tmp_path_factory.mktemp("pairs") / "few.csv"
    with open(few, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "matching", "not_matching"), *ROWS])
    tokens = pair_tokens.tokenize(AutoTokenizer.from_pretrained(tiny_model), pair_tokens.read_csv(few))
    return tiny_model, few, tokens


def distance(found: numpy.ndarray, expected: torch.Tensor) -> float:
    """Relative to the length of what is expected."""
    return float(numpy.linalg.norm(found - expected.numpy()) / numpy.linalg.norm(expected.numpy()))


@pytest.mark.parametrize("case", [*CASES, *JOINT])
def test_equals_the_plain_trainer(pairs, tmp_path, case):
    objective, settings, options, factor, layers = JOINT[case] if case in JOINT else (*CASES[case], LAYERS)
    directory, file, tokens = pairs
    torch.set_num_threads(1)
    model = plain_bipo.load_model(str(directory), torch.float64)
    expected = plain_objectives.train(model, layers, tokens, settings, objective, **factor)
    out = tmp_path / "run.h5"
    program.run_successfully(["train", *program.options({
        "model": directory, "train": file, "layer": ",".join(map(str, layers)), "out": out, "objective": objective,
        "max_steps": settings.steps, "lr_unit": "absolute", "lr": settings.lr, "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm,
        "batch_size": settings.batch_size, "sign": settings.sign, "shuffle": "off", "dtype": "fp32",
        "device": "cpu", "eval_every": 0, **options})])
    run = run_files.read(out)
    assert run.steps["vector_norm"][-1] > 0.5, "hardly moved: the comparison says nothing"
    numpy.testing.assert_allclose(run.steps["loss"], expected.losses, rtol=LOSS_RTOL, atol=0)
    found = run.final_vector.reshape(len(layers), -1)
    for part, wanted in zip(found, expected.vector.numpy(), strict=True):
        assert run_files.cosine(part, wanted) >= COSINE
    with h5py.File(out) as stored:
        for name, moment in zip(("exp_avg", "exp_avg_sq"), expected.moments, strict=True):
            assert distance(stored[f"checkpoint/{name}"][:].reshape(len(layers), -1), moment) <= MOMENT_RTOL
        assert ("factor" in stored["vectors"]) == ("factor_lr" in factor)
        if "factor_lr" in factor:
            assert expected.factor != pytest.approx(factor["factor"], abs=0.02), "hardly moved"
            assert stored["vectors/factor"][-1] == pytest.approx(expected.factor, rel=1e-4)
            own = stored["checkpoint/vector"][:]
            numpy.testing.assert_allclose(run.final_vector, stored["checkpoint/factor"][0] * own, rtol=1e-6)
