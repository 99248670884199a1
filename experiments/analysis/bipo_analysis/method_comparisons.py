"""Differences between methods that were measured on the same pairs, corrected for how many are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
import pandas

from .evaluation import CONTROLS, VECTOR, Evaluation, directions_in, short_name
from .intervals import FEW_PAIRS
from .resampling import NO_DIFFERENCE_KNOWN, Difference, few_seeds_words, holm, paired_bootstrap
from .run import Run
from .sections import Section, Variant
from .summary import MULTIPLIERS
from .wording import NO_BREAK, axis_values, counted

# More cells than this are not compared: a page is read by people.
MOST_COMPARED = 12
# A corrected p below this counts as more than chance.
LEVEL = 0.05


@dataclass(frozen=True)
class Compared:
    """One method's difference from the reference; `corrected` is p after Holm's correction."""

    label: str
    difference: Difference
    corrected: float

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        if math.isnan(self.corrected):
            return "not tested"
        if self.corrected >= LEVEL:
            return "open"
        direction = "more" if self.difference.value > 0 else "less"
        if self.difference.seeds > 1:
            return f"{direction}, in every seed" if self.difference.seeds_agree else f"{direction}, not in every seed"
        return direction


def corrected(differences: Mapping[str, Difference]) -> list[Compared]:
    """All comparisons of one table, corrected together."""
    adjusted = holm([difference.probability for difference in differences.values()])
    return [Compared(label, difference, float(p)) for (label, difference), p in zip(differences.items(), adjusted,
                                                                                   strict=True)]


def controls_compared(evaluation: Evaluation) -> list[Compared]:
    """The controls' slopes less the vector's, pair by pair; empty without both."""
    slopes = {direction: _slopes(evaluation, direction) for direction in directions_in(evaluation.slopes)}
    if VECTOR not in slopes:
        return []
    return corrected({short_name(name, evaluation.noun): _difference(slopes[name], slopes[VECTOR])
                      for name in CONTROLS if name in slopes})


def vectors_compared(labels: Sequence[str], evaluations: Sequence[Evaluation]) -> list[Compared]:
    """The slopes of each other evaluation's vector less the first one's, where the pairs are the same ones."""
    first = evaluations[0]
    key = first.settings.get("test_tokens_hash")
    return corrected({label: _difference(_slopes(evaluation, VECTOR), _slopes(first, VECTOR))
                      for label, evaluation in list(zip(labels, evaluations, strict=True))[1:]
                      if key is not None and evaluation.settings.get("test_tokens_hash") == key})


def _slopes(evaluation: Evaluation, direction: str) -> pandas.Series:
    slopes = evaluation.slopes
    return slopes[slopes["direction"] == direction].set_index("pair")["slope"]


def _difference(own: pandas.Series, other: pandas.Series) -> Difference:
    return paired_bootstrap((own - other).dropna().to_numpy()) if len(own) and len(other) else NO_DIFFERENCE_KNOWN


def cells_compared(section: Section, runs: Mapping[str, Run]) -> tuple[str, list[Compared]]:
    """What the cells of a section do, by layer and variant, less what the best layer of the best variant does.

    The effect is half the propensity at +v less that at -v in the last evaluation, pair by pair; the pairs and the
    seeds are those that both have.  Returns the reference's label and the comparisons; none where the files hold no
    single pairs.  Of many cells those with the largest swing of accuracy are compared.
    """
    groups = _groups(section)[:MOST_COMPARED + 1]
    effects = {label: {seed: effect for seed, cell in cells.items() if cell in runs
                       and len(effect := _effect(runs[cell]))} for label, cells in groups}
    known = {label: own for label, own in effects.items() if own}
    if not groups or groups[0][0] not in known or len(known) < 2:
        return "", []
    reference = groups[0][0]
    return reference, corrected({label: _over_seeds(own, known[reference]) for label, own in known.items()
                                 if label != reference})


def _groups(section: Section) -> list[tuple[str, dict[int, str]]]:
    """Layers of variants with their cells by seed, the largest swing of accuracy first."""
    found = []
    for variant in section.variants:
        for layer in variant.curve["layer"] if len(variant.curve) else ():
            own = variant.compared[variant.compared["layer"] == layer]
            cells = dict(zip((int(seed) for seed in own["seed"]), own["cell"], strict=True))
            row = variant.curve[variant.curve["layer"] == layer].iloc[0]
            found.append(((row["accuracy_swing"], row["margin_swing"]), _label(section, variant, int(layer)), cells))
    return [(label, cells) for _, label, cells in sorted(found, key=lambda group: group[0], reverse=True)]


def _label(section: Section, variant: Variant, layer: int) -> str:
    others = {name: value for name, value in variant.values.items() if name != "joint_layers"}
    several = section.cells["layer"].nunique() > 1 or len(others) < len(variant.values) or not others
    parts = ([variant.layer_words(layer)] if several else []) + ([axis_values(others)] if others else [])
    return ", ".join(parts)


def _effect(run: Run) -> pandas.Series:
    """Half the propensity of each pair at +v less that at -v, of the last evaluation."""
    samples = run.eval_samples
    own = samples[samples["step"] == samples["step"].max()] if len(samples) else samples
    sides = {side: own[own["multiplier"] == MULTIPLIERS[side]].set_index("pair") for side in ("plus", "minus")}
    plus, minus = (rows["chosen_logp"] - rows["rejected_logp"] for rows in (sides["plus"], sides["minus"]))
    return ((plus - minus) / 2).dropna().astype(float)


def _over_seeds(own: Mapping[int, pandas.Series], other: Mapping[int, pandas.Series]) -> Difference:
    seeds = [seed for seed in own if seed in other]
    if not seeds:
        return NO_DIFFERENCE_KNOWN
    table = pandas.DataFrame({seed: own[seed] - other[seed] for seed in seeds}).T
    return paired_bootstrap(table.to_numpy(dtype=numpy.float64))


def comparison_note(compared: Sequence[Compared], reference: str, what: str) -> str:
    """How the differences of a table were found, and what their seeds can tell."""
    tested = sum(not math.isnan(one.corrected) for one in compared)
    seeds = max((one.difference.seeds for one in compared), default=0)
    over = "pairs and seeds" if seeds > 1 else "pairs"
    text = (f"{what}, less that of {reference}, on the same pairs. Intervals (95{NO_BREAK}%) and p: paired bootstrap "
            f"over {over}; p is corrected by Holm's method for {counted(tested, 'comparison')}.")
    if any(0 < one.difference.pairs <= FEW_PAIRS for one in compared):
        text += (f" Of up to {FEW_PAIRS} pairs the intervals hold Student's t, too, and p is at least that of all "
                 "changes of signs.")
    return f"{text} {few_seeds_words(seeds)}" if seeds > 1 else text
