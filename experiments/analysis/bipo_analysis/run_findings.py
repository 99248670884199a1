"""Whether a single run gave a vector that steers, in plain sentences."""

from __future__ import annotations

import math
import re

import numpy

from .intervals import widest_share_interval
from .paired import Change, mean_change
from .run import Run
from .run_scale import residual_norm
from .summary import evaluations, outcomes, total_steps
from .wording import NO_BREAK, counted, number, percent, point_range, points, signed, span

# A vector shorter than this share of the residual stream's norm hardly moves a model.
SHORT = 0.005
# What the best epoch is chosen by.
SWING = "the largest swing of margin"
CHANGES = "raise --lr, shorten the warm-up or train for more epochs"


def run_findings(run: Run) -> list[str]:
    """The sentences; the first one answers whether the vector steers."""
    return [_verdict(run), *_short(run), *_accuracy(run), *_best(run), *_unfinished(run)]


def norm_share(run: Run) -> float:
    """The last norm of the vector as a share of the residual stream's; NaN where one is not known."""
    return float(run.steps["vector_norm"].iloc[-1]) / residual_norm(run) if len(run.steps) else math.nan


def is_before_a_norm(run: Run) -> bool:
    """Whether a norm, or a scale of each block, is behind the MLPs that the run steers.

    Then the residual stream does not move by the vector, whose length says nothing beside it.
    """
    return run.site == "mlp" and "block_output_factor" not in run.settings


def swing_of(run: Run) -> tuple[float, float] | None:
    """Held-out margins at -v and +v of the last evaluation; None where there is none at both."""
    table = evaluations(run.evals)
    if table.empty or math.isnan(table["margin_minus"].iloc[-1]) or math.isnan(table["margin_plus"].iloc[-1]):
        return None
    return float(table["margin_minus"].iloc[-1]), float(table["margin_plus"].iloc[-1])


def best_epoch(run: Run) -> int:
    """The epoch, from 1, of the evaluation with the largest swing; 0 where nothing was evaluated."""
    return int(outcomes(run.evals).get("best_epoch", -1)) + 1  # type: ignore[call-overload]


def paired_swing(run: Run) -> Change:
    """Propensity at +v less that at -v of the last evaluation, pair by pair, from /eval_samples."""
    samples = run.eval_samples
    own = samples[samples["step"] == samples["step"].max()] if len(samples) else samples
    values = own.assign(value=own["chosen_logp"] - own["rejected_logp"]).pivot_table(
        index="pair", columns="multiplier", values="value", aggfunc="first") if len(own) else own
    if 1.0 not in values or -1.0 not in values:
        return mean_change(numpy.empty(0))
    return mean_change((values[1.0] - values[-1.0]).dropna().to_numpy())


def _verdict(run: Run) -> str:
    swing = swing_of(run)
    if swing is None:
        return ("No held-out pairs were evaluated with −v and +v, so nothing here shows whether the vector steers: "
                "give --test, with -1 and 1 among the --multipliers.")
    minus, plus = swing
    text = f"The held-out margin is {signed(minus, 3)} nats with −v and {signed(plus, 3)} with +v"
    change = paired_swing(run)
    if math.isnan(change.interval.low):
        return (f"{text}. The run file holds no single pairs, so whether that is more than chance is not tested here; "
                "`bipo-dist evaluate --test` measures it pair by pair.")
    text += (f"; pair by pair, propensity changes by {signed(change.value)} nats from −v to +v "
             f"(95{NO_BREAK}% interval {span(*change.interval)}, {counted(change.items, 'pair')})")
    if change.interval.low > 0:
        return f"{text}: the vector steers."
    if change.interval.high < 0:
        return f"{text}: the vector steers the wrong way."
    return f"{text}: no effect is shown. To change that, {CHANGES}; or give more held-out pairs."


def _short(run: Run) -> list[str]:
    if len(run.layers) > 1:
        # The program held each layer's vector against the stream at that layer, which is not in the file.
        told = re.match(r"weak: (the norms? of .* % of the residual stream's there, below [\d.]+ %)",
                        str(run.attributes.get("verdict", "")))
        return [f"T{told[1][1:]}: too short to move the model. To change that, {CHANGES}."] if told else []
    share = norm_share(run)
    if not share < SHORT or is_before_a_norm(run):
        return []
    return [f"The vector ended at {percent(share, 3)} of the residual stream's norm, below {percent(SHORT)}: too short "
            f"to move the model. To change that, {CHANGES}."]


def _accuracy(run: Run) -> list[str]:
    table = evaluations(run.evals)
    if table.empty or not {-1.0, 1.0} <= set(run.evals["multiplier"]):
        return []
    last, pairs = table.iloc[-1], int(run.evals["pairs"].iloc[-1])
    minus, plus = float(last["accuracy_minus"]), float(last["accuracy_plus"])
    if math.isnan(minus + plus):
        return []
    text = (f"The matching answer is the likelier one in {percent(minus)} of {counted(pairs, 'held-out pair')} with −v "
            f"and in {percent(plus)} with +v, a swing of {points(plus - minus)}")
    low, high = widest_share_interval(minus, plus, pairs)
    if low > 0 or high < 0:
        return [f"{text}; whichever pairs changed, it lies within {point_range(low, high)} points (95{NO_BREAK}%)."]
    return [f"{text}; the two shares alone do not tell whether that is more than chance."]


def _best(run: Run) -> list[str]:
    table, best = evaluations(run.evals), best_epoch(run)
    if best == 0 or len(table) < 2:
        return []
    last = int(table["epoch"].iloc[-1]) + 1
    own = table[table["epoch"] == best - 1].iloc[-1]
    where = "the last one" if best == last else f"not the last one, {last}"
    return [f"Epoch {best}, counted from 1, is the best of {len(table)} evaluations by {SWING} "
            f"({number(float(own['margin_plus'] - own['margin_minus']))} nats, of accuracy "
            f"{points(own['accuracy_plus'] - own['accuracy_minus'])}): {where}. It is chosen on the held-out "
            "pairs themselves, so it looks a little better than it is."]


def unfinished_words(run: Run) -> str:
    """The status of a run that is not complete, else nothing."""
    return "" if run.status == "complete" else run.status


def _unfinished(run: Run) -> list[str]:
    if not unfinished_words(run):
        return []
    total = total_steps(run)
    of_all = f" of {total}" if total > 0 else ""
    return [f"The run is not complete ({run.status}, {len(run.steps)}{of_all} steps): the figures are of its "
            "last save."]
