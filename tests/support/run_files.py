"""Reads run files and compares them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy

TABLES = ("steps", "evals")


@dataclass(frozen=True)
class RunFile:
    """The content of one run file, in memory."""

    attributes: dict
    steps: numpy.ndarray
    evals: numpy.ndarray
    vectors: numpy.ndarray  # [saved, D]
    vector_steps: numpy.ndarray
    vector_epochs: numpy.ndarray
    eval_samples: numpy.ndarray  # of the last evaluation

    @property
    def config(self) -> dict:
        return json.loads(self.attributes["config"])

    @property
    def final_vector(self) -> numpy.ndarray:
        return self.vectors[-1]

    def evaluation(self, multiplier: float, step: int | None = None) -> numpy.void:
        """The row of /evals at `multiplier` after `step` updates (None: the last such row)."""
        rows = self.evals[self.evals["multiplier"] == multiplier]
        if step is not None:
            rows = rows[rows["step"] == step]
        assert len(rows) > 0, f"no evaluation at multiplier {multiplier}, step {step}: {self.evals}"
        return rows[-1]


def read(path: Path) -> RunFile:
    with h5py.File(path, "r") as file:
        return RunFile(dict(file.attrs), file["steps"][:], file["evals"][:], file["vectors/value"][:],
                       file["vectors/step"][:], file["vectors/epoch"][:],
                       file["eval_samples"][:] if "eval_samples" in file else numpy.zeros(0))


def drop_checksums(file: h5py.File) -> None:
    """Makes a file that is open for a change one of an earlier version, whose values nothing vouches for."""
    file.attrs.pop("checksum", None)

    def drop(_, item):
        item.attrs.pop("checksum", None)

    file.visititems(drop)


# Prints no BOS, and nothing that is one.
TEMPLATE_WITHOUT_BOS = ("{% for turn in messages %}[{{ turn['role'] }}] {{ turn['content'] }}\n{% endfor %}"
                        "{% if add_generation_prompt %}[assistant] {% endif %}")


def as_of_version_01(path: Path) -> None:
    """Stores a run's rule for BOS, always, as version 0.1 stored that rule, which had no other name there."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["config"])
        assert config.pop("bos") == "always"
        file.attrs["config"] = json.dumps(config | {"no_bos": False})
        drop_checksums(file)


def steps_saved(path: Path) -> int:
    """Rows of /steps in the file as it is now; 0 where there is no file yet."""
    return len(read(path).steps) if path.exists() else 0


def assert_identical(left: RunFile, right: RunFile) -> None:
    """Both runs logged and produced the same, bit for bit, wall times aside."""
    for name in TABLES:
        assert_same_table(name, getattr(left, name), getattr(right, name))
    for name in ("vectors", "vector_steps", "vector_epochs", "eval_samples"):
        one, other = getattr(left, name), getattr(right, name)
        assert one.shape == other.shape, f"{name}: {one.shape} and {other.shape}"
        assert one.tobytes() == other.tobytes(), f"{name} differ by up to {largest_difference(one, other)}"


def assert_same_table(name: str, left: numpy.ndarray, right: numpy.ndarray) -> None:
    assert left.dtype == right.dtype, f"/{name}: {left.dtype} and {right.dtype}"
    assert len(left) == len(right), f"/{name}: {len(left)} and {len(right)} rows"
    for column in left.dtype.names:
        if column == "seconds":
            continue
        differing = [row for row in range(len(left))
                     if left[column][row].tobytes() != right[column][row].tobytes()]
        assert not differing, (f"/{name}.{column} differs first in row {differing[0]}: "
                               f"{left[column][differing[0]]!r} and {right[column][differing[0]]!r}")


def largest_difference(left: numpy.ndarray, right: numpy.ndarray) -> float:
    return float(numpy.max(numpy.abs(left.astype(float) - right.astype(float)), initial=0.0))


def cosine(left: numpy.ndarray, right: numpy.ndarray) -> float:
    one, other = left.astype(numpy.float64), right.astype(numpy.float64)
    return float(one @ other / (numpy.linalg.norm(one) * numpy.linalg.norm(other)))


def assert_whole(path: Path) -> None:
    """The file opens, and its parts tell of the same moment: nothing of it is missing or half written."""
    run = read(path)
    count = len(run.steps)
    assert run.attributes["status"] in ("running", "complete", "interrupted", "diverged")
    assert list(run.steps["step"]) == list(range(count))
    assert numpy.isfinite(run.steps["loss"]).all()
    assert len(run.vectors) == len(run.vector_steps) == len(run.vector_epochs)
    assert all(step <= count for step in run.vector_steps)
    with h5py.File(path, "r") as file:
        checkpoint = file["checkpoint"]
        saved = checkpoint["step"] if "step" in checkpoint else checkpoint.attrs["step"]
        assert int(saved[()] if isinstance(saved, h5py.Dataset) else saved) == count
        for name in ("vector", "exp_avg", "exp_avg_sq"):
            assert checkpoint[name].shape == run.vectors.shape[1:]
            assert checkpoint[name].shape[-1] == run.attributes["hidden_size"]
            assert numpy.isfinite(checkpoint[name][:]).all()


def temporary_files(directory: Path) -> list[str]:
    """What writers that were killed left behind."""
    return sorted(entry.name for entry in directory.iterdir() if entry.name.endswith(".tmp"))
