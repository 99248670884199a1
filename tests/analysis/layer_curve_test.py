"""The layer curve, its ranking and the sentences about it, on sweeps whose answer is known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy
import pandas
import pytest
import synthetic_sweep
from synthetic_sweep import SyntheticSweep, grid

from bipo_analysis import Run, compare_layers, layer_curve, load_sweep, load_sweeps, ranked_layers
from bipo_analysis.findings import findings
from bipo_analysis.method_comparisons import cells_compared
from bipo_analysis.sections import split_sections
from bipo_analysis.traces import mean_by_layer, read_traces, smoothed
from bipo_analysis.summary import axes_of, cell_row, summary_frame


def cells(**columns: list) -> pandas.DataFrame:
    """Rows of a summary with the columns that the curve uses; what is not given is 0.5 or, for margins, 0."""
    count = len(columns["layer"])
    values = {f"accuracy_{side}": [0.5] * count for side in ("minus", "zero", "plus")}
    values |= {f"margin_{side}": [0.0] * count for side in ("minus", "zero", "plus")}
    return pandas.DataFrame({**values, "status": ["complete"] * count, **columns})


def test_curve_has_means_and_intervals_over_seeds():
    curve = layer_curve(cells(layer=[8, 8, 3], seed=[1, 2, 1], accuracy_plus=[0.75, 1.0, 0.625],
                              accuracy_minus=[0.25, 0.25, 0.5], margin_plus=[1.0, 3.0, 0.5]))
    assert list(curve["layer"]) == [3, 8] and list(curve["seeds"]) == [1, 2]
    assert list(curve["accuracy_plus"]) == [0.625, 0.875]
    assert list(curve["accuracy_swing"]) == [0.125, 0.625]
    assert list(curve["margin_plus"]) == [0.5, 2.0]
    assert math.isnan(curve["accuracy_swing_low"][0]) and math.isnan(curve["accuracy_swing_high"][0])
    assert (curve["accuracy_swing_low"][1], curve["accuracy_swing_high"][1]) == (0.5, 0.75)
    assert (curve["margin_plus_low"][1], curve["margin_plus_high"][1]) == (1, 3)


def test_ranking_by_either_measure():
    table = cells(layer=[1, 2, 3], seed=[1] * 3, accuracy_plus=[0.7, 0.9, 0.9], margin_plus=[5.0, 1.0, 2.0])
    curve = layer_curve(table)
    assert list(ranked_layers(curve, "accuracy")["layer"]) == [3, 2, 1]
    assert list(ranked_layers(curve, "margin")["layer"]) == [1, 3, 2]


def test_layers_are_compared_on_the_seeds_of_both():
    table = cells(layer=[1, 1, 1, 2, 2], seed=[1, 2, 3, 2, 3], accuracy_plus=[0.0, 0.9, 0.8, 0.7, 0.7])
    comparison = compare_layers(table, 1, 2)
    assert comparison.seeds == 2 and comparison.difference == pytest.approx(0.15)
    assert comparison.interval == (pytest.approx(0.1), pytest.approx(0.2))


def test_layers_without_a_common_seed():
    comparison = compare_layers(cells(layer=[1, 2], seed=[1, 2], accuracy_plus=[0.9, 0.7]), 1, 2)
    assert comparison.seeds == 0 and comparison.difference == pytest.approx(0.2)


def sentences(sweep: SyntheticSweep, folder: Path) -> list[str]:
    loaded = load_sweep(sweep.write(folder / "sweep"))
    section = split_sections(loaded)[0]
    found = findings(section, read_traces(loaded, section.best.cells))
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in found]


def test_findings_of_a_whole_sweep(tmp_path):
    """At layer 15 seed 1 has 40 and 18 of 50 pairs, seed 2 has 39 and 19; layers 10 and 20 have 2 pairs less."""
    found = " ".join(sentences(SyntheticSweep(grid()), tmp_path))
    assert ("Layer 15 steers best: with +v the matching answer is the likelier one in 79.0 % of the held-out pairs, "
            "with −v in 37.0 %, and without steering in 58.0 %, a swing of 42.0 points (mean of 2 seeds, range of "
            "2 seeds 40.0 to 44.0).") in found
    # Wilson's formula at 0.79 and 0.37 of 50.
    assert "which leave 66 % to 88 % open for +v and 25 % to 51 % for −v" in found
    assert "The runner-up is layer 10" in found and "two seeds are too few for a firm order" in found
    assert "small beside the ±11 points that 50 held-out pairs leave open for one accuracy by itself" in found
    # At most 31.5 of 50 pairs turned right, and then 10.5 wrong: (32 - 11) / 52 and its standard error.
    error = math.sqrt(32 + 11 - 21 * 21 / 52) / 52
    low, high = (100 * (21 / 52 + side * 1.96 * error) for side in (-1, 1))
    assert f"whichever pairs changed, the swing lies within {low:.1f} to {high:.1f} points" in found
    assert "names the same layer (+1.52 nats at +v, −1.52 at −v)" in found
    # Odd and even seeds are 10 degrees apart, and layers 3 degrees each.
    same = math.cos(math.radians(10))
    assert f"{same:.2f} between seeds at the same layer" in found
    assert "left out" not in found


def test_findings_name_disagreement_and_no_effect(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_sweep, "margin", lambda cell, epoch, multiplier: multiplier * cell.layer)
    assert "By the margin, the finer measure, layer 25 leads (+25.00 nats" in " ".join(
        sentences(SyntheticSweep(grid()), tmp_path))
    monkeypatch.setattr(synthetic_sweep, "accuracy", lambda cell, epoch, multiplier: 0.5 - 0.02 * multiplier)
    (tmp_path / "other").mkdir()
    found = sentences(SyntheticSweep(grid((5,), (1,))), tmp_path / "other")
    assert found[0].startswith("No layer steers in the intended direction by accuracy. The least bad is layer 5")
    assert "the two accuracies alone do not tell that" in found[1] and "well supported" not in found[1]


def test_findings_leave_unfinished_cells_out(half_dead, tmp_path):
    found = " ".join(sentences(half_dead, tmp_path))
    assert "4 cells without a complete, evaluated run are left out" in found


def test_findings_of_runs_under_way(tmp_path):
    found = " ".join(sentences(SyntheticSweep(grid((5, 15), (1,)), steps={0: 25, 1: 25}), tmp_path))
    assert "Layer 15 steers best" in found and "No cell is complete yet" in found


def test_findings_without_anything(tmp_path):
    assert sentences(SyntheticSweep(grid((5,), (1,)), missing=frozenset({0})), tmp_path) == [
        "No cell has made a step yet, so there is nothing to compare."]


def test_findings_without_evaluation(tmp_path):
    assert "but none has an evaluation" in sentences(SyntheticSweep(grid((5,), (1,)), evaluates=False), tmp_path)[0]


def test_variant_with_the_largest_swing_is_compared(tmp_path):
    loaded = load_sweep(SyntheticSweep(grid(lr=(0.0001, 0.0005, 0.0002))).write(tmp_path / "sweep"))
    section = split_sections(loaded)[0]
    assert section.best.values == {"lr": 0.0005} and len(section.best.cells) == 10
    assert [variant.values["lr"] for variant in section.variants] == [0.0005, 0.0002, 0.0001]
    assert "Layers are compared at lr 0.0005, the one of 3 combinations" in " ".join(findings(section, []))


def test_sections_are_models_and_data_sets(tmp_path):
    sweep = SyntheticSweep(grid((5,), (1,), model=("a", "b"), data=("x", "y")))
    titles = [section.title for section in split_sections(load_sweep(sweep.write(tmp_path / "sweep")))]
    assert titles == ["a, x", "a, y", "b, x", "b, y"]


def test_courses_are_means_over_seeds(tmp_path):
    cells_, steps = grid((5, 15), (1, 2)), {3: 12}
    loaded = load_sweep(SyntheticSweep(cells_, steps=steps).write(tmp_path / "sweep"))
    traces = read_traces(loaded, loaded.summary)
    margins = mean_by_layer(traces, "evaluations", "epoch", "margin_plus")
    assert list(margins.columns) == [5, 15] and list(margins.index) == [0, 1, 2]
    expected = numpy.mean([synthetic_sweep.margin(cell, 0, 1) for cell in cells_[2:]])
    assert margins.loc[0, 15] == pytest.approx(expected)
    # The second seed stopped before.
    assert margins.loc[2, 15] == pytest.approx(synthetic_sweep.margin(cells_[2], 2, 1))


def test_smoothing_keeps_a_line_and_the_last_step():
    curve = pandas.DataFrame({5: numpy.arange(4000.0)})
    thin = smoothed(curve)
    assert len(thin) == 200 and thin.index[-1] == 3999
    assert thin[5].iloc[-1] == pytest.approx(3999 - 49.5), "the mean of the last 100 of 4000 steps"


def test_objectives_make_variants(tmp_path):
    """Layers are compared within one objective, and the axes are columns only of a sweep that has others."""
    sweep = SyntheticSweep(grid(layers=(5, 15), objective=("bipo", "ipo")))
    loaded = load_sweep(sweep.write(tmp_path / "sweep"))
    assert list(loaded.summary["objective"]) == ["bipo"] * 4 + ["ipo"] * 4
    assert list(loaded.summary["reduction"]) == ["sum"] * 4 + ["mean"] * 4
    assert set(loaded.summary["label_smoothing"]) == {0.0} and set(loaded.summary["simpo_gamma"]) == {0.5}
    variants = split_sections(loaded)[0].variants
    assert {tuple(variant.values.items()) for variant in variants} == {
        (("objective", name), ("reduction", reduction)) for name, reduction in (("bipo", "sum"), ("ipo", "mean"))}
    assert [len(variant.cells) for variant in variants] == [4, 4]
    usual = load_sweep(SyntheticSweep(grid(layers=(5, 15))).write(tmp_path / "usual"))
    assert "objective" not in usual.summary and len(split_sections(usual)[0].variants) == 1
    files = [tmp_path / "sweep" / f"{cell.name}.h5" for cell in (sweep.cells[0], sweep.cells[-1])]
    joined = load_sweeps([tmp_path / "usual", *files])
    assert list(joined.summary["objective"]) == ["bipo"] * 5 + ["ipo"]
    assert list(joined.summary["reduction"]) == ["sum"] * 5 + ["mean"]


def test_settings_are_axes_where_cells_name_them():
    """Else they are among the settings that all cells share."""
    cells = [{"name": name, "model": "m", "data": "d", "layer": 5, "seed": 1, "lr": 1.0, "beta": 0.1, "sign": "batch",
              "batch_size": 4, "epochs": 1, **own}
             for name, own in (("usual", {}), ("bounded", {"norm": "max:3%"}), ("learned", {"factors": "learned"}))]
    frame = summary_frame([cell_row(cell, "missing", "", None) for cell in cells], {"schedule": "linear"})
    assert list(frame["norm"]) == ["free", "max:3%", "free"] and list(frame["factors"]) == ["1", "1", "learned"]
    assert set(frame["schedule"]) == {"linear"} and "init" not in frame
    assert axes_of(frame)[-2:] == ["norm", "factors"]


def with_pairs(run, effect) -> Run:
    """The run with single pairs of its last evaluation: of each, half the propensity at +v less that at -v is
    effect(pair)."""
    kinds = [("step", "<i8"), ("epoch", "<i4"), ("multiplier", "<f8"), ("pair", "<i8"), ("chosen_logp", "<f8"),
             ("rejected_logp", "<f8")]
    rows = [(30, 2, m, pair, -40 + pair + m * effect(pair), -40.0) for m in (-1.0, 0.0, 1.0) for pair in range(20)]
    return dataclasses.replace(run, sample_rows=numpy.array(rows, kinds))


def test_cells_are_compared_pair_by_pair(tmp_path):
    """Pairs spread over 3 nats and seeds over 0.2; layer 5 does 1 nat less than layer 15 in each, layer 10 as much."""
    sweep = load_sweep(SyntheticSweep(grid(layers=(5, 10, 15), seeds=(1, 2, 3))).write(tmp_path / "sweep"))
    (section,) = split_sections(sweep)
    lacks = {5: 1.0, 10: 0.0, 15: 0.0}
    runs = {name: with_pairs(run, lambda pair, run=run: 3 * pair / 20 + 0.1 * int(run.settings["seed"])
                             - lacks[run.layer]) for name, run in sweep.runs.items()}
    reference, compared = cells_compared(section, runs)
    assert reference == "layer 15" and {one.label for one in compared} == {"layer 5", "layer 10"}
    found = {one.label: one for one in compared}
    less, same = found["layer 5"], found["layer 10"]
    assert less.difference.value == pytest.approx(-1) and less.difference.seeds == 3 and less.difference.pairs == 20
    assert less.corrected == pytest.approx(2 * less.difference.probability)
    assert less.verdict == "less, in every seed" and same.verdict == "open"
    assert cells_compared(section, sweep.runs) == ("", [])  # files without single pairs
