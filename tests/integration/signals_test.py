"""Every signal that asks for a stop, in every phase of a run: the last completed step is saved, and a resumed run
ends with the bits of an undisturbed one.

The default run takes a part of the signals, because all of them take the same way; the test with the label long
(BIPO_LONG_FORM) takes all of them.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

import program
import run_files
from processes import hears_signals, ranks_of
from tiny_models import TinyModel, write_model, write_pairs

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1)
LONG_FORM = bool(os.environ.get("BIPO_LONG_FORM"))
SOME_SIGNALS = SIGNALS if LONG_FORM else (signal.SIGTERM,)
SAVED_WITHIN = 0.2  # seconds, from the signal's arrival at the rank that writes

EPOCHS, STEPS_PER_EPOCH = 4, 3


@pytest.fixture(scope="module")
def slow_inputs(tmp_path_factory):
    """A model and pairs with which a pass, a step and an evaluation take long enough to be hit."""
    folder = tmp_path_factory.mktemp("slow")
    model = write_model(folder / "slow", TinyModel(hidden_size=192, intermediate_size=512, layers=6))
    return {"model": model, "train": write_pairs(folder / "train.csv", 96),
            "test": write_pairs(folder / "test.csv", 48, seed=8)}


@pytest.fixture
def slow_job(job, slow_inputs):
    """Saves only at the end of an epoch."""
    return job.but(**slow_inputs, epochs=EPOCHS, batch_size=32, micro_batch=4, save_every=600)


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reference")


def undisturbed(job, reference: Path):
    if not reference.exists():
        program.run_successfully(job.but(out=reference).arguments())
    return run_files.read(reference)


@pytest.fixture
def expected(slow_job, reference_folder):
    return undisturbed(slow_job, reference_folder / "undisturbed.h5")


def stderr(running: program.Running) -> str:
    return running.output(None).stderr


def steps_seen(running: program.Running) -> int:
    """The last step of which the progress told."""
    return max((int(step) for step in re.findall(r"^train (\d+)/", stderr(running), re.MULTILINE)), default=0)


def root_of(running: program.Running, job, ranks: int | None) -> int | None:
    return running.pid if ranks is None else ranks_of(job.out).get(0)


def wait_for_phase(phase: str, running: program.Running, job, ranks: int | None) -> None:
    """Returns when the run, which was started anew, is in the middle of the phase."""

    def ready() -> bool:
        if phase == "start":
            pids = [running.pid] if ranks is None else list(ranks_of(job.out).values())
            return len(pids) == (ranks or 1) and all(map(hears_signals, pids))
        if phase == "prefix":
            return "prefix and reference, " in stderr(running)
        if phase == "step":
            return steps_seen(running) > 0
        seen = steps_seen(running)
        return seen > 0 and seen % STEPS_PER_EPOCH == 0

    program.wait_until(ready, running)


def stop(job, phase: str, number: signal.Signals, ranks: int | None, target: str) -> program.Finished:
    """Starts or continues the run, sends the signal in the phase, and checks what must be saved."""
    with program.start(job.arguments("--resume"), ranks) as running:
        wait_for_phase(phase, running, job, ranks)
        seen = steps_seen(running)
        if target == "launched":
            running.send(number)
        else:
            os.kill(ranks_of(job.out)[int(target)], number)
        finished = running.finish(60)
    ends_the_ranks_itself = ranks is not None and target == "launched" and number != signal.SIGUSR1
    assert finished.code == (program.FAILED if ends_the_ranks_itself else program.INTERRUPTED), finished
    assert re.search(r"bipo-dist: (rank \d+: )?SIG", finished.stderr), finished
    assert not ranks_of(job.out), "left behind"
    # mpirun waits a second before it passes the signal on.
    is_late = ends_the_ranks_itself and phase in ("start", "prefix") and "ends now" not in finished.stderr
    if phase in ("start", "prefix") and not is_late:
        assert seen == 0 and "ends now" in finished.stderr, finished
    else:
        run_files.assert_whole(job.out)
        assert run_files.steps_saved(job.out) >= seen and (seen > 0 or is_late), finished
        assert run_files.read(job.out).attributes["status"] == "interrupted", finished
    return finished


PHASES = ("start", "step", "prefix", "evaluation")


def stop_in_every_phase(job, number, ranks, target, expected, phases=PHASES) -> None:
    for phase in phases:
        stop(job, phase, number, ranks, target)
    program.run_successfully(job.arguments("--resume"), ranks)
    run_files.assert_identical(run_files.read(job.out), expected)
    assert run_files.temporary_files(job.folder) == []


@pytest.mark.parametrize("number", SOME_SIGNALS, ids=lambda number: number.name)
def test_the_bare_program(slow_job, expected, number):
    stop_in_every_phase(slow_job, number, None, "launched", expected)


@pytest.mark.parametrize("number, phases", [
    (signal.SIGUSR1, PHASES), (signal.SIGTERM, PHASES if LONG_FORM else PHASES[1:2]),
    *([(signal.SIGINT, PHASES[1:2]), (signal.SIGHUP, PHASES[1:2])] if LONG_FORM else [])],
    ids=lambda value: getattr(value, "name", ""))
def test_mpirun(slow_job, reference_folder, number, phases):
    """Of more steps than one can make while mpirun waits. It makes SIGTERM of SIGINT and SIGHUP."""
    # An idle machine makes 24 steps in the four seconds of the four stops.
    job = slow_job if number == signal.SIGUSR1 else slow_job.but(epochs=4 * EPOCHS)
    expected = undisturbed(job, reference_folder / f"{job.settings['epochs']}.h5")
    stop_in_every_phase(job, number, 2, "launched", expected, phases)


@pytest.mark.parametrize("number, rank", [(signal.SIGPIPE, "0"), (signal.SIGHUP, "1")], ids=["SIGPIPE-0", "SIGHUP-1"])
def test_one_rank_of_two(slow_job, expected, number, rank):
    phases = ("start", "step", "evaluation") if LONG_FORM or number == signal.SIGPIPE else ("step",)
    stop_in_every_phase(slow_job, number, 2, rank, expected, phases)


@pytest.mark.quiet
@pytest.mark.parametrize("ranks", [None, 2])
def test_the_save_does_not_wait_for_the_step(slow_job, slow_inputs, ranks):
    """A step of all pairs, and more of them, lasts far longer than the last save may take."""
    pairs = write_pairs(slow_job.folder / "many.csv", 600)
    job = slow_job.but(train=pairs, test=None, batch_size=200, epochs=50)
    with program.start(job.arguments(), ranks) as running:
        program.wait_until(lambda: steps_seen(running) > 0, running)
        sent = time.time()
        os.kill(root_of(running, job, ranks), signal.SIGTERM)
        program.wait_until(lambda: run_files.read(job.out).attributes["status"] == "interrupted", running, 1)
        running.send(signal.SIGKILL)
        running.process.wait()
        assert job.out.stat().st_mtime - sent < SAVED_WITHIN
    assert run_files.steps_saved(job.out) == 1


def caught_in_save(job, running: program.Running, ranks: int | None) -> bool:
    """Halts the writing rank while its new file has no name yet."""
    root = None
    while not running.ended():
        root = root or root_of(running, job, ranks)
        if root is None or not run_files.temporary_files(job.folder):
            continue
        os.kill(root, signal.SIGSTOP)
        time.sleep(0.01)
        if run_files.temporary_files(job.folder):
            return True
        os.kill(root, signal.SIGCONT)
    return False


@pytest.mark.parametrize("number, ranks", [*((number, None) for number in SOME_SIGNALS),
                                           (signal.SIGTERM, 2)], ids=lambda value: getattr(value, "name", None))
def test_in_the_middle_of_a_save(job, reference_folder, number, ranks):
    often = job.but(epochs=60, save_every=0, eval_every=10, micro_batch=2)
    expected = undisturbed(often.but(save_every=600), reference_folder / "often.h5")
    with program.start(often.arguments(), ranks) as running:
        program.wait_until(lambda: run_files.steps_saved(often.out) > 3, running)
        assert caught_in_save(often, running, ranks), running.output(None)
        root = root_of(running, often, ranks)
        os.kill(root, number)
        os.kill(root, signal.SIGCONT)
        finished = running.finish(30)
    assert finished.code == program.INTERRUPTED, finished
    assert run_files.read(often.out).attributes["status"] == "interrupted"
    program.run_successfully(often.arguments("--resume"), ranks)
    run_files.assert_identical(run_files.read(often.out), expected)
    assert run_files.temporary_files(often.folder) == []


@pytest.mark.parametrize("number", SOME_SIGNALS, ids=lambda number: number.name)
def test_after_the_last_save_it_comes_too_late(job, number):
    """The program is done then, and says so."""
    with program.start(job.arguments()) as running:
        while not (job.out.exists() and run_files.read(job.out).attributes["status"] == "complete"):
            time.sleep(0.001)
        running.send(number)
        finished = running.finish(30)
    assert finished.code == program.DONE, finished
    assert run_files.read(job.out).attributes["status"] == "complete"
    assert "run file: " in finished.stdout, finished


@pytest.mark.quiet
def test_a_second_interrupt_ends_the_program_with_the_state_saved(slow_job):
    job = slow_job.but(train=write_pairs(slow_job.folder / "many.csv", 600), test=None, batch_size=200, epochs=50)
    with program.start(job.arguments()) as running:
        program.wait_until(lambda: steps_seen(running) > 0, running)
        sent = time.monotonic()
        running.send(signal.SIGINT)
        running.send(signal.SIGTERM)  # changes nothing
        while running.process.poll() is None and time.monotonic() - sent < 0.1:
            time.sleep(0.01)
        running.send(signal.SIGINT)
        finished = running.finish(0.9)
    assert finished.code == program.INTERRUPTED, finished
    assert "SIGINT again" in finished.stderr, finished
    assert run_files.steps_saved(job.out) == 1
    assert run_files.read(job.out).attributes["status"] == "interrupted"


def test_nohup_outlives_its_terminal(slow_job):
    """What the parent ignores stays ignored: SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with program.start(slow_job.arguments()) as running:
            program.wait_until(lambda: steps_seen(running) > 0, running)
            running.send(signal.SIGHUP)
            finished = running.finish(60)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert finished.code == program.DONE, finished
    assert run_files.read(slow_job.out).attributes["status"] == "complete"


def test_a_closed_pipe_ends_the_progress_and_not_the_run(slow_job, expected):
    reading, writing = os.pipe()
    process = program.spawn(slow_job.arguments(), stderr=writing)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert process.wait(60) == program.DONE
    run_files.assert_identical(run_files.read(slow_job.out), expected)


def test_a_cache_on_disk_is_left_whole_or_not_at_all(slow_job, expected):
    """The pass that was stopped leaves nothing; the next start makes the cache, and the one after it takes it."""
    cache = slow_job.folder / "cache"
    cached = slow_job.but(cache_dir=cache)
    stop(cached, "prefix", signal.SIGTERM, 2, "0")
    assert list(cache.iterdir()) == []
    stop(cached, "step", signal.SIGUSR1, 2, "launched")
    files = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert len(files) == 2 and not run_files.temporary_files(cache)
    finished = program.run_successfully(cached.arguments("--resume"), 2)
    assert "prefix and reference" not in finished.stderr, "the cache is there"
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == files
    run_files.assert_identical(run_files.read(slow_job.out), expected)


def cells_of(sweep) -> list:
    return sorted(path for path in sweep.out.glob("*.h5"))


@pytest.mark.parametrize("number", [signal.SIGUSR1, *([signal.SIGTERM] if LONG_FORM else [])],
                         ids=lambda number: number.name)
def test_every_group_of_a_sweep_saves_its_pack(slow_job, number):
    """Two groups of one rank, each with a pack of two vectors; their claims are free for others at once."""
    sweep = slow_job.but(layer=None, layers="1,2", seeds="1,2", epochs=2, out=slow_job.folder / "sweep")
    undisturbed = sweep.but(out=slow_job.folder / "undisturbed")
    arguments = lambda job, *extra: ["sweep", *job.arguments()[1:], *extra]
    program.run_successfully(arguments(undisturbed), ranks=2)
    with program.start(arguments(sweep), ranks=2) as running:
        program.wait_until(lambda: steps_seen(running) > 0 and len(cells_of(sweep)) == 4, running)
        running.send(number)
        finished = running.finish(60)
    assert finished.code == (program.INTERRUPTED if number == signal.SIGUSR1 else program.FAILED), finished
    for cell in cells_of(sweep):
        assert run_files.read(cell).attributes["status"] == "interrupted"
        assert run_files.steps_saved(cell) > 0
    claims = [path.read_text() for path in (sweep.out / "claims").iterdir()]
    assert len(claims) == 2 and all('"released":true' in claim for claim in claims), claims
    program.run_successfully(arguments(sweep), ranks=2)
    assert len(cells_of(sweep)) == 4
    for cell in cells_of(sweep):
        run_files.assert_identical(run_files.read(cell), run_files.read(undisturbed.out / cell.name))
