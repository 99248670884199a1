"""The program of docs/files.md runs as it stands, and plain pandas and h5dump read a run file's tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import pandas
import pytest

from documentation import SOURCE, python_block

WRITER = os.environ.get("BIPO_WRITE_SAMPLE_RUN", "")
STEPS = 5  # of the sample, two to an epoch; see tests/experiments/sample_run.hpp


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds run.h5, written by the program's own writer."""
    assert WRITER, "BIPO_WRITE_SAMPLE_RUN names the program write_sample_run; CTest sets it"
    folder = tmp_path_factory.mktemp("files")
    subprocess.run([WRITER, str(folder / "run.h5"), str(STEPS)], check=True)
    return folder


def snippet() -> str:
    return python_block(SOURCE / "docs" / "files.md", "run.h5", "pandas")


def test_snippet_runs(folder):
    """It prints the held-out accuracy by epoch and multiplier, 0.5 + 0.2 m in the sample."""
    probe = snippet() + "\nassert len(steps) == 5 and len(evals) == 6 and vector.shape == (6,)\n"
    finished = subprocess.run([sys.executable, "-c", probe], cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    header, _, *rows = finished.stdout.splitlines()
    assert header.split() == ["multiplier", "-1.0", "0.0", "1.5"]
    assert [row.split() for row in rows] == [["0", "0.3", "0.5", "0.8"], ["1", "0.3", "0.5", "0.8"]]


@pytest.mark.parametrize("table, rows", [("steps", STEPS), ("evals", 6)])
def test_tables_open_by_plain_pandas(folder, table, rows):
    with h5py.File(folder / "run.h5") as file:
        frame = pandas.DataFrame(file[table][:])
    assert len(frame) == rows and frame["loss"].notna().all()
    assert all(kind.kind in "fi" for kind in frame.dtypes)


@pytest.mark.parametrize("table, rows", [("steps", STEPS), ("evals", 6)])
def test_tables_open_by_h5dump(folder, table, rows):
    dump = subprocess.run(["h5dump", "-d", f"/{table}", str(folder / "run.h5")], check=True, capture_output=True,
                          text=True)
    assert dump.stderr == "" and f"SIMPLE {{ ( {rows} )" in dump.stdout
    data = dump.stdout.partition("DATA {")[2].partition("ATTRIBUTE")[0]
    assert len(re.findall(r"^\s*\(\d+\): \{", data, re.MULTILINE)) == rows
