"""Damaged, foreign, locked, newer and edited HDF5 files: named, never a crash, a hang or another result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import h5py
import numpy
import pytest

import hdf5_mutations
import program
import run_files

STEPS_PER_EPOCH = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(scope="module")
def settings(tiny_model, tiny_pairs, tiny_test_pairs):
    return {"model": tiny_model, "train": tiny_pairs, "test": tiny_test_pairs, "layer": 1,
            "lr_unit": "absolute", "lr": 0.05,
            "warmup_steps": 2, "threads": 1}


@pytest.fixture(scope="module")
def complete(folder, settings):
    """The run file of a short run."""
    out = folder / "complete.h5"
    program.run_successfully(["train", *program.options({**settings, "epochs": 2, "out": out})])
    return out


def stop_in_mid_run(arguments, is_under_way):
    with program.start(arguments) as running:
        program.wait_until(is_under_way, running)
        running.send(signal.SIGUSR1)
        finished = running.finish(60)
    assert finished.code == program.INTERRUPTED, finished


@pytest.fixture(scope="module")
def interrupted(folder, settings):
    """A job of many epochs, and its run file after a few of them."""
    from conftest import Job

    job = Job(folder, {**settings, "epochs": 30, "save_every": 0, "eval_every": 10, "out": folder / "interrupted.h5"})
    stop_in_mid_run(job.arguments(), lambda: run_files.steps_saved(job.out) >= STEPS_PER_EPOCH)
    return job


@pytest.fixture(scope="module")
def evaluation(folder, settings, complete):
    """An evaluation file, and judge results for it."""
    out, results = folder / "eval.h5", folder / "results.jsonl"
    program.run_successfully(["evaluate", "--vector", complete, *program.options({
        **{name: settings[name] for name in ("model", "test", "threads")}, "multipliers": "-1,0,1", "out": out})])
    with open(results, "w", encoding="utf-8") as file:
        for prompt in range(3):
            reply = {"choices": [{"message": {"role": "assistant", "content": f"{prompt + 1}"}}]}
            file.write(json.dumps({"custom_id": f"warmth:{prompt}:1", "error": None,
                                   "response": {"status_code": 200, "body": reply}}) + "\n")
    return out, results


@pytest.fixture(scope="module")
def stopped_sweep(folder, settings):
    """Arguments of a sweep that writes to a directory, and such a directory, stopped in the middle of its pack."""
    def arguments(out):
        return ["sweep", *program.options({**settings, "layer": None, "layers": "1", "seeds": "1,2", "epochs": 30,
                                           "save_every": 0, "eval_every": 10, "out": out})]

    directory = folder / "sweep"
    stop_in_mid_run(arguments(directory), lambda: any(directory.glob("*.checkpoint")))
    checkpoint, = directory.glob("*.checkpoint")
    return arguments, directory, checkpoint.name


def assert_no_faults(subject, count, folder, sealed, if_sealed=hdf5_mutations.REFUSED):
    counts, faults = hdf5_mutations.campaign(subject, count, seed=14, folder=folder, sealed=sealed)
    print(subject.name, "sealed" if sealed else "without a seal", dict(counts))
    assert not faults, "\n".join(faults)
    if sealed:
        assert counts[if_sealed] == count


def count_of(short):
    """BIPO_MUTATIONS sets another number for each kind."""
    return int(os.environ.get("BIPO_MUTATIONS", short))


@pytest.mark.parametrize("sealed", [True, False])
def test_mutated_run_files(complete, interrupted, tmp_path, sealed):
    assert_no_faults(hdf5_mutations.inspected(complete), count_of(2), tmp_path / "i", sealed)
    assert_no_faults(hdf5_mutations.exported(complete), count_of(2), tmp_path / "e", sealed)
    assert_no_faults(hdf5_mutations.resumed(interrupted, interrupted.out), count_of(2), tmp_path / "r", sealed)


@pytest.mark.parametrize("sealed", [True, False])
def test_mutated_evaluation_files(evaluation, tmp_path, sealed):
    assert_no_faults(hdf5_mutations.judged(*evaluation), count_of(2), tmp_path / "j", sealed)


@pytest.mark.parametrize("sealed", [True, False])
def test_mutated_checkpoints(stopped_sweep, tmp_path, sealed):
    """A checkpoint that is refused is set aside, and the pack's cells start again."""
    assert_no_faults(hdf5_mutations.swept(*stopped_sweep), count_of(2), tmp_path / "s", sealed, hdf5_mutations.HARMLESS)


def lose_chunk(path, name):
    """Forgets the chunks of a dataset: HDF5 then gives zeros for them."""
    with h5py.File(path, "r+") as file:
        shape = file[name].shape
        file[name].resize((0, *shape[1:]))
        file[name].resize(shape)


def refused(finished, *parts, code=program.BAD_INPUT):
    assert finished.code == code, finished
    for part in parts:
        assert part in finished.stderr, finished


def test_a_lost_chunk_ends_no_run_with_another_vector(interrupted, stopped_sweep, tmp_path):
    run = tmp_path / "run.h5"
    shutil.copy(interrupted.out, run)
    lose_chunk(run, "checkpoint/exp_avg")
    refused(program.run(interrupted.but(out=run).arguments("--resume")), "run.h5", "'exp_avg'")
    arguments, directory, checkpoint = stopped_sweep
    shutil.copytree(directory, tmp_path / "sweep")
    lose_chunk(tmp_path / "sweep" / checkpoint, "vector")
    finished = program.run(arguments(tmp_path / "sweep"))
    assert finished.code == program.DONE and checkpoint in finished.stderr and "'vector'" in finished.stderr, finished
    assert (tmp_path / "sweep" / f"{checkpoint}.damaged").exists(), "the pack's cells start again"


def test_copies_of_other_programs_are_read(complete, tmp_path):
    expected = program.run_successfully(["inspect", complete]).stdout
    subprocess.run(["h5repack", complete, tmp_path / "repacked.h5"], check=True)
    with h5py.File(complete) as source, h5py.File(tmp_path / "copied.h5", "w") as target:
        for name in source:
            source.copy(name, target)
        for name, value in source.attrs.items():
            target.attrs[name] = value
    for name in ("repacked.h5", "copied.h5"):
        assert program.run_successfully(["inspect", tmp_path / name]).stdout == expected, name


def test_a_newer_format_is_called_that(complete, tmp_path):
    with h5py.File(complete) as source, h5py.File(tmp_path / "new.h5", "w", libver="latest") as target:
        for name in source:
            target.create_dataset(name, data=source[name][()]) if name in ("steps", "evals") else None
        for name, value in source.attrs.items():
            target.attrs[name] = value
    finished = program.run(["inspect", tmp_path / "new.h5"])
    refused(finished, "new.h5", "newer", "libver")
    assert "damaged" not in finished.stderr


def test_a_lock_is_called_that(complete, tmp_path, monkeypatch):
    shutil.copy(complete, tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5", "r+", locking=True):
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
        finished = program.run(["inspect", tmp_path / "run.h5"])
        refused(finished, "run.h5", "another process", "lock")
        assert "damaged" not in finished.stderr
    program.run_successfully(["inspect", tmp_path / "run.h5"])


def test_additions_survive_a_resume(interrupted, tmp_path):
    undisturbed, annotated = (interrupted.but(out=tmp_path / name) for name in ("undisturbed.h5", "annotated.h5"))
    for job in (undisturbed, annotated):
        shutil.copy(interrupted.out, job.out)
    with h5py.File(annotated.out, "r+") as file:
        file.attrs["note"] = "for the paper"
        file["steps"].attrs["smoothed"] = numpy.arange(3)
        file.create_dataset("mine/ratings", data=["good", "bad"], compression="gzip", chunks=(2,))
    for job in (undisturbed, annotated):
        program.run_successfully(job.arguments("--resume"))
    run_files.assert_identical(run_files.read(annotated.out), run_files.read(undisturbed.out))
    with h5py.File(annotated.out) as file:
        assert file.attrs["note"] == "for the paper"
        assert list(file["steps"].attrs["smoothed"]) == [0, 1, 2]
        assert list(file["mine/ratings"].asstr()) == ["good", "bad"]


def test_references_are_refused_by_a_resume(interrupted, tmp_path):
    run = tmp_path / "run.h5"
    shutil.copy(interrupted.out, run)
    with h5py.File(run, "r+") as file:
        file.attrs["see"] = file["steps"].ref
    before = run.read_bytes()
    refused(program.run(interrupted.but(out=run).arguments("--resume")), "run.h5", "'see'", "refers")
    assert run.read_bytes() == before


def test_collect_goes_on_past_damaged_run_files(stopped_sweep, tmp_path):
    _, directory, _ = stopped_sweep
    shutil.copytree(directory, tmp_path / "sweep")
    damaged, sound = sorted((tmp_path / "sweep").glob("*.h5"))
    content = bytearray(damaged.read_bytes())
    content[5000] ^= 1
    damaged.write_bytes(content)
    finished = program.run_successfully(["collect", tmp_path / "sweep", "--out", tmp_path / "all.h5"])
    assert "1 unreadable" in finished.stdout and f"{damaged.stem}: damaged" in finished.stdout, finished
    with h5py.File(tmp_path / "all.h5") as file:
        assert list(file["runs"]) == [sound.stem]


def unfinished_lines(finished, name):
    return [line for line in finished.stderr.splitlines() if name in line and "is not complete" in line]


@pytest.mark.parametrize("ranks", [None, 2])
def test_the_vector_of_an_unfinished_run_is_called_that_once(interrupted, complete, settings, tmp_path, ranks):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Shall we go?\n")
    name = interrupted.out.name
    common = {"model": settings["model"], "threads": 1}
    commands = [
        ["generate", "--vector", interrupted.out, *program.options({
            **common, "prompts": prompts, "max_new_tokens": 2, "out": tmp_path / f"g{ranks}.jsonl"})],
        ["evaluate", "--vector", interrupted.out, *program.options({
            **common, "test": settings["test"], "multipliers": "0,1", "out": tmp_path / f"e{ranks}.h5"})],
        ["extract", *program.options({**common, "train": settings["train"], "layer": 1,
                                      "match_norm": interrupted.out, "out": tmp_path / f"x{ranks}.h5"})]]
    if ranks is None:
        commands.append(["export", interrupted.out, "--format", "safetensors", "--out", tmp_path / "v.safetensors"])
    for arguments in commands:
        finished = program.run_successfully(arguments, ranks)
        lines = unfinished_lines(finished, name)
        assert len(lines) == 1 and "interrupted" in lines[0], finished
    finished = program.run_successfully(["export", complete, "--format", "safetensors", "--out", tmp_path / f"c{ranks}"])
    assert unfinished_lines(finished, complete.name) == []
