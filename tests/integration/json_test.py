"""What `--json` prints against the HDF5 files, and against the numbers of the text that it replaces."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import h5py
import numpy
import pytest

import evaluations
import program
import run_files

STATUSES = ["complete", "running", "interrupted", "failed", "unreadable", "missing"]
SHOWN_TABLES = ["curve", "steerability", "chosen", "choices", "costs", "grid", "judge"]


def parsed(text: str) -> dict:
    """One object of strict JSON, and nothing beside it."""
    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")

    result = json.loads(text, parse_constant=refuse)
    assert isinstance(result, dict)
    return result


def json_of(*arguments: object) -> dict:
    finished = program.run_successfully([*arguments, "--json"])
    return parsed(finished.stdout)


def text_of(*arguments: object) -> str:
    return program.run_successfully(arguments).stdout


def leaves(value: object) -> list[object]:
    """All numbers and texts of a JSON value."""
    if isinstance(value, dict):
        return [leaf for member in value.values() for leaf in leaves(member)]
    if isinstance(value, list):
        return [leaf for member in value for leaf in leaves(member)]
    return [value]


# Not the digits of names such as layer1, v0 or 1e3f.
NUMBER = re.compile(r"(?<![\w.\-/])[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w/-])")


def is_shown_as(number: float, word: str, factors: tuple[float, ...]) -> bool:
    """Whether the word is the number, or a multiple of it, rounded to as many places as the word has."""
    mantissa, _, exponent = word.partition("e")
    places = len(mantissa.partition(".")[2]) - int(exponent or 0)
    tolerance = 0.5000001 * 10.0 ** -places
    return any(abs(number * factor - float(word)) <= tolerance for factor in factors)


def assert_every_number_of(text: str, result: dict, factors: tuple[float, ...] = (1, 100)) -> None:
    """The text's numbers are those of the JSON object, as they are or in percent."""
    numbers = [float(leaf) for leaf in leaves(result)
               if isinstance(leaf, (int, float)) and not isinstance(leaf, bool)]
    words = {word for leaf in leaves(result) if isinstance(leaf, str) for word in NUMBER.findall(leaf)}
    missing = [word for word in NUMBER.findall(text) if word not in words
               and not any(is_shown_as(number, word, factors) for number in numbers)]
    assert missing == [], f"{missing} are in the text and not in the object:\n{text}\n{result}"


def same_number(stored: object, printed: object) -> bool:
    """What is not finite in the file is null in JSON; everything else is the same to the last bit."""
    if printed is None:
        return not math.isfinite(stored)
    return stored == printed and type(printed) in (int, float)


def test_numbers_of_a_text_are_found():
    """The oracle of the tests below: it sees a number that is not there, and no digits of names."""
    result = {"a": 0.123456, "b": [12, None], "c": "run of 2026"}
    assert_every_number_of("layer1 has 0.123 (12.3 %), 12 of them in 2026, v2.h5", result)
    for wrong in ("0.124", "13", "2027", "+0.2"):
        with pytest.raises(AssertionError):
            assert_every_number_of(f"it is {wrong} here", result)


@pytest.fixture
def run(job) -> Path:
    program.run_successfully(job.arguments())
    return job.out


def test_inspect_is_the_run_file(run):
    result = json_of("inspect", run)
    stored = run_files.read(run)
    assert result["file"] == str(run)
    for name in ("model", "layer", "hidden_size", "status", "created_utc", "program_version", "git_commit",
                 "world_size", "dp", "tp", "backend", "dtype", "hosts"):
        assert result[name] == stored.attributes[name], name
    assert result["settings"] == stored.config
    assert result["steps_done"] == result["steps_logged"] == len(stored.steps) == 12
    assert result["epochs_begun"] == 2
    assert result["seconds_in_steps"] == pytest.approx(float(stored.steps["seconds"].sum()), rel=1e-12)
    assert result["tokens_per_second"] == pytest.approx(
        float(stored.steps["tokens"].sum() / stored.steps["seconds"].sum()), rel=1e-12)
    for name, row in (("first_step", stored.steps[0]), ("last_step", stored.steps[-1])):
        assert set(result[name]) == set(stored.steps.dtype.names)
        for column in stored.steps.dtype.names:
            expected = row[column] + 1 if column == "epoch" else row[column]
            assert same_number(expected, result[name][column]), (name, column)
    assert [(vector["row"], vector["epoch"], vector["step"]) for vector in result["vectors"]] == [(0, 1, 6), (1, 2, 12)]
    norms = numpy.linalg.norm(stored.vectors.astype(float), axis=1)
    assert [vector["norm"] for vector in result["vectors"]] == pytest.approx(list(norms), rel=1e-12)
    assert len(result["evals"]) == len(stored.evals) == 6
    for row, printed in zip(stored.evals, result["evals"]):
        assert set(printed) == set(stored.evals.dtype.names)
        for column in stored.evals.dtype.names:
            expected = row[column] + 1 if column == "epoch" else row[column]
            assert same_number(expected, printed[column]), column
    margins = {row["epoch"]: row["margin"] - other["margin"] for row in result["evals"] for other in result["evals"]
               if row["epoch"] == other["epoch"] and (row["multiplier"], other["multiplier"]) == (1, -1)}
    best = max(margins, key=margins.get)
    assert (result["best_epoch"], result["evaluated_epochs"]) == (best, len(margins))
    assert result["best_margin"] == pytest.approx(margins[best], rel=1e-12)
    assert result["ended_early"] is None
    assert result["verdict"] == (stored.attributes.get("verdict") or None)
    assert_every_number_of(text_of("inspect", run), result)


def test_inspect_takes_the_flag_before_the_file_too(run):
    assert parsed(program.run_successfully(["inspect", "--json", run]).stdout) == json_of("inspect", run)


def test_numbers_that_are_not_finite_are_null(run):
    with h5py.File(run, "r+") as file:
        run_files.drop_checksums(file)
        steps, evals = file["steps"][:], file["evals"][:]
        steps["loss"][0], steps["grad_norm"][-1] = numpy.nan, numpy.inf
        evals["margin"][2] = -numpy.inf
        steps["seconds"] = 0
        file["steps"][:], file["evals"][:] = steps, evals
    result = json_of("inspect", run)
    assert result["first_step"]["loss"] is result["last_step"]["grad_norm"] is result["evals"][2]["margin"] is None
    assert result["tokens_per_second"] is None and result["seconds_in_steps"] == 0
    assert result["first_step"]["grad_norm"] is not None


def test_a_direction_without_steps(tmp_path, tiny_model, tiny_pairs):
    out = tmp_path / "caa.h5"
    program.run_successfully(["extract", *program.options({"model": tiny_model, "train": tiny_pairs, "layer": 1,
                                                           "out": out, "threads": 1})])
    result = json_of("inspect", out)
    assert result["first_step"] is None and result["last_step"] is None and result["evals"] == []
    assert result["best_epoch"] is result["best_margin"] is None and result["evaluated_epochs"] == 0
    assert result["steps_logged"] == result["epochs_begun"] == 0 and result["tokens_per_second"] is None
    assert len(result["vectors"]) == 1


def assert_tables(result: dict, stored: evaluations.EvaluationFile) -> None:
    for name in SHOWN_TABLES:
        frame = stored.tables[name]
        assert len(result[name]) == len(frame), name
        for (_, row), printed in zip(frame.iterrows(), result[name]):
            assert list(printed) == list(frame.columns), name
            for column in frame.columns:
                same = row[column] == printed[column] if isinstance(row[column], str) \
                    else same_number(row[column], printed[column])
                assert same, (name, column, row[column], printed[column])


@pytest.mark.parametrize("ranks", [None, 2])
def test_evaluate_prints_the_tables_of_its_file(job, run, ranks):
    arguments = ["evaluate", *program.options({
        "model": job.settings["model"], "vector": run, "test": job.settings["test"], "threads": 1,
        "multipliers": "-1,0,2", "grid": "0,1", "out": job.folder / "eval.h5", "overwrite": True})]
    arguments += ["--vector", run]
    finished = program.run_successfully([*arguments, "--json"], ranks)
    result = parsed(finished.stdout)
    assert list(result) == ["evaluation_file", "judge_requests", "judge_scale", *SHOWN_TABLES, "random_directions"]
    assert result["evaluation_file"] == str(job.folder / "eval.h5") and result["judge_requests"] is None
    stored = evaluations.read(job.folder / "eval.h5")
    assert len(stored.curve) and len(stored.steerability) and len(stored.grid)
    assert_tables(result, stored)
    assert "json" not in stored.config
    # The heading names the share of the intervals.
    assert_every_number_of(text_of(*arguments).replace("[95 % interval]", ""), result)


def test_evaluate_prints_what_judges_exchange(job, run):
    folder = job.folder
    (folder / "questions.txt").write_text("the cat\na dog\n", encoding="utf-8")
    (folder / "rubric.txt").write_text("{question} {response}", encoding="utf-8")
    vector = {"model": job.settings["model"], "vector": run, "threads": 1, "multipliers": "0,1"}
    program.run_successfully(["generate", *program.options({
        **vector, "prompts": folder / "questions.txt", "max_new_tokens": 3, "out": folder / "answers.jsonl"})])
    program.run_successfully(["evaluate", *program.options({
        **vector, "test": job.settings["test"], "out": folder / "eval.h5"})])
    exported = json_of("evaluate", *program.options({
        "judge_export": folder / "requests.jsonl", "generations": folder / "answers.jsonl",
        "rubric": folder / "rubric.txt", "behaviour": "b"}))
    requests = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert exported == {"evaluation_file": None, "judge_scale": "1-4", "judge": [],
                        "judge_requests": {"file": str(folder / "requests.jsonl"), "requests": len(requests)}}
    assert len(requests) == 4
    answer = {"status_code": 200, "body": {"choices": [{"message": {"content": "3"}}]}}
    (folder / "results.jsonl").write_text("".join(
        json.dumps({"custom_id": request["custom_id"], "response": answer}) + "\n" for request in requests))
    imported = json_of("evaluate", *program.options({"judge_import": folder / "results.jsonl",
                                                     "out": folder / "eval.h5"}))
    stored = evaluations.read(folder / "eval.h5").judge
    assert imported["evaluation_file"] == str(folder / "eval.h5") and imported["judge_requests"] is None
    assert [(row["behaviour"], row["multiplier"], row["items"], row["errors"], row["score"])
            for row in imported["judge"]] == [("b", 0.0, 2, 0, 3.0), ("b", 1.0, 2, 0, 3.0)]
    assert len(stored) == 2 and list(imported["judge"][0]) == list(stored.columns)


@pytest.fixture
def sweep(job) -> list[object]:
    return ["sweep", *job.but(layer=None, layers="1,2", seeds="1,2", out=job.folder / "sweep").arguments()[1:]]


def test_a_dry_run_prints_the_plan(sweep, job):
    text = text_of(*sweep, "--dry-run")
    result = json_of(*sweep, "--dry-run")
    assert not (job.folder / "sweep").exists()
    assert result["cells"] == 4 and [pack["order"] for pack in result["packs"]] == [1, 2]
    cells = [cell for pack in result["packs"] for cell in pack["cells"]]
    assert sorted((cell["layer"], cell["seed"]) for cell in cells) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for cell in cells:
        assert cell["name"] in text
        assert (cell["lr"], cell["beta"], cell["sign"], cell["batch_size"], cell["epochs"]) == (0.05, 0.1, "batch", 4, 2)
        assert (cell["model"], cell["data"]) == ("tiny", "train")
    for name in ("operations", "disk_bytes"):
        assert result[name] == pytest.approx(sum(pack[name] for pack in result["packs"]), rel=1e-12)
        for pack in result["packs"]:
            assert pack[name] == pytest.approx(sum(cell[name] for cell in pack["cells"]), rel=1e-12)
    assert sum(pack["share"] for pack in result["packs"]) == pytest.approx(1, rel=1e-12)
    units = (1, 100, *(10.0 ** -power for power in (3, 6, 9, 12, 15)), *(2.0 ** -power for power in (10, 20, 30)))
    assert_every_number_of(text, {**result, "number_of_packs": len(result["packs"])}, units)


def test_json_of_a_sweep_that_trains_is_refused(sweep, job):
    finished = program.run([*sweep, "--json"])
    assert finished.code == program.BAD_INPUT and "--dry-run" in finished.stderr, finished
    assert not (job.folder / "sweep").exists()


def test_collect_counts_and_names_the_cells(sweep, job):
    program.run_successfully(sweep)
    folder = job.folder / "sweep"
    lost, broken = sorted(folder.glob("*.h5"))[:2]
    lost.unlink()
    broken.write_bytes(b"no run file")
    arguments = ["collect", folder, "--out", job.folder / "sweep.h5"]
    result = json_of(*arguments)
    assert result["out"] == str(job.folder / "sweep.h5")
    assert list(result["counts"]) == STATUSES
    with h5py.File(job.folder / "sweep.h5") as file:
        rows = {row["cell"].decode(): row["status"].decode()
                for row in file["summary"][:]}
    assert {cell["name"]: cell["status"] for cell in result["cells"]} == rows
    for status in STATUSES:
        assert result["counts"][status] == list(rows.values()).count(status)
    reasons = {cell["name"]: cell["reason"] for cell in result["cells"]}
    assert reasons[broken.stem] and reasons[lost.stem] is None
    assert_every_number_of(text_of(*arguments), {**result, "number": len(result["cells"])})


def test_data_prints_what_its_text_says(tmp_path, tiny_model, tiny_pairs):
    arguments = ["data", tiny_pairs, "--model", tiny_model]
    result, text = json_of(*arguments), text_of(*arguments)
    assert result["pairs"] == 22 and f"pairs for this model: {result['pairs']}" in text
    for name, lengths in result["tokens"].items():
        [row] = [line for line in text.splitlines() if line.startswith(f"{name}  ")]
        assert [float(word) for word in row[len(name):].split()] == [lengths["least"], lengths["median"], lengths["most"]]
    for part in ("prompt", "chosen", "rejected"):
        ids = result["first_pair"][part]["ids"]
        assert f"--- {part} ({len(ids)} tokens)" in text
    assert f"longest: {result['longest']}; longer than the limit of {result['max_length']}: " \
           f"{result['longer_than_max_length']} pairs" in text
