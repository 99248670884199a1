"""A sweep: its directory, at any moment of its life, or the file that `bipo-dist collect` made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pandas

from .checksums import require_checked_attributes, require_sealed
from .claims import is_claimed
from .errors import AnalysisError
from .run import Run, load_run, read_run
from .stored import read_table, require_schema
from .summary import cell_row, summary_frame, with_site

PLAN_SCHEMA = 1
COLLECTED_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Sweep:
    """The plan of a sweep, the table of its cells, and their runs.

    `summary` has the columns of /summary (see `summary.COLUMNS`, then the shared settings).  `runs` maps the name
    of a cell to its Run; cells without a readable run are not in it.  Those of a directory are
    in memory, those of a collected file are read at each access.
    """

    path: Path
    name: str
    plan: dict[str, Any]
    summary: pandas.DataFrame
    runs: Mapping[str, Run]
    program_version: str

    @property
    def settings(self) -> dict[str, object]:
        """What all cells share; under "inputs", what goes with a model and data set."""
        return self.plan["settings"]


class _RunFiles(Mapping[str, Run]):
    """The runs of a sweep directory, as they were when it was loaded."""

    def __init__(self, runs: dict[str, Run]):
        self._runs = runs

    def __getitem__(self, cell: str) -> Run:
        return self._runs[cell]

    def __contains__(self, cell: object) -> bool:
        return cell in self._runs

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


class _CollectedRuns(Mapping[str, Run]):
    """The runs of a collected sweep."""

    def __init__(self, path: Path, cells: list[str]):
        self._path = path
        self._cells = cells

    def __getitem__(self, cell: str) -> Run:
        if cell not in self._cells:
            raise KeyError(cell)
        try:
            with h5py.File(self._path, "r") as file:
                return read_run(file["runs"][cell], cell)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise AnalysisError(f"{self._path}: /runs/{cell} cannot be read: {error}") from error

    def __contains__(self, cell: object) -> bool:
        return cell in self._cells

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)


def load_sweep(path: str | Path) -> Sweep:
    """Reads a sweep directory, also one whose cells are still running, failed or missing, or a collected file.

    Raises AnalysisError for what is neither.
    """
    path = Path(path)
    if path.is_dir():
        return _load_directory(path)
    if path.is_file():
        return _load_collected(path)
    raise AnalysisError(f"{path}: no such file or directory; name a sweep's directory or the file that "
                        "`bipo-dist collect` made of it")


def _load_directory(directory: Path) -> Sweep:
    plan = _read_plan(directory)
    settings = plan["settings"]
    packs = {member: pack["name"] for pack in plan.get("packs", []) for member in pack["members"]}
    claimed = {pack: is_claimed(directory, pack) for pack in {*packs.values()}}
    rows, versions = [], []
    runs: dict[str, Run] = {}
    for cell in plan["cells"]:
        name = cell["name"]
        run, failure = _run_or_reason(directory / f"{name}.h5")
        if run is not None:
            runs[name] = run
            versions.append(str(run.attributes.get("program_version", "")))
        status, reason = _status(directory, name, run, failure, claimed.get(packs.get(name, ""), False))
        rows.append(cell_row(cell, status, reason, run))
    return Sweep(directory, directory.resolve().name, plan, summary_frame(rows, settings),
                 _RunFiles(runs), versions[-1] if versions else "")


def _read_plan(directory: Path) -> dict[str, Any]:
    path = directory / "plan.json"
    if not path.is_file():
        raise AnalysisError(f"{directory}: holds no plan.json, so it is not the directory of a sweep; name what was "
                            "given to `bipo-dist sweep --out`")
    try:
        return _checked_plan(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{path}: {error}") from error


def _checked_plan(text: str) -> dict[str, Any]:
    try:
        plan = json.loads(text)
    except ValueError as error:
        raise AnalysisError(f"not the plan of a sweep, or damaged: {error}") from error
    require_schema(plan.get("schema_version") if isinstance(plan, dict) else None, PLAN_SCHEMA)
    if not isinstance(plan.get("settings"), dict) or not isinstance(plan.get("cells"), list):
        raise AnalysisError("not the plan of a sweep, or damaged: it has no settings or no cells")
    return plan


def _run_or_reason(path: Path) -> tuple[Run | None, str]:
    """The run, or why it cannot be read; neither where there is no file."""
    if not path.exists():
        return None, ""
    try:
        return load_run(path), ""
    except AnalysisError as error:
        return None, str(error)


def _status(directory: Path, cell: str, run: Run | None, unreadable: str, claimed: bool) -> tuple[str, str]:
    """The cell's status and, where there is one, the reason of its failure."""
    if unreadable:
        return "unreadable", unreadable
    if run is not None and run.status == "complete":
        return "complete", ""
    failure = directory / "failures" / f"{cell}.json"
    if failure.exists():
        return "failed", _failure_reason(failure)
    if claimed:
        return "running", ""
    return ("missing", "") if run is None else ("interrupted", "")


def _failure_reason(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        where = f" ({record['host']}, {record['utc']})" if record.get("host") else ""
        return f"{record['reason']}{where}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} cannot be read: {error}"


def _load_collected(path: Path) -> Sweep:
    if not h5py.is_hdf5(path):
        raise AnalysisError(f"{path}: no HDF5 file; name a run file, evaluations, a sweep's directory or the file that "
                            "`bipo-dist collect` made of it")
    try:
        require_sealed(path)
        with h5py.File(path, "r") as file:
            kind = file.attrs.get("kind")
            if kind == "conceptor":
                raise AnalysisError("it holds a conceptor, which has no report; `bipo-dist inspect` shows it, and "
                                    "load_conceptor reads it")
            if kind != "sweep":
                raise AnalysisError("not a collected sweep; name a sweep's directory or the file that "
                                    "`bipo-dist collect` made of it")
            require_schema(int(file.attrs["schema_version"]), COLLECTED_SCHEMA)
            require_checked_attributes(file)
            plan = _checked_plan(str(file.attrs["plan"]))
            summary = with_site(read_table(file["summary"]))
            cells = [name for name in summary["cell"] if name in file["runs"]]
            version = str(file.attrs["program_version"])
    except AnalysisError as error:
        raise AnalysisError(f"{path}: {error}") from error
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise AnalysisError(f"{path}: damaged, or not a collected sweep: {error}") from error
    return Sweep(path, path.stem, plan, summary, _CollectedRuns(path, cells), version)
