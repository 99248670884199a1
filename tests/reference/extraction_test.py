"""The methods of `extract` against transformers in float64, within what float32 may be off by.

The activations are transformers'; what each method makes of them is written down here a second time, with dense
linear algebra.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import pair_tokens
import program
import run_files
from documentation import SOURCE
from float64_oracle import DRAWS, Widening, rounding_errors
from plain_bipo import TokenPair
from tiny_models import TinyModel, write_model

sys.path.insert(0, str(SOURCE / "experiments" / "analysis"))
from bipo_analysis import load_conceptor  # noqa: E402

LAYERS = 4
TARGETS = 22  # pairs of the training file
CONFIDENCE = 0.6


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("odd") / "model",
                       TinyModel(vocab_size=301, intermediate_size=83, tied=True))


def load(directory: Path) -> PreTrainedModel:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def block_outputs(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """[blocks, T, D], as the blocks hand them on: transformers' hidden_states end behind the final norm."""
    outputs = []

    def keep(_module, _inputs, output):
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(keep) for block in model.model.layers]
    try:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states
    finally:
        for hook in hooks:
            hook.remove()
    for block in range(LAYERS - 1):
        assert torch.equal(outputs[block], hidden[block + 1]), "block L's output is hidden_states[L + 1]"
    return torch.stack(outputs)[:, 0]


@dataclass(frozen=True)
class Answers:
    """What the methods know of P pairs at one layer, first those of the training file."""

    chosen: torch.Tensor  # [P, D]: means over the tokens of the answers
    rejected: torch.Tensor
    unit: float  # median of the root mean squares of the activations of the training file's tokens
    ends: torch.Tensor  # [2, P, D]: of chosen and rejected answers at the last token of the text

    def of_training(self) -> Answers:
        return Answers(self.chosen[:TARGETS], self.rejected[:TARGETS], self.unit, self.ends[:, :TARGETS])


def answers(model: PreTrainedModel, pairs: list[TokenPair]) -> list[Answers]:
    """Of every block, each answer alone after its prompt, its end-of-sequence token left out."""
    chosen, rejected, sizes, ends = [], [], [], []
    with Widening(model):
        for pair in pairs:
            first = len(pair.prompt)
            by_side = [block_outputs(model, pair.prompt + answer)[:, :-1] for answer in (pair.chosen, pair.rejected)]
            chosen.append(by_side[0][:, first:].mean(dim=1))
            rejected.append(by_side[1][:, first:].mean(dim=1))
            ends.append(torch.stack([side[:, -1] for side in by_side]))
            tokens = torch.cat([by_side[0], by_side[1][:, first:]], dim=1)  # the prompt's once
            sizes.append(tokens.pow(2).mean(dim=2).sqrt())
    units = torch.cat(sizes[:TARGETS], dim=1).quantile(0.5, dim=1)  # of an even number the mean of the middle two
    return [Answers(torch.stack(chosen)[:, block], torch.stack(rejected)[:, block], float(units[block]),
                    torch.stack(ends)[:, :, block].transpose(0, 1))
            for block in range(LAYERS)]


def mean_difference(known: Answers) -> torch.Tensor:
    known = known.of_training()
    return (known.chosen - known.rejected).mean(dim=0)


def regression(known: Answers, c: float = 1.0) -> torch.Tensor:
    """w and t of argmin |w|^2 / 2 + c sum log(1 + exp(-y (w x + t))) by Newton's steps with the whole Hessian."""
    known = known.of_training()
    rows = torch.cat([known.chosen, known.rejected]) / known.unit
    rows = torch.cat([rows, torch.ones(len(rows), 1).double()], dim=1)
    labels = torch.cat([torch.ones(len(known.chosen)), -torch.ones(len(known.rejected))]).double()
    penalty = torch.ones(rows.shape[1]).double()
    penalty[-1] = 0  # the intercept is free
    weights = torch.zeros_like(penalty)
    for _ in range(50):
        wrong = torch.sigmoid(-labels * (rows @ weights))
        slope = penalty * weights - c * rows.T @ (labels * wrong)
        hessian = torch.diag(penalty) + c * (rows.T * (wrong * (1 - wrong))) @ rows
        weights = weights - torch.linalg.solve(hessian, slope)
    assert slope.norm() < 1e-9, "the steps have not arrived at the minimum"
    return weights


def probe(known: Answers) -> torch.Tensor:
    weights = regression(known)[:-1]
    return weights / weights.norm()


def probabilities(known: Answers) -> torch.Tensor:
    """That a chosen answer of the training file is one, by the regression."""
    weights = regression(known)
    return torch.sigmoid(known.of_training().chosen / known.unit @ weights[:-1] + weights[-1])


def confident_mean(known: Answers) -> torch.Tensor:
    return known.of_training().chosen[probabilities(known) >= CONFIDENCE].mean(dim=0)


def end_difference(known: Answers) -> torch.Tensor:
    chosen, rejected = known.of_training().ends
    return (chosen - rejected).mean(dim=0)


def divergence(known: Answers) -> float:
    """Jensen-Shannon, of the softmax of the two ends of each pair, by entropies."""
    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -(p * p.log()).sum(dim=1)

    p, q = known.of_training().ends.softmax(dim=2)
    return float((entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).mean())


def principal_component(known: Answers) -> torch.Tensor:
    """By the singular vectors of the differences, with the sign of their mean."""
    known = known.of_training()
    differences = known.chosen - known.rejected
    component = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    return component * torch.sign(differences.mean(dim=0) @ component)


def mean_centred(known: Answers) -> torch.Tensor:
    """The pairs of the training file are the target, those behind them the background."""
    background = torch.cat([known.chosen[TARGETS:], known.rejected[TARGETS:]])
    return known.chosen[:TARGETS].mean(dim=0) - background.mean(dim=0)


METHODS: dict[str, Callable[[Answers], torch.Tensor]] = {
    "caa": mean_difference, "probe": probe, "pca": principal_component, "mean-centring": mean_centred,
    "freeform": end_difference, "confst": confident_mean}
# What float32's roundoff may change a direction by, of its length, on these models at most: the bounds are that of
# every layer, and about forty times the program's errors.  A component answers to roundoff by 1 over the gap between
# the two largest eigenvalues, so that its bound is larger.
SHARP = {"caa": 1e-4, "probe": 1e-4, "pca": 3e-4, "mean-centring": 1e-4, "freeform": 1e-4, "confst": 1e-4}


@dataclass(frozen=True)
class Oracle:
    """A model, its answers in float64, and again with float32's errors."""

    directory: Path
    exact: list[Answers]
    disturbed: list[list[Answers]]


@pytest.fixture(scope="module", params=["plain", "odd"])
def oracle(request, tiny_model, odd_model, tiny_pairs, tiny_test_pairs) -> Oracle:
    directory = tiny_model if request.param == "plain" else odd_model
    rows = pair_tokens.read_csv(tiny_pairs)
    assert len(rows) == TARGETS
    pairs = pair_tokens.tokenize(AutoTokenizer.from_pretrained(directory),
                                 rows + pair_tokens.read_csv(tiny_test_pairs))
    model = load(directory)
    exact = answers(model, pairs)
    disturbed = []
    for draw in range(DRAWS):
        with rounding_errors(model, draw):
            disturbed.append(answers(model, pairs))
    return Oracle(directory, exact, disturbed)


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> tuple[Path, list[pair_tokens.TextPair]]:
    """A file of A/B items, and the same as pairs of the letters."""
    items = [("Is it warm (0)?", "yes", "no", "A"), ("Do you think so?", "never", "always", "B"),
             ("Red?", "ring", "leg", "(A)"), ("More, or less than that?", "more", "less", "B")]
    path = tmp_path_factory.mktemp("letters") / "items.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "A", "B", "matching"), *items])
    rows = []
    for question, a, b, matching in items:
        both = ["(A", "(B"] if "A" in matching else ["(B", "(A"]
        rows.append(pair_tokens.TextPair(f"{question}\n\nChoices:\n (A) {a}\n (B) {b}", *both))
    return path, rows


def letter_differences(model: PreTrainedModel, pairs: list[TokenPair]) -> torch.Tensor:
    """[blocks, D] of the mean difference at the letters, which are the last tokens before the end."""
    def letter(pair: TokenPair, answer: list[int]) -> torch.Tensor:
        return block_outputs(model, pair.prompt + answer)[:, -2]

    with Widening(model):
        return torch.stack([letter(pair, pair.chosen) - letter(pair, pair.rejected) for pair in pairs]).mean(dim=0)


def test_letters_are_those_of_transformers(tiny_model, letters, tmp_path):
    path, rows = letters
    program.run_successfully(["extract", *program.options({
        "method": "caa-letter", "model": tiny_model, "train": path, "layers": "all", "out": tmp_path / "out",
        "threads": 1, "dtype": "fp32", "device": "cpu"})])
    model = load(tiny_model)
    pairs = pair_tokens.tokenize(AutoTokenizer.from_pretrained(tiny_model), rows)
    exact = letter_differences(model, pairs)
    bounds = torch.zeros(LAYERS, dtype=torch.float64)
    for draw in range(DRAWS):
        with rounding_errors(model, draw):
            bounds = torch.maximum(bounds, (letter_differences(model, pairs) - exact).norm(dim=1))
    for layer in range(LAYERS):
        run = run_files.read(tmp_path / "out" / f"layer{layer}.h5")
        assert (run.config["method"], run.config["positions"], run.config["train_pairs"]) == (
            "caa-letter", "letter", len(rows))
        distance = float((torch.from_numpy(run.final_vector).double() - exact[layer]).norm())
        assert distance <= float(bounds[layer]), f"layer {layer}: {distance:.2g}, allowed {bounds[layer]:.2g}"
        assert float(bounds[layer]) < 1e-4 * float(exact[layer].norm())


@pytest.mark.parametrize("method", METHODS)
def test_every_layer_is_that_of_transformers(oracle, tiny_pairs, tiny_test_pairs, tmp_path, method):
    program.run_successfully(["extract", *program.options({
        "method": method, "model": oracle.directory, "train": tiny_pairs, "layers": "all", "out": tmp_path / "out",
        "background": tiny_test_pairs if method == "mean-centring" else None,
        "confidence": CONFIDENCE if method == "confst" else None,
        "threads": 1, "dtype": "fp32", "device": "cpu"})])
    direction = METHODS[method]
    for layer in range(LAYERS):
        exact = direction(oracle.exact[layer])
        bound = max(float((direction(draw[layer]) - exact).norm()) for draw in oracle.disturbed)
        run = run_files.read(tmp_path / "out" / f"layer{layer}.h5")
        assert run.config["method"] == method
        distance = float((torch.from_numpy(run.final_vector).double() - exact).norm())
        assert distance <= bound, f"layer {layer}: {distance:.2g}, allowed {bound:.2g}"
        # The bound is sharp: another definition, with the end of sequence or of another block, lies far beyond.
        assert bound < SHARP[method] * float(exact.norm())
        if method == "freeform":
            exact_divergence = divergence(oracle.exact[layer])
            bound = max(abs(divergence(draw[layer]) - exact_divergence) for draw in oracle.disturbed)
            assert abs(run.config["js_divergence"] - exact_divergence) <= bound < 1e-3 * exact_divergence
        if method == "confst":
            by_draw = [probabilities(known[layer]) for known in [oracle.exact, *oracle.disturbed]]
            kept = by_draw[0] >= CONFIDENCE
            assert 0 < kept.sum() < TARGETS, "the threshold separates"
            assert all(bool(((p >= CONFIDENCE) == kept).all()) for p in by_draw), "roundoff moves none across it"
            assert run.config["confident_answers"] == int(kept.sum())


APERTURE = 3.0


def moments(known: Answers) -> numpy.ndarray:
    rows = known.of_training().chosen.numpy() / known.unit
    return rows.T @ rows / len(rows)


def conceptor(known: Answers, aperture: float = APERTURE) -> numpy.ndarray:
    """By numpy's inverse; symmetric, because both factors are functions of the same matrix."""
    found = moments(known)
    return found @ numpy.linalg.inv(found + numpy.eye(len(found)) / aperture**2)


def negation(c: numpy.ndarray) -> numpy.ndarray:
    return numpy.eye(len(c)) - c


def conjunction(c: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    """Jaeger's definition 4: pseudo-inverses on the intersection of the ranges."""
    def parts(matrix: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        values, vectors = numpy.linalg.eigh(matrix)
        inside = values > 1e-9
        kept = vectors[:, inside]
        return (kept / values[inside]) @ kept.T, vectors[:, ~inside] @ vectors[:, ~inside].T

    (c_inverse, c_null), (b_inverse, b_null) = parts(c), parts(b)
    values, vectors = numpy.linalg.eigh(c_null + b_null)
    basis = vectors[:, values < 1e-9]
    inner = basis.T @ (c_inverse + b_inverse - numpy.eye(len(c))) @ basis
    return basis @ numpy.linalg.inv(inner) @ basis.T


def test_conceptors_are_those_of_numpy(oracle, tiny_pairs, tmp_path):
    program.run_successfully(["extract", *program.options({
        "method": "conceptor", "aperture": APERTURE, "model": oracle.directory, "train": tiny_pairs, "layers": "all",
        "out": tmp_path / "out", "threads": 1, "dtype": "fp32", "device": "cpu"})])
    for layer in range(LAYERS):
        exact = conceptor(oracle.exact[layer])
        bound = max(numpy.linalg.norm(conceptor(draw[layer]) - exact) for draw in oracle.disturbed)
        found = load_conceptor(tmp_path / "out" / f"layer{layer}.h5")
        assert found.layer == layer and found.aperture == APERTURE
        assert found.absolute_aperture == pytest.approx(APERTURE / oracle.exact[layer].unit, rel=1e-5)
        assert found.settings["method"] == "conceptor" and found.settings["quota"] == pytest.approx(found.quota)
        distance = numpy.linalg.norm(found.matrix - exact)
        assert distance <= bound, f"layer {layer}: {distance:.2g}, allowed {bound:.2g}"
        # Another aperture, or moments of other rows, lie far beyond.
        assert bound < 1e-3 * numpy.linalg.norm(exact)
        assert numpy.linalg.norm(conceptor(oracle.exact[layer], 1.5 * APERTURE) - exact) > 10 * bound


def test_the_algebra_is_that_of_numpy(tiny_model, tiny_pairs, tiny_test_pairs, tmp_path):
    """Of 22 and of 9 answers in 48 dimensions, whose ranges meet at 0, and of a negation, which has the whole range."""
    for name, pairs in (("one", tiny_pairs), ("other", tiny_test_pairs)):
        program.run_successfully(["extract", *program.options({
            "method": "conceptor", "aperture": APERTURE, "model": tiny_model, "train": pairs, "layer": 1,
            "out": tmp_path / f"{name}.h5", "threads": 1, "dtype": "fp32", "device": "cpu"})])
    one, other = (load_conceptor(tmp_path / f"{name}.h5").matrix for name in ("one", "other"))

    def combined(method: str, *names: str) -> numpy.ndarray:
        out = tmp_path / f"{method}-{'-'.join(names)}.h5"
        vectors = [word for name in names for word in ("--vector", tmp_path / f"{name}.h5")]
        program.run_successfully(["extract", "--method", method, *vectors, "--out", out])
        found = load_conceptor(out)
        assert (found.layer, found.aperture, found.settings["method"]) == (1, None, method)
        assert [Path(each["file"]).stem for each in found.settings["conceptors"]] == list(names)
        return found.matrix

    no = combined("conceptor-not", "other")
    (tmp_path / "conceptor-not-other.h5").rename(tmp_path / "no.h5")
    numpy.testing.assert_allclose(no, negation(other), rtol=0, atol=1e-15)
    # Float64 through inverses of matrices whose condition is some 1e4.
    close = {"rtol": 0, "atol": 1e-9}
    numpy.testing.assert_allclose(combined("conceptor-and", "one", "no"), conjunction(one, negation(other)), **close)
    numpy.testing.assert_allclose(combined("conceptor-or", "one", "other"),
                                  negation(conjunction(negation(one), negation(other))), **close)
    numpy.testing.assert_allclose(combined("conceptor-and", "one", "other"), conjunction(one, other), **close)
