"""Runs on models whose chat template prints today's date, and on models without a template."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

import damaged_models
import program
import run_files
from conftest import Job
from tiny_models import CHATML_TEMPLATE

DATED_TEMPLATE = ("{{ '<|im_start|>system\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\n' }}"
                  + CHATML_TEMPLATE)

# Leap day, at noon UTC.
BEGINNING, FIRST_DAY = 1582977600, "2020-02-29"


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """The tiny model, to be given another template."""
    return damaged_models.copy_of(tiny_model, tmp_path / "models")


def set_template(model: Path, template: str | None) -> None:
    damaged_models.edit_json(model / "tokenizer_config.json",
                             lambda config: config.update(chat_template=template))


@pytest.fixture
def dated(job, model) -> Job:
    """A run that is saved at every step, on a model whose prompts begin with the date."""
    set_template(model, DATED_TEMPLATE)
    return job.but(model=model, epochs=60, eval_every=0, save_every=0)


@pytest.fixture(scope="module")
def clock(tmp_path_factory) -> Path:
    """A library that sets the clock of the program it is loaded into to BEGINNING."""
    folder = tmp_path_factory.mktemp("clock")
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(f"#include <time.h>\ntime_t time(time_t *out) {{ if (out) *out = {BEGINNING}; "
                      f"return {BEGINNING}; }}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def interrupt(job: Job) -> run_files.RunFile:
    with program.start(job.arguments()) as running:
        program.wait_until(lambda: run_files.steps_saved(job.out) >= 3, running)
        running.send(signal.SIGUSR1)
        finished = running.finish(30)
    assert finished.code == program.INTERRUPTED, finished
    return run_files.read(job.out)


def test_a_run_that_goes_on_another_day_keeps_the_first_days_date(dated, clock, monkeypatch):
    undisturbed = dated.but(template_date=FIRST_DAY, save_every=30).writing("undisturbed.h5")
    program.run_successfully(undisturbed.arguments())
    with monkeypatch.context() as that_day:
        that_day.setenv("LD_PRELOAD", str(clock))
        begun = interrupt(dated)
    assert begun.attributes["created_utc"].startswith(FIRST_DAY)
    assert begun.config["template_date"] == FIRST_DAY
    program.run_successfully(dated.arguments("--resume"))
    run_files.assert_identical(run_files.read(dated.out), run_files.read(undisturbed.out))


def test_the_date_shapes_the_run(dated):
    short = dated.but(epochs=2)
    runs = []
    for day in (FIRST_DAY, "2020-03-01"):
        current = short.but(template_date=day).writing(f"{day}.h5")
        program.run_successfully(current.arguments())
        runs.append(run_files.read(current.out))
    assert runs[0].config["train_tokens_hash"] != runs[1].config["train_tokens_hash"]
    assert (runs[0].final_vector != runs[1].final_vector).any()


def test_another_date_on_resume_is_refused_and_the_same_is_not(dated):
    given = dated.but(template_date=FIRST_DAY)
    interrupt(given)
    finished = program.run(dated.but(template_date="2020-03-01").arguments("--resume"))
    assert finished.code == program.BAD_INPUT, finished
    assert f'--template-date was "{FIRST_DAY}", now "2020-03-01"' in finished.stderr, finished
    finished = program.run_successfully(given.arguments("--resume"))
    assert FIRST_DAY in finished.stderr, "the table of settings must show the date"


def test_cached_activations_of_another_day_are_not_taken(dated, tmp_path):
    short = dated.but(epochs=2, cache_dir=tmp_path / "cache")
    for day in (FIRST_DAY, "2020-03-01"):
        cached = short.but(template_date=day).writing(f"cached-{day}.h5")
        program.run_successfully(cached.arguments())
        fresh = cached.but(cache_dir=None).writing(f"fresh-{day}.h5")
        program.run_successfully(fresh.arguments())
        run_files.assert_identical(run_files.read(cached.out), run_files.read(fresh.out))


def test_a_template_without_a_date_has_none_stored(job):
    finished = program.run_successfully(job.but(template_date=FIRST_DAY).arguments())
    assert "prints no date" in finished.stderr, finished
    assert run_files.read(job.out).config["template_date"] == ""


def test_a_sweep_that_goes_on_another_day_keeps_the_first_days_date(dated, tiny_model, clock, monkeypatch):
    """Beside a model whose template prints none."""
    sweep = dated.but(model=None, models=f"dated={dated.settings['model']},plain={tiny_model}", layer=None,
                      layers="1", epochs=2, out=dated.folder / "sweep")
    arguments = ["sweep", *sweep.arguments()[1:]]
    with monkeypatch.context() as that_day:
        that_day.setenv("LD_PRELOAD", str(clock))
        program.run_successfully(arguments)
    plan = (sweep.out / "plan.json").read_bytes()
    assert {of["model"]: of["template_date"] for of in json.loads(plan)["settings"]["inputs"]} == {
        "dated": FIRST_DAY, "plain": ""}
    [cell] = sweep.out.glob("dated-*.h5")
    before = run_files.read(cell)
    cell.unlink()
    program.run_successfully(arguments)
    assert (sweep.out / "plan.json").read_bytes() == plan
    run_files.assert_identical(run_files.read(cell), before)
    finished = program.run([*arguments, "--template-date", "2020-03-01"])
    assert finished.code == program.BAD_INPUT and "template_date" in finished.stderr, finished


@pytest.mark.parametrize("command", ["plan", "bench"])
def test_plan_and_bench_read_pairs_through_the_same_template(job, model, command):
    set_template(model, None)
    arguments = [command, "--model", model, "--train", job.settings["train"], "--layer", "1"]
    arguments += ["--threads", "1", "--steps", "1", "--warmup", "0"] if command == "bench" else ["--machine", "h100"]
    refused = program.run(arguments)
    assert refused.code == program.BAD_INPUT and "--chat-template plain" in refused.stderr, refused
    program.run_successfully([*arguments, "--chat-template", "plain"])


def test_a_model_without_a_template_trains_in_the_plain_form(job, model):
    set_template(model, None)
    refused = program.run(job.but(model=model).arguments())
    assert refused.code == program.BAD_INPUT, refused
    for part in (str(model), "--chat-template plain", "--chat-template NAME|FILE"):
        assert part in refused.stderr, refused
    program.run_successfully(job.but(model=model, chat_template="plain").arguments())
    assert run_files.read(job.out).config["chat_template"] == "plain"
    assert run_files.read(job.out).attributes["status"] == "complete"
