"""The commands that launcher/quickstart.sh prints at its end work when pasted into a shell of the machine."""

from __future__ import annotations

import re
import shutil

import pytest

NEXT_STEPS = "To look at it:\n"


@pytest.fixture
def checkout(make_checkout):
    """On a machine whose own Python has neither h5py nor pandas; blanks are in all paths."""
    checkout = make_checkout("a check out")
    for name in ("python", "python3"):
        path = checkout.folder / "tools" / name
        path.write_text("#!/bin/sh\necho 'No module named h5py' >&2\nexit 1\n", encoding="utf-8")
        path.chmod(0o755)
    return checkout


def printed_commands(output: str) -> list[str]:
    _, found, steps = output.partition(NEXT_STEPS)
    assert found, output
    return [line.strip() for line in steps.splitlines() if line.strip()]


def test_all_of_them_where_the_full_environment_is(checkout):
    inspect, pandas = printed_commands(checkout.bash("launcher/quickstart.sh --ranks 1"))
    assert inspect == "build/bipo-dist inspect runs/quickstart-001.h5"
    assert re.search(r"status +complete", checkout.bash(inspect))
    header, *rows = checkout.bash(pandas).splitlines()
    assert {"epoch", "multiplier", "accuracy", "rejected_logp"} <= set(header.split())
    assert len(rows) == 9  # three epochs at three multipliers


def test_the_report_of_the_run_is_named_and_shows_it(checkout):
    output = checkout.bash("launcher/quickstart.sh --ranks 1")
    assert "The report is runs/quickstart-001.html." in output
    page = (checkout.folder / "runs" / "quickstart-001.html").read_text(encoding="utf-8")
    assert "<h1>quickstart-001</h1>" in page and "Does it steer?" in page


@pytest.mark.parametrize("missing", ["full", "report"])
def test_one_of_the_environments_with_pandas_is_enough(checkout, missing):
    shutil.rmtree(checkout.cache / f"venv-{missing}")
    output = checkout.bash("launcher/quickstart.sh --ranks 1")
    assert "The report is runs/quickstart-001.html." in output and "installing" not in output
    assert len(printed_commands(output)) == 2


@pytest.mark.parametrize("is_cut_short", [False, True])
def test_inspect_alone_where_there_is_no_pandas(checkout, is_cut_short):
    """And none can be installed: pip is not to look for packages anywhere."""
    for name in ("full", "report"):
        if is_cut_short:
            (checkout.cache / f"venv-{name}" / "installing").touch()
        else:
            shutil.rmtree(checkout.cache / f"venv-{name}")
    output = checkout.bash("PIP_NO_INDEX=1 launcher/quickstart.sh --ranks 1")
    assert "no report: its Python packages could not be installed" in output
    assert not list((checkout.folder / "runs").glob("*.html"))
    [inspect] = printed_commands(output)
    assert re.search(r"status +complete", checkout.bash(inspect))


def test_from_another_folder(checkout, tmp_path):
    output = checkout.run(["bash", checkout.folder / "launcher" / "quickstart.sh", "--ranks", "1"], within=tmp_path)
    commands = printed_commands(output)
    assert len(commands) == 2
    for command in commands:
        checkout.bash(command, within=tmp_path)
