"""Exported GGUF control vectors in repeng."""

from __future__ import annotations

import pytest

import receivers

SETTINGS = {
    "first": {"first": 1.0}, "middle": {"middle": -1.5}, "last": {"last": 1.0},
    "two": {"middle": 1.0, "last": -2.0}, "two-on-one-block": {"middle": 1.0, "middle-2": 0.5}}


def test_control_model(directory, model, answers, runs, tmp_path):
    answer = answers[0]
    files = {name: runs[name].export("gguf", tmp_path / f"{name}.gguf") for name in runs}
    together = [runs["first"], runs["middle"], runs["last"]]
    one_file = receivers.export_together(together, "gguf", tmp_path / "together.gguf")
    found = receivers.apply("repeng", "apply_repeng.py", {
        "model": str(directory), "tokens": answer.tokens,
        "settings": [*([[files[name], scale] for name, scale in scales.items()] for scales in SETTINGS.values()),
                     [[one_file, 1.0]]]})
    receivers.assert_applied(model, answer.tokens, [(run, 1.0) for run in together], found[-1])
    for (name, scales), table in zip(SETTINGS.items(), found[:-1], strict=True):
        used = [(runs[vector], scale) for vector, scale in scales.items()]
        distance = receivers.assert_applied(model, answer.tokens, used, table)
        ours = receivers.program_log_probs(directory, [f"{run.path}@{scale}" for run, scale in used], tmp_path)[0]
        assert answer.log_prob(table) == pytest.approx(ours, abs=receivers.LOG_PROB_TOLERANCE)
        print(f"repeng, {name}: KL {distance:.1e}")
