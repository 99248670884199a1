"""Texts that `generate` writes with its caches, token by token against transformers 5.23.0 with a hook: models whose
blocks differ in their heads, windows or positions, or whose MLP stands beside the attention."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import h5py
import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

import program
import user_files

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

LAYER, MULTIPLIERS, LENGTH = 1, (-20.0, 0.0, 20.0), 14
# Logits of these models are of order ten.
TOLERANCE = 1e-3
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": None,
         "eos_token_id": 0, "tie_word_embeddings": False}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
# Recurrences go through 64 tokens at a time.
PROMPTS = ["Where are the keys?", "Where are they then, and since when? Tell me now.",
           " ".join(f"Key {number} is not in room {number % 7}." for number in range(5))]
MODELS = {
    "gemma4_text": {**WINDOWS, "head_dim": 16, "global_head_dim": 32, "num_global_key_value_heads": 1,
                    "attention_k_eq_v": True, "hidden_size_per_layer_input": 0},
    "cohere2": {**WINDOWS, "logit_scale": 0.5},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"] * 2,
                     "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
                     "linear_value_head_dim": 8},
    "gpt_neox": {},
    "phi": {},
    "starcoder2": {"sliding_window": 8},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    @functools.cache
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("models") / kind
        fast = user_files.tokenizer()
        config = CONFIG_MAPPING[kind](**{**SIZES, "vocab_size": len(fast), **MODELS[kind]})
        user_files.make_loud(AutoModelForCausalLM.from_config(config).float()).save_pretrained(folder)
        fast.save_pretrained(folder)
        user_files.write_pairs(folder / "pairs.csv")
        assert len(fast(PROMPTS[-1])["input_ids"]) > 64
        (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
        return folder

    return make


def log_probs_of(model: torch.nn.Module, ids: list[int], added: torch.Tensor) -> torch.Tensor:
    handle = model.base_model.layers[LAYER].register_forward_hook(
        lambda _, __, output: (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added)
    try:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)
    finally:
        handle.remove()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_tokens_are_those_that_transformers_finds_likeliest(models, tmp_path, kind, ranks):
    directory = models(kind)
    run = program.run(["train", "--model", directory, "--train", directory / "pairs.csv", "--layer", LAYER,
                       "--epochs", 2, "--batch-size", 2, "--max-steps", 2, "--lr-unit", "absolute", "--lr", 0.1, "--warmup-steps", 0,
                       "--out", tmp_path / "run.h5"])
    assert run.code == program.DONE, run

    def generate(name: str, *options: object) -> list[dict]:
        made = program.run(["generate", "--model", directory, "--vector", tmp_path / "run.h5", "--prompts",
                            directory / "prompts.txt", "--system-prompt", "", "--max-new-tokens", LENGTH,
                            "--multipliers=" + ",".join(map(str, MULTIPLIERS)), "--tp", ranks, *options,
                            "--out", tmp_path / name], ranks if ranks > 1 else None)
        assert made.code == program.DONE, made
        return [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]

    rows = generate("texts.jsonl")
    if kind == "qwen3_5_text" and ranks == 1:
        alone = generate("one_by_one.jsonl", "--batch-size", 1)
        assert [row["tokens"] for row in alone] == [row["tokens"] for row in rows]
    with h5py.File(tmp_path / "run.h5") as file:
        vector = torch.tensor(file["vectors/value"][-1])
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    fast = AutoTokenizer.from_pretrained(directory)
    assert len(rows) == len(PROMPTS) * len(MULTIPLIERS)
    assert len({tuple(row["tokens"]) for row in rows[:3]}) == 3, "the vector changes nothing"
    for row in rows:
        prompt = fast.apply_chat_template([{"role": "user", "content": row["prompt"]}], add_generation_prompt=True)
        prompt = list(prompt["input_ids"] if hasattr(prompt, "keys") else prompt)
        log_probs = log_probs_of(model, prompt + row["tokens"], row["multiplier"] * vector)[len(prompt) - 1:]
        for place, token in zip(log_probs, row["tokens"]):
            assert place.max() - place[token] < TOLERANCE, row
