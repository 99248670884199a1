"""Steers a model directory in lm-evaluation-harness and writes its logits; runs in the environment of
requirements-lm-eval.txt, in front of which PYTHONPATH may put another transformers.

Standard input is JSON: "model"; "tokens", a list; "settings", a list of files for steer_path; "transformers", the release
that must be in use. For each file, the logits after every token go to standard output, in float32.
"""

from __future__ import annotations

import json
import sys

import torch
import transformers
from lm_eval.api.registry import get_model


def main() -> None:
    job = json.load(sys.stdin)
    assert transformers.__version__ == job["transformers"], transformers.__version__
    for path in job["settings"]:
        steered = get_model("steered").create_from_arg_string(
            f"pretrained={job['model']},steer_path={path},dtype=float32", {"device": "cpu", "batch_size": 1})
        with torch.no_grad():
            sys.stdout.buffer.write(steered._model_call(torch.tensor([job["tokens"]]))[0].numpy().tobytes())


if __name__ == "__main__":
    main()
