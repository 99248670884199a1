"""Evaluation files written by h5py alone, whose every number is a simple function of pair, direction and multiplier."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy

CHOSEN_TOKENS, REJECTED_TOKENS = 10, 12
BETA = 0.1
Rows = list[dict[str, object]]


def estimate(name: str, values: Sequence[float] | numpy.ndarray) -> dict[str, float]:
    """The mean of values with an interval of two standard errors."""
    data = numpy.asarray(values, dtype=float)
    half = 2 * data.std() / math.sqrt(len(data)) if len(data) else math.nan
    mean = data.mean() if len(data) else math.nan
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


def around(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def fingerprint(text: str) -> str:
    return f"{zlib.crc32(text.encode()):016x}"


@dataclass(frozen=True)
class SyntheticEvaluation:
    """The content of one file; `slopes` are the mean slopes of the directions, single pairs lie evenly around them."""

    slopes: dict[str, float] = field(default_factory=lambda: {"vector": 1.2, "caa": 0.6, "random": 0.05})
    norms: dict[str, float] = field(default_factory=dict)  # 3.2 where not named
    multipliers: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    pairs: int = 60
    spread: float = 0.8  # half the range of a direction's slopes
    bend: float = 0.0  # propensity falls by bend * m^2
    synergy: float = 0.3  # of two vectors, times the product of their multipliers
    damage: float = 0.05  # KL at multiplier 1 of the vector; the controls' is in `damages`
    damages: dict[str, float] = field(default_factory=lambda: {"caa": 0.06, "random": 0.02})
    judge_errors: int = 1
    absent: frozenset[str] = frozenset()  # tables without rows
    model: str = "models/smollm2"
    adapter: str = ""
    trained_on: str = "models/smollm2"
    vector_file: str = "runs/warmth.h5"
    epoch: int = 2  # from 0
    selected: str = ""  # how the vector was asked for
    test: str = "data/test.csv"
    draws: int = 1  # random directions
    draw_spread: float = 0.1  # half the range of the further draws' mean slopes
    singles: frozenset[str] = frozenset()  # of choice_items and grid_samples, those that the file holds

    def norm(self, direction: str) -> float:
        return self.norms.get(direction, 3.2)

    def pair_slopes(self, direction: str) -> numpy.ndarray:
        """Every direction spreads the same pairs the same way, so that slopes differ by a constant pair by pair."""
        return self._mean_slope(direction) + self.spread * numpy.linspace(-1, 1, self.pairs)

    def _mean_slope(self, direction: str) -> float:
        """Further draws lie evenly from -draw_spread to draw_spread."""
        if direction in self.slopes:
            return self.slopes[direction]
        place = (int(direction.partition("-")[2]) - 2) / max(1, self.draws - 2)
        return self.draw_spread * (2 * place - 1)

    def propensities(self, direction: str, multiplier: float) -> numpy.ndarray:
        base = -0.5 + 0.1 * (numpy.arange(self.pairs) % 7)
        return base + self.pair_slopes(direction) * multiplier - self.bend * multiplier**2

    def log_probs(self, direction: str, multiplier: float) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Of the matching and of the other answers."""
        propensities = self.propensities(direction, multiplier)
        return -30 + propensities / 2, -30 - propensities / 2

    def curve(self) -> Rows:
        rows = []
        for direction, multiplier in self._points():
            values = self.propensities(direction, multiplier)
            chosen, rejected = self.log_probs(direction, multiplier)
            rows.append({"direction": direction, "multiplier": multiplier, "pairs": self.pairs,
                         **estimate("accuracy", values > 0),
                         **estimate("margin", BETA * (values - self.propensities(direction, 0.0))),
                         **estimate("propensity", values),
                         **estimate("propensity_per_token", chosen / CHOSEN_TOKENS - rejected / REJECTED_TOKENS),
                         "chosen_logp": chosen.mean(), "rejected_logp": rejected.mean()})
        return rows

    def _points(self) -> list[tuple[str, float]]:
        return [(direction, multiplier) for direction in self._directions() for multiplier in self.multipliers]

    def _directions(self) -> list[str]:
        return [*self.slopes, *(f"random-{draw}" for draw in range(2, self.draws + 1))]

    def steerability(self) -> Rows:
        rows = []
        for direction in self._directions():
            slopes = self.pair_slopes(direction)
            rows.append({"direction": direction, "norm": self.norm(direction), "pairs": self.pairs,
                         **estimate("steerability", slopes),
                         "steerability_sd": slopes.std(ddof=1) if self.pairs > 1 else math.nan,
                         **estimate("anti_steerable", slopes < 0), **estimate("spearman", numpy.sign(slopes))})
        return rows

    def samples(self) -> Rows:
        rows = []
        for direction, multiplier in self._points():
            chosen, rejected = self.log_probs(direction, multiplier)
            rows += [{"direction": direction, "pair": pair, "multiplier": multiplier, "chosen_logp": chosen[pair],
                      "rejected_logp": rejected[pair], "chosen_tokens": CHOSEN_TOKENS,
                      "rejected_tokens": REJECTED_TOKENS, "slope": slope}
                     for pair, slope in enumerate(self.pair_slopes(direction))]
        return rows

    def choices(self) -> Rows:
        """A/B items follow the slope, MC hardly does, MMLU loses on both sides."""
        rows = []
        for direction, m in self._points():
            slope = self._mean_slope(direction)
            for name, kind, accuracy in (("warmth", "ab", 0.5 + 0.12 * slope * m), ("TruthfulQA", "mc", 0.3 + 0.01 * m),
                                         ("general knowledge", "mmlu", 0.45 - 0.03 * abs(slope) * m * m)):
                share = min(1.0, max(0.0, accuracy))
                rows.append({"set": name, "kind": kind, "direction": direction, "multiplier": m, "items": 200,
                             **around("accuracy", share, 0.03), **around("probability", 0.9 * share, 0.02),
                             "macro_accuracy": share - 0.01 if kind == "mmlu" else share})
        return rows

    def costs(self) -> Rows:
        measures: dict[str, Callable[[float, float], float]] = {
            "perplexity_reference_text": lambda damage, m: 12 * math.exp(damage * m * m),
            "perplexity_of_generations": lambda damage, m: 5 * math.exp(2 * damage * m * m),
            "kl_neutral": lambda damage, m: damage * m * m,
            "distinct_1": lambda damage, m: 0.4 - damage * abs(m),
            "distinct_2": lambda damage, m: 0.8 - damage * abs(m),
            "distinct_3": lambda damage, m: 0.9 - damage * abs(m),
            "compression_ratio": lambda damage, m: 0.45 - damage * abs(m) / 2,
            "refusal_rate": lambda damage, m: max(0.0, 0.1 - damage * m)}
        rows = []
        for measure, formula in measures.items():
            for direction, m in self._points():
                if direction != "vector" and measure not in ("perplexity_reference_text", "kl_neutral"):
                    continue  # generations are of the vector only
                value = formula(self.damage if direction == "vector" else self.damages[direction.partition("-")[0]], m)
                rows.append({"measure": measure, "direction": direction, "multiplier": m,
                             **around("value", value, 0.05 * value), "items": 40})
        return rows

    def grid(self) -> Rows:
        rows = []
        for first in (-1.0, 0.0, 1.0):
            for second in (-1.0, 0.0, 1.0):
                value = -0.2 + 1.2 * first + 0.5 * second + self.synergy * first * second
                rows.append({"multiplier_1": first, "multiplier_2": second, "pairs": self.pairs,
                             **around("accuracy", 0.5 + 0.2 * value, 0.05), "margin": BETA * (value + 0.2),
                             **around("propensity", value, 0.1)})
        return rows

    def choice_items(self) -> Rows:
        """The A/B items alone: at each multiplier the first ones are right, as many as /choices says."""
        rows = []
        for row in self.choices():
            right = round(row["accuracy"] * row["items"])
            rows += [{"set": row["set"], "kind": row["kind"], "direction": row["direction"],
                      "multiplier": row["multiplier"], "item": item, "correct": float(item < right)}
                     for item in range(row["items"])]
        return rows

    def grid_samples(self) -> Rows:
        """Pairs differ by bases of up to 60 nats and, in what both vectors do together, by up to 0.1."""
        rows = []
        for cell in self.grid():
            together = cell["multiplier_1"] * cell["multiplier_2"]
            for pair, place in enumerate(numpy.linspace(-1, 1, self.pairs)):
                value = cell["propensity"] + 60 * place + 0.1 * together * place
                rows.append({"multiplier_1": cell["multiplier_1"], "multiplier_2": cell["multiplier_2"], "pair": pair,
                             "chosen_logp": -40 + value / 2, "rejected_logp": -40 - value / 2})
        return rows

    def judge(self) -> Rows:
        return [{"behaviour": "warmth", "multiplier": m, "items": 20, "errors": self.judge_errors if m == 2 else 0,
                 **around("score", 2.5 + 0.6 * m, 0.2)} for m in self.multipliers]

    def judge_scores(self) -> Rows:
        return [{"behaviour": "warmth", "prompt": prompt, "multiplier": m, "score": 1 + (prompt + round(m)) % 4}
                for prompt in range(20) for m in self.multipliers]

    def rows(self, table: str) -> Rows:
        return [] if table in self.absent else getattr(self, table)()

    def settings(self) -> dict[str, object]:
        """What `config` holds, in small."""
        return {"model": self.model, "test": self.test, "test_tokens_hash": fingerprint(self.test),
                "multipliers": list(self.multipliers), "seed": 42,
                "model_fingerprint": fingerprint(self.model + self.adapter), "system_prompt": "Be brief.",
                "vectors": [{"file": self.vector_file, "layer": 15, "epoch": self.epoch, "step": 30, "weight": 1.0,
                             "selected": self.selected,
                             "norm": self.norm("vector"), "model": self.trained_on,
                             "model_fingerprint": fingerprint(self.trained_on)}]}

    def write(self, path: Path) -> Path:
        with h5py.File(path, "w") as file:
            file.attrs.update({
                "schema_version": 1, "kind": "evaluation", "config": json.dumps(self.settings()),
                "program_version": "0.1.0", "git_commit": "0123456789abcdef", "created_utc": "2026-01-02T03:04:05Z",
                "model": self.model, "adapter": self.adapter, "hidden_size": 576, "world_size": 2, "dp": 2, "tp": 1,
                "backend": "mpi", "dtype": "fp32", "hosts": "node1"})
            for table in ("curve", "steerability", "samples", "choices", "costs", "grid", "judge", "judge_scores"):
                # Of an empty table the columns' types are those of a full one.
                full = as_array(getattr(self, table)() or getattr(SyntheticEvaluation(), table)())
                file.create_dataset(table, data=full[:len(self.rows(table))], maxshape=(None,), chunks=(64,))
            for table in self.singles:
                file[table] = as_array(getattr(self, table)())
        return path


def as_array(rows: Rows) -> numpy.ndarray:
    """Texts of fixed length in UTF-8, counts as int64, the rest float64: as the program writes them."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    kinds = []
    for name, values in columns.items():
        if isinstance(values[0], str):
            columns[name] = [str(value).encode() for value in values]
            longest = max(map(len, columns[name]))
            kinds.append((name, h5py.string_dtype("utf-8", longest)))
        else:
            kinds.append((name, "<i8" if isinstance(values[0], int) else "<f8"))
    table = numpy.zeros(len(rows), kinds)
    for name, values in columns.items():
        table[name] = values
    return table
