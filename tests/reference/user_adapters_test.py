"""Adapters as PEFT 0.21.2 saves them, and as people change them: the program's scores against those of transformers
5.23.0 on PEFT's merge_and_unload."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from peft import (IA3Config, LoHaConfig, LoraConfig, OFTConfig, PeftModel, PromptTuningConfig, get_peft_model)
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig, Gemma4TextConfig, Glm4Config,
                          GPTNeoXConfig, LlamaConfig, Olmo2Config, Phi3Config, PhiConfig, PretrainedConfig, Qwen2Config,
                          Starcoder2Config)

import program
import user_files
from gguf_models import write_gguf
from newer_families import SIGLIP
from selection import every_second

TOLERANCE = 1e-4  # nats
LEAST_EFFECT = 0.05
CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PREFIX = "base_model.model."

transformers.utils.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5}


def families() -> dict[str, tuple[type[PretrainedConfig], dict]]:
    return {
        "llama": (LlamaConfig, {}),
        "llama in bfloat16": (LlamaConfig, {"dtype": torch.bfloat16}),
        "llama, tied": (LlamaConfig, {"tie_word_embeddings": True}),
        "llama with biases": (LlamaConfig, {"attention_bias": True}),
        "qwen2": (Qwen2Config, {}),
        "gemma3": (Gemma3TextConfig, {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
                                      "tie_word_embeddings": True}),
        "gemma3, untied": (Gemma3TextConfig, {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}),
        "gemma3 with images": (Gemma3Config, {**SIGLIP, "text_config": {
            **SIZES, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "vocab_size": 343,
            "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 0}, "tie_word_embeddings": True}),
        "gemma4": (Gemma4TextConfig, {"head_dim": 16, "global_head_dim": 32, "num_global_key_value_heads": 1,
                                      "attention_k_eq_v": True, "hidden_size_per_layer_input": 0,
                                      "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2,
                                      "num_hidden_layers": 4, "tie_word_embeddings": True}),
        "glm4": (Glm4Config, {"head_dim": 16}),
        "olmo2": (Olmo2Config, {}),
        "gpt_neox": (GPTNeoXConfig, {}),
        "phi": (PhiConfig, {}),
        "starcoder2": (Starcoder2Config, {}),
        "phi3": (Phi3Config, {"original_max_position_embeddings": 256, "sliding_window": None}),
    }


def write_model(directory: Path, family: str) -> Path:
    fast = user_files.tokenizer()
    kind, settings = families()[family]
    dtype = settings.get("dtype", torch.float32)
    config = kind(**settings) if "text_config" in settings else kind(
        **{**SIZES, "vocab_size": len(fast), "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": None,
           "eos_token_id": 0, **settings})
    model = user_files.make_loud(AutoModelForCausalLM.from_config(config).float())
    model.to(dtype).save_pretrained(directory)
    fast.save_pretrained(directory)
    user_files.write_pairs(directory / "pairs.csv")
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Makes the model of a family, once."""
    folder = tmp_path_factory.mktemp("models")
    return functools.cache(lambda family: write_model(folder / re.sub(r"\W+", "_", family), family))


@pytest.fixture(scope="module")
def unadapted(base):
    return functools.cache(lambda family: user_files.transformers_scores(base(family)))


@contextlib.contextmanager
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load(model: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def peft_model(model: Path, **settings: object) -> PeftModel:
    """Random low-rank updates, magnitudes and biases, large enough to change every answer."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(7)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
                           **settings})
    adapted = get_peft_model(load(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.3 * noise)
            elif "lora_" in name:
                parameter.copy_(0.15 * noise)
    return adapted


def save(model: Path, directory: Path, save_embedding_layers: object = "auto", **settings: object) -> Path:
    with quietly():
        peft_model(model, **settings).save_pretrained(directory, save_embedding_layers=save_embedding_layers)
    return directory


def edit_tensors(adapter: Path, change) -> None:
    save_file(change(load_file(adapter / TENSORS)), adapter / TENSORS, metadata={"format": "pt"})


def edit_config(adapter: Path, **changes: object) -> None:
    user_files.edit_json(adapter / CONFIG, **changes)


def merged_scores(model: Path, adapter: Path) -> tuple[float, float]:
    """PEFT 0.21.2: the adapter read from its files, merged into the model in float32."""
    with quietly():
        merged = PeftModel.from_pretrained(load(model), adapter).merge_and_unload().eval()
    return user_files.transformers_scores(model, model=merged)


def assert_equal(found: tuple[float, float], expected: tuple[float, float]) -> None:
    assert found == pytest.approx(expected, rel=0, abs=TOLERANCE)


def assert_as_merged(model: Path, adapter: Path, without: tuple[float, float] | None, ranks=(1, 2)) -> str:
    """Compares on one and on two tensor-parallel ranks; returns the first run's warnings about the adapter."""
    expected = merged_scores(model, adapter)
    if without is not None:
        assert max(abs(a - b) for a, b in zip(expected, without)) > LEAST_EFFECT
    errors = []
    for count in ranks:
        found, error = user_files.scores(model, "--adapter", adapter, "--tp", count,
                                         ranks=count if count > 1 else None)
        assert_equal(found, expected)
        errors.append(error)
    return "\n".join(line for line in errors[0].splitlines() if line.startswith("warning: ") and str(adapter) in line)


LONG_EXPRESSION = (r"(?:.*?(?:vision|visual).*?(?:self_attn|mlp).*?(?:proj))|(?:\bmodel\.layers\.[\d]{1,}\."
                   r"(?:self_attn|mlp)\.(?:(?:q_proj|k_proj|down_proj)))")

# Family, settings of LoraConfig. Each has its own source: what PEFT's documentation or its users write.
SAVED_BY_PEFT = {
    "head": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "embedding": ("llama", {"target_modules": ["v_proj", "embed_tokens"]}),
    "embedding and head": ("llama", {"target_modules": ["lm_head", "embed_tokens", "o_proj"], "use_rslora": True,
                                     "rank_pattern": {"embed_tokens": 3}, "alpha_pattern": {"lm_head": 3}}),
    "embedding that is scaled, and head": ("gemma3, untied", {"target_modules": ["embed_tokens", "lm_head"]}),
    "all linear": ("llama", {"target_modules": "all-linear"}),
    "bfloat16 base": ("llama in bfloat16", {"target_modules": [*ALL, "lm_head"]}),
    # Patterns: re.match(rf"(.*\.)?({key})$", module), the first in the file's order, which is sorted.
    "expressions as keys": ("llama", {
        "rank_pattern": {r".*\.layers\.1\..*(q_proj|v_proj)$": 8},
        "alpha_pattern": {r".*\.layers\.1\..*(q_proj|v_proj)$": 128}}),
    "escaped dots": ("llama", {"alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 64}}),
    "dot for any character": ("llama", {"alpha_pattern": {"q.proj": 64}}),
    "alternatives without a group": ("llama", {"rank_pattern": {"q_proj|layers.0.self_attn.v_proj": 6}}),
    "lookahead and numbers": ("llama", {"alpha_pattern": {r"(?!.*layers\.0)[^x]*layers\.\d{1,2}\.self_attn\.v_proj": 40}}),
    "whole name after ^": ("llama", {"alpha_pattern": {r"^model\.layers\.(?:0|2)\.self_attn\.q_proj": 100}}),
    "name after ^ that never matches": ("llama", {"alpha_pattern": {"^q_proj": 100}}),
    "several keys match": ("llama", {"alpha_pattern": {"q_proj": 2, "layers.1.self_attn.q_proj": 64},
                                     "use_rslora": True}),
    "targets by expression": ("llama", {"target_modules": LONG_EXPRESSION}),
    "targets by expression, letters of any case": ("llama", {"target_modules": r"(?i)model\.LAYERS\.[02]\..*_PROJ"}),
    "excluded by expression": ("llama", {"target_modules": ALL, "exclude_modules": r".*\.layers\.(0|2)\..*"}),
    "excluded by list": ("llama", {"target_modules": ALL, "exclude_modules": ["layers.1.mlp.up_proj", "k_proj"]}),
    "one layer": ("llama", {"layers_to_transform": 1, "target_modules": ["q_proj", "down_proj"]}),
    "layers by pattern": ("llama", {"layers_to_transform": [0, 2], "layers_pattern": "layers"}),
    "layers by expression": ("llama", {"layers_to_transform": [2], "layers_pattern": ["h", "lay.+s"]}),
    "whole names beside layers": ("llama", {"layers_to_transform": [2], "target_modules": [
        "v_proj", "model.layers.0.self_attn.q_proj"]}),
    # DoRA.
    "DoRA": ("llama", {"target_modules": ALL, "use_dora": True}),
    "DoRA, rank-stabilised": ("llama", {"target_modules": ALL, "use_dora": True, "use_rslora": True,
                                        "rank_pattern": {r"layers\.1\..*": 7}}),
    "DoRA of embedding and head": ("llama", {"target_modules": ["embed_tokens", "lm_head", "down_proj"],
                                             "use_dora": True}),
    "DoRA with biases in the base": ("qwen2", {"target_modules": ALL, "use_dora": True}),
    "DoRA of fused projections": ("phi3", {"target_modules": "all-linear", "use_dora": True}),
    "DoRA of a model in bfloat16": ("llama in bfloat16", {"target_modules": ALL, "use_dora": True}),
    "DoRA in Gemma 3": ("gemma3", {"target_modules": "all-linear", "use_dora": True}),
    # Biases of lora_B.
    "biases": ("llama with biases", {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "lora_bias": True}),
    "biases of some": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True, "use_rslora": True,
                                 "layers_to_transform": [1]}),
    # Parameters instead of modules; patterns then match the parameter's name.
    "parameters": ("llama", {"target_modules": [], "target_parameters": ["layers.1.self_attn.q_proj.weight",
                                                                         "mlp.down_proj.weight", "lm_head.weight"],
                             "alpha_pattern": {r"down_proj\.weight": 20, "q_proj": 100}}),
    "parameters beside modules": ("llama", {"target_modules": ["v_proj"],
                                            "target_parameters": ["o_proj.weight", "embed_tokens.weight"]}),
    "parameters of fused projections": ("phi3", {"target_modules": [],
                                                 "target_parameters": ["qkv_proj.weight", "gate_up_proj.weight"]}),
    # Settings that change nothing.
    "ensure_weight_tying": ("llama", {"ensure_weight_tying": True}),
    "ensure_weight_tying, tied": ("llama, tied", {"ensure_weight_tying": True}),
    "fan_in_fan_out": ("llama", {}),
    **{f"initialised as {kind}": ("llama", {"init_lora_weights": kind})
       for kind in ("gaussian", "eva", "orthogonal", "mica")},
    "other families": ("gemma3", {"target_modules": "all-linear"}),
    "fused projections": ("phi3", {"target_modules": "all-linear"}),
    "heads that differ by block": ("gemma4", {"target_modules": "all-linear", "use_dora": True}),
    "rows that are reordered": ("glm4", {"target_modules": "all-linear"}),
    "biases of rows that are reordered": ("glm4", {"target_modules": ["q_proj", "k_proj"], "lora_bias": True}),
    "projections fused by head": ("gpt_neox", {"target_modules": ["query_key_value", "dense", "dense_h_to_4h",
                                                                  "dense_4h_to_h"]}),
    "projections fused by head, DoRA": ("gpt_neox", {"target_modules": "all-linear", "use_dora": True}),
    "biases of projections fused by head": ("gpt_neox", {
        "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"], "lora_bias": True}),
    "an MLP without gates": ("phi", {"target_modules": ["q_proj", "v_proj", "dense", "fc1", "fc2"]}),
    "biases of all products and the head": ("phi", {
        "target_modules": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2", "lm_head"], "lora_bias": True}),
    "an MLP of convolutional names": ("starcoder2", {"target_modules": ["q_proj", "o_proj", "c_fc", "c_proj"],
                                                     "lora_bias": True}),
    "norms of all heads": ("olmo2", {"target_modules": "all-linear", "use_dora": True}),
    "text part": ("gemma3 with images", {"target_modules": r".*language_model.*\.(q_proj|up_proj)", "alpha_pattern": {
        r"model\.language_model\.layers\.1\..*": 20}}),
    "text part and others": ("gemma3 with images", {"target_modules": "all-linear", "use_dora": True}),
    "biases in the base": ("qwen2", {"target_modules": "all-linear"}),
}


def ranks_for(family: str, settings: dict) -> tuple[int, ...]:
    """Two ranks too where they hold parts of what is new: all but patterns of names."""
    is_split = {"use_dora", "lora_bias", "target_parameters"} & settings.keys() or any(
        "lm_head" in name or "embed" in name for name in settings.get("target_modules", []))
    return (1, 2) if is_split or family != "llama" else (1,)


@pytest.mark.parametrize("kind", every_second(SAVED_BY_PEFT))
def test_saved_by_peft(base, unadapted, tmp_path, kind):
    family, settings = SAVED_BY_PEFT[kind]
    adapter = save(base(family), tmp_path / "adapter", **settings)
    if kind == "fan_in_fan_out":
        edit_config(adapter, fan_in_fan_out=True)  # PEFT saves what it made of it
    said = assert_as_merged(base(family), adapter, unadapted(family), ranks=ranks_for(family, settings))
    named = {"text part and others": "27 of its tensors not used: they adapt other parts",
             "name after ^ that never matches": r'"alpha_pattern".*"\^q_proj" matches none',
             "fan_in_fan_out": r'"fan_in_fan_out"', "parameters": r'"alpha_pattern".*"q_proj" matches none'}
    if kind in named:
        assert re.search(named[kind], said), said
    else:
        assert not said


class TestBaseWeightsSavedAlong:
    @pytest.mark.parametrize("family", every_second(["llama, tied", "llama", "llama in bfloat16"]))
    def test_embeddings(self, base, unadapted, tmp_path, family):
        adapter = save(base(family), tmp_path / "adapter", save_embedding_layers=True)
        assert any("embed_tokens" in name for name in load_file(adapter / TENSORS))
        assert not assert_as_merged(base(family), adapter, unadapted(family))

    def test_norms_and_a_projection(self, base, unadapted, tmp_path):
        adapter = save(base("llama"), tmp_path / "adapter")
        weights = load_file(base("llama") / "model.safetensors")

        def add(tensors):
            for name in ("model.norm.weight", "model.layers.1.input_layernorm.weight",
                         "model.layers.2.mlp.up_proj.weight"):
                tensors[PREFIX + name] = weights[name]
            tensors[f"{PREFIX}model.layers.0.self_attn.q_proj.base_layer.weight"] = weights[
                "model.layers.0.self_attn.q_proj.weight"]
            return tensors

        edit_tensors(adapter, add)
        assert not assert_as_merged(base("llama"), adapter, unadapted("llama"))

    def test_fused_projection(self, base, unadapted, tmp_path):
        name = "model.layers.1.self_attn.qkv_proj.weight"
        weights = load_file(base("phi3") / "model.safetensors")
        adapter = save(base("phi3"), tmp_path / "adapter", target_modules=["o_proj"])
        edit_tensors(adapter, lambda tensors: {**tensors, PREFIX + name: weights[name]})
        assert_as_merged(base("phi3"), adapter, unadapted("phi3"))
        weights[name][-1, -1] += 1
        edit_tensors(adapter, lambda tensors: {**tensors, PREFIX + name: weights[name]})
        assert_refused(base("phi3"), adapter, re.escape(name))

    def test_rounded_to_another_type_is_said(self, base, tmp_path):
        """A run in bfloat16 on float32 files saves rounded embeddings; the model's own are used."""
        adapter = save(base("llama"), tmp_path / "adapter")
        expected = merged_scores(base("llama"), adapter)
        name = f"{PREFIX}model.embed_tokens.weight"
        weights = load_file(base("llama") / "model.safetensors")
        edit_tensors(adapter, lambda tensors: {
            **tensors, name: weights["model.embed_tokens.weight"].bfloat16()})
        found, error = user_files.scores(base("llama"), "--adapter", adapter)
        assert_equal(found, expected)
        assert re.search(re.escape(name) + ".*another precision.*BFloat16", error), error

    @pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight",
                                      "model.layers.1.mlp.gate_proj.weight"])
    def test_trained_ones_are_refused(self, base, tmp_path, name):
        adapter = save(base("llama"), tmp_path / "adapter")
        weights = load_file(base("llama") / "model.safetensors")
        changed = weights[name].clone()
        changed[-1] *= 1.001
        edit_tensors(adapter, lambda tensors: {**tensors, PREFIX + name: changed})
        assert_refused(base("llama"), adapter, re.escape(str(adapter / TENSORS)), re.escape(PREFIX + name),
                       "trained too", "merge_and_unload")

    def test_trained_base_layer_is_refused_and_its_advice_is_right(self, base, tmp_path):
        """PEFT puts the saved head in place of the model's; the command of the message makes that model."""
        adapter = save(base("llama"), tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
        name = f"{PREFIX}lm_head.base_layer.weight"
        edit_tensors(adapter, lambda tensors: {**tensors, name: tensors[name] * 1.25})
        message = assert_refused(base("llama"), adapter, re.escape(name), "trained too")
        run_command(message, "merge_and_unload", tmp_path)
        user_files.write_pairs(tmp_path / "merged" / "pairs.csv")
        assert_equal(user_files.scores(tmp_path / "merged")[0], merged_scores(base("llama"), adapter))

    def test_base_layer_can_be_taken_out(self, base, tmp_path):
        adapter = save(base("llama"), tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
        expected = merged_scores(base("llama"), adapter)
        name = f"{PREFIX}lm_head.base_layer.weight"
        edit_tensors(adapter, lambda tensors: {**tensors, name: tensors[name] + 0.001})
        message = assert_refused(base("llama"), adapter, "take it out")
        run_command(message, r"del t\[", tmp_path)
        assert name not in load_file(adapter / TENSORS)
        assert_equal(user_files.scores(base("llama"), "--adapter", adapter)[0], expected)

    def test_added_tokens(self, base, tmp_path):
        adapter = save(base("llama"), tmp_path / "adapter")
        rows = load_file(base("llama") / "model.safetensors")["model.embed_tokens.weight"]
        name = f"{PREFIX}model.embed_tokens.weight"
        edit_tensors(adapter, lambda tensors: {**tensors, name: torch.cat([rows, rows[:8]])})
        assert_refused(base("llama"), adapter, re.escape(name), "tokens added")


class TestNames:
    def test_of_a_text_part_in_older_releases(self, base, unadapted, tmp_path):
        """Before transformers 4.52, which PEFT still reads; names of a model of text alone it reads past."""
        family = "gemma3 with images"
        adapter = save(base(family), tmp_path / "adapter", target_modules=r".*language_model.*\.(q_proj|o_proj)")
        inside = f"{PREFIX}model.language_model."
        edit_tensors(adapter, lambda tensors: {name.replace(inside, f"{PREFIX}language_model.model."): value
                                               for name, value in tensors.items()})
        assert_as_merged(base(family), adapter, unadapted(family))
        edit_tensors(adapter, lambda tensors: {name.replace("language_model.model.", "model."): value
                                               for name, value in tensors.items()})
        message = assert_refused(base(family), adapter, "model of text alone", "rename them")
        run_command(message, "k.replace", tmp_path)
        assert_as_merged(base(family), adapter, unadapted(family))

    @pytest.mark.parametrize("settings", [
        {}, {"use_dora": True}, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}], ids=["plain", "DoRA", "embedding"])
    def test_of_the_default_adapter(self, base, unadapted, tmp_path, settings):
        """The state_dict of a PeftModel saved by hand."""
        with quietly():
            model = peft_model(base("llama"), **settings)
            model.save_pretrained(tmp_path / "adapter")
        names = {name: values for name, values in model.state_dict().items() if "lora_" in name}
        assert all(".default" in name for name in names)
        save_file(names, tmp_path / "adapter" / TENSORS)
        assert_as_merged(base("llama"), tmp_path / "adapter", unadapted("llama"), ranks=[1])

    def test_of_magnitudes_with_an_end(self, base, unadapted, tmp_path):
        adapter = save(base("llama"), tmp_path / "adapter", use_dora=True)
        edit_tensors(adapter, lambda tensors: {
            re.sub("magnitude_vector$", "magnitude_vector.weight", name): values for name, values in tensors.items()})
        assert_as_merged(base("llama"), adapter, unadapted("llama"), ranks=[1])

    def test_of_magnitudes_that_peft_reads_past(self, base, tmp_path):
        adapter = save(base("llama"), tmp_path / "adapter", use_dora=True)
        edit_tensors(adapter, lambda tensors: {
            re.sub("magnitude_vector$", "magnitude_vector.default", name): values for name, values in tensors.items()})
        assert_refused(base("llama"), adapter, r"lora_magnitude_vector\.default")

    @pytest.mark.parametrize("target", ["q_proj", "embed_tokens"])
    def test_of_another_adapter(self, base, tmp_path, target):
        """PEFT reads past them, with a warning, unless it is told the name; the message's command renames them."""
        adapter = save(base("llama"), tmp_path / "adapter", target_modules=[target], save_embedding_layers=False)
        expected = merged_scores(base("llama"), adapter)
        edit_tensors(adapter, lambda tensors: {
            re.sub(r"(lora_(?:embedding_)?[AB])", r"\1.poet", name): values for name, values in tensors.items()})
        assert merged_scores(base("llama"), adapter) != pytest.approx(expected, abs=LEAST_EFFECT)
        message = assert_refused(base("llama"), adapter, r'adapter "poet"', re.escape(TENSORS))
        for command in commands(message):
            run_shell(command, tmp_path)
        assert_equal(user_files.scores(base("llama"), "--adapter", adapter)[0], expected)

    def test_without_model(self, base, tmp_path):
        """PEFT reads past them too."""
        adapter = save(base("llama"), tmp_path / "adapter")
        expected = merged_scores(base("llama"), adapter)
        edit_tensors(adapter, lambda tensors: {
            name.replace(f"{PREFIX}model.", PREFIX): values for name, values in tensors.items()})
        message = assert_refused(base("llama"), adapter, r'lack "model\."', r"layers\.0\.self_attn\.q_proj\.lora_A")
        run_command(message, "replace", tmp_path)
        assert_equal(user_files.scores(base("llama"), "--adapter", adapter)[0], expected)

    @pytest.mark.parametrize("old, new, says", every_second([
        (PREFIX, "", "do not begin with"), (f"{PREFIX}model.", "base_model.", "do not begin with"),
        (f"{PREFIX}model.", f"{PREFIX}_orig_mod.model.", "no matrix of this model"),
        (f"{PREFIX}model.", f"{PREFIX}model.language_model.", "no matrix of this model")]))
    def test_that_peft_reads_past(self, base, tmp_path, old, new, says):
        adapter = save(base("llama"), tmp_path / "adapter")
        edit_tensors(adapter, lambda tensors: {name.replace(old, new): values for name, values in tensors.items()})
        assert_refused(base("llama"), adapter, says, r"layers\.0\.self_attn\.q_proj\.lora_A")

    def test_twice(self, base, tmp_path):
        adapter = save(base("llama"), tmp_path / "adapter")
        name = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"
        edit_tensors(adapter, lambda tensors: {
            **tensors, name.replace(".weight", ".default.weight"): tensors[name] + 1})
        assert_refused(base("llama"), adapter, re.escape(name), "one tensor to PEFT")


class TestConversion:
    @pytest.mark.parametrize("settings", every_second([
        {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora", "use_rslora": True},
        {"init_lora_weights": "pissa", "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 2}}]),
        ids=["PiSSA", "OLoRA", "PiSSA with patterns"])
    def test_to_plain_lora(self, base, unadapted, tmp_path, settings):
        """path_initial_model_for_weight_conversion: twice the rank, and an initialisation that says nothing."""
        with quietly():
            config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
                                   "task_type": "CAUSAL_LM", **settings})
            model = get_peft_model(load(base("llama")), config)
            model.peft_config["default"].init_lora_weights = True  # as PEFT's example does
            model.save_pretrained(tmp_path / "initial")
            model.peft_config["default"].init_lora_weights = settings["init_lora_weights"]
            generator = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_" in name:
                        parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
            model.save_pretrained(tmp_path / "raw")
            model.save_pretrained(tmp_path / "adapter",
                                  path_initial_model_for_weight_conversion=tmp_path / "initial")
        assert_as_merged(base("llama"), tmp_path / "adapter", unadapted("llama"), ranks=[1])
        assert_refused(base("llama"), tmp_path / "raw", re.escape(CONFIG), '"init_lora_weights"',
                       "path_initial_model_for_weight_conversion", "merge_and_unload")

    def test_of_a_pickled_adapter(self, base, tmp_path):
        with quietly():
            peft_model(base("llama")).save_pretrained(tmp_path / "adapter", safe_serialization=False)
        assert (tmp_path / "adapter" / PICKLED).exists()
        expected = merged_scores(base("llama"), tmp_path / "adapter")
        message = assert_refused(base("llama"), tmp_path / "adapter", re.escape(PICKLED), "convert")
        run_command(message, "torch.load", tmp_path)
        assert_equal(user_files.scores(base("llama"), "--adapter", tmp_path / "adapter")[0], expected)

    def test_folder_of_named_adapters(self, base, tmp_path):
        with quietly():
            model = get_peft_model(load(base("llama")), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
                                   adapter_name="poet")
            model.save_pretrained(tmp_path / "adapters")
        assert_refused(base("llama"), tmp_path / "adapters", re.escape(CONFIG),
                       re.escape(str(tmp_path / "adapters" / "poet")))


def commands(message: str) -> list[str]:
    return re.findall(r'python -c "[^"]*"', message)


def run_shell(command: str, folder: Path) -> None:
    program_and_arguments = shlex.split(command)
    assert program_and_arguments[0] == "python"
    subprocess.run([sys.executable, *program_and_arguments[1:]], cwd=folder, check=True, capture_output=True)


def run_command(message: str, contains: str, folder: Path) -> None:
    """Runs the one command of the message that has this in it."""
    chosen = [command for command in commands(message) if re.search(contains, command)]
    assert len(chosen) == 1, message
    run_shell(chosen[0], folder)


def assert_refused(model: Path, adapter: Path, *says: str) -> str:
    finished = user_files.run_train(model, "--adapter", adapter)
    assert finished.code == program.BAD_INPUT, finished
    for pattern in says:
        assert re.search(pattern, finished.stderr), f"no {pattern!r} in\n{finished}"
    return finished.stderr


class TestRefused:
    @pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
    @pytest.mark.parametrize("tying", [False, True])
    def test_update_of_a_head_that_is_the_embedding(self, base, tmp_path, target, tying):
        """Merged and unmerged model differ in PEFT."""
        adapter = save(base("llama, tied"), tmp_path / "adapter", target_modules=["q_proj", target],
                       ensure_weight_tying=tying)
        assert_refused(base("llama, tied"), adapter, re.escape(TENSORS), "head is its embedding")

    def test_biases_that_no_merged_model_can_hold(self, base, tmp_path):
        adapter = save(base("llama"), tmp_path / "adapter", lora_bias=True)
        with pytest.raises(RuntimeError, match="base layer has no bias"):
            merged_scores(base("llama"), adapter)
        assert_refused(base("llama"), adapter, r"model\.layers\.0\.self_attn\.q_proj", "lora_bias", "RuntimeError")

    @pytest.mark.parametrize("settings, field", every_second([
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"bias": "all"}, "bias"),
        ({"trainable_token_indices": [5, 6]}, "trainable_token_indices")]))
    def test_settings_that_peft_can_merge(self, base, tmp_path, settings, field):
        adapter = save(base("llama with biases"), tmp_path / "adapter", **settings)
        message = assert_refused(base("llama with biases"), adapter, re.escape(str(adapter / CONFIG)), f'"{field}"')
        run_command(message, "merge_and_unload", tmp_path)
        user_files.write_pairs(tmp_path / "merged" / "pairs.csv")
        with quietly():
            merged = PeftModel.from_pretrained(load(base("llama with biases")), adapter).merge_and_unload().eval()
        expected = user_files.transformers_scores(base("llama with biases"), model=merged)
        assert_equal(user_files.scores(tmp_path / "merged")[0], expected)

    @pytest.mark.parametrize("settings, field", every_second([
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"), ({"use_qalora": True}, "use_qalora"),
        ({"arrow_config": {"top_k": 1}}, "arrow_config"), ({"bias": "lora_only"}, "bias"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"init_lora_weights": "corda"}, "init_lora_weights"), ({"init_lora_weights": "lora_ga"}, "init_lora_weights"),
        ({"init_lora_weights": "sunrise"}, "init_lora_weights"),
        ({"kasa_config": {"r": 1}}, "kasa_config"), ({"velora_config": {"num_groups": 2}}, "velora_config"),
        ({"monteclora_config": {"num_samples": 2}}, "monteclora_config"), ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"megatron_config": {"a": 1}}, "megatron_config"), ({"some_new_field": 1}, "some_new_field"),
        ({"layers_pattern": "layers"}, "layers_pattern"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [1]}, "layers_to_transform"),
        ({"rank_pattern": {r"q_proj\h": 4}}, "rank_pattern"), ({"rank_pattern": {"(?i)q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"[[:alpha:]]_proj": 4}}, "alpha_pattern"), ({"alpha_pattern": {"q_proj(": 4}}, "alpha_pattern"),
        ({"target_modules": r"(?x) .*q_proj"}, "target_modules"), ({"exclude_modules": r"(?R)"}, "exclude_modules"),
        ({"target_parameters": "q_proj.weight"}, "target_parameters")]))
    def test_settings(self, base, tmp_path, settings, field):
        adapter = save(base("llama"), tmp_path / "adapter")
        edit_config(adapter, **settings)
        assert_refused(base("llama"), adapter, re.escape(str(adapter / CONFIG)), f'"{field}"')

    @pytest.mark.parametrize("settings, says", every_second([
        ({"target_modules": r".*\.(q|k)_proj"}, r"no tensors.*layers\.0\.self_attn\.k_proj"),
        ({"target_modules": "all-linear"}, r"no tensors.*layers\.0\.mlp\.down_proj"),
        ({"exclude_modules": r".*layers\.1\..*"}, r"does not target.*layers\.1\.self_attn\.q_proj"),
        ({"target_modules": None}, None), ({"use_dora": True}, "lora_magnitude_vector"),
        ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, r"does not target.*v_proj"),
        ({"target_parameters": ["q_proj.weight"]}, "target_modules and among target_parameters")]))
    def test_files_that_do_not_belong_together(self, base, unadapted, tmp_path, settings, says):
        """PEFT reads past tensors of modules that are not targets, and leaves targets without tensors as they were
        initialised."""
        adapter = save(base("llama"), tmp_path / "adapter")
        edit_config(adapter, **settings)
        if says is None:
            assert_as_merged(base("llama"), adapter, unadapted("llama"), ranks=[1])
        else:
            assert_refused(base("llama"), adapter, says)

    def test_magnitudes_without_the_setting(self, base, tmp_path):
        adapter = save(base("llama"), tmp_path / "adapter", use_dora=True)
        edit_config(adapter, use_dora=False)
        assert_refused(base("llama"), adapter, "lora_magnitude_vector", '"use_dora"')

    @pytest.mark.parametrize("config", every_second([
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
        LoHaConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
        OFTConfig(target_modules=["q_proj"], oft_block_size=16, r=0, task_type="CAUSAL_LM"),
        PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")]), ids=lambda config: config.peft_type)
    def test_other_types(self, base, tmp_path, config):
        with quietly():
            get_peft_model(load(base("llama")), config).save_pretrained(tmp_path / "adapter")
        assert_refused(base("llama"), tmp_path / "adapter", re.escape(CONFIG), '"peft_type"',
                       json.loads((tmp_path / "adapter" / CONFIG).read_text())["peft_type"], "merge_and_unload")


@pytest.mark.parametrize("settings", every_second([
    {"target_modules": ALL, "use_dora": True}, {"target_modules": [*ALL, "lm_head", "embed_tokens"]}]),
    ids=["DoRA", "plain"])
def test_on_the_model_as_gguf(base, tmp_path, settings):
    file = write_gguf(tmp_path / "model.gguf", base("llama"))
    adapter = save(base("llama"), tmp_path / "adapter", **settings)
    expected = merged_scores(base("llama"), adapter)
    pairs = shutil.copy(base("llama") / "pairs.csv", tmp_path / "pairs.csv")
    for ranks in (1, 2):
        found, _ = user_files.scores(file, "--adapter", adapter, "--tp", ranks, data=Path(pairs),
                                     ranks=ranks if ranks > 1 else None)
        assert_equal(found, expected)
