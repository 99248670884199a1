"""Steps of an experiment: commands of bipo-dist, each done once.

A record beside the results says with which command and inputs a step was done.  A step whose record fits is kept; one
whose record differs is refused, because later steps rest on it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ..errors import AnalysisError
from ..wording import duration
from .layout import write_files

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 75
# Options that say where and how fast something is computed, not what: a restart may change them.
MACHINE_OPTIONS = ("--threads", "--dp", "--tp", "--device", "--timeout", "--progress", "--cache-budget", "--cache-dir",
                   "--cache-device")
TAIL = 15  # lines of a failed command's output that an error shows


class StepFailed(Exception):
    """A command failed; `code` is that with which the driver ends."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Step:
    """One command of bipo-dist; `words` begin with its name.  The content of `inputs` counts for a restart."""

    name: str  # also where record and log lie below steps/
    words: tuple[str, ...]
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    uses_model: bool = True  # under the launcher
    overwrites: bool = True  # takes --overwrite, for what a step that was cut short may have left
    adds_to: Path | None = None  # its only output begins as a copy of this; new inputs have it made anew


@dataclass
class Runner:
    """Runs steps below `out`, or prints them."""

    out: Path
    program: str
    launcher: Sequence[str] = ()
    dry_run: bool = False
    experiment: str = ""
    commands: list[str] = field(default_factory=list)  # of all steps, kept ones included
    _interrupted: bool = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keeps other drivers out of `out` and hands SIGTERM on to the command under way."""
        if self.dry_run:
            yield
            return
        (self.out / "steps").mkdir(parents=True, exist_ok=True)
        with open(self.out / "steps" / "lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise AnalysisError(f"{self.out}: another driver works on it; wait for it, or choose another "
                                    "--out") from error
            earlier = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in earlier.items():
                    signal.signal(number, handler)

    def write(self, files: Mapping[Path, str]) -> None:
        """Writes prepared data, unless commands are only printed."""
        if not self.dry_run:
            write_files(files)

    def run(self, step: Step) -> None:
        """Does the step unless it is done.  Raises StepFailed, or AnalysisError for one done with other settings."""
        command = [*(self.launcher if step.uses_model else ()), self.program, *step.words]
        line = shlex.join(command)
        if line not in self.commands:
            self.commands.append(line)
            if self.dry_run:
                print(line)
        if self.dry_run:
            return
        record, path = self._record(step), self.out / "steps" / f"{step.name}.json"
        stored = _stored(path)
        differs = stored is not None and stored != record
        if differs and not (step.adds_to and stored.get("command") == record["command"]):
            raise AnalysisError(f"{self.experiment}: {step.name} was done with other settings "
                                f"({_difference(stored, record)}); give the earlier ones, or another --out, or remove "
                                f"{path} and its results")
        if stored == record and all(output.exists() for output in step.outputs):
            return
        for output in step.outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if step.overwrites and any(output.exists() for output in step.outputs):
            command.append("--overwrite")
        if step.adds_to:
            path.unlink(missing_ok=True)  # lest it vouch for a copy that nothing was added to
            _copy_whole(step.adds_to, *step.outputs)
        self._execute(step, command, path.with_suffix(".log"))
        _write_whole(path, json.dumps(record, indent=1) + "\n")

    def _execute(self, step: Step, command: list[str], log: Path) -> None:
        if self._interrupted:
            raise self._stopped()
        print(f"{self.experiment}: {step.name}", flush=True)
        began = time.monotonic()
        with open(log, "w", encoding="utf-8") as file:
            file.write(shlex.join(command) + "\n")
            file.flush()
            try:
                self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT,
                                                 stdin=subprocess.DEVNULL)
            except OSError as error:
                raise StepFailed(f"{self.experiment}: {command[0]} cannot be started: {error.strerror}; name the "
                                 "program by --program, what starts it by --launcher", BAD_INPUT) from error
            code = self._process.wait()
        if self._interrupted:
            raise self._stopped()
        if code != DONE:
            raise StepFailed(self._failure(step, command, log, code),
                             code if code in (BAD_INPUT, INTERRUPTED) else FAILED)
        missing = [str(output) for output in step.outputs if not output.exists()]
        if missing:
            raise StepFailed(f"{self.experiment}: {step.name} ended well and left no {missing[0]}; see {log}", FAILED)
        print(f"{self.experiment}: {step.name} took {duration(time.monotonic() - began)}", flush=True)

    def _failure(self, step: Step, command: list[str], log: Path, code: int) -> str:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[1:][-TAIL:]
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        return "\n".join((f"{self.experiment}: {step.name} {how}. The command:", f"  {shlex.join(command)}",
                          f"The end of its output, which is in {log}:", *(f"  {line}" for line in tail),
                          "Started again, the driver keeps the steps that are done."))

    def _stopped(self) -> StepFailed:
        return StepFailed(f"{self.experiment}: interrupted; the same command continues", INTERRUPTED)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._interrupted = True
        # A terminal sends its SIGINT to the command, too; a second one would cut that short.
        process = getattr(self, "_process", None)
        if number == signal.SIGTERM and process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)

    def _record(self, step: Step) -> dict[str, object]:
        return {"command": [self._place(word) for word in _without_machine(step.words)],
                "inputs": {self._place(str(path)): _hash(path) for path in step.inputs}}

    def _place(self, word: str) -> str:
        """The word with OUT for the directory of results, which may be moved."""
        return re.sub(rf"(?<![^:=,]){re.escape(str(self.out))}(?=/|$)", "OUT", word)


def _without_machine(words: Sequence[str]) -> list[str]:
    kept, skips = [], False
    for word in words:
        if skips or word in MACHINE_OPTIONS:
            skips = not skips
        elif word.partition("=")[0] not in MACHINE_OPTIONS:
            kept.append(word)
    return kept


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise AnalysisError(f"{path}: cannot be read: {error.strerror}") from error


def _stored(path: Path) -> dict[str, object] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{path}: cannot be read: {error}; remove it to do the step again") from error


def _difference(stored: dict[str, object], record: dict[str, object]) -> str:
    """What the record of a step and that of its next run disagree on, in words."""
    before, now = stored.get("command", []), record["command"]
    if before != now:
        gone, new = ([word for word in one if word not in other] for one, other in ((before, now), (now, before)))
        return f"{shlex.join(gone) or 'nothing'} then, {shlex.join(new) or 'nothing'} now" if gone or new else \
            "the same words in another order"
    changed = [path for path, value in record["inputs"].items() if stored.get("inputs", {}).get(path) != value]
    return f"{', '.join(changed) or 'an input'} has changed"


def _copy_whole(source: Path, target: Path) -> None:
    temporary = target.with_suffix(".tmp")
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
