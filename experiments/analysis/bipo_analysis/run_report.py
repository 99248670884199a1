"""The report on a single run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas

from . import run_figures as figures
from .answers import Answers, answer_section
from .page import (Markup, document, element, joined, key_figures, known_figures, listing, plot_grid, setting_list,
                   time_of_report, with_code, write_page)
from .run import Run
from .run_findings import SWING, best_epoch, run_findings, swing_of, unfinished_words
from .run_scale import residual_norm
from .summary import total_steps
from .vectors import convergence
from .wording import counted, duration, last_part, multiplier, number, percent, plain, signed


def write_run_report(run: Run, out: str | Path, answers: Sequence[Answers] = ()) -> None:
    """Writes the page to `out`, replacing it whole or not at all."""
    write_page(run_report_html(run, answers), out)


def run_report_html(run: Run, answers: Sequence[Answers] = ()) -> str:
    """The page as text."""
    parts = [_header(run), _key_figures(run), _findings(run), _held_out(run),
             *(answer_section(each, "h2") for each in answers), _training(run), _settings(run)]
    return document(f"{run.name}: steering vector", element("main", *parts))


def _header(run: Run) -> Markup:
    model = " + ".join(name for key in ("model", "adapter") if (name := last_part(run.settings.get(key))))
    train, test = (last_part(run.settings.get(key)) for key in ("train", "test"))
    layers = ", ".join(map(str, run.layers))
    place = f"Layer{'s' if len(run.layers) > 1 else ''} {layers}{' (output of the MLP)' if run.site == 'mlp' else ''}"
    about = [f"{place} of {model or last_part(run.attributes.get('model'))}"]
    about += [f"trained on {train}"] if train else []
    about += [f"held-out pairs of {test}"] if test else ["no held-out pairs"]
    version = run.attributes.get("program_version")
    return element("header", element("p", "Steering vector", class_="kind"), element("h1", run.name),
                   element("p", ", ".join(about), class_="swept"),
                   element("p", f"Report of {time_of_report()}"
                           f"{f' from a file of bipo-dist {version}' if version else ''}.", class_="made"))


def _key_figures(run: Run) -> Markup:
    total, done = total_steps(run), len(run.steps)
    share, swing, best = figures.norm_share(run), swing_of(run), best_epoch(run)
    norm = float(run.steps["vector_norm"].iloc[-1]) if done else math.nan
    pairs = int(run.evals["pairs"].iloc[-1]) if len(run.evals) else 0
    return key_figures([
        ("Steps", f"{done} of {total}" if total > 0 else str(done), unfinished_words(run) or "complete"),
        ("Norm of v", percent(share, 2) if math.isfinite(share) else number(norm),
         f"of the residual norm; |v| is {number(norm)}" if math.isfinite(share) else "hidden units"),
        ("Margin −v → +v", f"{signed(swing[0])} → {signed(swing[1])}" if swing else "–",
         f"nats, of {counted(pairs, 'held-out pair')}" if swing else "not evaluated at −1 and +1"),
        ("Best epoch", str(best) if best else "–", f"counted from 1, by {SWING}" if best else "nothing evaluated")])


def _findings(run: Run) -> Markup:
    first, *others = run_findings(run)
    return joined((element("h2", "Does it steer?"), element("p", with_code(first), class_="lead"),
                   *([element("ul", *(element("li", with_code(sentence)) for sentence in others))] if others else [])))


def _held_out(run: Run) -> Markup:
    if run.evals.empty:
        return Markup("")
    plots = known_figures(
        (figures.evaluation_figure(run, "margin"), "Held-out margin by epoch",
         "Held-out margin after each epoch, a line for each multiplier: the mean of β·Δ, by how much steering moves "
         "the model towards the matching answer. A gap that closes again has overfitted."),
        (figures.evaluation_figure(run, "accuracy"), "Held-out accuracy by epoch",
         "Held-out accuracy after each epoch: the share of pairs whose matching answer is the likelier one."))
    rows = [[str(int(row["epoch"]) + 1), str(int(row["step"])), multiplier(row["multiplier"]),
             percent(row["accuracy"]), signed(row["margin"], 3), number(row["loss"], 4), number(row["chosen_logp"]),
             number(row["rejected_logp"])] for _, row in run.evals.iterrows()]
    headers = ["epoch", "step", "multiplier", "accuracy", "margin", "loss", "log p matching", "log p other"]
    return joined((element("h2", "Held-out pairs"), plot_grid(plots), listing(headers, rows, [], "evaluations")))


def _training(run: Run) -> Markup:
    has_share = math.isfinite(figures.norm_share(run))
    vector, where = (("the vectors of all layers together", " at each of them") if len(run.layers) > 1 else
                     ("the vector", ""))
    plots = known_figures(
        (figures.step_figure(run, "loss"), "Training loss by step",
         "Training loss: thin the steps, thick their running mean. The dashed line is ln 2, the loss without a "
         "vector."),
        (figures.step_figure(run, "margin"), "Training margin by step",
         "Mean of d·β·Δ over the batch of each step, before its update, and the running mean."),
        (figures.step_figure(run, "vector_norm"), "Norm of the vector by step",
         f"Norm of {vector}, in % of the median norm of the residual stream at its layer." if has_share else
         f"Norm of {vector} in hidden units; the file does not tell the norm of the residual stream{where}."),
        (figures.step_figure(run, "lr"), "Learning rate by step", "Learning rate of each step, in hidden units."))
    course = convergence(run.vectors).assign(epoch=run.vector_epochs)
    turned = [element("p", f"Cosine of the vector of epoch {int(first) + 1} to the last one: {number(cosine)}.",
                      class_="note") for first, cosine in zip(course["epoch"][:-1], course["cosine"][:-1], strict=True)
              if cosine == cosine][:1]
    seconds = float(run.steps["seconds"].sum()) if len(run.steps) else math.nan
    spent = [] if math.isnan(seconds) else [element("p", f"The optimiser steps took {duration(seconds)}.",
                                                    class_="note")]
    return joined((element("h2", "Training"), plot_grid(plots), *turned, *spent)) if plots else Markup("")


def _settings(run: Run) -> Markup:
    shown = {name: value for name, value in run.attributes.items()
             if name not in ("config", "schema_version", "checksum", "model")}
    norm = residual_norm(run)
    scale = {"residual norm": number(norm)} if math.isfinite(norm) else {}
    return joined((element("h2", "Settings"),
                   setting_list({**{name: plain(value) for name, value in run.settings.items()}, **scale, **shown})))
