"""A writer killed at random moments always leaves a whole run file."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import h5py
import numpy

WRITER = os.environ["BIPO_WRITE_SAMPLE_RUN"]
KILLS = 50
STEPS = 40


def kill_a_writer(path: Path, seconds: float) -> None:
    writer = subprocess.Popen([WRITER, str(path), str(STEPS), "forever"])
    time.sleep(seconds)
    assert writer.poll() is None, "the writer ended by itself"
    writer.kill()
    writer.wait()


def assert_whole(path: Path) -> int:
    """Every part of the file belongs to the same save; returns its number of steps."""
    with h5py.File(path, "r") as file:
        steps = int(file["checkpoint/step"][()])
        assert list(file["steps"]["step"]) == list(range(steps))
        numpy.testing.assert_array_equal(file["steps"]["margin"], 0.5 * numpy.arange(steps))
        saves = steps // 2
        assert len(file["evals"][:]) == 3 * saves
        assert list(file["vectors/step"]) == [2 * save + 2 for save in range(saves)]
        numpy.testing.assert_array_equal(file["vectors/value"][:, 0], 2 * numpy.arange(saves) + 1)
        numpy.testing.assert_array_equal(file["checkpoint/exp_avg"][:], 20 + 0.25 * numpy.arange(6))
    return steps


def test_fifty_kills_leave_a_whole_file_and_no_old_temps(tmp_path):
    path = tmp_path / "run.h5"
    subprocess.run([WRITER, str(path), "1"], check=True)
    moments = random.Random(20240531)
    found = {}
    for kill in range(KILLS):
        kill_a_writer(path, 0.02 + 0.2 * moments.random())
        found[kill] = assert_whole(path)
        # The next writer removes what the last one left, so that temps never pile up.
        assert len(list(tmp_path.iterdir())) <= 2, sorted(tmp_path.iterdir())
    assert len(set(found.values())) > 5, f"the kills hit too few different saves: {found}"
    subprocess.run([WRITER, str(path), "1"], check=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]
