"""The report as text: self-contained, escaped, whole for degenerate sweeps; and the command line."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import h5py
import pandas
import pytest
from page_reader import PACKAGE_FOLDER, Reader, run_command
from synthetic_sweep import CellSpec, SyntheticSweep, grid

from bipo_analysis import compare_layers, layer_curve, load_sweep, report_html, write_report
from bipo_analysis.__main__ import main
from bipo_analysis.page import with_code
from bipo_analysis.report import training_seconds


def read(sweep: SyntheticSweep, folder: Path) -> Reader:
    return Reader(report_html(load_sweep(sweep.write(folder / "warmth"))))


@pytest.fixture(scope="module")
def half_dead_page(half_dead, tmp_path_factory) -> Reader:
    return read(half_dead, tmp_path_factory.mktemp("page"))


def test_page_needs_nothing_but_itself(half_dead_page):
    page = half_dead_page
    addresses = [value or "" for _, attributes in page.tags for name, value in attributes.items()
                 if name in ("src", "href", "srcset", "data", "action")]
    assert addresses and all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed"}
    style = (PACKAGE_FOLDER / "bipo_analysis" / "style.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_plots_are_whole_drawings(half_dead_page):
    images = half_dead_page.images()
    assert len(images) == 9
    for image in images:
        drawing = ElementTree.fromstring(base64.b64decode(image.partition(",")[2]))
        assert drawing.tag.endswith("svg")
        links = [value for part in drawing.iter() for name, value in part.attrib.items() if name.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)


def test_key_figures_and_reasons(half_dead_page):
    text = half_dead_page.text
    assert "10 cells: layer 5, 10, 15, 20, 25 × seed 1, 2; model smollm2, data warmth" in text
    assert "6 of 10" in text and "1 interrupted, 2 failed, 1 missing" in text
    assert "loss is <nan> at step 0" in text and "bad row" in text
    assert "12 of 30" in text and "25 of 30" in text
    # A step takes 1.5 - 0.05 layer seconds; one cell of layers 5 and 10 and both of 15 and 20 made all 30 steps.
    total = 30 * (1.25 + 1.0 + 2 * 0.75 + 2 * 0.5) + 12 * 1.0 + 25 * 0.25
    assert f"{total / 60:.0f} min" in text
    assert "lr unit" in text and "residual" in text and "Be brief." in text


def test_layers_that_train_jointly_are_no_single_layer(tmp_path, undrawn):
    """The formulas make layer 15 the best, which only the joint cells have, as their lowest."""
    undrawn("training_figure")
    joint = [CellSpec(15, seed, higher_layers=(20, 25)) for seed in (1, 2)]
    page = read(SyntheticSweep([*grid(layers=(5, 10)), *joint]), tmp_path)
    assert "6 cells: layer 5, 10, 15+20+25 jointly × seed 1, 2; model smollm2" in page.text
    assert "none, 15+20+25" not in page.text and "joint layers none" not in page.text
    assert "Layers 15+20+25 together steer: with +v" in page.text and "Layer 15" not in page.text
    assert "Best layers, jointly" in page.text and "This is layers 15+20+25 jointly, the one of 2 comb" in page.text
    drawings = [base64.b64decode(image.partition(",")[2]).decode() for image in page.images()]
    assert any("layer 15+20+25" in drawing for drawing in drawings)
    table = load_sweep(tmp_path / "warmth").summary
    assert layer_curve(table)["layer"].tolist() == [5, 10]
    assert compare_layers(table, 10, 5).seeds == 2
    assert "15+20+25" in page.texts and "joint layers" not in page.texts, "the tables' column of layers has both"
    alone = tmp_path / "alone"
    alone.mkdir()
    text = read(SyntheticSweep(joint), alone).text
    assert "2 cells: seed 1, 2; model smollm2, data warmth, layers 15+20+25 jointly" in text and "layer 15," not in text


def test_a_layer_by_itself_beside_joint_ones(tmp_path, undrawn):
    """15 and 15+20 have a lowest layer in common, and no layer that all cells steer."""
    undrawn("swing_figure")
    cells = [CellSpec(15, 1), CellSpec(15, 1, lr=0.0001, higher_layers=(20,))]
    page = read(SyntheticSweep(cells), tmp_path)
    assert "layer 15, 15+20 jointly" in page.text
    assert "Layers are compared at lr 0.0005, each trained by itself, the one of 2 combinations" in page.text
    start = page.texts.index("Shared by all cells.")
    shared = page.texts[start:page.texts.index("All cells")]
    assert "layer" not in shared and "joint layers" not in shared and shared[shared.index("site") + 1] == "block"
    assert any("single layers" in base64.b64decode(image.partition(",")[2]).decode() for image in page.images())


def test_code_is_marked_up(half_dead_page, tmp_path, undrawn):
    """What sentences have between backquotes; a backquote of a file's text stays what it is."""
    undrawn()
    page = read(SyntheticSweep([CellSpec(5, 2, lr=1e-5), CellSpec(10, 2, lr=1e-5)], failures={1: "a ` by itself"}),
                tmp_path)
    assert "`" not in half_dead_page.text and page.text.count("`") == 1 and "a ` by itself" in page.text
    assert ("code", {}) in page.tags and "bipo-dist evaluate" in page.texts
    assert with_code("`a<b` and `c`") == "<code>a&lt;b</code> and <code>c</code>"


def test_text_of_the_sweep_is_escaped(tmp_path):
    hostile = '<script>alert("1")</script>&amp;'
    sweep = SyntheticSweep([CellSpec(5, 1, data=hostile), CellSpec(10, 1, data=hostile)], failures={0: hostile})
    path = sweep.collect(tmp_path / "<b>sweep.h5")
    page = Reader(report_html(load_sweep(path)))
    assert page.text.count(hostile) >= 2
    assert not any(tag in ("script", "b") for tag, _ in page.tags)


DEGENERATE = {
    "no cells": SyntheticSweep([]),
    "nothing begun": SyntheticSweep(grid((5, 15), (1,)), missing=frozenset({0, 1})),
    "everything failed": SyntheticSweep(grid((5, 15), (1,)), failures={0: "loss is nan", 1: "loss is nan"}),
    "one cell": SyntheticSweep(grid((15,), (1,))),
    "one layer": SyntheticSweep(grid((15,), (1, 2, 3))),
    "one seed": SyntheticSweep(grid(seeds=(7,))),
    "no evaluation": SyntheticSweep(grid((5, 15), (1,)), evaluates=False),
    "one step": SyntheticSweep(grid((5, 15), (1,)), steps={0: 1, 1: 1}),
    "one epoch": SyntheticSweep(grid((5, 15), (1, 2), epochs=(1,))),
    "two data sets": SyntheticSweep(grid((5, 15), (1,), data=("x", "y"))),
    "hyper-parameters": SyntheticSweep(grid((5, 15), (1,), lr=(0.0001, 0.0005), sign=("batch", "both"))),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_sweeps_have_a_page(tmp_path, name):
    page = read(DEGENERATE[name], tmp_path)
    assert "nan" not in page.text.replace("loss is nan", "").lower().split()
    assert all(cell.name in page.text for cell in DEGENERATE[name].cells)


def test_zero_vectors_have_a_page(tmp_path):
    """As with a learning rate of 0: no direction to compare."""
    path = SyntheticSweep(grid((5, 15), (1,))).write(tmp_path / "sweep")
    for file_path in path.glob("*.h5"):
        with h5py.File(file_path, "r+") as file:
            file["vectors/value"][:] = 0
    assert "mean cosine" not in Reader(report_html(load_sweep(path))).text


def test_multipliers_without_one_have_a_page(tmp_path):
    path = SyntheticSweep(grid((5, 15), (1,))).write(tmp_path / "sweep")
    for file_path in path.glob("*.h5"):
        with h5py.File(file_path, "r+") as file:
            rows = file["evals"][:]
            rows["multiplier"] *= 2
            file["evals"][:] = rows
    assert "none has an evaluation at multipliers −1 and +1" in Reader(report_html(load_sweep(path))).text


def test_three_hundred_cells(tmp_path):
    sweep = SyntheticSweep(grid(tuple(range(30)), (1, 2, 3, 4, 5), lr=(0.0005, 0.0001), epochs=(2,)))
    assert len(sweep.cells) == 300
    page = report_html(load_sweep(sweep.write(tmp_path / "sweep")))
    assert Reader(page).text.count("Show all 300 cells") == 1
    assert len(page) < 4_000_000


def test_report_replaces_a_file_whole(half_dead, tmp_path, undrawn):
    undrawn()
    sweep = load_sweep(half_dead.write(tmp_path / "warmth"))
    out = tmp_path / "report.html"
    out.write_text("old")
    write_report(sweep, out)
    assert out.read_text().startswith("<!DOCTYPE html>") and out.read_text().endswith("</html>\n")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["report.html", "warmth"]


def test_time_of_cells_that_train_together_counts_once(tmp_path):
    path = SyntheticSweep(grid((5, 15), (1, 2))).write(tmp_path / "sweep")
    plan = json.loads((path / "plan.json").read_text())
    names = [cell["name"] for cell in plan["cells"]]
    plan["packs"] = [{"name": "five", "members": names[:2]}, *({"name": name, "members": [name]} for name in names[2:])]
    (path / "plan.json").write_text(json.dumps(plan))
    assert training_seconds(load_sweep(path)) == pytest.approx(30 * (1.25 + 2 * 0.75))


def test_command_report(tmp_path):
    sweep = SyntheticSweep(grid((5, 15), (1,)), steps={1: 12}).collect(tmp_path / "sweep.h5")
    finished = run_command("report", sweep, "--out", tmp_path / "page.html")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == f"{tmp_path}/page.html: 2 cells, 1 complete\n"
    assert Reader((tmp_path / "page.html").read_text()).text


def test_command_summary(half_dead, tmp_path, capsys):
    sweep = half_dead.write(tmp_path / "sweep")
    assert main(["summary", str(sweep)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 11
    assert main(["summary", "--csv", "--all", str(sweep)]) == 0
    (tmp_path / "table.csv").write_text(capsys.readouterr().out)
    table = pandas.read_csv(tmp_path / "table.csv")
    assert list(table["cell"]) == [cell.name for cell in half_dead.cells]
    assert list(table["status"]) == [half_dead.status(index) for index in range(10)]
    assert (table["lr_unit"] == "residual").all()


def test_command_names_bad_input(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nothing"), "--out", str(tmp_path / "page.html")]) == 2
    assert "nothing: no such file or directory" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_command_that_cannot_write(tmp_path):
    sweep = SyntheticSweep(grid((5,), (1,)), missing=frozenset({0})).write(tmp_path / "sweep")
    finished = run_command("report", sweep, "--out", tmp_path / "nowhere" / "page.html")
    assert finished.returncode == 1 and "cannot write" in finished.stderr and "Traceback" not in finished.stderr


def test_package_installs(tmp_path):
    """With its style sheet, by its project file; from a copy, because a build leaves folders in the source."""
    source = shutil.copytree(PACKAGE_FOLDER, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import setuptools; setuptools.setup()", "--quiet",
                    "build_py", "--build-lib", tmp_path / "site"], cwd=source, check=True)
    sweep = SyntheticSweep(grid((5,), (1,)), missing=frozenset({0})).write(tmp_path / "sweep")
    finished = run_command("report", sweep, "--out", tmp_path / "page.html", PYTHONPATH=str(tmp_path / "site"))
    assert finished.returncode == 0, finished.stderr
    assert "font-variant-numeric" in (tmp_path / "page.html").read_text()
