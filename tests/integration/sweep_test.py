"""A sweep's cells are what separate runs give, and its packs survive kills, failed saves and other ranks."""

from __future__ import annotations

import json
import os
import re
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
from selection import every_second, seldom
from terminal import Terminal, screen_of

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

    def file(self, layer: int, seed: int, lr: str = "0.05") -> Path:
        settings = self.job.settings
        return self.out / (f"{Path(str(settings['model'])).name}-{Path(str(settings['train'])).stem}-layer{layer}-"
                           f"seed{seed}-lr{lr}-beta0.1-signbatch-batch4-epochs{settings['epochs']}.h5")

    def steps_saved(self, layer: int, seed: int) -> int:
        return run_files.steps_saved(self.file(layer, seed))

    def checkpoints(self) -> list[Path]:
        return sorted(self.out.glob("*.checkpoint"))

    def content(self) -> dict[str, bytes]:
        """Of every file, those of subdirectories by their path from here."""
        return {str(path.relative_to(self.out)): path.read_bytes()
                for path in self.out.rglob("*") if path.is_file()}


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


def unfinished(sweep: Sweep, pid: int) -> bool:
    content = sweep.content()
    return content != without_unfinished(content, pid)


def without_unfinished(content: dict[str, bytes], pid: int) -> dict[str, bytes]:
    """Leaves out what the process, stopped in the middle of a save, has not renamed yet."""
    return {name: value for name, value in content.items() if not (name.endswith(".tmp") and f".{pid}." in name)}


def assert_complete(sweep: Sweep, stopped: int = 0) -> None:
    """All cells are there and nothing else but the plan; `stopped` is a process that may be in mid-save."""
    names = without_unfinished(sweep.content(), stopped)
    assert sorted(names) == sorted(["plan.json", *(sweep.file(*cell).name for cell in CELLS)])
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


def test_a_sweep_of_version_01_goes_on_with_its_rule_for_bos(sweep, tmp_path):
    """As one that was stopped before its last cell: plan.json and run files hold no_bos."""
    template = tmp_path / "template.jinja"
    template.write_text(run_files.TEMPLATE_WITHOUT_BOS, encoding="utf-8")
    sweep = sweep.but(chat_template=template)
    always = sweep.but(bos="always")
    program.run_successfully(always.arguments())
    expected = run_files.read(always.file(2, 2))
    plan = json.loads((always.out / "plan.json").read_text(encoding="utf-8"))
    assert plan["settings"].pop("bos") == "always"
    plan["settings"]["no_bos"] = False
    (always.out / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    for cell in CELLS[:-1]:
        run_files.as_of_version_01(always.file(*cell))
    always.file(2, 2).unlink()
    program.run_successfully(sweep.arguments())
    run_files.assert_identical(run_files.read(sweep.file(2, 2)), expected)


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


@pytest.mark.parametrize("ranks, layout", [seldom(2, {"dp": 2}), seldom(2, {}), (4, {"dp": 2}), (3, {})],
                         ids=["two-replicas", "two-groups", "two-groups-of-two", "more-groups-than-packs"])
def test_any_arrangement_of_ranks_makes_the_same_sweep(sweep, undisturbed_folder, ranks, layout):
    fixed = sweep.but(micro_batch=2, out=undisturbed_folder / "fixed")
    other = fixed.but(**layout, out=sweep.job.folder / "other")
    if not fixed.out.exists():
        program.run_successfully(fixed.arguments())
    program.run_successfully(other.arguments(), ranks=ranks)
    assert_complete(other)
    assert_same_results(fixed, other)


def test_groups_that_split_the_model_make_the_same_sweep_within_rounding(sweep):
    split = sweep.but(tp=2).writing("split")
    program.run_successfully(sweep.arguments())
    program.run_successfully(split.arguments(), ranks=4)
    assert_complete(split)
    for cell in CELLS:
        whole = run_files.read(sweep.file(*cell)).final_vector.astype(float)
        parts = run_files.read(split.file(*cell)).final_vector.astype(float)
        assert numpy.linalg.norm(parts - whole) <= 1e-4 * numpy.linalg.norm(whole)
        assert not numpy.array_equal(parts, whole), "a split product rounds otherwise"


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
    assert "same command" in finished.stdout and "missing" in finished.stdout, finished
    members = [run_files.read(long_sweep.file(1, seed)) for seed in SEEDS]
    assert [member.attributes["status"] for member in members] == ["interrupted", "interrupted"]
    assert len(members[0].steps) == len(members[1].steps)
    interrupt(long_sweep, layer=2, steps=10)
    program.run_successfully(long_sweep.arguments())
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


@pytest.mark.parametrize("ahead", every_second(SEEDS))
def test_a_kill_between_two_members_saves(long_sweep, expected, ahead):
    """One member's file tells of a later step than the other's and than the pack's checkpoint."""
    interrupt(long_sweep, layer=1, steps=5)
    earlier = long_sweep.content()
    interrupt(long_sweep, layer=1, steps=30)
    for path in long_sweep.out.iterdir():
        if path.is_file() and path != long_sweep.file(1, ahead):
            path.write_bytes(earlier[path.name])
    assert long_sweep.steps_saved(1, ahead) >= 30 > long_sweep.steps_saved(1, 3 - ahead)
    program.run_successfully(long_sweep.arguments())
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


def test_a_kill_between_two_members_last_saves(long_sweep, expected):
    """One member is complete, and its file stays as it is while the other catches up."""
    interrupt(long_sweep, layer=1, steps=30)
    earlier = {path.name: path.read_bytes() for path in (long_sweep.file(1, 2), *long_sweep.checkpoints())}
    assert len(earlier) == 2
    program.run_successfully(long_sweep.arguments())
    for name, content in earlier.items():
        (long_sweep.out / name).write_bytes(content)
    written = long_sweep.file(1, 1).stat().st_mtime_ns
    program.run_successfully(long_sweep.arguments())
    assert long_sweep.file(1, 1).stat().st_mtime_ns == written
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
    assert "4 of 4 cells done" in finished.stderr, finished
    assert f"run files: {sweep.file(*CELLS[0])}\n  and 3 more\n" in finished.stdout, finished
    assert sweep.content() == before


def test_the_table_has_accuracy_and_margin_of_every_cell(sweep):
    finished = program.run_successfully(sweep.but(multipliers="-1,0,1,2").arguments())
    groups, titles, *lines = finished.stdout.splitlines()
    assert groups.split() == ["accuracy", "%", "margin"], finished
    assert titles.split() == ["cell", "status", "-1v", "+0v", "+1v", "+2v", "-1v", "+1v", "+2v"], finished
    assert groups.index("margin") == titles.index("+2v") + len("+2v") + 2, "where its first column begins"
    for (layer, seed), line in zip(CELLS, lines):
        run = run_files.read(sweep.file(layer, seed))
        evaluations = [run.evaluation(m) for m in (-1.0, 0.0, 1.0, 2.0)]
        status = ["complete,", "weak"] if run.attributes["verdict"].startswith("weak: ") else ["complete"]
        assert line.split() == [f"layer{layer}-seed{seed}", *status,
                                *(f"{100 * row['accuracy']:.1f}" for row in evaluations),
                                *(f"{evaluations[i]['margin']:+.3f}" for i in (0, 2, 3))]
        assert len(line) <= 80 and len(line) == len(titles)


def test_columns_far_from_zero_stay_where_not_all_fit(sweep):
    multipliers = [m / 2 for m in range(-8, 9)]
    finished = program.run_successfully(sweep.but(epochs=1, multipliers=",".join(map(str, multipliers))).arguments())
    _, titles, *lines = finished.stdout.splitlines()
    assert all(len(line) <= 80 for line in [titles, *lines[:4]]), finished
    assert "-4v" in titles and "+4v" in titles and "+0v" not in titles, finished


def shows_whole_board(screen: list[str]) -> bool:
    """Whether all cells stand below the line that counts them, the first one running; a read may end between lines."""
    begin = next((i for i, line in enumerate(screen) if line.startswith("sweep: ") and "cells done" in line), None)
    cells = [] if begin is None else screen[begin + 1:begin + 5]
    return ([line.split()[:1] for line in cells] == [[f"layer{layer}-seed{seed}"] for layer, seed in CELLS]
            and re.match(r"  layer1-seed1  +running", cells[0]) is not None)


def test_a_terminal_shows_a_board_of_the_cells(sweep):
    command = [program.from_environment("BIPO_DIST"), *sweep.but(vectors_per_pass=1, epochs=8).arguments()]
    with Terminal(command, rows=30, environment=program.MPI_ENVIRONMENT) as terminal:
        terminal.wait_for(lambda written: shows_whole_board(screen_of(written)))
        assert terminal.finish() == program.DONE, terminal.written
        assert "layer1-seed1" in terminal.process.stdout.read().decode()
    left = terminal.screen()
    assert not any(re.match(r"  layer\d-seed\d", line) for line in left), left
    assert sum(line.startswith("sweep: 4 of 4 cells done") for line in left) == 1, left


@pytest.mark.parametrize("lost, kept", [(2, 1), seldom(1, 2)])
def test_complete_packs_are_skipped(sweep, lost, kept):
    """What the lost layer becomes again must not depend on which other layers are done."""
    program.run_successfully(sweep.arguments())
    reference = {cell: run_files.read(sweep.file(*cell)) for cell in CELLS}
    sweep.file(lost, 1).unlink()
    untouched = sweep.file(kept, 1).stat().st_mtime_ns
    finished = program.run_successfully(sweep.arguments())
    assert f"training layer{lost}-seed1, layer{lost}-seed2\n" in finished.stderr, finished
    assert f"training layer{kept}" not in finished.stderr, finished
    assert sweep.file(kept, 1).stat().st_mtime_ns == untouched
    for cell in CELLS:
        run_files.assert_identical(run_files.read(sweep.file(*cell)), reference[cell])


def test_another_plan_is_refused(long_sweep):
    interrupt(long_sweep, layer=1, steps=2)
    before = long_sweep.content()
    for changed, parts in (({"layers": "1"}, ["2 cells less", "-layer2-seed1-"]),
                           ({"layers": "1,3"}, ["2 cells less", "-layer2-seed1-", "2 cells more", "-layer3-seed2-"]),
                           ({"warmup_steps": 3}, ["--warmup-steps was 2, now 3"]),
                           ({"epochs": 9}, ["4 cells less", "4 cells more", "-epochs9"]),
                           ({"vectors_per_pass": 1}, ["--vectors-per-pass"])):
        finished = program.run(long_sweep.but(**changed).arguments())
        assert finished.code == program.BAD_INPUT, finished
        for part in [str(long_sweep.out / "plan.json"), *parts]:
            assert part in finished.stderr, finished
        assert long_sweep.content() == before


def test_a_sweep_gets_more_cells(long_sweep, expected, tmp_path):
    """Layer 2 comes to a sweep of layer 1 while a job with the old options is at work: no cell is trained twice, and the
    grown sweep ends as if it had begun so."""
    old = long_sweep.but(layers="1")
    with program.start(old.arguments()) as running:
        program.wait_until(lambda: old.steps_saved(1, 1) >= 3, running)
        running.send(signal.SIGSTOP)
        plan = program.run_successfully(long_sweep.arguments("--dry-run")).stdout
        assert "adds 2 cells to the 2 of the sweep" in plan and "as revision 2 of its plan: layer 2\n" in plan, plan
        assert f"\n  {long_sweep.file(2, 1).stem}\n" in plan, plan
        assert "revision" not in json.loads((old.out / "plan.json").read_text())
        extended = program.run_successfully(long_sweep.arguments())
        running.send(signal.SIGCONT)
        before = running.finish(120)
    assert before.code == program.DONE, before
    assert "the sweep's plan has grown: its revision 2 has 2 cells" in before.stdout, before
    assert "training seed1, seed2\n" in before.stderr and "layer2" not in before.stderr, before
    assert "adds 2 cells" in extended.stderr and "2 cells are running in other jobs" in extended.stdout, extended
    assert "training layer2-seed1, layer2-seed2\n" in extended.stderr and "training layer1" not in extended.stderr, extended
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)
    stored = json.loads((old.out / "plan.json").read_text())
    assert stored["revision"] == 2 and len(stored["cells"]) == 4
    [revision] = stored["revisions"]
    assert revision["added"] == [long_sweep.file(2, seed).stem for seed in SEEDS]
    # The old options are those of an earlier revision: nothing is left to do.
    again = program.run_successfully(old.arguments())
    assert "the sweep's plan has grown" in again.stdout and "an earlier revision" in again.stderr, again
    assert_complete(long_sweep)
    more = program.run_successfully(long_sweep.but(seeds="1,2,3").arguments("--dry-run", "--json"))
    assert json.loads(more.stdout)["added"] == [long_sweep.file(layer, 3).stem for layer in LAYERS]
    program.run_successfully(["collect", old.out, "--out", tmp_path / "all.h5"])
    with h5py.File(tmp_path / "all.h5") as file:
        assert len(file["summary"]) == len(file["runs"]) == 4


def test_a_second_data_set_comes_to_a_sweep(sweep, tiny_pairs, tiny_test_pairs):
    first = sweep.but(train=None, test=None, seeds="1", data=f"warm={tiny_pairs}:{tiny_test_pairs}")
    program.run_successfully(first.arguments())
    untouched = {path: path.read_bytes() for path in first.out.glob("*.h5")}
    second = first.but(data=f"warm={tiny_pairs}:{tiny_test_pairs},curt={tiny_test_pairs}:{tiny_pairs}")
    finished = program.run_successfully(second.arguments())
    assert "data curt" in finished.stderr, finished
    assert len(list(first.out.glob("*.h5"))) == 4
    assert {path: path.read_bytes() for path in untouched} == untouched
    changed = program.run(first.but(data=f"warm={tiny_test_pairs}:{tiny_pairs}").arguments())
    assert changed.code == program.BAD_INPUT and "the pairs of --train: train_tokens_hash was" in changed.stderr, changed


def test_patience_ends_cells_by_themselves(sweep, tmp_path):
    """Each cell of a pack is the run by itself with the same patience, wherever that ends."""
    impatient = sweep.but(layers="1", seeds="1,2,3,4", epochs=12, patience=1, log_jsonl=tmp_path / "logs")
    program.run_successfully(impatient.arguments())
    steps = {}
    for seed in (1, 2, 3, 4):
        run = run_files.read(impatient.file(1, seed))
        steps[seed] = len(run.steps)
        alone = separate_run(impatient.but(log_jsonl=None), 1, seed)
        assert run.attributes["status"] == "complete" and len(alone.steps) == len(run.steps)
        numpy.testing.assert_allclose(run.vectors[-1], alone.vectors[-1], rtol=0, atol=1e-5)
        lines = [json.loads(line) for line in (tmp_path / "logs" / f"{impatient.file(1, seed).stem}.jsonl")
                 .read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, len(run.steps) + 1))
        assert [line["loss"] for line in lines] == list(run.steps["loss"])
    assert len(set(steps.values())) > 1, f"all cells end together: {steps}"
    assert impatient.checkpoints() == []


def test_logs_of_cells_go_on_where_a_sweep_was_killed(long_sweep, expected, tmp_path):
    logged = long_sweep.but(log_jsonl=tmp_path / "logs")
    with program.start(logged.arguments()) as running:
        program.wait_until(lambda: logged.steps_saved(1, 1) >= 5, running)
        running.send(signal.SIGKILL)
        running.finish(10)
    program.run_successfully(logged.arguments())
    assert_same_results(logged, expected)
    for cell in CELLS:
        path = logged.file(*cell)
        lines = [json.loads(line) for line in (tmp_path / "logs" / f"{path.stem}.jsonl").read_text().splitlines()]
        rows = run_files.read(path).steps
        assert [(line["step"], line["loss"]) for line in lines] == [(row["step"] + 1, row["loss"]) for row in rows]
    (tmp_path / "file").write_text("")
    refused = program.run(long_sweep.writing("other").but(log_jsonl=tmp_path / "file").arguments())
    assert refused.code == program.BAD_INPUT and "--log-jsonl" in refused.stderr, refused


def test_a_directory_of_something_else_is_refused(sweep):
    sweep.out.mkdir()
    (sweep.out / "notes.txt").write_text("mine")
    finished = program.run(sweep.arguments())
    assert finished.code == program.BAD_INPUT and str(sweep.out) in finished.stderr, finished
    assert sweep.content() == {"notes.txt": b"mine"}
    lost = sweep.writing("no/such/parent")
    finished = program.run(lost.arguments())
    assert finished.code == program.BAD_INPUT and str(lost.out.parent) in finished.stderr, finished


def test_a_lost_run_file_of_a_pack_under_way_is_named_and_made_again(long_sweep, expected):
    interrupt(long_sweep, layer=1, steps=5)
    [checkpoint] = long_sweep.checkpoints()
    kept = checkpoint.read_bytes()
    long_sweep.file(1, 2).unlink()
    finished = program.run_successfully(long_sweep.arguments())
    assert str(long_sweep.file(1, 2)) in finished.stderr and str(checkpoint) in finished.stderr, finished
    aside = checkpoint.with_name(checkpoint.name + ".damaged")
    assert aside.read_bytes() == kept
    aside.unlink()
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


# A single run's file is its checkpoint.
@pytest.mark.parametrize("broken, vectors_per_pass", [
    ("run file", 1), ("run file", 2), ("checkpoint", 2), ("complete run file", 1), ("complete run file", 2)])
def test_a_broken_file_is_set_aside_and_stops_no_other_cell(long_sweep, expected, vectors_per_pass, broken):
    if vectors_per_pass == 1:
        expected = long_sweep.but(save_every=30, vectors_per_pass=1, out=expected.out.parent / "singles")
        program.run_successfully(expected.arguments())
    sweep = long_sweep.but(vectors_per_pass=vectors_per_pass)
    with program.start(sweep.arguments()) as running:
        cell = (2, 1) if broken == "complete run file" else (1, 1)
        program.wait_until(lambda: sweep.steps_saved(*cell) >= 5, running)
        running.send(signal.SIGUSR1)
        assert running.finish(30).code == program.INTERRUPTED
    if broken == "checkpoint":
        [path] = sweep.checkpoints()
    else:
        path = sweep.file(1, 1)
    damaged = path.read_bytes()[:-300]
    path.write_bytes(damaged)
    finished = program.run_successfully(sweep.arguments())
    assert str(path) in finished.stderr and "damaged" in finished.stderr, finished
    aside = path.with_name(path.name + ".damaged")
    assert aside.read_bytes() == damaged
    for left in sweep.out.glob("*.damaged"):
        left.unlink()
    assert_complete(sweep)
    assert_same_results(sweep, expected)


def test_a_disk_that_takes_nothing_is_no_failure_of_a_cell(long_sweep):
    """The disk fills up when the first cell is saved; what that leaves is taken to a disk with room."""
    small = long_sweep.job.folder / "small"
    left = long_sweep.writing("left")
    sweep = long_sweep.but(out=small / "sweep")
    fill = (f'(until ls {sweep.out}/*.h5 > {small}/seen 2>&1; do sleep 0.02; done; cat /dev/zero > {small}/filler) 2> {small}/said & '
            f'"$@"; code=$?; cp -r {sweep.out} {left.out}; exit $code')
    prefix = [*program.on_a_small_disk(small, 4096), "bash", "-c", fill, "fill"]
    finished = program.run(sweep.arguments(), prefix=prefix)
    assert finished.code == program.FAILED, finished
    assert str(sweep.out) in finished.stderr and "No space left on device" in finished.stderr, finished
    assert not (left.out / "failures").exists()
    program.run_successfully(left.arguments())
    assert_complete(left)


@pytest.mark.parametrize("vectors_per_pass", [seldom(1), 2], ids=["singles", "packs"])
def test_saves_that_fail_are_kept_elsewhere_and_tried_again(long_sweep, expected, vectors_per_pass):
    """A directory in place of one cell's file: the other cells are complete, and so is this one, elsewhere."""
    if vectors_per_pass == 1:
        expected = long_sweep.but(save_every=30, vectors_per_pass=1, out=expected.out.parent / "singles")
        program.run_successfully(expected.arguments())
    rescue = long_sweep.job.folder / "rescue"
    rescue.mkdir()
    sweep = long_sweep.but(rescue_dir=rescue, vectors_per_pass=vectors_per_pass)
    failing = sweep.file(1, 2)
    with program.start(sweep.arguments()) as running:
        program.wait_until(lambda: sweep.steps_saved(1, 2) >= 5, running)
        running.send(signal.SIGSTOP)
        failing.rename(sweep.job.folder / "last_good.h5")
        failing.mkdir()
        running.send(signal.SIGCONT)
        finished = running.finish(60)
    assert finished.code == program.FAILED, finished
    [kept] = rescue.glob("*/*.h5")
    assert str(kept) in finished.stderr, finished
    assert not (sweep.out / "failures").exists()
    for cell in CELLS:
        if cell != (1, 2):
            assert run_files.read(sweep.file(*cell)).attributes["status"] == "complete"
    run_files.assert_identical(run_files.read(kept), run_files.read(expected.file(1, 2)))
    failing.rmdir()
    shutil.move(kept, failing)
    program.run_successfully(sweep.arguments())
    for path in [*sweep.out.glob("*.checkpoint"), *sweep.out.glob("*.damaged")]:
        path.unlink()
    assert_complete(sweep)
    assert_same_results(sweep, expected)


def test_a_copy_of_a_sweep_under_way_waits_for_nobody(long_sweep, expected):
    copy = long_sweep.writing("copy")
    with program.start(long_sweep.arguments()) as running:
        program.wait_until(lambda: long_sweep.steps_saved(1, 1) >= 5, running)
        running.send(signal.SIGSTOP)
        shutil.copytree(long_sweep.out, copy.out)
        program.run_successfully(copy.arguments(), timeout=60)
        running.send(signal.SIGKILL)
        running.finish(10)
    for left in copy.out.glob(".*.tmp"):
        left.unlink()
    assert_complete(copy)
    assert_same_results(copy, expected)


def test_a_dry_run_writes_nothing(sweep):
    before = sorted(sweep.job.folder.iterdir())
    finished = program.run_successfully(sweep.but(cache_dir=sweep.job.folder / "cache")
                                        .arguments("--dry-run"))
    assert "4 cells in 2 packs" in finished.stdout, finished
    assert all(sweep.file(*cell).stem in finished.stdout for cell in CELLS), finished
    assert sorted(sweep.job.folder.iterdir()) == before


def test_without_held_out_pairs_the_last_loss_is_shown(sweep):
    finished = program.run_successfully(sweep.but(test=None).arguments())
    for layer, seed in CELLS:
        loss = run_files.read(sweep.file(layer, seed)).steps["loss"][-1]
        [row] = [line for line in finished.stdout.splitlines() if line.startswith(f"layer{layer}-seed{seed} ")]
        assert row.split() == [f"layer{layer}-seed{seed}", "complete", f"{loss:.4f}"]


def test_a_cell_that_fails_leaves_the_others_alone(sweep):
    """A learning rate beyond float32 makes the vector infinite in its second step."""
    doomed = sweep.but(layers="1", seeds="1", lr=None, lrs="0.05,1e39")
    finished = program.run(doomed.arguments())
    assert finished.code == program.FAILED, finished
    failed, fine = doomed.file(1, 1, "1e+39"), doomed.file(1, 1)
    assert run_files.read(fine).attributes["status"] == "complete"
    [line] = [line for line in finished.stdout.splitlines() if line.startswith("lr1e+39: ")]
    assert "step 1" in line and "not finite" in line, finished
    saved = run_files.read(failed)
    assert saved.attributes["status"] == "diverged" and len(saved.steps) == 1, "what led to it is there to look at"
    record = json.loads((doomed.out / "failures" / f"{failed.stem}.json").read_text())
    assert "not finite" in record["reason"]

    alone = sweep.but(layers="1", seeds="1", vectors_per_pass=1).writing("alone")
    program.run_successfully(alone.arguments())
    swept, expected = (run_files.read(path).final_vector.astype(float) for path in (fine, alone.file(1, 1)))
    assert numpy.linalg.norm(swept - expected) <= 1e-5 * numpy.linalg.norm(expected)

    before = doomed.content()
    again = program.run(doomed.arguments())
    assert again.code == program.FAILED and doomed.content() == before, again
    retried = program.run(doomed.arguments("--retry-failed"))
    assert retried.code == program.FAILED, retried
    assert "training lr1e+39, from step 1\n" in retried.stderr, "the retry trains the failed cell alone"
    assert doomed.content()[fine.name] == before[fine.name]


def test_a_failed_cell_that_is_retried_with_success_is_complete(sweep):
    """The record of a failure whose cause is gone."""
    job = sweep.but(layers="1", vectors_per_pass=1)
    undisturbed = job.writing("undisturbed")
    program.run_successfully(undisturbed.arguments())
    failed = job.file(1, 2)
    failures = job.out / "failures"
    failures.mkdir(parents=True)
    shutil.copy(undisturbed.out / "plan.json", job.out)
    (failures / f"{failed.stem}.json").write_text(json.dumps({"reason": "a full disk", "utc": "", "host": ""}))

    finished = program.run(job.arguments())
    assert finished.code == program.FAILED and not failed.exists(), finished
    assert "seed2: a full disk" in finished.stdout, finished
    program.run_successfully(job.arguments("--retry-failed"))
    assert list(failures.iterdir()) == []
    for seed in SEEDS:
        run_files.assert_identical(run_files.read(job.file(1, seed)), run_files.read(undisturbed.file(1, seed)))


def test_two_jobs_share_one_sweep(long_sweep, expected):
    """Started together on one directory: every cell is trained once, by one of them."""
    jobs = [program.start(long_sweep.arguments()) for _ in range(2)]
    try:
        finished = [job.finish(120) for job in jobs]
    finally:
        for job in jobs:
            job.stop()
    assert [job.code for job in finished] == [program.DONE, program.DONE], finished
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)
    for layer in LAYERS:
        began = [job for job in finished if f"training layer{layer}-seed1, layer{layer}-seed2" in job.stderr]
        assert len(began) == 1, finished


def test_a_dead_job_is_taken_over_at_once(long_sweep, expected):
    """Its claim names a process of this machine that is gone."""
    with program.start(long_sweep.arguments()) as running:
        program.wait_until(lambda: long_sweep.steps_saved(1, 1) >= 5, running)
        running.send(signal.SIGKILL)
        running.finish(10)
    assert list((long_sweep.out / "claims").iterdir()), "the killed job must have left its claim"
    begin = time.monotonic()
    finished = program.run_successfully(long_sweep.arguments())
    assert time.monotonic() - begin < 60, "120 s is for owners that nobody can ask after"
    assert "from step" in finished.stderr, finished
    assert_complete(long_sweep)
    assert_same_results(long_sweep, expected)


def test_an_owner_that_lost_its_claim_stops_writing(long_sweep, expected):
    """Stopped for so long that another job took over: woken up, it must leave the files alone."""
    with program.start(long_sweep.arguments()) as sleeper:
        program.wait_until(lambda: long_sweep.steps_saved(1, 1) >= 5, sleeper)
        # In the middle of a save the check of the claim may already lie behind it.
        program.stop_when(sleeper, lambda: not unfinished(long_sweep, sleeper.pid))
        [claim] = (long_sweep.out / "claims").iterdir()
        long_ago = claim.stat().st_mtime - 1000
        os.utime(claim, (long_ago, long_ago))
        program.run_successfully(long_sweep.arguments())
        assert_complete(long_sweep, stopped=sleeper.pid)
        before = without_unfinished(long_sweep.content(), sleeper.pid)
        sleeper.send(signal.SIGCONT)
        finished = sleeper.finish(60)
    assert finished.code == program.DONE and "taken over" in finished.stderr, finished
    assert long_sweep.content() == before
    assert_same_results(long_sweep, expected)


def test_models_and_data_sets_are_axes(sweep, tmp_path, tiny_model, tiny_pairs, tiny_test_pairs):
    from tiny_models import TinyModel, write_model, write_pairs

    other_model = write_model(tmp_path / "other", TinyModel(seed=5))
    other_pairs = write_pairs(tmp_path / "few.csv", 10, seed=3)
    wide = sweep.but(model=None, train=None, test=None, layers="1", seeds="1",
                     models=f"plain={tiny_model},{other_model}",
                     data=f"many={tiny_pairs}:{tiny_test_pairs},{other_pairs}")
    program.run_successfully(wide.arguments(), ranks=2)
    for model, directory in (("plain", tiny_model), ("other", other_model)):
        for data, train, test in (("many", tiny_pairs, tiny_test_pairs), ("few", other_pairs, None)):
            alone = sweep.job.but(layers=None, seeds=None, layer=1, seed=1, model=directory, train=train, test=test,
                                  micro_batch=4).writing(f"{model}-{data}.h5")
            program.run_successfully(alone.arguments())
            swept = wide.out / f"{model}-{data}-layer1-seed1-lr0.05-beta0.1-signbatch-batch4-epochs2.h5"
            run_files.assert_identical(run_files.read(swept), run_files.read(alone.out))


def test_a_budget_for_one_layer_gives_the_same_in_two_rounds(sweep):
    tight = sweep.but(cache_budget="64K", vectors_per_pass=1).writing("tight")
    roomy = sweep.but(vectors_per_pass=1)
    program.run_successfully(roomy.arguments())
    finished = program.run_successfully(tight.arguments())
    assert finished.stderr.count(": layer ") == 2, finished
    assert_same_results(roomy, tight)


def test_all_that_is_wrong_is_named_at_once(sweep, tmp_path, tiny_model, tiny_pairs):
    finished = program.run(sweep.but(model=None, train=None, test=None, models=f"{tiny_model},{tmp_path}/none",
                                     data=f"{tiny_pairs},{tmp_path}/missing.csv").arguments())
    assert finished.code == program.BAD_INPUT, finished
    assert f"{tmp_path}/none" in finished.stderr and "missing.csv" in finished.stderr, finished
    assert finished.stderr.count(f"{tmp_path}/none") == 1, "once, whatever the number of data sets"
    assert not sweep.out.exists()
