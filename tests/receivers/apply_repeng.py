"""Steers a model directory in repeng and writes its logits; runs in the environment of requirements-repeng.txt.

Standard input is JSON: "model"; "tokens", a list; "settings", a list of lists of [file, coefficient]. For each list, the
logits after every token go to standard output, in float32.
"""

from __future__ import annotations

import json
import sys

import torch
from repeng import ControlModel, ControlVector
from transformers import AutoModelForCausalLM


def main() -> None:
    job = json.load(sys.stdin)
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    for files in job["settings"]:
        first, *others = (coefficient * ControlVector.import_gguf(path) for path, coefficient in files)
        control = sum(others, first)
        controlled = ControlModel(model, list(control.directions))
        controlled.set_control(control)
        with torch.no_grad():
            sys.stdout.buffer.write(controlled(torch.tensor([job["tokens"]])).logits[0].numpy().tobytes())
        controlled.unwrap()


if __name__ == "__main__":
    main()
