"""load_evaluation and the Pareto fronts against files that h5py wrote from formulas."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy
import numpy.lib.recfunctions
import pandas
import pytest
import synthetic_sweep
from synthetic_evaluation import SyntheticEvaluation, fingerprint
from synthetic_sweep import CellSpec, SyntheticSweep

from bipo_analysis import AnalysisError, Evaluation, combined_table, load_evaluation, tradeoffs
from bipo_analysis.evaluation import COLUMNS, directions_in
from bipo_analysis.held_out_findings import steerability_findings
from bipo_analysis.names import labels, single_vector_names, vector_names
from bipo_analysis.pareto import UNSTEERED
from bipo_analysis.vectors_in_use import VectorInUse, vector_words, vectors_in_use

WHOLE = SyntheticEvaluation()


@pytest.fixture
def path(tmp_path):
    return WHOLE.write(tmp_path / "eval.h5")


def loaded(tmp_path, name: str = "eval", **changes: object) -> Evaluation:
    return load_evaluation(SyntheticEvaluation(**changes).write(tmp_path / f"{name}.h5"))


@pytest.mark.parametrize("table", COLUMNS)
def test_tables_are_what_was_written(path, table):
    expected = pandas.DataFrame(WHOLE.rows(table))
    assert list(expected.columns) == list(COLUMNS[table]), "the writer of these tests has the documented columns"
    pandas.testing.assert_frame_equal(load_evaluation(path).tables[table], expected, check_dtype=False, rtol=1e-12)


def test_steerability_of_few_pairs_has_students_bounds(tmp_path):
    """t of 2 degrees is 4.302653; the file's bounds of so few leave 0 out."""
    written = SyntheticEvaluation(pairs=3, slopes={"vector": 0.6}, spread=0.4)
    few = load_evaluation(written.write(tmp_path / "few.h5"))
    own = few.slopes["slope"].to_numpy()
    assert len(own) == 3 and written.steerability()[0]["steerability_low"] > 0
    half = 4.302653 * own.std(ddof=1) / 3**0.5
    assert few.steerability.loc[0, ["steerability_low", "steerability_high"]].to_list() == pytest.approx(
        [own.mean() - half, own.mean() + half], abs=1e-5)
    assert "no effect of the vector is shown" in steerability_findings(few)[0]
    # Without their slopes the file's stay.
    bare = load_evaluation(dataclasses.replace(written, absent=frozenset({"samples"})).write(tmp_path / "bare.h5"))
    assert bare.steerability["steerability_low"][0] == written.steerability()[0]["steerability_low"]


def test_attributes_and_settings(path):
    evaluation = load_evaluation(path)
    assert evaluation.name == "eval" and evaluation.model == "smollm2"
    assert evaluation.attributes["hidden_size"] == 576 and evaluation.attributes["hosts"] == "node1"
    assert evaluation.settings["multipliers"] == [-2, -1, 0, 1, 2]
    assert vectors_in_use(evaluation) == [
        VectorInUse("warmth.h5", 15, 1.0, 3.2, "smollm2", fingerprint("models/smollm2"),
                    "runs/warmth.h5", 2)]


def test_texts_beyond_ascii(tmp_path):
    with h5py.File(WHOLE.write(tmp_path / "eval.h5"), "r+") as file:
        rows = [{**row, "set": "Wärme, größer"} for row in WHOLE.choices()]
        del file["choices"]
        kinds = [(name, h5py.string_dtype("utf-8", 20) if isinstance(value, str) else "<f8")
                 for name, value in rows[0].items()]
        table = numpy.zeros(len(rows), kinds)
        for name, _ in kinds:
            table[name] = [row[name].encode() if isinstance(row[name], str) else row[name] for row in rows]
        file["choices"] = table
    assert set(load_evaluation(tmp_path / "eval.h5").choices["set"]) == {"Wärme, größer"}


def test_empty_tables_keep_their_columns(tmp_path):
    evaluation = loaded(tmp_path, absent=frozenset(COLUMNS))
    for name, table in evaluation.tables.items():
        assert len(table) == 0 and list(table.columns) == list(COLUMNS[name])


def test_more_columns_than_documented_are_kept(path):
    with h5py.File(path, "r+") as file:
        rows = file["judge"][:]
        del file["judge"]
        file["judge"] = numpy.lib.recfunctions.append_fields(rows, "kappa", numpy.full(len(rows), 0.5), usemask=False)
    assert list(load_evaluation(path).judge["kappa"]) == [0.5] * 5


def test_slopes_are_one_per_pair(path):
    slopes = load_evaluation(path).slopes
    assert len(slopes) == 3 * WHOLE.pairs
    own = slopes[slopes["direction"] == "vector"].sort_values("pair")
    numpy.testing.assert_allclose(own["slope"], WHOLE.pair_slopes("vector"))


def test_missing_and_damaged_files_are_named(path, tmp_path):
    with pytest.raises(AnalysisError, match="nothing.h5: no such file"):
        load_evaluation(tmp_path / "nothing.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(AnalysisError, match="eval.h5: damaged"):
        load_evaluation(path)


def test_other_files_are_told_apart(tmp_path):
    run, other = tmp_path / "run.h5", tmp_path / "other.h5"
    with h5py.File(run, "w") as file:
        synthetic_sweep.write_run_tree(file, CellSpec(10, 1), "complete", 10)
    with pytest.raises(AnalysisError, match="run.h5: this is the run file of a training"):
        load_evaluation(run)
    with pytest.raises(AnalysisError, match="this is a collected sweep"):
        load_evaluation(SyntheticSweep([CellSpec(10, 1)]).collect(tmp_path / "sweep.h5"))
    with h5py.File(other, "w") as file:
        file["x"] = 1
    with pytest.raises(AnalysisError, match="not an evaluation file"):
        load_evaluation(other)


# What is done to a good file, and what is said of it.
DAMAGES = {
    "newer": (lambda file: file.attrs.modify("schema_version", 3),
              "schema_version is 3, and this package reads up to 2"),
    "no schema": (lambda file: file.attrs.__delitem__("schema_version"), "no schema_version"),
    "no table": (lambda file: file.__delitem__("costs"), "no table /costs"),
    "no config": (lambda file: file.attrs.__delitem__("config"), "damaged"),
    "config is a list": (lambda file: file.attrs.__setitem__("config", json.dumps([1])), "config is not a JSON object"),
    "an array for a table": (lambda file: _replace(file, "grid", numpy.zeros(3)), "/grid is not a table"),
    "a group for a table": (lambda file: (file.__delitem__("grid"), file.create_group("grid")), "/grid is not a table"),
    "no column": (lambda file: _replace(file, "grid", file["grid"][:][["multiplier_1", "multiplier_2", "pairs"]]),
                  "/grid lacks accuracy, accuracy_low, accuracy_high, margin, propensity"),
}


def _replace(file: h5py.File, name: str, data: numpy.ndarray) -> None:
    data = numpy.array(data)
    del file[name]
    file[name] = data


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(path, name):
    damage, message = DAMAGES[name]
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(AnalysisError, match=message) as caught:
        load_evaluation(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_directions_come_in_their_order(tmp_path):
    evaluation = loaded(tmp_path, slopes={"other": 0.1, "random": 0.0, "vector": 1.0, "caa": 0.5},
                        damages={"other": 1, "random": 1, "caa": 1})
    assert directions_in(evaluation.curve) == ["vector", "caa", "random", "other"]


def test_labels_name_models_then_files_then_numbers(tmp_path):
    plain, lora = loaded(tmp_path, "plain"), loaded(tmp_path, "lora", adapter="adapters/french/")
    again = loaded(tmp_path, "again")
    assert labels([plain]) == ["smollm2"] and lora.model == "smollm2 + french"
    assert labels([plain, lora]) == ["smollm2", "smollm2 + french"]
    assert labels([plain, lora, again]) == ["smollm2 (plain)", "smollm2 + french", "smollm2 (again)"]
    assert labels([plain, plain]) == ["smollm2 (plain) 1", "smollm2 (plain) 2"]


def test_labels_name_what_differs(tmp_path):
    cold = loaded(tmp_path, "cold", vector_file="runs/cold.h5")
    elsewhere = loaded(tmp_path, "elsewhere", vector_file="older/warmth.h5")
    other_data = loaded(tmp_path, "data", test="data/power.csv")
    plain, other_model = loaded(tmp_path, "plain"), loaded(tmp_path, "model", model="sister")
    assert labels([plain, cold]) == ["warmth.h5", "cold.h5"]
    assert labels([plain, elsewhere]) == ["runs/warmth.h5", "older/warmth.h5"]
    assert labels([plain, other_data]) == ["test.csv", "power.csv"]
    assert labels([cold, other_model]) == ["smollm2, cold.h5", "sister, warmth.h5"]


def test_labels_name_how_a_vector_was_used(tmp_path):
    plain = loaded(tmp_path, "plain")
    without = dataclasses.replace(plain, settings={**plain.settings, "intervention": "null"})
    gated = dataclasses.replace(plain, settings={**plain.settings, "gate": "g.h5:0.5", "positions": "prompt"})
    trained = dataclasses.replace(plain, settings={**plain.settings, "positions": "as the vectors were trained"})
    assert labels([plain, without, gated]) == ["smollm2", "null", "gate g.h5:0.5, at prompt"]
    assert labels([plain, trained]) == ["smollm2 (plain) 1", "smollm2 (plain) 2"]


def test_labels_and_words_name_a_chosen_epoch(tmp_path):
    plain, best = loaded(tmp_path, "plain"), loaded(tmp_path, "best", epoch=1, selected="best")
    assert vector_names([plain]) == ["warmth.h5"] and vector_names([best]) == ["warmth.h5 of epoch 2"]
    assert labels([plain, best]) == ["warmth.h5 of epoch 3", "warmth.h5 of epoch 2"]
    assert vector_words(plain).startswith("warmth.h5 (layer 15, epoch 3, norm")
    assert vector_words(best).startswith("warmth.h5 (layer 15, epoch 2 (best), norm")


def test_a_run_of_several_layers_is_one_vector(tmp_path):
    """The settings have an entry for each of its layers, of norms 3 and 4; another run's layers do not ascend."""
    plain = loaded(tmp_path, "plain")
    (first,) = plain.settings["vectors"]
    entries = [{**first, "layer": layer, "norm": norm} for layer, norm in ((10, 3.0), (15, 4.0))]
    other = [{**first, "file": "runs/other.h5"}]
    joint = dataclasses.replace(plain, settings={**plain.settings, "vectors": entries})
    (used,) = vectors_in_use(joint)
    assert (used.layer, used.layers, used.norm) == (10, (10, 15), 5.0)
    assert vector_words(joint).startswith("warmth.h5 (layers 10+15, epoch 3, norm 5.00")
    at_mlps = [{**entry, "site": "mlp"} for entry in entries]
    steered = dataclasses.replace(plain, settings={**plain.settings, "vectors": at_mlps})
    assert vector_words(steered).startswith("warmth.h5 (MLP of layers 10+15, epoch 3, norm 5.00")
    assert vector_names([joint]) == ["warmth.h5"] and vectors_in_use(plain)[0].layers == (15,)
    both = dataclasses.replace(plain, settings={**plain.settings, "vectors": [*entries, *other, *entries, *entries]})
    assert [one.layers for one in vectors_in_use(both)] == [(10, 15), (15,), (10, 15), (10, 15)]
    assert single_vector_names(both) == ["warmth.h5", "other.h5", "warmth.h5", "warmth.h5"]
    halved = dataclasses.replace(plain, settings={**plain.settings, "vectors": [entries[0], {**entries[1],
                                                                                             "weight": 0.5}]})
    assert len(vectors_in_use(halved)) == 2


def test_combined_table_names_its_evaluations(tmp_path):
    whole = loaded(tmp_path, "a", model="a")
    bare = loaded(tmp_path, "b", model="b", absent=frozenset({"costs"}))
    curve, costs = combined_table([whole, bare], "curve"), combined_table([whole, bare], "costs")
    assert list(curve.columns) == ["evaluation", *COLUMNS["curve"]]
    assert list(curve["evaluation"].value_counts(sort=False).items()) == [("a", 15), ("b", 15)]
    assert set(costs["evaluation"]) == {"a"} and costs["value"].dtype == "float64"
    assert list(combined_table([bare], "costs").columns) == ["evaluation", *COLUMNS["costs"]]


def test_front_without_controls_is_every_useful_point(tmp_path):
    """Price and effect both grow with the multiplier: no point beats another."""
    points = tradeoffs(loaded(tmp_path, slopes={"vector": 1.0}), "propensity", "kl_neutral")
    assert points["on_front"].all() and len(points) == 5
    assert list(points[points["direction"] == UNSTEERED]["multiplier"]) == [0]


def test_front_leaves_out_what_is_beaten(tmp_path):
    """The mean difference moves half as far for a higher price; the random one hardly, but for less than any other."""
    points = tradeoffs(load_evaluation(WHOLE.write(tmp_path / "eval.h5")), "propensity", "kl_neutral")
    fronts = points.groupby("direction")["on_front"].agg(list).to_dict()
    # In order of multipliers -2, -1, 1, 2; KL is 0.05, 0.06 and 0.02 m^2: random at 2 costs more than the vector at 1.
    assert fronts == {"vector": [True] * 4, "caa": [False] * 4, "random": [False, True, True, False], UNSTEERED: [True]}


def test_front_against_brute_force(tmp_path):
    """Random numbers, every two points compared by the definition."""
    evaluation = loaded(tmp_path)
    generator = numpy.random.default_rng(3)
    evaluation.curve["accuracy"] = generator.integers(0, 6, len(evaluation.curve)) / 5
    prices = evaluation.costs["measure"] == "kl_neutral"
    evaluation.costs.loc[prices, "value"] = generator.integers(0, 4, prices.sum()) / 4
    points = tradeoffs(evaluation, "accuracy", "kl_neutral")
    assert len(points) == 13
    for point in points.itertuples():
        better = False
        for other in points.itertuples():
            if point.multiplier > 0 and other.multiplier >= 0:
                gain = other.effect - point.effect
            elif point.multiplier < 0 and other.multiplier <= 0:
                gain = point.effect - other.effect
            else:
                continue
            saving = point.price - other.price
            better = better or (gain >= 0 and saving >= 0 and gain + saving > 0)
        assert point.on_front == (not better), point


def test_points_that_left_the_range_are_left_out(tmp_path):
    evaluation = loaded(tmp_path)
    rows = (evaluation.costs["measure"] == "kl_neutral") & (evaluation.costs["multiplier"] == 2)
    evaluation.costs.loc[rows, "value"] = [numpy.inf, numpy.nan, numpy.inf]
    points = tradeoffs(evaluation, "accuracy", "kl_neutral")
    assert 2 not in set(points["multiplier"]) and len(points) == 10
