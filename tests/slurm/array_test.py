"""Sweeps under a real Slurm: an array that works one directory, a takeover, and the analysis after it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import h5py
import pandas
import pytest

import program
import run_files
from processes import ranks_of

CELLS = 6


@pytest.fixture
def sweep_job(job):
    """Six cells that train one by one, saved at every step: long enough for two tasks to share and to be cancelled."""
    return job.but(layer=None, layers="1,2", seeds="1,2,3", vectors_per_pass=1, epochs=30, save_every=0, eval_every=15,
                   out=job.folder / "sweep")


def sweep_arguments(job) -> list[object]:
    return ["sweep", *job.arguments()[1:]]


@pytest.fixture(scope="module")
def undisturbed_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture
def expected(sweep_job, undisturbed_folder) -> dict[str, run_files.RunFile]:
    """The same cells by one undisturbed command without Slurm; how often it saves is no part of the result."""
    undisturbed = sweep_job.but(save_every=30, out=undisturbed_folder / "sweep")
    if not undisturbed.out.exists():
        program.run_successfully(sweep_arguments(undisturbed))
    return {path.stem: run_files.read(path) for path in run_paths(undisturbed.out)}


def run_paths(directory: Path) -> list[Path]:
    """The run files that the plan promises and that are there."""
    if not (directory / "plan.json").exists():
        return []
    cells = json.loads((directory / "plan.json").read_text())["cells"]
    assert len(cells) == CELLS
    return [path for cell in cells if (path := directory / f"{cell['name']}.h5").exists()]


def complete_paths(directory: Path) -> list[Path]:
    return [path for path in run_paths(directory) if run_files.read(path).attributes["status"] == "complete"]


def assert_same_results(directory: Path, expected: dict[str, run_files.RunFile]) -> None:
    assert sorted(path.stem for path in complete_paths(directory)) == sorted(expected)
    for path in run_paths(directory):
        run_files.assert_identical(run_files.read(path), expected[path.stem])


def summary_of(directory: Path) -> pandas.DataFrame:
    with h5py.File(directory / "sweep.h5") as file:
        table = pandas.DataFrame(file["summary"][:])
        assert file.attrs["kind"] == "sweep"
    for column in ("cell", "status"):
        table[column] = table[column].str.decode("utf-8")
    return table.set_index("cell")


def time_of(record: dict[str, str], name: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(record[name])


def test_two_tasks_share_a_sweep_and_the_analysis_follows(cluster, site, sweep_job, expected):
    array, analysis = site.submitted("--array", 2, *sweep_arguments(sweep_job))
    finished_at: dict[Path, int] = {}

    def watch() -> bool:
        """A cell is done twice if its complete file is written once more."""
        for path in complete_paths(sweep_job.out):
            written = path.stat().st_mtime_ns
            assert finished_at.setdefault(path, written) == written, f"{path} was made a second time"
        return len(finished_at) == CELLS

    cluster.wait_until(watch, f"{CELLS} complete cells", timeout=90)
    tasks = cluster.wait_for_end(array.id)
    [record] = cluster.wait_for_end(analysis.id)
    logs = array.log_text(site.folder) + analysis.log_text(site.folder)
    assert watch()
    assert [task["JobState"] for task in tasks] == ["COMPLETED", "COMPLETED"], logs
    assert_same_results(sweep_job.out, expected)
    hosts = {run_files.read(path).attributes["hosts"] for path in run_paths(sweep_job.out)}
    assert len(hosts) == 2 or tasks[0]["NodeList"] == tasks[1]["NodeList"], f"one task did it all on {hosts}"
    assert record["JobState"] == "COMPLETED", logs
    assert time_of(record, "StartTime") >= max(time_of(task, "EndTime") for task in tasks)
    summary = summary_of(sweep_job.out)
    assert dict(summary["status"]) == {cell: "complete" for cell in expected}
    for cell, run in expected.items():
        assert summary["accuracy_plus"][cell] == run.evaluation(1.0)["accuracy"]
    assert "<html" in (sweep_job.out / "report.html").read_text(encoding="utf-8").lower()


def test_a_second_submission_takes_a_cancelled_sweep_over(cluster, site, sweep_job, expected):
    first, analysis = site.submitted(*sweep_arguments(sweep_job))

    def is_in_the_middle() -> bool:
        paths = run_paths(sweep_job.out)
        return len(paths) >= 2 and run_files.steps_saved(paths[-1]) >= 3

    cluster.wait_until(is_in_the_middle, "the second cell's steps")
    cluster.command("scancel", first.id)
    [cancelled] = cluster.wait_for_end(first.id)
    cluster.wait_until(lambda: not ranks_of(sweep_job.out), "the end of its ranks")
    assert cancelled["JobState"] == "CANCELLED", first.log_text(site.folder)
    done = {path: path.stat().st_mtime_ns for path in complete_paths(sweep_job.out)}
    assert 0 < len(done) < CELLS

    [record] = cluster.wait_for_end(analysis.id)
    assert record["JobState"] == "COMPLETED", "the analysis takes what is there\n" + analysis.log_text(site.folder)
    assert set(summary_of(sweep_job.out)["status"]) >= {"complete", "missing"}

    [second] = site.submitted("--no-analysis", *sweep_arguments(sweep_job))
    [record] = cluster.wait_for_end(second.id)
    assert record["JobState"] == "COMPLETED", second.log_text(site.folder)
    assert_same_results(sweep_job.out, expected)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was complete was done again"


def test_the_analysis_alone_and_without_a_report(cluster, site, sweep_job):
    site.write(BIPO_ANALYSIS_PYTHON="")
    program.run_successfully(sweep_arguments(sweep_job.but(epochs=1)))
    [submitted] = site.submitted("analyze", sweep_job.out)
    [record] = cluster.wait_for_end(submitted.id)
    log = submitted.log_text(site.folder)
    assert record["JobState"] == "COMPLETED" and "no report" in log, log
    assert (summary_of(sweep_job.out)["status"] == "complete").all()
    assert not (sweep_job.out / "report.html").exists()
