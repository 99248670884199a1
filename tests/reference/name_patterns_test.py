"""Expressions of an adapter's configuration, matched by the program and by Python's re in PEFT 0.21.2's three ways."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import warnings
from pathlib import Path

import pytest

PROGRAM = Path(os.environ["BIPO_BUILD_DIR"]) / "tests/reference/match_names"

NAMES = ["lm_head", "model.embed_tokens", *(f"model.layers.{block}.{module}" for block in (0, 1, 2, 11, 21) for module in (
    "self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj.weight"))]
WRITTEN = {"whole": "{}", "ending": r"(.*\.)?({})$", "before_block": r"(?:^|.*?\.){}\.(?P<idx>\d+)\."}

EXPRESSIONS = [
    "q_proj", "^q_proj", r"^model\.layers\.1\..*", "q.proj", "[qv]_proj", "(q|v)_proj", "q_proj|v_proj", r"\w+_proj",
    r".*\.layers\.(?:1|2)\..*(q_proj|v_proj)$", r"layers\.\d\.self_attn\.q_proj", r"layers\.\d{2}\..*", r"[^.]+",
    r"(?!model)\w+", r".*(?<!q)_proj", r".*(?<=o)_proj", r"(?P<n>1)(?P=n)\..*", r"model\.layers\.(\d)\2\..*", r"(\d)\1\..*",
    r"(?i:MODEL)\..*", r"(?i)Q_PROJ", r"(?i)MODEL\.LAYERS\..*", r"(?-i:q)_proj", r".*\Z", r"\Amodel.*", r".*\bq_proj\b",
    r"layers\.\d{,1}\..*", r"layers\.\d{1,}\..*", r"layers.{3}self_attn.*", r"q_proj{", r"x{,}.*", r"a{b}|lm_head",
    r"[]q]_proj", r"[^]q]_proj", r"[\w.]+head", r"[a-c\-q]_proj", r"q_proj\Z", r"q\x5fproj", r"q_proj(?#a word)", r"",
    r"(?>\w+)_proj", r"\w++_proj", r".*+", r"layers", r"lay.+?s", r"l.yers|h", r"(?:h|layers)", r"layers\.1", "h", "...", ".*?", "*q_proj",
]
# Python takes them in another way, or PCRE2 does: refused.
REFUSED = [r"\h+_proj", r"\Qq_proj\E", r"\N+", r"[[:alpha:]]_proj", r"(?R)", r"(?1)", r"(?|q|v)_proj", r"(?<n>q)_proj",
           r"(*UTF)q_proj", r"q\137proj", r"\0q_proj", r"(?x) q_proj", r"q_(?i)proj", r"(q)?(?(1)_proj|v_proj)",
           r"\u0071_proj", r"q_proj(", r"[q_proj", "q_proj\\", r"q)|(v_proj", r"\x{71}_proj", r"(?s"]


def found_by_python(kind: str, expression: str) -> list[bool] | None:
    """None for an expression that Python does not take."""
    match = re.fullmatch if kind == "whole" else re.match
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = [match(expression if kind == "whole" else WRITTEN[kind].replace("{}", expression), name)
                     for name in NAMES]
        except re.error:
            return None
    if kind == "before_block":  # PEFT takes the number out of the match
        return [one is not None and one["idx"] is not None for one in found]
    return [one is not None for one in found]


def found_by_program(requests: list[tuple[str, str]]) -> list[list[bool] | str]:
    lines = "".join(json.dumps([kind, expression, NAMES]) + "\n" for kind, expression in requests)
    finished = subprocess.run([PROGRAM], input=lines, capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in finished.stdout.splitlines()]


@pytest.mark.parametrize("kind", WRITTEN)
def test_expressions_that_people_write(kind):
    for expression, found in zip(EXPRESSIONS, found_by_program([(kind, e) for e in EXPRESSIONS])):
        expected = found_by_python(kind, expression)
        if "|" in expression and "(" not in expression and kind == "before_block":
            assert isinstance(found, str) and "outside parentheses" in found, (expression, found)
        elif expected is not None:
            assert found == expected, expression


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_may_mean_something_else_is_refused(kind):
    for expression, found in zip(REFUSED, found_by_program([(kind, e) for e in REFUSED])):
        if expression == r"q)|(v_proj" and kind == "ending":
            assert found == found_by_python(kind, expression)  # PEFT's own parentheses make it whole
        else:
            assert isinstance(found, str), (expression, found)
            assert "regular expression" in found, found


def random_expression(choose: random.Random, depth: int = 0) -> str:
    atoms = ["q", "v", "_proj", r"\.", ".", r"\d", r"\w", "layers", "model", "self_attn", "[0-2]", "[^.]", "1", "2", r"\b", "^", "$",
             r"\W", r"[\d.]", "{", "}", ","]
    counts = ["", "", "", "", "*", "+", "?", "*?", "+?", "{1,2}", "{,2}", "{2}", "{1,}", "*+", "?+"]
    # A group is not repeated without bound: what is in it may be.
    few = ["", "", "", "?", "{2}", "{,2}", "??"]
    parts = []
    for _ in range(choose.randint(1, 4)):
        if depth < 3 and choose.random() < 0.3:
            opening = choose.choice(["(", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"])
            parts.append(opening + random_expression(choose, depth + 1) + ")" + choose.choice(few))
        else:
            parts.append(choose.choice(atoms) + choose.choice(counts))
    return "".join(parts) + ("|" + random_expression(choose, depth + 1) if depth < 3 and choose.random() < 0.2 else "")


@pytest.mark.parametrize("kind", WRITTEN)
def test_random_expressions(kind):
    choose = random.Random(f"names, {kind}")
    expressions = [random_expression(choose) for _ in range(1500)]
    expressions += [rf".*{expression}.*" for expression in expressions]
    compared = matched = 0
    for expression, found in zip(expressions, found_by_program([(kind, e) for e in expressions])):
        expected = found_by_python(kind, expression)
        if expected is not None and not isinstance(found, str):
            assert found == expected, expression
            compared += 1
            matched += any(expected) and not all(expected)
    assert compared > 1000 and matched > 100, (compared, matched)
