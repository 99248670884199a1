"""A file system that fails: at every call of every command the outcome is the right result, or an error that names the
file, with the earlier file whole and nothing left behind.

BIPO_ALL_FAULTS=1 lets every call end in every way; otherwise, of the telling calls of each kind, every second one
ends in one way, in turn a failure or a harmless one, and of those that only read every fourth one.
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import faults
import program
import run_files
from campaign import default_folder
from file_kinds import write_files
from processes import ranks_of

ALL = os.environ.get("BIPO_ALL_FAULTS") == "1"
WORKERS = min(4, os.cpu_count() or 1)


@pytest.fixture(scope="module")
def suite():
    with tempfile.TemporaryDirectory(prefix="bipo-faults-", dir=default_folder()) as folder:
        source = Path(folder) / "source"
        write_files(source)
        yield faults.Faults(Path(program.from_environment("BIPO_FAULTS")), source, Path(folder) / "cases")


def plan(command: faults.Command, calls: list[faults.Call]) -> list[tuple[faults.Call, int | str]]:
    """Which call ends in which way."""
    if ALL:
        return [(call, error) for call in calls for error in faults.faults_at(call)]
    chosen = []
    seen: Counter[str] = Counter()
    for call in faults.telling_calls(command, calls):
        turn = seen[call.name]
        seen[call.name] += 1
        if turn % (4 if call.name in ("open", "read", "pread", "mmap") else 2):
            continue
        failures, harmless = (ways.get(call.name, ()) for ways in (faults.FAILURES, faults.HARMLESS))
        errors = harmless if len(chosen) % 3 == 2 and harmless else failures
        chosen.append((call, errors[len(chosen) % len(errors)]))
    return chosen


@pytest.mark.parametrize("command", faults.COMMANDS, ids=lambda command: command.name)
def test_one_call_fails(suite, command):
    calls, expected = suite.undisturbed(command)
    assert {call.name for call in calls} >= {"open", "close"}, "nothing was seen of the command"
    with ThreadPoolExecutor(WORKERS) as pool:
        complaints = list(pool.map(lambda fault: suite.complaint(command, *fault, expected), plan(command, calls)))
    found = [complaint for complaint in complaints if complaint]
    assert not found, f"{len(found)} of {len(complaints)}:\n" + "\n".join(found)


WRITERS = [command for command in faults.COMMANDS if command.outputs]


@pytest.mark.parametrize("command", WRITERS, ids=lambda command: command.name)
def test_a_disk_that_stays_full(suite, command):
    """From the first write on."""
    calls, expected = suite.undisturbed(command)
    first = next(call for call in calls if call.name == "write")
    assert suite.complaint(command, first, errno.ENOSPC, expected, lasts=True) is None


def test_a_halted_rank_ends_the_job(endless):
    job = endless.but(micro_batch=1, dp=2, timeout=3)
    with program.start(job.arguments(), ranks=2) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
        halted = ranks_of(job.out)[1]
        os.kill(halted, signal.SIGSTOP)
        began = time.monotonic()
        finished = running.finish(40)
    assert finished.code != program.DONE and "rank 1" in finished.stderr, finished
    assert time.monotonic() - began >= 3
    while ranks_of(job.out):
        assert time.monotonic() - began < 60, "left behind"
        time.sleep(0.1)
    run_files.assert_whole(job.out)
