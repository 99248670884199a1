"""A rank that dies takes the job down: quickly, with a message, leaving no process and a whole file."""

import os
import signal
import time

import pytest

import program
import run_files
from processes import ranks_of
from selection import seldom

END_WITHIN = 30  # seconds


@pytest.mark.parametrize("layout, victim", [({"dp": 4}, 0), seldom({"dp": 4}, 3), seldom({"dp": 2, "tp": 2}, 0),
                                            ({"dp": 2, "tp": 2}, 3)])
def test_a_killed_rank_ends_the_job(endless, layout, victim):
    job = endless.but(micro_batch=1, **layout)
    with program.start(job.arguments(), ranks=4) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
        ranks = ranks_of(job.out)
        assert sorted(ranks) == [0, 1, 2, 3]
        killed_at = time.monotonic()
        os.kill(ranks[victim], signal.SIGKILL)
        finished = running.finish(END_WITHIN)
        assert finished.code != program.DONE, finished
        assert finished.stderr.strip(), "it ended without a word"
        assert "signal 9" in finished.stderr or "rank" in finished.stderr.lower(), finished
        while ranks_of(job.out):
            assert time.monotonic() - killed_at < END_WITHIN, f"left behind: {ranks_of(job.out)}"
            time.sleep(0.1)
    run_files.assert_whole(job.out)


def test_the_job_can_be_resumed_after_a_rank_died(job):
    """What the surviving file holds continues to the same end as a run that nobody disturbed."""
    settings = {"micro_batch": 1, "epochs": 60, "save_every": 0, "eval_every": 20}
    expected = job.but(**{**settings, "save_every": 30}).writing("undisturbed.h5")
    program.run_successfully(expected.arguments(), ranks=2)
    disturbed = job.but(**settings)
    with program.start(disturbed.arguments(), ranks=2) as running:
        program.wait_until(lambda: run_files.steps_saved(disturbed.out) >= 5, running)
        os.kill(ranks_of(disturbed.out)[1], signal.SIGKILL)
        assert running.finish(END_WITHIN).code != program.DONE
    assert run_files.steps_saved(disturbed.out) < 360, "it had finished before the kill"
    program.run_successfully(disturbed.arguments("--resume"), ranks=2)
    run_files.assert_identical(run_files.read(disturbed.out), run_files.read(expected.out))
    assert run_files.temporary_files(disturbed.folder) == []
