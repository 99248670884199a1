"""Writes the fuzzers' binary seeds, one small file for each thing that the readers tell apart.

Usage: make_binary_seeds.py [DIRECTORY]    (default: seeds/ beside this script)
"""
import argparse
import gzip
import json
from pathlib import Path

import gguf
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

HIDDEN, FEED_FORWARD, VOCABULARY = 32, 32, 8


def numbers(*shape):
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def write_safetensors(folder: Path) -> None:
    save_file({"model.norm.weight": numbers(3), "lm_head.weight": numbers(2, 3)},
              folder / "vector_and_matrix", metadata={"format": "pt"})
    save_file({"half": numbers(2, 2).astype(np.float16), "scalar": np.array(1.0),
               "truth": np.array([True, False]), "empty": np.zeros((0, 2), dtype=np.int8)},
              folder / "other_types")


def blocks(kind: Type, rows: int) -> np.ndarray:
    """One block a row, of bytes that mean small numbers."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    return (np.arange(rows * size) % 60).astype(np.uint8).reshape(rows, size)


def model_writer(path: Path) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    return writer


def add_model_tensors(writer: gguf.GGUFWriter) -> None:
    half = HIDDEN // 2
    shapes = {"attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (half, HIDDEN),
              "attn_v": (half, HIDDEN), "attn_output": (HIDDEN, HIDDEN), "ffn_norm": (HIDDEN,),
              "ffn_gate": (FEED_FORWARD, HIDDEN), "ffn_up": (FEED_FORWARD, HIDDEN),
              "ffn_down": (HIDDEN, FEED_FORWARD)}
    for name, shape in shapes.items():
        add_tensor(writer, f"blk.0.{name}.weight", shape)
    add_tensor(writer, "output_norm.weight", (HIDDEN,))
    add_tensor(writer, "token_embd.weight", (VOCABULARY, HIDDEN))


def add_tensor(writer: gguf.GGUFWriter, name: str, shape: tuple) -> None:
    values = numbers(*shape)
    if len(shape) == 2:
        packed = gguf.quants.quantize(values, Type.Q4_0)
        writer.add_tensor(name, packed, raw_dtype=Type.Q4_0)
    else:
        writer.add_tensor(name, values)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf_model(folder: Path) -> None:
    writer = model_writer(folder / "model")
    add_model_tensors(writer)
    finish(writer)


def write_sentencepiece(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "sentencepiece", "llama")
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581ab"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces + byte_tokens)
    writer.add_token_scores([-float(i) for i in range(len(pieces) + len(byte_tokens))])
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1] + [6] * len(byte_tokens))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.add_add_space_prefix(True)
    writer.add_unk_token_id(0)
    finish(writer)


def write_byte_level(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "byte_level", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(["<s>", "a", "b", "\u0120", "ab", "\u0120ab"])
    writer.add_token_types([3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "\u0120 ab"])
    finish(writer)


def write_every_type(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "every_type", "llama")
    writer.add_custom_alignment(64)
    writer.add_uint8("v.u8", 1)
    writer.add_int8("v.i8", -1)
    writer.add_uint16("v.u16", 2)
    writer.add_int16("v.i16", -2)
    writer.add_int32("v.i32", -3)
    writer.add_uint64("v.u64", 4)
    writer.add_int64("v.i64", -4)
    writer.add_float64("v.f64", 0.5)
    writer.add_bool("v.bool", True)
    writer.add_array("v.flags", [True, False])
    writer.add_array("v.numbers", [0.5, 1.5])
    for kind in (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K, Type.Q3_K,
                 Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS,
                 Type.IQ2_XS, Type.IQ2_S, Type.IQ3_XXS, Type.IQ3_S, Type.IQ4_NL, Type.IQ4_XS,
                 Type.TQ1_0, Type.TQ2_0, Type.MXFP4, Type.NVFP4):
        writer.add_tensor(kind.name, blocks(kind, 1), raw_dtype=kind)
    writer.add_tensor("f64", numbers(2, 3).astype(np.float64))
    writer.add_tensor("f16", numbers(2, 3).astype(np.float16))
    writer.add_tensor("bf16", np.zeros((1, 4), dtype=np.uint8), raw_dtype=Type.BF16)
    finish(writer)


def write_torch(folder: Path) -> None:
    vector = torch.tensor([0.5, -1.25, 3.0])
    torch.save(vector, folder / "zip_vector")
    torch.save(torch.nn.Parameter(vector), folder / "zip_parameter")
    torch.save(vector.half()[None], folder / "zip_row_of_half")
    torch.save(vector.double(), folder / "zip_protocol_4", pickle_protocol=4)
    torch.save({"vector": vector}, folder / "zip_dictionary")
    torch.save(torch.arange(6.0).reshape(3, 2), folder / "zip_table")
    torch.save(vector.to(torch.float8_e4m3fn), folder / "zip_float8_e4m3fn")
    torch.save(vector.to(torch.float8_e5m2), folder / "zip_float8_e5m2")
    torch.save({1: vector, "layers.2": vector.half()}, folder / "zip_layers")
    torch.save({"layers.3": {"steering_vector": vector, "steering_coefficient": -1.5, "action": "add", "bias": None,
                             "head_index": None}}, folder / "zip_lm_eval")
    torch.save({1: vector, 2: vector.double()}, folder / "legacy_layers", _use_new_zipfile_serialization=False)
    for name, saved in (("legacy_vector", vector), ("legacy_bfloat16", vector.bfloat16()),
                        ("legacy_parameter_of_double", torch.nn.Parameter(vector.double())),
                        ("legacy_every_second", torch.arange(6.0)[1::2])):
        torch.save(saved, folder / name, _use_new_zipfile_serialization=False)


def write_npy(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    np.save(folder / "vector.npy", numbers(3))
    np.save(folder / "table_of_half.npy", numbers(2, 3).astype(np.float16))
    np.save(folder / "table_by_columns.npy", np.asfortranarray(numbers(2, 3).astype(np.float64)))


ROWS = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "d", "chosen": "e", "rejected": "f"}]


def write_gzip(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table = b"question,matching,not_matching\na,b,c\n"
    (folder / "csv").write_bytes(gzip.compress(table, mtime=0))
    (folder / "jsonl_in_two_parts").write_bytes(gzip.compress(lines[:40], mtime=0) + gzip.compress(lines[40:], mtime=0))


def write_arrow(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    texts = pyarrow.Table.from_pylist(ROWS)
    turns = pyarrow.Table.from_pylist([{
        "prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "c"}], "number": 1.5, "nothing": None}])
    for name, table in (("texts", texts), ("turns", turns)):
        pyarrow.parquet.write_table(table, folder / f"parquet_{name}", compression="snappy")
        with pyarrow.ipc.new_stream(str(folder / f"stream_{name}"), table.schema) as stream:
            stream.write_table(table)
        with pyarrow.ipc.new_file(str(folder / f"file_{name}"), table.schema) as file:
            file.write_table(table)


def write_copied_tuple(folder: Path) -> None:
    """A pickle whose tuple of 2000 memo gets becomes 1300 storages, which would have a copy each."""
    folder.mkdir(exist_ok=True)
    parts = [b"\x80\x02Nq\x00(", b"h\x00" * 2000, b"tq\x01", b"h\x01Q" * 1300, b"."]
    (folder / "tuple_copied_again_and_again").write_bytes(b"".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path,
                        default=Path(__file__).parent / "seeds")
    directory = parser.parse_args().directory
    write_safetensors(directory / "safetensors")
    write_torch(directory / "torch_file")
    write_npy(directory / "npy")
    write_gzip(directory / "gzip")
    write_arrow(directory / "arrow")
    write_copied_tuple(directory.parent / "regressions" / "torch_file")
    for write in (write_gguf_model, write_sentencepiece, write_byte_level, write_every_type):
        write(directory / "gguf")


if __name__ == "__main__":
    main()
