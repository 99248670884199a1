"""Standard output that cannot be written is exit code 1 with a message; a run outlives its listeners."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import program
import run_files


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_model, tiny_pairs):
    """A run file, questions, and the run files of a sweep."""
    folder = tmp_path_factory.mktemp("results")
    common = {"model": tiny_model, "train": tiny_pairs, "max_steps": 2, "threads": 1}
    program.run_successfully(["train", *program.options({**common, "layer": 1, "out": folder / "run.h5"})])
    program.run_successfully(["sweep", *program.options({**common, "layers": 1, "out": folder / "sweep"})])
    (folder / "questions.txt").write_text("the cat\na dog\n")
    return folder


def commands(folder, model, pairs):
    vector = {"model": model, "vector": folder / "run.h5", "threads": 1}
    workload = {"model": model, "layer": 1}
    return {
        "help": ["--help"],
        "help of a command": ["train", "--help"],
        "version": ["--version"],
        "inspect": ["inspect", folder / "run.h5"],
        "inspect --json": ["inspect", folder / "run.h5", "--json"],
        "watch": ["watch", folder / "run.h5"],
        "plan": ["plan", *program.options({**workload, "machine": "h100"})],
        "plan --json": ["plan", *program.options({**workload, "machine": "h100", "json": True})],
        "bench --json": ["bench", *program.options({**workload, "steps": 2, "threads": 1, "json": True})],
        "generate": ["generate", *program.options({**vector, "prompts": folder / "questions.txt", "max_new_tokens": 3})],
        "generate --stream": ["generate", *program.options({**vector, "prompt": "a", "max_new_tokens": 3,
                                                            "stream": True})],
        "evaluate": ["evaluate", *program.options({**vector, "test": pairs, "out": folder / "e.h5", "overwrite": True})],
        "extract": ["extract", *program.options({"model": model, "train": pairs, "layer": 1, "threads": 1,
                                                 "out": folder / "x.h5", "overwrite": True})],
        "export": ["export", folder / "run.h5", *program.options({"format": "pt", "out": folder / "v.pt",
                                                                  "overwrite": True})],
        "import": ["import", folder / "v.pt", *program.options({"layer": 1, "out": folder / "i.h5", "overwrite": True})],
        "collect": ["collect", folder / "sweep", *program.options({"out": folder / "all.h5", "overwrite": True})],
        "sweep": ["sweep", *program.options({"model": model, "train": pairs, "max_steps": 2, "threads": 1,
                                             "layers": 1, "out": folder / "sweep"})],
        "sweep --dry-run": ["sweep", *program.options({"model": model, "train": pairs, "layers": 1, "dry_run": True,
                                                       "out": folder / "new"})],
    }


NAMES = list(commands(Path(), "", ""))


def run_with_stdout(arguments, stdout) -> tuple[int, str]:
    """`stdout`: a file, or "closed" or "pipe" for one whose reader is gone."""
    command = [program.from_environment("BIPO_DIST"), *map(str, arguments)]
    environment = {**os.environ, **program.MPI_ENVIRONMENT}
    if stdout == "closed":
        command = ["sh", "-c", 'exec "$0" "$@" >&-', *command]
        stdout = None
    if stdout == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, text=True,
                               timeout=120, env=environment)
        os.close(writer)
    else:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True,
                               timeout=120, env=environment)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(results, tiny_model, tiny_pairs, name):
    with open("/dev/full", "w") as full:
        code, stderr = run_with_stdout(commands(results, tiny_model, tiny_pairs)[name], full)
    assert code == program.FAILED and "standard output cannot be written" in stderr, stderr
    assert "No space left on device" in stderr, stderr


@pytest.mark.parametrize("stdout", ["pipe", "closed"])
@pytest.mark.parametrize("name", ["help", "inspect", "plan --json", "bench --json", "generate", "evaluate", "collect"])
def test_nobody_there(results, tiny_model, tiny_pairs, name, stdout):
    code, stderr = run_with_stdout(commands(results, tiny_model, tiny_pairs)[name], stdout)
    assert code == program.FAILED and "standard output cannot be written" in stderr, stderr


def test_a_generation_ends_at_the_first_text_that_is_lost(results, tiny_model):
    """It would take minutes to its end."""
    (results / "many.txt").write_text("the cat\n" * 100000)
    arguments = ["generate", *program.options({
        "model": tiny_model, "vector": results / "run.h5", "prompts": results / "many.txt", "max_new_tokens": 20,
        "threads": 1})]
    for stdout in ("pipe", "/dev/full"):
        with open("/dev/full", "w") as full:
            code, stderr = run_with_stdout(arguments, full if stdout == "/dev/full" else stdout)
        assert code == program.FAILED and "standard output cannot be written" in stderr, stderr


def test_it_is_an_error_also_with_ranks(results, tiny_model):
    """Only one rank prints; the others end with it."""
    command = " ".join(map(str, [program.from_environment("BIPO_DIST"), "generate", *program.options({
        "model": tiny_model, "vector": results / "run.h5", "prompts": results / "questions.txt", "max_new_tokens": 3,
        "threads": 1})]))
    with program.Running([program.from_environment("BIPO_MPIEXEC"), "-n", "2", "sh", "-c",
                          f"exec {command} > /dev/full"]) as running:
        finished = running.finish(60)
    assert finished.code == program.FAILED and "standard output cannot be written" in finished.stderr, finished


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_outlives_the_reader_of_its_progress(job, ranks):
    """stderr is a pipe whose reader leaves after the first lines."""
    job = job.but(micro_batch=2)  # the same sums on one and two ranks
    undisturbed = job.but(epochs=40).writing("undisturbed.h5")
    program.run_successfully(undisturbed.arguments())
    deserted = job.but(epochs=40, save_every=0)
    command = [program.from_environment("BIPO_DIST"), *map(str, deserted.arguments())]
    if ranks > 1:  # mpirun itself ends where its own stderr is closed
        command = [program.from_environment("BIPO_MPIEXEC"), "-n", str(ranks), "sh", "-c",
                   'exec "$0" "$@" 2> >(head -c 40 > /dev/null)'.replace("sh", "bash"), *command]
        command[3] = "bash"
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env={**os.environ, **program.MPI_ENVIRONMENT})
    if ranks == 1:
        running.stderr.read(40)
    running.stderr.close()
    assert running.wait(120) == program.DONE
    run_files.assert_identical(run_files.read(deserted.out), run_files.read(undisturbed.out))
    assert run_files.read(deserted.out).attributes["status"] == "complete"


def test_a_training_whose_both_streams_close_is_complete(job):
    """`train ... 2>&1 | head -1`: all steps are in the run file; the lost result lines are exit code 1."""
    command = [program.from_environment("BIPO_DIST"), *map(str, job.but(epochs=40).arguments())]
    reader, writer = os.pipe()
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer,
                               env={**os.environ, **program.MPI_ENVIRONMENT})
    os.close(writer)
    os.read(reader, 40)
    os.close(reader)
    assert running.wait(120) == program.FAILED
    assert run_files.read(job.out).attributes["status"] == "complete"


def test_closed_streams_are_not_taken_by_files(job):
    """With stderr closed, the first file that is opened would be number 2 and get the progress."""
    command = [program.from_environment("BIPO_DIST"), *map(str, job.arguments())]
    ended = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&- 2>&-', *command], stdout=subprocess.PIPE, text=True,
                           timeout=120, env={**os.environ, **program.MPI_ENVIRONMENT})
    assert ended.returncode == program.DONE and str(job.out) in ended.stdout
    run_files.assert_whole(job.out)
