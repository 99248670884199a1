"""The command line: python -m bipo_analysis report|summary|evaluation|tradeoffs FILE|DIR..., tensorboard FILE|DIR."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from .answers import load_answers
from .errors import AnalysisError
from .evaluation_command import add_evaluation_command, add_page_options, run_evaluation_command
from .event_files import write_event_files
from .kinds import EVALUATION, RUN, kind_of
from .report import write_report
from .run import load_run
from .run_report import write_run_report
from .summary import COLUMNS
from .sweeps import load_sweeps
from .tradeoff_command import add_tradeoff_command, run_tradeoff_command
from .wording import counted

DONE, FAILED, BAD_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 2 for bad usage or input, or 1 where the result cannot be written."""
    options = _parser().parse_args(arguments)
    commands = {"report": _report, "summary": _summary, "tensorboard": _tensorboard, "evaluation": _evaluation,
                "tradeoffs": _tradeoffs}
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
    kinds = {kind_of(path) for path in options.paths}
    if kinds == {EVALUATION}:
        return _evaluation(options)
    if kinds == {RUN} and len(options.paths) == 1:
        run = load_run(options.paths[0])
        write_run_report(run, options.out, [load_answers(path) for path in options.generations])
        return f"{options.out}: a run of {counted(len(run.steps), 'step')}, {run.status}"
    if EVALUATION in kinds:
        raise AnalysisError("name evaluations, or runs and sweeps: "
                            + ", ".join(f"{path} is {kind_of(path)}" for path in options.paths))
    if options.generations or options.choose_on:
        raise AnalysisError("--generations and --choose-on belong to one run or to evaluations, not to a sweep")
    sweep = load_sweeps(options.paths)
    write_report(sweep, options.out)
    complete = int((sweep.summary["status"] == "complete").sum())
    return f"{options.out}: {counted(len(sweep.summary), 'cell')}, {complete} complete"


def _summary(options: argparse.Namespace) -> str:
    sweep = load_sweeps(options.paths)
    shown = [*COLUMNS, *(name for name in ("joint_layers", "origin") if name in sweep.summary)]
    table = sweep.summary if options.all else sweep.summary[shown]
    text = table.to_csv(index=False) if options.csv else table.to_string(index=False)
    return text.rstrip("\n")


def _evaluation(options: argparse.Namespace) -> str:
    return _warned(*run_evaluation_command(options))


def _tradeoffs(options: argparse.Namespace) -> str:
    return _warned(*run_tradeoff_command(options))


def _warned(line: str, warnings: Sequence[str]) -> str:
    """The line, after the warnings were printed."""
    for warning in warnings:
        print(f"bipo_analysis: warning: {warning}", file=sys.stderr)
    return line


def _tensorboard(options: argparse.Namespace) -> str:
    return write_event_files(options.path, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bipo_analysis", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="one self-contained HTML page about a run, sweeps or evaluations")
    add_page_options(report)
    summary = commands.add_parser("summary", help="the table of all cells")
    summary.add_argument("--csv", action="store_true", help="as CSV")
    summary.add_argument("--all", action="store_true", help="with the settings that all cells share")
    sweeps = ("run files and sweeps, each a directory or the file that `bipo-dist collect` made; several are read as "
              "one")
    report.add_argument("paths", type=Path, nargs="+", metavar="FILE|DIR", help=f"evaluations, or {sweeps}")
    summary.add_argument("paths", type=Path, nargs="+", metavar="SWEEP", help=sweeps)
    add_evaluation_command(commands)
    add_tradeoff_command(commands)
    events = commands.add_parser("tensorboard", help="event files for TensorBoard, by the package tensorboard")
    events.add_argument("path", type=Path, metavar="FILE|DIR", help="a run file or a sweep")
    events.add_argument("--out", type=Path, default=Path("events"), help="folder to write to (default: %(default)s)")
    return parser


if __name__ == "__main__":
    # Looking for cycles among the plots' objects takes a tenth of the time, and the process ends at once.
    gc.disable()
    sys.exit(main())
