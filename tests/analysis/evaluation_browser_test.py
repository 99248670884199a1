"""The report on evaluations as a browser shows it: no errors, no network, nothing cut off, every plot drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_checks import plot_names, problems
from synthetic_evaluation import SyntheticEvaluation

from bipo_analysis import load_evaluation, write_evaluation_report
from bipo_analysis.evaluation import COLUMNS

PHONE, DESK = 400, 1400
PAPER = 680  # A4 between margins of 15 mm, at 96 pixels to the inch
HELD_OUT = frozenset(COLUMNS) - {"curve", "steerability", "samples"}


def write_page(folder: Path, *evaluations: SyntheticEvaluation) -> Path:
    paths = [evaluation.write(folder / f"eval{index}.h5") for index, evaluation in enumerate(evaluations)]
    write_evaluation_report([load_evaluation(path) for path in paths], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Numbers as wide as those of long answers."""
    return write_page(tmp_path_factory.mktemp("one"), SyntheticEvaluation(
        slopes={"vector": 61.2, "caa": 30.6, "random": 0.05}, spread=20.0))


@pytest.fixture(scope="module")
def transfer_page(tmp_path_factory) -> Path:
    """A long model name, and warnings."""
    return write_page(tmp_path_factory.mktemp("many"), SyntheticEvaluation(absent=HELD_OUT), SyntheticEvaluation(
        model="model-" + "x" * 80, slopes={"vector": 0.7}, absent=HELD_OUT))


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_report_has_no_problem(browser, page, width):
    assert problems(browser, page, width) == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_transfer_report_has_no_problem(browser, transfer_page, width):
    assert problems(browser, transfer_page, width) == []


def test_every_plot_of_a_transfer_is_there(browser, transfer_page):
    browser.open(transfer_page, DESK)
    own = ["Change of propensity by multiplier", "Change of accuracy by multiplier",
           "Change of propensity per token by multiplier", "Propensity by multiplier", "Accuracy by multiplier",
           "Slopes of single pairs"]
    assert plot_names(browser) == ["Steerability by model", "Propensity by model", "Accuracy by model", *own, *own]


def test_printed_reports_are_not_cut_off(browser, page, transfer_page):
    browser.show_as("print")
    try:
        assert problems(browser, page, PAPER) == []
        assert problems(browser, transfer_page, PAPER) == []
    finally:
        browser.show_as("screen")
