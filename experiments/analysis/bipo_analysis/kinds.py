"""What a path holds: a run, a sweep or an evaluation."""

from __future__ import annotations

from pathlib import Path

import h5py

SWEEP, RUN, EVALUATION = "a sweep", "a run", "an evaluation"


def is_collected(path: Path) -> bool:
    """Whether the file is what `bipo-dist collect` made of sweeps."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("kind") == "sweep")
    except OSError:
        return False


def kind_of(path: Path) -> str:
    """RUN or EVALUATION for such a file; SWEEP for anything else, whose reader then says what is wrong with it."""
    if not path.is_file():
        return SWEEP
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("kind") == "evaluation":
                return EVALUATION
            return RUN if "kind" not in file.attrs and "steps" in file and "evals" in file else SWEEP
    except OSError:
        return SWEEP
