"""Tiny random models of every GGUF architecture, written as llama.cpp's convert_hf_to_gguf.py writes them.

The names of tensors and keys are those of the gguf package; the order of rotated rows, the one that is added to
Gemma's norms, and what is said of scaled positions follow the converter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM, CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from tiny_families import (BLOCKS, CONTEXT, FOUR_ON_ONE, FULL, LLAMA3, LONGROPE, OTHER_THETA, SIX_ON_TWO, SLIDING,
                           VOCABULARY, WINDOW, YARN, randomise)

# Rows of whole blocks of 32; three ranks cut attn_output between blocks.
WHOLE_BLOCKS = {"hidden_size": 64, "intermediate_size": 96, **FOUR_ON_ONE}
# GGUF stores numbers in float32, which the program reads as the shortest decimals that round to them and
# transformers as they are; this number is the same in all three.
EPSILON = 2.0 ** -7
# Whose query and key rows the converter reorders.
ADJACENT_ROWS = ("llama", "smollm3", "granite")
SOFT_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0}


@dataclass(frozen=True)
class Architecture:
    """A tiny model and how far its file describes it.

    `unread` is what transformers' reader of GGUF files has to be told, None where it does not read the
    architecture at all. `mistakes` are other configurations, each one that a reader might take the file for.
    """

    name: str  # general.architecture
    model_type: str  # transformers'
    config: dict[str, object]
    unread: dict[str, object] | None = field(default_factory=dict)
    mistakes: dict[str, dict[str, object]] = field(default_factory=dict)
    matrices: Type = Type.F32
    # Not where the file's float32 divisors of rotary frequencies round once more than transformers does.
    is_exact: bool = True


def architectures() -> dict[str, Architecture]:
    """All models by name."""
    linear = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    no_scaling = {"rope_scaling": None}
    gemma = {"head_dim": 10, "query_pre_attn_scalar": 10, "sliding_window": WINDOW, "tie_word_embeddings": True}
    gemma_query = {"query_pre_attn_scalar": 10}
    longrope = {"partial_rotary_factor": 0.5, "rope_scaling": LONGROPE, "max_position_embeddings": 8 * CONTEXT,
                "original_max_position_embeddings": CONTEXT}
    return {
        "llama": Architecture(
            "llama", "llama", {**SIX_ON_TWO, "rope_theta": OTHER_THETA, **linear}, linear,
            {"no scaling": no_scaling, "usual base": {"rope_theta": 10000.0},
             "usual epsilon": {"rms_norm_eps": 1e-5}}),
        "llama_llama3": Architecture(
            "llama", "llama",
            {**FOUR_ON_ONE, "head_dim": 10, "tie_word_embeddings": True, "rope_theta": OTHER_THETA,
             "rope_scaling": LLAMA3}, {"rope_scaling": LLAMA3}, {"no scaling": no_scaling}, is_exact=False),
        "llama_biases": Architecture(
            "llama", "llama", {**SIX_ON_TWO, "attention_bias": True, "tie_word_embeddings": True},
            {"attention_bias": True}, {"usual epsilon": {"rms_norm_eps": 1e-5}}),
        "qwen3_yarn": Architecture(
            "qwen3", "qwen3", {**SIX_ON_TWO, "head_dim": 16, "rope_theta": 100.0, "rope_scaling": YARN},
            {"head_dim": 16, "rope_scaling": YARN},
            {"no scaling": no_scaling, "no attention factor": {"rope_scaling": {**YARN, "attention_factor": 1.0}},
             "usual beta_fast": {"rope_scaling": {**YARN, "beta_fast": 32.0}},
             "usual beta_slow": {"rope_scaling": {**YARN, "beta_slow": 1.0}},
             "original context": {"rope_scaling": {**YARN, "original_max_position_embeddings": CONTEXT}}}),
        "qwen2": Architecture(
            "qwen2", "qwen2", {**SIX_ON_TWO, "rope_theta": OTHER_THETA}, {},
            {"usual base": {"rope_theta": 10000.0}}),
        "qwen2_tied": Architecture("qwen2", "qwen2", {**FOUR_ON_ONE, "tie_word_embeddings": True}),
        "qwen3": Architecture(
            "qwen3", "qwen3", {**SIX_ON_TWO, "head_dim": 10, "tie_word_embeddings": True}, {"head_dim": 10}),
        "qwen3_untied": Architecture(
            "qwen3", "qwen3", {**FOUR_ON_ONE, "head_dim": 10, "rope_theta": OTHER_THETA}, {"head_dim": 10},
            {"usual base": {"rope_theta": 10000.0}}),
        "gemma2": Architecture(
            "gemma2", "gemma2", {**SIX_ON_TWO, **gemma, **SOFT_CAPS}, {**gemma_query, **SOFT_CAPS},
            {"usual query scale": {"query_pre_attn_scalar": 256},
             "D / H": {"query_pre_attn_scalar": 8}, "no cap on attention": {"attn_logit_softcapping": None},
             "no cap on logits": {"final_logit_softcapping": None},
             "windows the other way round": {"layer_types": [FULL, SLIDING] * (BLOCKS // 2)},
             "no windows": {"layer_types": [FULL] * BLOCKS}}),
        # 27B: by its number of blocks, the query scale is that of D / H.
        "gemma2_27b": Architecture(
            "gemma2", "gemma2",
            {**FOUR_ON_ONE, **gemma, **SOFT_CAPS, "num_hidden_layers": 46, "query_pre_attn_scalar": 12},
            {**SOFT_CAPS, "query_pre_attn_scalar": 12}, {"key length": gemma_query}),
        "gemma3": Architecture(
            "gemma3", "gemma3_text",
            {**FOUR_ON_ONE, **gemma, "num_hidden_layers": 7, "rope_theta": 50000.0, **linear},
            {**gemma_query, **linear},
            {"usual query scale": {"query_pre_attn_scalar": 256}, "no scaling": no_scaling,
             "global base in windows": {"rope_local_base_freq": 50000.0},
             "local base everywhere": {"rope_theta": 10000.0},
             "windows in all blocks": {"layer_types": [SLIDING] * 7},
             "windows in no block": {"layer_types": [FULL] * 7}}),
        "gemma3_local_base": Architecture(
            "gemma3", "gemma3_text",
            {**SIX_ON_TWO, **gemma, "rope_local_base_freq": OTHER_THETA, "final_logit_softcapping": 6.0,
             "tie_word_embeddings": False},
            {**gemma_query, "rope_local_base_freq": OTHER_THETA, "final_logit_softcapping": 6.0},
            {"usual local base": {"rope_local_base_freq": 10000.0},
             "no cap on logits": {"final_logit_softcapping": None}}),
        "gemma3_27b": Architecture(
            "gemma3", "gemma3_text",
            {**FOUR_ON_ONE, **gemma, "num_hidden_layers": 62, "query_pre_attn_scalar": 12},
            {"query_pre_attn_scalar": 12}, {"key length": gemma_query}),
        "gemma": Architecture(
            "gemma", "gemma", {**SIX_ON_TWO, "head_dim": 10, "tie_word_embeddings": True}, None,
            {"SwiGLU": {"hidden_act": "silu"}}),
        "seed_oss": Architecture(
            "seed_oss", "seed_oss", {**SIX_ON_TWO, "head_dim": 10, "rope_theta": OTHER_THETA}, None,
            {"usual base": {"rope_theta": 10000.0}}),
        "seed_oss_output_bias": Architecture(
            "seed_oss", "seed_oss", {**FOUR_ON_ONE, "head_dim": 10, "attention_out_bias": True}, None),
        "olmo2": Architecture(
            "olmo2", "olmo2", {**SIX_ON_TWO, "rope_theta": OTHER_THETA}, None, {"usual base": {"rope_theta": 10000.0}}),
        "exaone4": Architecture(
            "exaone4", "exaone4", {**SIX_ON_TWO, "sliding_window": WINDOW, "rope_theta": OTHER_THETA}, None,
            {"no window": {"sliding_window": 64},
             "positions and windows everywhere": {"layer_types": [SLIDING] * BLOCKS},
             "windows in no block": {"layer_types": [FULL] * BLOCKS}}),
        "exaone4_small": Architecture(
            "exaone4", "exaone4", {**FOUR_ON_ONE, "sliding_window": None, "layer_types": [FULL] * BLOCKS,
                                   "tie_word_embeddings": True}, None,
            {"no positions": {"sliding_window": 64}}),
        "granite": Architecture(
            "granite", "granite",
            {**SIX_ON_TWO, "embedding_multiplier": 3.0, "attention_multiplier": 0.25, "residual_multiplier": 0.5,
             "logits_scaling": 1.5, "tie_word_embeddings": True, "rope_theta": OTHER_THETA}, None,
            {"no embedding multiplier": {"embedding_multiplier": 1.0},
             "usual scale of scores": {"attention_multiplier": 8 ** -0.5},
             "no residual multiplier": {"residual_multiplier": 1.0}, "no logit divisor": {"logits_scaling": 1.0}}),
        "glm4": Architecture(
            "glm4", "glm4", {**FOUR_ON_ONE, "head_dim": 12, "attention_bias": True, "rope_theta": OTHER_THETA}, None,
            {"all rotated": {"partial_rotary_factor": 1.0}, "usual base": {"rope_theta": 10000.0}}),
        "ernie4_5": Architecture(
            "ernie4_5", "ernie4_5", {**SIX_ON_TWO, "head_dim": 10, "tie_word_embeddings": True,
                                     "rope_theta": OTHER_THETA}, None, {"usual base": {"rope_theta": 500000.0}}),
        "smollm3": Architecture(
            "smollm3", "smollm3", {**FOUR_ON_ONE, "tie_word_embeddings": True}, None,
            {"positions in all blocks": {"no_rope_layers": [1] * BLOCKS}}),
        "smollm3_f16": Architecture(
            "smollm3", "smollm3", {**SIX_ON_TWO, "num_hidden_layers": 8, "rope_theta": OTHER_THETA}, None,
            {"positions but in one block": {"no_rope_layers": [1, 1, 1, 0, 1, 1, 1, 1]}}, matrices=Type.F16),
        "phi3": Architecture(
            "phi3", "phi3", {**FOUR_ON_ONE, "partial_rotary_factor": 0.5, "sliding_window": WINDOW},
            {"partial_rotary_factor": 0.5, "sliding_window": WINDOW},
            {"all rotated": {"partial_rotary_factor": 1.0}, "no window": {"sliding_window": None}}),
        "phi3_q8": Architecture(
            "phi3", "phi3", {**WHOLE_BLOCKS, "sliding_window": None, "tie_word_embeddings": True},
            {"sliding_window": None}, {"a window": {"sliding_window": WINDOW}}, matrices=Type.Q8_0),
        "phi3_longrope": Architecture(
            "phi3", "phi3", {**FOUR_ON_ONE, **longrope}, longrope,
            {"no factors": no_scaling,
             "no attention factor": {"max_position_embeddings": CONTEXT},
             "long factors": {"rope_scaling": {**LONGROPE, "short_factor": LONGROPE["long_factor"]}}}),
    }


def newer_architectures() -> dict[str, Architecture]:
    """Those that transformers 4.57.6 does not have."""
    full = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": OTHER_THETA}
    rope = {FULL: full, SLIDING: {"rope_type": "default", "rope_theta": 50.0}}
    gemma = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10, "global_head_dim": 16,
             "hidden_size_per_layer_input": 0, "sliding_window": WINDOW, "rope_parameters": rope,
             "tie_word_embeddings": True}
    cohere = {**SIX_ON_TWO, "rope_parameters": {"rope_type": "default", "rope_theta": OTHER_THETA},
              "tie_word_embeddings": True, "layer_norm_eps": EPSILON}
    return {
        "command-r": Architecture(
            "command-r", "cohere", {**cohere, "logit_scale": 0.25}, None,
            {"usual scale of logits": {"logit_scale": 0.0625}, "usual epsilon": {"layer_norm_eps": 1e-5},
             "usual base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}}),
        "gptneox": Architecture(
            "gptneox", "gpt_neox",
            {"num_attention_heads": 6, "layer_norm_eps": EPSILON,
             "rope_parameters": {"rope_type": "default", "rope_theta": OTHER_THETA, "partial_rotary_factor": 0.5}}, None,
            {"one after the other": {"use_parallel_residual": False}, "usual epsilon": {"layer_norm_eps": 1e-5},
             "all rotated": {"rope_parameters": {"rope_type": "default", "rope_theta": OTHER_THETA,
                                                 "partial_rotary_factor": 1.0}}}),
        "gptneox_sequential": Architecture(
            "gptneox", "gpt_neox", {"num_attention_heads": 3, "use_parallel_residual": False,
                                    "layer_norm_eps": EPSILON}, None,
            {"beside each other": {"use_parallel_residual": True}}),
        "phi2": Architecture(
            "phi2", "phi", {**SIX_ON_TWO, "layer_norm_eps": EPSILON}, None,
            {"usual epsilon": {"layer_norm_eps": 1e-5}}),
        "starcoder2": Architecture(
            "starcoder2", "starcoder2", {**SIX_ON_TWO, "norm_epsilon": EPSILON, "tie_word_embeddings": True}, None,
            {"usual epsilon": {"norm_epsilon": 1e-5}}),
        "starcoder2_without_biases": Architecture(
            "starcoder2", "starcoder2", {**FOUR_ON_ONE, "norm_epsilon": EPSILON, "use_bias": False}, None),
        "cohere2": Architecture(
            "cohere2", "cohere2", {**cohere, "sliding_window": WINDOW, "logit_scale": 0.25}, None,
            {"no window": {"sliding_window": CONTEXT}, "positions everywhere": {"layer_types": [SLIDING] * BLOCKS}}),
        "gemma4": Architecture(
            "gemma4", "gemma4_text",
            {**gemma, "attention_k_eq_v": True, "num_global_key_value_heads": 2, "final_logit_softcapping": 6.0,
             "layer_types": [SLIDING, SLIDING, FULL] * 2}, None,
            {"all pairs turn": {"rope_parameters": {**rope, FULL: {**full, "partial_rotary_factor": 1.0}}},
             "usual global base": {"rope_parameters": {**rope, FULL: {**full, "rope_theta": 1000000.0}}},
             "usual local base": {"rope_parameters": {**rope, SLIDING: {"rope_theta": 10000.0}}},
             "no window": {"sliding_window": CONTEXT}, "no cap on logits": {"final_logit_softcapping": None}}),
        "gemma4_values": Architecture("gemma4", "gemma4_text", {**gemma, "rope_parameters": None}, None),
    }


def make_model(architecture: Architecture, seed: int = 1) -> PreTrainedModel:
    """A random model whose weights go through its file unchanged."""
    common = {"hidden_size": 48, "intermediate_size": 83, "num_hidden_layers": BLOCKS, "vocab_size": VOCABULARY,
              "max_position_embeddings": CONTEXT, "tie_word_embeddings": False, "rms_norm_eps": EPSILON,
              "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CONFIG_MAPPING[architecture.model_type](**{**common, **architecture.config})
    model = AutoModelForCausalLM.from_config(config)
    randomise(model, seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if adds_one(architecture, name):
                weight.copy_((weight + 1) - 1)
            elif weight.dim() == 2:
                stored = gguf.quants.quantize(weight.numpy(), architecture.matrices)
                weight.copy_(torch.from_numpy(gguf.quants.dequantize(stored, architecture.matrices)))
    return model


def write_gguf(path: Path, architecture: Architecture, model: PreTrainedModel,
               change: Callable[[gguf.GGUFWriter, dict[str, np.ndarray]], None] = lambda *_: None) -> Path:
    """`change` is given the writer and the tensors by name, before any are written."""
    writer = gguf.GGUFWriter(path, architecture.name)
    add_keys(writer, architecture.name, model.config)
    tensors = dict(gguf_tensors(architecture, model))
    change(writer, tensors)
    for name, values in tensors.items():
        kind = architecture.matrices if values.ndim == 2 else Type.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_gguf(path: Path, unread: dict[str, object]) -> PreTrainedModel:
    """What transformers reads in a GGUF file, in float64; `unread` is what its configuration then lacks."""
    parsed = load_gguf_checkpoint(path)["config"]
    config = CONFIG_MAPPING[parsed["model_type"]](**{**parsed, **unread})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="eager")
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert set(missing) == ({"lm_head.weight"} if config.tie_word_embeddings else set()) and not unexpected
    model.tie_weights()
    return model


def gguf_tensors(architecture: Architecture, model: PreTrainedModel):
    config = model.config
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    scales = [(f"{name}.weight", scale) for name, scale in model.named_buffers() if name.endswith("layer_scalar")]
    for name, weight in [*model.named_parameters(), *scales]:
        values = weight.detach().numpy()
        if adds_one(architecture, name):
            values = values + np.float32(1)
        elif architecture.name in ADJACENT_ROWS and ".q_proj." in name:
            values = adjacent_rotated_rows(values, config.num_attention_heads)
        elif architecture.name in ADJACENT_ROWS and ".k_proj." in name:
            values = adjacent_rotated_rows(values, config.num_key_value_heads)
        elif ".query_key_value." in name:
            values = parts_of_heads(values, config.num_attention_heads)
        gguf_name = names.get_name(name, (".weight", ".bias"))
        assert gguf_name is not None, name
        yield gguf_name, values
    yield from rotary_tensors(config)


def adds_one(architecture: Architecture, name: str) -> bool:
    return architecture.name in ("gemma", "gemma2", "gemma3") and name.endswith("norm.weight")


def adjacent_rotated_rows(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows that rotate together, half a head apart in transformers, become neighbours."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def parts_of_heads(values: np.ndarray, heads: int) -> np.ndarray:
    """All queries, then all keys, then all values, which in transformers are neighbours in each head."""
    by_head = values.reshape(heads, 3, -1, *values.shape[1:])
    return np.ascontiguousarray(by_head.swapaxes(0, 1)).reshape(values.shape)


def rotary_tensors(config: PretrainedConfig):
    if config.model_type == "gemma4_text":
        pairs = config.per_layer_config[FULL].head_dim // 2
        turning = int(pairs * config.rope_parameters[FULL]["partial_rotary_factor"])
        yield "rope_freqs.weight", np.float32([1.0] * turning + [1e30] * (pairs - turning))
        return
    scaling = config.rope_scaling if "rope_scaling" in config.to_dict() else None
    kind = (scaling or {}).get("rope_type") or (scaling or {}).get("type")
    if kind == "llama3":
        yield "rope_freqs.weight", llama3_divisors(config)
    elif kind == "longrope":
        yield "rope_factors_long.weight", np.float32(scaling["long_factor"])
        yield "rope_factors_short.weight", np.float32(scaling["short_factor"])


def llama3_divisors(config: PretrainedConfig) -> np.ndarray:
    """What the frequencies are divided by: 1 for wave lengths far below the original context, `factor` for those
    far above, and in between the inverse of a mean of 1 and 1 / factor."""
    scaling = config.rope_scaling
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    divisors = []
    for pair in range(config.head_dim // 2):
        wave_length = 2 * math.pi * config.rope_theta ** (2 * pair / config.head_dim)
        turns = scaling["original_max_position_embeddings"] / wave_length
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1 / (share + (1 - share) / scaling["factor"]))
    return np.float32(divisors)


def add_keys(writer: gguf.GGUFWriter, name: str, config: PretrainedConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if (epsilon := getattr(config, "layer_norm_eps", getattr(config, "norm_epsilon", None))) is not None:
        writer.add_layer_norm_eps(epsilon)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    # The number of tokens is the only word of most files on the size of the vocabulary.
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {index}" for index in range(config.vocab_size)])
    writer.add_pad_token_id(config.pad_token_id)
    if name == "gemma4":
        add_gemma4_keys(writer, config)
        return
    if name in ("gptneox", "phi2", "starcoder2"):
        add_biased_keys(writer, config)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    if name in ("command-r", "cohere2"):
        add_cohere_keys(writer, config)
        return
    if name not in ("gemma", "gemma2"):
        writer.add_rope_freq_base(config.rope_theta)
    if name == "phi3":
        add_phi3_keys(writer, config)
        return
    if (head_dim := config.to_dict().get("head_dim")) is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if name == "glm4":
        writer.add_rope_dimension_count(int(config.head_dim * config.partial_rotary_factor))
    if name == "exaone4" and config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == SLIDING for kind in config.layer_types])
    if name == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if name in ADJACENT_ROWS:
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim or config.hidden_size // config.num_attention_heads)
    if name in ("gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
        if config.attn_logit_softcapping is not None:
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        if config.final_logit_softcapping is not None:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if name == "gemma3" and config.rope_local_base_freq != 10000:
        writer.add_rope_freq_base_swa(config.rope_local_base_freq)
    scaling = config.to_dict().get("rope_scaling")
    if scaling is not None and scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling is not None and scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])


def add_gemma4_keys(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    blocks = config.per_layer_config
    full, sliding = blocks[FULL], blocks[SLIDING]
    if full.num_key_value_heads == sliding.num_key_value_heads:
        writer.add_head_count_kv(full.num_key_value_heads)
    else:
        writer.add_head_count_kv([block.num_key_value_heads for block in blocks])
    writer.add_rope_freq_base(config.rope_parameters[FULL]["rope_theta"])
    writer.add_rope_freq_base_swa(config.rope_parameters[SLIDING]["rope_theta"])
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern([kind == SLIDING for kind in config.layer_types])
    writer.add_shared_kv_layers(config.num_kv_shared_layers)
    writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
    for block, length, value_length, dimensions in (
            (full, writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count),
            (sliding, writer.add_key_length_swa, writer.add_value_length_swa, writer.add_rope_dimension_count_swa)):
        length(block.head_dim)
        value_length(block.head_dim)
        dimensions(block.head_dim)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def add_cohere_keys(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_logit_scale(config.logit_scale)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    if config.model_type == "cohere2":
        writer.add_sliding_window(config.sliding_window)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.head_dim)


def add_biased_keys(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    """The keys of models whose norms and products have biases."""
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    part = config.rope_parameters.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(config.hidden_size // config.num_attention_heads * part))
    if config.model_type == "gpt_neox":
        writer.add_parallel_residual(config.use_parallel_residual)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)


def add_phi3_keys(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    original = config.original_max_position_embeddings
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_dimension_count(
        int(config.partial_rotary_factor * config.hidden_size) // config.num_attention_heads)
    writer.add_sliding_window(config.sliding_window or 0)
    if config.rope_scaling is not None:
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
