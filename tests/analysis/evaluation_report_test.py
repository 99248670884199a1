"""The report on evaluations as text: self-contained, escaped, whole for degenerate files; and the command line."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import h5py
import pandas
import pytest
from page_reader import Reader, run_command
from synthetic_evaluation import SyntheticEvaluation

from bipo_analysis import AnalysisError, evaluation_report_html, load_evaluation, write_evaluation_report
from bipo_analysis.__main__ import main
from bipo_analysis.answers import load_answers
from bipo_analysis.evaluation import COLUMNS

PARTS = ["Propensity curve", "Steerability", "Choices", "Effect against cost", "What steering costs", "Synergy",
         "Judge"]
NO_TABLES = frozenset(COLUMNS)
HELD_OUT_ONLY = NO_TABLES - {"curve", "steerability", "samples"}


def read(folder: Path, *evaluations: SyntheticEvaluation) -> Reader:
    paths = [evaluation.write(folder / f"eval{index}.h5") for index, evaluation in enumerate(evaluations)]
    return Reader(evaluation_report_html([load_evaluation(path) for path in paths]))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Reader:
    return read(tmp_path_factory.mktemp("page"), SyntheticEvaluation())


def test_page_needs_nothing_but_itself(page):
    addresses = [value or "" for _, attributes in page.tags for name, value in attributes.items()
                 if name in ("src", "href", "srcset", "data", "action")]
    assert addresses and all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed"}


def test_every_part_has_plots_and_a_table(page):
    assert page.headings == [*PARTS, "What this does not show", "Settings"]
    # 3 changes and 2 curves, slopes, 2 of each of 3 sets of choices, 2 effects x 3 prices, 6 costs, 2 heat maps,
    # the judge.
    images = page.images()
    assert len(images) == 5 + 1 + 6 + 6 + 6 + 2 + 1
    for image in images:
        drawing = ElementTree.fromstring(base64.b64decode(image.partition(",")[2]))
        assert drawing.tag.endswith("svg")
    # Costs have two tables, and so has steerability: the controls less the vector.
    assert sum(tag == "table" for tag, _ in page.tags) == len(PARTS) + 2
    assert not any(attributes.get("class") == "warning" for _, attributes in page.tags)


def test_numbers_of_the_tables_are_those_of_the_file(page):
    text = page.text
    assert "warmth.h5 (layer 15, epoch 3, norm 3.20, trained on smollm2)" in text
    # Steerability with its interval, a KL, a log-probability, a judge's score.
    deviation = 0.8 * math.sqrt(sum((2 * i / 59 - 1)**2 for i in range(60)) / 60)
    half = 2 * deviation / math.sqrt(60)
    assert f"+1.20 +{1.2 - half:.2f} to +{1.2 + half:.2f}" in text
    assert "0.240 0.228 to 0.252" in text and "3.70 3.50 to 3.90" in text


def test_missing_control_is_loud(tmp_path, undrawn):
    undrawn()
    page = read(tmp_path, SyntheticEvaluation(slopes={"vector": 1.2, "random": 0.05}))
    assert sum(attributes.get("class") == "warning" for _, attributes in page.tags) == 1
    assert "There is no mean difference (CAA) beside the vector" in page.text


def test_text_of_the_file_is_escaped(tmp_path):
    hostile = '<script>alert("1")</script>&amp;'
    drawn = {"curve", "steerability", "samples", "judge", "judge_scores"}
    path = SyntheticEvaluation(model=hostile, vector_file=hostile, absent=NO_TABLES - drawn).write(tmp_path / "eval.h5")
    with h5py.File(path, "r+") as file:
        rows = file["judge"][:]
        kinds = [(name, "S40") if name == "behaviour" else (name, rows.dtype[name]) for name in rows.dtype.names]
        del file["judge"]
        rows = rows.astype(kinds)
        rows["behaviour"] = hostile.encode()
        file["judge"] = rows
    page = Reader(evaluation_report_html([load_evaluation(path)]))
    assert page.text.count(hostile) >= 3 and not any(tag == "script" for tag, _ in page.tags)


def test_several_models_stand_side_by_side(tmp_path, undrawn):
    undrawn("transfer_figure", "named_curves_figure")
    page = read(tmp_path, SyntheticEvaluation(), SyntheticEvaluation(model="sister", slopes={"vector": 0.6}),
                SyntheticEvaluation(adapter="lora", absent=HELD_OUT_ONLY))
    assert page.headings == ["Transfer", "smollm2", *PARTS, "sister", *PARTS, "smollm2 + lora", *PARTS[:2],
                             "What this does not show", "Settings", "smollm2", "sister", "smollm2 + lora"]
    text = page.text
    assert "warmth.h5 on 3 models" in text and "of the 1.20 on smollm2: the vector steers there, too" in text
    assert "sister: There is no mean difference (CAA)" in text
    # The two missing controls stand at the top and with their model.
    assert sum(attributes.get("class") == "warning" for _, attributes in page.tags) == 4


def test_different_vectors_are_no_transfer(tmp_path, undrawn):
    undrawn("transfer_figure", "named_curves_figure")
    page = read(tmp_path, SyntheticEvaluation(absent=HELD_OUT_ONLY),
                SyntheticEvaluation(vector_file="cold.h5", slopes={"vector": 0.4}, absent=HELD_OUT_ONLY))
    assert page.headings[:2] == ["Side by side", "warmth.h5"] and "2 vectors on smollm2 (test.csv)" in page.text
    # Pair by pair the slopes differ by 0.8, whatever they are spread over.
    assert "pair by pair that is −0.80 against warmth.h5 (difference −0.80 to −0.80)" in page.text
    assert "2 models" not in page.text and "Transfer" not in page.headings


def test_two_evaluations_of_one_model_are_one_model(tmp_path, undrawn):
    undrawn()
    page = read(tmp_path, SyntheticEvaluation(absent=HELD_OUT_ONLY),
                SyntheticEvaluation(test="data/power.csv", absent=HELD_OUT_ONLY))
    assert "warmth.h5 on smollm2: 2 data sets" in page.text and "2 models" not in page.text
    assert page.headings[:2] == ["Side by side", "test.csv"]
    # Other pairs are not compared pair by pair.
    assert "pair by pair that is" not in page.text


def test_different_vectors_on_different_models_say_so(tmp_path, undrawn):
    undrawn()
    page = read(tmp_path, SyntheticEvaluation(absent=HELD_OUT_ONLY),
                SyntheticEvaluation(vector_file="cold.h5", model="sister", absent=HELD_OUT_ONLY))
    assert page.headings[0] == "Side by side" and "evaluate different vectors" in page.text


def test_answers_stand_beside_the_curves(tmp_path, undrawn):
    undrawn()
    path = SyntheticEvaluation(absent=HELD_OUT_ONLY).write(tmp_path / "eval.h5")
    rows = [{"prompt_index": index, "prompt": [{"role": "user", "content": f"<b>{index}?"}], "multiplier": m,
             "text": f"answer {index} at {m}"} for index in range(5) for m in (-3, -2, 0, 2, 3)]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert main(["evaluation", str(path), "--out", str(tmp_path / "page.html"), "--generations",
                 str(tmp_path / "answers.jsonl")]) == 0
    page = Reader((tmp_path / "page.html").read_text())
    assert page.headings[:3] == ["Propensity curve", "Answers", "Steerability"]
    assert "first 3 prompts of 5 in answers.jsonl" in page.text and "<b>0?" in page.text
    assert [text for text in page.texts if text.startswith("answer ")] == [
        f"answer {index} at {m}" for index in range(3) for m in (-2, 0, 2)]


@pytest.mark.parametrize("content, message", [("", "holds no answers"), ('{"prompt": "x"}', ":1: not an answer"),
                                              ("[1]", ":1: not an answer"), ("{", ":1: not an answer")])
def test_answers_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "answers.jsonl").write_text(content)
    with pytest.raises(AnalysisError, match=message):
        load_answers(tmp_path / "answers.jsonl")


def test_many_random_directions_are_a_null(tmp_path, undrawn):
    """Nineteen draws between -0.1 and 0.1 nats per unit, twice that at +2; the vector's 1.2 is beyond all."""
    undrawn("change_figure")  # which has a band for them
    page = read(tmp_path, SyntheticEvaluation(draws=19, absent=HELD_OUT_ONLY))
    assert "The 19 random directions move propensity by −0.40 to 0.40 nats over these multipliers; none moves it as " \
           "far as the vector (p = 0.050, by rank)." in page.text
    assert "single draw" not in page.text and "random-2" not in page.text
    evaluation = load_evaluation(tmp_path / "eval0.h5")
    assert set(evaluation.curve["direction"]) == {"vector", "caa", "random"}
    assert evaluation.random_curve["direction"].nunique() == 19
    weak = read(tmp_path, SyntheticEvaluation(draws=19, slopes={"vector": 0.0751, "random": 0.05},
                                              absent=HELD_OUT_ONLY))
    # 6 of the 18 further draws, evenly from -0.1 to 0.1, are as far from 0 as 0.0751: p = 7 / 20.
    assert "6 move it as far as the vector (p = 0.350, by rank)" in weak.text
    assert "too few for a null distribution" in read(tmp_path, SyntheticEvaluation(draws=4, absent=HELD_OUT_ONLY)).text


def write_conceptor(path: Path, **changes: object) -> Path:
    """An evaluation of a conceptor: as `evaluate` describes it, without a norm and a mean difference beside it."""
    values: dict = {"slopes": {"vector": 1.2, "random": 0.05}, "vector_file": "made/warm.h5", **changes}
    SyntheticEvaluation(**values).write(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["config"])
        config["vectors"] = [{"file": "made/warm.h5", "kind": "conceptor", "layer": 15, "quota": 0.25, "weight": 1.0,
                              "model": "models/smollm2", "model_fingerprint": config["model_fingerprint"]}]
        file.attrs["config"] = json.dumps(config)
    return path


# Where pages of conceptors may speak of vectors: a control that is one.
OF_VECTORS = "nothing here shows that a matrix was worth more than a vector"


def test_conceptors_are_no_vectors(tmp_path, undrawn):
    undrawn("change_figure", "grid_figure")
    evaluation = load_evaluation(write_conceptor(tmp_path / "eval.h5", draws=12))
    page = Reader(evaluation_report_html([evaluation]))
    text = page.text.replace(OF_VECTORS, "")
    assert "vector" not in text.lower() and "direction " not in text.replace("in their direction", "").lower()
    assert "Evaluation of a conceptor" in page.texts and "warm.h5 (conceptor, quota 0.250, layer 15" in text
    assert "The propensity curve of the conceptor rises" in text and "The 12 random conceptors move" in text
    # The tables: no norm of a vector, and rows of the conceptor and its control.
    assert page.texts.count("norm of βC − I") == 1 and "norm" not in page.texts
    assert page.texts.count("conceptor") > 10 and page.texts.count("steered by") == 6
    alternatives = [attributes["alt"] or "" for tag, attributes in page.tags if tag == "img"]
    assert alternatives and not any("vector" in alternative for alternative in alternatives)
    drawings = [base64.b64decode(image.partition(",")[2]).decode() for image in page.images()]
    assert any("12 random conceptors" in drawing for drawing in drawings)
    assert not any("random directions" in drawing or "vector -->" in drawing for drawing in drawings)
    weak = load_evaluation(write_conceptor(tmp_path / "weak.h5", slopes={"vector": -0.4}, absent=HELD_OUT_ONLY))
    text = Reader(evaluation_report_html([weak])).text.replace(OF_VECTORS, "")
    assert "There is no random conceptor beside the conceptor" in text and "vector" not in text


def test_conceptors_beside_others(tmp_path, undrawn):
    undrawn()
    conceptor = load_evaluation(write_conceptor(tmp_path / "conceptor.h5", absent=HELD_OUT_ONLY))
    sister = load_evaluation(write_conceptor(tmp_path / "sister.h5", model="sister", absent=HELD_OUT_ONLY))
    text = Reader(evaluation_report_html([conceptor, sister])).text.replace(OF_VECTORS, "")
    assert "vector" not in text.lower() and "on 2 models" in text
    vector = load_evaluation(SyntheticEvaluation(absent=HELD_OUT_ONLY).write(tmp_path / "vector.h5"))
    text = Reader(evaluation_report_html([conceptor, vector])).text
    assert "2 vectors and conceptors on smollm2" in text and "of the vector or conceptor" in text
    assert "Conceptors: warm.h5" in text and "Vectors: warmth.h5" in text


DEGENERATE = {
    "nothing measured": SyntheticEvaluation(absent=NO_TABLES),
    "held-out pairs only": SyntheticEvaluation(absent=HELD_OUT_ONLY),
    "choices only": SyntheticEvaluation(absent=NO_TABLES - {"choices"}),
    "costs only": SyntheticEvaluation(absent=NO_TABLES - {"costs"}),
    "grid only": SyntheticEvaluation(absent=NO_TABLES - {"grid"}),
    "judge only": SyntheticEvaluation(absent=NO_TABLES - {"judge", "judge_scores"}),
    "no controls": SyntheticEvaluation(slopes={"vector": 1.0}),
    "controls only": SyntheticEvaluation(slopes={"caa": 1.0, "random": 0.0}),
    "another direction": SyntheticEvaluation(slopes={"vector": 1.0, "pca": 0.5}, damages={"pca": 0.1}),
    "one multiplier": SyntheticEvaluation(multipliers=(1.0,)),
    "unsteered only": SyntheticEvaluation(multipliers=(0.0,)),
    "no zero": SyntheticEvaluation(multipliers=(-1.0, 1.0)),
    "many multipliers": SyntheticEvaluation(multipliers=tuple(value / 4 for value in range(-8, 9))),
    "one pair": SyntheticEvaluation(pairs=1),
    "no spread": SyntheticEvaluation(spread=0.0, slopes={"vector": 0.0, "caa": 0.0, "random": 0.0}),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.usefixtures("one_of_a_kind")
def test_degenerate_files_have_a_page(tmp_path, name):
    own = read(tmp_path, DEGENERATE[name])
    assert "nan" not in own.text.lower().split() and "What this does not show" in own.text


@pytest.mark.parametrize("name", [*DEGENERATE])
def test_degenerate_files_stand_beside_others(tmp_path, name, undrawn):
    """Their own plots are drawn in the test before."""
    undrawn("transfer_figure", "named_curves_figure")
    changed = dataclasses.replace(DEGENERATE[name], absent=DEGENERATE[name].absent | HELD_OUT_ONLY)
    page = read(tmp_path, SyntheticEvaluation(absent=NO_TABLES - {"steerability"}), changed)
    assert "nan" not in page.text.lower().split()


def test_unknown_values_have_a_page(tmp_path):
    """NaN in every column of floats, as where an interval or a mean could not be had; perplexities out of range."""
    path = SyntheticEvaluation().write(tmp_path / "eval.h5")
    for value in (math.nan, math.inf):
        with h5py.File(path, "r+") as file:
            for table in COLUMNS:
                rows = file[table][:]
                for name in rows.dtype.names:
                    if rows.dtype[name].kind == "f" and not name.startswith("multiplier"):
                        rows[name] = value
                file[table][:] = rows
        if math.isnan(value):
            assert "nan" not in Reader(evaluation_report_html([load_evaluation(path)])).text.lower().split()
        else:
            assert Reader(evaluation_report_html([load_evaluation(path)])).text


def test_settings_without_vectors_have_a_page(tmp_path, undrawn):
    undrawn()
    path = SyntheticEvaluation().write(tmp_path / "eval.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = "{}"
    assert "a vector that the file does not name" in Reader(evaluation_report_html([load_evaluation(path)])).text


def test_more_models_than_colours(tmp_path, undrawn):
    undrawn("transfer_figure", "named_curves_figure")
    models = [SyntheticEvaluation(model=f"model{index}", absent=NO_TABLES - {"curve", "steerability"})
              for index in range(9)]
    assert "first 7 of 9 models" in read(tmp_path, *models).text


def test_report_replaces_a_file_whole(tmp_path, undrawn):
    undrawn()
    out = tmp_path / "report.html"
    out.write_text("old")
    path = SyntheticEvaluation(absent=HELD_OUT_ONLY).write(tmp_path / "eval.h5")
    write_evaluation_report([load_evaluation(path)], out)
    assert out.read_text().startswith("<!DOCTYPE html>") and out.read_text().endswith("</html>\n")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["eval.h5", "report.html"]


def test_command_evaluation(tmp_path):
    own = SyntheticEvaluation(absent=HELD_OUT_ONLY).write(tmp_path / "own.h5")
    sister = SyntheticEvaluation(model="sister", slopes={"vector": 0.6, "caa": 0.3},
                                 absent=HELD_OUT_ONLY).write(tmp_path / "sister.h5")
    finished = run_command("evaluation", own, sister, "--out", tmp_path / "page.html", "--csv", tmp_path / "tables")
    assert finished.returncode == 0
    assert finished.stdout == f"{tmp_path}/page.html: 2 evaluations, 1 warning\n"
    assert "warning: sister: There is no random direction" in finished.stderr
    assert Reader((tmp_path / "page.html").read_text()).text
    assert sorted(entry.name for entry in (tmp_path / "tables").iterdir()) == sorted(f"{name}.csv" for name in COLUMNS)
    table = pandas.read_csv(tmp_path / "tables" / "steerability.csv")
    assert list(table["evaluation"] + " " + table["direction"]) == [
        "smollm2 vector", "smollm2 caa", "smollm2 random", "sister vector", "sister caa"]
    assert list(table["steerability"]) == pytest.approx([1.2, 0.6, 0.05, 0.6, 0.3])


def test_command_names_bad_input(tmp_path):
    good = SyntheticEvaluation(absent=HELD_OUT_ONLY).write(tmp_path / "eval.h5")
    finished = run_command("evaluation", good, tmp_path / "nothing.h5", "--out", tmp_path / "page.html")
    assert finished.returncode == 2 and "nothing.h5: no such file" in finished.stderr
    assert "Traceback" not in finished.stderr and not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("option", ["--out", "--csv"])
def test_command_that_cannot_write(tmp_path, option, undrawn, capsys):
    undrawn()
    good = SyntheticEvaluation(absent=HELD_OUT_ONLY).write(tmp_path / "eval.h5")
    (tmp_path / "file").write_text("")
    assert main(["evaluation", str(good), "--out", str(tmp_path / "page.html"), option,
                 str(tmp_path / "file" / "x")]) == 1
    assert "cannot write" in capsys.readouterr().err
