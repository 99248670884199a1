"""Effect against cost of choices whose every figure is known: the tables, the pictures and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import h5py
import numpy
import pandas
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from synthetic_evaluation import SyntheticEvaluation
from synthetic_sweep import CellSpec, SyntheticSweep, make_mlps

from bipo_analysis import AnalysisError, effects, tradeoff_command
from bipo_analysis.__main__ import main
from bipo_analysis.cells import LeftOut, load_cells, panels
from bipo_analysis.effects import (Settings, cell_table, choice_table, compare_choices, difference_table,
                                   multiplier_at_kl, price_of, settings_of)
from bipo_analysis.label_placement import place_labels
from bipo_analysis.tradeoff_command import left_out_words, tradeoff_markdown, unmeasured_words

SEEDS = (1, 2, 3)
# Mean slope, KL at multiplier 1 and how much seeds differ, of each learning rate; 0.0005 is the reference.
RATES = {0.0005: (1.2, 0.05, 0.01), 0.001: (1.8, 0.20, 0.02), 0.0001: (1.19, 0.06, 0.05)}
PAIRS = 40


def slope(lr: float, seed: int) -> float:
    mean, _, step = RATES[lr]
    return mean + step * (seed - 2)


def write(folder: Path, models: tuple[str, ...] = ("smollm2",), only: tuple[float, ...] = tuple(RATES)) -> Path:
    """A sweep of each model with its evaluations inside; most cells have the first rate's other settings."""
    for model in models:
        cells = [CellSpec(15, seed, model=model, lr=lr, epochs=1) for lr in only for seed in SEEDS]
        sweep = SyntheticSweep(cells).write(folder / f"sweep-{model}")
        for cell in cells:
            write_evaluation(sweep, cell)
    return folder


def write_evaluation(sweep: Path, cell: CellSpec, **changes: object) -> Path:
    values: dict = {"slopes": {"vector": slope(cell.lr, cell.seed)}, "damage": RATES[cell.lr][1], "pairs": PAIRS,
                    "model": f"models/{cell.model}", "trained_on": f"models/{cell.model}",
                    "vector_file": str(sweep / f"{cell.name}.h5"), **changes}
    return SyntheticEvaluation(**values).write(sweep / f"eval-{cell.name}.h5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("choices"))


@pytest.fixture(scope="module")
def panel(folder):
    (only,) = panels(load_cells([folder]))
    return only


def test_choices_are_named_after_what_they_change(panel):
    assert (panel.model, panel.data) == ("smollm2", "warmth")
    assert [choice.label for choice in panel.choices] == ["base", "lr 0.001", "lr 0.0001"]
    assert panel.base == {"lr": 0.0005} and [choice.seeds for choice in panel.choices] == [list(SEEDS)] * 3
    assert all(cell.evaluation is not None for choice in panel.choices for cell in choice.cells)


def test_figures_of_a_choice_are_means_of_its_seeds(panel):
    table = choice_table([panel]).set_index("choice")
    for label, lr in (("base", 0.0005), ("lr 0.001", 0.001)):
        row = table.loc[label]
        mean, damage, step = RATES[lr]
        assert row["steerability"] == pytest.approx(mean) and row["seeds"] == 3 and row["pairs"] == PAIRS
        assert row["kl"] == pytest.approx(damage) and row["kl_unsteered"] == 0
        # Of -1 and 1 the means; distinct pairs fall from 0.8, so that 0.2 + damage are repeated.
        assert row["repetition"] == pytest.approx(0.2 + damage)
        assert row["perplexity"] == pytest.approx(5 * math.exp(2 * damage))
        assert row["seed_bounds"] == "range of 3 seeds" and row["kl_low"] == row["kl_high"] == pytest.approx(damage)
        assert (row["kl_items_low"], row["kl_items_high"]) == pytest.approx((0.95 * damage, 1.05 * damage))
        # Pairs lie evenly within 0.8 of the mean: an s.d. of 0.8 (n + 1) / sqrt(3 (n^2 - 1)) over n pairs.
        error = math.hypot(0.8 * (PAIRS + 1) / math.sqrt(3 * (PAIRS**2 - 1)) / math.sqrt(PAIRS), step / math.sqrt(3))
        assert row["steerability_high"] - row["steerability_low"] == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_equal_cost_is_where_the_curve_of_kl_reaches_it(panel):
    """KL is damage x m^2, whose root is straight: m is sqrt(KL / damage), and a pair moves by 2 m x its slope."""
    table = choice_table([panel], equal_kl=0.1).set_index("choice")
    for label, lr in (("base", 0.0005), ("lr 0.001", 0.001)):
        mean, damage, _ = RATES[lr]
        evaluation = panel.choices[["base", "lr 0.001"].index(label)].cells[0].evaluation
        settings = settings_of(panel, equal_kl=0.1)
        assert multiplier_at_kl(evaluation, 1, settings) == pytest.approx(math.sqrt(0.1 / damage))
        assert multiplier_at_kl(evaluation, -1, settings) == pytest.approx(-math.sqrt(0.1 / damage))
        assert table.loc[label, "swing_at_equal_kl"] == pytest.approx(2 * math.sqrt(0.1 / damage) * mean)
    # At multiplier 2 the KL of the reference is 0.2, the smallest there: it does not reach 0.3.
    assert choice_table([panel])["equal_kl"].tolist() == pytest.approx([0.2] * 3)
    assert math.isnan(choice_table([panel], equal_kl=0.3).set_index("choice").loc["base", "swing_at_equal_kl"])


def test_a_vector_that_hardly_moves_does_not_decide_the_equal_cost(tmp_path):
    """At multiplier 2 the reference's KL is 0.2, lr 0.001's 0.8 and lr 0.0001's 0.004, a fiftieth."""
    write(tmp_path)
    for file in tmp_path.rglob("eval-*lr0.0001*.h5"):
        with h5py.File(file, "r+") as content:
            rows = content["costs"][:]
            rows["value"][rows["measure"] == b"kl_neutral"] *= 0.001 / 0.06
            content["costs"][:] = rows
    (panel,) = panels(load_cells([tmp_path]))
    table = choice_table([panel]).set_index("choice")
    assert table["equal_kl"].tolist() == pytest.approx([0.2] * 3)
    assert math.isnan(table.loc["lr 0.0001", "swing_at_equal_kl"])
    assert table.loc["base", "swing_at_equal_kl"] == pytest.approx(4 * 1.2)


def test_what_costs_more_may_do_more_and_still_less_at_equal_cost(panel):
    """lr 0.001 has the larger slope and, at the same KL, the smaller swing: KL 0.2 is the reference's at multiplier 2,
    and the reference's 0.05 that of lr 0.001 at 0.5."""
    table = difference_table([panel]).set_index(["choice", "measure"])
    slope_row = table.loc[("lr 0.001", "steerability")]
    assert slope_row["difference"] == pytest.approx(0.6) and slope_row["low"] > 0.5 and slope_row["p_holm"] < 0.01
    its_kl, reference_kl = (table.loc[("lr 0.001", f"swing_at_{name}_kl")] for name in ("its", "reference"))
    assert its_kl["difference"] == pytest.approx(2 * 1.8 - 4 * 1.2)
    assert reference_kl["difference"] == pytest.approx(1.8 - 2 * 1.2)
    assert all(row["high"] < 0 and row["p_holm"] < 0.01 for row in (its_kl, reference_kl))
    assert slope_row["by_seed"].split() == ["0.59", "0.6", "0.61"]
    # Two comparisons of each effect: the smaller p is doubled.
    assert slope_row["p_holm"] == pytest.approx(2 * slope_row["p"])


def test_a_curve_that_flattens_is_understated_either_way(tmp_path):
    """Choices with one curve, of which the second is at multiplier 1 where the first is at 2, differ in nothing; lines
    through -2, 0 and 2 let whichever is interpolated seem less."""
    cells = [CellSpec(15, seed, lr=lr, epochs=1) for lr in (0.0005, 0.001) for seed in SEEDS]
    sweep = SyntheticSweep(cells).write(tmp_path / "sweep")
    for cell in cells:
        scale = 1.0 if cell.lr == 0.0005 else 2.0
        file = write_evaluation(sweep, cell, damage=0.05 * scale**2, multipliers=(-3.0, -1.0, 0.0, 1.0, 3.0))
        with h5py.File(file, "r+") as content:
            rows = content["samples"][:]
            rows["chosen_logp"] = rows["rejected_logp"] + numpy.tanh(scale * rows["multiplier"]) + 0.01 * rows["pair"]
            content["samples"][:] = rows
    (panel,) = panels(load_cells([tmp_path]))
    table = difference_table([panel]).set_index("measure")["difference"]
    line = math.tanh(1) + (math.tanh(3) - math.tanh(1)) / 2
    assert table["swing_at_its_kl"] == pytest.approx(2 * (math.tanh(2) - line)) and table["swing_at_its_kl"] > 0
    assert table["swing_at_reference_kl"] == pytest.approx(2 * (math.tanh(2) / 2 - math.tanh(1)))
    assert table["swing_at_reference_kl"] < 0


def test_seeds_that_disagree_leave_the_difference_open(panel):
    """lr 0.0001 is 0.01 below the reference, and its seeds differ by 0.05: -0.05, -0.01 and 0.03."""
    row = difference_table([panel]).set_index(["choice", "measure"]).loc[("lr 0.0001", "steerability")]
    assert row["difference"] == pytest.approx(-0.01) and row["low"] < 0 < row["high"] and row["p_holm"] > 0.3
    found = compare_choices(panel.choices[2], panel.choices[0], "steerability", settings_of(panel))
    assert found.by_seed == pytest.approx((-0.05, -0.01, 0.03)) and not found.seeds_agree


def test_slopes_are_over_the_multipliers_that_all_have(tmp_path):
    """Propensity is slope x m - 0.4 m^2: over -1, 0, 1, 2 the slope is 0.4 less, over -1, 0 and 1 the same."""
    cells = [CellSpec(15, seed, lr=lr, epochs=1) for lr in (0.0005, 0.001) for seed in SEEDS]
    sweep = SyntheticSweep(cells).write(tmp_path / "sweep")
    for cell in cells:
        multipliers = (-1.0, 0.0, 1.0, 2.0) if cell.lr == 0.0005 else (-1.0, 0.0, 1.0)
        write_evaluation(sweep, cell, slopes={"vector": 1.2}, bend=0.4, multipliers=multipliers)
    (panel,) = panels(load_cells([tmp_path]))
    assert choice_table([panel])["steerability"].tolist() == pytest.approx([1.2, 1.2])
    row = difference_table([panel]).set_index("measure").loc["steerability"]
    assert row["difference"] == pytest.approx(0) and settings_of(panel).multipliers == (-1.0, 0.0, 1.0)
    text = tradeoff_markdown([panel], choice_table([panel]), difference_table([panel]), 1.0)
    assert "Only some evaluations have +2: effects are over −1, 0 and +1, which all have." in text


def test_prices_are_compared_seed_by_seed_without_a_test(panel):
    row = difference_table([panel]).set_index(["choice", "measure"]).loc[("lr 0.001", "kl")]
    assert row["difference"] == pytest.approx(0.15) and row["bounds"] == "range of 3 seeds"
    assert math.isnan(row["p"]) and math.isnan(row["p_holm"])


def test_front_holds_what_nothing_beats(panel):
    """lr 0.0001 has less steerability and more KL than the reference."""
    table = choice_table([panel]).set_index("choice")
    assert table["on_front_kl"].to_dict() == {"base": True, "lr 0.001": True, "lr 0.0001": False}


@pytest.mark.parametrize("table", [cell_table, choice_table, difference_table])
def test_a_table_looks_for_the_settings_of_a_panel_once(panel, monkeypatch, table):
    """They take all evaluations: once for each row makes the tables of hundreds of cells take minutes."""
    asked = []
    known = effects.settings_of
    monkeypatch.setattr(effects, "settings_of", lambda *given: asked.append(given) or known(*given))
    assert len(table([panel])) > 1 and len(asked) == 1


def test_data_of_one_name_in_two_folders_are_told_apart(tmp_path):
    """Two sweeps name their data `train`, and their cells alike: folders tell data and evaluations apart."""
    for behaviour, moved in (("kind", 0.0), ("power", 1.0)):
        cells = [CellSpec(15, seed, data="train", epochs=1) for seed in SEEDS]
        sweep = SyntheticSweep(cells).write(tmp_path / f"S-{behaviour}")
        for cell in cells:
            with h5py.File(sweep / f"{cell.name}.h5", "r+") as file:
                config = {**json.loads(file.attrs["config"]), "train": f"/data/{behaviour}/train.csv"}
                file.attrs["config"] = json.dumps(config)
            write_evaluation(sweep, cell, slopes={"vector": slope(cell.lr, cell.seed) + moved})
    found = panels(load_cells([tmp_path]))
    assert [panel.data for panel in found] == ["kind", "power"]
    means = choice_table(found).set_index("data")["steerability"]
    assert means.to_dict() == pytest.approx({"kind": 1.2, "power": 2.2})


def test_cells_without_an_evaluation_are_counted_and_not_compared(tmp_path):
    write(tmp_path)
    for file in tmp_path.rglob("eval-*lr0.001*.h5"):
        file.unlink()
    (panel,) = panels(load_cells([tmp_path]))
    table = choice_table([panel]).set_index("choice")
    assert table.loc["lr 0.001", "cells"] == 3 and table.loc["lr 0.001", "seeds"] == 0
    assert math.isnan(table.loc["lr 0.001", "steerability"])
    assert difference_table([panel]).set_index(["choice", "measure"]).loc[("lr 0.001", "steerability"), "seeds"] == 0


def test_what_is_left_out_is_named_with_its_reason(tmp_path, capsys, monkeypatch):
    """A cell that never ran, one without an evaluation, one of a second sweep, data without any, a run by itself."""
    monkeypatch.setattr(tradeoff_command, "write_tradeoff_figures", lambda *_: [])
    cells = [CellSpec(15, seed, lr=lr, epochs=1) for lr in (0.0005, 0.001) for seed in (1, 2)]
    lost, plain = cells[1], cells[2]
    sweep = SyntheticSweep(cells, missing=frozenset({1})).write(tmp_path / "sweep")
    for cell in (cells[0], cells[3]):
        write_evaluation(sweep, cell)
    again = SyntheticSweep([cells[0]]).write(tmp_path / "again")
    other = CellSpec(15, 1, data="power", epochs=1)
    SyntheticSweep([other]).write(tmp_path / "other")
    lone = tmp_path / "lone.h5"
    lone.write_bytes((sweep / f"{plain.name}.h5").read_bytes())
    SyntheticSweep([CellSpec(5, 1)]).collect(tmp_path / "all.h5")
    (panel, _) = panels(load_cells([tmp_path]))
    assert [choice.label for choice in panel.choices] == ["base", "lr 0.001"], "what never ran is no choice of its own"
    assert panel.choices[0].seeds == [1, 2]
    assert main(["tradeoffs", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "4 cells, 2 evaluated, 2 choices" in printed.out and printed.out.endswith(", 6 left out\n")
    page = (tmp_path / "out" / "tradeoffs.md").read_text()
    for reason, names in (("cells without a run file (missing)", [lost.name]),
                          ("cells whose vectors no evaluation among the paths is of", [plain.name]),
                          ("cells with the settings and the seed of another one, which is compared",
                           [f"{cells[0].name} of again"]),
                          ("cells of smollm2, power, of which none was evaluated", [other.name]),
                          ("run files outside of a sweep", [str(lone)]),
                          ("collected sweeps within a folder", [str(tmp_path / "all.h5")])):
        for text, start in ((printed.err, "left out, "), (page, "- Left out, ")):
            (line,) = [line for line in text.splitlines() if f"{start}{reason}" in line]
            assert all(name in line for name in names), line
    assert again.is_dir() and printed.err.count("bipo_analysis: warning: ") == 6


def test_only_a_few_names_stand_on_a_line():
    omitted = [LeftOut(f"cell{index}", "cells") for index in range(5)]
    assert left_out_words(omitted, 2) == ["left out, cells: cell0, cell1 and 3 more"]
    assert left_out_words(omitted) == ["left out, cells: cell0, cell1, cell2, cell3, cell4"]


@pytest.mark.parametrize(("setting", "value", "usual"), [("intervention", "null", "add"),
                                                         ("gate", "/runs/harm.h5:0.5", "none")])
def test_vectors_that_act_in_different_ways_are_not_compared(tmp_path, setting, value, usual):
    write(tmp_path, only=(0.0005, 0.001))
    with h5py.File(next(tmp_path.rglob("eval-*lr0.001*.h5")), "r+") as file:
        file.attrs["config"] = json.dumps({**json.loads(file.attrs["config"]), setting: value})
    with pytest.raises(AnalysisError, match=f"--{setting}") as refused:
        panels(load_cells([tmp_path]))
    assert value in str(refused.value) and usual in str(refused.value)


def test_collected_sweeps_serve_as_directories_do(tmp_path):
    cells = [CellSpec(15, seed, lr=lr, epochs=1) for lr in RATES for seed in SEEDS]
    evaluations = tmp_path / "evaluations"
    evaluations.mkdir()
    for cell in cells:
        write_evaluation(evaluations, cell, vector_file=f"/elsewhere/{cell.name}.h5")
    collected = SyntheticSweep(cells).collect(tmp_path / "all.h5")
    (panel,) = panels(load_cells([collected, evaluations]))
    assert choice_table([panel]).set_index("choice")["steerability"].to_dict() == pytest.approx(
        {"base": 1.2, "lr 0.001": 1.8, "lr 0.0001": 1.19})


def test_evaluations_alone_are_choices_by_their_vectors(tmp_path):
    for name, value in (("caa", 0.6), ("trained", 1.2)):
        SyntheticEvaluation(slopes={"vector": value}, vector_file=f"runs/{name}.h5", test="data/warmth/test.csv").write(
            tmp_path / f"{name}-eval.h5")
    (panel,) = panels(load_cells([tmp_path]))
    assert panel.data == "warmth" and [cell.name for choice in panel.choices for cell in choice.cells] == ["caa",
                                                                                                          "trained"]
    row = difference_table([panel]).set_index("measure").loc["steerability"]
    assert row["difference"] == pytest.approx(0.6) and row["seeds"] == 1
    text = tradeoff_markdown([panel], choice_table([panel]), difference_table([panel]), 1.0)
    assert "as far as one seed tells" in text


def test_evaluations_of_joint_runs_belong_to_their_cells(tmp_path):
    """The evaluation's settings have an entry for each layer."""
    cells = [CellSpec(15, 1, epochs=1), CellSpec(15, 1, epochs=1, higher_layers=(20,))]
    sweep = SyntheticSweep(cells).write(tmp_path / "sweep")
    for cell in cells:
        path = write_evaluation(sweep, cell)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["config"])
        config["vectors"] = [{**config["vectors"][0], "layer": layer} for layer in (15, 20)]
        file.attrs["config"] = json.dumps(config)
    (panel,) = panels(load_cells([tmp_path]))
    assert [choice.label for choice in panel.choices] == ["base", "layer 15,20"]
    assert all(cell.evaluation is not None for choice in panel.choices for cell in choice.cells)


def test_sites_are_choices(tmp_path):
    """What follows from the site is none, and files of block outputs name neither."""
    cell = CellSpec(15, 1, epochs=1)
    for name in ("blocks", "mlps"):
        sweep = SyntheticSweep([cell]).write(tmp_path / name)
        if name == "mlps":
            make_mlps(sweep)
        write_evaluation(sweep, cell)
    (panel,) = panels(load_cells([tmp_path]))
    assert [choice.label for choice in panel.choices] == ["base", "site mlp"]
    assert all(cell.evaluation is not None for choice in panel.choices for cell in choice.cells)


def test_two_evaluations_of_a_cell_are_refused(folder, tmp_path):
    cell = CellSpec(15, 1, lr=0.0005, epochs=1)
    second = SyntheticEvaluation(vector_file=str(folder / "sweep-smollm2" / f"{cell.name}.h5")).write(
        tmp_path / "again.h5")
    with pytest.raises(AnalysisError, match="both evaluate"):
        load_cells([folder, second])


def test_other_held_out_pairs_are_refused(tmp_path):
    cells = [CellSpec(15, 1, lr=lr, epochs=1) for lr in (0.0005, 0.001)]
    sweep = SyntheticSweep(cells).write(tmp_path / "sweep")
    for cell in cells:
        write_evaluation(sweep, cell, test=f"data/{cell.lr}.csv")
    with pytest.raises(AnalysisError, match="different held-out pairs"):
        panels(load_cells([tmp_path]))


def test_names_that_fit_two_sweeps_are_refused(tmp_path):
    cell = CellSpec(15, 1, epochs=1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        SyntheticSweep([cell]).write(tmp_path / name / "sweep")
    lone = SyntheticEvaluation(vector_file=f"/gone/{cell.name}.h5").write(tmp_path / "eval.h5")
    with pytest.raises(AnalysisError, match="one at a time"):
        load_cells([tmp_path / "one", tmp_path / "two", lone])


def test_command_writes_tables_and_pictures(folder, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["tradeoffs", str(folder), "--out", str(out)]) == 0
    assert "9 cells, 9 evaluated, 3 choices" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    pictures = {f"tradeoffs-{price}.{kind}" for price in ("kl", "perplexity", "repetition", "text_perplexity")
                for kind in ("png", "svg")}
    assert names == {"cells.csv", "choices.csv", "differences.csv", "tradeoffs.md", *pictures}
    cells = pandas.read_csv(out / "cells.csv")
    assert len(cells) == 9
    one = cells[(cells["lr"] == 0.001) & (cells["seed"] == 3)].iloc[0]
    assert one["steerability"] == pytest.approx(1.82) and one["kl"] == pytest.approx(0.2)
    assert one["choice"] == "lr 0.001" and one["status"] == "complete" and one["pairs"] == PAIRS
    text = (out / "tradeoffs.md").read_text()
    # Without steering, propensity is -0.5 to 0.1, above 0 in one pair of seven: 5 of 40.
    assert "| unsteered |  |  |  | accuracy 12.5 % |" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "range of 3 seeds" in text and "3 seeds are few" in text and "Holm" in text
    assert "| lr 0.001 | steerability | +0.60 |" in text and "more, in every seed" in text


def test_command_refuses_what_it_cannot_use(folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, reason in (((folder, "--at", "0"), "--at must be a number above 0"),
                              ((folder, "--equal-kl", "nan"), "--equal-kl must be a number above 0"),
                              ((empty,), "holds no sweep and no evaluation"),
                              ((SyntheticSweep([CellSpec(15, 1)]).write(tmp_path / "alone"),),
                               "none of these cells was evaluated")):
        assert main(["tradeoffs", *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        assert reason in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_multipliers_that_nobody_measured_are_named(folder, capsys):
    found = panels(load_cells([folder]))
    assert unmeasured_words(found, 1.0) == unmeasured_words([], 3.0) == []
    (sentence,) = unmeasured_words(found, 3.0)
    assert sentence.startswith("no evaluation has +3 and −3") and "--at takes one of 1, 2" in sentence


def test_labels_hide_neither_each_other_nor_a_point():
    """Twelve points, some of them on top of each other."""
    generator = numpy.random.default_rng(4)
    positions = [*generator.uniform(0, 1, size=(8, 2)).tolist(), *[[0.5 + 0.01 * index, 0.5] for index in range(4)]]
    figure = Figure(figsize=(6, 5), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positions = [(3 + 0.1 * x, 50 * y) for x, y in positions]
    axes.scatter(*zip(*positions, strict=True))
    axes.margins(0.2)
    notes = place_labels(axes, positions, [f"choice {index},\nrate {index}" for index in range(12)], ["black"] * 12)
    boxes = [note.get_window_extent(canvas.get_renderer()) for note in notes]
    frame = axes.get_window_extent()
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1:])
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(box.contains(*pixel) for pixel in axes.transData.transform(positions))


def test_price_of_an_absent_measure_is_unknown(tmp_path):
    file = SyntheticEvaluation(absent=frozenset({"costs"})).write(tmp_path / "eval.h5")
    (panel,) = panels(load_cells([file]))
    evaluation = panel.choices[0].cells[0].evaluation
    assert all(map(math.isnan, price_of(evaluation, "kl", 1.0)))
    assert math.isnan(multiplier_at_kl(evaluation, 1, Settings(1.0, 0.1, (-1.0, 0.0, 1.0))))


def test_a_run_with_an_evaluation_without_costs_has_tables_alone(tmp_path, capsys):
    cell = CellSpec(15, 1, epochs=1)
    run = SyntheticSweep([cell]).write(tmp_path / "sweep") / f"{cell.name}.h5"
    file = SyntheticEvaluation(vector_file=str(run), absent=frozenset({"costs"})).write(tmp_path / "eval.h5")
    assert main(["tradeoffs", str(run), str(file), "--out", str(tmp_path / "out")]) == 0
    assert "1 cell, 1 evaluated, 1 choice, 0 pictures" in capsys.readouterr().out
    assert "1.20" in (tmp_path / "out" / "tradeoffs.md").read_text()
