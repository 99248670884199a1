"""Nobody waits in silence: a rank that is stopped, hangs or is elsewhere is named, and the job ends after --timeout;
a rank at work is waited for."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

import program
import run_files
from processes import ranks_of
from selection import seldom
from two_hosts import NoNamespaces, TwoHosts

NOTICE = 1  # seconds; users have 30
TIMEOUT = 3
EARLY = {"BIPO_NOTICE": str(NOTICE)}
END_WITHIN = 40


def stop(running: program.Running, out, rank: int, ranks: int) -> int:
    found = ranks_of(out)
    assert sorted(found) == list(range(ranks)), running.output(None)
    os.kill(found[rank], signal.SIGSTOP)
    return found[rank]


def assert_told_and_ended(running: program.Running, out, rank: int, where: str) -> None:
    finished = running.finish(END_WITHIN)
    assert finished.code == program.FAILED, finished
    notice = re.search(r"bipo-dist: rank \d on \S+ has waited \d\S* s in (.*) for (.*); after 3 s without progress",
                       finished.stderr)
    assert notice, finished
    assert re.search(where, notice[1]), finished
    assert f"rank {rank} on " in notice[2] and "no sign of life" in notice[2], finished
    assert re.search(rf"no progress for 3 s \(--timeout\) in .*: no sign of life; the job ends here",
                     finished.stderr), finished
    deadline = time.monotonic() + 15
    while ranks_of(out):
        assert time.monotonic() < deadline, f"left behind: {ranks_of(out)}"
        time.sleep(0.1)


@pytest.mark.parametrize("ranks, layout, victim", [
    (2, {"dp": 2}, 1), (2, {"dp": 2}, 0), (2, {"tp": 2}, 1), (3, {"dp": 3}, 1), (3, {"dp": 3}, 2),
    (4, {"dp": 2, "tp": 2}, 3)])
def test_a_stopped_rank_of_a_training(endless, ranks, layout, victim):
    job = endless.but(timeout=TIMEOUT, micro_batch=1, **layout)
    with program.start(job.arguments(), ranks, EARLY) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
        stop(running, job.out, victim, ranks)
        assert_told_and_ended(running, job.out, victim, r"^an? [a-z-]+ \(train \d+/\d+\)$")
    run_files.assert_whole(job.out)


def test_a_stopped_rank_on_another_host(endless):
    job = endless.but(timeout=TIMEOUT, micro_batch=1, dp=2)
    try:
        with TwoHosts() as hosts, hosts.start(job.arguments(), EARLY) as running:
            program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
            stop(running, job.out, 1, 2)
            assert_told_and_ended(running, job.out, 1, r"\(train \d+/\d+\)$")
            assert "rank 1 on host-b: no sign of life" in running.output(None).stderr
            assert "warning" not in running.output(None).stderr
    except NoNamespaces as reason:
        pytest.skip(f"no two hosts: {reason}")


def test_hosts_that_cannot_ask_each_other(endless):
    """Then a warning says that the time alone counts."""
    job = endless.but(timeout=TIMEOUT, micro_batch=1, dp=2)
    try:
        with TwoHosts() as hosts:
            hosts.lose_datagrams()
            with hosts.start(job.arguments(), EARLY) as running:
                program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
                assert "warning: the ranks do not hear each other over UDP" in running.output(None).stderr
                stop(running, job.out, 1, 2)
                finished = running.finish(END_WITHIN)
                assert finished.code == program.FAILED, finished
                assert "no progress for 3 s (--timeout)" in finished.stderr, finished
    except NoNamespaces as reason:
        pytest.skip(f"no two hosts: {reason}")


def test_a_rank_that_goes_on(endless):
    """The job goes on too, and says so; without a timeout it would wait for ever."""
    job = endless.but(timeout="0", micro_batch=1, dp=2)
    with program.start(job.arguments(), 2, EARLY) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
        stopped = stop(running, job.out, 1, 2)
        program.wait_until(lambda: "no sign of life" in running.output(None).stderr, running)
        time.sleep(TIMEOUT + 1)
        assert not running.ended()
        os.kill(stopped, signal.SIGCONT)
        program.wait_until(lambda: "goes on after" in running.output(None).stderr, running)
        before = run_files.steps_saved(job.out)
        program.wait_until(lambda: run_files.steps_saved(job.out) > before, running)
        assert "--timeout" not in running.output(None).stderr


def test_a_job_that_is_stopped_as_a_whole_does_not_end(endless):
    """A scheduler may suspend a job for longer than the timeout."""
    job = endless.but(timeout=TIMEOUT, micro_batch=1, dp=2)
    with program.start(job.arguments(), 2, EARLY) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
        for pid in ranks_of(job.out).values():
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2 * TIMEOUT)
        before = run_files.steps_saved(job.out)
        for pid in ranks_of(job.out).values():
            os.kill(pid, signal.SIGCONT)
        program.wait_until(lambda: run_files.steps_saved(job.out) > before + 3, running)


@pytest.mark.parametrize("victim", [seldom(0), 1])
def test_a_stopped_rank_of_a_sweep(endless, tmp_path, victim):
    """Two groups of one rank: the other one finishes its cells first."""
    sweep = endless.but(layer=None, layers="1", seeds="1,2", vectors_per_pass=1, epochs=40, timeout=TIMEOUT,
                        out=tmp_path / "sweep")
    with program.start(["sweep", *sweep.arguments()[1:]], 2, EARLY) as running:
        program.wait_until(lambda: len(list(sweep.out.glob("*.h5"))) == 2, running)
        stop(running, sweep.out, victim, 2)
        assert_told_and_ended(running, sweep.out, victim, "^the wait for all ranks|^an? [a-z-]+")


@pytest.mark.parametrize("layout", [{"tp": 2}, seldom({"dp": 2})], ids=["tp2", "dp2"])
def test_a_stopped_rank_of_a_generation(endless, tmp_path, layout):
    """With --dp 2 rank 0 finishes its own prompts first."""
    vector = endless.but(epochs=1, max_steps=2)
    program.run_successfully(vector.arguments())
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the cat\n" * 3000)
    out = tmp_path / "texts.jsonl"
    arguments = ["generate", *program.options({
        "model": endless.settings["model"], "vector": vector.out, "prompts": prompts, "out": out, "threads": 1,
        "max_new_tokens": 20, "multipliers": "0,1", "batch_size": 1, "ignore_eos": True, "timeout": TIMEOUT,
        **layout})]
    with program.start(arguments, 2, EARLY) as running:
        program.wait_until(lambda: "prompt " in running.output(None).stderr, running)
        stop(running, out, 1, 2)
        assert_told_and_ended(running, out, 1, r"\(prompt \d+/3000\)$")


def program_with_ranks(way: str, timeout: float, ranks: int) -> program.Running:
    return program.Running([program.from_environment("BIPO_MPIEXEC"), "-n", str(ranks),
                            program.from_environment("BIPO_WATCH_PROGRAM"), way, str(timeout)], EARLY)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_at_work_is_waited_for(ranks):
    """It works for six seconds, twice the timeout."""
    with program_with_ranks("works", TIMEOUT, ranks) as running:
        finished = running.finish(END_WITHIN)
    assert finished.code == program.DONE and "all met" in finished.stdout, finished
    assert re.search(rf"in a barrier \(test 7/9\) for rank {ranks - 1} on \S+: at work \(test 7/9\)",
                     finished.stderr), finished
    assert "no sign of life" not in finished.stderr, finished


def test_a_rank_that_hangs_without_working_is_not():
    with program_with_ranks("sleeps", TIMEOUT, 3) as running:
        finished = running.finish(END_WITHIN)
    assert finished.code == program.FAILED, finished
    assert re.search(r"rank 2 on \S+: alive, but without any progress for", finished.stderr), finished


def test_ranks_in_different_operations_do_not_wait_for_ever():
    with program_with_ranks("elsewhere", TIMEOUT, 2) as running:
        finished = running.finish(END_WITHIN)
    assert finished.code == program.FAILED, finished
    assert "waits for others" in finished.stderr, finished


def test_the_help_and_the_rule(job):
    assert "--timeout" in program.run_successfully(["train", "--help"]).stdout
    for wrong in ("-1", "abc", "nan", "10x", ""):
        finished = program.run(job.but(timeout=wrong).arguments())
        assert finished.code == program.BAD_INPUT and "--timeout" in finished.stderr, finished
