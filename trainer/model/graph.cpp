#include "trainer/model/graph.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "collectives/tensor_parallel.hpp"
#include "trainer/model/attention.hpp"
#include "trainer/model/log_probs.hpp"
#include "trainer/model/operators.hpp"

namespace bipo {
namespace {

// transformers' inverse frequencies, in float32 as there; "llama3" scaling divides long wavelengths
// by `factor`, keeps short ones and interpolates in between (Llama 3.1 reference code,
// apply_scaling).
at::Tensor inverse_frequencies(const ModelConfig& config) {
  const at::Tensor exponents = at::arange(0, config.head_size, 2, at::kLong).to(at::kFloat) /
                               static_cast<double>(config.head_size);
  at::Tensor frequencies = at::reciprocal(at::pow(config.rope_theta, exponents));
  if (!config.rope_scaling) {
    return frequencies;
  }
  const Llama3RopeScaling& scaling = *config.rope_scaling;
  const at::Tensor wavelengths = 2 * std::numbers::pi / frequencies;
  const double longest_kept = scaling.original_context / scaling.high_frequency_factor;
  const double shortest_scaled = scaling.original_context / scaling.low_frequency_factor;
  const at::Tensor blend = (scaling.original_context / wavelengths - scaling.low_frequency_factor) /
                           (scaling.high_frequency_factor - scaling.low_frequency_factor);
  const at::Tensor scaled = frequencies / scaling.factor;
  const at::Tensor between = (1 - blend) * scaled + blend * frequencies;
  return at::where(wavelengths < longest_kept, frequencies,
                   at::where(wavelengths > shortest_scaled, scaled, between));
}

// Log-softmax needs logits better than bfloat16; on the CPU, a product that returns them wants a
// float32 head.
at::ScalarType head_type(at::ScalarType product_type, at::Device device) {
  return product_type == at::kBFloat16 && device.is_cpu() ? at::kFloat : product_type;
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, const WeightSource& source, at::ScalarType product_type,
                 at::Device device, Communicator& tp)
    : config_(config),
      product_type_(product_type),
      device_(device),
      tp_(tp),
      shard_(plan_shard(config, tp.size(), tp.rank())),
      inverse_frequencies_(inverse_frequencies(config).to(device)) {
  const std::int64_t group = config.heads / config.kv_heads;
  for (std::int64_t head = shard_.heads.begin; head < shard_.heads.end; ++head) {
    kv_head_of_query_.push_back(head / group - shard_.kv_heads.begin);
  }
  const auto read = [&](Role role, std::int64_t block, at::ScalarType type) {
    return source.read(role, block, slice_of(config, shard_, role))
        .to(at::TensorOptions().dtype(type).device(device));
  };
  head_ =
      read(config.tied_head ? Role::kEmbedding : Role::kHead, 0, head_type(product_type, device));
  embedding_ = config.tied_head ? head_ : read(Role::kEmbedding, 0, product_type);
  final_norm_ = read(Role::kFinalNorm, 0, residual_type());
  for (std::int64_t i = 0; i < config.blocks; ++i) {
    Block block;
    block.attention_norm = read(Role::kAttentionNorm, i, residual_type());
    block.qkv = at::cat({read(Role::kQuery, i, product_type), read(Role::kKey, i, product_type),
                         read(Role::kValue, i, product_type)});
    block.attention_output = read(Role::kAttentionOutput, i, product_type);
    block.mlp_norm = read(Role::kMlpNorm, i, residual_type());
    block.gate_up = at::cat({read(Role::kGate, i, product_type), read(Role::kUp, i, product_type)});
    block.down = read(Role::kDown, i, product_type);
    blocks_.push_back(std::move(block));
  }
}

std::uint64_t Decoder::weight_bytes(const ModelConfig& config, std::int64_t tp,
                                    std::int64_t tp_rank, at::ScalarType product_type,
                                    at::Device device) {
  const ShardPlan shard = plan_shard(config, tp, tp_rank);
  const auto elements = [&](Role role) {
    const Slice slice = slice_of(config, shard, role);
    return static_cast<std::uint64_t>(slice.rows.size() *
                                      std::max<std::int64_t>(1, slice.columns.size()));
  };
  std::uint64_t in_blocks = 0;
  for (const Role role :
       {Role::kQuery, Role::kKey, Role::kValue, Role::kAttentionOutput, Role::kGate, Role::kUp,
        Role::kDown, Role::kAttentionNorm, Role::kMlpNorm}) {
    in_blocks += elements(role);
  }
  const std::uint64_t embedding = config.tied_head ? 0 : elements(Role::kEmbedding);
  const auto blocks = static_cast<std::uint64_t>(config.blocks);
  return (in_blocks * blocks + embedding) * c10::elementSize(product_type) +
         elements(Role::kHead) * c10::elementSize(head_type(product_type, device));
}

at::ScalarType Decoder::residual_type() const {
  return product_type_ == at::kDouble ? at::kDouble : at::kFloat;
}

SequenceLayout Decoder::layout(const std::vector<std::int64_t>& positions,
                               std::vector<AttentionSpan> spans) const {
  SequenceLayout result;
  const at::Tensor places = at::tensor(positions, at::kLong).to(device_).to(at::kFloat);
  const at::Tensor angles = at::outer(places, inverse_frequencies_);
  const at::Tensor both_halves = at::cat({angles, angles}, -1).unsqueeze(1);
  result.cos = both_halves.cos().to(residual_type());
  result.sin = both_halves.sin().to(residual_type());
  std::int64_t longest = 0;
  for (const AttentionSpan& span : spans) {
    longest = std::max(longest, span.rows.size());
  }
  result.causal_mask =
      at::ones({longest, longest}, at::TensorOptions().dtype(at::kBool).device(device_)).triu(1);
  result.spans = std::move(spans);
  return result;
}

at::Tensor Decoder::embed(const at::Tensor& ids) const {
  const Range rows = shard_.vocabulary;
  const at::Tensor is_local = ids.ge(rows.begin).logical_and_(ids.lt(rows.end));
  const at::Tensor local = at::where(is_local, ids - rows.begin, 0);
  const at::Tensor vectors = embedding_.index_select(0, local).to(residual_type());
  return reduce_from_tensor_parallel(at::where(is_local.unsqueeze(1), vectors, 0.0), tp_);
}

at::Tensor Decoder::attention(const Block& block, const at::Tensor& h,
                              const SequenceLayout& layout) const {
  const std::int64_t head_size = config_.head_size;
  const std::int64_t heads = shard_.heads.size();
  const std::int64_t kv_heads = shard_.kv_heads.size();
  const at::Tensor x =
      copy_to_tensor_parallel(rms_norm(h, block.attention_norm, config_.norm_epsilon), tp_);
  const at::Tensor qkv =
      frozen_linear(x, block.qkv).view({h.size(0), heads + 2 * kv_heads, head_size});
  const at::Tensor rotated = rotary(qkv.narrow(1, 0, heads + kv_heads), layout.cos, layout.sin);
  const at::Tensor result =
      packed_attention(rotated.narrow(1, 0, heads), rotated.narrow(1, heads, kv_heads),
                       qkv.narrow(1, heads + kv_heads, kv_heads), kv_head_of_query_, layout);
  return reduce_from_tensor_parallel(frozen_linear(result, block.attention_output), tp_);
}

at::Tensor Decoder::mlp(const Block& block, const at::Tensor& h) const {
  const at::Tensor x =
      copy_to_tensor_parallel(rms_norm(h, block.mlp_norm, config_.norm_epsilon), tp_);
  return reduce_from_tensor_parallel(
      frozen_linear(swiglu(frozen_linear(x, block.gate_up)), block.down), tp_);
}

at::Tensor Decoder::run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout) const {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const Block& block = blocks_[static_cast<std::size_t>(i)];
    h = h + attention(block, h, layout);
    h = h + mlp(block, h);
  }
  return h;
}

at::Tensor Decoder::next_token_log_probs(const at::Tensor& h, const at::Tensor& rows,
                                         const at::Tensor& targets) const {
  const at::Tensor normed = rms_norm(h.index_select(0, rows), final_norm_, config_.norm_epsilon);
  return token_log_probs(copy_to_tensor_parallel(normed, tp_), head_, targets, shard_.vocabulary,
                         tp_);
}

void Decoder::release_blocks(Range blocks) {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    blocks_[static_cast<std::size_t>(i)] = Block{};
  }
}

void Decoder::release_embedding() {
  embedding_ = at::Tensor();
}

}  // namespace bipo
