"""Runs that train a vector for each of several layers jointly: under every arrangement of ranks, after a stop, in use."""

from __future__ import annotations

import json

import h5py
import numpy
import pytest
from safetensors.numpy import load_file

import arrangements
import evaluations
import program
import run_files
from arrangements import (
    LOSS_RTOL, VECTOR_COSINE, assert_a_stopped_run_goes_on, assert_no_arrangement_of_ranks_matters)

LAYERS = "0,2,3"  # of the model's four


def train(job, ranks=None, **changes) -> run_files.RunFile:
    return arrangements.train(job, ranks, **{"layer": LAYERS, **changes})


@pytest.mark.parametrize("settings", [{"norm": "max:20%", "positions": "answer"},
                                      {"objective": "reps", "factors": "learned", "factor_init": 2}])
def test_no_arrangement_of_ranks_matters(job, settings):
    assert_no_arrangement_of_ranks_matters(job.but(layer=LAYERS), **settings)


def test_a_stopped_run_goes_on(job):
    assert_a_stopped_run_goes_on(job.but(layer=LAYERS), {"layer": "0,2"}, "layer")


def test_a_file_is_used_as_it_was_trained(job, tmp_path, tiny_model, tiny_test_pairs):
    """The held-out pairs have the log-probabilities of the training's own evaluation under all three vectors."""
    run = train(job, layer="3,0,2", epochs=1, multipliers="-1,0,2")
    with h5py.File(job.out) as file:
        assert file["vectors/layer"][:].tolist() == [0, 2, 3] and file.attrs["layer"] == 0
        assert file["vectors/value"].shape == (1, 3, file.attrs["hidden_size"])
    assert run.config["layer"] == [0, 2, 3]
    out = tmp_path / "evaluation.h5"
    said = program.run_successfully(["evaluate", *program.options({
        "model": tiny_model, "test": tiny_test_pairs, "vector": job.out, "multipliers": "-1,0,2", "threads": 1,
        "out": out})])
    assert all(f"vector of layer {layer}" in said.stderr for layer in (0, 2, 3))
    evaluated = evaluations.read(out)
    for multiplier in (-1.0, 2.0):
        own = run.evaluation(multiplier)
        row = evaluated.row("curve", direction="vector", multiplier=multiplier)
        for name in ("chosen_logp", "rejected_logp"):
            assert row[name] == pytest.approx(own[name], rel=LOSS_RTOL)
    assert [vector["layer"] for vector in evaluated.config["vectors"]] == [0, 2, 3]

    rows = tmp_path / "rows.jsonl"
    program.run_successfully(["generate", "--model", tiny_model, "--threads", 1, "--vector", f"{job.out}@0.5", "--prompt",
                              "red ring", "--max-new-tokens", 2, "--multipliers", "1", "--out", rows])
    assert [vector["layer"] for vector in json.loads(rows.read_text())["vectors"]] == [0, 2, 3]

    tensors = tmp_path / "vectors.safetensors"
    exported = program.run_successfully(["export", job.out, "--format", "safetensors", "--out", tensors]).stdout
    assert exported.endswith("the vectors of the layers 0 times 1, 2 times 1, 3 times 1; epoch 1 of 1, step 6, as safetensors\n")
    found = load_file(tensors)
    for part, layer in zip(run.final_vector, (0, 2, 3), strict=True):
        numpy.testing.assert_array_equal(found[f"layers.{layer}"], part)
    back = tmp_path / "back.h5"
    program.run_successfully(["import", tensors, "--out", back])
    numpy.testing.assert_array_equal(run_files.read(back).final_vector, run.final_vector)
    for layer in (0, 2, 3):
        program.run_successfully(["export", job.out, "--format", "npy", "--layer", layer, "--out",
                                  tmp_path / f"{layer}.npy"])
        numpy.testing.assert_array_equal(numpy.load(tmp_path / f"{layer}.npy"), found[f"layers.{layer}"])
    two = tmp_path / "two.safetensors"
    program.run_successfully(["export", job.out, "--format", "safetensors", "--layer", "3,2", "--out", two])
    assert {name: values.tobytes() for name, values in load_file(two).items()} == {
        f"layers.{layer}": found[f"layers.{layer}"].tobytes() for layer in (2, 3)}
    assert "0,2,3" in program.run_successfully(["inspect", job.out]).stdout


def test_what_is_refused(job, tiny_model, tmp_path):
    train(job, epochs=1, max_steps=1, eval_every=0)
    refused = {
        "0 is given twice": job.writing("a.h5").but(layer="0,1,0").arguments(),
        "--layer 9": job.writing("a.h5").but(layer="0,9").arguments(),
        "belong to layers 0,2,3, but --layer is 0,2": job.writing("a.h5").but(layer="0,2",
                                                                               continue_from=job.out).arguments(),
        "holds a vector for each of 3 layers": ["generate", "--model", tiny_model, "--vector", job.out, "--gate",
                                                f"{job.out}:0", "--prompt", "red"],
        "the vectors of 3 layers; export one of them, of a run of several layers by --layer 3": [
            "export", job.out, "--format", "npy", "--out", tmp_path / "v.npy"],
        "leave it out, of a run of several layers by --layer 2,3": ["export", job.out, "--format", "gguf", "--out", tmp_path / "v.gguf"],
        "it holds the vectors of layers 0,2,3, and --layer 1,4 names none of them": [
            "export", job.out, "--format", "pt", "--layer", "1,4", "--out", tmp_path / "v.pt"],
        "--layer 2,1: none of the files has a vector of layer 1": [
            "export", job.out, "--format", "pt", "--layer", "2,1", "--out", tmp_path / "v.pt"],
        "are trained jointly, and here is no training": ["extract", "--model", tiny_model, "--train",
                                                         job.settings["train"], "--layers", "0+2", "--out",
                                                         tmp_path / "caa"]}
    for words, arguments in refused.items():
        finished = program.run(arguments)
        assert finished.code == program.BAD_INPUT and words in finished.stderr, finished


def test_a_sweep_has_them_as_cells(job):
    """Two seeds of 0+2 train in one pack beside layer 2 alone."""
    swept = job.but(layer=None, layers="2,2+0", seeds="1,2", epochs=1, out=job.folder / "sweep")
    program.run_successfully(["sweep", *swept.arguments()[1:]])
    joint, single = (sorted(swept.out.glob(f"*-layer{layers}-seed*.h5")) for layers in ("0+2", "2"))
    assert (len(joint), len(single)) == (2, 2)
    for path, seed in zip(joint, (1, 2), strict=True):
        run = run_files.read(path)
        alone = train(job.writing(f"alone{seed}.h5"), layer="0,2", seed=seed, epochs=1)
        places = dict.fromkeys(("out", "cache_budget"))
        assert {**alone.config, **places} == {**run.config, **places}
        for part, other in zip(run.final_vector, alone.final_vector, strict=True):
            assert run_files.cosine(part, other) >= VECTOR_COSINE
    program.run_successfully(["collect", swept.out, job.folder / "alone1.h5", "--out", job.folder / "all.h5"])
    with h5py.File(job.folder / "all.h5") as file:
        names = [name.decode() for name in file["summary"]["joint_layers"]]
        assert sorted(names) == ["", "", "0+2", "0+2", "0+2"]
        assert set(file["summary"]["layer"]) == {0, 2}


def test_a_run_begins_with_the_vectors_of_another(job):
    first = train(job.writing("first.h5"), epochs=1, eval_every=0)
    second = train(job.writing("second.h5"), epochs=1, eval_every=0, init=f"{job.folder / 'first.h5'}@0.5")
    assert second.steps["vector_norm"][0] == pytest.approx(0.5 * first.steps["vector_norm"][-1], rel=1e-6)
    assert second.config["continue_from"]["layers"] == [0, 2, 3]
