"""What an evaluation cannot tell, for readers who might take it to."""

from __future__ import annotations

from collections.abc import Sequence

from .evaluation import CONCEPTOR, RANDOM, VECTOR, Evaluation, direction_name, of_direction
from .measure_findings import COST_NAMES, measures_in
from .names import labels
from .paired import MIN_DRAWS
from .vectors_in_use import vectors_in_use
from .wording import NO_BREAK, counted, joined

# Below this the intervals of shares are wider than most effects.
FEW_PAIRS = 100
# What an empty table means.
NOT_MEASURED = {"curve": "held-out pairs", "choices": "choices (A/B, multiple choice, MMLU)",
                "costs": "costs (perplexity, KL, repetition, refusals)", "grid": "two {}s together",
                "judge": "a judge's scores"}


def limits(evaluations: Sequence[Evaluation]) -> list[str]:
    """The sentences; those that hold for any evaluation first."""
    sentences = [
        f"Intervals of a change compare the same items with and without steering (95{NO_BREAK}%, Student's t for "
        "means, Agresti and Min's for shares); those of a mean or a share by itself are bootstrap intervals over the "
        f"items. Both tell how other items like these might come out, not how {_others(evaluations)} would. "
        "Only a table of differences with a column for Holm's p is corrected for the number of comparisons: of twenty "
        "others that show nothing, one looks like a finding.",
        "Propensity and accuracy rate answers that were given. What the model writes by itself is in the generations, "
        "and multiple choice hides damage to free text.",
        "A slope takes the curve for a straight line; where the curve bends, see the points."]
    if any(len(evaluation.judge) for evaluation in evaluations):
        sentences.append("The judge is a language model: its scores are not people's.")
    named = list(zip(labels(evaluations), evaluations, strict=True))
    for label, evaluation in named:
        where = f"{label}: " if len(named) > 1 else ""
        sentences += [f"{where}{sentence}" for sentence in _own_limits(evaluation)]
    return sentences


def _others(evaluations: Sequence[Evaluation]) -> str:
    """What another one of those that were evaluated would be."""
    named = {VECTOR: "a vector of another training run", CONCEPTOR: "a conceptor of other activations"}
    nouns = {evaluation.noun for evaluation in evaluations}
    return " or ".join(text for noun, text in named.items() if noun in nouns)


def _own_limits(evaluation: Evaluation) -> list[str]:
    sentences = []
    curve = of_direction(evaluation.curve, VECTOR)
    pairs = int(curve["pairs"].max()) if len(curve) else 0
    if 0 < pairs < FEW_PAIRS:
        sentences.append(f"{counted(pairs, 'held-out pair')} are few: small effects do not show.")
    draws = evaluation.random_curve["direction"].nunique()
    if any(used.is_conceptor for used in vectors_in_use(evaluation)):
        control = (f" A {direction_name(RANDOM, evaluation.noun)} is such a matrix with its dimensions exchanged and "
                   "signs turned: the same eigenvalues, but not the same size of change on these activations.") \
            if draws else ""
        what = "A conceptor is" if evaluation.noun == CONCEPTOR else "One of the vectors is a conceptor,"
        sentences.append(f"{what} a matrix that activations are multiplied by; its norm is that of βC − I.{control}")
    random = direction_name(RANDOM, evaluation.noun)
    if draws == 1:
        sentences.append(f"The {random} is a single draw; another may do a little more or less.")
    elif 1 < draws < MIN_DRAWS:
        sentences.append(f"{draws} {random}s are too few for a null distribution.")
    if alone := _without_controls(evaluation):
        sentences.append(f"Measured without controls: {joined(alone)}.")
    absent = [_measure(evaluation, table) for table in NOT_MEASURED if evaluation.tables[table].empty]
    if absent:
        sentences.append(f"Not measured: {joined(absent)}.")
    return sentences


def _without_controls(evaluation: Evaluation) -> list[str]:
    """What was measured without controls."""
    costs = evaluation.costs
    alone = [COST_NAMES.get(measure, measure) for measure in measures_in(costs)
             if set(costs[costs["measure"] == measure]["direction"]) == {VECTOR}]
    named = [name if name.startswith("KL") else f"{name[0].lower()}{name[1:]}" for name in alone]
    return named + [_measure(evaluation, table) for table in ("grid", "judge") if len(evaluation.tables[table])]


def _measure(evaluation: Evaluation, table: str) -> str:
    return NOT_MEASURED[table].format(evaluation.noun)
