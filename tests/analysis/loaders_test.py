"""load_run and load_sweep against files that h5py wrote from formulas."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import h5py
import numpy
import pandas
import pytest
import synthetic_sweep
from synthetic_sweep import STEP_TYPE, CellSpec, SyntheticSweep, grid

from bipo_analysis import AnalysisError, load_run, load_sweep
from bipo_analysis.claims import DEAD_AFTER, process_start
from bipo_analysis.summary import COLUMNS

CELL = CellSpec(layer=10, seed=2)


@pytest.fixture
def run_path(tmp_path) -> Path:
    """A run of CELL stopped after 25 of its 30 steps."""
    path = tmp_path / f"{CELL.name}.h5"
    with h5py.File(path, "w") as file:
        synthetic_sweep.write_run_tree(file, CELL, "interrupted", 25)
    return path


@pytest.fixture
def sweep_path(half_dead, tmp_path) -> Path:
    return half_dead.write(tmp_path / "warmth")


def expected_frame(sweep: SyntheticSweep) -> pandas.DataFrame:
    columns = list(sweep.summary().dtype.names)
    return pandas.DataFrame([sweep.summary_row(index) for index in range(len(sweep.cells))], columns=columns)


def assert_summary(found: pandas.DataFrame, sweep: SyntheticSweep) -> None:
    pandas.testing.assert_frame_equal(found, expected_frame(sweep), check_dtype=False, rtol=1e-12)


def test_run_has_settings_tables_and_vectors(run_path):
    run = load_run(run_path)
    assert (run.name, run.status, run.layer) == (CELL.name, "interrupted", 10)
    assert run.settings["multipliers"] == [-1, 0, 1] and run.attributes["hosts"] == "node1"
    assert list(run.steps.columns) == list(STEP_TYPE.names)
    assert list(run.steps["step"]) == list(range(25))
    assert run.steps["loss"].iloc[-1] == synthetic_sweep.loss(CELL, 24)
    assert list(run.evals["multiplier"]) == [-1, 0, 1] * 2
    assert list(run.evals["epoch"]) == [0, 0, 0, 1, 1, 1]
    assert list(run.vector_steps) == [10, 20] and list(run.vector_epochs) == [0, 1]
    expected = synthetic_sweep.vector_norm(20) * synthetic_sweep.direction(CELL, 16)
    numpy.testing.assert_allclose(run.vectors[-1], expected, rtol=1e-6, atol=1e-7)
    assert run.final_vector is not None and (run.final_vector == run.vectors[-1]).all()


def test_run_before_its_first_step(tmp_path):
    with h5py.File(tmp_path / "run.h5", "w") as file:
        synthetic_sweep.write_run_tree(file, CELL, "running", 0)
    run = load_run(tmp_path / "run.h5")
    assert len(run.steps) == len(run.evals) == len(run.vectors) == 0 and run.final_vector is None


def test_missing_run_is_named(tmp_path):
    with pytest.raises(AnalysisError, match="nothing.h5: no such file"):
        load_run(tmp_path / "nothing.h5")


def test_damaged_run_is_named(run_path):
    run_path.write_bytes(run_path.read_bytes()[:1500])
    with pytest.raises(AnalysisError, match=f"{CELL.name}.h5: damaged"):
        load_run(run_path)


def test_run_without_its_steps_is_damaged(run_path):
    with h5py.File(run_path, "r+") as file:
        del file["steps"]
    with pytest.raises(AnalysisError, match="damaged, or not a run file"):
        load_run(run_path)


def test_newer_run_is_refused(run_path):
    with h5py.File(run_path, "r+") as file:
        file.attrs["schema_version"] = 3
    with pytest.raises(AnalysisError, match="schema_version is 3, and this package reads up to 2"):
        load_run(run_path)


def test_directory_of_a_half_dead_sweep(half_dead, sweep_path):
    sweep = load_sweep(sweep_path)
    assert sweep.name == "warmth" and sweep.program_version == "0.1.0"
    assert sweep.settings["lr_unit"] == "residual"
    assert_summary(sweep.summary, half_dead)


def test_collected_sweep_is_the_same(half_dead, sweep_path, tmp_path):
    collected = load_sweep(half_dead.collect(tmp_path / "warmth.h5"))
    directory = load_sweep(sweep_path)
    assert_summary(collected.summary, half_dead)
    pandas.testing.assert_frame_equal(collected.summary, directory.summary, check_dtype=False, rtol=1e-12)
    assert collected.plan == directory.plan and collected.name == directory.name
    assert list(collected.runs) == list(directory.runs)
    for name, run in collected.runs.items():
        other = directory.runs[name]
        assert (run.name, run.settings) == (other.name, other.settings)
        pandas.testing.assert_frame_equal(run.steps, other.steps, check_exact=True)
        pandas.testing.assert_frame_equal(run.evals, other.evals, check_exact=True)
        numpy.testing.assert_array_equal(run.vectors, other.vectors)


@pytest.mark.parametrize("stored, read", [(None, "block"), (b"", "block"), (b"mlp", "mlp")])
def test_collected_sweeps_of_before_the_column_site(half_dead, tmp_path, stored, read):
    """They had it among the settings, behind all others, where one of several sweeps was of MLPs."""
    path = half_dead.collect(tmp_path / "warmth.h5")
    with h5py.File(path, "r+") as file:
        rows = file["summary"][:]
        names = [name for name in rows.dtype.names if name != "site"]
        older = numpy.zeros(len(rows), [*((name, rows.dtype[name]) for name in names),
                                        *([("site", "S5")] if stored is not None else [])])
        for name in names:
            older[name] = rows[name]
        if stored is not None:
            older["site"] = stored
        del file["summary"]
        file["summary"] = older
    expected = expected_frame(half_dead).assign(site=read)
    pandas.testing.assert_frame_equal(load_sweep(path).summary, expected, check_dtype=False, rtol=1e-12)


def test_runs_are_those_that_can_be_read(half_dead, sweep_path):
    runs = load_sweep(sweep_path).runs
    assert list(runs) == [cell.name for index, cell in enumerate(half_dead.cells) if half_dead.has_run(index)]
    assert len(runs) == 8
    with pytest.raises(KeyError):
        runs[half_dead.cells[9].name]


def test_runs_are_those_of_the_summary(half_dead, sweep_path):
    """A job may replace or remove a file meanwhile: table and runs are of one moment."""
    sweep = load_sweep(sweep_path)
    name = half_dead.cells[1].name
    (sweep_path / f"{name}.h5").unlink()
    assert len(sweep.runs[name].steps) == sweep.summary.set_index("cell").loc[name, "steps"]
    with pytest.raises(KeyError):
        sweep.runs["nothing"]


def test_unreadable_cell_does_not_hide_the_others(half_dead, sweep_path):
    (sweep_path / f"{half_dead.cells[1].name}.h5").write_bytes(b"not HDF5")
    row = load_sweep(sweep_path).summary.iloc[1]
    assert row["status"] == "unreadable" and "damaged" in row["failure"]
    assert row["steps"] == -1 and numpy.isnan(row["accuracy_plus"])


def test_sweep_without_cells(tmp_path):
    sweep = load_sweep(SyntheticSweep([]).write(tmp_path / "empty"))
    assert len(sweep.summary) == 0 and list(sweep.summary.columns) == list(COLUMNS)


def test_best_evaluation_is_the_earlier_of_equals(tmp_path):
    """The margin at +1 less that at -1 decides, then the order; accuracy does not."""
    path = SyntheticSweep([CELL]).write(tmp_path / "sweep") / f"{CELL.name}.h5"
    with h5py.File(path, "r+") as file:
        rows = file["evals"][:]
        rows["accuracy"] = [0.4, 0.5, 0.6] * 3
        rows["margin"] = [-1, 0, 1, -2, 0, 2, -2, 0, 2]
        file["evals"][:] = rows
    row = load_sweep(path.parent).summary.iloc[0]
    assert row["best_epoch"] == 1 and row["best_margin_plus"] == 2
    with h5py.File(path, "r+") as file:
        rows["accuracy"][2], rows["margin"][2] = 0.62, 3.5
        file["evals"][:] = rows
    row = load_sweep(path.parent).summary.iloc[0]
    assert row["best_epoch"] == 0 and row["best_accuracy_plus"] == 0.62 and row["accuracy_plus"] == 0.6


def test_settings_of_a_model_and_data_set(tmp_path):
    """The plan groups them in `inputs`; their columns stand after the shared ones, which all cells have."""
    path = SyntheticSweep(grid((5,), (1,), model=("a", "b"))).write(tmp_path / "sweep")
    plan = json.loads((path / "plan.json").read_text())
    plan["settings"] = {"dtype": "fp32", "skip_bad": False, "inputs": [
        {"model": "b", "data": "warmth", "test_pairs": 9, "limits": [1.5, 2], "note": "ja, größer"},
        {"model": "a", "data": "warmth", "test_pairs": 50, "limits": [], "note": None}], "huge": 2**64 - 1}
    (path / "plan.json").write_text(json.dumps(plan))
    summary = load_sweep(path).summary
    assert list(summary.columns) == [*COLUMNS, "dtype", "skip_bad", "huge", "test_pairs", "limits", "note"]
    assert list(summary["model"]) == ["a", "b"] and list(summary["test_pairs"]) == [50, 9]
    assert list(summary["limits"]) == ["[]", "[1.5,2]"] and list(summary["note"]) == ["", "ja, größer"]
    assert list(summary["huge"]) == [float(2**64 - 1)] * 2
    assert list(summary["skip_bad"]) == [0, 0] and summary["skip_bad"].dtype == "int64"


def test_seed_beyond_int64(tmp_path):
    cell = CellSpec(layer=1, seed=2**64 - 2)
    sweep = SyntheticSweep([cell])
    for path in (sweep.write(tmp_path / "sweep"), sweep.collect(tmp_path / "sweep.h5")):
        assert int(load_sweep(path).summary["seed"].iloc[0]) == 2**64 - 2


def write_claim(directory: Path, cell: CellSpec, generation: int = 1, age: float = 0.0, **content: object) -> None:
    claims = directory / "claims"
    claims.mkdir(exist_ok=True)
    path = claims / f"{cell.name}.{generation}.json"
    path.write_text(json.dumps({"owner": "0" * 32, "host": "elsewhere", "boot_id": "other", "pid": 1,
                                "pid_namespace": "pid:[1]", "start_time": 1, "released": False, **content}))
    os.utime(path, (time.time() - age, time.time() - age))


def status_of(directory: Path, index: int) -> str:
    return load_sweep(directory).summary["status"].iloc[index]


@pytest.fixture
def unfinished(tmp_path) -> tuple[Path, CellSpec]:
    """A sweep whose one cell was cut short."""
    sweep = SyntheticSweep([CELL], steps={0: 25})
    return sweep.write(tmp_path / "sweep"), CELL


def test_claimed_cell_is_running(unfinished):
    directory, cell = unfinished
    assert status_of(directory, 0) == "interrupted"
    write_claim(directory, cell)
    assert status_of(directory, 0) == "running"


def test_claim_of_a_missing_cell(tmp_path):
    directory = SyntheticSweep([CELL], missing=frozenset({0})).write(tmp_path / "sweep")
    write_claim(directory, CELL)
    assert status_of(directory, 0) == "running"


def test_old_released_and_superseded_claims_are_dead(unfinished):
    directory, cell = unfinished
    write_claim(directory, cell, age=DEAD_AFTER + 5)
    assert status_of(directory, 0) == "interrupted"
    write_claim(directory, cell, generation=10)
    assert status_of(directory, 0) == "running"
    write_claim(directory, cell, generation=10, released=True)
    assert status_of(directory, 0) == "interrupted"


def own_identity(pid: int) -> dict[str, object]:
    return {"boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "pid_namespace": os.readlink("/proc/self/ns/pid"), "pid": pid}


def test_claim_of_a_process_on_this_host(unfinished):
    directory, cell = unfinished
    started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    assert process_start(os.getpid()) == started
    write_claim(directory, cell, **own_identity(os.getpid()), start_time=started)
    assert status_of(directory, 0) == "running"
    write_claim(directory, cell, **own_identity(os.getpid()), start_time=started - 1)
    assert status_of(directory, 0) == "interrupted", "the pid was given to another process"
    write_claim(directory, cell, **own_identity(2**22 + 1), start_time=started)
    assert status_of(directory, 0) == "interrupted", "there is no such process"


def test_claim_of_a_finished_or_failed_cell_changes_nothing(tmp_path):
    cells = grid((5, 10), (1,))
    directory = SyntheticSweep(cells, failures={1: "loss is nan"}).write(tmp_path / "sweep")
    for cell in cells:
        write_claim(directory, cell)
    assert list(load_sweep(directory).summary["status"]) == ["complete", "failed"]


def test_damaged_claim_dies_by_age(unfinished):
    directory, cell = unfinished
    write_claim(directory, cell)
    claim = next((directory / "claims").iterdir())
    claim.write_text("")
    assert status_of(directory, 0) == "running"
    os.utime(claim, (1, 1))
    assert status_of(directory, 0) == "interrupted"


def test_what_is_no_sweep_is_refused(tmp_path, run_path):
    with pytest.raises(AnalysisError, match="no such file or directory"):
        load_sweep(tmp_path / "nothing")
    with pytest.raises(AnalysisError, match="holds no plan.json"):
        load_sweep(tmp_path)
    with pytest.raises(AnalysisError, match="not a collected sweep"):
        load_sweep(run_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(AnalysisError, match="model.gguf: no HDF5 file; name a run file"):
        load_sweep(tmp_path / "model.gguf")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(AnalysisError, match="plan.json: not the plan of a sweep, or damaged"):
        load_sweep(tmp_path)


def test_newer_sweeps_are_refused(half_dead, sweep_path, tmp_path):
    plan = json.loads((sweep_path / "plan.json").read_text())
    (sweep_path / "plan.json").write_text(json.dumps({**plan, "schema_version": 2}))
    with pytest.raises(AnalysisError, match="schema_version is 2"):
        load_sweep(sweep_path)
    collected = half_dead.collect(tmp_path / "sweep.h5")
    with h5py.File(collected, "r+") as file:
        file.attrs["schema_version"] = 7
    with pytest.raises(AnalysisError, match="schema_version is 7"):
        load_sweep(collected)
