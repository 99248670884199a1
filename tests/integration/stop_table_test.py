"""Commands x phases x signals x addressees: a stop is heard, answered by exit code 75, and costs nothing that is done.

The default run takes a part of the table: a step of train meets each signal and addressee, what else saves meets two
signals, what does not save one; the test with the label long (BIPO_LONG_FORM) takes all of it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time

import pytest

import program
import run_files
from processes import hears_signals, ranks_of
from tiny_models import TinyModel, write_model, write_pairs

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1)
ADDRESSEES = ("bare", "rank 0", "rank 1", "mpirun")
WHOLE = bool(os.environ.get("BIPO_LONG_FORM"))
HEARD = 10  # seconds until a loaded machine has ended a job, or the rest of a step

# What the progress shows in each phase; "start" is from the moment at which signals are blocked.
PHASES = {
    "train": {"start": None, "pass": r"^prefix and reference", "step": r"^train \d", "end": r"^train 12/12"},
    "sweep": {"start": None, "pass": r"^prefix and reference", "step": r"^train \d"},
    "generate": {"start": None, "prompt": r"^prompt \d"},
    "evaluate": {"start": None, "measure": r"^evaluate \d"},
    "extract": {"start": None, "pass": r"(block|pair) \d"},
}
SAVES = {("train", "step"), ("train", "end"), ("sweep", "step"), ("generate", "prompt")}


def part_of_the_signals(command: str, phase: str) -> tuple[signal.Signals, ...]:
    if (command, phase) == ("train", "step"):
        return SIGNALS
    return (signal.SIGTERM, signal.SIGUSR1) if (command, phase) in SAVES else (signal.SIGTERM,)


def table() -> list[tuple[str, str, signal.Signals, str]]:
    whole = [(command, phase, number, addressee)
             for command, phases in PHASES.items()
             for phase, number, addressee in itertools.product(phases, SIGNALS, ADDRESSEES)
             if not (addressee == "mpirun" and number == signal.SIGPIPE)]  # mpirun ignores its own SIGPIPE
    if WHOLE:
        return whole
    # Walks both other axes at different paces along each command's phases.
    part = []
    for command, phases in PHASES.items():
        pace = itertools.count()
        for phase in list(phases)[1:]:
            for number in part_of_the_signals(command, phase):
                step = next(pace)
                addressee = ADDRESSEES[(step + step // len(ADDRESSEES)) % len(ADDRESSEES)]
                if addressee == "mpirun" and number == signal.SIGPIPE:
                    addressee = "rank 1"
                part.append((command, phase, number, addressee))
    return part


def name_of(row) -> str:
    command, phase, number, addressee = row
    return f"{command}-{phase}-{number.name}-{addressee.replace(' ', '')}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    model = write_model(folder / "slow", TinyModel(hidden_size=192, intermediate_size=512, layers=6))
    train = write_pairs(folder / "train.csv", 96)
    program.run_successfully(["train", *program.options({
        "model": model, "train": train, "layer": 1, "out": folder / "v.h5", "max_steps": 3, "threads": 1})])
    (folder / "prompts.txt").write_text("the cat sat\n" * 200)
    return folder


def arguments(row, inputs, out) -> list[object]:
    command, phase, _, addressee = row
    model, train = inputs / "slow", inputs / "train.csv"
    # mpirun passes a signal on after a second, in which an idle machine makes some twelve steps.
    epochs = 12 if phase == "step" and addressee == "mpirun" else 4
    trains = {"model": model, "train": train, "threads": 1, "out": out, "epochs": epochs, "batch_size": 32,
              "micro_batch": 4, "lr_unit": "absolute", "lr": 0.05, "warmup_steps": 2, "save_every": 600}
    options = {
        "train": {**trains, "layer": 1, "resume": True},
        "sweep": {**trains, "layers": "1", "seeds": "1,2", "vectors_per_pass": 1},
        "generate": {"model": model, "vector": inputs / "v.h5", "prompts": inputs / "prompts.txt", "out": out,
                     "threads": 1, "max_new_tokens": 20, "ignore_eos": True, "batch_size": 1, "multipliers": "0,1"},
        "evaluate": {"model": model, "vector": inputs / "v.h5", "test": train, "out": out, "threads": 1,
                     "multipliers": "-2,-1,0,1,2"},
        "extract": {"model": model, "train": write_pairs(out.parent / "many.csv", 600), "layer": 4, "out": out,
                    "threads": 1},
    }[command]
    return [command, *program.options(options)]


def wait_for(phase: str, pattern: str | None, running: program.Running, out, ranks: int | None) -> None:
    def ready() -> bool:
        if pattern is None:
            pids = [running.pid] if ranks is None else list(ranks_of(out).values())
            return len(pids) == (ranks or 1) and all(map(hears_signals, pids))
        return re.search(pattern, running.output(None).stderr, re.MULTILINE) is not None

    program.wait_until(ready, running)


@pytest.mark.parametrize("row", table(), ids=name_of)
def test_a_stop(row, inputs, tmp_path):
    command, phase, number, addressee = row
    suffix = {"generate": ".jsonl", "sweep": ""}.get(command, ".h5")
    out = tmp_path / f"out{suffix}"
    ranks = None if addressee == "bare" else 2
    with program.start(arguments(row, inputs, out), ranks) as running:
        wait_for(phase, PHASES[command][phase], running, out, ranks)
        if addressee.startswith("rank"):
            os.kill(ranks_of(out)[int(addressee[-1])], number)
        else:
            running.send(number)
        sent = time.monotonic()
        # The other group of a sweep goes on where one rank alone was told.
        finished = running.finish(60)
        seconds = time.monotonic() - sent
    deadline = time.monotonic() + 5
    while ranks_of(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not ranks_of(out), "left behind"
    if finished.code == program.DONE and phase in ("end", "measure", "pass"):  # it came too late
        return
    if phase == "end" and run_files.read(out).attributes["status"] == "complete":  # mpirun waits a second
        return
    by_mpirun = addressee == "mpirun" and number != signal.SIGUSR1
    assert finished.code == (program.FAILED if by_mpirun else program.INTERRUPTED), finished
    assert re.search(r"bipo-dist: (rank \d: )?SIG[A-Z0-9]+: ", finished.stderr), finished
    if (command, phase) not in SAVES:
        assert seconds < HEARD, finished
        left = [path.name for path in tmp_path.iterdir() if path.name != "many.csv"]
        assert left in ([], ["out"]), f"something half-written: {left}"
    elif command == "train":
        run_files.assert_whole(out)
        assert run_files.read(out).attributes["status"] == "interrupted"
        assert run_files.steps_saved(out) > 0
    elif command == "generate":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert 0 < len(rows) < 400, finished
    assert run_files.temporary_files(tmp_path) == []
    if (command, phase) not in SAVES and number != signal.SIGTERM and not WHOLE:
        return  # nothing is left that the next start could meet, which is shown once for each phase
    program.run_successfully([*arguments(row, inputs, out), *(["--overwrite"] if command == "generate" else [])],
                             ranks)
    if command == "train":
        expected = inputs / f"expected-{phase}-{addressee}.h5"
        if not expected.exists():
            program.run_successfully(arguments(row, inputs, expected))
        run_files.assert_identical(run_files.read(out), run_files.read(expected))
