"""Trained vectors with their evaluations: the cells of sweeps, and which settings tell their choices apart."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from .errors import AnalysisError
from .evaluation import Evaluation, load_evaluation
from .kinds import EVALUATION, RUN, is_collected, kind_of
from .run import Run
from .summary import AXES, OBJECTIVE_AXES, SETTING_AXES, total_steps
from .sweep import Sweep
from .sweeps import load_sweeps
from .vectors_in_use import vectors_in_use
from .wording import joined, last_part, plain

# Settings that say where and on what a cell ran, not which choice it is; hashes and paths follow from the data.
NO_CHOICE = frozenset((
    "name", "data", "model", "adapter", "train", "test", "out", "seed", "data_seed", "threads", "dp", "tp",
    "world_size", "device",
    "backend", "deterministic", "micro_batch", "cache_budget", "cache_device", "cache_dir", "cache_dtype",
    "cache_shared", "save_every", "eval_every", "multipliers", "model_fingerprint", "weights_hash", "train_pairs",
    "train_tokens_hash", "test_pairs", "test_tokens_hash", "max_pairs", "max_test_pairs", "template_date",
    "template_date_given", "skip_bad", "rescue_dir", "vectors_per_pass", "block_output_factor"))
# What a setting is in files that leave it out.
USUAL: dict[str, object] = {**OBJECTIVE_AXES, "factors": [1.0], "norm": "free", "schedule": "cosine", "init": "zero",
                            "positions": "all", "site": "block"}
# What a choice is called that departs from the others in nothing.
BASE = "base"


@dataclass(frozen=True, eq=False)
class Cell:
    """One trained vector with its evaluation, if there is one; `settings` are all of its run."""

    name: str
    path: Path  # its run file; in a collected sweep, where it would lie beside that
    origin: str  # the sweep or file
    model: str
    data: str
    seed: int
    status: str
    settings: Mapping[str, object]
    run: Run | None
    evaluation: Evaluation | None = None

    @property
    def panel(self) -> tuple[str, str]:
        """Cells are compared on one model and data set."""
        return (self.model, self.data)


@dataclass(frozen=True, eq=False)
class Choice:
    """The cells of one model and data set that differ in the seed only, in the order of their seeds."""

    label: str
    departures: dict[str, object]  # what differs from the panel's base
    cells: list[Cell]

    @property
    def seeds(self) -> list[int]:
        return [cell.seed for cell in self.cells]


@dataclass(frozen=True, eq=False)
class Panel:
    """The choices of one model and data set; the first one is the reference."""

    model: str
    data: str
    base: dict[str, object]
    choices: list[Choice] = field(default_factory=list)

    @property
    def title(self) -> str:
        return ", ".join(name for name in (self.model, self.data) if name) or "all cells"


@dataclass(frozen=True)
class LeftOut:
    """What a comparison passes over, and why, as words that fit several names."""

    name: str
    reason: str


def load_cells(paths: Iterable[str | Path]) -> list[Cell]:
    """The cells of sweeps, run files and evaluations; a directory without a plan stands for what is in it.

    An evaluation belongs to the cell whose run file it names as its vector.  One whose run is not among the paths is a
    cell of its own, with the settings of the evaluation.  Raises AnalysisError where a file cannot be read, a name
    fits several cells, or one cell has two evaluations.
    """
    files = [file for path in paths for file in _inputs(Path(path))]
    kinds = {file: kind_of(file) for file in dict.fromkeys(files)}
    evaluations = [(file, load_evaluation(file)) for file, kind in kinds.items() if kind == EVALUATION]
    cells = [cell for file, kind in kinds.items() if kind != EVALUATION for cell in _cells_of(file, kind)]
    if not cells and not evaluations:
        raise AnalysisError("no sweep, run file or evaluation among the paths; name sweeps and the files of "
                            "`bipo-dist evaluate` on their vectors")
    found: dict[int, tuple[Path, Evaluation]] = {}
    alone = []
    for file, evaluation in evaluations:
        index = _cell_of(evaluation, file, cells)
        if index is None:
            alone.append(_lone_cell(file, evaluation))
        elif index in found:
            raise AnalysisError(f"{file} and {found[index][0]} both evaluate {cells[index].name}; name one of them")
        else:
            found[index] = (file, evaluation)
    matched = [replace(cell, evaluation=found[index][1]) if index in found else cell
               for index, cell in enumerate(cells)]
    return _with_told_apart_data(matched) + alone


def _inputs(path: Path) -> list[Path]:
    """The files and sweep directories that a path stands for."""
    if not path.is_dir():
        return [path]
    sweeps = sorted(plan.parent for plan in path.rglob("plan.json"))
    # A run file outside of a sweep may be anything; name it to have it compared.  See passed_over.
    inputs = sweeps + [file for file in sorted(path.rglob("*.h5")) if kind_of(file) == EVALUATION]
    if not inputs:
        raise AnalysisError(f"{path}: holds no sweep and no evaluation; run files and collected sweeps in a folder are "
                            "compared where they are named themselves")
    return inputs


def passed_over(paths: Iterable[str | Path], cells: Sequence[Cell]) -> list[LeftOut]:
    """The run files and collected sweeps in the folders among `paths` that are no part of `cells`, load_cells' of them.

    A folder stands for its sweeps and evaluations alone.
    """
    listed = list(map(Path, paths))
    known = {cell.path for cell in cells} | {path.resolve() for path in listed}
    found = {}
    for folder in (path for path in listed if path.is_dir()):
        for file in sorted(folder.rglob("*.h5")):
            if file.resolve() in known:
                continue
            if kind_of(file) == RUN:
                found[file] = "run files outside of a sweep (name them to have them compared)"
            elif is_collected(file):
                found[file] = "collected sweeps within a folder (name them to have them compared)"
    return [LeftOut(str(file), reason) for file, reason in found.items()]


def left_out(cells: Sequence[Cell], compared: Sequence[Panel]) -> list[LeftOut]:
    """Those of `cells` that add nothing to a comparison of `compared`, panels of them that were evaluated."""
    kept = {id(cell) for panel in compared for choice in panel.choices for cell in choice.cells}
    shown = {(panel.model, panel.data) for panel in compared}
    found = []
    for cell in cells:
        if cell.evaluation is not None and id(cell) in kept:
            continue
        found.append(LeftOut(f"{cell.name} of {cell.origin}" if cell.origin not in ("", cell.name) else cell.name,
                             _reason(cell, id(cell) in kept, cell.panel in shown)))
    return found


def _reason(cell: Cell, is_kept: bool, is_shown: bool) -> str:
    """Why a cell adds nothing."""
    if cell.run is None and cell.evaluation is None:
        return f"cells without {'a readable' if cell.status == 'unreadable' else 'a'} run file ({cell.status})"
    if not is_shown:
        names = ", ".join(name for name in cell.panel if name)
        return f"cells of {names}, of which none was evaluated"
    if is_kept:
        status = "" if cell.status == "complete" else f" ({cell.status})"
        return f"cells whose vectors no evaluation among the paths is of{status}"
    return "cells with the settings and the seed of another one, which is compared"


def _cells_of(path: Path, kind: str) -> list[Cell]:
    sweep = load_sweeps([path])
    origin = path if kind == RUN or not path.is_dir() else path / "cell.h5"
    rows = sweep.summary.to_dict("records")
    runs = {str(row["cell"]): sweep.runs[str(row["cell"])] for row in rows if row["cell"] in sweep.runs}
    shared = _shared_settings(list(runs.values()))
    return [_cell(sweep, origin, row, runs.get(str(row["cell"])), shared) for row in rows]


def _shared_settings(runs: Sequence[Run]) -> dict[str, object]:
    """The settings that all of the runs have in common."""
    if not runs:
        return {}
    return {name: value for name, value in runs[0].settings.items()
            if all(name in run.settings and run.settings[name] == value for run in runs[1:])}


def _planned_settings(row: Mapping[str, object], shared: Mapping[str, object]) -> dict[str, object]:
    """The settings of a cell without a run: those of the other cells, and its own as its row of the summary has them.

    Without them it would seem to be another choice than the cells that differ from it in the seed alone.
    """
    axes = [name for name in (*AXES, *OBJECTIVE_AXES, *SETTING_AXES) if name not in NO_CHOICE and name in row]
    own = {name: row[name] for name in axes if name not in ("layer", "joint_layers")
           and _shown(row[name]) != _shown(shared.get(name, USUAL.get(name)))}
    jointly = str(row.get("joint_layers") or "")
    layer = [int(part) for part in jointly.split("+")] if jointly else row["layer"]
    return {**shared, **own, "layer": layer}


def _cell(sweep: Sweep, origin: Path, row: dict[str, object], run: Run | None, shared: Mapping[str, object]) -> Cell:
    name = str(row["cell"])
    settings = _planned_settings(row, shared) if run is None else dict(run.settings)
    model = last_part(run.attributes.get("model")) if run is not None else str(row["model"])
    model = model.removesuffix(".gguf")
    return Cell(name, origin.resolve().with_name(f"{name}.h5"), sweep.name, model, str(row["data"]), int(row["seed"]),
                str(row["status"]), settings, run)


def _cell_of(evaluation: Evaluation, file: Path, cells: Sequence[Cell]) -> int | None:
    """The cell whose run file the evaluation names: that which shares the most folders with the named path."""
    used = vectors_in_use(evaluation)
    if len(used) != 1:
        return None
    path = PurePosixPath(used[0].path)
    fitting = {index: _shared_end(path, cell.path) for index, cell in enumerate(cells) if cell.path.name == path.name}
    best = [index for index, shared in fitting.items() if shared == max(fitting.values())]
    if len(best) > 1:
        trained_on = used[0].trained_on.removesuffix(".gguf")
        best = [index for index in best if cells[index].model == trained_on] or best
    if len(best) > 1:
        named = joined([str(cells[index].path) for index in best])
        raise AnalysisError(f"{file}: its vector {path} may be that of {named}; name those sweeps one at a time")
    return best[0] if best else None


def _shared_end(one: PurePosixPath, other: Path) -> int:
    """How many parts, from the last one on, two paths have in common."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _with_told_apart_data(cells: Sequence[Cell]) -> list[Cell]:
    """Data sets that share a name, because their files do, are named by their folders."""
    trained_on: dict[str, set[str]] = {}
    for cell in cells:
        trained_on.setdefault(cell.data, set()).add(str(cell.settings.get("train") or ""))
    return [replace(cell, data=PurePosixPath(str(cell.settings["train"])).parent.name or cell.data)
            if len(trained_on[cell.data]) > 1 and cell.settings.get("train") else cell for cell in cells]


def _lone_cell(file: Path, evaluation: Evaluation) -> Cell:
    used = vectors_in_use(evaluation)
    vector = " + ".join(PurePosixPath(item.path).stem for item in used) or file.stem
    test = PurePosixPath(str(evaluation.settings.get("test") or ""))
    data = test.parent.name or test.stem
    layers = used[0].layers if used else ()
    settings = {"vector": vector, "layer": list(layers) if len(layers) > 1 else used[0].layer if used else None}
    if used and used[0].site:
        settings["site"] = used[0].site
    model = evaluation.model.removesuffix(".gguf")
    return Cell(vector, file.resolve(), file.stem, model, data, -1, "complete", settings, None, evaluation)


def panels(cells: Sequence[Cell]) -> list[Panel]:
    """The cells by model and data set, then by choice, the reference first, in the order of the cells.

    Raises AnalysisError where evaluations of one model and data set rest on different held-out pairs, or use their
    vectors in different ways.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.panel, []).append(cell)
    for own in groups.values():
        _require_same_pairs(own)
        _require_same_use(own)
    return [_panel(model, data, own) for (model, data), own in groups.items()]


def _require_same_pairs(cells: Sequence[Cell]) -> None:
    """Pairs are compared by their place in the file, so that those of other files would be compared with each other."""
    rest_on = {cell.evaluation.settings.get("test_tokens_hash"): cell for cell in cells
               if cell.evaluation is not None and len(cell.evaluation.samples)}
    if len(rest_on) > 1:
        one, other = list(rest_on.values())[:2]
        raise AnalysisError(f"the evaluations of {one.path} and {other.path} rest on different held-out pairs, so they "
                            "cannot be compared pair by pair; evaluate both with the same --test, --max-test-pairs, "
                            "--data-seed and text options, or name one at a time")


def _require_same_use(cells: Sequence[Cell]) -> None:
    """What a vector does when it is taken away, or for some prompts only, is no effect of its training."""
    for name, usual in (("intervention", "add"), ("gate", "none")):
        used = {str(cell.evaluation.settings.get(name) or usual): cell for cell in cells if cell.evaluation is not None}
        if len(used) > 1:
            (first, one), (second, other) = list(used.items())[:2]
            raise AnalysisError(f"the evaluations of {one.path} and {other.path} have different settings of --{name} "
                                f"({first} and {second}), so they say nothing about how the vectors were trained; "
                                "evaluate both alike, or name one at a time")


def _panel(model: str, data: str, cells: list[Cell]) -> Panel:
    varying = _varying(cells)
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(_text(cell, name) for name in varying), []).append(cell)
    base = {name: _usual_value(name, [key[place] for key in groups]) for place, name in enumerate(varying)}
    choices = []
    for key, own in groups.items():
        texts = dict(zip(varying, key, strict=True))
        departures = {name: _value(own[0], name) for name in varying if texts[name] != base[name]}
        label = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in departures.items()) or BASE
        choices.append(Choice(label, departures, _one_per_seed(own)))
    # The reference departs in the least; the sort keeps the order of the others.
    reference = min(choices, key=lambda choice: len(choice.departures))
    choices = [reference, *(choice for choice in choices if choice is not reference)]
    return Panel(model, data, {name: _value_of(choices, name, base[name]) for name in varying}, choices)


def _one_per_seed(cells: Sequence[Cell]) -> list[Cell]:
    """A cell of each seed, an evaluated one where there is one: sweeps may share their reference."""
    by_seed: dict[int, Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.evaluation is None):
        by_seed.setdefault(cell.seed, cell)
    return [by_seed[seed] for seed in sorted(by_seed)]


def _varying(cells: Sequence[Cell]) -> list[str]:
    """The settings in which the cells differ, and that are choices."""
    names = dict.fromkeys(name for cell in cells for name in cell.settings if name not in NO_CHOICE)
    varying = [name for name in names if len({_text(cell, name) for cell in cells}) > 1]
    # The warm-up in steps follows from the others; a limit of steps that only makes runs equally long is no choice.
    same_length = len({total_steps(cell.run) for cell in cells if cell.run is not None}) == 1
    implied = {"warmup_steps", *(("max_steps",) if same_length else ())}
    return [name for name in varying if name not in implied] or varying


def _usual_value(name: str, values: Sequence[str]) -> str:
    """The value of most choices; of equally frequent ones that of files that do not name it, then the first."""
    counts = Counter(values)
    most = max(counts.values())
    frequent = [value for value in counts if counts[value] == most]
    usual = _shown(USUAL[name]) if name in USUAL else None
    return usual if usual in frequent else frequent[0]


def _value(cell: Cell, name: str) -> object:
    return cell.settings.get(name, USUAL.get(name))


def _text(cell: Cell, name: str) -> str:
    return _shown(_value(cell, name))


def _shown(value: object) -> str:
    """A value as labels have it, in which ", " stands between settings."""
    return plain(value).replace(", ", ",")


def _value_of(choices: Sequence[Choice], name: str, text: str) -> object:
    return next(_value(cell, name) for choice in choices for cell in choice.cells if _text(cell, name) == text)
