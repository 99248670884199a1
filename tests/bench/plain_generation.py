"""Times transformers' generate under a steering vector in a process of its own and prints the result as JSON.

    plain_generation.py --model DIR --vector RUN.h5 --prompts FILE.csv --multipliers LIST --max-new-tokens N
                        --way single|multiplier|rows [--limit P] [--threads T]

Greedy, without an end: every answer has N tokens.  `single` makes one answer after the other; `multiplier` all
prompts in one left-padded batch for each multiplier; `rows` all prompts at all multipliers in one batch, each row
with a multiplier of its own.  What loads the model and a first short batch are not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "reference"
sys.path.insert(0, str(REFERENCE))

import h5py  # noqa: E402
import torch  # noqa: E402
from transformers import AutoTokenizer, PreTrainedModel  # noqa: E402

from pair_tokens import SYSTEM_PROMPT, encode  # noqa: E402
from plain_bipo import load_model  # noqa: E402

Answers = list[list[list[int]]]  # by prompt and multiplier, token ids
WARM_UP_TOKENS = 2


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    multipliers = [float(text) for text in options.multipliers.split(",")]
    prompts = tokenize(AutoTokenizer.from_pretrained(options.model), options.prompts)[:options.limit]
    steered = SteeredModel(load_model(options.model), options.vector)
    way = {"single": one_by_one, "multiplier": by_multiplier, "rows": all_rows}[options.way]
    way(steered, prompts[:1], multipliers[:1], WARM_UP_TOKENS)
    begin = time.perf_counter()
    answers = way(steered, prompts, multipliers, options.max_new_tokens)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "answers": answers}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times transformers' generate with a forward hook.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vector", type=Path, required=True, help="run file")
    parser.add_argument("--prompts", type=Path, required=True, help="CSV with a column question")
    parser.add_argument("--multipliers", required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--way", choices=("single", "multiplier", "rows"), required=True)
    parser.add_argument("--limit", type=int, help="prompts (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def tokenize(tokenizer, path: Path) -> list[list[int]]:
    """The questions of the file in the model's chat format, as the program's defaults render them."""
    with open(path, newline="", encoding="utf-8") as file:
        questions = [row["question"] for row in csv.DictReader(file)]
    conversations = [[{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]
                     for question in questions]
    texts = [tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
             for messages in conversations]
    return [encode(tokenizer, text) for text in texts]


class SteeredModel:
    """A model whose block outputs h + m v, m being one number or one for each row of the batch."""

    def __init__(self, model: PreTrainedModel, run_file: Path):
        with h5py.File(run_file, "r") as file:
            self.vector = torch.from_numpy(file["vectors/value"][-1])
            self.block = model.model.layers[int(file.attrs["layer"])]
        self.model = model
        model.generation_config.eos_token_id = None

    @contextlib.contextmanager
    def at(self, multiplier: float | torch.Tensor) -> Iterator[None]:
        """Multiplier 0 by itself takes no hook."""
        if isinstance(multiplier, float) and multiplier == 0:
            yield
            return
        shift = multiplier * self.vector

        def hook(_module, _inputs, output):
            return (output[0] + shift, *output[1:]) if isinstance(output, tuple) else output + shift

        handle = self.block.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """The new tokens after each prompt, in one left-padded batch."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt):] = torch.tensor(prompt)
            mask[row, longest - len(prompt):] = 1
        with torch.inference_mode():
            output = self.model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False,
                                         pad_token_id=0)
        assert output.shape[1] == longest + tokens, "an answer ended early"
        return output[:, longest:].tolist()


def one_by_one(steered: SteeredModel, prompts: list[list[int]], multipliers: list[float], tokens: int) -> Answers:
    answers: Answers = []
    for prompt in prompts:
        answers.append([])
        for multiplier in multipliers:
            with steered.at(multiplier):
                answers[-1] += steered.generate([prompt], tokens)
    return answers


def by_multiplier(steered: SteeredModel, prompts: list[list[int]], multipliers: list[float],
                  tokens: int) -> Answers:
    columns = []
    for multiplier in multipliers:
        with steered.at(multiplier):
            columns.append(steered.generate(prompts, tokens))
    return [list(row) for row in zip(*columns)]


def all_rows(steered: SteeredModel, prompts: list[list[int]], multipliers: list[float], tokens: int) -> Answers:
    count = len(multipliers)
    with steered.at(torch.tensor(multipliers * len(prompts))[:, None, None]):
        rows = steered.generate([prompt for prompt in prompts for _ in multipliers], tokens)
    return [rows[first:first + count] for first in range(0, len(rows), count)]


if __name__ == "__main__":
    main()
