"""One evaluation of a vector, as the file of `bipo-dist evaluate` tells it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy
import pandas

from .checksums import require_checked_attributes
from .errors import AnalysisError
from .intervals import FEW_PAIRS, student_interval
from .stored import plain_value, read_stored, read_table, require_schema
from .wording import last_part

EVALUATION_SCHEMA = 2
VECTOR, CAA, RANDOM = "vector", "caa", "random"
CONTROLS = (CAA, RANDOM)
# Further random directions of the same norm are `random-2` and so on: ten or more are a null distribution.
Tables = dict[str, pandas.DataFrame]
_DRAW = re.compile(rf"{RANDOM}(?:-(\d+))?")
# What an evaluation is of, as readers call it.
CONCEPTOR = "conceptor"
# What the column `direction` says, in the order of plots and tables, and what readers call it.
DIRECTIONS = {VECTOR: "vector", CAA: "mean difference (CAA)", RANDOM: "random direction"}

# The same where there is little room.
SHORT_NAMES = {VECTOR: "vector", CAA: "CAA", RANDOM: "random"}


def _estimates(*names: str) -> tuple[str, ...]:
    """Columns with the bounds of their 95 % intervals."""
    return tuple(f"{name}{end}" for name in names for end in ("", "_low", "_high"))


# The tables of a file, and the columns that each must have.
COLUMNS = {
    "curve": ("direction", "multiplier", "pairs",
              *_estimates("accuracy", "margin", "propensity", "propensity_per_token"), "chosen_logp", "rejected_logp"),
    "steerability": ("direction", "norm", "pairs", *_estimates("steerability"), "steerability_sd",
                     *_estimates("anti_steerable", "spearman")),
    "samples": ("direction", "pair", "multiplier", "chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens",
                "slope"),
    "choices": ("set", "kind", "direction", "multiplier", "items", *_estimates("accuracy", "probability"),
                "macro_accuracy"),
    "costs": ("measure", "direction", "multiplier", *_estimates("value"), "items"),
    "grid": ("multiplier_1", "multiplier_2", "pairs", *_estimates("accuracy"), "margin", *_estimates("propensity")),
    "judge": ("behaviour", "multiplier", "items", "errors", *_estimates("score")),
    "judge_scores": ("behaviour", "prompt", "multiplier", "score"),
}
# Single items, without which choices and two vectors together have no paired comparison, and the pairs that chose a
# multiplier; a file may lack them.
ITEM_COLUMNS = {
    "choosing_pairs": ("pair", "chooses"),
    "choice_items": ("set", "kind", "direction", "multiplier", "item", "correct"),
    "grid_samples": ("multiplier_1", "multiplier_2", "pair", "chosen_logp", "rejected_logp"),
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The content of one evaluation file, in memory.

    The tables have the columns of COLUMNS (ITEM_COLUMNS the last three) and may each be empty: what was not asked for
    was not measured.  Of up to FEW_PAIRS pairs the bounds of steerability are Student's t where these are wider than
    the file's bootstrap, whose resamples of few vary too little.  Of several random directions the first is RANDOM in
    all tables; `other_draws` holds the rows of the others, by table.  `settings` is every effective setting, the
    attribute config.
    """

    name: str
    attributes: dict[str, object]
    settings: dict[str, object]
    curve: pandas.DataFrame
    steerability: pandas.DataFrame
    samples: pandas.DataFrame
    choices: pandas.DataFrame
    costs: pandas.DataFrame
    grid: pandas.DataFrame
    judge: pandas.DataFrame
    judge_scores: pandas.DataFrame
    choosing_pairs: pandas.DataFrame
    choice_items: pandas.DataFrame
    grid_samples: pandas.DataFrame
    other_draws: Tables = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The evaluated model's name, and its adapter's, without their folders."""
        names = [last_part(self.attributes.get(key)) for key in ("model", "adapter")]
        return " + ".join(name for name in names if name) or self.name

    @property
    def noun(self) -> str:
        """What it is of: "vector", or "conceptor" where it used nothing else."""
        listed = self.settings.get("vectors")
        kinds = {entry.get("kind") if isinstance(entry, dict) else None for entry in listed} \
            if isinstance(listed, list) else set()
        return CONCEPTOR if kinds == {CONCEPTOR} else VECTOR

    @property
    def tables(self) -> dict[str, pandas.DataFrame]:
        """All tables by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    @property
    def random_curve(self) -> pandas.DataFrame:
        """The rows of /curve of all random directions."""
        first = self.curve[self.curve["direction"] == RANDOM]
        return pandas.concat([first, self.other_draws["curve"]]) if "curve" in self.other_draws else first

    @property
    def test_data(self) -> str:
        """The name of the file of held-out pairs; empty where there were none."""
        return last_part(self.settings.get("test"))

    @property
    def slopes(self) -> pandas.DataFrame:
        """The slope of each pair: direction, pair, slope; pairs without one are left out."""
        known = self.samples[numpy.isfinite(self.samples["slope"])]
        return known[["direction", "pair", "slope"]].drop_duplicates(["direction", "pair"])


def load_evaluation(path: str | Path) -> Evaluation:
    """Reads an evaluation file.  Raises AnalysisError for what is missing, damaged, newer, or another kind of file."""
    return read_stored(path, "an evaluation file", "`bipo-dist evaluate`", _read)


def _read(file: h5py.File, name: str) -> Evaluation:
    attributes = {key: plain_value(value) for key, value in file.attrs.items()}
    _require_evaluation(file, attributes)
    require_checked_attributes(file)
    settings = json.loads(str(attributes["config"]))
    if not isinstance(settings, dict):
        raise ValueError("the attribute config is not a JSON object")
    tables = {table: _table(file, table, columns) for table, columns in COLUMNS.items()}
    tables["steerability"] = _with_students_bounds(tables["steerability"], tables["samples"])
    items = {table: _table(file, table, columns) if table in file else pandas.DataFrame(columns=list(columns))
             for table, columns in ITEM_COLUMNS.items()}
    shown, others = _split_draws({**tables, **items})
    return Evaluation(name, attributes, settings, **shown, other_draws=others)


def _with_students_bounds(steerability: pandas.DataFrame, samples: pandas.DataFrame) -> pandas.DataFrame:
    """/steerability, with wider bounds where there are few pairs and /samples tells their slopes."""
    few = steerability.index[steerability["pairs"] <= FEW_PAIRS]
    if few.empty:
        return steerability
    table = steerability.copy()
    slopes = samples[numpy.isfinite(samples["slope"])].drop_duplicates(["direction", "pair"])
    bounds = ["steerability_low", "steerability_high"]
    for index in few:
        own = slopes.loc[slopes["direction"] == table.at[index, "direction"], "slope"]
        if len(own) == table.at[index, "pairs"] and len(own) > 1:
            low, high = student_interval(own.to_numpy())
            table.loc[index, bounds] = [min(low, table.at[index, bounds[0]]), max(high, table.at[index, bounds[1]])]
    return table


def _split_draws(tables: Tables) -> tuple[Tables, Tables]:
    """The tables with the first random direction as RANDOM, and the rows of the others."""
    draws = {name: match for table in tables.values() if "direction" in table for name in set(table["direction"])
             if (match := _DRAW.fullmatch(name))}
    if len(draws) == 0:
        return tables, {}
    first = min(draws, key=lambda name: int(draws[name][1] or 1))
    shown, others = {}, {}
    for name, table in tables.items():
        shown[name] = table
        if "direction" in table and table["direction"].isin(draws).any():
            is_other = table["direction"].isin(set(draws) - {first})
            shown[name] = table[~is_other].replace({"direction": {first: RANDOM}}).reset_index(drop=True)
            if is_other.any():
                others[name] = table[is_other].reset_index(drop=True)
    return shown, others


def _require_evaluation(file: h5py.File, attributes: dict[str, object]) -> None:
    kind = attributes.get("kind")
    if kind == "sweep":
        raise AnalysisError("this is a collected sweep; `python -m bipo_analysis report` reads it")
    if kind is None and "steps" in file and "evals" in file:
        raise AnalysisError("this is the run file of a training; `bipo-dist evaluate --vector` makes an evaluation "
                            "file of it, and load_run reads it")
    if kind != "evaluation":
        raise AnalysisError("not an evaluation file; name a file that `bipo-dist evaluate` wrote")
    require_schema(attributes.get("schema_version"), EVALUATION_SCHEMA)


def _table(file: h5py.File, name: str, columns: tuple[str, ...]) -> pandas.DataFrame:
    if name not in file:
        raise AnalysisError(f"it has no table /{name}: damaged, or not written by bipo-dist")
    table = read_table(file[name])
    missing = [column for column in columns if column not in table]
    if missing:
        raise AnalysisError(f"its table /{name} lacks {', '.join(missing)}: damaged, or not written by bipo-dist")
    return table


def direction_name(direction: str, noun: str = VECTOR) -> str:
    """What readers call a direction in an evaluation of a `noun`, VECTOR or CONCEPTOR."""
    if noun == CONCEPTOR and direction in (VECTOR, RANDOM):
        return noun if direction == VECTOR else f"random {noun}"
    return DIRECTIONS.get(direction, direction)


def short_name(direction: str, noun: str = VECTOR) -> str:
    """What a table calls a direction."""
    return noun if direction == VECTOR else SHORT_NAMES.get(direction, direction)


def norm_name(noun: str) -> str:
    """What a norm is that of; a conceptor C changes activations by (βC − I) times them."""
    return "norm of βC − I" if noun == CONCEPTOR else "norm"


def directions_header(noun: str) -> str:
    """What a table calls the column of directions; a conceptor is none."""
    return "steered by" if noun == CONCEPTOR else "direction"


def directions_in(rows: pandas.DataFrame) -> list[str]:
    """The directions of a table, in the order of DIRECTIONS, others after them."""
    found = list(dict.fromkeys(rows["direction"]))
    return sorted(found, key=lambda name: list(DIRECTIONS).index(name) if name in DIRECTIONS else len(DIRECTIONS))


def of_direction(rows: pandas.DataFrame, direction: str) -> pandas.DataFrame:
    """The rows of one direction, by multiplier where they have one."""
    own = rows[rows["direction"] == direction]
    return own.sort_values("multiplier", kind="stable") if "multiplier" in own else own


def in_order(rows: pandas.DataFrame) -> pandas.DataFrame:
    """All rows by direction, then multiplier."""
    parts = [of_direction(rows, direction) for direction in directions_in(rows)]
    return pandas.concat(parts) if parts else rows
