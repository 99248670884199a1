"""Sums of the log-probabilities of answers under a model, in the environment of launcher/requirements.txt.

    older_scores.py DIRECTORY < requests    requests: JSON, a list of [prompt, answer], each a list of token ids

Prints the version of transformers and the sums as JSON. transformers 4 cannot read the tokenizers that 5 saves,
so that ids come in.
"""

from __future__ import annotations

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM


def main() -> None:
    transformers.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager").eval()
    sums = []
    for prompt, answer in json.load(sys.stdin):
        with torch.no_grad():
            table = model(torch.tensor([[*prompt, *answer]])).logits[0].double().log_softmax(-1)
        sums.append(sum(table[at - 1, token].item() for at, token in enumerate(answer, start=len(prompt))))
    print(json.dumps({"version": transformers.__version__, "sums": sums}))


if __name__ == "__main__":
    main()
