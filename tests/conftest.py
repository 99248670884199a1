"""Fixtures of the tests that drive the program: tiny models, their data, and a maker of train commands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import program


@dataclass(frozen=True)
class Job:
    """The arguments of a small training run in a folder of its own."""

    folder: Path
    settings: dict[str, object]

    @property
    def out(self) -> Path:
        return Path(str(self.settings["out"]))

    def but(self, **changes: object) -> Job:
        """The same job with some settings changed; None takes an option away."""
        return replace(self, settings={**self.settings, **changes})

    def writing(self, name: str) -> Job:
        return self.but(out=self.folder / name)

    def arguments(self, *extra: object) -> list[object]:
        return ["train", *program.options(self.settings), *extra]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The plain tiny model; tests that damage a model copy it first."""
    from tiny_models import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory) -> Path:
    """22 pairs: no multiple of any batch size in use, so that every epoch ends on a short batch."""
    from tiny_models import write_pairs

    return write_pairs(tmp_path_factory.mktemp("pairs") / "train.csv", 22)


@pytest.fixture(scope="session")
def tiny_test_pairs(tmp_path_factory) -> Path:
    from tiny_models import write_pairs

    return write_pairs(tmp_path_factory.mktemp("pairs") / "test.csv", 9, seed=8)


@pytest.fixture
def job(tmp_path, tiny_model, tiny_pairs, tiny_test_pairs) -> Job:
    """Two epochs on the tiny model with a learning rate at which the vector really moves."""
    return Job(tmp_path, {
        "model": tiny_model, "train": tiny_pairs, "test": tiny_test_pairs, "layer": 1,
        "out": tmp_path / "run.h5", "epochs": 2,
        "lr_unit": "absolute", "lr": 0.05, "warmup_steps": 2, "weight_decay": 0.05,
        "threads": 1})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Trains a job that nothing disturbs and returns its run file. Jobs that differ in nothing but where and how often
    they save are one: it is trained once for all tests of a file."""
    import run_files

    folder = tmp_path_factory.mktemp("undisturbed")
    made: dict[str, Path] = {}

    def result(job: Job) -> run_files.RunFile:
        settings = {name: value for name, value in job.settings.items()
                    if name not in ("out", "rescue_dir", "save_every")}
        key = repr(sorted(settings.items()))
        if key not in made:
            out = folder / f"{len(made)}.h5"
            program.run_successfully(job.but(out=out, rescue_dir=None, save_every=600).arguments())
            made[key] = out
        return run_files.read(made[key])

    return result


@pytest.fixture
def endless(job) -> Job:
    """A job that no test waits for; it saves at every step."""
    return job.but(epochs=100000, save_every=0, eval_every=0)
