"""What the files of an experiment hold, as rows of one table: numbers with their intervals, and the paper's beside."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy
import pandas

from ..evaluation import VECTOR, Evaluation
from ..intervals import Interval, wilson_interval
from ..paired import changes_from_zero, mean_change
from .published import (ATTACKS, DEFENDED, KEYWORD_ATTACKS, KEYWORD_DEFENDED, MMLU, SCORE, SUMMED, Published,
                        published)

CHANGE, ACCURACY, STEERABILITY = "change of propensity, nats", "held-out accuracy", "steerability, nats per unit"
SINGLE_CHANGE, SUMMED_CHANGE = "change of propensity, one vector", "change of propensity, summed vectors"
GAIN = "summed vectors less one vector, nats"
MC1, MC2, AB = "MC1", "MC2", "A/B accuracy"
CHANGE_OF = "change of "
JUDGED = (SCORE, SUMMED, ATTACKS, DEFENDED)
SHARES = (ACCURACY, MC1, MC2, AB, MMLU, ATTACKS, DEFENDED, KEYWORD_ATTACKS, KEYWORD_DEFENDED)
COLUMNS = ("experiment", "model", "data", "measure", "direction", "multiplier", "items", "value", "low", "high",
           "paper", "paper_model", "paper_items", "source", "differs")


@dataclass(frozen=True)
class Measured:
    """One number of ours; NaN where a judge has to give it.  `multiplier` is NaN where there is none."""

    experiment: str
    model: str
    data: str
    measure: str
    direction: str
    multiplier: float
    items: int
    value: float
    interval: Interval
    note: str = ""

    @property
    def paper(self) -> Published | None:
        return published(self.data, self.measure, self.direction, self.multiplier)

    def differs(self, settings: str) -> str:
        """Why the two numbers need not agree; what is the same in all rows stands in the text of the report."""
        reasons = [self.note] if self.note else []
        paper = self.paper
        if paper is None:
            return "; ".join(reasons)
        if paper.model.lower() not in self.model.lower():
            reasons.append(f"not {paper.model}")
        if self.measure in (KEYWORD_ATTACKS, KEYWORD_DEFENDED):
            reasons.append("refusal list, not GPT-4")
        if self.items and self.items != paper.items:
            reasons.append(f"{self.items} questions, not {paper.items:,}")
        if settings != "paper":
            reasons.append(f"settings {settings}")
        return "; ".join(reasons)


class Rows:
    """Collects the rows of one experiment on one model and data set."""

    def __init__(self, experiment: str, model: str, data: str):
        self._key = (experiment, model, data)
        self.rows: list[Measured] = []

    def add(self, measure: str, direction: str, multiplier: float, items: float, value: float, interval: Interval,
            note: str = "") -> None:
        self.rows.append(Measured(*self._key, measure, direction, float(multiplier), int(items), float(value),
                                  Interval(float(interval[0]), float(interval[1])), note))

    def effect(self, evaluation: Evaluation) -> None:
        """Change of propensity pair by pair, accuracy and steerability of the vector and its controls."""
        for row in changes_from_zero(evaluation).itertuples():
            if row.multiplier != 0:
                self.add(CHANGE, row.direction, row.multiplier, row.pairs, row.propensity,
                         Interval(row.propensity_low, row.propensity_high))
        for row in evaluation.curve.itertuples():
            if row.direction == VECTOR:
                self.add(ACCURACY, row.direction, row.multiplier, row.pairs, row.accuracy,
                         wilson_interval(row.accuracy, row.pairs))
        for row in evaluation.steerability.itertuples():
            self.add(STEERABILITY, row.direction, math.nan, row.pairs, row.steerability,
                     Interval(row.steerability_low, row.steerability_high))

    def choices(self, evaluation: Evaluation, kind: str, accuracy: str, probability: str = "") -> None:
        """The shares of /choices of one kind, and item by item what a multiplier changes of them.

        `probability` names the second measure where there is one.
        """
        for row in evaluation.choices[evaluation.choices["kind"] == kind].itertuples():
            self.add(accuracy, row.direction, row.multiplier, row.items, row.accuracy,
                     wilson_interval(row.accuracy, row.items))
            if probability:
                self.add(probability, row.direction, row.multiplier, row.items, row.probability,
                         Interval(row.probability_low, row.probability_high))

        items = evaluation.choice_items[evaluation.choice_items["kind"] == kind]
        for direction, own in items.groupby("direction", sort=False):
            right = own.pivot_table(index="item", columns="multiplier", values="correct", aggfunc="first").astype(float)
            for value in right.columns if 0.0 in right else ():
                if value != 0:
                    change = mean_change((right[value] - right[0.0]).dropna().to_numpy(), is_share=True)
                    self.add(f"{CHANGE_OF}{accuracy}", str(direction), value, change.items, change.value,
                             change.interval)

    def attacks(self, evaluation: Evaluation, measure: str, direction: str = VECTOR) -> None:
        """Success of an attack: the share of answers in which no refusal of the list is found."""
        costs = evaluation.costs[evaluation.costs["measure"] == "refusal_rate"]
        for row in costs.itertuples():
            self.add(measure, direction, row.multiplier, row.items, 1 - row.value,
                     wilson_interval(1 - row.value, row.items))

    def judged(self, evaluation: Evaluation | None, measure: str, multipliers: Iterable[float], requests: str,
               direction: str = VECTOR) -> None:
        """A judge's mean scores; where there are none a row that names the requests beside each number of the paper."""
        judged = set()
        for row in evaluation.judge.itertuples() if evaluation is not None else ():
            scored = row.items - row.errors
            interval = Interval(row.score_low, row.score_high)
            if measure in SHARES:
                interval = wilson_interval(row.score, scored)
            note = f"{row.errors} of {row.items} answers have no score" if row.errors else ""
            if scored:
                judged.add(row.multiplier)
                self.add(measure, direction, row.multiplier, scored, row.score, interval, note)
        for value in multipliers:
            if value not in judged and published(self._key[2], measure, direction, value) is not None:
                self.add(measure, direction, value, 0, math.nan, Interval(math.nan, math.nan),
                         f"needs a judge: {requests}")

    def grid(self, evaluation: Evaluation, own: int) -> None:
        """What the data set's own vector (`own`: 0 or 1) changes by itself, and what both do at the same multiplier.

        Pair by pair, from the cell in which both multipliers are 0, and from one another.
        """
        samples = evaluation.grid_samples
        if samples.empty:
            return
        values = samples.assign(value=samples["chosen_logp"] - samples["rejected_logp"]).pivot_table(
            index="pair", columns=["multiplier_1", "multiplier_2"], values="value", aggfunc="first")
        values = values[numpy.isfinite(values).all(axis=1)]
        for value in sorted({first for first, _ in values.columns}):
            alone, both = (value, 0.0) if own == 0 else (0.0, value), (value, value)
            for measure, cell, other in ((SINGLE_CHANGE, alone, (0.0, 0.0)), (SUMMED_CHANGE, both, (0.0, 0.0)),
                                         (GAIN, both, alone)):
                if value != 0 and cell in values and other in values:
                    change = mean_change((values[cell] - values[other]).to_numpy())
                    self.add(measure, VECTOR, value, change.items, change.value, change.interval)


def table_of(rows: Iterable[Measured], settings: str) -> pandas.DataFrame:
    """All rows with the columns COLUMNS, unrounded."""
    listed = []
    for row in rows:
        paper = row.paper
        listed.append((row.experiment, row.model, row.data, row.measure, row.direction, row.multiplier, row.items,
                       row.value, *row.interval, paper.value if paper else math.nan, paper.model if paper else "",
                       paper.items if paper else 0, paper.source if paper else "", row.differs(settings)))
    return pandas.DataFrame(listed, columns=list(COLUMNS))
