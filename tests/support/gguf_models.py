"""Writes a tiny Llama model directory as one GGUF file, tokenizer and chat template included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file

NORMAL, CONTROL = 1, 3
BLOCK_TENSORS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
OUTER_TENSORS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(path: Path, model: Path, *, change: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
               with_tokenizer: bool = True, matrices: Type = Type.F32, tensors_per_part: int = 0,
               first_part_is_empty: bool = False) -> Path:
    """Writes the directory `model` to `path`; `change` may add keys before the tensors. With `tensors_per_part`, the
    files are those of a split model, as gguf names them; the first may hold nothing but metadata."""
    config = _read_json(model / "config.json")
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=tensors_per_part,
                             small_first_shard=first_part_is_empty)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    if with_tokenizer:
        _add_tokenizer(writer, model)
    change(writer)
    _add_tensors(writer, model, config, matrices)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def gguf_name(name: str) -> str:
    module = name.removesuffix(".weight")
    if module in OUTER_TENSORS:
        return f"{OUTER_TENSORS[module]}.weight"
    block, _, inner = module.removeprefix("model.layers.").partition(".")
    return f"blk.{block}.{BLOCK_TENSORS[inner]}.weight"


def adjacent_rotated_rows(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of a query or key matrix."""
    halves = rows.reshape(heads, 2, -1, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _add_tensors(writer: gguf.GGUFWriter, model: Path, config: dict, matrices: Type) -> None:
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, values in load_file(model / "model.safetensors").items():
        module = name.removesuffix(".weight").rpartition(".")[2]
        if module in heads:
            values = adjacent_rotated_rows(values, heads[module])
        kind = matrices if values.ndim == 2 else Type.F32
        stored = gguf.quants.quantize(np.ascontiguousarray(values, dtype=np.float32), kind)
        writer.add_tensor(gguf_name(name), stored, raw_dtype=kind)


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path) -> None:
    content = _read_json(model / "tokenizer.json")
    settings = _read_json(model / "tokenizer_config.json")
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    ids = content["model"]["vocab"] | special
    tokens = sorted(ids, key=ids.get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    writer.add_token_merges(merges)
    bos = settings.get("bos_token")
    if bos is not None:
        writer.add_bos_token_id(ids[bos])
    writer.add_eos_token_id(ids[settings["eos_token"]])
    writer.add_add_bos_token(bos is not None)
    template = model / "chat_template.jinja"
    writer.add_chat_template(settings.get("chat_template") or template.read_text(encoding="utf-8"))
