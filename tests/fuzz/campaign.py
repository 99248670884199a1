"""Damages files of every kind in many ways and gives each to the real program, which must refuse it by name, or do what
the undamaged file, or the content of this one, asks for.

BIPO_DIST names the program. An outcome that must not be is told by kind and seed, and its file is kept in --out.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(SOURCE / "tests" / folder) for folder in ("support", "reference", "fuzz")]

import program  # noqa: E402
from file_kinds import LEFT_OUT, Kind, environment, kinds, write_files  # noqa: E402

SECONDS = 30  # of a run, which takes half a second on a machine at rest
ADDRESS_SPACE = 3_500_000_000
REFUSED, SAME, OTHER = "refused", "same result", "as the file says"
CRASH, HANG, MEMORY, WRONG, UNNAMED, BROKEN = ("crash", "hang", "memory", "WRONG", "unnamed", "broken off")
GOOD = (REFUSED, SAME, OTHER)
BAD = (CRASH, HANG, MEMORY, WRONG, UNNAMED, BROKEN)
OUT_OF_MEMORY = ("bad_alloc", "Cannot allocate memory", "out of memory", "length_error", "vector::")
OF_NUMBERS = ("is not finite", "the training diverged")
OWN_FAULT = ("this is a bug", "Assertion", "terminate called")


@dataclass(frozen=True)
class Ended:
    """How a run of the program ended; `code` is None where it was ended at its time limit."""

    code: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Outcome:
    kind: Kind
    seed: int
    verdict: str
    detail: str = ""


def copy_inputs(source: Path, kind: Kind, case: Path) -> None:
    """`done/sweep` becomes `sweep`."""
    for name in kind.inputs:
        entry, target = source / name, case / Path(name).name
        if entry.is_dir():
            shutil.copytree(entry, target)
        else:
            shutil.copy(entry, target)


def run(kind: Kind, case: Path) -> Ended:
    command = ["prlimit", f"--as={ADDRESS_SPACE}", "--core=0", program.from_environment("BIPO_DIST"), *kind.command.split()]
    with open(case / ".stdout", "w+b") as stdout, open(case / ".stderr", "w+b") as stderr:
        process = subprocess.Popen(command, cwd=case, env=environment(case), stdin=subprocess.DEVNULL, stdout=stdout,
                                   stderr=stderr, start_new_session=True)
        try:
            code: int | None = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        try:
            os.killpg(process.pid, signal.SIGKILL)  # also what the program itself started
        except ProcessLookupError:
            pass
        process.wait()
        stdout.seek(0)
        stderr.seek(0)
        return Ended(code, stdout.read().decode(errors="replace"), stderr.read().decode(errors="replace"))


def judge(kind: Kind, case: Path, ended: Ended, expected: object, original: Path) -> tuple[str, str]:
    """Returns the verdict and what led to it."""
    said = ended.stderr.strip().splitlines()
    last = said[-1] if said else "(nothing)"
    if ended.code is None:
        return HANG, f"not at its end after {SECONDS} s"
    if ended.code not in (program.DONE, program.FAILED, program.BAD_INPUT):
        return CRASH, f"exit code {ended.code}: {last}"
    if any(words in ended.stderr for words in OWN_FAULT):
        return CRASH, last
    if ended.code != program.DONE and any(words in ended.stderr for words in OUT_OF_MEMORY):
        return MEMORY, last
    if ended.code != program.DONE:
        return judge_refusal(kind, case, ended, last, original)
    try:
        result = kind.result(case, ended.stdout)
    except Exception as error:  # whatever a reader of the result may throw: there is none
        return WRONG, f"exit code 0, and a result that cannot be read: {error!r}"
    if result == expected:
        return SAME, ""
    if kind.cell and result == {**expected, kind.cell: LEFT_OUT} and kind.cell in ended.stdout:
        return REFUSED, "told, and the other cells are there"
    return judge_other_result(kind, case, original)


def judge_refusal(kind: Kind, case: Path, ended: Ended, last: str, original: Path) -> tuple[str, str]:
    if kind.must_end_well:
        return BROKEN, f"exit code {ended.code}: {last}"
    name = kind.named or Path(kind.file).name
    # What is missing in all files of a directory is missing in the directory, which the user named.
    if name in ended.stderr or f"bipo-dist: {Path(kind.file).parent}: " in ended.stderr:
        return REFUSED, last
    # Numbers that are numbers may still be too large to compute with.
    if kind.reading is not None and any(words in ended.stderr for words in OF_NUMBERS):
        verdict, _ = judge_other_result(kind, case, original)
        if verdict == OTHER:
            return OTHER, last
    return UNNAMED, f"exit code {ended.code}: {last}"


def judge_other_result(kind: Kind, case: Path, original: Path) -> tuple[str, str]:
    if kind.reading is None:
        return WRONG, "exit code 0 and another result"
    try:
        says = kind.reading(case / ".damaged")
    except Exception as error:  # whatever another reader throws is its refusal
        return WRONG, f"exit code 0 and another result of a file that another reader refuses: {error!r}"
    if says == kind.reading(original):
        return WRONG, "exit code 0 and another result of a file with the same content"
    return OTHER, ""


class Campaign:
    """Runs cases in folders of their own below `folder`; `offending` gets the files of bad outcomes."""

    def __init__(self, folder: Path, offending: Path):
        self.files, self.folder, self.offending = folder / "undamaged", folder / "cases", offending
        if not self.files.exists():
            write_files(self.files)
        self.kinds = kinds(self.files)
        self._expected: dict[str, object] = {}

    def original(self, kind: Kind) -> Path:
        """Where the kind's file lies among the undamaged ones."""
        first = kind.file.split("/")[0]
        [owner] = [name for name in kind.inputs if Path(name).name == first]
        return self.files / Path(owner).parent / kind.file

    def expected(self, kind: Kind) -> object:
        """The result of the undamaged file."""
        if kind.name not in self._expected:
            with self.case(kind) as case:
                ended = run(kind, case)
                if ended.code != (program.BAD_INPUT if kind.refused else program.DONE):
                    raise RuntimeError(f"{kind.name}, undamaged: {ended}")
                self._expected[kind.name] = REFUSED if kind.refused else kind.result(case, ended.stdout)
        return self._expected[kind.name]

    def case(self, kind: Kind) -> "Case":
        return Case(self, kind)

    def mutation(self, kind: Kind, seed: int) -> bytes:
        return kind.mutate(random.Random(f"{kind.name}:{seed}"), self.original(kind).read_bytes())

    def run(self, kind: Kind, seed: int) -> Outcome:
        damaged = self.mutation(kind, seed)
        with self.case(kind) as case:
            (case / kind.file).write_bytes(damaged)
            os.utime(case / kind.file, times=(time.time() - kind.age,) * 2)
            (case / ".damaged").write_bytes(damaged)  # the program may write over the other
            ended = run(kind, case)
            verdict, detail = judge(kind, case, ended, self._expected[kind.name], self.original(kind))
        if verdict in BAD:
            self.offending.mkdir(parents=True, exist_ok=True)
            (self.offending / f"{kind.name.replace('/', '_').replace(' ', '_')}.{seed}").write_bytes(damaged)
        return Outcome(kind, seed, verdict, detail.replace(str(case), "CASE")[-300:])

    def run_all(self, chosen: Iterable[Kind], seeds: range, workers: int) -> Iterator[Outcome]:
        chosen = list(chosen)
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(self.expected, chosen))
            # Seeds outside, so that a campaign that is ended early has tried every kind.
            cases = [(kind, seed) for seed in seeds for kind in chosen]
            yield from pool.map(lambda case: self.run(*case), cases)


class Case:
    """A folder with copies of a kind's inputs, as long as the `with` lasts."""

    def __init__(self, campaign: Campaign, kind: Kind):
        self.campaign, self.kind = campaign, kind

    def __enter__(self) -> Path:
        self.campaign.folder.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(dir=self.campaign.folder))
        copy_inputs(self.campaign.files, self.kind, self.path)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path)


def table(outcomes: Iterable[Outcome]) -> str:
    """One row for each kind, one column for each verdict."""
    counts: dict[str, Counter] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.kind.name, Counter())[outcome.verdict] += 1
    lines = ["| file | runs | " + " | ".join((*GOOD, *BAD)) + " |", "|---" * (2 + len(GOOD) + len(BAD)) + "|"]
    for name, verdicts in counts.items():
        row = [name, str(verdicts.total()), *(str(verdicts[verdict]) for verdict in (*GOOD, *BAD))]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def default_folder() -> Path:
    """In memory where there is room: most of a small run is waiting for the disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30 else Path(tempfile.gettempdir())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000, help="of each kind of file (default 2000)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time (default the cores)")
    parser.add_argument("--kinds", default="", help="only those whose name holds this text")
    parser.add_argument("--out", type=Path, default=Path("campaign-offending"), help="folder for the files of bad outcomes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bipo-campaign-", dir=default_folder()) as folder:
        campaign = Campaign(Path(folder), arguments.out)
        chosen = [kind for kind in campaign.kinds if arguments.kinds in kind.name]
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.mutations)
        outcomes: list[Outcome] = []
        try:
            for outcome in campaign.run_all(chosen, seeds, arguments.workers):
                outcomes.append(outcome)
                if outcome.verdict in BAD:
                    print(f"{outcome.verdict}: {outcome.kind.name}, seed {outcome.seed}: {outcome.detail}", flush=True)
        except KeyboardInterrupt:
            print("interrupted; what there is so far:")
    print(table(outcomes))
    is_whole = len(outcomes) == len(chosen) * len(seeds)
    return 0 if is_whole and all(outcome.verdict in GOOD for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
