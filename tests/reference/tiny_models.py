"""Tiny random Llama-architecture model directories and preference files for the tests.

transformers and torch are imported where a model is made, not before: that takes seconds, and most tests find their
model made.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import os
import random
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

BOS, EOS, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = [PAD, BOS, EOS]

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

# A short original_max_position_embeddings, so that the scaling changes positions the tests really use.
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}

WORDS = ("the cat and a dog went out in rain they found an old hat under that tree it was warm there so we "
         "sat for tea then another bird came near with one red ring on its thin leg I think you can help me "
         "or not yes no never always maybe tell more about it please").split()
ODDITIES = ["naïve café", "日本語", "🙂👩‍🚀", 'she said "go"', "one\ntwo\n\nthree", "tab\there", "x=1; y+=2",
            "Ünïcödé"]


@dataclass(frozen=True)
class TinyModel:
    """What may differ between tiny models; the defaults are the smallest interesting case (GQA, untied)."""

    hidden_size: int = 48
    intermediate_size: int = 80
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    vocab_size: int = 300
    context: int = 1024
    tied: bool = False
    rope_scaling: dict | None = None
    rope_theta: float = 10000.0
    storage: str = "float32"  # a type of torch
    max_shard_size: str = "1GB"
    seed: int = 1


def variants() -> dict[str, TinyModel]:
    """Every option that a model directory may differ in, one at a time."""
    base = TinyModel()
    return {
        "plain": base,
        "tied": replace(base, tied=True),
        "bf16_storage": replace(base, storage="bfloat16"),
        "fp16_storage": replace(base, storage="float16"),
        "llama3_rope": replace(base, rope_scaling=LLAMA3_ROPE),
        "large_theta": replace(base, rope_theta=500000.0),
        "no_gqa": replace(base, kv_heads=base.heads),
        "one_kv_head": replace(base, kv_heads=1),
        "odd_sizes": replace(base, vocab_size=301, intermediate_size=83),
        "odd_tied_sharded": replace(base, vocab_size=301, intermediate_size=83, tied=True,
                                    max_shard_size="60KB"),
        "sharded": replace(base, max_shard_size="60KB"),
    }


def write_model(directory: Path, spec: TinyModel = TinyModel()) -> Path:
    """Writes the whole directory as transformers would save it and returns it."""
    build = os.environ.get("BIPO_BUILD_DIR")
    if build is None:
        return make_model(directory, spec)
    kept = Path(build) / "tests" / "tiny_models" / key_of(spec)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = make_model(Path(folder) / "model", spec)
            try:
                made.rename(kept)
            except OSError:  # another test has put its own there
                if not kept.exists():
                    raise
    # Files of now: the program trusts files that have been the same for a while.
    shutil.copytree(kept, directory, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return directory


def key_of(spec: TinyModel) -> str:
    """Of all that a model's files depend on."""
    versions = [f"{name} {importlib.metadata.version(name)}"
                for name in ("safetensors", "tokenizers", "torch", "transformers")]
    return hashlib.sha256("\n".join([repr(spec), *versions, Path(__file__).read_text(encoding="utf-8")])
                          .encode()).hexdigest()[:16]


def make_model(directory: Path, spec: TinyModel) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    random_llama(spec).save_pretrained(directory, max_shard_size=spec.max_shard_size)
    write_tokenizer(directory, spec.vocab_size)
    return directory


def random_llama(spec: TinyModel) -> LlamaForCausalLM:
    """A Llama with weights large enough that log-probabilities depend visibly on everything."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=spec.hidden_size, intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers, num_attention_heads=spec.heads, num_key_value_heads=spec.kv_heads,
        vocab_size=spec.vocab_size, max_position_embeddings=spec.context,
        tie_word_embeddings=spec.tied, rope_scaling=spec.rope_scaling, rope_theta=spec.rope_theta,
        attention_bias=False, mlp_bias=False, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.1 * noise if "norm" in name else 0.2 * noise)
    return model.to(getattr(torch, spec.storage))


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A byte-level BPE of exactly `vocab_size` tokens with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    corpus = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    corpus += [f"{role}\nYou are a helpful, honest and concise assistant." for role in ("system", "user")]
    tokenizer.train_from_iterator(corpus, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the corpus yields {tokenizer.get_vocab_size()} tokens, not {vocab_size}")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS,
              "pad_token": PAD, "chat_template": CHATML_TEMPLATE, "clean_up_tokenization_spaces": False,
              "model_input_names": ["input_ids", "attention_mask"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def write_pairs(path: Path, count: int, seed: int = 7) -> Path:
    """A preference CSV of `count` pairs of varied lengths; every fourth pair's answers begin alike."""
    generator = random.Random(seed)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["question", "matching", "not_matching"])
        for index in range(count):
            beginning = random_text(generator, 2) + " " if index % 4 == 3 else ""
            writer.writerow([random_text(generator, generator.randint(2, 14)) + f" ({index})?",
                             beginning + random_text(generator, generator.randint(1, 12)),
                             beginning + random_text(generator, generator.randint(1, 12))])
    return path


def random_text(generator: random.Random, words: int) -> str:
    """`words` words, now and then with one of the oddities that real data hold."""
    chosen = [generator.choice(WORDS) for _ in range(words)]
    if generator.random() < 0.3:
        chosen.insert(generator.randint(0, words), generator.choice(ODDITIES))
    return " ".join(chosen)
