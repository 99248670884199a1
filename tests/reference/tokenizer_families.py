"""Small tokenizers in the form in which the model families ship theirs: the content of tokenizer.json."""

import functools
import json

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tokenizer_comparison import corpus
from tokenizer_corpus import SENTENCES

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]

# The expressions of Phi-4 (as of Llama 3), of Mistral's newer models and Phi-4-mini.
CL100K_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CAPITALISED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_CAPITALS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_PATTERN = rf"{_CAPITALISED}|{_CAPITALS}|\p{{N}}{_REST}"
O200K_PATTERN = rf"{_CAPITALISED}{_ENDINGS}|{_CAPITALS}{_ENDINGS}|\p{{N}}{{1,3}}{_REST}"


def _training_text():
    return SENTENCES * 3 + [text for text in corpus() if len(text) < 500][::5]


@functools.cache
def _metaspace_model():
    """Words from "\u2581" to "\u2581"; few characters, so that the others fall back to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=2000, limit_alphabet=350, show_progress=False,
                                  special_tokens=["<unk>", "<s>", "</s>"] + BYTE_TOKENS)
    tokenizer.train_from_iterator(_training_text(), trainer)
    return json.dumps(json.loads(tokenizer.to_str())["model"])


def _with_runs_of_spaces(model):
    """Adds tokens for 2, 4 and 8 spaces, which merge across what would be words."""
    for length in (1, 2, 4):
        half = "\u2581" * length
        model["vocab"].setdefault(half + half, len(model["vocab"]))
        model["merges"].append([half, half])
    return model


def _with_pairs_as_strings(model):
    model["merges"] = [" ".join(merge) for merge in model["merges"]]
    return model


def added_token(token_id, content, **flags):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": True} | flags


def _file(model, *, normalizer=None, pre_tokenizer=None, decoder=None, added=()):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
            "decoder": decoder, "model": model}


def _sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


_PREPEND = {"type": "Prepend", "prepend": "\u2581"}
_SPACES_AWAY = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_SPACES_BACK = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
_BYTES_BACK = [{"type": "ByteFallback"}, {"type": "Fuse"}]
_LLAMA_DECODER = _sequence("decoders", _SPACES_BACK, *_BYTES_BACK,
                           {"type": "Strip", "content": " ", "start": 1, "stop": 0})
_LLAMA_ADDED = [added_token(0, "<unk>"), added_token(1, "<s>"), added_token(2, "</s>")]


def llama2():
    return _file(_with_pairs_as_strings(_with_runs_of_spaces(json.loads(_metaspace_model()))),
                 normalizer=_sequence("normalizers", _PREPEND, _SPACES_AWAY),
                 decoder=_LLAMA_DECODER, added=_LLAMA_ADDED)


def llama2_first_form():
    """Added tokens were searched for in normalised text at first: "\u2581<s>"."""
    content = llama2()
    for token in content["added_tokens"]:
        token["normalized"] = True
    return content


def mistral_metaspace():
    return _file(_with_runs_of_spaces(json.loads(_metaspace_model())),
                 pre_tokenizer={"type": "Metaspace", "replacement": "\u2581",
                                "prepend_scheme": "first", "split": False},
                 decoder=_LLAMA_DECODER,
                 added=_LLAMA_ADDED + [added_token(3 + byte, token, special=byte % 2 == 0)
                                       for byte, token in enumerate(BYTE_TOKENS[:4])])


def phi3():
    content = llama2()
    size = len(content["model"]["vocab"])
    content["added_tokens"][2]["rstrip"] = True
    names = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    content["added_tokens"] += [added_token(size + i, name, rstrip=i > 0)
                                for i, name in enumerate(names)]
    return content


def gemma():
    model = _with_runs_of_spaces(json.loads(_metaspace_model()))
    added = list(_LLAMA_ADDED)
    for text in ["\n", "\n\n", "\n\n\n", "<start_of_turn>", "<end_of_turn>", "<table>"]:
        token_id = model["vocab"].setdefault(text, len(model["vocab"]))
        added.append(added_token(token_id, text, special=text.endswith("turn>")))
    for spaces in ["\u2581\u2581", "\u2581" * 4]:
        added.append(added_token(model["vocab"][spaces], spaces, special=False))
    added.append(added_token(len(model["vocab"]), "<image_soft_token>"))
    return _file(model, normalizer=_SPACES_AWAY,
                 pre_tokenizer={"type": "Split", "pattern": {"String": " "},
                                "behavior": "MergedWithPrevious", "invert": False},
                 decoder=_sequence("decoders", _SPACES_BACK, *_BYTES_BACK), added=added)


def _metaspace_component(settings):
    """For the words and back: the decoder of such files is the same component."""
    component = {"type": "Metaspace", "replacement": "\u2581"} | settings
    return _file(json.loads(_metaspace_model()), pre_tokenizer=component, decoder=component,
                 added=_LLAMA_ADDED)


def old_metaspace():
    return _metaspace_component({"add_prefix_space": True, "str_rep": "\u2581"})


def metaspace_always():
    return _metaspace_component({"prepend_scheme": "always", "split": False})


def metaspace_first():
    return _metaspace_component({"prepend_scheme": "first"})


def metaspace_never():
    return _metaspace_component({"prepend_scheme": "never", "add_prefix_space": False})


def folded_text():
    """Every normaliser that is in no family's file but common elsewhere."""
    content = _metaspace_component({})
    content["normalizer"] = _sequence(
        "normalizers", {"type": "NFKD"}, {"type": "Lowercase"},
        {"type": "Replace", "pattern": {"Regex": r"\s{2,}"}, "content": " "},
        _sequence("normalizers", {"type": "Strip", "strip_left": True, "strip_right": True},
                  {"type": "NFKC"}))
    return content


def folded_one_side():
    content = _metaspace_component({"split": False})
    content["normalizer"] = _sequence(
        "normalizers", {"type": "NFD"}, {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": "n+"}, "content": "$1"}, _PREPEND)
    return content


def characters():
    """Nothing around the merges: pieces are whole, and tokens are joined by spaces."""
    return _file(json.loads(_metaspace_model()), added=_LLAMA_ADDED)


@functools.cache
def _byte_level_model(pattern):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=1500, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(_training_text(), trainer)
    return json.dumps(json.loads(tokenizer.to_str())["model"])


def _byte_level(pattern, split, **model_settings):
    model = json.loads(_byte_level_model(pattern)) | model_settings
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}} | split
    size = len(model["vocab"])
    names = ["<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<think>"]
    added = [added_token(size + i, name, lstrip=i == 2, rstrip=i == 3, special=name != "<think>")
             for i, name in enumerate(names)]
    return _file(model, pre_tokenizer=_sequence("pretokenizers", split, bytes_only),
                 decoder=bytes_only, added=added)


def llama3():
    return _byte_level(CL100K_PATTERN, {"behavior": "Isolated", "invert": False},
                       ignore_merges=True)


def phi4():
    return _byte_level(CL100K_PATTERN, {"behavior": "Removed", "invert": True})


def phi4_mini():
    return _byte_level(O200K_PATTERN, {"behavior": "Removed", "invert": True})


def mistral_tekken():
    return _byte_level(TEKKEN_PATTERN, {"behavior": "Isolated", "invert": False},
                       ignore_merges=True)


def qwen():
    content = _byte_level(CL100K_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"),
                          {"behavior": "Isolated", "invert": False})
    return content | {"normalizer": {"type": "NFC"}}


FAMILIES = [llama2, llama2_first_form, mistral_metaspace, phi3, gemma, old_metaspace,
            metaspace_always, metaspace_first, metaspace_never, folded_text, folded_one_side,
            characters, llama3, phi4, phi4_mini, mistral_tekken, qwen]
