"""Compares our tokenizer with Hugging Face `tokenizers`, id by id, on varied strings."""

import functools
import json
import random

import pytest
import tokenizers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tokenizer_comparison import (SMOLLM2, as_ranges, compare, corpus, exceptions, save,
                                  save_with_added_tokens)
from tokenizer_corpus import SENTENCES

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


def train(pre_tokenizer, normalizer=None, vocabulary_size=1500):
    """A small byte-level BPE tokenizer, as the content of its tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    text = SENTENCES + [s for s in corpus() if len(s) < 500][::5]
    tokenizer.train_from_iterator(text, trainer)
    return json.loads(tokenizer.to_str())


def byte_level(add_prefix_space=False, use_regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def split_and_bytes(pattern):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(use_regex=False)])


def without_some_merges(content):
    """Leaves tokens that no merge makes, which ignore_merges finds all the same."""
    merges = content["model"]["merges"]
    content["model"]["merges"] = [merge for rank, merge in enumerate(merges) if rank % 10 != 7]
    content["model"]["ignore_merges"] = True
    return content


def with_shuffled_merges(content):
    """Ranks in no order, so that a merge may make what an earlier one needs."""
    random.Random(5).shuffle(content["model"]["merges"])
    return content


def with_merges_as_strings(content):
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    return content


def without_characters(content, removed):
    """Takes characters of the byte-level alphabet out of the vocabulary."""
    model = content["model"]
    kept = [token for token in model["vocab"] if not set(token) & set(removed)]
    model["vocab"] = {token: index for index, token in enumerate(kept)}
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) in model["vocab"]]
    return content


def gpt2():
    return with_merges_as_strings(train(byte_level()))


def gpt2_prefix_space():
    return with_shuffled_merges(train(byte_level(add_prefix_space=True)))


def llama3():
    return without_some_merges(train(split_and_bytes(LLAMA3_PATTERN)))


def qwen2():
    return train(split_and_bytes(QWEN2_PATTERN), normalizers.NFC())


def starcoder():
    digits = pre_tokenizers.Digits(individual_digits=False)
    content = train(pre_tokenizers.Sequence([digits, byte_level(add_prefix_space=True)]))
    content["normalizer"] = {"type": "Sequence", "normalizers": []}
    return content


def nested_nfc():
    content = with_shuffled_merges(train(split_and_bytes(LLAMA3_PATTERN)))
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    return content


def test_pinned_reference_version():
    assert tokenizers.__version__.startswith("0.22.")


def test_smollm2():
    newer, older_forms = exceptions()
    print(f"{len(newer)} code points newer than Unicode 14: {as_ranges(newer)}")
    print(f"{len(older_forms)} code points newer than Hugging Face's normal forms: {as_ranges(older_forms)}")
    assert compare(SMOLLM2, corpus()) >= 20_000


@pytest.mark.parametrize("shift", [0, 13])
@pytest.mark.parametrize("style", [gpt2, gpt2_prefix_space, llama3, qwen2, starcoder, nested_nfc])
def test_trained_tokenizer(style, shift, tmp_path):
    path = save_with_added_tokens(style(), tmp_path / f"{style.__name__}-{shift}.json", shift)
    assert compare(path, corpus()) >= 20_000


@functools.cache
def plain_model():
    return json.dumps(train(byte_level(), vocabulary_size=600))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(
    "behavior", ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
@pytest.mark.parametrize("pattern", [
    {"Regex": r"\s"}, {"Regex": r"\p{N}{2,3}|-+"}, {"Regex": r"\d*"}, {"Regex": r"^|[\p{Lu}]|\s+$"},
    {"Regex": r"(?<=\p{P})\S++(?=.)|(?>[^\p{^L}\n]+)"}, {"String": "a"}, {"String": ".."},
    {"String": " "}])
def test_split(pattern, behavior, invert, tmp_path):
    content = json.loads(plain_model())
    split = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    last = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, last]}
    compare(save(content, tmp_path / "split.json"), corpus()[::20])


@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize("unknown_token", [None, "!"])
@pytest.mark.parametrize("fuse_unknown", [False, True])
def test_characters_outside_the_vocabulary(byte_fallback, unknown_token, fuse_unknown, tmp_path):
    content = without_characters(json.loads(plain_model()), "Ġ1eaÃĊĪ")
    model = content["model"]
    # Byte tokens for some of the missing characters only, so that both ways out are taken.
    for byte in [0xC4, 0xA0, ord("1"), ord("e"), 0xC3]:
        model["vocab"][f"<0x{byte:02X}>"] = len(model["vocab"])
    model |= {"byte_fallback": byte_fallback, "unk_token": unknown_token, "fuse_unk": fuse_unknown}
    compare(save(content, tmp_path / "unknown.json"), corpus()[::4])
