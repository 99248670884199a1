"""Loss and slopes of each objective against TRL 1.16.0's own loss functions, on given log-probabilities.

DPOTrainer._compute_loss gets a model that answers with log-probabilities of single tokens, CPOTrainer.cpo_loss those of
whole answers; both are called without a trainer, in float64, and autograd gives the slopes.  In direction -1 the answers
change places.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer

PAIR_OBJECTIVES = Path(os.environ["BIPO_BUILD_DIR"]) / "tests/reference/pair_objectives"
# Both compute in float64; sums of at most 12 tokens in another order.
RTOL = 1e-12
BETA, GAMMA = 0.3, 0.45


@dataclass
class Pair:
    """Log-probabilities of the tokens of the chosen and of the rejected answer, policy and reference."""

    policy: tuple[numpy.ndarray, numpy.ndarray]
    reference: tuple[numpy.ndarray, numpy.ndarray]

    @property
    def tokens(self) -> list[int]:
        return [len(answer) for answer in self.policy]

    def exchanged(self) -> Pair:
        return Pair(self.policy[::-1], self.reference[::-1])


def random_pairs(count: int) -> list[Pair]:
    random = numpy.random.default_rng(5)
    pairs = []
    for _ in range(count):
        reference = tuple(-random.exponential(2.0, random.integers(1, 13)) for _ in range(2))
        pairs.append(Pair(tuple(answer + random.normal(0, 0.4, len(answer)) for answer in reference), reference))
    return pairs


PAIRS = random_pairs(40)


class Ranks(SimpleNamespace):
    """One process by itself, as accelerate shows it."""

    device = torch.device("cpu")

    @staticmethod
    def gather(values):
        return values

    gather_for_metrics = gather


def dpo(loss_type: str, pair: Pair) -> tuple[float, list[float]]:
    """Of one pair, padded to the longer answer behind one token of the prompt."""
    longest = max(pair.tokens)
    mask = torch.zeros(2, longest + 1, dtype=torch.long)
    log_probs = torch.zeros(2, longest + 1, dtype=torch.float64)
    for row, answer in enumerate(pair.policy):
        mask[row, 1:len(answer) + 1] = 1
        log_probs[row, 1:len(answer) + 1] = torch.tensor(answer)
    # Moved together, the tokens of an answer move their sum as each of them does.
    shifts = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor(pair.tokens, dtype=torch.float64)
    shifted = log_probs + mask * (shifts / counts)[:, None]
    zeros = torch.zeros_like(mask, dtype=torch.float64)

    def model(**_):
        return SimpleNamespace(log_probs=shifted, entropy=zeros, mean_logits=zeros, is_top1=mask.bool())

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=Ranks(), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
        beta=BETA, label_smoothing=0.0, use_weighting=False, _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0, _tp_size=1)
    inputs = {"input_ids": mask, "attention_mask": torch.ones_like(mask), "completion_mask": mask,
              "ref_chosen_logps": torch.tensor([pair.reference[0].sum()]),
              "ref_rejected_logps": torch.tensor([pair.reference[1].sum()])}
    loss = DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    loss.backward()
    return loss.item(), shifts.grad.tolist()


def cpo(loss_type: str, smoothing: float, pair: Pair, mean: bool, reference: bool) -> tuple[float, list[float]]:
    """Of one pair; `reference`: the loss gets the difference from it."""
    sums = torch.tensor([answer.sum() for answer in pair.policy], requires_grad=True)
    scores = sums - torch.tensor([answer.sum() for answer in pair.reference]) if reference else sums
    scores = scores / torch.tensor(pair.tokens, dtype=torch.float64) if mean else scores
    trainer = SimpleNamespace(alpha=0.0, accelerator=Ranks(), loss_type=loss_type, beta=BETA, simpo_gamma=GAMMA,
                              label_smoothing=smoothing)
    losses, _, _ = CPOTrainer.cpo_loss(trainer, scores[:1], scores[1:])
    losses.sum().backward()
    return losses.item(), sums.grad.tolist()


# objective, reduction, label smoothing, and TRL's loss of a pair
CASES = {
    "bipo": ("bipo", "sum", 0.0, lambda pair: dpo("sigmoid", pair)),
    "bipo by tokens": ("bipo", "mean", 0.0, lambda pair: dpo("sigmoid_norm", pair)),
    "bipo smoothed": ("bipo", "sum", 0.2, lambda pair: cpo("sigmoid", 0.2, pair, mean=False, reference=True)),
    "dpo": ("dpo", "sum", 0.0, lambda pair: dpo("sigmoid", pair)),
    "ipo": ("ipo", "mean", 0.0, lambda pair: dpo("ipo", pair)),
    "ipo by sums": ("ipo", "sum", 0.0, lambda pair: cpo("ipo", 0.0, pair, mean=False, reference=True)),
    "simpo": ("simpo", "mean", 0.0, lambda pair: cpo("simpo", 0.0, pair, mean=True, reference=False)),
    "simpo smoothed": ("simpo", "mean", 0.1, lambda pair: cpo("simpo", 0.1, pair, mean=True, reference=False)),
    "sft": ("sft", "mean", 0.0, lambda pair: dpo("sft", pair)),
}


def evaluated(requests: list[dict], folder: Path) -> list[dict]:
    path = folder / "requests.json"
    path.write_text(json.dumps(requests))
    finished = subprocess.run([PAIR_OBJECTIVES, path], check=True, capture_output=True, text=True, timeout=60)
    return json.loads(finished.stdout)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("case", CASES)
def test_equals_trl(case, direction, tmp_path):
    objective, reduction, smoothing, of_trl = CASES[case]
    requests = [{"objective": objective, "reduction": reduction, "label_smoothing": smoothing, "beta": BETA,
                 "simpo_gamma": GAMMA, "direction": direction, "tokens": pair.tokens,
                 "policy": [float(answer.sum()) for answer in pair.policy],
                 "reference": [float(answer.sum()) for answer in pair.reference]} for pair in PAIRS]
    for pair, found in zip(PAIRS, evaluated(requests, tmp_path), strict=True):
        loss, slope = of_trl(pair if direction == 1 else pair.exchanged())
        assert found["loss"] == pytest.approx(loss, rel=RTOL, abs=RTOL)
        numpy.testing.assert_allclose(found["slope"], slope if direction == 1 else slope[::-1], rtol=RTOL, atol=RTOL)
