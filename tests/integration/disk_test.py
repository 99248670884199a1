"""Runs whose file cannot be written, or is taken from them, lose nothing and overwrite nothing."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

import program
import run_files
from selection import seldom
from tiny_models import write_pairs


@pytest.fixture
def long_job(job):
    """Saved step by step, in a folder of its own, with another folder for what cannot be saved."""
    (job.folder / "runs").mkdir()
    (job.folder / "rescue").mkdir()
    return job.but(epochs=60, save_every=0, eval_every=10, out=job.folder / "runs" / "run.h5",
                   rescue_dir=job.folder / "rescue")


@pytest.fixture
def expected(long_job, undisturbed):
    return undisturbed(long_job)


def rescued(job) -> Path:
    [folder] = (job.folder / "rescue").iterdir()
    assert folder.stat().st_mode & 0o077 == 0, "the folder is for its owner alone"
    [file] = folder.iterdir()
    assert file.name == job.out.name
    return file


def assert_named(finished: program.Finished, file: Path) -> None:
    assert str(file) in finished.stderr and "--resume" in finished.stderr, finished


NO_ROOM = re.compile(r"No space left on device|bytes free|has \d+ free")


@pytest.mark.parametrize("kilobytes", [0, seldom(4), 64])
def test_a_full_disk_from_the_start_is_bad_input(long_job, kilobytes):
    """Without room for anything; for the first files only; and for the first saves, but not for the whole run."""
    small = long_job.folder / "small"
    prefix = program.on_a_small_disk(small, max(kilobytes, 4))
    if kilobytes == 0:
        prefix = [*prefix, "bash", "-c", f'head -c 8192 /dev/zero 2>/dev/null > {small}/filler; exec "$@"', "full"]
    finished = program.run(long_job.but(out=small / "run.h5").arguments(), prefix=prefix)
    assert finished.code == program.BAD_INPUT, finished
    assert NO_ROOM.search(finished.stderr) and "prefix" not in finished.stderr, finished
    assert str(small / "run.h5") in finished.stderr and "make room" in finished.stderr, finished


def test_a_sweep_on_a_full_disk_is_bad_input(long_job):
    small = long_job.folder / "small"
    prefix = program.on_a_small_disk(small, 64)
    job = long_job.but(layer=None, layers="1,2", seeds="1,2", out=small / "sweep")
    finished = program.run(["sweep", *job.arguments()[1:]], prefix=prefix)
    assert finished.code == program.BAD_INPUT and NO_ROOM.search(finished.stderr), finished


@pytest.mark.parametrize("command", ["generate", "extract", "export", "evaluate", "import", "collect"])
def test_no_command_leaves_an_empty_file_on_a_full_disk(job, tmp_path, command):
    run = job.but(epochs=1)
    program.run_successfully(run.arguments())
    settings = run.settings
    vector = tmp_path / "vector.pt"
    program.run_successfully(["export", run.out, "--format", "pt", "--out", vector])
    small = tmp_path / "small"
    out = small / "result"
    arguments = {
        "generate": ["--model", settings["model"], "--vector", run.out, "--prompt", "red ring"],
        "extract": ["--model", settings["model"], "--train", settings["train"], "--layer", 1],
        "export": [run.out, "--format", "npy"],
        "evaluate": ["--model", settings["model"], "--vector", run.out, "--test", settings["test"]],
        "import": [vector, "--layer", 1],
        "collect": [tmp_path / "sweep"],
    }[command]
    if command == "collect":
        sweep = run.but(layer=None, layers="1", seeds="1", out=tmp_path / "sweep")
        program.run_successfully(["sweep", *sweep.arguments()[1:]])
    fill = f'head -c 8192 /dev/zero 2>/dev/null > {small}/filler; "$@"; code=$?; ls -A {small} >&2; exit $code'
    prefix = [*program.on_a_small_disk(small, 4), "bash", "-c", fill, "full"]
    finished = program.run([command, *arguments, "--out", out], prefix=prefix)
    assert finished.code == program.BAD_INPUT and NO_ROOM.search(finished.stderr), finished
    assert finished.stderr.splitlines()[-1] == "filler", finished


def test_answers_that_do_not_fit_leave_the_former_ones_whole(job, tmp_path):
    run = job.but(epochs=1)
    program.run_successfully(run.arguments())
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("question,matching\n" + "red ring,x\n" * 40)
    small = tmp_path / "small"
    out = small / "answers.jsonl"
    kept = tmp_path / "kept.jsonl"
    command = ["generate", "--model", run.settings["model"], "--vector", run.out, "--prompts", prompts, "--batch-size",
               1, "--max-new-tokens", 8, "--out", out]
    keep = f'"$@"; code=$?; cp {out} {kept}; exit $code'
    finished = program.run(command, prefix=[*program.on_a_small_disk(small, 8), "bash", "-c", keep, "keep"])
    assert finished.code == program.FAILED and str(out) in finished.stderr, finished
    lines = kept.read_text().splitlines(keepends=True)
    assert lines and all(line.endswith("}\n") for line in lines)
    command[-1] = kept
    program.run_successfully([*command, "--overwrite"])
    assert len(kept.read_text().splitlines()) > len(lines)


def disturbed(job, disturb, steps: int = 5, then=None) -> program.Finished:
    """Runs the job to its end; calls `disturb` once so many steps are saved, and `then` with the running program."""
    with program.start(job.arguments()) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= steps, running)
        disturb()
        if then is not None:
            then(running)
        return running.finish(60)


def test_a_folder_that_is_gone(long_job, expected):
    """The run goes on; in the end its result is in the rescue folder, complete."""
    finished = disturbed(long_job, lambda: long_job.out.parent.rename(long_job.folder / "moved"))
    assert finished.code == program.FAILED, finished
    assert finished.stderr.count("not saved") == 2, "once when it begins, once in the end"
    file = rescued(long_job)
    assert_named(finished, file)
    assert run_files.read(file).attributes["status"] == "complete"
    run_files.assert_identical(run_files.read(file), expected)


def test_a_folder_that_is_gone_and_comes_back(long_job, expected):
    moved = long_job.folder / "moved"

    def come_back(running) -> None:
        program.wait_until(lambda: list((long_job.folder / "rescue").iterdir()), running)
        moved.rename(long_job.out.parent)

    finished = disturbed(long_job, lambda: long_job.out.parent.rename(moved), then=come_back)
    assert finished.code == program.DONE, finished
    run_files.assert_identical(run_files.read(long_job.out), expected)
    assert list((long_job.folder / "rescue").iterdir()) == [], "it is not needed any more"


@pytest.mark.parametrize("number", [signal.SIGUSR1, seldom(signal.SIGTERM)], ids=lambda number: number.name)
def test_a_stop_without_the_folder(long_job, expected, number):
    """What the rescue folder took goes on to the same bits."""

    def stop(running) -> None:
        program.wait_until(lambda: list((long_job.folder / "rescue").iterdir()), running)
        running.send(number)

    finished = disturbed(long_job, lambda: long_job.out.parent.rename(long_job.folder / "moved"), then=stop)
    assert finished.code == program.FAILED, finished
    file = rescued(long_job)
    assert_named(finished, file)
    assert run_files.read(file).attributes["status"] == "interrupted"
    long_job.out.parent.mkdir()
    file.rename(long_job.out)
    program.run_successfully(long_job.arguments("--resume"))
    run_files.assert_identical(run_files.read(long_job.out), expected)


def test_no_rescue_folder_either(long_job):
    job = long_job.but(rescue_dir=long_job.folder / "none")
    finished = disturbed(job, lambda: job.out.parent.rename(job.folder / "moved"))
    assert finished.code == program.FAILED, finished
    assert "--rescue-dir" in finished.stderr and str(job.folder / "none") in finished.stderr, finished


def test_a_file_that_another_process_put_there_stays(long_job, expected):
    other = long_job.folder / "other.h5"
    other.write_bytes(b"somebody else's")
    finished = disturbed(long_job, lambda: other.rename(long_job.out))
    assert finished.code == program.FAILED, finished
    assert long_job.out.read_bytes() == b"somebody else's"
    assert "another process wrote this file" in finished.stderr, finished
    run_files.assert_identical(run_files.read(rescued(long_job)), expected)


def test_a_file_that_came_before_the_first_save_stays(long_job):
    """Two runs begin with one --out: the one that is later loses no steps."""
    with program.start(long_job.arguments()) as running:
        program.wait_until(lambda: "Input and output" in running.output(None).stderr, running)
        long_job.out.write_bytes(b"somebody else's")
        finished = running.finish(60)
    assert finished.code == program.FAILED, finished
    assert "another process wrote this file" in finished.stderr and "train 1/" not in finished.stderr, finished
    assert long_job.out.read_bytes() == b"somebody else's"


def test_a_file_that_was_removed_is_written_again_with_a_warning(long_job, expected):
    """Removed between two saves: what vanishes while its successor is put in its place is not missed."""
    with program.start(long_job.arguments()) as running:
        program.wait_until(lambda: run_files.steps_saved(long_job.out) >= 5, running)
        program.stop_when(running, lambda: not list(long_job.out.parent.glob(".*.tmp")))
        long_job.out.unlink()
        running.send(signal.SIGCONT)
        finished = running.finish(60)
    assert finished.code == program.DONE, finished
    assert "was removed by another process" in finished.stderr, finished
    run_files.assert_identical(run_files.read(long_job.out), expected)


def test_a_link_to_a_file_that_is_not_there_yet(long_job):
    target = long_job.folder / "target.h5"
    long_job.out.symlink_to(target)
    job = long_job.but(epochs=1)
    program.run_successfully(job.arguments())
    assert job.out.is_symlink() and run_files.read(target).attributes["status"] == "complete"
    program.run_successfully(job.arguments("--resume"))


def holder(job) -> Path:
    return job.out.parent / f".{job.out.name}.claim"


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_second_job_on_one_file_is_refused(endless, option):
    with program.start(endless.arguments()) as first:
        program.wait_until(lambda: run_files.steps_saved(endless.out) >= 2, first)
        second = program.run(endless.arguments(option))
        assert second.code == program.BAD_INPUT, second
        assert str(endless.out) in second.stderr and f"process {first.pid} on " in second.stderr, second
        steps = run_files.steps_saved(endless.out)
        program.wait_until(lambda: run_files.steps_saved(endless.out) > steps, first)
        first.send(signal.SIGUSR1)
        assert first.finish(30).code == program.INTERRUPTED
    assert not holder(endless).exists()


@pytest.mark.parametrize("command", ["evaluate", seldom("extract")])
def test_a_second_result_of_one_name_is_refused(job, command):
    """Also with --overwrite: the first job is still to write it."""
    vector, out = job.folder / "v.h5", job.folder / "out.h5"
    program.run_successfully(job.but(out=vector, max_steps=4).arguments())
    pairs = write_pairs(job.folder / "many.csv", 600)
    own = {"evaluate": {"vector": vector, "test": pairs, "multipliers": "-2,-1,0,1,2"},
           "extract": {"train": pairs, "layer": 1}}[command]
    arguments = [command, *program.options({"model": job.settings["model"], "threads": 1, "out": out, **own}),
                 "--overwrite"]
    claim = holder(job.but(out=out))
    with program.start(arguments) as first:
        program.wait_until(lambda: any(claim.glob("job.*.json")), first)
        first.send(signal.SIGSTOP)
        second = program.run(arguments)
        first.send(signal.SIGCONT)
        assert second.code == program.BAD_INPUT, second
        assert str(out) in second.stderr and f"process {first.pid} on " in second.stderr, second
        assert first.finish(60).code == program.DONE
    assert not claim.exists()
    out.unlink()
    finished = [running.finish(120) for running in [program.start(arguments[:-1]), program.start(arguments[:-1])]]
    assert sorted(run.code for run in finished) == [program.DONE, program.BAD_INPUT], finished


def test_two_jobs_that_begin_together_make_one_run(job):
    """The second finds the file complete, or the claim."""
    jobs = [program.start(job.but(seed=seed, epochs=30).arguments()) for seed in (1, 2)]
    finished = [running.finish(60) for running in jobs]
    assert sorted(run.code for run in finished) == [program.DONE, program.BAD_INPUT], finished
    [winner] = [seed for seed, run in zip((1, 2), finished) if run.code == program.DONE]
    assert run_files.read(job.out).config["seed"] == winner
    assert not holder(job).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, seldom(signal.SIGTERM)], ids=lambda number: number.name)
def test_a_restart_right_after_the_end_of_the_first_works(endless, number):
    with program.start(endless.arguments()) as first:
        program.wait_until(lambda: run_files.steps_saved(endless.out) >= 2, first)
        first.send(number)
        steps = run_files.steps_saved(endless.out)
        with program.start(endless.arguments("--resume")) as second:
            program.wait_until(lambda: run_files.steps_saved(endless.out) > steps + 2, second, timeout=30)
            second.send(signal.SIGUSR1)
            assert second.finish(30).code == program.INTERRUPTED
        first.finish(30)
    assert not holder(endless).exists()


def claim_of_another_host(job) -> Path:
    holder(job).mkdir()
    path = holder(job) / "job.1.json"
    path.write_text(json.dumps({"owner": "0" * 32, "host": "elsewhere", "boot_id": "other", "pid_namespace": "other",
                                "pid": 4711, "start_time": 1, "utc": "2026-01-02T03:04:05Z", "released": False}))
    return path


def test_a_job_of_another_host_that_gives_signs_of_life_is_named(job):
    claim = claim_of_another_host(job)
    with program.start(job.arguments()) as running:
        program.wait_until(lambda: "claimed by" in running.output(None).stderr, running)
        os.utime(claim)
        finished = running.finish(30)
    assert finished.code == program.BAD_INPUT, finished
    assert "process 4711 on elsewhere, since 2026-01-02T03:04:05Z" in finished.stderr, finished
    assert claim.exists() and not job.out.exists()


def test_a_job_of_another_host_that_is_long_gone_is_no_obstacle(job):
    claim = claim_of_another_host(job)
    os.utime(claim, (1, 1))
    program.run_successfully(job.arguments())
    assert not holder(job).exists()
