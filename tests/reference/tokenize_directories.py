"""Tokenizes texts as transformers does: a JSON object {"directories": [...], "texts": [...]} on standard input gives
one JSON object a line for each directory. Runs in the environment of either version."""

import json
import sys

from transformers import AutoTokenizer
from transformers.utils import logging


def tokens_of(directory: str, texts: list[str]) -> dict:
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except Exception as error:  # what transformers cannot load, its callers must know
        return {"error": f"{type(error).__name__}: {error}"}
    around = tokenizer("x", add_special_tokens=True).input_ids
    inside = tokenizer("x", add_special_tokens=False).input_ids
    start = next(at for at in range(len(around)) if around[at:at + len(inside)] == inside)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    return {"ids": ids, "class": type(tokenizer).__name__, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id,
            "before_text": around[:start], "after_text": around[start + len(inside):],
            "decoded": [tokenizer.decode(part, skip_special_tokens=True) for part in ids],
            "named": {name: str(value) for name, value in tokenizer.special_tokens_map.items()
                      if not isinstance(value, (list, tuple))}}


def main() -> None:
    logging.set_verbosity_error()
    request = json.load(sys.stdin)
    for directory in request["directories"]:
        print(json.dumps(tokens_of(directory, request["texts"])), flush=True)


if __name__ == "__main__":
    main()
