"""Models of text and images, of which the program computes the text part, against transformers 5.23.0 and against the
same weights saved as a model of text alone."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import h5py
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

import program
import user_files
from newer_families import GEMMA_4_VISION, GROWTH, PIXTRAL, SIGLIP, unified_parts

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CLOSE = 1e-4  # nats
WEIGHTS = "model.safetensors"
EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 16, "bos_token_id": None,
         "eos_token_id": 0, "pad_token_id": None}
GEMMA_4 = {"pad_token_id": 0, "global_head_dim": 32, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "sliding_window": 16}
QWEN_3_5 = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"]}
QWEN_3_5_VISION = {"vision_config": {"model_type": "qwen3_5_vision", "depth": 1, "hidden_size": 16, "intermediate_size": 16,
                                     "num_heads": 2, "out_hidden_size": 64, "num_position_embeddings": 16}}
PARTS = {"gemma4": ("vision_tower", "embed_vision"), "gemma4_unified": ("vision_embedder", "embed_audio"),
         "qwen3_5": ("visual",), "qwen3_5 with a head": ("visual",)}
USUAL_PARTS = ("vision_tower", "multi_modal_projector")
KINDS = {
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 24, "sliding_window": 16}, SIGLIP),
    "gemma4": ("gemma4_text", {**GEMMA_4, "hidden_size_per_layer_input": 0}, GEMMA_4_VISION),
    "gemma4_unified": ("gemma4_unified_text", GEMMA_4, unified_parts(64)),
    "mistral3": ("ministral3", {"rope_parameters": GROWTH}, {**PIXTRAL, "tie_word_embeddings": False}),
    "qwen3_5": ("qwen3_5_text", QWEN_3_5, QWEN_3_5_VISION),
    "qwen3_5 with a head": ("qwen3_5_text", QWEN_3_5, {**QWEN_3_5_VISION, "tie_word_embeddings": False}),
    "mistral3 around mistral": ("mistral", {}, {**PIXTRAL, "tie_word_embeddings": True}),
}


def write(root: Path, kind: str) -> tuple[Path, Path]:
    """The model with its image parts, and its text part alone, both as transformers saves them."""
    fast = user_files.tokenizer()
    text_type, settings, around = KINDS[kind]
    tied = around.get("tie_word_embeddings", True)
    text = CONFIG_MAPPING[text_type](**{**SIZES, "vocab_size": len(fast), "tie_word_embeddings": tied, **settings})
    config = CONFIG_MAPPING[kind.split()[0]](text_config=text.to_dict(), image_token_index=3,
                                             **{"tie_word_embeddings": tied, **around})
    whole = user_files.make_loud(AutoModelForImageTextToText.from_config(config).float())
    alone = AutoModelForCausalLM.from_config(text).float()
    alone.model.load_state_dict(whole.model.language_model.state_dict())
    alone.lm_head.load_state_dict(whole.lm_head.state_dict())
    folders = root / "whole", root / "alone"
    for model, folder in zip((whole, alone), folders):
        model.save_pretrained(folder)
        fast.save_pretrained(folder)
        user_files.write_pairs(folder / "pairs.csv")
    return folders


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    assert transformers.__version__ == "5.23.0"
    return functools.cache(lambda kind: write(tmp_path_factory.mktemp("models"), kind))


@pytest.fixture
def gemma(models, tmp_path):
    """A copy to edit."""
    return user_files.copy_of(models("gemma3")[0], tmp_path / "model")


def right_scores(directory: Path) -> tuple[float, float]:
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    return user_files.transformers_scores(directory, model=model)


def expect(directory: Path, right: tuple[float, float]) -> str:
    found, stderr = user_files.scores(directory)
    assert found == pytest.approx(right, abs=CLOSE), stderr
    return stderr


def refused(directory: Path, *parts: str, **options: object) -> None:
    finished = user_files.run_train(directory, **options)
    assert finished.code == program.BAD_INPUT, finished
    for part in parts:
        assert part in finished.stderr, finished


def change_weights(directory: Path, change) -> None:
    save_file(change(load_file(directory / WEIGHTS)), directory / WEIGHTS, metadata={"format": "pt"})


def vector_of(model: Path, folder: Path, ranks: int) -> bytes:
    """Two steps of training."""
    run = program.run(["train", "--model", model, "--train", model / "pairs.csv", "--layer", 1, "--epochs", 2,
                       "--batch-size", 2, "--max-steps", 2, "--lr-unit", "absolute", "--lr", 0.1, "--warmup-steps", 0, "--out",
                       folder / f"{ranks}.h5", "--tp", ranks, "--overwrite"], ranks if ranks > 1 else None, timeout=120)
    assert run.code == program.DONE, run
    with h5py.File(folder / f"{ranks}.h5") as file:
        return file["vectors/value"][()].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_bits_of_the_text_part(models, tmp_path, kind):
    whole, alone = models(kind)
    stderr = expect(whole, right_scores(whole))
    lines = [line for line in stderr.splitlines() if "only the text part" in line]
    assert len(lines) == 1 and all(part in lines[0] for part in PARTS.get(kind, USUAL_PARTS))
    assert "not used" not in stderr
    for ranks in (1, 2):
        assert vector_of(whole, tmp_path, ranks) == vector_of(alone, tmp_path, ranks)


NAMES = {
    "as published": lambda name: re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name),
    "parameters of the class": lambda name: "model." + re.sub(
        r"^language_model\.model\.", "language_model.", name),
    "the class without its head": lambda name: re.sub(r"^language_model\.model\.", "language_model.", name),
}


@pytest.mark.parametrize("names", NAMES)
def test_names_of_tensors(models, gemma, names):
    right = right_scores(models("gemma3")[0])
    change_weights(gemma, lambda weights: {NAMES[names](name): value for name, value in weights.items()})
    assert "instead of" not in expect(gemma, right)


def test_names_that_transformers_reads_past(models, gemma):
    right = right_scores(models("gemma3")[0])
    change_weights(gemma, lambda weights: {name.removeprefix("language_model."): value
                                           for name, value in weights.items()})
    assert "random weights" in expect(gemma, right)


@pytest.mark.parametrize("folder", ["whole", "alone"])
def test_heads_for_further_tokens_are_not_read(models, tmp_path, folder):
    """Published Qwen 3.5 files have such heads, which transformers leaves out too."""
    source = models("qwen3_5")[folder == "alone"]
    directory = user_files.copy_of(source, tmp_path / "model")
    change_weights(directory, lambda weights: {**weights, "mtp.fc.weight": torch.ones(64, 128),
                                               "mtp.layers.0.mlp.up_proj.weight": torch.ones(96, 64)})
    found, stderr = user_files.scores(directory)
    assert found == user_files.scores(source)[0]
    assert len([line for line in stderr.splitlines() if "mtp" in line]) == 1


class TestHead:
    """5.23.0 goes by the flag outside of text_config, and by a head that the files have."""

    @pytest.mark.parametrize("outside, inside", [(None, False), (True, False), (True, True)])
    def test_none_in_the_files(self, gemma, outside, inside):
        config = json.loads((gemma / "config.json").read_text())
        config["text_config"]["tie_word_embeddings"] = inside
        user_files.edit_json(gemma / "config.json", text_config=config["text_config"],
                             tie_word_embeddings=... if outside is None else outside)
        expect(gemma, right_scores(gemma))

    @pytest.mark.parametrize("name", [HEAD, "lm_head.weight"])
    @pytest.mark.parametrize("inside", [True, False])
    def test_another_than_the_embedding(self, gemma, name, inside):
        config = json.loads((gemma / "config.json").read_text())["text_config"]
        user_files.edit_json(gemma / "config.json", text_config={**config, "tie_word_embeddings": inside})
        before = right_scores(gemma)
        change_weights(gemma, lambda weights: {**weights, name: weights[EMBEDDING].flip(0).contiguous()})
        right = right_scores(gemma)
        assert right != pytest.approx(before, abs=1)
        assert ("4.57.6 uses the embedding" in expect(gemma, right)) == inside

    def test_missing_and_not_tied(self, gemma):
        user_files.edit_json(gemma / "config.json", tie_word_embeddings=False)
        refused(gemma, HEAD)


class TestConfiguration:
    def test_of_a_file_that_leaves_out_defaults(self, models, gemma):
        config = json.loads((gemma / "config.json").read_text())
        granted = CONFIG_MAPPING["gemma3_text"]().to_dict()
        text = {name: value for name, value in config["text_config"].items()
                if name != "model_type" and granted.get(name, ...) != value}
        user_files.edit_json(gemma / "config.json", text_config=text, tie_word_embeddings=...)
        expect(gemma, right_scores(gemma))

    @pytest.mark.parametrize("changes, parts", [
        ({"quantization_config": {"quant_method": "fp8"}}, ["quantization_config", "unquantised"]),
        ({"text_config": {"model_type": "qwen2"}}, ["text_config", "qwen2", "gemma3_text"]),
        ({"text_config": ...}, ["text_config", "missing"]),
        ({"text_config": {"num_hidden_layers": 0}}, ["text_config", "num_hidden_layers"])])
    def test_that_is_refused(self, gemma, changes, parts):
        user_files.edit_json(gemma / "config.json", **changes)
        refused(gemma, *parts)

    def test_names_what_nobody_reads(self, gemma):
        user_files.edit_json(gemma / "config.json", residual_gain=0.5)
        _, stderr = user_files.scores(gemma)
        assert '"residual_gain": 0.5; Gemma3ForConditionalGeneration' in stderr

    def test_inspect_and_plan(self, gemma):
        _, stderr = user_files.scores(gemma)
        assert "Gemma3ForCausalLM in Gemma3ForConditionalGeneration, 3 blocks, hidden 64" in stderr
        inspected = program.run(["inspect", user_files.run_file(gemma / "pairs.csv")], timeout=60)
        assert inspected.code == program.DONE, inspected
        for model in (["--model", gemma, "--train", gemma / "pairs.csv"], ["--shape", gemma / "config.json"]):
            planned = program.run(["plan", *model, "--layer", 1], timeout=120)
            assert planned.code == program.DONE, planned


class TestPrompts:
    def test_template_of_the_processor(self, gemma):
        """Directories of 2025 have it in chat_template.json only, which the tokenizer's class does not read."""
        right = right_scores(gemma)
        template = (gemma / "chat_template.jinja")
        (gemma / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
        template.unlink()
        assert not AutoTokenizer.from_pretrained(gemma).chat_template
        assert "chat_template" not in expect(gemma, right)

    @pytest.mark.parametrize("row, part", [
        ({"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]},
         "content part of the type 'image'"),
        ({"prompt": "What is it?", "images": ["a.png"]}, "'images' holds an image"),
        ({"prompt": "What is it?", "image": {"bytes": "AA"}}, "'image' holds an image")])
    def test_with_images_are_refused(self, gemma, tmp_path, row, part):
        text = {"prompt": "What is it?", "images": [], "image": None}
        rows = [{**one, "chosen": "A cat.", "rejected": "A dog."} for one in (text, row)]
        data = user_files.write_rows(tmp_path / "rows.jsonl", *rows)
        refused(gemma, "rows.jsonl:2", part, "only text is supported", data=data)
        _, stderr = user_files.scores(gemma, "--skip-bad", data=data)
        assert part in stderr
