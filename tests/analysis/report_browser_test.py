"""The report as a browser shows it: no errors, no network, nothing cut off, every plot drawn, on screen and paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_checks import plot_names, problems
from synthetic_sweep import SyntheticSweep, grid

from bipo_analysis import load_sweep, write_report

PHONE, DESK = 400, 1400
PAPER = 680  # A4 between margins of 15 mm, at 96 pixels to the inch


def write_page(sweep: SyntheticSweep, folder: Path) -> Path:
    page = folder / "report.html"
    write_report(load_sweep(sweep.write(folder / "warmth")), page)
    return page


@pytest.fixture(scope="module")
def page(half_dead, tmp_path_factory) -> Path:
    return write_page(half_dead, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_report_has_no_problem(browser, page, width):
    assert problems(browser, page, width) == []


def test_every_plot_is_there(browser, page):
    browser.open(page, DESK)
    assert plot_names(browser) == [
        "Held-out accuracy by layer", "Held-out margin by layer", "Training loss by step",
        "Norm of the vector by step", "Held-out margin by epoch", "Cosines between the trained vectors",
        "Distance to the last vector by epoch", "Training time by layer", "Tokens per second by layer"]


DEGENERATE = {
    "nothing begun": SyntheticSweep(grid((5, 15), (1,)), missing=frozenset({0, 1})),
    "no evaluation": SyntheticSweep(grid((5, 15), (1,)), evaluates=False),
    "one cell": SyntheticSweep(grid((15,), (1,))),
    "a model with a long name": SyntheticSweep(grid((5,), (1,), model=("smollm2", "model-" + "x" * 80))),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_sweeps_have_no_problem_on_a_phone(browser, tmp_path, name):
    assert problems(browser, write_page(DEGENERATE[name], tmp_path), PHONE) == []


def test_printed_report_is_not_cut_off(browser, page):
    browser.show_as("print")
    try:
        assert problems(browser, page, PAPER) == []
    finally:
        browser.show_as("screen")


def test_printed_report_has_its_pages(browser, page):
    browser.open(page, DESK)
    document = browser.printed()
    assert document.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", document)) <= 12


# Each damage to a good page, and what the check must say of it.
DAMAGES = {
    "exception": ("<header>", "<script>null.x</script><header>", "console: .*TypeError"),
    "console error": ("<header>", "<script>console.error('broken')</script><header>", "console: broken"),
    "network": ("<header>", '<img src="http://127.0.0.1:9/x.png" alt=""><header>', "request: http://127.0.0.1:9/x.png"),
    "overflow": ("<header>", '<div style="width: 3000px">wide</div><header>', "overflow: DIV"),
    "no image": ("image/svg+xml;base64,", "image/svg+xml;base64,!!!!", "plot Held-out accuracy by layer: cannot"),
    "blank plot": ("figure img {", "figure img { filter: opacity(0);", "plot Cosines between the trained vectors"),
    "grey plot": ("figure img {", "figure img { filter: grayscale(1);", "no colour"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_page_is_found(browser, page, tmp_path, name):
    before, after, expected = DAMAGES[name]
    text = page.read_text()
    assert before in text
    damaged = tmp_path / "damaged.html"
    damaged.write_text(text.replace(before, after, 1))
    found = problems(browser, damaged, DESK)
    assert any(re.match(f".*{expected}", problem, re.DOTALL) for problem in found), found
