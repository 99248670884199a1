"""Whether a job is at work on a pack of a sweep: the claim files that the jobs keep in DIR/claims."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

# A claim is dead after this time without renewal, in seconds; its owner renews it every 10 s.
DEAD_AFTER = 120.0


def is_claimed(directory: Path, pack: str, now: float | None = None) -> bool:
    """Whether the pack's newest claim in `directory`/claims is alive.

    Read-only, so ages are taken by this host's clock; `now` (seconds since the epoch) replaces it.  A claim whose
    owner ran on this host and is gone counts as dead at once.
    """
    claim = _newest(directory / "claims", pack)
    if claim is None:
        return False
    try:
        age = (time.time() if now is None else now) - claim.stat().st_mtime
        content = json.loads(claim.read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        content = {}  # damaged: dead by age only
    if not isinstance(content, dict):
        content = {}
    return age <= DEAD_AFTER and content.get("released") is not True and not _owner_is_gone(content)


def _newest(folder: Path, pack: str) -> Path | None:
    """The file of the highest generation, PACK.G.json."""
    generations = {}
    if folder.is_dir():
        # A pattern for each of a sweep's packs would have to be compiled.
        for path in folder.iterdir():
            name, _, generation = path.name.removesuffix(".json").rpartition(".")
            if name == pack and path.suffix == ".json" and re.fullmatch(r"\d+", generation):
                generations[int(generation)] = path
    return generations[max(generations)] if generations else None


def _owner_is_gone(content: dict[str, object]) -> bool:
    if content.get("boot_id") != _text("/proc/sys/kernel/random/boot_id"):
        return False
    if content.get("pid_namespace") != _link("/proc/self/ns/pid"):
        return False
    started = process_start(content.get("pid"))
    return started is None or started != content.get("start_time")


def process_start(pid: object) -> int | None:
    """Field 22 of /proc/PID/stat, in clock ticks since boot; None where there is no such process."""
    stat = _text(f"/proc/{pid}/stat")
    # The command, the second field, may itself hold spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[19]) if stat else None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return str(Path(path).readlink())
    except OSError:
        return None
