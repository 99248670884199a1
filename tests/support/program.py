"""Starts bipo-dist, bare or under mpirun, the way the tests need it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Few cores and many ranks: spinning in a collective would starve the rank that is waited for, and
# binding would put all ranks of concurrent jobs on the same core.  No rank looks for networks.
MPI_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_pml": "ob1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 75


@dataclass(frozen=True)
class Finished:
    """How a run ended and what it printed."""

    command: list[str]
    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return (f"$ {' '.join(self.command)}\nexit code {self.code}\n"
                f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}")


class Running:
    """A started run; its output goes to files, so that no pipe can fill up and block it."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None):
        self.command = command
        self._stdout = tempfile.TemporaryFile()
        self._stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self._stdout, stderr=self._stderr,
                                        stdin=subprocess.DEVNULL,
                                        env={**os.environ, **MPI_ENVIRONMENT, **(environment or {})})

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_) -> None:
        self.stop()
        self._stdout.close()
        self._stderr.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Ends a run that is still going.  SIGTERM first: mpirun takes its ranks down with it then."""
        if self.ended():
            return
        self.send(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def finish(self, timeout: float) -> Finished:
        """Waits for the end of the run, which must come within `timeout` seconds."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"did not end within {timeout} s\n{self.output(None)}") from None
        return self.output(code)

    def output(self, code: int | None) -> Finished:
        return Finished(self.command, code, _text(self._stdout), _text(self._stderr))


def start(arguments: Sequence[object], ranks: int | None = None,
          environment: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> Running:
    """Starts `bipo-dist ARGUMENTS`: under mpirun with `ranks` ranks, or without mpirun where None."""
    program = [*prefix, from_environment("BIPO_DIST"), *map(str, arguments)]
    if ranks is None:
        return Running(program, environment)
    return Running([from_environment("BIPO_MPIEXEC"), "-n", str(ranks), *program], environment)


def spawn(arguments: Sequence[object], **streams) -> subprocess.Popen:
    """Starts `bipo-dist ARGUMENTS` without mpirun; `streams` go to Popen, and what they leave out goes nowhere."""
    program = [from_environment("BIPO_DIST"), *map(str, arguments)]
    nowhere = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen(program, env={**os.environ, **MPI_ENVIRONMENT}, **{**nowhere, **streams})


def run(arguments: Sequence[object], ranks: int | None = None, timeout: float = 120,
        prefix: Sequence[str] = ()) -> Finished:
    """Runs `bipo-dist ARGUMENTS` to its end, whatever that is; `prefix` is a command that runs it."""
    with start(arguments, ranks, prefix=prefix) as running:
        return running.finish(timeout)


def on_a_small_disk(folder: Path, kilobytes: int) -> list[str]:
    """A command prefix that gives the program a file system of its own in `folder`."""
    folder.mkdir()
    mount = ["unshare", "-rm", "bash", "-c", f'mount -t tmpfs -o size={kilobytes}k none "$0" && exec "$@"', str(folder)]
    tried = subprocess.run([*mount, "true"], check=False, capture_output=True, text=True)
    assert tried.returncode == 0, f"this test mounts a file system as root or in a user namespace: {tried.stderr}"
    return mount


def run_successfully(arguments: Sequence[object], ranks: int | None = None,
                     timeout: float = 120) -> Finished:
    finished = run(arguments, ranks, timeout)
    assert finished.code == DONE, finished
    return finished


def options(settings: dict[str, object]) -> list[str]:
    """{"lr": 0.02, "no_eos": True} as --lr 0.02 --no-eos; entries that are None or False are left out."""
    arguments = []
    for name, value in settings.items():
        if value is None or value is False:
            continue
        arguments.append("--" + name.replace("_", "-"))
        if value is not True:
            arguments.append(str(value))
    return arguments


def wait_until(condition: Callable[[], bool], running: Running, timeout: float = 60) -> None:
    """Polls until `condition` holds; the run must not end before that."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert not running.ended(), f"ended too early\n{running.output(running.process.returncode)}"
        assert time.monotonic() < deadline, f"nothing after {timeout} s\n{running.output(None)}"
        time.sleep(0.01)


def stop_when(running: Running, condition: Callable[[], bool]) -> None:
    """Stops the program at a moment at which `condition` holds; SIGCONT lets it go on."""
    while True:
        running.send(signal.SIGSTOP)
        time.sleep(0.05)  # until it stands still
        if condition():
            return
        running.send(signal.SIGCONT)
        time.sleep(0.01)


def from_environment(name: str) -> str:
    """The tests' set-up names the program, mpirun and the model cache in the environment."""
    value = os.environ.get(name)
    if not value:
        raise RuntimeError(f"{name} is not set: run the tests by ctest or tests/run.sh, which set it")
    return value


def smollm2_directory() -> Path:
    """The converted real model; a test that needs it fails where it is missing."""
    directory = Path(from_environment("BIPO_TEST_CACHE")) / "models" / "smollm2-135m-instruct"
    assert (directory / "config.json").is_file(), f"{directory} is missing: tests/run.sh makes it"
    return directory


def _text(file) -> str:
    """Leaves the file's offset alone: a run that goes on writes at the same one."""
    descriptor = file.fileno()
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")
