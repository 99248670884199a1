"""Finds the processes of a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def ranks_of(out: Path) -> dict[int, int]:
    """World rank -> pid of every process that mpirun started with this --out (mpirun itself has no rank)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # ended in the meantime
            continue
        if os.fsencode(out) not in words:
            continue
        for variable in environment:
            if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                found[int(variable.split(b"=")[1])] = int(entry.name)
    return found


def hears_signals(pid: int) -> bool:
    """Whether the program waits for signals: from then on none of them kills it."""
    try:
        # Between fork and exec, Python's own copy of itself blocks all signals.
        if Path(f"/proc/{pid}/exe").readlink().name not in ("bipo-dist", "bipo-dist-compute"):
            return False
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    [line] = [line for line in status.splitlines() if line.startswith("SigBlk:")]
    blocked = int(line.split()[1], 16)
    # While a thread is made, its maker blocks all signals.  Libraries make one before the program's main function.
    return _is_in(signal.SIGTERM, blocked) and not _is_in(signal.SIGCHLD, blocked)


def _is_in(number: signal.Signals, mask: int) -> bool:
    return bool(mask & 1 << (number - 1))
