"""Exported lm-eval files in lm-evaluation-harness's model `steered`, under transformers 4 and 5."""

from __future__ import annotations

from pathlib import Path

import pytest

import program
import receivers

# By the environment whose packages go before those of lm-evaluation-harness's own.
TRANSFORMERS = {"4.57.6": None, "5.23.0": "venv-new"}


@pytest.mark.parametrize("version", TRANSFORMERS)
def test_steered(directory, model, answers, runs, tmp_path, version):
    environment = {}
    if TRANSFORMERS[version] is not None:
        root = Path(program.from_environment("BIPO_TEST_CACHE")) / TRANSFORMERS[version]
        (packages,) = root.glob("lib/python3.*/site-packages")
        environment["PYTHONPATH"] = str(packages)
    used = [(runs["first"], 1.0), (runs["middle"], -1.5), (runs["last"], 2.0)]
    files = [run.export("lm-eval", tmp_path / f"{run.block}.pt", "--multiplier", scale) for run, scale in used]
    together = [run for run, _ in used]
    files.append(receivers.export_together(together, "lm-eval", tmp_path / "all.pt"))
    answer = answers[0]
    found = receivers.apply("lm-eval", "apply_lm_eval.py", {
        "model": str(directory), "tokens": answer.tokens, "settings": files, "transformers": version}, environment)
    receivers.assert_applied(model, answer.tokens, [(run, 1.0) for run in together], found[-1])
    for (run, scale), table in zip(used, found[:-1], strict=True):
        distance = receivers.assert_applied(model, answer.tokens, [(run, scale)], table)
        ours = receivers.program_log_probs(directory, [f"{run.path}@{scale}"], tmp_path)[0]
        assert answer.log_prob(table) == pytest.approx(ours, abs=receivers.LOG_PROB_TOLERANCE)
        print(f"lm-evaluation-harness under transformers {version}, block {run.block}: KL {distance:.1e}")
