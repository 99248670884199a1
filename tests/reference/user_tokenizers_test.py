"""Tokenizers of directories as users have them, id by id against transformers 5.23.0 and 4.57.6.

Each directory is written three times: without transformers_version in config.json, with one of version 4 and with one
of version 5. Followed is version 5, or version 4 where the directory says that it wrote it and can load it.
"""

import copy
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tokenizer_comparison import TOKENIZE_LINES
from tokenizer_families import added_token, gemma, llama2, llama3, qwen

HERE = Path(__file__).parent
VERSION_4 = Path(os.environ["BIPO_TEST_CACHE"], "venv-full", "bin", "python")
BY_VERSION = {"none": None, "four": "4.57.6", "five": "5.23.0"}


def flags(content: str, **others: object) -> dict:
    """An added token as transformers writes it into tokenizer_config.json."""
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True} | others


@dataclass
class Directory:
    """The files of one case."""

    tokenizer: dict
    config: dict = field(default_factory=lambda: {"model_type": "llama"})
    settings: dict = field(default_factory=dict)
    others: dict = field(default_factory=dict)  # further files

    def write(self, folder: Path, version: str | None) -> Path:
        folder.mkdir(parents=True)
        config = self.config | ({"transformers_version": version} if version else {})
        files = {"tokenizer.json": self.tokenizer, "config.json": config, "tokenizer_config.json": self.settings}
        for name, content in (files | self.others).items():
            if content is not None:
                (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return folder


CASES: dict[str, Callable[[], Directory]] = {}


def case(make: Callable[[], Directory]) -> Callable[[], Directory]:
    CASES[make.__name__] = make
    return make


@functools.cache
def byte_level_text() -> str:
    """Llama 3's form with its last added tokens "<|im_start|>", "<|im_end|>", "<|eot|>"."""
    content = llama3()
    size = len(content["model"]["vocab"])
    content["added_tokens"] = [added_token(size + at, text)
                               for at, text in enumerate(["<|im_start|>", "<|im_end|>", "<|eot|>"])]
    content["post_processor"] = None
    return json.dumps(content)


def byte_level() -> dict:
    return json.loads(byte_level_text())


def without(content: dict, *texts: str) -> dict:
    """Takes added tokens away and closes the gaps."""
    kept = [token for token in content["added_tokens"] if token["content"] not in texts]
    for at, token in enumerate(kept):
        token["id"] = len(content["model"]["vocab"]) + at
    return content | {"added_tokens": kept}


FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}


@case
def plain_byte_level() -> Directory:
    return Directory(byte_level(), settings=FAST)


@case
def token_only_in_added_tokens_decoder() -> Directory:
    content = without(byte_level(), "<|im_start|>")
    size = len(content["model"]["vocab"])
    listed = {str(token["id"]): flags(token["content"]) for token in content["added_tokens"]}
    return Directory(content, settings=FAST | {"added_tokens_decoder": listed | {str(size + 2): flags("<|im_start|>")}})


@case
def several_only_in_added_tokens_decoder_out_of_order() -> Directory:
    content = without(byte_level(), "<|im_start|>", "<|eot|>")
    size = len(content["model"]["vocab"])
    listed = {str(size + 40): flags("<tool>", special=False, normalized=True), str(size): flags("<|im_end|>"),
              str(size + 9): flags("<|im_start|>", rstrip=True), str(size + 12): flags("<|eot|>", single_word=True)}
    return Directory(content, settings=FAST | {"added_tokens_decoder": listed})


@case
def eos_only_in_tokenizer_config() -> Directory:
    return Directory(without(byte_level(), "<|im_end|>"), settings=FAST)


@case
def eos_is_in_the_vocabulary_only() -> Directory:
    return Directory(byte_level(), settings=FAST | {"eos_token": " the", "bos_token": flags("and") | {"__type": "AddedToken"}})


@case
def flags_of_added_tokens_decoder_win() -> Directory:
    content = byte_level()
    listed = {str(token["id"]): flags(token["content"], rstrip=True, lstrip=token["content"] == "<|eot|>")
              for token in content["added_tokens"]}
    return Directory(content, settings=FAST | {"added_tokens_decoder": listed})


@case
def special_becomes_normal_and_back() -> Directory:
    content = byte_level()
    content["added_tokens"][2] |= {"special": False, "normalized": True}
    size = content["added_tokens"][0]["id"]
    listed = {str(size): flags("<|im_start|>", special=False, normalized=True), str(size + 1): flags("<|im_end|>"),
              str(size + 2): flags("<|eot|>", lstrip=True)}
    return Directory(content, settings=FAST | {"added_tokens_decoder": listed})


@case
def extra_special_tokens_as_list() -> Directory:
    return Directory(without(byte_level(), "<|im_start|>"), settings={
        "tokenizer_class": "TokenizersBackend", "eos_token": "<|im_end|>",
        "extra_special_tokens": ["<|im_start|>", " the", "<|new|>", {"__type": "AddedToken", **flags("<r>", rstrip=True)}]})


@case
def extra_special_tokens_as_table() -> Directory:
    return Directory(byte_level(), settings=FAST | {
        "extra_special_tokens": {"image_token": "<image>", "boi_token": "<|eot|>", "eoi_token": "and"}})


@case
def additional_special_tokens() -> Directory:
    return Directory(byte_level(), settings=FAST | {
        "additional_special_tokens": ["<|im_start|>", "and", "<|tool|>"], "pad_token": "<pad>"})


@case
def further_names_of_tokens() -> Directory:
    return Directory(byte_level(), settings=FAST | {
        "image_token": "<image>", "pad_token": "<|eot|>", "unk_token": "<unk>", "mask_token": None,
        "sep_token": flags("[SEP]", lstrip=True) | {"__type": "AddedToken"}, "cls_token": "[CLS]"})


@case
def special_tokens_map_wins() -> Directory:
    return Directory(byte_level(), settings=FAST, others={
        "special_tokens_map.json": {"eos_token": flags("<|eot|>"), "pad_token": "<|im_start|>", "bos_token": "<s>"}})


@case
def special_tokens_map_is_passed_over_beside_a_list() -> Directory:
    content = byte_level()
    listed = {str(token["id"]): flags(token["content"]) for token in content["added_tokens"]}
    return Directory(content, settings=FAST | {"added_tokens_decoder": listed}, others={
        "special_tokens_map.json": {"eos_token": "<|eot|>", "additional_special_tokens": ["and"]}})


@case
def lists_in_the_special_tokens_map() -> Directory:
    return Directory(byte_level(), settings=FAST, others={
        "special_tokens_map.json": {"additional_special_tokens": ["and", "<|z|>"], "eos_token": "<|eot|>"}})


@case
def added_tokens_file() -> Directory:
    content = byte_level()
    size = content["added_tokens"][-1]["id"]
    return Directory(content, settings=FAST | {"pad_token": "<pad>"}, others={
        "added_tokens.json": {"<later>": size + 7, "<pad>": size + 1, "caf\u00e9": size + 2}})


@case
def split_special_tokens() -> Directory:
    return Directory(byte_level(), settings=FAST | {"split_special_tokens": True})


@case
def an_id_that_leaves_a_hole() -> Directory:
    content = byte_level()
    content["added_tokens"][2]["id"] += 8
    return Directory(content, settings=FAST)


@case
def an_added_token_takes_the_id_of_a_hole_in_the_vocabulary() -> Directory:
    content = byte_level()
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last] += 1  # as Yi's: a hole, whose id an added token claims
    content["added_tokens"] = [added_token(vocabulary[last] - 1, "<|tool|>"), added_token(vocabulary[last] + 1, "<|im_end|>")]
    return Directory(content, settings=FAST)


@case
def repeated_added_token() -> Directory:
    content = byte_level()
    content["added_tokens"].append(added_token(content["added_tokens"][1]["id"], "<|im_end|>", rstrip=True))
    return Directory(content, settings=FAST)


@case
def no_tokenizer_config() -> Directory:
    return Directory(byte_level(), settings=None)


def llama_2(**settings: object) -> Directory:
    content = llama2()
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Directory(content, settings={"tokenizer_class": "LlamaTokenizer", **names} | settings)


@case
def llama_class_over_prepend_and_replace() -> Directory:
    return llama_2(legacy=False)


@case
def llama_class_with_legacy() -> Directory:
    return llama_2(legacy=True, tokenizer_class="LlamaTokenizerFast")


@case
def llama_class_without_prefix() -> Directory:
    made = llama_2(add_bos_token=False, add_eos_token=True)
    return made


@case
def llama_2_under_the_general_class() -> Directory:
    return llama_2(tokenizer_class="PreTrainedTokenizerFast", add_bos_token=False)


@case
def llama_2_of_a_mistral() -> Directory:
    made = llama_2(legacy=False)
    made.config = {"model_type": "mistral"}
    return made


@case
def llama_class_over_byte_level() -> Directory:
    return Directory(byte_level(), settings=FAST | {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<|im_start|>"})


@case
def gemma_of_its_class() -> Directory:
    return Directory(gemma(), {"model_type": "gemma3_text"}, {
        "tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<table>", "mask_token": "<start_of_turn>"})


@case
def gemma_class_over_llama_2() -> Directory:
    made = llama_2(tokenizer_class="GemmaTokenizer", pad_token="<s>", mask_token="<s>")
    made.config = {"model_type": "gemma2"}
    return made


@case
def qwen_of_its_class() -> Directory:
    content = qwen()
    return Directory(content, {"model_type": "qwen3"}, {
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None})


@case
def qwen_class_over_byte_level_of_llama_3() -> Directory:
    return Directory(byte_level(), {"model_type": "qwen3"}, FAST | {"tokenizer_class": "Qwen2TokenizerFast"})


@case
def qwen2_model_with_another_class() -> Directory:
    return Directory(byte_level(), {"model_type": "qwen2"}, FAST)


@case
def qwen3_model_without_a_class() -> Directory:
    return Directory(byte_level(), {"model_type": "qwen3"}, {"eos_token": "<|im_end|>"})


@case
def qwen_class_loses_flags() -> Directory:
    content = byte_level()
    listed = {str(token["id"]): flags(token["content"], rstrip=True) for token in content["added_tokens"]}
    return Directory(content, {"model_type": "qwen3"}, FAST | {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": listed})


@case
def gpt2_class_over_llama_3() -> Directory:
    return Directory(byte_level(), {"model_type": "starcoder2"}, FAST | {"tokenizer_class": "GPT2Tokenizer"})


@case
def neox_class_over_llama_3() -> Directory:
    return Directory(byte_level(), {"model_type": "olmo"}, FAST | {"tokenizer_class": "GPTNeoXTokenizer"})


@case
def cohere_class_over_llama_3() -> Directory:
    return Directory(byte_level(), {"model_type": "cohere"}, FAST | {"tokenizer_class": "CohereTokenizerFast", "bos_token": "<|eot|>"})


@case
def prefix_space_of_the_config() -> Directory:
    content = byte_level()
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return Directory(content, settings=FAST)


def texts() -> list[str]:
    plain = ["", "The cat sat on the mat and the dog.", " a leading space", "  two", "a  b   c", "tab\tand\nline\n\n end\r\n",
             "don't I'LL we'D", "in 2024, 12345", "caf\u00e9 cafe\u0301 \u212b", "\u4e2d\u6587 \u30c6\u30b9\u30c8", "\U0001f642!",
             "\u2581under\u2581score", "no\u00a0break"]
    tokens = ["<|im_start|>", "<|im_end|>", "<|eot|>", "<tool>", "<|tool|>", "<|new|>", "<r>", "<image>", "<pad>", "<later>",
              "[SEP]", "[CLS]", "<unk>", "<s>", "</s>", "<|z|>", "<start_of_turn>", "<|endoftext|>", "<mask>", "and", " the"]
    around = [form.format(token) for token in tokens for form in ("{}", "a{}b", "a {} b", "  {}\n\n", "{0}{0}", "x{} the")]
    chat = ["<|im_start|>user\nTell me about caf\u00e9s and the cat.<|im_end|>\n<|im_start|>assistant\n",
            "<s>[INST] Tell me [/INST] yes</s>", "<start_of_turn>user\nhi<end_of_turn>\n"]
    return plain + around + chat


@dataclass
class Results:
    ours: dict
    by_version: dict  # of the oracles, by 4 and 5
    folder: Path


def run_oracle(python: Path, folders: list[Path]) -> list[dict]:
    request = json.dumps({"directories": [str(folder) for folder in folders], "texts": texts()})
    done = subprocess.run([python, HERE / "tokenize_directories.py"], input=request, text=True, capture_output=True,
                          env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_ours(folder: Path) -> dict:
    lines = "\n".join(json.dumps(text) for text in texts()) + "\n"
    done = subprocess.run([TOKENIZE_LINES, folder], input=lines, text=True, capture_output=True, timeout=60)
    if done.returncode != 0:
        return {"error": done.stderr}
    first, *ids = done.stdout.splitlines()
    return json.loads(first) | {"ids": [json.loads(line) for line in ids]}


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    folders = {(name, version): make().write(root / name / version, text)
               for name, make in CASES.items() for version, text in BY_VERSION.items()}
    oracles = {number: dict(zip(CASES, run_oracle(python, [folders[name, "none"] for name in CASES])))
               for number, python in ((5, Path(sys.executable)), (4, VERSION_4))}
    return {key: Results(run_ours(folder), {number: oracles[number][key[0]] for number in oracles}, folder)
            for key, folder in folders.items()}


def followed(found: Results, version: str) -> dict:
    by_4 = found.by_version[4]
    return by_4 if version == "four" and "error" not in by_4 else found.by_version[5]


@pytest.mark.parametrize("version", BY_VERSION)
@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_transformers(name, version, results):
    found = results[name, version]
    expected = followed(found, version)
    assert "error" not in expected, expected
    assert "error" not in found.ours, found.ours
    differing = [(text, got, right) for text, got, right in zip(texts(), found.ours["ids"], expected["ids"], strict=True)
                 if got != right]
    assert not differing, differing[:5]


@pytest.mark.parametrize("version", BY_VERSION)
@pytest.mark.parametrize("name", CASES)
def test_special_tokens_are_those_of_transformers(name, version, results):
    found = results[name, version]
    expected = followed(found, version)
    for key in ("bos", "eos", "before_text", "after_text", "named"):
        assert found.ours[key] == expected[key], key


@pytest.mark.parametrize("name", CASES)
def test_a_warning_tells_of_a_disagreement_and_of_nothing_else(name, results):
    """One line where the versions give other ids, special tokens or BOS; never one where they agree in all."""
    keys = ("ids", "bos", "eos", "before_text", "after_text")
    found = results[name, "none"]
    four, five = found.by_version[4], found.by_version[5]
    lines = [line for line in found.ours["warnings"] if "5.23 and 4.57 differ" in line]
    disagree = "error" not in four and any(four[key] != five[key] for key in keys)
    assert len(lines) == (1 if disagree else 0), (lines, [key for key in keys if four.get(key) != five.get(key)])
