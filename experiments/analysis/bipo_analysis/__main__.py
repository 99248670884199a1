"""The command line: python -m bipo_analysis report|summary SWEEP, or evaluation FILE..."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import AnalysisError
from .evaluation_command import add_evaluation_command, run_evaluation_command
from .report import write_report
from .summary import COLUMNS
from .sweep import load_sweep
from .wording import counted

DONE, FAILED, BAD_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 2 for bad usage or input, or 1 where the result cannot be written."""
    options = _parser().parse_args(arguments)
    commands = {"report": _report, "summary": _summary, "evaluation": _evaluation}
    try:
        print(commands[options.command](options))
    except AnalysisError as error:
        print(f"bipo_analysis: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"bipo_analysis: cannot write: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _report(options: argparse.Namespace) -> str:
    sweep = load_sweep(options.sweep)
    write_report(sweep, options.out)
    complete = int((sweep.summary["status"] == "complete").sum())
    return f"{options.out}: {counted(len(sweep.summary), 'cell')}, {complete} complete"


def _summary(options: argparse.Namespace) -> str:
    sweep = load_sweep(options.sweep)
    table = sweep.summary if options.all else sweep.summary[list(COLUMNS)]
    text = table.to_csv(index=False) if options.csv else table.to_string(index=False)
    return text.rstrip("\n")


def _evaluation(options: argparse.Namespace) -> str:
    line, warnings = run_evaluation_command(options)
    for warning in warnings:
        print(f"bipo_analysis: warning: {warning}", file=sys.stderr)
    return line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bipo_analysis", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="one self-contained HTML page about a sweep")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="file to write (default: %(default)s)")
    summary = commands.add_parser("summary", help="the table of all cells")
    summary.add_argument("--csv", action="store_true", help="as CSV")
    summary.add_argument("--all", action="store_true", help="with the settings that all cells share")
    for command in (report, summary):
        command.add_argument("sweep", type=Path, help="a sweep's directory, or the file that `bipo-dist collect` made")
    add_evaluation_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
