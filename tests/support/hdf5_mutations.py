"""Mutations of the program's HDF5 files, and what the program makes of them.

A mutation may be refused, with the file's name, or do no harm; anything else is a fault.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py

import evaluations
import program
import run_files

SEAL_BYTES = 32
REFUSED, HARMLESS, CRASHED, HUNG, WRONG, BIG = "refused", "harmless", "crashed", "hung", "wrong", "big"
FAULTS = (CRASHED, HUNG, WRONG, BIG)
TIMEOUT = 100  # seconds; a trial process has 5 s of processor time, on a machine that may be busy
MOST_KIB = 2 << 20


@dataclass(frozen=True)
class Subject:
    """A sound file, and a command that reads it."""

    name: str
    content: bytes
    # Puts the file's bytes into an empty folder; returns the command and the file.
    prepare: Callable[[Path, bytes], tuple[list[object], Path]]
    # The result of a command that ended with exit code 0, from the folder and the standard output.
    result: Callable[[Path, bytes], object]
    refusals: tuple[int, ...] = (program.BAD_INPUT,)


def mutated(content: bytes, generator: random.Random) -> bytes:
    """The bytes with one change of a kind that disks, memories and programs make."""
    while True:
        changed = _changed(content, generator)
        if changed != content:
            return changed


def _changed(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    size = generator.choice((1, 1, 2, 4, 8, 8, 16, 64))
    place = generator.randrange(len(changed) - size)
    kind = generator.choice(("bit", "noise", "zeros", "ones", "copy", "number"))
    if kind == "bit":
        changed[place] ^= 1 << generator.randrange(8)
    elif kind == "noise":
        changed[place:place + size] = generator.randbytes(size)
    elif kind == "zeros":
        changed[place:place + size] = bytes(size)
    elif kind == "ones":
        changed[place:place + size] = b"\xff" * size
    elif kind == "copy":
        source = generator.randrange(len(changed) - size)
        changed[place:place + size] = content[source:source + size]
    else:  # a length or an address that is a little off
        word = place // 8 * 8
        value = int.from_bytes(content[word:word + 8], "little") + generator.choice((-256, -8, -1, 1, 8, 256, 4096))
        changed[word:word + 8] = (value % 2**64).to_bytes(8, "little")
    return bytes(changed)


def outcome(subject: Subject, content: bytes, folder: Path, expected: object) -> tuple[str, str]:
    """Runs the command on these bytes; returns what came of it, and the messages."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    arguments, file = subject.prepare(folder, content)
    code, kib, stdout, stderr = _run(arguments, folder)
    if code is None:
        return HUNG, stderr
    if kib > MOST_KIB:
        return BIG, stderr
    if code == program.DONE:
        return (HARMLESS if subject.result(folder, stdout) == expected else WRONG), stderr
    return (REFUSED if code in subject.refusals and file.name in stderr else CRASHED), f"exit code {code}: {stderr}"


def _run(arguments: list[object], folder: Path) -> tuple[int | None, int, bytes, str]:
    """Exit code (None: it did not end), largest memory in KiB of it and its children, and both outputs."""
    with open(folder / "stdout", "w+b") as out, open(folder / "stderr", "w+b") as errors:
        process = subprocess.Popen([program.from_environment("BIPO_DIST"), *map(str, arguments)], stdout=out,
                                   stderr=errors, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **program.MPI_ENVIRONMENT})
        deadline = time.monotonic() + TIMEOUT
        pid = 0
        while pid == 0 and time.monotonic() < deadline:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(0.01)
        if pid == 0:
            process.send_signal(signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        return (process.returncode if pid else None, usage.ru_maxrss, out.read(),
                errors.read().decode("utf-8", "replace"))


def campaign(subject: Subject, count: int, seed: int, folder: Path, *, sealed: bool) -> tuple[Counter, list[str]]:
    """Tries `count` mutations; returns how often each outcome came, and a text for each fault.

    `sealed`: the seal of the sound file stays, so that the program knows without HDF5 and must refuse each.
    """
    generator = random.Random(f"{subject.name} {seed} {sealed}")
    sound, seal = subject.content[:-SEAL_BYTES], subject.content[-SEAL_BYTES:] if sealed else b""
    found, message = outcome(subject, subject.content, folder, None)
    assert found == WRONG, message
    expected = subject.result(folder, (folder / "stdout").read_bytes())
    found, message = outcome(subject, sound + seal, folder, expected)
    assert found == HARMLESS, message
    counts: Counter = Counter()
    faults = []
    for number in range(count):
        content = mutated(sound, generator) + seal
        found, message = outcome(subject, content, folder, expected)
        counts[found] += 1
        if found in FAULTS:
            faults.append(f"{subject.name}, mutation {number} of seed {seed}: {found}\n{message}")
    return counts, faults


def inspected(run_file: Path) -> Subject:
    def prepare(folder, content):
        (folder / "run.h5").write_bytes(content)
        return ["inspect", folder / "run.h5"], folder / "run.h5"

    return Subject("inspect", run_file.read_bytes(), prepare, lambda folder, stdout: stdout)


def exported(run_file: Path) -> Subject:
    def prepare(folder, content):
        (folder / "run.h5").write_bytes(content)
        return (["export", folder / "run.h5", "--format", "safetensors", "--out", folder / "v.safetensors"],
                folder / "run.h5")

    return Subject("export", run_file.read_bytes(), prepare, lambda folder, _: (folder / "v.safetensors").read_bytes())


def _values(path: Path) -> list:
    run = run_files.read(path)
    steps = [run.steps[name].tobytes() for name in run.steps.dtype.names if name != "seconds"]
    return [*steps, run.evals.tobytes(), run.vectors.tobytes(), run.vector_steps.tobytes()]


def resumed(job, run_file: Path) -> Subject:
    """The job, which the file of an interrupted run belongs to, goes on."""
    def prepare(folder, content):
        (folder / "run.h5").write_bytes(content)
        return job.but(out=folder / "run.h5").arguments("--resume"), folder / "run.h5"

    return Subject("resume", run_file.read_bytes(), prepare, lambda folder, _: _values(folder / "run.h5"))


def judged(evaluation: Path, results: Path) -> Subject:
    """Scores are added to an evaluation file."""
    def prepare(folder, content):
        (folder / "eval.h5").write_bytes(content)
        return (["evaluate", "--judge-import", results, "--out", folder / "eval.h5"], folder / "eval.h5")

    def result(folder, _):
        with h5py.File(folder / "eval.h5") as file:
            # A damaged name that nobody reads is kept like what other programs add.
            return [file.attrs["checksum"], *(file[name][()].tobytes() for name in evaluations.TABLES)]

    return Subject("judge-import", evaluation.read_bytes(), prepare, result)


def swept(arguments: Callable[[Path], list[object]], directory: Path, checkpoint: str) -> Subject:
    """A sweep goes on from its directory, in which the checkpoint of a pack is what is mutated."""
    def prepare(folder, content):
        shutil.copytree(directory, folder / "sweep")
        (folder / "sweep" / checkpoint).write_bytes(content)
        return arguments(folder / "sweep"), folder / "sweep" / checkpoint

    def result(folder, _):
        return [_values(path) for path in sorted((folder / "sweep").glob("*.h5"))]

    return Subject("sweep", (directory / checkpoint).read_bytes(), prepare, result, (program.FAILED, program.BAD_INPUT))
