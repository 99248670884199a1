"""`bipo-dist report`: the page that it makes, the Python that it finds, and what it says without one."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import program
import pytest
from synthetic_evaluation import SyntheticEvaluation
from synthetic_sweep import SyntheticSweep, grid

SOURCE = Path(__file__).parents[2]
# What other tests draw.
UNUSED = frozenset({"choices", "costs", "grid", "judge", "judge_scores"})
NEEDED = ("h5py", "matplotlib", "numpy", "pandas")


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Runs the command with a cache of its own, in which nothing is installed."""
    monkeypatch.setenv("BIPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return lambda *arguments: program.run(["report", *arguments], timeout=120)


@pytest.fixture
def evaluation(tmp_path) -> Path:
    return SyntheticEvaluation(draws=12, absent=UNUSED).write(tmp_path / "warmth's eval.h5")


def install(tmp_path: Path, name: str, is_whole: bool = True) -> Path:
    """An environment that is this one."""
    venv = tmp_path / "cache" / f"venv-{name}"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "{name}" >>"{tmp_path}/used"\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    if not is_whole:
        (venv / "installing").touch()
    return python


def test_an_evaluation(report, evaluation, tmp_path):
    page = tmp_path / "a page.html"
    finished = report(evaluation, "--python", sys.executable, "--out", page)
    assert finished.code == 0, finished
    assert f"{page}: 1 evaluation" in finished.stdout
    assert "12 random directions" in page.read_text(encoding="utf-8")


def test_several_evaluations_and_a_sweep(report, evaluation, tmp_path):
    install(tmp_path, "full")
    other = SyntheticEvaluation(model="models/other", absent=UNUSED).write(tmp_path / "other.h5")
    finished = report(evaluation, other, "--out", tmp_path / "both.html")
    assert finished.code == 0 and "2 evaluations" in finished.stdout, finished
    sweep = SyntheticSweep(grid((5, 15), (1,))).write(tmp_path / "sweep")
    finished = report(sweep, "--out", tmp_path / "sweep.html")
    assert finished.code == 0 and "2 cells" in finished.stdout, finished
    assert (tmp_path / "used").read_text() == "full\nfull\n"


def test_the_small_environment_comes_first_unless_it_was_cut_short(report, evaluation, tmp_path):
    install(tmp_path, "full")
    python = install(tmp_path, "report")
    assert report(evaluation, "--out", tmp_path / "page.html").code == 0
    (python.parents[1] / "installing").touch()
    assert report(evaluation, "--out", tmp_path / "page.html").code == 0
    assert (tmp_path / "used").read_text() == "report\nfull\n"


@pytest.mark.parametrize("is_cut_short", [False, True])
def test_without_an_environment_the_command_that_makes_one_is_named(report, evaluation, tmp_path, is_cut_short):
    if is_cut_short:
        install(tmp_path, "report", is_whole=False)
    finished = report(evaluation, "--out", tmp_path / "page.html")
    assert finished.code == program.BAD_INPUT and not (tmp_path / "page.html").exists(), finished
    assert str(tmp_path / "cache") in finished.stderr and "--python" in finished.stderr
    command = re.search(r"bash -c '[^']*'", finished.stderr)[0]
    # The command is one of setup.sh, which knows that environment.
    checked = subprocess.run(["bash", "-c", command.replace("ensure_venv report", "cat $BIPO_SOURCE/launcher/"
                                                            "requirements-report.txt && declare -F ensure_venv")],
                             capture_output=True, text=True, timeout=60, check=True, env=os.environ)
    assert "h5py==" in checked.stdout and "ensure_venv" in checked.stdout


def test_pythons_that_cannot_make_one(report, evaluation, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{sys._base_executable}" -I -S "$@"\n', encoding="utf-8")  # noqa: SLF001
    bare.chmod(0o755)
    finished = report(evaluation, "--python", bare)
    assert finished.code == 1 and "lacks" in finished.stderr and "Traceback" not in finished.stderr, finished
    assert "h5py" in finished.stderr and "pip install" in finished.stderr
    finished = report(evaluation, "--python", tmp_path / "none")
    assert finished.code == program.BAD_INPUT and "none: cannot be started: No such file" in finished.stderr, finished


def test_errors_of_the_analysis_come_through(report, tmp_path):
    finished = report(tmp_path / "none.h5", "--python", sys.executable)
    assert finished.code == program.BAD_INPUT and "none.h5" in finished.stderr, finished


def pins(name: str) -> dict[str, str]:
    lines = (SOURCE / "launcher" / f"requirements-{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def test_the_small_environment_is_a_complete_part_of_the_full_one():
    """Installed with --no-deps, so that what a package needs must be named; the full one's versions are tested."""
    small = pins("report")
    assert small.items() <= pins("full").items()
    needed, known = [*NEEDED], set()
    while needed:
        name = needed.pop().lower().replace("_", "-")
        if name in known:
            continue
        known.add(name)
        needed += [re.match(r"[\w.-]+", line)[0] for line in importlib.metadata.requires(name) or []
                   if "extra ==" not in line]
    assert known == small.keys()
