"""GGUF models in several files, and adapters as GGUF, through the program: scores and refusals.

The oracles are the same model in one file, and transformers 5.23.0 on the directory that the files were made from.
gguf 0.19.0 writes the files.
"""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import peft
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file

import program
import user_files
from gguf_models import adjacent_rotated_rows, gguf_name, write_gguf

TENSORS_PER_PART = 8  # of 30


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return user_files.write_base(tmp_path_factory.mktemp("model") / "base")


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*-of-*.gguf"))


def split(base: Path, folder: Path, **options) -> list[Path]:
    folder.mkdir()
    write_gguf(folder / "model.gguf", base, tensors_per_part=TENSORS_PER_PART, **options)
    parts = parts_of(folder)
    assert [part.name for part in parts] == [f"model-0000{i}-of-00004.gguf" for i in (1, 2, 3, 4)]
    return parts


def scores(model: Path, base: Path, *options: object, ranks: int | None = None) -> tuple[float, float]:
    data = model.parent / "pairs.csv"
    user_files.write_pairs(data)
    return user_files.scores(model, *options, data=data, ranks=ranks)[0]


@pytest.mark.parametrize("matrices", [Type.F32, Type.Q8_0, Type.MXFP4], ids=lambda kind: kind.name)
def test_a_split_model_is_the_one_in_one_file(base, tmp_path, matrices):
    """Embedding and head are quantised too; three ranks cut blocks of 32 apart."""
    whole = write_gguf(tmp_path / "whole.gguf", base, matrices=matrices)
    parts = split(base, tmp_path / "parts", matrices=matrices)
    expected = scores(whole, base)
    if matrices == Type.F32:
        assert expected == pytest.approx(user_files.transformers_scores(base), abs=1e-3)
    for named in (parts[0], parts[2]):
        assert scores(named, base) == expected
    whole_by_two, split_by_two = (scores(model, base, "--tp", 2, ranks=2) for model in (whole, parts[1]))
    assert split_by_two == whole_by_two
    assert split_by_two == pytest.approx(expected, abs=1e-3)


def test_the_first_part_may_hold_metadata_only(base, tmp_path):
    write_gguf(tmp_path / "model.gguf", base, tensors_per_part=10, first_part_is_empty=True)
    parts = parts_of(tmp_path)
    assert len(parts) == 4 and not gguf.GGUFReader(parts[0]).tensors
    expected = scores(write_gguf(tmp_path / "whole.gguf", base), base)
    assert scores(parts[0], base) == scores(parts[3], base) == expected


def refused(model: Path, base: Path, *says: str, options: tuple = ()) -> None:
    data = user_files.write_pairs(model.parent / "pairs.csv")
    finished = user_files.run_train(model, *options, data=data)
    assert finished.code == program.BAD_INPUT, finished
    for part in says:
        assert part in finished.stderr, finished


def test_a_missing_part_is_named(base, tmp_path):
    parts = split(base, tmp_path / "parts")
    parts[2].unlink()
    refused(parts[0], base, str(parts[0]), parts[2].name, "one folder")


def test_a_part_of_another_model_is_refused(base, tmp_path):
    parts = split(base, tmp_path / "parts")
    other = tmp_path / "other"
    other.mkdir()
    write_gguf(other / "model.gguf", base, tensors_per_part=10)
    (other / "model-00002-of-00003.gguf").rename(parts[1])
    refused(parts[0], base, str(parts[1]), "part 2 of 4 by its name", "part 2 of 3 by its metadata")


def test_a_tensor_in_two_parts_is_refused(base, tmp_path):
    """Two sets of four parts, cut at other tensors."""
    parts = split(base, tmp_path / "parts")
    other = tmp_path / "other"
    other.mkdir()
    write_gguf(other / "model.gguf", base, tensors_per_part=9)
    assert len(parts_of(other)) == 4
    (other / parts[1].name).rename(parts[1])
    refused(parts[0], base, str(parts[2]), "is in model-00002-of-00004.gguf too")


def test_a_piece_of_a_cut_file_is_to_be_joined(base, tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", base)
    piece = tmp_path / "whole.gguf.part1of2"
    piece.write_bytes(whole.read_bytes()[:10000])
    refused(piece, base, str(piece), "join all pieces", "> whole.gguf")


def change_of(key: str, add: str, value: object):
    return lambda writer: getattr(writer, add)(key, value)


@pytest.mark.parametrize("key, add, value", [
    ("qwen2.rope.freq_base", "add_float32", 1e6),
    ("llama.pooling_type", "add_uint32", 3),
    ("general.sampling.penalty_repeat", "add_float32", 1.1),
])
def test_a_key_that_is_not_used_is_named_in_one_line(base, tmp_path, key, add, value):
    file = write_gguf(tmp_path / "model.gguf", base, change=change_of(key, add, value))
    data = user_files.write_pairs(tmp_path / "pairs.csv")
    _, stderr = user_files.scores(file, data=data)
    assert len(re.findall(re.escape(key), stderr)) == 1, stderr


@pytest.mark.parametrize("key, add, value", [
    ("llama.embedding_scale", "add_float32", 12.0),
    ("llama.residual_scale", "add_float32", 0.22),
    ("llama.logit_scale", "add_float32", 16.0),
    ("llama.attention.scale", "add_float32", 0.5),
    ("llama.attention.sliding_window", "add_uint32", 16),
    ("llama.attention.causal", "add_bool", False),
    ("llama.attention.clamp_kqv", "add_float32", 8.0),
    ("llama.final_logit_softcapping", "add_float32", 30.0),
    ("llama.rope.scaling.attn_factor", "add_float32", 1.2),
    ("llama.rope.dimension_count", "add_uint32", 8),
    ("llama.rope.freq_base_swa", "add_float32", 1e6),
    ("llama.expert_count", "add_uint32", 4),
])
def test_a_key_that_changes_the_mathematics_is_refused(base, tmp_path, key, add, value):
    file = write_gguf(tmp_path / "model.gguf", base, change=change_of(key, add, value))
    refused(file, base, str(file), key)


def with_header(path: Path, whole: Path, at: int, replacement: bytes) -> Path:
    content = bytearray(whole.read_bytes())
    content[at:at + len(replacement)] = replacement
    path.write_bytes(content)
    return path


def test_other_kinds_of_file_say_what_they_are(base, tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", base)
    refused(with_header(tmp_path / "one.gguf", whole, 4, b"\1\0\0\0"), base, "GGUF version 1")
    refused(with_header(tmp_path / "big.gguf", whole, 4, b"\0\0\0\3"), base, "big-endian", "gguf_convert_endian")
    refused(with_header(tmp_path / "old.gguf", whole, 0, b"ggjt"), base, "not a GGUF file")
    for kind, says in (("adapter", "--adapter"), ("mmproj", "language model"), ("imatrix", "imatrix")):
        file = write_gguf(tmp_path / f"{kind}.gguf", base, change=lambda w, kind=kind: w.add_type(kind))
        refused(file, base, str(file), says)
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    writer.add_block_count(3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    refused(tmp_path / "vocabulary.gguf", base, "holds no tensors", "vocabulary")


@pytest.mark.parametrize("alignment", [8, 4096])
def test_other_alignments(base, tmp_path, alignment):
    whole = write_gguf(tmp_path / "whole.gguf", base)
    aligned = write_gguf(tmp_path / "aligned.gguf", base, change=lambda w: w.add_custom_alignment(alignment))
    assert scores(aligned, base) == scores(whole, base)


def test_an_alignment_that_is_no_power_of_two_is_refused(base, tmp_path):
    file = write_gguf(tmp_path / "odd.gguf", base, change=lambda w: w.add_uint32("general.alignment", 24))
    refused(file, base, str(file), "general.alignment")


# An adapter as GGUF, as llama.cpp's convert_lora_to_gguf.py writes it. The oracle is merge_and_unload of PEFT 0.21.2
# on the directory, and the PEFT directory read by this program.

ALL_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
ALPHA, RANK = 6.0, 4


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """A PEFT directory with noise in A and B, and the merged model."""
    folder = tmp_path_factory.mktemp("adapter") / "peft"
    model = peft.get_peft_model(user_files.load(base)[0], peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=ALL_PROJECTIONS))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "lora_" in name:
                values.copy_(0.25 * torch.randn(values.shape, generator=generator))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder, model.merge_and_unload().eval()


def write_adapter(path: Path, directory: Path, *, architecture: str = "llama", kind: str = "adapter",
                  change=lambda writer, tensors: None, stored: Type = Type.F32) -> Path:
    tensors = {}
    for name, values in load_file(directory / "adapter_model.safetensors").items():
        module, _, side = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        if module.endswith(("q_proj", "k_proj")) and side == "B":
            values = adjacent_rotated_rows(values, 4 if module.endswith("q_proj") else 2)
        tensors[f"{gguf_name(module + '.weight')}.lora_{side.lower()}"] = values
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    change(writer, tensors)
    for name, values in tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(values), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_adapter_as_gguf_is_the_peft_directory(base, adapter, tmp_path):
    directory, merged = adapter
    file = write_adapter(tmp_path / "adapter.gguf", directory)
    model = write_gguf(tmp_path / "model.gguf", base)
    expected = user_files.transformers_scores(base, model=merged)
    plain = scores(model, base)
    assert abs(plain[0] - expected[0]) > 1
    for given in (base, model):
        data = user_files.write_pairs(tmp_path / "pairs.csv")
        assert user_files.scores(given, "--adapter", file, data=data)[0] == pytest.approx(expected, abs=2e-3)
    from_directory = user_files.scores(model, "--adapter", directory, data=data)[0]
    assert user_files.scores(model, "--adapter", file, data=data)[0] == from_directory
    by_two = user_files.scores(model, "--adapter", file, "--tp", 2, data=data, ranks=2)[0]
    assert by_two == pytest.approx(from_directory, abs=1e-3)


def test_an_adapter_in_half_precision(base, adapter, tmp_path):
    model = write_gguf(tmp_path / "model.gguf", base)
    whole, half = (scores(model, base, "--adapter", write_adapter(tmp_path / f"{kind.name}.gguf", adapter[0], stored=kind))
                   for kind in (Type.F32, Type.F16))
    assert half != whole and half == pytest.approx(whole, abs=0.5)


def rename(tensors: dict, old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


@pytest.mark.parametrize("options, says", [
    ({"architecture": "qwen2"}, "general.architecture \"qwen2\""),
    ({"kind": "model"}, "not a LoRA adapter"),
    ({"change": lambda w, t: t.pop("blk.1.ffn_up.weight.lora_a")}, "blk.1.ffn_up.weight has lora_b only"),
    ({"change": lambda w, t: rename(t, "blk.1.ffn_up.weight.lora_a", "blk.9.ffn_up.weight.lora_a")},
     "blk.9.ffn_up.weight.lora_a"),
    ({"change": lambda w, t: rename(t, "blk.1.ffn_up.weight.lora_a", "token_embd.weight.lora_a")},
     "token_embd.weight.lora_a"),
    ({"change": lambda w, t: t.update({"blk.1.attn_norm.weight": np.ones(64, np.float32)})}, "blk.1.attn_norm.weight"),
    ({"change": lambda w, t: t.update({"blk.1.ffn_up.weight.lora_b": np.ones((64, RANK), np.float32)})}, "[96, 4]"),
    ({"change": lambda w, t: w.add_array("adapter.alora.invocation_tokens", [1, 2])}, "invocation_tokens"),
])
def test_an_adapter_that_does_not_fit_is_refused(base, adapter, tmp_path, options, says):
    file = write_adapter(tmp_path / "adapter.gguf", adapter[0], **options)
    model = write_gguf(tmp_path / "model.gguf", base)
    refused(model, base, str(file), says, options=("--adapter", file))
