"""Epochs of a run by name: where a vector is read, which one a run ends with, when it ends, and what another begins
with."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import h5py
import numpy
import pandas
import pytest
import torch

import evaluations
import program
import run_files

EPOCHS, STEPS_PER_EPOCH = 8, 6
# With this one the held-out margin rises, falls and rises again.
RATE = 1.5


@pytest.fixture
def wavering(job):
    return job.but(epochs=EPOCHS, lr=RATE, warmup_steps=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("epochs")


@pytest.fixture
def whole(wavering, folder) -> Path:
    """The run file of all epochs, with the last vector as its result."""
    job = wavering.but(out=folder / "whole.h5")
    if not job.out.exists():
        program.run_successfully(job.arguments())
    return job.out


def swings(run: run_files.RunFile) -> list[float]:
    """Held-out margin at +1 less that at -1, by epoch."""
    margins = {m: run.evals[run.evals["multiplier"] == m]["margin"] for m in (-1.0, 1.0)}
    return (margins[1.0] - margins[-1.0]).tolist()


def best_of(run: run_files.RunFile) -> int:
    """From 0."""
    return int(numpy.argmax(swings(run)))


def refusal(arguments: list) -> str:
    finished = program.run(arguments)
    assert finished.code == program.BAD_INPUT, finished
    return finished.stderr


def exported(name: object, out: Path, *extra: object) -> numpy.ndarray:
    program.run_successfully(["export", name, "--format", "npy", "--overwrite", "--out", out, *extra])
    return numpy.load(out)


def test_the_run_wavers(whole):
    """What these tests need: the best epoch is not the last, and two evaluations in a row bring nothing earlier."""
    run = run_files.read(whole)
    assert len(swings(run)) == EPOCHS and best_of(run) < EPOCHS - 1
    assert end_with_patience(swings(run), 2) < EPOCHS


def test_export_takes_an_epoch_and_a_weight(whole, tmp_path):
    run, out = run_files.read(whole), tmp_path / "vector.npy"
    best = best_of(run)
    for name, row, weight in ((whole, -1, 1), (f"{whole}:last", -1, 1), (f"{whole}:best", best, 1),
                              (f"{whole}:epoch=3", 2, 1), (f"{whole}@0.5", -1, 0.5), (f"{whole}:best@-2", best, -2)):
        expected = run.vectors[row] * numpy.float32(weight)
        assert exported(name, out).tobytes() == expected.tobytes(), name
    assert exported(whole, out, "--epoch", 3).tobytes() == run.vectors[2].tobytes()
    said = program.run_successfully(["export", f"{whole}:best", "--format", "npy", "--out", tmp_path / "other.npy"])
    assert f"epoch {best + 1} of {EPOCHS}, the best" in said.stdout
    assert "both choose an epoch" in refusal(
        ["export", f"{whole}:best", "--epoch", 3, "--format", "npy", "--out", tmp_path / "third.npy"])
    assert "no vector of epoch 9; its epochs are 1 to 8" in refusal(
        ["export", f"{whole}:epoch=9", "--format", "npy", "--out", tmp_path / "third.npy"])


def test_a_file_of_the_longer_name_wins(whole, tmp_path):
    run = run_files.read(whole)
    plain, longer = tmp_path / "run.h5", tmp_path / "run.h5:epoch=1"
    for path in (plain, longer):
        path.write_bytes(whole.read_bytes())
    assert exported(longer, tmp_path / "v.npy").tobytes() == run.vectors[-1].tobytes()
    longer.unlink()
    assert exported(longer, tmp_path / "v.npy").tobytes() == run.vectors[0].tobytes()


def test_without_held_out_pairs_no_epoch_is_the_best(job):
    job = job.but(test=None)
    program.run_successfully(job.arguments())
    error = refusal(["export", f"{job.out}:best", "--format", "npy", "--out", job.folder / "v.npy"])
    assert "no epoch is the best" in error and ":epoch=N, N from 1 to 2" in error and "--test" in error


def imported(vector: numpy.ndarray, folder: Path, name: str) -> Path:
    """A run file of nothing but these numbers."""
    torch.save(torch.from_numpy(vector.copy()), folder / f"{name}.pt")
    program.run_successfully(["import", folder / f"{name}.pt", "--layer", 1, "--out", folder / f"{name}.h5"])
    return folder / f"{name}.h5"


def test_evaluate_and_generate_take_an_epoch(whole, tmp_path, tiny_model, tiny_test_pairs):
    """Against run files that hold the same numbers as their only vector."""
    run = run_files.read(whole)
    best = best_of(run)
    chosen, control = imported(run.vectors[best], tmp_path, "chosen"), imported(run.vectors[1], tmp_path, "control")
    common = program.options({"model": tiny_model, "test": tiny_test_pairs, "threads": 1, "multipliers": "-1,0,1"})
    tables = []
    for name, vector, caa in (("named.h5", f"{whole}:best@0.5", f"{whole}:epoch=2"),
                              ("alone.h5", f"{chosen}@0.5", control)):
        said = program.run_successfully(["evaluate", *common, "--vector", vector, "--caa", caa,
                                         "--out", tmp_path / name])
        tables.append(evaluations.read(tmp_path / name))
        assert (f"layer 1, epoch {best + 1} of {EPOCHS}, the best" in said.stderr) == (name == "named.h5"), said
    pandas.testing.assert_frame_equal(tables[0].curve, tables[1].curve, check_exact=True)
    config = tables[0].config
    (vector,) = config["vectors"]
    assert (vector["selected"], vector["epoch"], vector["weight"]) == ("best", best, 0.5)
    assert (config["caa"]["selected"], config["caa"]["epoch"]) == ("epoch=2", 1)

    texts = [program.run_successfully(["generate", "--model", tiny_model, "--threads", 1, "--vector", vector,
                                       "--prompt", "red ring", "--max-new-tokens", 8, "--multipliers", "-4,4"])
             for vector in (f"{whole}:epoch=2@2", f"{control}@2")]
    assert texts[0].stdout == texts[1].stdout != ""
    assert f"epoch 2 of {EPOCHS}" in texts[0].stderr
    # A row tells which vectors it is of; an imported one has no epoch.
    rows = tmp_path / "rows.jsonl"
    program.run_successfully(["generate", "--model", tiny_model, "--threads", 1, "--vector", f"{whole}:best@0.5",
                              "--vector", control, "--prompt", "red ring", "--max-new-tokens", 2, "--multipliers", "1",
                              "--out", rows])
    assert json.loads(rows.read_text())["vectors"] == [
        {"vector": f"{whole}:best@0.5", "layer": 1, "epoch": best + 1}, {"vector": str(control), "layer": 1}]


def test_extract_matches_the_norm_of_an_epoch(whole, tmp_path, tiny_model, tiny_pairs):
    out = tmp_path / "caa.h5"
    program.run_successfully(["extract", *program.options({
        "model": tiny_model, "train": tiny_pairs, "layer": 1, "threads": 1, "out": out,
        "match_norm": f"{whole}:epoch=2@0.5"})])
    norms = [float(numpy.linalg.norm(vector.astype(float)))
             for vector in (run_files.read(out).final_vector, run_files.read(whole).vectors[1])]
    assert norms[0] == pytest.approx(norms[1] / 2, rel=1e-6)


def test_the_file_and_inspect_name_the_best_epoch(whole):
    best = best_of(run_files.read(whole))
    with h5py.File(whole) as file:
        assert int(file["evals"].attrs["best_epoch"]) == best, "from 0, as the rows count"
    page = program.run_successfully(["inspect", whole]).stdout
    assert f"best epoch: {best + 1} of {EPOCHS} evaluated" in page


def test_select_best_changes_only_what_the_file_ends_with(wavering, whole):
    last = wavering.but(select="last")
    program.run_successfully(last.arguments())
    expected = run_files.read(whole)
    run_files.assert_identical(run_files.read(last.out), expected)

    job = wavering.but(select="best").writing("best.h5")
    said = program.run_successfully(job.arguments())
    run, best = run_files.read(job.out), best_of(expected)
    assert f"vector: that of epoch {best + 1}, the best" in said.stdout
    assert run.vectors[:-1].tobytes() == expected.vectors.tobytes()
    assert run.final_vector.tobytes() == expected.vectors[best].tobytes()
    assert (run.vector_epochs[-1], run.vector_steps[-1]) == (best, STEPS_PER_EPOCH * (best + 1))
    assert run.steps.shape == expected.steps.shape and "complete" == run.attributes["status"]
    with h5py.File(job.out) as file, h5py.File(whole) as other:
        assert (file["checkpoint/vector"][:] == other["checkpoint/vector"][:]).all()
    assert f"said of the vector of the last step; the file ends with that of epoch {best + 1}" in (
        run.attributes["verdict"])
    assert f"the last row repeats that of epoch {best + 1}" in program.run_successfully(["inspect", job.out]).stdout
    out = job.folder / "v.npy"
    assert exported(job.out, out).tobytes() == expected.vectors[best].tobytes()
    assert exported(f"{job.out}:last", out).tobytes() == expected.vectors[-1].tobytes()


def test_a_sweep_selects_too(wavering, whole, tmp_path):
    settings = {name: value for name, value in wavering.settings.items() if name != "layer"}
    program.run_successfully(["sweep", *program.options({
        **settings, "layers": 1, "seeds": "11,12", "out": tmp_path / "sweep", "select": "best"})])
    for path in sorted((tmp_path / "sweep").glob("*.h5")):
        run = run_files.read(path)
        assert len(run.vectors) in (EPOCHS, EPOCHS + 1)
        assert run.vector_epochs[-1] == best_of(run), path


def end_with_patience(margins: list[float], patience: int) -> int:
    """Epochs until `patience` evaluations in a row were no better than the best before them."""
    for end in range(1, len(margins) + 1):
        if end - 1 - int(numpy.argmax(margins[:end])) >= patience:
            return end
    return len(margins)


@pytest.mark.parametrize("ranks", [None, 2])
def test_patience_ends_a_run_where_the_whole_one_stops_to_improve(wavering, whole, ranks):
    expected = run_files.read(whole)
    end = end_with_patience(swings(expected), 2)
    job = wavering.but(patience=2)
    said = program.run_successfully(job.arguments(), ranks)
    run = run_files.read(job.out)
    assert f"ended after epoch {end} of {EPOCHS}: no larger held-out margin in 2 evaluations" in said.stdout
    assert run.attributes["status"] == "complete" and len(run.vectors) == end
    assert "ended early" in program.run_successfully(["inspect", job.out]).stdout
    if ranks is None:  # the micro-batches of two replicas are others
        assert run.vectors.tobytes() == expected.vectors[:end].tobytes()
        steps = len(run.steps)
        assert run.steps["lr"].tobytes() == expected.steps["lr"][:steps].tobytes(), "the schedule is the whole plan's"
    again = program.run_successfully(job.arguments("--resume"), ranks)
    assert "complete already" in again.stderr
    run_files.assert_identical(run_files.read(job.out), run)


@pytest.mark.parametrize("steps", [2, 2 * STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH - 1])
def test_a_stopped_run_loses_its_patience_at_the_same_epoch(wavering, folder, steps):
    reference = wavering.but(patience=2, select="best", out=folder / "impatient.h5")
    if not reference.out.exists():
        program.run_successfully(reference.arguments())
    job = wavering.but(patience=2, select="best", save_every=0)
    with program.start(job.arguments()) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= steps, running)
        running.send(signal.SIGKILL)
        running.finish(10)
    program.run_successfully(job.arguments("--resume"))
    run_files.assert_identical(run_files.read(job.out), run_files.read(reference.out))


def test_a_run_begins_with_a_vector(wavering, whole, tmp_path):
    """A rate that moves nothing leaves the vector that it began with; a factor of 0 makes the plain run of it."""
    vectors = run_files.read(whole).vectors
    still = wavering.but(max_steps=1, lr=1e-30, weight_decay=0, continue_from=f"{whole}:epoch=3@0.5",
                         out=tmp_path / "still.h5")
    said = program.run_successfully(still.arguments())
    expected = vectors[2] * numpy.float32(0.5)
    run = run_files.read(still.out)
    assert run.final_vector.tobytes() == expected.tobytes()
    assert f"epoch 3 of {EPOCHS}" in said.stderr and "the run starts from it, with a new optimiser" in said.stderr
    begun = run.config["continue_from"]
    assert (begun["file"], begun["selected"], begun["epoch"], begun["weight"]) == (str(whole), "epoch=3", 2, 0.5)

    zero = wavering.but(continue_from=f"{whole}@0", out=tmp_path / "zero.h5")
    program.run_successfully(zero.arguments())
    run_files.assert_identical(run_files.read(zero.out), run_files.read(whole))


def test_positions_of_the_vector_that_a_run_begins_with_are_told(wavering, tmp_path):
    ends = wavering.but(max_steps=1, eval_every=0, positions="last:1", out=tmp_path / "ends.h5")
    program.run_successfully(ends.arguments())
    for positions, told in ((None, True), ("answer", True), ("last:1", False)):
        begun = wavering.but(continue_from=ends.out, positions=positions, out=tmp_path / "begun.h5")
        said = program.run_successfully(begun.arguments("--dry-run")).stderr
        assert ("ends.h5: trained at the positions last:1, which --continue-from does not take over" in said) is told


def test_a_continued_run_resumes_without_the_other_file(wavering, whole, tmp_path):
    source = tmp_path / "source.h5"
    source.write_bytes(whole.read_bytes())
    job = wavering.but(continue_from=f"{source}:best", epochs=5, lr=0.01)
    reference = job.writing("reference.h5")
    program.run_successfully(reference.arguments())
    slow = job.but(save_every=0)
    with program.start(slow.arguments()) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
        running.send(signal.SIGKILL)
        running.finish(10)
    source.unlink()
    assert "started from another vector" in refusal(slow.but(continue_from=whole).arguments("--resume"))
    program.run_successfully(slow.arguments("--resume"))
    run_files.assert_identical(run_files.read(job.out), run_files.read(reference.out))
    # The option may be left out, too.
    assert "complete already" in program.run_successfully(
        slow.but(continue_from=None).arguments("--resume")).stderr


def test_what_a_run_cannot_begin_with(job, whole):
    error = refusal(job.but(layer=2, continue_from=whole).arguments())
    assert "belongs to layer 1, but --layer is 2" in error
    assert "no such file" in refusal(job.but(continue_from=job.folder / "nothing.h5:best").arguments()).lower()
    other = imported(numpy.ones(7, numpy.float32), job.folder, "short")
    assert re.search(r"--continue-from .*7 numbers, but the model's hidden size", refusal(
        job.but(continue_from=other).arguments()))
    program.run_successfully(job.but(max_steps=2).arguments())
    assert "did not start from --continue-from" in refusal(
        job.but(max_steps=2, continue_from=whole).arguments("--resume"))
    same = job.but(continue_from=job.out)
    assert "the same file is also an input" in refusal(same.arguments("--overwrite"))
    run_files.assert_whole(job.out)
