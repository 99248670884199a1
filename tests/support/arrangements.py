"""Whether a training depends on its ranks, and whether it goes on after a stop, for runs of any kind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import numpy

import program
import run_files

if TYPE_CHECKING:
    from conftest import Job

# fp32 sums in another order, as in parity_test.py.
LOSS_RTOL, VECTOR_COSINE = 1e-5, 0.999999


def train(job: Job, ranks: int | None = None, **changes: object) -> run_files.RunFile:
    changed = job.but(**changes)
    program.run_successfully(changed.arguments(), ranks)
    return run_files.read(changed.out)


def assert_no_arrangement_of_ranks_matters(job: Job, **settings: object) -> None:
    settings = {"batch_size": 8, "micro_batch": 2, "epochs": 1, **settings}
    alone = train(job.writing("alone.h5"), **settings)
    assert alone.steps["vector_norm"][-1] > 0.05, "hardly moved: the comparison says nothing"
    run_files.assert_identical(train(job.writing("dp2.h5"), 2, dp=2, **settings), alone)
    split = train(job.writing("tp2.h5"), 2, tp=2, **settings)
    numpy.testing.assert_allclose(split.steps["loss"], alone.steps["loss"], rtol=LOSS_RTOL, atol=0)
    parts = (numpy.atleast_2d(run.final_vector) for run in (split, alone))
    for part, other in zip(*parts, strict=True):
        assert run_files.cosine(part, other) >= VECTOR_COSINE


def assert_a_stopped_run_goes_on(job: Job, other: dict[str, object], wording: str) -> None:
    """It is refused with the settings `other`, in words that have `wording`."""
    long = {"epochs": 60, "save_every": 0, "eval_every": 20}
    whole = train(job.writing("whole.h5"), **{**long, "save_every": 30})
    stopped = job.writing("stopped.h5").but(**long)
    with program.start(stopped.arguments()) as running:
        program.wait_until(lambda: run_files.steps_saved(stopped.out) >= 7, running)
        running.send(signal.SIGINT)
        assert running.finish(30).code == program.INTERRUPTED
    refused = program.run(stopped.but(**other).arguments("--resume"))
    assert refused.code == program.BAD_INPUT and wording in refused.stderr, refused
    program.run_successfully(stopped.arguments("--resume"))
    run_files.assert_identical(run_files.read(stopped.out), whole)
