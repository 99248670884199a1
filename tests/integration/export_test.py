"""Vectors that leave and enter run files: every format against the program that it is for."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path

import gguf
import h5py
import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import program
import run_files

HIDDEN = 576
LAYER = 13


def numbers(seed: int = 1) -> torch.Tensor:
    """With the values that a careless conversion would lose."""
    vector = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))
    vector[:4] = torch.tensor([-0.0, 1e-45, 3.4028234e38, 0.1])
    return vector


def assert_bits(actual, expected: torch.Tensor) -> None:
    values = actual.numpy() if isinstance(actual, torch.Tensor) else numpy.asarray(actual)
    assert values.dtype == numpy.float32 and values.shape == tuple(expected.shape)
    assert values.tobytes() == expected.numpy().tobytes()


def bring(path: Path, out: Path, *arguments: object) -> run_files.RunFile:
    program.run_successfully(["import", path, "--out", out, *arguments])
    return run_files.read(out)


def export(run: Path, kind: str, out: Path, *arguments: object) -> Path:
    program.run_successfully(["export", run, "--format", kind, "--out", out, *arguments])
    return out


def refusal(arguments: list) -> str:
    finished = program.run(arguments)
    assert finished.code == program.BAD_INPUT and finished.stdout == "", finished
    return finished.stderr


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "vector.pt"
    torch.save(numbers(), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, saved) -> Path:
    """A run file of the vector."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    bring(saved, path, "--layer", LAYER, "--model", "models/tiny-llama/")
    return path


@pytest.fixture
def trained(tmp_path) -> Path:
    """A run file as training writes it: epochs 0 and 1, layer 15, hidden size 6."""
    path = tmp_path / "trained.h5"
    subprocess.run([os.environ["BIPO_WRITE_SAMPLE_RUN"], str(path), "4"], check=True)
    return path


def test_pt_is_the_authors_tensor(run, tmp_path):
    path = export(run, "pt", tmp_path / "vector.pt")
    for arguments in ({}, {"mmap": True}):
        vector = torch.load(path, weights_only=True, **arguments)
        assert type(vector) is torch.Tensor and not vector.requires_grad
        assert_bits(vector, numbers())


def test_safetensors_says_what_it_is(trained, tmp_path):
    path = export(trained, "safetensors", tmp_path / "vector.safetensors", "--multiplier", "-2", "--epoch", 1)
    with h5py.File(trained) as file:
        value, config = file["vectors/value"][0], file.attrs["config"]
    assert_bits(load_file(path)["vector"], torch.from_numpy(value * numpy.float32(-2)))
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["vector"]
        metadata = file.metadata()
    assert metadata["model"] == "models/größe"
    assert (metadata["layer"], metadata["epoch"], metadata["step"]) == ("15", "1", "2")
    assert metadata["epoch_counted_from"] == "1"
    assert metadata["multiplier"] == "-2"
    assert "output of block 15" in metadata["site"] and "every position" in metadata["site"]
    assert "chosen" in metadata["sign_convention"]
    assert json.loads(metadata["training_settings"]) == json.loads(config)


def test_gguf_is_a_control_vector(run, tmp_path):
    reader = gguf.GGUFReader(export(run, "gguf", tmp_path / "vector.gguf"))
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {"general.architecture": "controlvector", "controlvector.model_hint": "tiny-llama",
                      "controlvector.layer_count": 1}
    (tensor,) = reader.tensors
    assert tensor.name == f"direction.{LAYER}" and tensor.tensor_type == gguf.GGMLQuantizationType.F32
    assert_bits(tensor.data, numbers())


def test_npy_is_an_array(run, tmp_path):
    vector = numpy.load(export(run, "npy", tmp_path / "vector.npy"))
    assert vector.dtype.str == "<f4"
    assert_bits(vector, numbers())


def test_lm_eval_is_its_dictionary(run, tmp_path):
    path = export(run, "lm-eval", tmp_path / "steer.pt", "--multiplier", "1.5")
    steer = torch.load(path, weights_only=True)
    entry = steer.pop(f"layers.{LAYER}")
    assert not steer
    assert_bits(entry.pop("steering_vector"), numbers())
    assert entry == {"steering_coefficient": 1.5, "action": "add", "bias": None, "head_index": None}


def test_multiplier_and_epoch(trained, tmp_path):
    with h5py.File(trained) as file:
        first, last = file["vectors/value"][:]
    scaled = (last.astype(numpy.float64) * 0.3).astype(numpy.float32)
    assert_bits(numpy.load(export(trained, "npy", tmp_path / "a.npy", "--multiplier", "0.3")), torch.from_numpy(scaled))
    assert_bits(numpy.load(export(trained, "npy", tmp_path / "b.npy", "--epoch", 1)), torch.from_numpy(first))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [
    lambda v: v, lambda v: torch.nn.Parameter(v), lambda v: torch.nn.Parameter(v, requires_grad=False),
    lambda v: v[None], lambda v: torch.stack([v, v], dim=1)[:, 0], lambda v: v.double()],
    ids=["tensor", "parameter", "frozen", "row", "strided", "double"])
def test_files_of_torch_save(tmp_path, is_zip, wrap):
    torch.save(wrap(numbers()), tmp_path / "v.pt", _use_new_zipfile_serialization=is_zip)
    imported = bring(tmp_path / "v.pt", tmp_path / "run.h5", "--layer", LAYER)
    assert_bits(imported.final_vector, numbers())


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_widened(tmp_path, is_zip, dtype):
    narrow = numbers().nan_to_num(posinf=1).clamp(-100, 100).to(dtype)
    torch.save(narrow, tmp_path / "v.pt", _use_new_zipfile_serialization=is_zip)
    assert_bits(bring(tmp_path / "v.pt", tmp_path / "run.h5", "--layer", 0).final_vector, narrow.float())
    save_file({"v": narrow}, tmp_path / "v.safetensors")
    assert_bits(bring(tmp_path / "v.safetensors", tmp_path / "run2.h5", "--layer", 0).final_vector, narrow.float())


def test_an_imported_run_is_whole(run, saved):
    imported = run_files.read(run)
    run_files.assert_whole(run)
    attributes = imported.attributes
    assert (attributes["status"], attributes["layer"], attributes["hidden_size"]) == ("complete", LAYER, HIDDEN)
    assert attributes["model"] == "models/tiny-llama/"
    assert imported.config == {"imported_from": str(saved), "imported_format": "pt"}
    assert len(imported.vectors) == 1 and len(imported.evals) == 0
    with h5py.File(run) as file:
        assert_bits(file["checkpoint/vector"][:], numbers())
    shown = program.run_successfully(["inspect", run]).stdout
    assert str(saved) in shown and f"layer    {LAYER}" in shown


@pytest.mark.parametrize("kind", ["pt", "safetensors", "gguf"])
def test_there_and_back(run, tmp_path, kind):
    path = export(run, kind, tmp_path / "vector")
    given = ["--layer", LAYER] if kind == "pt" else []
    back = bring(path, tmp_path / "back.h5", *given)
    assert_bits(back.final_vector, numbers())
    assert back.attributes["layer"] == LAYER
    assert back.attributes["model"] == {"pt": "unknown", "gguf": "tiny-llama"}.get(kind, "models/tiny-llama/")
    assert back.config["imported_format"] == kind


def test_gguf_of_several_layers(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in (4, 9):
        writer.add_tensor(f"direction.{layer}", numbers(layer).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_bits(bring(tmp_path / "v.gguf", tmp_path / "run.h5", "--layer", 9).final_vector, numbers(9))
    message = refusal(["import", tmp_path / "v.gguf", "--out", tmp_path / "other.h5"])
    assert "4, 9" in message and "--layer" in message


class Harmful:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


class Wrapped:
    """Becomes a tensor by a function of torch, and runs code on the way."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Harmful(self.mark), 0, (1,), (1,), False, OrderedDict())


@pytest.mark.parametrize("write", [
    lambda value, path: torch.save(value, path),
    lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    lambda value, path: torch.save({"vector": torch.zeros(4), "other": value}, path),
    lambda value, path: path.write_bytes(pickle.dumps(value)),
    lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))],
    ids=["zip", "legacy", "dictionary", "pickle", "pickle_2"])
@pytest.mark.parametrize("kind", [Harmful, Wrapped])
def test_code_is_refused_and_not_run(tmp_path, write, kind):
    mark, path, out = tmp_path / "mark", tmp_path / "vector.pt", tmp_path / "run.h5"
    write(kind(mark), path)
    message = refusal(["import", path, "--layer", 1, "--out", out])
    assert "a pickle with code in it" in message and "posix.system" in message and "vector.pt" in message
    assert not mark.exists() and not out.exists()
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert mark.exists(), "the file is harmless by itself: the test shows nothing"


@pytest.mark.parametrize("value, parts", [
    (torch.zeros(2, 3), ["[2, 3]"]),
    (torch.tensor(1.0), ["shape []"]),
    (torch.zeros(0), ["shape [0]"]),
    (torch.arange(4), ["torch.LongStorage"]),
    (torch.zeros(1).expand(5), ["within its storage"]),
    (torch.tensor([1.0, float("nan")]), ["number 1", "nan"]),
    (torch.tensor([1e300], dtype=torch.float64), ["inf"]),
    ({"vector": torch.zeros(4)}, ["dictionary"]),
    ([torch.zeros(4)], ["other than a tensor"])],
    ids=["matrix", "scalar", "empty", "integers", "expanded", "nan", "too_large", "dictionary", "list"])
def test_other_values_are_refused(tmp_path, value, parts):
    torch.save(value, tmp_path / "v.pt")
    message = refusal(["import", tmp_path / "v.pt", "--layer", 1, "--out", tmp_path / "run.h5"])
    assert all(part in message for part in parts), message


def test_a_layer_must_be_known_and_agree(saved, run, tmp_path):
    out = tmp_path / "run.h5"
    assert "--layer" in refusal(["import", saved, "--out", out])
    path = export(run, "safetensors", tmp_path / "v.safetensors")
    assert f"layer {LAYER}, --layer 1" in refusal(["import", path, "--layer", 1, "--out", out])
    assert bring(path, out, "--layer", LAYER).attributes["layer"] == LAYER


def test_layer_0_is_no_control_vector(saved, tmp_path):
    bring(saved, tmp_path / "run.h5", "--layer", 0)
    message = refusal(["export", tmp_path / "run.h5", "--format", "gguf", "--out", tmp_path / "v.gguf"])
    assert "layer 0" in message and "llama.cpp" in message
    assert not (tmp_path / "v.gguf").exists()


def test_existing_files_are_kept(run, saved, tmp_path):
    for name, command in {"v.npy": ["export", run, "--format", "npy"], "v.h5": ["import", saved, "--layer", 1]}.items():
        out = tmp_path / name
        out.write_text("notes")
        assert "--overwrite" in refusal([*command, "--out", out])
        assert out.read_text() == "notes"
        program.run_successfully([*command, "--out", out, "--overwrite"])
        assert out.read_bytes()[:5] != b"notes"
        assert run_files.temporary_files(tmp_path) == []
    before = run.read_bytes()
    assert "also an input" in refusal(["export", run, "--format", "npy", "--out", run, "--overwrite"])
    assert run.read_bytes() == before


def test_other_mistakes(run, saved, tmp_path):
    out = tmp_path / "out"
    message = refusal(["export", run, "--format", "onnx", "--out", out])
    assert "onnx" in message and "safetensors" in message
    assert "no vector of epoch 3; its epochs are 1 to " in refusal(
        ["export", run, "--format", "pt", "--out", out, "--epoch", 3])
    assert "--epoch" in refusal(["export", run, "--format", "pt", "--out", out, "--epoch", 0])
    assert "float32" in refusal(["export", run, "--format", "pt", "--out", out, "--multiplier", "1e9"])
    assert ".pt" in refusal(["export", run, "--format", "lm-eval", "--out", out])
    assert "bipo-dist import" in refusal(["export", saved, "--format", "npy", "--out", out])
    assert "no such file" in refusal(["export", tmp_path / "missing.pt", "--format", "npy", "--out", out])
    assert "HDF5" in refusal(["import", run, "--layer", 1, "--out", out])
    assert "missing.pt" in refusal(["import", tmp_path / "missing.pt", "--layer", 1, "--out", out])
    assert "export takes a run file first" in refusal(["export", "--format", "pt", "--out", out])
    assert "import takes the file" in refusal(["import"])
    assert not out.exists()
