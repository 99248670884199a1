"""Tiny models of every family against transformers: log-probabilities of all tokens, of answers, and dL/dv.

Each property of a model is also taken away, and must then be missed. What was found is left as a table in the
build folder, tests/reference/family_parity.md.

Runs with transformers 4.57.6 on the families that it has (tiny_families.py), and with 5.23.0 on the others
(newer_families.py), to family_parity_5.md.
"""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
import transformers

import newer_families
import tensor_stream
from float64_oracle import BETA, FLOAT64_BY_FLOAT32, Distances, Oracle, Scores, distances, largest
from make_reference import require_pinned_versions
from plain_bipo import TokenPair
from tiny_families import (VOCABULARY, families, file_name, write_family, write_sparse, write_spelled,
                           write_without)

BUILD = Path(os.environ["BIPO_BUILD_DIR"])
PROGRAM = BUILD / "tests" / "reference" / "score_tokens"
IS_NEWER = transformers.__version__ == "5.23.0"
TABLE = BUILD / "tests" / "reference" / ("family_parity_5.md" if IS_NEWER else "family_parity.md")

FAMILIES = newer_families.families() if IS_NEWER else families()
PROPERTIES = [(name, lost) for name, family in FAMILIES.items() for lost in family.properties]
INHERENT = [(name, lost) for name, family in FAMILIES.items() for lost in family.inherent]
SUBTLE = [(name, lost) for name, family in FAMILIES.items() for lost in family.subtle]
SPELLINGS = [(name, spelling) for name, family in FAMILIES.items() for spelling in family.spellings]

# The criterion, nats.
LARGEST_DIVERGENCE = 1e-9
# What a property changes, at least, in units of what float32 may change.
LEAST_EFFECT = 100
MIDDLE = 2


@dataclass(frozen=True)
class Case:
    """A place to steer and the vector [D] to steer with."""

    layer: int
    vector: torch.Tensor

    @property
    def name(self) -> str:
        return f"layer{self.layer}/{'steered' if self.vector.any() else 'zero'}"


def token_pairs() -> list[TokenPair]:
    """Pairs that share a long beginning, one that shares nothing, one answer of a single token."""
    generator = random.Random(3)

    def ids(count: int) -> list[int]:
        return [generator.randrange(VOCABULARY) for _ in range(count)]

    root = ids(19)
    same_start = ids(2)
    return [TokenPair(root + ids(12), ids(9), ids(6)), TokenPair(root + ids(4), ids(1), ids(5)),
            TokenPair(root, same_start + ids(9), same_start + ids(1)),
            TokenPair(root + ids(25), ids(7), ids(8)), TokenPair(ids(2), ids(4), ids(13))]


PAIRS = token_pairs()
# The last pair by itself: packed with the others, it would leave them nothing to share.
PACKED_TOGETHER = [[0, 1, 2, 3], [4]]


def vector(size: int) -> torch.Tensor:
    """As long as the hidden states of these models, so that steering changes everything behind it."""
    return torch.randn(size, generator=torch.Generator().manual_seed(5))


def cases(oracle: Oracle) -> list[Case]:
    large = vector(oracle.hidden_size)
    last = oracle.blocks - 1
    return [unsteered(oracle), Case(0, large), Case(MIDDLE, large), Case(last, large)]


def unsteered(oracle: Oracle) -> Case:
    return Case(MIDDLE, torch.zeros(oracle.hidden_size))


class Scorer:
    """score_tokens, one process for all models: libtorch takes longer to load than a tiny model to score."""

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def tensors_of(self, model: Path, request: Path) -> dict[str, torch.Tensor]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process.stdin.write(f"{model}\t{request}\n".encode())
        self._process.stdin.flush()
        try:
            return tensor_stream.read_answer(self._process.stdout)
        except EOFError:
            raise AssertionError(f"score_tokens ended with exit code {self._process.wait()}") from None


SCORER = Scorer()


def program_scores(model: Path, asked: list[Case], request: Path, tp: tuple[int, ...] = (1,),
                   types: tuple[str, ...] = ("float32",), pairs: Sequence[TokenPair] = PAIRS,
                   groups: Sequence[Sequence[int]] = PACKED_TOGETHER) -> dict[tuple[str, int, str], Scores]:
    """What the program's decoder says, by type, number of tensor-parallel ranks and case."""
    request.write_text(json.dumps({
        "pairs": [asdict(pair) for pair in pairs], "groups": groups, "beta": BETA, "tp": tp,
        "types": types,
        "cases": [{"name": case.name, "layer": case.layer, "vector": case.vector.tolist()}
                  for case in asked]}))
    tensors = SCORER.tensors_of(model, request)
    return {(number, ranks, case.name): Scores(*(tensors[f"{number}/tp{ranks}/{case.name}/{part}"]
                                                 for part in ("log_probs", "answers", "gradient")))
            for number in types for ranks in tp for case in asked}


@dataclass(frozen=True)
class Model:
    """A model directory with what float64 says of it and what float32 may say."""

    directory: Path
    oracle: Oracle
    exact: dict[str, Scores]  # by case
    bounds: dict[str, Distances]  # of float32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Makes the model of a name, once."""
    if not IS_NEWER:
        require_pinned_versions()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("families")

    @functools.cache
    def make(name: str) -> Model:
        directory = write_family(folder / name, FAMILIES[name])
        oracle = Oracle(directory, PAIRS)
        exact = {case.name: oracle.scores(case.layer, case.vector) for case in cases(oracle)}
        bounds = {case.name: oracle.float32_bound(case.layer, case.vector, exact[case.name])
                  for case in cases(oracle)}
        return Model(directory, oracle, exact, bounds)

    return make


@pytest.fixture(scope="module")
def table():
    """Rows of the table, written when all tests have run."""
    rows: dict[str, list[str]] = {"models": [], "properties": []}
    yield rows
    TABLE.write_text("\n".join([
        "Largest distance to transformers in float64 at tp 1, 2 and 3: log-probability of any token and of an",
        "answer in nats, |dL/dv - its|, and KL, each with what float32 may differ by; in float64, the largest",
        "distance in units of what float64 may differ by.", "",
        "| model | token | bound | answer | bound | dL/dv | bound | KL | float64 |",
        "|---|---|---|---|---|---|---|---|---|", *rows["models"], "",
        "What leaving a property out changes: the largest change of a token's log-probability, and how many",
        "times that is what float32 may differ by.", "",
        "| model | without | nats | times the bound |", "|---|---|---|---|", *rows["properties"], ""]),
        encoding="utf-8")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(model, table, tmp_path, name):
    """Packed and split over one to three ranks, in float32 by the fused loops and in float64 by plain ones."""
    made = model(name)
    found = program_scores(made.directory, cases(made.oracle), tmp_path / "request.json", (1, 2, 3),
                           ("float32", "float64"))
    by_case = {key: distances(scores, made.exact[key[2]]) for key, scores in found.items()}
    single = {key: d for key, d in by_case.items() if key[0] == "float32"}
    worst, bound = largest(single.values()), largest(made.bounds.values())
    shares = [part / allowed for key, d in by_case.items() if key[0] == "float64"
              for part, allowed in zip((d.log_probs, d.answers, d.gradient),
                                       parts(made.bounds[key[2]] * FLOAT64_BY_FLOAT32))]
    table["models"].append(
        f"| {name} | {worst.log_probs:.1e} | {bound.log_probs:.1e} | {worst.answers:.1e} "
        f"| {bound.answers:.1e} | {worst.gradient:.1e} | {bound.gradient:.1e} | {worst.divergence:.1e} "
        f"| {max(shares):.2g} |")
    for (number, ranks, case), distance in by_case.items():
        scale = FLOAT64_BY_FLOAT32 if number == "float64" else 1.0
        bound = made.bounds[case] * scale
        assert distance.within(bound), f"{number}, tp {ranks}, {case}: {distance}, may be {bound}"
        assert distance.divergence < LARGEST_DIVERGENCE, f"{number}, tp {ranks}, {case}: {distance}"


def parts(d: Distances) -> tuple[float, float, float]:
    return d.log_probs, d.answers, d.gradient


@pytest.mark.parametrize("name", FAMILIES)
def test_steering_matters(model, name):
    """Or the steered cases would compare the model with itself."""
    made = model(name)
    zero = made.exact[unsteered(made.oracle).name]
    for case in cases(made.oracle)[1:]:
        assert distances(made.exact[case.name], zero).log_probs > 1


def noticed_effect(table, what: str, moved: Distances, bound: Distances) -> float:
    """What a property's absence moves, entered in the table; far more than the bound."""
    effect = moved.log_probs
    table["properties"].append(f"| {what} | {effect:.2g} | {effect / bound.log_probs:.0f} |")
    assert effect > LEAST_EFFECT * bound.log_probs
    return effect


@pytest.mark.parametrize("name, lost", PROPERTIES)
def test_every_property_matters_and_is_missed(model, table, tmp_path, name, lost):
    """Taken away, transformers computes something else, and the program the same other thing."""
    made = model(name)
    case = unsteered(made.oracle)
    without = write_without(tmp_path / file_name(lost), made.directory, FAMILIES[name].properties[lost])
    exact = Oracle(without, PAIRS).scores(case.layer, case.vector)
    bound = made.bounds[case.name]
    effect = noticed_effect(table, f"{name} | {lost}", distances(exact, made.exact[case.name]), bound)

    (found,) = program_scores(without, [case], tmp_path / "request.json").values()
    missed = distances(found, made.exact[case.name])
    assert not missed.within(bound)
    assert missed.log_probs > LEAST_EFFECT / 2 * bound.log_probs
    assert distances(found, exact).log_probs < effect / LEAST_EFFECT


@pytest.mark.parametrize("name, lost", INHERENT)
def test_every_property_without_a_switch_matters(model, table, name, lost):
    """A program that lacked it would not pass test_every_family."""
    made = model(name)
    case = unsteered(made.oracle)
    other = Oracle(made.directory, PAIRS)
    FAMILIES[name].inherent[lost](other.model)
    bound = made.bounds[case.name]
    moved = distances(other.scores(case.layer, case.vector), made.exact[case.name])
    noticed_effect(table, f"{name} | {lost}", moved, bound)


@pytest.mark.parametrize("name, lost", SUBTLE)
def test_every_subtle_property_is_missed_in_float64(model, table, tmp_path, name, lost):
    made = model(name)
    case = unsteered(made.oracle)
    without = write_without(tmp_path / file_name(lost), made.directory, FAMILIES[name].subtle[lost])
    exact = Oracle(without, PAIRS).scores(case.layer, case.vector)
    bound = made.bounds[case.name] * FLOAT64_BY_FLOAT32
    noticed_effect(table, f"{name} | {lost} (float64)", distances(exact, made.exact[case.name]), bound)
    (found,) = program_scores(without, [case], tmp_path / "request.json", types=("float64",)).values()
    assert distances(found, exact).within(bound)


@pytest.mark.parametrize("name, spelling", SPELLINGS)
def test_every_spelling_says_the_same(model, tmp_path, name, spelling):
    made = model(name)
    spelled = write_spelled(tmp_path / "model", made.directory, FAMILIES[name].spellings[spelling])
    same_as_before(made, spelled, tmp_path, not FAMILIES[name].spellings[spelling].is_newer)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_configuration_leaves_out_has_the_default_of_its_class(model, tmp_path, name):
    made = model(name)
    same_as_before(made, write_sparse(tmp_path / "model", made.directory), tmp_path, True)


def same_as_before(made: Model, spelled: Path, folder: Path, is_readable: bool) -> None:
    """`is_readable`: transformers must find the same in it, too."""
    case = unsteered(made.oracle)
    exact = made.exact[case.name]
    if is_readable:
        other = Oracle(spelled, PAIRS).scores(case.layer, case.vector)
        assert distances(other, exact).within(made.bounds[case.name] * FLOAT64_BY_FLOAT32)
    (found,) = program_scores(spelled, [case], folder / "request.json").values()
    assert distances(found, exact).within(made.bounds[case.name])
