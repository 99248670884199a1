"""The report on experiments of the paper: one HTML page, and the table behind it as CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas

from .. import evaluation_figures as figures
from ..evaluation import Evaluation, direction_name
from ..measure_findings import judge_scale
from ..names import direction_names, single_vector_names
from ..page import (Markup, document, element, joined, known_figures, listing, plot_grid, table,
                    time_of_report, warning, with_interval, write_page)
from ..paired import with_paired_bars
from ..wording import counted, multiplier, number, percent, point_range, points, signed, span
from .experiments import Result
from .measured import CHANGE, CHANGE_OF, GAIN, SHARES, SINGLE_CHANGE, STEERABILITY, SUMMED_CHANGE, table_of

# What each experiment asks, and what the paper says of it beside its printed numbers.
QUESTIONS = {
    "personas": "How far does the vector move each behaviour from multiplier -2 to +2, beside the mean difference "
                "(CAA) and a random direction of the same norm? The paper's curves are figures; it prints a judge's "
                "mean scores at -1, 0 and +1 (Table 6).",
    "synergy": "Do two vectors that are added move a behaviour further than its own vector does alone? (Table 6)",
    "transfer": "Does the vector steer another model of the same hidden size, or its own model under a LoRA adapter? "
                "The paper shows figures and calls the transfer strong.",
    "truthfulness": "Does the vector change MC1 and MC2 of TruthfulQA? The paper shows figures only.",
    "hallucination": "How far does the vector move a model between accepting and refuting false statements? (Table 6)",
    "jailbreak": "How many harmful requests are not refused with the vector added, and with it subtracted? (Table 4)",
    "mmlu": "What does steering cost in knowledge? (Table 11)"}
ALWAYS = ("The paper has no error bars and reports on all held-out questions; here layer and epoch are chosen on one "
          "half of them and the numbers are of the other. Its scores and attack successes are a GPT-4 judge's. "
          "Intervals are over questions: Wilson's for shares, Student's t for changes over the same questions, Agresti "
          "and Min's for changes of shares, and the bootstrap's for other means.")
SIGNED = (CHANGE, STEERABILITY, SINGLE_CHANGE, SUMMED_CHANGE, GAIN)


@dataclass(frozen=True)
class Context:
    """What the page says about the whole run."""

    settings: str
    data: str
    models: Sequence[str]
    commands: Sequence[str]


def write_reports(results: Sequence[Result], context: Context, page: Path) -> pandas.DataFrame:
    """Writes `page` and the same numbers, unrounded, beside it as CSV; returns these."""
    numbers = table_of([row for result in results for row in result.rows], context.settings)
    numbers.to_csv(page.with_suffix(".csv"), index=False)
    write_page(report_html(results, context), page)
    return numbers


def report_html(results: Sequence[Result], context: Context) -> str:
    """The page as text."""
    head = element("header", element("p", "Experiments of arXiv 2406.00045", class_="kind"),
                   element("h1", f"{', '.join(result.name for result in results)}"),
                   element("p", f"On {', '.join(context.models)}; data: {context.data}; settings: {context.settings}.",
                           class_="swept"),
                   element("p", f"Report of {time_of_report()}.", class_="made"))
    left_out = [warning(f"Left out: {reason}") for result in results for reason in result.left_out]
    parts = [_section(result, context.settings) for result in results if not result.left_out]
    commands = element("details", element("summary", f"{counted(len(context.commands), 'command')}"),
                       element("pre", "\n".join(context.commands)))
    return document("Experiments of the BiPO paper", element("main", head, *left_out, element("p", ALWAYS), *parts,
                                                             element("h2", "Commands"), commands))


def _section(result: Result, settings: str) -> Markup:
    parts = [element("h2", result.name.capitalize()), element("p", QUESTIONS[result.name], class_="lead")]
    parts += [element("p", note) for note in result.notes]
    parts.append(_choices(result))
    for model, data in dict.fromkeys((row.model, row.data) for row in result.rows):
        parts += [element("h3", f"{model}, {data}"), _table(result, model, data, settings)]
    for label, evaluation in result.evaluations:
        plots = _plots(evaluation)
        if plots:
            parts += [element("h3", f"{label}: plots"), plot_grid(plots)]
    for label, evaluation in result.judged:
        plot = (figures.judge_figure(evaluation.judge, judge_scale(evaluation)), f"{label}: judge's scores",
                f"{label}: mean score of the judge; bars are 95 % intervals over prompts.")
        parts.append(plot_grid(known_figures(plot)))
    return joined(parts)


def _choices(result: Result) -> Markup:
    rows = [[model, data, str(choice.layer), str(choice.epoch), signed(choice.swing), str(choice.candidates)]
            for model, data, choice in result.choices]
    headers = ["model", "data", "layer", "epoch", "margin from -1 to +1", "candidates"]
    note = ("Layer and epoch with the largest held-out margin at +1 less that at -1 on the validation half, of all "
            "layers and epochs:")
    return joined((element("p", note, class_="note"), table(headers, rows, headers[:2])))


def _table(result: Result, model: str, data: str, settings: str) -> Markup:
    rows = []
    for row in result.rows:
        if (row.model, row.data) != (model, data):
            continue
        paper = row.paper
        bounds = _bounds(row.measure, *row.interval) if math.isfinite(row.interval.low) else ""
        rows.append([row.measure, direction_name(row.direction),
                     "" if math.isnan(row.multiplier) else multiplier(row.multiplier),
                     str(row.items) if row.items else "", with_interval(_value(row.measure, row.value), bounds),
                     f"{_value(row.measure, paper.value)} ({paper.source})" if paper else "", row.differs(settings)])
    headers = ["measure", "direction", "multiplier", "items", "ours, 95 % interval", "the paper", "what differs"]
    return listing(headers, rows, ["measure", "direction", "what differs"], "numbers")


def _value(measure: str, value: float) -> str:
    if measure.removeprefix(CHANGE_OF) in SHARES:
        return points(value) if measure.startswith(CHANGE_OF) else percent(value)
    return signed(value) if measure in SIGNED else number(value)


def _bounds(measure: str, low: float, high: float) -> str:
    return point_range(low, high) if measure.removeprefix(CHANGE_OF) in SHARES else span(low, high)


def _plots(evaluation: Evaluation) -> list[Markup]:
    """Whatever the file has of these."""
    names, plots = direction_names(evaluation), []
    if len(evaluation.curve):
        plots += [(figures.change_figure(evaluation, "propensity", "change of propensity (nats)"),
                   "Change of propensity",
                   "Change of propensity from multiplier 0, pair by pair; bars are 95 % intervals."),
                  (figures.curve_figure(with_paired_bars(evaluation), "accuracy", "held-out accuracy", names),
                   "Held-out accuracy", "Held-out accuracy; bars are the intervals of the change from multiplier 0.")]
    for kind, title in (("ab", "A/B accuracy"), ("mc", "MC1"), ("mmlu", "MMLU accuracy")):
        rows = evaluation.choices[evaluation.choices["kind"] == kind]
        if len(rows):
            plots.append((figures.choice_figure(rows, kind, "accuracy", title, names), title,
                          f"{title} by multiplier, with 95 % bootstrap intervals over the questions."))
        if len(rows) and kind == "mc":
            plots.append((figures.choice_figure(rows, kind, "probability", "MC2", names), "MC2", "MC2 by multiplier."))
    if len(evaluation.grid):
        plots.append((figures.grid_figure(evaluation.grid, "propensity", single_vector_names(evaluation)),
                      "Propensity of two vectors", "Mean propensity with both vectors, each at its own multiplier."))
    if (evaluation.costs["measure"] == "refusal_rate").any():
        plots.append((figures.cost_figure(evaluation, "refusal_rate"), "Refusals",
                      "Share of answers in which a refusal of the list is found."))
    return known_figures(*plots)
