"""Tiny models of every family against transformers: log-probabilities of all tokens, of answers, and dL/dv.

Each property of a model is also taken away, and must then be missed; by default the first of a family and every second
one behind it, and the label long takes the others, which the table has not. What was found is left as a table in the
build folder, tests/reference/family_parity.md.

Runs with transformers 4.57.6 on the families that it has (tiny_families.py), and with 5.23.0 on the others
(newer_families.py), to family_parity_5.md.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
import transformers

import newer_families
import tensor_stream
from float64_oracle import (BETA, FLOAT64_BY_FLOAT32, Distances, Oracle, Scores, bfloat16_gradient, bfloat16_products,
                            distances, largest)
from make_reference import require_pinned_versions
from plain_bipo import TokenPair
from selection import every_second
from tiny_families import (VOCABULARY, families, file_name, write_family, write_sparse, write_spelled,
                           write_without)

BUILD = Path(os.environ["BIPO_BUILD_DIR"])
PROGRAM = BUILD / "tests" / "reference" / "score_tokens"
IS_NEWER = transformers.__version__ == "5.23.0"
TABLE = BUILD / "tests" / "reference" / ("family_parity_5.md" if IS_NEWER else "family_parity.md")

FAMILIES = newer_families.families() if IS_NEWER else families()
# Of each family the first one, the third and so on are of the default run.
PROPERTIES = [case for name, family in FAMILIES.items()
              for case in every_second((name, lost) for lost in family.properties)]
INHERENT = [case for name, family in FAMILIES.items()
            for case in every_second((name, lost) for lost in family.inherent)]
SUBTLE = [case for name, family in FAMILIES.items() for case in every_second((name, lost) for lost in family.subtle)]
SPELLINGS = [case for name, family in FAMILIES.items()
             for case in every_second((name, spelling) for spelling in family.spellings)]

# One for each way in which families differ from Llama.
IN_BFLOAT16 = [name for name in ("llama_llama3", "gemma2", "qwen3", "cohere", "gpt_neox", "gemma4", "olmo2", "glm4",
                                 "granite", "ministral3", "qwen3_5", "starcoder2") if name in FAMILIES]
# One for each way in which an MLP's output goes on into the residual stream.
AT_MLP = [name for name in ("llama_llama3", "gemma2", "cohere", "gpt_neox", "gemma4", "olmo2", "granite", "starcoder2",
                            "qwen3_5") if name in FAMILIES]
# Half the distance between a bfloat16 number and the next.
BFLOAT16_ROUNDOFF = 2.0 ** -8
# At the usual gain some of these models answer a rounding with a hundred times as much.
QUIET_GAIN = 0.3

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
    site: str = "block"

    @property
    def name(self) -> str:
        return f"{self.site}{self.layer}/{'steered' if self.vector.any() else 'zero'}"


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


@functools.cache
def scoring_program() -> subprocess.Popen:
    """Answers all requests, so that its libraries are loaded once; threads would wait for each other longer than work."""
    return subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def program_scores(model: Path, asked: list[Case], tp: tuple[int, ...] = (1,),
                   types: tuple[str, ...] = ("float32",), pairs: Sequence[TokenPair] = PAIRS,
                   groups: Sequence[Sequence[int]] = PACKED_TOGETHER) -> dict[tuple[str, int, str], Scores]:
    """What the program's decoder says, by type, number of tensor-parallel ranks and case."""
    request = {"model": str(model), "pairs": [asdict(pair) for pair in pairs], "groups": groups, "beta": BETA,
               "tp": tp, "types": types,
               "cases": [{"name": case.name, "layer": case.layer, "site": case.site, "vector": case.vector.tolist()}
                         for case in asked]}
    program = scoring_program()
    program.stdin.write(json.dumps(request).encode() + b"\n")
    program.stdin.flush()
    tensors = tensor_stream.read(program.stdout)
    if len(tensors) != 3 * len(asked) * len(tp) * len(types):
        scoring_program.cache_clear()
        pytest.fail(f"score_tokens ended with {program.wait()}; its message is above")
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
        names = [case.name for case in cases(oracle)]
        sites = [(case.layer, case.vector) for case in cases(oracle)]
        exact = oracle.all_scores(sites)
        bounds = oracle.float32_bounds(sites, exact)
        return Model(directory, oracle, dict(zip(names, exact)), dict(zip(names, bounds)))

    return make


@pytest.fixture(scope="module")
def table():
    """Rows of the table, written when all tests have run."""
    rows: dict[str, list[str]] = {"models": [], "properties": [], "bfloat16": []}
    yield rows
    if not rows["models"]:  # the tests with the marker long alone
        return
    TABLE.write_text("\n".join([
        "Largest distance to transformers in float64 at tp 1, 2 and 3: log-probability of any token and of an",
        "answer in nats, |dL/dv - its|, and KL, each with what float32 may differ by; in float64, the largest",
        "distance in units of what float64 may differ by.", "",
        "| model | token | bound | answer | bound | dL/dv | bound | KL | float64 |",
        "|---|---|---|---|---|---|---|---|---|", *rows["models"], "",
        "What leaving a property out changes: the largest change of a token's log-probability, and how many",
        "times that is what float32 may differ by.", "",
        "| model | without | nats | times the bound |", "|---|---|---|---|", *rows["properties"], "",
        "In bfloat16, |dL/dv - float64's| in roundoffs of |dL/dv|, of quiet models: here, in transformers, and if",
        "nothing but what products take is rounded.", "",
        "| model | here | transformers | products |", "|---|---|---|---|", *rows["bfloat16"], ""]),
        encoding="utf-8")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(model, table, name):
    """Packed and split over one to three ranks, in float32 by the fused loops and in float64 by plain ones."""
    made = model(name)
    found = program_scores(made.directory, cases(made.oracle), (1, 2, 3), ("float32", "float64"))
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


@pytest.mark.parametrize("name", AT_MLP)
def test_a_vector_at_an_mlp_is_that_of_a_hook_on_it(model, name):
    """Before the norm, the factor or the block's scale that is behind it, and beside the attention."""
    made = model(name)
    large = vector(made.oracle.hidden_size)
    asked = [Case(layer, large, "mlp") for layer in (0, made.oracle.blocks - 1)]
    sites = [(case.layer, case.vector) for case in asked]
    exact = made.oracle.all_scores(sites, "mlp")
    bounds = dict(zip([case.name for case in asked], made.oracle.float32_bounds(sites, exact, "mlp")))
    expected = dict(zip(bounds, exact))
    zero = made.exact[unsteered(made.oracle).name]
    assert all(distances(scores, zero).log_probs > 0.1 for scores in exact)
    for (number, ranks, case), scores in program_scores(made.directory, asked, (1, 2),
                                                        ("float32", "float64")).items():
        bound = bounds[case] * (FLOAT64_BY_FLOAT32 if number == "float64" else 1.0)
        distance = distances(scores, expected[case])
        assert distance.within(bound), f"{number}, tp {ranks}, {case}: {distance}, may be {bound}"


def parts(d: Distances) -> tuple[float, float, float]:
    return d.log_probs, d.answers, d.gradient


@pytest.mark.parametrize("name", FAMILIES)
def test_steering_matters(model, name):
    """Or the steered cases would compare the model with itself."""
    made = model(name)
    zero = made.exact[unsteered(made.oracle).name]
    for case in cases(made.oracle)[1:]:
        assert distances(made.exact[case.name], zero).log_probs > 1


def largest_change(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest of all log-probabilities, nats."""
    return float((a.double() - b).abs().max())


def noticed_effect(table, what: str, effect: float, bound: Distances) -> float:
    """What a property's absence moves, entered in the table; far more than the bound."""
    table["properties"].append(f"| {what} | {effect:.2g} | {effect / bound.log_probs:.0f} |")
    assert effect > LEAST_EFFECT * bound.log_probs
    return effect


@pytest.mark.parametrize("name, lost", PROPERTIES)
def test_every_property_matters_and_is_missed(model, table, tmp_path, name, lost):
    """Taken away, transformers computes something else, and the program the same other thing."""
    made = model(name)
    case = unsteered(made.oracle)
    without = write_without(tmp_path / file_name(lost), made.directory, FAMILIES[name].properties[lost])
    exact = Oracle(without, PAIRS).log_probs()
    bound = made.bounds[case.name]
    with_it = made.exact[case.name].log_probs
    effect = noticed_effect(table, f"{name} | {lost}", largest_change(exact, with_it), bound)

    (found,) = program_scores(without, [case]).values()
    assert largest_change(found.log_probs, with_it) > LEAST_EFFECT / 2 * bound.log_probs
    assert largest_change(found.log_probs, exact) < effect / LEAST_EFFECT


@pytest.mark.parametrize("name, lost", INHERENT)
def test_every_property_without_a_switch_matters(model, table, name, lost):
    """A program that lacked it would not pass test_every_family."""
    made = model(name)
    case = unsteered(made.oracle)
    other = Oracle(copy.deepcopy(made.oracle.model), PAIRS)
    FAMILIES[name].inherent[lost](other.model)
    moved = largest_change(other.log_probs(), made.exact[case.name].log_probs)
    noticed_effect(table, f"{name} | {lost}", moved, made.bounds[case.name])


@pytest.mark.parametrize("name, lost", SUBTLE)
def test_every_subtle_property_is_missed_in_float64(model, table, tmp_path, name, lost):
    made = model(name)
    case = unsteered(made.oracle)
    without = write_without(tmp_path / file_name(lost), made.directory, FAMILIES[name].subtle[lost])
    exact = Oracle(without, PAIRS).scores(case.layer, case.vector)
    bound = made.bounds[case.name] * FLOAT64_BY_FLOAT32
    moved = largest_change(exact.log_probs, made.exact[case.name].log_probs)
    noticed_effect(table, f"{name} | {lost} (float64)", moved, bound)
    (found,) = program_scores(without, [case], types=("float64",)).values()
    assert distances(found, exact).within(bound)


@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_a_gradient_in_bfloat16_has_the_errors_of_its_products(table, tmp_path, name):
    """As far from float64 as a model that rounds nothing else; transformers rounds more."""
    directory = write_family(tmp_path / "model", replace(FAMILIES[name], storage=torch.bfloat16), gain=QUIET_GAIN)
    oracle = Oracle(directory, PAIRS)
    case = Case(MIDDLE, vector(oracle.hidden_size).bfloat16().float())
    exact = oracle.scores(case.layer, case.vector).gradient

    def roundoffs(gradient: torch.Tensor) -> float:
        return float((gradient - exact).norm() / exact.norm()) / BFLOAT16_ROUNDOFF

    with bfloat16_products(oracle.model):
        products = roundoffs(oracle.scores(case.layer, case.vector).gradient)
    theirs = roundoffs(bfloat16_gradient(directory, PAIRS, case.layer, case.vector))
    (found,) = program_scores(directory, [case], types=("bfloat16",)).values()
    ours = roundoffs(found.gradient)
    table["bfloat16"].append(f"| {name} | {ours:.1f} | {theirs:.1f} | {products:.1f} |")
    assert ours < theirs
    assert ours < 2 * products


@pytest.mark.parametrize("name, spelling", SPELLINGS)
def test_every_spelling_says_the_same(model, tmp_path, name, spelling):
    made = model(name)
    spelled = write_spelled(tmp_path / "model", made.directory, FAMILIES[name].spellings[spelling])
    same_as_before(made, spelled, not FAMILIES[name].spellings[spelling].is_newer)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_configuration_leaves_out_has_the_default_of_its_class(model, tmp_path, name):
    made = model(name)
    same_as_before(made, write_sparse(tmp_path / "model", made.directory), True)


def same_as_before(made: Model, spelled: Path, is_readable: bool) -> None:
    """`is_readable`: transformers must find the same in it, too."""
    case = unsteered(made.oracle)
    exact = made.exact[case.name]
    if is_readable:
        other = Oracle(spelled, PAIRS).log_probs()
        assert largest_change(other, exact.log_probs) <= made.bounds[case.name].log_probs * FLOAT64_BY_FLOAT32
    (found,) = program_scores(spelled, [case]).values()
    assert distances(found, exact).within(made.bounds[case.name])
