"""Finds the processes of a run."""

from __future__ import annotations

import os
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
