"""The norm of the residual stream at the layer of a run, against which the vector's norm is a share."""

from __future__ import annotations

import math

from .run import Run
from .summary import total_steps


def residual_norm(run: Run) -> float:
    """The median norm, in hidden units; NaN where the file does not tell it, and for several layers, of which it tells
    the lowest one's at most.

    It stands in the attribute or setting residual_norm.  Without one, and with a learning rate in units of the residual
    stream, it follows from the steps: their rate in hidden units is the setting times the median root mean square of
    the stream times the schedule (linear warm-up, then half a cosine).
    """
    if len(run.layers) > 1:
        return math.nan
    for source in (run.attributes, run.settings):
        value = source.get("residual_norm")
        if isinstance(value, (int, float)) and value > 0:
            return float(value)
    return _from_rates(run)


def _from_rates(run: Run) -> float:
    rate, warmup = run.settings.get("lr"), run.settings.get("warmup_steps")
    hidden, total = run.attributes.get("hidden_size"), total_steps(run)
    if run.settings.get("lr_unit") != "residual" or run.steps.empty or total < 1:
        return math.nan
    if not all(isinstance(value, (int, float)) for value in (rate, warmup, hidden)) or not rate:
        return math.nan
    row = run.steps.loc[run.steps["lr"].idxmax()]
    scale = _schedule(int(row["step"]), int(warmup), total)  # type: ignore[arg-type]
    if not (scale > 0 and row["lr"] > 0):
        return math.nan
    return float(row["lr"]) / (float(rate) * scale) * math.sqrt(float(hidden))  # type: ignore[arg-type]


def _schedule(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))
