"""Runs our tokenizer and Hugging Face `tokenizers` on the same strings and compares the ids."""

import functools
import json
import os
import subprocess
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from tokenizer_corpus import make_corpus

TOKENIZE_LINES = Path(os.environ["BIPO_BUILD_DIR"], "tests", "reference", "tokenize_lines")
SMOLLM2 = Path(os.environ["BIPO_TEST_CACHE"], "models", "smollm2-135m-instruct", "tokenizer.json")

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


def code_points_with_older_forms():
    """Code points newer than the tables of Hugging Face's forms, where they depart from Unicode 14."""
    forms = {"NFC": normalizers.NFC(), "NFD": normalizers.NFD(), "NFKC": normalizers.NFKC(),
             "NFKD": normalizers.NFKD()}

    def agrees(text):
        return all(theirs.normalize_str(text) == unicodedata.normalize(form, text)
                   for form, theirs in forms.items())

    candidates = [chr(c) for c in range(0x110000)
                  if unicodedata.combining(chr(c)) or unicodedata.decomposition(chr(c))]
    return {c for c in candidates
            if not (agrees(unicodedata.normalize("NFD", c)) and agrees(f"e\u0301{c}\u0327"))}


def code_points_with_newer_lower_case():
    """Code points whose lower-case form Hugging Face knows and Unicode 14 does not."""
    lowercase = normalizers.Lowercase()
    return {c for c in map(chr, range(0x110000)) if not 0xD800 <= ord(c) <= 0xDFFF
            and unicodedata.category(c) == "Cn" and lowercase.normalize_str(c) != c}


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
    return (exempt_code_points() | code_points_with_newer_lower_case(),
            code_points_with_older_forms())


@functools.cache
def corpus():
    special = [token["content"] for token in json.loads(SMOLLM2.read_text())["added_tokens"]]
    strings = make_corpus(list(dict.fromkeys(ADDED_CONTENTS + special)))
    assert len(strings) >= 20_000
    return strings


def run_lines(arguments, values):
    """What tokenize_lines makes of each of `values`: ids of strings, streamed texts of ids."""
    lines = "".join(json.dumps(value) + "\n" for value in values)
    done = subprocess.run([TOKENIZE_LINES, *arguments], input=lines, capture_output=True,
                          encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def compare(path, strings, ours=None):
    """Fails with examples unless both programs give the same ids wherever they should.  `ours` are
    the arguments of tokenize_lines where it is not to read `path` too."""
    newer, older_forms = exceptions()
    reference = Tokenizer.from_file(str(path))
    exempt = newer | (older_forms if reference.normalizer else set())
    kept = [text for text in strings if exempt.isdisjoint(text)]
    print(f"{Path(path).name}: {len(kept)} of {len(strings)} strings compared, "
          f"{len(strings) - len(kept)} hold an exempt code point")
    expected = [e.ids for e in reference.encode_batch(kept, add_special_tokens=False)]
    got = run_lines(ours or [path], kept)
    assert len(got) == len(kept)
    wrong = [(text, a, b) for text, a, b in zip(kept, expected, got) if a != b]
    examples = "\n".join(
        f"{text[:80]!r}: expected {a[:20]}, got {b[:20]}" for text, a, b in wrong[:5])
    assert not wrong, f"{len(wrong)} of {len(kept)} strings differ:\n{examples}"
    return len(kept)


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
