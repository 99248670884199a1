"""A real Slurm of two pretended nodes on this machine: own daemons, ports and folder, no service installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NODES = 2
CPUS_PER_NODE = 4
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

CONFIGURATION = """\
ClusterName=bipo-tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is queued again waits for this long, two minutes by default.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
# PMIx keeps its files here: one folder for both nodes would be one too few.
TmpFS={folder}/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# More CPUs than this machine has.
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=5
KillWait=10
MinJobAge=3600
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = ("NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=1000 Gres=gpu:2 "
        "State=UNKNOWN\n")
# Any two character devices pass for GPUs; nothing opens them.
GPUS = "NodeName={name} Name=gpu File=/dev/null\nNodeName={name} Name=gpu File=/dev/zero\n"


class Cluster:
    """The daemons, as children of this process that end with it; a context manager."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._daemons: list[subprocess.Popen] = []
        self._is_root = os.geteuid() == 0

    def __enter__(self) -> Cluster:
        missing = [command for command in COMMANDS if not shutil.which(command, path=_search_path())]
        assert not missing, f"no Slurm here ({', '.join(missing)} missing): tests/slurm/install.sh installs it"
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    @property
    def environment(self) -> dict[str, str]:
        """For every command that is to talk to this cluster."""
        settings = {**os.environ, "PATH": _search_path(), "SLURM_CONF": str(self.folder / "slurm.conf")}
        if not self._is_root:
            # Without host names of their own the nodes' ranks would share names in /dev/shm.
            settings["OMPI_MCA_btl"] = "self,tcp"
        return settings

    def command(self, *words: object) -> str:
        """Runs one of Slurm's commands and returns what it prints."""
        finished = subprocess.run([str(word) for word in words], env=self.environment, text=True, timeout=30,
                                  capture_output=True)
        assert finished.returncode == 0, f"{words}: {finished.stdout}{finished.stderr}"
        return finished.stdout

    def jobs(self, job: str) -> list[dict[str, str]]:
        """What `scontrol` says of a job, or of each task of an array."""
        lines = self.command("scontrol", "--oneliner", "show", "job", job).splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.strip()]

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}\n{self.command('squeue', '--all')}"
            time.sleep(0.1)

    def wait_for_end(self, job: str, timeout: float = 90) -> list[dict[str, str]]:
        """Waits until the job, or every task of the array, has ended for good."""
        def ended() -> bool:
            return all(record["JobState"] in ENDED for record in self.jobs(job))

        self.wait_until(ended, f"the end of job {job}", timeout)
        return self.jobs(job)

    def _start(self) -> None:
        ports = _free_ports(NODES + 1)
        names = [f"n{index + 1}" for index in range(NODES)]
        host = socket.gethostname().split(".")[0]
        self._write("slurm.conf", CONFIGURATION.format(host=host, user=_user(), folder=self.folder, port=ports[0])
                    + "".join(NODE.format(name=name, host=host, port=port, cpus=CPUS_PER_NODE)
                              for name, port in zip(names, ports[1:])))
        self._write("gres.conf", "".join(GPUS.format(name=name) for name in names))
        self._write("cgroup.conf", "CgroupAutomount=no\n")
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        (self.folder / "state").mkdir()
        for name in names:
            (self.folder / f"spool.{name}").mkdir()
            (self.folder / f"tmp.{name}").mkdir()
        self._daemon("munged", "munged", "--foreground", *(["--force"] if self._is_root else []),
                     f"--key-file={key}", f"--socket={self.folder}/munge.sock", f"--pid-file={self.folder}/munged.pid",
                     f"--seed-file={self.folder}/munge.seed", "--num-threads=2")
        self._wait_for_start(lambda: (self.folder / "munge.sock").exists(), "munged")
        self._daemon("slurmctld", "slurmctld", "-D", "-c")
        for name in names:
            slurmd = ["slurmd", "-D", "-N", name]
            if self._is_root:
                slurmd = ["unshare", "--uts", "sh", "-c", f"hostname {name} && exec {' '.join(slurmd)}"]
            self._daemon(f"slurmd.{name}", *slurmd)
        self._wait_for_start(lambda: self._idle_nodes() == NODES, "the nodes")

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            self._daemons.append(subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], env=self.environment,
                                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _wait_for_start(self, is_up: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not is_up():
            dead = any(daemon.poll() is not None for daemon in self._daemons)
            assert not dead and time.monotonic() < deadline, f"{what} did not start\n{self._logs()}"
            time.sleep(0.05)

    def _logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')}" for log in self.folder.glob("*.log"))

    def _idle_nodes(self) -> int:
        shown = subprocess.run(["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"], text=True,
                               env=self.environment, capture_output=True, timeout=30)
        return len(set(shown.stdout.split()))

    def _stop(self) -> None:
        """Ends the jobs first: their processes are no children of the daemons."""
        if len(self._daemons) > 1:
            subprocess.run(["scancel", f"--user={_user()}"], env=self.environment, timeout=30, check=False)
            deadline = time.monotonic() + 30
            while self._idle_nodes() < NODES and time.monotonic() < deadline:
                time.sleep(0.1)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
