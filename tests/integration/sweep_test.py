"""A sweep's cells are what separate runs give, and its packs survive kills, failed saves and other ranks."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy
import pytest

import program
import run_files
from conftest import Job

LAYERS, SEEDS = (1, 2), (1, 2)
CELLS = [(layer, seed) for layer in LAYERS for seed in SEEDS]


@dataclass(frozen=True)
class Sweep:
    """The arguments of a sweep over LAYERS and SEEDS, and where its results are."""

    job: Job

    def but(self, **changes: object) -> Sweep:
        return replace(self, job=self.job.but(**changes))

    def writing(self, name: str) -> Sweep:
        return replace(self, job=self.job.writing(name))

    @property
    def out(self) -> Path:
        return self.job.out

    def arguments(self, *extra: object) -> list[object]:
        return ["sweep", *self.job.arguments()[1:], *extra]

    def file(self, layer: int, seed: int) -> Path:
        return self.out / f"layer{layer}-seed{seed}-lr0.05-beta0.1-signbatch.h5"

    def steps_saved(self, layer: int, seed: int) -> int:
        return run_files.steps_saved(self.file(layer, seed))

    def checkpoints(self) -> list[Path]:
        return sorted(self.out.glob("*.checkpoint"))

    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.out.iterdir()}


@pytest.fixture
def sweep(job) -> Sweep:
    """Two layers and two seeds: two packs of two vectors, unless told otherwise."""
    return Sweep(job.but(layer=None, layers="1,2", seeds="1,2", out=job.folder / "sweep"))


@pytest.fixture
def long_sweep(sweep) -> Sweep:
    """Saved at every step, and long enough to be hit in the middle many times."""
    return sweep.but(epochs=8, save_every=0, eval_every=4)


@pytest.fixture(scope="module")
def undisturbed_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture
def expected(long_sweep, undisturbed_folder) -> Sweep:
    """The undisturbed sweep of the same settings; how often it saves is no part of the result."""
    undisturbed = long_sweep.but(save_every=30, out=undisturbed_folder / "sweep")
    if not undisturbed.out.exists():
        program.run_successfully(undisturbed.arguments())
    assert_complete(undisturbed)
    return undisturbed


def assert_same_results(left: Sweep, right: Sweep) -> None:
    for cell in CELLS:
        run_files.assert_identical(run_files.read(left.file(*cell)), run_files.read(right.file(*cell)))


def assert_complete(sweep: Sweep) -> None:
    """All cells are there and nothing else but the plan."""
    assert sorted(sweep.content()) == sorted(["plan.json", *(sweep.file(*cell).name for cell in CELLS)])
    for cell in CELLS:
        assert run_files.read(sweep.file(*cell)).attributes["status"] == "complete"


def separate_run(sweep: Sweep, layer: int, seed: int) -> run_files.RunFile:
    job = sweep.job.but(layers=None, seeds=None, vectors_per_pass=None, layer=layer, seed=seed,
                        micro_batch=4).writing(f"layer{layer}-seed{seed}.h5")
    program.run_successfully(job.arguments())
    return run_files.read(job.out)


def interrupt(sweep: Sweep, layer: int, steps: int) -> program.Finished:
    """Signals the sweep once both cells of `layer` have saved `steps` rows."""
    with program.start(sweep.arguments()) as running:
        program.wait_until(lambda: all(sweep.steps_saved(layer, seed) >= steps for seed in SEEDS), running)
        running.send(signal.SIGUSR1)
        finished = running.finish(30)
    assert finished.code == program.INTERRUPTED, finished
    return finished


def test_one_vector_per_pass_is_a_separate_run(sweep):
    single = sweep.but(vectors_per_pass=1)
    program.run_successfully(single.arguments())
    assert_complete(single)
    for layer, seed in CELLS:
        swept, alone = run_files.read(single.file(layer, seed)), separate_run(single, layer, seed)
        run_files.assert_identical(swept, alone)
        differing = {name for name in alone.config if swept.config[name] != alone.config[name]}
        assert differing <= {"out", "cache_budget"} and swept.config.keys() == alone.config.keys()


def test_packed_vectors_are_those_of_separate_runs_within_rounding(sweep):
    """Products over more rows may round otherwise: a last bit of float32 is 1.2e-7, steps carry it on."""
    program.run_successfully(sweep.arguments())
    assert_complete(sweep)
    for layer, seed in CELLS:
        swept = run_files.read(sweep.file(layer, seed)).final_vector.astype(float)
        alone = separate_run(sweep, layer, seed).final_vector.astype(float)
        assert numpy.linalg.norm(alone) > 0.1, "the vector must have moved"
        assert numpy.linalg.norm(swept - alone) <= 1e-5 * numpy.linalg.norm(alone)


def test_two_replicas_make_the_same_sweep(sweep):
    fixed = sweep.but(micro_batch=2)
    other = fixed.writing("two-ranks")
    program.run_successfully(fixed.arguments())
    program.run_successfully(other.arguments(), ranks=2)
    assert_complete(other)
    assert_same_results(fixed, other)


def test_a_killed_sweep_continues_to_the_same_bits(long_sweep, expected):
    """Killed while starting, and at the beginning, in the middle and near the end of packs."""
    kill_after(long_sweep, 0.3)
    for layer, steps in ((1, 1), (1, 20), (1, 46), (2, 1), (2, 30)):
        kill_at(long_sweep, layer, steps)
    program.run_successfully(long_sweep.arguments())
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


def kill_at(sweep: Sweep, layer: int, steps: int) -> None:
    """SIGKILLs the sweep as soon as the first cell of `layer` has saved `steps` rows."""
    with program.start(sweep.arguments()) as running:
        program.wait_until(lambda: sweep.steps_saved(layer, SEEDS[0]) >= steps, running)
        running.send(signal.SIGKILL)
        assert running.finish(10).code == -signal.SIGKILL
    for path in sweep.out.glob("*.h5"):
        run_files.assert_whole(path)


def kill_after(sweep: Sweep, seconds: float) -> None:
    with program.start(sweep.arguments()) as running:
        time.sleep(seconds)
        running.send(signal.SIGKILL)
        running.finish(10)


def test_an_interrupted_sweep_continues_to_the_same_bits(long_sweep, expected):
    finished = interrupt(long_sweep, layer=1, steps=5)
    assert "same command" in finished.stdout and "not begun" in finished.stdout, finished
    members = [run_files.read(long_sweep.file(1, seed)) for seed in SEEDS]
    assert [member.attributes["status"] for member in members] == ["interrupted", "interrupted"]
    assert len(members[0].steps) == len(members[1].steps)
    interrupt(long_sweep, layer=2, steps=10)
    program.run_successfully(long_sweep.arguments())
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


@pytest.mark.parametrize("ahead", SEEDS)
def test_a_kill_between_two_members_saves(long_sweep, expected, ahead):
    """One member's file tells of a later step than the other's and than the pack's checkpoint."""
    interrupt(long_sweep, layer=1, steps=5)
    earlier = long_sweep.content()
    interrupt(long_sweep, layer=1, steps=30)
    for path in long_sweep.out.iterdir():
        if path != long_sweep.file(1, ahead):
            path.write_bytes(earlier[path.name])
    assert long_sweep.steps_saved(1, ahead) >= 30 > long_sweep.steps_saved(1, 3 - ahead)
    program.run_successfully(long_sweep.arguments())
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


def test_without_a_checkpoint_the_pack_begins_anew(long_sweep, expected):
    """A kill before the first commit: files of different steps and nothing that says what they share."""
    interrupt(long_sweep, layer=1, steps=5)
    [checkpoint] = long_sweep.checkpoints()
    checkpoint.unlink()
    program.run_successfully(long_sweep.arguments())
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


def test_no_commit_to_a_step_that_a_member_could_not_save(long_sweep, expected):
    """The directory in place of its file stands for a disk that fails the second member's saves."""
    failing = long_sweep.file(1, 2)
    last_good = long_sweep.job.folder / "last_good.h5"
    with program.start(long_sweep.arguments()) as running:
        program.wait_until(lambda: long_sweep.steps_saved(1, 2) >= 5, running)
        running.send(signal.SIGSTOP)
        failing.rename(last_good)
        failing.mkdir()
        running.send(signal.SIGCONT)
        steps = run_files.steps_saved(last_good)
        program.wait_until(lambda: long_sweep.steps_saved(1, 1) >= steps + 5, running)
        running.send(signal.SIGKILL)
        finished = running.finish(10)
    assert "not saved" in finished.stderr, finished
    [checkpoint] = long_sweep.checkpoints()
    with h5py.File(checkpoint) as file:
        assert file["step"][()] <= steps
        assert file["vector"].shape == (2, run_files.read(last_good).attributes["hidden_size"])
    failing.rmdir()
    shutil.move(last_good, failing)
    program.run_successfully(long_sweep.arguments())
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


def test_a_complete_sweep_is_left_alone(sweep):
    program.run_successfully(sweep.arguments())
    before = sweep.content()
    finished = program.run_successfully(sweep.arguments())
    assert "complete already" in finished.stderr, finished
    assert all(str(sweep.file(*cell)) in finished.stdout for cell in CELLS), finished
    assert sweep.content() == before


@pytest.mark.parametrize("lost, kept", [(2, 1), (1, 2)])
def test_complete_packs_are_skipped(sweep, lost, kept):
    """What the lost layer becomes again must not depend on which other layers are done."""
    program.run_successfully(sweep.arguments())
    reference = {cell: run_files.read(sweep.file(*cell)) for cell in CELLS}
    sweep.file(lost, 1).unlink()
    untouched = sweep.file(kept, 1).stat().st_mtime_ns
    finished = program.run_successfully(sweep.arguments())
    assert f"layer {kept}, 2 vectors, complete already" in finished.stderr, finished
    assert sweep.file(kept, 1).stat().st_mtime_ns == untouched
    for cell in CELLS:
        run_files.assert_identical(run_files.read(sweep.file(*cell)), reference[cell])


def test_another_plan_is_refused(long_sweep):
    interrupt(long_sweep, layer=1, steps=2)
    before = long_sweep.content()
    for changed, parts in (({"seeds": "1,2,3"}, ["2 cells more", "layer1-seed3"]),
                           ({"layers": "1"}, ["2 cells less", "layer2-seed1"]),
                           ({"epochs": 9}, ["epochs was 8, now 9"]),
                           ({"vectors_per_pass": 1}, ["vectors_per_pass"])):
        finished = program.run(long_sweep.but(**changed).arguments())
        assert finished.code == program.BAD_INPUT, finished
        for part in [str(long_sweep.out / "plan.json"), *parts]:
            assert part in finished.stderr, finished
        assert long_sweep.content() == before


def test_a_directory_of_something_else_is_refused(sweep):
    sweep.out.mkdir()
    (sweep.out / "notes.txt").write_text("mine")
    finished = program.run(sweep.arguments())
    assert finished.code == program.BAD_INPUT and str(sweep.out) in finished.stderr, finished
    assert sweep.content() == {"notes.txt": b"mine"}
    lost = sweep.writing("no/such/parent")
    finished = program.run(lost.arguments())
    assert finished.code == program.BAD_INPUT and str(lost.out.parent) in finished.stderr, finished


def test_a_lost_run_file_of_a_pack_under_way_is_named(long_sweep):
    interrupt(long_sweep, layer=1, steps=5)
    [checkpoint] = long_sweep.checkpoints()
    long_sweep.file(1, 2).unlink()
    before = long_sweep.content()
    finished = program.run(long_sweep.arguments())
    assert finished.code == program.BAD_INPUT, finished
    assert str(long_sweep.file(1, 2)) in finished.stderr and str(checkpoint) in finished.stderr, finished
    assert long_sweep.content() == before


def test_a_dry_run_writes_nothing(sweep):
    before = sorted(sweep.job.folder.iterdir())
    finished = program.run_successfully(sweep.but(cache_dir=sweep.job.folder / "cache")
                                        .arguments("--dry-run"))
    assert "4 cells in 2 packs" in finished.stdout, finished
    assert all(sweep.file(*cell).stem in finished.stdout for cell in CELLS), finished
    assert sorted(sweep.job.folder.iterdir()) == before


def test_without_held_out_pairs_the_last_loss_is_shown(sweep):
    finished = program.run_successfully(sweep.but(test=None).arguments())
    for cell in CELLS:
        loss = run_files.read(sweep.file(*cell)).steps["loss"][-1]
        [row] = [line for line in finished.stdout.splitlines() if line.startswith(sweep.file(*cell).stem)]
        assert row.split() == [sweep.file(*cell).stem, "complete", f"{loss:.4f}", str(sweep.file(*cell))]
