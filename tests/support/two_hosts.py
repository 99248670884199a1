"""Two pretended hosts on this machine: network and host-name namespaces joined by a virtual cable, for mpirun."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import program

HOSTS = {"host-a": "10.77.0.1", "host-b": "10.77.0.2"}
NETWORK = "10.77.0.0/24"
CABLE = "cable0"  # its ends' name, one end in each namespace

# The namespaces live as long as this process, which ends with the test.
HOLDER = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "sh", "-c",
          'hostname "$0" && ip link set lo up && echo ready && exec sleep 86400']


class NoNamespaces(Exception):
    """They cannot be made here: that takes root with all its rights."""


class TwoHosts:
    """A context manager; raises NoNamespaces where there can be no such hosts."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="bipo-hosts-")
        self._agent = Path(self._folder.name) / "agent"

    def __enter__(self) -> TwoHosts:
        try:
            for host in HOSTS:
                self._hold(host)
            self._connect()
            self._write_agent()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, (OSError, subprocess.CalledProcessError)):
                raise NoNamespaces(str(error)) from error
            raise
        return self

    def __exit__(self, *_) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.communicate()
        self._folder.cleanup()

    def start(self, arguments: Sequence[object], environment: dict[str, str] | None = None) -> program.Running:
        """`bipo-dist ARGUMENTS` under one mpirun, one rank on each host."""
        addresses = ",".join(f"{address}:1" for address in HOSTS.values())
        return program.Running([
            *self._inside(next(iter(HOSTS))), program.from_environment("BIPO_MPIEXEC"), "--host", addresses,
            "--mca", "plm", "rsh", "--mca", "plm_rsh_agent", str(self._agent),
            "--mca", "oob_tcp_if_include", NETWORK, "--mca", "btl_tcp_if_include", NETWORK,
            *(word for name in environment or {} for word in ("-x", name)),
            program.from_environment("BIPO_DIST"), *map(str, arguments)], environment)

    def lose_datagrams(self) -> None:
        """As a firewall between the hosts does that lets TCP alone through."""
        for host in HOSTS:
            _run(*self._inside(host), "ip", "rule", "add", "ipproto", "udp", "blackhole")

    def _hold(self, host: str) -> None:
        holder = subprocess.Popen([*HOLDER, host], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        self._holders[host] = holder
        if holder.stdout.readline() != "ready\n":
            raise OSError(f"no namespaces: {holder.stderr.read().strip()}")

    def _connect(self) -> None:
        one, other = (str(holder.pid) for holder in self._holders.values())
        _run("ip", "link", "add", CABLE, "netns", one, "type", "veth", "peer", "name", CABLE, "netns", other)
        for host, address in HOSTS.items():
            inside = self._inside(host)
            _run(*inside, "ip", "address", "add", f"{address}/24", "dev", CABLE)
            _run(*inside, "ip", "link", "set", CABLE, "up")

    def _inside(self, host: str) -> list[str]:
        return ["nsenter", f"--target={self._holders[host].pid}", "--net", "--uts"]

    def _write_agent(self) -> None:
        """What mpirun calls in place of ssh, as `agent HOST COMMAND...`."""
        cases = "".join(f"{address}) enter='{' '.join(self._inside(host))}';;\n" for host, address in HOSTS.items())
        self._agent.write_text(f'#!/bin/sh\ncase $1 in\n{cases}esac\nshift\nexec $enter sh -c "$*"\n')
        self._agent.chmod(0o755)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except subprocess.CalledProcessError as error:
        raise OSError(f"{' '.join(command)}: {error.stderr.strip()}") from error
