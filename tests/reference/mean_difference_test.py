"""`extract --method caa` against transformers in float64, within what float32 may be off by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import pair_tokens
import program
import run_files
from float64_oracle import DRAWS, Widening, rounding_errors
from plain_bipo import TokenPair
from tiny_models import TinyModel, write_model

LAYERS = 4


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("odd") / "model",
                       TinyModel(vocab_size=301, intermediate_size=83, tied=True))


@pytest.fixture(params=["plain", "odd"])
def model_directory(request, tiny_model, odd_model) -> Path:
    return tiny_model if request.param == "plain" else odd_model


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


def mean_differences(model: PreTrainedModel, pairs: list[TokenPair]) -> torch.Tensor:
    """[blocks, D], each answer alone after its prompt, its end-of-sequence token left out of the mean."""
    def mean(pair: TokenPair, answer: list[int]) -> torch.Tensor:
        return block_outputs(model, pair.prompt + answer)[:, len(pair.prompt):-1].mean(dim=1)

    with Widening(model):
        return torch.stack([mean(pair, pair.chosen) - mean(pair, pair.rejected) for pair in pairs]).mean(dim=0)


def test_every_layer_is_that_of_transformers(model_directory, tiny_pairs, tmp_path):
    program.run_successfully(["extract", *program.options({
        "method": "caa", "model": model_directory, "train": tiny_pairs, "layers": "all", "out": tmp_path / "caa",
        "threads": 1, "dtype": "fp32", "device": "cpu"})])
    pairs = pair_tokens.tokenize(AutoTokenizer.from_pretrained(model_directory), pair_tokens.read_csv(tiny_pairs))
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float64, attn_implementation="eager")
    model.eval().requires_grad_(False)
    exact = mean_differences(model, pairs)
    bounds = torch.zeros(LAYERS, dtype=torch.float64)
    for draw in range(DRAWS):
        with rounding_errors(model, draw):
            bounds = torch.maximum(bounds, (mean_differences(model, pairs) - exact).norm(dim=1))
    for layer in range(LAYERS):
        found = torch.from_numpy(run_files.read(tmp_path / "caa" / f"layer{layer}.h5").final_vector).double()
        distance = float((found - exact[layer]).norm())
        assert distance <= float(bounds[layer]), f"layer {layer}: {distance:.2g}, allowed {bounds[layer]:.2g}"
        # The bound is sharp: another definition, with the end of sequence or of another block, lies far beyond.
        assert float(bounds[layer]) < 1e-4 * float(exact[layer].norm())
