#!/usr/bin/env bash
# Guess: SteeringVector.apply(model, min_token_index=n) steers token n and all later ones, in model.generate too: with n
# the length of the prompt, the generated tokens and no others.
#
# steering-vectors 0.12.2 with transformers 4.57.6: the index counts within one forward pass. With the cache of keys and
# values, on by default, a generated token is alone in its pass and has index 0, so that no generated token is steered
# for any n above 0: with n the length of the prompt the text is that of the unsteered model, and with a smaller n only
# the prompt's end is steered. With use_cache=False the same call steers them. Nothing is raised, and no warning given.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  steering-vectors==0.12.2 transformers==4.57.6 torch==2.11.0 || exit 2
cat >"$folder/show.py" <<'PYTHON'
import contextlib

import torch
from steering_vectors import SteeringVector
from transformers import LlamaConfig, LlamaForCausalLM

PROMPT, NEW, LAYER = 6, 12, 1
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                                     num_attention_heads=4, num_key_value_heads=4, eos_token_id=None)).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(std=0.3)
tokens = torch.randint(0, 64, (1, PROMPT))
vector = SteeringVector({LAYER: 3 * torch.randn(32)})


def text(use_cache, **settings):
    context = vector.apply(model, **settings) if settings else contextlib.nullcontext()
    with torch.no_grad(), context:
        return model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False,
                              use_cache=use_cache, pad_token_id=0)[0, PROMPT:].tolist()


plain, everywhere = text(True), text(True, min_token_index=0)
kept, again = text(True, min_token_index=PROMPT), text(False, min_token_index=PROMPT)
print("unsteered:                                  ", *plain)
print("min_token_index 0:                          ", *everywhere)
print(f"min_token_index {PROMPT}, the prompt's length:     ", *kept)
print(f"min_token_index {PROMPT} with use_cache=False:      ", *again)
cached = text(False) == plain and text(False, min_token_index=0) == everywhere  # the cache alone changes nothing
raise SystemExit(0 if cached and kept == plain and everywhere != plain and again != plain else 3)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py" 2>"$folder/log" ||
  { code=$?; cat "$folder/log" >&2; exit $((code == 3 ? 1 : 2)); }
# Seen on 2026-11-30:
#   unsteered:                                   30 43 44 58 43 42 54 39 29 62 43 43
#   min_token_index 0:                           40 25 43 12 12 12 12 44 58 11 17 48
#   min_token_index 6, the prompt's length:      30 43 44 58 43 42 54 39 29 62 43 43
#   min_token_index 6 with use_cache=False:       30 26 62 40 43 54 26 43 49 31 44 62
