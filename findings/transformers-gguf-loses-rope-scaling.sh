#!/usr/bin/env bash
# Guess: from_pretrained(..., gguf_file=...) computes what the GGUF file describes; a rotary scaling that it cannot read
# would be refused.
#
# transformers 5.23.0 with gguf 0.19.0: of the keys *.rope.* only freq_base and dimension_count are read (gpt-oss is
# the exception). rope.scaling.type, rope.scaling.factor and rope.scaling.original_context_length of a Llama, Qwen 2 or
# other file are dropped without a word: the model runs with unscaled positions, equal to the last bit to a model without
# YaRN and far from the one that was written. Whoever takes log-probabilities of a long-context GGUF from transformers
# as the reference compares with another model.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  transformers==5.23.0 gguf==0.19.0 torch==2.11.0 accelerate==1.15.0
cd "$folder"
cat >show.py <<'PYTHON'
import gguf
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, logging

logging.disable_progress_bar()
SIZE, HEADS, WORDS = 64, 4, 64
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
NONE = {"rope_type": "default", "rope_theta": 10000.0}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def llama(rope):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=WORDS, hidden_size=SIZE, intermediate_size=SIZE, num_hidden_layers=1, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, max_position_embeddings=256, rope_parameters=rope, tie_word_embeddings=False)).eval()


def write(model, path):
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(256)
    out.add_embedding_length(SIZE)
    out.add_block_count(1)
    out.add_feed_forward_length(SIZE)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    out.add_vocab_size(WORDS)
    out.add_rope_dimension_count(SIZE // HEADS)
    out.add_rope_freq_base(10000.0)
    out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    out.add_rope_scaling_factor(4.0)
    out.add_rope_scaling_orig_ctx_len(64)
    out.add_tokenizer_model("gpt2")
    out.add_token_list([f"t{number}" for number in range(WORDS)])
    out.add_token_types([1] * WORDS)
    out.add_token_merges(["t 1"])
    for name, tensor in model.state_dict().items():
        part = name.removesuffix(".weight")
        if part.startswith("model.layers.0."):
            target = "blk.0." + NAMES[part.removeprefix("model.layers.0.")]
        else:
            target = NAMES[part]
        if target.endswith(("attn_q", "attn_k")):  # llama.cpp pairs neighbours where transformers pairs halves
            tensor = tensor.reshape(HEADS, 2, SIZE // HEADS // 2, SIZE).transpose(1, 2).reshape(SIZE, SIZE)
        out.add_tensor(target + ".weight", tensor.numpy().copy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


torch.manual_seed(0)
written, unscaled = llama(YARN), llama(NONE)
with torch.no_grad():
    for parameter in written.parameters():
        if parameter.ndim == 2:
            parameter.copy_(0.25 * torch.randn(parameter.shape))
unscaled.load_state_dict(written.state_dict())
write(written, "model.gguf")
read = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", dtype=torch.float32).eval()
tokens = torch.randint(0, WORDS, (1, 60))
with torch.no_grad():
    table = {name: model(tokens).logits.log_softmax(-1)
             for name, model in (("read", read), ("written", written), ("unscaled", unscaled))}
from_written = (table["read"] - table["written"]).abs().max().item()
from_unscaled = (table["read"] - table["unscaled"]).abs().max().item()
print("rope_parameters read:", read.config.rope_parameters)
print(f"largest difference in log-probability from the model written: {from_written:.3f}")
print(f"largest difference from the same weights without YaRN: {from_unscaled:.6f}")
raise SystemExit(0 if from_written > 0.1 and from_unscaled < 1e-6 else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" show.py
# Seen on 2026-11-28:
#   rope_parameters read: {'rope_theta': 10000.0, 'rope_type': 'default'}
#   largest difference in log-probability from the model written: 8.423
#   largest difference from the same weights without YaRN: 0.000000
