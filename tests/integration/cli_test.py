"""The commands as users meet them: start-up, streams, the run file's schema, configuration files."""

import csv
import json
import re

import h5py
import numpy
import pandas
import pytest

import program
import run_files

STEP_COLUMNS = {"step": "<i8", "epoch": "<i4", "lr": "<f8", "loss": "<f8", "margin": "<f8", "accuracy": "<f8",
                "sign": "|i1", "grad_norm": "<f8", "vector_norm": "<f8", "tokens": "<f8", "seconds": "<f8"}
EVAL_COLUMNS = {"step": "<i8", "epoch": "<i4", "multiplier": "<f8", "pairs": "<f8", "loss": "<f8",
                "margin": "<f8", "accuracy": "<f8", "chosen_logp": "<f8", "rejected_logp": "<f8"}
TEXT_ATTRIBUTES = ["status", "config", "program_version", "git_commit", "created_utc", "model", "backend",
                   "dtype", "hosts"]
NUMBER_ATTRIBUTES = ["schema_version", "layer", "hidden_size", "world_size", "dp", "tp"]


@pytest.fixture
def finished_run(job):
    return job, program.run_successfully(job.arguments())


@pytest.mark.parametrize("ranks", [None, 1, 8])
def test_starts_bare_and_under_mpirun(job, ranks):
    finished = program.run_successfully(job.arguments(), ranks)
    run = run_files.read(job.out)
    assert run.attributes["status"] == "complete"
    assert run.attributes["world_size"] == run.attributes["dp"] == (ranks or 1)
    assert len(run.steps) == 12, "2 epochs of 22 pairs by fours"
    assert numpy.isfinite(run.final_vector).all() and numpy.any(run.final_vector)
    assert finished.stdout.count(str(job.out)) == 1, "one rank prints the result, with the file's name"


def test_a_lone_process_needs_nothing_of_mpis_launcher(job):
    """Open MPI 4 alone would start a daemon, which it looks for in PATH."""
    with program.start(job.arguments(), environment={"PATH": "/nonexistent"}) as running:
        finished = running.finish(120)
    assert finished.code == program.DONE, finished
    assert run_files.read(job.out).attributes["status"] == "complete"


def test_results_on_stdout_progress_on_stderr(finished_run):
    job, finished = finished_run
    assert "accuracy" in finished.stdout.lower()
    run = run_files.read(job.out)
    for multiplier in (-1.0, 0.0, 1.0):
        percent = 100 * run.evaluation(multiplier)["accuracy"]
        forms = (f"{percent:.1f}", f"{percent:.0f}", f"{percent / 100:.3f}")
        assert any(form in finished.stdout for form in forms), finished
    assert "\r" not in finished.stdout and "\r" not in finished.stderr, "no bar where there is no terminal"
    assert "loss" in finished.stderr.lower()
    assert "grad" not in finished.stdout.lower(), "the course of the training is no result"


# What the stored configuration holds beside the settings themselves.
FACTS = {"model_fingerprint", "weights_hash", "train_pairs", "train_tokens_hash", "test_pairs", "test_tokens_hash", "world_size",
         "template_date_given"}


def test_start_up_table_shows_every_effective_setting(finished_run):
    job, finished = finished_run
    for pattern in ("layer", "beta", r"\b0\.1\b", r"warmup-steps +2\b", r"micro-batch +4\b", "fp32", "0.05", "threads",
                    "helpful, honest and concise"):
        assert re.search(pattern, finished.stderr, re.IGNORECASE), f"no {pattern!r} in\n{finished.stderr}"
    settings = json.loads(run_files.read(job.out).attributes["config"]).keys() - FACTS
    shown = set(re.findall(r"^  ([a-z-]+)  ", finished.stderr, re.MULTILINE))
    assert len(settings) == 38 and {name.replace("_", "-") for name in settings} <= shown


def test_run_file_schema(finished_run):
    job, _ = finished_run
    with h5py.File(job.out, "r") as file:
        assert {name: file["steps"].dtype[name].str for name in file["steps"].dtype.names} == STEP_COLUMNS
        assert {name: file["evals"].dtype[name].str for name in file["evals"].dtype.names} == EVAL_COLUMNS
        assert file["vectors/value"].dtype.str == "<f4" and file["vectors/value"].shape == (2, 48)
        assert file["vectors/step"].dtype.str == "<i8" and list(file["vectors/step"]) == [6, 12]
        assert file["vectors/epoch"].dtype.str == "<i4" and list(file["vectors/epoch"]) == [0, 1]
        for name in TEXT_ATTRIBUTES:
            assert isinstance(file.attrs[name], str) and file.attrs[name], name
        for name in NUMBER_ATTRIBUTES:
            assert numpy.issubdtype(type(file.attrs[name]), numpy.integer), name
        assert file.attrs["schema_version"] == 1
        assert file.attrs["hidden_size"] == 48 and file.attrs["layer"] == 1
        assert json.loads(file.attrs["config"]), "every effective setting"
    run_files.assert_whole(job.out)


def test_run_file_content(finished_run):
    job, _ = finished_run
    run = run_files.read(job.out)
    steps = pandas.DataFrame(run.steps)
    assert list(steps["step"]) == list(range(12)) and list(steps["epoch"]) == [0] * 6 + [1] * 6
    assert steps["loss"][0] == pytest.approx(numpy.log(2), abs=1e-5), "at v = 0 the loss is ln 2"
    assert steps["lr"][0] == 0 and steps["lr"][2] == 0.05, "update k uses the factor of step k"
    assert set(steps["sign"]) <= {-1, 1}
    assert (steps["tokens"] > 0).all() and (steps["seconds"] > 0).all()
    norm = numpy.linalg.norm(run.final_vector.astype(float))
    assert steps["vector_norm"].iloc[-1] == pytest.approx(norm, rel=1e-6)
    evals = pandas.DataFrame(run.evals)
    assert set(evals["pairs"]) == {9}
    at_zero = evals[evals["multiplier"] == 0]
    assert numpy.allclose(at_zero["margin"], 0, atol=1e-5)
    assert at_zero["chosen_logp"].nunique() == 1, "the model itself does not change"


def test_no_test_pairs_no_evaluation(job):
    program.run_successfully(job.but(test=None).arguments())
    assert len(run_files.read(job.out).evals) == 0


def test_test_pairs_without_evaluation_are_still_read(job):
    """Never evaluated during training, but read: a broken file must not be found out days later."""
    program.run_successfully(job.but(eval_every=0).arguments())
    assert len(run_files.read(job.out).evals) == 0
    finished = program.run(job.but(eval_every=0, test=job.folder / "absent.csv").writing("b.h5").arguments())
    assert finished.code == program.BAD_INPUT and "absent.csv" in finished.stderr, finished


def test_max_steps_ends_the_run_and_is_the_horizon(job):
    program.run_successfully(job.but(max_steps=4, warmup_steps=0).arguments())
    run = run_files.read(job.out)
    expected = [0.05 * 0.5 * (1 + numpy.cos(numpy.pi * k / 4)) for k in range(4)]
    assert numpy.allclose(run.steps["lr"], expected, rtol=1e-12)
    assert list(run.vector_steps) == [4], "the last vector is saved in mid-epoch too"


def test_fixed_sign_and_file_order(job):
    for sign, number in (("plus", 1), ("minus", -1), ("both", 0)):
        changed = job.but(sign=sign, shuffle="off").writing(f"{sign}.h5")
        program.run_successfully(changed.arguments())
        assert set(run_files.read(changed.out).steps["sign"]) == {number}


def test_warm_up_longer_than_the_run_is_a_warning(job):
    finished = program.run_successfully(job.but(warmup_steps=500).arguments())
    assert re.search(r"warning.*warm-?up.*\b500\b", finished.stderr, re.IGNORECASE), finished


def test_a_short_run_reaches_its_peak_by_default(job):
    """12 steps, of which a tenth, rounded up, warm up; then half a cosine over 10."""
    program.run_successfully(job.but(warmup_steps=None).arguments())
    rates = [0, 0.5] + [0.5 * (1 + numpy.cos(numpy.pi * k / 10)) for k in range(10)]
    run = run_files.read(job.out)
    assert numpy.allclose(run.steps["lr"], 0.05 * numpy.array(rates), rtol=1e-12)
    assert json.loads(run.attributes["config"])["warmup_steps"] == 2
    quarter = job.but(warmup_steps=None, warmup=0.25).writing("quarter.h5")
    program.run_successfully(quarter.arguments())
    assert numpy.argmax(run_files.read(quarter.out).steps["lr"]) == 3
    most = job.but(warmup_steps=None, warmup=50).writing("most.h5")
    finished = program.run_successfully(most.arguments())
    assert numpy.argmax(run_files.read(most.out).steps["lr"]) == 11 and "warm-up" not in finished.stderr


def test_a_preset_is_its_settings_spelled_out(job):
    few = {"max_steps": 4, "lr": None, "lr_unit": None, "warmup_steps": None, "weight_decay": None, "epochs": None}
    preset = job.but(**few, preset="paper").writing("preset.h5")
    program.run_successfully(preset.arguments())
    spelled_out = job.but(max_steps=4, lr=5e-4, lr_unit="absolute", warmup_steps=100, weight_decay=0, epochs=20,
                          batch_size=4, beta=0.1, max_grad_norm=1, sign="batch", shuffle="on")
    program.run_successfully(spelled_out.arguments())
    run_files.assert_identical(run_files.read(spelled_out.out), run_files.read(preset.out))
    # They were the defaults once: a run that began with them goes on without the preset.
    program.run_successfully(job.but(**few, resume=True).writing("preset.h5").arguments())
    run_files.assert_identical(run_files.read(spelled_out.out), run_files.read(preset.out))


def test_jsonl_pairs_train_like_the_same_csv(job, tiny_pairs):
    converted = job.folder / "train.jsonl"
    with open(tiny_pairs, newline="", encoding="utf-8") as source, open(converted, "w") as target:
        for row in csv.DictReader(source):
            json.dump({"prompt": row["question"], "chosen": row["matching"],
                       "rejected": row["not_matching"]}, target)
            target.write("\n")
    program.run_successfully(job.writing("csv.h5").arguments())
    program.run_successfully(job.but(train=converted).writing("jsonl.h5").arguments())
    run_files.assert_identical(run_files.read(job.folder / "csv.h5"), run_files.read(job.folder / "jsonl.h5"))


def test_residual_learning_rate_scales_the_absolute_one(job):
    program.run_successfully(job.but(lr=0.01, lr_unit="residual", warmup_steps=0).arguments())
    first = float(run_files.read(job.out).steps["lr"][0])
    assert first > 0 and first != 0.01
    absolute = job.but(lr=first, warmup_steps=0).writing("absolute.h5")
    program.run_successfully(absolute.arguments())
    cosine = run_files.cosine(run_files.read(job.out).final_vector, run_files.read(absolute.out).final_vector)
    assert cosine > 0.999999


def test_configuration_file_and_command_line(job):
    config = job.folder / "settings.ini"
    config.write_text("lr = 0.01\nepochs = 1\nsystem-prompt = Be kind; be brief # always\nno-eos = true\n",
                      encoding="utf-8")
    from_file = job.but(lr=None, config=config, epochs=2)
    program.run_successfully(from_file.arguments())
    spelled_out = job.but(lr=0.01, epochs=2, system_prompt="Be kind; be brief # always",
                          no_eos=True).writing("spelled_out.h5")
    program.run_successfully(spelled_out.arguments())
    run_files.assert_identical(run_files.read(from_file.out), run_files.read(spelled_out.out))
    without = job.but(lr=0.01).writing("without.h5")
    program.run_successfully(without.arguments())
    assert run_files.read(without.out).steps["tokens"][0] > run_files.read(from_file.out).steps["tokens"][0]


def test_train_and_bench_share_kept_activations(job):
    """Whichever comes first makes the file; other pairs are another file."""
    cache = job.folder / "cache"

    def kept_after(arguments):
        program.run_successfully([*arguments, *program.options({
            "model": job.settings["model"], "train": job.settings["train"], "layer": 1, "batch_size": 2,
            "threads": 1, "cache_dir": cache})])
        return {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}

    bench = ["bench", *program.options({"steps": 1, "warmup": 0})]
    of_train = kept_after(["train", "--out", job.out, "--max-steps", "1"])
    assert len(of_train) == 1, of_train
    assert kept_after([*bench, "--pairs", "22"]) == of_train
    of_both = kept_after([*bench, "--pairs", "20"])
    assert len(of_both) == 2 and of_train.items() <= of_both.items(), of_both


def test_inspect_says_what_a_run_file_holds(finished_run):
    job, _ = finished_run
    finished = program.run_successfully(["inspect", job.out])
    assert finished.stderr == ""
    text = finished.stdout.lower()
    for part in ("complete", "layer", "tiny", "accuracy", "multiplier", "12"):
        assert part in text, finished
    norm = run_files.read(job.out).steps["vector_norm"][-1]
    assert f"{norm:.3g}"[:4] in finished.stdout, f"the vector's norm {norm} is not in\n{finished}"


def test_help_and_version():
    overview = program.run_successfully(["--help"])
    for command in ("train", "inspect"):
        assert command in overview.stdout
    details = program.run_successfully(["train", "--help"])
    for text in ("--multipliers", "--resume", "0.003", "75"):
        assert text in details.stdout, details
    version = program.run_successfully(["--version"])
    assert "bipo-dist 0." in version.stdout
    assert overview.stderr == details.stderr == version.stderr == ""


def test_no_command_is_an_error_that_points_to_help():
    finished = program.run([])
    assert finished.code == program.BAD_INPUT and "--help" in finished.stderr, finished
