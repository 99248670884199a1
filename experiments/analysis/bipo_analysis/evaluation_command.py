"""The command `evaluation`: a report on evaluation files, and their tables as CSV."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from .answers import load_answers
from .choice import HALVES
from .errors import AnalysisError
from .evaluation import COLUMNS, Evaluation, load_evaluation
from .evaluation_report import Extras, write_evaluation_report
from .held_out_findings import control_warnings
from .names import combined_table, labels
from .wording import counted


def add_evaluation_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    command = commands.add_parser("evaluation", help="one self-contained HTML page about evaluations of a vector")
    command.add_argument("paths", type=Path, nargs="+", metavar="FILE",
                         help="a file of `bipo-dist evaluate`; several are shown side by side, as of a transfer")
    add_page_options(command)


def add_page_options(command: argparse.ArgumentParser) -> None:
    """Declares what a page is written to and what it shows beside its files."""
    command.add_argument("--out", type=Path, default=Path("report.html"), help="file to write (default: %(default)s)")
    command.add_argument("--generations", type=Path, action="append", default=[], metavar="FILE",
                         help="answers of `bipo-dist generate`, of which three stand beside the curves")
    command.add_argument("--choose-on", choices=list(HALVES), default="",
                         help="choose multipliers on the pairs at even or odd places and report them on the others")
    command.add_argument("--max-kl", type=float, default=math.inf, metavar="NATS",
                         help="with --choose-on: largest KL on neutral prompts of a chosen multiplier")
    command.add_argument("--csv", type=Path, metavar="DIR", help="also writes each table to DIR/TABLE.csv")


def run_evaluation_command(options: argparse.Namespace) -> tuple[str, list[str]]:
    """Writes what was asked for; returns the line to print and the warnings.

    Raises AnalysisError for bad input, OSError where a file cannot be written.
    """
    evaluations = [load_evaluation(path) for path in options.paths]
    chooses = options.choose_on or any(len(evaluation.choosing_pairs) for evaluation in evaluations)
    if math.isfinite(options.max_kl) and not chooses:
        raise AnalysisError("--max-kl limits the multipliers that --choose-on chooses from; give that, too")
    extras = Extras([load_answers(path) for path in options.generations], options.choose_on, options.max_kl)
    if options.csv is not None:
        write_tables(evaluations, options.csv)
    write_evaluation_report(evaluations, options.out, extras)
    named = zip(labels(evaluations), evaluations, strict=True)
    warnings = [f"{label}: {sentence}" for label, evaluation in named for sentence in control_warnings(evaluation)]
    return f"{options.out}: {counted(len(evaluations), 'evaluation')}, {counted(len(warnings), 'warning')}", warnings


def write_tables(evaluations: Sequence[Evaluation], directory: Path) -> None:
    """Writes one CSV file per table, the rows of all evaluations under their labels."""
    directory.mkdir(parents=True, exist_ok=True)
    for table in COLUMNS:
        combined_table(list(evaluations), table).to_csv(directory / f"{table}.csv", index=False)
