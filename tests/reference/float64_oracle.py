"""transformers in float64 from end to end, and how far float32 may lie from it.

Every product W x of n terms that float32 sums carries an error of about sqrt(n) u |W| |x| at most, u = 2^-24,
in whatever order it is summed (N. J. Higham and T. Mary, SIAM J. Sci. Comput. 41, 2019: lambda sqrt(n) u holds but
with a probability of 2 exp(-lambda^2 / 2)). The model is run again with errors of random sign and LAMBDA times
that size on every linear map, forward and backward; the largest change of a result over DRAWS runs is what
float32 may change it by. Norms, rotations, softmax and sums of two terms round by a few u of their results, which
LAMBDA covers. The bound follows from weights, activations and u; no float32 result enters.

Errors of that size act linearly, so that the bound of float64 is 2^-29 of it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
import transformers
from transformers import PreTrainedModel

from plain_bipo import PairLogps, TokenPair, pair_losses, steered

UNIT_ROUNDOFF = 2.0 ** -24
FLOAT64_BY_FLOAT32 = 2.0 ** -29
LAMBDA = 4.0
DRAWS = 2
BETA = 0.1


@dataclass(frozen=True)
class Scores:
    """What a model says of P pairs whose answers have R tokens together, each pair's chosen answer first."""

    log_probs: torch.Tensor  # [R, V]: of every token in the place of each answer token, nats
    answers: torch.Tensor  # [P, 2]: of chosen and rejected answer, nats
    gradient: torch.Tensor  # [D]: of the mean BiPO loss by the vector, d = +1


@dataclass(frozen=True)
class Distances:
    """How far two results lie from each other."""

    log_probs: float  # largest of all entries, nats
    answers: float  # likewise
    gradient: float  # norm of the difference
    divergence: float  # largest KL(a || b) over the R places, nats

    def __mul__(self, factor: float) -> Distances:
        return Distances(self.log_probs * factor, self.answers * factor, self.gradient * factor,
                         self.divergence * factor ** 2)

    def within(self, bound: Distances) -> bool:
        return (self.log_probs <= bound.log_probs and self.answers <= bound.answers
                and self.gradient <= bound.gradient)


def largest(distances: Sequence[Distances]) -> Distances:
    return Distances(*(max(getattr(d, name) for d in distances) for name in Distances.__dataclass_fields__))


def distances(a: Scores, b: Scores) -> Distances:
    return Distances(float((a.log_probs.double() - b.log_probs).abs().max()),
                     float((a.answers.double() - b.answers).abs().max()),
                     float((a.gradient.double() - b.gradient).norm()),
                     float(divergences(a.log_probs, b.log_probs).max()))


def divergences(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """KL(a || b) of each row, [R]: both rounded to probabilities of sum 1 first."""
    a, b = a.double().log_softmax(dim=-1), b.double().log_softmax(dim=-1)
    return (a.exp() * (a - b)).sum(dim=-1)


def load(directory: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """By the class that config.json names: the Auto classes keep models of text and images apart."""
    name, = json.loads((directory / "config.json").read_text(encoding="utf-8"))["architectures"]
    return getattr(transformers, name).from_pretrained(directory, dtype=dtype, attn_implementation="eager")


class Oracle:
    """A model, or that of a directory, on a fixed set of pairs, all in one right-padded batch."""

    def __init__(self, model: Path | PreTrainedModel, pairs: Sequence[TokenPair]):
        if isinstance(model, Path):
            model = load(model)
        self.model: PreTrainedModel = model.eval().requires_grad_(False)
        sequences = [pair.prompt + answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
        # No row sees what comes after it, so that it does not matter what the padding is.
        self.ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
        self.first = []
        for row, sequence in enumerate(sequences):
            self.ids[row, :len(sequence)] = torch.tensor(sequence)
        self.first = [len(pair.prompt) for pair in pairs for _ in range(2)]
        self.lengths = [len(sequence) for sequence in sequences]

    @property
    def hidden_size(self) -> int:
        return self.model.config.get_text_config().hidden_size

    @property
    def blocks(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    def log_probs(self) -> torch.Tensor:
        """Scores.log_probs without a vector."""
        with Widening(self.model), torch.no_grad():
            return torch.cat(self.tables(0, None))

    def scores(self, layer: int, vector: torch.Tensor, site: str = "block") -> Scores:
        """With `vector` [D] added to the output of block `layer`, or of its MLP."""
        return self.all_scores([(layer, vector)], site)[0]

    def all_scores(self, sites: Sequence[tuple[int, torch.Tensor]], site: str = "block") -> list[Scores]:
        """The same of several layers and vectors, one after the other."""
        with Widening(self.model), torch.no_grad():
            reference = self.pair_logps(self.tables(0, None))
        return [self.scores_beside(reference, layer, vector, site) for layer, vector in sites]

    def scores_beside(self, reference: PairLogps, layer: int, vector: torch.Tensor, site: str) -> Scores:
        with Widening(self.model):
            leaf = vector.double().clone().requires_grad_()
            tables = self.tables(layer, leaf, site)
            policy = self.pair_logps(tables)
            pair_losses(policy, reference, 1.0, BETA).mean().backward()
        return Scores(torch.cat(tables).detach(), torch.stack([policy.chosen, policy.rejected], 1).detach(),
                      leaf.grad)

    def float32_bound(self, layer: int, vector: torch.Tensor, exact: Scores) -> Distances:
        """How far float32 may lie from `exact`, by the errors that this file's description speaks of."""
        return self.float32_bounds([(layer, vector)], [exact])[0]

    def float32_bounds(self, sites: Sequence[tuple[int, torch.Tensor]], exact: Sequence[Scores],
                       site: str = "block") -> list[Distances]:
        """The same of several layers and vectors."""
        found = []
        for draw in range(DRAWS):
            with rounding_errors(self.model, draw):
                found.append([distances(scores, own) for scores, own in zip(self.all_scores(sites, site), exact)])
        return [largest(of_site) for of_site in zip(*found)]

    def tables(self, layer: int, shift: torch.Tensor | None, site: str = "block") -> list[torch.Tensor]:
        """By sequence, the log-probabilities of every token in the place of each answer token."""
        with steered(self.model, layer, shift, site):
            logits = self.model(input_ids=self.ids, use_cache=False).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return [logits[row, first - 1:length - 1].log_softmax(dim=-1)
                for row, (first, length) in enumerate(zip(self.first, self.lengths))]

    def pair_logps(self, tables: list[torch.Tensor]) -> PairLogps:
        sums = [table.gather(1, self.ids[row, first:length, None]).sum()
                for row, (table, first, length) in enumerate(zip(tables, self.first, self.lengths))]
        return PairLogps(torch.stack(sums[0::2]), torch.stack(sums[1::2]))


def bfloat16_gradient(directory: Path, pairs: Sequence[TokenPair], layer: int, vector: torch.Tensor) -> torch.Tensor:
    """Scores.gradient of transformers' model in bfloat16."""
    model = Oracle(load(directory, torch.bfloat16), pairs)
    with torch.no_grad():
        reference = model.pair_logps(model.tables(layer, None))
    leaf = vector.clone().requires_grad_()
    policy = model.pair_logps(model.tables(layer, leaf.bfloat16()))
    pair_losses(policy, reference, 1.0, BETA).mean().backward()
    return leaf.grad


class Widening(TorchFunctionMode):
    """Makes transformers' own steps in float32 (norms, softmax) steps in float64.

    Rotary angles stay float32: at which angles a model turns is part of what it is, and they are that precise.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.is_rotating = False
        self.rotary = [module for name, module in model.named_modules()
                       if name.rpartition(".")[2].startswith("rotary_emb")]
        has_no_positions = getattr(model.config, "position_embedding_type", "rope") is None
        assert self.rotary or has_no_positions
        self.hooks = []

    def __enter__(self):
        for module in self.rotary:
            self.hooks.append(module.register_forward_pre_hook(lambda *_: self.rotate(True)))
            self.hooks.append(module.register_forward_hook(lambda *_: self.rotate(False)))
        return super().__enter__()

    def __exit__(self, *exception):
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*exception)

    def rotate(self, begins: bool) -> None:
        self.is_rotating = begins

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.is_rotating:
            if function is torch.Tensor.float:
                return args[0].double()
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs = {**kwargs, "dtype": torch.float64}
        return function(*args, **kwargs)


@contextlib.contextmanager
def rounding_errors(model: PreTrainedModel, seed: int) -> Iterator[None]:
    """Inside the `with`, linear maps and their backward products are off by what float32 could be off by."""
    generator = torch.Generator().manual_seed(seed)

    def error(terms: int, size: torch.Tensor) -> torch.Tensor:
        signs = 2.0 * torch.randint(2, size.shape, generator=generator) - 1
        return LAMBDA * terms ** 0.5 * UNIT_ROUNDOFF * size * signs

    def forward(module, inputs, output):
        with torch.no_grad():
            change = error(module.in_features, inputs[0].abs() @ module.weight.abs().T)
        return output + change

    def backward(module, grad_inputs, grad_outputs):
        (gradient,) = grad_inputs
        return (gradient + error(module.out_features, grad_outputs[0].abs() @ module.weight.abs()),)

    hooks = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_hook(forward))
            hooks.append(module.register_full_backward_hook(backward))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Rounded(torch.autograd.Function):
    """x as bfloat16 holds it; the gradient is left as it is."""

    @staticmethod
    def forward(context, x):
        return x.bfloat16().to(x.dtype)

    @staticmethod
    def backward(context, gradient):
        return gradient


class RoundedBackward(torch.autograd.Function):
    """x, whose gradient becomes what bfloat16 holds of it."""

    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return gradient.bfloat16().to(gradient.dtype)


@contextlib.contextmanager
def bfloat16_products(model: PreTrainedModel) -> Iterator[None]:
    """Inside the `with`, linear maps take bfloat16 and nothing else is rounded, forward and backward."""
    hooks = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_pre_hook(lambda _, inputs: (Rounded.apply(inputs[0]),)))
            hooks.append(module.register_forward_hook(lambda _module, _inputs, output: RoundedBackward.apply(output)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
