"""What the commands say of their progress: a bar, lines or nothing, on a terminal, under mpirun and in files."""

from __future__ import annotations

import re
import subprocess

import pytest

import program
from terminal import Terminal

STEPS = re.compile(r"^train (\d+)/12\b", re.MULTILINE)
COLOUR = "\x1b[3"


def on_a_terminal(arguments, ranks=None, **options) -> Terminal:
    command = [program.from_environment("BIPO_DIST"), *arguments]
    if ranks is not None:
        command = [program.from_environment("BIPO_MPIEXEC"), "-n", ranks, *command]
    options["environment"] = {**program.MPI_ENVIRONMENT, **options.get("environment", {})}
    return Terminal(command, **options)


def test_a_terminal_gets_one_line_that_is_redrawn(job):
    with on_a_terminal(job.arguments(), columns=70) as terminal:
        assert terminal.finish() == program.DONE, terminal.written
    shown = [line for line in terminal.screen() if line.startswith("train ")]
    assert len(shown) == 1 and shown[0].startswith("train 12/12  [=====") and len(shown[0]) < 70, shown
    assert terminal.written.count("train ") > 1, "redrawn"


@pytest.mark.parametrize("ranks", [1, 2])
def test_mpirun_forwards_a_bar_that_is_asked_for(job, ranks):
    """Standard error of its ranks is no terminal; the width is that of the terminal all the same."""
    with on_a_terminal(job.arguments("--progress", "bar"), ranks, columns=66) as terminal:
        assert terminal.finish() == program.DONE, terminal.written
    shown = [line for line in terminal.screen() if line.startswith("train ")]
    assert len(shown) == 1 and shown[0].startswith("train 12/12  [====="), terminal.screen()
    assert 50 < len(shown[0]) < 66, shown


def test_mpirun_gets_lines_unless_told_otherwise(job):
    with on_a_terminal(job.arguments(), 1) as terminal:
        assert terminal.finish() == program.DONE, terminal.written
    assert len([line for line in terminal.screen() if STEPS.match(line)]) >= 2, terminal.screen()


def test_lines_fit_eighty_columns(job):
    finished = program.run_successfully(job.arguments("--progress", "lines"))
    lines = finished.stderr.splitlines()
    table_end = next(i for i, line in enumerate(lines) if line.startswith("prefix and reference"))
    assert STEPS.search(finished.stderr) and all(len(line) <= 80 for line in lines[table_end:]), finished
    assert any(re.fullmatch(r"held-out after epoch 2:(  [+-]\d+v \d+\.\d% [+-]\d+\.\d{3}){3}", line) for line in lines), finished


def test_none_leaves_table_and_evaluations(job):
    finished = program.run_successfully(job.arguments("--progress", "none"))
    assert "warmup-steps" in finished.stderr and "held-out after epoch 2:" in finished.stderr, finished
    assert not re.search(r"^(train|prefix and reference).* \d+/\d+", finished.stderr, re.MULTILINE), finished


def test_quiet_leaves_results_warnings_and_errors(job):
    loud = program.run_successfully(job.arguments())
    quiet = job.but(quiet=True, overwrite=True)
    finished = program.run_successfully(quiet.arguments())
    assert finished.stderr == "" and finished.stdout == loud.stdout, finished
    warned = program.run_successfully(quiet.but(warmup_steps=500).arguments())
    assert warned.stderr.startswith("warning: ") and len(warned.stderr.splitlines()) == 1, warned
    refused = program.run(quiet.but(train="absent.csv").arguments())
    assert refused.code == program.BAD_INPUT and "absent.csv" in refused.stderr, refused


def test_other_commands_are_quiet_too(job, tiny_test_pairs):
    program.run_successfully(job.arguments("--quiet"))
    common = {"model": job.settings["model"], "threads": 1, "quiet": True}
    vector = {**common, "vector": job.out, "multipliers": "-1,0,1"}
    for command in (
            ["extract", *program.options({**common, "train": job.settings["train"], "layer": 1, "out": job.folder / "caa.h5"})],
            ["generate", *program.options({**vector, "prompt": "a", "max_new_tokens": 3, "out": job.folder / "g.jsonl"})],
            ["evaluate", *program.options({**vector, "test": tiny_test_pairs, "out": job.folder / "eval.h5"})]):
        finished = program.run_successfully(command)
        assert all(line.startswith("warning: ") for line in finished.stderr.splitlines()), finished
        assert finished.stdout, finished


def test_evaluate_shows_how_much_is_left(job, tiny_test_pairs):
    program.run_successfully(job.arguments("--quiet"))
    evaluation = {"model": job.settings["model"], "threads": 1, "vector": job.out, "multipliers": "-1,0,1",
                  "test": tiny_test_pairs, "batch_size": 1}
    finished = program.run_successfully(["evaluate", *program.options({**evaluation, "out": job.folder / "lines.h5"})])
    assert "evaluate 0%, held-out pairs" in finished.stderr and "evaluate 100%, held-out pairs" in finished.stderr, finished
    with on_a_terminal(["evaluate", *program.options({**evaluation, "out": job.folder / "bar.h5"})]) as terminal:
        assert terminal.finish() == program.DONE, terminal.written
    assert "evaluate  [====================] 100%  held-out pairs" in terminal.screen(), terminal.screen()


@pytest.mark.parametrize("environment, expected", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals(job, environment, expected):
    for arguments, code in ((job.but(warmup_steps=500).arguments("--overwrite"), program.DONE),
                            (job.but(train="absent.csv").arguments(), program.BAD_INPUT)):
        with on_a_terminal(arguments, environment=environment) as terminal:
            assert terminal.finish() == code, terminal.written
        assert (COLOUR in terminal.written) == expected, terminal.written
        assert COLOUR not in program.run(arguments).stderr


def test_an_unknown_style_is_named(job):
    finished = program.run(job.arguments("--progress", "dots"))
    assert finished.code == program.BAD_INPUT and "auto, bar, lines" in finished.stderr, finished


def test_standard_output_stays_free_of_both(job):
    with on_a_terminal(job.arguments(), stdout=subprocess.PIPE) as terminal:
        assert terminal.finish() == program.DONE, terminal.written
        printed = terminal.process.stdout.read().decode()
    assert "run file: " in printed and "\x1b" not in printed and "\r" not in printed, printed
