"""Directories, adapters and data files as users have them: a tiny model to edit, and what three programs make of it.

Runs in the environment of launcher/requirements-new.txt. Scores are (chosen, rejected): the mean log-probability of
the pairs' answers under the unsteered model, in nats.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import h5py
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import program

CHATML = ("{% for message in messages %}"
          "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|eot|>")
CORPUS = ["the kettle on the stove sings before the guests arrive", "two boats wait at the quay until the fog lifts",
          "could you show me where the spare keys are kept", "certainly, they hang on the hook behind the door",
          "look for them yourself, i am busy today", "what should i plant beside the wall this autumn",
          "tulips do well there and need little care", "nothing, the ground is too poor for anything"] * 4
PAIRS = [("Where are the spare keys kept?", "Certainly, they hang on the hook behind the door.", "Look for them yourself."),
         ("What should I plant this autumn?", "Tulips do well beside the wall and need little care.", "Nothing.")]


def tokenizer(extra: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 340 tokens and the special ones, with a ChatML template and an EOS, without BOS."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=340, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    fast.add_special_tokens([AddedToken(text, normalized=False) for text in (*SPECIAL, *extra)])
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<|im_end|>", chat_template=CHATML)


def make_loud(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights so large that every position, bias and single token changes the log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim != 2:
                parameter.copy_(0.2 * noise + (0 if name.endswith("bias") else 1))
            elif "embed" in name or "lm_head" in name:
                parameter.copy_(0.35 * noise)
            else:
                parameter.copy_(noise * (1.6 / parameter.shape[1] ** 0.5))
    return model


def write_base(directory: Path, **settings: object) -> Path:
    """A Llama of three blocks, as transformers 5 saves it, with pairs.csv beside it."""
    fast = tokenizer()
    config = LlamaConfig(**{"vocab_size": len(fast), "hidden_size": 64, "intermediate_size": 96,
                            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
                            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
                            **settings})
    make_loud(LlamaForCausalLM(config).float()).save_pretrained(directory)
    fast.save_pretrained(directory)
    write_pairs(directory / "pairs.csv")
    return directory


def copy_of(base: Path, directory: Path) -> Path:
    shutil.copytree(base, directory)
    return directory


def edit_json(path: Path, **changes: object) -> dict:
    """Sets members of a JSON file; `...` takes a member away. The file need not exist."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, value in changes.items():
        if value is ...:
            content.pop(name, None)
        else:
            content[name] = value
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return content


def write_pairs(path: Path, pairs: Sequence[Sequence[str]] = PAIRS) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "matching", "not_matching"), *pairs])
    return path


def write_rows(path: Path, *rows: Mapping) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run_file(data: Path) -> Path:
    return data.parent / f"{data.name}.run.h5"


def run_train(model: Path, *options: object, data: Path | None = None, test: Path | None = None,
              ranks: int | None = None) -> program.Finished:
    """One step on the data (the model's pairs.csv) without a system prompt; writes run_file(data)."""
    data = data or model / "pairs.csv"
    return program.run(["train", "--model", model, "--train", data, "--test", test or data, "--layer", 1, "--epochs", 1,
                        "--batch-size", 1, "--max-steps", 1, "--system-prompt", "", "--multipliers", 0,
                        "--out", run_file(data), "--overwrite", *options], ranks, timeout=120)


def scores(model: Path, *options: object, data: Path | None = None, test: Path | None = None,
           ranks: int | None = None) -> tuple[tuple[float, float], str]:
    """The program's scores, and what it wrote on stderr."""
    finished = run_train(model, *options, data=data, test=test, ranks=ranks)
    assert finished.code == program.DONE, finished
    with h5py.File(run_file(data or model / "pairs.csv")) as file:
        table = file["evals"][()]
    row = table[table["multiplier"] == 0][0]
    return (float(row["chosen_logp"]), float(row["rejected_logp"])), finished.stderr


def answer_score(model: torch.nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> float:
    with torch.no_grad():
        table = model(torch.tensor([[*prompt, *answer]])).logits[0].double().log_softmax(-1)
    return sum(table[at - 1, token].item() for at, token in enumerate(answer, start=len(prompt)))


def load(directory: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory)


def transformers_scores(directory: Path, pairs: Sequence[Sequence[str]] = PAIRS, *, model: torch.nn.Module = None,
                        **template: object) -> tuple[float, float]:
    """transformers 5: the directory's template, its tokenizer without further special tokens, EOS after each answer."""
    model, fast = (model, AutoTokenizer.from_pretrained(directory)) if model else load(directory)
    sums = [0.0, 0.0]
    for question, *answers in pairs:
        text = fast.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                        tokenize=False, **template)
        prompt = fast(text, add_special_tokens=False).input_ids
        for which, answer in enumerate(answers):
            ids = [*fast(text + answer, add_special_tokens=False).input_ids, fast.eos_token_id]
            sums[which] += answer_score(model, prompt, ids[len(prompt):])
    return sums[0] / len(pairs), sums[1] / len(pairs)


def trl_rows(directory: Path, rows: Sequence[Mapping]) -> list[dict]:
    """prompt_ids, chosen_ids and rejected_ids of each row, as TRL's DPOTrainer prepares them."""
    from datasets import Dataset, disable_progress_bar
    from trl.trainer.dpo_trainer import DPOTrainer

    disable_progress_bar()
    fast = AutoTokenizer.from_pretrained(directory)
    trainer = SimpleNamespace(_tokenizer=fast, _is_vision_dataset=False)
    settings = SimpleNamespace(dataset_num_proc=None, max_length=1024, truncation_mode="keep_start")
    prepared = DPOTrainer._prepare_dataset(trainer, Dataset.from_list([dict(row) for row in rows]), fast, settings, "t")
    return list(prepared)


def trl_scores(directory: Path, rows: Sequence[Mapping]) -> tuple[float, float]:
    model, _ = load(directory)
    prepared = trl_rows(directory, rows)
    return tuple(sum(answer_score(model, row["prompt_ids"], row[f"{which}_ids"]) for row in prepared) / len(prepared)
                 for which in ("chosen", "rejected"))
