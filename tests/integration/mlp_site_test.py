"""Runs whose vectors are added to what MLPs return: under every arrangement of ranks, after a stop, in a sweep, in use.

That the numbers are those of a hook on the module mlp is tested in tests/reference.
"""

from __future__ import annotations

import json

import h5py
import numpy
import pytest

import arrangements
import evaluations
import program
import run_files
from arrangements import (
    VECTOR_COSINE, assert_a_stopped_run_goes_on, assert_no_arrangement_of_ranks_matters)


def train(job, ranks=None, **changes) -> run_files.RunFile:
    return arrangements.train(job, ranks, **{"site": "mlp", **changes})


@pytest.mark.parametrize("settings", [{"layer": "0,2", "norm": "max:20%", "positions": "answer"},
                                      {"layer": 3, "objective": "reps", "factors": 2, "cache_budget": 0}])
def test_no_arrangement_of_ranks_matters(job, settings):
    assert_no_arrangement_of_ranks_matters(job.but(site="mlp"), **settings)


def test_a_stopped_run_goes_on(job):
    assert_a_stopped_run_goes_on(job.but(site="mlp"), {"site": None}, 'site was "mlp"')


def test_a_sweep_and_its_collected_file(job):
    swept = job.but(layer=None, layers="0,1+2", epochs=1, site="mlp", out=job.folder / "sweep")
    program.run_successfully(["sweep", *swept.arguments()[1:]])
    alone = train(job.writing("alone.h5"), layer="1,2", epochs=1)
    (cell,) = swept.out.glob("*-layer1+2-*.h5")
    places = dict.fromkeys(("out", "cache_budget"))
    run = run_files.read(cell)
    assert {**alone.config, **places} == {**run.config, **places}
    assert run_files.cosine(run.final_vector.ravel(), alone.final_vector.ravel()) >= VECTOR_COSINE
    program.run_successfully(["collect", swept.out, "--out", job.folder / "all.h5"])
    with h5py.File(job.folder / "all.h5") as file:
        assert {group.attrs["site"] for group in file["runs"].values()} in ({"mlp"}, {b"mlp"})
    train(job.writing("block.h5"), layer=1, epochs=1, site=None)
    program.run_successfully(["collect", swept.out, job.folder / "block.h5", "--out", job.folder / "both.h5"])
    with h5py.File(job.folder / "both.h5") as file:
        assert file["summary"]["site"].tolist() == [b"mlp", b"mlp", b"block"]
    again = program.run(["sweep", *swept.but(site=None).arguments()[1:]])
    assert again.code == program.BAD_INPUT, again


def test_a_direction_of_mlps_is_extracted_and_evaluated(job, tiny_model, tiny_pairs, tiny_test_pairs, tmp_path):
    """As a control beside the trained vector, whose site it has to have."""
    train(job, epochs=1, eval_every=0)
    common = ["extract", *program.options({"model": tiny_model, "train": tiny_pairs, "layer": 1, "threads": 1})]
    program.run_successfully([*common, "--site", "mlp", "--out", tmp_path / "mlp.h5"])
    program.run_successfully([*common, "--out", tmp_path / "block.h5"])
    use = ["evaluate", *program.options({"model": tiny_model, "test": tiny_test_pairs, "vector": job.out,
                                         "multipliers": "-1,1", "threads": 1, "out": tmp_path / "e.h5"})]
    refused = program.run([*use, "--caa", tmp_path / "block.h5"])
    assert refused.code == program.BAD_INPUT and "same site" in refused.stderr, refused
    program.run_successfully([*use, "--caa", tmp_path / "mlp.h5"])
    evaluated = evaluations.read(tmp_path / "e.h5").config
    assert evaluated["vectors"][0]["site"] == evaluated["caa"]["site"] == "mlp"
    matched = program.run_successfully([*common, "--match-norm", job.out, "--out", tmp_path / "matched.h5"])
    assert "changes what a length does" in " ".join(matched.stderr.split())
    program.run_successfully(["generate", *program.options({
        "model": tiny_model, "vector": job.out, "prompt": "red", "max_new_tokens": 1, "multipliers": 1, "threads": 1,
        "out": tmp_path / "texts.jsonl"})])
    assert [entry["site"] for entry in json.loads((tmp_path / "texts.jsonl").read_text())["vectors"]] == ["mlp"]
    inspected = json.loads(program.run_successfully(["inspect", tmp_path / "mlp.h5", "--json"]).stdout)
    assert inspected["site"] == "mlp"


def test_what_is_refused(job, tiny_model, tiny_pairs, tmp_path):
    train(job, epochs=1, max_steps=1, eval_every=0)
    again = job.writing("a.h5")
    refused = {
        "was made with --site mlp, but --site is block": again.but(continue_from=job.out).arguments(),
        "a gate projects the outputs of blocks": ["generate", "--model", tiny_model, "--vector", job.out, "--gate",
                                                  f"{job.out}:0", "--prompt", "red"],
        "an ensemble is of vectors of one site": ["extract", "--model", tiny_model, "--train", tiny_pairs, "--layer", 1,
                                                  "--method", "ensemble", "--vector", job.out, "--out",
                                                  tmp_path / "mean.h5"],
        "must be one of": again.but(site="attention").arguments()}
    for words, arguments in refused.items():
        finished = program.run(arguments)
        assert finished.code == program.BAD_INPUT and words in " ".join(finished.stderr.split()), finished
    assert "the MLP" in program.run_successfully(["inspect", job.out]).stdout


@pytest.mark.parametrize("command", ["bench", "plan"])
def test_the_cost_is_between_those_of_two_blocks(tiny_model, command):
    common = [command, "--model", tiny_model, "--json", "--pairs", 4]
    if command == "bench":
        common += ["--steps", 1, "--warmup", 0, "--threads", 1]
    json_of = [json.loads(program.run_successfully([*common, "--layer", layer, *site]).stdout)
               for layer, site in ((3, []), (3, ["--site", "mlp"]), (2, []))]
    if command == "bench":
        flops = [each["floor_flops_per_step"] for each in json_of]
        assert flops[0] < flops[1] < flops[2]
    assert [each.get("site") for each in json_of] == [None, "mlp", None]
