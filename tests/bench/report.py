"""Turns what the rounds of a case measured into figures, into tables and into a verdict on each target."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cases
from cases import Contestant, StartCase, StepCase, SweepCase

BREAKDOWN = ("products", "attention", "head", "elementwise", "collectives", "other")
DISTURBING_CORES = 0.25
FLOOR_FORMULA = "4 x (projection parameters of blocks L+1..N-1) x tokens + 4 x V x D x answer tokens"


@dataclass(frozen=True)
class Model:
    """The sizes of config.json that the arithmetic floor depends on."""

    hidden: int
    blocks: int
    vocabulary: int
    block_parameters: int  # of the seven projection matrices

    @staticmethod
    def read(directory: Path) -> Model:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        size = config.get("head_dim") or hidden // heads
        key_heads = config.get("num_key_value_heads", heads)
        attention = hidden * size * (heads + 2 * key_heads) + heads * size * hidden
        return Model(hidden, config["num_hidden_layers"], config["vocab_size"],
                     attention + 3 * hidden * config["intermediate_size"])

    def floor_operations(self, layer: int, tokens: float, answer_tokens: float) -> float:
        """Forward and activation-only backward: two multiply-adds per parameter and token."""
        suffix = (self.blocks - 1 - layer) * self.block_parameters
        return 4 * suffix * tokens + 4 * self.vocabulary * self.hidden * answer_tokens

    def resident_bytes(self, layer: int) -> int:
        """fp32 weights that training at `layer` needs: the suffix with its norms, and the head."""
        suffix = (self.blocks - 1 - layer) * (self.block_parameters + 2 * self.hidden)
        return 4 * (suffix + self.hidden + self.vocabulary * self.hidden)


@dataclass(frozen=True)
class PairTokens:
    """Token counts of one pair."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def packed(self) -> int:
        """The prompt once; the last token of an answer predicts nothing and is not computed."""
        return self.prompt + self.chosen + self.rejected - 2

    @property
    def answers(self) -> int:
        return self.chosen + self.rejected


@dataclass(frozen=True)
class Run:
    """One process of a contestant."""

    warm_up_seconds: list[float]
    seconds: list[float]  # of each counted step
    losses: list[float]  # of every step
    startup_seconds: float  # the process from start to end, without its steps
    peak_bytes: int  # resident set of its largest process
    cores_of_others: float  # that were busy with something else meanwhile, on average


@dataclass
class StepResults:
    """All rounds of one case."""

    case: StepCase
    model: Model
    pairs: list[PairTokens]
    runs: dict[str, list[Run]] = field(default_factory=dict)  # by contestant
    peaks: dict[int, list[dict]] = field(default_factory=dict)  # by cores
    profiles: dict[str, dict] = field(default_factory=dict)  # by contestant, what `bench` printed

    def figures(self) -> dict:
        contestants = {contestant.name: self.contestant_figures(contestant)
                       for contestant in self.case.contestants}
        return {"kind": "steps", "name": self.case.name, "layer": self.case.layer, "batch": self.case.batch,
                "answers": self.case.answers, "pairs": [asdict(pair) for pair in self.pairs],
                "resident_bytes_needed": self.model.resident_bytes(self.case.layer),
                "peaks": self.peaks, "contestants": contestants,
                "greatest_cores_of_others": max(row["cores_of_others"]["max"] for row in contestants.values())}

    def contestant_figures(self, contestant: Contestant) -> dict:
        runs = self.runs[contestant.name]
        batch = self.case.batch_of(contestant)
        tokens, answers = self.tokens_per_step(contestant)
        seconds = [second for run in runs for second in run.seconds]
        step = statistics.median(seconds)
        operations = self.model.floor_operations(self.case.layer, tokens, answers)
        peak = self.peak(contestant)
        return {
            "dtype": contestant.dtype, "ranks": contestant.layout.ranks, "threads": contestant.layout.threads,
            "tp": contestant.layout.tp, "batch": batch, "stand_in": contestant.stand_in_batch is not None,
            "seconds_per_step": spread(seconds), "pairs_per_second": batch / step,
            "tokens_per_step": tokens, "answer_tokens_per_step": answers, "tokens_per_second": tokens / step,
            "floor_operations_per_step": operations, "achieved_flops": operations / step, "peak_flops": peak,
            "fraction_of_peak": operations / step / peak,
            "speedups": {baseline.name: self.speedup(contestant, baseline) for baseline in self.baselines()},
            "peak_bytes": max(run.peak_bytes for run in runs),
            "startup_seconds": spread([run.startup_seconds for run in runs]),
            "cores_of_others": spread([run.cores_of_others for run in runs]),
            "runs": [asdict(run) for run in runs], "profile": self.profiles.get(contestant.name)}

    def peak(self, contestant: Contestant) -> float:
        """For bf16 the better dtype's: without bf16 instructions, fp32 products are the machine's limit."""
        dtypes = {"fp32", contestant.dtype}
        samples = self.peaks[contestant.layout.cores]
        return max(statistics.median(sample[dtype] for sample in samples) for dtype in dtypes)

    def baselines(self) -> list[Contestant]:
        plain = [contestant for contestant in self.case.contestants if contestant.trainer != "program"]
        return plain or [self.case.contestants[0]]

    def tokens_per_step(self, contestant: Contestant) -> tuple[float, float]:
        """Mean packed and answer tokens of the steps that count."""
        batch = self.case.batch_of(contestant)
        counted = range(self.case.warm_up(contestant), self.case.steps(contestant))
        firsts = [step * batch % len(self.pairs) for step in counted]
        return (statistics.mean(sum(pair.packed for pair in self.pairs[first:first + batch]) for first in firsts),
                statistics.mean(sum(pair.answers for pair in self.pairs[first:first + batch]) for first in firsts))

    def speedup(self, contestant: Contestant, baseline: Contestant) -> dict:
        """Ratio of tokens/s from the medians of all steps, and its range over the rounds."""
        weight = self.tokens_per_step(contestant)[0] / self.tokens_per_step(baseline)[0]
        ours, theirs = self.runs[contestant.name], self.runs[baseline.name]
        rounds = [weight * statistics.median(b.seconds) / statistics.median(a.seconds)
                  for a, b in zip(ours, theirs)]
        pooled = (statistics.median(second for run in theirs for second in run.seconds)
                  / statistics.median(second for run in ours for second in run.seconds))
        return {"median": weight * pooled, "min": min(rounds), "max": max(rounds)}

    def greatest_loss_difference(self) -> dict[str, float]:
        """Of each contestant to the first one with the same batches, over the steps both made."""
        differences = {}
        for contestant in self.case.contestants:
            same = [other for other in self.case.contestants
                    if self.case.batch_of(other) == self.case.batch_of(contestant)]
            differences[contestant.name] = max(
                abs(a - b) for ours, theirs in zip(self.runs[contestant.name], self.runs[same[0].name])
                for a, b in zip(ours.losses, theirs.losses))
        return differences


@dataclass
class SweepResults:
    """All rounds of a sweep and of plain runs at its layers."""

    case: SweepCase
    sweep_seconds: list[float] = field(default_factory=list)  # per round; none where there is no sweep command
    sweep_peak_bytes: int = 0
    plain: dict[int, list[Run]] = field(default_factory=dict)  # by layer
    cores_of_others: list[float] = field(default_factory=list)

    def figures(self) -> dict:
        plain = sum(len(self.case.seeds) * self.plain_run_seconds(layer) for layer in self.case.layers)
        return {"kind": "sweep", **asdict(self.case), "cells": self.case.cells,
                "steps_per_cell": self.case.steps_per_cell,
                "sweep_seconds": spread(self.sweep_seconds) if self.sweep_seconds else None,
                "sweep_peak_bytes": self.sweep_peak_bytes, "plain_seconds_extrapolated": plain,
                "greatest_cores_of_others": max(self.cores_of_others),
                "speedup": plain / statistics.median(self.sweep_seconds) if self.sweep_seconds else None,
                "plain_runs": {layer: [asdict(run) for run in runs] for layer, runs in self.plain.items()}}

    def plain_run_seconds(self, layer: int) -> float:
        runs = self.plain[layer]
        return (statistics.median(run.startup_seconds for run in runs)
                + self.case.steps_per_cell * statistics.median(s for run in runs for s in run.seconds))


@dataclass
class StartResults:
    """All rounds of starting the program."""

    case: StartCase
    absent: list[float] = field(default_factory=list)
    present: list[float] = field(default_factory=list)  # none where the program cannot keep caches
    prefix: list[float] = field(default_factory=list)  # none where there is no bench command
    cores_of_others: list[float] = field(default_factory=list)

    def figures(self) -> dict:
        return {"kind": "start", **asdict(self.case), "greatest_cores_of_others": max(self.cores_of_others),
                **{name: spread(values) if values else None for name, values in
                   (("absent", self.absent), ("present", self.present), ("prefix", self.prefix))}}


def spread(values: Sequence[float]) -> dict:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(figures: dict) -> str:
    """What a person reads of one case."""
    return {"steps": step_table, "sweep": sweep_table, "start": start_table}[figures["kind"]](figures)


def step_table(figures: dict) -> str:
    contestants = figures["contestants"]
    baselines = list(next(iter(contestants.values()))["speedups"])
    headings = [f"against {name.split()[0] if name.startswith('(') else name}" for name in baselines]
    widths = [max(len(heading) + 2, 22) for heading in headings]
    lines = [f"layer {figures['layer']}, {figures['answers']} answers, batches of {figures['batch']} pairs: "
             + describe_tokens(contestants),
             f"{'':27}{'s/step (min max)':>22}{'pairs/s':>9}{'tokens/s':>10}{'GFLOP/s':>9}{'of peak':>9}"
             + "".join(f"{heading:>{width}}" for heading, width in zip(headings, widths))
             + f"{'peak GB':>9}{'start s':>9}{'others':>8}"]
    for name, row in contestants.items():
        seconds = row["seconds_per_step"]
        lines.append(
            f"{name + (' *' if row['stand_in'] else ''):27}"
            f"{seconds['median']:9.3f} ({seconds['min']:.2f} {seconds['max']:.2f})".ljust(49)
            + f"{row['pairs_per_second']:9.2f}{row['tokens_per_second']:10.0f}"
            f"{row['achieved_flops'] / 1e9:9.1f}{row['fraction_of_peak']:9.1%}"
            + "".join(f"{ratio(row['speedups'][baseline]):>{width}}" for baseline, width in zip(baselines, widths))
            + f"{row['peak_bytes'] / 1e9:9.2f}{row['startup_seconds']['median']:9.1f}"
            f"{row['cores_of_others']['median']:8.2f}")
    lines += disturbance_lines(figures)
    if any(row["stand_in"] for row in contestants.values()):
        batch = next(row["batch"] for row in contestants.values() if row["stand_in"])
        lines.append(f"* ran batches of {batch} pairs, which stand for batches of {figures['batch']}")
    return "\n".join(lines + peak_lines(figures) + profile_lines(contestants))


def disturbance_lines(figures: dict) -> list[str]:
    if figures["greatest_cores_of_others"] < DISTURBING_CORES:
        return []
    return [f"disturbed: other work kept up to {figures['greatest_cores_of_others']:.1f} cores busy during a run; "
            "repeat on a quieter machine"]


def describe_tokens(contestants: dict) -> str:
    row = next(row for row in contestants.values() if not row["stand_in"])
    return (f"{row['tokens_per_step']:.0f} tokens a step, {row['answer_tokens_per_step']:.0f} of answers; floor "
            f"{row['floor_operations_per_step'] / 1e9:.1f} GFLOP")


def ratio(speedup: dict) -> str:
    return f"{speedup['median']:.2f}x ({speedup['min']:.2f}..{speedup['max']:.2f})"


def peak_lines(figures: dict) -> list[str]:
    lines = []
    for cores, samples in figures["peaks"].items():
        products = [f"{dtype} {low_median_high([sample[dtype] / 1e9 for sample in samples])} GFLOP/s"
                    for dtype in ("fp32", "bf16")]
        copying = low_median_high([sample["copy"] / 1e9 for sample in samples])
        lines.append(f"peak on {cores} core{'s' if cores > 1 else ''}, median (min max): products "
                     f"{', '.join(products)}; copy {copying} GB/s")
    return lines


def low_median_high(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} {max(values):.1f})"


def profile_lines(contestants: dict) -> list[str]:
    if not any(row["profile"] for row in contestants.values()):
        return ["where a step's time goes: not measured, this build has no bench command"]
    lines = []
    for name, row in contestants.items():
        if row["profile"]:
            parts = row["profile"]["breakdown"]
            total = sum(parts.values())
            shares = ", ".join(f"{part} {parts[part] / total:.0%}" for part in BREAKDOWN)
            lines.append(f"where a step's time goes, {name}: {shares}; weights "
                         f"{row['profile']['weight_bytes'] / 1e6:.0f} MB")
    return lines


def sweep_table(figures: dict) -> str:
    layers, seeds = figures["layers"], figures["seeds"]
    lines = [f"{figures['cells']} cells (layers {', '.join(map(str, layers))} x {len(seeds)} seeds) of "
             f"{figures['steps_per_cell']} steps, {figures['pairs']} pairs, {figures['epochs']} epochs",
             f"{figures['cells']} runs of (a), extrapolated from their start-up and a few steps at each layer: "
             f"{figures['plain_seconds_extrapolated']:.0f} s"]
    if figures["sweep_seconds"] is None:
        return "\n".join([*lines, "one sweep: this build has no sweep command"])
    seconds = figures["sweep_seconds"]
    lines.append(f"one sweep, {figures['dtype']}, from start to end: {seconds['median']:.1f} s "
                 f"({seconds['min']:.1f} {seconds['max']:.1f}), {figures['speedup']:.1f} times as fast; "
                 f"peak {figures['sweep_peak_bytes'] / 1e9:.2f} GB")
    return "\n".join(lines + disturbance_lines(figures))


def start_table(figures: dict) -> str:
    texts = {"absent": "nothing kept from earlier runs", "present": "caches kept by an earlier run",
             "prefix": "its prefix pass takes"}
    missing = {"present": "this build has no --cache-dir", "prefix": "this build has no bench command"}
    lines = [f"start-up of training at layer {figures['layer']} on {figures['pairs']} pairs, {figures['dtype']}: "
             "the whole process without its steps"]
    for key, text in texts.items():
        value = figures[key]
        lines.append(f"{text + ':':34}" + (missing[key] if value is None else
                     f"{value['median']:.1f} s ({value['min']:.1f} {value['max']:.1f})"))
    return "\n".join(lines + disturbance_lines(figures))


@dataclass(frozen=True)
class Target:
    """One figure the program must reach; `value` is None where it was not measured."""

    figure: str
    goal: float
    value: float | None
    at_most: bool = False
    unit: str = "x"

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return "met" if (self.value <= self.goal if self.at_most else self.value >= self.goal) else "missed"

    def line(self) -> str:
        value = "-" if self.value is None else f"{self.value:.2f}{self.unit}"
        bound = f"{'<=' if self.at_most else '>='} {self.goal:g}{self.unit}"
        return f"{self.figure:66}{bound:>12}{value:>12}  {self.verdict}"


def targets(results: dict[str, dict]) -> list[Target]:
    """Of the figures by case name; a case that did not run leaves its targets unmeasured."""

    def contestant(case: cases.Case, name: str, *keys: str) -> float | None:
        return dig(results, case.name, "contestants", name, *keys)

    plain = cases.MAIN.contestants[0].name
    single = cases.SCALING.contestants[0].name
    weights = contestant(cases.MAIN, "bipo-dist, fp32", "profile", "weight_bytes")
    needed = dig(results, cases.MAIN.name, "resident_bytes_needed")
    prefix = dig(results, cases.START.name, "prefix", "median")
    absent = dig(results, cases.START.name, "absent", "median")
    return [
        Target("fp32, layer 15, short answers, batch 4, against (a)", 9,
               contestant(cases.MAIN, "bipo-dist, fp32", "speedups", plain, "median")),
        Target("bf16, the same, against (a) in fp32", 18,
               contestant(cases.MAIN, "bipo-dist, bf16", "speedups", plain, "median")),
        Target("fraction of the measured fp32 peak, batch 32", 0.70,
               contestant(cases.MAIN_LARGE, "bipo-dist, fp32", "fraction_of_peak"), unit=""),
        Target("fraction of the measured bf16 peak, batch 32", 0.50,
               contestant(cases.MAIN_LARGE, "bipo-dist, bf16", "fraction_of_peak"), unit=""),
        Target("dp 2 (2 ranks x 1 thread) against 1 rank x 1 thread", 1.85,
               contestant(cases.SCALING, cases.DP_2.name, "speedups", single, "median")),
        Target("tp 2 against 1 rank x 1 thread", 1.5,
               contestant(cases.SCALING, cases.TP_2.name, "speedups", single, "median")),
        Target("10 cells in one sweep against 10 runs of (a)", 20, dig(results, cases.SWEEP.name, "speedup")),
        Target("resident weights at layer 15, of suffix and head", 1.05,
               weights / needed if weights and needed else None, at_most=True),
        Target("start to first step beyond the prefix pass, caches absent", 2,
               absent - prefix if absent and prefix else None, at_most=True, unit=" s"),
        Target("start to first step, caches present", 2, dig(results, cases.START.name, "present", "median"),
               at_most=True, unit=" s")]


def disturbed_cases(results: dict[str, dict]) -> list[str]:
    """Cases that shared the machine with other work, so that their figures prove nothing."""
    return [name for name, figures in results.items()
            if figures["greatest_cores_of_others"] >= DISTURBING_CORES]


def dig(tree: dict | None, *keys: str):
    """tree[key][key]..., None as soon as one is missing."""
    for key in keys:
        tree = tree.get(key) if tree else None
    return tree
