"""The program of docs/files.md runs as it stands, and plain pandas and h5dump read a run file's tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy
import pandas
import pytest

from bipo_analysis.errors import AnalysisError
from bipo_analysis.run import load_run
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


def run_block(folder, *words) -> list[str]:
    block = python_block(SOURCE / "docs" / "files.md", *words)
    finished = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_the_page_checks_checksums(folder, tmp_path):
    lines = run_block(folder, "hashlib", "bipo-sum")
    assert len(lines) == 7 and all(line.endswith(": True") for line in lines), lines
    (tmp_path / "run.h5").write_bytes((folder / "run.h5").read_bytes())
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file["vectors/value"][0, 0] += 1
    lines = run_block(tmp_path, "hashlib", "bipo-sum")
    assert [line for line in lines if line.endswith(": False")] == ["vectors/value: False"]
    assert not any(line.startswith("seal") for line in lines)


def test_the_page_removes_checksums(folder, tmp_path):
    (tmp_path / "run.h5").write_bytes((folder / "run.h5").read_bytes())
    run_block(tmp_path, "visititems")
    with h5py.File(tmp_path / "run.h5") as file:
        assert "checksum" not in file.attrs
        assert all("checksum" not in file[name].attrs for name in ("steps", "vectors/value", "checkpoint/seed"))


def test_the_analysis_finds_damage_and_changes(folder, tmp_path):
    content = (folder / "run.h5").read_bytes()
    run = tmp_path / "run.h5"
    for place in (100, len(content) // 2, len(content) - 1):
        run.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        with pytest.raises(AnalysisError, match="run.h5: damaged: its bytes do not match"):
            load_run(run)
    for change, what in ((lambda file: file["vectors/value"].write_direct(numpy.zeros((2, 6), "f4")), "/vectors/value"),
                         (lambda file: file.attrs.modify("layer", numpy.int64(3)), "its attributes")):
        run.write_bytes(content)
        with h5py.File(run, "r+") as file:
            change(file)
        with pytest.raises(AnalysisError, match=f"{what} do(es)? not match the checksum"):
            load_run(run)
    run.write_bytes(content)
    with h5py.File(run, "r+") as file:
        file.attrs["note"] = "mine"
    assert load_run(run).layer == 15


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
