"""Event files for TensorBoard from runs and sweeps, through the package tensorboard."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator
from pathlib import Path

import numpy

from .errors import AnalysisError
from .kinds import RUN, kind_of
from .run import Run, load_run
from .sweep import load_sweep
from .wording import counted

# Columns of /steps and /evals, and what they are called.
STEP_SCALARS = ("loss", "margin", "accuracy", "lr", "grad_norm", "vector_norm")
EVAL_SCALARS = ("loss", "margin", "accuracy", "chosen_logp", "rejected_logp")


def write_event_files(path: Path, out: Path) -> str:
    """Writes the scalars of a run, or of each cell of a sweep, to a folder of `out`; returns the line to print.

    Steps are the steps done, and the clock is that of the run's own seconds.  Raises AnalysisError where the package
    is missing or a folder holds event files already.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise AnalysisError("event files are written by the package tensorboard, which is not installed: "
                            f"`pip install tensorboard` ({error})") from error
    runs = list(_runs(path))
    for name, _ in runs:
        if any((out / name).glob("*tfevents*")):
            raise AnalysisError(f"{out / name}: holds event files already; give another --out or remove them")
    for name, run in runs:
        writer = EventFileWriter(str(out / name))
        for wall, step, tag, value in _scalars(run):
            writer.add_event(Event(wall_time=wall, step=step, summary=Summary(
                value=[Summary.Value(tag=tag, simple_value=value)])))
        writer.close()
    return f"{out}: {counted(len(runs), 'run')}; `tensorboard --logdir {out}` shows them"


def _runs(path: Path) -> Iterator[tuple[str, Run]]:
    if kind_of(path) == RUN:
        run = load_run(path)
        yield run.name, run
        return
    sweep = load_sweep(path)
    for name, run in sweep.runs.items():
        yield name, run


def _scalars(run: Run) -> Iterator[tuple[float, int, str, float]]:
    """Wall time, steps done, tag and value of all that the run logged."""
    begun = _begun(run)
    clock = begun + numpy.cumsum(run.steps["seconds"].to_numpy()) if len(run.steps) else numpy.array([begun])
    for index, row in enumerate(run.steps.to_dict("records")):
        for name in STEP_SCALARS:
            yield float(clock[index]), int(row["step"]) + 1, f"train/{name}", float(row[name])
    for row in run.evals.to_dict("records"):
        at = float(clock[min(max(int(row["step"]) - 1, 0), len(clock) - 1)])
        for name in EVAL_SCALARS:
            yield at, int(row["step"]), f"held_out/{name}/multiplier {row['multiplier']:+g}", float(row[name])


def _begun(run: Run) -> float:
    try:
        return float(calendar.timegm(time.strptime(str(run.attributes["created_utc"]), "%Y-%m-%dT%H:%M:%SZ")))
    except (KeyError, ValueError):
        return 0.0
