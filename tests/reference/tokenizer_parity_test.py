"""Compares our tokenizer with Hugging Face `tokenizers`, id by id, on varied strings."""

import functools
import json
import os
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tokenizer_corpus import SENTENCES, make_corpus

TOKENIZE_LINES = Path(os.environ["BIPO_BUILD_DIR"], "tests", "reference", "tokenize_lines")
SMOLLM2 = Path(os.environ["BIPO_TEST_CACHE"], "models", "smollm2-135m-instruct", "tokenizer.json")

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

# Chosen to contain, overlap and touch one another, and to change under NFC.
ADDED_CONTENTS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im", "<s>", "</s>", "[INST]", "[/INST]",
    "foo", "foobar", "bar", "_tok_", "the", " the", "caf\u00e9", "cafe\u0301s", "\u0301x",
    "\n\n", "   ", "<think>", "\u4f60\u597d", "\U0001f642", "42", "A\u030a", "--", "--->",
]


def exempt_code_points():
    """Code points that PCRE2's tables (Unicode 14) lack and a part of Hugging Face's has."""
    assert unicodedata.unidata_version.startswith("14."), "needs a Python with Unicode 14 (3.11)"
    unassigned = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Cn"]
    # Its regular expressions and its Digits go by tables of different ages.
    regex = pre_tokenizers.Split(Regex(r"\p{Cn}"), "removed")
    assigned = {c for run, _ in regex.pre_tokenize_str("".join(unassigned)) for c in run}
    digits = pre_tokenizers.Digits(individual_digits=True)
    numeric = {c for c, _ in digits.pre_tokenize_str(" ".join(unassigned)) if len(c) == 1}
    return (assigned | numeric) & set(unassigned)


def code_points_with_older_nfc():
    """Code points newer than the tables of Hugging Face's NFC, where it departs from Unicode 14."""
    nfc = normalizers.NFC()

    def agrees(text):
        return nfc.normalize_str(text) == unicodedata.normalize("NFC", text)

    candidates = [chr(c) for c in range(0x110000)
                  if unicodedata.combining(chr(c)) or unicodedata.decomposition(chr(c))]
    return {c for c in candidates
            if not (agrees(unicodedata.normalize("NFD", c)) and agrees(f"e\u0301{c}\u0327"))}


def as_ranges(characters):
    """`characters` as "U+0897, U+1B4E-1B4F", for the log."""
    ranges = []
    for code_point in sorted(map(ord, characters)):
        if ranges and code_point == ranges[-1][1] + 1:
            ranges[-1][1] = code_point
        else:
            ranges.append([code_point, code_point])
    return ", ".join(f"U+{a:04X}" if a == b else f"U+{a:04X}-{b:04X}" for a, b in ranges)


@functools.cache
def exceptions():
    return exempt_code_points(), code_points_with_older_nfc()


@functools.cache
def corpus():
    special = [token["content"] for token in json.loads(SMOLLM2.read_text())["added_tokens"]]
    strings = make_corpus(list(dict.fromkeys(ADDED_CONTENTS + special)))
    assert len(strings) >= 20_000
    return strings


def our_ids(path, strings):
    lines = "".join(json.dumps(text) + "\n" for text in strings)
    done = subprocess.run([TOKENIZE_LINES, path], input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(path, strings):
    """Fails with examples unless both programs give the same ids wherever they should."""
    newer, older_nfc = exceptions()
    reference = Tokenizer.from_file(str(path))
    exempt = newer | (older_nfc if reference.normalizer else set())
    kept = [text for text in strings if exempt.isdisjoint(text)]
    print(f"{Path(path).name}: {len(kept)} of {len(strings)} strings compared, "
          f"{len(strings) - len(kept)} hold an exempt code point")
    expected = [e.ids for e in reference.encode_batch(kept, add_special_tokens=False)]
    got = our_ids(path, kept)
    assert len(got) == len(kept)
    wrong = [(text, a, b) for text, a, b in zip(kept, expected, got) if a != b]
    examples = "\n".join(
        f"{text[:80]!r}: expected {a[:20]}, got {b[:20]}" for text, a, b in wrong[:5])
    assert not wrong, f"{len(wrong)} of {len(kept)} strings differ:\n{examples}"
    return len(kept)


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


def save(content, path):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def save_with_added_tokens(content, path, shift):
    """Adds ADDED_CONTENTS, each with one of the 32 combinations of flags; `shift` says which."""
    tokenizer = Tokenizer.from_str(json.dumps(content))
    for index, text in enumerate(ADDED_CONTENTS):
        bits = (index * 5 + shift) % 32
        token = AddedToken(text, lstrip=bool(bits & 1), rstrip=bool(bits & 2),
                           single_word=bool(bits & 4), normalized=bool(bits & 8))
        (tokenizer.add_special_tokens if bits & 16 else tokenizer.add_tokens)([token])
    return save(json.loads(tokenizer.to_str()), path)


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
    newer, older_nfc = exceptions()
    print(f"{len(newer)} code points newer than Unicode 14: {as_ranges(newer)}")
    print(f"{len(older_nfc)} code points newer than Hugging Face's NFC: {as_ranges(older_nfc)}")
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
