"""BiPO (arXiv 2406.00045) on a Hugging Face model, as plainly as PyTorch can say it.

This is the oracle for the program's tests and the opponent in its benchmark.  Nothing is cached, packed or
shared: an answer is one sequence `[prompt | answer]` through the whole model, and the reference model is
the same model without the hook.

Shapes: D hidden size, P pairs, S sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import log_softmax, logsigmoid
from transformers import AutoModelForCausalLM, PreTrainedModel, get_cosine_schedule_with_warmup

SIGNS = {"plus": (1.0,), "minus": (-1.0,), "both": (1.0, -1.0)}


@dataclass(frozen=True)
class TokenPair:
    """One preference pair as token ids; both answers continue the same prompt."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class PairLogps:
    """Summed log-probabilities of the answers of P pairs, [P] each, in nats."""

    chosen: torch.Tensor
    rejected: torch.Tensor

    def __getitem__(self, index: slice) -> PairLogps:
        return PairLogps(self.chosen[index], self.rejected[index])


@dataclass(frozen=True)
class Settings:
    """One training run; the defaults are the paper's, except that the horizon must be given."""

    steps: int
    lr: float = 5e-4
    warmup_steps: int = 100
    weight_decay: float = 0.0
    beta: float = 0.1
    max_grad_norm: float = 1.0
    batch_size: int = 4
    sign: str = "plus"


@dataclass(frozen=True)
class StepRecord:
    """What one optimiser step did: `loss` before the update, `grad` before clipping, `vector` after."""

    lr: float
    loss: float
    grad: torch.Tensor
    vector: torch.Tensor


def load_model(directory: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The frozen model of `directory`, its weights widened (or rounded) to `dtype`.

    In float64 the norms still run in float32: transformers casts inside them.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def steered(model: PreTrainedModel, layer: int, shift: torch.Tensor | None, site: str = "block") -> Iterator[None]:
    """Inside the `with`, block `layer` (0-based) outputs h + shift at every position; None: untouched.

    With the site "mlp", its MLP does.
    """
    if shift is None:
        yield
        return

    def add_shift(_module, _inputs, output):
        if isinstance(output, tuple):
            return (output[0] + shift, *output[1:])
        return output + shift

    # A model of text and images has its text part as a module inside.
    body = getattr(model, "model", model.base_model)
    text = getattr(body, "language_model", body)
    block = text.layers[layer]
    module = block if site == "block" else getattr(block, "mlp", None) or block.shared_mlp
    handle = module.register_forward_hook(add_shift)
    try:
        yield
    finally:
        handle.remove()


def answer_logp(model: PreTrainedModel, layer: int, shift: torch.Tensor | None, prompt: Sequence[int],
                answer: Sequence[int]) -> torch.Tensor:
    """log pi(answer | prompt): one unpadded sequence, summed over the answer's tokens.

    The head runs on the last prompt token and the answer only: other positions predict nothing of interest.
    """
    ids = torch.tensor([[*prompt, *answer]])
    with steered(model, layer, shift):
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[0]
    logps = log_softmax(logits[:-1], dim=-1)
    return logps[torch.arange(len(answer)), torch.tensor(list(answer))].sum()


def pair_logps(model: PreTrainedModel, layer: int, shift: torch.Tensor | None,
               pairs: Sequence[TokenPair]) -> PairLogps:
    """Log-probabilities of both answers of every pair, each answer run alone."""
    return PairLogps(
        torch.stack([answer_logp(model, layer, shift, p.prompt, p.chosen) for p in pairs]),
        torch.stack([answer_logp(model, layer, shift, p.prompt, p.rejected) for p in pairs]))


def padded_pair_logps(model: PreTrainedModel, layer: int, shift: torch.Tensor | None,
                      pairs: Sequence[TokenPair]) -> PairLogps:
    """The same from one right-padded batch of 2P sequences, with the head on every position.

    This is how trainers built on padded batches work, the paper's authors' among them.
    """
    sequences = [p.prompt + p.chosen for p in pairs] + [p.prompt + p.rejected for p in pairs]
    prompt_lengths = [len(p.prompt) for p in pairs] * 2
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    present = torch.zeros_like(ids)
    answer = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, (sequence, prompt_length) in enumerate(zip(sequences, prompt_lengths)):
        ids[row, :len(sequence)] = torch.tensor(sequence)
        present[row, :len(sequence)] = 1
        answer[row, prompt_length:len(sequence)] = True
    with steered(model, layer, shift):
        logits = model(input_ids=ids, attention_mask=present, use_cache=False).logits
    token_logps = log_softmax(logits[:, :-1], dim=-1).gather(2, ids[:, 1:, None]).squeeze(2)
    summed = (token_logps * answer[:, 1:]).sum(dim=1)
    return PairLogps(summed[:len(pairs)], summed[len(pairs):])


def preference_gap(policy: PairLogps, reference: PairLogps) -> torch.Tensor:
    """delta of every pair, [P]: how far the policy moved towards the chosen answer, in nats."""
    return (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)


def pair_losses(policy: PairLogps, reference: PairLogps, sign: float, beta: float) -> torch.Tensor:
    """-log sigmoid(d * beta * delta), [P]."""
    return -logsigmoid(sign * beta * preference_gap(policy, reference))


def batch_loss(model: PreTrainedModel, layer: int, vector: torch.Tensor, pairs: Sequence[TokenPair],
               reference: PairLogps, signs: Sequence[float], beta: float) -> torch.Tensor:
    """Mean loss over the pairs and over `signs`; the steering by d*v is part of the graph."""
    losses = [pair_losses(pair_logps(model, layer, sign * vector, pairs), reference, sign, beta).mean()
              for sign in signs]
    return torch.stack(losses).mean()


def reference_logps(model: PreTrainedModel, layer: int, pairs: Sequence[TokenPair]) -> PairLogps:
    """Log-probabilities under the unsteered model."""
    with torch.no_grad():
        return pair_logps(model, layer, None, pairs)


def batches_in_file_order(pairs: int, batch_size: int) -> Iterator[slice]:
    """Batches for ever, epoch after epoch; the last one of an epoch may be short."""
    while True:
        for first in range(0, pairs, batch_size):
            yield slice(first, min(first + batch_size, pairs))


def make_optimizer(vector: torch.Tensor, settings: Settings):
    """AdamW and its warm-up + cosine schedule, as the paper's trainer sets them up."""
    optimizer = torch.optim.AdamW([vector], lr=settings.lr, betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=settings.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    return optimizer, schedule


def update(vector: torch.Tensor, optimizer, schedule, max_grad_norm: float) -> None:
    """One clipped optimiser step on the gradient that `vector` holds."""
    if max_grad_norm > 0:
        torch.nn.utils.clip_grad_norm_([vector], max_grad_norm)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()


def train(model: PreTrainedModel, layer: int, pairs: Sequence[TokenPair], reference: PairLogps,
          settings: Settings) -> list[StepRecord]:
    """Trains a vector from zero on `pairs` in file order; `reference` are their unsteered log-probs."""
    vector = torch.zeros(model.config.hidden_size, requires_grad=True)
    optimizer, schedule = make_optimizer(vector, settings)
    batches = batches_in_file_order(len(pairs), settings.batch_size)
    records = []
    for _ in range(settings.steps):
        batch = next(batches)
        lr = schedule.get_last_lr()[0]
        loss = batch_loss(model, layer, vector, pairs[batch], reference[batch], SIGNS[settings.sign],
                          settings.beta)
        loss.backward()
        grad = vector.grad.clone()
        update(vector, optimizer, schedule, settings.max_grad_norm)
        records.append(StepRecord(lr, loss.item(), grad, vector.detach().clone()))
    return records


def padded_training_step(model: PreTrainedModel, layer: int, vector: torch.Tensor,
                         pairs: Sequence[TokenPair], optimizer, schedule, settings: Settings) -> float:
    """One step the usual way: a padded policy pass and a padded reference pass; returns the loss."""
    sign = SIGNS[settings.sign][0]
    with torch.no_grad():
        reference = padded_pair_logps(model, layer, None, pairs)
    policy = padded_pair_logps(model, layer, sign * vector, pairs)
    loss = pair_losses(policy, reference, sign, settings.beta).mean()
    loss.backward()
    update(vector, optimizer, schedule, settings.max_grad_norm)
    return loss.item()
