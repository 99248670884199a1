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


@pytest.fixture(scope="module")
def layers(tmp_path_factory) -> dict[int, Path]:
    """Run files of vectors of several layers, the upper one first."""
    folder = tmp_path_factory.mktemp("layers")
    paths = {}
    for layer in (15, 4):
        torch.save(numbers(layer), folder / "v.pt")
        paths[layer] = folder / f"{layer}.h5"
        bring(folder / "v.pt", paths[layer], "--layer", layer, "--model", "models/tiny-llama")
    return paths


def export_all(layers: dict[int, Path], kind: str, out: Path, *arguments: object) -> Path:
    program.run_successfully(["export", *layers.values(), "--format", kind, "--out", out, *arguments])
    return out


def test_gguf_of_several_run_files(layers, tmp_path):
    reader = gguf.GGUFReader(export_all(layers, "gguf", tmp_path / "v.gguf"))
    assert reader.fields["controlvector.layer_count"].contents() == 2
    assert [tensor.name for tensor in reader.tensors] == ["direction.4", "direction.15"]
    for tensor, layer in zip(reader.tensors, (4, 15), strict=True):
        assert_bits(tensor.data, numbers(layer))


def test_safetensors_of_several_run_files(layers, tmp_path):
    path = export_all(layers, "safetensors", tmp_path / "v.safetensors")
    tensors = load_file(path)
    assert sorted(tensors) == ["layers.15", "layers.4"]
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == "models/tiny-llama"
    for layer in layers:
        assert_bits(tensors[f"layers.{layer}"], numbers(layer))
        origin = json.loads(metadata[f"layers.{layer}"])
        assert origin["layer"] == str(layer) and json.loads(origin["training_settings"])["imported_format"] == "pt"


def test_pt_and_lm_eval_of_several_run_files(layers, tmp_path):
    loaded = torch.load(export_all(layers, "pt", tmp_path / "v.pt"), weights_only=True)
    steer = torch.load(export_all(layers, "lm-eval", tmp_path / "steer.pt", "--multiplier", 2), weights_only=True)
    assert sorted(loaded) == [4, 15] and sorted(steer) == ["layers.15", "layers.4"]
    for layer in layers:
        assert_bits(loaded[layer], numbers(layer))
        assert_bits(steer[f"layers.{layer}"]["steering_vector"], numbers(layer))
        assert steer[f"layers.{layer}"]["steering_coefficient"] == 2


@pytest.mark.parametrize("kind", ["pt", "safetensors", "gguf", "lm-eval"])
def test_several_there_and_back(layers, tmp_path, kind):
    found = bring_all(export_all(layers, kind, tmp_path / "v.pt"), tmp_path / "runs")
    assert sorted(found) == [4, 15]
    for layer, run in found.items():
        assert_bits(run.final_vector, numbers(layer))


def test_several_that_do_not_go_together(layers, run, saved, tmp_path):
    out = tmp_path / "v.gguf"
    both = list(layers.values())
    assert "layer 4" in refusal(["export", both[1], both[1], "--format", "gguf", "--out", out])
    assert "2 layers" in refusal(["export", *both, "--format", "npy", "--out", out])
    torch.save(numbers()[1:], tmp_path / "short.pt")
    bring(tmp_path / "short.pt", tmp_path / "short.h5", "--layer", 2)
    assert f"{HIDDEN - 1} numbers for layer 2" in refusal(
        ["export", both[0], tmp_path / "short.h5", "--format", "pt", "--out", out])
    assert "also an input" in refusal(["export", *both, "--format", "npy", "--out", both[1], "--overwrite"])
    assert not out.exists()
    torch.save(numbers(), tmp_path / "other.pt")
    bring(tmp_path / "other.pt", tmp_path / "other.h5", "--layer", 2, "--model", "another")
    warned = program.run(["export", both[0], tmp_path / "other.h5", "--format", "pt", "--out", out])
    assert warned.code == program.DONE and "several models: another, models/tiny-llama" in warned.stderr


@pytest.mark.parametrize("kind", ["directory", "gguf"])
def test_model_hint_is_the_models_type(saved, tmp_path, kind):
    """As repeng (config.model_type) and llama-cvector-generator (general.architecture) write it."""
    model = tmp_path / "some-model"
    if kind == "directory":
        model.mkdir()
        (model / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    else:
        write(gguf.GGUFWriter(model, "qwen2"))
    bring(saved, tmp_path / "run.h5", "--layer", 3, "--model", model)
    reader = gguf.GGUFReader(export(tmp_path / "run.h5", "gguf", tmp_path / "v.gguf"))
    assert reader.fields["controlvector.model_hint"].contents() == "qwen2"


def test_vllm_hook_is_its_dictionary(trained, tmp_path):
    finished = program.run(["export", trained, "--format", "vllm-hook", "--multiplier", -2, "--out", tmp_path / "v.pt"])
    assert finished.code == program.DONE
    (note,) = (line for line in finished.stderr.splitlines() if "vLLM-Hook" in line)
    assert json.loads(note[note.index("{"):]) == {"steering": {
        "method": "add_vector", "coefficient": 1.0, "optimal_layer": 15, "vector_path": str(tmp_path / "v.pt")}}
    loaded = torch.load(tmp_path / "v.pt", weights_only=True)
    with h5py.File(trained) as file:
        assert list(loaded) == ["dir"]
        assert_bits(loaded["dir"], torch.from_numpy(file["vectors/value"][-1] * numpy.float32(-2)))


def test_npy_is_an_array(run, tmp_path):
    vector = numpy.load(export(run, "npy", tmp_path / "vector.npy"))
    assert vector.dtype.str == "<f4"
    assert_bits(vector, numbers())


def test_lm_eval_is_its_dictionary(run, tmp_path):
    finished = program.run(["export", run, "--format", "lm-eval", "--multiplier", 1.5, "--out", tmp_path / "steer.pt"])
    assert finished.code == program.DONE and "dtype=float32" in finished.stderr
    path = tmp_path / "steer.pt"
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


@pytest.mark.parametrize("kind", ["pt", "safetensors", "gguf", "npy", "lm-eval"])
def test_there_and_back(run, tmp_path, kind):
    path = export(run, kind, tmp_path / "vector.pt")
    given = ["--layer", LAYER] if kind in ("pt", "npy") else []
    back = bring(path, tmp_path / "back.h5", *given)
    assert_bits(back.final_vector, numbers())
    assert back.attributes["layer"] == LAYER
    assert back.attributes["model"] == {"gguf": "tiny-llama", "safetensors": "models/tiny-llama/"}.get(kind, "unknown")
    assert back.config["imported_format"] == {"lm-eval": "pt"}.get(kind, kind)


def test_a_multiplier_beside_the_vector_is_applied(trained, tmp_path):
    path = export(trained, "lm-eval", tmp_path / "vector.pt", "--multiplier", "-1.5")
    with h5py.File(trained) as file:
        expected = (file["vectors/value"][-1].astype(numpy.float64) * -1.5).astype(numpy.float32)
    back = bring(path, tmp_path / "back.h5")
    assert_bits(back.final_vector, torch.from_numpy(expected))
    assert (back.config["imported_multiplier"], back.config["imported_tensor"]) == (-1.5, "layers.15")


def test_positions_survive_safetensors(tmp_path):
    settings = json.dumps({"steered_positions": "first:2,last:1", "steer_bos": False, "lr": 1.0})
    path = tmp_path / "v.safetensors"
    save_file({"vector": numbers()}, path, {"layer": str(LAYER), "training_settings": settings})
    for number in range(2):
        run = tmp_path / f"run{number}.h5"
        config = bring(path, run).config
        assert (config["steered_positions"], config["steer_bos"]) == ("first:2,last:1", False) and "lr" not in config
        path = export(run, "safetensors", tmp_path / f"v{number}.safetensors")


def test_positions_of_several_survive_safetensors(tmp_path):
    origins = {f"layers.{layer}": json.dumps({"training_settings": json.dumps({"steered_positions": positions})})
               for layer, positions in ((3, "prompt"), (5, "answer"))}
    save_file({name: numbers() for name in origins}, tmp_path / "v.safetensors", origins)
    found = bring_all(tmp_path / "v.safetensors", tmp_path / "runs")
    assert {layer: run.config["steered_positions"] for layer, run in found.items()} == {3: "prompt", 5: "answer"}
    message = refusal(["import", tmp_path / "v.safetensors", "--out", tmp_path / "both.h5"])
    assert "prompt" in message and "answer" in message and not (tmp_path / "both.h5").exists()


def bring_all(path: Path, out: Path, *arguments: object) -> dict[int, run_files.RunFile]:
    """The run files by layer, as they name it."""
    program.run_successfully(["import", path, "--out", out, *arguments])
    found = {int(run.attributes["layer"]): run for run in map(run_files.read, sorted(out.iterdir()))}
    assert sorted(found) == sorted(int(path.stem.removeprefix("layer")) for path in out.iterdir())
    return found


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [
    lambda layers: layers, lambda layers: {str(layer): vector for layer, vector in layers.items()},
    lambda layers: {f"model.layers.{layer}": vector for layer, vector in layers.items()},
    lambda layers: OrderedDict(layers), lambda layers: {"layer_activations": layers, "layer_type": "decoder_block"}],
    ids=["numbers", "texts", "modules", "ordered", "below_a_key"])
def test_dictionaries_of_layers(tmp_path, is_zip, wrap):
    layers = {layer: numbers(layer) for layer in (0, 7, 15)}
    torch.save(wrap(layers), tmp_path / "v.pt", _use_new_zipfile_serialization=is_zip)
    found = bring_all(tmp_path / "v.pt", tmp_path / "runs", "--model", "tiny")
    assert sorted(found) == [0, 7, 15]
    for layer, run in found.items():
        assert_bits(run.final_vector, layers[layer])
        assert run.attributes["model"] == "tiny"
    assert_bits(bring(tmp_path / "v.pt", tmp_path / "one.h5", "--layer", 7).final_vector, layers[7])
    assert "0, 7, 15" in refusal(["import", tmp_path / "v.pt", "--layer", 3, "--out", tmp_path / "other.h5"])


def test_dictionaries_of_one_tensor(tmp_path):
    torch.save({"direction": numbers(), "layer": 5, "method": "mean"}, tmp_path / "v.pt")
    run = bring(tmp_path / "v.pt", tmp_path / "run.h5")
    assert_bits(run.final_vector, numbers())
    assert (run.attributes["layer"], run.config["imported_tensor"]) == (5, "direction")


def save_npy(table: torch.Tensor, path: Path) -> None:
    with open(path, "wb") as file:
        numpy.save(file, table.numpy())


@pytest.mark.parametrize("write", [
    torch.save, save_npy, lambda table, path: save_file({"table": table}, path),
    lambda table, path: save_npy(torch.from_numpy(numpy.asfortranarray(table.numpy())), path)],
    ids=["pt", "npy", "safetensors", "npy_by_columns"])
def test_tables(tmp_path, write):
    table = torch.stack([numbers(row) for row in range(5)])
    path = tmp_path / "table"
    write(table, path)
    rows = bring_all(path, tmp_path / "rows", "--layer-of-row", "r")
    assert sorted(rows) == [0, 1, 2, 3, 4]
    with_embedding = bring_all(path, tmp_path / "blocks", "--layer-of-row", "r-1")
    assert sorted(with_embedding) == [0, 1, 2, 3]
    for layer in with_embedding:
        assert_bits(rows[layer].final_vector, table[layer])
        assert_bits(with_embedding[layer].final_vector, table[layer + 1])
    assert_bits(bring(path, tmp_path / "one.h5", "--layer-of-row", "r-1", "--layer", 3).final_vector, table[4])
    assert "--layer-of-row" in refusal(["import", path, "--layer", 3, "--out", tmp_path / "other.h5"])


@pytest.mark.parametrize("dtype", [numpy.float16, numpy.float64])
def test_types_of_numpy(tmp_path, dtype):
    narrow = numpy.clip(numbers().numpy(), -100, 100).astype(dtype)
    numpy.save(tmp_path / "v.npy", narrow)
    run = bring(tmp_path / "v.npy", tmp_path / "run.h5", "--layer", 3)
    assert_bits(run.final_vector, torch.from_numpy(narrow.astype(numpy.float32)))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8(tmp_path, dtype, is_zip):
    """Every finite number of the type."""
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    narrow = every[every.float().isfinite()]
    torch.save(narrow, tmp_path / "v.pt", _use_new_zipfile_serialization=is_zip)
    assert_bits(bring(tmp_path / "v.pt", tmp_path / "run.h5", "--layer", 3).final_vector, narrow.float())


@pytest.mark.parametrize("value, parts", [
    (torch.zeros(4).to(torch.float8_e4m3fnuz), ["torch.float8_e4m3fnuz", "float8_e4m3fn and"]),
    (torch.zeros(4).to_sparse(), ["a sparse tensor", "to_dense()"]),
    (torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8), ["quantised", "dequantize()"]),
    (torch.zeros(4, device="meta"), ["device meta"]),
    (numpy.zeros(4, dtype=numpy.float32), ["NumPy array", "torch.from_numpy"])],
    ids=["float8", "sparse", "quantised", "meta", "numpy"])
def test_other_tensors_are_named(tmp_path, value, parts):
    torch.save(value, tmp_path / "v.pt")
    message = refusal(["import", tmp_path / "v.pt", "--layer", 1, "--out", tmp_path / "run.h5"])
    assert all(part in message for part in parts) and "code" not in message, message


def test_psyctls_layers(tmp_path):
    """layer_0 and layer_1 are the places in the list, not the blocks."""
    layers = {13: numbers(1), 14: numbers(2)}
    names = [f"model.layers[{layer}].mlp.down_proj" for layer in layers]
    save_file({f"layer_{place}": vector for place, vector in enumerate(layers.values())}, tmp_path / "v.safetensors",
              metadata={"model": "meta-llama/Llama-3.2-3B-Instruct", "layer_names": str(names), "num_layers": "2"})
    found = bring_all(tmp_path / "v.safetensors", tmp_path / "runs")
    for layer, vector in layers.items():
        assert_bits(found[layer].final_vector, vector)
        assert found[layer].attributes["model"] == "meta-llama/Llama-3.2-3B-Instruct"
        assert found[layer].attributes["site"] == "mlp"
    finished = program.run(["import", tmp_path / "v.safetensors", "--layer", 14, "--out", tmp_path / "one.h5"])
    assert finished.code == program.DONE and "mlp.down_proj" in finished.stderr
    together = program.run_successfully(["import", tmp_path / "v.safetensors", "--out", tmp_path / "all.h5"]).stdout
    assert "2 vectors of " in together and "for the MLPs of layers 13,14, from" in together, together
    unknown = refusal(["export", tmp_path / "one.h5", "--format", "npy", "--out", tmp_path / "v.npy"])
    assert "import the vector again with --model" in unknown, unknown


def test_a_vector_for_an_mlp_is_exported_where_its_model_is_known(tmp_path, tiny_model):
    vector = torch.arange(json.loads((tiny_model / "config.json").read_text())["hidden_size"], dtype=torch.float32)
    save_file({"layers.1.mlp": vector}, tmp_path / "v.safetensors")
    found = bring(tmp_path / "v.safetensors", tmp_path / "run.h5", "--model", tiny_model)
    assert (found.attributes["layer"], found.attributes["site"]) == (1, "mlp")
    export(tmp_path / "run.h5", "npy", tmp_path / "v.npy")
    numpy.testing.assert_array_equal(numpy.load(tmp_path / "v.npy"), vector.numpy())


def test_quantised_directions_are_named(tmp_path):
    for kind in (gguf.GGMLQuantizationType.NVFP4, gguf.GGMLQuantizationType.Q1_0):
        path = tmp_path / f"{kind.name}.gguf"
        writer = gguf.GGUFWriter(path, "controlvector")
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor("direction.1", numpy.zeros((1, size), dtype=numpy.uint8), raw_dtype=kind)
        write(writer)
        assert kind.name in refusal(["import", path, "--out", tmp_path / "run.h5"])


def test_a_file_that_fails_leaves_nothing(tmp_path):
    torch.save({1: numbers(), 2: torch.tensor([float("nan")] * HIDDEN)}, tmp_path / "v.pt")
    assert "layer 2" in refusal(["import", tmp_path / "v.pt", "--out", tmp_path / "runs"])
    torch.save({1: numbers(), 2: numbers()[1:]}, tmp_path / "w.pt")
    assert f"{HIDDEN - 1} for layer 2" in refusal(["import", tmp_path / "w.pt", "--out", tmp_path / "runs"])
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "layer2.h5").write_text("notes")
    torch.save({1: numbers(), 2: numbers()}, tmp_path / "v.pt")
    assert "layer2.h5" in refusal(["import", tmp_path / "v.pt", "--out", tmp_path / "runs"])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["layer2.h5"]
    assert len(bring_all(tmp_path / "v.pt", tmp_path / "runs", "--overwrite")) == 2


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_directions(path: Path, layers: tuple[int, ...]) -> None:
    """As repeng 0.4.0 does."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(layers))
    for layer in layers:
        writer.add_tensor(f"direction.{layer}", numbers(layer).numpy())
    write(writer)


def test_gguf_of_several_layers(tmp_path):
    write_directions(tmp_path / "v.gguf", (4, 9))
    assert_bits(bring(tmp_path / "v.gguf", tmp_path / "run.h5", "--layer", 9).final_vector, numbers(9))
    (tmp_path / "notes.txt").touch()
    message = refusal(["import", tmp_path / "v.gguf", "--out", tmp_path / "notes.txt"])
    assert "layers 4,9" in message and "--layer" in message


def test_one_run_of_several_layers(tmp_path):
    """A run file steers all layers of a file together, and each of the formats brings them back."""
    write_directions(tmp_path / "v.gguf", (9, 4, 6))
    expected = torch.stack([numbers(layer) for layer in (4, 6, 9)])
    run = tmp_path / "run.h5"
    imported = bring(tmp_path / "v.gguf", run)
    run_files.assert_whole(run)
    assert_bits(imported.final_vector, expected)
    assert imported.config["imported_tensor"] == ["direction.4", "direction.6", "direction.9"]
    assert (imported.attributes["layer"], imported.attributes["hidden_size"]) == (4, HIDDEN)
    for kind in ("pt", "safetensors", "gguf", "lm-eval"):
        path = export(run, kind, tmp_path / f"{kind}.pt")
        back = bring(path, tmp_path / f"{kind}.h5")
        assert_bits(back.final_vector, expected)
        with h5py.File(tmp_path / f"{kind}.h5") as file:
            assert file["vectors/layer"][:].tolist() == [4, 6, 9]
    assert "exists" in refusal(["import", tmp_path / "v.gguf", "--out", run])
    torch.save({1: numbers(), 2: numbers()[1:]}, tmp_path / "w.pt")
    assert f"{HIDDEN - 1} for layer 2" in refusal(["import", tmp_path / "w.pt", "--out", tmp_path / "w.h5"])


def test_all_layers_of_repeng_at_once(tmp_path):
    write_directions(tmp_path / "v.gguf", tuple(range(1, 30)))
    found = bring_all(tmp_path / "v.gguf", tmp_path / "runs")
    assert sorted(found) == list(range(1, 30))
    for layer, run in found.items():
        assert_bits(run.final_vector, numbers(layer))
        assert (run.attributes["model"], run.config["imported_tensor"]) == ("llama", f"direction.{layer}")


def test_llama_cvector_generator(tmp_path):
    """Its int32 layer_count gives it away; direction.N was measured at the output of block N - 1."""
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", 2)
    for layer in (1, 2):
        writer.add_tensor(f"direction.{layer}", numbers(layer).numpy())
    write(writer)
    finished = program.run(["import", tmp_path / "v.gguf", "--out", tmp_path / "applied"])
    assert finished.code == program.DONE and "--shift -1" in finished.stderr
    measured = bring_all(tmp_path / "v.gguf", tmp_path / "measured", "--shift", -1)
    assert sorted(measured) == [0, 1]
    assert_bits(measured[0].final_vector, numbers(1))
    assert measured[0].config["imported_shift"] == -1


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
    (torch.zeros(2, 3), ["2 rows of 3", "--layer-of-row"]),
    (torch.zeros(2, 3, 4), ["[2, 3, 4]"]),
    (torch.tensor(1.0), ["shape []"]),
    (torch.zeros(0), ["shape [0]"]),
    (torch.arange(4), ["torch.LongStorage"]),
    (torch.zeros(1).expand(5), ["within its storage"]),
    (torch.tensor([1.0, float("nan")]), ["number 1", "nan"]),
    (torch.tensor([1e300], dtype=torch.float64), ["inf"]),
    ({"a": torch.zeros(4), "b": torch.zeros(4)}, ["dictionary", "a, b"]),
    ([torch.zeros(4)], ["other than a tensor"])],
    ids=["matrix", "cube", "scalar", "empty", "integers", "expanded", "nan", "too_large", "dictionary", "list"])
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
    assert "no vector of epoch 3; its epochs are 1\n" in refusal(
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
