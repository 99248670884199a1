"""A real Gemma 3, quantized by llama.cpp, against what transformers and tokenizers make of the same file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers.convert_slow_tokenizer import generate_merges

from family_parity_test import LARGEST_DIVERGENCE, Case, program_scores, vector
from float64_oracle import Oracle, distances
from gguf_tokenizer_test import CONTROL, UNKNOWN, USER_DEFINED, gguf_values
from plain_bipo import TokenPair
from tiny_gguf import read_gguf
from tokenizer_comparison import compare, corpus, run_lines, save

FILE = Path(os.environ["BIPO_TEST_CACHE"], "models", "gemma-3-270m-q4_k_m.gguf")
TEXTS = [("The capital of France is", " Paris, on the Seine.", " Rome."),
         ("def add(a, b):\n    return", " a + b\n\n\nprint(add(1, 2))", " None"),
         ("<start_of_turn>user\nWie geht es dir?  \U0001f642<end_of_turn>\n", "<start_of_turn>model\nGut!", "Nein.")]
STEERED = 6
# Than the longest token of spaces, of 31.
LONGER_RUN = " " * 32


@pytest.fixture(scope="module")
def values():
    return gguf_values(FILE)


@pytest.fixture(scope="module")
def plain_values(values, tmp_path_factory):
    """The arguments of tokenize_lines that make our tokenizer of the file."""
    return [save(values, tmp_path_factory.mktemp("values") / "values.json"), "--gguf-values"]


@pytest.fixture(scope="module")
def reference(values):
    """Gemma's own kind of tokenizer.json, in which runs of spaces merge before all else."""
    tokens, types = values["tokens"], values["token_type"]
    is_run = [len(token) > 1 and not token.strip(" ") for token in tokens]
    ids = {token.replace(" ", "\u2581") if run else token: token_id
           for token_id, (token, run) in enumerate(zip(tokens, is_run))}
    assert len(ids) == len(tokens)
    merged = {token: 0.5 if run else score for token, run, score, kind in
              zip(ids, is_run, values["scores"], types) if run or kind not in (CONTROL, UNKNOWN, USER_DEFINED)}
    made = Tokenizer(models.BPE(ids, generate_merges(ids, merged), unk_token="<unk>", fuse_unk=True,
                                byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    for add, kinds in ((made.add_special_tokens, (CONTROL, UNKNOWN)), (made.add_tokens, (USER_DEFINED,))):
        add([AddedToken(token, normalized=False)
             for token, kind, run in zip(tokens, types, is_run) if kind in kinds and not run])
    return made


def test_ids_and_text(reference, plain_values, tmp_path):
    path = tmp_path / "tokenizer.json"
    reference.save(str(path))
    texts = [text for text in corpus()[::3] if LONGER_RUN not in text]
    texts += [" " * count + end for count in range(32) for end in ("", "a", "\n", " \n  \n\n", "\U0001f642")]
    assert compare(path, texts, plain_values) >= 6_000
    lists = [e.ids for e in reference.encode_batch(texts[::11], add_special_tokens=False)]
    for skipped in (False, True):
        expected = reference.decode_batch(lists, skip_special_tokens=skipped)
        got = run_lines(plain_values + ["--skip-special"] * skipped, lists)
        assert ["".join(parts) for parts in got] == expected


def test_scores(values, plain_values):
    """Of short texts, at the ids that the tokenizer gives them."""
    ids = run_lines(plain_values, [text for parts in TEXTS for text in parts])
    bos = [values["bos_token_id"]]
    pairs = [TokenPair(bos + ids[row], ids[row + 1], ids[row + 2]) for row in range(0, len(ids), 3)]
    torch.set_num_threads(1)
    oracle = Oracle(read_gguf(FILE, {}), pairs)
    case = Case(STEERED, vector(oracle.hidden_size))
    exact = oracle.scores(case.layer, case.vector)
    bound = oracle.float32_bound(case.layer, case.vector, exact)
    found = program_scores(FILE, [case], (1,), ("float32",), pairs, [[row] for row in range(len(pairs))])
    for (number, ranks, _), scores in found.items():
        distance = distances(scores, exact)
        print(f"{number}, tp {ranks}: {distance}, may be {bound}")
        assert distance.within(bound)
        assert distance.divergence < LARGEST_DIVERGENCE
