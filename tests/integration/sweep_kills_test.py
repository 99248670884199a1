"""SIGKILLs at random moments over small sweeps that two jobs work at once; `collect` is killed among them.

BIPO_KILLS is the number of kills (default: some dozens; the test with the label long sets a thousand).
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import h5py

import program
import run_files

KILLS = int(os.environ.get("BIPO_KILLS", "24"))
KILLS_PER_SWEEP = 12
LONGEST_LIFE = 2.5  # seconds; a job of its own is done after about as long


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.h5") if path.name != "sweep.h5")


class KilledSweep:
    """A sweep directory whose jobs are killed, and what has been seen to be complete in it."""

    def __init__(self, directory: Path, settings: dict, generator: random.Random):
        self.directory = directory
        self.settings = {**settings, "out": directory}
        self.random = generator
        self.completed: dict[Path, int] = {}  # modification time of complete run files

    def arguments(self) -> list[object]:
        return ["sweep", *program.options(self.settings)]

    def kill_some(self) -> int:
        """Starts one or two jobs, sometimes a merge beside them, and kills them one after the other."""
        commands = [self.arguments()] * self.random.choice((1, 1, 2))
        if (self.directory / "plan.json").exists() and self.random.random() < 0.3:
            commands.append(["collect", self.directory, "--out", self.directory / "sweep.h5"])
        running = [program.start(command) for command in commands]
        killed = 0
        try:
            for job in running:
                time.sleep(self.random.uniform(0, LONGEST_LIFE) / len(running))
                killed += not job.ended()
                job.send(signal.SIGKILL)
                job.finish(10)
        finally:
            for job in running:
                job.stop()
        self.check()
        return killed

    def check(self) -> None:
        """Every file opens, and what was complete stays as it was."""
        for path in files_of(self.directory):
            run_files.assert_whole(path)
            if run_files.read(path).attributes["status"] == "complete":
                written = path.stat().st_mtime_ns
                assert self.completed.setdefault(path, written) == written, f"{path} was trained a second time"
        merged = self.directory / "sweep.h5"
        if merged.exists():
            with h5py.File(merged) as file:
                assert len(file["summary"]) == 4

    def finish(self) -> None:
        program.run_successfully(self.arguments())
        program.run_successfully(["collect", self.directory, "--out", self.directory / "sweep.h5"])
        self.check()
        assert len(self.completed) == 4
        assert run_files.temporary_files(self.directory) == []
        assert list((self.directory / "claims").glob("*.json")) == []


def assert_merged_as(left: Path, right: Path) -> None:
    """Both merged files hold the same runs, wall times aside."""
    with h5py.File(left) as one, h5py.File(right) as other:
        names = ("cell", "status", "steps", "loss", "vector_norm", "accuracy_plus", "margin_plus")
        for name in names:
            assert (one["summary"][name] == other["summary"][name]).all(), name
        assert set(one["runs"]) == set(other["runs"]) and len(one["runs"]) == 4
        for cell in one["runs"]:
            assert (one["runs"][cell]["vectors/value"][:] == other["runs"][cell]["vectors/value"][:]).all()


def test_kills_at_random_moments(job, tmp_path):
    settings = {**job.but(layer=None, layers="1,2", seeds="1,2", epochs=4, save_every=0).settings}
    generator = random.Random(20240)
    undisturbed = KilledSweep(tmp_path / "undisturbed", settings, generator)
    undisturbed.finish()
    expected = {path.name: run_files.read(path) for path in files_of(undisturbed.directory)}
    killed = sweeps = 0
    while killed < KILLS:
        sweep = KilledSweep(tmp_path / f"killed-{sweeps}", settings, generator)
        goal = min(KILLS, killed + KILLS_PER_SWEEP)
        while killed < goal:
            killed += sweep.kill_some()
            if len(sweep.completed) == 4:
                break
        sweep.finish()
        for path in files_of(sweep.directory):
            run_files.assert_identical(run_files.read(path), expected[path.name])
        assert_merged_as(sweep.directory / "sweep.h5", undisturbed.directory / "sweep.h5")
        sweeps += 1
    print(f"{killed} kills over {sweeps} sweeps")
