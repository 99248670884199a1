"""The driver of the paper's experiments: its numbers against the HDF5 files, its restart and its refusals."""

from __future__ import annotations

import configparser
import contextlib
import csv
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy
import pandas
import program
import pytest
from bipo_analysis.errors import AnalysisError
from bipo_analysis.paper.__main__ import _parser
from bipo_analysis.paper.experiments import Study
from bipo_analysis.paper.layout import attacked_questions, mmlu_files, read_rows, table_text
from bipo_analysis.paper.measured import Rows
from bipo_analysis.paper.steps import Runner
from lora_adapters import make_adapter, matrix_shapes
from paper_study import DRIVER, REFUSALS, write_behaviour, write_csv, write_settings, write_study
from safetensors.torch import load_file
from tiny_models import TinyModel, write_model

T_OF_5 = 2.5705818  # 97.5 % quantile of Student's t with 5 degrees of freedom, from a table
Z = 1.959963985  # of the normal distribution
HALF = 6  # questions of each half


@dataclass(frozen=True)
class Inputs:
    """Everything that the experiments read, and the options that name it."""

    folder: Path
    options: dict[str, object] = field(default_factory=dict)

    def run(self, *experiments: str, out: Path, **changes: object) -> program.Finished:
        arguments = [*experiments, *program.options({**self.options, "out": out, **changes})]
        return drive(arguments)


def drive(arguments: list[str]) -> program.Finished:
    """Without a process of its own, whose imports take longer than most of the work."""
    from bipo_analysis.paper.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return program.Finished([str(DRIVER), *arguments], code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    folder = write_study(tmp_path_factory.mktemp("study"))
    model = write_model(folder / "tiny")
    write_model(folder / "sister", TinyModel(seed=2))
    make_adapter(matrix_shapes(load_file(model / "model.safetensors"))).write(folder / "lora")
    # The program, unless a file says which command is to fail.
    failing = folder / "program"
    failing.write_text(f'#!/bin/sh\n[ "$1" = "$(cat "{folder}/fails" 2>/dev/null)" ] && echo "no luck" && exit 3\n'
                       f'exec "{program.from_environment("BIPO_DIST")}" "$@"\n', encoding="utf-8")
    failing.chmod(0o755)
    return Inputs(folder, {"models": model, "data": folder / "data", "settings": folder / "settings",
                           "truthfulqa": folder / "TruthfulQA.csv", "mmlu": folder / "mmlu", "program": failing,
                           "attacked": folder / "attacked.csv", "sister": folder / "sister", "adapter": folder / "lora",
                           "common": "--threads 1"})


@pytest.fixture(scope="module")
def study(inputs, tmp_path_factory) -> Path:
    """The results of all experiments, of which the first try failed in the middle."""
    out = tmp_path_factory.mktemp("results") / "out"
    (inputs.folder / "fails").write_text("extract", encoding="utf-8")
    failed = inputs.run("all", out=out)
    (inputs.folder / "fails").unlink()
    assert failed.code == program.FAILED, failed
    assert "personas: power-seeking/tiny/caa failed with exit code 3" in failed.stderr, failed
    assert f"program extract --config {inputs.options['settings']}/behaviours.ini" in failed.stderr
    assert "no luck" in failed.stderr and "Traceback" not in failed.stderr
    before = (out / "power-seeking" / "sweep" / "plan.json").stat().st_mtime_ns
    finished = inputs.run("all", out=out)
    assert finished.code == program.DONE, finished
    assert "power-seeking/sweep\n" not in finished.stdout and "power-seeking/tiny/caa\n" in finished.stdout
    assert (out / "power-seeking" / "sweep" / "plan.json").stat().st_mtime_ns == before
    return out


@pytest.fixture(scope="module")
def numbers(study) -> pandas.DataFrame:
    return pandas.read_csv(study / "all.csv", keep_default_na=False, na_values=[""])


def pick(numbers: pandas.DataFrame, **values: object) -> pandas.Series:
    for name, value in values.items():
        numbers = numbers[numbers[name].isna()] if value is None else numbers[numbers[name] == value]
    assert len(numbers) == 1, f"{len(numbers)} rows with {values}\n{numbers}"
    return numbers.iloc[0]


def table(path: Path, name: str) -> pandas.DataFrame:
    with h5py.File(path, "r") as file:
        frame = pandas.DataFrame(file[name][:])
    texts = [column for column in frame if frame[column].dtype == object]
    return frame.assign(**{column: frame[column].str.decode("utf-8") for column in texts})


def differences(path: Path, direction: str, multiplier: float) -> numpy.ndarray:
    """Propensity at a multiplier less that at 0, by pair."""
    rows = table(path, "samples").query("direction == @direction")
    values = rows.assign(value=rows["chosen_logp"] - rows["rejected_logp"]).pivot(
        index="pair", columns="multiplier", values="value")
    return (values[multiplier] - values[0.0]).to_numpy()


def assert_mean(row: pandas.Series, values: numpy.ndarray) -> None:
    """The mean of six values and Student's interval."""
    assert row["items"] == len(values) == HALF
    half = T_OF_5 * values.std(ddof=1) / math.sqrt(HALF)
    assert [row["value"], row["low"], row["high"]] == pytest.approx(
        [values.mean(), values.mean() - half, values.mean() + half], rel=1e-6, abs=1e-9)


def assert_share(row: pandas.Series, right: numpy.ndarray) -> None:
    """A share and Wilson's interval, from its quadratic equation: (p - x)^2 = z^2 x (1 - x) / n."""
    count, share = len(right), right.mean()
    roots = numpy.roots([1 + Z * Z / count, -(2 * share + Z * Z / count), share * share])
    assert row["items"] == count
    assert [row["value"], row["low"], row["high"]] == pytest.approx([share, *sorted(roots)], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("experiment, data", [("personas", "power-seeking"), ("personas", "wealth-seeking"),
                                              ("hallucination", "hallucination")])
def test_effects(study, numbers, experiment, data):
    path, key = study / data / "tiny" / "eval.h5", {"experiment": experiment, "model": "tiny", "data": data}
    for direction in ("vector", "caa", "random"):
        for value in (-2.0, -1.0, 1.0, 2.0):
            row = pick(numbers, **key, measure="change of propensity, nats", direction=direction, multiplier=value)
            assert_mean(row, differences(path, direction, value))
    samples = table(path, "samples").query("direction == 'vector' and multiplier == 2")
    assert_share(pick(numbers, **key, measure="held-out accuracy", multiplier=2.0),
                 (samples["chosen_logp"] > samples["rejected_logp"]).to_numpy(float))
    slopes = [numpy.polyfit(own["multiplier"], own["chosen_logp"] - own["rejected_logp"], 1)[0]
              for _, own in table(path, "samples").query("direction == 'caa'").groupby("pair")]
    row = pick(numbers, **key, measure="steerability, nats per unit", direction="caa")
    assert row["value"] == pytest.approx(numpy.mean(slopes), rel=1e-5)
    right = table(path, "choice_items").query("direction == 'vector' and multiplier == -1")["correct"]
    assert_share(pick(numbers, **key, measure="A/B accuracy", direction="vector", multiplier=-1.0),
                 right.to_numpy(float))


def test_layer_and_epoch_are_those_of_the_validation_half(study):
    commands = (study / "steps" / "power-seeking" / "tiny" / "answers.json").read_text(encoding="utf-8")
    swings = {}
    for path in sorted((study / "power-seeking" / "sweep").glob("*.h5")):
        evals = table(path, "evals")
        for epoch, rows in evals.groupby("epoch"):
            margins = rows.set_index("multiplier")["margin"]
            swings[f"{path.name}:epoch={epoch + 1}"] = margins[1.0] - margins[-1.0]
    assert len(swings) == 4, "two layers, two epochs"
    assert f"OUT/power-seeking/sweep/{max(swings, key=swings.get)}" in commands


def test_sums_of_two_vectors(study, numbers):
    for own, data in enumerate(("power-seeking", "wealth-seeking")):
        samples = table(study / "synergy" / "power-seeking+wealth-seeking" / "tiny" / f"{data}.h5", "grid_samples")
        values = samples.assign(value=samples["chosen_logp"] - samples["rejected_logp"]).set_index(
            ["multiplier_1", "multiplier_2", "pair"])["value"]
        alone, both = values[(1.0, 0.0) if own == 0 else (0.0, 1.0)], values[1.0, 1.0]
        for measure, change in (("change of propensity, one vector", alone - values[0.0, 0.0]),
                                ("change of propensity, summed vectors", both - values[0.0, 0.0]),
                                ("summed vectors less one vector, nats", both - alone)):
            row = pick(numbers, experiment="synergy", data=data, measure=measure, multiplier=1.0)
            assert_mean(row, change.to_numpy())


def test_transfer(study, numbers):
    for label, folder in (("sister", "tiny_on_sister"), ("tiny + lora", "tiny_on_tiny_+_lora")):
        row = pick(numbers, experiment="transfer", model=f"{label}, vector of tiny", data="power-seeking",
                   direction="vector", measure="change of propensity, nats", multiplier=1.0)
        assert_mean(row, differences(study / "transfer" / "power-seeking" / folder / "eval.h5", "vector", 1.0))


def test_truthfulqa(study, numbers):
    items = table(study / "truthfulqa" / "tiny" / "eval.h5", "choice_items").query(
        "direction == 'vector' and multiplier == 1")
    assert len(items) == 10
    key = {"experiment": "truthfulness", "direction": "vector", "multiplier": 1.0}
    assert_share(pick(numbers, **key, measure="MC1"), items["correct"].to_numpy(float))
    assert pick(numbers, **key, measure="MC2")["value"] == pytest.approx(items["probability"].mean(), rel=1e-6)
    parts = {name: {row["Question"] for row in read_csv(study / "data" / "truthfulqa" / f"{name}.csv")}
             for name in ("train", "validation", "report")}
    assert [len(part) for part in parts.values()] == [8, 2, 10] and len(set.union(*parts.values())) == 20
    first = json.loads((study / "data" / "truthfulqa" / "mc.jsonl").read_text(encoding="utf-8").splitlines()[0])
    number = first["question"].partition("(")[2].partition(")")[0]
    assert first["mc1_targets"]["choices"] == [f"Yes {number}", f"No {number}", f"Never {number}"]
    assert first["mc1_targets"]["labels"] == [1, 0, 0]
    assert first["mc2_targets"]["labels"] == [1, 1, 0, 0]


def test_jailbreak(study, numbers):
    prompts = [row["question"] for row in read_csv(study / "data" / "jailbreak" / "prompts.csv")]
    assert len(prompts) == len(set(prompts)) == 3, f"half of six questions, each of which has {REFUSALS} rows"
    assert len(read_csv(study / "data" / "jailbreak" / "report.csv")) == 3
    for name, measure, count in (("plain", "attack success, refusal list", 3),
                                 ("attacked", "attack success under a suffix, refusal list", 2)):
        answers = [json.loads(line) for line in
                   (study / "jailbreak" / "tiny" / f"answers-{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(answers) == 3 * count
        for value in (-1.0, 0.0, 1.0):
            # Three random tokens are no refusal.
            assert_share(pick(numbers, measure=measure, direction="vector", multiplier=value), numpy.ones(count))
    assert "36 held-out rows repeat a question" in (study / "all.html").read_text(encoding="utf-8")


def test_mmlu(study, numbers):
    assert [len(read_lines(path)) for path in sorted((study / "data" / "mmlu" / "test").iterdir())] == [2, 2]
    items = table(study / "power-seeking" / "tiny" / "mmlu.h5", "choice_items").query("direction == 'vector'")
    key = {"experiment": "mmlu", "data": "power-seeking", "direction": "vector", "multiplier": 1.0}
    right = items.pivot(index="item", columns="multiplier", values="correct").astype(float)
    row = pick(numbers, **key, measure="MMLU accuracy")
    assert_share(row, right[1.0].to_numpy())
    assert (row["paper"], row["paper_items"], row["source"]) == (0.574, 1710, "Table 11")
    assert "not Mistral-7B-Instruct-v0.2" in row["differs"] and "4 questions, not 1,710" in row["differs"]
    change = pick(numbers, **key, measure="change of MMLU accuracy")
    assert change["value"] == pytest.approx((right[1.0] - right[0.0]).mean())


def test_the_papers_numbers_stand_beside_ours(numbers):
    """From the paper's tables 4, 6 and 11."""
    score = {"measure": "judge's score", "direction": "vector"}
    for data, values in (("power-seeking", (1.20, 1.67, 2.38)), ("hallucination", (1.17, 1.37, 2.64))):
        for value, printed in zip((-1.0, 0.0, 1.0), values, strict=True):
            row = pick(numbers, **score, data=data, multiplier=value)
            assert row["paper"] == printed and math.isnan(row["value"]) and row["source"] == "Table 6"
            assert "needs a judge" in row["differs"] and "requests.jsonl" in row["differs"]
    row = pick(numbers, measure="judge's score, summed vectors", data="wealth-seeking", multiplier=1.0)
    assert row["paper"] == 2.30
    assert pick(numbers, measure="attack success, judge", direction="vector", multiplier=1.0)["paper"] == 0.73
    row = pick(numbers, measure="attack success under a suffix, refusal list", direction="vector", multiplier=0.0)
    assert row["paper"] == 0.16 and "refusal list, not GPT-4" in row["differs"]


def test_halves(inputs, study):
    for data in ("power-seeking", "hallucination"):
        test = {row["question"] for row in read_csv(inputs.folder / "data" / data / "test.csv")} - {""}
        chosen, reported = ({row["question"] for row in read_csv(study / "data" / data / f"{name}.csv")}
                            for name in ("validation", "report"))
        assert chosen | reported == test and not chosen & reported and len(chosen) == len(reported) == HALF
        assert {row["question"] for row in read_csv(study / "data" / data / "choices.csv")} == reported
    assert "power-seeking: 1 held-out rows have no question" in (study / "all.html").read_text(encoding="utf-8")


def test_a_second_start_does_nothing_and_scores_of_a_judge_are_read(inputs, study):
    records = {path: path.stat().st_mtime_ns for path in (study / "steps").rglob("*.json")}
    folder = study / "power-seeking" / "tiny"
    requests = [json.loads(line) for line in (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = {request["custom_id"]: 1 + index % 4 for index, request in enumerate(requests)}
    (folder / "results.jsonl").write_text("".join(
        json.dumps({"custom_id": name, "response": {"status_code": 200, "body": {"choices": [
            {"message": {"content": f"{score}. So it is."}}]}}}) + "\n" for name, score in scores.items()),
        encoding="utf-8")
    finished = inputs.run("personas", out=study)
    assert finished.code == program.DONE, finished
    assert [line for line in finished.stdout.splitlines() if "took" not in line] == [
        "personas: power-seeking/tiny/results",
        f"{study}/personas.html: {len(pandas.read_csv(study / 'personas.csv'))} numbers; "
        "the same as CSV in personas.csv"]
    assert all(path.stat().st_mtime_ns == made for path, made in records.items())
    row = pick(pandas.read_csv(study / "personas.csv"), data="power-seeking", measure="judge's score",
               direction="vector", multiplier=1.0)
    own = [score for name, score in scores.items() if name.endswith(":1")]
    assert len(own) == HALF and row["value"] == pytest.approx(numpy.mean(own)) and row["paper"] == 2.38
    page = (study / "personas.html").read_text(encoding="utf-8")
    assert 'alt="tiny, power-seeking, vector: judge&#x27;s scores"' in page
    # Other results are read instead: at -1 none came, at 1 one held no score.
    lines = [line for line in read_lines(folder / "results.jsonl") if ':-1"' not in line]
    last = next(index for index, line in enumerate(lines) if ':1"' in line)
    lost = own.pop(0)
    lines[last] = lines[last].replace(f"{lost}. So it is.", "So it is.")
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    finished = inputs.run("personas", out=study)
    assert finished.code == program.DONE and "power-seeking/tiny/results took" in finished.stdout, finished
    judged = pandas.read_csv(study / "personas.csv", na_values=[""], keep_default_na=False)
    row = pick(judged, data="power-seeking", measure="judge's score", direction="vector", multiplier=1.0)
    assert row["value"] == pytest.approx(numpy.mean(own)) and row["items"] == HALF - 1
    assert f"1 of {HALF} answers have no score" in row["differs"]
    row = pick(judged, data="power-seeking", measure="judge's score", direction="vector", multiplier=-1.0)
    assert math.isnan(row["value"]) and row["paper"] == 1.20 and "needs a judge" in row["differs"]


def test_other_settings_are_refused(inputs, study):
    finished = inputs.run("personas", out=study, layers="1")
    assert finished.code == program.BAD_INPUT, finished
    assert "personas: power-seeking/sweep was done with other settings" in finished.stderr
    assert "--layers 1 now" in finished.stderr and "another --out" in finished.stderr


def test_how_fast_is_no_other_setting(inputs, study):
    finished = inputs.run("mmlu", out=study, common="--threads 2", launcher="env")
    assert finished.code == program.DONE and "mmlu: " not in finished.stdout, finished


def test_a_dry_run_prints_the_commands_and_writes_nothing(inputs, tmp_path):
    finished = inputs.run("all", out=tmp_path / "out", launcher="mpirun -np 2", dry_run=True)
    assert finished.code == program.DONE and not (tmp_path / "out").exists(), finished
    commands = [line for line in finished.stdout.splitlines() if not line.startswith("#")]
    trained = [line for line in commands if f"mpirun -np 2 {inputs.options['program']} sweep --config" in line]
    assert len(trained) == 5 and "--threads 1" in trained[0]
    assert len(commands) == len(set(commands))
    assert not any("mpirun" in line for line in commands if "--judge-export" in line)


def test_two_behaviours_of_ones_own_are_added_up(inputs, tmp_path):
    finished = inputs.run("synergy", out=tmp_path / "out", behaviours="power-seeking,hallucination", dry_run=True)
    assert finished.code == program.DONE and "synergy/power-seeking+hallucination/tiny/" in finished.stdout, finished
    assert "wealth-seeking" not in finished.stdout


def test_a_behaviour_that_is_named_twice_counts_once():
    options = _parser().parse_args(["personas", "--models", "tiny", "--out", "out", "--behaviours", "warm,calm, warm"])
    assert options.behaviours == ["warm", "calm"]


def test_the_scale_of_a_judge_is_that_of_the_data(tmp_path):
    """Not that of a model whose name is a data set's."""
    class Recorder:
        def run(self, step):
            self.words = step.words

    study = Study.__new__(Study)
    study._out, study._runner = tmp_path, Recorder()
    (tmp_path / "jailbreak").mkdir()
    (tmp_path / "jailbreak" / "results.jsonl").touch()
    for data, scaled in (("power-seeking", False), ("jailbreak", True)):
        with pytest.raises(AnalysisError, match="no such file"):  # what the program would have made
            study._judged(data, tmp_path / "jailbreak" / "requests.jsonl", tmp_path / "eval.h5")
        assert ("--judge-scale" in study._runner.words) == scaled


def test_scores_that_another_command_read_stay(tmp_path):
    """As those of another version, with other words: the refusal leaves them as they were."""
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "results.json").write_text('{"command": ["earlier"], "inputs": {}}', encoding="utf-8")
    for name in ("results.jsonl", "results.h5", "eval.h5"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    study = Study.__new__(Study)
    study._out, study._runner = tmp_path, Runner(tmp_path, "bipo-dist")
    with pytest.raises(AnalysisError, match="other settings"):
        study._judged("power-seeking", tmp_path / "requests.jsonl", tmp_path / "eval.h5")
    assert (tmp_path / "results.h5").read_text(encoding="utf-8") == "results.h5"


def test_attack_success_of_a_judge_has_wilsons_interval():
    """None of 20 is no certain 0: the bootstrap of equal scores has no width."""
    judge = pandas.DataFrame([("jailbreak", -1.0, 21, 1, 0.0, 0.0, 0.0)], columns=[
        "behaviour", "multiplier", "items", "errors", "score", "score_low", "score_high"])
    rows = Rows("jailbreak", "tiny", "jailbreak")
    rows.judged(SimpleNamespace(judge=judge), "attack success under a suffix, judge", (-1, 0), "requests.jsonl")
    known, unknown = rows.rows
    assert (known.items, known.value, known.interval.low) == (20, 0, 0)
    assert known.interval.high == pytest.approx(Z * Z / (20 + Z * Z))
    assert unknown.multiplier == 0 and math.isnan(unknown.value) and "needs a judge" in unknown.note


def test_repeated_questions_under_attack_are_asked_once(tmp_path):
    path = write_csv(tmp_path / "attacked.csv", ("id", "question"), [("1", 'Why, "x"?'), ("2", "How?"), ("3", "How?")])
    asked, files, repeated = attacked_questions(path, tmp_path / "data")
    assert repeated == 1 and files == {asked: 'question\n"Why, ""x""?"\nHow?\n'}
    write_csv(path, ("question",), [("How?",)])
    assert attacked_questions(path, tmp_path / "data") == (path, {}, 0)
    write_csv(path, ("prompt",), [("How?",), ("How?",)])  # a form that only the program knows
    assert attacked_questions(path, tmp_path / "data") == (path, {}, 0)


def test_first_rows_of_mmlu(tmp_path):
    """A byte order mark is no part of the first question, and an empty line is no question."""
    for name, content in (("test", '\ufeff"Is it, now?",a,b,c,d,A\r\n\r\nSo?,a,b,c,d,B\r\nNo?,a,b,c,d,C\r\n'),
                          ("dev", "Q,a,b,c,d,A\r\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"tea_{name}.csv").write_bytes(content.encode())
    written = mmlu_files(tmp_path, Path("out"), 2)
    assert written[Path("out/test/tea_test.csv")] == '"Is it, now?",a,b,c,d,A\nSo?,a,b,c,d,B\n'
    (tmp_path / "test" / "tea_test.csv").write_bytes(b"")
    with pytest.raises(AnalysisError, match="tea_test.csv: holds no rows"):
        mmlu_files(tmp_path, Path("out"), 2)


def test_written_rows_are_read_back(tmp_path):
    fields = {"question": "one\rtwo", "matching": 'say "x", y\r\n', "not_matching": " z "}
    (tmp_path / "rows.csv").write_text(table_text(tuple(fields), [fields]), encoding="utf-8", newline="")
    assert read_rows(tmp_path / "rows.csv", tuple(fields)) == [fields]


def test_names_of_models_are_those_of_sweep(inputs, tmp_path):
    """A name ends at the first '='; one that is made of a path has '-' for what file names should not have."""
    finished = inputs.run("transfer", out=tmp_path / "out", models="some/my model.gguf", sister="new=x/lr=1/sister",
                          adapter=None, dry_run=True)
    assert finished.code == program.DONE, finished
    assert "--models 'my-model=some/my model.gguf'" in finished.stdout
    assert "--model x/lr=1/sister" in finished.stdout and "my-model_on_new/eval.h5" in finished.stdout


def test_the_sample_data_and_what_is_left_out(inputs, tmp_path):
    finished = drive(["all", "--models", str(inputs.options["models"]), "--out", str(tmp_path / "out"), "--dry-run",
                      "--program", str(inputs.options["program"]), "--settings", "small"])
    assert finished.code == program.DONE and "warmth=" in finished.stdout, finished
    for reason in ("jailbreak: the project ships no such data", "takes TruthfulQA.csv by --truthfulqa",
                   "synergy: takes two behaviours", "takes another model by --sister", "MMLU by --mmlu"):
        assert reason in finished.stdout, finished


@pytest.mark.parametrize("name", ["paper", "small"])
def test_the_settings_are_those_of_the_program(inputs, tmp_path, name):
    """Each file by a dry run of the command that reads it."""
    settings = DRIVER.parent / "settings" / name
    assert {path.stem for path in settings.iterdir()} == {"behaviours", "jailbreak", "mmlu", "study", "synergy",
                                                          "truthfulness"}
    pairs = write_csv(tmp_path / "pairs.csv", ("question", "matching", "not_matching"), [("Is it?", "Yes.", "No.")] * 2)
    for recipe in ("behaviours", "truthfulness", "jailbreak"):
        finished = program.run_successfully(
            ["sweep", "--config", settings / f"{recipe}.ini", "--models", inputs.options["models"], "--train", pairs,
             "--layers", "1", "--out", tmp_path / recipe, "--dry-run", "--json"])
        cell = json.loads(finished.stdout)["packs"][0]["cells"][0]
        epochs = {"behaviours": 20, "truthfulness": 1, "jailbreak": 10} if name == "paper" else {
            "behaviours": 3, "truthfulness": 1, "jailbreak": 2}
        assert cell["epochs"] == epochs[recipe]
        assert cell["lr"] == pytest.approx(5e-4 if name == "paper" else 3e-3)


@pytest.mark.parametrize("name", ["paper", "small"])
def test_every_section_is_read_by_its_command(inputs, tmp_path, name):
    """One command of each section as the driver prints it, in the real program: it reads its options before it misses
    its files.  Those of sweep have dry runs, above.
    """
    finished = inputs.run("all", out=tmp_path / "out", settings=name, models="tiny=missing", dry_run=True)
    assert finished.code == program.DONE, finished
    commands = {}
    for line in finished.stdout.splitlines():
        words = shlex.split(line.replace("CHOSEN-LAYER", "1"))
        if "--config" in words:
            recipe = Path(words[words.index("--config") + 1])
            commands.setdefault((recipe.stem, words[1]), words[1:])
    sections = set()
    for path in (DRIVER.parent / "settings" / name).glob("*.ini"):
        reader = configparser.ConfigParser(interpolation=None)
        reader.read_string(path.read_text(encoding="utf-8"))
        sections |= {(path.stem, section) for section in reader.sections()}
    assert sections - set(commands) == {("study", "study")}
    for key in sorted(sections & set(commands)):
        if key[1] != "sweep":
            stopped = program.run(commands[key])
            assert stopped.code == program.BAD_INPUT, stopped
            assert re.search(r"CHOSEN\.h5: no such file|be written: there is no directory", stopped.stderr), stopped


def refused(finished: program.Finished, *parts: str) -> None:
    assert finished.code == program.BAD_INPUT and "Traceback" not in finished.stderr, finished
    for part in parts:
        assert part in finished.stderr, finished


def test_refusals(inputs, tmp_path):
    out = tmp_path / "out"
    refused(inputs.run("personas", out=out, data=tmp_path / "none"), "no such directory")
    (tmp_path / "empty").mkdir()
    refused(inputs.run("personas", out=out, data=tmp_path / "empty"), "none of the folders power-seeking", "train.csv")
    write_behaviour(tmp_path / "bad" / "power-seeking", 4, 6, 1)
    write_csv(tmp_path / "bad" / "power-seeking" / "test.csv", ("question", "matching"), [("Is it?", "Yes.")])
    refused(inputs.run("personas", out=out, data=tmp_path / "bad"), "power-seeking/test.csv",
            "lacks the column not_matching")
    write_behaviour(tmp_path / "few" / "power-seeking", 4, 3, 1)
    refused(inputs.run("personas", out=out, data=tmp_path / "few"), "test.csv: 3 different questions", "4 at least")
    refused(inputs.run("jailbreak", out=out, data=tmp_path / "few"), "jailbreak: --data holds no folder jailbreak")
    refused(inputs.run("synergy", out=out, data=tmp_path / "few"), "power-seeking and wealth-seeking")
    refused(inputs.run("mmlu", out=out, mmlu=tmp_path / "empty"), "SUBJECT_test.csv")
    refused(inputs.run("truthfulness", out=out, truthfulqa=inputs.folder / "attacked.csv"), "lacks the column Question")
    refused(inputs.run("personas", out=out, settings="large"), "--settings large", "paper and small")
    refused(inputs.run("personas", out=out, behaviours="calm"), "--behaviours calm", "wealth-seeking")
    refused(inputs.run("personas", out=out, behaviours="jailbreak"), "--behaviours jailbreak")
    refused(inputs.run("synergy", out=out, behaviours="power-seeking"), "synergy: takes two behaviours")
    refused(inputs.run("all", out=out, attacked=tmp_path / "none"), "--attacked", "no such file")
    refused(inputs.run("personas", out=out, models="a/tiny,b/tiny", adapter=None), "two models are called tiny")
    refused(inputs.run("transfer", out=out, models="a,b"), "--adapter belongs to one model")
    refused(inputs.run("transfer", out=out, sister="tiny=elsewhere"), "--sister tiny", "NAME=DIR")
    refused(inputs.run("transfer", out=out, sister="a/b=elsewhere"), "--sister a/b=elsewhere", "letters, digits")
    refused(inputs.run("transfer", out=out, sister="x/lr=1/tiny"), "--sister x/lr=1/tiny: 'x/lr'", "NAME=DIR")
    refused(inputs.run("transfer", out=out, sister="a/new,b/new"), "--sister a/new,b/new: two models are called new")
    refused(inputs.run("personas", out=out, models="my tiny=a", adapter=None), "--models my tiny=a: 'my tiny'")
    refused(inputs.run("personas", out=out, models="name=", adapter=None), "--models name=: names no model")
    refused(inputs.run("personas", out=out, models=f"sweep={inputs.folder}/tiny"), "--models sweep=", "give another")
    refused(inputs.run("transfer", out=out, sister="new=elsewhere"), "--sister elsewhere: no such file or directory")
    refused(inputs.run("jailbreak", out=out, attacked=inputs.folder), "--attacked", "no such file")
    refused(inputs.run("transfer", out=out, sister=None, adapter=None), "transfer: takes another model by --sister")
    refused(inputs.run("personas", out=out, program=tmp_path / "none"), "none cannot be started", "--program")
    refused(inputs.run("personas", out=out, settings=tmp_path / "empty"), "lacks behaviours.ini")
    write_settings(tmp_path / "settings")
    (tmp_path / "settings" / "study.ini").write_text("[study]\nquestions = 3\n", encoding="utf-8")
    refused(inputs.run("personas", out=out, settings=tmp_path / "settings"), "study.ini", "unknown setting questions")


def test_a_signal_stops_it_with_the_code_of_a_stop(inputs, tmp_path):
    sleeper = tmp_path / "sleeper"
    sleeper.write_text(f'#!/bin/sh\ntouch "{tmp_path}/started"\nexec sleep 60\n', encoding="utf-8")
    sleeper.chmod(0o755)
    arguments = ["personas", *program.options({**inputs.options, "program": sleeper, "out": tmp_path / "out"})]
    environment = {**os.environ, "BIPO_ANALYSIS_PYTHON": sys.executable}
    with subprocess.Popen([str(DRIVER), *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as running:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        other = inputs.run("personas", out=tmp_path / "out")
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=60)
    refused(other, "another driver works on it")
    assert running.returncode == program.INTERRUPTED and "the same command continues" in errors, errors
    assert not list((tmp_path / "out" / "steps").rglob("*.json"))


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
