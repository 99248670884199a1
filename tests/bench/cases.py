"""What the benchmark measures: its named cases, their contestants and their files of preference pairs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

WORDS_OF_A_LONG_ANSWER = 150
STAND_IN_STEPS = 3


@dataclass(frozen=True)
class Layout:
    """Processes of one contestant; ranks that do not share a model (`tp`) are replicas of it."""

    ranks: int = 1
    threads: int = 2
    tp: int = 1

    @property
    def cores(self) -> int:
        return self.ranks * self.threads

    @property
    def name(self) -> str:
        if self.ranks == 1:
            return f"1 rank x {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"tp {self.tp}" if self.tp == self.ranks else f"dp {self.ranks // self.tp}"


ONE_THREAD = Layout(threads=1)
DP_2 = Layout(ranks=2, threads=1)
TP_2 = Layout(ranks=2, threads=1, tp=2)


@dataclass(frozen=True)
class Contestant:
    """One way to train: `trainer` is program, plain (a) or precomputed (b)."""

    name: str
    trainer: str
    dtype: str = "fp32"
    layout: Layout = Layout()
    stand_in_batch: int | None = None  # where the case's own batch would take too long


@dataclass(frozen=True)
class StepCase:
    """Optimiser steps of several contestants on the same pairs in file order.

    After its warm-up a contestant makes whole passes over the pairs, so that each batch counts equally
    whatever the number of steps; only one with a batch of its own makes a few steps instead.
    """

    name: str
    layer: int
    contestants: tuple[Contestant, ...]
    answers: str = "short"  # or "long": 150 words
    batch: int = 4
    batches: int = 3
    passes: int = 3  # of the program; a plain trainer makes one

    @property
    def pairs(self) -> int:
        return self.batch * self.batches

    def batch_of(self, contestant: Contestant) -> int:
        return contestant.stand_in_batch or self.batch

    def warm_up(self, contestant: Contestant) -> int:
        """The program's first pass builds what all later epochs reuse; plain trainers keep nothing."""
        return self.batches if contestant.trainer == "program" else 1

    def steps(self, contestant: Contestant) -> int:
        """Those of the warm-up included."""
        if contestant.trainer == "program":
            return self.warm_up(contestant) + self.passes * self.batches
        return self.warm_up(contestant) + (STAND_IN_STEPS if contestant.stand_in_batch else self.batches)


@dataclass(frozen=True)
class SweepCase:
    """One sweep from its start to its end, against one run of the plain trainer per cell."""

    name: str
    layers: tuple[int, ...] = (5, 10, 15, 20, 25)
    seeds: tuple[int, ...] = (1, 2)
    dtype: str = "fp32"
    batch: int = 4
    pairs: int = 8  # few, so that the plain trainer's steps at each layer can cover them all
    epochs: int = 10
    layout: Layout = Layout()

    @property
    def cells(self) -> int:
        return len(self.layers) * len(self.seeds)

    @property
    def batches(self) -> int:
        return self.pairs // self.batch

    @property
    def steps_per_cell(self) -> int:
        return self.epochs * self.batches


@dataclass(frozen=True)
class StartCase:
    """From the program's start to its first step, with and without caches that an earlier run left."""

    name: str
    layer: int = 15
    dtype: str = "fp32"
    batch: int = 4
    pairs: int = 48
    layout: Layout = Layout()


Case = StepCase | SweepCase | StartCase


def against_plain(layout: Layout = Layout(), stand_in_batch: int | None = None) -> tuple[Contestant, ...]:
    return (Contestant("(a) plain, fp32", "plain", layout=layout, stand_in_batch=stand_in_batch),
            Contestant("(b) plain, reference once", "precomputed", layout=layout,
                       stand_in_batch=stand_in_batch),
            Contestant("bipo-dist, fp32", "program", layout=layout),
            Contestant("bipo-dist, bf16", "program", dtype="bf16", layout=layout))


def scaling(dtype: str = "fp32") -> tuple[Contestant, ...]:
    return tuple(Contestant(layout.name, "program", dtype, layout) for layout in (ONE_THREAD, DP_2, TP_2))


def large_batch(name: str, layer: int, answers: str = "short") -> StepCase:
    """Batches of 32 pairs; a plain step on one takes a minute, so batches of 4 stand for it."""
    return StepCase(name, layer, against_plain(stand_in_batch=4), answers, batch=32,
                    batches=1, passes=2)


MAIN = StepCase("layer15-short-b4", 15, against_plain())
MAIN_LARGE = large_batch("layer15-short-b32", 15)
SCALING = StepCase("layer15-short-b4-ranks", 15, scaling())
SWEEP = SweepCase("sweep-10-cells")
START = StartCase("start")

QUICK: tuple[Case, ...] = (MAIN, MAIN_LARGE, SCALING, SWEEP, START)  # all that the targets need
ALL: tuple[Case, ...] = (
    *QUICK,
    StepCase("layer5-short-b4", 5, against_plain()),
    StepCase("layer25-short-b4", 25, against_plain()),
    StepCase("layer5-long-b4", 5, against_plain(), "long", batches=1),
    StepCase("layer15-long-b4", 15, against_plain(), "long", batches=2),
    StepCase("layer25-long-b4", 25, against_plain(), "long", batches=2),
    large_batch("layer5-short-b32", 5),
    large_batch("layer25-short-b32", 25),
    large_batch("layer15-long-b32", 15, "long"),
    StepCase("layer15-short-b4-1thread", 15, against_plain(ONE_THREAD), batches=2),
    StepCase("layer15-short-b32-ranks", 15, scaling(), batch=32, batches=1, passes=2),
    StepCase("layer15-short-b4-ranks-bf16", 15, scaling("bf16")),
    SweepCase("sweep-10-cells-bf16", dtype="bf16"))


def select(text: str) -> list[Case]:
    """The cases that `--cases` names; throws ValueError for an unknown name."""
    if text in ("quick", "all"):
        return list(QUICK if text == "quick" else ALL)
    known = {case.name: case for case in ALL}
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise ValueError(f"no case {', '.join(unknown)}; there are quick, all, {', '.join(known)}")
    return [known[name] for name in text.split(",")]


def write_pairs(source: Path, target: Path, pairs: int, answers: str = "short") -> Path:
    """The first `pairs` rows of `source`, with its own answers or with ones of 150 words made of them.

    Throws ValueError where `source` has fewer rows.
    """
    with open(source, newline="", encoding="utf-8") as file:
        rows = [(row["question"], row["matching"], row["not_matching"]) for row in csv.DictReader(file)]
    if len(rows) < pairs:
        raise ValueError(f"{source} has {len(rows)} pairs, {pairs} are needed; give --train a larger file")
    chosen = [
        row if answers == "short" else (row[0], long_answer(rows, number, 1), long_answer(rows, number, 2))
        for number, row in enumerate(rows[:pairs])]
    with open(target, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "matching", "not_matching"), *chosen])
    return target


def long_answer(rows: list[tuple[str, str, str]], first: int, column: int) -> str:
    """The answers of row `first` and those after it, joined and cut at 150 words."""
    words: list[str] = []
    for offset in range(WORDS_OF_A_LONG_ANSWER):
        words += rows[(first + offset) % len(rows)][column].split()
        if len(words) >= WORDS_OF_A_LONG_ANSWER:
            break
    return " ".join(words[:WORDS_OF_A_LONG_ANSWER])
