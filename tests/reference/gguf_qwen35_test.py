"""A tiny Qwen 3.5 as a GGUF file, as llama.cpp's converter writes it, against its Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from family_parity_test import FAMILIES, PAIRS, Case, program_scores, vector
from float64_oracle import FLOAT64_BY_FLOAT32, Oracle, distances
from tiny_families import write_family

FAMILY = FAMILIES["qwen3_5"]
# Tensors whose rows belong to value heads, by name; of those of two kinds of heads, from which row on.
HEADS = (".in_proj_z.", ".in_proj_a.", ".in_proj_b.", ".A_log", ".dt_bias", ".in_proj_qkv.", ".conv1d.")


def by_rank_in_group(values: np.ndarray, key_heads: int, value_heads: int, axis: int) -> np.ndarray:
    """Heads that share a key head stand together in transformers; in GGUF files all first ones come first."""
    shape = values.shape
    split = values.reshape(*shape[:axis], key_heads, value_heads // key_heads, shape[axis] // value_heads,
                           *shape[axis + 1:])
    return np.ascontiguousarray(split.swapaxes(axis, axis + 1)).reshape(shape)


def converted(name: str, values: np.ndarray, config) -> np.ndarray:
    def reordered(part: np.ndarray, axis: int = 0) -> np.ndarray:
        return by_rank_in_group(part, config.linear_num_key_heads, config.linear_num_value_heads, axis)

    if name.endswith("conv1d.weight"):
        values = values[:, 0]
    if name.endswith("A_log"):
        values = -np.exp(values)
    if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        values = values + np.float32(1)
    if name.endswith("linear_attn.out_proj.weight"):
        return reordered(values, 1)
    if any(part in name for part in HEADS):
        keys = 2 * config.linear_num_key_heads * config.linear_key_head_dim
        first = keys if ".in_proj_qkv." in name or ".conv1d." in name else 0
        return np.concatenate([values[:first], reordered(values[first:])])
    return values


def write_gguf(path: Path, directory: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen35")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(int(config.head_dim * config.rope_parameters["partial_rotary_factor"]))
    writer.add_rope_dimension_sections([2, 1, 1, 0])
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_num_value_heads * config.linear_value_head_dim)
    writer.add_full_attention_interval(4)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {index}" for index in range(config.vocab_size)])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN35, config.num_hidden_layers)
    for name, weight in model.named_parameters():
        # The converter gives dt_bias the name of a bias.
        known = names.get_name(name.replace("dt_bias", "dt_proj.bias"), (".weight", ".bias"))
        assert known is not None, name
        writer.add_tensor(known, converted(name, weight.detach().numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_file_is_the_model_of_the_directory(tmp_path, ranks):
    torch.set_num_threads(1)
    directory = write_family(tmp_path / "model", FAMILY)
    file = write_gguf(tmp_path / "model.gguf", directory)
    oracle = Oracle(directory, PAIRS)
    case = Case(2, vector(oracle.hidden_size))
    exact = oracle.scores(case.layer, case.vector)
    bound = oracle.float32_bound(case.layer, case.vector, exact)
    (found,) = program_scores(file, [case], (ranks,)).values()
    assert distances(found, exact).within(bound), distances(found, exact)
