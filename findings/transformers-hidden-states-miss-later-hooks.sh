#!/usr/bin/env bash
# Guess: while a forward hook adds a steering vector to the output of a block, hidden_states of that block holds the
# steered values, as the next block reads them, whenever the hook was registered.
#
# transformers 5.23.0 collects hidden_states by forward hooks of its own, which it registers at the model's first call
# with output_hidden_states=True and leaves there. A steering hook that was registered before that call is seen; one
# registered later runs behind them, and hidden_states of the steered block is that of the unsteered model, although all
# blocks after it are steered. The same lines give another answer the second time: whoever first takes activations of
# the plain model and then those of the steered one finds no effect at the block, and measures or trains there without
# it. With register_forward_hook(..., prepend=True) the vector is always seen. In 4.57.6 it never is, whatever the
# order.
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

BLOCK = 1
torch.manual_seed(0)
tokens, vector = torch.randint(0, 32, (1, 6)), torch.ones(16)


def steer(module, inputs, output):
    return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector


def seen(captured_before, prepend):
    """What hidden_states of the block shows of the vector, and what reaches the next block."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
                                         num_attention_heads=2, num_key_value_heads=2)).eval()
    read = []
    model.model.layers[BLOCK + 1].register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        if captured_before:
            model(tokens, output_hidden_states=True)
        else:
            model(tokens)
        model.model.layers[BLOCK].register_forward_hook(steer, prepend=prepend)
        shown = model(tokens, output_hidden_states=True).hidden_states[BLOCK + 1]
    return (shown - read[0]).abs().max().item(), (read[1] - read[0]).abs().max().item()


print(f"transformers {transformers.__version__}, a vector of ones added to block {BLOCK}:")
for captured_before in (False, True):
    for prepend in (False, True):
        shown, read = seen(captured_before, prepend)
        print(f"hidden_states taken before the hook {captured_before}, prepend {prepend}: "
              f"next block {read:.3f}, hidden_states {shown:.3f}")
PYTHON
old=$(PYTHONPATH="$folder/old" "$folder/venv/bin/python" -W ignore "$folder/show.py") || exit 2
new=$("$folder/venv/bin/python" -W ignore "$folder/show.py") || exit 2
printf '%s\n' "$old" "$new"
shown=$(sed -n 's/.*hidden_states \([0-9.]*\)$/\1/p' <<<"$new" | xargs)
[[ $shown == "1.000 1.000 0.000 1.000" && $(grep -c "next block 1.000" <<<"$new") == 4 ]]
[[ $(grep -c "next block 1.000, hidden_states 0.000" <<<"$old") == 4 ]]
# Seen on 2026-11-30:
#   transformers 5.23.0, a vector of ones added to block 1:
#   hidden_states taken before the hook False, prepend False: next block 1.000, hidden_states 1.000
#   hidden_states taken before the hook False, prepend True: next block 1.000, hidden_states 1.000
#   hidden_states taken before the hook True, prepend False: next block 1.000, hidden_states 0.000
#   hidden_states taken before the hook True, prepend True: next block 1.000, hidden_states 1.000
