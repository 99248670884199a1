"""Answers under a vector, as `bipo-dist generate` wrote them, beside the numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .errors import AnalysisError
from .page import Markup, element, joined
from .wording import counted, multiplier

PROMPTS_SHOWN = 3
# Characters of an answer or a prompt that are shown.
LONGEST_TEXT = 1200


@dataclass(frozen=True)
class Answers:
    """The answers of one file: prompts in their order, and a text for each prompt and multiplier."""

    name: str
    prompts: dict[int, str]
    texts: dict[tuple[int, float], str]

    @property
    def multipliers(self) -> list[float]:
        """All multipliers, ascending."""
        return sorted({value for _, value in self.texts})

    def shown_multipliers(self) -> list[float]:
        """-2, 0 and 2 where the file has them; else the lowest, 0 and the highest."""
        found = self.multipliers
        if {-2.0, 0.0, 2.0} <= set(found):
            return [-2.0, 0.0, 2.0]
        return sorted({found[0], found[-1], *([0.0] if 0.0 in found else [])})


def load_answers(path: str | Path) -> Answers:
    """Reads a file of `bipo-dist generate`.  Raises AnalysisError, which names file and line."""
    path = Path(path)
    prompts: dict[int, str] = {}
    texts: dict[tuple[int, float], str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{path}: cannot be read as the answers of `bipo-dist generate`: {error}") from error
    for count, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            index, value = int(row["prompt_index"]), float(row["multiplier"])
            prompts[index], texts[index, value] = _prompt_text(row["prompt"]), str(row["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise AnalysisError(f"{path}:{count}: not an answer of `bipo-dist generate` (prompt_index, prompt, "
                                f"multiplier, text): {error!r}") from error
    if not texts:
        raise AnalysisError(f"{path}: holds no answers; name a file that `bipo-dist generate --out` wrote")
    return Answers(path.name, prompts, texts)


def answer_section(answers: Answers, heading: str) -> Markup:
    """The answers to the first prompts, the multipliers beside each other."""
    shown, prompts = answers.shown_multipliers(), list(answers.prompts)[:PROMPTS_SHOWN]
    parts = [element(heading, "Answers"),
             element("p", f"The first {counted(len(prompts), 'prompt')} of {len(answers.prompts)} in {answers.name}, "
                          "chosen by their place only.", class_="note")]
    for index in prompts:
        columns = [element("div", element("p", f"multiplier {multiplier(value)}", class_="at"),
                           element("blockquote", _cut(answers.texts.get((index, value), "(no answer)"))))
                   for value in shown]
        parts += [element("p", _cut(answers.prompts[index]), class_="prompt"),
                  element("div", *columns, class_="answers")]
    return joined(parts)


def _prompt_text(prompt: object) -> str:
    """The text of a prompt, the last turn of a conversation."""
    if isinstance(prompt, list):
        return str(prompt[-1]["content"])
    return str(prompt)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"
