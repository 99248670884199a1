"""Lets the file system fail under the program, one call at a time, and judges what comes of it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py

import program
from file_kinds import (GENERATE, LEFT_OUT, LONG, SWEEP, TRAIN, Result, bytes_of, cells, collected, conceptor_of,
                        environment, evaluation, imported_layers, run_of, standard_output, vector_of)

SECONDS = 30
SHORT = "short"
# What each call may end with; of a closed file everything was read, so that its close() may fail unheard.
FAILURES: dict[str, tuple[int, ...]] = {
    "open": (errno.EMFILE, errno.EIO, errno.EROFS), "read": (errno.EIO,), "pread": (errno.EIO,),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT), "pwrite": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "fsync": (errno.EIO, errno.ENOSPC), "close": (errno.EIO, errno.EDQUOT), "rename": (errno.EROFS, errno.EIO),
    "ftruncate": (errno.ENOSPC, errno.EIO), "fallocate": (errno.ENOSPC, errno.EIO), "mmap": (errno.ENOMEM, errno.ENODEV)}
# After these the call is made again, or goes on, and nothing has happened.
HARMLESS: dict[str, tuple[int | str, ...]] = {
    "open": (errno.EINTR,), "read": (errno.EINTR, SHORT), "pread": (errno.EINTR, SHORT), "write": (errno.EINTR, SHORT),
    "pwrite": (errno.EINTR, SHORT), "fsync": (errno.EINTR,), "close": (errno.EINTR,), "fallocate": (errno.EINTR, errno.EOPNOTSUPP)}


@dataclass(frozen=True)
class Command:
    """What is run in a folder with copies of `inputs`; `outputs` are those files that it writes under their names."""

    name: str
    line: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    result: Result


def run_and_log(folder: Path, _stdout: str) -> object:
    """The run; the log, which may end where it could not be written, has whole lines only."""
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["step"] for line in text.splitlines()] == list(range(1, text.count("\n") + 1))
    return run_of("out.h5")(folder, "")


def ageless_output(_folder: Path, stdout: str) -> object:
    """Without the time since the file was written."""
    return re.sub(r"\d+(:\d\d)+ ago", "ago", stdout)


MODEL = ("model", "pairs.csv")
COMMANDS = (
    Command("train", f"{TRAIN} --test pairs.csv --out out.h5", MODEL, ("out.h5",), run_of("out.h5")),
    Command("train over a file", f"{TRAIN} --out run.h5 --overwrite", (*MODEL, "run.h5"), ("run.h5",), run_of("run.h5")),
    Command("train, resumed", f"{LONG} --out stopped.h5 --resume", (*MODEL, "stopped.h5"), ("stopped.h5",),
            run_of("stopped.h5")),
    Command("train with a cache", f"{TRAIN} --cache-dir cache --out out.h5", (*MODEL, "cache"), ("out.h5",), run_of("out.h5")),
    Command("train on a GGUF file, with an adapter",
            f"{TRAIN.replace('--model model', '--model model.gguf')} --adapter adapter --out out.h5",
            ("model.gguf", "adapter", "pairs.csv"), ("out.h5",), run_of("out.h5")),
    Command("train on parts", f"{TRAIN.replace('--model model', '--model parts')} --out out.h5", ("parts", "pairs.csv"),
            ("out.h5",), run_of("out.h5")),
    Command("train, a new cache", f"{TRAIN} --cache-dir new --out out.h5", MODEL, ("out.h5",), run_of("out.h5")),
    Command("train with a log of its steps", f"{TRAIN} --out out.h5 --log-jsonl log.jsonl", MODEL, ("out.h5",), run_and_log),
    Command("sweep", SWEEP.replace("--epochs 60", "--epochs 2"), MODEL, ("sweep/plan.json",), cells),
    Command("sweep, resumed", SWEEP, (*MODEL, "sweep"), ("sweep/plan.json",), cells),
    Command("sweep, more cells", SWEEP.replace("--layers 1", "--layers 0,1"), (*MODEL, "done/sweep"), ("sweep/plan.json",), cells),
    Command("collect", "collect sweep --out all.h5", ("done/sweep", "all.h5"), ("all.h5",), collected),
    Command("generate", f"{GENERATE} --model model --vector run.h5 --out generations.jsonl --overwrite",
            ("model", "prompts.txt", "run.h5", "generations.jsonl"), ("generations.jsonl",), bytes_of("generations.jsonl")),
    Command("evaluate", "evaluate --model model --vector run.h5 --test pairs.csv --multipliers 0,2 --out eval.h5 --overwrite "
            "--threads 1", (*MODEL, "run.h5", "eval.h5"), ("eval.h5",), evaluation),
    Command("judge import", "evaluate --judge-import results.jsonl --out eval.h5", ("eval.h5", "results.jsonl"), ("eval.h5",),
            evaluation),
    Command("judge export", "evaluate --judge-export requests.jsonl --generations generations.jsonl --rubric rubric.txt "
            "--behaviour warmth --overwrite", ("generations.jsonl", "rubric.txt", "requests.jsonl"), ("requests.jsonl",),
            bytes_of("requests.jsonl")),
    Command("extract", "extract --model model --train pairs.csv --layer 1 --threads 1 --out out.h5", MODEL, ("out.h5",), vector_of),
    Command("combination of conceptors", "extract --method conceptor-not --vector conceptor.h5 --out out.h5",
            ("conceptor.h5",), ("out.h5",), conceptor_of),
    *(Command(f"export {kind}", f"export run.h5 --format {kind} --out out.{kind} --overwrite", ("run.h5",), (f"out.{kind}",),
              bytes_of(f"out.{kind}")) for kind in ("pt", "safetensors", "gguf", "npy", "vllm-hook")),
    *(Command(f"import {kind}", f"import vector.{kind} --layer 1 --out out.h5 --overwrite", (f"vector.{kind}",), ("out.h5",),
              vector_of) for kind in ("pt", "npy", "safetensors", "gguf")),
    Command("import of several layers", "import layers.pt --out imported", ("layers.pt",),
            ("imported/layer1.h5", "imported/layer2.h5"), imported_layers),
    Command("inspect", "inspect run.h5", ("run.h5",), (), standard_output),
    Command("watch", "watch run.h5 --once", ("run.h5",), (), ageless_output),
    Command("watch of a log", "watch log.jsonl --once", ("log.jsonl",), (), ageless_output),
    Command("data", "data pairs.csv.gz --model model", ("model", "pairs.csv.gz"), (), standard_output),
)


@dataclass(frozen=True)
class Call:
    """The `number`th call on a file below the folder."""

    number: int
    name: str
    path: str


@dataclass(frozen=True)
class Ended:
    code: int | None  # None: ended at the time limit
    stdout: str
    stderr: str


def is_temporary(name: str) -> bool:
    return name.endswith(".tmp")


def final_name(path: str) -> str:
    """The name without what a temporary file adds to it: .NAME.host.random.pid.tmp or NAME.host.pid.random.tmp."""
    name = Path(path.removesuffix(" (deleted)")).name
    found = re.fullmatch(r"\.?(.+)\.[^.]+\.[0-9a-f]+\.[0-9a-f]+\.tmp", name)
    return found[1] if found else name


def calls_in(log: Path) -> list[Call]:
    """Threads that renew claims or save by the clock call at other times in each run of a command, so that a number may
    be another call's."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return [Call(number, *line.split(" ", 1)) for number, line in enumerate(lines, 1)]


class Faults:
    """Runs commands on copies of the files in `source`, in folders below `folder`."""

    def __init__(self, library: Path, source: Path, folder: Path):
        self.library, self.source, self.folder = library, source, folder
        folder.mkdir(parents=True)

    def run(self, command: Command, case: Path, call: int = 0, error: int | str = 0, lasts: bool = False) -> Ended:
        faults = {"LD_PRELOAD": str(self.library), "BIPO_FAULT_UNDER": f"{case / 'files'}/", "BIPO_FAULT_LOG": str(case / "log"),
                  "BIPO_FAULT_AT": str(call), "BIPO_FAULT_ERROR": str(error)}
        if lasts:
            faults["BIPO_FAULT_LASTS"] = "1"
        with open(case / "stdout", "w+b") as stdout, open(case / "stderr", "w+b") as stderr:
            process = subprocess.Popen([program.from_environment("BIPO_DIST"), *command.line.split()], cwd=case / "files",
                                       env={**environment(case), **faults}, stdin=subprocess.DEVNULL, stdout=stdout,
                                       stderr=stderr, start_new_session=True)
            try:
                code: int | None = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                code = None
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            stdout.seek(0)
            stderr.seek(0)
            return Ended(code, stdout.read().decode(errors="replace"), stderr.read().decode(errors="replace"))

    def new_case(self, command: Command) -> Path:
        case = Path(tempfile.mkdtemp(dir=self.folder))
        files = case / "files"
        files.mkdir()
        for name in command.inputs:
            entry, target = self.source / name, files / Path(name).name
            shutil.copytree(entry, target) if entry.is_dir() else shutil.copy(entry, target)
        return case

    def undisturbed(self, command: Command) -> tuple[list[Call], object]:
        """The calls of the command, and its result."""
        case = self.new_case(command)
        ended = self.run(command, case)
        assert ended.code == program.DONE, f"{command.name}: {ended}"
        calls = calls_in(case / "log")
        result = command.result(case / "files", ended.stdout)
        shutil.rmtree(case)
        return calls, result

    def complaint(self, command: Command, call: Call, error: int | str, expected: object, lasts: bool = False) -> str | None:
        """Runs the command with a fault; returns what is wrong with the outcome, if anything."""
        case = self.new_case(command)
        files = case / "files"
        before = {name: content(files / name) for name in command.outputs}
        ended = self.run(command, case, call.number, error, lasts)
        call = next((own for own in calls_in(case / "log") if own.number == call.number), call)
        wrong = self._what_is_wrong(command, call, error, expected, files, before, ended)
        shutil.rmtree(case)
        if wrong is None:
            return None
        what = error if isinstance(error, str) else errno.errorcode[error]
        said = ended.stderr.strip().splitlines()
        return (f"{command.name}: {call.name} of {final_name(call.path)} (call {call.number}) {'from then on ' if lasts else ''}"
                f"{what}: {wrong}; exit code {ended.code}; {said[-1] if said else '(nothing)'}").replace(str(files), "FILES")

    @staticmethod
    def _what_is_wrong(command: Command, call: Call, error: int | str, expected: object, files: Path,
                       before: dict[str, bytes | None], ended: Ended) -> str | None:
        if ended.code is None:
            return "hangs"
        if ended.code not in (program.DONE, program.FAILED, program.BAD_INPUT):
            return "crashes"
        left = [path.name for path in files.rglob("*") if is_temporary(path.name)]
        if left:
            return f"leaves {left}"
        if ended.code == program.DONE:
            try:
                result = command.result(files, ended.stdout)
            except Exception as problem:  # whatever reading a half result throws
                return f"is called done, and the result cannot be read: {problem!r}"
            return None if result == expected or left_out(result, expected, call, error, ended) else (
                "is called done with another result")
        if error in HARMLESS.get(call.name, ()):
            return "fails, though nothing happened"
        for name, old in before.items():
            if not is_whole(files / name, old, lambda: command.result(files, ended.stdout) == expected):
                return f"leaves a half {name}"
        places = {final_name(call.path), Path(call.path).parent.name}
        if Path(call.path) == files or call.path.endswith("/."):
            places |= {Path(name).name for name in command.outputs}
        if not any(place in ended.stderr for place in places):
            return f"names none of {sorted(places)}"
        return None


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def left_out(result: object, expected: object, call: Call, error: int | str, ended: Ended) -> bool:
    """Whether the one file that cannot be read is told of, and the others are there."""
    cell = Path(call.path).stem
    return (isinstance(result, dict) and isinstance(expected, dict) and error not in HARMLESS.get(call.name, ())
            and result == {**expected, cell: LEFT_OUT} and cell in ended.stdout)


def is_whole(path: Path, old: bytes | None, is_done: Callable[[], bool]) -> bool:
    """The file of before, none where there was none, or a new one that is whole: of HDF5 and JSON what can be read to
    its end, of anything else that which `is_done`."""
    new = content(path)
    if new is None or new == old:
        return new == old
    try:
        if path.suffix == ".h5":
            with h5py.File(path, "r") as file:
                file.visititems(lambda _name, item: item[()] if isinstance(item, h5py.Dataset) else None)
            return True
        if path.suffix == ".json":
            json.loads(new)
            return True
        return is_done()
    except Exception:  # of whatever reads a half file
        return False


def faults_at(call: Call) -> Iterable[int | str]:
    """All that this call can do, the failures first."""
    return (*FAILURES.get(call.name, ()), *HARMLESS.get(call.name, ()))


READ_BY_MANY = ("/model/", "/pairs.csv", "/tokenizer", "/config.json")


def telling_calls(command: Command, calls: list[Call]) -> list[Call]:
    """For the first command the first and the last call of a name on a file, for the others one of the two in turn. What
    every command reads in the same way counts for the first command alone."""
    ends: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        if command is COMMANDS[0] or not any(part in call.path for part in READ_BY_MANY):
            ends.setdefault((call.name, final_name(call.path)), []).append(call)
    if command is COMMANDS[0]:
        chosen = {call for some in ends.values() for call in (some[0], some[-1])}
    else:
        chosen = {some[-(turn % 2)] for turn, some in enumerate(ends.values())}
    return sorted(chosen, key=lambda call: call.number)
