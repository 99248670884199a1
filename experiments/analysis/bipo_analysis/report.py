"""The report on a sweep: one HTML page that needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas

from . import figures
from .evaluation_report import comparison_table
from .findings import findings, held_out_pairs
from .layer_curve import ranked_layers
from .method_comparisons import MOST_COMPARED, cells_compared
from .page import (Markup, document, element, figure, joined, key_figures, known_figures, listing, plot_grid,
                   setting_list, table, time_of_report, with_code, write_page)
from .resampling import seed_words
from .sections import VARIANT_AXES, Section, best_cells, split_sections
from .summary import axes_of, input_settings, joint_layers, layer_texts, shared_settings
from .sweep import Sweep
from .traces import Trace, of_complete_runs, read_traces
from .wording import counted, duration, number, percent, plain, signed, value_list

STATUSES = ("complete", "running", "interrupted", "failed", "unreadable", "missing")
BEST_CELLS = 10


def write_report(sweep: Sweep, out: str | Path) -> None:
    """Writes the page to `out`, replacing it whole or not at all."""
    write_page(report_html(sweep), out)


def report_html(sweep: Sweep) -> str:
    """The page as text."""
    sections = split_sections(sweep)
    traced = [(section, read_traces(sweep, section.best.cells)) for section in sections]
    parts = [_header(sweep), _key_figures(sweep, traced)]
    if len(sections) > 1:
        parts.append(_comparison(traced))
    parts += [_section(sweep, section, traces, len(sections) > 1) for section, traces in traced]
    parts += [_throughput(sweep), _troubles(sweep), _settings(sweep), _all_cells(sweep)]
    return document(f"{sweep.name}: steering sweep", element("main", *parts))


def _header(sweep: Sweep) -> Markup:
    version = f" from files of bipo-dist {sweep.program_version}" if sweep.program_version else ""
    return element("header", element("p", "Steering-vector sweep", class_="kind"), element("h1", sweep.name),
                   element("p", swept_text(sweep), class_="swept"),
                   element("p", f"Report of {time_of_report()}{version}.", class_="made"))


def swept_text(sweep: Sweep) -> str:
    """What was swept: "10 cells: layer 5, 10, 15, 20, 25 × seed 1, 2; model smollm2"."""
    varying, fixed = [], []
    jointly = joint_layers(sweep.summary)
    for axis in _shown_axes(sweep.summary):
        values = _layer_values(sweep.summary) if axis == "layer" else sorted(set(sweep.summary[axis]))
        name = axis.replace("_", " ")
        if len(values) > 1:
            varying.append(f"{name} {value_list(values)}")
        elif axis == "layer" and jointly:
            fixed.append(f"layers {jointly} jointly")
        elif axis in ("model", "data", "layer", "seed") and values and values[0] not in ("", -1):
            fixed.append(f"{name} {plain(values[0])}")
    if set(sweep.summary["site"]) == {"mlp"}:
        fixed.append("at the outputs of MLPs")
    listed = "; ".join(text for text in (" × ".join(varying), ", ".join(fixed)) if text)
    return f"{counted(len(sweep.summary), 'cell')}: {listed}" if listed else counted(len(sweep.summary), "cell")


def _shown_axes(cells: pandas.DataFrame) -> list[str]:
    """The axes in the order of columns; what is trained jointly stands with the layers."""
    return [axis for axis in axes_of(cells) if axis != "joint_layers"]


def _layer_values(cells: pandas.DataFrame) -> list[object]:
    """The distinct layers: 5, 10; beside others "15+20 jointly" for those of cells that train these together."""
    if "joint_layers" not in cells or cells["joint_layers"].nunique() < 2:
        return sorted(set(cells["layer"]))
    together = sorted({(row.layer, row.joint_layers) for row in cells.itertuples() if row.joint_layers})
    return [*sorted(set(cells.loc[cells["joint_layers"] == "", "layer"])), *(f"{text} jointly" for _, text in together)]


def _key_figures(sweep: Sweep, traced: Sequence[tuple[Section, list[Trace]]]) -> Markup:
    summary = sweep.summary
    complete = int((summary["status"] == "complete").sum())
    others = [f"{count} {status}" for status in STATUSES[1:] if (count := int((summary["status"] == status).sum()))]
    speeds = summary["tokens_per_second"].dropna()
    pairs = sorted({held_out_pairs(traces) for _, traces in traced} - {0})
    entries = [_best_entry(traced),
               ("Cells complete", f"{complete} of {len(summary)}", ", ".join(others) or "nothing is missing"),
               ("Held-out pairs", " and ".join(map(str, pairs)) or "none", "behind each accuracy and margin"),
               ("Training time", duration(training_seconds(sweep)),
                f"of all steps; median {speeds.median():.0f} tokens/s" if len(speeds) else "no step made yet")]
    return key_figures(entries)


def training_seconds(sweep: Sweep) -> float:
    """Wall time of all optimiser steps: cells that train together share theirs, so that of a pack counts once."""
    packs = {cell: pack["name"] for pack in sweep.plan.get("packs", []) for cell in pack["members"]}
    by_pack = sweep.summary["seconds"].groupby(sweep.summary["cell"].map(lambda cell: packs.get(cell, cell)))
    return float(by_pack.max().sum())


def _best_entry(traced: Sequence[tuple[Section, list[Trace]]]) -> tuple[str, str, str]:
    known = [section for section, _ in traced if len(section.best.curve)]
    if not known:
        return ("Best layer", "–", "nothing evaluated yet")
    section = max(known, key=lambda candidate: candidate.best.best_swing)
    best = ranked_layers(section.best.curve, "accuracy").iloc[0]
    where = f"{section.title}: " if len(traced) > 1 else ""
    jointly = section.best.joint_layers
    # Where sweeps of several sites are read together, a layer alone says too little.
    site = str(section.best.values.get("site"))
    where += {"mlp": "at the output of its MLP, ", "block": "at its output, "}.get(site, "")
    return ("Best layers, jointly" if jointly else "Best layer", jointly or str(int(best["layer"])),
            f"{where}accuracy {percent(best['accuracy_minus'])} at −v, {percent(best['accuracy_plus'])} at +v")


def _comparison(traced: Sequence[tuple[Section, list[Trace]]]) -> Markup:
    """Models and data sets side by side."""
    curves = [(section.title, section.best.curve) for section, _ in traced if len(section.best.curve)]
    rows = []
    for section, traces in traced:
        if section.best.curve.empty:
            rows.append([section.title, *["–"] * 6])
            continue
        best = ranked_layers(section.best.curve, "accuracy").iloc[0]
        rows.append([section.title, section.best.joint_layers or str(int(best["layer"])), percent(best["accuracy_minus"]),
                     percent(best["accuracy_zero"]), percent(best["accuracy_plus"]),
                     number(100 * best["accuracy_swing"], 1), str(held_out_pairs(traces))])
    headers = ["model, data", "best layer", "accuracy −v", "none", "+v", "swing (points)", "pairs"]
    parts = [element("h2", "Models and data sets"), table(headers, rows, texts=["model, data"])]
    shown = curves[:len(figures.CATEGORIES)]
    if shown:
        cut = f" The first {len(shown)} of {len(curves)} are shown." if len(shown) < len(curves) else ""
        parts.append(plot_grid([figure(
            figures.swing_figure(shown), "Swing of accuracy by layer for each model and data set",
            f"Swing of held-out accuracy, from −v to +v, by layer: one line for each model and data set.{cut}")]))
    return joined(parts)


def _section(sweep: Sweep, section: Section, traces: list[Trace], is_one_of_many: bool) -> Markup:
    heading = section.title if is_one_of_many else "Which layer steers best"
    first, *others = findings(section, traces)
    parts = [element("h2", heading), element("p", with_code(first), class_="lead")]
    if others:
        parts.append(element("ul", *(element("li", with_code(sentence)) for sentence in others)))
    parts += [_layer_plots(section), _best_table(section), _compared(sweep, section), _training_plots(traces),
              _vector_plots(traces)]
    return element("section", *parts)


def _layer_plots(section: Section) -> Markup:
    variant = section.best
    if variant.curve.empty:
        return Markup("")
    seeds = int(variant.curve["seeds"].max())
    bars = (f"Lines are means over up to {seeds} seeds, small marks the single seeds, bars the "
            f"{seed_words(seeds)}." if seeds > 1 else "A single seed, so no intervals.")
    plots = [figure(figures.layer_figure(variant, "accuracy"), "Held-out accuracy by layer",
                    "Held-out accuracy by layer: the share of pairs whose matching answer is the likelier one under "
                    f"the model with +v, −v and no vector, at the end of training. {bars}"),
             figure(figures.layer_figure(variant, "margin"), "Held-out margin by layer",
                    "Held-out margin by layer: the mean of β·Δ, by how much the vector moves the model towards the "
                    "matching answer; 0 without steering.")]
    curves = figures.variant_curves(section)
    if len(curves) > 1:
        cut = f" The best {len(curves)} of {len(section.variants)}." if len(curves) < len(section.variants) else ""
        plots.append(figure(figures.swing_figure(curves), "Swing of accuracy by layer and hyper-parameters",
                            f"Swing of accuracy, from −v to +v, for each combination of hyper-parameters.{cut}"))
    return plot_grid(plots)


def _best_table(section: Section) -> Markup:
    cells = best_cells(section.cells, BEST_CELLS)
    if cells.empty:
        return Markup("")
    cells = cells.assign(layer=layer_texts(cells))
    others = [axis for axis in VARIANT_AXES if axis != "joint_layers"]
    axes = ["layer", "seed", *_varying(section.cells, (*others, *_origin(section.cells)))]
    headers = [*(axis.replace("_", " ") for axis in axes), "accuracy −v", "none", "+v", "swing (points)",
               "margin −v", "+v", "norm of v", "best epoch"]
    rows = [[*(plain(row[axis]) for axis in axes),
             *(percent(row[f"accuracy_{side}"]) for side in ("minus", "zero", "plus")),
             number(100 * row["accuracy_swing"], 1), signed(row["margin_minus"]), signed(row["margin_plus"]),
             number(row["vector_norm"]), _best_epoch(row)] for _, row in cells.iterrows()]
    return joined((element("h3", "Best cells"), table(headers, rows, texts=["origin"]), element(
        "p", "By the swing of accuracy at the last evaluation, then of the margin. Best epoch: the one, counted from "
        "1, whose evaluation had the largest swing of margin, with its swing of accuracy; it is chosen on the held-out "
        "pairs themselves.",
        class_="note")))


def _compared(sweep: Sweep, section: Section) -> Markup:
    """The cells beside the best one, pair by pair and corrected for how many they are."""
    reference, compared = cells_compared(section, sweep.runs)
    if not compared:
        return Markup("")
    chosen = ("The reference has the largest swing of accuracy on these pairs, so it looks a little better than it is. "
              f"At most {MOST_COMPARED} others, with the next largest swings, are compared.")
    return joined((element("h3", "Pair by pair"), comparison_table(
        compared, reference, "Half the propensity at +v less that at −v"), element("p", chosen, class_="note")))


def _best_epoch(row: pandas.Series) -> str:
    if row["best_epoch"] < 0:
        return "–"
    swing = row["best_accuracy_plus"] - row["best_accuracy_minus"]
    return f"{int(row['best_epoch']) + 1} ({number(100 * swing, 1)})"


def _training_plots(traces: Sequence[Trace]) -> Markup:
    plots = known_figures(
        (figures.training_figure(traces, "loss"), "Training loss by step",
         "Training loss, mean over seeds, smoothed over a fortieth of the run. The dashed line is ln 2, the loss "
         "without a vector."),
        (figures.training_figure(traces, "vector_norm"), "Norm of the vector by step",
         "Euclidean norm of the vector while it is trained, mean over seeds."),
        (figures.epoch_figure(traces), "Held-out margin by epoch",
         "Held-out margin at +v less that at −v after each epoch, mean over seeds. A curve that is flat at its end "
         "has trained long enough; one that falls has overfitted."))
    return joined((element("h3", "Training"), plot_grid(plots))) if plots else Markup("")


def _vector_plots(traces: Sequence[Trace]) -> Markup:
    ended = of_complete_runs(traces)
    plots = known_figures(
        (figures.cosine_figure(ended), "Cosines between the trained vectors",
         "Cosines between the trained vectors: 1 is the same direction, 0 unrelated ones, −1 the opposite. High values "
         "between seeds of a layer say that training finds one direction; vectors of distant layers live in "
         "different representations."),
        (figures.convergence_figure(ended), "Distance to the last vector by epoch",
         "Distance of each epoch's vector to the last one, as a share of its norm, mean over seeds: the last steps "
         "before 0 show how much training still moved."))
    return joined((element("h3", "Vectors"), plot_grid(plots))) if plots else Markup("")


def _throughput(sweep: Sweep) -> Markup:
    if not sweep.summary["seconds"].notna().any():
        return Markup("")
    plots = known_figures(
        (figures.throughput_figure(sweep.summary, "seconds"), "Training time by layer",
         "Wall time of a cell's optimiser steps; the line is the mean. Blocks up to the steered one are computed "
         "once and kept, so deeper layers train faster."),
        (figures.throughput_figure(sweep.summary, "tokens_per_second"), "Tokens per second by layer",
         "Tokens of the packed micro-batches per second of training."))
    return joined((element("h2", "Throughput"), plot_grid(plots), element(
        "p", "Time is that of the optimiser steps; the shared pass for activations and reference log-probabilities, "
        "evaluation and saving are not in it. Cells trained together in one pass each show the time of their pass.",
        class_="note")))


def _troubles(sweep: Sweep) -> Markup:
    incomplete = sweep.summary[sweep.summary["status"] != "complete"]
    if incomplete.empty:
        return joined((element("h2", "Failures"), element("p", "None: every cell is complete.")))
    order = {status: index for index, status in enumerate(("failed", "unreadable", "interrupted", "missing"))}
    ranked = incomplete.sort_values("status", key=lambda column: column.map(order).fillna(len(order)), kind="stable")
    origin = _origin(sweep.summary)
    rows = [[row["cell"], row["status"], _progress(row["steps"], row["total_steps"]),
             with_code(_reason(row["status"], row["failure"])), *(row[name] for name in origin)]
            for _, row in ranked.iterrows()]
    headers = ["cell", "status", "steps done", "reason", *origin]
    return joined((element("h2", "Failures and missing cells"), listing(headers, rows, headers, "unfinished cells")))


def _reason(status: str, failure: str) -> str:
    reasons = {"running": "a job is at work on it", "interrupted": "no job is at work on it; start the sweep again",
               "missing": "not begun; start the sweep again"}
    return failure or reasons.get(status, "")


def _progress(steps: int, total: int) -> str:
    if steps < 0:
        return "0"
    return f"{steps} of {total}" if total > 0 else str(steps)


def _settings(sweep: Sweep) -> Markup:
    axes = {axis: sweep.summary[axis].iloc[0] for axis in axes_of(sweep.summary)
            if sweep.summary[axis].nunique(dropna=False) == 1}
    known = {name: value for name, value in axes.items() if not _is_unknown(value)}
    if len(set(layer_texts(sweep.summary))) > 1 or joint_layers(sweep.summary):
        # The lowest of those that some cells train jointly is no layer that all cells share.
        known.pop("layer", None)
    if jointly := joint_layers(sweep.summary):
        known["joint_layers"] = jointly
    if sweep.summary["site"].nunique() == 1:
        known["site"] = sweep.summary["site"].iloc[0]
    inputs = input_settings(sweep.settings)
    shared = {**known, **shared_settings(sweep.settings), **(inputs[0] if len(inputs) == 1 else {})}
    parts = [element("h2", "Settings"), element("p", "Shared by all cells.", class_="note"), setting_list(shared)]
    if len(inputs) > 1:
        for entry in inputs:
            title = ", ".join(str(entry[name]) for name in ("model", "data") if entry.get(name))
            parts += [element("h3", title), setting_list(entry)]
    return joined(parts)


def _is_unknown(value: object) -> bool:
    return value in ("", -1) or (isinstance(value, float) and math.isnan(value))


def _all_cells(sweep: Sweep) -> Markup:
    others = [axis for axis in _shown_axes(sweep.summary) if axis not in ("layer", "seed")]
    axes = ["layer", "seed", *_varying(sweep.summary, others)]
    origin = _origin(sweep.summary)
    headers = [*(axis.replace("_", " ") for axis in axes), "status", "steps", "loss", "norm of v", "accuracy −v",
               "none", "+v", "margin −v", "+v", "time", "tokens/s", *origin, "cell"]
    rows = [[*(plain(row[axis]) for axis in axes), row["status"], _progress(row["steps"], row["total_steps"]),
             number(row["loss"], 4), number(row["vector_norm"]),
             *(percent(row[f"accuracy_{side}"]) for side in ("minus", "zero", "plus")),
             signed(row["margin_minus"]), signed(row["margin_plus"]), duration(row["seconds"]),
             number(row["tokens_per_second"], 0), *(row[name] for name in origin), row["cell"]]
            for row in sweep.summary.assign(layer=layer_texts(sweep.summary)).to_dict("records")]
    texts = ["model", "data", "status", *origin, "cell"]
    return joined((element("h2", "All cells"), listing(headers, rows, texts, "cells")))


def _origin(cells: pandas.DataFrame) -> list[str]:
    """The column that says what a cell comes from, where there are several sweeps."""
    return ["origin"] if "origin" in cells else []


def _varying(cells: pandas.DataFrame, axes: Sequence[str]) -> list[str]:
    return [axis for axis in axes if axis in cells and cells[axis].nunique(dropna=False) > 1]
