#!/usr/bin/env python3
"""Converts SmolLM2's GGUF file to a Hugging Face model directory, for the references that need one."""

import argparse
import fcntl
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import safetensors

# Raised whenever this script would write something else, so that older directories are replaced.
CONVERSION = 2
# Written last: a directory that has it is whole.
MARKER = "conversion.json"

BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class ConversionError(Exception):
    """A source or target that this script cannot work with; the text says what to do."""


class Metadata:
    """The key-value part of a GGUF file, decoded on demand."""

    def __init__(self, reader):
        self._fields = reader.fields

    def __contains__(self, key):
        return key in self._fields

    def __getitem__(self, key):
        if key not in self._fields:
            raise ConversionError(f"the GGUF file has no metadata key {key}")
        return self._fields[key].contents()

    def require(self, key, expected):
        if self[key] != expected:
            raise ConversionError(
                f"the GGUF file says {key} = {self[key]!r}; this script converts {expected!r} only"
            )

    def token(self, key):
        return self["tokenizer.ggml.tokens"][self[key]]


def check_source(metadata):
    """Refuses a file whose architecture or tokenizer this script would convert wrongly."""
    metadata.require("general.architecture", "llama")
    metadata.require("tokenizer.ggml.model", "gpt2")
    metadata.require("tokenizer.ggml.pre", "smollm")
    if "llama.rope.scaling.type" in metadata:
        metadata.require("llama.rope.scaling.type", "none")


def shortest_float(value):
    """The shortest decimal of the same fp32 number: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def model_config(metadata, tied):
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "head_dim": metadata["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": shortest_float(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "rope_scaling": None,
        "rope_theta": shortest_float(metadata["llama.rope.freq_base"]),
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": metadata["llama.vocab_size"],
    }


def generation_config(config):
    return {
        "_from_model_config": True,
        **{key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }


def control_tokens(metadata):
    types = metadata["tokenizer.ggml.token_type"]
    tokens = metadata["tokenizer.ggml.tokens"]
    return {i: tokens[i] for i, kind in enumerate(types) if kind == gguf.TokenType.CONTROL}


def added_token(content):
    return {
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def tokenizer(metadata):
    """tokenizer.json.  `smollm` stands for: digits one by one, then GPT-2's byte-level split."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, **added_token(text)} for i, text in control_tokens(metadata).items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }


def tokenizer_config(metadata):
    bos = metadata.token("tokenizer.ggml.bos_token_id")
    eos = metadata.token("tokenizer.ggml.eos_token_id")
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): added_token(text) for i, text in control_tokens(metadata).items()
        },
        "additional_special_tokens": [bos, eos],
        "bos_token": bos,
        "chat_template": metadata["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_max_length": metadata["llama.context_length"],
        "pad_token": metadata.token("tokenizer.ggml.padding_token_id"),
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": metadata.token("tokenizer.ggml.unknown_token_id"),
        "vocab_size": metadata["llama.vocab_size"],
    }


def hugging_face_name(name):
    if name in OUTER_TENSORS:
        return OUTER_TENSORS[name]
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in BLOCK_TENSORS:
        raise ConversionError(f"the GGUF file holds a tensor that is not known here: {name}")
    return f"model.layers.{parts[1]}.{BLOCK_TENSORS[parts[2]]}.{parts[3]}"


def split_rotary_halves(weight, heads):
    """GGUF keeps the two rows of a rotated pair side by side; Hugging Face keeps all the first rows
    of a head, then all the second ones."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def round_to_bfloat16(values):
    """The bf16 bit patterns nearest to finite fp32 values, ties to even."""
    if not np.isfinite(values).all():
        raise ConversionError("the GGUF file holds a weight that is not finite")
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    to_even = (bits >> 16) & 1
    return ((bits + 0x7FFF + to_even) >> 16).astype(np.uint16)


def convert_tensors(reader, metadata):
    """Returns bf16 bit patterns by Hugging Face name."""
    rotated_heads = {
        "attn_q": metadata["llama.attention.head_count"],
        "attn_k": metadata["llama.attention.head_count_kv"],
    }
    converted = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in rotated_heads:
            values = split_rotary_halves(values, rotated_heads[kind])
        converted[hugging_face_name(tensor.name)] = round_to_bfloat16(values)
    return converted


def write_safetensors(path, tensors):
    # numpy has no bf16, so the bytes go to safetensors by address; `tensors` keeps them alive.
    specs = {
        name: safetensors.TensorSpec(
            dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes
        )
        for name, bits in tensors.items()
    }
    safetensors.serialize_file(specs, path, metadata={"format": "pt"})


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_model(source, marker, directory):
    """Writes every file of the model into the existing, empty `directory`, the marker last."""
    reader = gguf.GGUFReader(source)
    metadata = Metadata(reader)
    check_source(metadata)
    tensors = convert_tensors(reader, metadata)
    config = model_config(metadata, tied="lm_head.weight" not in tensors)
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", config)
    # safetensors makes its file readable to the owner alone; the other files follow the umask.
    shutil.copymode(directory / "config.json", directory / "model.safetensors")
    write_json(directory / "generation_config.json", generation_config(config))
    write_json(directory / "tokenizer.json", tokenizer(metadata))
    write_json(directory / "tokenizer_config.json", tokenizer_config(metadata))
    write_json(directory / MARKER, marker)


def read_marker(directory):
    try:
        return json.loads((directory / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def refuse_foreign(directory):
    if directory.exists() and not (directory / MARKER).exists():
        if not directory.is_dir() or any(directory.iterdir()):
            raise ConversionError(
                f"{directory} exists and was not written by this script (no {MARKER} in it): "
                "name another directory, or remove it"
            )


@contextmanager
def exclusive(directory):
    """One conversion of `directory` at a time; the system drops the lock of a killed process."""
    with open(directory.with_name(directory.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_directory(new, target):
    """Puts `new` in the place of `target`, which may hold an older conversion."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def convert(source, target):
    """Makes `target` the converted model; returns whether there was anything to do."""
    marker = {"conversion": CONVERSION, "file": source.name, "bytes": source.stat().st_size}
    if read_marker(target) == marker:
        return False
    refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target):
        if read_marker(target) == marker:
            return False
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_model(source, marker, partial)
        replace_directory(partial, target)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path, help="SmolLM2 in GGUF")
    parser.add_argument("directory", type=Path, help="where the model goes, e.g. models/smollm2")
    # Absolute, so that "." and ".." have a name to put the partial directory beside.
    arguments = parser.parse_args()
    target = Path(os.path.abspath(arguments.directory))
    try:
        converted = convert(arguments.gguf, target)
    except (ConversionError, OSError) as error:
        sys.exit(f"convert_smollm2: {error}")
    print(f"{target}: {'converted' if converted else 'already there'}")


if __name__ == "__main__":
    main()
