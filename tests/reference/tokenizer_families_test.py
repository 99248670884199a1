"""Ids and decoded text of each family's kind of tokenizer against Hugging Face `tokenizers`."""

import json
import random

import pytest
from tokenizers import Tokenizer

from tokenizer_comparison import compare, corpus, run_lines, save, save_with_added_tokens
from tokenizer_families import BYTE_TOKENS, FAMILIES

BROKEN_BYTES = [
    b"\xff", b"\x80", b"\xc0\xaf", b"\xe4\xbd", b"\xe4\xbd\xa0\xff", b"\xf0\x9f\x99", b"\xf0\x9f\x99\x82",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80", b"\xc3(", b"\xe2\x82\xe2\x82\xac", b"\xef\xbf\xbd",
]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def file(request, tmp_path_factory):
    return save(request.param(), tmp_path_factory.mktemp("families") / "tokenizer.json")


def test_ids(file):
    assert compare(file, corpus()[::2]) >= 10_000


@pytest.mark.parametrize("shift", [3, 22])
def test_ids_with_added_tokens_of_all_kinds(file, shift, tmp_path):
    content = json.loads(file.read_text(encoding="utf-8"))
    path = save_with_added_tokens(content, tmp_path / "added.json", shift)
    if "Strip" in json.dumps(content["normalizer"]):
        search_white_space_as_it_stands(path)
    assert compare(path, corpus()[::5]) >= 4_000


def search_white_space_as_it_stands(path):
    """Hugging Face panics on a token of which Strip leaves nothing, and on two tokens of white space
    that take it from one another."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        if not token["content"].strip():
            token |= {"normalized": False, "lstrip": False, "rstrip": False}
    save(content, path)


def byte_ids(tokenizer, text):
    """The tokens of single bytes, of either kind of model; none where the model has neither."""
    kinds = [dict(enumerate(BYTE_TOKENS)), byte_level_alphabet()]
    for tokens in kinds:
        if all(tokenizer.token_to_id(token) is not None for token in tokens.values()):
            return [tokenizer.token_to_id(tokens[byte]) for byte in text]
    return []


def byte_level_alphabet():
    """GPT-2's characters for bytes, built as its encoder.py describes them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return ({byte: chr(byte) for byte in printable} |
            {byte: chr(0x100 + index) for index, byte in enumerate(others)})


def id_lists(tokenizer, encoded):
    rng = random.Random(11)
    size = tokenizer.get_vocab_size()
    lists = [[], [0], [size], [size + 5, 3, size]] + encoded
    for _ in range(800):
        lists.append([rng.randrange(size + 2) for _ in range(rng.randint(1, 12))])
    for broken in BROKEN_BYTES:
        for _ in range(8):
            ids = byte_ids(tokenizer, broken)
            around = [rng.randrange(size) for _ in range(4)]
            at = rng.randint(0, 4)
            lists += [ids, around[:at] + ids + around[at:], ids + byte_ids(tokenizer, broken[:1])]
    for text in ["你好", "🙂👍🏽", "a é  ", "\u0301\u0301"]:
        ids = byte_ids(tokenizer, text.encode())
        lists += [ids[:end] for end in range(len(ids) + 1)] + [ids[1:]]
    return lists


@pytest.mark.parametrize("skip_special", [False, True])
def test_streamed_text(file, skip_special):
    tokenizer = Tokenizer.from_file(str(file))
    texts = corpus()[::13]
    encoded = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    lists = id_lists(tokenizer, encoded)
    expected = tokenizer.decode_batch(lists, skip_special_tokens=skip_special)
    got = run_lines([file] + ["--skip-special"] * skip_special, lists)
    assert len(got) == len(lists) > 2_000
    wrong = [(ids, a, "".join(b)) for ids, a, b in zip(lists, expected, got) if a != "".join(b)]
    examples = "\n".join(f"{ids[:20]}: expected {a[:80]!r}, got {b[:80]!r}"
                         for ids, a, b in wrong[:5])
    assert not wrong, f"{len(wrong)} of {len(lists)} differ:\n{examples}"
