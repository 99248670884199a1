"""How launcher/setup.sh runs mpirun: a request to stop reaches it as SIGUSR1, and it is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from documentation import SOURCE

# Tells what it hears; SIGUSR1 and SIGINT let it end, with a code that says which.
MPIRUN = """#!/usr/bin/env bash
code=0
trap 'echo USR1 >>heard; code=75; ends=$STUB_ENDS' USR1
trap 'echo INT >>heard; code=1; ends=yes' INT
trap 'echo TERM >>heard; code=143; ends=yes' TERM
printf '%s\\n' "$@" >arguments
for ((i = 0; i < 150; ++i)); do
  if [[ -n $ends ]]; then
    sleep 0.3
    exit "$code"
  fi
  sleep 0.1
done
exit 99
"""


@pytest.fixture
def start(tmp_path):
    stub = tmp_path / "mpirun"
    stub.write_text(MPIRUN)
    stub.chmod(0o755)

    def run(*signals: signal.Signals, to_group: bool = False, ends: str = "yes"):
        """As a shell with job control starts it: in a process group of its own."""
        script = f". '{SOURCE}/launcher/setup.sh'; status=0; run_ranks ./mpirun 'two words' || status=$?; exit $status"
        shell = subprocess.Popen(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, start_new_session=True,
                                 env={**os.environ, "STUB_ENDS": ends}, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not (tmp_path / "arguments").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)
        for number in signals:
            if to_group:
                os.killpg(shell.pid, number)
            else:
                shell.send_signal(number)
            time.sleep(0.5)
        heard = tmp_path / "heard"
        return shell.wait(30), heard.read_text().split() if heard.exists() else []

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_request_to_stop_is_handed_on_as_sigusr1(start, number, tmp_path):
    assert start(number) == (75, ["USR1"])
    assert (tmp_path / "arguments").read_text() == "two words\n"


def test_a_terminals_interrupt_does_not_reach_mpirun(start):
    assert start(signal.SIGINT, to_group=True) == (75, ["USR1"])


def test_the_second_one_interrupts_mpirun(start):
    assert start(signal.SIGINT, signal.SIGINT, ends="") == (1, ["USR1", "INT"])
