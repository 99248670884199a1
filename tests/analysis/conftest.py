"""Lets these tests import the package where it lies, and tells CTest of a file of which nothing could run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser
from synthetic_sweep import SyntheticSweep, grid

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "analysis"))

NOT_RUN = 77  # SKIP_RETURN_CODE in CMakeLists.txt


def pytest_configure() -> None:
    # Looking for cycles among the plots' objects takes a tenth of the time of a page.
    gc.set_threshold(50_000)


def pytest_sessionfinish(session: pytest.Session) -> None:
    skipped = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    if session.exitstatus == pytest.ExitCode.OK and len(skipped) == session.testscollected:
        session.exitstatus = NOT_RUN


@pytest.fixture(scope="session")
def half_dead() -> SyntheticSweep:
    """Ten cells: two failed, one before its first save; of the last layer one stopped and one never began."""
    return SyntheticSweep(grid(), steps={2: 12, 8: 25}, failures={0: "loss is <nan> at step 0", 2: "bad row"},
                          missing=frozenset({9}))


def blank_plot(*_: object, **__: object) -> str:
    return "<svg/>"


def blank_tradeoff(evaluation, effect: str, price: str) -> str | None:
    """None where there is nothing to draw, because a page without any of these plots has no such part."""
    from bipo_analysis.pareto import tradeoffs

    return blank_plot() if (tradeoffs(evaluation, effect, price)["multiplier"] != 0).any() else None


@pytest.fixture
def undrawn(monkeypatch) -> Callable[..., None]:
    """Puts a blank in the place of the plots, which are most of a page's time, where a test looks at texts alone.

    The names given are plots that are drawn all the same.
    """
    from bipo_analysis import evaluation_figures, figures

    def leave_out(*but: str) -> None:
        for module in (evaluation_figures, figures):
            for name in dir(module):
                if name.endswith("_figure") and name not in ("new_figure", "plain_figure", *but):
                    monkeypatch.setattr(module, name, blank_plot)
        if "pareto_figure" not in but:
            monkeypatch.setattr(evaluation_figures, "pareto_figure", blank_tradeoff)

    return leave_out


# Of plots that differ in the measure alone, those that a page has where a test needs one of each kind.
ONE_OF_A_KIND = {"pareto_figure": [("accuracy", "kl_neutral"), ("propensity", "perplexity_reference_text")],
                 "cost_figure": [("perplexity_reference_text",), ("distinct_2",)],
                 "choice_figure": [("ab", "accuracy"), ("ab", "probability")]}


@pytest.fixture
def one_of_a_kind(monkeypatch) -> None:
    """Draws those plots of an evaluation that differ from all others in more than the measure."""
    from bipo_analysis import evaluation_figures

    for name, drawn in ONE_OF_A_KIND.items():
        draw, blank = getattr(evaluation_figures, name), blank_tradeoff if name == "pareto_figure" else blank_plot
        monkeypatch.setattr(evaluation_figures, name, lambda rows, *what, draw=draw, blank=blank, drawn=drawn: (
            draw if what[:len(drawn[0])] in drawn else blank)(rows, *what))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("not run: there is no Chromium (Debian package chromium)")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser
