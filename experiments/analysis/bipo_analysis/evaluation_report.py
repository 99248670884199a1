"""The report on one evaluation of a vector or several side by side: one HTML page that needs nothing but itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas

from . import evaluation_figures as figures
from .answers import Answers, answer_section
from .choice import DRAWN, choice_sentences, chosen_multipliers
from .drawing import distinctly_shortened
from .evaluation import (CAA, CONCEPTOR, VECTOR, Evaluation, direction_name, directions_header, in_order, norm_name,
                         of_direction, short_name)
from .held_out_findings import control_warnings, curve_findings, steerability_findings
from .limits import limits
from .method_comparisons import Compared, comparison_note, controls_compared, vectors_compared
from .measure_findings import (COST_NAMES, choice_findings, cost_findings, cost_text, judge_findings, judge_scale,
                               measures_in, synergy_findings, tradeoff_findings)
from .names import data_names, direction_names, labels, model_names, single_vector_names
from .page import (Markup, document, element, joined, key_figures, known_figures, listing, plot_grid,
                   setting_list, table, time_of_report, warning, with_code, with_interval, write_page)
from .paired import changes_from_zero, with_paired_bars
from .pareto import EFFECTS, PRICES, UNSTEERED, tradeoffs
from .transfer import Transfer, compare, transfer_findings, transfer_warnings
from .vectors_in_use import vector_words
from .wording import joined as listed
from .wording import last_part, multiplier, number, percent, plain, signed

CHOICE_KINDS = {"ab": "A/B choices", "mc": "multiple choice (MC1, MC2)", "mmlu": "MMLU-style"}
PROBABILITIES = {"ab": "p(matching) / (p(matching) + p(other))", "mc": "MC2", "mmlu": "probability of the right letter"}
# Columns of the table of costs.
COST_HEADERS = {"kl_neutral": "KL", "perplexity_reference_text": "perplexity, reference text",
                "perplexity_of_generations": "perplexity, generations", "distinct_1": "distinct words",
                "distinct_2": "pairs", "distinct_3": "triples", "compression_ratio": "compressed",
                "refusal_rate": "refusals"}
# Characters of a model's name in a table.
LONGEST_MODEL = 40
ONLY_IN_TABLE = ("distinct_1", "distinct_3")
COST_GROUPS = (("kl_neutral", "perplexity_reference_text", "perplexity_of_generations"),
               ("distinct_1", "distinct_2", "distinct_3", "compression_ratio", "refusal_rate"))
CHANGE_CAPTIONS = {
    "propensity": "What the {} and each control change: propensity less that of the unsteered model, pair by pair. "
                  "Propensity is log p(matching answer) less log p(other answer), both given the prompt, summed over "
                  "their tokens. "
                  "Bars are 95 % intervals of the mean change over the same pairs.",
    "accuracy": "The same for the share of pairs whose matching answer is the likelier one.",
    "propensity_per_token": "The same for propensity with each answer's mean over its tokens, so that long answers "
                            "weigh no more than short ones."}
CURVE_CAPTIONS = {"propensity": "Mean propensity by multiplier.", "accuracy": "Held-out accuracy by multiplier."}
PAIRED_BARS = "Bars are the intervals of the change from multiplier 0."
MARGINAL_BARS = ("Bars are 95 % bootstrap intervals over pairs: they show how much pairs differ and say nothing about "
                 "the effect, for the file holds no single pairs at multiplier 0.")
Measure = Callable[[float], str]


@dataclass(frozen=True)
class Extras:
    """What a page shows beside the files: answers, and multipliers chosen on one half of the pairs."""

    answers: Sequence[Answers] = ()
    choose_on: str = ""  # a half of choice.HALVES; without one the pairs that the file names
    max_kl: float = math.inf  # in nats, of a chosen multiplier


def write_evaluation_report(evaluations: Sequence[Evaluation], out: str | Path, extras: Extras = Extras()) -> None:
    """Writes the page to `out`, replacing it whole or not at all."""
    write_page(evaluation_report_html(evaluations, extras), out)


def evaluation_report_html(evaluations: Sequence[Evaluation], extras: Extras = Extras()) -> str:
    """The page as text; `evaluations` are at least one."""
    transfer, is_one = compare(evaluations), len(evaluations) == 1
    parts = [_header(transfer)]
    if is_one:
        parts += [_warnings(control_warnings(evaluations[0])), _key_figures(evaluations[0]),
                  *_parts(evaluations[0], "h2", extras)]
    else:
        parts += [_all_control_warnings(transfer), _transfer(transfer)]
        for label, evaluation in zip(transfer.labels, evaluations, strict=True):
            own = (element("h2", label), element("p", f"{evaluation.noun.capitalize()}s: {vector_words(evaluation)}.",
                                                  class_="swept"),
                   _warnings(control_warnings(evaluation)), _key_figures(evaluation), *_parts(evaluation, "h3", extras))
            parts.append(element("section", *own))
    if not is_one:
        parts += [answer_section(answers, "h2") for answers in extras.answers]
    parts += [_limits(evaluations), _settings(evaluations)]
    return document(f"{transfer.title}: evaluation of a {_kind(transfer)}", element("main", *parts))


def _kind(transfer: Transfer) -> str:
    """What the page is about: "steering vector", "conceptor"."""
    return transfer.noun if transfer.noun == CONCEPTOR else f"steering {transfer.noun}"


def _places(transfer: Transfer) -> str:
    """Where it was measured: "On smollm2; held-out pairs of test.csv."."""
    models = list(dict.fromkeys(model_names(transfer.evaluations)))
    data = [name for name in dict.fromkeys(data_names(transfer.evaluations)) if name]
    return f"On {listed(models)}" + (f"; held-out pairs of {listed(data)}." if data else ".")


def _header(transfer: Transfer) -> Markup:
    first = transfer.evaluations[0]
    version = f" from files of bipo-dist {first.attributes['program_version']}" \
        if first.attributes.get("program_version") else ""
    vectors = vector_words(first) if len(transfer.labels) == 1 or transfer.is_of_one_vector else \
        f"different {transfer.nouns}"
    return element("header", element("p", f"Evaluation of a {_kind(transfer)}", class_="kind"),
                   element("h1", transfer.title), element("p", vectors, class_="swept"),
                   *([element("p", _places(transfer), class_="swept")] if len(transfer.labels) > 1 else []),
                   element("p", f"Report of {time_of_report()}{version}.", class_="made"))


def _warnings(sentences: Sequence[str]) -> Markup:
    return joined(warning(sentence) for sentence in sentences)


def _all_control_warnings(transfer: Transfer) -> Markup:
    """Those of all files, at the top of the page."""
    return joined(_warnings([f"{label}: {sentence}" for sentence in control_warnings(evaluation)])
                  for label, evaluation in zip(transfer.labels, transfer.evaluations, strict=True))


def _sentences(sentences: Sequence[str], has_lead: bool = False) -> Markup:
    """A list, its first sentence set apart as the main one where there is one."""
    lead, others = (sentences[:1], sentences[1:]) if has_lead else ([], sentences)
    parts = [element("p", with_code(sentence), class_="lead") for sentence in lead]
    if others:
        parts.append(element("ul", *(element("li", with_code(sentence)) for sentence in others)))
    return joined(parts)


def _key_figures(evaluation: Evaluation) -> Markup:
    rows = of_direction(evaluation.steerability, VECTOR)
    curve = of_direction(evaluation.curve, VECTOR)
    pairs = str(int(curve["pairs"].max())) if len(curve) else "none"
    if rows.empty:
        return key_figures([("Held-out pairs", pairs, "no steerability measured")])
    own, caa = rows.iloc[0], of_direction(evaluation.steerability, CAA)
    other = "no mean difference beside it" if caa.empty else \
        f"{direction_name(CAA)} {signed(caa['steerability'].iloc[0])}"
    return key_figures([
        ("Steerability", signed(own["steerability"]), f"{_span_of(own, 'steerability', number)}; {other}"),
        ("Anti-steerable pairs", percent(own["anti_steerable"], 0), "move against the multiplier"),
        ("Accuracy", *_accuracy_entry(curve)), ("Held-out pairs", pairs, "behind each figure of the curve")])


def _accuracy_entry(curve: pandas.DataFrame) -> tuple[str, str]:
    if curve.empty:
        return "–", "no pairs evaluated"
    first, last = curve.iloc[0], curve.iloc[-1]
    return (f"{percent(first['accuracy'], 0)} → {percent(last['accuracy'], 0)}",
            f"from multiplier {multiplier(first['multiplier'])} to {multiplier(last['multiplier'])}")


def _parts(evaluation: Evaluation, heading: str, extras: Extras) -> list[Markup]:
    """The parts that the file has data for; `heading` is the element of their titles, h2 or h3."""
    beside = [answer_section(answers, heading) for answers in extras.answers] if heading == "h2" else []
    half = extras.choose_on or (DRAWN if len(evaluation.choosing_pairs) else "")
    chosen = [_chosen(evaluation, heading, half, extras.max_kl)] if half else []
    return [_curve(evaluation, heading), *beside, *chosen, _steerability(evaluation, heading),
            _choices(evaluation, heading), _tradeoffs(evaluation, heading), _costs(evaluation, heading),
            _synergy(evaluation, heading), _judge(evaluation, heading)]


def _curve(evaluation: Evaluation, heading: str) -> Markup:
    parts = [element(heading, "Propensity curve"), _sentences(curve_findings(evaluation), has_lead=True)]
    if evaluation.curve.empty:
        return joined(parts)
    changes, bars = changes_from_zero(evaluation), with_paired_bars(evaluation)
    has_changes = len(changes) > 0
    plots = known_figures(
        *((figures.change_figure(evaluation, name, figures.CHANGES[name]),
           f"Change of {name.replace('_', ' ')} by multiplier", caption.format(evaluation.noun))
          for name, caption in CHANGE_CAPTIONS.items()),
        *((figures.curve_figure(bars, name, figures.CURVES[name], direction_names(evaluation)),
           f"{name.capitalize()} by multiplier", f"{caption} {PAIRED_BARS if has_changes else MARGINAL_BARS}")
          for name, caption in CURVE_CAPTIONS.items()))
    header = directions_header(evaluation.noun)
    headers = [header, "multiplier", "propensity", "change", "accuracy", "points", "per token", "log p matching",
               "log p other"]
    by_point = changes.set_index(["direction", "multiplier"])
    rows = [[short_name(row["direction"], evaluation.noun), multiplier(row["multiplier"]),
             _estimate(row, "propensity", signed),
             _change(by_point, row, "propensity", signed), _estimate(row, "accuracy", percent),
             _change(by_point, row, "accuracy", _points), signed(row["propensity_per_token"], 3),
             number(row["chosen_logp"]), number(row["rejected_logp"])]
            for _, row in in_order(evaluation.curve).iterrows()]
    note = element("p", "Below a mean or share is its bootstrap interval over pairs, which shows how much pairs "
                        "differ; below a change is its interval over the same pairs. The margin of training is β times "
                        "the change of propensity.", class_="note")
    return joined((*parts, plot_grid(plots), listing(headers, rows, [header], "rows of the curve"), note))


def _change(by_point: pandas.DataFrame, row: pandas.Series, name: str, form: Measure) -> str:
    """The change of `name` at the row's direction and multiplier, with its interval."""
    key = (row["direction"], row["multiplier"])
    if row["multiplier"] == 0 or key not in by_point.index:
        return "–"
    return _estimate(by_point.loc[key], name, form)


def _points(value: float) -> str:
    return signed(100 * value, 1)


def _chosen(evaluation: Evaluation, heading: str, half: str, max_kl: float) -> Markup:
    """What multipliers do that were chosen on the other pairs."""
    choices = chosen_multipliers(evaluation, half, max_kl)
    title = "Multipliers chosen on one part of the pairs" if half == DRAWN else \
        "Multipliers chosen on one half of the pairs"
    parts = [element(heading, title),
             _sentences(choice_sentences(evaluation, choices, half, max_kl), has_lead=True)]
    header = directions_header(evaluation.noun)
    rows = [[short_name(choice.direction, evaluation.noun), "highest" if choice.aim > 0 else "lowest",
             multiplier(choice.multiplier),
             signed(choice.chosen_on), with_interval(signed(choice.propensity.value),
                                                     f"{signed(choice.propensity.interval.low)} to "
                                                     f"{signed(choice.propensity.interval.high)}"),
             with_interval(_points(choice.accuracy.value), f"{_points(choice.accuracy.interval.low)} to "
                                                           f"{_points(choice.accuracy.interval.high)}"),
             str(choice.propensity.items)] for choice in choices]
    headers = [header, "aim", "multiplier", "change on the choosing pairs", "on the others",
               "accuracy there (points)", "pairs"]
    return joined((*parts, table(headers, rows, texts=[header, "aim"]))) if rows else joined(parts)


def _estimate(row: pandas.Series | Mapping[str, float], name: str, form: Measure) -> Markup:
    """A value with its interval below it."""
    return with_interval(form(float(row[name])), _span_of(row, name, form))


def _span_of(row: pandas.Series | Mapping[str, float], name: str, form: Measure) -> str:
    low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
    return "no interval" if math.isnan(low) or math.isnan(high) else f"{form(low)} to {form(high)}"


def _steerability(evaluation: Evaluation, heading: str) -> Markup:
    parts = [element(heading, "Steerability"), _sentences(steerability_findings(evaluation), has_lead=True)]
    plots = known_figures((figures.slopes_figure(evaluation), "Slopes of single pairs",
                           "Slope of propensity over the multiplier, fitted to each pair by least squares. Hatched "
                           "bars are anti-steerable pairs; the dashed line is the mean, which is the steerability."))
    if plots:
        parts.append(plot_grid(plots))
    if len(evaluation.steerability):
        parts.append(_steerability_table([("", evaluation)]))
    parts.append(comparison_table(controls_compared(evaluation), f"the {evaluation.noun}", "Slope of a pair"))
    return joined(parts)


def comparison_table(compared: Sequence[Compared], reference: str, what: str) -> Markup:
    """Differences from a reference with their p, corrected for their number; nothing where there are none."""
    if not compared:
        return Markup("")
    has_seeds = any(one.difference.seeds > 1 for one in compared)
    rows = [[one.label, with_interval(signed(one.difference.value), "no interval"
                                      if math.isnan(one.difference.interval.low) else
                                      f"{signed(one.difference.interval.low)} to "
                                      f"{signed(one.difference.interval.high)}"),
             *([", ".join(signed(value) for value in one.difference.by_seed)] if has_seeds else []),
             str(one.difference.pairs), number(one.difference.probability, 4), number(one.corrected, 4), one.verdict]
            for one in compared]
    headers = ["compared", "difference (nats)", *(["seed by seed"] if has_seeds else []), "pairs", "p", "p, Holm",
               "steers"]
    return joined((table(headers, rows, texts=["compared", "steers", "seed by seed"]),
                   element("p", comparison_note(compared, reference, what), class_="note")))


def _steerability_table(named: Sequence[tuple[str, Evaluation]]) -> Markup:
    nouns = {evaluation.noun for _, evaluation in named}
    noun = nouns.pop() if len(nouns) == 1 else VECTOR
    headers = [directions_header(noun), norm_name(noun), "pairs", "steerability", "s.d.", "anti-steerable", "Spearman"]
    cut = dict(zip([label for label, _ in named], distinctly_shortened([label for label, _ in named], LONGEST_MODEL),
                   strict=True))
    rows = [[cut[label], short_name(row["direction"], evaluation.noun), number(row["norm"]), str(int(row["pairs"])),
             _estimate(row, "steerability", signed), number(row["steerability_sd"]),
             _estimate(row, "anti_steerable", percent), _estimate(row, "spearman", signed)]
            for label, evaluation in named for _, row in in_order(evaluation.steerability).iterrows()]
    if len(named) == 1:
        return table(headers, [row[1:] for row in rows], texts=headers[:1])
    return table(["evaluation", *headers], rows, texts=["evaluation", headers[0]])


def _choices(evaluation: Evaluation, heading: str) -> Markup:
    if evaluation.choices.empty:
        return Markup("")
    parts = [element(heading, "Choices")]
    groups = list(evaluation.choices.groupby(["set", "kind"], sort=False))
    titles = [f"{last_part(name)}, {CHOICE_KINDS.get(kind, kind)}" for (name, kind), _ in groups]
    parts.append(_sentences([sentence for title, ((_, kind), rows) in zip(titles, groups, strict=True)
                             for sentence in choice_findings(title, kind, rows, _items_of(evaluation, rows))]))
    plots, rows = [], []
    for title, ((_, kind), own) in zip(titles, groups, strict=True):
        plots += _choice_plots(title, str(kind), own, direction_names(evaluation))
        rows += [[title, *_choice_row(row, evaluation.noun)] for _, row in in_order(own).iterrows()]
    is_mc = (evaluation.choices["kind"] == "mc").any()
    headers = ["set", directions_header(evaluation.noun), "multiplier", "items",
               "accuracy (of mc: MC1)" if is_mc else "accuracy",
               "probability (of mc: MC2)" if is_mc else "probability", "macro accuracy"]
    return joined((*parts, plot_grid(plots), listing(headers, rows, headers[:2], "rows of choices")))


def _items_of(evaluation: Evaluation, rows: pandas.DataFrame) -> pandas.DataFrame:
    """The single items of the set that `rows` are of."""
    items = evaluation.choice_items
    return items[(items["set"] == rows["set"].iloc[0]) & (items["kind"] == rows["kind"].iloc[0])]


def _choice_plots(title: str, kind: str, rows: pandas.DataFrame, names: Mapping[str, str]) -> list[Markup]:
    accuracy, probability = ("MC1", "MC2") if kind == "mc" else ("accuracy", "probability")
    chance = f" The dashed line is chance, {percent(figures.CHANCE[kind], 0)}." if kind in figures.CHANCE else ""
    return known_figures(
        (figures.choice_figure(rows, kind, "accuracy", accuracy, names), f"{title}: {accuracy} by multiplier",
         f"{title}: share of right choices.{chance} Bars are 95 % intervals over items, which show how much "
         "items differ, not whether steering changes them."),
        (figures.choice_figure(rows, kind, "probability", probability, names), f"{title}: {probability} by multiplier",
         f"{title}: mean {PROBABILITIES.get(kind, 'probability of the right choice')}, which moves before choices do."))


def _choice_row(row: pandas.Series, noun: str) -> list[str]:
    return [short_name(row["direction"], noun), multiplier(row["multiplier"]), str(int(row["items"])),
            _estimate(row, "accuracy", percent), _estimate(row, "probability", percent),
            percent(row["macro_accuracy"]) if row["kind"] == "mmlu" else "–"]


def _tradeoffs(evaluation: Evaluation, heading: str) -> Markup:
    plots = known_figures(*(
        (figures.pareto_figure(evaluation, effect, price), f"{effect.capitalize()} against {name}",
         f"{effect.capitalize()} against {name}, a point for each multiplier.")
        for price, name in PRICES.items() for effect in EFFECTS))
    if not plots:
        return Markup("")
    note = element("p", "Filled points are on the Pareto front, which the grey line joins: no other point moves the "
                        "model as far in their direction, up for positive multipliers and down for negative ones, at a "
                        "lower cost. Bars are 95 % intervals of the change from "
                        "multiplier 0 over the same pairs, where the file has single pairs.", class_="note")
    return joined((element(heading, "Effect against cost"), _sentences(tradeoff_findings(evaluation)),
                   plot_grid(plots), note, _front_table(evaluation)))


def _front_table(evaluation: Evaluation) -> Markup:
    """Which fronts each point is on: one row per direction and multiplier."""
    fronts: dict[tuple[str, float], dict[str, list[str]]] = {}
    for effect, price in itertools.product(EFFECTS, PRICES):
        for point in in_order(tradeoffs(evaluation, effect, price)).itertuples():
            entry = fronts.setdefault((point.direction, point.multiplier), {name: [] for name in EFFECTS})
            if point.on_front:
                entry[effect].append(PRICES[price].removeprefix("perplexity of the "))
    rows = [["unsteered" if direction == UNSTEERED else short_name(direction, evaluation.noun), multiplier(value),
             *(", ".join(entry[effect]) or "none" for effect in EFFECTS)]
            for (direction, value), entry in fronts.items()]
    headers = [directions_header(evaluation.noun), "multiplier",
               *(f"on the front of {effect} against" for effect in EFFECTS)]
    return listing(headers, rows, [header for header in headers if header != "multiplier"], "points")


def _costs(evaluation: Evaluation, heading: str) -> Markup:
    if evaluation.costs.empty:
        return Markup("")
    parts = [element(heading, "What steering costs"), _sentences(cost_findings(evaluation))]
    parts.append(plot_grid(known_figures(*(
        (figures.cost_figure(evaluation, measure), f"{_cost_name(measure)} by multiplier", f"{_cost_name(measure)}.")
        for measure in measures_in(evaluation.costs) if measure not in ONLY_IN_TABLE))))
    others = [measure for measure in measures_in(evaluation.costs) if measure not in COST_HEADERS]
    parts += [_cost_table(evaluation.costs, group, evaluation.noun) for group in (*COST_GROUPS, others)]
    parts.append(element("p", "Distinct: the share of different words, pairs and triples of words among all of the "
                         "generated ones; compressed size: by zlib. Both fall where a text repeats itself. Refusals "
                         "are found by keywords.", class_="note"))
    return joined(parts)


def _cost_name(measure: str) -> str:
    return COST_NAMES.get(measure, measure.replace("_", " ").capitalize())


def _cost_table(costs: pandas.DataFrame, measures: Sequence[str], noun: str) -> Markup:
    """One row per direction and multiplier, one column per measure of the group that was taken."""
    found = [measure for measure in measures if (costs["measure"] == measure).any()]
    own = in_order(costs[costs["measure"].isin(found)])
    if own.empty:
        return Markup("")
    rows = []
    for (direction, value), group in own.groupby(["direction", "multiplier"], sort=False):
        by_measure = {row["measure"]: row for _, row in group.iterrows()}
        rows.append([short_name(direction, noun), multiplier(value),
                     *(_cost_cell(measure, by_measure.get(measure)) for measure in found)])
    headers = [directions_header(noun), "multiplier",
               *(COST_HEADERS.get(measure, _cost_name(measure)) for measure in found)]
    return listing(headers, rows, headers[:1], "rows of costs")


def _cost_cell(measure: str, row: pandas.Series | None) -> str:
    return "–" if row is None else _estimate(row, "value", lambda value: cost_text(measure, value))


def _synergy(evaluation: Evaluation, heading: str) -> Markup:
    grid = evaluation.grid
    if grid.empty:
        return Markup("")
    noun, names = evaluation.noun, single_vector_names(evaluation)
    plots = known_figures(
        (figures.grid_figure(grid, "propensity", names, noun), f"Propensity of two {noun}s together",
         f"Propensity with both {noun}s, each at its own multiplier, on the same held-out pairs. White is the "
         "unsteered model."),
        (figures.grid_figure(grid, "accuracy", names, noun), f"Accuracy of two {noun}s together",
         f"Held-out accuracy with both {noun}s; white is 50 %."))
    rows = [[multiplier(row["multiplier_1"]), multiplier(row["multiplier_2"]), str(int(row["pairs"])),
             _estimate(row, "propensity", signed), _estimate(row, "accuracy", percent), signed(row["margin"])]
            for _, row in grid.sort_values(["multiplier_1", "multiplier_2"]).iterrows()]
    first, second = names if len(names) == 2 else ("1", "2")
    headers = [f"multiplier {first}", f"multiplier {second}", "pairs", "propensity", "accuracy", "margin"]
    return joined((element(heading, "Synergy"), _sentences(synergy_findings(evaluation)), plot_grid(plots),
                   listing(headers, rows, [], "cells of the grid")))


def _judge(evaluation: Evaluation, heading: str) -> Markup:
    judge = evaluation.judge
    if judge.empty:
        return Markup("")
    plots = known_figures((figures.judge_figure(judge, judge_scale(evaluation)), "Judge's score by multiplier",
                           "Mean score that a language model as judge gave to the generations. Bars are 95 % "
                           "intervals over prompts, which show how much prompts differ."))
    rows = [[row["behaviour"], multiplier(row["multiplier"]), str(int(row["items"])), str(int(row["errors"])),
             _estimate(row, "score", number)]
            for _, row in judge.sort_values(["behaviour", "multiplier"], kind="stable").iterrows()]
    headers = ["behaviour", "multiplier", "items", "errors", "score"]
    return joined((element(heading, "Judge"), _sentences(judge_findings(evaluation)), plot_grid(plots),
                   listing(headers, rows, ["behaviour"], "scores")))


def _transfer(transfer: Transfer) -> Markup:
    title = "Transfer" if transfer.is_of_models else "Side by side"
    what = "model" if transfer.is_of_models else "evaluation"
    curves = [(label, of_direction(with_paired_bars(evaluation), VECTOR))
              for label, evaluation in zip(transfer.labels, transfer.evaluations, strict=True)]
    plots = known_figures(
        (figures.transfer_figure(transfer.all_rows("steerability"), transfer.noun), f"Steerability by {what}",
         f"Steerability of the {transfer.noun} and of the controls in each {what}, with 95 % intervals over pairs."),
        (figures.named_curves_figure(curves, "propensity", "propensity (nats)"),
         f"Propensity by {what}", f"Propensity curve of the {transfer.noun} in each {what}. At 0 stands what a model "
         "prefers by itself; steering is in the slopes. Bars are 95 % intervals of the change from 0 over the same "
         "pairs."),
        (figures.named_curves_figure(curves, "accuracy", "held-out accuracy"),
         f"Accuracy by {what}",
         f"Held-out accuracy of the {transfer.noun} in each {what}, with the same kind of bars."))
    most, count = len(figures.CATEGORIES), len(transfer.labels)
    note = f"The curves are of the first {most} of {count} {what}s."
    cut = [element("p", note, class_="note")] if count > most else []
    return joined((element("h2", title), _warnings(transfer_warnings(transfer)),
                   _sentences(transfer_findings(transfer)), plot_grid(plots), *cut,
                   _steerability_table(list(zip(transfer.labels, transfer.evaluations, strict=True))),
                   comparison_table([] if transfer.is_of_models else
                                    vectors_compared(transfer.labels, transfer.evaluations), transfer.labels[0],
                                    "Slope of a pair")))


def _limits(evaluations: Sequence[Evaluation]) -> Markup:
    return joined((element("h2", "What this does not show"), _sentences(limits(evaluations))))


def _settings(evaluations: Sequence[Evaluation]) -> Markup:
    parts = [element("h2", "Settings")]
    for label, evaluation in zip(labels(evaluations), evaluations, strict=True):
        if len(evaluations) > 1:
            parts.append(element("h3", label))
        parts.append(setting_list({**_origin(evaluation), **{name: plain(value) for name, value in
                                                             evaluation.settings.items() if name != "vectors"}}))
    return joined(parts)


def _origin(evaluation: Evaluation) -> dict[str, object]:
    """What made the file, and which vectors it used."""
    shown = [name for name in evaluation.attributes if name not in ("config", "schema_version", "checksum", "kind")]
    return {f"{evaluation.noun}s": vector_words(evaluation), **{name: evaluation.attributes[name] for name in shown}}
