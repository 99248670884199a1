"""The report on a single run, whose every number is known, and sweeps read together."""

from __future__ import annotations

import dataclasses
import json
import math

import h5py
import numpy
import pytest
from page_reader import Reader, run_command
from synthetic_evaluation import SyntheticEvaluation
from synthetic_sweep import CellSpec, SyntheticSweep, grid, make_mlps, write_run_tree

from bipo_analysis import AnalysisError, load_run, load_sweeps, report_html, run_report_html
from bipo_analysis.run_findings import best_epoch, run_findings
from bipo_analysis.run_scale import residual_norm
from bipo_analysis.sections import split_sections
from bipo_analysis.steering import load_vector, load_vectors

CELL = CellSpec(15, 1)


def write_run(path, steps: int = 30, status: str = "complete", settings: dict | None = None,
              differences: numpy.ndarray | None = None):
    """A run file; `differences` are the pairs' changes of propensity from -v to +v at the last evaluation."""
    with h5py.File(path, "w") as file:
        write_run_tree(file, CELL, status, steps)
        file.attrs["config"] = json.dumps({**json.loads(file.attrs["config"]), "test": "data/test.csv",
                                           **(settings or {})})
        if differences is not None:
            rows = [(30, 2, m, pair, -50 + m * change / 4, -50 - m * change / 4)
                    for m in (-1.0, 0.0, 1.0) for pair, change in enumerate(differences)]
            file["eval_samples"] = numpy.array(rows, [
                ("step", "<i8"), ("epoch", "<i4"), ("multiplier", "<f8"), ("pair", "<i8"), ("chosen_logp", "<f8"),
                ("rejected_logp", "<f8")])
    return load_run(path)


def text(sentences: list[str]) -> str:
    return " ".join(sentences).replace("\N{NO-BREAK SPACE}", " ").replace("−", "-")


def test_page_of_a_run(tmp_path):
    page = Reader(run_report_html(write_run(tmp_path / "run.h5")))
    assert page.headings == ["Does it steer?", "Held-out pairs", "Training", "Settings"]
    assert len(page.images()) == 6 and "Layer 15 of smollm2, held-out pairs of test.csv" in page.text
    assert "30 of 30" in page.text and "nan" not in page.text.lower().split()


def test_best_epoch_is_counted_from_1(tmp_path):
    """Margins grow with the epochs, so that the last of three is the best."""
    run = write_run(tmp_path / "run.h5")
    assert best_epoch(run) == 3 and run.vector_epochs.tolist() == [0, 1, 2]
    assert "Epoch 3, counted from 1, is the best of 3 evaluations" in text(run_findings(run))
    assert "the last one" in text(run_findings(run))


def test_vectors_by_name(tmp_path):
    """The same names as the program's; a run that selected its best epoch repeats that row at the end."""
    path = tmp_path / "run.h5"
    write_run(path)
    with h5py.File(path, "r+") as file:
        evals = file["evals"][:]
        evals["margin"][(evals["epoch"] == 1) & (evals["multiplier"] == 1)] = 99
        file["evals"][:] = evals
    vectors = load_run(path).vectors
    assert len(vectors) == 3 and best_epoch(load_run(path)) == 2
    for name, expected in (("", vectors[2]), (":last", vectors[2]), (":best", vectors[1]), (":epoch=1", vectors[0]),
                           ("@0.5", vectors[2] / 2), (":best@-2", -2 * vectors[1])):
        numpy.testing.assert_array_equal(load_vector(f"{path}{name}").value, expected, err_msg=name)

    with h5py.File(path, "r+") as file:
        for name in ("value", "step", "epoch"):
            rows = file[f"vectors/{name}"][:]
            del file[f"vectors/{name}"]
            file[f"vectors/{name}"] = numpy.concatenate([rows, rows[1:2]])
    run = load_run(path)
    assert run.vector_epochs.tolist() == [0, 1, 2] and len(run.vectors) == 3 and run.result_row == 1
    numpy.testing.assert_array_equal(run.final_vector, vectors[1])
    for name, expected in (("", vectors[1]), (":last", vectors[2]), (":epoch=2", vectors[1])):
        numpy.testing.assert_array_equal(load_vector(f"{path}{name}").value, expected, err_msg=name)

    longer = tmp_path / "run.h5:epoch=1"
    longer.write_bytes(path.read_bytes())
    numpy.testing.assert_array_equal(load_vector(longer).value, vectors[1])


def test_vectors_of_several_layers(tmp_path):
    """A run of several layers has a dimension for them; each layer's vector is found by itself."""
    path = tmp_path / "run.h5"
    write_run(path)
    lowest = load_run(path).vectors
    layer = load_run(path).layer
    with h5py.File(path, "r+") as file:
        del file["vectors/value"]
        file["vectors/value"] = numpy.stack([lowest, 2 * lowest], axis=1)
        file["vectors/layer"] = numpy.array([layer, layer + 3], "<i8")
    run = load_run(path)
    assert run.layers == (layer, layer + 3) and run.vectors.shape == (3, 2 * lowest.shape[1])
    first, second = load_vectors(f"{path}:epoch=1@3")
    assert (first.layer, second.layer) == (layer, layer + 3)
    numpy.testing.assert_array_equal(first.value, 3 * lowest[0])
    numpy.testing.assert_array_equal(second.value, 6 * lowest[0])
    with pytest.raises(AnalysisError, match="each of 2 layers"):
        load_vector(path)
    assert f"Layers {layer}, {layer + 3} of" in run_report_html(run)
    assert load_sweeps([path]).summary["joint_layers"].tolist() == [f"{layer}+{layer + 3}"]
    with h5py.File(path, "r+") as file:
        for name in ("value", "step", "epoch"):
            none_yet = file[f"vectors/{name}"][:0]
            del file[f"vectors/{name}"]
            file[f"vectors/{name}"] = none_yet
    assert load_run(path).vectors.shape == (0, 2 * lowest.shape[1])
    for damaged in ([layer], [layer, layer], [layer + 3, layer], [layer + 1, layer + 3]):
        with h5py.File(path, "r+") as file:
            del file["vectors/layer"]
            file["vectors/layer"] = numpy.array(damaged, "<i8")
        with pytest.raises(AnalysisError):
            load_run(path)


def test_effect_pair_by_pair(tmp_path):
    """Fifty differences around 2 nats are an effect, around 0 they are none, around -2 the wrong one."""
    noise = numpy.linspace(-1, 1, 50)
    steers, none, wrong = (text(run_findings(write_run(tmp_path / f"{name}.h5", differences=mean + noise)))
                           for name, mean in (("plus", 2.0), ("zero", 0.0), ("minus", -2.0)))
    half = 2.0096 * math.sqrt(51 / 49 / 3) / math.sqrt(50)  # t of 49 degrees
    assert f"changes by +2.00 nats from -v to +v (95 % interval {2 - half:.2f} to {2 + half:.2f}, 50 pairs)" in steers
    assert "the vector steers." in steers and "no effect is shown" not in steers
    assert "no effect is shown. To change that, raise --lr, shorten the warm-up" in none
    assert "steers the wrong way" in wrong


def test_without_single_pairs_nothing_is_claimed(tmp_path):
    found = text(run_findings(write_run(tmp_path / "run.h5")))
    assert "holds no single pairs" in found and "the vector steers" not in found
    # 40 and 18 of 50 pairs differ whichever pairs changed.
    assert "80.0 % with +v, a swing of 44.0 points; whichever pairs changed" in found


def test_short_vector_is_named(tmp_path):
    """The last norm is 3: 0.3 % of 1000 is too short, 0.6 % of 500 is not."""
    short = write_run(tmp_path / "short.h5", settings={"residual_norm": 1000.0})
    assert "ended at 0.300 % of the residual stream's norm, below 0.5 %" in text(run_findings(short))
    # In front of a norm the length says nothing beside that of the stream.
    normed = {"residual_norm": 1000.0, "site": "mlp"}
    for settings, is_short in ((normed, False), ({**normed, "block_output_factor": 1.0}, True)):
        run = write_run(tmp_path / "mlp.h5", settings=settings)
        at_mlp = dataclasses.replace(run, attributes={**run.attributes, "site": "mlp"})
        assert ("residual stream" in text(run_findings(at_mlp))) == is_short
    # Of several layers the program says which vectors are short; all of them together are long enough or not.
    for length in ("the norm of layer 15's vector is 0.4 %",
                   "the norms of the vectors of layers 10, 15 are 0.3, 0.4 %"):
        verdict = f"weak: {length} of the residual stream's there, below 0.5 %; train again with a higher --lr"
        joint = dataclasses.replace(short, joint_layers=(10, 15), attributes={**short.attributes, "verdict": verdict})
        found = text(run_findings(joint))
        assert f"T{length[1:]} of the residual stream's there, below 0.5 %: too short" in found
        assert "ended at" not in found
    told = dataclasses.replace(joint, attributes={**short.attributes, "verdict": "steers: all"})
    assert "residual stream" not in text(run_findings(told))
    enough = write_run(tmp_path / "enough.h5", settings={"residual_norm": 500.0})
    assert "residual stream" not in text(run_findings(enough))
    assert "0.60 %" in Reader(run_report_html(enough)).text.replace("\N{NO-BREAK SPACE}", " ")


def test_residual_norm_from_the_learning_rates(tmp_path):
    """Rates of 0.01 times an rms of 7 after 5 steps of warm-up in 30, on 16 hidden units: a norm of 28."""
    path = tmp_path / "run.h5"
    write_run(path, settings={"lr": 0.01, "lr_unit": "residual", "warmup_steps": 5})
    with h5py.File(path, "r+") as file:
        steps = file["steps"][:]
        steps["lr"] = [0.07 * (step / 5 if step < 5 else 0.5 + 0.5 * math.cos(math.pi * (step - 5) / 25))
                       for step in range(30)]
        file["steps"][:] = steps
    assert residual_norm(load_run(path)) == pytest.approx(28)
    assert math.isnan(residual_norm(write_run(tmp_path / "absolute.h5", settings={"lr_unit": "absolute",
                                                                                 "warmup_steps": 5})))


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_runs_cut_short_have_a_page(tmp_path, steps):
    page = Reader(run_report_html(write_run(tmp_path / "run.h5", steps, "interrupted")))
    assert "not complete (interrupted" in page.text and "nan" not in page.text.lower().split()


def test_command_report_takes_every_kind(tmp_path):
    run, evaluation = tmp_path / "run.h5", SyntheticEvaluation(absent=frozenset(
        {"choices", "costs", "grid", "judge", "judge_scores"})).write(tmp_path / "eval.h5")
    write_run(run)
    (tmp_path / "answers.jsonl").write_text('{"prompt_index": 0, "prompt": "Why?", "multiplier": 2, "text": "So."}\n')
    finished = run_command("report", run, "--generations", tmp_path / "answers.jsonl", "--out", tmp_path / "run.html")
    assert finished.stdout == f"{tmp_path}/run.html: a run of 30 steps, complete\n", finished.stderr
    assert "Why?" in Reader((tmp_path / "run.html").read_text()).text
    assert "1 evaluation" in run_command("report", evaluation, "--out", tmp_path / "e.html").stdout
    mixed = run_command("report", run, evaluation, "--out", tmp_path / "no.html")
    assert mixed.returncode == 2 and f"{run} is a run, {evaluation} is an evaluation" in mixed.stderr


def test_sweeps_are_read_together(tmp_path):
    """Layers of two directories; both hold layer 15 of seed 1."""
    first = SyntheticSweep(grid((5, 15), (1,))).write(tmp_path / "first")
    second = SyntheticSweep(grid((15, 25), (1,))).write(tmp_path / "second")
    sweep = load_sweeps([first, second])
    assert sweep.name == "first + second" and sorted(sweep.summary["layer"]) == [5, 15, 15, 25]
    name = CellSpec(15, 1).name
    assert set(sweep.runs) == {CellSpec(5, 1).name, f"first/{name}", f"second/{name}", CellSpec(25, 1).name}
    assert sweep.runs[f"second/{name}"].layer == 15
    assert sweep.settings["train_pairs"] == 40 and "first + second" in Reader(report_html(sweep)).text
    assert list(sweep.summary["origin"]) == ["first", "first", "second", "second"]
    single = load_sweeps([first, first])
    assert len(single.summary) == 2 and "origin" not in single.summary


def test_sites_are_told_apart(tmp_path):
    """The same layers and seeds at block outputs and at MLPs are no four seeds of one choice."""
    blocks, mlps = (SyntheticSweep(grid((5, 15), (1, 2))).write(tmp_path / name) for name in ("blocks", "mlps"))
    make_mlps(mlps)
    joined = load_sweeps([blocks, mlps])
    assert list(joined.summary["site"]) == ["block"] * 4 + ["mlp"] * 4
    (section,) = split_sections(joined)
    assert sorted(variant.values["site"] for variant in section.variants) == ["block", "mlp"]
    assert all((variant.curve["seeds"] == 2).all() for variant in section.variants)
    text = Reader(report_html(joined)).text
    assert "site block, mlp" in text and "at its output, accuracy" in text
    assert "at the outputs of MLPs" in Reader(report_html(load_sweeps([mlps]))).text
    alone = load_sweeps([blocks, mlps / f"{CellSpec(5, 1).name}.h5"])
    assert list(alone.summary["site"]) == ["block"] * 4 + ["mlp"]
    assert list(load_sweeps([blocks]).summary["site"]) == ["block"] * 4


def test_runs_and_sweeps_are_read_together(tmp_path):
    """A sweep of two layers, a layer trained by itself, and that layer of another seed."""
    sweep = SyntheticSweep(grid((5, 15), (1,))).write(tmp_path / "sweep")
    for seed in (1, 2):
        with h5py.File(tmp_path / f"more{seed}.h5", "w") as file:
            write_run_tree(file, CellSpec(20, seed), "complete", 30)
            file.attrs["config"] = json.dumps({**json.loads(file.attrs["config"]), "train": "data/warmth.csv"})
    joined = load_sweeps([sweep, tmp_path / "more1.h5", tmp_path / "more2.h5"])
    assert list(joined.summary["cell"]) == [CellSpec(5, 1).name, CellSpec(15, 1).name, "more1", "more2"]
    assert list(joined.summary["origin"]) == ["sweep", "sweep", "more1", "more2"]
    assert list(joined.summary["layer"]) == [5, 15, 20, 20] and list(joined.summary["seed"]) == [1, 1, 1, 2]
    # All of one model and data set: one curve over the layers.
    assert list(joined.summary["model"].unique()) == ["smollm2"]
    assert list(joined.summary["data"].unique()) == ["warmth"]
    for name in ("accuracy_plus", "margin_minus", "total_steps", "train_pairs"):
        assert joined.summary[name].notna().all(), name
    assert joined.runs["more2"].layer == 20
    page = Reader(report_html(joined)).text
    assert "more1" in page and "origin" in page
    finished = run_command("report", sweep, tmp_path / "more1.h5", "--out", tmp_path / "page.html")
    assert finished.stdout == f"{tmp_path}/page.html: 3 cells, 3 complete\n", finished.stderr
