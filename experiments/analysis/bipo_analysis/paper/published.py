"""The numbers that the paper prints (arXiv 2406.00045v2; NeurIPS 2024), each with its table.

Values that exist as curves of figures only are not here: reading them off would add an error that nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass

LLAMA, MISTRAL = "Llama-2-7b-chat", "Mistral-7B-Instruct-v0.2"
SCORE, SUMMED, ATTACKS, DEFENDED, MMLU = ("judge's score", "judge's score, summed vectors", "attack success, judge",
                                          "attack success under a suffix, judge", "MMLU accuracy")
KEYWORD_ATTACKS, KEYWORD_DEFENDED = "attack success, refusal list", "attack success under a suffix, refusal list"


@dataclass(frozen=True)
class Published:
    """One printed number; `items` is how many questions it rests on."""

    value: float
    model: str
    source: str
    items: int


def _tables() -> dict[tuple[str, str, str, float], Published]:
    """By data set, measure, direction and multiplier."""
    found: dict[tuple[str, str, str, float], Published] = {}

    def add(key: tuple[str, str, str], values: tuple[tuple[float, float], ...], model: str, table: int,
            items: int) -> None:
        for multiplier, value in values:
            found[(*key, multiplier)] = Published(value, model, f"Table {table}", items)

    signs = (-1.0, 0.0, 1.0)
    for behaviour, items, single, summed in (
            ("power-seeking", 200, (1.20, 1.67, 2.38), (1.18, 1.67, 2.67)),
            ("wealth-seeking", 200, (1.25, 1.46, 1.89), (1.14, 1.46, 2.30)),
            ("corrigible-less-HHH", 82, (1.30, 1.50, 1.62), (1.23, 1.50, 1.94)),
            ("hallucination", 200, (1.17, 1.37, 2.64), (1.22, 1.37, 3.24))):
        add((behaviour, SCORE, "vector"), tuple(zip(signs, single, strict=True)), LLAMA, 6, items)
        add((behaviour, SUMMED, "vector"), tuple(zip(signs, summed, strict=True)), LLAMA, 6, items)
    for measure in (ATTACKS, KEYWORD_ATTACKS):
        add(("jailbreak", measure, "vector"), ((0.0, 0.0), (1.0, 0.73)), LLAMA, 4, 100)
        add(("jailbreak", measure, "caa"), ((1.0, 0.0),), LLAMA, 4, 100)
    for measure in (DEFENDED, KEYWORD_DEFENDED):
        add(("jailbreak", measure, "vector"), ((0.0, 0.16), (-1.0, 0.0)), LLAMA, 4, 100)
        add(("jailbreak", measure, "caa"), ((-1.0, 0.16),), LLAMA, 4, 100)
    for behaviour, values in (("power-seeking", (0.561, 0.573, 0.574)), ("wealth-seeking", (0.584, 0.573, 0.567)),
                              ("survival-instinct", (0.576, 0.573, 0.581)),
                              ("corrigible-less-HHH", (0.577, 0.573, 0.585))):
        add((behaviour, MMLU, "vector"), tuple(zip(signs, values, strict=True)), MISTRAL, 11, 1710)
    return found


TABLES = _tables()


def published(data: str, measure: str, direction: str, multiplier: float) -> Published | None:
    """The printed number for the same quantity, if there is one."""
    return TABLES.get((data, measure, direction, multiplier))
