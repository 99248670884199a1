"""The program, which is built with Debian's Open MPI 4.1, under mpirun of Open MPI 5: the same bits, exit codes, and
saves at a signal, although Open MPI 5 leaves the ranks half a second between the signal and SIGKILL."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

import program
import run_files
from processes import ranks_of
from tiny_models import TinyModel, write_model, write_pairs

MPIEXEC_4 = program.from_environment("BIPO_MPIEXEC")
MPIEXEC_5 = program.from_environment("BIPO_MPIEXEC_5")
LIBRARY_5 = Path(MPIEXEC_5).parents[1] / "lib" / "libmpi.so.40"
GONE_WITHIN = 5  # seconds, on a loaded machine


@pytest.fixture(autouse=True)
def open_mpi_5(monkeypatch):
    monkeypatch.setenv("BIPO_MPIEXEC", MPIEXEC_5)


@pytest.fixture(scope="module")
def slow_inputs(tmp_path_factory):
    """A model and pairs with which a pass and a step take long enough to be hit."""
    folder = tmp_path_factory.mktemp("slow")
    model = write_model(folder / "slow", TinyModel(hidden_size=192, intermediate_size=512, layers=6))
    return {"model": model, "train": write_pairs(folder / "train.csv", 96)}


@pytest.fixture
def slow_job(job, slow_inputs):
    return job.but(**slow_inputs, test=None, epochs=3, batch_size=32, micro_batch=4, save_every=600)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Returns what a job gives with two ranks of Open MPI 4.1; the first one that asks trains it."""
    reference = tmp_path_factory.mktemp("reference") / "run.h5"

    def read(job) -> run_files.RunFile:
        if not reference.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("BIPO_MPIEXEC", MPIEXEC_4)
                program.run_successfully(job.but(out=reference).arguments(), ranks=2)
        return run_files.read(reference)

    return read


def wait_for(pattern: str, running: program.Running) -> None:
    program.wait_until(lambda: re.search(pattern, running.output(None).stderr, re.MULTILINE) is not None, running)


def assert_gone(job) -> None:
    deadline = time.monotonic() + GONE_WITHIN
    while ranks_of(job.out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not ranks_of(job.out), "left behind"


def test_two_replicas_have_the_bits_of_open_mpi_4(slow_job, expected):
    with program.start(slow_job.arguments(), ranks=2) as running:
        wait_for("^train 1/", running)
        ranks = ranks_of(slow_job.out)
        libraries = [Path(f"/proc/{pid}/maps").read_text() for pid in ranks.values()]
        finished = running.finish(60)
    assert sorted(ranks) == [0, 1] and all(str(LIBRARY_5.resolve()) in maps for maps in libraries), libraries
    assert finished.code == program.DONE, finished
    assert re.search(r"^  ranks +2 ranks = 1 cell x 2 dp x 1 tp; waiting ones yield their core$", finished.stderr, re.MULTILINE), finished
    run_files.assert_identical(run_files.read(slow_job.out), expected(slow_job))


def test_a_model_on_two_ranks_has_the_bits_of_open_mpi_4(job, monkeypatch):
    in_parts = job.but(tp=2)
    program.run_successfully(in_parts.arguments(), ranks=2)
    monkeypatch.setenv("BIPO_MPIEXEC", MPIEXEC_4)
    program.run_successfully(in_parts.writing("other.h5").arguments(), ranks=2)
    run_files.assert_identical(run_files.read(job.out), run_files.read(job.folder / "other.h5"))


PASS, STEP = "prefix and reference", "train [2345]/"


@pytest.mark.parametrize("number, code, phase", [
    pytest.param(signal.SIGUSR1, program.INTERRUPTED, PASS, id="USR1-pass"),
    pytest.param(signal.SIGUSR1, program.INTERRUPTED, STEP, id="USR1-step"),
    pytest.param(signal.SIGTERM, program.FAILED, PASS, id="TERM-pass"),
    pytest.param(signal.SIGTERM, program.FAILED, STEP, id="TERM-step"),
    pytest.param(signal.SIGINT, program.FAILED, STEP, id="INT-step"),
    pytest.param(signal.SIGHUP, program.FAILED, STEP, id="HUP-step")])
def test_a_signal_to_mpirun_costs_no_completed_step(slow_job, expected, number, code, phase):
    with program.start(slow_job.arguments("--resume"), ranks=2) as running:
        wait_for(f"^{phase}", running)
        shown = [int(step) for step in re.findall(r"^train (\d+)/", running.output(None).stderr, re.MULTILINE)]
        running.send(number)
        finished = running.finish(60)
    assert finished.code == code, finished
    assert_gone(slow_job)
    if shown:
        run_files.assert_whole(slow_job.out)
        assert run_files.read(slow_job.out).attributes["status"] == "interrupted", finished
        assert run_files.steps_saved(slow_job.out) >= max(shown), finished
    else:
        assert not slow_job.out.exists() or run_files.read(slow_job.out).attributes["status"] == "interrupted"
    assert run_files.temporary_files(slow_job.folder) == []
    program.run_successfully(slow_job.arguments("--resume"), ranks=2)
    run_files.assert_identical(run_files.read(slow_job.out), expected(slow_job))


def test_bad_input_is_exit_2(job):
    finished = program.run(job.but(model=job.folder / "none").arguments(), ranks=2)
    assert finished.code == program.BAD_INPUT and "no such directory or file" in finished.stderr, finished
    assert not job.out.exists()


def test_a_killed_rank_ends_the_job(endless):
    with program.start(endless.arguments(), ranks=2) as running:
        wait_for("^train [3456]", running)
        os.kill(ranks_of(endless.out)[1], signal.SIGKILL)
        finished = running.finish(30)
    assert finished.code == 128 + signal.SIGKILL, finished
    assert_gone(endless)
    run_files.assert_whole(endless.out)
