"""Lets these tests import the package where it lies, and tells CTest of a file of which nothing could run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser
from synthetic_sweep import SyntheticSweep, grid

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "analysis"))

NOT_RUN = 77  # SKIP_RETURN_CODE in CMakeLists.txt


def pytest_sessionfinish(session: pytest.Session) -> None:
    skipped = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    if session.exitstatus == pytest.ExitCode.OK and len(skipped) == session.testscollected:
        session.exitstatus = NOT_RUN


@pytest.fixture(scope="session")
def half_dead() -> SyntheticSweep:
    """Ten cells: two failed, one before its first save; of the last layer one stopped and one never began."""
    return SyntheticSweep(grid(), steps={2: 12, 8: 25}, failures={0: "loss is <nan> at step 0", 2: "bad row"},
                          missing=frozenset({9}))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("not run: there is no Chromium (Debian package chromium)")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser
