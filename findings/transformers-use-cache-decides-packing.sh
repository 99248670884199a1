#!/usr/bin/env bash
# Guess: use_cache says whether keys and values are kept, not what they are: a forward pass without a past gives the
# same logits with it and without. And position_ids say where a token stands; which tokens it attends to is for
# attention_mask to say.
#
# transformers 5.23.0 and 4.57.6: where attention_mask is left out, two sequences packed into one row, with
# position_ids that begin again at 0, are kept apart by a mask that is made of position_ids, in sdpa and eager too, but
# with use_cache=False only. With use_cache=True, the default, the second sequence attends to the first, without a word.
# A trainer that turns the cache off, as TRL's do, and a plain evaluation of the same packed rows then compute different
# log-probabilities. A sequence ends for that mask wherever a position is not its predecessor plus one: where positions
# are skipped within ONE sequence (to try distances, or because tokens were cut out), use_cache=False cuts it in two.
# With an attention_mask of ones nothing is cut, and packed sequences are not kept apart either.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.11.0 transformers==5.23.0 || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --target "$folder/old" transformers==4.57.6 || exit 2
cat >"$folder/show.py" <<'PYTHON'
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                     num_attention_heads=4, num_key_value_heads=4)).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(std=0.3)
tokens = torch.randint(0, 64, (1, 10))
POSITIONS = {"packed": [0, 1, 2, 3, 4, 0, 1, 2, 3, 4], "skipped": [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]}
same = True
for attention in ("sdpa", "eager"):
    model.set_attn_implementation(attention)
    with torch.no_grad():
        alone = model(tokens[:, 5:], use_cache=False).logits.log_softmax(-1)
        for name, positions in POSITIONS.items():
            for mask in (None, torch.ones_like(tokens)):
                apart = []
                for use_cache in (True, False):
                    found = model(tokens, position_ids=torch.tensor([positions]), attention_mask=mask,
                                  use_cache=use_cache).logits[:, 5:].log_softmax(-1)
                    apart.append((found - alone).abs().max().item())
                print(f"{attention}, {name}, mask {'none' if mask is None else 'ones'}: second half against the same "
                      f"tokens alone, in nats: {apart[0]:.4f} with use_cache, {apart[1]:.4f} without")
                same &= apart[0] > 1 and (apart[1] < 1e-4 if mask is None else apart[1] > 1)
print(f"transformers {transformers.__version__}: {'as described' if same else 'changed'}")
raise SystemExit(0 if same else 3)
PYTHON
for path in "$folder/old" ""; do
  PYTHONPATH="$path" "$folder/venv/bin/python" -W ignore "$folder/show.py" || exit $(($? == 3 ? 1 : 2))
done
# Seen on 2026-11-30, and the same with eager and with 5.23.0:
#   sdpa, packed, mask none: second half against the same tokens alone, in nats: 7.6719 with use_cache, 0.0000 without
#   sdpa, packed, mask ones: second half against the same tokens alone, in nats: 7.6719 with use_cache, 7.6719 without
#   sdpa, skipped, mask none: second half against the same tokens alone, in nats: 6.4369 with use_cache, 0.0000 without
#   sdpa, skipped, mask ones: second half against the same tokens alone, in nats: 6.4369 with use_cache, 6.4369 without
#   transformers 4.57.6: as described
