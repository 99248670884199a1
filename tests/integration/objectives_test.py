"""Runs and sweeps with other objectives than BiPO: the same under every arrangement of ranks, and as the files say."""

from __future__ import annotations

import re

import h5py
import numpy
import pandas
import pytest

import program
import run_files

ALL = ("bipo", "dpo", "ipo", "simpo", "sft", "suppress", "reps")
# fp32 sums in another order, as in parity_test.py.
LOSS_RTOL, VECTOR_COSINE = 1e-5, 0.999999


def train(job, ranks=None, **changes) -> run_files.RunFile:
    changed = job.but(**changes)
    program.run_successfully(changed.arguments(), ranks)
    return run_files.read(changed.out)


def assert_no_arrangement_matters(job, settings):
    """Replicas give the same bits as one rank, shards of the model the same within the rounding error."""
    alone = train(job.writing("alone.h5"), **settings)
    assert alone.steps["vector_norm"][-1] > 0.05, "hardly moved: the comparison says nothing"
    run_files.assert_identical(train(job.writing("dp2.h5"), 2, dp=2, **settings), alone)
    split = train(job.writing("tp2.h5"), 2, tp=2, **settings)
    numpy.testing.assert_allclose(split.steps["loss"], alone.steps["loss"], rtol=LOSS_RTOL, atol=0)
    assert run_files.cosine(split.final_vector, alone.final_vector) >= VECTOR_COSINE


def test_no_arrangement_of_ranks_matters(job):
    assert_no_arrangement_matters(job, {"objective": "simpo", "batch_size": 8, "micro_batch": 1, "epochs": 1})


@pytest.mark.parametrize("settings", [{"objective": "suppress", "sign": "pair"},
                                      {"objective": "reps", "factors": "learned", "factor_init": 2}])
def test_nor_does_it_for_what_goes_beyond_sums_and_additions(job, settings):
    assert_no_arrangement_matters(job, {"batch_size": 8, "micro_batch": 2, "epochs": 1, "eval_every": 0, **settings})


def test_norm_schedule_and_start(job):
    """Three steps an epoch; lengths in per cent of the median norm that the program prints."""
    settings = {"batch_size": 8, "micro_batch": 1, "norm": "max:3%", "schedule": "linear", "init": "random:2%",
                "factors": "0.5,1,2", "epochs": 4}
    alone = job.writing("alone.h5").but(**settings)
    finished = program.run_successfully(alone.arguments())
    residual = float(re.search(r"median norm of the residual stream after block 1: (\S+)", finished.stderr)[1])
    run = run_files.read(alone.out)
    norms = run.steps["vector_norm"]
    assert norms[0] == pytest.approx(0.02 * residual, rel=1e-3), "the first rate is 0"
    assert [norms.max(), norms[-1]] == pytest.approx([0.03 * residual] * 2, rel=1e-3)
    steps = run.steps["step"]
    expected = numpy.where(steps < 2, steps / 2, 1 - (steps - 2) / (len(steps) - 2))
    numpy.testing.assert_allclose(run.steps["lr"], 0.05 * expected, rtol=1e-12)
    names = ("norm", "schedule", "init", "factors")
    assert [run.config[name] for name in names] == ["max:3%", "linear", "random:2%", [0.5, 1.0, 2.0]]
    run_files.assert_identical(train(job.writing("dp2.h5"), 2, dp=2, **settings), run)


def test_init_takes_the_vector_of_a_file(job):
    first = train(job.writing("first.h5"), epochs=1)
    second = train(job.writing("second.h5"), epochs=1, init=f"{job.folder / 'first.h5'}@0.5")
    assert second.config["continue_from"]["file"] == str(job.folder / "first.h5")
    assert second.steps["vector_norm"][0] == pytest.approx(0.5 * first.steps["vector_norm"][-1], rel=1e-6)


def test_dpo_is_bipo_in_one_direction(job):
    dpo = train(job.writing("dpo.h5"), objective="dpo")
    bipo = train(job.writing("bipo.h5"), sign="plus")
    numpy.testing.assert_array_equal(dpo.final_vector, bipo.final_vector)
    assert (dpo.config["objective"], dpo.config["sign"]) == ("dpo", "plus")
    assert "objective" not in bipo.config, "files of BiPO are as before"


def test_the_first_losses_are_those_of_the_model_itself(job):
    """At v = 0 x equals x0, and log-probabilities are the unsteered model's."""
    every_pair = {"batch_size": 22, "sign": "plus", "epochs": 1, "test": job.settings["train"], "beta": 0.25}
    ipo = train(job.writing("ipo.h5"), objective="ipo", **every_pair)
    sft = train(job.writing("sft.h5"), objective="sft", reduction="sum", **every_pair)
    simpo = train(job.writing("simpo.h5"), objective="simpo", reduction="sum", simpo_gamma=0.75, **every_pair)
    with h5py.File(job.folder / "sft.h5") as file:
        samples = pandas.DataFrame(file["eval_samples"][:]).query("multiplier == 0")
    ahead = 0.25 * (samples["chosen_logp"] - samples["rejected_logp"])
    expected = {"ipo": 4.0, "sft": -samples["chosen_logp"].mean(),
                "simpo": numpy.logaddexp(0, 0.75 - ahead).mean()}
    found = {"ipo": ipo, "sft": sft, "simpo": simpo}
    for objective, run in found.items():
        assert run.steps["loss"][0] == pytest.approx(expected[objective], rel=LOSS_RTOL), objective
    assert simpo.steps["margin"][0] == pytest.approx(ahead.mean(), rel=LOSS_RTOL)
    assert ipo.steps["margin"][0] == pytest.approx(0, abs=1e-4)


def test_a_sweep_trains_them_in_one_pass(job):
    settings = {"layer": None, "layers": 1, "objectives": ",".join(ALL), "beta": 0.5, "factors": 1,
                "out": job.folder / "sweep"}
    swept = job.but(**settings)
    program.run_successfully(["sweep", *swept.arguments()[1:]])
    files = sorted(swept.out.glob("*.h5"))
    assert len(files) == len(ALL)
    for path in files:
        run = run_files.read(path)
        objective = run.config.get("objective", "bipo")
        assert ("-objective" in path.name) == (objective != "bipo")
        if objective not in ("dpo", "simpo"):
            continue
        alone = train(job.writing(f"{objective}.h5"), objective=objective, beta=0.5)
        places = dict.fromkeys(("out", "cache_budget"))
        assert {**alone.config, **places} == {**run.config, **places}
        assert run_files.cosine(run.final_vector, alone.final_vector) >= VECTOR_COSINE
    program.run_successfully(["collect", swept.out, "--out", job.folder / "sweep.h5"])
    with h5py.File(job.folder / "sweep.h5") as file:
        summary = pandas.DataFrame(file["summary"][:])
    assert {name.decode() for name in summary["objective"]} == set(ALL)
    by_name = summary.set_index("objective")
    assert by_name.loc[b"simpo", "reduction"] == b"mean" and by_name.loc[b"dpo", "sign"] == b"plus"
    assert by_name.loc[b"reps", "sign"] == b"both" and by_name.loc[b"suppress", "reduction"] == b"sum"
    program.run_successfully(["sweep", *swept.arguments()[1:]])  # all complete: the plan is the same
    alone = [job.folder / "simpo.h5", job.folder / "dpo.h5"]
    program.run_successfully(["collect", *alone, "--out", job.folder / "alone.h5"])
    with h5py.File(job.folder / "alone.h5") as file:
        assert set(zip(file["summary"]["objective"], file["summary"]["reduction"], strict=True)) == {
            (b"simpo", b"mean"), (b"dpo", b"sum")}


def test_settings_are_axes_of_a_sweep(job):
    settings = {"layer": None, "layers": 1, "norms": "free,max:1%", "factors": "1;0.5,1;learned",
                "out": job.folder / "sweep", "epochs": 1, "test": None}
    swept = job.but(**settings)
    program.run_successfully(["sweep", *swept.arguments()[1:]])
    runs = {path.stem.split("-epochs1")[1]: run_files.read(path) for path in swept.out.glob("*.h5")}
    assert set(runs) == {f"{norm}{factors}" for norm in ("", "-normmax1pct")
                         for factors in ("", "-factors0.5+1", "-factorslearned")}
    alone = train(job.writing("alone.h5"), norm="max:1%", factors="learned", epochs=1, test=None)
    cell = runs["-normmax1pct-factorslearned"]
    places = dict.fromkeys(("out", "cache_budget"))
    assert {**alone.config, **places} == {**cell.config, **places}
    assert run_files.cosine(cell.final_vector, alone.final_vector) >= VECTOR_COSINE
    assert "norm" not in runs["-factors0.5+1"].config
    program.run_successfully(["collect", swept.out, "--out", job.folder / "sweep.h5"])
    with h5py.File(job.folder / "sweep.h5") as file:
        found = set(zip(file["summary"]["norm"], file["summary"]["factors"], strict=True))
    assert found == {(norm, factors) for norm in (b"free", b"max:1%") for factors in (b"1", b"0.5,1", b"learned")}
    program.run_successfully(["sweep", *swept.arguments()[1:]])  # all complete: the plan is the same
