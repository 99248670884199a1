"""Tiny random models of every family, each with the properties that set it apart, and ways to take them away.

    tiny_families.py DIR        writes all of them, DIR/NAME and DIR/NAME-without-PROPERTY

Sizes divide by nothing that a tensor-parallel split could ask for: 301 vocabulary rows, 83 MLP columns, 6 query
heads on 2 key/value heads or 4 on 1. Windows and original context lengths are shorter than the sequences of
family_parity_test.py, and no weight, bias or norm is near the value at which it would do nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, CONFIG_MAPPING

from make_reference import require_pinned_versions
from tiny_models import write_tokenizer

INDEX = "model.safetensors.index.json"

VOCABULARY = 301
BLOCKS = 6
CONTEXT = 128

# Standard deviations. With these, attention scores and the branches of a block are of order one, and logits
# of order ten.
WEIGHT_GAIN = 1.2
NORM_SPREAD = 0.3
BIAS_SPREAD = 0.5
EMBEDDING_SPREAD = 0.5
# The mean logarithm of a recurrence's decay: states forget within some ten tokens.
DECAY_MEAN = -2.0

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Property:
    """What a model has: `config` and `weights` change its directory to that of a model without it."""

    config: dict[str, object] = field(default_factory=dict)
    weights: Callable[[Weights], None] | None = None


@dataclass(frozen=True)
class Spelling:
    """Another config.json for the same model, as older checkpoints have it, or those of transformers 5."""

    left_out: tuple[str, ...]
    added: dict[str, object] = field(default_factory=dict)
    is_newer: bool = False  # than the pinned transformers, which does not read it


@dataclass(frozen=True)
class Family:
    """A tiny model: transformers' `model_type`, its configuration, and the properties that must matter."""

    model_type: str
    config: dict[str, object]
    properties: dict[str, Property]
    spellings: dict[str, Spelling] = field(default_factory=dict)
    storage: torch.dtype = torch.float32
    max_shard_size: str = "1GB"
    wrapper: str | None = None  # the model_type of a model with images that this is the text part of
    around: dict[str, object] = field(default_factory=dict)  # its configuration beside the text part
    # Properties that no file can take away: each changes transformers' model in memory to one without it.
    inherent: dict[str, Callable[[torch.nn.Module], None]] = field(default_factory=dict)
    # Properties that change too little to be told from the errors of float32.
    subtle: dict[str, Property] = field(default_factory=dict)


SIX_ON_TWO = {"num_attention_heads": 6, "num_key_value_heads": 2}
FOUR_ON_ONE = {"num_attention_heads": 4, "num_key_value_heads": 1}
SLIDING, FULL = "sliding_attention", "full_attention"

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 2.0,
        "beta_slow": 0.5}
# Phi-3's own spelling, which its configuration class insists on; head size 12, half of it rotated.
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.7, 2.4], "long_factor": [1.5, 5.0, 9.0]}

NO_ROPE_SCALING = Property({"rope_scaling": None})
# The head goes as well: transformers 5.23 uses one that the files have, whatever the flag says.
TIED_INSTEAD = Property({"tie_word_embeddings": True}, lambda weights: weights.pop("lm_head.weight"))
SILU_INSTEAD = Property({"hidden_activation": "silu"})
NO_WINDOW = Property({"sliding_window": None})
WINDOW = 7
# A reader that does not count the query's own position would see this window.
WINDOW_ONE_LONGER = Property({"sliding_window": WINDOW + 1})
NO_LAYER_TYPES = Spelling(("layer_types",))
READ_AS_LLAMA = Property(
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "layer_types": None})
# transformers' default, or the value that most checkpoints have: what a reader that skips the field would use.
DEFAULT_EPSILON = Property({"rms_norm_eps": 1e-6})
DEFAULT_THETA = Property({"rope_theta": 10000.0})
OTHER_THETA = 700.0


def without_tensors(ending: str) -> Property:
    """Zeroes the tensors whose names end so, which is what having no bias means."""
    def change(weights: Weights) -> None:
        for name, weight in weights.items():
            if name.endswith(ending):
                weight.zero_()
    return Property(weights=change)


def norms_times_weight_alone(weights: Weights) -> None:
    """Makes 1 + w, by which Gemma multiplies, what others multiply by: w."""
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            weight -= 1


def embedding_unscaled(weights: Weights) -> None:
    """Takes sqrt(D) from the tied embedding and gives it back to the head through the final norm."""
    scale = weights["model.embed_tokens.weight"].shape[1] ** 0.5
    weights["model.embed_tokens.weight"] /= scale
    final_norm = weights["model.norm.weight"]
    final_norm.copy_((1 + final_norm) * scale - 1)


def families() -> dict[str, Family]:
    """All models by name."""
    gemma_query = {"query_pre_attn_scalar": 5}
    return {
        "llama_linear": Family(
            "llama",
            {**SIX_ON_TWO, "attention_bias": True, "rope_theta": OTHER_THETA, "rms_norm_eps": 1e-2,
             "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
            {"rope scaling linear": NO_ROPE_SCALING, "query bias": without_tensors("q_proj.bias"),
             "key bias": without_tensors("k_proj.bias"), "value bias": without_tensors("v_proj.bias"),
             "output bias": without_tensors("o_proj.bias"), "untied head": TIED_INSTEAD,
             "rope theta": DEFAULT_THETA, "norm epsilon": DEFAULT_EPSILON},
            {"rope scaling by type": Spelling(("rope_scaling",),
                                              {"rope_scaling": {"type": "linear", "factor": 2.5}}),
             "rope parameters": Spelling(
                 ("rope_scaling", "rope_theta"),
                 {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": OTHER_THETA}},
                 is_newer=True)}),
        "llama_llama3": Family(
            "llama",
            {**FOUR_ON_ONE, "head_dim": 10, "tie_word_embeddings": True, "rope_theta": OTHER_THETA,
             "rope_scaling": LLAMA3},
            {"rope scaling llama3": NO_ROPE_SCALING},
            {"rope parameters": Spelling(("rope_scaling", "rope_theta"),
                                         {"rope_parameters": {**LLAMA3, "rope_theta": OTHER_THETA}},
                                         is_newer=True)},
            storage=torch.bfloat16),
        "llama_yarn": Family(
            "llama", {**SIX_ON_TWO, "head_dim": 16, "rope_theta": 100.0, "rope_scaling": YARN},
            {"rope scaling yarn": NO_ROPE_SCALING,
             "yarn attention factor": Property({"rope_scaling": {**YARN, "attention_factor": 1.0}}),
             "yarn beta_fast": Property({"rope_scaling": {**YARN, "beta_fast": 32.0}}),
             "yarn beta_slow": Property({"rope_scaling": {**YARN, "beta_slow": 1.0}}),
             "yarn truncation": Property({"rope_scaling": {**YARN, "truncate": False}})},
            max_shard_size="60KB"),
        "mistral": Family(
            "mistral",
            {**SIX_ON_TWO, "head_dim": 10, "sliding_window": WINDOW, "rope_theta": OTHER_THETA},
            {"sliding window": NO_WINDOW, "window of 7, not 8": WINDOW_ONE_LONGER,
             "rope theta": DEFAULT_THETA}, storage=torch.float16),
        "ministral": Family(
            "ministral",
            {**SIX_ON_TWO, "head_dim": 10, "sliding_window": WINDOW,
             "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL, SLIDING]},
            {"sliding window": Property({"layer_types": [FULL] * BLOCKS}),
             "layer types": Property({"layer_types": [SLIDING] * BLOCKS})}),
        "qwen2": Family(
            "qwen2",
            {**SIX_ON_TWO, "tie_word_embeddings": True, "use_sliding_window": False,
             "sliding_window": WINDOW, "max_window_layers": 3},
            {"query bias": without_tensors("q_proj.bias"), "key bias": without_tensors("k_proj.bias"),
             "value bias": without_tensors("v_proj.bias"),
             "use_sliding_window false": Property(
                 {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": None})},
            {"window that is switched off": Spelling(("layer_types",), {"sliding_window": WINDOW}),
             "dynamic scaling within the context": Spelling(
                 ("rope_scaling",), {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}})},
            storage=torch.bfloat16),
        "qwen2_window": Family(
            "qwen2",
            {**FOUR_ON_ONE, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 3},
            {"sliding window": Property({"use_sliding_window": False, "layer_types": None}),
             "max_window_layers": Property({"max_window_layers": 1, "layer_types": None})},
            {"no layer types": NO_LAYER_TYPES}),
        "qwen3": Family(
            "qwen3", {**SIX_ON_TWO, "head_dim": 10, "tie_word_embeddings": True},
            {"query and key norm": READ_AS_LLAMA}),
        "qwen3_window": Family(
            "qwen3",
            {**FOUR_ON_ONE, "head_dim": 10, "attention_bias": True, "use_sliding_window": True,
             "sliding_window": WINDOW, "max_window_layers": 2, "rms_norm_eps": 1e-2},
            {"sliding window": Property({"use_sliding_window": False, "layer_types": None}),
             "query bias": without_tensors("q_proj.bias"), "output bias": without_tensors("o_proj.bias"),
             "norm epsilon": DEFAULT_EPSILON},
            {"no layer types": NO_LAYER_TYPES}),
        "gemma2": Family(
            "gemma2",
            {**SIX_ON_TWO, "head_dim": 10, **gemma_query, "sliding_window": WINDOW,
             "attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0},
            {"attention soft cap": Property({"attn_logit_softcapping": None}),
             "final soft cap": Property({"final_logit_softcapping": None}),
             "query scale": Property({"query_pre_attn_scalar": 10}), "GELU": SILU_INSTEAD,
             "sliding window": Property({"layer_types": [FULL] * BLOCKS}),
             "alternation": Property({"layer_types": [FULL, SLIDING] * (BLOCKS // 2)}),
             "norm by 1 + w": Property(weights=norms_times_weight_alone),
             "scaled embedding": Property(weights=embedding_unscaled)},
            {"no layer types": NO_LAYER_TYPES}),
        "gemma3": Family(
            "gemma3_text",
            {**FOUR_ON_ONE, "head_dim": 10, **gemma_query, "sliding_window": WINDOW,
             "rope_theta": 50000.0, "rope_local_base_freq": OTHER_THETA,
             "rope_scaling": {"rope_type": "linear", "factor": 8.0},
             "layer_types": [SLIDING, SLIDING, FULL] * (BLOCKS // 3)},
            {"local rope base": Property({"rope_local_base_freq": 50000.0}),
             "global rope base": Property({"rope_theta": OTHER_THETA}),
             "global rope scaling": NO_ROPE_SCALING,
             "query scale": Property({"query_pre_attn_scalar": 10}), "GELU": SILU_INSTEAD,
             "sliding window": Property({"sliding_window": CONTEXT}),
             "layer types": Property({"layer_types": [SLIDING] * BLOCKS}),
             "norm by 1 + w": Property(weights=norms_times_weight_alone),
             "scaled embedding": Property(weights=embedding_unscaled)},
            {"pattern instead of layer types": Spelling(("layer_types",), {"sliding_window_pattern": 3}),
             "rope parameters": Spelling(
                 ("rope_scaling", "rope_theta", "rope_local_base_freq"),
                 {"rope_parameters": {
                     FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
                     SLIDING: {"rope_type": "default", "rope_theta": OTHER_THETA}}}, is_newer=True)},
            storage=torch.bfloat16),
        "gemma3_pattern": Family(
            "gemma3_text",
            {**FOUR_ON_ONE, "head_dim": 10, "sliding_window": WINDOW, "num_hidden_layers": 7,
             "attention_bias": True, "final_logit_softcapping": 6.0, "tie_word_embeddings": False},
            {"final soft cap": Property({"final_logit_softcapping": None}), "untied head": TIED_INSTEAD,
             "query bias": without_tensors("q_proj.bias"), "output bias": without_tensors("o_proj.bias"),
             "five local to one global": Property({"layer_types": [SLIDING] * 7}),
             "sliding window": Property({"layer_types": [FULL] * 7})},
            {"no layer types": NO_LAYER_TYPES}),
        "smollm3": Family(
            "smollm3", {**FOUR_ON_ONE, "tie_word_embeddings": True},
            {"blocks without rope": Property({"no_rope_layers": [1] * BLOCKS}),
             "which blocks": Property({"no_rope_layers": [1, 0, 1, 1, 1, 1]})},
            {"interval instead of a list": Spelling(("no_rope_layers", "layer_types"))},
            storage=torch.bfloat16),
        "smollm3_window": Family(
            "smollm3",
            {**SIX_ON_TWO, "attention_bias": True, "use_sliding_window": True, "sliding_window": WINDOW,
             "no_rope_layers": [1, 0, 1, 1, 0, 1]},
            {"sliding window": Property({"layer_types": [FULL] * BLOCKS}),
             "blocks without rope": Property({"no_rope_layers": [1] * BLOCKS}),
             "query bias": without_tensors("q_proj.bias"), "output bias": without_tensors("o_proj.bias")},
            {"no layer types": NO_LAYER_TYPES}),
        "phi3": Family(
            "phi3",
            {**FOUR_ON_ONE, "partial_rotary_factor": 0.5, "sliding_window": WINDOW},
            {"partial rotation": Property({"partial_rotary_factor": 1.0}), "sliding window": NO_WINDOW,
             "window of 7, not 8": WINDOW_ONE_LONGER}, max_shard_size="60KB"),
        "phi3_longrope": Family(
            "phi3",
            {**FOUR_ON_ONE, "partial_rotary_factor": 0.5, "rope_scaling": LONGROPE,
             "max_position_embeddings": 8 * CONTEXT, "original_max_position_embeddings": CONTEXT},
            {"longrope": NO_ROPE_SCALING,
             "longrope short factors": Property({"rope_scaling": {**LONGROPE, "short_factor": [1.0] * 3}}),
             "longrope attention factor": Property({"max_position_embeddings": CONTEXT})}),
    }


def write_family(directory: Path, family: Family, seed: int = 1, gain: float = WEIGHT_GAIN) -> Path:
    """Writes the model as transformers saves it and returns its directory; see randomise()."""
    common = {"hidden_size": 48, "intermediate_size": 83, "num_hidden_layers": BLOCKS,
              "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "tie_word_embeddings": False,
              "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family.model_type.startswith("gemma"):
        common["tie_word_embeddings"] = True
    config = CONFIG_MAPPING[family.model_type](**{**common, **family.config})
    if family.wrapper is not None:
        config = CONFIG_MAPPING[family.wrapper](
            text_config=config.to_dict(),
            **{"tie_word_embeddings": config.tie_word_embeddings, "image_token_index": 3, **family.around})
    model = model_class(family.wrapper).from_config(config)
    randomise(model, seed, gain)
    directory.mkdir(parents=True)
    model.to(family.storage).save_pretrained(directory, max_shard_size=family.max_shard_size)
    write_tokenizer(directory, VOCABULARY)
    return directory


def model_class(wrapper: str | None) -> type:
    return AutoModelForCausalLM if wrapper is None else AutoModelForImageTextToText


def randomise(model: torch.nn.Module, seed: int, gain: float = WEIGHT_GAIN) -> None:
    """Draws every parameter; a norm's are spread about what it began with, one or (Gemma) zero. `gain`: of products."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        scales = [(name, scale) for name, scale in model.named_buffers() if name.endswith("layer_scalar")]
        for name, weight in [*model.named_parameters(), *scales]:
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith("A_log"):
                weight.copy_(DECAY_MEAN + noise)
            elif "norm" in name or (weight.dim() == 1 and not name.endswith("bias")):
                weight += NORM_SPREAD * noise
            elif name.endswith("bias"):
                weight.copy_(BIAS_SPREAD * noise)
            elif any(part in name for part in ("embed_tokens", "embed_in", "lm_head")):
                weight.copy_(EMBEDDING_SPREAD * noise)
            else:
                weight.copy_(gain / weight.shape[1] ** 0.5 * noise)


def write_without(directory: Path, model: Path, lost: Property) -> Path:
    """Writes `model` again as one that lost a property."""
    write_copy(directory, model, changed(read_config(model), lost.config))
    if lost.weights is not None:
        weights: Weights = {}
        for path in sorted(directory.glob("*.safetensors")):
            weights |= {name: weight.float() for name, weight in load_file(path).items()}
            path.unlink()
        (directory / INDEX).unlink(missing_ok=True)
        lost.weights(weights)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def changed(config: dict[str, object], changes: dict[str, object]) -> dict[str, object]:
    """A configuration with other settings of the text part."""
    if "text_config" in config:
        return {**config, "text_config": {**config["text_config"], **changes}}
    return {**config, **changes}


def write_spelled(directory: Path, model: Path, spelling: Spelling) -> Path:
    """Writes `model` again with another config.json that says the same."""
    kept = {name: value for name, value in read_config(model).items() if name not in spelling.left_out}
    return write_copy(directory, model, {**kept, **spelling.added})


def write_sparse(directory: Path, model: Path) -> Path:
    """Writes `model` again with a config.json that says nothing that its class takes for granted."""
    return write_copy(directory, model, without_granted(read_config(model)))


def without_granted(config: dict[str, object]) -> dict[str, object]:
    granted = CONFIG_MAPPING[config["model_type"]]().to_dict()
    named = ("model_type", "architectures")
    sparse = {name: value for name, value in config.items() if name in named or granted.get(name, ...) != value}
    if "text_config" in config:
        sparse["text_config"] = without_granted(config["text_config"])
    return sparse


def write_copy(directory: Path, model: Path, config: dict[str, object]) -> Path:
    """Writes `model` again with another configuration."""
    shutil.copytree(model, directory)
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return directory


def read_config(model: Path) -> dict[str, object]:
    return json.loads((model / "config.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Tiny random models of every family.")
    parser.add_argument("directory", type=Path)
    root = parser.parse_args().directory
    require_pinned_versions()
    for name, family in families().items():
        model = write_family(root / name, family)
        for lost, change in family.properties.items():
            write_without(root / file_name(f"{name}-without-{lost}"), model, change)


def file_name(text: str) -> str:
    return re.sub("[^a-z0-9_]+", "-", text.lower())


if __name__ == "__main__":
    main()
