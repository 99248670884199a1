"""Event files for TensorBoard: what is in them, and what is said where the package is missing."""

from __future__ import annotations

import importlib.util

import pytest
from page_reader import run_command
from synthetic_sweep import SyntheticSweep, grid, loss, margin

has_tensorboard = importlib.util.find_spec("tensorboard") is not None


@pytest.mark.skipif(has_tensorboard, reason="the package is installed")
def test_missing_package_is_named(tmp_path):
    sweep = SyntheticSweep(grid((5,), (1,))).write(tmp_path / "sweep")
    finished = run_command("tensorboard", sweep, "--out", tmp_path / "events")
    assert finished.returncode == 2 and "`pip install tensorboard`" in finished.stderr
    assert "Traceback" not in finished.stderr and not (tmp_path / "events").exists()


@pytest.mark.skipif(not has_tensorboard, reason="the package tensorboard is not installed")
def test_scalars_of_a_sweep(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cells = grid((5, 15), (1,))
    sweep = SyntheticSweep(cells).write(tmp_path / "sweep")
    finished = run_command("tensorboard", sweep, "--out", tmp_path / "events")
    assert finished.returncode == 0 and "2 runs" in finished.stdout, finished.stderr
    for cell in cells:
        events = EventAccumulator(str(tmp_path / "events" / cell.name))
        events.Reload()
        losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
        assert losses == [(step + 1, pytest.approx(loss(cell, step))) for step in range(30)]
        held_out = [(event.step, event.value) for event in events.Scalars("held_out/margin/multiplier +1")]
        assert held_out == [(10 * (epoch + 1), pytest.approx(margin(cell, epoch, 1.0))) for epoch in range(3)]
    again = run_command("tensorboard", sweep, "--out", tmp_path / "events")
    assert again.returncode == 2 and "holds event files already" in again.stderr
