"""What the program's own evaluations hold, from training to the report's page."""

from __future__ import annotations

from pathlib import Path

import program
import pytest

from bipo_analysis import load_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, tiny_pairs, tiny_test_pairs) -> Path:
    """A vector, the mean difference of its layer, its answers, and the evaluation of all of them."""
    folder = tmp_path_factory.mktemp("program")
    common = {"model": tiny_model, "threads": 1}
    program.run_successfully(["train", *program.options({
        **common, "train": tiny_pairs, "layer": 1, "epochs": 1, "lr_unit": "absolute", "lr": 0.1, "warmup_steps": 2,
        "out": folder / "run.h5"})])
    program.run_successfully(["extract", *program.options({
        **common, "method": "caa", "train": tiny_pairs, "layer": 1, "match_norm": folder / "run.h5",
        "out": folder / "caa.h5"})])
    used = {**common, "vector": folder / "run.h5", "multipliers": "-2,0,2"}
    program.run_successfully(["generate", *program.options({
        **used, "prompts": tiny_test_pairs, "max_new_tokens": 8, "out": folder / "answers.jsonl"})])
    program.run_successfully(["evaluate", *program.options({
        **used, "test": tiny_test_pairs, "caa": folder / "caa.h5", "neutral_prompts": tiny_pairs,
        "generations": folder / "answers.jsonl", "out": folder / "eval.h5"})])
    return folder


def test_every_table_is_read(folder):
    evaluation = load_evaluation(folder / "eval.h5")
    directions = {"vector", "caa", "random"}
    assert set(evaluation.curve["direction"]) == set(evaluation.steerability["direction"]) == directions
    assert len(evaluation.curve) == 9
    assert len(evaluation.samples) == 81
    assert set(evaluation.steerability["norm"].round(4)) == {round(evaluation.steerability["norm"].iloc[0], 4)}
    assert {"kl_neutral", "perplexity_of_generations", "distinct_2"} <= set(evaluation.costs["measure"])


def test_a_run_is_tested_pair_by_pair(folder, tiny_model, tiny_pairs, tiny_test_pairs):
    from bipo_analysis import load_run
    from bipo_analysis.run_findings import paired_swing, run_findings

    program.run_successfully(["train", *program.options({
        "model": tiny_model, "threads": 1, "train": tiny_pairs, "test": tiny_test_pairs, "layer": 1, "epochs": 2,
        "lr_unit": "absolute", "lr": 0.1, "warmup_steps": 2, "out": folder / "tested.h5"})])
    run = load_run(folder / "tested.h5")
    last = run.evals[run.evals["step"] == run.evals["step"].max()].set_index("multiplier")
    assert set(run.eval_samples["step"]) == {run.evals["step"].max()}
    for value, rows in run.eval_samples.groupby("multiplier"):
        assert rows["chosen_logp"].mean() == pytest.approx(last.loc[value, "chosen_logp"], rel=1e-12)
        assert rows["rejected_logp"].mean() == pytest.approx(last.loc[value, "rejected_logp"], rel=1e-12)
        assert (rows["chosen_logp"] > rows["rejected_logp"]).mean() == pytest.approx(last.loc[value, "accuracy"])
    change = paired_swing(run)
    assert change.items == int(last.loc[1.0, "pairs"])
    assert change.value == pytest.approx((last.loc[1.0, "margin"] - last.loc[-1.0, "margin"]) / 0.1, rel=1e-9)
    assert "pair by pair, propensity changes by" in run_findings(run)[0]


def test_several_random_directions_and_a_chosen_multiplier_are_shown(folder, tiny_model, tiny_test_pairs):
    from bipo_analysis.evaluation_report import evaluation_report_html
    from bipo_analysis.paired import null_of

    program.run_successfully(["evaluate", *program.options({
        "model": tiny_model, "threads": 1, "vector": folder / "run.h5", "multipliers": "-2,0,2",
        "test": tiny_test_pairs, "random": 10, "choose_on": "half", "out": folder / "referee.h5"})])
    evaluation = load_evaluation(folder / "referee.h5")
    null = null_of(evaluation, -2.0, 2.0)
    assert len(null.moved) == 10 and len(set(null.moved.round(9))) == 10
    page = evaluation_report_html([evaluation])
    for part in ("10 random directions", "by rank", "Multipliers chosen on one part of the pairs", "drew by --seed 11"):
        assert part in page, part
    assert "too few for a null distribution" not in page and "single draw" not in page


def test_the_report_is_made_with_its_controls(folder, capfd):
    from bipo_analysis.__main__ import main

    assert main(["evaluation", str(folder / "eval.h5"), "--out", str(folder / "eval.html")]) == 0
    assert "0 warnings" in "".join(capfd.readouterr())
    page = (folder / "eval.html").read_text(encoding="utf-8")
    for part in ("Steerability", "mean difference (CAA)", "random direction", "KL"):
        assert part in page
