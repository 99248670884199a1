"""The kinds of file that the program reads: an undamaged one of each, the command that reads it, and what it gives."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import h5py
import numpy
import pyarrow
import pyarrow.parquet
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

import lora_adapters
import mutators
import program
from gguf_models import adjacent_rotated_rows, gguf_name, write_gguf
from tiny_models import TinyModel, write_model, write_pairs

MODEL = TinyModel(hidden_size=32, intermediate_size=48, layers=2, heads=4, kv_heads=2)
TRAIN = "train --model model --train pairs.csv --layer 1 --max-steps 2 --lr 0.05 --warmup-steps 1 --threads 1"
LONG = TRAIN.replace("--max-steps 2", "--epochs 60 --eval-every 20 --test pairs.csv")
GENERATE = "generate --multipliers 0,20 --max-new-tokens 6 --threads 1 --prompts prompts.txt"
SWEEP = ("sweep --model model --train pairs.csv --layers 1 --seeds 1,2 --epochs 60 --lr 0.05 --warmup-steps 1 "
         "--threads 1 --out sweep")

Result = Callable[[Path, str], object]  # (folder of the case, standard output) -> what can be compared
Reading = Callable[[Path], object]  # the damaged file, as another reader understands it

LEFT_OUT = "left out"


@dataclass(frozen=True)
class Kind:
    """`command` runs in a folder that has copies of `inputs`, of which `file` is damaged. Where it does not end as with
    the undamaged file, the result must be a refusal or, where `reading` is given, follow from what the file says."""

    name: str
    file: str
    command: str
    inputs: tuple[str, ...]
    result: Result
    mutate: Callable[[random.Random, bytes], bytes] = mutators.mutate_bytes
    reading: Reading | None = None
    must_end_well: bool = False  # the file is one that can be made again
    age: float = 0  # seconds since the file was last changed
    cell: str = ""  # of a sweep, which is named and left out where its file is damaged
    refused: bool = False  # by this command, damaged or not
    named: str = ""  # what a message says, in place of the file's name


# What the commands give.

def nothing(_folder: Path, _stdout: str) -> object:
    return None


def standard_output(_folder: Path, stdout: str) -> object:
    return stdout


def bytes_of(name: str) -> Result:
    return lambda folder, _stdout: (folder / name).read_bytes()


def _table(dataset: h5py.Dataset) -> tuple:
    table = dataset[:]
    return tuple(tuple(column.tolist()) if column.dtype == object else column.tobytes()
                 for column in (table[name] for name in table.dtype.names if name != "seconds"))


def _run(path: Path) -> tuple:
    with h5py.File(path, "r") as file:
        return (_table(file["steps"]), _table(file["evals"]), file["vectors/value"][:].tobytes(),
                file["vectors/step"][:].tobytes(), str(file.attrs["status"]), int(file.attrs["layer"]))


def run_of(name: str) -> Result:
    return lambda folder, _stdout: _run(folder / name)


def vector_of(folder: Path, _stdout: str) -> object:
    with h5py.File(folder / "out.h5", "r") as file:
        return int(file.attrs["layer"]), file["vectors/value"][:].tobytes()


def conceptor_of(folder: Path, _stdout: str) -> object:
    with h5py.File(folder / "out.h5", "r") as file:
        return int(file.attrs["layer"]), file["conceptor"][:].tobytes()


def imported_layers(folder: Path, _stdout: str) -> object:
    return tuple(_run(path) for path in sorted((folder / "imported").glob("*.h5")))


def evaluation(folder: Path, _stdout: str) -> object:
    with h5py.File(folder / "eval.h5", "r") as file:
        return tuple(_table(file[name]) for name in sorted(file))


def cells(folder: Path, _stdout: str) -> object:
    return tuple(_run(path) for path in sorted((folder / "sweep").glob("*.h5")))


def collected(folder: Path, _stdout: str) -> object:
    """By cell, of which an unreadable one is LEFT_OUT."""
    with h5py.File(folder / "all.h5", "r") as file:
        summary = file["summary"][:]
        names = [name for name in summary.dtype.names if name not in ("seconds", "tokens_per_second")]
        return {row["cell"].decode(): LEFT_OUT if row["status"] == b"unreadable" else
                (repr([row[name] for name in names]), file["runs"][row["cell"]]["vectors/value"][:].tobytes())
                for row in summary}


# What other readers understand.

def as_json(path: Path) -> object:
    return json.dumps(json.loads(path.read_bytes().decode("utf-8")), sort_keys=True)


def as_json_lines(path: Path) -> object:
    return [json.dumps(json.loads(line), sort_keys=True) for line in path.read_bytes().decode("utf-8").split("\n")
            if line.strip()]


def as_text(path: Path) -> object:
    return path.read_bytes().decode("utf-8")


def _csv_rows(content: bytes) -> object:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def as_csv(path: Path) -> object:
    return _csv_rows(path.read_bytes())


def as_gzip(path: Path) -> object:
    return _csv_rows(gzip.decompress(path.read_bytes()))


def as_bytes(path: Path) -> object:
    """Every byte may matter."""
    return path.read_bytes()


# These libraries may not survive a damaged file, so that they read it in a process of their own.
CHILDREN = {
    "torch": """
import torch
def tensors(value):
    if isinstance(value, dict):
        return [(f"{key}/{name}", found) for key in value for name, found in tensors(value[key])]
    return [("", value.flatten().float().numpy().tobytes().hex() if isinstance(value, torch.Tensor) else value)]
print(tensors(torch.load(path, weights_only=True)))""",
    "numpy": "import numpy; print(numpy.load(path).astype(numpy.float32).tobytes().hex())",
    "safetensors": """
from safetensors.torch import load_file
for name, values in sorted(load_file(path).items()):
    print(name, values.dtype, tuple(values.shape), hashlib.sha256(values.float().numpy().tobytes()).hexdigest())""",
    "parquet": "import pyarrow.parquet; print(pyarrow.parquet.read_table(path).to_pylist())",
    "arrow": """
import pyarrow
with pyarrow.memory_map(path) as file:
    table = pyarrow.ipc.open_stream(file).read_all()
    table.validate(full=True)
    print(table.to_pylist())""",
}


def in_a_child(reader: str) -> Reading:
    def read(path: Path) -> object:
        code = f"import hashlib, sys; path = sys.argv[1]\n{CHILDREN[reader]}"
        ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=False)
        if ended.returncode != 0:
            raise ValueError(f"{reader} refuses the file: {ended.stderr[-300:]}")
        return ended.stdout
    return read


# Damage to a part of a file.

def header_of_safetensors(dice: random.Random, original: bytes) -> bytes:
    size = struct.unpack("<Q", original[:8])[0]
    if dice.random() < 0.3:
        changed = json.dumps(mutators.mutate_value(dice, json.loads(original[8:8 + size]))).encode()
        return struct.pack("<Q", len(changed)) + changed + original[8 + size:]
    return mutators.mutate_range(dice, original, 0, 8 + size)


def start_of_gguf(dice: random.Random, original: bytes) -> bytes:
    """Keys, names, shapes and places of the tensors, and some numbers."""
    end = original.rindex(b".weight") if b".weight" in original else len(original)
    return mutators.mutate_range(dice, original, 0, min(len(original), end + 64))


# The undamaged files.

def run_command(folder: Path, command: str, stdin: str | None = None) -> None:
    ended = subprocess.run([program.from_environment("BIPO_DIST"), *command.split()], cwd=folder, capture_output=True,
                           env=environment(folder), text=True, timeout=120, input=stdin, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{command}: exit code {ended.returncode}\n{ended.stderr}")


def environment(folder: Path) -> dict[str, str]:
    """Of a process by itself, which needs no daemon of MPI, and shares with no other what MPI keeps in a folder."""
    return {**os.environ, **program.MPI_ENVIRONMENT, "OMPI_MCA_ess_singleton_isolated": "1",
            "OMPI_MCA_orte_tmpdir_base": str(folder)}


def kill_once(folder: Path, command: str, pattern: str) -> None:
    """Starts a command that saves at every step, and kills it when a file of the pattern is there."""
    with open(folder / "killed.log", "wb") as log:
        process = subprocess.Popen([program.from_environment("BIPO_DIST"), *command.split(), "--save-every", "0"],
                                   cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while not list(folder.glob(pattern)):
                if process.poll() is not None:
                    raise RuntimeError((folder / "killed.log").read_text(encoding="utf-8"))
        finally:
            process.kill()
            process.wait()


def stop_sweep(folder: Path) -> None:
    """Leaves a checkpoint and a claim of a process that is gone."""
    kill_once(folder, SWEEP, "sweep/*.checkpoint")
    if not list(folder.glob("sweep/claims/*.json")):
        raise RuntimeError("the killed sweep left no claim")


def only(folder: Path, pattern: str) -> str:
    """The first file of the pattern, as a path within the folder."""
    return str(sorted(folder.glob(pattern))[0].relative_to(folder))


def write_data(folder: Path) -> None:
    """The same pairs in every format."""
    write_pairs(folder / "pairs.csv", 6)
    with open(folder / "pairs.csv", encoding="utf-8", newline="") as file:
        rows = [{"prompt": row["question"], "chosen": row["matching"], "rejected": row["not_matching"]}
                for row in csv.DictReader(file)]
    (folder / "pairs.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "pairs.csv.gz").write_bytes(gzip.compress((folder / "pairs.csv").read_bytes(), mtime=0))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs.parquet")
    with open(folder / "pairs.arrow", "wb") as file:
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)


def write_models(folder: Path) -> None:
    """A directory, the same in parts, a GGUF file, and adapters of both kinds."""
    model = write_model(folder / "model", MODEL)
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    (model / "chat_template.jinja").write_text(settings.pop("chat_template"), encoding="utf-8")
    (model / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (model / "generation_config.json").write_text(json.dumps(
        {"eos_token_id": [2], "temperature": 0.7, "top_p": 0.9, "top_k": 20, "do_sample": True,
         "repetition_penalty": 1.1}), encoding="utf-8")
    (folder / "run.ini").write_text("[train]\nlr = 0.05\nwarmup-steps = 1\nmax-steps = 2\nbeta = 0.2\nseed = 3\n"
                                    "sign = pair\nmultipliers = -1,0,2\n", encoding="utf-8")
    write_model(folder / "parts", TinyModel(**{**MODEL.__dict__, "max_shard_size": "60KB"}))
    write_gguf(folder / "model.gguf", model)
    shapes = lora_adapters.matrix_shapes(
        {name: torch.from_numpy(values) for name, values in load_file(model / "model.safetensors").items()})
    adapter = lora_adapters.make_adapter(shapes)
    adapter.write(folder / "adapter")
    write_gguf_adapter(folder / "adapter.gguf", adapter)


def write_gguf_adapter(path: Path, adapter: lora_adapters.Adapter) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.config["lora_alpha"])
    for module in adapter.modules():
        for side in ("A", "B"):
            values = adapter.tensor(module, f"lora_{side}.weight").float().numpy()
            if side == "B" and module.endswith("q_proj"):
                values = adjacent_rotated_rows(values, MODEL.heads)
            writer.add_tensor(f"{gguf_name(module + '.weight')}.lora_{side.lower()}", numpy.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_vectors(folder: Path) -> None:
    vector = torch.linspace(-1, 1, MODEL.hidden_size)
    torch.save(vector, folder / "vector.pt")
    torch.save(vector, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.stack([vector, 2 * vector]), folder / "table.pt")
    torch.save({1: vector, 2: 2 * vector}, folder / "layers.pt")
    torch.save(vector.to(torch.float8_e4m3fn), folder / "float8.pt")
    numpy.save(folder / "vector.npy", vector.numpy())
    save_file({"vector": vector}, folder / "vector.safetensors")
    save_file({"layer_0": vector, "layer_1": 2 * vector}, folder / "psyctl.safetensors",
              metadata={"layer_names": "['model.layers[1].mlp', 'model.layers[2].mlp']"})
    run_command(folder, "export run.h5 --format gguf --out vector.gguf")
    run_command(folder, "export run.h5 --format lm-eval --multiplier 1.5 --out lm_eval.pt")


def write_judged(folder: Path) -> None:
    (folder / "rubric.txt").write_text("Score 1 to 4.\nQuestion: {question}\nAnswer: {response}\n", encoding="utf-8")
    run_command(folder, "evaluate --model model --vector run.h5 --test pairs.csv --multipliers 0,2 --out eval.h5 --threads 1")
    run_command(folder, f"{GENERATE} --model model --vector run.h5 --out generations.jsonl")
    run_command(folder, "evaluate --judge-export requests.jsonl --generations generations.jsonl --rubric rubric.txt "
                        "--behaviour warmth")
    with open(folder / "results.jsonl", "w", encoding="utf-8") as file:
        for number, line in enumerate((folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()):
            reply = {"choices": [{"message": {"role": "assistant", "content": f"{number % 4 + 1}\nbecause"}}]}
            file.write(json.dumps({"custom_id": json.loads(line)["custom_id"], "error": None,
                                   "response": {"status_code": 200, "body": reply}}) + "\n")


def write_sweeps(folder: Path) -> None:
    """One that was killed, and one that is done."""
    stop_sweep(folder)
    shutil.copytree(folder / "sweep", folder / "done" / "sweep")
    shutil.rmtree(folder / "done" / "sweep" / "claims")
    for name in ("model", "pairs.csv"):
        (folder / "done" / name).symlink_to(folder / name)
    run_command(folder / "done", SWEEP)
    run_command(folder / "done", "collect sweep --out ../all.h5")


def write_files(folder: Path) -> None:
    """Everything that the kinds below name."""
    folder.mkdir(parents=True)
    write_data(folder)
    write_models(folder)
    (folder / "prompts.txt").write_text("the cat\na dog?\n", encoding="utf-8")
    run_command(folder, f"{TRAIN} --test pairs.csv --out run.h5 --log-jsonl log.jsonl")
    run_command(folder, "extract --method conceptor --model model --train pairs.csv --layer 1 --threads 1 --out conceptor.h5")
    kill_once(folder, f"{LONG} --out stopped.h5", "stopped.h5")
    run_command(folder, f"{TRAIN} --cache-dir cache --out cached.h5")
    write_vectors(folder)
    write_judged(folder)
    write_sweeps(folder)


MODEL_AND_PAIRS = ("model", "pairs.csv")


def kinds(folder: Path) -> list[Kind]:
    """Of files that `write_files` wrote."""
    return [*results_of_runs(folder), *evaluation_kinds(), *vector_kinds(), *model_kinds(), *data_kinds(),
            *directory_kinds(folder)]


def results_of_runs(folder: Path) -> list[Kind]:
    run = "run.h5"
    return [
        Kind("run file, inspect", run, "inspect run.h5", (run,), standard_output),
        Kind("conceptor file, inspect", "conceptor.h5", "inspect conceptor.h5", ("conceptor.h5",), standard_output),
        Kind("conceptor file, generate", "conceptor.h5", f"{GENERATE} --model model --vector conceptor.h5 --out out.jsonl",
             ("model", "prompts.txt", "conceptor.h5"), bytes_of("out.jsonl")),
        Kind("conceptor file, extract", "conceptor.h5",
             "extract --method conceptor-not --vector conceptor.h5 --out out.h5", ("conceptor.h5",), conceptor_of),
        Kind("run file, export", run, "export run.h5 --format npy --out out.npy", (run,), bytes_of("out.npy")),
        Kind("run file, train --resume", "stopped.h5", f"{LONG} --out stopped.h5 --resume", (*MODEL_AND_PAIRS, "stopped.h5"),
             run_of("stopped.h5")),
        Kind("run file, generate", run, f"{GENERATE} --model model --vector run.h5 --out out.jsonl",
             ("model", "prompts.txt", run), bytes_of("out.jsonl")),
        Kind("evaluation file, inspect", "eval.h5", "inspect eval.h5", ("eval.h5",), standard_output, refused=True),
        Kind("evaluation file, judge import", "eval.h5", "evaluate --judge-import results.jsonl --out eval.h5",
             ("eval.h5", "results.jsonl"), evaluation),
        Kind("collected file, replaced", "all.h5", "collect sweep --out all.h5", ("done/sweep", "all.h5"), collected),
    ]


def evaluation_kinds() -> list[Kind]:
    export = ("evaluate --judge-export requests.jsonl --generations generations.jsonl --rubric rubric.txt "
              "--behaviour warmth")
    inputs, requests = ("generations.jsonl", "rubric.txt"), bytes_of("requests.jsonl")
    return [
        Kind("generations", "generations.jsonl", export, inputs, requests, mutators.mutate_json_lines, as_json_lines),
        Kind("rubric", "rubric.txt", export, inputs, requests, reading=as_text),
        Kind("judge results", "results.jsonl", "evaluate --judge-import results.jsonl --out eval.h5",
             ("eval.h5", "results.jsonl"), evaluation, mutators.mutate_json_lines, as_json_lines),
    ]


def vector_kinds() -> list[Kind]:
    def imported(name: str, reading: Reading, options: str = "") -> Kind:
        return Kind(f"vector {name}, import", name, f"import {name} --layer 1 {options}--out out.h5", (name,), vector_of,
                    reading=reading)
    return [*(imported(f"{name}.pt", in_a_child("torch")) for name in ("vector", "legacy", "layers", "float8", "lm_eval")),
            imported("table.pt", in_a_child("torch"), "--layer-of-row r "), imported("vector.npy", in_a_child("numpy")),
            imported("vector.safetensors", in_a_child("safetensors")), imported("psyctl.safetensors", as_bytes),
            imported("vector.gguf", as_bytes)]


def model_kinds() -> list[Kind]:
    train, result = f"{TRAIN} --out out.h5", run_of("out.h5")
    generate = f"{GENERATE} --model model --vector run.h5 --out out.jsonl"

    def of_json(file: str) -> Kind:
        return Kind(file, file, train, MODEL_AND_PAIRS, result, mutators.mutate_json, as_json)
    return [
        of_json("model/config.json"), of_json("model/tokenizer.json"), of_json("model/tokenizer_config.json"),
        Kind("model/generation_config.json", "model/generation_config.json", generate, ("model", "prompts.txt", "run.h5"),
             bytes_of("out.jsonl"), mutators.mutate_json, as_json),
        Kind("model/chat_template.jinja", "model/chat_template.jinja", train, MODEL_AND_PAIRS, result, reading=as_text),
        Kind("model.safetensors, header", "model/model.safetensors", train, MODEL_AND_PAIRS, result, header_of_safetensors,
             in_a_child("safetensors")),
        Kind("model.safetensors.index.json", "parts/model.safetensors.index.json",
             train.replace("--model model", "--model parts"), ("parts", "pairs.csv"), result, mutators.mutate_json, as_json,
             named=".safetensors"),
        Kind("model.gguf, header", "model.gguf", train.replace("--model model", "--model model.gguf"),
             ("model.gguf", "pairs.csv"), result, start_of_gguf, as_bytes),
        Kind("adapter_config.json", "adapter/adapter_config.json", f"{train} --adapter adapter",
             (*MODEL_AND_PAIRS, "adapter"), result, mutators.mutate_json, as_json, named="adapter"),
        Kind("adapter_model.safetensors", "adapter/adapter_model.safetensors", f"{train} --adapter adapter",
             (*MODEL_AND_PAIRS, "adapter"), result, reading=in_a_child("safetensors")),
        Kind("adapter.gguf, header", "adapter.gguf", f"{train} --adapter adapter.gguf",
             (*MODEL_AND_PAIRS, "adapter.gguf"), result, start_of_gguf, as_bytes),
    ]


def data_kinds() -> list[Kind]:
    def data(name: str, mutate, reading: Reading) -> Kind:
        return Kind(f"data, {name}", name, f"{TRAIN.replace('pairs.csv', name)} --out out.h5", ("model", name),
                    run_of("out.h5"), mutate, reading)
    return [
        data("pairs.csv", mutators.mutate_bytes, as_csv), data("pairs.csv.gz", mutators.mutate_bytes, as_gzip),
        data("pairs.json", mutators.mutate_json, as_json), data("pairs.jsonl", mutators.mutate_json_lines, as_json_lines),
        data("pairs.parquet", mutators.mutate_bytes, in_a_child("parquet")),
        data("pairs.arrow", mutators.mutate_bytes, in_a_child("arrow")),
        Kind("run.ini", "run.ini", "train --model model --train pairs.csv --layer 1 --threads 1 --config run.ini --out out.h5",
             (*MODEL_AND_PAIRS, "run.ini"), run_of("out.h5"), reading=as_text),
    ]


def directory_kinds(folder: Path) -> list[Kind]:
    cached = f"{TRAIN} --cache-dir cache --out out.h5"
    sweep, cell = (*MODEL_AND_PAIRS, "sweep"), only(folder / "done", "sweep/*.h5")
    return [
        *(Kind(f"cache file {number}", f"cache/{path.name}", cached, (*MODEL_AND_PAIRS, "cache"), run_of("out.h5"),
               must_end_well=True) for number, path in enumerate(sorted(folder.glob("cache/*")))),
        Kind("pack checkpoint, sweep", only(folder, "sweep/*.checkpoint"), SWEEP, sweep, cells),
        Kind("run file, sweep", only(folder, "sweep/*.h5"), SWEEP, sweep, cells),
        Kind("claim, sweep", only(folder, "sweep/claims/*.json"), SWEEP, sweep, cells, mutators.mutate_json,
             age=3600),
        Kind("plan.json, sweep", "sweep/plan.json", SWEEP, sweep, cells, mutators.mutate_json),
        Kind("plan.json, collect", "sweep/plan.json", "collect sweep --out all.h5", ("done/sweep",), collected,
             mutators.mutate_json, as_json),
        Kind("run file, collect", cell, "collect sweep --out all.h5", ("done/sweep",), collected, cell=Path(cell).stem),
    ]
