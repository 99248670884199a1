"""Tiny random models of the families that transformers 5.23.0 has and 4.57.6 has not, or that are new here, as those
of tiny_families.py: each with the properties that set it apart, and ways to take them away."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import torch

from tiny_families import (BLOCKS, CONTEXT, FOUR_ON_ONE, FULL, LLAMA3, NO_LAYER_TYPES, OTHER_THETA, SIX_ON_TWO, SLIDING,
                           TIED_INSTEAD, WINDOW, YARN, Family, Property, Spelling, Weights,
                           norms_times_weight_alone, without_tensors)

# The parts of a model beside its text part are as small as their classes allow; nothing reads them.
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}
SIGLIP = {"vision_config": {**VISION, "model_type": "siglip_vision_model"}, "mm_tokens_per_image": 4}
PIXTRAL = {"vision_config": {**VISION, "model_type": "pixtral", "head_dim": 8}, "spatial_merge_size": 2}

# Queries grow within the sequences of family_parity_test.py.
GROWTH = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": 16,
          "beta_fast": 2.0, "beta_slow": 0.5, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}


# Two of the eight pairs of a head of 16 turn, with the frequencies that they have in the whole head.
GEMMA_4_ROPE = {FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 700.0},
                SLIDING: {"rope_type": "default", "rope_theta": 50.0}}
GEMMA_4_VISION = {"vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                                    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
                                    "model_type": "gemma4_vision"}}


def unified_parts(hidden: int) -> dict[str, object]:
    """What stands beside the text part of a Gemma 4 that embeds images and sound itself."""
    vision = {"mm_embed_dim": hidden, "mm_posemb_size": 8, "output_proj_dims": hidden,
              "model_type": "gemma4_unified_vision"}
    return {"vision_config": vision, "audio_config": {"audio_embed_dim": 16, "model_type": "gemma4_unified_audio"}}


def gemma_4_rope(kind: str, **changes: object) -> Property:
    return Property({"rope_parameters": {**GEMMA_4_ROPE, kind: {**GEMMA_4_ROPE[kind], **changes}}})


def blocks_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    return getattr(model.model, "language_model", model.model).layers


def without_value_norms(model: torch.nn.Module) -> None:
    for block in blocks_of(model):
        block.self_attn.v_norm = torch.nn.Identity()


def scaled_by_head_size(model: torch.nn.Module) -> None:
    for block in blocks_of(model):
        block.self_attn.scaling = block.self_attn.head_dim ** -0.5


def norms_from_one(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight += 1


def frequencies_of_a_smaller_head(model: torch.nn.Module) -> None:
    """Lets the pairs that turn do so like those of a head that has no others."""
    text = getattr(model.model, "language_model", model.model)
    frequencies = text.rotary_emb.full_attention_inv_freq
    turning = int(frequencies.count_nonzero())
    base = text.config.rope_parameters[FULL]["rope_theta"]
    frequencies[:turning] = base ** (-torch.arange(turning) / turning)


def scaled_before_the_mlp(model: torch.nn.Module) -> None:
    """Applies a block's scale to what its attention leaves, not to its whole output."""
    for block in blocks_of(model):
        scale = block.layer_scalar.clone()
        block.layer_scalar.fill_(1)
        block.pre_feedforward_layernorm.register_forward_pre_hook(
            lambda _, inputs, scale=scale: (inputs[0].mul_(scale),))


def norms_without_mean(model: torch.nn.Module) -> None:
    """RMSNorm in place of LayerNorm."""
    for norm in [module for module in model.modules() if type(module).__name__.endswith("LayerNorm")]:
        norm.forward = lambda x, norm=norm: norm.weight * x * (x.pow(2).mean(-1, True) + norm.variance_epsilon).rsqrt()


def one_after_the_other(model: torch.nn.Module) -> None:
    """Lets the MLP see what the attention adds."""
    for block in blocks_of(model):
        def forward(hidden_states, block=block, **others):
            attended = hidden_states + block.self_attn(hidden_states=block.input_layernorm(hidden_states), **others)[0]
            return attended + block.mlp(block.input_layernorm(attended))
        block.forward = forward


def norms_about_zero(model: torch.nn.Module) -> None:
    """Leaves the mean in what LayerNorm with a bias divides by its spread."""
    for norm in [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]:
        norm.forward = lambda x, norm=norm: root_mean_square(x, norm.eps) * norm.weight + norm.bias


def heads_by_part(model: torch.nn.Module) -> None:
    """What a reader makes of a fused tensor who takes all queries for its first rows."""
    with torch.no_grad():
        for block in model.gpt_neox.layers:
            fused, size = block.attention.query_key_value, block.attention.head_size
            for weight in fused.parameters():
                rows = weight.view(3, -1, size, *weight.shape[1:]).transpose(0, 1)
                weight.copy_(rows.reshape(weight.shape).clone())


def one_norm_for_both(model: torch.nn.Module) -> None:
    for block in model.gpt_neox.layers:
        block.post_attention_layernorm = block.input_layernorm


def without_biases(*names: str) -> dict[str, Property]:
    return {f"bias of {name}": without_tensors(f".{name}.bias") for name in names}


def pairs_half_a_head_apart(model: torch.nn.Module) -> None:
    """Gives each query and key head's rows the order in which adjacent pairs are those of Llama."""
    with torch.no_grad():
        for block in blocks_of(model):
            size = block.self_attn.head_dim
            order = torch.arange(size).view(2, size // 2).T.flatten()
            for weight in (block.self_attn.q_proj.weight, block.self_attn.k_proj.weight):
                weight.copy_(weight.view(-1, size, weight.shape[1])[:, order].reshape(weight.shape))


def values_of_their_own(weights: dict[str, torch.Tensor]) -> None:
    """Gives blocks whose values are their keys products for values."""
    for name in [name for name in weights if name.endswith("k_proj.weight")]:
        values = name.replace("k_proj", "v_proj")
        if values not in weights:
            weights[values] = weights[name].roll(7, 0).contiguous()


def scales_of_one(weights: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        if name.endswith("layer_scalar"):
            weight.fill_(1)


def plain_embedding_unscaled(weights: dict[str, torch.Tensor]) -> None:
    """Takes sqrt(D) from the tied embedding and gives it back to the head through the final norm."""
    scale = weights["model.embed_tokens.weight"].shape[1] ** 0.5
    weights["model.embed_tokens.weight"] /= scale
    weights["model.norm.weight"] *= scale


def without_growth(**changes: object) -> Property:
    return Property({"rope_parameters": {**GROWTH, **changes}})


PLAIN = {"rope_type": "default", "rope_theta": OTHER_THETA}
# Dense, with attention in all blocks; the sizes of recurrent blocks must fit together all the same.
GRANITE_4 = {"num_local_experts": 0, "num_experts_per_tok": 0, "layer_types": ["attention"] * BLOCKS,
             "shared_intermediate_size": 83, "mamba_n_heads": 12, "mamba_d_head": 8}
SILU = Property({"hidden_act": "silu"})
EXACT_GELU = {"exact GELU": Property({"hidden_act": "gelu_new"})}
GELU_BY_TANH = {"GELU by tanh": Property({"hidden_act": "gelu"})}
USUAL_THETA = Property({"rope_parameters": {**PLAIN, "rope_theta": 10000.0}})
BIASES = {f"{which} bias": without_tensors(f"{which[0]}_proj.bias") for which in ("query", "key", "value")}


def half_apart(rotated: int, head_size: int) -> Property:
    """What a reader makes of the model who takes rows i and i + rotated / 2 of a head for a pair, not 2 i and 2 i + 1."""
    order = [*range(head_size)]
    order[0:rotated:2], order[1:rotated:2] = order[:rotated // 2], order[rotated // 2:rotated]

    def change(weights: Weights) -> None:
        for name, weight in weights.items():
            if ".q_proj." in name or ".k_proj." in name:
                weights[name] = weight.view(-1, head_size, *weight.shape[1:])[:, order].reshape(weight.shape).contiguous()
    return Property(weights=change)


def root_mean_square(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)


def with_input_norms(model: torch.nn.Module) -> None:
    epsilon = model.config.rms_norm_eps
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, inputs: (root_mean_square(inputs[0], epsilon),))
        layer.self_attn.register_forward_pre_hook(
            lambda _, inputs, named: (inputs, {**named, "hidden_states": root_mean_square(
                named["hidden_states"], epsilon)}), with_kwargs=True)


def norms_by_head(model: torch.nn.Module) -> None:
    for layer in model.model.layers:
        size = layer.self_attn.head_dim
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            def forward(x: torch.Tensor, norm: torch.nn.Module = norm) -> torch.Tensor:
                heads = root_mean_square(x.unflatten(-1, (-1, size)), norm.variance_epsilon)
                return heads.flatten(-2) * norm.weight
            norm.forward = forward


def without_norm(which: str) -> Callable[[torch.nn.Module], None]:
    def change(model: torch.nn.Module) -> None:
        for block in blocks_of(model):
            getattr(block.self_attn, which).forward = lambda x: x
    return change


def without_block_norms(*names: str) -> Callable[[torch.nn.Module], None]:
    def change(model: torch.nn.Module) -> None:
        for block in blocks_of(model):
            for name in names:
                getattr(block, name).forward = lambda x: x
    return change


without_output_norms = without_block_norms("post_attention_layernorm", "post_feedforward_layernorm")


def rotated_everywhere(model: torch.nn.Module) -> None:
    """Lets blocks without a window turn queries and keys; their masks stay as they are."""
    for block in blocks_of(model):
        block.self_attn.sliding_window = CONTEXT


def with_another_rule(change: Callable[..., tuple]) -> Callable[[torch.nn.Module], None]:
    """Lets a recurrence call `change` with the delta rule in front of its arguments."""
    def change_all(model: torch.nn.Module) -> None:
        for layer in [block.linear_attn for block in blocks_of(model) if hasattr(block, "linear_attn")]:
            def forward(*rest, forward=layer.forward, module=sys.modules[type(layer).__module__], **named):
                rule = module.torch_chunk_gated_delta_rule
                module.torch_chunk_gated_delta_rule = functools.partial(change, rule)
                try:
                    return forward(*rest, **named)
                finally:
                    module.torch_chunk_gated_delta_rule = rule
            layer.forward = forward
    return change_all


def of_any_length(rule: Callable[..., tuple], *rest: torch.Tensor, **named: object) -> tuple:
    """Leaves queries and keys as long as they are."""
    return rule(*rest, **{**named, "use_qk_l2norm_in_kernel": False})


def of_distant_heads(rule: Callable[..., tuple], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                     **named: object) -> tuple:
    """Gives value heads that share a key head no neighbours."""
    times = value.shape[2] // key.shape[2]
    return rule(query.repeat(1, 1, times, 1), key.repeat(1, 1, times, 1), value, **named)


def positions_everywhere(model: torch.nn.Module) -> None:
    for layer in model.model.layers:
        layer.self_attn.is_sliding = True


def scaled_embedding_lost(model: torch.nn.Module) -> None:
    scale = model.config.hidden_size ** 0.5
    model.model.layers[0].register_forward_pre_hook(
        lambda _, inputs: (inputs[0] / scale, *inputs[1:]))


def swapped_norms(weights: Weights) -> None:
    """Takes the norm before the MLP for the one behind the attention, which has its name elsewhere."""
    for name in [name for name in weights if name.endswith("post_attention_layernorm.weight")]:
        other = name.replace("post_attention", "post_self_attn")
        weights[name], weights[other] = weights[other].clone(), weights[name].clone()


ROTATED = {"rope_type": "default", "rope_theta": 700.0, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1],
           "mrope_interleaved": True}
LINEAR = "linear_attention"
# Value heads share key heads, and no number of heads divides by every number of ranks.
DELTA_NET = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
             "linear_value_head_dim": 12, "linear_conv_kernel_dim": 4}


def weights_of(ending: str, change: Callable[[torch.Tensor], object]) -> Property:
    """Changes the tensors whose names end so, in place."""
    def change_all(weights: Weights) -> None:
        found = [weight for name, weight in weights.items() if name.endswith(ending)]
        assert found
        for weight in found:
            change(weight)
    return Property(weights=change_all)


def norms_but_the_recurrences_times_weight_alone(weights: Weights) -> None:
    """Makes 1 + w, by which all norms but that of the recurrence multiply, w."""
    for name, weight in weights.items():
        if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            weight -= 1


def of_gates(head_dim: int, change: Callable[[torch.Tensor], object]) -> Property:
    """Changes the rows of the attention's gates, which follow each head's query."""
    return weights_of("q_proj.weight", lambda weight: change(weight.view(-1, 2, head_dim, weight.shape[1])[:, 1]))


def families() -> dict[str, Family]:
    """All models by name."""
    qwen3_5 = {**SIX_ON_TWO, "head_dim": 16, "rope_parameters": ROTATED, **DELTA_NET}
    ministral3 = {**SIX_ON_TWO, "head_dim": 16, "rope_parameters": GROWTH}
    gemma3 = {**FOUR_ON_ONE, "head_dim": 10, "query_pre_attn_scalar": 5, "sliding_window": WINDOW,
              "layer_types": [SLIDING, SLIDING, FULL] * 2,
              "rope_parameters": {FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
                                  SLIDING: {"rope_type": "default", "rope_theta": 700.0}}}
    gemma4 = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10, "global_head_dim": 16,
              "num_global_key_value_heads": 2, "attention_k_eq_v": True, "sliding_window": WINDOW,
              "layer_types": [SLIDING, SLIDING, FULL] * 2, "rope_parameters": GEMMA_4_ROPE,
              "final_logit_softcapping": 6.0, "tie_word_embeddings": True}
    dense = {**gemma4, "hidden_size_per_layer_input": 0}
    older = {"global_head_dim": 16, "num_global_key_value_heads": 2}
    inherent = {"value norms": without_value_norms, "norm of queries": without_norm("q_norm"),
                "norm of keys": without_norm("k_norm"), "output norms": without_output_norms,
                "scores not scaled": scaled_by_head_size,
                "norm by w": norms_from_one, "frequencies of the whole head": frequencies_of_a_smaller_head,
                "scale of the whole block": scaled_before_the_mlp}
    cohere = {**SIX_ON_TWO, "logit_scale": 0.5, "rope_parameters": {"rope_type": "default", "rope_theta": 700.0}}
    parallel = {"norms with mean": norms_without_mean, "parallel block": one_after_the_other,
                "adjacent pairs": pairs_half_a_head_apart}
    return {
        "cohere": Family(
            "cohere", {**cohere, "attention_bias": True, "layer_norm_eps": 1e-2},
            {"logit scale": Property({"logit_scale": 0.0625}), "norm epsilon": Property({"layer_norm_eps": 1e-5}),
             "query bias": without_tensors("q_proj.bias"), "output bias": without_tensors("o_proj.bias"),
             "untied head": TIED_INSTEAD,
             "rope theta": Property({"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}})},
            inherent=parallel),
        "gpt_neox": Family(
            "gpt_neox", {"num_attention_heads": 6, "layer_norm_eps": 1e-2,
                         "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.75}},
            {**without_biases("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "input_layernorm",
                              "post_attention_layernorm", "final_layer_norm"),
             "partial rotation": Property({"rope_parameters": {**PLAIN, "partial_rotary_factor": 1.0}}),
             "rope theta": Property({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                                         "partial_rotary_factor": 0.75}}),
             "parallel block": Property({"use_parallel_residual": False}),
             "norm epsilon": Property({"layer_norm_eps": 1e-5})},
            {"the names of 2023": Spelling(("rope_parameters",), {"rotary_pct": 0.75, "rotary_emb_base": OTHER_THETA})},
            inherent={"norms with mean": norms_about_zero, "heads one after the other": heads_by_part,
                      "norms of their own": one_norm_for_both}, subtle=EXACT_GELU),
        "gpt_neox_sequential": Family(
            "gpt_neox", {"num_attention_heads": 4, "use_parallel_residual": False, "attention_bias": False,
                         "hidden_act": "gelu_new", "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}},
            {"sequential block": Property({"use_parallel_residual": True})},
            storage=torch.bfloat16, max_shard_size="60KB", inherent={"heads one after the other": heads_by_part},
            subtle=GELU_BY_TANH),
        "phi": Family(
            "phi", {**SIX_ON_TWO, "layer_norm_eps": 1e-2, "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.75}},
            {**without_biases("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2", "input_layernorm", "final_layernorm"),
             "bias of the head": without_tensors("lm_head.bias"), "untied head": TIED_INSTEAD,
             "partial rotation": Property({"rope_parameters": {**PLAIN, "partial_rotary_factor": 1.0}}),
             "norm epsilon": Property({"layer_norm_eps": 1e-5})},
            {"old names": Spelling(("rope_parameters",), {"rope_theta": OTHER_THETA, "partial_rotary_factor": 0.75}),
             "another name for GELU": Spelling((), {"hidden_act": "gelu_pytorch_tanh"})},
            inherent={"norms with mean": norms_about_zero, "parallel block": one_after_the_other}, subtle=GELU_BY_TANH),
        "phi_defaults": Family(
            "phi", {**FOUR_ON_ONE, "tie_word_embeddings": True},
            {"half of a head": Property({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                                             "partial_rotary_factor": 1.0}}),
             "bias of the head": without_tensors("lm_head.bias")},
            storage=torch.bfloat16, max_shard_size="60KB"),
        "starcoder2": Family(
            "starcoder2", {**SIX_ON_TWO, "norm_epsilon": 1e-2, "sliding_window": WINDOW, "rope_parameters": PLAIN,
                           "tie_word_embeddings": True},
            {**without_biases("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj", "input_layernorm",
                              "post_attention_layernorm", "norm"),
             "sliding window": Property({"sliding_window": None}),
             "window of 7, not 8": Property({"sliding_window": WINDOW + 1}),
             "norm epsilon": Property({"norm_epsilon": 1e-5}), "rope theta": USUAL_THETA},
            {"old theta": Spelling(("rope_parameters",), {"rope_theta": OTHER_THETA})},
            inherent={"norms with mean": norms_about_zero}, subtle=GELU_BY_TANH),
        "starcoder2_without_biases": Family(
            "starcoder2", {**FOUR_ON_ONE, "use_bias": False, "hidden_act": "gelu"},
            {"untied head": TIED_INSTEAD, "no window": Property({"sliding_window": WINDOW})},
            storage=torch.bfloat16, subtle=EXACT_GELU),
        "cohere2": Family(
            "cohere2", {**cohere, "tie_word_embeddings": True, "sliding_window": WINDOW,
                        "layer_types": [SLIDING, SLIDING, FULL] * 2},
            {"sliding window": Property({"sliding_window": CONTEXT}),
             "window of 7, not 8": Property({"sliding_window": WINDOW + 1}),
             "full blocks": Property({"layer_types": [SLIDING] * 6}),
             "which blocks": Property({"layer_types": [SLIDING, FULL, SLIDING] * 2})},
            {"pattern instead of layer types": Spelling(("layer_types",), {"sliding_window_pattern": 3})},
            storage=torch.bfloat16, inherent={**parallel, "full blocks without positions": rotated_everywhere}),
        "gemma4": Family(
            "gemma4_text", {**dense, "rms_norm_eps": 1e-2},
            {"values that are keys": Property({"attention_k_eq_v": False}, values_of_their_own),
             "block scales": Property(weights=scales_of_one),
             "part of the pairs": gemma_4_rope(FULL, partial_rotary_factor=1.0),
             "global rope base": gemma_4_rope(FULL, rope_theta=50.0),
             "local rope base": gemma_4_rope(SLIDING, rope_theta=700.0),
             "sliding window": Property({"sliding_window": CONTEXT}),
             "window of 7, not 8": Property({"sliding_window": WINDOW + 1}),
             "final soft cap": Property({"final_logit_softcapping": None}),
             "GELU": Property({"hidden_activation": "silu"}),
             "norm epsilon": Property({"rms_norm_eps": 1e-6}),
             "scaled embedding": Property(weights=plain_embedding_unscaled)},
            {"heads of global blocks at the top level": Spelling(("per_layer_config",), older),
             "image masks": Spelling((), {"use_bidirectional_attention": "vision"})},
            inherent=inherent),
        "gemma4_values": Family(
            "gemma4_text",
            {**dense, "attention_k_eq_v": False, "global_head_dim": 12, "attention_bias": True,
             "layer_types": None, "tie_word_embeddings": False, "final_logit_softcapping": None,
             "rope_parameters": {**GEMMA_4_ROPE, FULL: {**GEMMA_4_ROPE[FULL], "factor": 2.0}}},
            {"query bias": without_tensors("q_proj.bias"), "value bias": without_tensors("v_proj.bias"),
             "output bias": without_tensors("o_proj.bias"), "untied head": TIED_INSTEAD,
             "rope factor": Property({"rope_parameters": GEMMA_4_ROPE})},
            {"no layer types": NO_LAYER_TYPES,
             "kv heads that are not used": Spelling(("per_layer_config",), {**older, "global_head_dim": 12})},
            storage=torch.bfloat16, max_shard_size="60KB"),
        "gemma4_unified": Family(
            "gemma4_unified_text", {**gemma4, "attention_bias": True},
            {"key bias": without_tensors("k_proj.bias"), "block scales": Property(weights=scales_of_one)},
            storage=torch.bfloat16, inherent={"value norms": without_value_norms}),
        "gemma4_around": Family(
            "gemma4_text", dense, {"sliding window": Property({"sliding_window": CONTEXT})},
            wrapper="gemma4", around=GEMMA_4_VISION, inherent={"value norms": without_value_norms}),
        "gemma4_unified_around": Family(
            "gemma4_unified_text", gemma4, {"part of the pairs": gemma_4_rope(FULL, partial_rotary_factor=1.0)},
            wrapper="gemma4_unified", around=unified_parts(48), max_shard_size="60KB"),
        "qwen3_5": Family(
            "qwen3_5_text", qwen3_5,
            {"convolution": weights_of("conv1d.weight", lambda weight: weight[..., :-1].zero_()),
             "decay": weights_of("A_log", lambda weight: weight.fill_(-30)),
             "decay bias": weights_of("dt_bias", torch.Tensor.zero_),
             "decay by token": weights_of("in_proj_a.weight", torch.Tensor.zero_),
             "step by token": weights_of("in_proj_b.weight", torch.Tensor.zero_),
             "gate of the recurrence": weights_of("in_proj_z.weight", lambda weight: weight.mul_(0.5)),
             "norm of the recurrence": weights_of("linear_attn.norm.weight", lambda weight: weight.fill_(1)),
             "gate of the attention": of_gates(16, torch.Tensor.zero_),
             "query norm": weights_of("q_norm.weight", torch.Tensor.zero_),
             "key norm": weights_of("k_norm.weight", torch.Tensor.zero_),
             "partial rotation": Property({"rope_parameters": {**ROTATED, "partial_rotary_factor": 1.0}}),
             "norm by 1 + w": Property(weights=norms_but_the_recurrences_times_weight_alone)},
            {"interval instead of layer types": Spelling(("layer_types",), {"full_attention_interval": 4}),
             "rope at the top level": Spelling(("rope_parameters",),
                                               {"rope_theta": 700.0, "partial_rotary_factor": 0.5})},
            inherent={"queries and keys of length one": with_another_rule(of_any_length),
                      "neighbours share a key head": with_another_rule(of_distant_heads)}),
        "qwen3_5_around": Family(
            "qwen3_5_text",
            {**FOUR_ON_ONE, "head_dim": 16, "tie_word_embeddings": True, "rms_norm_eps": 1e-2,
             "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
             "linear_num_key_heads": 3, "linear_num_value_heads": 3, "linear_key_head_dim": 8,
             "linear_value_head_dim": 6, "linear_conv_kernel_dim": 3,
             "layer_types": [FULL, LINEAR, LINEAR, FULL, LINEAR, FULL]},
            {"convolution": weights_of("conv1d.weight", lambda weight: weight[..., :-1].zero_()),
             "norm epsilon": Property({"rms_norm_eps": 1e-6})},
            wrapper="qwen3_5", around={"vision_config": {
                "model_type": "qwen3_5_vision", "depth": 1, "hidden_size": 16, "intermediate_size": 16,
                "num_heads": 2, "out_hidden_size": 48, "num_position_embeddings": 16}, "tie_word_embeddings": True},
            storage=torch.bfloat16, max_shard_size="60KB"),
        "ministral3": Family(
            "ministral3", ministral3,
            {"query growth": without_growth(llama_4_scaling_beta=0),
             "query growth from 16 on, not 20": without_growth(original_max_position_embeddings=20),
             "yarn": without_growth(rope_type="default")}),
        "ministral3_window": Family(
            "ministral3", {**ministral3, "sliding_window": WINDOW, "tie_word_embeddings": True},
            {"sliding window": Property({"sliding_window": None}), "query growth": without_growth(llama_4_scaling_beta=0)},
            storage=torch.bfloat16),
        "gemma3_around": Family(
            "gemma3_text", gemma3,
            {"query scale": Property({"query_pre_attn_scalar": 10}),
             "layer types": Property({"layer_types": [SLIDING] * 6})},
            wrapper="gemma3", around=SIGLIP, storage=torch.bfloat16, max_shard_size="60KB"),
        "mistral3_around": Family(
            "ministral3", ministral3, {"query growth": without_growth(llama_4_scaling_beta=0)},
            wrapper="mistral3", around={**PIXTRAL, "tie_word_embeddings": False}),
        "mistral3_around_mistral": Family(
            "mistral", {**SIX_ON_TWO, "head_dim": 10, "sliding_window": WINDOW},
            {"sliding window": Property({"sliding_window": None})}, wrapper="mistral3", around=PIXTRAL),
        "gemma": Family(
            "gemma", {**FOUR_ON_ONE, "head_dim": 10, "attention_bias": True, "rope_parameters": PLAIN},
            {"GELU": SILU, "norm by 1 + w": Property(weights=norms_times_weight_alone),
             "output bias": without_tensors("o_proj.bias"), "rope theta": USUAL_THETA},
            {"the activation of 2024": Spelling(("hidden_act",), {"hidden_act": "gelu"}),
             "both activations": Spelling(("hidden_act",), {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}),
             "old theta": Spelling(("rope_parameters",), {"rope_theta": OTHER_THETA})},
            inherent={"scaled embedding": scaled_embedding_lost}),
        "vaultgemma": Family(
            "vaultgemma",
            {**SIX_ON_TWO, "head_dim": 10, "query_pre_attn_scalar": 5, "sliding_window": WINDOW,
             "attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0, "tie_word_embeddings": True},
            {"attention soft cap": Property({"attn_logit_softcapping": None}),
             "final soft cap": Property({"final_logit_softcapping": None}),
             "query scale": Property({"query_pre_attn_scalar": 10}),
             "GELU": Property({"hidden_activation": "silu"}),
             "sliding window": Property({"layer_types": [FULL] * BLOCKS}),
             "alternation": Property({"layer_types": [FULL, SLIDING] * (BLOCKS // 2)}),
             "norm by 1 + w": Property(weights=norms_times_weight_alone)},
            {"no layer types": NO_LAYER_TYPES},
            inherent={"scaled embedding": scaled_embedding_lost}),
        "seed_oss": Family(
            "seed_oss", {**SIX_ON_TWO, "head_dim": 10, "rope_parameters": PLAIN},
            {**BIASES, "rope theta": USUAL_THETA}, storage=torch.bfloat16),
        "seed_oss_output_bias": Family(
            "seed_oss", {**FOUR_ON_ONE, "head_dim": 10, "attention_bias": False, "attention_out_bias": True},
            {"output bias": without_tensors("o_proj.bias")}),
        "cwm": Family(
            "cwm", {**FOUR_ON_ONE, "head_dim": 10, "sliding_window": WINDOW,
                    "rope_parameters": {**LLAMA3, "rope_theta": OTHER_THETA}},
            {"sliding window": Property({"layer_types": [FULL] * BLOCKS}),
             "every fourth block from 0": Property({"layer_types": [SLIDING, SLIDING, SLIDING, FULL, SLIDING, SLIDING]}),
             "rope scaling llama3": Property({"rope_parameters": PLAIN})},
            {"no layer types": NO_LAYER_TYPES}),
        "cwm_defaults": Family("cwm", {**SIX_ON_TWO, "head_dim": 16, "sliding_window": WINDOW},
                               {"theta and scaling": Property({"rope_parameters": PLAIN})}),
        "olmo2": Family(
            "olmo2", {**SIX_ON_TWO, "num_key_value_heads": 3, "rope_parameters": PLAIN, "rms_norm_eps": 1e-2},
            {"rope theta": USUAL_THETA,
             "norm epsilon": Property({"rms_norm_eps": 1e-6})},
            storage=torch.bfloat16,
            inherent={"no input norms": with_input_norms, "norms of all heads": norms_by_head,
                      "output norms": without_output_norms}),
        "olmo2_one_key": Family(
            "olmo2", {**FOUR_ON_ONE, "attention_bias": True},
            {**BIASES, "output bias": without_tensors("o_proj.bias")}, max_shard_size="60KB",
            inherent={"norms of all heads": norms_by_head}),
        "olmo3": Family(
            "olmo3", {**SIX_ON_TWO, "sliding_window": WINDOW,
                      "rope_parameters": {FULL: {**YARN, "rope_theta": 100.0}, SLIDING: PLAIN}},
            {"sliding window": Property({"sliding_window": 64}),
             "three of four blocks": Property({"layer_types": [SLIDING] * BLOCKS}),
             "theta by kind": Property({"rope_parameters": {FULL: {**YARN, "rope_theta": 100.0},
                                                            SLIDING: {**PLAIN, "rope_theta": 100.0}}}),
             "scaling by kind": Property({"rope_parameters": {FULL: {**YARN, "rope_theta": 100.0},
                                                              SLIDING: {**YARN, "rope_theta": OTHER_THETA}}})},
            {"no layer types": NO_LAYER_TYPES},
            inherent={"no input norms": with_input_norms, "norms of all heads": norms_by_head}),
        "olmo3_published": Family(
            "olmo3", {**SIX_ON_TWO, "num_key_value_heads": 6, "sliding_window": WINDOW,
                      "rope_parameters": {FULL: {**YARN, "rope_theta": 500000.0},
                                          SLIDING: {"rope_type": "default", "rope_theta": 500000.0}}},
            {"yarn": Property({"rope_parameters": {FULL: {"rope_theta": 500000.0}, SLIDING: {"rope_theta": 500000.0}}})},
            {"old names": Spelling(("rope_parameters",), {"rope_theta": 500000.0, "rope_scaling": YARN})}),
        "exaone4": Family(
            "exaone4", {**SIX_ON_TWO, "sliding_window": WINDOW, "rope_parameters": {**LLAMA3, "rope_theta": OTHER_THETA}},
            {"sliding window": Property({"sliding_window": 64}),
             "which blocks": Property({"layer_types": [SLIDING, FULL] * 3}),
             "rope scaling llama3": Property({"rope_parameters": PLAIN})},
            {"no layer types": NO_LAYER_TYPES,
             "pattern as text": Spelling(("sliding_window_pattern",), {"sliding_window_pattern": "LLLG"})},
            storage=torch.bfloat16,
            inherent={"blocks without positions": positions_everywhere, "no input norms": with_input_norms,
                      "output norms": without_output_norms, "norm of keys": without_norm("k_norm"), "norm of queries": without_norm("q_norm")}),
        "exaone4_small": Family(
            "exaone4", {**FOUR_ON_ONE, "sliding_window": None, "layer_types": [FULL] * BLOCKS, "tie_word_embeddings": True},
            {"positions in all blocks": Property({"sliding_window": 64})}),
        "granite": Family(
            "granite", {**SIX_ON_TWO, "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.6,
                        "logits_scaling": 1.7, "rope_parameters": PLAIN, "tie_word_embeddings": True},
            {"embedding multiplier": Property({"embedding_multiplier": 1.0}),
             "attention multiplier": Property({"attention_multiplier": 0.3535}),
             "residual multiplier": Property({"residual_multiplier": 1.0}),
             "logit divisor": Property({"logits_scaling": 1.0}), "rope theta": USUAL_THETA}),
        "granite_biases": Family(
            "granite", {**FOUR_ON_ONE, "attention_bias": True, "attention_multiplier": 0.3},
            {**BIASES, "output bias": without_tensors("o_proj.bias")}, storage=torch.bfloat16),
        "granite_4": Family(
            "granitemoehybrid",
            {**SIX_ON_TWO, **GRANITE_4, "position_embedding_type": "rope", "attention_multiplier": 0.2,
             "residual_multiplier": 0.6, "logits_scaling": 1.7, "embedding_multiplier": 3.0, "rope_parameters": PLAIN},
            {"positions": Property({"position_embedding_type": None}),
             "residual multiplier": Property({"residual_multiplier": 1.0}), "rope theta": USUAL_THETA},
            {"names of blocks": Spelling(("layer_types",), {"layer_types": ["attention"] * BLOCKS})}),
        "granite_4_nope": Family(
            "granitemoehybrid", {**FOUR_ON_ONE, **GRANITE_4, "attention_multiplier": 0.3},
            {"no positions": Property({"position_embedding_type": "rope"})}, storage=torch.bfloat16),
        "glm": Family(
            "glm", {**FOUR_ON_ONE, "head_dim": 12, "rope_parameters": PLAIN},
            {**BIASES, "adjacent pairs": half_apart(6, 12),
             "partial rotation": Property({"rope_parameters": {**PLAIN, "partial_rotary_factor": 1.0}})}),
        "glm4": Family(
            "glm4", {**SIX_ON_TWO, "head_dim": 8, "attention_bias": False, "rope_parameters": PLAIN, "rms_norm_eps": 1e-2},
            {"adjacent pairs": half_apart(4, 8), "names of norms": Property(weights=swapped_norms),
             "norm epsilon": Property({"rms_norm_eps": 1e-6}),
             "partial rotation": Property({"rope_parameters": {**PLAIN, "partial_rotary_factor": 1.0}})},
            storage=torch.bfloat16, max_shard_size="60KB",
            inherent={"output norms": without_block_norms("post_self_attn_layernorm", "post_mlp_layernorm")}),
        "ernie4_5": Family(
            "ernie4_5", {**SIX_ON_TWO, "head_dim": 10, "tie_word_embeddings": True},
            {"adjacent pairs": half_apart(10, 10), "theta of 500000": Property({"rope_parameters": PLAIN})}),
        "helium": Family(
            "helium", {**SIX_ON_TWO, "head_dim": 8, "attention_bias": True},
            {**BIASES, "adjacent pairs": half_apart(8, 8), "theta of 100000": Property({"rope_parameters": PLAIN})}),
    }
