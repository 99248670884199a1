"""Writes site files and starts slurm/submit.sh with them, the way users do."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import program

SCRIPTS = Path(__file__).resolve().parents[2] / "slurm"

# One rank of one core, so that two jobs fit on any machine.
SITE = {"BIPO_NODES": 1, "BIPO_GPUS_PER_NODE": 0, "BIPO_RANKS_PER_NODE": 1, "BIPO_CPUS_PER_RANK": 1,
        "BIPO_TIME_LIMIT": 5, "BIPO_ANALYSIS_TIME_LIMIT": 5}


@dataclass(frozen=True)
class SubmittedJob:
    """One line of what submit.sh printed."""

    id: str
    name: str
    log: str  # the path, with * for an array's task numbers

    def log_text(self, folder: Path) -> str:
        """The logs so far, of all tasks; submit.sh was started in `folder`."""
        return "\n".join(file.read_text(errors="replace") for file in sorted(folder.glob(self.log)))


class Site:
    """A folder to submit from, with the site file in it."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None):
        self.folder = folder
        self.environment = {**(environment or os.environ), **program.MPI_ENVIRONMENT,
                            "BIPO_SITE": str(folder / "site.env")}
        self.settings: dict[str, object] = {
            **SITE, "BIPO_PROGRAM": program.from_environment("BIPO_DIST"), "BIPO_ANALYSIS_PYTHON": sys.executable}
        self.write()

    def write(self, **changes: object) -> None:
        """Writes the site file with some settings changed; a list becomes an array of bash."""
        self.settings.update(changes)
        (self.folder / "site.env").write_text(settings_text(self.settings))

    def submit(self, *words: object, script: Path = SCRIPTS / "submit.sh") -> program.Finished:
        command = [str(word) for word in (script, *words)]
        finished = subprocess.run(command, cwd=self.folder, env=self.environment, text=True, capture_output=True,
                                  timeout=60, stdin=subprocess.DEVNULL)
        return program.Finished(command, finished.returncode, finished.stdout, finished.stderr)

    def submitted(self, *words: object) -> list[SubmittedJob]:
        finished = self.submit(*words)
        assert finished.code == program.DONE, finished
        return submitted_jobs(finished.stdout)


def settings_text(settings: dict[str, object]) -> str:
    return "".join(f"{name}={bash_value(value)}\n" for name, value in settings.items())


def bash_value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"({' '.join(shlex.quote(str(part)) for part in value)})"
    return shlex.quote(str(value))


def submitted_jobs(printed: str) -> list[SubmittedJob]:
    """Every line must be of the form that the documentation promises."""
    jobs = []
    for line in printed.splitlines():
        match = re.fullmatch(r"job (\d+): (\S+), log (\S+)", line)
        assert match, line
        jobs.append(SubmittedJob(*match.groups()))
    return jobs
