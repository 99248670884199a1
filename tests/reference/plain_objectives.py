"""RePS, suppression and a learned factor as plainly as PyTorch can say them; plain_bipo has what they share.

RePS: Wu et al., arXiv 2505.20809. Suppression: Dunefsky and Cohan, arXiv 2502.18862. Learned factor: Bao et al.,
arXiv 2605.05983. Everything in float64, each answer a sequence of its own through the whole model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import log_softmax, logsigmoid
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from plain_bipo import SIGNS, Settings, TokenPair, batches_in_file_order

Change = Callable[[torch.Tensor], torch.Tensor]  # of a block's output
Vectors = Mapping[int, torch.Tensor]  # by the block whose output each steers


def added(vector: torch.Tensor) -> Change:
    return lambda h: h + vector


def projected_out(vector: torch.Tensor) -> Change:
    square = (vector @ vector).clamp_min(1e-30)
    return lambda h: h - (h @ vector / square)[..., None] * vector


def hook_of(change: Change) -> Callable:
    def hook(_module, _inputs, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


@contextlib.contextmanager
def changed(model: PreTrainedModel, changes: Mapping[int, Change]) -> Iterator[None]:
    handles = [model.model.layers[layer].register_forward_hook(hook_of(change)) for layer, change in changes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def token_logps(model: PreTrainedModel, changes: Mapping[int, Change], prompt: list[int],
                answer: list[int]) -> torch.Tensor:
    """log p of each of the answer's tokens."""
    with changed(model, changes):
        logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    return log_softmax(logits[len(prompt) - 1:-1], dim=-1)[torch.arange(len(answer)), torch.tensor(answer)]


def reps(model: PreTrainedModel, vectors: Vectors, pair: TokenPair, factor: float) -> torch.Tensor:
    """The mean of -log sigma(Delta+) and -log sigma(Delta-)."""
    losses = []
    additions = {layer: added(factor * vector) for layer, vector in vectors.items()}
    projections = {layer: projected_out(vector) for layer, vector in vectors.items()}
    for changes, wanted, other in ((additions, pair.chosen, pair.rejected),
                                   (projections, pair.rejected, pair.chosen)):
        def logps(answer, of=changes):
            return token_logps(model, of, pair.prompt, answer)

        with torch.no_grad():
            ahead = logps(other, {}).sum() - logps(wanted, {}).sum()
        delta = ahead.clamp_min(1.0) * logps(wanted).mean() - logps(other).mean()
        losses.append(-logsigmoid(delta))
    return torch.stack(losses).mean()


def suppress(model: PreTrainedModel, vectors: Vectors, pair: TokenPair, sign: float) -> torch.Tensor:
    """-sum log(1 - p) over the tokens of the rejected answer, in direction -1 of the chosen one."""
    answer = pair.rejected if sign > 0 else pair.chosen
    additions = {layer: added(sign * vector) for layer, vector in vectors.items()}
    logps = token_logps(model, additions, pair.prompt, answer)
    return -torch.log(-torch.expm1(logps)).sum()


@dataclass
class Trained:
    losses: list[float]
    vector: torch.Tensor  # [S, D], the factor included
    factor: float
    moments: tuple[torch.Tensor, torch.Tensor]  # of the vector without the factor


def train(model: PreTrainedModel, layers: Sequence[int], pairs: Sequence[TokenPair], settings: Settings,
          objective: str, factor: float = 1.0, factor_lr: float | None = None) -> Trained:
    """Trains a vector for each of S `layers` from zero on `pairs` in file order; `factor_lr`: the factor is trained,
    too."""
    vector = torch.zeros(len(layers), model.config.hidden_size, dtype=torch.float64, requires_grad=True)
    learned = torch.tensor(factor if factor_lr else 1.0, dtype=torch.float64, requires_grad=factor_lr is not None)
    groups = [{"params": [vector]}]
    if factor_lr:
        groups.append({"params": [learned], "lr": factor_lr, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    batches = batches_in_file_order(len(pairs), settings.batch_size)
    losses = []
    for _ in range(settings.steps):
        batch = pairs[next(batches)]
        whole = dict(zip(layers, learned * vector, strict=True))
        if objective == "reps":
            each = [reps(model, whole, pair, 1.0 if factor_lr else factor) for pair in batch]
        else:
            each = [suppress(model, whole, pair, sign) for pair in batch for sign in SIGNS[settings.sign]]
        loss = torch.stack(each).mean()
        loss.backward()
        if settings.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_([vector], settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    state = optimizer.state[vector]
    return Trained(losses, (learned * vector).detach(), learned.item(), (state["exp_avg"], state["exp_avg_sq"]))
