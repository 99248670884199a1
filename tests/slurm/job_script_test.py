"""What a job does at each signal and exit code, with a stub in place of the launcher and of scontrol."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurm_submission import SCRIPTS, Site

# Ends with STUB_EXIT: at once, or where STUB_WAITS is set when SIGUSR1 tells it to, after some time to save.
LAUNCHER = """#!/usr/bin/env bash
trap 'stopped=true' USR1
printf '%s\\n' "$@" >arguments
for ((i = 0; i < 100; ++i)); do
  if [[ -z $STUB_WAITS || -n $stopped ]]; then
    sleep "$STUB_SAVES"
    exit "$STUB_EXIT"
  fi
  sleep 0.1
done
exit 99
"""
SCONTROL = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>scontrol
"""
IN_A_JOB = {"SLURM_JOB_ID": "17", "SLURM_NTASKS_PER_NODE": "3", "SLURM_CPUS_PER_TASK": "2", "SLURM_JOB_NODELIST": "n1"}


@dataclass(frozen=True)
class Outcome:
    code: int
    log: str
    requeued: str  # scontrol's arguments, empty where it was not called
    arguments: list[str]  # the launcher's


@pytest.fixture
def start(tmp_path):
    """Starts a job script as Slurm does, sends it `signals`, and returns how it ended."""
    site = Site(tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {"mpirun": LAUNCHER, "srun": LAUNCHER, "scontrol": SCONTROL}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)

    def run(*words: str, script: str = "train.sbatch", signals: tuple[signal.Signals, ...] = (), ends_with: int = 0,
            saves: float = 0, restarts: int | None = None, **settings: object) -> Outcome:
        site.write(**settings)
        environment = {**site.environment, **IN_A_JOB, "PATH": f"{commands}:{os.environ['PATH']}",
                       "BIPO_SLURM_DIR": str(SCRIPTS), "STUB_EXIT": str(ends_with), "STUB_SAVES": str(saves),
                       "STUB_WAITS": "yes" if signals else ""}
        if restarts is not None:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        log = tmp_path / "log"
        with open(log, "w", encoding="utf-8") as output:
            job = subprocess.Popen(["bash", SCRIPTS / script, *words], cwd=tmp_path, env=environment, stdout=output,
                                   stderr=output, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not (tmp_path / "arguments").exists():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        for number in signals:
            job.send_signal(number)
            time.sleep(0.2)
        code = job.wait(20)
        return Outcome(code, log.read_text(), _text(tmp_path / "scontrol"), _text(tmp_path / "arguments").splitlines())

    return run


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("saves", [0, 1.5], ids=["at once", "after the signal's handling"])
def test_the_time_limits_signal_queues_the_job_again(start, saves):
    outcome = start(signals=(signal.SIGUSR1,), ends_with=75, saves=saves)
    assert (outcome.code, outcome.requeued) == (75, "requeue 17\n"), outcome.log


def test_a_signal_that_comes_twice_changes_nothing(start):
    outcome = start(signals=(signal.SIGUSR1, signal.SIGUSR1), ends_with=75, saves=1)
    assert (outcome.code, outcome.requeued) == (75, "requeue 17\n"), outcome.log


@pytest.mark.parametrize("signals, ends_with", [
    ((signal.SIGTERM,), 75), ((signal.SIGUSR1, signal.SIGTERM), 75), ((signal.SIGTERM, signal.SIGUSR1), 75),
    ((), 75), ((signal.SIGUSR1,), 0), ((signal.SIGUSR1,), 1), ((), 0), ((), 1), ((), 2)])
def test_nothing_else_does(start, signals, ends_with):
    outcome = start(signals=signals, ends_with=ends_with, saves=0.5 if signals else 0)
    assert (outcome.code, outcome.requeued) == (ends_with, ""), outcome.log


@pytest.mark.parametrize("most, restarts, requeued", [
    (0, None, ""), (1, None, "requeue 17\n"), (2, 1, "requeue 17\n"), (2, 2, ""), (2, 3, "")])
def test_the_cap_counts_restarts(start, most, restarts, requeued):
    outcome = start(signals=(signal.SIGUSR1,), ends_with=75, restarts=restarts, BIPO_MAX_RESTARTS=most)
    assert (outcome.code, outcome.requeued) == (75, requeued), outcome.log
    assert ("the most that BIPO_MAX_RESTARTS allows" in outcome.log) == (not requeued)


@pytest.mark.parametrize("script, command", [("train.sbatch", "train"), ("sweep.sbatch", "sweep")])
@pytest.mark.parametrize("launcher, begins", [
    ("mpirun", ["-N", "3", "--x", "two words"]),
    ("srun", ["--mpi=pmix", "--wait=60", "--cpus-per-task=2", "--x", "two words"])])
def test_the_launcher_gets_the_arguments_as_they_are(start, script, command, launcher, begins):
    outcome = start("--system-prompt", "Be *kind*; $HOME", script=script, BIPO_LAUNCHER=launcher,
                    BIPO_LAUNCHER_OPTIONS=["--x", "two words"], BIPO_PROGRAM="/a/bipo-dist")
    assert outcome.code == 0, outcome.log
    assert outcome.arguments == [*begins, "/a/bipo-dist", command, "--system-prompt", "Be *kind*; $HOME"]
