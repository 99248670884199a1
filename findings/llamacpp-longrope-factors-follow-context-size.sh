#!/usr/bin/env bash
# Guess: a Phi-3 model with longrope factors gives a short prompt the same answer whatever context size it is loaded with,
# as in transformers, where the long factors are for texts longer than the original context.
#
# llama.cpp b11549 (in the wheel xllamacpp 2026.10.11549): the context size that is asked for decides, not the text. With
# -c above the original context (4096 of Phi-3 mini 128k), every text, a dozen tokens too, is computed with the long
# factors. The log-probabilities then differ by nats from those at a smaller -c, which are transformers'. A steering vector
# that was trained elsewhere on short texts therefore meets another model as soon as -c is large.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  xllamacpp==2026.10.11549 gguf==0.19.0 transformers==5.23.0 torch==2.11.0 numpy==2.4.6
cd "$folder"
cat >show.py <<'PYTHON'
import math

import gguf
import torch
import xllamacpp
from transformers import Phi3Config, Phi3ForCausalLM, logging

logging.set_verbosity_error()
ORIGINAL, LONGEST, TOKENS = 512, 4096, list(range(20, 32))
factors = {"short_factor": [1.0, 1.7, 2.4, 3.0], "long_factor": [1.5, 5.0, 9.0, 12.0]}
config = Phi3Config(vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8,
                    num_key_value_heads=8, max_position_embeddings=LONGEST, original_max_position_embeddings=ORIGINAL,
                    rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, **factors}, sliding_window=None,
                    pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
torch.manual_seed(0)
model = Phi3ForCausalLM(config).float().eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(std=1.2 / parameter.shape[1] ** 0.5 if parameter.shape[0] != 256 else 0.5)

writer = gguf.GGUFWriter("model.gguf", "phi3")
writer.add_context_length(LONGEST)
writer.add_rope_scaling_orig_ctx_len(ORIGINAL)
writer.add_embedding_length(64)
writer.add_feed_forward_length(96)
writer.add_block_count(2)
writer.add_head_count(8)
writer.add_head_count_kv(8)
writer.add_layer_norm_rms_eps(config.rms_norm_eps)
writer.add_rope_dimension_count(8)
writer.add_rope_freq_base(10000.0)
writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(LONGEST / ORIGINAL) / math.log(ORIGINAL)))
writer.add_file_type(gguf.LlamaFileType.ALL_F32)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list([f"t{index}" for index in range(256)])
writer.add_token_merges(["t 1"])
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
writer.add_add_bos_token(False)
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.PHI3, 2)
for name, weight in model.named_parameters():
    writer.add_tensor(names.get_name(name, (".weight",)), weight.detach().numpy())
writer.add_tensor("rope_factors_short.weight", torch.tensor(factors["short_factor"]).numpy())
writer.add_tensor("rope_factors_long.weight", torch.tensor(factors["long_factor"]).numpy())
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

with torch.no_grad():
    expected = model(torch.tensor([TOKENS])).logits[0, -1].log_softmax(-1)


def difference(context):
    """Largest difference in log-probability of llama.cpp's ten likeliest next tokens, in nats."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = "model.gguf"
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.fit_params = context, 1, False, False
    answer = xllamacpp.Server(parameters).handle_completions(
        {"prompt": TOKENS, "n_predict": 1, "n_probs": 10, "temperature": 1.0, "samplers": []})
    found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return max(abs(entry["logprob"] - expected[entry["id"]].item()) for entry in found)


small, large = difference(ORIGINAL), difference(2 * ORIGINAL)
print(f"{len(TOKENS)} tokens, context of {ORIGINAL}: {small:.4f} nats from transformers; of {2 * ORIGINAL}: {large:.4f}")
raise SystemExit(0 if small < 0.05 and large > 0.5 else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore show.py 2>log || { code=$?; tail -5 log >&2; exit "$code"; }
# Seen on 2026-11-29:
#   12 tokens, context of 512: 0.0104 nats from transformers; of 1024: 8.8176
