"""What the program's own sweep holds, read from its directory and from what `bipo-dist collect` makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy
import pandas
import program
import pytest

from bipo_analysis import Sweep, load_sweep, write_report

# Far beyond what float32 holds, so that its cells fail.
DOOMED_LR = "1e39"


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_model, tiny_pairs, tiny_test_pairs) -> Path:
    """Two data sets, one without held-out pairs; two layers; a doomed learning rate; one cell lost, one damaged."""
    folder = tmp_path_factory.mktemp("program") / "sweep"
    finished = program.run(["sweep", *program.options({
        "models": f"tiny={tiny_model}", "data": f"full={tiny_pairs}:{tiny_test_pairs},bare={tiny_pairs}",
        "layers": "1,2", "seeds": "1,2", "lr_unit": "absolute", "lrs": f"0.05,{DOOMED_LR}",
        "epochs": 2, "warmup_steps": 2, "threads": 1,
        "out": folder})])
    assert finished.code == program.FAILED, finished
    runs = sorted(path for path in folder.glob("*.h5") if "lr0.05" in path.name)
    assert len(runs) == 8
    runs[0].unlink()
    runs[1].write_bytes(b"damaged")
    return folder


@pytest.fixture(scope="module")
def collected(directory) -> Sweep:
    out = directory.parent / "collected.h5"
    program.run_successfully(["collect", directory, "--out", out])
    return load_sweep(out)


def test_both_ways_give_the_same_summary(directory, collected):
    """Times and all; of the unreadable cell each says in its own words why."""
    summary = load_sweep(directory).summary
    assert list(summary["status"].value_counts().sort_index().items()) == [
        ("complete", 6), ("failed", 8), ("missing", 1), ("unreadable", 1)]
    readable = summary["status"] != "unreadable"
    assert (summary["failure"][~readable] != "").all()
    pandas.testing.assert_frame_equal(summary[readable], collected.summary[readable], check_dtype=False, rtol=1e-12)
    assert list(summary.loc[~readable, "cell"]) == list(collected.summary.loc[~readable, "cell"])


def test_both_ways_give_the_same_runs(directory, collected):
    runs = load_sweep(directory).runs
    assert list(runs) == list(collected.runs)
    for name, run in runs.items():
        other = collected.runs[name]
        assert run.settings == other.settings and run.attributes == other.attributes
        pandas.testing.assert_frame_equal(run.steps, other.steps, check_exact=True)
        pandas.testing.assert_frame_equal(run.evals, other.evals, check_exact=True)
        numpy.testing.assert_array_equal(run.vectors, other.vectors)


def test_report_of_either(directory, collected, tmp_path):
    for number, sweep in enumerate((load_sweep(directory), collected)):
        write_report(sweep, tmp_path / f"{number}.html")
        page = (tmp_path / f"{number}.html").read_text()
        assert "6 of 16" in page and "tiny, full" in page and "tiny, bare" in page
