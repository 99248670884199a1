#!/usr/bin/env bash
# Guess: a config.json of OLMo 3 in the form of 2025 (rope_theta at the top, no rope_parameters) means what it meant
# then: all blocks rotate with that theta, because the file names one.
#
# transformers 5.23.0: the old key goes to the blocks with full attention alone. Blocks with a window, three of four,
# rotate with 500,000, the default of the class, whatever the file says; there is no warning. Files that say 500,000,
# as those of AllenAI do, hide it; a file with another theta, as after a change of base for longer texts, computes
# another model than with transformers 4.57.6, which gives the file's theta to every block.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cat >"$folder/show.py" <<'PYTHON'
import transformers
from transformers import Olmo3Config

config = Olmo3Config.from_dict({
    "model_type": "olmo3", "num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "sliding_window": 16,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "rope_theta": 10000.0, "rope_scaling": None})
theta = {kind: rotation["rope_theta"] for kind, rotation in config.rope_parameters.items()}
print(f"transformers {transformers.__version__}, rope_theta 10000 in the file: {theta}")
raise SystemExit(0 if theta == {"sliding_attention": 500000.0, "full_attention": 10000.0} else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/show.py" 2>"$folder/log" || { cat "$folder/log"; exit 1; }
# Seen on 2026-11-29:
# transformers 5.23.0, rope_theta 10000 in the file: {'sliding_attention': 500000.0, 'full_attention': 10000.0}
