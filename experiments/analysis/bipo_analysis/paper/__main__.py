"""Experiments of the BiPO paper, each one command: python -m bipo_analysis.paper personas --models DIR --out DIR."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import AnalysisError
from .experiments import NAMES, LeftOut, Result, Study
from .report import Context, write_reports
from .steps import BAD_INPUT, DONE, FAILED, Runner, StepFailed

# The INI files and rubrics lie beside the package's folder in a checkout.
HOME = Path(__file__).resolve().parents[3] / "paper"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiments; returns 0, 2 for bad usage or input, 75 where it was interrupted, or 1."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (AnalysisError, LeftOut) as error:
        print(f"paper: {error}", file=sys.stderr)
        return BAD_INPUT
    except StepFailed as error:
        print(f"paper: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"paper: cannot write: {error}", file=sys.stderr)
        return FAILED


def _run(options: argparse.Namespace) -> int:
    runner = Runner(options.out, _program(options), options.launcher, options.dry_run)
    study = Study(options, runner, options.home)
    names = list(NAMES) if "all" in options.experiments else list(dict.fromkeys(options.experiments))
    # One that was asked for by its name has to have its data; of all of them, those that have take place.
    study.check(names if "all" not in options.experiments else [])
    results = []
    with runner.working():
        for name in names:
            runner.experiment = name
            if options.dry_run:
                print(f"# {name}")
            try:
                results.append(study.run(name))
            except LeftOut as reason:
                results.append(Result(name, left_out=[str(reason)]))
                print(f"# left out: {reason}" if options.dry_run else f"paper: left out: {reason}")
        if options.dry_run:
            return DONE
        page = options.out / ("all.html" if "all" in options.experiments else f"{'-'.join(names)}.html")
        data = str(options.data) if options.data else "the project's sample"
        numbers = write_reports(results, Context(study.settings_folder.name, data,
                                                 [model.name for model in study.models], runner.commands), page)
    print(f"{page}: {len(numbers)} numbers; the same as CSV in {page.with_suffix('.csv').name}")
    return DONE


def _program(options: argparse.Namespace) -> str:
    if options.program:
        return options.program
    built = HOME.parents[1] / "build" / "bipo-dist"
    found = shutil.which("bipo-dist") or (str(built) if built.is_file() else None)
    if found is None:
        raise AnalysisError(f"there is no bipo-dist on the PATH nor at {built}; name it by --program")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="experiments/paper/run", description="Runs experiments of the BiPO paper (arXiv 2406.00045): trains, "
        "evaluates, exports requests for a judge and writes a report. Started again, it keeps the steps that are done.")
    parser.add_argument("experiments", nargs="+", choices=(*NAMES, "all"), metavar="EXPERIMENT",
                        help=f"{', '.join(NAMES)}, or all")
    parser.add_argument("--models", required=True, metavar="LIST",
                        help="as sweep takes them: DIR or NAME=DIR, by commas")
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help="data/ of the authors' repository (default: the project's sample data)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of all results")
    parser.add_argument("--settings", default="paper", metavar="NAME|DIR",
                        help="paper, small (a try on a CPU) or a folder of INI files (default: %(default)s)")
    parser.add_argument("--layers", default="", metavar="LIST",
                        help="layers to choose from, instead of those of the settings")
    parser.add_argument("--behaviours", type=_list, default=[], metavar="LIST",
                        help="data sets of personas, transfer and mmlu, two for synergy (default: all personas that "
                        "--data has, and the sums of the paper)")
    parser.add_argument("--sister", default="", metavar="LIST", help="transfer: other models of the same hidden size")
    parser.add_argument("--adapter", default="", metavar="DIR|FILE", help="transfer: LoRA adapter of the model")
    parser.add_argument("--truthfulqa", type=Path, metavar="FILE", help="truthfulness: TruthfulQA.csv")
    parser.add_argument("--mmlu", type=Path, metavar="DIR", help="mmlu: directory of SUBJECT_test.csv, SUBJECT_dev.csv")
    parser.add_argument("--attacked", type=Path, metavar="FILE",
                        help="jailbreak: questions that carry an attack of yours, for the defence")
    parser.add_argument("--answers", type=int, metavar="N", help="questions of each set to answer; 0: all")
    parser.add_argument("--truthfulqa-questions", type=int, metavar="N", help="questions to report on; 0: all")
    parser.add_argument("--mmlu-questions", type=int, metavar="N", help="questions of each subject; 0: all")
    parser.add_argument("--seed", type=int, default=11, metavar="N", help="seed of the halves (default: %(default)s)")
    parser.add_argument("--program", default="", metavar="FILE",
                        help="bipo-dist (default: that on the PATH, or in build/)")
    parser.add_argument("--launcher", type=shlex.split, default=[], metavar="WORDS",
                        help="what starts commands that run the model, such as 'mpirun -np 2'")
    parser.add_argument("--common", type=shlex.split, default=[], metavar="WORDS",
                        help="options for these commands, such as '--chat-template plain --threads 1'")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")
    parser.add_argument("--home", type=Path, default=HOME, help=argparse.SUPPRESS)
    return parser


def _list(text: str) -> list[str]:
    """What is named twice counts once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


if __name__ == "__main__":
    sys.exit(main())
