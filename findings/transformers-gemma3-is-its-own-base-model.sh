#!/usr/bin/env bash
# Guess: base_model of a causal language model is the decoder without the head, as transformers documents it, so that
# code for hooks finds the blocks as model.base_model.layers in every family.
#
# transformers 4.57.6: for Gemma3ForCausalLM, the text model, base_model is the model itself, head included, because its
# base_model_prefix is "language_model", a name that only the model of text and images has; model.base_model.layers
# does not exist. Gemma 2 beside it gives Gemma2Model. In 5.23.0 both give the decoder.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for release in 4.57.6 5.23.0; do
  python3 -m venv "$folder/$release"
  "$folder/$release/bin/pip" install --quiet --disable-pip-version-check torch==2.11.0 "transformers==$release"
done
cat >"$folder/show.py" <<'PYTHON'
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

for kind in ("gemma2", "gemma3_text"):
    config = CONFIG_MAPPING[kind](vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                  num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    model = AutoModelForCausalLM.from_config(config)
    print(type(model).__name__, type(model.base_model).__name__, hasattr(model.base_model, "layers"))
PYTHON
old=$("$folder/4.57.6/bin/python" "$folder/show.py" 2>"$folder/old.err")
new=$("$folder/5.23.0/bin/python" "$folder/show.py" 2>"$folder/new.err")
printf '4.57.6:\n%s\n5.23.0:\n%s\n' "$old" "$new"
# Seen with 4.57.6:
#   Gemma2ForCausalLM Gemma2Model True
#   Gemma3ForCausalLM Gemma3ForCausalLM False
# and with 5.23.0:
#   Gemma2ForCausalLM Gemma2Model True
#   Gemma3ForCausalLM Gemma3TextModel True
[[ $old == *"Gemma2ForCausalLM Gemma2Model True"* && $old == *"Gemma3ForCausalLM Gemma3ForCausalLM False"* ]]
[[ $new == *"Gemma2ForCausalLM Gemma2Model True"* && $new == *"Gemma3ForCausalLM Gemma3TextModel True"* ]]
