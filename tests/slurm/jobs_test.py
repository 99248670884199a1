"""Training jobs under a real Slurm: the result, the time limit's signal, queueing again and its cap."""

from __future__ import annotations

import math
import os
import signal
import struct

import pytest

import damaged_models as damage
import program
import run_files
from processes import ranks_of

STEPS = 360  # of long_job


@pytest.fixture
def long_job(job):
    """Saved at every step, so that a signal surely comes in the middle."""
    return job.but(epochs=60, save_every=0, eval_every=20)


def expected_of(job, ranks=None) -> run_files.RunFile:
    """The undisturbed run, without Slurm; how often it saves is no part of the result."""
    direct = job.but(save_every=30).writing("direct.h5")
    program.run_successfully(direct.arguments(), ranks)
    return run_files.read(direct.out)


def exit_code(record: dict[str, str]) -> int:
    return int(record["ExitCode"].split(":")[0])


@pytest.mark.parametrize("launcher, launcher_options", [("mpirun", ["--bind-to", "none"]), ("srun", [])])
def test_a_job_on_two_nodes_gives_what_the_command_gives(cluster, site, job, launcher, launcher_options):
    site.write(BIPO_LAUNCHER=launcher, BIPO_LAUNCHER_OPTIONS=launcher_options, BIPO_NODES=2, BIPO_GPUS_PER_NODE=1)
    [submitted] = site.submitted(*job.arguments())
    [record] = cluster.wait_for_end(submitted.id)
    log = submitted.log_text(site.folder)
    assert (record["JobState"], record["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert record["NumNodes"] == "2" and record["TresPerNode"] == "gres:gpu:1", record
    run = run_files.read(job.out)
    assert run.attributes["status"] == "complete" and run.attributes["world_size"] == 2
    if os.geteuid() == 0:  # only root can give each node a name of its own
        assert "n1" in run.attributes["hosts"] and "n2" in run.attributes["hosts"]
    run_files.assert_identical(run, expected_of(job, ranks=2))


def test_the_time_limit_and_a_restart_leave_no_trace_in_the_result(cluster, site, long_job):
    """Slurm looks at time limits every 30 s, so this signal comes 10 to 40 s after the start."""
    site.write(BIPO_TIME_LIMIT=1, BIPO_SIGNAL_SECONDS=20)
    [submitted] = site.submitted(*long_job.arguments())
    cluster.wait_until(lambda: run_files.steps_saved(long_job.out) >= 3, "three steps")
    # The run would be done before its limit: it is halted until the signal is there.
    [rank] = ranks_of(long_job.out).values()
    os.kill(rank, signal.SIGSTOP)
    assert run_files.steps_saved(long_job.out) < STEPS, "it had ended before it could be halted"
    try:
        cluster.wait_until(lambda: "time limit is near" in submitted.log_text(site.folder), "the signal", timeout=70)
    finally:
        os.kill(rank, signal.SIGCONT)
    [record] = cluster.wait_for_end(submitted.id)
    log = submitted.log_text(site.folder)
    assert (record["JobState"], record["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert int(record["Restarts"]) >= 1, record
    assert "ended with exit code 75" in log and "queued again" in log, "the log must hold both runs"
    run_files.assert_identical(run_files.read(long_job.out), expected_of(long_job))


def test_no_more_restarts_than_the_site_allows(cluster, site, endless):
    site.write(BIPO_MAX_RESTARTS=1)
    [submitted] = site.submitted(*endless.arguments())
    signal_once_saving(cluster, endless, submitted, beyond=0)
    cluster.wait_until(lambda: cluster.jobs(submitted.id)[0]["Restarts"] == "1", "the restart")
    first = run_files.steps_saved(endless.out)
    signal_once_saving(cluster, endless, submitted, beyond=first)
    [record] = cluster.wait_for_end(submitted.id)
    log = submitted.log_text(site.folder)
    assert (record["JobState"], exit_code(record)) == ("FAILED", program.INTERRUPTED), log
    assert record["Restarts"] == "1" and "the most that BIPO_MAX_RESTARTS allows" in log, log
    run = run_files.read(endless.out)
    assert run.attributes["status"] == "interrupted" and len(run.steps) > first > 0


def signal_once_saving(cluster, job, submitted, beyond: int) -> None:
    """Sends what Slurm sends before the time limit, once more steps than `beyond` are saved."""
    cluster.wait_until(lambda: run_files.steps_saved(job.out) > beyond, f"steps after {beyond}")
    cluster.command("scancel", "--batch", "--signal=USR1", submitted.id)


def test_a_cancelled_job_is_not_queued_again(cluster, site, endless):
    """It saves all the same, and the same command with --resume would continue it."""
    [submitted] = site.submitted(*endless.arguments())
    cluster.wait_until(lambda: run_files.steps_saved(endless.out) >= 3, "three steps")
    cluster.command("scancel", submitted.id)
    [record] = cluster.wait_for_end(submitted.id)
    cluster.wait_until(lambda: not ranks_of(endless.out), "the end of its ranks")
    assert record["JobState"] == "CANCELLED" and record["Restarts"] == "0", record
    assert "queued again" not in submitted.log_text(site.folder)
    assert run_files.read(endless.out).attributes["status"] == "interrupted", submitted.log_text(site.folder)


def test_a_failing_program_fails_the_job(cluster, site, job, tiny_model, tmp_path):
    """Bad input is no reason to queue again: the job ends with the program's exit code and message.

    Before it submits, submit.sh lets the program look at all but the weights.
    """
    def poison(header: dict, data: bytearray) -> None:
        begin = header["model.layers.0.input_layernorm.weight"]["data_offsets"][0]
        data[begin:begin + 4] = struct.pack("<f", math.nan)

    model = damage.copy_of(tiny_model, tmp_path)
    damage.edit_safetensors(model / damage.WEIGHTS, poison)
    [submitted] = site.submitted(*job.but(model=model).arguments("--check-weights"))
    [record] = cluster.wait_for_end(submitted.id)
    assert (record["JobState"], exit_code(record)) == ("FAILED", program.BAD_INPUT), record
    assert record["Restarts"] == "0", record
    assert "tensor model.layers.0.input_layernorm.weight" in submitted.log_text(site.folder)


def test_what_slurm_refuses_is_said(site, job):
    site.write(BIPO_PARTITION="nowhere")
    finished = site.submit(*job.arguments())
    assert finished.code == program.BAD_INPUT and not finished.stdout, finished
    assert "partition" in finished.stderr and "sbatch refused" in finished.stderr, finished
