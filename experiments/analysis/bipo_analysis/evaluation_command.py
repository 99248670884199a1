"""The command `evaluation`: a report on evaluation files, and their tables as CSV."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .evaluation import COLUMNS, Evaluation, combined_table, labels, load_evaluation
from .evaluation_report import write_evaluation_report
from .held_out_findings import control_warnings
from .wording import counted


def add_evaluation_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    command = commands.add_parser("evaluation", help="one self-contained HTML page about evaluations of a vector")
    command.add_argument("files", type=Path, nargs="+", metavar="FILE",
                         help="a file of `bipo-dist evaluate`; several are shown side by side, as of a transfer")
    command.add_argument("--out", type=Path, default=Path("report.html"), help="file to write (default: %(default)s)")
    command.add_argument("--csv", type=Path, metavar="DIR", help="also writes each table to DIR/TABLE.csv")


def run_evaluation_command(options: argparse.Namespace) -> tuple[str, list[str]]:
    """Writes what was asked for; returns the line to print and the warnings.

    Raises AnalysisError for bad input, OSError where a file cannot be written.
    """
    evaluations = [load_evaluation(path) for path in options.files]
    if options.csv is not None:
        write_tables(evaluations, options.csv)
    write_evaluation_report(evaluations, options.out)
    named = zip(labels(evaluations), evaluations, strict=True)
    warnings = [f"{label}: {sentence}" for label, evaluation in named for sentence in control_warnings(evaluation)]
    return f"{options.out}: {counted(len(evaluations), 'evaluation')}, {counted(len(warnings), 'warning')}", warnings


def write_tables(evaluations: Sequence[Evaluation], directory: Path) -> None:
    """Writes one CSV file per table, the rows of all evaluations under their labels."""
    directory.mkdir(parents=True, exist_ok=True)
    for table in COLUMNS:
        combined_table(list(evaluations), table).to_csv(directory / f"{table}.csv", index=False)
