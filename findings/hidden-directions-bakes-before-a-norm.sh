#!/usr/bin/env bash
# Guess: load_advocate gives the model that sweep_alphas measured. The one stores the vector as the bias of a block's
# down_proj, the other adds it to the block's output, and the sweep's documentation calls both functionally identical.
# Where that does not hold, as behind a norm, it would be refused.
#
# hidden-directions 0.1.6 with transformers 5.23.0: they are identical in Qwen 2 and Llama. In Gemma 2, Gemma 3, OLMo 2
# and OLMo 3 (load_advocate's documentation names Gemma and OLMo) a norm stands between the MLP and the residual stream:
# it divides the bias by the size of the MLP's output and multiplies it by its weights. The baked model is another one
# than the model with the hook, by nats, for the same alphas that the sweep chose; there is no error and no warning.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  hidden-directions==0.1.6 transformers==5.23.0 torch==2.11.0 accelerate==1.15.0 tokenizers==0.23.3 || exit 2
cd "$folder"
cat >show.py <<'PYTHON'
import contextlib
import io

import torch
from hidden_directions.bake import bake_advocate
from hidden_directions.load import load_advocate
from tokenizers import Tokenizer, models
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast, logging

logging.set_verbosity_error()
logging.disable_progress_bar()
LAYER, SIZE = 1, 32
torch.manual_seed(0)
vector, tokens = 2 * torch.randn(SIZE), torch.randint(0, 64, (1, 12))
letters = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
found = {}
for kind in ("qwen2", "llama", "gemma2", "gemma3_text", "olmo2", "olmo3"):
    config = CONFIG_MAPPING[kind](vocab_size=64, hidden_size=SIZE, intermediate_size=48, num_hidden_layers=3,
                                  num_attention_heads=4, num_key_value_heads=4, head_dim=8, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    model.save_pretrained(kind)
    letters.save_pretrained(kind)
    with contextlib.redirect_stdout(io.StringIO()):
        bake_advocate(f"{kind}-baked", kind, LAYER, v_pref=vector, alpha_pref=1.0, dtype=torch.float32)
        baked, _ = load_advocate(f"{kind}-baked", device_map="cpu")
    with torch.no_grad():
        plain = model(tokens).logits.log_softmax(-1)
        model.model.layers[LAYER].register_forward_hook(lambda module, inputs, output: output + vector)
        hooked = model(tokens).logits.log_softmax(-1)
        difference = (baked(tokens).logits.log_softmax(-1) - hooked).abs().max().item()
    found[kind] = difference
    print(f"{kind}: the vector moves log-probabilities by {(hooked - plain).abs().max().item():.3f} nats; "
          f"the baked model is {difference:.4f} from it")
same = all(found[kind] < 1e-3 for kind in ("qwen2", "llama"))
other = all(found[kind] > 0.1 for kind in ("gemma2", "gemma3_text", "olmo2", "olmo3"))
raise SystemExit(0 if same and other else 3)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore show.py 2>log ||
  { code=$?; tail -5 log >&2; exit $((code == 3 ? 1 : 2)); }
# Seen on 2026-11-30:
#   qwen2: the vector moves log-probabilities by 4.701 nats; the baked model is 0.0000 from it
#   llama: the vector moves log-probabilities by 3.443 nats; the baked model is 0.0000 from it
#   gemma2: the vector moves log-probabilities by 3.168 nats; the baked model is 2.6522 from it
#   gemma3_text: the vector moves log-probabilities by 3.092 nats; the baked model is 2.6943 from it
#   olmo2: the vector moves log-probabilities by 3.881 nats; the baked model is 3.6664 from it
#   olmo3: the vector moves log-probabilities by 5.368 nats; the baked model is 5.2524 from it
