"""Signals at random moments of runs with steps of milliseconds and of seconds: how many completed steps each one cost.

SIGTERM goes to mpirun, SIGKILL to mpirun or to a rank; every run is resumed until it is complete, and then has the bits
of an undisturbed one.  BIPO_STOPS is the number of each (default: some; the tests with the label long set a thousand).
A line per run that was stopped, and the sum, go to standard output: `pytest -s` shows them.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from dataclasses import dataclass, field

import pytest

import program
import run_files
from processes import ranks_of
from tiny_models import TinyModel, write_model, write_pairs

STOPS = int(os.environ.get("BIPO_STOPS", "2"))
LONGEST_WAIT = 2.0  # seconds, after the first progress
SAVE_EVERY = 0.2  # seconds, in the runs that are killed: what a kill costs where the disk is quick
ENOUGH = 100  # kills, for a median of what they cost that one slow write does not decide
ALL_GONE = 15  # seconds until mpirun's ranks have ended


@dataclass
class Losses:
    """Completed steps that a run had to repeat, one entry for each signal."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    completed: int = 0

    def add(self, steps: int, seconds: float) -> None:
        self.steps.append(steps)
        self.seconds.append(steps * seconds)

    def text(self) -> str:
        return (f"{len(self.steps)} signals, {self.completed} runs completed in between; lost steps per signal: "
                f"mean {statistics.mean(self.steps):.3f}, most {max(self.steps)}, "
                f"none {sum(steps == 0 for steps in self.steps)} times; most seconds {max(self.seconds):.2f}")


def jobs_to_stop(job, folder, save_every: float) -> list:
    """Runs of some seconds: of many short steps, mostly, and of few long ones."""
    model = write_model(folder / "model", TinyModel(hidden_size=192, intermediate_size=512, layers=6))
    short = job.but(epochs=60, eval_every=20, micro_batch=2, save_every=save_every, out=folder / "short.h5")
    long = job.but(model=model, train=write_pairs(folder / "many.csv", 400), test=None, batch_size=200, micro_batch=4,
                   epochs=3, save_every=save_every, out=folder / "long.h5")
    return [short, short, short, long]


def end_at_random(job, number: signal.Signals, generator: random.Random):
    """Returns how the run ended at the signal, and when it trained, was sent the signal, and was gone; None if it was
    done."""
    with program.start(job.arguments("--resume"), ranks=2) as running:
        while not running.ended() and "prefix" not in running.output(None).stderr:
            time.sleep(0.01)
        until = time.monotonic() + generator.uniform(0, LONGEST_WAIT)
        trains = None
        while time.monotonic() < until:
            if trains is None and "median norm" in running.output(None).stderr:
                trains = time.time()
            time.sleep(0.01)
        if running.ended():
            assert running.finish(1).code == program.DONE, running.output(None)
            return None
        targets = [running.pid] if number == signal.SIGTERM else [running.pid, *ranks_of(job.out).values()]
        sent = time.time()
        try:
            os.kill(generator.choice(targets), number)
        except ProcessLookupError:  # a rank that ended at this moment
            pass
        deadline = time.monotonic() + ALL_GONE
        while ranks_of(job.out) and time.monotonic() < deadline:
            time.sleep(0.005)
        gone = time.time()
        assert not ranks_of(job.out), "left behind"
        return running.finish(60), trains, sent, gone


def lost_steps(run: run_files.RunFile, begin: float | None, last_moment: float) -> tuple[int, float]:
    """Steps for which there was time between the last save, or the start if that was later, and the end; and how long
    each took."""
    if begin is None or len(run.steps) == 0:
        return 0, 0.0
    length = statistics.median(run.steps["seconds"])
    return max(0, int((last_moment - begin) / length)), length


def stop_again_and_again(job, folder, number: signal.Signals, save_every: float) -> Losses:
    generator = random.Random(28 + number)
    jobs = jobs_to_stop(job, folder, save_every)
    expected = {}
    for one in (jobs[0], jobs[-1]):
        undisturbed = one.but(out=folder / f"undisturbed-{one.out.name}")
        program.run_successfully(undisturbed.but(save_every=600).arguments(), timeout=300)  # one rank: the same bits
        expected[one.out] = run_files.read(undisturbed.out)
    losses = Losses()
    while len(losses.steps) < STOPS:
        current = generator.choice(jobs)
        ended = end_at_random(current, number, generator)
        if ended is None:
            run_files.assert_identical(run_files.read(current.out), expected[current.out])
            current.out.unlink()
            losses.completed += 1
            continue
        finished, trains, sent, gone = ended
        if not current.out.exists():  # in the pass before the first step
            losses.add(0, 0.0)
            continue
        run_files.assert_whole(current.out)
        run = run_files.read(current.out)
        orderly = finished.code == program.DONE or "run file: " in finished.stdout
        # A rank that mpirun ends goes on for a while after the save at the signal; a killed one does not.
        last_moment = gone if number == signal.SIGTERM else sent
        begin = None if trains is None else max(trains, current.out.stat().st_mtime)
        losses.add(*((0, 0.0) if orderly else lost_steps(run, begin, last_moment)))
        print(f"{number.name}: {current.out.name}, {len(run.steps)} steps saved, {losses.steps[-1]} lost", flush=True)
    for one in (jobs[0], jobs[-1]):
        program.run_successfully(one.arguments("--resume"), ranks=2, timeout=300)
        run_files.assert_identical(run_files.read(one.out), expected[one.out])
        assert run_files.temporary_files(folder) == [], "the next run removes what a killed one left"
    print(losses.text())
    return losses


def test_terms(job, tmp_path):
    losses = stop_again_and_again(job, tmp_path, signal.SIGTERM, save_every=600)
    assert sum(losses.steps) <= STOPS // 50, losses.text()


def test_kills(job, tmp_path):
    """The bits are those of an undisturbed run; in the long campaign no more is lost than was done since the last save.

    Saves take a hundredth of the time at most: one that a loaded disk held up for 12 ms delays the next by 1.2 s.
    """
    losses = stop_again_and_again(job, tmp_path, signal.SIGKILL, SAVE_EVERY)
    if STOPS >= ENOUGH:
        assert statistics.median(losses.seconds) <= 2 * SAVE_EVERY, losses.text()
        assert max(losses.seconds) <= 20 * SAVE_EVERY, losses.text()
