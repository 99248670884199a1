"""Model directories that people and tools have edited, mixed or converted, against transformers 5.23.0 and 4.57.6.

Where the two differ, the program follows 5.23.0, whichever wrote the directory, and says so in one line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import h5py
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import program
import user_files
from selection import every_second

OLDER = Path(os.environ["BIPO_TEST_CACHE"]) / "venv-full" / "bin" / "python"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Nats, for sums over some dozen tokens of some hundred nats.
CLOSE = 1e-3

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0 + 0.1 * at for at in range(8)],
            "long_factor": [2.0 + 0.3 * at for at in range(8)], "original_max_position_embeddings": 128}
PLAIN = {"rope_type": "default", "rope_theta": 1e6}
SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.fixture(scope="module", autouse=True)
def quiet():
    assert transformers.__version__ == "5.23.0"
    transformers.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return user_files.write_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """One directory of each family by name, as transformers 5.23.0 saves it."""
    root = tmp_path_factory.mktemp("families")
    fast = user_files.tokenizer()
    common = {"vocab_size": len(fast), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
              "pad_token_id": None}
    special = {
        "llama": {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
        "mistral": {"sliding_window": 16, "head_dim": 24},
        "ministral": {"sliding_window": 16, "head_dim": 16, "layer_types": [SLIDING, FULL] * 2},
        "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1,
                  "rope_parameters": {**YARN, "rope_theta": 1e6}},
        "qwen3": {"head_dim": 32, "attention_bias": True},
        "gemma2": {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 24},
        "gemma3_text": {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 24,
                        "layer_types": [SLIDING, FULL] * 2,
                        "rope_parameters": {FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                            SLIDING: {"rope_type": "default", "rope_theta": 1e4}}},
        "smollm3": {"no_rope_layers": [1, 0, 1, 1]},
        "phi3": {"hidden_size": 128, "original_max_position_embeddings": 128, "partial_rotary_factor": 0.5,
                 "rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.5, "rope_theta": 1e4}},
    }
    for name, settings in special.items():
        config = transformers.CONFIG_MAPPING[name](**{**common, **settings})
        user_files.make_loud(AutoModelForCausalLM.from_config(config).float(), 7).save_pretrained(root / name)
        fast.save_pretrained(root / name)
        user_files.write_pairs(root / name / "pairs.csv")
    return {name: root / name for name in special}


def edited(directory: Path, copy: Path, **changes: object) -> Path:
    user_files.copy_of(directory, copy)
    user_files.edit_json(copy / "config.json", **changes)
    return copy


def older_scores(directory: Path) -> tuple[float, float]:
    """As user_files.transformers_scores, by transformers 4.57.6."""
    fast = AutoTokenizer.from_pretrained(directory)
    requests = []
    for question, *answers in user_files.PAIRS:
        text = fast.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                        tokenize=False)
        prompt = fast(text, add_special_tokens=False).input_ids
        for answer in answers:
            ids = fast(text + answer, add_special_tokens=False).input_ids
            requests.append((prompt, [*ids[len(prompt):], fast.eos_token_id]))
    run = subprocess.run([OLDER, Path(__file__).with_name("older_scores.py"), directory], check=True,
                         input=json.dumps(requests), capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": ""})
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["version"] == "4.57.6"
    sums = result["sums"]
    return sum(sums[0::2]) / len(sums) * 2, sum(sums[1::2]) / len(sums) * 2


def warnings_of(stderr: str) -> list[str]:
    """Those about configuration and weights, which leaves out the short run, its data and the small tokenizer."""
    others = ("warm-up", "are trained on as well", "differ on this tokenizer")
    return [line for line in stderr.splitlines()
            if "warning: " in line and not any(other in line for other in others)]


def expect(directory: Path, right: tuple[float, float], *named: str, options: tuple = ()) -> list[str]:
    """The program's scores are `right`, and each of `named` stands in a warning."""
    found, stderr = user_files.scores(directory, *options)
    assert found == pytest.approx(right, abs=CLOSE), stderr
    lines = warnings_of(stderr)
    for name in named:
        assert any(name in line for line in lines), f"{name} in\n{stderr}"
    if not named:
        assert lines == []
    return lines


def refused(directory: Path, *parts: str, options: tuple = ()) -> None:
    finished = user_files.run_train(directory, *options)
    assert finished.code == program.BAD_INPUT, finished
    for part in parts:
        assert part in finished.stderr, finished


def test_what_transformers_5_saves_needs_no_warning(families):
    """Nine families, and the same scores."""
    for directory in families.values():
        expect(directory, user_files.transformers_scores(directory))


# What is in config.json, and what must be named.  transformers_version is 5.23.0.
LLAMA_AS_5 = {
    "scaling beside parameters": (
        {"rope_parameters": PLAIN, "rope_scaling": YARN}, ['"rope_theta": 1000000.0']),
    "scaling beside parameters, theta at the top": (
        {"rope_parameters": PLAIN, "rope_scaling": YARN, "rope_theta": 777.0}, ['"rope_theta": 1000000.0']),
    "scaling beside parameters, with type": (
        {"rope_parameters": PLAIN, "rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_theta"]),
    "theta in scaling": ({"rope_parameters": ..., "rope_scaling": PLAIN}, ["differ"]),
    "theta in scaling, another at the top": (
        {"rope_parameters": ..., "rope_scaling": PLAIN, "rope_theta": 500.0}, ['"rope_theta": 500.0', "differ"]),
    "theta in scaling with yarn": (
        {"rope_parameters": ..., "rope_scaling": {**YARN, "rope_theta": 1e6}}, ["differ"]),
    "theta in parameters and at the top": (
        {"rope_parameters": PLAIN, "rope_theta": 500.0}, ['"rope_theta": 500.0 is not used', "differ"]),
    "theta at the top only": ({"rope_parameters": YARN, "rope_theta": 777.0}, ["differ"]),
    "empty scaling": ({"rope_parameters": PLAIN, "rope_scaling": {}}, []),
    "original at the top, yarn": (
        {"rope_parameters": YARN, "original_max_position_embeddings": 32},
        ['"original_max_position_embeddings": 64 is not used']),
    "original at the top, llama3": (
        {"rope_parameters": {**LLAMA3, "rope_theta": 1e4}, "original_max_position_embeddings": 128},
        ['"original_max_position_embeddings": 64 is not used']),
    "original at the top, linear": (
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "original_max_position_embeddings": 32},
        ['"original_max_position_embeddings": 32 is not used']),
    "llama3 without original": (
        {"rope_parameters": {**{k: v for k, v in LLAMA3.items() if k[0] != "o"}, "rope_theta": 1e4}}, []),
    "longrope": ({"rope_parameters": LONGROPE}, []),
    "longrope with factor": ({"rope_parameters": {**LONGROPE, "factor": 16.0}}, []),
    "longrope with factor and attention factor": (
        {"rope_parameters": {**LONGROPE, "factor": 16.0, "attention_factor": 1.3}}, []),
    "longrope with original at the top": (
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 100},
        ['"original_max_position_embeddings": 128 is not used']),
    "two types": (
        {"rope_parameters": {"rope_type": "default", "type": "linear", "factor": 4.0}}, ['"type": "linear"']),
    "type alone": ({"rope_parameters": {"type": "linear", "factor": 4.0}}, []),
    "factor of default": ({"rope_parameters": {**PLAIN, "factor": 4.0}}, ['"factor": 4.0 is not used']),
    "yarn without factor's value": ({"rope_parameters": {**YARN, "factor": None}}, []),
    "yarn with both scales": ({"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2}}, []),
    "yarn with one scale 0": ({"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0}}, []),
    "yarn with betas": (
        {"rope_parameters": {**YARN, "beta_fast": 8, "beta_slow": 0, "truncate": False}}, []),
    "yarn with attention factor": ({"rope_parameters": {**YARN, "attention_factor": 1.4}}, []),
    "yarn with attn_factor": ({"rope_parameters": {**YARN, "attn_factor": 0.8}}, ['"attn_factor": 0.8']),
    "by kind of block": (
        {"rope_parameters": {FULL: PLAIN, SLIDING: PLAIN}}, ['"full_attention"', '"sliding_attention"']),
    "partial rotation": ({"partial_rotary_factor": 0.5}, ['"partial_rotary_factor": 0.5']),
}


@pytest.mark.parametrize("case", every_second(LLAMA_AS_5))
def test_rotary_settings_of_llama_as_5_reads_them(base, tmp_path, case):
    changes, named = LLAMA_AS_5[case]
    directory = edited(base, tmp_path / "model", **changes)
    expect(directory, user_files.transformers_scores(directory), *named)


# The same of a file that 4.57.6 wrote: 5.23.0 is followed all the same, and named where it differs.
OLD = {"rope_parameters": ..., "transformers_version": "4.57.6"}
LLAMA_OF_4 = {
    "old names": ({**OLD, "rope_scaling": YARN, "rope_theta": 777.0}, False),
    "scaling beside parameters": ({**OLD, "rope_parameters": PLAIN, "rope_scaling": YARN}, False),
    "theta in scaling": ({**OLD, "rope_scaling": PLAIN}, True),
    "original at the top, yarn": ({**OLD, "rope_scaling": YARN, "original_max_position_embeddings": 32}, True),
    "longrope with factor and original at the top": (
        {**OLD, "rope_scaling": {**LONGROPE, "factor": 16.0}, "original_max_position_embeddings": 64}, True),
    "longrope with original inside only": ({**OLD, "rope_scaling": {**LONGROPE, "factor": 2.0}}, True),
    "two types": ({**OLD, "rope_scaling": {"rope_type": "default", "type": "linear", "factor": 4.0}}, True),
    "theta in parameters and at the top": ({**OLD, "rope_parameters": PLAIN, "rope_theta": 500.0}, True),
    "yarn in parameters, theta at the top": ({**OLD, "rope_parameters": YARN, "rope_theta": 1e6}, True),
}


@pytest.mark.parametrize("case", every_second(LLAMA_OF_4))
def test_rotary_settings_of_llama_in_a_file_of_4(base, tmp_path, case):
    changes, differs = LLAMA_OF_4[case]
    directory = edited(base, tmp_path / "model", **changes)
    newer, older = user_files.transformers_scores(directory), older_scores(directory)
    assert (older != pytest.approx(newer, abs=1e-3)) == differs
    found, stderr = user_files.scores(directory)
    assert ("differ about the rotary settings" in stderr) == differs, stderr
    assert found == pytest.approx(newer, abs=1e-3)


def test_parameters_of_5_in_a_file_of_4_are_followed(base, tmp_path):
    """4.57.6 would ignore them: whoever wrote them meant 5."""
    directory = edited(base, tmp_path / "model", rope_parameters=PLAIN, transformers_version="4.57.6")
    expect(directory, user_files.transformers_scores(directory), "differ")


def test_file_without_version_is_read_as_5(base, tmp_path):
    directory = edited(base, tmp_path / "model", rope_parameters=..., rope_scaling=PLAIN, transformers_version=...)
    expect(directory, user_files.transformers_scores(directory), "5.23.0 is followed;")


GEMMA_3 = {
    "flat parameters": (
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
        ['"rope_parameters": "factor": 4.0 is not used', '"rope_theta": 500.0 is not used']),
    "flat parameters, thetas at the top": (
        {"rope_parameters": PLAIN, "rope_theta": 500.0, "rope_local_base_freq": 77.0}, ["is not used"]),
    "scaling beside parameters": (
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ['"factor": 8.0 is not used']),
    "scaling alone": (
        {"rope_parameters": ..., "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 5e4}, []),
    "thetas at the top too": (
        {"rope_theta": 500.0, "rope_local_base_freq": 77.0},
        ['"rope_theta": 500.0 is not used', '"rope_local_base_freq": 77.0 is not used']),
    "yarn and original at the top": (
        {"rope_parameters": {FULL: {**YARN, "truncate": False, "rope_theta": 1e4}, SLIDING: {"rope_theta": 500.0}},
         "original_max_position_embeddings": 32},
        ['"original_max_position_embeddings": 32 is not used', '"truncate": false is not used']),
    "truncate beside the kinds": (
        {"rope_parameters": {FULL: {**YARN, "rope_theta": 1e4}, SLIDING: None, "truncate": False}}, []),
    "scaled local blocks": (
        {"rope_parameters": {FULL: PLAIN, SLIDING: {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}}, []),
}


@pytest.mark.parametrize("case", every_second(GEMMA_3))
def test_rotary_settings_of_gemma_3(families, tmp_path, case):
    changes, named = GEMMA_3[case]
    directory = edited(families["gemma3_text"], tmp_path / "model", **changes)
    expect(directory, user_files.transformers_scores(directory), *named)


def test_rotary_settings_of_gemma_3_in_a_file_of_4(families, tmp_path):
    directory = edited(families["gemma3_text"], tmp_path / "model", **OLD, rope_theta=500.0,
                       rope_scaling={"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0})
    newer = user_files.transformers_scores(directory)
    assert older_scores(directory) != pytest.approx(newer, abs=1e-2)
    expect(directory, newer, "differ about the rotary settings", "5.23.0 is followed")


PHI_LONGROPE = {**LONGROPE, "rope_theta": 1e4, "partial_rotary_factor": 0.5}
PHI_3 = {
    "original inside only": ({"original_max_position_embeddings": ...}, ["is not used", "4096"]),
    "factor": ({"rope_parameters": {**PHI_LONGROPE, "factor": 16.0}}, []),
    "part inside only": ({"partial_rotary_factor": ...}, []),
    "parts that differ": ({"partial_rotary_factor": 0.25}, ['"partial_rotary_factor": 0.25 is not used']),
    "scaling by its old name": (
        {"rope_parameters": ..., "rope_scaling": {
            "type": "yarn", "short_factor": LONGROPE["short_factor"], "long_factor": LONGROPE["long_factor"]},
         "partial_rotary_factor": 0.5}, []),
    "no scaling": ({"rope_parameters": ..., "partial_rotary_factor": 0.5}, []),
}


@pytest.mark.parametrize("case", every_second(PHI_3))
def test_rotary_settings_of_phi_3(families, tmp_path, case):
    changes, named = PHI_3[case]
    directory = edited(families["phi3"], tmp_path / "model", **changes)
    expect(directory, user_files.transformers_scores(directory), *named)


def test_rotary_settings_of_other_families(families, tmp_path):
    pasted = edited(families["qwen2"], tmp_path / "qwen2",
                    rope_scaling={"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128})
    expect(pasted, user_files.transformers_scores(pasted), '"rope_theta": 1000000.0 is not used')
    by_kind = edited(families["qwen3"], tmp_path / "qwen3", rope_parameters={FULL: PLAIN})
    refused(by_kind, "rope_parameters", FULL)
    theta = edited(families["smollm3"], tmp_path / "smollm3", rope_parameters={"rope_type": "linear", "factor": 2.0})
    expect(theta, user_files.transformers_scores(theta))
    both = edited(families["gemma3_text"], tmp_path / "gemma3", rope_parameters=PLAIN,
                  rope_scaling={"rope_type": "linear", "factor": 4.0})
    refused(both, "rope_scaling", "rope_parameters", FULL)


KEYS = {
    "unknown number": ({"logit_bias_scale": 2.0}, ['"logit_bias_scale": 2.0']),
    "neutral values": ({"some_switch": False, "some_number": 0, "some_list": [], "nothing": None}, []),
    "metadata and sampling": ({"unsloth_version": "2026.1", "temperature": 0.7, "image_token_index": 3}, []),
    "another family's activation": ({"hidden_activation": "gelu_pytorch_tanh"}, ["hidden_activation"]),
    "model_type missing from architectures": ({"architectures": ...}, []),
}


@pytest.mark.parametrize("case", every_second(KEYS))
def test_keys_that_nobody_reads_are_named(base, tmp_path, case):
    changes, named = KEYS[case]
    directory = edited(base, tmp_path / "model", **changes)
    assert len(expect(directory, user_files.transformers_scores(directory), *named)) == len(named)


def test_settings_that_a_list_of_blocks_makes_useless(families, tmp_path):
    pattern = edited(families["gemma3_text"], tmp_path / "gemma3", sliding_window_pattern=3)
    expect(pattern, user_files.transformers_scores(pattern), '"sliding_window_pattern": 3 is not used')
    first = edited(families["qwen2"], tmp_path / "qwen2", max_window_layers=3)
    expect(first, user_files.transformers_scores(first), '"max_window_layers": 3 is not used')
    switch = edited(families["mistral"], tmp_path / "mistral", use_sliding_window=False)
    expect(switch, user_files.transformers_scores(switch), '"use_sliding_window": false')
    gemma2 = edited(families["gemma2"], tmp_path / "gemma2", layer_types=..., sliding_window_pattern=3)
    expect(gemma2, user_files.transformers_scores(gemma2), '"sliding_window_pattern": 3')


def test_class_is_that_of_model_type(base, families, tmp_path):
    """Auto classes go by model_type, and make a Ministral of a Mistral whose blocks are listed (5.23.0 and 4.57.6)."""
    listed = edited(families["mistral"], tmp_path / "mistral", layer_types=[FULL, SLIDING, SLIDING, FULL])
    right = user_files.transformers_scores(listed)
    assert right != pytest.approx(user_files.transformers_scores(families["mistral"]), abs=1)
    expect(listed, right)
    renamed = edited(base, tmp_path / "llama", model_type="mistral", sliding_window=4)
    expect(renamed, user_files.transformers_scores(renamed), '"model_type": "mistral"')


def change_weights(directory: Path, change) -> None:
    weights = change(load_file(directory / WEIGHTS))
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, directory / WEIGHTS,
              metadata={"format": "pt"})


class TestHead:
    def test_own_head_in_a_tied_file(self, base, tmp_path):
        """5.23.0 keeps it untied, with a warning; 4.57.6 ties. 5.23.0 is followed, whoever wrote the file."""
        tied = edited(base, tmp_path / "five", tie_word_embeddings=True)
        newer = user_files.transformers_scores(tied)
        expect(tied, newer, "tie_word_embeddings")
        old = edited(tied, tmp_path / "four", **OLD)
        assert older_scores(old) != pytest.approx(newer, abs=1)
        expect(old, user_files.transformers_scores(old), "tie_word_embeddings")
        unknown = edited(tied, tmp_path / "unknown", transformers_version=...)
        expect(unknown, newer, "tie_word_embeddings")

    def test_last_row_alone_differs(self, base, tmp_path):
        """New tokens that were trained in the head only; on two ranks too."""
        tied = edited(base, tmp_path / "model", tie_word_embeddings=True)

        def change(weights):
            weights[HEAD] = weights[EMBEDDING].clone()
            weights[HEAD][-1, -1] += 3
            return weights

        change_weights(tied, change)
        right = user_files.transformers_scores(tied)
        expect(tied, right, "tie_word_embeddings")
        found, _ = user_files.scores(tied, "--tp", 2, ranks=2)
        assert found == pytest.approx(right, abs=CLOSE)

    def test_equal_copy_is_tied(self, base, tmp_path):
        tied = edited(base, tmp_path / "model", tie_word_embeddings=True)
        change_weights(tied, lambda weights: {**weights, HEAD: weights[EMBEDDING]})
        expect(tied, user_files.transformers_scores(tied))

    def test_head_alone_is_the_embedding(self, base, tmp_path):
        tied = edited(base, tmp_path / "model", tie_word_embeddings=True)
        change_weights(tied, lambda weights: {name: value for name, value in weights.items() if name != EMBEDDING})
        expect(tied, user_files.transformers_scores(tied), "lm_head.weight is the embedding too")

    def test_no_head_at_all(self, base, tmp_path):
        """transformers starts it with random numbers; a seed changes the result."""
        directory = user_files.copy_of(base, tmp_path / "model")
        change_weights(directory, lambda weights: {name: value for name, value in weights.items() if name != HEAD})
        refused(directory, HEAD, "tie_word_embeddings")


def with_prefix(prefix: str):
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def without_model(weights):
    return {name.removeprefix("model."): value for name, value in weights.items()}


class TestNames:
    @pytest.mark.parametrize("change", [without_model, with_prefix("model.")], ids=["no model.", "model.model."])
    def test_that_transformers_reads(self, base, tmp_path, change):
        directory = user_files.copy_of(base, tmp_path / "model")
        change_weights(directory, change)
        expect(directory, user_files.transformers_scores(directory))

    def test_of_a_model_saved_without_its_head(self, base, tmp_path):
        tied = edited(base, tmp_path / "model", tie_word_embeddings=True, architectures=["LlamaModel"])
        change_weights(tied, lambda weights: {name: value for name, value in without_model(weights).items()
                                              if name != HEAD})
        expect(tied, user_files.transformers_scores(tied))

    @pytest.mark.parametrize("prefix", ["language_model.", "module.", "_orig_mod.", "base_model.model."])
    def test_that_transformers_would_replace_by_random_numbers(self, base, tmp_path, prefix):
        directory = user_files.copy_of(base, tmp_path / "model")
        right = user_files.transformers_scores(directory)
        change_weights(directory, with_prefix(prefix))
        assert user_files.transformers_scores(directory) != pytest.approx(right, abs=1)
        expect(directory, right, f'"{prefix}model.layers...')

    def test_of_the_text_part_of_a_model_with_images(self, families, tmp_path):
        directory = user_files.copy_of(families["gemma3_text"], tmp_path / "model")
        right = user_files.transformers_scores(directory)

        def change(weights):
            return {**{name.replace("model.", "model.language_model.", 1): value for name, value in weights.items()},
                    "vision_tower.encoder.layers.0.layer_norm1.weight": torch.ones(4)}

        change_weights(directory, change)
        expect(directory, right, "model.language_model.layers", "vision_tower")

    def test_of_two_models_or_of_an_adapter_beside(self, base, tmp_path):
        two = user_files.copy_of(base, tmp_path / "two")
        change_weights(two, lambda weights: {**with_prefix("a.")(weights), **with_prefix("b.")(weights)})
        refused(two, "a.model.", "b.model.")
        wrapped = user_files.copy_of(base, tmp_path / "wrapped")
        change_weights(wrapped, lambda weights: {
            "base_model.model." + name.replace("q_proj.", "q_proj.base_layer."): value
            for name, value in weights.items()})
        refused(wrapped, "self_attn.q_proj", "merge_and_unload")


def in_shards(base: Path, directory: Path, seed: int) -> None:
    """Saves another model over a directory, in shards."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    user_files.make_loud(model, seed).save_pretrained(directory, max_shard_size="60KB")


class TestFiles:
    def test_single_file_beside_a_newer_index(self, base, tmp_path):
        """save_pretrained in shards leaves the single file, which transformers then prefers: the OLD weights."""
        directory = user_files.copy_of(base, tmp_path / "model")
        in_shards(base, directory, seed=9)
        right = user_files.transformers_scores(directory)
        assert right == pytest.approx(user_files.transformers_scores(base), abs=CLOSE)
        (line,) = expect(directory, right, WEIGHTS, INDEX)
        assert len(re.findall(r"of \d{4}-\d\d-\d\d \d\d:\d\d UTC", line)) == 2

    def test_index_of_the_single_file(self, base, tmp_path):
        directory = user_files.copy_of(base, tmp_path / "model")
        names = load_file(directory / WEIGHTS)
        (directory / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS)}))
        expect(directory, user_files.transformers_scores(directory))

    def test_stale_shards(self, base, tmp_path):
        directory = user_files.copy_of(base, tmp_path / "model")
        (directory / WEIGHTS).unlink()
        in_shards(base, directory, seed=9)
        shutil.copy(base / WEIGHTS, directory / "model-00099-of-00100.safetensors")
        expect(directory, user_files.transformers_scores(directory), "model-00099-of-00100.safetensors")
        single = user_files.copy_of(base, tmp_path / "single")
        shutil.copy(base / WEIGHTS, single / "model-00001-of-00002.safetensors")
        expect(single, user_files.transformers_scores(single), "model-00001-of-00002.safetensors")

    def test_adapter_beside_weights(self, base, tmp_path):
        """With PEFT installed, transformers applies the adapter again to the weights that it was merged into."""
        from peft import LoraConfig, get_peft_model

        directory = user_files.copy_of(base, tmp_path / "model")
        model, _ = user_files.load(base)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        adapted.save_pretrained(directory)
        merged = adapted.merge_and_unload()
        merged.save_pretrained(directory)
        right = user_files.transformers_scores(directory, model=merged)
        assert user_files.transformers_scores(directory) != pytest.approx(right, abs=1e-2)
        expect(directory, right, "adapter_config.json")

    @pytest.mark.parametrize("names, parts", [
        (["pytorch_model.bin"], ["pytorch_model.bin", "save_pretrained"]),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], ["save_pretrained"]),
        (["tf_model.h5"], ["tf_model.h5", "from_tf=True"]),
        (["flax_model.msgpack"], ["from_flax=True"]),
        (["model.onnx"], ["ONNX"]),
        (["consolidated.safetensors", "params.json"], ["consolidated.safetensors", "convert_mistral_weights_to_hf"]),
        (["consolidated.00.pth", "params.json"], ["convert_llama_weights_to_hf"]),
        (["model-00001-of-00002.safetensors"], ["index.json"]),
        (["model.fp16.safetensors"], ["model.fp16.safetensors", "rename"]),
        ([], ["neither"])])
    def test_other_formats(self, base, tmp_path, names, parts):
        directory = user_files.copy_of(base, tmp_path / "model")
        (directory / WEIGHTS).unlink()
        for name in names:
            (directory / name).write_text("{}")
        refused(directory, *parts)

    def test_the_line_that_converts(self, base, tmp_path):
        directory = user_files.copy_of(base, tmp_path / "old model")
        right = user_files.transformers_scores(directory)
        torch.save(load_file(directory / WEIGHTS), directory / "pytorch_model.bin")
        (directory / WEIGHTS).unlink()
        finished = user_files.run_train(directory)
        assert finished.code == program.BAD_INPUT, finished
        (line,) = re.findall(r"python3 -c '(.*)'", finished.stderr)
        subprocess.run([os.sys.executable, "-c", line], check=True)
        converted = tmp_path / "old model-safetensors"
        user_files.write_pairs(converted / "pairs.csv")
        expect(converted, right)

    @pytest.mark.parametrize("name, parts", [
        ("adapter_config.json", ["is an adapter", "--adapter"]),
        ("model.Q4_0.gguf", ["--model", "model.Q4_0.gguf"]),
        ("consolidated.safetensors", ["convert_mistral_weights_to_hf"])])
    def test_directories_without_config(self, base, tmp_path, name, parts):
        directory = tmp_path / "model"
        directory.mkdir()
        user_files.write_pairs(directory / "pairs.csv")
        (directory / name).write_text("{}")
        refused(directory, *parts)


@pytest.fixture
def hub(base, tmp_path, monkeypatch):
    """A cache with the base model as me/tiny, and another commit of it under a tag."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--me--tiny"
    for commit, theta in (("0123abcd", 1e4), ("4567cdef", 1e6)):
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (folder / "blobs").mkdir(exist_ok=True)
        for path in base.iterdir():
            if path.suffix not in (".csv", ".h5"):
                blob = shutil.copy(path, folder / "blobs" / f"{commit}{path.name}")
                (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
        user_files.edit_json(snapshot / "config.json", rope_parameters={"rope_type": "default", "rope_theta": theta})
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd")
    (folder / "refs" / "v2").write_text("4567cdef")
    return folder


class TestHub:
    def test_names(self, base, hub):
        pairs = base / "pairs.csv"
        for name, commit in (("me/tiny", "0123abcd"), ("me/tiny@v2", "4567cdef"), ("me/tiny@4567cdef", "4567cdef"),
                             ("models--me--tiny", "0123abcd"), (hub, "0123abcd")):
            right = user_files.transformers_scores(hub / "snapshots" / commit)
            found, stderr = user_files.scores(name, data=pairs)
            assert found == pytest.approx(right, abs=CLOSE), name
            (line,) = warnings_of(stderr)
            assert commit in line and str(name) in line
        _, stderr = user_files.scores(hub / "snapshots" / "0123abcd", data=pairs)
        assert warnings_of(stderr) == []

    def test_adapters(self, base, hub):
        from peft import LoraConfig, get_peft_model

        model, _ = user_files.load(base)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        snapshot = hub.parent / "models--me--lora" / "snapshots" / "89ab"
        adapted.save_pretrained(snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("89ab")
        right = user_files.transformers_scores(base, model=adapted.merge_and_unload())
        (line,) = expect(base, right, "--adapter me/lora", options=("--adapter", "me/lora"))
        assert "89ab" in line

    def test_other_places_of_the_cache(self, base, hub, tmp_path, monkeypatch):
        monkeypatch.delenv("HF_HUB_CACHE")
        for variable, place in (("HUGGINGFACE_HUB_CACHE", "a"), ("HF_HOME", "b/hub"), ("XDG_CACHE_HOME", "c/huggingface/hub")):
            root = tmp_path / place.split("/")[0]
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "models--me--tiny").symlink_to(hub)
            monkeypatch.setenv(variable, str(root))
            user_files.scores("me/tiny", data=base / "pairs.csv")
            monkeypatch.delenv(variable)
        monkeypatch.setenv("PLACE", str(tmp_path))
        monkeypatch.setenv("HF_HUB_CACHE", "${PLACE}/hub")
        user_files.scores("me/tiny", data=base / "pairs.csv")

    def test_a_local_directory_comes_first(self, base, hub, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        user_files.copy_of(base, tmp_path / "me" / "tiny")
        _, stderr = user_files.scores("me/tiny", data=base / "pairs.csv")
        assert warnings_of(stderr) == []

    def test_resume_of_a_named_model(self, base, hub, tmp_path):
        pairs = user_files.write_pairs(tmp_path / "pairs.csv")
        run = ["train", "--model", "me/tiny", "--train", pairs, "--layer", 1, "--epochs", 2, "--batch-size", 1,
               "--out", tmp_path / "run.h5"]
        run += ["--max-steps", 2]
        assert program.run(run, timeout=120).code == program.DONE
        with h5py.File(tmp_path / "run.h5") as file:
            assert json.loads(file.attrs["config"])["model"] == str(hub / "snapshots" / "0123abcd")
        resumed = program.run([*run, "--resume"], timeout=120)
        assert resumed.code == program.DONE, resumed
        (hub / "refs" / "main").write_text("4567cdef")
        other = program.run([*run, "--resume"], timeout=120)
        assert other.code == program.BAD_INPUT and "model_fingerprint" in other.stderr, other

    @pytest.mark.parametrize("damage, parts", [
        (lambda hub: (hub / "blobs/0123abcdmodel.safetensors").unlink(),
         ["broken links", "model.safetensors", "hf download me/tiny"]),
        (lambda hub: (hub / "snapshots/0123abcd/model.safetensors").unlink(), ["hf download me/tiny"]),
        (lambda hub: (hub / "snapshots/0123abcd/config.json").unlink(), ["hf download me/tiny"]),
        (lambda hub: (hub / "snapshots/0123abcd/tokenizer.json").unlink(), ["hf download me/tiny"]),
        (lambda hub: shutil.rmtree(hub / "refs"), ["no snapshot of \"main\"", "0123abcd", "hf download me/tiny"])])
    def test_incomplete_downloads(self, base, hub, damage, parts):
        damage(hub)
        finished = user_files.run_train("me/tiny", data=base / "pairs.csv")
        assert finished.code == program.BAD_INPUT, finished
        for part in parts:
            assert part in finished.stderr, finished

    def test_unknown_names(self, base, hub):
        finished = user_files.run_train("me/other", data=base / "pairs.csv")
        assert finished.code == program.BAD_INPUT and "hf download" in finished.stderr, finished
        assert str(hub.parent) in finished.stderr, finished
