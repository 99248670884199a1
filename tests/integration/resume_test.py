"""Killed, interrupted and resumed runs end exactly where an undisturbed run ends."""

import random
import re
import signal
import time

import pytest

import program
import run_files

KILLS = 20  # a thousand in stop_campaign_test.py
EPOCHS, STEPS_PER_EPOCH = 60, 6


@pytest.fixture
def long_job(job):
    """A run that is saved step by step and lasts long enough to be hit in the middle many times."""
    return job.but(epochs=EPOCHS, save_every=0, eval_every=10)


@pytest.fixture(scope="module")
def common_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("common")


@pytest.fixture
def expected(long_job, common_folder):
    """The undisturbed run of the same settings; how often it saves is no part of the result."""
    undisturbed = long_job.but(save_every=30, out=common_folder / "undisturbed.h5")
    if not undisturbed.out.exists():
        program.run_successfully(undisturbed.arguments())
    return run_files.read(undisturbed.out)


def kill_in_mid_run(job, steps, *extra):
    """SIGKILLs the run once it has saved `steps` rows."""
    with program.start(job.arguments(*extra)) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= steps, running)
        running.send(signal.SIGKILL)
        assert running.finish(10).code == -signal.SIGKILL


def interrupt(job, number, steps, ranks=None):
    """Signals the run once it has saved `steps` rows; it must stop by itself with a checkpoint."""
    with program.start(job.arguments(), ranks) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= steps, running)
        running.send(number)
        finished = running.finish(30)
    assert finished.code == program.INTERRUPTED, finished
    run = run_files.read(job.out)
    assert run.attributes["status"] == "interrupted"
    assert steps <= len(run.steps) < EPOCHS * STEPS_PER_EPOCH
    assert run.vector_steps[-1] == len(run.steps), "the vector it stopped with must be in the file"
    return finished


def test_a_killed_run_resumes_to_the_same_bits(long_job, expected):
    kill_in_mid_run(long_job, 7)
    run_files.assert_whole(long_job.out)
    assert 7 <= run_files.steps_saved(long_job.out) < EPOCHS * STEPS_PER_EPOCH
    program.run_successfully(long_job.arguments("--resume"))
    assert run_files.read(long_job.out).attributes["status"] == "complete"
    run_files.assert_identical(run_files.read(long_job.out), expected)


def test_steps_since_the_last_save_are_repeated(long_job, expected):
    """With rare saves a kill takes steps away; the resumed run computes the very same ones again."""
    rare = long_job.but(save_every=0.5)
    kill_in_mid_run(rare, 1)
    program.run_successfully(rare.arguments("--resume"))
    run_files.assert_identical(run_files.read(rare.out), expected)


def test_resume_with_another_number_of_replicas(long_job, expected):
    """dp is no part of the result, so a job may come back with fewer ranks; the micro-batch stays."""
    fixed = long_job.but(micro_batch=1)
    reference = fixed.writing("reference.h5")
    program.run_successfully(reference.arguments())
    interrupt(fixed, signal.SIGUSR1, 5, ranks=2)
    program.run_successfully(fixed.arguments("--resume"))
    run_files.assert_identical(run_files.read(fixed.out), run_files.read(reference.out))


@pytest.mark.long
def test_kills_at_random_moments(long_job, expected):
    """The file opens and is whole after every kill, and every run that got to its end is the same run."""
    generator = random.Random(2024)
    kills = completed = 0
    current = long_job.writing("run0.h5")
    while kills < KILLS:
        with program.start(current.arguments("--resume")) as running:
            if not killed_at_random(running, current.out, generator):
                finished = running.finish(60)
                assert finished.code == program.DONE, finished
                run_files.assert_identical(run_files.read(current.out), expected)
                completed += 1
                current = long_job.writing(f"run{completed}.h5")
                continue
            running.finish(10)
        kills += 1
        if current.out.exists():
            run_files.assert_whole(current.out)
    program.run_successfully(current.arguments("--resume"))
    run_files.assert_identical(run_files.read(current.out), expected)
    assert run_files.temporary_files(long_job.folder) == []


def killed_at_random(running, out, generator):
    """Kills a fifth of the runs during start-up, the rest while they save steps; False: it ended first."""
    if generator.random() < 0.2:
        delay = generator.uniform(0, 0.5)
    else:
        before = modified(out)
        while modified(out) == before and not running.ended():
            time.sleep(0.002)
        delay = generator.uniform(0, 0.15)
    time.sleep(delay)
    if running.ended():
        return False
    running.send(signal.SIGKILL)
    return running.process.wait() == -signal.SIGKILL


def modified(path):
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=["SIGUSR1", "SIGTERM"])
def test_the_bare_program_stops_at_a_step_boundary(long_job, expected, number):
    interrupt(long_job, number, 5)
    program.run_successfully(long_job.arguments("--resume"))
    run_files.assert_identical(run_files.read(long_job.out), expected)


@pytest.mark.long
def test_mpirun_forwards_sigusr1_to_its_ranks(long_job):
    job = long_job.but(micro_batch=2)
    reference = job.writing("reference.h5")
    program.run_successfully(reference.arguments(), ranks=2)
    interrupt(job, signal.SIGUSR1, 5, ranks=2)
    program.run_successfully(job.arguments("--resume"), ranks=2)
    run_files.assert_identical(run_files.read(job.out), run_files.read(reference.out))


def test_resuming_a_complete_run_does_nothing(job):
    program.run_successfully(job.arguments())
    before = job.out.read_bytes()
    program.run_successfully(job.arguments("--resume"))
    assert job.out.read_bytes() == before


def test_resume_without_a_file_starts_anew(job):
    program.run_successfully(job.arguments("--resume"))
    fresh = job.writing("fresh.h5")
    program.run_successfully(fresh.arguments())
    run_files.assert_identical(run_files.read(job.out), run_files.read(fresh.out))


@pytest.mark.parametrize("changed, name", [({"lr": 0.01}, "lr"), ({"layer": 2}, "layer"),
                                           ({"seed": 12}, "seed"), ({"epochs": 61}, "epochs")])
def test_resume_refuses_changed_settings(long_job, common_folder, changed, name):
    long_job = long_job.but(out=common_folder / "interrupted.h5")
    if not long_job.out.exists():
        interrupt(long_job, signal.SIGUSR1, 2)
    before = long_job.out.read_bytes()
    finished = program.run(long_job.but(**changed).arguments("--resume"))
    assert finished.code == program.BAD_INPUT, finished
    assert name in finished.stderr and str(long_job.out) in finished.stderr, finished
    assert str(changed[name]) in finished.stderr, "it must name the value that differs"
    assert long_job.out.read_bytes() == before


def test_a_run_of_version_01_goes_on_with_its_rule_for_bos(long_job, tmp_path):
    """Version 0.1 put BOS before every prompt and stored no_bos; today's rule puts none that the template lacks."""
    template = tmp_path / "template.jinja"
    template.write_text(run_files.TEMPLATE_WITHOUT_BOS, encoding="utf-8")
    long_job = long_job.but(chat_template=template)
    job = long_job.but(bos="always")
    undisturbed = job.writing("undisturbed.h5")
    program.run_successfully(undisturbed.arguments())
    interrupt(job, signal.SIGUSR1, 5)
    run_files.as_of_version_01(job.out)
    program.run_successfully(long_job.arguments("--resume"))
    resumed = run_files.read(job.out)
    run_files.assert_identical(resumed, run_files.read(undisturbed.out))
    assert resumed.config["no_bos"] is False and "bos" not in resumed.config, resumed.config
    program.run_successfully(long_job.arguments("--resume"))
    fresh = long_job.but(max_steps=1).writing("fresh.h5")
    program.run_successfully(fresh.arguments())
    assert run_files.read(fresh.out).config["train_tokens_hash"] != resumed.config["train_tokens_hash"]
    refused = program.run(long_job.arguments("--resume", "--no-bos"))
    assert refused.code == program.BAD_INPUT and "--no-bos was false, now true" in refused.stderr, refused


def test_a_run_of_an_earlier_version_goes_on_with_its_warm_up(job):
    """It stored its default of 100 steps in this run of 60 too; today's default would be 6."""
    earlier = job.but(epochs=10, save_every=0, warmup_steps=100)
    undisturbed = earlier.writing("undisturbed.h5")
    program.run_successfully(undisturbed.arguments())
    interrupt(earlier, signal.SIGUSR1, 5)
    program.run_successfully(earlier.but(warmup_steps=None).arguments("--resume"))
    resumed = run_files.read(earlier.out)
    run_files.assert_identical(resumed, run_files.read(undisturbed.out))
    assert resumed.steps["lr"][-1] == pytest.approx(0.05 * 59 / 100)


def test_resume_refuses_changed_data(long_job, tmp_path):
    """The same path with other pairs behind it is another run."""
    from tiny_models import write_pairs

    data = write_pairs(tmp_path / "data.csv", 22)
    job = long_job.but(train=data)
    interrupt(job, signal.SIGUSR1, 2)
    write_pairs(data, 22, seed=99)
    finished = program.run(job.arguments("--resume"))
    assert finished.code == program.BAD_INPUT, finished
    assert re.search("data.csv|pairs|token", finished.stderr), finished


def test_an_existing_file_is_never_overwritten_unasked(job):
    program.run_successfully(job.arguments())
    before = job.out.read_bytes()
    finished = program.run(job.arguments())
    assert finished.code == program.BAD_INPUT, finished
    for part in (str(job.out), "--resume", "--overwrite"):
        assert part in finished.stderr, finished
    assert job.out.read_bytes() == before


def test_overwrite_starts_anew(job):
    program.run_successfully(job.but(lr=0.01).arguments())
    program.run_successfully(job.arguments("--overwrite"))
    fresh = job.writing("fresh.h5")
    program.run_successfully(fresh.arguments())
    run_files.assert_identical(run_files.read(job.out), run_files.read(fresh.out))


def test_resume_of_a_file_that_is_no_run_file(job):
    job.out.write_bytes(b"not HDF5 at all")
    finished = program.run(job.arguments("--resume"))
    assert finished.code == program.BAD_INPUT, finished
    assert str(job.out) in finished.stderr, finished
    assert job.out.read_bytes() == b"not HDF5 at all"
