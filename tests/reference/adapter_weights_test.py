"""Weights that ranks read with a LoRA adapter merged, against W + scale B A in float64."""

from dataclasses import replace

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

import gguf_weights_test
import lora_adapters
from dumped_weights import dump, dump_all
from tiny_models import TinyModel, write_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

MOST_RANKS = 3

ADAPTERS = {
    "two modules": {},
    "all modules": {"target_modules": ALL, "r": 5, "lora_alpha": 3},
    "head": {"target_modules": ["lm_head", "up_proj"]},
    "rank-stabilised": {"use_rslora": True, "r": 7},
    "patterns": {"target_modules": ALL, "rank_pattern": {"up_proj": 3, "1.mlp.up_proj": 6},
                 "alpha_pattern": {"^model.layers.2.self_attn.q_proj": 16, "down_proj": 1.5,
                                   "layers.1.self_attn.k_proj": 2}},
    "bfloat16": {"dtype": torch.bfloat16, "target_modules": ALL},
    "float16": {"dtype": torch.float16},
    "fractional alpha": {"lora_alpha": 2.5},
    "from transfer": {"init_lora_weights": "gaussian", "peft_version": "0.19.1", "eva_config": None},
}


def assert_merged(actual, expected, rounding, what):
    """`rounding`: of the float32 operations, elementwise."""
    assert actual.dtype == torch.float32, what
    error = (actual.double() - expected.double()).abs()
    assert torch.all(error <= rounding), f"{what}: {(error / rounding).max()} of the bound"


def rounding_of(adapter, weights, module):
    """A bound on what float32 rounds: r products and sums, the factor, the sum with W, and the
    expected value's own rounding."""
    a, b = (adapter.tensors[f"base_model.model.{module}.lora_{side}.weight"].double().abs() for side in "AB")
    largest_terms = adapter.scale(module) * (b @ a)
    unit = torch.finfo(torch.float32).eps / 2
    return unit * ((adapter.rank(module) + 3) * largest_terms + 2 * weights[f"{module}.weight"].double().abs())


def part(values, whole_of, name):
    """Rows and columns of `values` that this rank holds, told by a model whose weights are their places."""
    places = whole_of[name].long()
    return values.reshape(-1)[places]


def model_of_places(weights):
    """Each number of each weight is its place in it: what a rank reads tells which part it holds."""
    return {name: torch.arange(values.numel()).reshape(values.shape).float()
            for name, values in weights.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("model"), replace(TinyModel(), storage="float16"))
    return folder, load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def places(model, tmp_path_factory):
    """By number of ranks and rank: what a rank reads of a model of places."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "config.json").write_bytes((model[0] / "config.json").read_bytes())
    save_file(model_of_places(model[1]), folder / "model.safetensors")
    return dump_all(folder, MOST_RANKS)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_slices_of_every_rank(model, places, tmp_path, kind):
    folder, weights = model
    adapter = lora_adapters.make_adapter(lora_adapters.matrix_shapes(weights), **ADAPTERS[kind])
    adapter.write(tmp_path)
    expected = adapter.merged(weights)
    for (tp, rank), actual in dump_all(folder, MOST_RANKS, tmp_path).items():
        held = places[tp, rank]
        assert actual.keys() == weights.keys()
        for name, values in actual.items():
            module = name.removesuffix(".weight")
            what = f"{name}, rank {rank} of {tp}"
            if module in adapter.modules():
                rounding = part(rounding_of(adapter, weights, module), held, name)
                assert_merged(values, part(expected[name], held, name), rounding, what)
            else:
                assert values.dtype == torch.float16, what
                assert torch.equal(values, part(weights[name], held, name)), what


def test_only_listed_layers_and_modules(model, tmp_path):
    folder, weights = model
    settings = {"target_modules": ["q_proj", "up_proj", "model.layers.3.mlp.down_proj"],
                "exclude_modules": ["layers.2.mlp.up_proj"], "layers_to_transform": [0, 2]}

    def chosen(module):
        return module in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj",
                          "model.layers.2.self_attn.q_proj", "model.layers.3.mlp.down_proj")

    adapter = lora_adapters.make_adapter(lora_adapters.matrix_shapes(weights), chosen=chosen, **settings)
    assert len(adapter.modules()) == 4
    _, actual = dump(folder, 1, 0, adapter.write(tmp_path))
    changed = [name for name, values in actual.items() if not torch.equal(values.half(), weights[name])]
    assert sorted(changed) == [f"{module}.weight" for module in adapter.modules()]


@pytest.mark.parametrize("target_modules, chosen", [
    ("all-linear", lambda module: module != "lm_head"),
    (r".*\.self_attn\.(q|v)_proj", lambda module: module.endswith(("q_proj", "v_proj")))], ids=["all", "expression"])
def test_modules_chosen_by_an_expression(model, tmp_path, target_modules, chosen):
    folder, weights = model
    adapter = lora_adapters.make_adapter(lora_adapters.matrix_shapes(weights), target_modules=target_modules,
                                         chosen=chosen)
    _, actual = dump(folder, 1, 0, adapter.write(tmp_path))
    expected = adapter.merged(weights)
    for module in adapter.modules():
        name = f"{module}.weight"
        assert_merged(actual[name], expected[name], rounding_of(adapter, weights, module), name)


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.F16],
                         ids=lambda kind: kind.name)
def test_gguf_base(tmp_path, kind):
    """An adapter's rows are in Hugging Face's order, those of a GGUF file are not."""
    path = tmp_path / "model.gguf"
    gguf_weights_test.write_model(path, kind)
    _, base = dump(path, 1, 0)
    # Blocks of any bits hold infinities and what is near them, which say nothing of the sum.
    weights = {name: values.float() for name, values in base.items()}
    shapes = lora_adapters.matrix_shapes(weights)
    adapter = lora_adapters.make_adapter(shapes, target_modules=".*", exclude_modules=r".*embed_tokens",
                                         chosen=lambda module: True)
    adapter.write(tmp_path / "adapter")
    expected = adapter.merged(weights)
    assert any(module.endswith("q_proj") for module in adapter.modules())
    _, actual = dump(path, 1, 0, tmp_path / "adapter")
    for module in adapter.modules():
        name = f"{module}.weight"
        usable = weights[name].abs() < 1e30
        assert usable.double().mean() > 0.5, name
        assert_merged(actual[name][usable], expected[name][usable],
                      rounding_of(adapter, weights, module)[usable], name)
