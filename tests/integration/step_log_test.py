"""--log-jsonl: one object a step, equal to the run file's rows, over stops and failures."""

from __future__ import annotations

import json
import os
import signal

import program
import run_files

KEYS = ["step", "total_steps", "epoch", "epochs", "lr", "loss", "margin", "accuracy", "sign", "grad_norm", "vector_norm",
        "vector_share", "tokens", "seconds", "pairs_per_second"]


def objects(path) -> list[dict]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def assert_equal_to_the_run(path, run: run_files.RunFile, total: int = 12) -> None:
    steps = objects(path)
    assert [step["step"] for step in steps] == list(range(1, len(run.steps["step"]) + 1))
    for i, step in enumerate(steps):
        assert list(step) == KEYS and step["total_steps"] == total
        assert step["epoch"] == run.steps["epoch"][i] + 1
        for key in ("lr", "loss", "margin", "accuracy", "sign", "grad_norm", "vector_norm", "tokens", "seconds"):
            assert step[key] == run.steps[key][i], f"{key} of step {i + 1}, with all digits"


def test_it_has_every_step_from_one_rank(job):
    log = job.folder / "log.jsonl"
    for ranks in (None, 2):
        program.run_successfully(job.arguments("--log-jsonl", log, "--overwrite"), ranks)
        assert_equal_to_the_run(log, run_files.read(job.out))


def test_it_is_there_while_the_run_goes_on(endless):
    log = endless.folder / "log.jsonl"
    with program.start(endless.arguments("--log-jsonl", log)) as running:
        program.wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 3, running)


def test_a_continued_run_has_no_step_twice(job):
    log = job.folder / "log.jsonl"
    long = job.but(epochs=40, eval_every=0, log_jsonl=log)
    with program.start(long.but(save_every=0).arguments()) as running:
        program.wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 5, running)
        running.send(signal.SIGKILL)
        running.process.wait()
    with open(log, "a", encoding="utf-8") as file:  # a step that the last save did not have, and half of one
        last = objects(log)[-1]
        file.write(json.dumps({**last, "step": last["step"] + 1}) + '\n{"step": ')
    program.run_successfully(long.arguments("--resume"))
    assert_equal_to_the_run(log, run_files.read(job.out), 240)


def test_a_continued_run_writes_the_steps_that_a_lost_log_lacks(job):
    log = job.folder / "log.jsonl"
    program.run_successfully(job.but(max_steps=7).arguments())
    resumed = program.run(job.arguments("--resume", "--log-jsonl", log))
    assert resumed.code == program.BAD_INPUT, "other settings"
    stopped = job.writing("stopped.h5").but(save_every=0, epochs=40, eval_every=0)
    with program.start(stopped.arguments()) as running:
        program.wait_until(lambda: stopped.out.exists() and run_files.steps_saved(stopped.out) > 3, running)
        running.send(signal.SIGTERM)
        assert running.finish(60).code == program.INTERRUPTED
    program.run_successfully(stopped.arguments("--resume", "--log-jsonl", log))
    assert_equal_to_the_run(log, run_files.read(stopped.out), 240)


def test_a_file_that_is_there_stays_unless_told_otherwise(job):
    log = job.folder / "log.jsonl"
    log.write_text("notes\n")
    for extra in ((), ("--resume",)):
        refused = program.run(job.arguments("--log-jsonl", log, *extra))
        assert refused.code == program.BAD_INPUT and str(log) in refused.stderr, refused
        assert log.read_text() == "notes\n" and not job.out.exists()
    missing = program.run(job.arguments("--log-jsonl", job.folder / "none" / "log.jsonl"))
    assert missing.code == program.BAD_INPUT and "none/log.jsonl" in missing.stderr, missing
    same = program.run(job.arguments("--log-jsonl", job.out))
    assert same.code == program.BAD_INPUT and "same file" in same.stderr, same
    program.run_successfully(job.arguments("--log-jsonl", log, "--overwrite"))
    assert_equal_to_the_run(log, run_files.read(job.out))


def test_a_write_that_fails_is_one_warning(job):
    finished = program.run_successfully(job.arguments("--log-jsonl", "/dev/full", "--quiet"))
    assert finished.stderr.count("warning: --log-jsonl /dev/full") == 1 and "No space left" in finished.stderr, finished
    assert len(finished.stderr.splitlines()) == 1, finished
    run_files.assert_whole(job.out)


def test_a_pipe_takes_it(job):
    reader, writer = os.pipe()
    command = job.arguments("--log-jsonl", f"/dev/fd/{writer}")
    process = program.spawn(command, pass_fds=(writer,))
    os.close(writer)
    with open(reader, encoding="utf-8") as text:
        steps = [json.loads(line) for line in text]
    assert process.wait(60) == program.DONE and [step["step"] for step in steps] == list(range(1, 13))


def test_a_run_that_diverges_has_its_last_step(job):
    log = job.folder / "log.jsonl"
    finished = program.run(job.but(lr=1e39, log_jsonl=log).arguments())
    assert finished.code == program.FAILED, finished
    run, steps = run_files.read(job.out), objects(log)
    assert len(steps) == len(run.steps["step"]) > 0
    assert "NaN" not in log.read_text() and "inf" not in log.read_text().lower()
