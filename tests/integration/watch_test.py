"""`watch` shows runs, sweeps and logs of steps, and leaves their files alone."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

import program
import run_files
from terminal import Terminal


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and directory below the folder, with inode and time of the last change."""
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def watch(*arguments: object) -> program.Finished:
    finished = program.run_successfully(["watch", *arguments])
    assert all(len(line) <= 80 or "/" in line for line in finished.stdout.splitlines()), finished  # paths apart
    return finished


def test_a_complete_run_is_shown_once(job):
    program.run_successfully(job.arguments("--quiet"))
    before = content(job.folder)
    run = run_files.read(job.out)
    lines = watch(job.out).stdout.splitlines()
    is_weak = run.attributes["verdict"].startswith("weak: ")
    assert re.fullmatch(rf"{job.out}: complete{', weak' * is_weak}, saved 0:\d\d ago", lines[0]), lines
    assert lines[1].split("  ") == ["train 12/12", "epoch 2/2", f"loss {run.steps['loss'][-1]:.4f}",
                                    f"margin {run.steps['margin'][-1]:.3f}", f"acc {100 * run.steps['accuracy'][-1]:.0f}%"]
    assert lines[2].startswith("held-out after epoch 2:") and len(lines) == 3 + is_weak, lines
    assert content(job.folder) == before


def test_a_run_at_work_names_its_process(endless):
    with program.start(endless.arguments()) as running:
        program.wait_until(lambda: endless.out.exists() and run_files.steps_saved(endless.out) > 3, running)
        shown = watch(endless.out, "--once").stdout
        running.send(signal.SIGKILL)
        running.process.wait()
    assert ": running, saved " in shown and re.search(r"process \d+ on \S+, since \d{4}-", shown), shown
    assert re.search(r"train \d+/600000  ETA [\d:]+  epoch \d+/100000", shown), shown
    before = content(endless.folder)
    shown = watch(endless.out, "--once").stdout
    assert ": stopped, " in shown and "--resume continues" in shown and "ETA" not in shown, shown
    assert content(endless.folder) == before


def test_a_log_of_steps(job):
    log = job.folder / "log.jsonl"
    program.run_successfully(job.arguments("--log-jsonl", log))
    run = run_files.read(job.out)
    before = content(job.folder)
    lines = watch(log).stdout.splitlines()
    assert re.fullmatch(rf"{log}: last step 0:\d\d ago", lines[0]), lines
    assert lines[1].startswith(f"train 12/12  epoch 2/2  loss {run.steps['loss'][-1]:.4f}  margin "), lines
    text = log.read_text().splitlines(keepends=True)
    log.write_text("".join(text[:7]) + text[7][:20])  # while a line is being written
    lines = watch(log, "--once").stdout.splitlines()
    assert lines[1].startswith("train 7/12  ETA 0:0"), lines
    log.write_text("")
    assert ": no step yet" in watch(log, "--once").stdout
    assert content(job.folder).keys() == before.keys()


@pytest.fixture
def sweep(job):
    return job.but(layer=None, layers="1,2", seeds="1,2", out=job.folder / "sweep")


def test_a_complete_sweep(sweep):
    program.run_successfully(["sweep", *sweep.arguments()[1:]])
    before = content(sweep.folder)
    lines = watch(sweep.out).stdout.splitlines()
    files = sorted(sweep.out.glob("*.h5"))
    weak = sum(run_files.read(file).attributes["verdict"].startswith("weak: ") for file in files)
    assert lines[0] == f"{sweep.out}: 4 of 4 cells done, 0 running, 0 failed{f', {weak} weak' * (weak > 0)}", lines
    assert lines[1].split() == ["cell", "status", "step", "loss", "margin", "ETA"]
    for line, file, name in zip(lines[2:], files, ("layer1-seed1", "layer1-seed2", "layer2-seed1", "layer2-seed2"), strict=True):
        run = run_files.read(file)
        status = ["complete,", "weak"] if run.attributes["verdict"].startswith("weak: ") else ["complete"]
        assert line.split() == [name, *status, "12/12", f"{run.steps['loss'][-1]:.4f}", f"{run.steps['margin'][-1]:.3f}"]
    assert content(sweep.folder) == before


def test_a_sweep_at_work(sweep):
    arguments = ["sweep", *sweep.but(epochs=100000, save_every=0, eval_every=0).arguments()[1:]]
    with program.start(arguments) as running:
        program.wait_until(lambda: any(map(run_files.steps_saved, sweep.out.glob("*.h5"))), running)
        shown = watch(sweep.out, "--once").stdout
        running.send(signal.SIGKILL)
        running.process.wait()
    assert "0 of 4 cells done, 2 running, 0 failed" in shown, shown
    assert re.search(r"^  layer1-seed1  running +\d+/600000 +\d\.\d{4} +-?\d+\.\d{3}  [\d:]+$", shown, re.MULTILINE), shown
    assert re.search(r"^  layer2-seed2  missing$", shown.replace("missing    ", "missing"), re.MULTILINE), shown
    assert re.search(r"^process \d+ on \S+, since \S+: layer1-seed1, layer1-seed2$", shown, re.MULTILINE), shown
    before = content(sweep.folder)
    shown = watch(sweep.out, "--once").stdout
    assert "0 running" in shown and "process " not in shown, shown
    assert content(sweep.folder) == before


def test_a_terminal_shows_one_picture_that_is_replaced(endless):
    watcher = [program.from_environment("BIPO_DIST"), "watch", endless.out, "--every", "0.2"]
    with program.start(endless.arguments()) as running:
        program.wait_until(lambda: endless.out.exists() and run_files.steps_saved(endless.out) > 3, running)
        with Terminal(watcher, columns=60, stdout=None) as terminal:
            terminal.wait_for(lambda written: written.count("\x1b[J") >= 3)
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.finish(20) == program.DONE
        assert not running.ended()
    screen = [line for line in terminal.screen() if line]
    assert sum(line.startswith("train ") for line in screen) == 1 and all(len(line) < 60 for line in screen), screen


def test_a_file_that_is_away_for_a_moment_is_read_again(endless):
    watcher = [program.from_environment("BIPO_DIST"), "watch", endless.out, "--every", "0.2"]
    with program.start(endless.arguments()) as running:
        program.wait_until(lambda: endless.out.exists() and run_files.steps_saved(endless.out) > 3, running)
        running.send(signal.SIGKILL)
        running.process.wait()
    away = endless.folder / "away.h5"
    with Terminal(watcher, stdout=None, columns=200) as terminal:
        terminal.wait_for(lambda written: "stopped, " in written)
        os.rename(endless.out, away)
        terminal.wait_for(lambda written: "no such file" in written)
        begin = len(terminal.written)
        os.rename(away, endless.out)
        terminal.wait_for(lambda written: "stopped, " in written[begin:])
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish(20) == program.DONE


def test_what_cannot_be_watched_is_refused(tmp_path):
    (tmp_path / "text.h5").write_text("no run\n")
    (tmp_path / "text.jsonl").write_text("no step\n")
    for path in (tmp_path / "absent.h5", tmp_path / "text.h5", tmp_path / "text.jsonl", tmp_path / "absent.jsonl", tmp_path):
        finished = program.run(["watch", path])
        assert finished.code == program.BAD_INPUT and str(path) in finished.stderr, finished
    finished = program.run(["watch"])
    assert finished.code == program.BAD_INPUT and "directory of a sweep" in finished.stderr, finished
    finished = program.run(["watch", tmp_path, "--every", "0"])
    assert finished.code == program.BAD_INPUT and "--every" in finished.stderr, finished
